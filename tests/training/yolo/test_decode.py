"""What the step `yolo_decode` keeps, drops, mends and merges."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pytest
import torch
from skimage.measure import find_contours

from cytoserve.contract import DEFAULT_MAX_CELLS, MASK_SIZE, NETWORK_SIZE
from training.yolo import decode as yolo_decode
from training.yolo.decode import COEFFICIENTS, YoloDecode, decode_masks

ANCHORS = 300
Box = tuple[float, float, float, float]
Logits = npt.NDArray[np.float32]
"""``[S / 4, S / 4]``, above 0 inside the cell."""

CENTRES = (np.arange(NETWORK_SIZE // 4) + 0.5) * 4
"""Centres of prototype pixels in network pixels."""


def disc(x: float, y: float, radius: float) -> Logits:
    """Logits that fall evenly across the circle around (x, y), in network pixels."""
    far = np.hypot(CENTRES[None, :] - x, CENTRES[:, None] - y)
    return np.clip((radius - far) / 2, -6, 6).astype(np.float32)


def around(x: float, y: float, radius: float) -> Box:
    return (x - radius, y - radius, x + radius, y + radius)


EVERYWHERE = np.full((len(CENTRES), len(CENTRES)), 5, np.float32)
NOWHERE = -EVERYWHERE


@dataclass
class Found:
    """One detection of the network."""

    box: Box
    """(x0, y0, x1, y1) in network pixels of the tile."""
    scores: tuple[float, ...] = (0.9, 0.0)
    logits: Logits | None = None
    """None: the mask fills the box."""
    tile: int = 0


@dataclass
class Answer:
    """Outputs of the step."""

    boxes: npt.NDArray[np.float32]
    scores: npt.NDArray[np.float32]
    ids: npt.NDArray[np.int32]
    probs: npt.NDArray[np.float32]
    masks: npt.NDArray[np.uint8]
    found: int
    frame_size: list[int]


def decode(
    cells: Sequence[Found],
    *,
    origins: Sequence[tuple[float, float]] = ((0, 0),),
    frame: tuple[int, int] = (640, 640),
    scale: float = 1.0,
    overlap: float = 0.0,
    score: float = 0.25,
    overlap_threshold: float = 0.6,
    cap: int = DEFAULT_MAX_CELLS,
) -> Answer:
    """Decode ``cells``; those with logits share the 32 prototypes, one each."""
    predictions = torch.zeros(len(origins), 4 + 2 + COEFFICIENTS, ANCHORS)
    prototypes = torch.zeros(len(origins), COEFFICIENTS, len(CENTRES), len(CENTRES))
    prototypes[:, 0] = torch.from_numpy(EVERYWHERE)
    prototype = 0
    for anchor, cell in enumerate(cells):
        x0, y0, x1, y1 = cell.box
        values = predictions[cell.tile, :, anchor]
        values[:4] = torch.tensor([(x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0])
        values[4:6] = torch.tensor(cell.scores)
        own = 0
        if cell.logits is not None:
            own = prototype = prototype + 1
            prototypes[cell.tile, own] = torch.from_numpy(cell.logits)
        values[6 + own] = 1
    *outputs, frame_size = YoloDecode()(
        predictions,
        prototypes,
        torch.tensor(origins, dtype=torch.float32),
        torch.tensor([scale, scale, *frame, overlap]),
        torch.tensor([score]),
        torch.tensor([overlap_threshold]),
        torch.tensor([cap], dtype=torch.int32),
    )
    boxes, scores, ids, probs, masks, found, cell_boxes, cell_masks = outputs
    assert torch.equal(boxes, cell_boxes)
    assert torch.equal(masks, cell_masks)
    assert (ids.dtype, masks.dtype, found.dtype) == (torch.int32, torch.uint8, torch.int32)
    numpy = [each.numpy() for each in (boxes, scores, ids, probs, masks)]
    return Answer(*numpy, int(found), frame_size.tolist())


def grid(count: int) -> list[Found]:
    """Cells of 10 x 10 pixels that do not overlap, each better than the one before."""
    return [
        Found(around(20.0 + 20 * (i % 20), 100.0 + 20 * (i // 20), 5), (0.3 + i / 1000, 0.1))
        for i in range(count)
    ]


def test_no_cell() -> None:
    answer = decode([], frame=(480, 639))
    assert answer.boxes.shape == (0, 4)
    assert answer.masks.shape == (0, MASK_SIZE, MASK_SIZE)
    assert answer.probs.shape == (0, 2)
    assert (answer.found, answer.frame_size) == (0, [480, 639])


def test_one_cell() -> None:
    answer = decode([Found((80, 190, 120, 210), (0.2, 0.9))])
    np.testing.assert_allclose(answer.boxes, [[80, 190, 120, 210]], rtol=1e-6)
    np.testing.assert_allclose(answer.scores, [0.9])
    np.testing.assert_allclose(answer.probs, [[0.2, 0.9]])
    assert answer.ids.tolist() == [1]
    assert answer.masks.min() == round(255 / (1 + np.exp(-5)))


def test_sorted_by_score() -> None:
    scores = decode(grid(50)).scores
    assert len(scores) == 50
    assert (np.diff(scores) <= 0).all()


@pytest.mark.parametrize("cap", [1, 49, 50, 51])
def test_cap_is_reported(cap: int) -> None:
    answer = decode(grid(50), cap=cap)
    assert len(answer.boxes) == min(cap, 50)
    assert answer.found == 50
    assert answer.scores[0] == pytest.approx(0.349)  # the best are kept


def test_more_boxes_than_can_be_decoded_leave_the_best(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(yolo_decode, "MAX_CANDIDATES", 7)
    answer = decode(grid(50))
    assert answer.found == 7
    assert answer.scores[-1] == pytest.approx(0.343)


@pytest.mark.parametrize(
    ("threshold", "count"),
    [
        pytest.param(0.25, 2, id="below both"),
        pytest.param(0.5, 1, id="above one, and that one's threshold"),
        pytest.param(0.8, 0, id="above both"),
    ],
)
def test_score_threshold_is_an_input(threshold: float, count: int) -> None:
    cells = [Found((90, 190, 110, 210), (0.5, 0.0)), Found((190, 190, 210, 210), (0.0, 0.7))]
    assert len(decode(cells, score=threshold).boxes) == count


@pytest.mark.parametrize(
    ("threshold", "count"),
    [pytest.param(0.7, 2, id="allowed"), pytest.param(0.6, 1, id="too much")],
)
def test_overlap_threshold_is_the_share_of_the_smaller_mask(threshold: float, count: int) -> None:
    # Of 20 columns 13 are common: boxes of IoU 0.48, which NMS would keep.
    cells = [Found((100, 100, 120, 120)), Found((107, 100, 127, 120), (0.8, 0.0))]
    answer = decode(cells, overlap_threshold=threshold)
    assert (len(answer.boxes), answer.found) == (count, count)


def test_one_cell_has_one_class() -> None:
    box = (90, 190, 110, 210)
    answer = decode([Found(box, (0.8, 0.0)), Found(box, (0.0, 0.7))])
    assert answer.ids.tolist() == [0]
    assert answer.found == 1


def test_crossing_cells_of_one_box_stay_both() -> None:
    x, y = np.meshgrid(CENTRES, CENTRES)
    bars = [np.where(np.abs(along - 100) < 8, 5, -5).astype(np.float32) for along in (x, y)]
    cells = [
        Found((92, 40, 108, 160), logits=bars[0]),
        Found((40, 92, 160, 108), (0.8, 0.0), logits=bars[1]),
    ]
    assert decode(cells).found == 2


def test_a_low_overlap_threshold_is_of_masks_not_of_boxes() -> None:
    x = np.broadcast_to(CENTRES, EVERYWHERE.shape)
    halves = [
        np.where((low < x) & (x < high), 5, -5).astype(np.float32)
        for low, high in ((102, 118), (130, 146))
    ]
    cells = [  # boxes of IoU 0.6
        Found((100, 100, 140, 140), logits=halves[0]),
        Found((110, 100, 150, 140), (0.8, 0.0), halves[1]),
    ]
    assert decode(cells, overlap_threshold=0.1).found == 2


@pytest.mark.parametrize(
    "cell",
    [
        pytest.param(Found((100, 190, 100, 210)), id="no width"),
        pytest.param(Found((80, 10, 120, 50)), id="in the padding only"),
        pytest.param(Found((540, 180, 580, 220), logits=NOWHERE), id="no mask pixel"),
    ],
)
def test_what_is_no_cell(cell: Found) -> None:
    other = Found((90, 290, 110, 310), (0.5, 0.0))
    answer = decode([cell, other], frame=(480, 640), origins=[(0, -80)])
    np.testing.assert_allclose(answer.scores, [0.5])
    assert answer.found == 1


def smooth_logits(seed: int) -> torch.Tensor:
    """Logits inside a cell everywhere, so that no box is mended: ``[1, 1, S / 4, S / 4]``."""
    coarse = torch.rand((1, 1, 20, 20), generator=torch.Generator().manual_seed(seed)) * 3 + 0.2
    return torch.nn.functional.interpolate(coarse, len(CENTRES), mode="bilinear")


@pytest.mark.parametrize(
    ("corner", "tolerance"),
    [
        pytest.param((100, 200), 1, id="inside"),
        pytest.param((333, 501), 1, id="at odd places"),
        pytest.param((0, 0), 4, id="at the tile's corner"),
        pytest.param((640 - MASK_SIZE,) * 2, 4, id="at the far corner"),
    ],
)
def test_masks_are_interpolated_as_torch_does(corner: tuple[int, int], tolerance: int) -> None:
    logits = smooth_logits(0)
    box = torch.tensor([[*corner, *(side + MASK_SIZE for side in corner)]], dtype=torch.float32)
    prototypes = torch.zeros(1, COEFFICIENTS, len(CENTRES), len(CENTRES))
    prototypes[0, 3] = logits[0, 0]
    coefficients = torch.eye(COEFFICIENTS)[3:4]
    content = torch.tensor([[0.0, 0, NETWORK_SIZE, NETWORK_SIZE]])
    masks, boxes, _ = decode_masks(
        coefficients, prototypes, torch.zeros(1, dtype=torch.int64), box, content
    )
    torch.testing.assert_close(boxes, box)
    full = torch.nn.functional.interpolate(logits, NETWORK_SIZE, mode="bicubic")[0, 0]
    x, y = corner
    expected = torch.sigmoid(full[y : y + MASK_SIZE, x : x + MASK_SIZE]) * 255
    assert (masks[0].float() - expected).abs().max() <= tolerance


def test_masks_are_sorted_by_tile_and_tell_whose_they_are() -> None:
    prototypes = torch.zeros(2, COEFFICIENTS, len(CENTRES), len(CENTRES))
    prototypes[0, 0], prototypes[1, 0] = 1.0, 3.0
    tiles = torch.tensor([1, 0, 1])
    boxes = torch.tensor([[310.0, 310, 350, 350], [320, 320, 360, 360], [330, 330, 370, 370]])
    content = torch.tensor([[0.0, 0, 640, 640]]).repeat(2, 1)
    masks, mended, order = decode_masks(
        torch.eye(COEFFICIENTS)[[0, 0, 0]], prototypes, tiles, boxes, content
    )
    assert order.tolist() == [1, 0, 2]
    torch.testing.assert_close(mended, boxes[order])
    expected = [round(255 / (1 + np.exp(-value))) for value in (1, 3, 3)]
    assert masks.amax(dim=(1, 2)).tolist() == expected


X, Y, RADIUS = 101.3, 203.7, 24.0
TRUE_BOX = around(X, Y, RADIUS)

MENDED = {
    "a side too small": ((*TRUE_BOX[:2], TRUE_BOX[2] - 5, TRUE_BOX[3]), True),
    "left and top too small": ((TRUE_BOX[0] + 4, TRUE_BOX[1] + 6, *TRUE_BOX[2:]), True),
    "all sides too small": (around(X, Y, RADIUS - 4), True),
    "as it is": (around(X, Y, RADIUS + 1), False),
    "too large": (around(X, Y, RADIUS + 9), False),
    "so small that the mask reaches the margin's end": (around(X, Y, RADIUS / 2), False),
}


@pytest.mark.parametrize(("box", "mended"), MENDED.values(), ids=MENDED)
def test_a_box_that_cuts_its_mask_is_moved_out(box: Box, mended: bool) -> None:
    [answer] = decode([Found(box, logits=disc(X, Y, RADIUS))]).boxes
    expected = np.array(TRUE_BOX if mended else box)
    np.testing.assert_allclose(answer, expected, atol=2.5 if mended else 1e-3)
    inner, outer = np.array(answer[:2]), np.array(answer[2:])
    if mended:  # the whole disc lies in it
        assert (inner <= np.array(TRUE_BOX[:2]) + 0.5).all()
        assert (outer >= np.array(TRUE_BOX[2:]) - 0.5).all()


@pytest.mark.parametrize(
    ("gap", "radius"),
    [
        pytest.param(-1.0, RADIUS, id="a neighbour that touches: the mask goes on into it"),
        pytest.param(8.0, 5.0, id="a neighbour behind a gap"),
    ],
)
def test_a_box_keeps_out_of_a_neighbour(gap: float, radius: float) -> None:
    neighbour = disc(X + RADIUS + gap + radius, Y, radius)
    logits = np.maximum(disc(X, Y, RADIUS), neighbour)
    box = around(X, Y, RADIUS + 0.5)
    [answer] = decode([Found(box, logits=logits)]).boxes
    np.testing.assert_allclose(answer, box, atol=1e-3)


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        pytest.param((-20, 60, 20, 100), (0, 60, 20, 100), id="left"),
        pytest.param((600, 620, 660, 700), (600, 620, 640, 640), id="right and below"),
    ],
)
def test_boxes_are_clipped_to_the_tile(box: Box, expected: Box) -> None:
    np.testing.assert_allclose(decode([Found(box)]).boxes, [expected])


@pytest.mark.parametrize(
    ("centre", "box", "expected"),
    [
        pytest.param((620, 300), (580, 260, 637.5, 340), 640, id="its mask goes on to the edge"),
        pytest.param((620, 300), (580, 260, 631, 340), 640, id="from farther away"),
        pytest.param((595, 300), (555, 260, 635.5, 340), 635.5, id="its mask ends before"),
        pytest.param((620, 300), (580, 260, 600, 340), 600, id="too far away to tell"),
    ],
)
@pytest.mark.parametrize("turned", [False, True], ids=["right", "left"])
def test_a_cell_at_the_edge_reaches_it(
    centre: tuple[float, float], box: Box, expected: float, turned: bool
) -> None:
    """It does so even where the network's box ends a pixel or two before it."""
    logits = disc(*centre, 40)
    x0, y0, x1, y1 = box
    prototypes = torch.zeros(1, COEFFICIENTS, len(CENTRES), len(CENTRES))
    prototypes[0, 0] = torch.from_numpy(logits[:, ::-1].copy() if turned else logits)
    given = (NETWORK_SIZE - x1, y0, NETWORK_SIZE - x0, y1) if turned else box
    content = torch.tensor([[0.0, 0, NETWORK_SIZE, NETWORK_SIZE]])
    _, [mended], _ = decode_masks(
        torch.eye(COEFFICIENTS)[:1],
        prototypes,
        torch.zeros(1, dtype=torch.int64),
        torch.tensor([given], dtype=torch.float32),
        content,
    )
    found = NETWORK_SIZE - float(mended[0]) if turned else float(mended[2])
    assert found == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("reach", [2, 12])
