"""pycro-manager itself, on its Python backend with Micro-Manager's demo camera."""

from __future__ import annotations

from pathlib import Path

import pytest

from cytoserve.acquisition import FrameAnalyzer
from cytoserve.acquisition.with_pycromanager import PycroManagerHandler

WHY = "needs pip install '.[pycromanager]' mm-test-adapters"
pycromanager = pytest.importorskip("pycromanager", reason=WHY)
adapters = pytest.importorskip("mm_test_adapters", reason=WHY)

pytestmark = pytest.mark.filterwarnings("default")  # of other people's packages


@pytest.fixture(scope="module")
def engine():
    folder = Path(adapters.device_adapter_path())
    pycromanager.start_headless(str(folder), str(folder / "MMConfig_demo.cfg"), python_backend=True)
    yield
    pycromanager.stop_headless()


@pytest.mark.usefixtures("engine")
@pytest.mark.parametrize("hook", ["image_process_fn", "image_saved_fn"])
def test_events_follow_from_what_is_found(client, tmp_path, hook):
    rounds = []

    def decide(result):
        assert result.answered, result.reason
        rounds.append(result.stage.position_um)
        axes = result.metadata["Axes"]
        if "round" in axes:
            return []
        [x, y] = result.cells.to_stage_um(result.stage).centres_um[0].tolist()
        return [{"axes": {**axes, "round": 1}, "x": x, "y": y}]

    events = pycromanager.multi_d_acquisition_events(num_time_points=3, xy_positions=[(10.0, 20.0)])
    with FrameAnalyzer(client, "yolo", when_busy="wait", queue_size=9) as analyzer:
        handler = PycroManagerHandler(analyzer, decide=decide)
        with pycromanager.Acquisition(
            directory=str(tmp_path),
            name="run",
            show_display=False,
            **{hook: getattr(handler, hook)},
        ) as acquisition:
            handler.run(acquisition, events)
    assert analyzer.statistics().answered == 6
    assert rounds.count((10.0, 20.0)) == 3
