"""KServe's files, checked without its schemas: the pod in them, and their names.

Neither KServe nor its custom resources were available here.
"""

from __future__ import annotations

import importlib.util

import pytest
import yaml


@pytest.fixture(scope="module")
def runtime(docker) -> dict:
    return yaml.safe_load((docker / "kserve" / "servingruntime.yaml").read_text())


@pytest.fixture(scope="module")
def service(docker) -> dict:
    return yaml.safe_load((docker / "kserve" / "inferenceservice.yaml").read_text())


def test_kubernetes_takes_its_pod(runtime, tool, tmp_path):
    spec = {key: runtime["spec"][key] for key in ("containers", "volumes")}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": spec}
    file = tmp_path / "pod.yaml"
    file.write_text(yaml.safe_dump(pod))
    done = tool("kubernetes-validate", "--strict", "-k", "1.37", file)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_service_asks_for_this_runtime(runtime, service):
    model = service["spec"]["predictor"]["model"]
    assert model["runtime"] == runtime["metadata"]["name"]
    formats = {each["name"] for each in runtime["spec"]["supportedModelFormats"]}
    assert model["modelFormat"]["name"] in formats
    assert model["protocolVersion"] in runtime["spec"]["protocolVersions"]


def test_the_start_script_knows_all_options(runtime, docker):
    spec = importlib.util.spec_from_file_location("serve", docker / "gpu" / "serve.py")
    serve = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(serve)
    known = {option for parameter in serve.main.params for option in parameter.opts}
    [container] = runtime["spec"]["containers"]
    assert {word.partition("=")[0] for word in container["args"]} <= known
    [port] = container["ports"]
    assert f"--grpc-port={port['containerPort']}" in container["args"]
    for kind in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container[kind]["grpc"]["port"] == port["containerPort"]
    assert "--model-repository=/mnt/models" in container["args"]  # where KServe puts them
    metrics = runtime["spec"]["annotations"]["prometheus.kserve.io/port"]
    assert f"--metrics-port={metrics}" in container["args"]


def test_the_start_script_has_the_options_of_the_server(docker):
    """Compose files and chart give the same options to both images."""
    from server.__main__ import main

    spec = importlib.util.spec_from_file_location("serve", docker / "gpu" / "serve.py")
    serve = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(serve)
    server = {parameter.opts[0]: parameter.default for parameter in main.params}
    for parameter in serve.main.params:
        option = parameter.opts[0]
        assert option in server
        if option in ("--grpc-port", "--listen", "--exit-timeout", "--response-cache-mb"):
            assert parameter.default == server[option]
