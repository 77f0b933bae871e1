"""The compose files, merged as the README merges them, by docker-compose itself."""

from __future__ import annotations

import json

import pytest

MERGED = {
    "processors": ["compose.yaml"],
    "other machines": ["compose.yaml", "compose.network.yaml"],
    "gpu": ["compose.yaml", "compose.gpu.yaml"],
    "monitoring": ["compose.yaml", "compose.monitoring.yaml"],
    "gpu, other machines, monitoring": [
        "compose.yaml",
        "compose.gpu.yaml",
        "compose.network.yaml",
        "compose.monitoring.yaml",
    ],
}
# What belongs to the place that runs them: limits of memory, and images by their digests.
NOT_OURS = ("CL-0026", "CL-0019")


@pytest.fixture
def merged(docker, tool):
    """Lets docker-compose check and merge files. The package's own command always ends with 0, so a
    refusal shows by what it prints."""

    def merge(files, *more, **variables):
        named = [word for file in files for word in ("-f", docker / file)]
        return tool("docker-compose", *named, "config", *more, **variables)

    return merge


@pytest.fixture(params=MERGED.values(), ids=MERGED)
def services(request, merged):
    done = merged(request.param, "--format", "json", MODELS="/models", SECRETS="/secrets")
    assert done.stdout, done.stderr
    return json.loads(done.stdout)["services"]


def test_every_service_is_locked_down(services):
    for name, service in services.items():
        assert service["read_only"], name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert not service.get("privileged"), name


def test_only_an_encrypted_port_is_open_to_other_machines(services):
    for name, service in services.items():
        for port in service.get("ports", []):
            secret = "--api-key-file=/run/secrets/api-key" in (service["command"] or [])
            assert port.get("host_ip") == "127.0.0.1" or (secret and port["target"] == 8001), name


def test_an_open_server_says_that_it_is_insecure(services):
    words = services["server"]["command"]
    assert ("--insecure" in words) != ("--tls-cert=/run/secrets/server.pem" in words)


def test_models_are_read_only_but_for_the_maker_of_plans(services):
    for name, service in services.items():
        for mount in service.get("volumes", []):
            if mount["target"] == "/models":
                assert mount.get("read_only", False) == (name != "engines")


def test_the_gpu_server_waits_for_its_plans(merged):
    done = merged(MERGED["gpu"], "--format", "json", MODELS="/models")
    services = json.loads(done.stdout)["services"]
    assert services["server"]["depends_on"]["engines"]["condition"] == (
        "service_completed_successfully"
    )
    for service in services.values():
        [device] = service["deploy"]["resources"]["reservations"]["devices"]
        assert device["capabilities"] == ["gpu"]
        assert device["driver"] == "nvidia"
    # Both images take the same options.
    own = json.loads(merged(MERGED["processors"], "--format", "json").stdout)["services"]
    assert services["server"]["command"] == own["server"]["command"]


@pytest.mark.parametrize(
    ("files", "variable"),
    [(MERGED["gpu"], "MODELS"), (MERGED["other machines"], "SECRETS")],
    ids=["models", "secrets"],
)
def test_what_must_be_given_is_asked_for(files, variable, merged):
    done = merged(files)
    assert not done.stdout
    assert f"required variable {variable} is missing" in done.stderr


def test_docker_compose_would_find_a_wrong_key(tmp_path, tool):
    wrong = tmp_path / "compose.yaml"
    wrong.write_text("services: {server: {image: x, read_onyl: true}}\n")
    done = tool("docker-compose", "-f", wrong, "config")
    assert not done.stdout
    assert "'read_onyl' not allowed" in done.stderr


@pytest.mark.parametrize("files", MERGED.values(), ids=MERGED)
def test_compose_lint_finds_nothing_grave(files, merged, tool, tmp_path):
    whole = tmp_path / "compose.yaml"
    whole.write_text(merged(files, MODELS="/models", SECRETS="/secrets").stdout)
    done = tool("compose-lint", "--format", "json", "--fail-on", "high", whole)
    assert done.returncode == 0, done.stdout
    found = {(each["rule_id"], each["service"]) for each in json.loads(done.stdout)["findings"]}
    open_ports = {("CL-0005", "server")} if "compose.network.yaml" in files else set()
    assert {each for each in found if each[0] not in NOT_OURS} <= open_ports
