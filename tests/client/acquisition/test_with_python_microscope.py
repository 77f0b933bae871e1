"""python-microscope itself, with its simulated camera that shows an image under a stage."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from cytoserve import Client, FakeServer, cells_from_labels
from cytoserve.acquisition import FrameAnalyzer
from cytoserve.acquisition.with_python_microscope import CameraClient

WHY = "needs pip install '.[python-microscope]'"
microscope = pytest.importorskip("microscope", reason=WHY)
stage_aware = pytest.importorskip("microscope.simulators.stage_aware_camera", reason=WHY)

pytestmark = pytest.mark.filterwarnings("default")  # of other people's packages

TRUTH = np.array([(900, 950), (1100, 1010), (1000, 1150)])


@pytest.fixture
def setup(tmp_path):
    sample = np.zeros((2000, 2000, 3), np.uint8)
    for x, y in TRUTH.tolist():
        cv2.circle(sample, (x, y), 15, (255, 255, 255), -1)
    cv2.imwrite(str(tmp_path / "sample.png"), sample)
    devices = stage_aware.simulated_setup_from_image(str(tmp_path / "sample.png"))
    devices["stage"].enable()
    devices["camera"].set_exposure_time(0.005)
    devices["camera"].set_trigger(microscope.TriggerType.SOFTWARE, microscope.TriggerMode.ONCE)
    yield devices
    devices["camera"].disable()


def find(pixels):
    number, labels, _, _ = cv2.connectedComponentsWithStats((pixels[..., 0] > 99).astype(np.uint8))
    return cells_from_labels(labels.astype(np.uint16), np.zeros(number - 1, int), ("cell",))


def test_cells_lie_where_the_sample_has_them(setup):
    camera, stage = setup["camera"], setup["stage"]
    stage.move_to({"x": 1000, "y": 1040, "z": 0})
    client = Client(transport=FakeServer(find, class_names=("cell",)))
    with FrameAnalyzer(client, "yolo") as analyzer:
        seen = analyzer.results()
        # This camera turns its frames by 180 degrees.
        turned = (-1.0, 0.0, 0.0, 0.0, -1.0, 0.0)
        camera.set_client(CameraClient(analyzer, affine=turned, position=lambda: stage.position))
        camera.enable()
        camera.trigger()
        result = next(seen)
    assert result.answered
    centres = result.cells.to_stage_um(result.stage).centres_um
    distances = np.linalg.norm(centres[:, None] - (TRUTH + 0.5), axis=2).min(axis=1)
    assert len(centres) == len(TRUTH)
    assert distances.max() <= 1
