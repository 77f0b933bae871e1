"""Peers: the comparison of answers, what is not installed, and a measuring run for real."""

from __future__ import annotations

import json
import re
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from benchmarks.approaches.__main__ import Checkpoints
from benchmarks.peers import programs as peer_programs
from benchmarks.peers.__main__ import installed_contenders, main, measure
from benchmarks.peers.contenders import PeerFrame, StdioCaller, served_as
from benchmarks.peers.programs import MissingEnvironment, PeerError, environment_of, programs
from benchmarks.peers.result import peers_page
from benchmarks.peers.same_answers import DifferentAnswers, compare, hold
from benchmarks.peers.wire import Found
from server.cleanup import processes_of

ROOT = Path(__file__).parents[2]


def cells(count: int = 100, *, shift: float = 0.0, other_class: int = 0, cell: float = 12) -> Found:
    """A row of square cells, ``shift`` pixels to the right, the first ones of another class."""
    left = 20.0 * np.arange(count)
    box = [left + shift, np.zeros(count), left + shift + cell, np.full(count, cell)]
    boxes = np.stack(box, axis=1).astype(np.float32)
    class_ids = (np.arange(count) < other_class).astype(np.int64)
    corners = [np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)]) for x0, y0, x1, y1 in boxes]
    return Found(boxes, class_ids, corners)


def moved_out(found: Found, index: int, pixels: float) -> Found:
    """One box is larger, as the server's are where a mask goes on beyond its box."""
    boxes = found.boxes.copy()
    boxes[index, 2] += pixels
    return Found(boxes, found.class_ids, found.outlines)


def turned_inside_out(found: Found) -> Found:
    return Found(found.boxes, found.class_ids, found.outlines[::-1])


@pytest.mark.parametrize(
    ("theirs", "unmatched", "deviation", "other_class"),
    [
        pytest.param(cells(), 0, 0.0, 0, id="equal"),
        pytest.param(cells(98), 2, 0.0, 0, id="two fewer"),
        pytest.param(cells(shift=1), 0, 1, 0, id="shifted by a pixel"),
        pytest.param(moved_out(cells(), 1, 4), 0, 0, 0, id="a box that was moved out"),
        pytest.param(cells(other_class=2), 0, 0.0, 2, id="two doubtful ones"),
    ],
)
def test_the_same_cells_are_the_same(theirs, unmatched, deviation, other_class):
    agreement = compare(cells(), theirs)
    assert (agreement.unmatched, agreement.other_class) == (unmatched, other_class)
    assert agreement.box_deviation == pytest.approx(deviation, abs=1e-3)
    hold("peer", "a frame", 100, agreement)  # it refuses nothing


@pytest.mark.parametrize(
    ("ours", "theirs", "message"),
    [
        pytest.param(cells(), cells(90), "10 cells of either side have none", id="fewer"),
        pytest.param(cells(), cells(shift=4), "200 cells of either side", id="shifted"),
        pytest.param(cells(), cells(other_class=5), "5 of 100 cells have another", id="classes"),
        pytest.param(cells(), turned_inside_out(cells()), "IoU of the outlines 0.000", id="order"),
        pytest.param(cells(), cells(0), "it found 0, the server 100", id="nothing"),
        pytest.param(cells(0), cells(0), "found no cell, so there is nothing", id="no cell"),
    ],
)
def test_other_cells_are_refused(ours, theirs, message):
    with pytest.raises(DifferentAnswers, match=message):
        hold("peer", "a frame", len(ours), compare(ours, theirs))


def test_of_a_variant_more_cells_may_differ():
    way = served_as("openvino")
    for missing, message in ((5, None), (12, "12 cells of either side have none")):
        agreement = compare(cells(), cells(100 - missing))
        with pytest.raises(DifferentAnswers, match=message) if message else nullcontext():
            hold(way.name, "a frame", 100, agreement, way.unmatched_share)


def test_answers_survive_json():
    found = Found(*vars(cells(3)).values())
    found.outlines[1] = np.zeros((0, 2))
    back = Found.from_json(json.loads(json.dumps(found.as_json())))
    assert np.array_equal(back.boxes, found.boxes)
    assert np.array_equal(back.class_ids, found.class_ids)
    assert [len(outline) for outline in back.outlines] == [4, 0, 4]


def test_an_unfinished_environment_is_missing(monkeypatch, tmp_path):
    monkeypatch.setattr(peer_programs, "ENVIRONMENTS", tmp_path)
    (tmp_path / "litserve").mkdir()
    with pytest.raises(MissingEnvironment, match=r"litserve is left out.*`make peers` makes it"):
        environment_of("litserve")


