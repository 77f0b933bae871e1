"""The files of other programs, each read back by another library than the one that wrote it."""

from __future__ import annotations

import csv
import io
import json
import struct
import uuid
import zipfile

import cv2
import numpy as np
import ome_types
import polars
import pytest
import shapely
import tifffile
from PIL import Image
from skimage.measure import regionprops_table

from cytoserve import Cells, Foreground, cells_from_labels
from cytoserve.images import read_pixel_size
from cytoserve.measurements import AREAS, LENGTHS
from cytoserve.outputs import encode_output
from cytoserve.outputs.shapes import pixel_outline, shapes
from cytoserve.outputs.source import Source

ODD = 'a/Zell "1", <b>\n;\x07 µ漢\udce9.tif'
"""A name with what CSV, JSON and XML escape, and with a byte that is no Unicode."""

SOURCE = Source(ODD, "t0001_z003", ("DAPI", "GFP, 488"), 0.325)


@pytest.fixture
def two_channels(frame) -> np.ndarray:
    """uint16 [60, 80, 2]."""
    return np.stack([frame, 4000 - frame], axis=2)


@pytest.fixture
def odd_cells(cells) -> Cells:
    """One cell of one pixel, one without a pixel, one ordinary; a class no program likes."""
    labels = np.zeros((60, 80), np.uint16)
    labels[20, 30] = 1
    labels[40:50, 10:30] = 3
    odd = cells[:3]
    object.__setattr__(odd, "class_names", ('RBC: "x"\nµ😀', "=1+1"))
    object.__setattr__(odd, "labels", labels)
    boxes = odd.boxes.copy()
    boxes[0], boxes[2] = (30, 20, 31, 21), (10, 40, 30, 50)
    object.__setattr__(odd, "boxes", boxes)
    return odd


