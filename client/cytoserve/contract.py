"""The contract between client, graphs and server: the only module that names tensors.

A *pipeline* is a Triton ensemble; the pipelines are the public API of the server. A *step* is one
model inside a pipeline. Dims use Triton's notation; -1 is variable. This module also defines how
steps are wired and served: `python -m export configs` writes every ``config.pbtxt`` from it.

Coordinates are continuous frame pixels: pixel ``i`` spans ``[i, i + 1)``, its centre lies at
``i + 0.5``. Boxes are ``(x0, y0, x1, y1)`` with ``x`` along the width.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

MASK_SIZE = 56
"""M: side of a cell's mask patch, in patch pixels. The patch spans the cell's box."""

NETWORK_SIZE = 640
"""Side of the square input tile of the YOLO networks, in network pixels."""

MASKRCNN_TILE_SIZE = 1024
"""Longest side of an input tile of Mask R-CNN, in network pixels."""

SAM_MASK_SIZE = 112
"""M for SAM's masks, whose borders are sharper than those of the other networks."""

CROP_SIZE = 48
"""Side of the classifier's input crop, in pixels."""

TILE_SIZE = 256
"""Side of the input tiles of the nuclei network, in frame pixels."""

TILE_STEP = 128
"""Distance between neighbouring tiles, in frame pixels. The grid starts ``TILE_MARGIN`` outside the
frame, so that every pixel lies at least that far inside some tile."""

TILE_MARGIN = (TILE_SIZE - TILE_STEP) // 2
"""Width of the mirrored border around the frame that the outermost tiles cover, in pixels."""

DEFAULT_MAX_CELLS = 4096
"""Default maximum of cells per answer; ``cells_found`` shows whether it was exceeded."""

MAX_SIDE = 16384
"""Longest side of a frame, in pixels."""

MAX_FRAME_BYTES = 128 * 1024 * 1024
"""Maximum bytes per frame on the wire (UINT16): 8192 x 8192 grey or 4729 x 4729 RGB."""

MAX_WHOLE_FRAME_PIXELS = 8_000_000
"""Maximum pixels of a frame that a network processes whole; activations take ~1 kB per pixel."""

MAX_TILED_PIXELS = 4096 * 4096
"""Maximum pixels of a frame that the server tiles; the client sends larger frames in parts."""

PROBABILITY_THRESHOLD = 0.5
"""Probability threshold for models whose training chose none. Pixels at or above it are
foreground."""

SCORE_THRESHOLD = 0.25
"""Score threshold for models whose training chose none. Detections below it are dropped."""

OVERLAP_THRESHOLD = 0.6
"""Default overlap threshold: if two cells overlap by more than this share of the smaller one's
mask, only one is kept."""

MAX_TILES = 64
"""Maximum number of network tiles per request: 4224 x 4224 network pixels at an overlap of 128.
The client sends larger frames in parts."""

MAX_TILE_OVERLAP = NETWORK_SIZE // 2
"""Maximum overlap of neighbouring tiles, in network pixels. A larger overlap only adds tiles."""


MAX_CANDIDATES = 16384
"""Maximum number of boxes per frame, best scores first, whose masks are decoded and whose crops are
classified."""

MAX_NUCLEI_TILES = 1280
"""Maximum tiles that the nuclei network accepts at once; the largest frame has fewer."""


@dataclass(frozen=True)
class Tensor:
    """One named tensor: ``dtype`` in Triton's spelling, ``dims`` with -1 for variable ones.

    A tensor of a network step has ``rows`` in front of its dims. The network treats them as its
    batch. A step that sees one frame treats them as an ordinary dim (1 image, or -1 for one row
    per cell).
    """

    name: str
    dtype: str
    dims: tuple[int, ...]
    rows: int | None = None
    meaning: str = field(default="", compare=False)
    """Axes, units and values, in words."""


@dataclass(frozen=True)
class StepVariant:
    """How one variant of the repository serves a step, where that differs from the default.

    Triton's ``--model-config-name`` selects a variant.
    """

    name: str
    graph: str | None = None
    """File in the version folder; None means ``model.onnx``."""
    instances: int = 1
    """Number of executions that run at once and share the cores."""
    openvino: bool = False
    """Whether ONNX Runtime runs the step with OpenVINO in bfloat16."""
    on_gpu: bool = False
    """Whether the step runs on an NVIDIA GPU, by ONNX Runtime unless it has ``plan_rows``."""
    plan_rows: tuple[int, int, int] | None = None
    """Fewest, usual and most rows of the step's TensorRT plan; None: TensorRT does not run it."""


PLAN_GRAPH = "model.tensorrt.onnx"
"""File that plans are made of; `python -m export tensorrt --form` makes it."""