def test_a_missing_peer_is_named_with_its_remedy(monkeypatch, tmp_path):
    monkeypatch.setattr(peer_programs, "ENVIRONMENTS", tmp_path)
    ways, left_out = installed_contenders(["study", "litserve", "ultralytics"])
    assert [way.name for way in ways] == ["cytoserve", "study"]
    assert set(left_out) == {"litserve", "ultralytics"}
    assert all("`make peers` makes it" in reason for reason in left_out.values())


@pytest.mark.parametrize("name", ["litserve", "ultralytics"])
def test_locks_have_exact_versions_and_hashes_and_no_address(name, pytestconfig):
    lock = pytestconfig.rootpath / "benchmarks" / "peers" / f"{name}.lock"
    lines = lock.read_text().splitlines()
    packages = [line for line in lines if re.match(r"^[a-z0-9]", line)]
    assert any(line.startswith(f"{name}==") for line in packages)
    assert all("==" in line for line in packages)
    assert sum("--hash=sha256:" in line for line in lines) >= len(packages)
    assert not [line for line in lines if "://" in line]


PARENT = """
import subprocess, sys
print("ready", flush=True)
subprocess.run([sys.executable, "-c", "import time; time.sleep(600)"])
"""


def fail_with_two_processes():
    with programs([[sys.executable, "-c", PARENT]], {}, by_lines=True) as [started]:
        StdioCaller(started).wait()
        while len(started.members()) < 2:
            time.sleep(0.02)
        raise RuntimeError(started.run.id)


def test_a_program_ends_with_all_that_it_started_when_the_block_fails():
    with pytest.raises(RuntimeError) as failure:
        fail_with_two_processes()
    [run_id] = failure.value.args
    assert run_id.startswith("cytoserve-")
    assert not list(processes_of(run_id))


def test_a_program_that_fails_is_told_with_its_last_lines(tmp_path):
    command = [sys.executable, "-c", "print('ready', flush=True); input(); raise SystemExit('why')"]
    frame = PeerFrame(np.zeros((1, 1), np.uint8), tmp_path / "frame.bmp", b"")
    with programs([command], {}, by_lines=True) as [started]:
        asker = StdioCaller(started)
        asker.wait()
        with pytest.raises(PeerError, match=r"ended:\nwhy"):
            asker.timed("yolo", frame)


def installed(*names: str) -> list[str]:
    return [name for name in names if (peer_programs.ENVIRONMENTS / name / ".installed").exists()]


@pytest.mark.slow
def test_a_real_run(checkpoints, exported_repository, monkeypatch, tmp_path):
    """Two variants of ours, the study's way, LitServe if installed, and a peer that is not."""
    own = tmp_path / "environments"
    own.mkdir()
    for name in installed("litserve"):
        (own / name).symlink_to(peer_programs.ENVIRONMENTS / name)
    monkeypatch.setattr(peer_programs, "ENVIRONMENTS", own)
    weights = Checkpoints(*(checkpoints / name for name in ("cells", "targets", "classifier")))
    names = ["study", *installed("litserve"), "ultralytics"]
    result = measure(
        exported_repository,
        weights,
        names,
        variants=["throughput"],
        pipelines=["yolo"],
        sizes=[(640, 640, 12)],  # no margins, in which a random network would find cells
        repeats=1,
        requests=1,
        bursts=1,
        clients=2,
    )
    [left_out] = result.left_out
    assert left_out.way == "ultralytics"
    ways = ["cytoserve", *names[:-1], "cytoserve throughput"]
    assert [row.way for row in result.frames] == ways
    ours, study = result.frames[:2]
    assert ours.found > 0
    for row in result.frames:
        assert row.unmatched <= max(2, 0.02 * (row.found + ours.found))
        assert row.seconds_ratio == pytest.approx(row.seconds / ours.seconds)
        assert row.times_the_study * row.seconds == pytest.approx(study.seconds)
        faster = ours.frames_per_second / row.frames_per_second
        assert row.throughput_ratio == pytest.approx(faster)
    page = peers_page(result)
    assert "`make peers` makes it" in page
    assert "| study |" in page


@pytest.mark.slow
def test_other_weights_than_the_served_ones_are_refused(checkpoints, exported_repository, tmp_path):
    out = Path(tmp_path / "peers.json")
    words = ["--cells", checkpoints / "cells", "--targets", checkpoints / "cells"]
    words += ["--classifier", checkpoints / "classifier", "--json", out, "--peer", "study"]
    words += ["--model-repository", exported_repository]
    done = CliRunner().invoke(main, [str(word) for word in words])
    assert done.exit_code == 1
    assert "yolo_targets was exported from another checkpoint" in done.output
    assert not out.exists()
