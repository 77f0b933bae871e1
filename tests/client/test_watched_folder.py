"""A folder that fills: which images are taken, when, and what is told of the others."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from cytoserve.cli.watched_folder import WatchedFolder

SETTLE_S = 2.0


class Bench:
    """A folder under watch, and a clock that moves only when it is told to."""

    def __init__(self, tmp_path: Path, known=()) -> None:
        self.folder, self.out = tmp_path / "images", tmp_path / "out"
        self.folder.mkdir(exist_ok=True)
        self.now = 0.0
        self.told: list[str] = []
        self.watched = WatchedFolder(
            self.folder, self.out, SETTLE_S, self.told.append, known, lambda: self.now
        )

    def write(self, key: str, content: bytes = b"one") -> Path:
        path = self.folder / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        os.utime(path, ns=(next(TIMES), next(TIMES)))  # as a camera: each write has its time
        return path

    def taken(self) -> list[str]:
        """Look once, and take all that is complete."""
        self.watched.look()
        return [given.key for given in iter(self.watched.take, None)]

    def taken_after(self, seconds: float) -> list[str]:
        self.now += seconds
        return self.taken()

    def settled(self) -> list[str]:
        """Look twice, with the time to settle between."""
        return self.taken() + self.taken_after(SETTLE_S)


TIMES = iter(range(10**18, 10**19, 10**9))


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_a_file_is_taken_once_when_it_has_settled(bench):
    bench.write("a.tif")
    assert bench.taken() == []
    assert bench.taken_after(SETTLE_S / 2) == []
    assert bench.taken_after(SETTLE_S / 2) == ["a.tif"]
    assert bench.taken_after(100) == []
    assert not bench.told


def grown(bench):
    bench.write("a.tif", b"one more")


def rewritten(bench):
    bench.write("a.tif", b"two")


def replaced(bench):
    bench.write("a.part", b"two").replace(bench.folder / "a.tif")


@pytest.mark.parametrize("change", [grown, rewritten, replaced])
def test_a_file_that_changes_settles_anew(bench, change):
    bench.write("a.tif")
    assert bench.taken() == []
    for _ in range(3):
        change(bench)
        assert bench.taken_after(SETTLE_S) == []
        assert bench.watched.is_settling()
    assert bench.taken_after(SETTLE_S) == ["a.tif"]


@pytest.mark.parametrize("change", [grown, rewritten, replaced])
def test_a_file_that_changes_after_it_was_taken_is_taken_again(bench, change):
    bench.write("a.tif")
    assert bench.settled() == ["a.tif"]
    change(bench)
    assert bench.taken() == []
    assert bench.taken_after(SETTLE_S) == ["a.tif"]


@pytest.mark.parametrize("change", [grown, rewritten, replaced])
def test_a_file_that_changes_between_look_and_reading_waits(bench, change):
    bench.write("a.tif")
    bench.taken()
    bench.now += SETTLE_S
    bench.watched.look()
    change(bench)
    assert bench.watched.take() is None
    assert bench.taken_after(SETTLE_S) == ["a.tif"]


@pytest.mark.parametrize("change", [grown, rewritten, replaced])
def test_a_file_that_changes_before_its_turn_waits(bench, change):
    bench.write("a.tif")
    bench.taken()
    bench.now += SETTLE_S
    bench.watched.look()
    change(bench)
    bench.watched.look()
    assert bench.watched.take() is None
    assert bench.taken_after(SETTLE_S) == ["a.tif"]


def test_a_file_that_is_renamed_into_place_is_taken(bench):
    part = bench.write("a.tif.part")
    assert bench.settled() == []
    part.rename(bench.folder / "a.tif")
    assert bench.settled() == ["a.tif"]


def test_an_empty_file_waits_until_it_is_filled(bench):
    bench.write("a.tif", b"")
    assert bench.settled() + bench.taken_after(100) == []
    assert not bench.watched.is_settling()  # so it keeps no watch from ending
    assert [(given.key, why) for given, why in bench.watched.left()] == [("a.tif", "it was empty")]
    bench.write("a.tif")
    assert bench.settled() == ["a.tif"]


@pytest.mark.parametrize(
    "key",
    [
        pytest.param("notes.txt", id="no-image"),
        pytest.param(".a.tif", id="hidden"),
        pytest.param("._a.tif", id="of-another-system"),
        pytest.param(".trash/a.tif", id="hidden-folder"),
        pytest.param("a.tif.part", id="part"),
    ],
)
def test_what_segment_does_not_find_is_not_taken(bench, key):
    bench.write(key)
    assert bench.settled() == []


def test_what_is_no_file_is_not_taken(bench):
    (bench.folder / "folder.tif").mkdir()
    (bench.folder / "nothing.tif").symlink_to(bench.folder / "missing.tif")
    (bench.folder / "loop").symlink_to(bench.folder)
    (bench.folder / "linked.tif").symlink_to(bench.folder / "folder.tif")
    if hasattr(os, "mkfifo"):
        os.mkfifo(bench.folder / "pipe.tif")  # opening it would block for ever
    bench.write("folder.tif/a.tif")
    assert bench.settled() == ["folder.tif/a.tif"]
    assert not bench.told
    assert not list(bench.watched.left())


def test_new_subfolders_are_searched(bench):
    assert bench.settled() == []
    bench.write("day 2/well B3/µ.TIF")
    assert bench.settled() == ["day 2/well B3/µ.TIF"]


def test_images_come_in_order_and_recorded_ones_last(tmp_path):
    bench = Bench(tmp_path, known={"a.tif", "b.tif"})
    for key in ("d.tif", "b.tif", "c.tif", "a.tif"):
        bench.write(key)
    assert bench.settled() == ["c.tif", "d.tif", "a.tif", "b.tif"]


def test_a_new_image_comes_before_recorded_ones_that_wait(tmp_path):
    bench = Bench(tmp_path, known={"a.tif", "b.tif"})
    bench.write("a.tif")
    bench.write("b.tif")
    bench.taken()
    bench.now += SETTLE_S
    bench.watched.look()
    bench.write("c.tif")
    bench.watched.look()
    assert bench.watched.take().key == "a.tif"
    assert bench.taken_after(SETTLE_S) == ["c.tif", "b.tif"]


@pytest.mark.parametrize("seconds", [0, 10**9, 2**33])
def test_wrong_clocks_do_not_matter(bench, monkeypatch, seconds):
    path = bench.write("a.tif")
    os.utime(path, (seconds, seconds))
    monkeypatch.setattr(time, "time", lambda: -5.0)
    assert bench.taken() == []
    assert bench.taken_after(SETTLE_S) == ["a.tif"]
    os.utime(path, (5, 5))  # back in time is a change, too
    assert bench.settled() == ["a.tif"]


def test_a_file_that_cannot_be_opened_is_told_once_and_tried_again(bench, monkeypatch):
    bench.write("a.tif")
    bench.write("b.tif")
    real = Path.open

    def locked(path, *arguments, **options):
        if path.name == "a.tif":
            raise PermissionError(13, "Permission denied")
        return real(path, *arguments, **options)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "open", locked)
        assert bench.settled() + bench.taken_after(1) + bench.taken_after(1) == ["b.tif"]
        assert bench.told == ["waiting for a.tif, which cannot be read: Permission denied"]
        assert not bench.watched.is_settling()
        ((_, why),) = bench.watched.left()
        assert why == "it could not be read: Permission denied"
    assert bench.taken_after(1) == ["a.tif"]


def test_files_that_go_before_they_are_read_are_told_in_a_line(bench):
    for key in ("a.tif", "b.tif", "c.tif"):
        bench.write(key)
    bench.taken()
    bench.now += SETTLE_S
    bench.watched.look()
    (bench.folder / "a.tif").unlink()
    assert bench.watched.take().key == "b.tif"
    (bench.folder / "c.tif").unlink()
    bench.watched.look()
    assert bench.watched.take() is None
    assert bench.told == ["moved or deleted before they were read: 2 images, such as a.tif"]
    bench.write("a.tif")
    assert bench.settled() == ["a.tif"]


def test_a_file_that_goes_before_it_is_complete_is_not_told(bench):
    bench.write("a_tmp.tif").rename(bench.folder / "a.tif")
    bench.taken()
    (bench.folder / "a.tif").rename(bench.folder / "b.tif")
    assert bench.settled() == ["b.tif"]
    assert not bench.told


def test_nothing_is_remembered_of_files_that_are_gone(bench):
    for number in range(9):
        path = bench.write(f"{number}.tif")
        assert bench.settled() == [path.name]
        path.unlink()
    bench.write("empty.tif", b"")
    bench.taken()
    (bench.folder / "empty.tif").unlink()
    bench.taken()
    assert not bench.watched._taken
    assert not bench.watched._waiting
    assert not bench.watched._queue


@pytest.mark.parametrize("by_link", [False, True])
def test_results_in_the_folder_are_not_taken(tmp_path, bench, by_link):
    results = bench.folder / "results"
    results.mkdir()
    bench.write("results/a_tif_labels.tif")
    bench.write("results of another kind/a.tif")
    if by_link:
        (tmp_path / "out").symlink_to(results)
    else:
        bench.watched = WatchedFolder(
            bench.folder, results, SETTLE_S, bench.told.append, (), lambda: bench.now
        )
    assert bench.settled() == ["results of another kind/a.tif"]


def test_results_of_another_run_are_not_taken(bench):
    """Otherwise two watches of a folder would take each other's results without end."""
    bench.write("unet/a_tif_mask.tif")
    bench.write("unet/run.json", b'{\n "cytoserve": "1.0",\n "python": "3.11"}')
    bench.write("camera/run.json", b'{"camera": "cytoserve"}')
    bench.write("camera/a.tif")
    assert bench.settled() + bench.taken_after(1) == ["camera/a.tif"]
    assert bench.told == [
        f"not searched: {bench.folder / 'unet'}, which holds results of cytoserve"
    ]