COMPUTE_CAPABILITIES = ("7.5", "8.0", "8.6", "8.9", "9.0", "10.0", "12.0")
"""Generations of GPUs that a plan can be made for, as NVIDIA numbers them."""


def plan_file(capability: str) -> str:
    """Return the name of the plan for a compute capability, ``model.sm90.plan`` for ``9.0``."""
    return f"model.sm{capability.replace('.', '')}.plan"


SINGLE_GRAPH = "single-graph"
"""Variant in which the merged step of a pipeline replaces the others."""
OPENVINO = StepVariant("openvino", openvino=True)
OPENVINO_CHUNKS = StepVariant("openvino", graph="model.openvino.onnx", openvino=True)
"""A separate graph whose loop OpenVINO can run; `python -m export openvino` makes it."""
INT8 = StepVariant("int8", graph="model.int8.onnx")
"""A separate graph in 8-bit integers; `python -m export int8` makes it."""
THROUGHPUT = StepVariant("throughput", instances=2)
CUDA = StepVariant("cuda", on_gpu=True)
CUDA_GRAPH = StepVariant("cuda", graph="model.cuda.onnx", on_gpu=True)
"""A separate graph for GPUs, of larger chunks in float16; `python -m export cuda` makes it."""
TENSORRT = "tensorrt"
"""Variant in which TensorRT runs the steps that have a plan; all others are as in `cuda`."""


def on_gpu(
    cuda: StepVariant, plan_rows: tuple[int, int, int] | None = None
) -> tuple[StepVariant, StepVariant]:
    """Return how a step is served by the variants `cuda` and `tensorrt`, in this order."""
    if plan_rows is None:
        return cuda, replace(cuda, name=TENSORRT)
    return cuda, StepVariant(TENSORRT, on_gpu=True, plan_rows=plan_rows)


def version_name(model: str, version: int) -> str:
    """Return the name under which a server offers one version of a pipeline, or of its card.

    Triton has one configuration for all versions of a model, so a pipeline, whose configuration
    names the versions of its steps, is a model of its own for each.
    """
    return f"{model}.{version}"


@dataclass(frozen=True)
class Step:
    """One model inside a pipeline: its tensors, and how Triton serves it."""

    name: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    summary: str = ""
    """Purpose of the step, in a sentence or two."""
    max_batch: int = 0
    """Maximum rows per execution, from one request or several. 0 means that the step has no batch
    dimension and sees one frame at a time."""
    warm_up: tuple[int, tuple[int, ...]] | None = None
    """Number and dims of the rows that the step computes before the first request."""
    one_thread: bool = False
    """Whether the step runs on one thread, because it is too short to be split among the cores."""
    caches_answers: bool = False
    """Whether Triton caches the answers and returns them again for the same input."""
    backend: str = "onnxruntime"
    is_merged: bool = False
    """Whether the step computes other steps of its pipeline as one graph."""
    variants: tuple[StepVariant, ...] = ()

    @property
    def batches(self) -> bool:
        """Whether the step has a leading batch dimension."""
        return self.max_batch > 0

    @property
    def leaves_outputs_open(self) -> bool:
        """Whether the network inside the step decides the size of an output.

        True if the inputs have fixed sizes but an output has not: the number of classes is open.
        If the inputs vary, the outputs vary with them. Always true for a merged step.
        """
        varies = [any(-1 in t.dims for t in side) for side in (self.inputs, self.outputs)]
        return self.is_merged or (self.batches and varies == [False, True])

    def config_dims(self, tensor: Tensor) -> tuple[int, ...]:
        """Return the ``dims`` of a tensor in ``config.pbtxt``, which leaves out a batch dim."""
        if tensor.rows is None or self.batches:
            return tensor.dims
        return (tensor.rows, *tensor.dims)

    def graph_dims(self, tensor: Tensor) -> tuple[int, ...]:
        """Return the dims of a tensor in the ONNX graph, which includes a batch dim as -1."""
        return (-1, *tensor.dims) if self.batches else self.config_dims(tensor)


@dataclass(frozen=True)
class Wire:
    """A tensor whose name in the ensemble differs from its name in the step."""

    step: str
    tensor: str
    """Name of the tensor in the step."""
    name: str
    """Name of the tensor in the ensemble."""


