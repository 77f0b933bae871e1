"""The questions about size, place and scale: asked of a made-up server, and of the real one."""

from __future__ import annotations

from dataclasses import asdict, replace

import cv2
import numpy as np
import pytest
from click.testing import CliRunner

from benchmarks.fields import __main__ as command
from benchmarks.fields import views
from benchmarks.fields.empty_frames import KINDS, EmptyFrame
from benchmarks.fields.result import BOUNDS, FieldsResult, Figures, Load, SizeRow, fields_page
from benchmarks.fields.scenes import FACTORS, OFFSETS, Scene, resized
from benchmarks.fields.views import (
    ServedPipeline,
    doubled_cells,
    measure_empty,
    measure_foreground,
    measure_offsets,
    measure_sizes,
    quality_of,
    scale_options,
)
from benchmarks.harness.results import read_result
from cytoserve import Cells, Client, FakeServer, Foreground, cells_from_labels
from cytoserve.codec.cards import LearnedScale
from cytoserve.contract import MASK_SIZE
from training.datasets.annotated import AnnotatedCell

NAMES = ("spread", "round")
FIELD = 96
"""Side of a field of the drawn scenes, in pixels."""


def drawn(height: int, width: int) -> Scene:
    """Square cells of 20 px, one every 32 px; the pixels of the i-th have the value i."""
    image, cells = np.zeros((height, width), np.uint16), []
    for y in range(5, height - 20, 32):
        for x in range(5, width - 20, 32):
            cells.append(AnnotatedCell(x, y, np.ones((20, 20), bool), len(cells) % 2))
            image[y : y + 20, x : x + 20] = len(cells)
    return Scene("drawn", image, tuple(cells))


def read(frame: np.ndarray) -> Cells:
    """The cells of a drawn scene, or of a part of it."""
    values = np.unique(frame[frame > 0])
    labels = np.where(frame > 0, np.searchsorted(values, frame) + 1, 0)
    class_ids = (values.astype(int) + 1) % 2
    return cells_from_labels(labels[:, :, 0], class_ids, NAMES)


def pipeline_of(find) -> ServedPipeline:
    client = Client(transport=FakeServer(find, class_names=NAMES, pipelines=("yolo",)))
    return ServedPipeline(client, "yolo", client.card("yolo"))


@pytest.fixture
def scenes(monkeypatch):
    """Every question is about drawn scenes of small fields."""
    for module in (views,):
        monkeypatch.setattr(
            module, "scene_number", lambda number, height, width: drawn(height, width)
        )
    monkeypatch.setattr(views, "SIDE", FIELD)


EMPTY_RESULT = FieldsResult(
    benchmark="fields",
    command="",
    machine={},
    load=Load(sizes={}),
    thresholds={},
    sizes=(),
    doubled=(),
    offsets=(),
    factors=(),
    empty=(),
    foreground=(),
)


# -- Quality --------------------------------------------------------------------------------------


FIGURES = tuple(Figures.__dataclass_fields__)


def compared(whole, cut) -> SizeRow:
    sides = {"height": 96, "width": 96, "scenes": 1, "cells": 9}
    figures = {"whole": Figures(**whole), "cut": Figures(**cut)}
    return SizeRow(pipeline="yolo", fields=1, **sides, **figures)


def test_classes_do_not_matter():
    scene = drawn(96, 96)
    found = read(scene.image[:, :, None])
    turned = replace(found, class_ids=1 - found.class_ids)
    assert asdict(quality_of([(turned, scene)])) == pytest.approx(dict.fromkeys(FIGURES, 1.0))


@pytest.mark.parametrize(
    ("ours", "least"),
    [
        pytest.param(dict.fromkeys(FIGURES, 0.8), 1.0, id="the same"),
        pytest.param(dict.fromkeys(FIGURES, 0.8) | {"ap50": 0.4}, 0.5, id="the worst counts"),
        pytest.param(dict.fromkeys(FIGURES, 0.8) | {"f1": float("nan")}, float("nan"), id="no F1"),
    ],
)
def test_ratios(ours, least):
    same = dict.fromkeys(FIGURES, 0.8)
    assert compared(ours, same).least_ratio == pytest.approx(least, nan_ok=True)


