"""Which checkpoints of SAM an export takes; the largest of them does export."""

from __future__ import annotations

import json
from pathlib import Path

import psutil
import pytest
import torch
from click.testing import CliRunner

from export import sam_steps
from export.__main__ import main
from export.graph_files import DATA_SUFFIX
from export.install import MANIFEST_FILE, MODEL_FILE, Staging
from training.sam_network import build_sam

VIT_H_BYTES = 20 * 1024**3
"""Memory to spare: the weights are there three times, in torch, as a graph and in ONNX Runtime."""


@pytest.mark.parametrize(
    ("is_folder", "arguments", "message"),
    [
        pytest.param(True, ["--sam-size", "vit_b"], "leave out --sam-size vit_b", id="size twice"),
        pytest.param(True, [], "recipe.json is absent", id="empty folder"),
        pytest.param(False, [], "add --sam-size", id="no size"),
        pytest.param(False, ["--sam-size", "vit_b"], "cannot be read", id="no checkpoint"),
    ],
)
def test_what_is_refused(
    tmp_path: Path, is_folder: bool, arguments: list[str], message: str
) -> None:
    given = tmp_path / "sam"
    if is_folder:
        given.mkdir()
    else:
        given.write_bytes(b"no checkpoint")
    (tmp_path / "repository").mkdir()
    result = CliRunner().invoke(
        main,
        [
            "sam_prompt",
            "--sam",
            str(given),
            "--model-repository",
            str(tmp_path / "repository"),
            *arguments,
        ],
    )
    assert result.exit_code == 1
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.slow
def test_vit_h(tmp_path: Path) -> None:
    """Its encoder has more weights than one protobuf message holds."""
    if psutil.virtual_memory().available < VIT_H_BYTES:
        pytest.skip(f"less than {VIT_H_BYTES >> 30} GiB of memory are free")
    torch.manual_seed(0)
    step = sam_steps.sam_encoder(build_sam("vit_h"))
    assert max(case["sam_embedding"] for case in step.parity.values()) <= 1e-4
    (tmp_path / "sam_encoder").mkdir()
    with Staging(tmp_path) as staging:
        staged = staging.add_graph("sam_encoder", step.graph, {"settings": dict(step.settings)})
        [version] = staging.install([staged])
    names = {MODEL_FILE, MODEL_FILE + DATA_SUFFIX}
    assert set(json.loads((version / MANIFEST_FILE).read_text())["sha256"]) == names
    assert (version / (MODEL_FILE + DATA_SUFFIX)).stat().st_size > 2**31
