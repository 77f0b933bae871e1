"""The U-Nets: the study's encoders, sizes, checkpoints."""

from __future__ import annotations

from pathlib import Path

import huggingface_hub.constants
import pytest
import torch

from training.checkpoint import CheckpointError, new_recipe, save_checkpoint
from training.unet.network import ARCHITECTURE, build_unet, imagenet_source, load_unet
from training.unet.settings import ENCODERS, NETWORKS, PLAIN_UNET
from training.unet.trainer import LOSSES

FAST = (PLAIN_UNET, "MobileNetV2")
EVERY_NETWORK = [
    pytest.param(name, id=name, marks=[] if name in FAST else pytest.mark.slow) for name in NETWORKS
]


def pixels(*shape: int) -> torch.Tensor:
    random = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, shape, generator=random, dtype=torch.uint8)


def save(folder: Path, architecture: str = ARCHITECTURE, **settings: object) -> Path:
    """A checkpoint of a small plain U-Net; other things may be told of it than are true."""
    torch.manual_seed(0)
    recipe = new_recipe(
        architecture=architecture,
        class_names=("glioma",),
        settings={"encoder": PLAIN_UNET, "width": 2, **settings},
        data={},
        initialised_from="random",
        seed=0,
        metrics={},
    )
    save_checkpoint(folder, build_unet(PLAIN_UNET, width=2).state_dict(), recipe)
    return folder


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("name", EVERY_NETWORK)
def test_every_network_builds_trains_one_step_and_runs(name: str) -> None:
    torch.manual_seed(0)
    unet = build_unet(name, width=4).to(memory_format=torch.channels_last)
    images, masks = pixels(2, 3, 64, 64), torch.zeros(2, 1, 64, 64)
    masks[:, :, 20:40, 20:40] = 1
    optimizer = torch.optim.Adam(unet.parameters(), lr=1e-4)
    before = [p.detach().clone() for p in unet.parameters()]
    loss = LOSSES["dice+cross-entropy"](unet(images), masks, torch.ones(1, 1, 1, 1))
    loss.backward()
    optimizer.step()
    changed = [not torch.equal(a, b) for a, b in zip(before, unet.parameters(), strict=True)]
    assert torch.isfinite(loss)
    # Residual branches of timm's networks begin with a factor of 0, and so without gradient.
    assert changed[0]
    assert changed[-1]
    # smp's EfficientNet keeps the last convolution of its classifier, which nothing reads.
    assert sum(p.grad is not None for p in unet.parameters()) > 0.99 * len(changed)
    with torch.inference_mode():
        logits = unet.eval()(pixels(1, 3, 50, 70))
    assert logits.shape == (1, 1, 50, 70)
    assert logits.dtype == torch.float32
    assert torch.isfinite(logits).all()


@pytest.mark.parametrize("name", EVERY_NETWORK)
@pytest.mark.parametrize("edge", [0, 1, 2, 7, 40, 48, 60])
def test_the_inner_answer_is_that_of_the_whole_image(name: str, edge: int) -> None:
    torch.manual_seed(0)
    unet = build_unet(name, width=4).eval()
    images = pixels(1, 3, 160, 128)
    with torch.inference_mode():
        whole, inner = unet(images), unet.forward_inner(images, edge)
    expected = whole[:, :, edge : 160 - edge, edge : 128 - edge]
    # Deep encoders of random weights answer up to 43.
    torch.testing.assert_close(inner, expected, rtol=0, atol=1e-5 * float(whole.abs().max() + 1))


def test_all_encoders_of_the_study_are_there() -> None:
    assert len(ENCODERS) == 16
    for encoder in ENCODERS.values():
        assert imagenet_source(encoder).startswith(("smp-hub/", "timm/"))


@pytest.mark.parametrize(
    ("name", "stride"), [pytest.param(PLAIN_UNET, 16), pytest.param("MobileNetV2", 32)]
)
def test_images_of_any_size_are_padded_by_their_edge(name: str, stride: int) -> None:
    torch.manual_seed(0)
    unet = build_unet(name, width=4).eval()
    assert unet.stride == stride
    with torch.inference_mode():
        for height, width in ((1, 1), (1, 40), (33, 17), (64, 32)):
            assert unet(pixels(2, 3, height, width)).shape == (2, 1, height, width)
        image = pixels(1, 3, 50, 60)
        padded = torch.nn.functional.pad(image.float(), (0, 4, 0, 14), mode="replicate").byte()
        assert torch.allclose(unet(image), unet(padded)[:, :, :50, :60], atol=1e-5)


def test_the_plain_unet_of_the_paper_has_31_million_weights() -> None:
    # 31.03 million with its 2x2 up-convolutions, of which 1x1 ones leave out three quarters.
    count = sum(p.numel() for p in build_unet(PLAIN_UNET).parameters())
    assert 28.5e6 < count < 29.5e6


def test_a_checkpoint_is_loaded(tmp_path: Path) -> None:
    unet, recipe = load_unet(save(tmp_path / "checkpoint"))
    assert recipe.class_names == ("glioma",)
    assert not unet.training


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        pytest.param({"encoder": "VGG-20"}, "name no U-Net of this version", id="encoder"),
        pytest.param({"width": "wide"}, "name no U-Net of this version", id="width"),
        pytest.param({"width": 4}, "does not fit the network", id="other weights"),
    ],
)
def test_a_checkpoint_that_names_another_network_is_refused(
    tmp_path: Path, settings: dict[str, object], message: str
) -> None:
    with pytest.raises(CheckpointError, match=message):
        load_unet(save(tmp_path / "checkpoint", **settings))


def test_a_checkpoint_of_another_architecture_is_refused(tmp_path: Path) -> None:
    folder = save(tmp_path / "classifier", architecture="resnet50")
    with pytest.raises(CheckpointError, match="is a checkpoint of resnet50; here unet is needed"):
        load_unet(folder)


def test_an_unknown_encoder_is_refused() -> None:
    with pytest.raises(ValueError, match=r"unknown encoder 'VGG20'; choose one of: DenseNet169,"):
        build_unet("VGG20")


@pytest.mark.parametrize(
    ("name", "source"),
    [
        pytest.param("MobileNetV2", "smp-hub/mobilenet_v2.imagenet", id="of smp"),
        pytest.param("Res2Net50 26w 4s", "timm/res2net50_26w_4s.in1k", id="of timm"),
    ],
)
def test_imagenet_weights_out_of_reach_are_a_message(
    name: str, source: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(CheckpointError) as raised:
        build_unet(name, imagenet=True)
    assert f"https://huggingface.co/{source}, which cannot be fetched" in str(raised.value)
    assert "--init random" in str(raised.value)


def test_the_plain_unet_has_no_imagenet_weights() -> None:
    with pytest.raises(CheckpointError, match="no ImageNet weights of the plain U-Net"):
        build_unet(PLAIN_UNET, imagenet=True)
