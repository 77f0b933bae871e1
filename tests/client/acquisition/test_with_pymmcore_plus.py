"""pymmcore-plus itself, with Micro-Manager's demo camera and a drawn sample under its stage."""

from __future__ import annotations

import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from cytoserve import Client, FakeServer, cells_from_labels
from cytoserve.acquisition import FrameAnalyzer
from cytoserve.acquisition.with_pymmcore_plus import AdaptiveEvents, MDAHandler

WHY = "needs the dependency group dev with pymmcore-plus and its simulated devices"
pymmcore_plus = pytest.importorskip("pymmcore_plus", reason=WHY)
adapters = pytest.importorskip("mm_test_adapters", reason=WHY)
simulate = pytest.importorskip("pymmcore_plus.experimental.simulate", reason=WHY)
useq = pytest.importorskip("useq", reason=WHY)

pytestmark = pytest.mark.filterwarnings("default")  # of other people's packages

PIXEL_UM = 0.325  # the simulated camera has 6.5 um pixels behind a magnification of 20
TRUTH = np.array([(-40.0, -50.0), (60.0, 33.0), (120.0, -20.0), (200.0, 90.0)])
"""Centres of discs on the sample, (x, y) in micrometres."""


@pytest.fixture
def core():
    folder = Path(adapters.device_adapter_path())
    core = pymmcore_plus.CMMCorePlus()
    core.setDeviceAdapterSearchPaths([str(folder)])
    core.loadSystemConfiguration(str(folder / "MMConfig_demo.cfg"))
    core.setProperty("Camera", "PixelType", "16bit")
    core.setPixelSizeUm("Res10x", PIXEL_UM)
    core.setPixelSizeAffine("Res10x", (PIXEL_UM, 0, 0, 0, PIXEL_UM, 0))
    core.setExposure(5)
    yield core
    core.unloadAllDevices()


@pytest.fixture
def sample(core):
    discs = [simulate.Point(x, y, intensity=250, radius=8) for x, y in TRUTH.tolist()]
    config = simulate.RenderConfig(shot_noise=False, random_seed=1)
    drawn = simulate.Sample(discs, config)
    core.setExposure(300)  # bright enough beside the noise of reading
    with drawn.patch(core):
        yield drawn


def find(pixels):
    """Find bright discs: a stand-in for a network, so that only positions are tested."""
    image = cv2.GaussianBlur(pixels[..., 0].astype(np.float32), (9, 9), 0)
    if image.max() < 100:
        return cells_from_labels(np.zeros(image.shape, np.uint16), np.zeros(0, int), ("cell",))
    mask = (image > image.max() / 2).astype(np.uint8)
    number, labels, _, _ = cv2.connectedComponentsWithStats(mask)
    return cells_from_labels(labels.astype(np.uint16), np.zeros(number - 1, int), ("cell",))


@pytest.fixture
def finder():
    return Client(transport=FakeServer(find, class_names=("cell",)))


def whole_discs(result) -> np.ndarray:
    """Stage positions of cells that do not touch the frame's edge, ``[N, 2]``."""
    boxes, (height, width) = result.cells.boxes, result.cells.frame_shape
    inside = (boxes[:, :2] > 1).all(axis=1) & (boxes[:, 2:] < (width - 1, height - 1)).all(axis=1)
    return result.cells.to_stage_um(result.stage).centres_um[inside]


def distances_px(found: np.ndarray) -> np.ndarray:
    """Distance of each position to the nearest disc of the sample, in pixels."""
    return np.linalg.norm(found[:, None] - TRUTH, axis=2).min(axis=1) / PIXEL_UM