def test_no_reference_gives_no_ratio():
    nothing = dict.fromkeys(FIGURES, 0.0)
    assert np.isnan(compared(dict.fromkeys(FIGURES, 1.0), nothing).least_ratio)


# -- Size -----------------------------------------------------------------------------------------


def test_whole_scenes_are_compared_with_their_fields(scenes):
    rows, doubled = measure_sizes(pipeline_of(read), {1: 2, 4: 1})
    assert [row.fields for row in rows] == [1, 4]
    assert [(row.width, row.height) for row in rows] == [(96, 96), (192, 192)]
    assert [row.cells for row in rows] == [18, 36]
    assert [row.least_ratio for row in rows] == pytest.approx([1, 1])
    assert [row.whole.f1 for row in rows] == pytest.approx([1, 1])
    assert (doubled.cells, doubled.doubled) == (9 + 9 + 36, 0)


def test_what_is_lost_in_large_frames_is_seen(scenes):
    def blind(frame):
        found = read(frame)
        return found[:9] if max(frame.shape) > FIELD else found

    [_, whole] = measure_sizes(pipeline_of(blind), {1: 1, 4: 1})[0]
    assert whole.ratios["recall"] == pytest.approx(9 / 36)
    assert whole.ratios["precision"] == pytest.approx(1)
    assert whole.least_ratio < 0.97


def disc(x: int, y: int, radius: int) -> np.ndarray:
    """Bool ``[200, 240]``."""
    rows, columns = np.mgrid[:200, :240]
    return (columns - x) ** 2 + (rows - y) ** 2 < radius**2


def answer(*shapes: np.ndarray) -> Cells:
    """Cells of these shapes, which may overlap, in their tight boxes."""
    boxes, patches = [], []
    for shape in shapes:
        rows, columns = np.flatnonzero(shape.any(1)), np.flatnonzero(shape.any(0))
        boxes.append((columns[0], rows[0], columns[-1] + 1, rows[-1] + 1))
        inside = shape[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        patches.append(cv2.resize(np.uint8(255) * inside, (MASK_SIZE, MASK_SIZE)))
    number = len(shapes)
    return Cells(
        boxes=np.array(boxes, np.float32).reshape(-1, 4),
        scores=np.linspace(1, 0.5, number, dtype=np.float32),
        class_ids=np.zeros(number, np.int32),
        class_probs=np.ones((number, 1), np.float32),
        patches=np.array(patches, np.uint8).reshape(-1, MASK_SIZE, MASK_SIZE),
        frame_shape=(200, 240),
        class_names=("cell",),
        found=number,
    )


DISC, APART = disc(100, 90, 18), disc(40, 40, 18)
NEAR, INSIDE = disc(110, 90, 18), disc(102, 92, 8)


@pytest.mark.parametrize(
    ("cells", "doubled"),
    [
        pytest.param(answer(DISC, APART), [False, False], id="apart"),
        pytest.param(answer(DISC, DISC), [True, True], id="the same twice"),
        pytest.param(answer(DISC, INSIDE), [True, True], id="a part of it again"),
        pytest.param(answer(DISC, NEAR), [False, False], id="neighbours that overlap by 0.65"),
        pytest.param(
            answer(DISC, APART, DISC, INSIDE), [True, False, True, True], id="one of four apart"
        ),
        pytest.param(answer(), [], id="no cell"),
    ],
)
def test_doubled_cells(cells, doubled):
    assert doubled_cells(cells).tolist() == doubled


def test_a_cell_beyond_the_frame_is_no_double():
    boxes = np.array([[82, 72, 118, 108], [-60, -60, -24, -24]], np.float32)
    assert doubled_cells(replace(answer(DISC, DISC), boxes=boxes)).tolist() == [False, False]


# -- Place ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lost_at", "deviations"),
    [
        pytest.param(None, [0.0] * 9, id="the same cells at all offsets"),
        pytest.param(2, [1 / 80, 1 / 80, 8 / 80, *[1 / 80] * 6], id="one less at one offset"),
    ],
)
def test_cells_are_counted_at_every_offset(scenes, monkeypatch, lost_at, deviations):
    """9 cells lie in the part that all offsets see."""
    monkeypatch.setattr(views, "MARGIN", 20)
    calls = iter(range(100))

    def find(frame):
        found = read(frame)
        middles = (found.boxes[:, :2] + found.boxes[:, 2:]) / 2
        inner = np.abs(middles - np.array(frame.shape[1::-1]) / 2).max(axis=1).argmin()
        kept = np.arange(len(found)) != inner
        return found[kept] if next(calls) == lost_at else found

    rows = measure_offsets(pipeline_of(find), 1, 200)
    assert [row.offset for row in rows] == ["0, 0", *(f"{x}, {y}" for x, y in OFFSETS)]
    counts = [row.found for row in rows]
    assert counts == [9 - (number == lost_at) for number in range(9)]
    assert [row.deviation for row in rows] == pytest.approx(deviations)


