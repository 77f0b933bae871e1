"""The committed lists and settings of the runs on real images."""

from __future__ import annotations

import pytest

from benchmarks.nuclei.protocol import read_set_settings
from benchmarks.published import S3, S3_ENDINGS
from training.datasets.annotated import AnnotatedDataset, AnnotatedFrame
from training.datasets.splits import SplitSizes, random_split
from training.nuclei_tiles import set_folder
from training.run.command_line import choose_settings
from training.unet.settings import (
    GLIOMA_PRESETS,
    NUCLEI_PRESETS,
    PLAIN_UNET,
    parse_resolution,
)
from training.yolo.settings import PRESETS as YOLO_PRESETS


@pytest.fixture
def folder(pytestconfig):
    return pytestconfig.rootpath / "benchmarks"


def test_the_fields_of_t98g_were_drawn_at_random(folder, tmp_path):
    """`random_split` with seed 0 chose them of the 18 fields; their figures did not."""
    fields = tuple(
        AnnotatedFrame(tmp_path / f"set{number:02}.png", 1, 1, ()) for number in range(1, 36, 2)
    )
    split = random_split(AnnotatedDataset(("cell",), fields), SplitSizes(10, 3, 5), seed=0)
    for name, part in (
        ("train", split.training),
        ("validation", split.validation),
        ("test", split.test),
    ):
        listed = (folder / "t98g" / f"{name}.txt").read_text().split()
        assert sorted(listed) == sorted(frame.path.stem for frame in part.frames)


def test_the_settings_of_t98g_are_valid(folder):
    settings = choose_settings(GLIOMA_PRESETS, "study", folder / "t98g" / "settings.yaml")
    assert settings.mode == "resize"
    # The run exports with --resize-to this, which takes numbers alone.
    assert parse_resolution(settings.resolution) == settings.size == (512, 512)


def test_the_settings_of_brecahad_are_valid_and_name_sets(folder):
    files = sorted((folder / "brecahad").glob("*.yaml"))
    common = choose_settings(NUCLEI_PRESETS, "study", folder / "brecahad" / "settings.yaml")
    by_folder = {str(set_folder(folder, name).name): name for name in S3}
    own = [file for file in files if not file.stem.startswith(("settings", "served"))]
    assert {file.stem for file in own} <= set(by_folder)
    texts = [f"{by_folder[file.stem]}={file}" for file in own]
    settings = read_set_settings(texts, list(S3), common)
    assert settings["original"].batch < settings["256/128"].batch
    for network, end in S3_ENDINGS.items():
        file = folder / "brecahad" / f"served{end}.yaml"
        served = choose_settings(NUCLEI_PRESETS, "study", file)
        assert served.width == common.width or network != PLAIN_UNET
        assert served.epochs / served.batch > common.epochs / common.batch  # more steps
        assert 0 < served.class_balance < common.class_balance


def test_no_test_image_of_the_shipped_models_was_trained_on(folder):
    trained = [*(folder / "general").glob("train-*.txt"), folder / "bccd" / "general.txt"]
    kept = [
        *(folder / "general").glob("test-*.txt"),
        *(folder / "bccd" / name for name in ("test.txt", "target.txt")),
        folder / "t98g" / "test.txt",
    ]
    learned, tested = (
        [n for f in files for n in f.read_text().split()] for files in (trained, kept)
    )
    assert len(learned) == 104
    assert len(tested) == 23 + 14 + 16 + 5
    assert len({*learned, *tested}) == len(learned) + len(tested)


def test_the_settings_of_the_shipped_models_are_valid(folder):
    yolo = choose_settings(YOLO_PRESETS, "general", folder / "general" / "yolo.yaml")
    assert yolo.own_pixels
    unet = choose_settings(GLIOMA_PRESETS, "study", folder / "general" / "unet.yaml")
    assert unet.mode == "crop"
