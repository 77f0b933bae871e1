"""The semantic chains against torch on whole frames: equal, and a wrong one is refused."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner

from cytoserve.contract import MASK, PROBABILITY
from cytoserve.model_config import MANIFEST_FILE
from export.__main__ import main
from export.parity.chain import Chain
from export.parity.foregrounds import check_foreground, foreground_inputs
from export.parity.steps import ParityError
from export.unet.reference import predict_tile_by_tile, predict_whole_frame
from export.unet.steps import scale_advice
from training.checkpoint import new_recipe
from training.unet.network import ARCHITECTURE, UNet, load_unet

RESIZED = (200, 160)
"""What `glioma_unet_livecell` of the exported repository resizes to."""


@pytest.fixture(scope="module")
def nuclei(checkpoints: Path) -> UNet:
    return load_unet(checkpoints / "nuclei")[0]


@pytest.fixture(scope="module")
def glioma(checkpoints: Path) -> UNet:
    return load_unet(checkpoints / "glioma")[0]


@pytest.fixture(scope="module")
def chains(exported_repository: Path) -> Callable[[str], Chain]:
    return lambda name: Chain(exported_repository, name, threads=1)


FRAMES = {
    "1x1": np.full((1, 1), 700, np.uint16),
    "one row": np.arange(900, dtype=np.uint16)[None],
    "one column, RGB": np.random.default_rng(0).integers(0, 256, (300, 1, 3), np.uint8),
    "odd": np.random.default_rng(1).integers(0, 4096, (97, 330), np.uint16),
    "tiles, RGB": np.random.default_rng(2).integers(0, 256, (256, 384, 3), np.uint8),
    "black": np.zeros((40, 300), np.uint16),
    "white": np.full((300, 40, 3), 255, np.uint8),
    "saturated": np.full((64, 64), 65535, np.uint16),
}


def test_nuclei_are_those_of_tile_by_tile(chains: Callable[[str], Chain], nuclei: UNet) -> None:
    figures = check_foreground(
        chains("nuclei_unet"),
        lambda image, white: predict_tile_by_tile(nuclei, image, white),
        FRAMES,
    )
    assert [figure.frame for figure in figures] == list(FRAMES)
    assert max(figure.deviation for figure in figures) < 3


@pytest.mark.parametrize(
    ("pipeline", "resize_to"), [("glioma_unet", None), ("glioma_unet_livecell", RESIZED)]
)
def test_frames_are_those_of_torch(
    chains: Callable[[str], Chain], glioma: UNet, pipeline: str, resize_to: tuple[int, int] | None
) -> None:
    def predict(image: np.ndarray, _: float) -> np.ndarray:
        return predict_whole_frame(glioma, image, resize_to)

    # torch's antialiased interpolation is wrong for answers one pixel wide; resize is not, see
    # tests/export/graphs/test_trace.py.
    frames = {name: frame for name, frame in FRAMES.items() if not (resize_to and "column" in name)}
    figures = check_foreground(chains(pipeline), predict, frames)
    assert max(figure.deviation for figure in figures) < 3
    other = None if resize_to else RESIZED
    with pytest.raises(ParityError, match="frame odd: the probability is within 2/255"):
        check_foreground(
            chains(pipeline),
            lambda image, _: predict_whole_frame(glioma, image, other),
            {"odd": FRAMES["odd"]},
        )


@pytest.mark.parametrize(
    "wrong",
    [
        pytest.param(lambda p: np.roll(p, 1, axis=1), id="shifted"),
        pytest.param(lambda p: p + 3, id="3 levels off"),
        pytest.param(lambda p: np.where(np.arange(p.shape[1]) == 100, 128 - p, p), id="a seam"),
    ],
)
def test_a_wrong_chain_is_refused(chains: Callable[[str], Chain], nuclei: UNet, wrong) -> None:
    frames = {"odd": FRAMES["odd"]}
    with pytest.raises(ParityError, match=r"frame odd: .* 99\.9% must be within"):
        check_foreground(
            chains("nuclei_unet"),
            lambda image, white: wrong(predict_tile_by_tile(nuclei, image, white)),
            frames,
        )


def test_another_grid_of_tiles_gives_the_same_inside(
    chains: Callable[[str], Chain],
) -> None:
    """A part that starts on the grid answers as the whole does, away from its own edges."""
    frame = np.random.default_rng(3).integers(0, 256, (640, 640, 3), np.uint16)
    chain, names = chains("nuclei_unet"), [PROBABILITY.name, MASK.name]
    whole = chain.run(foreground_inputs("nuclei_unet", frame, 255.0), names)
    part = chain.run(foreground_inputs("nuclei_unet", frame[128:, 128:], 255.0), names)
    for name in names:
        np.testing.assert_array_equal(part[name][256:, 256:], whole[name][384:, 384:])


def test_figures_and_settings_in_the_manifests(exported_repository: Path) -> None:
    def manifest(model: str) -> dict:
        return json.loads((exported_repository / model / "1" / MANIFEST_FILE).read_text())

    for pipeline in ("glioma_unet", "glioma_unet_livecell", "nuclei_unet"):
        [figure] = manifest(pipeline)["parity"]
        assert figure["within"] >= 0.999
        assert figure["pixels"] == 640 * 640
    assert manifest("glioma_network")["settings"] == {"resize_to": None}
    assert manifest("glioma_livecell_network")["settings"] == {"resize_to": list(RESIZED)}
    assert manifest("nuclei_centres")["settings"] == {"radius": 6.0}


@pytest.mark.parametrize("size", ["1472", "0x10", "10x99999", "axb", "-1x5", "1472x1120x3"])
def test_wrong_size(checkpoints: Path, source_repository: Path, size: str) -> None:
    arguments = ["glioma_unet", "--checkpoint", checkpoints / "glioma", "--resize-to", size]
    result = CliRunner().invoke(
        main, [str(a) for a in (*arguments, "--model-repository", source_repository)]
    )
    assert result.exit_code == 2
    assert re.search(r"no size; write width x height.*1472x1120", " ".join(result.stderr.split()))


@pytest.mark.parametrize(
    ("pipeline", "checkpoint", "texts"),
    [
        pytest.param("nuclei_unet", "glioma", ["hold no radius", "discs"], id="no radius"),
        pytest.param("nuclei_unet", "classifier", ["resnet50", "unet is needed"], id="resnet"),
        pytest.param("glioma_unet", "targets", ["yolo11n-seg", "unet is needed"], id="yolo"),
    ],
)
def test_checkpoint_of_another_network(
    checkpoints: Path, source_repository: Path, pipeline: str, checkpoint: str, texts: list[str]
) -> None:
    arguments = [pipeline, "--checkpoint", checkpoints / checkpoint]
    result = CliRunner().invoke(
        main, [str(a) for a in (*arguments, "--model-repository", source_repository)]
    )
    assert result.exit_code == 1
    assert all(text in result.stderr for text in (str(checkpoints / checkpoint), *texts))


def test_nothing_is_installed_when_the_chain_deviates(
    monkeypatch: pytest.MonkeyPatch,
    checkpoints: Path,
    source_repository: Path,
    tmp_path: Path,
) -> None:
    repository = Path(shutil.copytree(source_repository, tmp_path / "model_repository"))
    before = sorted(repository.rglob("*"))
    monkeypatch.setattr("export.unet.steps.predict_tile_by_tile", lambda _, image, __: image * 0.5)
    frame = tmp_path / "frame.png"
    cv2.imwrite(str(frame), FRAMES["odd"])
    result = CliRunner().invoke(
        main,
        [
            *("nuclei_unet", "--checkpoint", str(checkpoints / "nuclei")),
            *("--model-repository", str(repository), "--frames", str(frame)),
        ],
    )
    assert result.exit_code == 1
    assert "frame frame.png: the probability is within 2/255" in result.stderr
    assert sorted(repository.rglob("*")) == before


@pytest.mark.parametrize(
    ("settings", "resize_to", "advised"),
    [
        pytest.param(
            {"resolution": "512x384", "mode": "resize"},
            None,
            "--resize-to 512x384 is",
            id="as it is",
        ),
        pytest.param(
            {"resolution": "704p", "mode": "resize"},
            (700, 500),
            "--resize-to 704x512 is",
            id="other",
        ),
        pytest.param({"resolution": "512x384", "mode": "resize"}, (512, 384), None, id="the same"),
        pytest.param({"resolution": "512x384", "mode": "crop"}, None, None, id="windows"),
        pytest.param(
            {"resolution": "512x384", "mode": "crop"}, (512, 384), "leaving", id="resized, windows"
        ),
        pytest.param(
            {"resolution": "1472x1120", "mode": "resize", "window_scale": 0.5},
            None,
            "--resize-to 2944x2240 is",
            id="resized windows",
        ),
        pytest.param({"resolution": "native", "mode": "resize"}, None, None, id="native"),
        pytest.param(
            {"resolution": "native", "mode": "resize"}, (9, 9), "leaving", id="resized, native"
        ),
        pytest.param({}, None, None, id="a recipe of another kind"),
    ],
)
def test_another_scale_than_in_training_is_told(settings, resize_to, advised) -> None:
    recipe = new_recipe(
        architecture=ARCHITECTURE,
        class_names=("glioma",),
        settings=settings,
        data={},
        initialised_from="random",
        seed=0,
        metrics={},
    )
    advice = scale_advice(recipe, resize_to)
    assert [str(advised) in line for line in advice] == ([True] if advised else [])
