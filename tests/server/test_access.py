"""Strangers get nothing but what they may have: keys, certificates, and every call of Triton."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path

import grpc
import psutil
import pytest
import trustme
from tritonclient.grpc import service_pb2, service_pb2_grpc

from cytoserve import (
    AccessDenied,
    AsyncClient,
    Client,
    InvalidSetting,
    ServerNotTrusted,
    ServerUnreachable,
)
from cytoserve.access import (
    ADMIN_KEY_HEADER,
    API_KEY_HEADER,
    Access,
    admin_headers,
    admin_key_file,
    channel_credentials,
    read_address,
)
from server.embedded import EmbeddedServer

KEY = "a-key-of-the-laboratory-0123456789"
OPEN = ("ServerLive", "ServerReady", "ModelReady")
USE = (
    "ServerMetadata",
    "ModelMetadata",
    "ModelInfer",
    "ModelStreamInfer",
    "ModelConfig",
    "ModelStatistics",
)
ADMINISTRATION = (
    "RepositoryIndex",
    "RepositoryModelLoad",
    "RepositoryModelUnload",
    "SystemSharedMemoryStatus",
    "SystemSharedMemoryRegister",
    "SystemSharedMemoryUnregister",
    "CudaSharedMemoryStatus",
    "CudaSharedMemoryRegister",
    "CudaSharedMemoryUnregister",
    "TraceSetting",
    "LogSettings",
)
SERVICE = service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"]


class Certificates:
    """An authority, a server's certificate, a client's, and those of a stranger, as files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.authority, self.stranger = trustme.CA(), trustme.CA()
        self.ca = self.write("ca.pem", self.authority.cert_pem.bytes())
        self.other_ca = self.write("other-ca.pem", self.stranger.cert_pem.bytes())
        self.cert, self.key = self.pair("server", self.authority, "localhost", "127.0.0.1")
        self.client_cert, self.client_key = self.pair("client", self.authority, "me@lab.example")
        self.bad_cert, self.bad_key = self.pair("stranger", self.stranger, "you@else.example")

    def write(self, name: str, content: bytes, mode: int = 0o600) -> Path:
        file = self.folder / name
        file.write_bytes(content)
        file.chmod(mode)
        return file

    def pair(self, name: str, authority: trustme.CA, *names: str, **facts) -> tuple[Path, Path]:
        made = authority.issue_cert(*names, **facts)
        chain = b"".join(part.bytes() for part in made.cert_chain_pems)
        key = self.write(f"{name}.key", made.private_key_pem.bytes())
        return self.write(f"{name}.pem", chain), key


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def key_file(certificates: Certificates) -> Path:
    return certificates.write("api-key", f"{KEY}\n".encode())


@pytest.fixture(scope="module")
def guarded(
    tiny_repository: Path, certificates: Certificates, key_file: Path
) -> Iterator[EmbeddedServer]:
    """A server with TLS that asks callers for a certificate and for a key."""
    options = [
        f"--tls-cert={certificates.cert}",
        f"--tls-key={certificates.key}",
        f"--tls-client-ca={certificates.ca}",
        f"--api-key-file={key_file}",
    ]
    with EmbeddedServer(tiny_repository, ["yolo"], options=options) as server:
        yield server
        assert "Restarting" not in server.output, "the supervisor could not ask its own server"


@pytest.fixture(scope="module")
def access(certificates: Certificates) -> dict[str, object]:
    """What a caller shows whom the server admits."""
    return {
        "ca": certificates.ca,
        "cert": certificates.client_cert,
        "key": certificates.client_key,
        "api_key": KEY,
    }


def outcome(channel: grpc.Channel, call: str, headers: dict[str, str]) -> str:
    """Make one call of Triton's service: `refused`, or what came of it."""
    stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
    request = getattr(service_pb2, SERVICE.methods_by_name[call].input_type.name)()
    metadata = tuple(headers.items())
    try:
        if call == "ModelStreamInfer":
            for answer in stub.ModelStreamInfer(iter([request]), metadata=metadata, timeout=20):
                return "refused" if "restricted" in answer.error_message else "admitted"
            return "admitted"
        getattr(stub, call)(request, metadata=metadata, timeout=20)
    except grpc.RpcError as error:
        return "refused" if "restricted" in (error.details() or "") else "admitted"
    return "admitted"


