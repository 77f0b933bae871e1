"""Who may ask the server, and how: TLS, the callers' key, and the server's own key.

Triton's gRPC endpoint groups its calls into protocols and can ask for a header per protocol. Calls
that administer the server (models, shared memory, traces, logs) always need a key that is made anew
at every start: whoever may load a model may run code as the server's user. Inference and questions
need the callers' key if there is one. Health checks need none, so that an orchestrator can ask.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import secrets
import socket
import ssl
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path

import grpc  # type: ignore[import-untyped]
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from tritonclient.grpc import InferenceServerClient, InferenceServerClientPlugin

from cytoserve.access import ADMIN_KEY_HEADER, API_KEY_HEADER, KEY_FORM, TLS, admin_key_file
from server.errors import AccessError

ADMINISTRATION = ("model-repository", "shared-memory", "trace", "logging")
"""Triton's names of the protocols that are the server's own."""

USE = ("inference", "metadata", "model-config", "statistics")
"""Triton's names of the protocols that need the callers' key."""

OWN_CERTIFICATE_LIFETIME = timedelta(days=3650)


@dataclass(frozen=True)
class AccessSettings:
    """Options chosen by the user."""

    tls_cert: Path | None = None
    """PEM file of the server's certificate, with those between it and the authority."""

    tls_key: Path | None = None
    """PEM file of its private key."""

    tls_client_ca: Path | None = None
    """PEM file of the authority that vouches for callers; None asks callers for no certificate."""

    api_key_file: Path | None = None
    """File with the key that callers must send; None asks for none."""

    insecure: bool = False
    """Whether other machines may reach the server without TLS, or without proving who they are."""


@dataclass(frozen=True)
class ServerAccess:
    """The checked settings of one run, with what the launcher itself needs to ask the server."""

    flags: tuple[str, ...]
    """Flags of ``tritonserver``."""

    headers: dict[str, str]
    """Headers with which the launcher may make every call."""

    scheme: str = ""
    """What stands before ``host:port`` in the address."""

    credentials: grpc.ChannelCredentials | None = None
    """TLS credentials of the launcher."""

    server_name: str = ""
    """A name in the server's certificate."""

    @property
    def admin_key(self) -> str:
        """The key of the calls that administer the server."""
        return self.headers[ADMIN_KEY_HEADER]

    def client(self, address: str) -> InferenceServerClient:
        """Return a client that may make every call to the server at ``host:port``."""
        options: list[tuple[str, str | int]] = [("grpc.enable_http_proxy", 0)]
        if self.server_name:
            options.append(("grpc.ssl_target_name_override", self.server_name))
        client = InferenceServerClient(address, creds=self.credentials, channel_args=options)
        client.register_plugin(_Headers(self.headers))
        return client


class _Headers(InferenceServerClientPlugin):  # type: ignore[misc]
    """Adds headers to every call of a client."""

    def __init__(self, headers: dict[str, str]) -> None:
        self._headers = headers

    def __call__(self, request: object) -> None:
        request.headers.update(self._headers)  # type: ignore[attr-defined]


def open_access(settings: AccessSettings, folder: Path) -> ServerAccess:
    """Check the settings, and prepare the flags and keys of one run.

    Args:
        settings: the user's options.
        folder: the run's folder, which only this user can read; takes certificates for Triton.

    Raises:
        AccessError: a file is missing, readable by others, expired or no certificate.
    """
    admin_key = secrets.token_urlsafe(32)
    flags = [_restrict(ADMINISTRATION, ADMIN_KEY_HEADER, admin_key)]
    headers = {ADMIN_KEY_HEADER: admin_key}
    if settings.api_key_file is not None:
        headers[API_KEY_HEADER] = read_api_key(settings.api_key_file)
        flags.append(_restrict(USE, API_KEY_HEADER, headers[API_KEY_HEADER]))
    if settings.tls_cert is None and settings.tls_key is None:
        if settings.tls_client_ca is not None:
            raise AccessError("--tls-client-ca needs --tls-cert and --tls-key.")
        return ServerAccess(tuple(flags), headers)
    if settings.tls_cert is None or settings.tls_key is None:
        raise AccessError("TLS needs a certificate and its key: --tls-cert and --tls-key.")
    certificate = check_certificate(settings.tls_cert, settings.tls_key)
    flags += [
        "--grpc-use-ssl=true",
        f"--grpc-server-cert={settings.tls_cert.resolve()}",
        f"--grpc-server-key={settings.tls_key.resolve()}",
    ]
    own_key = own_certificate = None
    if settings.tls_client_ca is not None:
        own_key, own_certificate = make_own_certificate()
        authorities = folder / "client-ca.pem"
        authorities.write_bytes(_read(settings.tls_client_ca) + b"\n" + own_certificate)
        _certificates(settings.tls_client_ca)
        flags += ["--grpc-use-ssl-mutual=true", f"--grpc-root-cert={authorities}"]
    # The launcher talks to the very server that it started, so it trusts that certificate alone.
    credentials = grpc.ssl_channel_credentials(
        settings.tls_cert.read_bytes(), own_key, own_certificate
    )
    name = _first_name(certificate)
    return ServerAccess(tuple(flags), headers, TLS, credentials, name)


def _restrict(protocols: tuple[str, ...], header: str, key: str) -> str:
    """Return the flag that asks for a key; Triton puts the same words before each header's name."""
    name = header.removeprefix("triton-grpc-protocol-")
    return f"--grpc-restricted-protocol={','.join(protocols)}:{name}={key}"


