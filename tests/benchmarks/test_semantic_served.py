"""Whole-frame and tiled U-Nets measured through the real server."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest

from benchmarks.glioma.result import served_page as glioma_page
from benchmarks.glioma.served import measure as measure_glioma
from benchmarks.nuclei.result import served_page as nuclei_page
from benchmarks.nuclei.served import measure as measure_nuclei
from cytoserve import Client
from training.checkpoint import CheckpointError
from training.datasets.readers import read_annotated
from training.datasets.readers.brecahad import disc_mask, read_brecahad
from training.rendered import RenderSettings, render_dataset
from training.unet.dice import dice_score
from training.unet.frames import foreground_mask


@pytest.fixture(scope="module")
def cells(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cells")
    settings = RenderSettings(height=120, width=150, cells=5, mean_diameter=30)
    render_dataset(folder, frames=2, settings=settings, seed=0)
    return read_annotated(folder)


@pytest.fixture(scope="module")
def nuclei(tmp_path_factory):
    folder = tmp_path_factory.mktemp("nuclei")
    for name in ("images", "groundTruth"):
        (folder / name).mkdir()
    random = np.random.default_rng(0)
    image = random.integers(180, 230, (300, 340, 3)).astype(np.uint8)
    points = random.uniform((20, 20), (320, 280), (30, 2))
    for x, y in points:
        cv2.circle(image, (int(x), int(y)), 9, (120, 60, 110), cv2.FILLED)
    assert cv2.imwrite(str(folder / "images/Case_1-01.jpg"), image)
    classes = ("mitosis", "apoptosis", "tumor", "non_tumor", "tubule", "non_tubule")
    annotation = {name: [] for name in classes}
    annotation["non_tumor"] = [{"x": x / 340, "y": y / 300} for x, y in points.tolist()]
    (folder / "groundTruth/Case_1-01.json").write_text(json.dumps(annotation))
    return read_brecahad(folder)


def check_speed(speed):
    assert min(speed.served, speed.in_process, speed.study) > 0


def test_whole_frames(cells, server, checkpoints):
    result = measure_glioma(
        cells, server, "glioma_unet", checkpoints / "glioma", repeats=1, timed_frames=1
    )
    with Client(server.url) as client:
        for frame, figures in zip(cells.frames, result.frames, strict=True):
            answer = client.foreground(frame.read(), "glioma_unet")
            assert figures.dice == dice_score(answer.mask, foreground_mask(frame))
    assert result.dice == pytest.approx(np.mean([frame.dice for frame in result.frames]))
    check_speed(result.speed)
    page = glioma_page(result)
    assert f"| mean |  | {result.dice:.3f} | {result.iou:.3f} |" in page


def test_tiled_frames(nuclei, server, checkpoints):
    result = measure_nuclei(
        nuclei,
        server,
        checkpoints / "nuclei",
        repeats=1,
        timed_frames=1,
        offsets=[(32, 32)],
        margin=64,
    )
    [frame], [figures] = nuclei, result.frames
    with Client(server.url) as client:
        answer = client.foreground(frame.read(), "nuclei_unet")
    truth = disc_mask(frame.nuclei(), (300, 340), result.radius)
    assert figures.dice == dice_score(answer.mask, truth)
    assert (figures.annotated, figures.found) == (30, len(answer.centres))
    distances = np.linalg.norm(answer.centres[None] - frame.nuclei()[:, None], axis=2)
    near = distances <= result.radius
    assert figures.matched <= min(near.any(axis=0).sum(), near.any(axis=1).sum())
    check_speed(result.speed)
    [seam] = result.seams
    assert seam.pixels == (300 - 32 - 128) * (340 - 32 - 128)
    page = nuclei_page(result)
    assert f"| Case_1-01 | {figures.dice:.3f} | {figures.iou:.3f} | 30 |" in page
    assert f"| all | {figures.dice:.3f} | {figures.iou:.3f} | 30 |" in page
    assert f" | {figures.matched / 30:.3f} |" in page
    assert f"| (32, 32) | {seam.below_limit:.2%} |" in page


def test_other_weights_than_the_served_ones_are_refused(cells, nuclei, server, checkpoints):
    with pytest.raises(CheckpointError, match="glioma_network was exported from another"):
        measure_glioma(
            cells,
            server,
            "glioma_unet",
            checkpoints / "nuclei",
            repeats=1,
            timed_frames=1,
        )
    with pytest.raises(CheckpointError, match="nuclei_network was exported from another"):
        measure_nuclei(
            nuclei,
            server,
            checkpoints / "glioma",
            repeats=1,
            timed_frames=1,
            offsets=[(32, 32)],
            margin=64,
        )
