"""The adapters' own rules, with stand-ins for the microscope packages."""

from __future__ import annotations

import dataclasses
import threading
from types import SimpleNamespace

import numpy as np
import pytest

from cytoserve.acquisition import FrameAnalyzer, extras
from cytoserve.acquisition.with_pycromanager import PycroManagerHandler
from cytoserve.acquisition.with_pymmcore_plus import EVENT_KEY, AdaptiveEvents, MDAHandler
from cytoserve.acquisition.with_python_microscope import CameraClient

PACKAGES = {
    MDAHandler: "pymmcore-plus",
    PycroManagerHandler: "pycromanager",
    CameraClient: "python-microscope",
}


@dataclasses.dataclass
class Event:
    """What AdaptiveEvents uses of a useq.MDAEvent."""

    index: int = 0
    x_pos: float | None = None
    y_pos: float | None = None
    kind: str = "acquire_image"
    metadata: dict = dataclasses.field(default_factory=dict)

    @property
    def action(self):
        return SimpleNamespace(type=self.kind)

    def model_copy(self, update):
        return dataclasses.replace(self, **update)


@pytest.fixture
def analyzer(client):
    with FrameAnalyzer(client, "yolo", when_busy="wait", queue_size=10) as analyzer:
        yield analyzer


@pytest.fixture
def installed(monkeypatch):
    """Let the packages seem installed."""
    monkeypatch.setattr(extras, "find_spec", lambda name: name)


@pytest.mark.parametrize("adapter", PACKAGES)
def test_a_missing_package_is_told_with_the_command_that_installs_it(
    adapter, analyzer, monkeypatch
):
    monkeypatch.setattr(extras, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=rf"pip install '\.\[{PACKAGES[adapter]}\]'"):
        adapter(analyzer)


CALIBRATED = {
    "camera_label": "C",
    "pixel_size_um": 0.5,
    "pixel_size_affine": (0, 0.5, 0, 0.5, 0, 0),
}


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    ("meta", "camera", "event", "corner"),
    [
        pytest.param({}, None, None, None, id="no metadata"),
        pytest.param({"position": {"x": 1, "y": 2}}, None, None, None, id="no pixel size"),
        pytest.param(
            {"pixel_size_um": 0.0, "position": {"x": 1, "y": 2}},
            None,
            None,
            None,
            id="unknown",
        ),
        pytest.param({"pixel_size_um": 0.5}, None, Event(), None, id="no stage"),
        pytest.param(
            {"pixel_size_um": "?", "position": {"x": 1, "y": 2}}, None, None, None, id="no number"
        ),
        pytest.param(
            {"pixel_size_um": 0.5, "position": {"x": 100, "y": 200}},
            None,
            Event(x_pos=0, y_pos=0),
            (100 - 20, 200 - 15),
            id="measured",
        ),
        pytest.param(
            {"pixel_size_um": 0.5}, None, Event(x_pos=9, y_pos=8), (9 - 20, 8 - 15), id="asked one"
        ),
        pytest.param(
            {"pixel_size_um": 0.5, "camera_device": "C"},
            CALIBRATED,
            Event(x_pos=9, y_pos=8),
            (9 - 15, 8 - 20),
            id="the camera's affine",
        ),
        pytest.param(
            {"pixel_size_um": 0.25, "camera_device": "C"},
            CALIBRATED,
            Event(x_pos=9, y_pos=8),
            (9 - 7.5, 8 - 10),
            id="an objective of twice the magnification",
        ),
        pytest.param(
            {"pixel_size_um": 0.5, "camera_device": "C"},
            {"camera_label": "C", "roi": (100, 50, 80, 60)},
            Event(x_pos=9, y_pos=8),
            None,
            id="a region of an unknown sensor",
        ),
    ],
)
def test_the_stage_of_mda_frames(analyzer, frame, meta, camera, event, corner):
    seen = analyzer.results()
    handler = MDAHandler(analyzer)
    handler.sequenceStarted(None, {"image_infos": [camera]} if camera else {})
    handler.frameReady(frame, event, meta)
    result = next(seen)
    assert result.answered
    assert result.metadata.event is event
    assert (result.stage is None) == (corner is None)
    if corner is not None:
        assert result.stage.to_stage_um((0, 0)) == pytest.approx(corner)


@pytest.mark.usefixtures("installed")
def test_a_region_of_interest_needs_the_sensor(analyzer, frame):
    seen = analyzer.results()
    handler = MDAHandler(analyzer, sensor_shape=(400, 600))
    handler.sequenceStarted(
        None, {"image_infos": [{"camera_label": "C", "roi": (100, 50, 80, 60)}]}
    )
    meta = {"pixel_size_um": 0.5, "camera_device": "C"}
    handler.frameReady(frame, Event(x_pos=0, y_pos=0), meta)
    assert next(seen).stage.to_stage_um((200, 150)) == pytest.approx([0, 0])


def acquire(events: AdaptiveEvents, frame, threads: bool) -> list[int]:
    """Run events as an acquisition does; return their indices."""
    done = []
    for event in events:
        done.append(event.index)
        if event.kind == "acquire_image" and event.index >= 0:
            deliver = threading.Thread(target=events.frameReady, args=(frame, event, {}))
            deliver.start()
            if not threads:
                deliver.join()
    return done


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("threads", [False, True], ids=["in the thread of the run", "relayed"])
def test_adaptive_events_grow_and_end(analyzer, frame, threads):
    decided = []

    def decide(result):
        decided.append(result.status)
        index = result.metadata.event.index
        return [Event(index + 10), Event(index + 20)] if index < 10 else None

    events = AdaptiveEvents(analyzer, [Event(0), Event(1), Event(5, kind="custom")], decide)
    done = acquire(events, frame, threads)
    assert sorted(done) == [0, 1, 5, 10, 11, 20, 21]
    assert decided == ["answered"] * 6


