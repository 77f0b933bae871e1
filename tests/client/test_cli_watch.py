"""``cytoserve watch``: images that come while it runs, servers and folders that go, and its end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result

import cytoserve.cli.image_run
from cytoserve import Client
from cytoserve.cli.exit_codes import ExitCode
from cytoserve.cli.image_run import Job
from cytoserve.cli.job_run import JobRun
from cytoserve.cli.run_record import RunRecord
from cytoserve.cli.watch import Ending, FolderWatch, WatchEnded
from cytoserve.cli.watched_folder import WatchedFolder
from cytoserve.settings import Settings

CLIENT = Path(__file__).parents[2] / "client"
QUICK = ("--poll", 0.02, "--settle", 0.05)
LONG_S = 60.0
Watch = Callable[..., Result]


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch):
    monkeypatch.setattr(cytoserve.cli.image_run, "PAUSE_S", 0.05)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


@pytest.fixture
def watch(triton, images, out, command) -> Watch:
    """Watches the images until nothing new has come for a moment."""

    def run(*arguments, folder=images, until_idle=0.3) -> Result:
        idle = ("--until-idle", until_idle)
        return command(
            "watch", folder, "--out", out, "--url", triton.url, *QUICK, *idle, *arguments
        )

    return run


@pytest.fixture
def meanwhile(monkeypatch):
    """Does steps in another thread while a watch runs, and then ends the watch.

    A step that fails fails the test.
    """
    threads, errors, finished = [], [], threading.Event()
    real = Ending.pause

    def pause(self, seconds):
        if finished.is_set():
            raise WatchEnded
        real(self, min(seconds, 0.05))

    def start(*steps):
        def work():
            try:
                for step in steps:
                    step()
            except BaseException as error:
                errors.append(error)
            finished.set()

        monkeypatch.setattr(Ending, "pause", pause)
        threads.append(threading.Thread(target=work))
        threads[-1].start()

    yield start
    for thread in threads:
        thread.join()
    assert not errors


@pytest.fixture
def missed(monkeypatch) -> Callable[[], bool]:
    """Waits until a watch has noticed that its folder is not there."""
    noticed = threading.Event()
    real = FolderWatch._tell_away

    def tell_away(self, error):
        real(self, error)
        noticed.set()

    monkeypatch.setattr(FolderWatch, "_tell_away", tell_away)
    return lambda: noticed.wait(LONG_S)


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + LONG_S
    while not condition():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.01)


def state(out: Path, key: str) -> str | None:
    """The state of an image in the record of a run that may be going on."""
    try:
        return RunRecord.open(out).files.get(key, {}).get("status")
    except ValueError:
        return None


def is_done(out: Path, key: str, wanted: str = "done") -> Callable[[], None]:
    return lambda: until(lambda: state(out, key) == wanted)


def record(out: Path) -> dict:
    return json.loads((out / "run.json").read_text("utf-8"))


def test_watch_does_what_segment_does(watch, segment, out, tmp_path, images):
    """The same options, files, record and last words."""
    options = ("--save", "labels,table,overlay,coco", "--pipeline", "yolo", "--max-cells", 2)
    watched = watch(*options)
    other = tmp_path / "other"
    segmented = segment("--out", other, *options)
    assert watched.exit_code == segmented.exit_code == ExitCode.DONE, watched.output

    def contents(folder):
        return {
            path.relative_to(folder): path.read_bytes()
            for path in folder.rglob("*")
            if path.is_file() and path.name != "run.json"
        }

    assert contents(out) == contents(other)
    assert len(contents(out)) == 17  # with cells.csv
    mine, theirs = record(out), record(other)
    for each in (mine, theirs):
        del each["seconds"], each["started"]
        for entry in each["files"].values():
            del entry["seconds"]
    assert mine == theirs
    assert watched.stdout.startswith("4 done. Recorded in ")
    figures = [result.stdout.splitlines()[-1].split(", ") for result in (watched, segmented)]
    assert figures[0][:3] == figures[1][:3]


def test_every_image_has_one_line(watch, images):
    result = watch()
    lines = result.stderr.splitlines()
    assert lines[0].startswith(f"watching {images}, with results in ")
    keys = [line.split(":")[0] for line in lines[1:]]
    assert keys == ["a/x.png", "b/c/y.jpg", "x.png", "x.tif"]
    assert all(": 3 cells (RBC 2, WBC 1), 0." in line for line in lines[1:])


def test_the_line_of_a_foreground(watch):
    result = watch("--pipeline", "nuclei_unet")
    assert "a/x.png: confluency " in result.stderr
    assert " %, 3 nuclei, 0." in result.stderr


def test_the_first_warning_of_a_kind_is_told_at_once(watch):
    result = watch("--max-cells", 2)
    assert result.stderr.count("warning: a/x.png: 3 cells found, the best 2 kept.") == 1
    assert result.stderr.count("warning: ") == 1
    assert result.stderr.count("warning, 4 of 4 images: ") == 1


def test_images_that_come_are_done_once(watch, images, out, write_image, meanwhile, triton):
    def growing():
        content = write_image(out.parent / "x.tif", 5).read_bytes()
        with (images / "grows.tif").open("wb", buffering=0) as file:
            for start in range(0, len(content), len(content) // 4):
                file.write(content[start : start + len(content) // 4])
                time.sleep(0.02)

    meanwhile(
        is_done(out, "x.tif"),
        lambda: write_image(images / "new.png", 6),
        lambda: write_image(images / "day 2" / "B3" / "z.png", 7),
        lambda: write_image(out.parent / "part.png", 8).rename(images / "renamed.png"),
        growing,
        *(is_done(out, key) for key in ("new.png", "day 2/B3/z.png", "renamed.png", "grows.tif")),
    )
    result = watch(until_idle=LONG_S)
    assert result.exit_code == ExitCode.DONE, result.output
    assert result.stdout.startswith("8 done.")
    assert triton.asked.count("yolo_resnet") == 8
    assert (out / "day 2" / "B3" / "z_png_labels.tif").is_file()


def test_a_file_that_pauses_half_written_fails_and_is_done_when_it_is_whole(
    watch, images, out, write_image, meanwhile
):
    content = write_image(out.parent / "whole.tif", 5).read_bytes()
    meanwhile(
        lambda: (images / "half.tif").write_bytes(content[: len(content) // 2]),
        is_done(out, "half.tif", "failed"),
        lambda: (images / "half.tif").write_bytes(content),
        is_done(out, "half.tif"),
    )
    result = watch(until_idle=LONG_S)
    assert result.exit_code == ExitCode.DONE, result.output
    assert result.stdout.startswith("5 done.")
    assert "failed: half.tif: " in result.stderr


def test_an_image_that_is_replaced_is_done_anew(watch, images, out, write_image, meanwhile, triton):
    first = {}
    meanwhile(
        is_done(out, "x.png"),
        is_done(out, "x.tif"),
        lambda: first.update(RunRecord.open(out).files),
        lambda: write_image(images / "x.png", 77),
        lambda: until(lambda: triton.asked.count("yolo_resnet") == 5),
        lambda: os.utime(images / "x.tif", (1, 1)),  # another time, the same image
        lambda: until(lambda: '"skipped"' in (out / "run.journal").read_text()),
    )
    result = watch(until_idle=LONG_S)
    assert result.exit_code == ExitCode.DONE, result.output
    assert result.stdout.startswith("4 done.")  # and none that is skipped
    files = record(out)["files"]
    assert files["x.png"]["sha256"] != first["x.png"]["sha256"]
    assert files["x.tif"] == first["x.tif"]
    assert triton.asked.count("yolo_resnet") == 5
    assert "skipped, as they are done: 1\n" in result.stderr


def test_a_restart_does_nothing_twice(watch, images, out, write_image, triton):
    assert watch().exit_code == ExitCode.DONE
    (images / "a" / "x.png").unlink()
    write_image(images / "x.png", 77)
    triton.asked.clear()
    result = watch()
    assert result.exit_code == ExitCode.DONE
    assert result.stdout.startswith("1 done, 2 skipped.")
    assert triton.asked.count("yolo_resnet") == 1
    assert record(out)["files"]["a/x.png"]["status"] == "done"  # its results are still there


def test_segment_and_watch_go_on_from_each_other(watch, segment):
    assert watch().stdout.startswith("4 done.")
    assert segment().stdout.startswith("4 skipped.")
    assert watch().stdout.startswith("4 skipped.")


def test_a_watch_is_not_idle_while_an_image_settles(watch):
    assert watch("--settle", 0.5, until_idle=0).stdout.startswith("4 done.")


def test_results_in_the_folder_are_not_taken(watch, images, triton):
    result = watch("--out", images / "cells", "--save", "labels,overlay", until_idle=0.5)
    assert result.stdout.startswith("4 done."), result.output
    assert triton.asked.count("yolo_resnet") == 4


def bad(images):
    (images / "bad.png").write_bytes(b"no image")
    return "failed: bad.png: "


def empty(images):
    (images / "empty.tif").write_bytes(b"")
    return "not done: 1, such as empty.tif: The watch ended before: it was empty."


@pytest.mark.parametrize(
    ("spoil", "states"), [(bad, "4 done, 1 failed."), (empty, "4 done, 1 not done.")]
)
def test_what_is_not_done_is_told_and_tried_again(watch, images, out, write_image, spoil, states):
    told = spoil(images)
    result = watch()
    assert result.exit_code == ExitCode.SOME_FAILED
    assert states in result.stderr
    assert told in result.stderr
    for path in (images / "bad.png", images / "empty.tif"):
        if path.exists():
            write_image(path, 9)
    again = watch()
    assert again.exit_code == ExitCode.DONE
    assert again.stdout.startswith("1 done, 4 skipped.")


def test_an_image_that_cannot_be_read_is_waited_for(watch, images, out, meanwhile, monkeypatch):
    locked = [images / "x.tif"]
    real = Path.open

    def refused(path, *arguments, **options):
        if path in locked:
            raise PermissionError(13, "Permission denied")
        return real(path, *arguments, **options)

    monkeypatch.setattr(Path, "open", refused)
    result = watch()
    assert result.exit_code == ExitCode.SOME_FAILED
    assert "waiting for x.tif, which cannot be read: Permission denied" in result.stderr
    assert "it could not be read: Permission denied" in record(out)["files"]["x.tif"]["error"]
    meanwhile(is_done(out, "x.png", "skipped"), locked.clear, is_done(out, "x.tif"))
    again = watch(until_idle=LONG_S)
    assert again.exit_code == ExitCode.DONE, again.output
    assert again.stdout.startswith("1 done, 3 skipped.")


def test_an_image_that_goes_before_it_is_read_is_told(watch, images, triton):
    def removed(_):
        (images / "x.tif").unlink(missing_ok=True)

    triton.faults = [lambda _: None] * 2 + [removed]  # with x.png, the one before it
    result = watch()
    assert result.exit_code == ExitCode.DONE, result.output
    assert result.stdout.startswith("3 done.")
    assert "moved or deleted before they were read: x.tif" in result.stderr


def test_an_image_that_goes_while_it_is_read_fails(watch, images, out, states, monkeypatch):
    real = cytoserve.cli.image_run.file_sha256

    def removing(path):
        hashed = real(path)
        if path.name == "y.jpg":
            path.unlink()
        return hashed

    monkeypatch.setattr(cytoserve.cli.image_run, "file_sha256", removing)
    result = watch()
    assert result.exit_code == ExitCode.SOME_FAILED
    assert "3 done, 1 failed." in result.stderr
    assert states(out)["b/c/y.jpg"] == "failed"


@pytest.mark.parametrize("exists", [True, False])
def test_no_image_at_all(watch, tmp_path, exists):
    folder = tmp_path / "empty"
    if exists:
        folder.mkdir()
    result = watch(folder=folder)
    assert result.exit_code == ExitCode.NOTHING_TO_DO
    assert f"No image came to {folder}" in result.stderr
    assert ("waiting for the folder" in result.stderr) != exists


def test_a_folder_that_comes_later(watch, tmp_path, out, write_image, meanwhile, missed):
    folder = tmp_path / "later"
    meanwhile(
        missed,
        lambda: write_image(folder / "x.png"),
        is_done(out, "x.png"),
    )
    result = watch(folder=folder, until_idle=LONG_S)
    assert result.exit_code == ExitCode.DONE, result.output
    assert f"given: {folder}: No such file or directory. Create it" in result.stderr
    assert f"the folder is there: {folder}" in result.stderr


def test_a_folder_that_goes_and_comes_back(
    watch, images, out, write_image, meanwhile, triton, missed
):
    away = images.with_name("away")
    meanwhile(
        is_done(out, "x.tif"),
        lambda: images.rename(away),
        missed,
        lambda: write_image(away / "new.png", 9),
        lambda: away.rename(images),
        is_done(out, "new.png"),
    )
    result = watch(until_idle=LONG_S)
    assert result.exit_code == ExitCode.DONE, result.output
    assert result.stdout.startswith("5 done.")
    assert result.stderr.count("waiting for the folder") == 1
    assert result.stderr.count("the folder is there") == 1
    assert triton.asked.count("yolo_resnet") == 5


@pytest.mark.parametrize("inside", [False, True])
def test_a_folder_that_goes_while_an_image_is_done(
    watch, images, out, meanwhile, triton, missed, inside, monkeypatch
):
    """Its image is done when the folder is back, and with it the results, if they lie there."""
    away, gone = images.with_name("away"), threading.Event()
    results = images / "cells" if inside else out

    real = cytoserve.cli.image_run.write_results

    def vanishing(*arguments):
        if triton.asked.count("yolo_resnet") == 2 and not gone.is_set():
            images.rename(away)
            gone.set()
            raise OSError(5, "Input/output error")
        return real(*arguments)

    monkeypatch.setattr(cytoserve.cli.image_run, "write_results", vanishing)
    meanwhile(
        lambda: gone.wait(LONG_S),
        missed,
        lambda: away.rename(images),
        is_done(results, "x.tif"),
    )
    result = watch("--out", results, until_idle=LONG_S)
    assert result.exit_code == ExitCode.DONE, result.output
    assert result.stdout.startswith("4 done.")
    assert "waiting for the folder" in result.stderr


def test_a_server_that_stays_away_ends_the_watch_if_it_is_asked_to(watch, out, states, triton):
    triton.faults = [lambda _: None, lambda _: triton.server.stop(grace=None)]
    result = watch("--wait-for-server", 0.2)
    assert result.exit_code == ExitCode.SERVER_FAILED
    assert "1 done, 3 not done." in result.stderr
    assert set(states(out).values()) == {"done", "not done"}
    triton.start()
    assert watch().stdout.startswith("3 done, 1 skipped.")


def test_a_server_that_does_not_start_in_time(watch, triton, out):
    triton.stop()
    result = watch("--wait-for-server", 0.1)
    assert result.exit_code == ExitCode.SERVER_FAILED
    assert "python -m server" in result.stderr
    assert not out.exists()


def test_a_pipeline_that_is_not_served_is_told_at_once(watch, triton, out):
    triton.fake._pipelines = ("yolo",)
    result = watch()
    assert result.exit_code == ExitCode.NOTHING_TO_DO
    assert "python -m export yolo_resnet" in result.stderr
    assert not out.exists()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        pytest.param(("--settle", "nan"), "A finite number of seconds; given: nan", id="nan"),
        pytest.param(("--until-idle", "inf"), "A finite number of seconds", id="inf"),
        pytest.param(("--poll", 0), "--poll", id="no-pause"),
        pytest.param(("--pipeline", "sam_prompt"), "watch asks pipelines that need no", id="sam"),
        pytest.param(("--white-level", 255), "--white-level is an option of", id="option"),
        pytest.param(("--score-threshold", 7), "score", id="setting"),
    ],
)
def test_wrong_usage(watch, arguments, told, out):
    result = watch(*arguments)
    assert result.exit_code == ExitCode.USAGE
    assert told in result.stderr
    assert not out.exists()


def test_results_must_not_be_watched(watch, images, tmp_path):
    (tmp_path / "link").symlink_to(images)
    for out in (images, tmp_path, tmp_path / "link"):
        result = watch("--out", out)
        assert result.exit_code == ExitCode.USAGE
        assert "Results are kept apart from the images" in result.stderr


def test_a_file_is_no_folder(watch, images):
    result = watch(folder=images / "x.png")
    assert result.exit_code == ExitCode.USAGE
    assert "A folder is watched; given: " in result.stderr


@pytest.fixture
def started(triton, images, out):
    """Starts a watch without end in a process of its own."""
    processes = []

    def start(*arguments) -> subprocess.Popen:
        words = ["watch", images, "--out", out, "--url", triton.url, *QUICK, *arguments]
        processes.append(
            subprocess.Popen(
                [sys.executable, "-m", "cytoserve", *map(str, words)],
                env={**os.environ, "PYTHONPATH": str(CLIENT)},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
        return processes[-1]

    yield start
    for process in processes:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_watch_with_its_summary(started, out, triton, number):
    process = started()
    is_done(out, "x.tif")()
    process.send_signal(number)
    stdout, stderr = process.communicate(timeout=LONG_S)
    assert process.returncode == ExitCode.DONE, stderr
    assert stdout.startswith("4 done. Recorded in ")
    assert stdout.splitlines()[-1].startswith("4 images, 12 cells")
    assert record(out)["summary"]["done"] == 4
    assert not (out / "run.journal").exists()


def test_signals_are_given_back(watch):
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    watch()
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_a_signal_lets_the_present_image_be_finished(started, out, triton, watch):
    asked, go_on = threading.Event(), threading.Event()
    triton.faults = [lambda _: None, lambda _: (asked.set(), go_on.wait(LONG_S))]
    process = started()
    assert asked.wait(LONG_S)
    process.send_signal(signal.SIGINT)
    time.sleep(0.2)
    go_on.set()
    _, stderr = process.communicate(timeout=LONG_S)
    assert process.returncode == ExitCode.SOME_FAILED
    assert "2 done, 2 not done." in stderr
    assert "not done: 2, such as x.tif: The watch ended before: it waited for its turn." in stderr
    assert watch().stdout.startswith("2 done, 2 skipped.")


def test_a_second_signal_ends_at_once(started, out, triton, watch):
    asked, never = threading.Event(), threading.Event()
    triton.faults = [lambda _: None, lambda _: (asked.set(), never.wait(LONG_S))]
    process = started()
    assert asked.wait(LONG_S)
    process.send_signal(signal.SIGINT)
    while process.poll() is None:  # a busy machine may take two for one
        time.sleep(2)
        process.send_signal(signal.SIGINT)
    process.communicate(timeout=LONG_S)
    assert process.returncode == 1
    assert not never.is_set()
    assert list(record(out)["files"]) == ["a/x.png"]
    never.set()
    assert watch().stdout.startswith("3 done, 1 skipped.")


def test_a_signal_ends_the_wait_for_a_server(started, out, triton, watch):
    triton.faults = [lambda _: None, lambda _: triton.server.stop(grace=None)]
    process = started()
    assert any("waiting for the server" in line for line in process.stderr)
    process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate(timeout=LONG_S)
    assert process.returncode == ExitCode.SOME_FAILED
    assert "1 done, 3 not done." in stderr
    triton.start()
    assert watch().stdout.startswith("3 done, 1 skipped.")


def test_a_server_that_stops_is_waited_for(started, images, write_image, triton):
    triton.faults = [lambda _: None, lambda _: triton.server.stop(grace=None)]
    process = started("--until-idle", 0.3)
    assert any("waiting for the server" in line for line in process.stderr)
    write_image(images / "new.png", 9)
    triton.stop()
    triton.start()
    stdout, stderr = process.communicate(timeout=LONG_S)
    assert process.returncode == ExitCode.DONE, stderr
    assert stdout.startswith("5 done.")
    assert "waiting" not in stderr  # it was told once


def test_a_watch_without_end_ends_with_its_server(started, triton):
    triton.faults = [lambda _: None, lambda _: triton.server.stop(grace=None)]
    process = started("--wait-for-server", 0.2)
    _, stderr = process.communicate(timeout=LONG_S)
    assert process.returncode == ExitCode.SERVER_FAILED
    assert "1 done, 3 not done." in stderr


def test_a_server_that_starts_later(started, triton):
    triton.stop()
    process = started("--until-idle", 0.3)
    assert any("waiting for the server: " in line for line in process.stderr)
    triton.start()
    stdout, stderr = process.communicate(timeout=LONG_S)
    assert process.returncode == ExitCode.DONE, stderr
    assert stdout.startswith("4 done.")


def test_a_signal_before_the_server_answers(started, out, triton):
    triton.stop()
    process = started()
    assert any("waiting for the server" in line for line in process.stderr)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=LONG_S)
    assert process.returncode == ExitCode.SERVER_FAILED
    assert "The watch ended before the server at" in stderr
    assert not out.exists()


def test_a_watch_that_ends_early_keeps_what_is_recorded(watch, started, out, images):
    """What an earlier run has done is not marked as not done because it was not reached."""
    assert watch().exit_code == ExitCode.DONE
    process = started("--settle", 1000)
    assert any(line.startswith("watching") for line in process.stderr)
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=LONG_S)
    assert process.returncode == ExitCode.NOTHING_TO_DO
    assert watch().stdout.startswith("4 skipped.")


def test_a_killed_watch_loses_nothing(started, out, triton, watch):
    asked, go_on = threading.Event(), threading.Event()
    triton.faults = [lambda _: None, lambda _: None, lambda _: (asked.set(), go_on.wait(LONG_S))]
    process = started()
    assert asked.wait(LONG_S)
    process.kill()
    process.communicate()
    go_on.set()
    assert sorted(RunRecord.open(out).files) == ["a/x.png", "b/c/y.jpg"]
    assert watch().stdout.startswith("2 done, 2 skipped.")


def test_a_name_that_is_no_unicode(watch, segment, images, out, write_image):
    """Files of old acquisition software, such as µm.png in Latin-1."""
    name = os.fsencode(images) + b"/\xb5m.png"
    try:
        Path(os.fsdecode(name)).write_bytes((images / "x.png").read_bytes())
    except OSError:
        pytest.skip("this file system takes Unicode names only")
    assert watch("--save", "labels,coco").stdout.startswith("5 done.")
    assert segment("--save", "labels,coco").stdout.startswith("5 skipped.")
    assert "\udcb5m.png" in record(out)["files"]
    semantic = watch("--save", "summary,coco", "--pipeline", "nuclei_unet")
    assert semantic.stdout.startswith("5 done.")


@pytest.fixture
def folder_watch(triton, images, out):
    """A watch that is used as a class."""

    def make(show, until_idle_s=0.3, pause=time.sleep):
        told = []
        job = Job("yolo", Settings(), ("labels",), False, None, out, 10.0, 1.0)
        client = Client(triton.url, timeout=10)
        run = JobRun.open(job, client, triton.url, told.append)
        folder = WatchedFolder(images, out, 0.05, told.append)
        clients.append(client)
        return FolderWatch(run, folder, 0.02, until_idle_s, pause, told.append, show), told

    clients = []
    yield make
    for client in clients:
        client.close()


def test_a_viewer_is_given_every_image_and_its_cells(folder_watch, images):
    shown = []
    watch, _ = folder_watch(lambda given, frame, cells: shown.append((given, frame, cells)))
    watch.watch()
    assert [given.key for given, _, _ in shown] == ["a/x.png", "b/c/y.jpg", "x.png", "x.tif"]
    for given, frame, cells in shown:
        np.testing.assert_array_equal(frame, cytoserve.read_frame(given.path))
        assert len(cells) == 3


def test_a_viewer_that_fails_does_not_stop_the_watch(folder_watch, states, out):
    def broken(*_):
        raise RuntimeError("no display")

    watch, told = folder_watch(broken)
    watch.watch()
    watch.run.close()
    assert set(states(out).values()) == {"done"}
    assert "a/x.png could not be shown: RuntimeError('no display')" in told


def test_a_watch_can_be_ended_by_its_host(folder_watch, states, out):
    shown = []

    def pause(seconds):
        if len(shown) == 2:
            raise WatchEnded
        time.sleep(seconds)

    watch, _ = folder_watch(lambda *given: shown.append(given), None, pause)
    watch.watch()
    watch.run.close()
    assert sorted(states(out).values()) == ["done", "done", "not done", "not done"]


def test_a_look_that_takes_long_is_followed_by_a_longer_pause(folder_watch, monkeypatch):
    now, looks = [0.0], []

    class Ended(Exception):
        pass

    def slow_look():
        looks.append(now[0])
        now[0] += 4.0
        if len(looks) == 3:
            raise Ended
        return False

    def pause(seconds):
        now[0] += seconds

    watch, _ = folder_watch(None, None, pause)
    watch.clock = lambda: now[0]
    monkeypatch.setattr(watch.folder, "look", slow_look)
    with pytest.raises(Ended):
        watch.watch()
    assert looks == [0.0, 20.0, 40.0]  # a fifth of the time
