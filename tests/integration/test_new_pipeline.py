"""A pipeline is added by an entry in the contract and the modules of its graphs: nothing else.

This is the example of CONTRIBUTING.md, from the contract to an answer through the real server.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from cytoserve import Client
from cytoserve.contract import (
    PIPELINES,
    STEPS,
)
from export.lint import lint_repository
from export.parity.foregrounds import check_foreground
from export.parity.steps import Case, camera_frame, export_step
from export.repository.configs import write_configs
from export.repository.pipelines import ExportedPipeline, install_pipeline
from export.unet.steps import foreground
from server.embedded import EmbeddedServer

ENTRY = """
from cytoserve.contract import *
from cytoserve.contract import Pipeline, Step

STEPS["bright_frame"] = Step(
    "bright_frame", (IMAGE,), (FRAME_PROBABILITY,), summary="Brightness as a probability."
)
PIPELINES["bright"] = Pipeline(
    "bright",
    summary="what is bright is foreground",
    study="an example",
    steps=("bright_frame", "foreground"),
    inputs=(IMAGE, PROBABILITY_THRESHOLD_INPUT),
    outputs=(PROBABILITY, MASK),
    on_request=(),
    card="bright_card",
)
"""
"""The lines that a developer adds to `cytoserve.contract`."""


class BrightFrame(torch.nn.Module):
    """The graph of the new step."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Probability uint8 ``[1, H, W]`` of a frame ``[H, W, C]``."""
        return torch.floor(image[:, :, 0].float() / 256).to(torch.uint8)[None]


@pytest.fixture
def with_entry(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The entry in this process's contract; the server gets it by a script of its own."""
    for table in (STEPS, PIPELINES):
        for name in ("bright_frame", "bright"):
            monkeypatch.delitem(table, name, raising=False)
    before = dict(STEPS), dict(PIPELINES)
    exec(ENTRY, {})
    yield
    for table, entries in zip((STEPS, PIPELINES), before, strict=True):
        table.clear()
        table.update(entries)


def export_bright(repository: Path, frame: np.ndarray) -> None:
    cases = [Case(f"{c} channels", (camera_frame(40, 60, c),)) for c in (1, 3)]
    steps = (export_step("bright_frame", BrightFrame(), cases), foreground())
    reference = {"frame.tif": frame}
    pipeline = ExportedPipeline(
        "bright",
        ("bright",),
        steps,
        {},
        "numpy",
        lambda chain, frames: check_foreground(
            chain, lambda image, _: (image // 256).astype(np.float32), frames
        ),
    )
    install_pipeline(pipeline, repository, reference, ["a", "test"], str)


@pytest.mark.usefixtures("with_entry")
def test_a_pipeline_of_one_new_entry_is_served(tmp_path: Path) -> None:
    repository = tmp_path / "model_repository"
    repository.mkdir()
    write_configs(repository)
    frame = np.zeros((300, 400), np.uint16)
    frame[100:200, 50:150] = 40_000
    export_bright(repository, frame)
    own = [p for p in lint_repository(repository) if p.file.parts[-2].startswith("bright")]
    assert own == []
    script = tmp_path / "serve.py"
    script.write_text(ENTRY + "from server.__main__ import main\nmain()\n")
    server = EmbeddedServer(repository, ["bright"])
    server.command[1:3] = ["-c", script.read_text()]
    with server, Client(server.url) as client:
        found = client.foreground(frame, "bright", probability_threshold=0.5)
    assert found.class_name == "bright"
    assert np.array_equal(found.mask, frame > 0)
