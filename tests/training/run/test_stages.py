"""Rows of commands, run for real."""

from __future__ import annotations

import click
import pytest

from training.run.stages import RECORD, Stages, begin_afresh, resume_command

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
    assert [line for line, _ in stages.done] == [f"python {script} {counter}"]
    stages.run("Counting otherwise", "python", script, counter, "more")
    assert counter.read_text() == "xx"


def test_a_stage_that_was_cut_off_is_resumed_once(tmp_path, counter):
    script = tmp_path / "count.py"
    script.write_text(COUNT + "; assert sys.argv[2:] == ['--resume']")
    Stages("again", tmp_path).run("Counting", "python", script, counter, resume=True)
    Stages("again", tmp_path).run("Counting", "python", script, counter)
    assert counter.read_text() == "x"


def test_stages_after_one_that_is_run_again_are_run_again(tmp_path, counter):
    script = tmp_path / "count.py"
    script.write_text(COUNT)

    def run(minutes):
        stages = Stages("again", tmp_path / "out")
        stages.run("Rendering", "python", script, counter, "frames")
        stages.run("Training", "python", script, counter, "minutes", minutes)
        stages.run("Exporting", "python", script, counter, "model")

    run("1")
    assert counter.read_text() == "xxx"
    run("1")
    assert counter.read_text() == "xxx"
    run("2")
    assert counter.read_text() == "xxxxx"
    run("2")
    assert counter.read_text() == "xxxxx"


def test_ctrl_c_leaves_the_last_word_to_the_command(tmp_path, interruptible):
    script = tmp_path / "patient.py"
    script.write_text(
        "import os, signal, sys, time\n"
        "try:\n"
        "    os.kill(os.getppid(), signal.SIGINT)\n"
        "    time.sleep(1.5)\n"
        "finally:\n"
        f"    open({str(tmp_path / 'words')!r}, 'w').write('go on')\n"
    )
    stages = Stages("python -m the.run --resume", tmp_path / "out")
    with pytest.raises(click.ClickException, match=r"interrupted.*`python -m the.run --resume`"):
        stages.run("Waiting", "python", script)
    assert (tmp_path / "words").read_text() == "go on"
    assert (tmp_path / "out" / RECORD).read_text() == "[]\n"


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


@pytest.mark.parametrize("given", [[], ["--resume"]], ids=["first", "again"])
def test_the_command_to_go_on_keeps_all_options(monkeypatch, given):
    monkeypatch.setattr("sys.argv", ["start", "--out", "my run", *given])
    assert resume_command("training.start") == "python -m training.start --out 'my run' --resume"
