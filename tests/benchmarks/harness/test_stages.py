"""Rows of commands, run for real."""

from __future__ import annotations

import click
import pytest

from benchmarks.harness.stages import RECORD, Stages, begin_afresh

COUNT = "import sys, pathlib; p = pathlib.Path(sys.argv[1]); p.write_text(p.read_text() + 'x')"


@pytest.fixture
def counter(tmp_path):
    file = tmp_path / "counter"
    file.write_text("")
    return file


def test_a_recorded_stage_is_not_run_again(tmp_path, counter):
    script = tmp_path / "count.py"
    script.write_text(COUNT)
    for _ in range(2):
        stages = Stages("again", tmp_path / "out")
        stages.run("Counting", "python", script, counter)
    assert counter.read_text() == "x"
    assert stages.table().count(f"| `python {script} {counter}` |") == 1
    stages.run("Counting otherwise", "python", script, counter, "more")
    assert counter.read_text() == "xx"


def test_a_stage_that_was_cut_off_is_resumed_once(tmp_path, counter):
    script = tmp_path / "count.py"
    script.write_text(COUNT + "; assert sys.argv[2:] == ['--resume']")
    Stages("again", tmp_path).run("Counting", "python", script, counter, resume=True)
    Stages("again", tmp_path).run("Counting", "python", script, counter)
    assert counter.read_text() == "x"


def test_a_failed_stage_names_the_way_on_and_is_not_recorded(tmp_path):
    script = tmp_path / "fail.py"
    script.write_text("raise SystemExit(3)")
    stages = Stages("python -m the.run --resume", tmp_path)
    with pytest.raises(click.ClickException, match=r"exit code 3.*`python -m the.run --resume`"):
        stages.run("Failing", "python", script)
    assert (tmp_path / RECORD).read_text() == "[]\n"


def test_only_the_folder_of_an_earlier_run_is_removed(tmp_path):
    out = tmp_path / "out"
    begin_afresh(out)
    Stages("again", out)
    (out / "model").write_text("of an earlier run")
    begin_afresh(out)
    assert not out.exists()
    (tmp_path / "thesis.tex").write_text("of somebody else")
    with pytest.raises(click.UsageError, match="must be new, empty or of an earlier run"):
        begin_afresh(tmp_path)
    assert (tmp_path / "thesis.tex").exists()
