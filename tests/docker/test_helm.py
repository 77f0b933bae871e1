"""The chart, rendered and linted by Helm itself, and what comes out by Kubernetes' own schemas."""

from __future__ import annotations

import copy

import pytest
import yaml

import cytoserve

helm = pytest.importorskip("helm_python", reason="needs the Python package helm-python-sdk")

KINDS = {
    "cpu": {"Deployment", "Service", "PersistentVolumeClaim", "NetworkPolicy"},
    "gpu": {"Deployment", "Service", "NetworkPolicy"},
    "mutual": {"Deployment", "Service", "PersistentVolumeClaim", "NetworkPolicy"},
    "watched": {
        "Deployment",
        "Service",
        "NetworkPolicy",
        "HorizontalPodAutoscaler",
        "ServiceMonitor",
        "PrometheusRule",
        "ConfigMap",
    },
}
"""File of values -> kinds of objects that come of it."""


@pytest.fixture(scope="module")
def chart(docker):
    return docker / "helm" / "cytoserve"


@pytest.fixture(scope="module")
def values(chart):
    """Reads one of the chart's files of values."""
    return lambda name: yaml.safe_load((chart / "ci" / f"{name}.yaml").read_text())


@pytest.fixture(scope="module")
def objects(chart, values):
    """Renders the chart to Kubernetes' objects."""

    def render(given) -> list[dict]:
        given = values(given) if isinstance(given, str) else given
        with helm.Chart.load(str(chart)) as loaded:
            files = loaded.render(given, name="lab", namespace="imaging")
        texts = [text for name, text in files.items() if name.endswith(".yaml")]
        return [each for text in texts for each in yaml.safe_load_all(text) if each]

    return render


def the(kind: str, found: list[dict], at: int = 0) -> dict:
    return [each for each in found if each["kind"] == kind][at]


def containers(found: list[dict]) -> list[dict]:
    pod = the("Deployment", found)["spec"]["template"]["spec"]
    return pod["containers"] + pod.get("initContainers", [])


def test_the_chart_is_of_this_version(chart):
    about = yaml.safe_load((chart / "Chart.yaml").read_text())
    assert about["appVersion"] == cytoserve.__version__


def test_every_file_of_values_is_tried(chart):
    assert {file.stem for file in (chart / "ci").glob("*.yaml")} == set(KINDS)


@pytest.mark.parametrize("name", KINDS)
def test_helm_finds_nothing_wrong(name, chart, values):
    found = helm.lint(str(chart), values(name), strict=True)
    grave = [each for each in found["messages"] if each["severity"] not in ("INFO", 1)]
    assert not grave, found


@pytest.mark.parametrize("name", KINDS)
def test_what_comes_out_is_what_kubernetes_takes(name, objects, tool, tmp_path):
    found = objects(name)
    assert {each["kind"] for each in found} == KINDS[name]
    file = tmp_path / "all.yaml"
    file.write_text(yaml.safe_dump_all(found))
    done = tool("kubernetes-validate", "--strict", "-k", "1.37", file)
    assert done.returncode == 0, done.stdout + done.stderr


def test_kubernetes_validate_would_find_a_wrong_field(objects, tool, tmp_path):
    found = copy.deepcopy(objects("cpu"))
    the("Deployment", found)["spec"]["template"]["spec"]["containers"][0]["imagePolicy"] = "Never"
    file = tmp_path / "all.yaml"
    file.write_text(yaml.safe_dump_all(found))
    done = tool("kubernetes-validate", "--strict", "-k", "1.37", file)
    assert done.returncode != 0
    assert "imagePolicy" in done.stdout + done.stderr