@dataclass(frozen=True)
class Pipeline:
    """One ensemble: its inputs, its outputs, and the steps that it chains.

    ``on_request`` lists outputs whose step runs only when a request names them. ``card`` is the
    model that returns class names and model hashes (see :data:`CARD_OUTPUT`). ``max_pixels`` is
    the maximum ``H * W`` per request. ``field`` is the longest side of a tile of an instance
    pipeline, in network pixels. In a variant that serves the pipeline as one graph,
    ``merged_step`` replaces all steps except those for ``on_request``.
    """

    name: str
    summary: str
    study: str
    steps: tuple[str, ...]
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    on_request: tuple[Tensor, ...]
    card: str
    wires: tuple[Wire, ...] = ()
    """Tensors that are renamed; all others connect by name."""
    max_pixels: int = MAX_SIDE * MAX_SIDE
    field: int = NETWORK_SIZE
    merged_step: str | None = None

    @property
    def variants(self) -> tuple[str, ...]:
        """Names of the variants in which one step replaces the others."""
        if self.merged_step is None:
            return ()
        return (SINGLE_GRAPH, *(variant.name for variant in STEPS[self.merged_step].variants))

    def steps_of(self, variant: str | None = None) -> tuple[str, ...]:
        """Return the steps in order; in a variant, the merged step and those run on request."""
        if self.merged_step is None or variant not in self.variants:
            return self.steps
        on_request = set(self.on_request)
        return (self.merged_step, *(s for s in self.steps if on_request & set(STEPS[s].outputs)))

    @property
    def is_semantic(self) -> bool:
        """Whether the pipeline answers with a probability for every pixel."""
        return PROBABILITY in self.outputs

    @property
    def is_prompted(self) -> bool:
        """Whether the pipeline answers with one mask per prompt, in the order of the prompts."""
        return PROMPT_POINTS in self.inputs

    @property
    def is_instance(self) -> bool:
        """Whether the pipeline finds cells without prompts."""
        return CELLS_FOUND in self.outputs


# -- Public inputs and outputs ----------------------------------------------------------------
IMAGE = Tensor(
    "image",
    "UINT16",
    (-1, -1, -1),
    meaning="The frame as the camera gave it: H, W, C, where C is 1 or 3 (RGB).",
)
SCALE_INPUT = Tensor(
    "scale",
    "FP32",
    (1,),
    meaning="Network pixels per frame pixel. The card tells the scale of the training frames.",
)
TILE_OVERLAP_INPUT = Tensor(
    "tile_overlap",
    "FP32",
    (1,),
    meaning="Least overlap of neighbouring tiles in network pixels: the size of the largest cells.",
)
SCORE_THRESHOLD_INPUT = Tensor(
    "score_threshold", "FP32", (1,), meaning="Cells with a lower score are left out, 0 to 1."
)
OVERLAP_THRESHOLD_INPUT = Tensor(
    "overlap_threshold",
    "FP32",
    (1,),
    meaning="Of two cells of which one covers a larger share of the smaller one's mask, one stays.",
)
MAX_CELLS_INPUT = Tensor(
    "max_cells", "INT32", (1,), meaning="Maximum number of cells in the answer, best score first."
)

BOXES = Tensor("boxes", "FP32", (-1, 4), meaning="N, (x0, y0, x1, y1) in frame pixels.")
SCORES = Tensor("scores", "FP32", (-1,), meaning="N, descending, 0 to 1.")
CLASS_IDS = Tensor("class_ids", "INT32", (-1,), meaning="N, index into the card's class names.")
CLASS_PROBS = Tensor("class_probs", "FP32", (-1, -1), meaning="N, K: probability of each class.")
MASKS = Tensor(
    "masks",
    "UINT8",
    (-1, MASK_SIZE, MASK_SIZE),
    meaning="N, M, M: probability 0..255 inside the cell's box; from 128 on a pixel is the cell's.",
)
SAM_MASKS = Tensor("masks", "UINT8", (-1, SAM_MASK_SIZE, SAM_MASK_SIZE), meaning=MASKS.meaning)
CELLS_FOUND = Tensor(
    "cells_found",
    "INT32",
    (1,),
    meaning="Number of cells before the cap; more than N where `max_cells` was reached.",
)
LABELS = Tensor(
    "labels",
    "UINT16",
    (-1, -1),
    meaning="H, W: 0 is background, i the i-th cell. Painted only where a request names it.",
)

# N prompts for SAM, each with P points: clicks and the corners of a box.
PROMPT_POINTS = Tensor(
    "prompt_points", "FP32", (-1, -1, 2), meaning="N, P, (x, y) in frame pixels."
)
PROMPT_LABELS = Tensor(
    "prompt_labels",
    "INT32",
    (-1, -1),
    meaning="N, P: 0 background, 1 foreground, 2 and 3 the corners of a box, -1 none.",
)
COARSE_MASKS = Tensor(
    "coarse_masks",
    "UINT8",
    (-1, MASK_SIZE, MASK_SIZE),
    meaning="C, M, M: probability 0..255 inside its box; C is N, or 0 without coarse masks.",
)
COARSE_BOXES = Tensor(
    "coarse_boxes", "FP32", (-1, 4), meaning="C, (x0, y0, x1, y1) of the coarse masks."
)

