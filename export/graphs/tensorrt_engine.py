"""TensorRT's own view of a graph: parsed by its ONNX parser, built to an engine, and run.

Three packages have the same interface: TensorRT 10.13 and later, whose plans Triton serves;
TensorRT 11, in which every network is strongly typed; and TensorRT-RTX, the edition for graphics
cards, whose wheels parse and build on machines without a GPU or driver. Where they differ, the code
asks what is there, not for a version.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Arrays = Mapping[str, npt.NDArray[Any]]

Shape = tuple[int, ...]

RTX_LIBRARIES, RTX = "tensorrt_rtx_libs", "tensorrt_rtx_bindings"
"""Modules of TensorRT-RTX. The first loads the libraries that the second binds."""


class EngineError(RuntimeError):
    """TensorRT is missing, or refuses a graph or a plan, for the reason in the text."""


@dataclass(frozen=True)
class Profile:
    """Shapes of one input for which an engine is built.

    An engine refuses any shape outside. It is fastest at the usual one, and its memory is that of
    the largest. For an input whose values decide on shapes, these are its values.
    """

    smallest: Shape
    usual: Shape
    largest: Shape


def load_rtx() -> Any:
    """Import TensorRT-RTX, which parses and builds without a GPU.

    Raises:
        EngineError: its wheels are not installed.
    """
    try:
        importlib.import_module(RTX_LIBRARIES)
        return importlib.import_module(RTX)
    except (ImportError, OSError) as error:
        raise EngineError(
            f"TensorRT-RTX, which checks graphs without a GPU, is not installed ({error}). Install "
            "it with: uv pip install tensorrt-rtx-cu13-libs tensorrt-rtx-cu13-bindings"
        ) from error


def load_tensorrt() -> Any:
    """Import TensorRT itself, whose plans Triton serves.

    Raises:
        EngineError: its Python interface or its libraries are missing.
    """
    try:
        return importlib.import_module("tensorrt")
    except (ImportError, OSError) as error:
        raise EngineError(
            f"TensorRT's Python interface is not installed here ({error}). Make plans where they "
            "are served, in NVIDIA's image of Triton, with tensorrt-cu13-bindings of the same "
            "version as its libraries: python -m export tensorrt"
        ) from error


def build_engine(trt: Any, graph: Path, profiles: Mapping[str, Profile]) -> bytes:
    """Parse a graph and build its engine.

    Where the package can, the engine fits every GPU of this machine's compute capability, not only
    this very model.

    Args:
        trt: the module of TensorRT.
        graph: ONNX file, see `export.graphs.tensorrt_form`.
        profiles: input name -> shapes.

    Returns:
        The serialised engine.

    Raises:
        EngineError: the parser or the builder refuses the graph; the text has its reasons.
    """
    said: list[str] = []
    builder = trt.Builder(_logger(trt, said))
    network = builder.create_network(_network_flags(trt))
    parser = trt.OnnxParser(network, _logger(trt, said))
    if not parser.parse_from_file(str(graph)):
        reasons = [parser.get_error(index).desc() for index in range(parser.num_errors)]
        raise EngineError(f"the parser refuses {graph.name}: {_joined(reasons or said)}")
    config = builder.create_builder_config()
    levels: Any = getattr(trt, "HardwareCompatibilityLevel", None)
    if hasattr(levels, "SAME_COMPUTE_CAPABILITY"):
        config.hardware_compatibility_level = levels.SAME_COMPUTE_CAPABILITY
    shapes = builder.create_optimization_profile()
    for given in (network.get_input(index) for index in range(network.num_inputs)):
        if given.name in profiles:
            profile = profiles[given.name]
            tell = shapes.set_shape_input if given.is_shape_tensor else shapes.set_shape
            tell(given.name, profile.smallest, profile.usual, profile.largest)
    config.add_optimization_profile(shapes)
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        raise EngineError(f"the builder refuses {graph.name}: {_joined(said)}")
    return bytes(engine)


def run_engine(plan: bytes, inputs: Arrays) -> dict[str, npt.NDArray[Any]]:
    """Run a plan once on this machine's GPU and return its outputs by name.

    Raises:
        EngineError: Polygraphy, which copies arrays to the GPU and back, is not installed, or
            TensorRT cannot load or run the plan.
    """
    try:
        from polygraphy.backend.trt import EngineFromBytes, TrtRunner
        from polygraphy.exception import PolygraphyException
    except ImportError as error:
        raise EngineError(
            "Polygraphy, which runs a plan to prove it, is not installed. Install it with: "
            "pip install polygraphy"
        ) from error
    try:
        with TrtRunner(EngineFromBytes(plan)) as runner:
            return {name: np.array(array) for name, array in runner.infer(dict(inputs)).items()}
    except PolygraphyException as error:
        raise EngineError(f"the plan does not run on this machine: {error}") from error


def _network_flags(trt: Any) -> int:
    """Strongly typed: every value has the type that the graph gives it."""
    flags = trt.NetworkDefinitionCreationFlag
    return 1 << int(flags.STRONGLY_TYPED) if hasattr(flags, "STRONGLY_TYPED") else 0


def _logger(trt: Any, said: list[str]) -> Any:
    """A logger that keeps errors and drops the rest."""

    class Errors(trt.ILogger):  # type: ignore[misc]  # the module is known when it runs
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.INTERNAL_ERROR, trt.ILogger.ERROR):
                said.append(message)

    return Errors()


def _joined(reasons: list[str]) -> str:
    return "; ".join(" ".join(reason.split()) for reason in reasons) or "no reason given"
