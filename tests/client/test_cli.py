"""The commands but ``segment``, through real sockets."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import click
import numpy as np
import pytest
from tritonclient.grpc.model_config_pb2 import ModelConfig

import cytoserve.cli.image_run
from cytoserve import LearnedScale
from cytoserve.cli import main
from cytoserve.cli.exit_codes import MEANINGS, ExitCode
from cytoserve.codec import cards
from cytoserve.codec.cards import ModelCard
from cytoserve.contract import PIPELINES

CLIENT = Path(__file__).parents[2] / "client"


def test_pipelines(triton, command):
    triton.fake._pipelines = ("yolo", "nuclei_unet")
    result = command("pipelines", "--url", triton.url)
    assert result.exit_code == ExitCode.DONE, result.output
    blocks = dict(
        block.split(maxsplit=1) for block in re.split(r"\n(?=\S)", result.stdout.rstrip())
    )
    assert list(blocks) == list(PIPELINES)
    for name, block in blocks.items():
        served = name in ("yolo", "nuclei_unet")
        assert block.startswith("served" if served else "not served")
        assert PIPELINES[name].study in block
        assert PIPELINES[name].summary in " ".join(block.split())
        assert ("classes: " in block) == served
    assert "classes: RBC, WBC" in blocks["yolo"]
    assert max(map(len, result.stdout.splitlines())) <= 80


@pytest.mark.parametrize(
    ("threshold", "scale", "told"),
    [
        pytest.param(None, None, [], id="nothing"),
        pytest.param(0.35, None, ["threshold: 0.35, chosen in validation"], id="threshold"),
        pytest.param(0.0, None, ["threshold: 0, chosen in validation"], id="threshold-zero"),
        pytest.param(
            None,
            LearnedScale(1.0, 32.5, 61.0),
            ["scale: cells of 32.5 px, the largest 61 px"],
            id="scale",
        ),
        pytest.param(
            0.35,
            LearnedScale(1.0, 32.5, 61.0, pixel_size_um=0.6500001),
            [
                "threshold: 0.35, chosen in validation",
                "scale: cells of 32.5 px, the largest 61 px; 0.65 um per pixel",
            ],
            id="pixel-size",
        ),
    ],
)
def test_pipelines_tell_what_the_training_chose(triton, command, threshold, scale, told):
    triton.fake._pipelines = ("yolo",)
    triton.fake._threshold, triton.fake._scale = threshold, scale
    lines = command("pipelines", "--url", triton.url).stdout.splitlines()
    classes = lines.index("  classes: RBC, WBC")
    assert [line.strip() for line in lines[classes + 1 : classes + 1 + len(told)]] == told
    assert sum("threshold:" in line or "scale:" in line for line in lines) == len(told)


def test_models_of_pipelines(triton, command, monkeypatch):
    def exported(card):
        models = {"yolo_decode": {"version": 2, "sha256": "0123456789abcdef"}}
        return served(ModelCard(card.pipeline, card.class_names, models))

    served = cards.encode_answer
    monkeypatch.setattr(cards, "encode_answer", exported)
    wanted = "yolo_decode 2, sha256 0123456789ab"
    assert f"{wanted}\n" in command("pipelines", "--models", "--url", triton.url).stdout
    triton.configs["yolo_decode"] = ModelConfig(default_model_filename="model.int8.onnx")
    listed = command("pipelines", "--models", "--url", triton.url).stdout
    assert f"{wanted}, model.int8.onnx\n" in listed
    assert "yolo_decode" not in command("pipelines", "--url", triton.url).stdout


def test_doctor(triton, command):
    result = command("doctor", "--url", triton.url)
    assert result.exit_code == ExitCode.DONE
    for part in (cytoserve.__version__, "triton 2.51.0", "yolo: a test image answered in"):
        assert part in result.stdout
    assert "nuclei_unet: a test image answered in" in result.stdout
    assert "% nuclei, 3 nuclei" in result.stdout
    assert result.stdout.count("ok ") == 2 + len(PIPELINES)
    assert "warn" not in result.stdout


def test_doctor_warns_of_a_model_that_finds_more_than_fits_an_answer(triton, command, cells):
    """Sizes, masks and scores of the test image's cells mean nothing; their number does."""
    full = replace(cells, patches=np.full_like(cells.patches, 255))[np.zeros(6, int)]
    triton.fake._find = lambda frame, origin: full
    assert "warn" not in command("doctor", "--url", triton.url).stdout
    triton.fake._find = lambda frame, origin: replace(full, found=9000)
    result = command("doctor", "--url", triton.url)
    assert result.exit_code == ExitCode.DONE
    assert "warn yolo: 9,000 cells found, the best 6 kept. The test image shows" in result.stdout


def test_doctor_finds_a_pipeline_that_answers_nonsense(triton, command):
    triton.spoil = lambda answer: answer.outputs[0].shape.__setitem__(0, 99)
    result = command("doctor", "--url", triton.url)
    assert result.exit_code == ExitCode.SOME_FAILED
    for name in PIPELINES:
        assert f"FAIL {name}: " in result.stdout


@pytest.mark.parametrize("name", ["doctor", "pipelines"])
def test_without_a_server_or_a_pipeline(name, triton, command):
    triton.fake._pipelines = ()
    result = command(name, "--url", triton.url)
    assert result.exit_code == ExitCode.NOTHING_TO_DO
    assert "xport" in result.output
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"127.0.0.1:{taken.getsockname()[1]}"
        result = command(name, "--url", url)
    assert result.exit_code == ExitCode.SERVER_FAILED
    assert "python -m server" in result.output


@pytest.mark.parametrize("name", [None, *main.commands])
def test_every_command_and_option_has_help(name, command):
    shown = main if name is None else main.commands[name]
    assert shown.help
    for parameter in shown.params:
        assert not isinstance(parameter, click.Option) or parameter.help, parameter.name
    arguments = ["--help"] if name is None else [name, "--help"]
    text = command(*arguments).stdout
    for code, meaning in MEANINGS.items():
        assert f"{code.value}  {meaning}" in text
    assert set(MEANINGS) == set(ExitCode)
    assert {code.value for code in ExitCode} == {0, 2, 3, 4, 5}


def test_the_url_may_come_from_the_environment(triton, monkeypatch, command):
    monkeypatch.setenv("CYTOSERVE_URL", triton.url)
    assert command("doctor").exit_code == ExitCode.DONE


@pytest.mark.parametrize("arguments", [["--help"], ["segment", "--help"], ["doctor"]])
def test_a_reader_that_has_gone_is_no_error(triton, arguments):
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as output:
        ended = subprocess.run(
            [sys.executable, "-m", "cytoserve", *arguments],
            env={**os.environ, "PYTHONPATH": str(CLIENT), "CYTOSERVE_URL": triton.url},
            stdout=output,
            stderr=subprocess.PIPE,
            check=False,
        )
    assert (ended.returncode, ended.stderr) == (1, b"")


def test_version(command):
    assert cytoserve.__version__ in command("--version").stdout
