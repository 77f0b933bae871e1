"""Networks in 8-bit integers for the variant `int8`: calibrated on real frames, proven on others.

The method is ONNX Runtime's static quantisation. Weights are signed integers, scaled per channel.
Activations are unsigned integers, whose ranges are those seen on the calibration frames. On
processors with VNNI instructions, unsigned activations took half the time of signed ones. The nodes
that decode a network's answer stay in float32, see `decoding_nodes`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from cytoserve import Cells
from cytoserve.contract import INSTANCE_OUTPUTS, PIPELINES
from cytoserve.model_config import VARIANT_FOLDER, config_file, read_config
from export.graphs.decoding import decoding_nodes
from export.graphs.files import save_graph
from export.graphs.micro_batches import unwrap_loop, wrap_in_loop, wrap_in_row_scan
from export.parity.accuracy_budget import beyond_budget, drops
from export.parity.chain import Arrays, Chain, newest_graph
from export.parity.instances import instance_inputs
from export.parity.steps import ParityError
from export.repository.install import MODEL_FILE, Staging
from export.resnet.network import CLASSIFIER_CHUNK
from training.datasets.annotated import AnnotatedFrame
from training.evaluation import match_cells, quality

VARIANT = "int8"

OPERATORS = (
    *("Conv", "Gemm", "Add", "Mul", "Sigmoid", "Relu"),
    *("Concat", "MaxPool", "GlobalAveragePool", "Resize"),
)
"""Operators that are computed in integers.

Convolutions alone would be as exact, but every result between them would be converted there and
back."""

MAX_ROWS = 256
"""Maximum number of rows to calibrate a network on, shared evenly by the frames.

Every frame gives at least one row. Thousands of crops show no more than hundreds."""

Image = npt.NDArray[Any]


@dataclass(frozen=True)
class Settings:
    """Options chosen by the user."""

    score_threshold: float
    overlap_threshold: float
    command: tuple[str, ...]


def networks_of(repository: Path, pipeline: str) -> dict[str, Path]:
    """Step -> its graph, for those of a pipeline's steps that the variant configures.

    Raises:
        FileNotFoundError: there is no such step, or one is not exported.
    """
    steps = PIPELINES[pipeline].steps
    named = [step for step in steps if config_file(repository / step, VARIANT).stem == VARIANT]
    graphs = {step: newest_graph(repository / step) for step in named}
    if not named or None in graphs.values():
        raise FileNotFoundError(
            f"{pipeline} is not exported to {repository}, or none of its models has a "
            f"{VARIANT_FOLDER}/{VARIANT}.pbtxt there. Make it with: python -m export {pipeline}"
        )
    return {step: graph for step, graph in graphs.items() if graph is not None}


def export_int8(
    repository: Path,
    pipeline: str,
    calibration: Mapping[str, Image],
    annotated: Sequence[AnnotatedFrame],
    settings: Settings,
    tell: Callable[[str], None],
) -> list[Path]:
    """Quantise a pipeline's networks and install them if the pipeline keeps its accuracy budget.

    Args:
        repository: model repository that the pipeline is exported to.
        pipeline: name of an instance pipeline.
        calibration: name -> camera frame ``[H, W]`` or ``[H, W, C]`` to calibrate on.
        annotated: other frames with their true cells, to prove the pipeline on.
        settings: thresholds of the proof, and the command line for the manifest.
        tell: called with one line per step.

    Returns:
        The files, one per network.

    Raises:
        ParityError: on ``annotated``, the pipeline's figures drop by more than the budget.
    """
    with tempfile.TemporaryDirectory() as folder:
        files, graphs = {}, {}
        sources = networks_of(repository, pipeline)
        chain = Chain(repository, pipeline)
        for name, source in sources.items():
            tell(f"{name}: calibrating on {len(calibration)} frames")
            rows = list(network_rows(chain, name, calibration.values(), settings))
            graphs[name] = quantised(onnx.load(source), rows)
            files[name] = Path(folder) / f"{name}.onnx"
            save_graph(graphs[name], files[name])
        tell(f"{pipeline}: proving on {len(annotated)} annotated frames")
        before = figures_of(chain, annotated, settings)
        after = figures_of(Chain(repository, pipeline, files), annotated, settings)
    lost = drops(before, after)
    if broken := beyond_budget(lost):
        raise ParityError(
            f"{pipeline} in 8-bit integers: {'; '.join(broken)}, on {len(annotated)} frames. "
            "Nothing was installed. Give more frames like those of --data to calibrate on."
        )
    about = {
        "made_from": MODEL_FILE,
        "calibrated_on": sorted(calibration),
        "proven_on": {"pipeline": pipeline, "frames": [frame.name for frame in annotated]},
        "thresholds": {
            "score": settings.score_threshold,
            "overlap": settings.overlap_threshold,
        },
        "float32": before,
        "int8": after,
        "drops": lost,
        "command": list(settings.command),
    }
    with Staging(repository) as staging:
        return [
            staging.add_to_newest(name, variant_file(repository, name), graph, about)
            for name, graph in graphs.items()
        ]


def variant_file(repository: Path, name: str) -> str:
    """Name of the file, in a network's version folder, that the variant serves it from."""
    return str(read_config(config_file(repository / name, VARIANT)).default_model_filename)


