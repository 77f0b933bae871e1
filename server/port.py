"""Hold a TCP port for the server, also across its restarts."""

from __future__ import annotations

import errno
import socket
from ipaddress import ip_address
from typing import Any

import psutil

from server.errors import PortError


def reserve(address: str, port: int, option: str) -> socket.socket:
    """Bind ``address:port`` (0: any free port) without listening, and keep it bound.

    The server shares the port with this socket (``SO_REUSEPORT``), which gets no connections
    because it never listens. While the server restarts, connections are refused, and no other
    program can take the port. Raise `PortError` if the port is in use; the error names ``option``.
    """
    probe = bound(address, port, option, shared=False)  # also refuses a port that others share
    chosen = probe.getsockname()[1]
    probe.close()
    return bound(address, chosen, option, shared=True)


def bound(address: str, port: int, option: str, *, shared: bool) -> socket.socket:
    """Return a socket bound to ``address:port``, or raise `PortError`."""
    try:
        family, *_, target = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM)[0]
    except socket.gaierror as error:
        raise PortError(f"{address} is not an address of this machine: {error.strerror}") from error
    held = socket.socket(family, socket.SOCK_STREAM)
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT if shared else socket.SO_REUSEADDR, 1)
    try:
        held.bind(target)
    except OSError as error:
        held.close()
        raise PortError(
            f"{address}:{port} cannot be used: {error.strerror}{remedy(error, target, option)}"
        ) from error
    return held


def remedy(error: OSError, target: tuple[Any, ...], option: str) -> str:
    """Say what to do about an address ``(ip, port, ...)`` that cannot be bound."""
    if error.errno == errno.EADDRNOTAVAIL:
        return ". Choose an address of this machine with --listen."
    if error.errno == errno.EADDRINUSE:
        return f"{owner(*target[:2])}. Stop what holds it, or choose another port with {option}."
    return f". Choose another port with {option}."


def owner(ip: str, port: int) -> str:
    """Say which program listens on ``ip:port``, as far as this user may see."""
    for connection in psutil.net_connections(kind="tcp"):
        if connection.status != psutil.CONN_LISTEN or not connection.laddr:
            continue
        addresses = {connection.laddr.ip, ip}
        shared = len(addresses) == 1 or any(ip_address(each).is_unspecified for each in addresses)
        if shared and connection.laddr.port == port:
            if connection.pid is None:
                return ", held by a program of another user"
            return f", held by {psutil.Process(connection.pid).name()} (pid {connection.pid})"
    return ""