@pytest.mark.parametrize("side", ["top", "bottom"])
def test_a_box_in_the_padding_is_clipped_and_its_mask_not_squeezed(side: str, reach: int) -> None:
    """A frame of 480 rows in the middle of its tile; half a disc lies on it."""
    y = 80.0 if side == "top" else 560.0
    box = (170, y - reach, 230, y + 30) if side == "top" else (170, y - 30, 230, y + reach)
    cell = Found(box, logits=disc(200, y, 30))
    answer = decode([cell], frame=(480, 640), origins=[(0, -80)])
    expected = (170, 0, 230, 30) if side == "top" else (170, 450, 230, 480)
    np.testing.assert_allclose(answer.boxes[0], expected, atol=2.5)
    x0, y0, x1, y1 = answer.boxes[0]
    steps = (np.arange(MASK_SIZE) + 0.5) / MASK_SIZE
    x, rows = x0 + steps * (x1 - x0), y0 + steps * (y1 - y0) + 80
    true = np.hypot(x[None] - 200, rows[:, None] - y) < 30
    inside = answer.masks[0] >= 128
    assert np.count_nonzero(true & inside) >= 0.97 * np.count_nonzero(true | inside)


def test_the_outline_of_a_small_disc_is_round() -> None:
    """20 network pixels are five prototype pixels: bilinear masks would be octagons."""
    for x, y in ((100.0, 200.0), (101.7, 203.1), (98.5, 202.0)):
        answer = decode([Found(around(x, y, 11), logits=disc(x, y, 10))])
        [outline] = find_contours(np.pad(answer.masks[0] / 255, 1), 0.5)
        x0, y0, x1, y1 = answer.boxes[0]
        steps = (outline - 0.5) / MASK_SIZE  # contours count pixel centres of the padded patch
        radii = np.hypot(x0 + steps[:, 1] * (x1 - x0) - x, y0 + steps[:, 0] * (y1 - y0) - y)
        assert np.abs(radii - 10).mean() <= 0.5
        assert radii.std() <= 0.15  # of an octagon's 0.2 and more