def test_nothing_found_anywhere_is_no_constancy(scenes):
    rows = measure_offsets(pipeline_of(lambda frame: read(frame)[:0]), 1, 200)
    assert all(np.isnan(row.deviation) for row in rows)
    [bound] = [bound for bound in BOUNDS if bound.name == "Place of a frame"]
    assert bound.judge(replace(EMPTY_RESULT, offsets=tuple(rows))).reached is False


# -- Scale ----------------------------------------------------------------------------------------

LEARNED = LearnedScale(network_scale=1.0, cell_diameter_px=36.0, largest_cell_px=96.0)


@pytest.mark.parametrize(
    ("learned", "told"),
    [
        pytest.param(None, {"nothing": {}, "fit": {"scale": "fit"}}, id="no scale on the card"),
        pytest.param(
            LEARNED,
            {"nothing": {}, "fit": {"scale": "fit"}, "cell diameter": {"cell_diameter_px": 72}},
            id="no pixel size on the card",
        ),
        pytest.param(
            replace(LEARNED, pixel_size_um=0.5),
            {
                "nothing": {},
                "fit": {"scale": "fit"},
                "cell diameter": {"cell_diameter_px": 72},
                "pixel size": {"pixel_size_um": 0.25},
            },
            id="all",
        ),
    ],
)
def test_what_a_frame_of_twice_the_size_tells(learned, told):
    assert {name: way(2.0) for name, way in scale_options(learned).items()} == told


def test_every_factor_is_asked_in_every_way(scenes, monkeypatch):
    shapes = []

    def find(frame):
        shapes.append(frame.shape[:2])
        return read(frame) if frame.shape[0] == 96 else read(frame)[:0]

    pipeline = replace(pipeline_of(find))
    pipeline = replace(pipeline, card=replace(pipeline.card, scale=LEARNED))
    # The client would refuse: the fake server's own card tells no scale.
    monkeypatch.setattr(ServedPipeline, "find", lambda self, image, **_: find(image[:, :, None]))
    rows = views.measure_factors(pipeline, 1, 96)
    asked = {(row.told, row.factor): row for row in rows}
    assert len(asked) == len(rows) == 3 * (1 + len(FACTORS))
    assert set(shapes) == {resized(drawn(96, 96), factor).shape for factor in (1, *FACTORS)}
    assert asked["nothing", 1.0].figures.f1 == pytest.approx(1)
    assert asked["nothing", 2.0].drop is None
    assert asked["cell diameter", 1.0].drop is None
    assert asked["cell diameter", 2.0].drop == pytest.approx(1)


# -- Empty frames ---------------------------------------------------------------------------------

EMPTY = [
    EmptyFrame("a", "constant", np.zeros((96, 96), np.uint16)),
    EmptyFrame("b", "constant", drawn(96, 96).image),
    EmptyFrame("c", "read noise", np.zeros((96, 96, 3), np.uint8)),
]