def connect(server: EmbeddedServer, access: dict[str, object]) -> grpc.Channel:
    address = read_address(server.url)
    credentials = channel_credentials(address, Access(**access))
    if credentials is None:
        return grpc.insecure_channel(address.target)
    return grpc.secure_channel(address.target, credentials)


def test_every_call_of_triton_is_in_the_table():
    assert {method.name for method in SERVICE.methods} == {*OPEN, *USE, *ADMINISTRATION}


@pytest.mark.parametrize("call", [*OPEN, *USE, *ADMINISTRATION])
def test_each_call_needs_its_key(guarded, access, call):
    right = {API_KEY_HEADER: KEY}
    wrong = {API_KEY_HEADER: KEY[::-1], ADMIN_KEY_HEADER: KEY}
    admin = admin_headers(read_address(guarded.url))
    with connect(guarded, access) as channel:
        seen = [outcome(channel, call, headers) for headers in ({}, wrong, right, admin)]
    expected = {
        OPEN: ["admitted"] * 4,
        USE: ["refused", "refused", "admitted", "refused"],
        ADMINISTRATION: ["refused", "refused", "refused", "admitted"],
    }
    [rule] = [each for calls, each in expected.items() if call in calls]
    assert seen == rule


@pytest.mark.parametrize("call", [*OPEN, *USE, *ADMINISTRATION])
def test_without_an_api_key_only_administration_is_refused(shared_server, call):
    with connect(shared_server, {}) as channel:
        seen = outcome(channel, call, {})
    assert seen == ("refused" if call in ADMINISTRATION else "admitted")


def test_the_right_client_is_admitted(guarded, access):
    assert guarded.url.startswith("grpcs://127.0.0.1:")
    with Client(guarded.url, timeout=20, **access) as client:
        assert client.pipelines() == ("yolo",)
        assert client.server_info().name == "triton"


async def test_so_is_the_right_asyncio_client(guarded, access):
    async with AsyncClient(guarded.url, timeout=20, **access) as client:
        assert (await client.server_info()).name == "triton"


@pytest.mark.parametrize(
    ("change", "error", "told"),
    [
        pytest.param({"api_key": None}, AccessDenied, "CYTOSERVE_API_KEY", id="no-key"),
        pytest.param({"api_key": KEY[::-1]}, AccessDenied, "api_key=", id="wrong-key"),
        pytest.param({"ca": "other_ca"}, ServerNotTrusted, "--ca", id="another-authority"),
        pytest.param({"ca": None}, ServerNotTrusted, "--ca", id="no-authority"),
        # Triton closes the connection without a word.
        pytest.param({"cert": None, "key": None}, ServerUnreachable, "--cert", id="no-certificate"),
        pytest.param(
            {"cert": "bad_cert", "key": "bad_key"}, ServerUnreachable, "--cert", id="stranger"
        ),
        pytest.param({"api_key": "short"}, InvalidSetting, "16 or more", id="key-of-another-form"),
        pytest.param({"key": None}, InvalidSetting, "goes with its private key", id="half-a-pair"),
        pytest.param({"ca": "/no/where"}, InvalidSetting, "No such file", id="missing-file"),
    ],
)
def test_others_are_told_why_not(guarded, certificates, access, change, error, told):
    files = {name: getattr(certificates, str(file), file) for name, file in change.items()}
    with (
        pytest.raises(error, match=told) as refusal,
        Client(guarded.url, timeout=20, **access | files) as client,
    ):
        client.server_info()
    assert "; given: " in str(refusal.value)


def test_a_name_that_the_certificate_lacks_is_refused(guarded, access):
    port = read_address(guarded.url).port
    with (
        Client(f"grpcs://127.0.0.2:{port}", timeout=20, **access) as client,
        pytest.raises((ServerNotTrusted, ServerUnreachable)),
    ):
        client.server_info()