def refuse_open_server(settings: AccessSettings, listen: str) -> None:
    """Raise `AccessError` if strangers on other machines could use the server."""
    proves = settings.tls_client_ca is not None or settings.api_key_file is not None
    if is_loopback(listen) or settings.insecure or (settings.tls_cert is not None and proves):
        return
    raise AccessError(
        f"Serving at {listen} opens the server to other machines, so it needs TLS (--tls-cert, "
        "--tls-key) and a proof of who asks (--api-key-file or --tls-client-ca). Give them, or "
        "reach the server through a tunnel: ssh -L 8001:localhost:8001 HOST. With --insecure, "
        "whoever reaches the port can use the models and read what is sent."
    )


def is_loopback(address: str) -> bool:
    """Tell whether only this machine reaches an address."""
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(address).is_loopback
    with contextlib.suppress(OSError):
        found = {entry[4][0] for entry in socket.getaddrinfo(address, None)}
        return all(ipaddress.ip_address(str(each)).is_loopback for each in found)
    return False


def read_api_key(file: Path) -> str:
    """Return the key in a file.

    Raises:
        AccessError: the file is missing, other users can read it, or it holds no key.
    """
    refuse_if_others_read(file)
    key = _read(file).decode(errors="replace").strip()
    if not KEY_FORM.fullmatch(key):
        raise AccessError(
            f"{file} must hold one key of 16 or more letters, digits and . _ ~ -, and nothing "
            f"else. Make one: openssl rand -hex 32 > {file}"
        )
    return key


def check_certificate(cert: Path, key: Path) -> x509.Certificate:
    """Return the server's certificate.

    Raises:
        AccessError: a file is missing or no PEM, the key is readable by others or of another
            certificate, or the certificate is not valid now.
    """
    refuse_if_others_read(key)
    certificate = _certificates(cert)[0]
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(cert, key, password=lambda: "")
    except (ssl.SSLError, OSError) as error:
        raise AccessError(
            f"{key} is not the unencrypted private key of the certificate {cert}: {error}. Give "
            "the two files that were made together."
        ) from error
    return certificate


def refuse_if_others_read(file: Path) -> None:
    """Raise `AccessError` if every user of this machine can read a secret file."""
    _read(file)
    if file.stat().st_mode & 0o007:
        raise AccessError(f"Other users can read {file}. Close it: chmod o-rwx {file}")


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise AccessError(f"{file} cannot be read: {error.strerror}.") from error


def _certificates(file: Path) -> list[x509.Certificate]:
    """Return the certificates in a file; refuse a file of which the first is not valid now."""
    try:
        found = x509.load_pem_x509_certificates(_read(file))
    except ValueError as error:
        raise AccessError(f"{file} holds no certificate in PEM form: {error}.") from error
    begin, end = found[0].not_valid_before_utc, found[0].not_valid_after_utc
    if not begin <= datetime.now(timezone.utc) <= end:
        raise AccessError(
            f"The certificate {file} is valid from {begin:%Y-%m-%d} to {end:%Y-%m-%d}, which today "
            "is not. Get a new one."
        )
    return found


def _first_name(certificate: x509.Certificate) -> str:
    """Return a name that gRPC finds in the certificate: the first alternative one."""
    with contextlib.suppress(x509.ExtensionNotFound):
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        for each in names:
            if isinstance(each, x509.DNSName | x509.IPAddress):
                return str(each.value).replace("*", "any")
    names_of_subject = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(names_of_subject[0].value) if names_of_subject else ""


def make_own_certificate() -> tuple[bytes, bytes]:
    """Make a key and a certificate for the launcher, for a server that asks callers for one."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "cytoserve supervisor")])
    now = datetime.now(timezone.utc)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + OWN_CERTIFICATE_LIFETIME)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    own_key = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return own_key, certificate.public_bytes(serialization.Encoding.PEM)


@contextmanager
def shared_admin_key(port: int, key: str) -> Iterator[None]:
    """Leave the admin key where programs of this user find it, see `cytoserve.access`.

    Raises:
        AccessError: another user owns the folder.
    """
    file = admin_key_file(port)
    file.parent.mkdir(mode=0o700, exist_ok=True)
    if file.parent.lstat().st_uid != os.getuid():
        raise AccessError(
            f"{file.parent} belongs to another user, who could read the server's key. Remove it, "
            "or set TMPDIR to a folder of your own."
        )
    file.parent.chmod(0o700)
    file.unlink(missing_ok=True)
    with open(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as stream:  # noqa: PTH123
        stream.write(f"{key}\n")
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            if file.read_text().strip() == key:  # another server may serve at this port by now
                file.unlink()


def hide_arguments(pid: int, texts: Iterable[str]) -> None:
    """Overwrite texts in the command line of a child process, which every user can read.

    ``tritonserver`` takes keys as flags alone, and copies them when it starts. The kernel shows a
    process's own memory as its command line, and lets its parent write there. Where a sandbox
    forbids that, the keys stay visible to users of this machine.
    """
    with contextlib.suppress(OSError, ValueError, IndexError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        begin, end = int(fields[45]), int(fields[46])  # arg_start and arg_end, see proc(5)
        with open(f"/proc/{pid}/mem", "r+b", buffering=0) as memory:  # noqa: PTH123
            memory.seek(begin)
            arguments = memory.read(end - begin)
            for text in texts:
                at = arguments.find(text.encode())
                if at >= 0:
                    memory.seek(begin + at)
                    memory.write(b"*" * len(text))
