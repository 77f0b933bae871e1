"""How a client reaches a server and proves who it is: address, TLS, and keys.

An address is ``host:port`` of the gRPC endpoint, or ``grpcs://host:port`` for TLS. Keys travel in
headers, as Triton's restricted protocols expect them.
"""

from __future__ import annotations

import ipaddress
import os
import re
import stat
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cytoserve.errors import InvalidSetting
from cytoserve.settings import DEFAULT_URL

if TYPE_CHECKING:
    import grpc  # type: ignore[import-untyped]

TLS = "grpcs://"
PLAIN = "grpc://"

API_KEY_HEADER = "triton-grpc-protocol-cytoserve-api-key"
"""Header of the key that every caller needs, if the server was started with one."""

ADMIN_KEY_HEADER = "triton-grpc-protocol-cytoserve-admin-key"
"""Header of the key that the server makes for itself at every start. Programs of the same user on
the same machine find it in :func:`admin_key_file`."""

KEY_FORM = re.compile(r"[A-Za-z0-9._~-]{16,}")
"""Form of an API key: what a header and a flag of the server carry without quoting."""


@dataclass(frozen=True)
class Access:
    """Credentials of a client, and how it recognises the server.

    Attributes:
        ca: PEM file with the certificates that may vouch for the server; None trusts those that
            gRPC brings along.
        cert: PEM file of the client's own certificate, for a server that asks for one.
        key: PEM file of its private key.
        api_key: the key that the server was started with.
    """

    ca: str | Path | None = None
    cert: str | Path | None = None
    key: str | Path | None = None
    api_key: str | None = None


@dataclass(frozen=True)
class Address:
    """A checked address.

    Attributes:
        target: ``host:port``.
        tls: whether the connection is encrypted.
    """

    target: str
    tls: bool

    @property
    def port(self) -> int:
        """The TCP port."""
        return int(self.target.rpartition(":")[2])

    @property
    def is_loopback(self) -> bool:
        """Whether the address is one of this machine that no other machine reaches."""
        host = self.target.rpartition(":")[0].strip("[]")
        try:
            return ipaddress.ip_address(host).is_loopback
        except ValueError:
            return host == "localhost"


def read_address(url: str) -> Address:
    """Check an address.

    Raises:
        InvalidSetting: ``url`` has another scheme, a path, or no port.
    """
    tls = url.startswith(TLS)
    target = url.removeprefix(TLS).removeprefix(PLAIN)
    host, _, port = target.rpartition(":")
    if not host or "/" in target or not port.isdecimal() or not 0 < int(port) < 65536:
        http = " The server speaks gRPC, not HTTP." if url.startswith("http") else ""
        raise InvalidSetting(
            f"A server's address is host:port of its gRPC endpoint; given: {url!r}.{http} Write it "
            f"without a path, such as {DEFAULT_URL}, or {TLS}{DEFAULT_URL} for a server with TLS."
        )
    return Address(target, tls)


def channel_credentials(address: Address, access: Access) -> grpc.ChannelCredentials | None:
    """Return the credentials for a channel; None for a plain connection.

    Raises:
        InvalidSetting: a certificate is given for a plain connection or without its key, or a file
            cannot be read.
    """
    files = {"ca": access.ca, "cert": access.cert, "key": access.key}
    given = [name for name, file in files.items() if file is not None]
    if not address.tls:
        if given:
            raise InvalidSetting(
                f"Certificates are for TLS; given: {', '.join(given)} for {address.target}. Write "
                f"the address as {TLS}{address.target}, or leave them out."
            )
        return None
    if (access.cert is None) != (access.key is None):
        raise InvalidSetting(
            f"A client's certificate goes with its private key; given: {', '.join(given)}. Give "
            "cert and key (--cert, --key)."
        )
    import grpc  # slow to import

    ca, cert, key = (None if file is None else _read(name, file) for name, file in files.items())
    return grpc.ssl_channel_credentials(ca, key, cert)


def _read(name: str, file: str | Path) -> bytes:
    try:
        return Path(file).read_bytes()
    except OSError as error:
        raise InvalidSetting(
            f"The file of {name} must be readable; given: {file}: {error.strerror}. Check its "
            f"name and permissions ({name}=…, --{name})."
        ) from error


def key_headers(access: Access) -> dict[str, str]:
    """Return the headers that carry the API key; none without a key.

    Raises:
        InvalidSetting: the key has a form that no server accepts.
    """
    if access.api_key is None:
        return {}
    if not KEY_FORM.fullmatch(access.api_key):
        raise InvalidSetting(
            "An API key is 16 or more letters, digits and . _ ~ -; given: "
            f"{len(access.api_key)} characters of another form. Copy the server's key as it is, "
            "without quotes or spaces (api_key=…, CYTOSERVE_API_KEY)."
        )
    return {API_KEY_HEADER: access.api_key}


def admin_key_file(port: int) -> Path:
    """Return the file in which a server at ``port`` leaves its admin key for its own user."""
    return Path(tempfile.gettempdir()) / f"cytoserve-keys-{os.getuid()}" / f"{port}.key"


def admin_headers(address: Address) -> dict[str, str]:
    """Return the headers for calls that only the server's own user may make; none if not that user.

    A file that another user could have written is not believed.
    """
    if not (address.is_loopback and hasattr(os, "getuid")):
        return {}
    file = admin_key_file(address.port)
    try:
        folder = file.parent.lstat()
        if folder.st_uid != os.getuid() or stat.S_IMODE(folder.st_mode) & 0o077:
            return {}
        return {ADMIN_KEY_HEADER: file.read_text().strip()}
    except OSError:
        return {}
