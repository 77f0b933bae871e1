"""Two networks at a time on cores of their own: the command, and what it refuses."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest
import tifffile
from click.testing import CliRunner

from benchmarks.own_cores import BRANCHES, DECODER, main, own_cores_table


@pytest.fixture
def arguments(tmp_path, exported_repository):
    (tmp_path / "frames").mkdir()
    frame = np.random.default_rng(0).integers(0, 4096, (96, 128)).astype(np.uint16)
    tifffile.imwrite(tmp_path / "frames" / "field.tif", frame)
    return [
        *("--frames", str(tmp_path / "frames"), "--repeats", "2"),
        *("--model-repository", str(exported_repository)),
        *("--json", str(tmp_path / "own-cores.json")),
    ]


@pytest.mark.slow
@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one core is no core each")
def test_the_command(arguments, tmp_path):
    done = CliRunner().invoke(main, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    result = json.loads((tmp_path / "own-cores.json").read_text())
    assert (result["frames"], result["threads"]) == (1, len(os.sched_getaffinity(0)) // 2)
    assert list(result["branches"]) == list(BRANCHES)
    for name, steps in BRANCHES.items():
        assert result["branches"][name] == pytest.approx(sum(result["steps"][s] for s in steps))
    assert result["decoder"] == result["steps"][DECODER] > 0
    longest = max(result["branches"].values())
    assert result["request"] == pytest.approx(result["share"] * longest + result["decoder"])
    # Not a bound of the share: a random network finds so many cells that the decoder takes most.
    assert result["request"] > 0.5 * (longest + result["decoder"])  # no faster than its parts
    assert own_cores_table(result).strip() in done.output


def test_one_core_is_refused(arguments, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0})
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 1
    assert "2 networks at the same time need as many cores; this process may use 1" in done.output


def test_a_folder_without_a_frame_is_refused(arguments, tmp_path):
    (tmp_path / "frames" / "field.tif").unlink()
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 2
    assert "must hold PNG, JPEG, BMP or TIFF files: none" in done.output


def test_a_repository_without_the_pipeline_is_one_message(arguments, tmp_path):
    (tmp_path / "models").mkdir()
    arguments[arguments.index("--model-repository") + 1] = str(tmp_path / "models")
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 1
    assert "maskrcnn_sam/config.pbtxt is absent" in done.output
