"""The live view: napari's own model of a viewer where it is installed, and a stand-in elsewhere."""

from __future__ import annotations

import threading
from importlib.util import find_spec
from types import SimpleNamespace

import numpy as np
import pytest
from click.testing import CliRunner

from cytoserve import Client, InvalidSetting
from cytoserve.acquisition import FrameAnalyzer
from cytoserve.cli import main
from cytoserve.live_view import FOUND_LAYER, FRAME_LAYER, LiveView

pytestmark = pytest.mark.filterwarnings("default")  # of napari's packages


class StandIn:
    """Keeps layers by name, as napari does."""

    def __init__(self):
        self.layers = {}

    def add_image(self, data, *, name, rgb):
        assert rgb == (data.ndim == 3)
        self.layers[name] = SimpleNamespace(data=data)

    def add_labels(self, data, *, name):
        assert data.dtype.kind == "u"
        self.layers[name] = SimpleNamespace(data=data)


@pytest.fixture(params=["stand-in", "napari"])
def viewer(request):
    if request.param == "stand-in":
        return StandIn()
    napari = pytest.importorskip("napari", reason="needs pip install '.[napari]'")
    return napari.components.ViewerModel()


@pytest.mark.parametrize("shape", [(60, 80), (60, 80, 1), (60, 80, 3)])
def test_the_newest_frame_and_its_cells_are_shown(viewer, cells, shape):
    view = LiveView(viewer)
    assert not view.refresh()
    for value in (1, 2, 3):
        view.put(np.full(shape, value, np.uint8), cells)
    assert view.refresh()
    assert not view.refresh(), "nothing new came"
    assert (viewer.layers[FRAME_LAYER].data == 3).all()
    assert viewer.layers[FRAME_LAYER].data.shape == (shape if shape[-1] == 3 else shape[:2])
    assert (viewer.layers[FOUND_LAYER].data == cells.label_image()).all()
    view.put(np.full(shape, 4, np.uint8), cells[:0])
    assert view.refresh()
    assert (viewer.layers[FRAME_LAYER].data == 4).all()
    assert viewer.layers[FOUND_LAYER].data.max() == 0
    assert len(viewer.layers) == 2


def test_frames_of_another_size_and_kind(viewer, cells, foreground):
    view = LiveView(viewer)
    for shape, found in (((60, 80), cells), ((60, 80, 3), cells), ((30, 40), foreground)):
        view.put(np.zeros(shape, np.uint16 if len(shape) == 2 else np.uint8), found)
        assert view.refresh()
        assert viewer.layers[FRAME_LAYER].data.shape == shape
        assert len(viewer.layers) == 2


def test_an_analyzer_feeds_it(viewer, fake, cells):
    view = LiveView(viewer)
    frame = np.full((60, 80), 9, np.uint16)
    with FrameAnalyzer(
        Client(transport=fake), "yolo", callback=view.put_result, keep_frames=True
    ) as analyzer:
        analyzer.submit(frame)
        analyzer.submit(np.zeros((2, 2), np.int64))  # fails, and is not shown
    assert view.refresh()
    assert (viewer.layers[FRAME_LAYER].data == 9).all()
    assert viewer.layers[FOUND_LAYER].data.max() == len(cells)


def test_frames_are_kept_on_request_alone(fake):
    for keep in (False, True):
        with FrameAnalyzer(Client(transport=fake), "yolo", keep_frames=keep) as analyzer:
            ticket = analyzer.submit(np.zeros((60, 80), np.uint8))
            assert (ticket.result(30).frame is not None) == keep


def test_threads_hand_over_while_the_window_draws(viewer, cells):
    view, stop = LiveView(viewer), threading.Event()

    def put():
        while not stop.is_set():
            view.put(np.zeros((60, 80), np.uint8), cells)

    threads = [threading.Thread(target=put) for _ in range(2)]
    for thread in threads:
        thread.start()
    shown = sum(view.refresh() for _ in range(50))
    stop.set()
    for thread in threads:
        thread.join()
    assert shown > 0


@pytest.mark.parametrize("most", [0, -1, float("nan"), 101])
def test_updates_per_second_are_bounded(most):
    with pytest.raises(InvalidSetting, match="up to 100 updates per second"):
        LiveView(StandIn(), most)


@pytest.mark.skipif(find_spec("napari") is not None, reason="napari is installed")
def test_without_napari_the_command_says_what_to_install(tmp_path, triton):
    options = [str(tmp_path), "--out", str(tmp_path / "out"), "--url", triton.url, "--show"]
    done = CliRunner().invoke(main, ["watch", *options])
    assert done.exit_code == 2
    assert "pip install '.[napari]'" in done.output
