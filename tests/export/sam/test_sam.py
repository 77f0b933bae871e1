"""SAM as graphs: the answers of segment-anything's own predictor, prompt by prompt."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import onnxruntime
import pytest
import torch
from scipy import ndimage
from segment_anything import SamPredictor
from segment_anything.modeling import (
    ImageEncoderViT,
    MaskDecoder,
    PromptEncoder,
    Sam,
    TwoWayTransformer,
)
from torch import nn

from cytoserve.contract import STEPS
from cytoserve.patches import regions
from export.graphs.files import open_graph
from export.parity.reference import normalised_rgb
from export.parity.steps import ExportedStep, ParityError, pixels
from export.repository.install import SAM_SETTING
from export.sam import steps as sam_steps
from export.sam.network import CHUNK, SamDecoder
from export.sam.parity import LOGIT_MARGIN, prompt_inputs
from export.sam.reference import PredictorSam, Prompt, best_tile, sam_tiles
from export.sam.steps import SamSizesError, require_one_sam

Arrays = Mapping[str, np.ndarray]
SIDE = 128


def small_sam(side: int = SIDE, width: int = 32) -> Sam:
    """A SAM of the library's own classes, small enough to trace in a second.

    Its masks differ from prompt to prompt and are smooth, as those of a trained one, though it has
    learned nothing: it tells tokens apart, and has no detail within a token.
    """
    torch.manual_seed(0)
    grid = side // 8
    sam = Sam(
        image_encoder=ImageEncoderViT(
            img_size=side,
            patch_size=8,
            embed_dim=32,
            depth=2,
            num_heads=2,
            norm_layer=partial(nn.LayerNorm, eps=1e-6),
            use_rel_pos=True,
            global_attn_indexes=(1,),
            window_size=7,  # no divisor of the grid: windows are padded
            out_chans=width,
        ),
        prompt_encoder=PromptEncoder(width, (grid, grid), (side, side), mask_in_chans=16),
        mask_decoder=MaskDecoder(
            transformer=TwoWayTransformer(
                depth=2, embedding_dim=width, mlp_dim=2 * width, num_heads=2
            ),
            transformer_dim=width,
        ),
    ).eval()
    with torch.no_grad():
        for name, weight in sam.named_parameters():
            if "rel_pos" in name or "pos_embed" in name:
                weight.normal_(std=0.1)
            elif "mask_decoder.transformer" in name and weight.ndim == 2:
                weight.mul_(2.5)
            elif "hypernetworks" in name and "layers.2" in name:
                weight.mul_(25)
        for module in sam.mask_decoder.output_upscaling:
            if isinstance(module, nn.ConvTranspose2d):
                kernel = module.weight.mean(dim=(2, 3), keepdim=True)
                module.weight.copy_(8 * kernel.expand_as(module.weight))
    return sam


@pytest.fixture(scope="module")
def sam() -> Sam:
    return small_sam()


@dataclass(frozen=True)
class Served:
    """The three steps of `sam_prompt`, as graphs."""

    prepare: onnxruntime.InferenceSession
    encoder: onnxruntime.InferenceSession
    decoder: onnxruntime.InferenceSession

    def prompt(self, camera: np.ndarray, prompts: Arrays) -> tuple[np.ndarray, ...]:
        """Boxes, masks and qualities."""
        image, tiles = self.prepare.run(None, {"image": camera})
        [embedding] = self.encoder.run(None, {"sam_image": image})
        feeds = {"sam_embedding": embedding, "sam_tiles": tiles, **prompts}
        boxes, masks, qualities = self.decoder.run(None, feeds)
        return boxes, masks, qualities


@pytest.fixture(scope="module")
def steps(sam: Sam) -> dict[str, ExportedStep]:
    made = (
        sam_steps.sam_prepare(sam),
        sam_steps.sam_prepare_tiles(sam),
        sam_steps.sam_encoder(sam),
        sam_steps.sam_box_prompts(),
        sam_steps.sam_decoder(sam),
        sam_steps.sam_cells(),
    )
    return {step.name: step for step in made}


@pytest.fixture(scope="module")
def sessions(steps: dict[str, ExportedStep]) -> dict[str, onnxruntime.InferenceSession]:
    return {name: open_graph(step.graph, 1) for name, step in steps.items()}


@pytest.fixture(scope="module")
def served(sessions: dict[str, onnxruntime.InferenceSession]) -> Served:
    return Served(*(sessions[name] for name in ("sam_prepare", "sam_encoder", "sam_decoder")))


def smooth_frame(height: int, width: int, channels: int = 1) -> np.ndarray:
    """A camera frame uint16 ``[H, W, C]`` of blobs, with bits above the eighth in use."""
    noise = np.random.default_rng(0).normal(size=(height, width, channels))
    smooth = ndimage.gaussian_filter(noise, (6, 6, 0))
    return (4000 * (smooth - smooth.min()) / np.ptp(smooth)).astype(np.uint16)


def some_boxes(count: int, height: int, width: int) -> np.ndarray:
    """Boxes float32 ``[count, 4]``, some of them over the frame's edge."""
    random = np.random.default_rng(count)
    centres = random.uniform(0, 1, (count, 2)) * [width, height]
    half = random.uniform(4, 40, (count, 2))
    return np.concatenate([centres - half, centres + half], axis=1).astype(np.float32)