@pytest.mark.usefixtures("installed")
def test_failed_frames_are_decided_upon_and_errors_in_decide_end_nothing(analyzer, rgb32, caplog):
    def decide(result):
        assert result.status == "failed"
        raise RuntimeError("no idea")

    assert acquire(AdaptiveEvents(analyzer, [Event(0), Event(1)], decide), rgb32, False) == [0, 1]
    assert caplog.text.count("no idea") >= 2


@pytest.mark.usefixtures("installed")
def test_stop_ends_a_run_at_the_next_event(analyzer, frame):
    events = AdaptiveEvents(analyzer, map(Event, range(1000)), lambda result: events.stop())
    done = acquire(events, frame, threads=False)
    assert 1 <= len(done) < 1000


@pytest.mark.usefixtures("installed")
def test_an_event_without_its_frame_is_given_up(analyzer, frame, caplog):
    events = AdaptiveEvents(analyzer, [Event(-1), Event(0)], lambda result: None, frame_wait_s=0.1)
    assert acquire(events, frame, threads=False) == [-1, 0]
    assert "no frame" in caplog.text


@pytest.mark.usefixtures("installed")
def test_events_keep_their_metadata(analyzer):
    events = AdaptiveEvents(analyzer, [Event(metadata={"mine": 1})], lambda result: None)
    assert next(events).metadata == {"mine": 1, EVENT_KEY: 0}


class Acquisition:
    """What PycroManagerHandler.run uses of an acquisition: it takes a frame of every event."""

    def __init__(self, frame, process) -> None:
        self.frame, self.process, self.axes = frame, process, []

    def acquire(self, events) -> None:
        for event in events:
            self.axes.append(event["axes"])
            self.process(self.frame, {"Axes": event["axes"], **event.get("tags", {})})


@pytest.mark.usefixtures("installed")
def test_pycromanager_events_grow_and_end(analyzer, frame):
    def decide(result):
        axes = result.metadata["Axes"]
        return [{"axes": {**axes, "round": 1}}] if "round" not in axes else None

    handler = PycroManagerHandler(analyzer, decide=decide)
    acquisition = Acquisition(frame, handler.image_process_fn)
    handler.run(acquisition, [{"axes": {"time": 0}}, {"axes": {"time": 1}}])
    assert acquisition.axes[:2] == [{"time": 0}, {"time": 1}]
    assert acquisition.axes[2:] == [{"time": 0, "round": 1}, {"time": 1, "round": 1}]


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    ("tags", "corner"),
    [
        pytest.param({}, None, id="nothing"),
        pytest.param({"PixelSize_um": 0.5}, None, id="no stage"),
        pytest.param({"XPosition_um_Intended": 1, "YPosition_um_Intended": 2}, None, id="no pixel"),
        pytest.param(
            {"XPosition_um_Intended": 100, "YPosition_um_Intended": 200, "PixelSize_um": 0.5},
            (80, 185),
            id="all",
        ),
    ],
)
def test_the_stage_of_pycromanager_frames(analyzer, frame, tags, corner):
    seen = analyzer.results()
    image, metadata = PycroManagerHandler(analyzer).image_process_fn(frame, tags)
    assert image is frame
    assert metadata is tags
    result = next(seen)
    assert result.answered
    assert (result.stage is None) == (corner is None)
    if corner is not None:
        assert result.stage.to_stage_um((0, 0)) == pytest.approx(corner)


def unreadable():
    raise OSError("the stage is off")


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    ("arguments", "corner"),
    [
        pytest.param({}, None, id="nothing"),
        pytest.param({"pixel_size_um": 0.5}, None, id="no stage"),
        pytest.param({"pixel_size_um": 0.5, "position": unreadable}, None, id="stage is off"),
        pytest.param({"pixel_size_um": 0.5, "position": lambda: {"z": 1}}, None, id="other axes"),
        pytest.param(
            {"pixel_size_um": 0.5, "position": lambda: {"x": 100, "y": 200}}, (80, 185), id="all"
        ),
    ],
)
def test_the_stage_of_python_microscope_frames(analyzer, frame, arguments, corner):
    seen = analyzer.results()
    CameraClient(analyzer, **arguments).put(frame)
    result = next(seen)
    assert result.answered
    assert (result.stage is None) == (corner is None)
    if corner is not None:
        assert result.stage.to_stage_um((0, 0)) == pytest.approx(corner)


@pytest.mark.usefixtures("installed")
def test_an_error_of_the_camera_is_a_frame_that_failed(analyzer):
    seen = analyzer.results()
    client = CameraClient(analyzer, pixel_size_um=1, position=lambda: {"x": 0, "y": 0})
    client.receiveData(RuntimeError("no light"), 12.5)
    result = next(seen)
    assert (result.status, result.stage, result.metadata.timestamp) == ("failed", None, 12.5)


@pytest.mark.usefixtures("installed")
def test_frames_of_no_array_still_pass_all_adapters(analyzer):
    seen = analyzer.results()
    position = {"x": 0, "y": 0}
    MDAHandler(analyzer).frameReady(None, None, {"position": position, "pixel_size_um": 1})
    tags = {"XPosition_um_Intended": 0, "YPosition_um_Intended": 0, "PixelSize_um": 1}
    PycroManagerHandler(analyzer).image_process_fn(np.zeros(3), tags)
    assert [next(seen).status for _ in range(2)] == ["failed"] * 2
