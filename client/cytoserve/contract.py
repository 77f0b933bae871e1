"""The contract between client, graphs and server: the one place that names a tensor.

A *pipeline* is a Triton ensemble and the public API of the server; a *step* is one model
inside it. Dims are listed as Triton lists them, -1 is variable.

Coordinates are continuous frame pixels: pixel ``i`` spans ``[i, i + 1)``, its centre lies at
``i + 0.5``. Boxes are ``(x0, y0, x1, y1)`` with ``x`` along the width.
"""

from __future__ import annotations

from dataclasses import dataclass

MASK_SIZE = 56
"""M: side of a cell's mask patch, in patch pixels; the patch spans the cell's box."""

NETWORK_SIZE = 640
"""Side of the square tile that the YOLO networks see, in network pixels."""

MASKRCNN_TILE_SIZE = 1024
"""Longest side of a tile that Mask R-CNN sees, in network pixels."""

SAM_MASK_SIZE = 112
"""M of SAM's masks, whose borders are sharper than those of the other networks."""

CROP_SIZE = 48
"""Side of the crop that the classifier sees, in pixels."""

TILE_SIZE = 256
"""Side of the tiles that the nuclei network sees, in frame pixels."""

TILE_STEP = 128
"""Distance of neighbouring tiles, in frame pixels. The grid starts ``TILE_MARGIN`` outside the
frame, so that every pixel lies that far inside some tile."""

TILE_MARGIN = (TILE_SIZE - TILE_STEP) // 2
"""Pixels beyond the frame, mirrored, that the first and last tiles reach over."""

MAX_CELLS = 4096
"""Default cap on the cells of one answer; ``cells_found`` tells when it was reached."""

MAX_SIDE = 16384
"""Longest side of a frame, in pixels."""

MAX_FRAME_BYTES = 128 * 1024 * 1024
"""Most bytes of one frame on the wire (UINT16): 8192 x 8192 grey or 4729 x 4729 RGB."""

MAX_WHOLE_FRAME_PIXELS = 8_000_000
"""Most pixels of a frame that a network takes as a whole: its activations need about 1 kB each."""

MAX_TILED_PIXELS = 4096 * 4096
"""Most pixels of a frame that the server cuts into tiles; the client sends larger ones in parts."""

PROBABILITY_THRESHOLD = 0.5
"""Probability threshold of a model whose training chose none; pixels from it on are foreground."""

SCORE_THRESHOLD = 0.25
"""Score threshold of a model whose training chose none; detections below it are dropped."""

OVERLAP_THRESHOLD = 0.6
"""Default: of two cells of which one covers a larger share of the smaller one's mask, one stays."""

MAX_TILES = 64
"""Maximum number of network tiles per request: 4224 x 4224 network pixels at an overlap of 128.
The client sends larger frames in parts."""

MAX_TILE_OVERLAP = NETWORK_SIZE // 2
"""Largest overlap of neighbouring tiles, in network pixels. Larger ones only add tiles."""


@dataclass(frozen=True)
class Tensor:
    """One named tensor: ``dtype`` as Triton spells it, ``dims`` with -1 for variable ones.

    A tensor of a network step has ``rows`` in front of its dims: to the network they are its
    batch, to a step that sees one frame an ordinary dim (1 image, or -1 for one row a cell).
    """

    name: str
    dtype: str
    dims: tuple[int, ...]
    rows: int | None = None


@dataclass(frozen=True)
class Step:
    """One model inside a pipeline; ``batches`` where it has a batch dimension in front.

    ``fused`` is one that computes other steps of its pipeline as one graph.
    """

    name: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    batches: bool = False
    fused: bool = False

    def config_dims(self, tensor: Tensor) -> tuple[int, ...]:
        """``dims`` of one of its tensors in ``config.pbtxt``, where a batch dim is left out."""
        if tensor.rows is None or self.batches:
            return tensor.dims
        return (tensor.rows, *tensor.dims)

    def graph_dims(self, tensor: Tensor) -> tuple[int, ...]:
        """Dims of one of its tensors in the ONNX graph, a batch dim included as -1."""
        return (-1, *tensor.dims) if self.batches else self.config_dims(tensor)


