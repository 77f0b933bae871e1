"""An encoder and a decoder of different SAMs in one repository are found by reading."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cytoserve.contract import PIPELINES
from cytoserve.model_config import read_config
from export.lint.models import CONFIG_FILE, Model, contract_models
from export.lint.one_sam import lint_one_sam
from export.repository.install import MANIFEST_FILE

ROOT = Path(__file__).parents[2]
TINY, LARGE = {"side": 512, "embedding": [128, 64, 64]}, {"side": 1024, "embedding": [256, 64, 64]}


@pytest.mark.parametrize("pipeline", ["sam_prompt", "maskrcnn_sam"])
@pytest.mark.parametrize(
    ("encoder", "decoder", "found"),
    [
        pytest.param(TINY, TINY, [], id="one SAM"),
        pytest.param(TINY, LARGE, ["sam_decoder"], id="another decoder"),
        pytest.param(LARGE, TINY, ["sam_encoder"], id="another encoder"),
        pytest.param(None, TINY, [], id="not exported"),
    ],
)
def test_steps_are_of_one_sam(
    tmp_path: Path,
    pipeline: str,
    encoder: dict[str, object] | None,
    decoder: dict[str, object],
    found: list[str],
) -> None:
    said = {"sam_prepare": TINY, "sam_prepare_tiles": TINY, "sam_encoder": encoder}
    said["sam_decoder"] = decoder
    models = {}
    for name in (pipeline, *PIPELINES[pipeline].steps):
        config = read_config(ROOT / "model_repository" / name / CONFIG_FILE)
        models[name] = Model(tmp_path / name, contract_models()[name], config)
        if said.get(name):
            (tmp_path / name / "1").mkdir(parents=True)
            manifest = {"settings": {"sam": said[name]}}
            (tmp_path / name / "1" / MANIFEST_FILE).write_text(json.dumps(manifest))
    problems = list(lint_one_sam(models[pipeline], models))
    assert [problem.file.parent.parent.name for problem in problems] == found
    for problem in problems:
        assert "export the pipeline from one checkpoint" in str(problem)