def point_labels(count: int) -> np.ndarray:
    return np.array([1, 0, 1][:count], np.int32)


def coarse_mask() -> np.ndarray:
    steps = (np.arange(56) + 0.5) / 56 - 0.5
    return np.round(255 * np.clip(1.5 - 3 * np.hypot(steps[:, None], steps), 0, 1)).astype(np.uint8)


def by_boxes(boxes: np.ndarray) -> list[Prompt]:
    return [Prompt(box=box) for box in boxes]


def by_points(boxes: np.ndarray) -> list[Prompt]:
    """One to three points each, so that rows are filled up."""
    return [
        Prompt(
            points=np.stack([(b[:2] + b[2:]) / 2, b[:2], b[[2, 1]]])[: 1 + i % 3],
            point_labels=point_labels(1 + i % 3),
        )
        for i, b in enumerate(boxes)
    ]


def by_both(boxes: np.ndarray) -> list[Prompt]:
    """Every second by a box as well."""
    return [
        Prompt(box=b if i % 2 else None, points=p.points, point_labels=p.point_labels)
        for i, (b, p) in enumerate(zip(boxes, by_points(boxes), strict=True))
    ]


def by_coarse_masks(boxes: np.ndarray) -> list[Prompt]:
    return [Prompt(box=box, coarse_mask=coarse_mask(), coarse_box=box) for box in boxes]


PREDICTOR_CASES = [
    pytest.param((97, 150), 42, by_boxes, id="42 boxes, odd grey"),
    pytest.param((97, 150), 1, by_boxes, id="one box"),
    pytest.param((48, 64), 10, by_boxes, id="enlarged"),
    pytest.param((128, 128), 10, by_points, id="points, as SAM sees it"),
    pytest.param((150, 97), 10, by_both, id="points and boxes"),
    pytest.param((150, 97), 10, by_coarse_masks, id="coarse masks"),
    pytest.param((301, 299), 10, by_boxes, id="reduced"),
]


@pytest.mark.parametrize(("shape", "count", "kind"), PREDICTOR_CASES)
def test_the_predictors_masks(
    sam: Sam,
    served: Served,
    shape: tuple[int, int],
    count: int,
    kind: Callable[[np.ndarray], list[Prompt]],
) -> None:
    camera = smooth_frame(*shape, channels=1 if shape[0] % 2 else 3)
    prompts = kind(some_boxes(count, *shape))
    boxes, patches, qualities = served.prompt(camera, prompt_inputs(prompts))
    predictor = PredictorSam(sam)
    predictor.set_frame(camera)
    overlaps, empty = [], 0
    for index, region in enumerate(regions(boxes, patches, shape)):
        expected = predictor.candidates(prompts[index])
        best = expected.qualities.argmax()
        assert qualities[index] == pytest.approx(expected.qualities[best], abs=1e-3)
        mask = expected.logits[best] > 0
        ours = np.zeros(shape, bool)
        ours[region.rows, region.columns] = region.mask
        if not mask.any():
            empty += 1
            assert not ours.any()
            continue
        clear = np.abs(expected.logits[best]) > LOGIT_MARGIN
        overlaps.append((ours & mask & clear).sum() / ((ours | mask) & clear).sum())
        rows, columns = np.nonzero(mask)
        tight = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
        # Frames that SAM sees enlarged or as they are have tight boxes; a box of a reduced one
        # may reach a pixel of SAM's input beyond, but never cuts the mask.
        slack = max(0.0, max(shape) / SIDE)
        assert (boxes[index, :2] <= np.add(tight[:2], 1)).all()
        np.testing.assert_allclose(boxes[index], tight, atol=slack + 1)
    assert empty < count / 2 or count == 1
    assert np.mean(overlaps) >= 0.99, overlaps


