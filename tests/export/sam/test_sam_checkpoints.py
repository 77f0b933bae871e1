"""Which checkpoints of SAM an export takes; the largest of them does export."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest
import tifffile
import torch
from click.testing import CliRunner

from cytoserve import Client, Prompts
from cytoserve.model_config import MANIFEST_FILE
from export.__main__ import main
from export.graphs.files import DATA_SUFFIX
from export.repository.install import MODEL_FILE
from export.sam.reference import PredictorSam, Prompt
from server.embedded import EmbeddedServer
from training.rendered import RenderSettings, render_frame
from training.sam.network import build_sam, load_published

VIT_H_BYTES = 22 * 1024**3
"""Memory to spare; the export took 21 GiB at its peak, when two frames go through the encoder: its
weights are there in torch, in a copy that is traced, as a graph and in ONNX Runtime."""


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
@pytest.mark.timeout(1800)
def test_vit_h(
    tmp_path: Path, source_repository: Path, export_command: Callable[..., subprocess.Popen[str]]
) -> None:
    """Its encoder has more weights than one protobuf message holds: exported, proven, served."""
    if psutil.virtual_memory().available < VIT_H_BYTES:
        pytest.skip(f"less than {VIT_H_BYTES >> 30} GiB of memory are free")
    repository = Path(shutil.copytree(source_repository, tmp_path / "model_repository"))
    published, frames = tmp_path / "sam_vit_h.pth", tmp_path / "frames"
    torch.manual_seed(0)
    torch.save(build_sam("vit_h").state_dict(), published)
    frame = render_frame(RenderSettings(height=480, width=640, cells=12), seed=0)[0]
    frames.mkdir()
    tifffile.imwrite(frames / "rendered.tif", frame)

    # In a process of its own, which gives its memory back.
    export = export_command(
        *("sam_prompt", "--sam", published, "--sam-size", "vit_h"),
        *("--model-repository", repository, "--frames", frames),
    )
    _, errors = export.communicate()
    assert export.returncode == 0, errors
    encoder = repository / "sam_encoder" / "1"
    assert (encoder / (MODEL_FILE + DATA_SUFFIX)).stat().st_size > 2**31
    manifest = json.loads((encoder / MANIFEST_FILE).read_text())
    assert set(manifest["sha256"]) == {MODEL_FILE, MODEL_FILE + DATA_SUFFIX}
    assert max(case["sam_embedding"] for case in manifest["parity"].values()) <= 1e-4

    boxes = np.array([(100, 80, 190, 200), (300, 260, 420, 330)], np.float32)
    with (
        EmbeddedServer(repository, pipelines=["sam_prompt"], timeout=600) as server,
        Client(server.url, timeout=600) as client,
    ):
        answer = client.prompt(frame, Prompts(boxes=boxes))
    reference = PredictorSam(load_published(published, "vit_h"))
    reference.set_frame(frame)
    for cell, box in enumerate(boxes):
        candidates = reference.candidates(Prompt(box=box))
        assert answer.scores[cell] == pytest.approx(candidates.qualities.max(), abs=1e-3)
