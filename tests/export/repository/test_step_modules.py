"""The table of modules tells the truth."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest
from torch import nn

from cytoserve.contract import STEPS
from export.repository.step_modules import STEP_MODULES

ROOT = Path(__file__).parents[3]


def test_every_step_has_its_module() -> None:
    graphs = {s.name for s in STEPS.values() if s.backend == "onnxruntime" and not s.is_merged}
    assert set(STEP_MODULES) == graphs


@pytest.mark.parametrize(("step", "path"), STEP_MODULES.items())
def test_the_module_makes_the_graph_of_the_step(step: str, path: str) -> None:
    module, _, name = path.rpartition(".")
    found = getattr(importlib.import_module(module), name)
    assert issubclass(found, nn.Module)
    assert found.__module__ == module
    # The function that exports the step is in a family's `steps.py`, and builds that class.
    sources = [file.read_text() for file in (ROOT / "export").glob("*/steps.py")]
    assert any(f"{name}(" in text and f"from {module} import" in text for text in sources)