PROBABILITY_THRESHOLD_INPUT = Tensor(
    "probability_threshold",
    "FP32",
    (1,),
    meaning="Pixels with this probability or more are foreground, 0 to 1.",
)
# An input, not measured in the frame, so that all parts of a large frame are normalised alike.
WHITE_LEVEL_INPUT = Tensor(
    "white_level",
    "FP32",
    (1,),
    meaning="Camera value that is white in the stain's training images: 255 for 8-bit frames.",
)

PROBABILITY = Tensor("probability", "UINT8", (-1, -1), meaning="H, W; 0..255 is 0 to 1.")
MASK = Tensor("mask", "UINT8", (-1, -1), meaning="H, W; 1 foreground, 0 background.")
CENTRES = Tensor("centres", "FP32", (-1, 2), meaning="N, (x, y) of the nuclei in frame pixels.")
CENTRE_SCORES = Tensor(
    "centre_scores", "FP32", (-1,), meaning="N, descending: smoothed probability at the centre."
)

INSTANCE_INPUTS = (
    IMAGE,
    SCALE_INPUT,
    TILE_OVERLAP_INPUT,
    SCORE_THRESHOLD_INPUT,
    OVERLAP_THRESHOLD_INPUT,
    MAX_CELLS_INPUT,
)
INSTANCE_OUTPUTS = (BOXES, SCORES, CLASS_IDS, CLASS_PROBS, MASKS, CELLS_FOUND)

POINT_LABELS = {"background": 0, "foreground": 1, "box_start": 2, "box_end": 3, "none": -1}
"""Values of `PROMPT_LABELS`, as in SAM's own ONNX model (Kirillov et al. 2023). ``none`` pads the
rows of prompts that have fewer points than others."""

# -- The model card: what a pipeline reports about itself ---------------------------------------
CARD_INPUT = Tensor("page", "INT64", (1,), meaning="Always 0: there is one page.")
CARD_OUTPUT = Tensor(
    "card",
    "BYTES",
    (1,),
    meaning="JSON: `pipeline`, `class_names`, `models` (name -> version, sha256), `recipes`.",
)

