"""A port is held for the server, and for nobody else."""

from __future__ import annotations

import os
import socket

import pytest

from server.errors import PortError
from server.port import reserve


@pytest.mark.parametrize("address", ["127.0.0.1", "localhost", "0.0.0.0", "::1"])
def test_any_free_port(address: str) -> None:
    with reserve(address, 0, "--grpc-port") as held:
        assert held.getsockname()[1] > 0


def test_the_server_can_share_it_and_others_cannot_take_it() -> None:
    with reserve("127.0.0.1", 0, "--grpc-port") as held, socket.socket() as other:
        with pytest.raises(OSError, match="in use"):
            other.bind(held.getsockname())
        with socket.socket() as server:
            server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            server.bind(held.getsockname())
            server.listen()
            socket.create_connection(held.getsockname()).close()


def test_connections_are_refused_while_no_server_listens() -> None:
    with reserve("127.0.0.1", 0, "--grpc-port") as held, pytest.raises(ConnectionRefusedError):
        socket.create_connection(held.getsockname())


def test_a_second_launcher_is_refused() -> None:
    with reserve("127.0.0.1", 0, "--grpc-port") as held:
        port = held.getsockname()[1]
        with pytest.raises(PortError, match=f":{port} cannot be used: Address already"):
            reserve("127.0.0.1", port, "--grpc-port")


def test_the_owner_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(PortError, match=rf"held by .* \(pid {os.getpid()}\).*--grpc-port"):
            reserve("127.0.0.1", port, "--grpc-port")


def test_who_holds_it_at_another_address_is_not_blamed() -> None:
    with socket.create_server(("127.0.0.2", 0)) as other:
        port = other.getsockname()[1]
        with (
            reserve("127.0.0.1", port, "--grpc-port"),  # bound, but nobody listens there
            pytest.raises(PortError, match=f":{port} cannot be used: [^,]*\\. Stop"),
        ):
            reserve("127.0.0.1", port, "--grpc-port")
        with pytest.raises(PortError, match=rf"held by .* \(pid {os.getpid()}\)"):
            reserve("0.0.0.0", port, "--grpc-port")


def test_an_address_of_another_machine() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(PortError, match=r": Cannot assign .* address\. Choose .*--listen\.$"):
            reserve("192.0.2.1", port, "--grpc-port")
    with pytest.raises(PortError, match=r"no-such-host\.invalid is not an address"):
        reserve("no-such-host.invalid", 0, "--grpc-port")