@pytest.mark.usefixtures("sample")
def test_cells_lie_where_the_sample_has_them_and_are_visited_again(core, finder):
    """A grid, then every cell in the middle of the field: the whole loop."""
    visits = []

    def decide(result):
        assert result.answered, result.reason
        visits.append(result)
        if "cell" in result.metadata.event.metadata:
            return []
        return [
            useq.MDAEvent(x_pos=x, y_pos=y, metadata={"cell": (x, y)})
            for x, y in whole_discs(result).tolist()
        ]

    grid = useq.MDASequence(stage_positions=[(0, 0), (160, 30)])
    with FrameAnalyzer(finder, "yolo", when_busy="wait", queue_size=20) as analyzer:
        events = AdaptiveEvents(analyzer, grid, decide)
        core.mda.run(events, output=[events])
    again = [visit for visit in visits if "cell" in visit.metadata.event.metadata]
    assert len(visits) - len(again) == 2
    assert len(again) >= 3
    for visit in visits:
        assert (distances_px(whole_discs(visit)) <= 1).all()
    for visit in again:
        middles = (visit.cells.boxes[:, :2] + visit.cells.boxes[:, 2:]) / 2
        middle = np.linalg.norm(middles - 256, axis=1)
        assert middle.min() <= 2  # of the stage's own steps


@pytest.mark.parametrize("connected", [False, True], ids=["output=", "frameReady.connect"])
def test_an_mda_is_not_held_up_by_a_server_that_does_not_answer(core, held, held_client, connected):
    times = []

    class Timed(MDAHandler):
        def frameReady(self, img, event=None, meta=None):
            begun = time.perf_counter()
            super().frameReady(img, event, meta)
            times.append(time.perf_counter() - begun)

    held.go.clear()
    with FrameAnalyzer(held_client, "yolo", deadline=60) as analyzer:
        handler = Timed(analyzer)
        output = [handler]
        if connected:
            core.mda.events.frameReady.connect(handler.frameReady)
            output = []
        core.mda.run(
            useq.MDASequence(time_plan={"interval": 0.01, "loops": 20}), output=output or None
        )
        statistics = analyzer.statistics()
        assert (statistics.submitted, statistics.in_flight, statistics.dropped) == (20, 1, 18)
        held.go.set()
    assert np.median(times) < 0.005  # a generous bound; the server holds its answer for seconds
    assert analyzer.statistics().answered == 2


@pytest.mark.parametrize(
    ("pixel_type", "status"),
    [("8bit", "answered"), ("16bit", "answered"), ("32bitRGB", "answered"), ("32bit", "failed")],
)
def test_pixel_types_of_micro_manager(core, client, pixel_type, status):
    """32bit frames are floats of counts in this camera; they are refused with the remedy."""
    core.setProperty("Camera", "PixelType", pixel_type)
    with FrameAnalyzer(client, "yolo", when_busy="wait") as analyzer:
        seen = analyzer.results()
        core.mda.run(
            useq.MDASequence(time_plan={"interval": 0, "loops": 1}), output=[MDAHandler(analyzer)]
        )
    [result] = seen
    assert result.status == status, result.reason


def test_a_run_that_is_cancelled_ends_the_loop(core, client):
    with FrameAnalyzer(client, "yolo", when_busy="wait") as analyzer:
        events = AdaptiveEvents(
            analyzer,
            (useq.MDAEvent(index={"t": t}) for t in range(10_000)),
            lambda result: core.mda.cancel(),
        )
        core.mda.run(events, output=[events])
    assert analyzer.statistics().submitted < 10_000


def test_hardware_sequences_carry_the_position_that_was_asked(core, client):
    sequence = useq.MDASequence(stage_positions=[(5, 7)], time_plan={"interval": 0, "loops": 4})
    with FrameAnalyzer(client, "yolo", when_busy="wait", queue_size=4) as analyzer:
        seen = analyzer.results()
        core.mda.run(sequence, output=[MDAHandler(analyzer)])
    stages = [result.stage for result in seen]
    assert len(stages) == 4
    assert all(stage.position_um == pytest.approx((5, 7), abs=0.02) for stage in stages)