# -- Tensors between the steps ------------------------------------------------------------------
NETWORK_IMAGE = Tensor(
    "network_image",
    "UINT8",
    (3, NETWORK_SIZE, NETWORK_SIZE),
    rows=-1,
    meaning="T tiles of one frame, row by row, RGB.",
)
TILE_ORIGINS = Tensor(
    "tile_origins", "FP32", (-1, 2), meaning="T, (x, y) in pixels of the scaled frame."
)
TILING = Tensor(
    "tiling",
    "FP32",
    (5,),
    meaning="scale_x, scale_y, frame H, frame W, overlap of tiles in network pixels.",
)
INTENSITY_RANGE = Tensor("levels", "FP32", (2,), meaning="Camera values that became 0 and 255.")
PREDICTIONS = Tensor(
    "predictions",
    "FP32",
    (-1, 8400),
    rows=-1,
    meaning="4 box values, K class scores and 32 mask coefficients of 8400 anchors.",
)
PROTOTYPES = Tensor(
    "prototypes",
    "FP32",
    (32, NETWORK_SIZE // 4, NETWORK_SIZE // 4),
    rows=-1,
    meaning="Masks that the coefficients mix.",
)
DETECTED_IDS = Tensor("detected_ids", "INT32", (-1,), meaning="N, class of the detector.")
DETECTED_PROBS = Tensor("detected_probs", "FP32", (-1, -1), meaning="N, K, of the detector.")
CELLS_DETECTED = Tensor("cells_detected", "INT32", (1,), meaning="As `cells_found`.")
# Copies under separate names: a step that runs only on request must not read a tensor that is also
# an output of the ensemble, or Triton answers "unexpected deadlock".
CELL_BOXES = Tensor("cell_boxes", "FP32", (-1, 4), meaning="As `boxes`.")
CELL_MASKS = Tensor("cell_masks", "UINT8", MASKS.dims, meaning="As `masks`.")
SAM_CELL_MASKS = Tensor("cell_masks", "UINT8", SAM_MASKS.dims, meaning="As `masks`.")
# `cell_labels` reads masks of any M. A graph fixes its own M: ONNX Runtime infers it, and Triton
# rejects a configuration that leaves open what the graph fixes.
PAINTED_MASKS = Tensor("cell_masks", "UINT8", (-1, -1, -1), meaning="As `masks`, of any M.")
FRAME_SIZE = Tensor("frame_size", "INT32", (2,), meaning="H, W.")
CROPS = Tensor(
    "crops",
    "UINT8",
    (3, CROP_SIZE, CROP_SIZE),
    rows=-1,
    meaning="RGB, one per cell; one meaningless row where there is no cell.",
)
CROP_PROBS = Tensor("crop_probs", "FP32", (-1,), rows=-1, meaning="K class probabilities.")

NETWORK_TILES = Tensor(
    "network_tiles",
    "UINT8",
    (3, -1, -1),
    rows=-1,
    meaning="T tiles of one frame, row by row, RGB, all of one size.",
)
# Candidates from all tiles, in frame pixels; the same cell may occur several times.
CANDIDATE_BOXES = Tensor("candidate_boxes", "FP32", (-1, 4), meaning="P, as `boxes`.")
CANDIDATE_SCORES = Tensor("candidate_scores", "FP32", (-1,), meaning="P, as `scores`.")
CANDIDATE_IDS = Tensor("candidate_ids", "INT32", (-1,), meaning="P, as `class_ids`.")
CANDIDATE_PROBS = Tensor("candidate_probs", "FP32", (-1, -1), meaning="P, K, as `class_probs`.")
CANDIDATE_MASKS = Tensor("candidate_masks", "UINT8", MASKS.dims, meaning="P, M, M, as `masks`.")
WHOLE = Tensor("whole", "INT32", (-1,), meaning="P: 1 where no inner edge of a tile cuts it.")
LARGE_CUT = Tensor("large_cut", "INT32", (-1,), meaning="P: 1 where it is whole in no tile.")
SAM_IMAGE = Tensor(
    "sam_image",
    "UINT8",
    (4, -1, -1),
    rows=-1,
    meaning="T tiles, or the frame: red, green, blue and opacity, S by S, the side of the "
    "exported SAM's input; transparent to the right and below.",
)
SAM_TILES = Tensor(
    "sam_tiles", "INT32", (-1, 4), meaning="T, (x0, y0, x1, y1) in frame pixels, of one size."
)
SAM_EMBEDDING = Tensor(
    "sam_embedding", "FP32", (-1, -1, -1), rows=-1, meaning="E channels, S / 16 by S / 16."
)
PROMPT_BOXES = Tensor(
    "prompt_boxes", "FP32", (-1, 4), meaning="N, around SAM's masks, in frame pixels."
)
PROMPT_MASKS = Tensor("prompt_masks", "UINT8", SAM_MASKS.dims, meaning="N, M, M, as `masks`.")
QUALITIES = Tensor("qualities", "FP32", (-1,), meaning="N, the IoU that SAM predicts of its mask.")

FRAME_RGB = Tensor(
    "frame_rgb", "UINT8", (3, -1, -1), rows=1, meaning="Normalised frame, contrast raised."
)
FRAME_PROBABILITY = Tensor("frame_probability", "UINT8", (-1, -1), rows=1, meaning="H, W.")
TILES = Tensor(
    "tiles", "UINT8", (3, TILE_SIZE, TILE_SIZE), rows=-1, meaning="Row by row of the grid, RGB."
)
TILE_PROBABILITIES = Tensor(
    "tile_probabilities", "UINT8", (TILE_SIZE, TILE_SIZE), rows=-1, meaning="0..255 is 0 to 1."
)

STEPS = {
    step.name: step
    for step in (
        Step(
            "yolo_prepare",
            (IMAGE, SCALE_INPUT, TILE_OVERLAP_INPUT),
            (NETWORK_IMAGE, TILE_ORIGINS, TILING, INTENSITY_RANGE),
            summary="Camera frame to network input: normalised, scaled, overlapping tiles.",
        ),
        # One class, "cell": the general network of S1, approach 2.
        Step(
            "yolo_cells",
            (NETWORK_IMAGE,),
            (PREDICTIONS, PROTOTYPES),
            summary="One-class YOLO11n-seg: every cell.",
            max_batch=MAX_TILES,
            warm_up=(1, NETWORK_IMAGE.dims),
            variants=(OPENVINO, INT8, *on_gpu(CUDA_GRAPH, plan_rows=(1, 4, MAX_TILES))),
        ),
        # K classes: the network of S1, approach 1, fine-tuned to the target data.
        Step(
            "yolo_targets",
            (NETWORK_IMAGE,),
            (PREDICTIONS, PROTOTYPES),
            summary="YOLO11n-seg fine-tuned to the target classes.",
            max_batch=MAX_TILES,
            warm_up=(1, NETWORK_IMAGE.dims),
            variants=(OPENVINO, INT8, *on_gpu(CUDA_GRAPH, plan_rows=(1, 4, MAX_TILES))),
        ),
        Step(
            "yolo_decode",
            (
                PREDICTIONS,
                PROTOTYPES,
                TILE_ORIGINS,
                TILING,
                SCORE_THRESHOLD_INPUT,
                OVERLAP_THRESHOLD_INPUT,
                MAX_CELLS_INPUT,
            ),
            (
                BOXES,
                SCORES,
                DETECTED_IDS,
                DETECTED_PROBS,
                MASKS,
                CELLS_FOUND,
                CELL_BOXES,
                CELL_MASKS,
                FRAME_SIZE,
            ),
            summary="Predictions of all tiles to cells: threshold, NMS, masks, merging, cap.",
        ),
        Step(
            "cell_crops",
            (IMAGE, INTENSITY_RANGE, CELL_BOXES),
            (CROPS,),
            summary="One crop per cell; without any cell one row, which `cell_classes` trims.",
        ),
        Step(
            "resnet50_cells",
            (CROPS,),
            (CROP_PROBS,),
            summary="ResNet50 on every cell, in chunks of constant memory.",
            max_batch=MAX_CANDIDATES,
            warm_up=(16, CROPS.dims),
            variants=(
                OPENVINO_CHUNKS,
                INT8,
                *on_gpu(CUDA_GRAPH, plan_rows=(1, 64, MAX_CANDIDATES)),
            ),
        ),
        Step(
            "cell_classes",
            (CROP_PROBS, CELL_BOXES),
            (CLASS_IDS, CLASS_PROBS),
            summary="The classifier's answer joined to the cells.",
            one_thread=True,
        ),
        Step(
            "cell_labels",
            (CELL_BOXES, PAINTED_MASKS, FRAME_SIZE),
            (LABELS,),
            summary="Paints the label image; a graph would hold one full frame per cell.",
            backend="python",
        ),
        *(
            Step(
                f"{pipeline}_merged",
                INSTANCE_INPUTS,
                (*INSTANCE_OUTPUTS, CELL_BOXES, CELL_MASKS, FRAME_SIZE),
                summary=f"All steps of `{pipeline}` but the painting of labels, as one graph.",
                is_merged=True,
                variants=(THROUGHPUT,),
            )
            for pipeline in ("yolo", "yolo_resnet")
        ),
        Step(
            "maskrcnn_prepare",
            (IMAGE, SCALE_INPUT, TILE_OVERLAP_INPUT),
            (NETWORK_TILES, TILE_ORIGINS, TILING, FRAME_SIZE),
            summary="Camera frame to 8-bit RGB tiles at the scale that the network was trained at.",
        ),
        # Not batched, because the number of cells varies. Tiles are processed one by one, because
        # the backbone's output is 90 MB per tile.
        Step(
            "maskrcnn_network",
            (
                NETWORK_TILES,
                TILE_ORIGINS,
                TILING,
                SCORE_THRESHOLD_INPUT,
                OVERLAP_THRESHOLD_INPUT,
            ),
            (
                CANDIDATE_BOXES,
                CANDIDATE_SCORES,
                CANDIDATE_IDS,
                CANDIDATE_PROBS,
                CANDIDATE_MASKS,
                WHOLE,
                LARGE_CUT,
            ),
            summary="Mask R-CNN: tiles to candidates, thresholds, NMS and mask patches included.",
            variants=on_gpu(CUDA),
        ),
        Step(
            "maskrcnn_cells",
            (
                CANDIDATE_BOXES,
                CANDIDATE_SCORES,
                CANDIDATE_IDS,
                CANDIDATE_PROBS,
                CANDIDATE_MASKS,
                WHOLE,
                LARGE_CUT,
                OVERLAP_THRESHOLD_INPUT,
                MAX_CELLS_INPUT,
            ),
            (
                BOXES,
                SCORES,
                DETECTED_IDS,
                DETECTED_PROBS,
                MASKS,
                CELLS_FOUND,
                CELL_BOXES,
                CELL_MASKS,
            ),
            summary="Candidates of all tiles to cells: merging by masks, cap.",
            one_thread=True,
        ),
        Step(
            "sam_prepare",
            (IMAGE,),
            (SAM_IMAGE, SAM_TILES),
            summary="Whole camera frame to SAM's input: longest side scaled to its square.",
        ),
        Step(
            "sam_prepare_tiles",
            (IMAGE, SCALE_INPUT, TILE_OVERLAP_INPUT),
            (SAM_IMAGE, SAM_TILES),
            summary="Camera frame to SAM's input at Mask R-CNN's scale, in tiles if it is larger.",
        ),
        Step(
            "sam_encoder",
            (SAM_IMAGE,),
            (SAM_EMBEDDING,),
            summary="SAM's image encoder. A further prompt on a frame costs the decoder only.",
            max_batch=MAX_TILES,
            caches_answers=True,
            # The attention of one tile takes a gigabyte, so a plan for 64 would fit no GPU.
            variants=on_gpu(CUDA_GRAPH, plan_rows=(1, 1, 4)),
        ),
        Step(
            "sam_box_prompts",
            (BOXES,),
            (PROMPT_POINTS, PROMPT_LABELS, COARSE_MASKS, COARSE_BOXES),
            summary="Boxes as prompts of SAM.",
            one_thread=True,
        ),
        Step(
            "sam_decoder",
            (
                SAM_EMBEDDING,
                SAM_TILES,
                PROMPT_POINTS,
                PROMPT_LABELS,
                COARSE_MASKS,
                COARSE_BOXES,
            ),
            (PROMPT_BOXES, PROMPT_MASKS, QUALITIES),
            summary="SAM's prompt encoder and mask decoder: one mask per prompt.",
            variants=on_gpu(CUDA),
        ),
        Step(
            "sam_cells",
            (
                PROMPT_BOXES,
                PROMPT_MASKS,
                QUALITIES,
                DETECTED_IDS,
                DETECTED_PROBS,
                CELLS_DETECTED,
                OVERLAP_THRESHOLD_INPUT,
            ),
            (
                BOXES,
                SCORES,
                CLASS_IDS,
                CLASS_PROBS,
                SAM_MASKS,
                CELLS_FOUND,
                CELL_BOXES,
                SAM_CELL_MASKS,
            ),
            summary="SAM's masks as cells: one answer per cell, best predicted quality first.",
            one_thread=True,
        ),
        Step(
            "glioma_prepare",
            (IMAGE,),
            (FRAME_RGB,),
            summary="Camera frame to network input: percentile normalisation, contrast raised.",
        ),
        # A whole frame keeps a processor busy, and its activations take gigabytes. Frames from
        # several clients take turns, so that only the memory for one frame is needed.
        Step(
            "glioma_network",
            (FRAME_RGB,),
            (FRAME_PROBABILITY,),
            summary="U-Net on a whole frame, ImageNet-initialised.",
            max_batch=1,
            warm_up=(1, (3, 256, 256)),
            variants=(OPENVINO, *on_gpu(CUDA_GRAPH)),
        ),
        Step(
            "glioma_livecell_network",
            (FRAME_RGB,),
            (FRAME_PROBABILITY,),
            summary="U-Net on a whole frame, pre-trained on LIVECell.",
            max_batch=1,
            warm_up=(1, (3, 256, 256)),
            variants=(OPENVINO, *on_gpu(CUDA_GRAPH)),
        ),
        Step(
            "nuclei_prepare",
            (IMAGE, WHITE_LEVEL_INPUT),
            (TILES, FRAME_SIZE),
            summary="Camera frame to overlapping tiles: white level, cleaning, mirrored borders.",
        ),
        Step(
            "nuclei_network",
            (TILES,),
            (TILE_PROBABILITIES,),
            summary="U-Net on tiles, in chunks of constant memory.",
            max_batch=MAX_NUCLEI_TILES,
            warm_up=(1, TILES.dims),
            variants=(OPENVINO_CHUNKS, THROUGHPUT, *on_gpu(CUDA_GRAPH)),
        ),
        Step(
            "nuclei_stitch",
            (TILE_PROBABILITIES, FRAME_SIZE),
            (FRAME_PROBABILITY,),
            summary="Tiles to the probability of the frame: overlaps blended smoothly.",
            one_thread=True,
        ),
        Step(
            "nuclei_centres",
            (FRAME_PROBABILITY, PROBABILITY_THRESHOLD_INPUT),
            (CENTRES, CENTRE_SCORES),
            summary="Peaks of the smoothed probability, one per nucleus.",
        ),
        Step(
            "foreground",
            (FRAME_PROBABILITY, PROBABILITY_THRESHOLD_INPUT),
            (PROBABILITY, MASK),
            summary="The probability, and the mask of the pixels at or above the threshold.",
            one_thread=True,
        ),
    )
}

PIPELINES = {
    pipeline.name: pipeline
    for pipeline in (
        Pipeline(
            "yolo",
            summary="YOLO11n-seg fine-tuned to the target classes",
            study="S1, approach 1",
            steps=("yolo_prepare", "yolo_targets", "yolo_decode", "cell_labels"),
            inputs=INSTANCE_INPUTS,
            outputs=INSTANCE_OUTPUTS,
            on_request=(LABELS,),
            card="yolo_card",
            wires=(
                Wire("yolo_decode", DETECTED_IDS.name, CLASS_IDS.name),
                Wire("yolo_decode", DETECTED_PROBS.name, CLASS_PROBS.name),
            ),
            merged_step="yolo_merged",
        ),
        Pipeline(
            "yolo_resnet",
            summary="one-class YOLO11n-seg, then ResNet50 on every cell",
            study="S1, approach 2",
            steps=(
                "yolo_prepare",
                "yolo_cells",
                "yolo_decode",
                "cell_crops",
                "resnet50_cells",
                "cell_classes",
                "cell_labels",
            ),
            inputs=INSTANCE_INPUTS,
            outputs=INSTANCE_OUTPUTS,
            on_request=(LABELS,),
            card="yolo_resnet_card",
            merged_step="yolo_resnet_merged",
        ),
        Pipeline(
            "maskrcnn",
            summary="Mask R-CNN ResNet50-FPN v2",
            study="S4",
            steps=("maskrcnn_prepare", "maskrcnn_network", "maskrcnn_cells", "cell_labels"),
            inputs=INSTANCE_INPUTS,
            outputs=INSTANCE_OUTPUTS,
            on_request=(LABELS,),
            card="maskrcnn_card",
            wires=(
                Wire("maskrcnn_cells", DETECTED_IDS.name, CLASS_IDS.name),
                Wire("maskrcnn_cells", DETECTED_PROBS.name, CLASS_PROBS.name),
            ),
            field=MASKRCNN_TILE_SIZE,
        ),
        Pipeline(
            "maskrcnn_sam",
            summary="boxes of Mask R-CNN as prompts for SAM",
            study="S4",
            steps=(
                "maskrcnn_prepare",
                "maskrcnn_network",
                "maskrcnn_cells",
                "sam_prepare_tiles",
                "sam_encoder",
                "sam_box_prompts",
                "sam_decoder",
                "sam_cells",
                "cell_labels",
            ),
            inputs=INSTANCE_INPUTS,
            outputs=(BOXES, SCORES, CLASS_IDS, CLASS_PROBS, SAM_MASKS, CELLS_FOUND),
            on_request=(LABELS,),
            card="maskrcnn_sam_card",
            wires=(
                Wire("maskrcnn_cells", BOXES.name, "detected_boxes"),
                Wire("maskrcnn_cells", CELLS_FOUND.name, CELLS_DETECTED.name),
                Wire("sam_box_prompts", BOXES.name, "detected_boxes"),
            ),
            field=MASKRCNN_TILE_SIZE,
        ),
        Pipeline(
            "sam_prompt",
            summary="SAM, prompted by boxes, points and coarse masks",
            study="S4, what its authors ask for",
            steps=("sam_prepare", "sam_encoder", "sam_decoder"),
            inputs=(IMAGE, PROMPT_POINTS, PROMPT_LABELS, COARSE_MASKS, COARSE_BOXES),
            outputs=(PROMPT_BOXES, PROMPT_MASKS, QUALITIES),
            on_request=(),
            card="sam_prompt_card",
        ),
        Pipeline(
            "glioma_unet",
            summary="U-Net on a whole phase-contrast frame, ImageNet-initialised",
            study="S2",
            steps=("glioma_prepare", "glioma_network", "foreground"),
            inputs=(IMAGE, PROBABILITY_THRESHOLD_INPUT),
            outputs=(PROBABILITY, MASK),
            on_request=(),
            card="glioma_unet_card",
            max_pixels=MAX_WHOLE_FRAME_PIXELS,
        ),
        Pipeline(
            "glioma_unet_livecell",
            summary="the same, its whole U-Net pre-trained on LIVECell",
            study="S2",
            steps=("glioma_prepare", "glioma_livecell_network", "foreground"),
            inputs=(IMAGE, PROBABILITY_THRESHOLD_INPUT),
            outputs=(PROBABILITY, MASK),
            on_request=(),
            card="glioma_unet_livecell_card",
            max_pixels=MAX_WHOLE_FRAME_PIXELS,
        ),
        Pipeline(
            "nuclei_unet",
            summary="cleaning, overlapping tiles, U-Net, seamless stitch, nuclei",
            study="S3",
            steps=(
                "nuclei_prepare",
                "nuclei_network",
                "nuclei_stitch",
                "nuclei_centres",
                "foreground",
            ),
            inputs=(IMAGE, WHITE_LEVEL_INPUT, PROBABILITY_THRESHOLD_INPUT),
            outputs=(PROBABILITY, MASK, CENTRES, CENTRE_SCORES),
            on_request=(),
            card="nuclei_unet_card",
            max_pixels=MAX_TILED_PIXELS,
        ),
    )
}