def test_false_cells_are_counted_by_kind():
    rows = measure_empty(pipeline_of(read), EMPTY)
    assert {row.kind: row.per_frame for row in rows} == {
        "constant": 4.5,
        "read noise": 0,
        "all": 3,
    }
    assert {row.kind: row.frames_with_cells for row in rows}["constant"] == 1


def test_false_foreground_is_measured_by_kind():
    def find(frame):
        return Foreground.from_probability(np.uint8(255) * (frame[:, :, 0] > 0))

    client = Client(transport=FakeServer(foreground=find))
    rows = measure_foreground(client, "glioma_unet", EMPTY)
    share = 9 * 20**2 / 96**2
    assert {row.kind: row.share for row in rows} == {
        "constant": pytest.approx(share / 2),
        "read noise": 0,
        "all": pytest.approx(share / 3),
    }
    assert max(row.largest_share for row in rows) == pytest.approx(share)


# -- The command ----------------------------------------------------------------------------------

TINY = Load(
    sizes={1: 1, 4: 1},
    offset_scenes=1,
    offset_side=256,
    factor_scenes=1,
    factor_side=256,
    empty=len(KINDS),
)


@pytest.fixture
def tiny(monkeypatch):
    """Frames so small that a random network, which finds hundreds of cells, soon answers."""
    monkeypatch.setattr(command, "QUICK", TINY)
    monkeypatch.setattr(views, "SIDE", 256)


def test_the_real_server_is_measured(server, tiny, tmp_path):
    done = CliRunner().invoke(
        command.main,
        [
            *("--url", server.url, "--quick", "--pipeline", "yolo", "--pipeline", "glioma_unet"),
            *("--json", str(tmp_path / "f.json"), "--markdown", str(tmp_path / "f.md")),
            *("--picture", str(tmp_path / "pictures" / "f.png")),
        ],
    )
    assert done.exit_code == 0, (done.output, done.exception)
    result = read_result(tmp_path / "f.json", FieldsResult)
    assert {row.pipeline for row in result.foreground} == {"glioma_unet"}
    for rows in (result.sizes, result.doubled, result.offsets, result.factors, result.empty):
        assert {row.pipeline for row in rows} == {"yolo"}
    told = {"nothing", "fit", "cell diameter", "pixel size"}
    assert {row.told for row in result.factors} == told
    assert {row.kind for row in result.empty} == {*KINDS, "all"}
    assert result.machine["commit"]
    table = (tmp_path / "f.md").read_text()
    assert table.strip() in done.output
    assert table == fields_page(result)
    for bound in BOUNDS:
        assert f"| {bound.name} |" in table
    picture = cv2.imread(str(tmp_path / "pictures" / "f.png"))
    assert picture.shape == (540, 1800, 3)
    assert np.ptp(picture.reshape(-1, 3), axis=0).min() > 0  # not blank, in any channel


@pytest.mark.parametrize(
    ("pipelines", "wanted", "chosen"),
    [
        pytest.param(("yolo", "yolo_resnet"), (), ["yolo", "yolo_resnet"], id="all with cells"),
        pytest.param(("yolo", "yolo_resnet"), ("yolo_resnet",), ["yolo_resnet"], id="the named"),
    ],
)
def test_pipelines_that_are_measured(pipelines, wanted, chosen):
    client = Client(transport=FakeServer(read, class_names=NAMES, pipelines=pipelines))
    assert command.served_pipelines(client, wanted) == chosen


def test_a_pipeline_that_is_not_served_is_refused_before_anything_is_measured(server, tmp_path):
    words = ["--url", "localhost:1", "--json", str(tmp_path / "f.json")]
    done = CliRunner().invoke(command.main, words)
    assert done.exit_code == 1
    assert "Traceback" not in done.output
    client = Client(transport=FakeServer(read, class_names=NAMES, pipelines=("yolo",)))
    with pytest.raises(command.click.ClickException, match=r"maskrcnn, served: yolo\. Export it"):
        command.served_pipelines(client, ["maskrcnn"])