# Two tiles of a frame of 1152 columns, which overlap by 128.
SEAM = {"origins": [(0, 0), (512, 0)], "frame": (640, 1152), "overlap": 128.0}


def test_a_cell_that_two_tiles_see_is_one() -> None:
    cells = [
        Found(around(560, 100, 20), (0.6, 0.0), disc(560, 100, 20)),
        Found(around(48, 100, 20), (0.9, 0.0), disc(48, 100, 20), tile=1),
    ]
    answer = decode(cells, **SEAM)
    np.testing.assert_allclose(answer.boxes, [around(560, 100, 20)], atol=1.5)
    np.testing.assert_allclose(answer.scores, [0.9])
    assert answer.found == 1


def test_of_a_cell_on_the_seam_the_whole_one_is_taken() -> None:
    """Its piece in the left tile has the better score."""
    cells = [
        Found((610, 80, 640, 120), (0.95, 0.0), disc(630, 100, 20)),
        Found(around(118, 100, 20), (0.5, 0.0), disc(118, 100, 20), tile=1),
    ]
    answer = decode(cells, **SEAM)
    np.testing.assert_allclose(answer.boxes, [around(630, 100, 20)], atol=1.5)
    np.testing.assert_allclose(answer.scores, [0.5])


def test_a_cell_larger_than_the_overlap_is_answered_though_cut() -> None:
    cells = [
        Found((430, 100, 640, 380), (0.9, 0.0), disc(570, 240, 140)),
        Found((0, 100, 198, 380), (0.8, 0.0), disc(58, 240, 140), tile=1),
    ]
    answer = decode(cells, **SEAM)
    assert answer.scores[0] == pytest.approx(0.9)
    assert answer.found == 1


def test_cells_of_two_tiles_at_one_place_of_their_tiles_stay_both() -> None:
    box = around(250, 100, 20)
    answer = decode([Found(box), Found(box, (0.8, 0.0), tile=1)], **SEAM)
    np.testing.assert_allclose(answer.boxes, [box, around(762, 100, 20)])


def test_boxes_come_back_in_frame_pixels() -> None:
    answer = decode([Found((80, 190, 120, 210))], scale=0.5, frame=(1280, 1280))
    np.testing.assert_allclose(answer.boxes, [[160, 380, 240, 420]], rtol=1e-6)
