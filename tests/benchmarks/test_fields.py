"""The questions about size, place and scale: asked of a made-up server, and of the real one."""

from __future__ import annotations

import json
from dataclasses import replace

import cv2
import numpy as np
import pytest
from click.testing import CliRunner

from benchmarks.bounds import FIELDS, judge
from benchmarks.fields import __main__ as command
from benchmarks.fields import views
from benchmarks.fields.empty_frames import KINDS, EmptyFrame
from benchmarks.fields.false_cells import measure_false_cells, measure_false_foreground
from benchmarks.fields.pictures import save_picture
from benchmarks.fields.pipelines import FIGURES, ServedPipeline, quality_of, ratios
from benchmarks.fields.scenes import FACTORS, OFFSETS, Scene, crop, resized
from benchmarks.fields.tables import QUESTIONS, fields_table
from benchmarks.fields.views import (
    cells_inside,
    measure_corners,
    measure_offsets,
    measure_sizes,
    scale_options,
)
from cytoserve import Cells, Client, FakeServer, Foreground, cells_from_labels
from cytoserve.codec.cards import LearnedScale
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
    monkeypatch.setattr(views, "CORNER_FRAME", (160, 224))


# -- Quality --------------------------------------------------------------------------------------


def test_classes_do_not_matter():
    scene = drawn(96, 96)
    found = read(scene.image[:, :, None])
    turned = replace(found, class_ids=1 - found.class_ids)
    assert quality_of([(turned, scene)]) == pytest.approx(dict.fromkeys(FIGURES, 1.0))


@pytest.mark.parametrize(
    ("ours", "least"),
    [
        pytest.param(dict.fromkeys(FIGURES, 0.8), 1.0, id="the same"),
        pytest.param(dict.fromkeys(FIGURES, 0.8) | {"ap50": 0.4}, 0.5, id="the worst counts"),
        pytest.param(dict.fromkeys(FIGURES, 0.8) | {"f1": float("nan")}, float("nan"), id="no F1"),
    ],
)
def test_ratios(ours, least):
    assert ratios(ours, dict.fromkeys(FIGURES, 0.8))["least_ratio"] == pytest.approx(
        least, nan_ok=True
    )


def test_no_reference_gives_no_ratio():
    nothing = dict.fromkeys(FIGURES, 0.0)
    assert np.isnan(ratios(dict.fromkeys(FIGURES, 1.0), nothing)["least_ratio"])


# -- Size -----------------------------------------------------------------------------------------


def test_whole_scenes_are_compared_with_their_fields(scenes):
    rows, outlines = measure_sizes(pipeline_of(read), {1: 2, 4: 1})
    assert [row["fields"] for row in rows] == [1, 4]
    assert [(row["width"], row["height"]) for row in rows] == [(96, 96), (192, 192)]
    assert [row["cells"] for row in rows] == [18, 36]
    assert [row["least_ratio"] for row in rows] == pytest.approx([1, 1])
    assert [row["f1"] for row in rows] == pytest.approx([1, 1])
    assert [len(frame.lengths) for frame in outlines] == [9, 9, 36]


def test_what_is_lost_in_large_frames_is_seen(scenes):
    def blind(frame):
        found = read(frame)
        return found[:9] if max(frame.shape) > FIELD else found

    [_, whole] = measure_sizes(pipeline_of(blind), {1: 1, 4: 1})[0]
    assert whole["ratio_recall"] == pytest.approx(9 / 36)
    assert whole["ratio_precision"] == pytest.approx(1)
    assert whole["least_ratio"] < 0.97


def test_a_field_in_a_corner_is_compared_with_itself_alone(scenes):
    row = measure_corners(pipeline_of(read), 1)
    assert row["cells"] >= 4 * 4
    assert row["least_ratio"] == pytest.approx(1)
    corner = measure_corners(pipeline_of(lambda f: read(f) if len(f) == FIELD else read(f)[:0]), 1)
    assert corner["recall"] == 0
    assert corner["cut_recall"] == pytest.approx(1)


def test_cells_inside_a_crop_keep_class_and_score():
    scene = drawn(160, 160)
    whole = read(scene.image[:, :, None])
    whole = replace(whole, scores=np.linspace(1, 0.1, len(whole)).astype(np.float32))
    part = crop(scene, 30, 30, 96, 96)
    inside, alone = cells_inside(whole, part), read(part.image[:, :, None])
    np.testing.assert_array_equal(inside.label_image() > 0, part.image > 0)
    np.testing.assert_array_equal(inside.boxes, alone.boxes)
    np.testing.assert_array_equal(inside.class_ids, alone.class_ids)
    assert set(inside.scores) < set(whole.scores)
    assert len(cells_inside(whole[:0], part)) == 0


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
    assert [row["offset"] for row in rows] == ["0, 0", *(f"{x}, {y}" for x, y in OFFSETS)]
    counts = [row["found"] for row in rows]
    assert counts == [9 - (number == lost_at) for number in range(9)]
    assert [row["deviation"] for row in rows] == pytest.approx(deviations)