def many_cells(number: int = 70_000) -> Cells:
    """Cells of 2 x 1 pixels in rows."""
    columns = 300
    rows = -(-number // columns)
    labels = np.zeros((2 * rows, 3 * columns), np.uint32)
    y, x = np.divmod(np.arange(number), columns)
    labels[2 * y, 3 * x] = labels[2 * y, 3 * x + 1] = np.arange(1, number + 1)
    boxes = np.stack([3 * x, 2 * y, 3 * x + 2, 2 * y + 1], axis=1).astype(np.float32)
    return Cells(
        boxes=boxes,
        scores=np.linspace(1, 0, number, dtype=np.float32),
        class_ids=np.zeros(number, np.int32),
        class_probs=np.ones((number, 1), np.float32),
        patches=np.full((number, 2, 2), 255, np.uint8),
        frame_shape=labels.shape,
        class_names=("cell",),
        found=number,
        labels=labels,
    )


# OME-TIFF: pixels by Pillow, metadata by the OME schema


@pytest.mark.parametrize("kind", ["labels", "mask", "probability"])
def test_ome_tiff(kind, cells, foreground, frame, tmp_path):
    result = cells if kind == "labels" else foreground
    content = encode_output(kind, frame, result, SOURCE)
    wanted = {
        "labels": cells.label_image(),
        "mask": np.uint8(255) * foreground.mask,
        "probability": foreground.probability,
    }[kind]
    picture = Image.open(io.BytesIO(content))
    np.testing.assert_array_equal(np.array(picture), wanted)
    across, unit = picture.tag_v2[282], picture.tag_v2[296]
    assert (float(across), unit) == (pytest.approx(10_000 / 0.325, rel=1e-4), 3)  # per centimetre
    with tifffile.TiffFile(io.BytesIO(content)) as tiff:
        (image,) = ome_types.from_xml(tiff.ome_metadata).images
    assert (image.pixels.physical_size_x, image.pixels.physical_size_y) == (0.325, 0.325)
    assert image.pixels.physical_size_x_unit.value == "µm"
    assert image.name == 'Zell "1", <b>\\n;\\x07 µ漢\\udce9.tif t0001_z003'
    path = tmp_path / "a.tif"
    path.write_bytes(content)
    assert read_pixel_size(path) == 0.325


def test_ome_tiff_without_a_pixel_size(cells, frame):
    with tifffile.TiffFile(io.BytesIO(encode_output("labels", frame, cells, Source()))) as tiff:
        (image,) = ome_types.from_xml(tiff.ome_metadata).images
    assert image.pixels.physical_size_x is None


def test_ome_tiff_of_70_000_cells():
    cells = many_cells()
    content = encode_output("labels", np.zeros(cells.frame_shape, np.uint8), cells, SOURCE)
    found = np.array(Image.open(io.BytesIO(content))).astype(np.uint32)
    np.testing.assert_array_equal(found, cells.label_image())
    assert found.max() == 70_000


# Tables: measurements by scikit-image, Parquet by polars


def test_table_measures_what_scikit_image_does(cells, two_channels):
    table = cells.to_dataframe(two_channels, 0.325, ("DAPI", "GFP, 488"))
    labels = cells.label_image()
    names = ("label", *AREAS, *LENGTHS, "bbox", "centroid", "eccentricity")
    for name, values in regionprops_table(labels, properties=names).items():
        np.testing.assert_allclose(table[name], values, rtol=1e-6, err_msg=name)
    sized = regionprops_table(labels, properties=(*AREAS, *LENGTHS), spacing=(0.325, 0.325))
    for name, values in sized.items():
        ending = "_um2" if name in AREAS else "_um"
        np.testing.assert_allclose(table[f"{name}{ending}"], values, rtol=1e-6, err_msg=name)
    intensities = ("intensity_mean", "intensity_min", "intensity_max")
    measured = regionprops_table(labels, two_channels, properties=intensities)
    assert list(measured) == [f"{name}-{channel}" for name in intensities for channel in (0, 1)]
    unnamed = cells.to_dataframe(two_channels)
    for name, values in measured.items():
        np.testing.assert_allclose(unnamed[name], values, err_msg=name)
    named = [f"{name}-{channel}" for name in intensities for channel in ("DAPI", "GFP, 488")]
    for name, values in zip(named, measured.values(), strict=True):
        np.testing.assert_allclose(table[name], values, err_msg=name)
    assert set(table["pixel_size_um"]) == {0.325}
    grey = regionprops_table(labels, two_channels[..., 0], properties=intensities)
    assert set(grey) <= set(cells.to_dataframe(two_channels[..., 0]))


@pytest.mark.parametrize("number", [0, 1, 3])
def test_parquet_is_the_csv(cells, two_channels, number):
    some = cells[:number]
    found = polars.read_parquet(encode_output("parquet", two_channels, some, SOURCE))
    content = encode_output("table", two_channels, some, SOURCE)
    table = polars.read_csv(content, schema=found.schema)
    assert found.columns == table.columns
    assert found.height == number
    assert found.columns[:4] == ["image", "plane", "label", "class"]
    for name in found.columns:
        if found[name].dtype.is_float():
            np.testing.assert_allclose(found[name], table[name], rtol=1e-6)
        else:
            assert found[name].to_list() == table[name].to_list()
    if number:
        assert found["image"][0] == 'a/Zell "1", <b>\n;\x07 µ漢\\udce9.tif'
        assert found["intensity_mean-GFP, 488"][0] > 0


def test_tables_of_odd_cells(odd_cells, two_channels):
    found = polars.read_parquet(encode_output("parquet", two_channels, odd_cells, SOURCE))
    assert found["area"].to_list() == [1, 0, 200]
    assert found["area_um2"][2] == pytest.approx(200 * 0.325**2)
    assert found["centroid-0"].to_list() == [20, None, 44.5]
    assert found["intensity_max-DAPI"].to_list() == [
        two_channels[20, 30, 0],
        None,
        two_channels[40:50, 10:30, 0].max(),
    ]
    assert found["class"][0] == 'RBC: "x"\nµ😀'
    text = encode_output("table", two_channels, odd_cells, SOURCE).decode("utf-8")
    rows = list(csv.DictReader(io.StringIO(text, newline="")))
    assert list(rows[0]) == found.columns
    assert [row["class"] for row in rows] == found["class"].to_list()
    assert (rows[1]["area"], rows[1]["centroid-0"]) == ("0", "")


def test_tables_of_70_000_cells():
    cells = many_cells()
    frame = np.zeros(cells.frame_shape, np.uint8)
    found = polars.read_parquet(encode_output("parquet", frame, cells, SOURCE))
    assert found["label"].to_list() == list(range(1, 70_001))
    assert set(found["area"]) == {2}


# QuPath: geometry by shapely, the rest by what QuPath 0.5 reads


def test_geojson(cells, two_channels):
    content = encode_output("geojson", two_channels, cells, SOURCE)
    assert content == encode_output("geojson", two_channels, cells, SOURCE)
    features = json.loads(content)["features"]
    assert len(features) == 3
    labels, table = cells.label_image(), cells.to_dataframe(two_channels, 0.325, SOURCE.channels)
    for number, feature in enumerate(features, 1):
        properties = feature["properties"]
        assert feature["type"] == "Feature"
        assert properties["objectType"] == "detection"
        assert properties["name"] == str(number)
        assert properties["classification"]["name"] == cells.table()["class"][number - 1]
        assert len(properties["classification"]["color"]) == 3
        assert properties["metadata"]["pixel_size_um"] == "0.325"
        assert properties["metadata"]["plane"] == "t0001_z003"
        measured = properties["measurements"]
        assert all(isinstance(value, float) for value in measured.values())
        for name in ("area", "area_um2", "score", "probability-WBC", "intensity_mean-DAPI"):
            assert measured[name] == pytest.approx(table[name][number - 1], rel=1e-6)
        shape = shapely.from_geojson(json.dumps(feature["geometry"]))
        assert shape.is_valid
        assert shape.area == pytest.approx((labels == number).sum(), rel=0.05)
        y, x = np.argwhere(labels == number).mean(axis=0)
        assert shape.centroid.distance(shapely.Point(x + 0.5, y + 0.5)) < 0.5
    ids = [uuid.UUID(feature["id"]) for feature in features]
    assert len(set(ids)) == 3
    other = cells.to_geojson(image="other.tif")["features"]
    assert not {uuid.UUID(feature["id"]) for feature in other} & set(ids)


def test_geojson_of_odd_cells(odd_cells, two_channels):
    content = encode_output("geojson", two_channels, odd_cells, SOURCE)
    first, third = json.loads(content)["features"]  # the second owns no pixel
    assert [feature["properties"]["name"] for feature in (first, third)] == ["1", "3"]
    shape = shapely.from_geojson(json.dumps(first["geometry"]))
    assert shapely.Point(30.5, 20.5).within(shape)
    assert 0 < shape.area <= 1
    # QuPath refuses colons and line breaks in a class.
    assert first["properties"]["classification"]["name"] == 'RBC  "x" µ😀'
    assert first["properties"]["metadata"]["class"] == 'RBC: "x"\nµ😀'
    assert first["properties"]["metadata"]["image"] == 'a/Zell "1", <b>\n;\x07 µ漢\\udce9.tif'


def test_geojson_leaves_out_what_json_has_no_number_for(cells, frame):
    values = np.full((60, 80), np.inf, np.float32)
    features = cells.to_geojson(values)["features"]
    assert "intensity_mean" not in features[0]["properties"]["measurements"]
    assert json.dumps(features, allow_nan=False)


# ImageJ: by the layout of its files, as ij.io.RoiDecoder reads them


def decoded(data: bytes) -> dict:
    """Read one ROI: https://imagej.net/ij/developer/source/ij/io/RoiDecoder.java.html."""
    magic, version, kind, top, left, bottom, right, count = struct.unpack(">4shBxhhhhH", data[:18])
    assert magic == b"Iout"
    assert version >= 217
    size, stroke, _, _, options = struct.unpack(">i4s4shh", data[36:52])
    (second,) = struct.unpack(">i", data[60:64])
    name_at, name_length = struct.unpack(">ii", data[second + 16 : second + 24])
    props_at, props_length = struct.unpack(">ii", data[second + 40 : second + 48])
    found = {
        "kind": kind,
        "name": data[name_at : name_at + 2 * name_length].decode("utf-16be"),
        "props": data[props_at : props_at + 2 * props_length].decode("utf-16be"),
        "stroke": stroke,
        "bounds": (top, left, bottom, right),
    }
    if size:
        found["path"] = np.frombuffer(data, ">f4", size, 64)
    else:
        assert options & 128  # subpixel coordinates, after those in whole pixels
        places = np.frombuffer(data, ">f4", 2 * count, 64 + 4 * count)
        found["points"] = places.reshape(2, count).T.astype(np.float64)
    return found


def entries(content: bytes) -> dict[str, dict]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        assert archive.testzip() is None
        return {name: decoded(archive.read(name)) for name in archive.namelist()}


def test_rois(cells, frame):
    content = encode_output("rois", frame, cells, SOURCE)
    assert content == encode_output("rois", frame, cells, SOURCE)
    found = entries(content)
    assert list(found) == ["1.roi", "2.roi", "3.roi"]  # the ROI Manager shows these names
    for number, (roi, polygon) in enumerate(zip(found.values(), cells.polygons(), strict=True), 1):
        assert roi["name"] == str(number)
        assert roi["kind"] == 7  # freehand
        assert roi["props"] == f"class: {cells.table()['class'][number - 1]}\n"
        np.testing.assert_allclose(roi["points"], polygon, rtol=1e-6)
    assert found["1.roi"]["stroke"] != found["2.roi"]["stroke"]


def test_rois_of_odd_cells(odd_cells, frame):
    found = entries(encode_output("rois", frame, odd_cells, SOURCE))
    assert list(found) == ["1.roi", "3.roi"]
    assert found["1.roi"]["props"] == 'class: RBC: "x" µ\n'  # one line, 16 bits a character
    shape = shapely.Polygon(found["1.roi"]["points"])
    assert shapely.Point(30.5, 20.5).within(shape)


def test_rois_far_right(cells):
    """ImageJ's whole numbers end at 60535; the subpixel ones do not."""
    label = np.zeros((4, 70_000), np.uint8)
    label[1:3, 69_000:69_010] = 1
    found = cells_from_labels(label, np.array([0]), ("cell",))
    (roi,) = entries(encode_output("rois", label, found, SOURCE)).values()
    assert roi["points"][:, 0].min() == pytest.approx(69_000, abs=0.5)


def test_rois_with_holes(frame):
    probability = np.zeros((60, 80), np.uint8)
    probability[10:30, 10:40] = 255
    probability[15:20, 15:20] = 0
    found = Foreground.from_probability(probability)
    (roi,) = entries(encode_output("rois", frame, found, SOURCE)).values()
    assert roi["kind"] == 1  # a rectangle with a path is a composite
    assert roi["bounds"] == (10, 10, 30, 40)
    rings, path = [], roi["path"].tolist()
    while path:
        step = path.pop(0)
        if step == 4:
            continue
        if step == 0:
            rings.append([])
        rings[-1].append((path.pop(0), path.pop(0)))
    shape = shapely.Polygon(rings[0], rings[1:])
    assert shape.area == 20 * 30 - 25
    (feature,) = found.to_geojson()["features"]
    assert shapely.from_geojson(json.dumps(feature["geometry"])).area == shape.area


@pytest.mark.slow
def test_rois_and_detections_of_70_000_cells():
    cells = many_cells()
    content = encode_output("rois", np.zeros(cells.frame_shape, np.uint8), cells, SOURCE)
    with zipfile.ZipFile(io.BytesIO(content)) as archive:  # beyond what ZIP could count at first
        names = archive.namelist()
        assert decoded(archive.read("70000.roi"))["name"] == "70000"
    assert names == [f"{number}.roi" for number in range(1, 70_001)]
    assert len({each["id"] for each in cells.to_geojson()["features"]}) == 70_000


# Outlines


@pytest.mark.parametrize("seed", range(8))
def test_pixel_outlines_give_the_pixels(seed):
    random = np.random.default_rng(seed)
    smooth = cv2.GaussianBlur(random.random((40, 50)).astype(np.float32), (0, 0), 0.6 + seed / 5)
    found = Foreground.from_probability(np.where(smooth > 0.5, 255, 0).astype(np.uint8))
    rows, columns = np.mgrid[:40, :50] + 0.5
    for region in found.components():
        outer, holes = pixel_outline(region)
        covered = np.zeros((40, 50), np.int64)
        for ring in (outer, *holes):
            covered += shapely.contains_xy(
                shapely.make_valid(shapely.Polygon(ring)), columns, rows
            ).astype(np.int64)
        wanted = np.zeros((40, 50), np.bool_)
        wanted[region.rows, region.columns] = region.mask
        np.testing.assert_array_equal(covered % 2 == 1, wanted)


def test_what_owns_no_pixel_has_no_shape(odd_cells):
    found = list(shapes(odd_cells))
    assert [shape.label for shape in found] == [1, 3]
    assert all(len(shape.outline) >= 3 for shape in found)
