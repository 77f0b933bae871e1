"""What the rooms' tests share: random networks as checkpoints, exported and served for real."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import hypothesis
import numpy as np
import pytest
import tifffile
import torch
from click.testing import CliRunner
from filelock import FileLock
from torchvision.models.detection import MaskRCNN

from export.__main__ import main as export_main
from export.parity.reference import normalised_rgb
from export.repository.configs import make_repository
from server.embedded import EmbeddedServer
from training.checkpoint import LearnedAppearance, LearnedScale, Recipe, save_checkpoint
from training.maskrcnn.network import ARCHITECTURE as MASKRCNN
from training.maskrcnn.network import build_maskrcnn
from training.preprocessing.cutting import NetworkTiles
from training.preprocessing.normalise import PrepareWholeFrame
from training.rendered import RenderSettings, render_frame
from training.resnet.network import ARCHITECTURE as RESNET50
from training.resnet.network import CellClassifier
from training.sam.network import ARCHITECTURE as SAM
from training.sam.network import build_sam
from training.sam.settings import TINY
from training.unet.network import ARCHITECTURE as UNET
from training.unet.network import PLAIN_UNET, UNet, build_unet
from training.yolo.network import SegmentationModel, new_network
from training.yolo.settings import ARCHITECTURE as YOLO

# How long an example takes is the machine's affair.
hypothesis.settings.register_profile("unhurried", deadline=None)
hypothesis.settings.load_profile("unhurried")

if "PYTEST_XDIST_WORKER" in os.environ:
    # Several test processes share the cores; a pool of all cores in each would only contend.
    torch.set_num_threads(1)

Counts = TypeVar("Counts")

ROOT = Path(__file__).parents[1]
UNET_WIDTH = 4
NUCLEI_RADIUS = 6.0
MASKRCNN_SETTINGS = {"min_size": 128, "max_size": 256, "proposals": 600, "width": 8}
LEVEL_ENDS = (6400, 8000, 8400)
"""Anchors of the three levels of the 640 px network, summed up."""


LONGEST = (
    "integration/test_served_pipelines.py",
    "integration/test_served_foreground.py",
    "training/resnet/test_main.py",
    "benchmarks/test_regression.py",
    "export/parity/test_instances.py",
    "benchmarks/approaches/test_main.py",
    "server/test_supervision.py",
    "integration/test_folder_and_failure.py",
    "server/test_onnxruntime_backend.py",
    "benchmarks/instances/test_main.py",
)
"""Files that take half a minute and more: they start first, so that none runs alone at the end."""

for _file in LONGEST:
    if not (ROOT / "tests" / _file).is_file():
        raise FileNotFoundError(f"tests/{_file} of LONGEST is gone; name where its tests are now.")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """One file that needs the exported repository first, then all that do not, then the others.

    Of two test processes, one then exports while the other finds enough to do.
    """
    files: dict[Path, list[pytest.Item]] = {}
    for item in items:
        files.setdefault(item.path, []).append(item)
    exported, others = [], []
    for _, tests in sorted(files.items(), key=lambda file: _rank(file[0], len(file[1]))):
        needed = any("exported_repository" in getattr(t, "fixturenames", ()) for t in tests)
        (exported if needed else others).append(tests)
    items[:] = [test for tests in (*exported[:1], *others, *exported[1:]) for test in tests]


def _rank(file: Path, tests: int) -> tuple[int, int]:
    """The longest files in their order, then those of most tests."""
    name = file.relative_to(ROOT / "tests").as_posix()
    return LONGEST.index(name) if name in LONGEST else len(LONGEST), -tests


SCALE = LearnedScale(
    network_scale=1.0, cell_diameter_px=36.0, largest_cell_px=96.0, pixel_size_um=0.5
)
APPEARANCE = LearnedAppearance(kinds=("grey",), background=(0.4, 0.6))
"""What the checkpoints record."""


def recipe(architecture: str, class_names: tuple[str, ...], **settings: object) -> Recipe:
    return Recipe(
        architecture=architecture,
        class_names=class_names,
        settings=settings,
        data={},
        initialised_from="random",
        seed=0,
        metrics={},
        versions={},
        created="2026-01-01T00:00:00+00:00",
        scale=SCALE,
        appearance=APPEARANCE,
    )


def rendered(seed: int, side: int = 640) -> np.ndarray:
    return render_frame(RenderSettings(height=side, width=side, cells=12), seed)[0]


def random_yolo(class_count: int, frames: Sequence[np.ndarray]) -> SegmentationModel:
    """A YOLO11n-seg that finds hundreds of cells in ``frames`` without having learned anything.

    Its batch norms fit the frames and noise, its scores spread from 0 to 1, and its masks fill
    most of their boxes, so that rounding does not decide what is found.
    """
    torch.manual_seed(class_count)
    network = new_network(class_count)
    scale, overlap = torch.tensor([1.0]), torch.tensor([0.0])
    prepare = NetworkTiles()
    prepared = [
        prepare(torch.from_numpy(np.atleast_3d(f).astype(np.int32)), scale, overlap)[0]
        for f in frames
    ]
    noise = torch.randint(0, 256, prepared[0].shape, dtype=torch.uint8)
    images = torch.cat([*prepared, noise]) / 255
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None  # running statistics become those of the one batch
            module.reset_running_stats()
    head = network.model[-1]
    with torch.inference_mode():
        network.train()(images)
        network.eval()
        head.proto.cv3.bn.weight.mul_(0.3)
        head.proto.cv3.bn.bias.add_(1.0)
        for branch in head.cv4:
            branch[-1].weight.mul_(3.0)
            branch[-1].bias.fill_(0.3)
        for branch in head.cv3:
            branch[-1].weight.normal_()
            branch[-1].bias.fill_(0.0)
        scores = network(images)[0][0][:-1, 4 : 4 + class_count]
        logits = torch.logit(scores, eps=1e-6)
        start = 0
        for branch, end in zip(head.cv3, LEVEL_ENDS, strict=True):
            level = logits[:, :, start:end]
            branch[-1].weight.mul_(1.5 / level.std())
            branch[-1].bias.fill_(float(-2.5 - level.mean() * 1.5 / level.std()))
            start = end
    return network


def random_unet(
    frame: np.ndarray,
    encoder: str = PLAIN_UNET,
    width: int = UNET_WIDTH,
    seed: int = 0,
    noise: int = 0,
) -> UNet:
    """A U-Net whose probabilities spread from 0 to 1 on ``frame`` without having learned anything.

    Its batch norms fit the frame and ``noise`` images of noise, and its logits on the frame have
    mean 0 and deviation 2. Deep encoders need the noise: what few values fit, others blow up, until
    float32 itself is too coarse.
    """
    torch.manual_seed(seed)
    unet = build_unet(encoder, width=width)
    images = PrepareWholeFrame()(torch.from_numpy(np.atleast_3d(frame).astype(np.int32)))
    for module in unet.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None  # running statistics become those of the one batch
            module.reset_running_stats()
    noisy = torch.randint(0, 256, (noise, *images.shape[1:]), dtype=torch.uint8)
    with torch.inference_mode():
        unet.train()(torch.cat([images, noisy]))
        logits = unet.eval()(images)
        last = [module for module in unet.modules() if isinstance(module, torch.nn.Conv2d)][-1]
        last.weight.mul_(2 / logits.std())
        last.bias.copy_((last.bias - logits.mean()) * 2 / logits.std())
    return unet


def random_maskrcnn(class_count: int) -> MaskRCNN:
    """A narrow Mask R-CNN that finds hundreds of cells without having learned anything.

    Its batch norms fit a rendered frame and noise, its scores spread from 0 to 1, and its masks
    fill most of their boxes. Its residual branches are weak, for strong ones of random weights
    make much of a rounding in the last digit.
    """
    torch.manual_seed(class_count)
    network = build_maskrcnn(class_count, **MASKRCNN_SETTINGS)
    for name, module in network.named_modules():
        if name.endswith("bn3"):
            torch.nn.init.constant_(module.weight, 0.2)
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None  # running statistics become those of the one batch
            module.reset_running_stats()
    heads, rpn = network.roi_heads, network.rpn
    frame = torch.from_numpy(normalised_rgb(rendered(0, side=256)).transpose(2, 0, 1) / 255).float()
    with torch.inference_mode():
        network.eval()
        images, _ = network.transform([frame, torch.rand(frame.shape)])
        levels = fitted(network.backbone, images.tensors)
        logits = torch.cat([level.flatten() for level in rpn.head(list(levels.values()))[0]])
        rpn.head.cls_logits.weight.mul_(1 / logits.std())
        proposals, _ = rpn(images, levels)
        features = fitted(heads.box_head, heads.box_roi_pool(levels, proposals, images.image_sizes))
        classes, deltas = heads.box_predictor.cls_score, heads.box_predictor.bbox_pred
        classes.weight.mul_(1.5 / classes(features).std(0)[:, None])
        classes.bias.sub_(classes(features).mean(0))
        deltas.weight.mul_(0.5 / deltas(features).std())
        features = fitted(
            heads.mask_head, heads.mask_roi_pool(levels, proposals, images.image_sizes)
        )
        last = heads.mask_predictor.mask_fcn_logits
        last.weight.mul_(1 / heads.mask_predictor(features).std())
        last.bias.add_(3 - heads.mask_predictor(features).mean())
    return network


def fitted(part: torch.nn.Module, inputs: torch.Tensor) -> torch.Tensor:
    """What ``part`` answers once its batch norms fit ``inputs``."""
    part.train()(inputs)
    return part.eval()(inputs)


@pytest.fixture(scope="session")
def make_random_maskrcnn() -> Callable[[int], MaskRCNN]:
    """See `random_maskrcnn`; its settings are `MASKRCNN_SETTINGS`."""
    return random_maskrcnn


@pytest.fixture(scope="session")
def make_random_unet() -> Callable[..., UNet]:
    """See `random_unet`."""
    return random_unet


@pytest.fixture(scope="session")
def make_random_yolo() -> Callable[[int, Sequence[np.ndarray]], SegmentationModel]:
    """See `random_yolo`."""
    return random_yolo


@pytest.fixture(scope="session")
def settled() -> Callable[[Callable[[], Counts]], Counts]:
    """Reads a server's counts when they have not moved for a while.

    Triton counts an inference after it has sent its answer, so a caller can ask too early.
    """

    def read(counts: Callable[[], Counts], quiet: float = 0.5) -> Counts:
        latest, since = counts(), time.monotonic()
        while time.monotonic() - since < quiet:
            time.sleep(0.05)
            if (now := counts()) != latest:
                latest, since = now, time.monotonic()
        return latest

    return read


@pytest.fixture(scope="session")
def made_once(
    tmp_path_factory: pytest.TempPathFactory, worker_id: str
) -> Callable[[str, Callable[[Path], None]], Path]:
    """Fills a new folder by a function; of several test processes, one does it for all."""

    def make(name: str, fill: Callable[[Path], None]) -> Path:
        base = tmp_path_factory.getbasetemp()
        folder = (base if worker_id == "master" else base.parent) / name
        with FileLock(f"{folder}.lock"):
            if not folder.exists():
                unfinished = folder.with_suffix(".part")
                shutil.rmtree(unfinished, ignore_errors=True)
                unfinished.mkdir()
                fill(unfinished)
                unfinished.rename(folder)
        return folder

    return make


@pytest.fixture(scope="session")
def checkpoints(made_once: Callable[[str, Callable[[Path], None]], Path]) -> Path:
    """Folder with a checkpoint of every kind: `targets`, `cells`, `classifier`, `maskrcnn`, `sam`,
    `glioma` and `nuclei`."""
    return made_once("checkpoints", fill_checkpoints)


def fill_checkpoints(folder: Path) -> None:
    names = ("spread", "round")
    save_checkpoint(
        folder / "targets", random_yolo(2, [rendered(0)]).state_dict(), recipe(YOLO, names)
    )
    save_checkpoint(
        folder / "cells", random_yolo(1, [rendered(0)]).state_dict(), recipe(YOLO, ("cell",))
    )
    torch.manual_seed(0)
    classifier = CellClassifier(2)
    save_checkpoint(folder / "classifier", classifier.state_dict(), recipe(RESNET50, names))
    about = recipe(MASKRCNN, names, **MASKRCNN_SETTINGS)
    # The network is fitted at 128 pixels.
    about = about.model_copy(update={"scale": SCALE.model_copy(update={"network_scale": 0.2})})
    save_checkpoint(folder / "maskrcnn", random_maskrcnn(2).state_dict(), about)
    torch.manual_seed(0)
    save_checkpoint(folder / "sam", build_sam(TINY).state_dict(), recipe(SAM, ("cell",), size=TINY))
    settings = {"encoder": PLAIN_UNET, "width": UNET_WIDTH}
    for name, about in {"glioma": {}, "nuclei": {"radius": NUCLEI_RADIUS}}.items():
        unet = random_unet(rendered(0, side=256), seed=len(name))
        about = recipe(UNET, (name,), **settings, **about)
        save_checkpoint(folder / name, unet.state_dict(), about)


@pytest.fixture(scope="session")
def frames() -> dict[str, np.ndarray]:
    """Name -> frame, as the chain is proven on."""
    return {"rendered.tif": rendered(1)}


@pytest.fixture(scope="session")
def source_repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The repository as it is in the source tree: configs and variants, and nothing exported."""
    repository = tmp_path_factory.mktemp("source") / "model_repository"
    make_repository(repository)
    return repository