def test_a_plain_client_is_pointed_to_tls(guarded):
    target = read_address(guarded.url).target
    with (
        Client(target, timeout=20) as client,
        pytest.raises(ServerUnreachable, match="If the server has a certificate"),
    ):
        client.server_info()


def test_a_tls_client_is_pointed_to_a_plain_address(shared_server):
    with (
        Client(f"grpcs://{shared_server.url}", timeout=20) as client,
        pytest.raises(ServerNotTrusted, match=f"one without TLS .* Write {shared_server.url},"),
    ):
        client.server_info()


@pytest.mark.parametrize(
    ("url", "told"),
    [
        pytest.param("http://localhost:8000", "speaks gRPC, not HTTP", id="http"),
        pytest.param("https://lab.example:8001", "grpcs://", id="https"),
        pytest.param("grpcs://localhost", "host:port", id="no-port"),
        pytest.param("localhost:8001/v2", "without a path", id="path"),
    ],
)
def test_an_address_of_another_kind_is_refused(url, told):
    with pytest.raises(InvalidSetting, match=told):
        Client(url)


def test_certificates_for_a_plain_address_are_refused(certificates):
    with pytest.raises(InvalidSetting, match=r"ca for localhost:1\. Write the address as grpcs://"):
        Client("localhost:1", ca=certificates.ca)


def command_line(server: EmbeddedServer, *arguments: str, **variables: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-m", "cytoserve", *arguments],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
    )
    return done.returncode, done.stdout + done.stderr


def test_the_command_line_takes_them_as_options_and_variables(guarded, access):
    variables = {f"CYTOSERVE_{name.upper()}": str(value) for name, value in access.items()}
    code, told = command_line(guarded, "pipelines", CYTOSERVE_URL=guarded.url, **variables)
    assert "'yolo_card'" in told or "yolo_card" in told or code == 0, told
    options = [f"--{name.replace('_', '-')}={value}" for name, value in access.items()]
    again = command_line(guarded, "doctor", f"--url={guarded.url}", *options)[1]
    assert f"server: triton 2.51.0 at {guarded.url}" in again
    without = [option for option in options if not option.startswith("--api-key")]
    denied = command_line(guarded, "doctor", f"--url={guarded.url}", *without)[1]
    assert "CYTOSERVE_API_KEY" in denied
    assert "Traceback" not in denied


@pytest.mark.parametrize("server_name", ["guarded", "shared_server"])
def test_keys_are_seen_by_nobody_else(request, triton_of, server_name):
    server = request.getfixturevalue(server_name)
    port = read_address(server.url).port
    [(_, admin_key)] = admin_headers(read_address(server.url)).items()
    words = " ".join(triton_of(server).cmdline())
    assert "--grpc-restricted-protocol=model-repository" in words
    for key in (KEY, admin_key):
        assert key not in words
        assert key not in server.output
    log = Path(psutil.Process(triton_of(server).pid).cwd()) / "tritonserver.log"
    assert admin_key not in log.read_text()
    file = admin_key_file(port)
    assert file.stat().st_mode & 0o777 == 0o600
    assert file.parent.stat().st_mode & 0o777 == 0o700


def test_the_server_s_key_goes_with_it(tiny_repository):
    with EmbeddedServer(tiny_repository, ["yolo"]) as server:
        file = admin_key_file(read_address(server.url).port)
        assert file.is_file()
    assert not file.exists()