@pytest.mark.parametrize("name", KINDS)
def test_no_container_has_rights(name, objects):
    found = objects(name)
    pod = the("Deployment", found)["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"]
    assert pod["securityContext"]["runAsUser"] == pod["securityContext"]["runAsGroup"] == 1000
    assert not pod["automountServiceAccountToken"]
    for each in containers(found):
        assert each["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }


@pytest.mark.parametrize("name", KINDS)
def test_only_the_maker_of_plans_may_write_models(name, objects):
    for each in containers(objects(name)):
        [models] = [mount for mount in each["volumeMounts"] if mount["name"] == "models"]
        assert models.get("readOnly", False) == (each["name"] == "server")


@pytest.mark.parametrize("name", KINDS)
def test_shared_memory_is_memory(name, objects):
    pod = the("Deployment", objects(name))["spec"]["template"]["spec"]
    [shm] = [volume for volume in pod["volumes"] if volume["name"] == "shm"]
    assert shm["emptyDir"]["medium"] == "Memory"
    [server] = pod["containers"]
    assert {"name": "shm", "mountPath": "/dev/shm"} in server["volumeMounts"]


@pytest.mark.parametrize(
    ("name", "probe"),
    [("cpu", {"grpc": {"port": 8001}}), ("gpu", {"tcpSocket": {"port": "grpc"}})],
)
def test_probes_need_no_key_and_no_certificate(name, probe, objects):
    [server] = the("Deployment", objects(name))["spec"]["template"]["spec"]["containers"]
    for kind in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert probe.items() <= server[kind].items()


def test_plans_are_made_on_the_gpu_that_serves_them(objects):
    server, engines = containers(objects("gpu"))
    assert engines["command"][-4:] == ["python3", "-m", "export", "tensorrt"]
    assert engines["image"] == server["image"]
    for each in (server, engines):
        assert each["resources"]["limits"]["nvidia.com/gpu"] == 1
    # One subfolder for both, or the server would not find what is made.
    folders = {
        mount["subPath"]
        for each in (server, engines)
        for mount in each["volumeMounts"]
        if mount["name"] == "models"
    }
    assert folders == {"bundles/today"}


def test_an_image_can_be_named_by_its_digest(objects):
    for each in containers(objects("mutual")):
        assert "@sha256:" in each["image"]


@pytest.mark.parametrize("name", KINDS)
def test_the_server_knows_all_its_options(name, objects):
    """Each image takes the options that the chart gives it."""
    from server.__main__ import main

    known = {option for parameter in main.params for option in parameter.opts}
    [server] = the("Deployment", objects(name))["spec"]["template"]["spec"]["containers"]
    assert {word.partition("=")[0] for word in server["args"]} <= known
    mounted = {mount["mountPath"] for mount in server["volumeMounts"]}
    files = [word.partition("=")[2] for word in server["args"] if "=/secrets/" in word]
    assert {file.rpartition("/")[0] for file in files} <= mounted


def test_the_autoscaler_asks_for_what_the_adapter_shows(objects, docker):
    adapter = yaml.safe_load((docker / "helm" / "prometheus-adapter.yaml").read_text())
    [rule] = adapter["rules"]["custom"]
    [metric] = the("HorizontalPodAutoscaler", objects("watched"))["spec"]["metrics"]
    assert metric["pods"]["metric"]["name"] == rule["name"]["as"]
    groups = the("PrometheusRule", objects("watched"))["spec"]["groups"]
    records = {each.get("record") for group in groups for each in group["rules"]}
    assert rule["seriesQuery"].partition("{")[0] in records


def test_rules_and_dashboard_are_those_of_compose(objects, docker):
    rules = yaml.safe_load((docker / "prometheus" / "rules.yml").read_text())
    assert the("PrometheusRule", objects("watched"))["spec"] == rules
    dashboard = docker / "grafana" / "dashboards" / "cytoserve.json"
    shown = the("ConfigMap", objects("watched"))["data"]["cytoserve.json"]
    assert shown.strip() == dashboard.read_text().strip()
    [endpoint] = the("ServiceMonitor", objects("watched"))["spec"]["endpoints"]
    assert {"targetLabel": "job", "replacement": "cytoserve"} in endpoint["relabelings"]


def test_metrics_stay_inside(objects):
    found = objects("mutual")
    service, metrics = the("Service", found), the("Service", found, 1)
    assert [port["name"] for port in service["spec"]["ports"]] == ["grpc"]
    assert service["spec"]["type"] == "LoadBalancer"
    assert metrics["spec"].get("type", "ClusterIP") == "ClusterIP"


INSECURE = {"access": {"insecure": True}}
WRONG = {
    "open to all by default": ({}, "access"),
    "tls without a proof of who asks": ({"access": {"tlsSecret": "tls"}}, "access"),
    "a key without tls": ({"access": {"apiKeySecret": "key"}}, "access"),
    "a misspelt value": ({**INSECURE, "replica": 2}, "replica"),
    "a misspelt value inside": ({**INSECURE, "models": {"size": "1Gi", "clam": "x"}}, "clam"),
    "plans without a gpu": ({**INSECURE, "engines": {"enabled": True}}, "gpus"),
    "plans of another variant": (
        {**INSECURE, "gpus": 1, "variant": "cuda", "engines": {"enabled": True}},
        "variant",
    ),
    "cuda without a gpu": ({**INSECURE, "variant": "cuda"}, "gpus"),
    "scaling by a figure that nobody computes": (
        {**INSECURE, "autoscaling": {"enabled": True}},
        "rules",
    ),
    "no replica": ({**INSECURE, "replicas": 0}, "replicas"),
    "an image that changes": ({**INSECURE, "image": {"repository": "x", "tag": "latest"}}, "tag"),
    "a digest cut short": ({**INSECURE, "image": {"digest": "sha256:12"}}, "digest"),
    "a folder outside the volume": ({**INSECURE, "models": {"folder": "../other"}}, "folder"),
    "memory in a wrong unit": (
        {**INSECURE, "sharedMemory": "1GB"},
        "sharedMemory",
    ),
}


@pytest.mark.parametrize(("given", "named"), WRONG.values(), ids=WRONG)
def test_wrong_values_are_refused_by_name(given, named, objects):
    with pytest.raises(helm.HelmError, match=named):
        objects(given)
