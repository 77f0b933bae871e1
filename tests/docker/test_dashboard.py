"""The dashboard and the rules on a real server under load, asked by a real Prometheus."""

from __future__ import annotations

import contextlib
import itertools
import json
import re
import shutil
import socket
import subprocess
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from cytoserve import Client
from cytoserve.contract import PIPELINES
from server.embedded import EmbeddedServer
from training.rendered import RenderSettings, render_frame

PIPELINE = "yolo"
WITHIN_S = 120
FRAME = render_frame(RenderSettings(height=300, width=400, cells=8), 3)[0]
STEP = "15s"
"""What Grafana puts in the place of `$__rate_interval` here: some scrapes of a second each."""

DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def expressions(docker: Path) -> list[str]:
    """The queries of all panels, as Grafana sends them."""
    dashboard = json.loads((docker / "grafana" / "dashboards" / "cytoserve.json").read_text())
    targets = [each for panel in dashboard["panels"] for each in panel.get("targets", [])]
    chosen = {"$__rate_interval": STEP, "$instance": ".*", "$pipeline": PIPELINE}
    found = []
    for text in (target["expr"] for target in targets):
        for name, value in chosen.items():
            text = text.replace(name, value)
        assert "$" not in text
        found.append(text)
    return found


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


class Prometheus:
    """A Prometheus with the project's rules, which asks one server every second."""

    def __init__(self, folder: Path, docker: Path, target: int) -> None:
        self.port = free_port()
        config = yaml.safe_load((docker / "prometheus" / "prometheus.yml").read_text())
        config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
        [[static]] = [job["static_configs"] for job in config["scrape_configs"]]
        static["targets"] = [f"127.0.0.1:{target}"]
        (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
        rules = (docker / "prometheus" / "rules.yml").read_text()
        # An alert that waits for minutes is tried by promtool; here it may fire at once.
        (folder / "rules.yml").write_text(re.sub(r"for: \d+m", "for: 2s", rules))
        self.log = (folder / "prometheus.log").open("wb")
        self.process = subprocess.Popen(
            [
                "prometheus",
                f"--config.file={folder / 'prometheus.yml'}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address=127.0.0.1:{self.port}",
            ],
            stdout=self.log,
            stderr=subprocess.STDOUT,
        )

    def ask(self, expression: str) -> list[dict]:
        query = urllib.parse.urlencode({"query": expression})
        url = f"http://127.0.0.1:{self.port}/api/v1/query?{query}"
        with DIRECT.open(url, timeout=10) as answer:
            return list(json.load(answer)["data"]["result"])

    def wait_for(self, expression: str) -> list[dict]:
        """What an expression gives, once it gives numbers."""
        last = time.monotonic() + WITHIN_S
        while True:
            with contextlib.suppress(OSError):
                found = [each for each in self.ask(expression) if each["value"][1] != "NaN"]
                if found:
                    return found
            assert self.process.poll() is None, Path(self.log.name).read_text()[-2000:]
            assert time.monotonic() < last, f"no data: {expression}"
            time.sleep(0.5)

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(30)
        self.log.close()


@pytest.fixture(scope="module")
def watched(
    docker: Path, exported_repository: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[EmbeddedServer, Prometheus]]:
    if shutil.which("prometheus") is None:
        pytest.skip("needs prometheus, of the Debian package prometheus")
    port = free_port()
    options = [f"--metrics-port={port}"]
    with EmbeddedServer(exported_repository, [PIPELINE], options=options) as server:
        prometheus = Prometheus(tmp_path_factory.mktemp("prometheus"), docker, port)
        done = threading.Event()
        loads = [threading.Thread(target=load, args=(server.url, done)) for _ in range(3)]
        try:
            for each in loads:
                each.start()
            yield server, prometheus
        finally:
            done.set()
            for each in loads:
                each.join()
            prometheus.stop()


def load(url: str, done: threading.Event) -> None:
    """Segment frames until told to stop, or until the server is gone."""
    with Client(url, timeout=60) as client, contextlib.suppress(Exception):
        while not done.is_set():
            client.segment(FRAME, PIPELINE)


GPU = re.compile(r"\bnv_gpu_\w+")


def test_every_panel_shows_something(docker, watched):
    _, prometheus = watched
    shown = [text for text in expressions(docker) if not GPU.search(text)]
    assert len(shown) > 15
    for text in shown:
        assert prometheus.wait_for(text)


def test_panels_of_gpus_are_asked_in_a_language_that_prometheus_knows(docker, watched):
    """No machine here has a GPU, so they show nothing."""
    _, prometheus = watched
    asked = [text for text in expressions(docker) if GPU.search(text)]
    assert asked
    for text in asked:
        assert prometheus.ask(text) == []


def test_every_figure_of_the_rules_is_computed(docker, watched):
    _, prometheus = watched
    groups = yaml.safe_load((docker / "prometheus" / "rules.yml").read_text())["groups"]
    records = [rule["record"] for group in groups for rule in group["rules"] if "record" in rule]
    assert records
    for name in records:
        assert prometheus.wait_for(name)


def test_every_metric_of_the_alerts_exists(docker, watched):
    _, prometheus = watched
    text = (docker / "prometheus" / "rules.yml").read_text()
    names = {name for name in re.findall(r"\bnv_\w+", text) if not GPU.match(name)}
    assert names
    for name in sorted(names):
        assert prometheus.wait_for(name)


def test_the_dashboard_finds_the_pipelines_by_their_cards(docker, watched):
    _, prometheus = watched
    dashboard = json.loads((docker / "grafana" / "dashboards" / "cytoserve.json").read_text())
    [variable] = [each for each in dashboard["templating"]["list"] if each["name"] == "pipeline"]
    [(query, label)] = re.findall(r"label_values\((.*), (\w+)\)", variable["query"]["query"])
    rows = prometheus.wait_for(query.replace("$instance", ".*"))
    cut = re.compile(variable["regex"].strip("/"))
    assert {cut.fullmatch(row["metric"][label])[1] for row in rows} == {PIPELINE}
    for pipeline in PIPELINES.values():
        assert cut.fullmatch(pipeline.card)[1] == pipeline.name


def test_the_parts_of_a_request_add_up_to_it(docker, watched):
    """A pipeline's requests wait in its steps, so Triton counts no queue time for itself."""
    _, prometheus = watched
    parts = [
        text for text in expressions(docker) if f'model="{PIPELINE}"' in text and "/ 1000" in text
    ]
    assert len(parts) == 3
    whole = (
        f'sum(nv_inference_request_duration_us{{model="{PIPELINE}"}})'
        f' / sum(nv_inference_request_success{{model="{PIPELINE}"}}) / 1000'
    )
    prometheus.wait_for(whole)
    windows = [re.sub(r"rate\((\w+\{[^}]*\})\[\w+\]\)", r"(\1)", text) for text in parts]
    one = " + ".join(f"sum({text})" for text in windows)
    [row] = prometheus.wait_for(f"({one}) / ({whole})")
    assert float(row["value"][1]) == pytest.approx(1, abs=1e-6)
    [alone] = prometheus.wait_for(f'nv_inference_queue_duration_us{{model="{PIPELINE}"}}')
    [steps] = prometheus.wait_for(
        f'sum(nv_inference_queue_duration_us{{model=~"{"|".join(PIPELINES[PIPELINE].steps)}"}})'
    )
    assert float(alone["value"][1]) < float(steps["value"][1])


def test_panels_do_not_lie_on_each_other(docker):
    dashboard = json.loads((docker / "grafana" / "dashboards" / "cytoserve.json").read_text())
    places = [
        {
            (x, y)
            for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
            for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
        }
        for panel in dashboard["panels"]
    ]
    assert not any(a & b for a, b in itertools.combinations(places, 2))
    assert max(x for place in places for x, _ in place) == 23
    numbers = [panel["id"] for panel in dashboard["panels"]]
    assert len(set(numbers)) == len(numbers)


def test_an_alert_fires_when_the_server_goes_away(watched):
    """The last test: it stops the server."""
    server, prometheus = watched
    firing = 'ALERTS{alertname="CytoserveDown", alertstate="firing"}'
    prometheus.wait_for('up{job="cytoserve"} == 1')
    assert not prometheus.ask(firing)
    server.stop()
    assert prometheus.wait_for(firing)