@pytest.mark.parametrize("count", [0, 1, CHUNK, 500])
def test_any_number_of_prompts(served: Served, count: int) -> None:
    camera = smooth_frame(97, 150)
    boxes = some_boxes(500, 97, 150)[:count]
    answer = served.prompt(camera, prompt_inputs(by_boxes(boxes)))
    assert [part.shape for part in answer] == [(count, 4), (count, 112, 112), (count,)]
    assert [part.dtype for part in answer] == [np.float32, np.uint8, np.float32]
    if count > 1:  # in the order of the prompts
        alone = served.prompt(camera, prompt_inputs(by_boxes(boxes[-1:])))
        np.testing.assert_allclose(alone[0][0], answer[0][-1])
        np.testing.assert_allclose(alone[2][0], answer[2][-1], atol=1e-5)


def test_rows_that_are_filled_up_change_nothing(served: Served) -> None:
    camera = smooth_frame(97, 150)
    prompts = prompt_inputs(by_boxes(some_boxes(3, 97, 150)))
    filled = dict(prompts)
    filled["prompt_points"] = np.pad(prompts["prompt_points"], ((0, 0), (0, 4), (0, 0)))
    filled["prompt_labels"] = np.pad(prompts["prompt_labels"], ((0, 0), (0, 4)), constant_values=-1)
    for one, other in zip(
        served.prompt(camera, prompts), served.prompt(camera, filled), strict=True
    ):
        np.testing.assert_allclose(one.astype(float), other.astype(float), atol=1.0)
    np.testing.assert_allclose(
        served.prompt(camera, prompts)[2], served.prompt(camera, filled)[2], atol=1e-5
    )


def test_a_coarse_box_without_area_is_no_coarse_mask(served: Served) -> None:
    camera, boxes = smooth_frame(97, 150), some_boxes(4, 97, 150)
    prompts = prompt_inputs(by_coarse_masks(boxes))
    prompts["coarse_boxes"][1:3, 2:] = prompts["coarse_boxes"][1:3, :2]
    mixed = served.prompt(camera, prompts)[2]
    none = served.prompt(camera, prompt_inputs(by_boxes(boxes)))[2]
    coarse = served.prompt(camera, prompt_inputs(by_coarse_masks(boxes)))[2]
    np.testing.assert_allclose(mixed, [coarse[0], none[1], none[2], coarse[3]], atol=1e-5)
    assert np.abs(coarse - none).min() > 1e-4