# -- Quantising -----------------------------------------------------------------------------------
def network_rows(
    chain: Chain, network: str, frames: Collection[Image], settings: Settings
) -> Iterator[Arrays]:
    """Inputs that reach a network when a pipeline sees ``frames``, see `MAX_ROWS`."""
    [step] = [step for step in chain.steps if step.model_name == network]
    share = max(1, MAX_ROWS // len(frames))
    for image in frames:
        inputs = _inputs(image, settings)
        values = chain.run(inputs, list(step.input_map.values()))
        rows = {own: values[wire][:share] for own, wire in step.input_map.items()}
        if len(next(iter(rows.values()))):
            yield rows


class Rows(CalibrationDataReader):  # type: ignore[misc]
    """Feeds the rows of one frame after the other to the calibration."""

    def __init__(self, rows: Sequence[Arrays]) -> None:
        self._rows = iter(rows)

    def get_next(self) -> Arrays | None:
        """The next inputs; None at the end."""
        return next(self._rows, None)


def quantised(graph: onnx.ModelProto, rows: Sequence[Arrays]) -> onnx.ModelProto:
    """The network of ``graph`` in 8-bit integers; it takes its rows as ``graph`` does."""
    network = unwrap_loop(graph)
    with tempfile.TemporaryDirectory() as folder:
        names = ("network.onnx", "prepared.onnx", "integers.onnx")
        plain, prepared, done = (Path(folder) / name for name in names)
        save_graph(network, plain)
        quant_pre_process(plain, prepared, skip_symbolic_shape=True)
        quantize_static(
            prepared,
            done,
            Rows(rows),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=list(OPERATORS),
            nodes_to_exclude=decoding_nodes(onnx.load(prepared)),
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
        integers = onnx.load(done)
    if network is graph:
        return integers
    alone = any(node.op_type == "Scan" for node in graph.graph.node)
    return wrap_in_row_scan(integers) if alone else wrap_in_loop(integers, CLASSIFIER_CHUNK)


# -- Proving --------------------------------------------------------------------------------------
def figures_of(
    chain: Chain, annotated: Sequence[AnnotatedFrame], settings: Settings
) -> dict[str, float]:
    """Figures of an instance pipeline over annotated frames, see `matching.Quality`."""
    matches = []
    for frame in annotated:
        answer = chain.run(_inputs(frame.read(), settings), [t.name for t in INSTANCE_OUTPUTS])
        cells = Cells(
            boxes=answer["boxes"].astype(np.float32),
            scores=answer["scores"].astype(np.float32),
            class_ids=answer["class_ids"].astype(np.int32),
            class_probs=answer["class_probs"].astype(np.float32),
            patches=answer["masks"].astype(np.uint8),
            frame_shape=(frame.height, frame.width),
            class_names=(),
            found=len(answer["scores"]),
        )
        matches.append(match_cells(cells, frame.cells))
    return asdict(quality(matches))


def _inputs(image: Image, settings: Settings) -> Arrays:
    camera = np.atleast_3d(image).astype(np.uint16)
    overlap = np.array([settings.overlap_threshold], np.float32)
    return {**instance_inputs(camera, settings.score_threshold), "overlap_threshold": overlap}
