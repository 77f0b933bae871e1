"""TensorRT's own parser and builder on our graphs, with the wheels of TensorRT-RTX.

They need no GPU. Its operators are a subset of those of TensorRT itself.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from cytoserve.contract import STEPS, TENSORRT
from export.graphs.tensorrt_engine import (
    RTX,
    EngineError,
    Profile,
    build_engine,
    load_rtx,
    load_tensorrt,
    run_engine,
)
from export.graphs.tensorrt_form import tensorrt_form
from export.graphs.trace import trace_graph
from export.maskrcnn.network import MaskRcnnCells
from export.resnet.network import CellClasses, ClassifierNetwork
from export.sam.network import ImageEncoder, SamBoxPrompts, SamCells
from export.sam.prepare import SamPrepare
from export.unet.network import Foreground, NucleiCentres, TileNetwork, WholeFrameNetwork
from export.unet.tiles import PrepareTiles, StitchTiles
from export.variants.gpu_proof import in_half
from training.preprocessing.cutting import CellCrops, NetworkTiles
from training.preprocessing.normalise import PrepareWholeFrame
from training.rendered import RenderSettings, render_frame
from training.resnet.network import CellClassifier
from training.sam.network import build_sam
from training.sam.settings import TINY
from training.unet.network import UNet
from training.yolo.decode import YoloDecode
from training.yolo.network import YoloNetwork, load_network

GENERAL = Path(__file__).parents[3] / "training/general/yolo"

needs_rtx = pytest.mark.skipif(
    importlib.util.find_spec(RTX) is None,
    reason="uv pip install tensorrt-rtx-cu13-libs tensorrt-rtx-cu13-bindings",
)


@pytest.fixture(scope="module")
def rtx() -> Any:
    return load_rtx()


@pytest.fixture(scope="module")
def unet(make_random_unet: Any) -> UNet:
    return make_random_unet(render_frame(RenderSettings(height=256, width=256, cells=12), 0)[0])


def example(name: str) -> tuple[torch.Tensor, ...]:
    """One input for every tensor of a step, to trace it with."""
    random = np.random.default_rng(0)
    sizes = {"image": (97, 130, 1), "sam_image": (1, 4, 512, 512), "frame_rgb": (1, 3, 97, 130)}
    sizes["frame_probability"] = (1, 97, 130)
    values = {"frame_size": np.array([97, 330], np.int32), "scale": np.ones(1, np.float32)}
    values["tile_probabilities"] = random.integers(0, 256, (3, 256, 256), np.uint8)
    values["predictions"] = random.random((1, 38, 8400), np.float32)
    values["tiling"] = np.array([1, 1, 640, 640, 128], np.float32)
    kinds = {"UINT8": np.uint8, "UINT16": np.int32, "INT32": np.int32, "FP32": np.float32}
    made = []
    for tensor in STEPS[name].inputs:
        open_dims = tuple(5 if dim == -1 else dim for dim in STEPS[name].graph_dims(tensor))
        dims = sizes.get(tensor.name, open_dims)
        array = values.get(tensor.name, random.random(dims) * 200)
        made.append(torch.from_numpy(array.astype(kinds[tensor.dtype])))
    return tuple(made)


MODULES: dict[str, Any] = {
    "yolo_targets": lambda _: YoloNetwork(load_network(GENERAL)[0]),
    "yolo_prepare": lambda _: NetworkTiles(),
    "yolo_decode": lambda _: YoloDecode(),
    "cell_crops": lambda _: CellCrops(),
    "resnet50_cells": lambda _: ClassifierNetwork(CellClassifier(2)),
    "cell_classes": lambda _: CellClasses(),
    "maskrcnn_cells": lambda _: MaskRcnnCells(),
    "sam_prepare": lambda _: SamPrepare(build_sam(TINY)),
    "sam_encoder": lambda _: ImageEncoder(build_sam(TINY)),
    "sam_box_prompts": lambda _: SamBoxPrompts(),
    "sam_cells": lambda _: SamCells(),
    "glioma_prepare": lambda _: PrepareWholeFrame(),
    "glioma_network": lambda unet: WholeFrameNetwork(unet),
    "glioma_livecell_network": lambda unet: WholeFrameNetwork(unet, (200, 160)),
    "nuclei_prepare": lambda _: PrepareTiles(),
    "nuclei_network": lambda unet: TileNetwork(unet),
    "nuclei_stitch": lambda _: StitchTiles(),
    "nuclei_centres": lambda _: NucleiCentres(6.0),
    "foreground": lambda _: Foreground(),
}

LARGEST: dict[str, tuple[int, ...]] = {
    "image": (4096, 4096, 3),
    "frame_rgb": (1, 3, 4096, 4096),
    "frame_probability": (1, 4096, 4096),
    "network_image": (64, 3, 640, 640),
    "crops": (16384, 3, 48, 48),
    "sam_image": (4, 4, 512, 512),
    "tiles": (1280, 3, 256, 256),
    "tile_probabilities": (1280, 256, 256),
}
"""Input -> largest shape that the step is served with; 4096 cells for those of cells."""

VALUES = {"frame_size": Profile((1, 1), (1, 1), (4096, 4096))}
"""Input whose values decide on shapes -> these values."""

REFUSED = {
    "yolo_prepare": r"scale is a shape tensor and must have type Int32 or Int64",
    "yolo_decode": "NonZero",
    "cell_crops": "ROIAlign",
    "maskrcnn_cells": "NonZero",
    "sam_cells": "NonZero",
    "nuclei_centres": "NonZero",
}
"""Step -> why TensorRT-RTX does not take it. None of them has a plan."""


def profiles_of(graph: onnx.ModelProto) -> dict[str, Profile]:
    found = dict[str, Profile]()
    for value in graph.graph.input:
        dims = [dim.dim_value or -1 for dim in value.type.tensor_type.shape.dim]
        largest = LARGEST.get(value.name, tuple(4096 if d == -1 else d for d in dims))
        if -1 in dims:
            # SAM's sides are open in the graph, but its network fixes them.
            fixed = value.name == "sam_image"
            least = [1 if d == -1 and not (fixed and i > 1) else m for i, (d, m) in
                     enumerate(zip(dims, largest, strict=True))]  # fmt: skip
            found[value.name] = Profile(tuple(least), tuple(least), largest)
    return found | {n: v for n, v in VALUES.items() if n in {i.name for i in graph.graph.input}}


@needs_rtx
@pytest.mark.parametrize("name", MODULES)
def test_the_parser_takes_what_it_is_to_take(
    rtx: Any, unet: UNet, tmp_path: Path, name: str
) -> None:
    module = MODULES[name](unet).eval()
    graph = trace_graph(module, STEPS[name], example(name))
    form = tensorrt_form(graph)
    has_plan = any(variant.plan_rows for variant in STEPS[name].variants)
    file = tmp_path / f"{name}.onnx"
    onnx.save(in_half(form) if STEPS[name].batches else form, file)
    if name in REFUSED:
        assert not has_plan
        reason = rf"^the parser refuses {name}\.onnx: .*{REFUSED[name]}"
        with pytest.raises(EngineError, match=reason):
            build_engine(rtx, file, profiles_of(form))
        return
    assert len(build_engine(rtx, file, profiles_of(form))) > 1000


def test_every_step_with_a_plan_is_among_them() -> None:
    planned = {s.name for s in STEPS.values() for v in s.variants if v.plan_rows}
    assert planned - {"yolo_cells"} <= set(MODULES), "yolo_cells is yolo_targets of one class"
    assert {v.name for s in STEPS.values() for v in s.variants if v.plan_rows} == {TENSORRT}


@needs_rtx
def test_as_exported_a_network_is_refused(rtx: Any, unet: UNet, tmp_path: Path) -> None:
    """So the form is needed."""
    file = tmp_path / "tiles.onnx"
    onnx.save(
        trace_graph(ImageEncoder(build_sam(TINY)), STEPS["sam_encoder"], example("sam_encoder")),
        file,
    )
    with pytest.raises(EngineError, match="UInt8"):
        build_engine(rtx, file, {"sam_image": Profile(*[(1, 4, 512, 512)] * 3)})


@needs_rtx
def test_a_profile_that_the_network_cannot_take_is_refused(rtx: Any, tmp_path: Path) -> None:
    file = tmp_path / "sam.onnx"
    graph = trace_graph(ImageEncoder(build_sam(TINY)), STEPS["sam_encoder"], example("sam_encoder"))
    onnx.save(tensorrt_form(graph), file)
    with pytest.raises(EngineError, match=r"^the builder refuses sam\.onnx: .*changes volume"):
        build_engine(rtx, file, {"sam_image": Profile(*[(1, 4, 128, 128)] * 3)})


@pytest.mark.parametrize(
    ("load", "module", "remedy"),
    [
        pytest.param(load_rtx, RTX, "uv pip install tensorrt-rtx-cu13-libs", id="rtx"),
        pytest.param(load_tensorrt, "tensorrt", "in NVIDIA's image of Triton", id="tensorrt"),
        pytest.param(
            lambda: run_engine(b"", {}), "polygraphy", "pip install polygraphy", id="polygraphy"
        ),
    ],
)
def test_what_is_missing_is_told_with_its_remedy(load: Any, module: str, remedy: str) -> None:
    if importlib.util.find_spec(module):
        pytest.skip(f"{module} is installed")
    with pytest.raises(EngineError, match=remedy):
        load()
