"""Centres of nuclei: read, refused with file, entry and reason, and made into discs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tifffile

from training.datasets.annotated import AnnotationError
from training.datasets.readers.brecahad import RADIUS, disc_labels, disc_mask, read_brecahad

HEIGHT, WIDTH = 20, 40


def truth() -> dict[str, list[dict[str, float]]]:
    return {
        "tumor": [{"x": 0.25, "y": 0.5}, {"x": 1.0, "y": 1.0}],
        "non_tumor": [{"x": 0.0, "y": 0.75}],
        "mitosis": [{"x": 0.1, "y": 0.1}],
        "apoptosis": [],
        "tubule": [],
        "non_tubule": [],
    }


def write(folder: Path, stem: str = "Case_3-07", content: Any = None) -> None:
    for name in ("images", "groundTruth"):
        (folder / name).mkdir(exist_ok=True)
    cv2.imwrite(str(folder / "images" / f"{stem}.png"), np.zeros((HEIGHT, WIDTH, 3), np.uint8))
    text = json.dumps(truth() if content is None else content)
    (folder / "groundTruth" / f"{stem}.json").write_text(text)


def test_centres_are_read_in_frame_pixels(tmp_path: Path) -> None:
    write(tmp_path)
    write(tmp_path, "Case_12-01", {name: [] for name in truth()})
    empty, frame = read_brecahad(tmp_path)
    assert (frame.path.name, frame.annotation.name) == ("Case_3-07.png", "Case_3-07.json")
    assert (frame.height, frame.width, frame.case) == (HEIGHT, WIDTH, "Case_3")
    assert frame.points["tumor"].tolist() == [[10, 10], [40, 20]]
    assert frame.points["non_tumor"].tolist() == [[0, 15]]
    assert set(frame.points) == {"tumor", "non_tumor"}
    assert frame.nuclei().dtype == np.float32
    assert frame.nuclei().shape == (3, 2)
    assert (empty.case, empty.nuclei().shape) == ("Case_12", (0, 2))
    assert frame.read().shape == (HEIGHT, WIDTH, 3)


def spoil(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], object]:
    def write_spoilt(folder: Path) -> None:
        content = truth()
        change(content)
        write(folder, content=content)

    return write_spoilt


def centre(x: Any, y: Any) -> Callable[[Path], object]:
    return spoil(lambda content: content["non_tumor"][0].update(x=x, y=y))


MALFORMED = [
    pytest.param(spoil(lambda c: c.pop("tumor")), r"json: tumor: Field required; corr", id="class"),
    pytest.param(
        spoil(lambda c: c.pop("tubule")), r"tubule: Field required; correct", id="class not read"
    ),
    pytest.param(
        spoil(lambda c: c["tumor"][1].pop("y")), r"tumor\[1\], key 'y': Field required", id="no y"
    ),
    pytest.param(
        centre(1.25, 0.5), r"non_tumor\[0\]: .* at \(1\.25, 0\.5\); give fractions", id="above 1"
    ),
    pytest.param(centre(0.5, -0.01), r"non_tumor\[0\]: .* at \(0\.5, -0\.01\)", id="below 0"),
    pytest.param(centre(float("nan"), 0.5), r"non_tumor\[0\]: .* at \(nan, 0\.5\)", id="NaN"),
    pytest.param(centre(0.5, float("inf")), r"non_tumor\[0\]: .* at \(0\.5, inf\)", id="infinite"),
    pytest.param(centre("left", 0.5), r"non_tumor\[0\], key 'x': .*valid number", id="text"),
    pytest.param(
        spoil(lambda c: c["mitosis"][0].update(x=2)), r"mitosis\[0\]: has its", id="not read"
    ),
    pytest.param(
        lambda d: (d / "groundTruth" / "Case_3-07.json").unlink(),
        r"Case_3-07\.png: has no groundTruth/Case_3-07\.json; add",
        id="no JSON",
    ),
    pytest.param(
        lambda d: (d / "groundTruth" / "Case_3-08.json").write_text("{}"),
        r"Case_3-08\.json: has no image 'Case_3-08' in .*images; add",
        id="no image",
    ),
    pytest.param(
        lambda d: (d / "images" / "Case_3-07.png").unlink(), r"images: holds no image", id="empty"
    ),
    pytest.param(lambda d: write(d, "Case-3"), r"Case-3\.png: does not name its case", id="case"),
    pytest.param(
        lambda d: (d / "images" / "Case_3-07.png").write_text("no"),
        r"Case_3-07\.png: cannot be read as an image",
        id="damaged image",
    ),
    pytest.param(
        lambda d: (d / "groundTruth" / "Case_3-07.json").write_text("{,"),
        r"line 1, column 2: is not valid JSON",
        id="damaged JSON",
    ),
]


@pytest.mark.parametrize(("change", "message"), MALFORMED)
def test_malformed(tmp_path: Path, change: Callable[[Path], object], message: str) -> None:
    write(tmp_path)
    assert len(read_brecahad(tmp_path)) == 1  # sound before it is spoilt
    change(tmp_path)
    with pytest.raises(AnnotationError, match=message) as caught:
        read_brecahad(tmp_path)
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize(
    "image", [np.zeros((HEIGHT, WIDTH), np.uint8), np.zeros((HEIGHT, WIDTH, 3), np.uint16)]
)
def test_images_are_rgb_of_8_bits(tmp_path: Path, image: np.ndarray) -> None:
    write(tmp_path)
    (tmp_path / "images" / "Case_3-07.png").unlink()
    tifffile.imwrite(tmp_path / "images" / "Case_3-07.tif", image)
    with pytest.raises(AnnotationError, match=r"save it as RGB of 8 bits"):
        read_brecahad(tmp_path)[0].read()


def test_discs_are_round_and_cut_off_at_the_border() -> None:
    points = np.array([[20, 10], [40, 20], [0, 3]], np.float32)
    labels = disc_labels(points, (HEIGHT, WIDTH), 4.2)
    rows, columns = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    for label, (x, y) in enumerate(points, start=1):
        assert np.array_equal(labels == label, np.hypot(columns - x, rows - y) <= 4.2)
    assert np.array_equal(disc_mask(points, (HEIGHT, WIDTH), 4.2), labels > 0)


def test_where_discs_overlap_the_nearest_point_wins() -> None:
    labels = disc_labels(np.array([[10, 10], [16, 10]], np.float32), (HEIGHT, WIDTH), 5)
    assert set(labels[8:12, 10:13].ravel()) == {1}
    assert set(labels[8:12, 13:16].ravel()) == {2}


@pytest.mark.parametrize("point", [(10.5, 10.5), (0, 0), (WIDTH, HEIGHT), (12, 12)])
def test_the_smallest_disc_is_one_pixel(point: tuple[float, float]) -> None:
    assert disc_mask(np.array([point], np.float32), (HEIGHT, WIDTH), 0.1).sum() == 1


def test_no_point_is_no_disc() -> None:
    assert not disc_mask(np.zeros((0, 2), np.float32), (HEIGHT, WIDTH), 5).any()


@pytest.mark.parametrize("radius", [0, -1, float("nan"), float("inf")])
def test_a_radius_is_above_0(radius: float) -> None:
    with pytest.raises(ValueError, match=r"radius above 0 pixels; got"):
        disc_mask(np.zeros((1, 2), np.float32), (HEIGHT, WIDTH), radius)


def test_real_frames(shared_data: Path) -> None:
    frames = read_brecahad(shared_data / "brecahad")
    assert {frame.case for frame in frames} == {"Case_10", "Case_11", "Case_12"}
    assert {(frame.height, frame.width) for frame in frames} == {(1024, 1360)}
    assert sum(len(frame.points["tumor"]) for frame in frames) == 1584
    # Nuclei are darker than what lies around them: the discs are where the nuclei are.
    frame = frames[0]
    image = frame.read().mean(axis=2)
    inside = disc_mask(frame.nuclei(), image.shape, RADIUS / 2)
    around = disc_mask(frame.nuclei(), image.shape, 2 * RADIUS)
    assert image[inside].mean() < image[around & ~inside].mean() - 10