def test_a_folder_that_goes_and_comes_back_is_not_taken_again(bench, tmp_path):
    bench.write("a.tif")
    assert bench.settled() == ["a.tif"]
    bench.write("b.tif")
    bench.taken()
    bench.now += SETTLE_S
    bench.watched.look()
    bench.folder.rename(tmp_path / "away")
    for _ in range(2):
        with pytest.raises(OSError, match="No such file"):
            bench.watched.look()
    (tmp_path / "away").rename(bench.folder)
    assert bench.taken_after(1) == ["b.tif"]
    assert not bench.told


def test_a_subfolder_that_cannot_be_listed_is_told_and_not_forgotten(bench, monkeypatch):
    bench.write("a/x.tif")
    bench.write("y.tif")
    assert bench.settled() == ["a/x.tif", "y.tif"]
    real = os.scandir

    def refused(path):
        if Path(path).name == "a":
            raise PermissionError(13, "Permission denied")
        return real(path)

    with monkeypatch.context() as patched:
        patched.setattr(os, "scandir", refused)
        assert bench.settled() == []
    assert bench.told == ["waiting for a/, which cannot be read: Permission denied"]
    assert bench.settled() == []


def test_a_look_opens_no_image(bench, monkeypatch):
    for key in ("a.tif", "b/c.tif"):
        bench.write(key)
    opened = []
    real = Path.open

    def recorded(path, *arguments, **options):
        opened.append(path.name)
        return real(path, *arguments, **options)

    monkeypatch.setattr(Path, "open", recorded)
    assert bench.settled() == ["a.tif", "b/c.tif"]
    assert [name for name in opened if name != "run.json"] == ["a.tif", "c.tif"]
    opened.clear()
    assert bench.settled() == []
    assert set(opened) <= {"run.json"}


def test_an_image_that_is_put_back_is_the_next(bench):
    for key in ("a.tif", "b.tif"):
        bench.write(key)
    bench.taken()
    bench.now += SETTLE_S
    bench.watched.look()
    given = bench.watched.take()
    bench.watched.put_back(given)
    assert bench.watched.take() == given
    bench.watched.put_back(given)
    assert [(each.key, why) for each, why in bench.watched.left()] == [
        ("a.tif", "it waited for its turn"),
        ("b.tif", "it waited for its turn"),
    ]
