"""The committed results: what the commands write, read back."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from benchmarks.glioma.result import GliomaResult
from benchmarks.harness.results import read_result, to_json
from benchmarks.nuclei.result import NucleiProtocolResult
from benchmarks.report import ENTRIES, RESULTS

COMMITTED = Path(__file__).parents[2] / RESULTS
KINDS = {
    **{entry.name: entry.kind for entry in ENTRIES},
    "t98g-unet-as-is": GliomaResult,
    "brecahad-sets": NucleiProtocolResult,
}
ALONE = ("latency", "throughput", "peers", "scaling", "variants", "fields", "fine-tuning")
"""Results whose page is all of their Markdown file."""


def test_every_file_has_a_type():
    assert {file.stem for file in COMMITTED.glob("*.json")} == set(KINDS)


@pytest.mark.parametrize("name", KINDS)
def test_a_result_survives_its_type(name):
    """No key is lost, and none is missing."""
    file = COMMITTED / f"{name}.json"
    result = read_result(file, KINDS[name])
    assert file.read_text() == json.dumps(to_json(result), indent=2) + "\n"


@pytest.mark.parametrize("name", ALONE)
def test_a_page_is_that_of_its_figures(name):
    [entry] = [entry for entry in ENTRIES if entry.name == name]
    page = entry.page(read_result(COMMITTED / f"{name}.json", entry.kind))
    assert (COMMITTED / f"{name}.md").read_text() == page


def test_nan_survives(tmp_path):
    [entry] = [entry for entry in ENTRIES if entry.name == "fields"]
    fields = json.loads((COMMITTED / "fields.json").read_text())
    fields["doubled"][0]["doubled"] = math.nan
    (tmp_path / "fields.json").write_text(json.dumps(fields))
    result = read_result(tmp_path / "fields.json", entry.kind)
    assert math.isnan(to_json(result)["doubled"][0]["doubled"])