@dataclass(frozen=True)
class Pipeline:
    """One ensemble: what it takes, what it answers, and the steps that it chains.

    ``on_request`` are outputs whose step runs only when a request names them. ``card`` is the
    model that tells class names and model hashes (see :data:`CARD_OUTPUT`). ``max_pixels`` is the
    most, ``H * W``, that one request may hold. ``field`` is the longest side of a tile of an
    instance pipeline, in network pixels. ``fused`` is the step that takes the place of all steps
    but those ``on_request`` in a variant that serves them as one graph.
    """

    name: str
    summary: str
    study: str
    steps: tuple[str, ...]
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    on_request: tuple[Tensor, ...]
    card: str
    max_pixels: int = MAX_SIDE * MAX_SIDE
    field: int = NETWORK_SIZE
    fused: str | None = None

    @property
    def is_semantic(self) -> bool:
        """Whether it answers with a probability for every pixel."""
        return PROBABILITY in self.outputs

    @property
    def is_prompted(self) -> bool:
        """Whether it answers one mask a prompt, in the order of the prompts."""
        return PROMPT_POINTS in self.inputs

    @property
    def is_instance(self) -> bool:
        """Whether it finds cells by itself."""
        return CELLS_FOUND in self.outputs


# -- What a caller sees -----------------------------------------------------------------------
IMAGE = Tensor("image", "UINT16", (-1, -1, -1))  # H, W, C; C = 1 or 3, as the camera gave it
# Network pixels per frame pixel. The card tells the scale that the network was trained at.
SCALE_INPUT = Tensor("scale", "FP32", (1,))
# Least overlap of neighbouring tiles in network pixels: the size of the largest cells.
TILE_OVERLAP_INPUT = Tensor("tile_overlap", "FP32", (1,))
SCORE_THRESHOLD_INPUT = Tensor("score_threshold", "FP32", (1,))
OVERLAP_THRESHOLD_INPUT = Tensor("overlap_threshold", "FP32", (1,))
MAX_CELLS_INPUT = Tensor("max_cells", "INT32", (1,))

BOXES = Tensor("boxes", "FP32", (-1, 4))  # N, (x0, y0, x1, y1) in frame pixels
SCORES = Tensor("scores", "FP32", (-1,))  # N, descending
CLASS_IDS = Tensor("class_ids", "INT32", (-1,))  # N, index into the card's class names
CLASS_PROBS = Tensor("class_probs", "FP32", (-1, -1))  # N, K
# N, M, M; the probability 0..255 inside the box
MASKS = Tensor("masks", "UINT8", (-1, MASK_SIZE, MASK_SIZE))
SAM_MASKS = Tensor("masks", "UINT8", (-1, SAM_MASK_SIZE, SAM_MASK_SIZE))  # as `masks`
CELLS_FOUND = Tensor("cells_found", "INT32", (1,))  # before the cap; > N when it was reached
LABELS = Tensor("labels", "UINT16", (-1, -1))  # H, W; 0 background, i the i-th cell

# What a person or a program says of N cells, each by P points: clicks, and the corners of a box.
# (x, y) in frame pixels; what a label means stands in `POINT_LABELS`.
PROMPT_POINTS = Tensor("prompt_points", "FP32", (-1, -1, 2))
PROMPT_LABELS = Tensor("prompt_labels", "INT32", (-1, -1))
# C, M, M; C = N, or 0 if no prompt has a coarse mask: the probability 0..255 inside its box.
COARSE_MASKS = Tensor("coarse_masks", "UINT8", (-1, MASK_SIZE, MASK_SIZE))
COARSE_BOXES = Tensor("coarse_boxes", "FP32", (-1, 4))  # C

PROBABILITY_THRESHOLD_INPUT = Tensor("probability_threshold", "FP32", (1,))
# The camera value that is white, 1.0, in the stain's training images: 255 for 8-bit frames. Not
# read from the frame, so that parts of a large frame are normalised alike.
WHITE_LEVEL_INPUT = Tensor("white_level", "FP32", (1,))

PROBABILITY = Tensor("probability", "UINT8", (-1, -1))  # H, W; 0..255 is 0..1
MASK = Tensor("mask", "UINT8", (-1, -1))  # H, W; 1 foreground, 0 background
CENTRES = Tensor("centres", "FP32", (-1, 2))  # N, (x, y) in frame pixels
CENTRE_SCORES = Tensor("centre_scores", "FP32", (-1,))  # N, descending; smoothed probability

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
"""Values of `PROMPT_LABELS`, as SAM's own ONNX model takes them (Kirillov et al. 2023). ``none``
fills up the rows of prompts that have fewer points than others."""