def test_nothing_found_anywhere_is_no_constancy(scenes):
    rows = measure_offsets(pipeline_of(lambda frame: read(frame)[:0]), 1, 200)
    assert all(np.isnan(row["deviation"]) for row in rows)
    [verdict] = [v for v in judge(FIELDS, {"fields": {"offsets": rows}}) if v.measured is not None]
    assert verdict.reached is False


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
    asked = {(row["told"], row["factor"]): row for row in rows}
    assert len(asked) == len(rows) == 3 * (1 + len(FACTORS))
    assert set(shapes) == {resized(drawn(96, 96), factor).shape for factor in (1, *FACTORS)}
    assert asked["nothing", 1.0]["f1"] == pytest.approx(1)
    assert asked["nothing", 2.0]["drop"] is None
    assert asked["cell diameter", 1.0]["drop"] is None
    assert asked["cell diameter", 2.0]["drop"] == pytest.approx(1)


# -- Empty frames ---------------------------------------------------------------------------------

EMPTY = [
    EmptyFrame("a", "constant", np.zeros((96, 96), np.uint16)),
    EmptyFrame("b", "constant", drawn(96, 96).image),
    EmptyFrame("c", "read noise", np.zeros((96, 96, 3), np.uint8)),
]


def test_false_cells_are_counted_by_kind():
    rows, drawn_frames = measure_false_cells(pipeline_of(read), EMPTY)
    assert {row["kind"]: row["per_frame"] for row in rows} == {
        "constant": 4.5,
        "read noise": 0,
        "all": 3,
    }
    assert {row["kind"]: row["frames_with_cells"] for row in rows}["constant"] == 1
    [frame] = drawn_frames
    assert frame.name == "b"
    assert frame.image.ndim == 3  # with outlines


def test_false_foreground_is_measured_by_kind():
    def find(frame):
        return Foreground.from_probability(np.uint8(255) * (frame[:, :, 0] > 0))

    client = Client(transport=FakeServer(foreground=find))
    rows = measure_false_foreground(client, "glioma_unet", EMPTY)
    share = 9 * 20**2 / 96**2
    assert {row["kind"]: row["share"] for row in rows} == {
        "constant": pytest.approx(share / 2),
        "read noise": 0,
        "all": pytest.approx(share / 3),
    }
    assert max(row["largest_share"] for row in rows) == pytest.approx(share)


# -- The command ----------------------------------------------------------------------------------

TINY = command.Load(
    sizes={1: 1, 4: 1},
    corner_scenes=1,
    offset_scenes=1,
    offset_side=256,
    factor_scenes=1,
    factor_side=256,
    empty=len(KINDS),
    repeats=1,
)


@pytest.fixture
def tiny(monkeypatch):
    """Frames so small that a random network, which finds hundreds of cells, soon answers."""
    monkeypatch.setattr(command, "QUICK", TINY)
    monkeypatch.setattr(views, "SIDE", 256)
    monkeypatch.setattr(views, "CORNER_FRAME", (300, 400))
    monkeypatch.setattr("benchmarks.fields.pipelines.SIDES", (256, 700))


def test_the_real_server_is_measured(server, tiny, tmp_path):
    done = CliRunner().invoke(
        command.main,
        [
            *("--url", server.url, "--quick", "--pipeline", "yolo", "--pipeline", "glioma_unet"),
            *("--json", str(tmp_path / "f.json"), "--markdown", str(tmp_path / "f.md")),
            *("--picture", str(tmp_path / "f.png")),
        ],
    )
    assert done.exit_code == 0, (done.output, done.exception)
    result = json.loads((tmp_path / "f.json").read_text())
    assert {name for name in QUESTIONS if result[name]} == set(QUESTIONS)
    assert {row["pipeline"] for row in result["foreground"]} == {"glioma_unet"}
    rest = [row for name in QUESTIONS if name != "foreground" for row in result[name]]
    assert {row["pipeline"] for row in rest} == {"yolo"}
    assert {row["told"] for row in result["factors"]} == {
        *("nothing", "fit", "cell diameter", "pixel size")
    }
    assert {row["kind"] for row in result["empty"]} == {*KINDS, "all"}
    assert [row["tiles"] for row in result["seconds"]] == [1, 4]
    assert result["machine"]["commit"]
    table = (tmp_path / "f.md").read_text()
    assert table.strip() in done.output
    assert table == fields_table(result)
    for bound in FIELDS:
        assert f"| {bound.name} |" in table
    assert cv2.imread(str(tmp_path / "f.png")) is not None
    with_cells = any(row["false_cells"] for row in result["empty"])
    assert (tmp_path / "f-yolo-false-cells.png").exists() == with_cells


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


def test_a_result_without_instance_pipelines_is_drawn_too(tmp_path):
    save_picture({"sizes": [], "factors": [], "empty": []}, tmp_path / "f.png")
    assert cv2.imread(str(tmp_path / "f.png")) is not None
