"""The Mask R-CNN is torchvision's, whatever it is filled with."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.detection import maskrcnn_resnet50_fpn_v2

from training.checkpoint import CheckpointError, Recipe, new_recipe, save_checkpoint
from training.maskrcnn.network import (
    ARCHITECTURE,
    COCO_WEIGHTS,
    PREDICTORS,
    build_maskrcnn,
    load_maskrcnn,
)
from training.maskrcnn.settings import WIDTH, NetworkSettings, Normalisation

SIZES = {"min_size": 64, "max_size": 128, "proposals": 20}


def save(folder: Path, architecture: str = ARCHITECTURE, **changed: object) -> Path:
    """A checkpoint of a tiny network of two classes; a setting that is None is left out."""
    settings = {**SIZES, "width": 8, "normalisation": "group", "epochs": 3, **changed}
    torch.manual_seed(0)
    network = build_maskrcnn(2, **SIZES, width=8, normalisation="group")
    recipe: Recipe = new_recipe(
        architecture=architecture,
        class_names=("rat", "human"),
        settings={name: value for name, value in settings.items() if value is not None},
        data={},
        initialised_from="random",
        seed=0,
        metrics={},
    )
    save_checkpoint(folder, network.state_dict(), recipe)
    return folder


def test_it_is_torchvisions_network() -> None:
    torch.manual_seed(0)
    ours = build_maskrcnn(2, min_size=96, max_size=128, proposals=30).eval()
    theirs = maskrcnn_resnet50_fpn_v2(
        num_classes=3,
        min_size=96,
        max_size=128,
        rpn_pre_nms_top_n_test=30,
        rpn_post_nms_top_n_test=30,
        box_detections_per_img=30,
    ).eval()
    theirs.load_state_dict(ours.state_dict())
    image = torch.rand(3, 50, 60)
    with torch.no_grad():
        answer, expected = ours([image])[0], theirs([image])[0]
    assert len(expected["boxes"]) > 0
    for name, tensor in expected.items():
        assert torch.equal(answer[name], tensor), name


def test_settings_reach_the_network() -> None:
    network = build_maskrcnn(1, **SIZES, width=8, anchor_sizes=(8, 16, 32, 64, 128))
    assert network.rpn.anchor_generator.sizes == ((8,), (16,), (32,), (64,), (128,))
    assert network.roi_heads.detections_per_img == 20
    assert network.transform.min_size == (64,)
    assert network.transform.max_size == 128


@pytest.mark.parametrize("width", [8, 24, WIDTH])
def test_group_normalisation_leaves_no_statistics_of_batches(width: int) -> None:
    network = build_maskrcnn(1, **SIZES, width=width, normalisation="group")
    assert not list(network.buffers())
    assert any(isinstance(module, nn.GroupNorm) for module in network.modules())


@pytest.mark.parametrize("normalisation", ["batch", "group"])
def test_frames_without_cells_are_trained_on(normalisation: Normalisation) -> None:
    torch.manual_seed(0)
    network = build_maskrcnn(1, **SIZES, width=8, normalisation=normalisation)
    empty: dict[str, Tensor] = {
        "boxes": torch.zeros(0, 4),
        "labels": torch.zeros(0, dtype=torch.int64),
        "masks": torch.zeros(0, 64, 70, dtype=torch.uint8),
    }
    losses = network([torch.rand(3, 64, 70)] * 2, [empty, empty])
    sum(losses.values()).backward()
    assert losses["loss_mask"].item() == losses["loss_box_reg"].item() == 0
    assert losses["loss_classifier"].item() > 0
    # Normalising nothing must not spoil the statistics of the mask head.
    assert all(t.isfinite().all() for t in network.state_dict().values())
    assert all(p.grad is None or p.grad.isfinite().all() for p in network.parameters())


def test_a_checkpoint_is_loaded(tmp_path: Path) -> None:
    anchors = [8.0, 16.0, 32.0, 64.0, 128.0]
    network, recipe = load_maskrcnn(save(tmp_path, anchor_sizes=anchors))
    assert recipe.class_names == ("rat", "human")
    assert not network.training
    assert [sizes[0] for sizes in network.rpn.anchor_generator.sizes] == anchors
    image = [torch.rand(3, 40, 50)]
    torch.manual_seed(0)
    same = build_maskrcnn(
        2, **SIZES, width=8, normalisation="group", anchor_sizes=tuple(anchors)
    ).eval()
    with torch.no_grad():
        assert torch.equal(network(image)[0]["masks"], same(image)[0]["masks"])


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        pytest.param({"architecture": "sam"}, f"of sam; here {ARCHITECTURE} is", id="network"),
        pytest.param({"min_size": None}, "settings lack min_size; train again", id="no min_size"),
        pytest.param({"proposals": 0}, "(?s)make no Mask R-CNN.*proposals", id="proposals"),
        pytest.param({"width": 16}, "does not fit the network", id="weights of another width"),
        pytest.param({"max_size": 64, "min_size": 65}, "it is no less than min_size", id="sizes"),
    ],
)
def test_another_checkpoint_is_refused(
    tmp_path: Path, changed: dict[str, object], message: str
) -> None:
    with pytest.raises(CheckpointError, match=message):
        load_maskrcnn(save(tmp_path, **changed))  # type: ignore[arg-type]


def test_a_network_without_classes_is_refused() -> None:
    with pytest.raises(ValueError, match="tells one class at least from background; got 0"):
        build_maskrcnn(0, **SIZES)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where torch.hub keeps the COCO weights; nothing is there, and nothing can be fetched."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    name = Path(COCO_WEIGHTS.url).name
    monkeypatch.setitem(COCO_WEIGHTS.value.__dict__, "url", f"http://127.0.0.1:9/{name}")
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    return tmp_path / "hub" / "checkpoints" / name


def test_coco_weights_fill_all_but_the_predictors(hub: Path) -> None:
    torch.manual_seed(0)
    published = {
        name: tensor.half() for name, tensor in maskrcnn_resnet50_fpn_v2().state_dict().items()
    }
    torch.save(published, hub)
    network = build_maskrcnn(2, **SIZES, coco=True).state_dict()
    for name, tensor in published.items():
        if not name.startswith(PREDICTORS):
            assert torch.equal(network[name], tensor.to(network[name].dtype)), name
    assert network["roi_heads.box_predictor.cls_score.weight"].shape[0] == 3
    assert network["roi_heads.mask_predictor.mask_fcn_logits.weight"].shape[0] == 3


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(None, "cannot be fetched or read .*--init random", id="out of reach"),
        pytest.param(b"damaged", "cannot be fetched or read", id="damaged"),
    ],
)
def test_coco_weights_that_cannot_be_had_are_a_message(
    hub: Path, content: bytes | None, message: str
) -> None:
    if content is not None:
        hub.write_bytes(content)
    with pytest.raises(CheckpointError, match=message) as caught:
        build_maskrcnn(1, **SIZES, coco=True)
    assert COCO_WEIGHTS.url in str(caught.value)
    assert f"Put the file at {hub} by hand" in str(caught.value)


def test_coco_weights_of_another_network_are_refused(hub: Path) -> None:
    torch.save({"backbone.body.conv1.weight": torch.zeros(1)}, hub)
    with pytest.raises(CheckpointError, match="does not fit the network"):
        build_maskrcnn(1, **SIZES, coco=True)


@pytest.mark.parametrize("given", [{"width": 32}, {"normalisation": "group"}])
def test_coco_weights_fit_torchvisions_own_network_only(given: dict[str, object]) -> None:
    with pytest.raises(CheckpointError, match="of width 64 with batch normalisation; here"):
        build_maskrcnn(1, **SIZES, **given, coco=True)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        pytest.param({"anchor_sizes": (32, 64)}, "at least 5 items", id="anchors of two levels"),
        pytest.param({"anchor_sizes": (0, 1, 2, 3, 4)}, "greater than 0", id="anchor of nothing"),
        pytest.param({"width": 12}, "multiple of 8", id="width"),
        pytest.param({"normalisation": "layer"}, "'batch' or 'group'", id="normalisation"),
        pytest.param({"min_size": 32}, "greater than or equal to 64", id="below the stride"),
    ],
)
def test_settings_that_make_no_network_are_refused(given: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        NetworkSettings.model_validate(given)