@pytest.fixture
def export_command() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts `python -m export …`, which ends with the test even where the test was cut off."""
    started: list[subprocess.Popen[str]] = []

    def start(*arguments: str | Path) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "export", *map(str, arguments)],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT / "client")},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        with process:  # which waits, and closes its pipes
            process.kill()


@pytest.fixture(scope="session")
def exported_repository(
    made_once: Callable[[str, Callable[[Path], None]], Path],
    source_repository: Path,
    checkpoints: Path,
    frames: dict[str, np.ndarray],
) -> Path:
    """All pipelines, exported by the real command. Not to be changed: see `repository`."""

    def fill(folder: Path) -> None:
        fill_repository(folder, source_repository, checkpoints, frames)

    return made_once("exported", fill) / "model_repository"


def fill_repository(
    folder: Path,
    source_repository: Path,
    checkpoints: Path,
    frames: dict[str, np.ndarray],
) -> None:
    repository = folder / "model_repository"
    shutil.copytree(source_repository, repository)
    for name, frame in frames.items():
        tifffile.imwrite(folder / name, frame)

    # In this process, where all is imported already: another costs longer than the export.
    for name, *weights in (
        ("yolo", "--targets", "targets"),
        ("yolo_resnet", "--cells", "cells", "--classifier", "classifier"),
        ("maskrcnn", "--checkpoint", "maskrcnn"),
        ("maskrcnn_sam", "--maskrcnn", "maskrcnn", "--sam", "sam"),
        ("sam_prompt", "--sam", "sam"),
        ("glioma_unet", "--checkpoint", "glioma"),
        ("glioma_unet_livecell", "--checkpoint", "glioma", "--resize-to=200x160"),
        ("nuclei_unet", "--checkpoint", "nuclei"),
    ):
        files = [word if word.startswith("--") else str(checkpoints / word) for word in weights]
        common = ("--model-repository", str(repository), "--frames", str(folder))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", ["export", name, *files, *common])  # for the manifests
            result = CliRunner().invoke(export_main, sys.argv[1:])
        assert result.exit_code == 0, result.output
        assert str(repository / name / "1") in result.output.split()


@pytest.fixture(scope="session")
def server(exported_repository: Path) -> Iterator[EmbeddedServer]:
    """The embedded Triton on all pipelines. Not to be killed: others use it."""
    with EmbeddedServer(exported_repository) as server:
        yield server