# -- The card: what a pipeline says of itself ---------------------------------------------------
CARD_INPUT = Tensor("page", "INT64", (1,))  # always 0: one page
CARD_OUTPUT = Tensor("card", "BYTES", (1,))
"""JSON: ``pipeline``, ``class_names``, ``models`` (name -> version, sha256), ``recipes``."""

# -- What passes between the steps --------------------------------------------------------------
# T tiles of one frame, row by row.
NETWORK_IMAGE = Tensor("network_image", "UINT8", (3, NETWORK_SIZE, NETWORK_SIZE), rows=-1)
TILE_ORIGINS = Tensor("tile_origins", "FP32", (-1, 2))  # T, (x, y) in pixels of the scaled frame
# scale_x, scale_y, frame H, frame W, overlap of neighbouring tiles in network pixels
TILING = Tensor("tiling", "FP32", (5,))
LEVELS = Tensor("levels", "FP32", (2,))  # camera values that normalisation maps to 0 and 1
# 4 box values, K class scores, 32 mask coefficients; 8400 anchors of the 640 px network.
PREDICTIONS = Tensor("predictions", "FP32", (-1, 8400), rows=-1)
PROTOTYPES = Tensor("prototypes", "FP32", (32, NETWORK_SIZE // 4, NETWORK_SIZE // 4), rows=-1)
DETECTED_IDS = Tensor("detected_ids", "INT32", (-1,))
DETECTED_PROBS = Tensor("detected_probs", "FP32", (-1, -1))
CELLS_DETECTED = Tensor("cells_detected", "INT32", (1,))  # before the cap, as `cells_found`
# Copies under names of their own: a step that runs only on request must not read a tensor that
# is also an output of the ensemble, or Triton answers "unexpected deadlock".
CELL_BOXES = Tensor("cell_boxes", "FP32", (-1, 4))
CELL_MASKS = Tensor("cell_masks", "UINT8", MASKS.dims)
SAM_CELL_MASKS = Tensor("cell_masks", "UINT8", SAM_MASKS.dims)
# As `cell_labels` reads them, of any M. A graph says its own M: ONNX Runtime infers it, and Triton
# refuses a configuration that leaves open what the graph fixes.
PAINTED_MASKS = Tensor("cell_masks", "UINT8", (-1, -1, -1))
FRAME_SIZE = Tensor("frame_size", "INT32", (2,))  # H, W
CROPS = Tensor("crops", "UINT8", (3, CROP_SIZE, CROP_SIZE), rows=-1)  # one row at least
CROP_PROBS = Tensor("crop_probs", "FP32", (-1,), rows=-1)  # K

# T tiles of one frame, row by row, all of one size: that of the frame where it is no larger.
NETWORK_TILES = Tensor("network_tiles", "UINT8", (3, -1, -1), rows=-1)
# What was found in all tiles, in frame pixels; one cell may stand here several times.
CANDIDATE_BOXES = Tensor("candidate_boxes", "FP32", (-1, 4))  # P
CANDIDATE_SCORES = Tensor("candidate_scores", "FP32", (-1,))
CANDIDATE_IDS = Tensor("candidate_ids", "INT32", (-1,))
CANDIDATE_PROBS = Tensor("candidate_probs", "FP32", (-1, -1))  # P, K
CANDIDATE_MASKS = Tensor("candidate_masks", "UINT8", MASKS.dims)
WHOLE = Tensor("whole", "INT32", (-1,))  # 1: no inner edge of a tile cuts it
LARGE_CUT = Tensor("large_cut", "INT32", (-1,))  # 1: cut, and whole in no other tile
# T tiles of one frame, or the frame. Red, green, blue and opacity: longest side scaled to SAM's
# input side S, transparent to the right and below. Pixel statistics are the encoder's.
SAM_IMAGE = Tensor("sam_image", "UINT8", (4, -1, -1), rows=-1)  # S, S
SAM_TILES = Tensor("sam_tiles", "INT32", (-1, 4))  # T, x0, y0, x1, y1 in frame pixels, of one size
SAM_EMBEDDING = Tensor("sam_embedding", "FP32", (-1, -1, -1), rows=-1)  # E, S / 16, S / 16
PROMPT_BOXES = Tensor("prompt_boxes", "FP32", (-1, 4))  # N, around SAM's masks, in frame pixels
PROMPT_MASKS = Tensor("prompt_masks", "UINT8", SAM_MASKS.dims)
QUALITIES = Tensor("qualities", "FP32", (-1,))  # N, the IoU that SAM predicts of its mask

FRAME_RGB = Tensor("frame_rgb", "UINT8", (3, -1, -1), rows=1)  # normalised, contrast raised
FRAME_PROBABILITY = Tensor("frame_probability", "UINT8", (-1, -1), rows=1)  # H, W
TILES = Tensor("tiles", "UINT8", (3, TILE_SIZE, TILE_SIZE), rows=-1)  # row by row of the grid
TILE_PROBABILITIES = Tensor("tile_probabilities", "UINT8", (TILE_SIZE, TILE_SIZE), rows=-1)

STEPS = {
    step.name: step
    for step in (
        Step(
            "yolo_prepare",
            (IMAGE, SCALE_INPUT, TILE_OVERLAP_INPUT),
            (NETWORK_IMAGE, TILE_ORIGINS, TILING, LEVELS),
        ),
        # One class, "cell": the general network of S1, approach 2.
        Step("yolo_cells", (NETWORK_IMAGE,), (PREDICTIONS, PROTOTYPES), batches=True),
        # K classes: the network of S1, approach 1, fine-tuned to the target data.
        Step("yolo_targets", (NETWORK_IMAGE,), (PREDICTIONS, PROTOTYPES), batches=True),
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
        ),
        Step("cell_crops", (IMAGE, LEVELS, CELL_BOXES), (CROPS,)),
        Step("resnet50_cells", (CROPS,), (CROP_PROBS,), batches=True),
        Step("cell_classes", (CROP_PROBS, CELL_BOXES), (CLASS_IDS, CLASS_PROBS)),
        Step("cell_labels", (CELL_BOXES, PAINTED_MASKS, FRAME_SIZE), (LABELS,)),
        *(
            Step(
                name,
                INSTANCE_INPUTS,
                (*INSTANCE_OUTPUTS, CELL_BOXES, CELL_MASKS, FRAME_SIZE),
                fused=True,
            )
            for name in ("yolo_fused", "yolo_resnet_fused")
        ),
        Step(
            "maskrcnn_prepare",
            (IMAGE, SCALE_INPUT, TILE_OVERLAP_INPUT),
            (NETWORK_TILES, TILE_ORIGINS, TILING, FRAME_SIZE),
        ),
        # Not batched: its cells differ in number. Tiles go through it one by one, for what leaves
        # its backbone is 90 MB per tile.
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
        ),
        Step("sam_prepare", (IMAGE,), (SAM_IMAGE, SAM_TILES)),
        Step(
            "sam_prepare_tiles",
            (IMAGE, SCALE_INPUT, TILE_OVERLAP_INPUT),
            (SAM_IMAGE, SAM_TILES),
        ),
        Step("sam_encoder", (SAM_IMAGE,), (SAM_EMBEDDING,), batches=True),
        Step(
            "sam_box_prompts",
            (BOXES,),
            (PROMPT_POINTS, PROMPT_LABELS, COARSE_MASKS, COARSE_BOXES),
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
        ),
        Step("glioma_prepare", (IMAGE,), (FRAME_RGB,)),
        Step("glioma_network", (FRAME_RGB,), (FRAME_PROBABILITY,), batches=True),
        Step("glioma_livecell_network", (FRAME_RGB,), (FRAME_PROBABILITY,), batches=True),
        Step("nuclei_prepare", (IMAGE, WHITE_LEVEL_INPUT), (TILES, FRAME_SIZE)),
        Step("nuclei_network", (TILES,), (TILE_PROBABILITIES,), batches=True),
        Step("nuclei_stitch", (TILE_PROBABILITIES, FRAME_SIZE), (FRAME_PROBABILITY,)),
        Step(
            "nuclei_centres",
            (FRAME_PROBABILITY, PROBABILITY_THRESHOLD_INPUT),
            (CENTRES, CENTRE_SCORES),
        ),
        Step("foreground", (FRAME_PROBABILITY, PROBABILITY_THRESHOLD_INPUT), (PROBABILITY, MASK)),
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
            fused="yolo_fused",
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
            fused="yolo_resnet_fused",
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
