"""A bundle holds what is exported, and NVIDIA's plain command serves it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from cytoserve import Client, ServerUnreachable
from cytoserve.contract import PIPELINES, SINGLE_GRAPH
from cytoserve.model_config import CONFIG_FILE, read_config, versions
from export.__main__ import main
from export.repository.bundle import exported_pipelines, write_bundle
from server.installation import find_installation, lay_out, worker_environment
from server.port import reserve
from training.rendered import RenderSettings, render_frame

START_S = 120
FRAME = render_frame(RenderSettings(height=300, width=400, cells=8), 3)[0]


@contextmanager
def plain_tritonserver(bundle: Path, folder: Path) -> Iterator[str]:
    """Serve a bundle by NVIDIA's plain command: no model is named, all of them must load.

    The wheel lacks the native ONNX Runtime backend, so its stand-in is named. The rest is the
    address.
    """
    installation = find_installation()
    backends = lay_out(folder / "backends", installation)
    with reserve("127.0.0.1", 0, "--grpc-port") as port:
        url = f"127.0.0.1:{port.getsockname()[1]}"
        command = [
            str(installation.tritonserver),
            f"--model-repository={bundle}",
            f"--backend-directory={backends}",
            "--allow-http=false",
            "--allow-metrics=false",
            "--grpc-address=127.0.0.1",
            f"--grpc-port={url.rpartition(':')[2]}",
            "--reuse-grpc-port=true",
        ]
        log = folder / "log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                command,
                env=worker_environment(installation, os.environ),
                cwd=folder,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        try:
            wait_until_ready(process, url, log)
            yield url
        finally:
            process.terminate()
            process.wait(30)


def wait_until_ready(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    last = time.monotonic() + START_S
    while time.monotonic() < last and process.poll() is None:
        try:
            with Client(url, timeout=1) as client:
                client.server_info()
            return
        except ServerUnreachable:
            time.sleep(0.2)
    pytest.fail(f"tritonserver did not start:\n{log.read_text()}")


@pytest.mark.parametrize("variant", [None, SINGLE_GRAPH])
def test_the_plain_command_serves_it(exported_repository, server, tmp_path, variant):
    bundle = tmp_path / "bundle"
    write_bundle(exported_repository, bundle, ["yolo", "yolo_resnet"], variant)
    with (
        Client(server.url, timeout=60) as client,
        plain_tritonserver(bundle, tmp_path) as url,
        Client(url, timeout=60) as plain,
    ):
        for pipeline in ("yolo", "yolo_resnet"):
            expected, found = client.segment(FRAME, pipeline), plain.segment(FRAME, pipeline)
            assert len(found) == len(expected) > 0
            np.testing.assert_allclose(found.boxes, expected.boxes, atol=1e-3)
            assert plain.card(pipeline).hashes() == client.card(pipeline).hashes()


def test_the_repository_itself_does_not_start_so(exported_repository, tmp_path):
    """Without this, the bundle would be needless: one folder without a version is enough."""
    bundle = tmp_path / "bundle"
    write_bundle(exported_repository, bundle, ["yolo"])
    (bundle / "left_over").mkdir()
    (bundle / "left_over" / CONFIG_FILE).write_text('name: "left_over"\nbackend: "onnxruntime"\n')
    with (
        pytest.raises(pytest.fail.Exception, match=r"left_over .*No model version was found"),
        plain_tritonserver(bundle, tmp_path),
    ):
        pass


@pytest.mark.parametrize("variant", [None, SINGLE_GRAPH, "throughput"])
@pytest.mark.parametrize("pipeline", PIPELINES)
def test_it_holds_one_version_of_each_model(exported_repository, tmp_path, pipeline, variant):
    out = tmp_path / "bundle"
    models = write_bundle(exported_repository, out, [pipeline], variant)
    assert sorted(path.name for path in out.iterdir()) == sorted(models)
    wanted = {*PIPELINES[pipeline].steps_of(variant), pipeline, PIPELINES[pipeline].card}
    assert set(models) == wanted
    for model in models:
        assert len(versions(out / model)) == 1
        steps = read_config(out / model / CONFIG_FILE).ensemble_scheduling.step
        assert {step.model_name for step in steps} <= wanted
        for file in (out / model).glob("configs/*.pbtxt"):
            assert variant is None
            steps = read_config(file).ensemble_scheduling.step
            assert {step.model_name for step in steps} <= wanted


def run(*arguments: str | Path) -> tuple[int, str]:
    done = CliRunner().invoke(main, ["bundle", *map(str, arguments)])
    return done.exit_code, done.output


def test_all_that_is_exported_is_copied(exported_repository, tmp_path):
    out = tmp_path / "new" / "bundle"
    code, told = run(out, "--model-repository", exported_repository)
    assert code == 0, told
    assert f"tritonserver --model-repository={out}" in told
    assert exported_pipelines(out) == exported_pipelines(exported_repository)


def test_what_is_not_exported_is_told(source_repository, tmp_path):
    told = {
        (): "no pipeline is exported to",
        ("--pipeline", "yolo"): "yolo is not exported: ",
        ("--pipeline", "maskrcnn", "--variant", "openvino"): "python -m export maskrcnn",
    }
    for options, words in told.items():
        code, output = run(tmp_path / "out", "--model-repository", source_repository, *options)
        assert code == 1
        assert words in output
        assert not list(tmp_path.iterdir())


def test_a_missing_graph_of_a_variant_is_told(exported_repository, tmp_path):
    options = ("--model-repository", exported_repository, "--pipeline", "yolo_resnet")
    code, output = run(tmp_path / "out", *options, "--variant", "int8")
    assert code == 1
    assert "yolo_resnet is not exported for variant int8: " in output
    assert "python -m export int8" in output
    assert not (tmp_path / "out").exists()


def test_a_folder_with_files_is_refused(exported_repository, tmp_path):
    (tmp_path / "mine.txt").write_text("")
    code, output = run(tmp_path, "--model-repository", exported_repository)
    assert code == 2
    assert "holds files; name a new folder" in " ".join(output.split())


def test_help_is_answered_without_torch():
    code = "import sys, export.repository.bundle; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
