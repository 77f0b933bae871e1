"""SAM's sizes, and what is read from files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from segment_anything import SamPredictor
from torch import nn

from training.checkpoint import CheckpointError, new_recipe, save_checkpoint
from training.sam.network import ARCHITECTURE, build_sam, load_published, load_sam
from training.sam.settings import SIZES


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file as segment-anything publishes them: a pickled dict of the weights."""
    file = tmp_path_factory.mktemp("published") / "sam_tiny.pth"
    torch.manual_seed(0)
    torch.save(build_sam("tiny").state_dict(), file)
    return file


def test_tiny_runs_in_the_predictor_of_segment_anything() -> None:
    sam = build_sam("tiny")
    assert 1e6 < sum(weights.numel() for weights in sam.parameters()) < 3.5e6
    predictor = SamPredictor(sam)
    predictor.set_image(torch.randint(256, (40, 60, 3), dtype=torch.uint8).numpy())
    masks, qualities, low_resolution = predictor.predict(box=torch.tensor([5, 5, 20, 30]).numpy())
    assert masks.shape == (3, 40, 60)
    assert qualities.shape == (3,)
    assert low_resolution.shape == (3, *sam.prompt_encoder.mask_input_size)


def test_the_published_sizes_are_those_of_the_registry() -> None:
    assert SIZES == ("vit_h", "vit_l", "vit_b", "tiny")
    with torch.device("meta"):
        widths = [build_sam(size).image_encoder.pos_embed.shape[3] for size in SIZES[:3]]
    assert widths == [1280, 1024, 768]


def test_an_unknown_size_is_refused() -> None:
    with pytest.raises(ValueError, match="one of vit_h, vit_l, vit_b, tiny; got 'vit_x'"):
        build_sam("vit_x")


def test_a_published_file_is_read(published: Path) -> None:
    sam = load_published(published, "tiny")
    torch.manual_seed(0)
    expected = build_sam("tiny").state_dict()
    assert all(torch.equal(weights, expected[name]) for name, weights in sam.state_dict().items())
    assert not sam.training
    assert sam.pixel_mean.flatten().tolist() == pytest.approx([123.675, 116.28, 103.53])
    assert sam.image_encoder(torch.zeros(1, 3, 512, 512)).isfinite().all()


class Code:
    """What a hostile pickle holds."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("/nowhere/at/all",)


def without_one(weights: dict[str, Any]) -> dict[str, Any]:
    return {name: w for name, w in weights.items() if name != "mask_decoder.iou_token.weight"}


def with_one_more(weights: dict[str, Any]) -> dict[str, Any]:
    return {**weights, "head.weight": torch.zeros(2)}


def with_another_shape(weights: dict[str, Any]) -> dict[str, Any]:
    return {**weights, "mask_decoder.iou_token.weight": torch.zeros(1, 7)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param(lambda w: nn.Linear(2, 2).state_dict(), "it is no SAM", id="another network"),
        pytest.param(lambda w: {"model": w}, "it holds a dict of 'model'", id="nested"),
        pytest.param(lambda w: torch.zeros(3), "it holds a Tensor", id="one tensor"),
        pytest.param(lambda w: {**w, "x": Code()}, "asks for code to be run", id="hostile pickle"),
        pytest.param(without_one, "1 are absent, mask_decoder.iou_token", id="a tensor less"),
        pytest.param(with_one_more, "1 tensors are not of it, head.weight", id="a tensor more"),
        pytest.param(
            with_another_shape, r"iou_token.weight is \[1, 7\], not \[1, 96\]", id="a shape"
        ),
    ],
)
def test_a_file_that_is_no_sam_is_refused(
    published: Path, tmp_path: Path, change: Any, message: str
) -> None:
    file = tmp_path / "other.pth"
    torch.save(change(torch.load(published, weights_only=True)), file)
    with pytest.raises(CheckpointError, match=message):
        load_published(file, "tiny")


def test_a_sam_of_another_size_is_refused(published: Path) -> None:
    with pytest.raises(CheckpointError, match="a SAM of size tiny; here vit_b is asked for"):
        load_published(published, "vit_b")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(None, "is no file", id="absent"),
        pytest.param(b"no pickle at all", "is no file of torch.save, or is damaged", id="damaged"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused(
    tmp_path: Path, content: bytes | None, message: str
) -> None:
    file = tmp_path / "sam.pth"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        load_published(file, "tiny")


def write_checkpoint(folder: Path, settings: dict[str, Any], weights: dict[str, Any]) -> None:
    recipe = new_recipe(
        architecture=ARCHITECTURE,
        class_names=("cell",),
        settings=settings,
        data={},
        initialised_from="random",
        seed=0,
        metrics={},
    )
    save_checkpoint(folder, weights, recipe)


def test_a_checkpoint_is_read(tmp_path: Path) -> None:
    weights = build_sam("tiny").state_dict()
    write_checkpoint(tmp_path, {"size": "tiny"}, weights)
    sam, recipe = load_sam(tmp_path)
    assert all(torch.equal(w, weights[name]) for name, w in sam.state_dict().items())
    assert recipe.settings == {"size": "tiny"}
    assert not sam.training


@pytest.mark.parametrize("size", [None, "vit_x", 3])
def test_a_checkpoint_without_a_size_is_refused(tmp_path: Path, size: object) -> None:
    write_checkpoint(tmp_path, {"size": size}, {"a": torch.zeros(1)})
    with pytest.raises(CheckpointError, match="name its size, one of vit_h"):
        load_sam(tmp_path)


def test_a_checkpoint_whose_weights_do_not_fit_is_refused(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, {"size": "tiny"}, {"a": torch.zeros(1)})
    with pytest.raises(CheckpointError, match="does not fit the network"):
        load_sam(tmp_path)