def test_a_key_that_another_user_could_have_written_is_not_believed(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    file = admin_key_file(1234)
    file.parent.mkdir(mode=0o700)
    file.write_text("k\n")
    assert admin_headers(read_address("localhost:1234")) == {ADMIN_KEY_HEADER: "k"}
    assert admin_headers(read_address("lab.example:1234")) == {}
    file.parent.chmod(0o777)
    assert admin_headers(read_address("localhost:1234")) == {}


@pytest.mark.parametrize("variable", ["http_proxy", "grpc_proxy"])
def test_no_proxy_is_asked_for_this_machine(shared_server, monkeypatch, variable):
    monkeypatch.setenv(variable, "http://127.0.0.1:9")  # nothing answers there
    for url in (shared_server.url, shared_server.url.replace("127.0.0.1", "localhost")):
        with Client(url, timeout=20) as client:
            assert client.server_info().name == "triton"


def test_the_server_starts_where_a_proxy_is_set(tiny_repository):
    proxy = {"http_proxy": "http://127.0.0.1:9"}
    with EmbeddedServer(tiny_repository, ["yolo"], variables=proxy) as server:
        assert server.url


Files = Callable[[Certificates], list[str]]


def usable(files: Certificates) -> list[str]:
    return [f"--tls-cert={files.cert}", f"--tls-key={files.key}"]


def expired_pair(files: Certificates) -> tuple[Path, Path]:
    past = datetime.now(timezone.utc) - timedelta(days=1)
    return files.pair("expired", files.authority, "localhost", not_after=past)


def expired(files: Certificates) -> list[str]:
    cert, key = expired_pair(files)
    return [f"--tls-cert={cert}", f"--tls-key={key}"]


def readable(files: Certificates) -> list[str]:
    return [f"--api-key-file={files.write('open-key', KEY.encode(), 0o644)}"]


def readable_tls_key(files: Certificates) -> list[str]:
    key = files.write("open.key", files.key.read_bytes(), 0o604)
    return [f"--tls-cert={files.cert}", f"--tls-key={key}"]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        pytest.param(lambda f: [f"--tls-cert={f.cert}"], "--tls-cert and --tls-key", id="half"),
        pytest.param(lambda f: [f"--tls-client-ca={f.ca}"], "needs --tls-cert", id="ca-alone"),
        pytest.param(
            lambda f: [f"--tls-cert={f.cert}", f"--tls-key={f.bad_key}"],
            "is not the unencrypted private key of the certificate",
            id="key-of-another",
        ),
        pytest.param(
            lambda f: [f"--tls-cert={f.cert}", "--tls-key=/no/where"],
            "/no/where cannot be read: No such file",
            id="missing",
        ),
        pytest.param(
            lambda f: [f"--tls-cert={f.key}", f"--tls-key={f.key}"],
            "holds no certificate in PEM form",
            id="no-certificate",
        ),
        pytest.param(expired, "which today is not", id="expired"),
        pytest.param(
            lambda f: [*usable(f), f"--tls-client-ca={expired_pair(f)[0]}"],
            "which today is not",
            id="expired-authority",
        ),
        pytest.param(
            lambda f: [*usable(f), f"--tls-client-ca={f.key}"],
            "holds no certificate in PEM form",
            id="authority-that-is-none",
        ),
        pytest.param(readable, "chmod o-rwx", id="key-readable-by-others"),
        pytest.param(readable_tls_key, "chmod o-rwx", id="tls-key-readable-by-others"),
        pytest.param(
            lambda f: [f"--api-key-file={f.write('short-key', b'short')}"],
            "openssl rand -hex 32",
            id="short-key",
        ),
        pytest.param(
            lambda f: [f"--api-key-file={f.write('two', f'{KEY} {KEY}'.encode())}"],
            "must hold one key",
            id="two-keys",
        ),
        pytest.param(
            lambda f: [
                "--listen=0.0.0.0",
                f"--tls-cert={f.cert}",
                f"--tls-key={f.key}",
            ],
            "a proof of who asks",
            id="open-without-key",
        ),
    ],
)
def test_what_cannot_be_used_is_told_and_nothing_starts(
    tiny_repository, certificates, options: Files, told
):
    command = [sys.executable, "-m", "server", "--pipelines=yolo", "--grpc-port=0"]
    command += [f"--model-repository={tiny_repository}", *options(certificates)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 1
    assert told in " ".join(ended.stderr.split())
    assert "Traceback" not in ended.stderr