@pytest.mark.parametrize(
    ("points", "labels", "box"),
    [
        pytest.param([[9, 8], [30, 40]], [2, 3], [9, 8, 30, 40], id="its box"),
        pytest.param([[9, 8], [30, 40], [90, 90]], [2, 3, 1], [9, 8, 30, 40], id="not its points"),
        pytest.param([[9, 40], [30, 8], [90, 90]], [1, 1, 0], [9, 8, 30, 40], id="foreground"),
        pytest.param([[9, 40], [30, 8]], [0, -1], [0, 0, 0, 0], id="background alone"),
        pytest.param(np.zeros((0, 2)), [], [0, 0, 0, 0], id="nothing"),
    ],
)
def test_box_of_an_empty_mask(
    sam: Sam, points: list[list[float]], labels: list[int], box: list[float]
) -> None:
    logits = torch.full((1, SIDE // 2, SIDE // 2), -1.0)
    boxes, patches = decode_logits(sam, logits, (97, 150), points, labels)
    np.testing.assert_array_equal(boxes[0], box)
    assert patches.max() < 128


def test_an_empty_mask_has_no_pixel(sam: Sam) -> None:
    """A peak that falls between the pixels of a small frame is in the patch, but not above 127."""
    logits = torch.full((1, SIDE // 2, SIDE // 2), -1.0)
    logits[0, 6, 6] = 9.0  # between the pixels 1 and 2 of 20
    boxes, patches = decode_logits(sam, logits, (20, 20), [[1, 1], [3, 3]], [2, 3])
    np.testing.assert_array_equal(boxes[0], [1, 1, 3, 3])
    assert patches.max() == 127


def decode_logits(
    sam: Sam,
    logits: torch.Tensor,
    frame_size: tuple[int, int],
    points: list[list[float]],
    labels: list[int],
) -> tuple[np.ndarray, np.ndarray]:
    """Boxes and patches of one prompt whose low-resolution mask is ``logits``."""
    decoder = SamDecoder(sam)
    decoder._best_masks = lambda *_: (logits, torch.zeros(1))  # type: ignore[method-assign]
    with torch.inference_mode():
        boxes, patches, _ = decoder(
            torch.zeros(1, 32, decoder.grid, decoder.grid),
            torch.tensor([[0, 0, frame_size[1], frame_size[0]]], dtype=torch.int32),
            torch.tensor(points, dtype=torch.float32).reshape(1, -1, 2),
            torch.tensor(labels, dtype=torch.int32).reshape(1, -1),
            torch.zeros((0, 56, 56), dtype=torch.uint8),
            torch.zeros((0, 4)),
        )
    return boxes.numpy(), patches.numpy()


@pytest.mark.parametrize(
    ("shape", "channels"),
    [((97, 331), 1), ((97, 33), 3), ((128, 128), 1), ((64, 48), 3), ((1, 1), 1), ((500, 401), 1)],
)
def test_input_is_that_of_set_image(
    sam: Sam, served: Served, shape: tuple[int, int], channels: int
) -> None:
    camera = smooth_frame(*shape, channels) if min(shape) > 1 else np.full((1, 1, 1), 7, np.uint16)
    image, tiles = served.prepare.run(None, {"image": camera})
    resized = SamPredictor(sam).transform.apply_image(normalised_rgb(camera))
    expected = np.zeros((4, SIDE, SIDE), int)
    expected[:, : resized.shape[0], : resized.shape[1]] = np.dstack(
        [resized, np.full(resized.shape[:2], 255)]
    ).transpose(2, 0, 1)
    difference = np.abs(image[0] - expected)
    assert tiles.tolist() == [[0, 0, shape[1], shape[0]]]
    assert difference[3].max() == 0
    assert difference.max() <= 1  # grey level: where a value lies between two
    assert (difference > 0).mean() < 0.002


@pytest.mark.parametrize(
    ("shape", "scale", "overlap", "tiles"),
    [
        pytest.param((97, 331, 1), 0.3, 40.0, 1, id="SAM sees the whole larger"),
        pytest.param((300, 331, 1), SIDE / 331, 40.0, 1, id="fit"),
        pytest.param((97, 331, 1), 1.0, 40.0, 4, id="one row of tiles"),
        pytest.param((200, 331, 3), 1.0, 20.0, 6, id="two rows"),
        pytest.param((128, 128, 1), 1.0, 40.0, 1, id="just one"),
        pytest.param((128, 129, 1), 1.0, 40.0, 2, id="one pixel more"),
        pytest.param((100, 90, 1), 2.3, 1e6, 9, id="enlarged, most overlap"),
        pytest.param((1, 1, 1), 1.0, 40.0, 1, id="1x1"),
    ],
)
def test_tiles_are_those_of_set_image(
    sam: Sam,
    sessions: dict[str, onnxruntime.InferenceSession],
    shape: tuple[int, int, int],
    scale: float,
    overlap: float,
    tiles: int,
) -> None:
    """Each is what the predictor makes of that part of the frame; together they cover it."""
    camera = smooth_frame(*shape) if shape[0] > 1 else np.full(shape, 7, np.uint16)
    feeds = {
        "image": camera,
        "scale": np.array([scale], np.float32),
        "tile_overlap": np.array([overlap], np.float32),
    }
    images, places = sessions["sam_prepare_tiles"].run(None, feeds)
    assert len(images) == len(places) == tiles
    assert places.tolist() == [list(each) for each in sam_tiles(shape[:2], scale, overlap, SIDE)]
    seen = np.zeros(shape[:2], int)
    rgb = normalised_rgb(camera)
    for image, (x0, y0, x1, y1) in zip(images, places, strict=True):
        seen[y0:y1, x0:x1] += 1
        resized = SamPredictor(sam).transform.apply_image(np.ascontiguousarray(rgb[y0:y1, x0:x1]))
        expected = np.zeros((4, SIDE, SIDE), int)
        expected[:3, : resized.shape[0], : resized.shape[1]] = resized.transpose(2, 0, 1)
        expected[3, : resized.shape[0], : resized.shape[1]] = 255
        assert np.abs(image - expected).max() <= 1  # grey level: where a value lies between two
    assert seen.min() >= 1
    for axis in (0, 1):  # neighbours share what was asked for, as far as half a tile goes
        starts = np.unique(places[:, axis])
        side = places[0, axis + 2] - places[0, axis]
        least = min(overlap / scale, side // 2)
        assert (starts[:-1] + side - starts[1:] >= np.floor(least) - 1).all()


def test_a_box_is_decoded_in_the_tile_that_holds_it_best(
    sam: Sam, sessions: dict[str, onnxruntime.InferenceSession]
) -> None:
    """The predictor answers the same on that tile alone, whichever tiles come with it."""
    camera, scale, overlap = smooth_frame(200, 331), 1.0, 40.0
    feeds = {
        "image": camera,
        "scale": np.array([scale], np.float32),
        "tile_overlap": np.array([overlap], np.float32),
    }
    images, places = sessions["sam_prepare_tiles"].run(None, feeds)
    [embedding] = sessions["sam_encoder"].run(None, {"sam_image": images})
    boxes = some_boxes(2 * CHUNK + 3, 200, 331)
    prompts = prompt_inputs([Prompt(box=box) for box in boxes])
    feeds = {"sam_embedding": embedding, "sam_tiles": places, **prompts}
    answer = dict(
        zip(
            ("boxes", "masks", "qualities"),
            sessions["sam_decoder"].run(None, feeds),
            strict=True,
        )
    )
    expected = PredictorSam(sam).in_tiles(camera, boxes, scale, overlap)
    used = {best_tile(box.tolist(), [tuple(place) for place in places.tolist()]) for box in boxes}
    assert len(used) > 2
    placed = regions(answer["boxes"], answer["masks"], (200, 331))
    for region, quality, candidates in zip(placed, answer["qualities"], expected, strict=True):
        best = int(candidates.qualities.argmax())
        assert abs(quality - candidates.qualities[best]) < 1e-3
        mask = np.zeros((200, 331), bool)
        mask[region.rows, region.columns] = region.mask
        counted = np.abs(candidates.logits[best]) > LOGIT_MARGIN
        theirs = candidates.logits[best] > 0
        # A mask of nearly a whole tile is coarser in its patch than in the tile.
        assert ((mask != theirs) & counted).sum() <= 0.01 * (mask | theirs).sum() + 2


@pytest.mark.parametrize(("height", "width"), [(37, SIDE), (SIDE, 1), (SIDE, SIDE)])
def test_embedding_is_that_of_set_image(sam: Sam, served: Served, height: int, width: int) -> None:
    predictor = SamPredictor(sam)
    rgb = pixels(1, 3, height, width)
    predictor.set_torch_image(rgb, (height, width))
    image = np.full((1, 4, SIDE, SIDE), 99, np.uint8)
    image[:, 3] = 0
    image[:, :3, :height, :width] = rgb
    image[:, 3, :height, :width] = 255
    [embedding] = served.encoder.run(None, {"sam_image": image})
    np.testing.assert_allclose(embedding, predictor.features, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    "shape",
    [
        pytest.param((1, 4, SIDE // 2, SIDE // 2), id="smaller"),
        pytest.param((1, 4, SIDE, SIDE + 1), id="larger"),
        pytest.param((4, 4, SIDE // 2, SIDE // 2), id="four that hold as many pixels as one"),
    ],
)
def test_an_image_of_another_sam_is_refused(served: Served, shape: tuple[int, ...]) -> None:
    image = np.zeros(shape, np.uint8)
    with pytest.raises(Exception, match="cannot be reshaped"):
        served.encoder.run(None, {"sam_image": image})


@pytest.mark.parametrize(
    "name",
    [
        "sam_prepare",
        "sam_prepare_tiles",
        "sam_encoder",
        "sam_box_prompts",
        "sam_decoder",
        "sam_cells",
    ],
)
def test_dims_are_those_of_the_contract(
    sessions: dict[str, onnxruntime.InferenceSession], name: str
) -> None:
    """ONNX Runtime infers them; what a graph fixes, a configuration must not leave open."""
    session, step = sessions[name], STEPS[name]
    for nodes, tensors in (
        (session.get_inputs(), step.inputs),
        (session.get_outputs(), step.outputs),
    ):
        found = {n.name: tuple(d if isinstance(d, int) else -1 for d in n.shape) for n in nodes}
        assert found == {tensor.name: step.graph_dims(tensor) for tensor in tensors}


def test_half_precision(sam: Sam, steps: dict[str, ExportedStep]) -> None:
    half = sam_steps.sam_encoder(sam, half=True)
    assert half.settings["precision"] == "float16"
    assert 1e-5 < half.parity["batch of 2"]["sam_embedding"] < sam_steps.HALF_TOLERANCE
    assert half.graph.ByteSize() < 0.7 * steps["sam_encoder"].graph.ByteSize()


def test_half_precision_that_overflows_is_refused(sam: Sam) -> None:
    large = small_sam()
    large.image_encoder.neck[0].weight.data.mul_(1e6)
    with pytest.raises(ParityError, match="sam_encoder, case 'one'"):
        sam_steps.sam_encoder(large, half=True)


def test_steps_of_different_sams_are_refused(steps: dict[str, ExportedStep]) -> None:
    require_one_sam(list(steps.values()))
    other = ExportedStep(
        "sam_decoder",
        steps["sam_decoder"].graph,
        {},
        {SAM_SETTING: sam_steps.describe_sam(small_sam(side=256))},
    )
    with pytest.raises(SamSizesError, match=r"sam_prepare is for .* and sam_decoder for "):
        require_one_sam([steps["sam_prepare"], steps["sam_encoder"], other])


def cells_of(session: onnxruntime.InferenceSession, feeds: Arrays) -> dict[str, np.ndarray]:
    names = [node.name for node in session.get_outputs()]
    return dict(zip(names, session.run(None, dict(feeds)), strict=True))


def detected(boxes: np.ndarray, qualities: np.ndarray, overlap: float) -> dict[str, np.ndarray]:
    """Inputs of `sam_cells`: masks that fill their boxes."""
    count, random = len(boxes), np.random.default_rng(len(boxes))
    return {
        "prompt_boxes": boxes.astype(np.float32),
        "prompt_masks": random.integers(128, 256, (count, 112, 112), np.uint8),
        "qualities": qualities.astype(np.float32),
        "detected_ids": random.integers(0, 3, count, np.int32),
        "detected_probs": random.uniform(size=(count, 3)).astype(np.float32),
        "cells_detected": np.array([count + 5], np.int32),
        "overlap_threshold": np.array([overlap], np.float32),
    }


@pytest.mark.parametrize("count", [0, 1, 33])
def test_cells_are_sorted_by_quality(
    sessions: dict[str, onnxruntime.InferenceSession], count: int
) -> None:
    random = np.random.default_rng(count)
    corners = random.uniform(0, 100, (count, 2))
    boxes = np.hstack([corners, corners + random.uniform(1, 50, (count, 2))])
    feeds = detected(boxes, random.permutation(count) / 40, overlap=1.0)
    answer = cells_of(sessions["sam_cells"], feeds)
    order = np.argsort(-feeds["qualities"])
    for output, source in (
        ("boxes", "prompt_boxes"),
        ("cell_boxes", "prompt_boxes"),
        ("masks", "prompt_masks"),
        ("cell_masks", "prompt_masks"),
        ("scores", "qualities"),
        ("class_ids", "detected_ids"),
        ("class_probs", "detected_probs"),
    ):
        np.testing.assert_array_equal(answer[output], feeds[source][order])
    assert answer["cells_found"].tolist() == [count + 5]  # the detector's cap left out five


@pytest.mark.parametrize(
    ("boxes", "kept"),
    [
        pytest.param([(0, 0, 40, 40), (2, 2, 42, 42)], [1], id="the same cell"),
        pytest.param([(10, 10, 20, 20), (0, 0, 40, 40)], [1], id="a part of a cell"),
        pytest.param([(0, 0, 40, 40), (30, 0, 70, 40)], [1, 0], id="neighbours"),
        pytest.param([(0, 0, 40, 40), (0, 0, 0, 0), (1, 1, 41, 41)], [2, 1], id="a box of nothing"),
    ],
)
def test_one_cell_is_one_answer(
    sessions: dict[str, onnxruntime.InferenceSession],
    boxes: list[tuple[float, ...]],
    kept: list[int],
) -> None:
    count = len(boxes)
    feeds = detected(np.array(boxes), np.linspace(0.5, 0.9, count), overlap=0.6)
    answer = cells_of(sessions["sam_cells"], feeds)
    np.testing.assert_array_equal(answer["boxes"], feeds["prompt_boxes"][kept])
    assert answer["cells_found"].tolist() == [len(kept) + 5]


def test_a_mask_without_a_pixel_is_no_cell(
    sessions: dict[str, onnxruntime.InferenceSession],
) -> None:
    feeds = detected(np.array([(0, 0, 40, 40), (50, 0, 90, 40)]), np.array([0.9, 0.5]), 0.6)
    feeds["prompt_masks"][0] = 127
    answer = cells_of(sessions["sam_cells"], feeds)
    np.testing.assert_array_equal(answer["scores"], feeds["qualities"][1:])
