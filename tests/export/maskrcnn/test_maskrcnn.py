"""Mask R-CNN as one graph: torchvision's own answer, whatever the frame and the thresholds."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.roi_heads import paste_masks_in_image

from cytoserve.contract import INSTANCE_OUTPUTS, MASK_SIZE, STEPS
from cytoserve.patches import regions
from export.graphs.files import open_graph, open_session
from export.maskrcnn import reference as maskrcnn_reference
from export.maskrcnn import steps as maskrcnn_steps
from export.maskrcnn.heads import BoxHead, MaskHead, pasting_weights
from export.maskrcnn.network import MaskRcnnCells, MaskRcnnNetwork
from export.maskrcnn.reference import TorchvisionMaskRcnn
from export.parity.cells import check_cells
from export.parity.chain import Arrays, Chain
from export.parity.instances import check_chain, instance_inputs, pair_cells
from export.parity.reference import frame_grid, scaled_rgb
from export.parity.steps import FLOAT_TOLERANCE, LEVEL_TOLERANCE, Case, ParityError, camera_frame
from training.checkpoint import LearnedScale
from training.preprocessing.cutting import FrameTiles
from training.rendered import RenderSettings, render_frame

STEP = STEPS["maskrcnn_network"]
OVERLAP, TILE_OVERLAP = 0.6, 60.0
SCALE = LearnedScale(network_scale=0.2, cell_diameter_px=36.0, largest_cell_px=96.0)

Find = Callable[..., Arrays]


def rendered(seed: int, height: int = 256, width: int = 256) -> np.ndarray:
    return render_frame(RenderSettings(height=height, width=width, cells=12), seed)[0]


@pytest.fixture(scope="module")
def networks(make_random_maskrcnn: Callable[[int], MaskRCNN]) -> dict[int, MaskRCNN]:
    """Number of classes -> network."""
    return {count: make_random_maskrcnn(count) for count in (1, 2)}


@pytest.fixture(scope="module")
def graphs(networks: dict[int, MaskRCNN]) -> dict[int, onnx.ModelProto]:
    """Return the networks as graphs, traced with a frame of another size than those of any test."""
    example = Case("traced with", inputs_of(camera_frame(90, 111, 1), 0.5))
    return {n: maskrcnn_steps.tile_by_tile(network, example) for n, network in networks.items()}


@pytest.fixture(scope="module")
def find(graphs: dict[int, onnx.ModelProto]) -> Find:
    """Finds the candidates of a camera frame by the graph of a network, and merges them."""
    sessions = {n: open_session(graph.SerializeToString(), 1) for n, graph in graphs.items()}

    def run(classes: int, camera: torch.Tensor, score: float, **given: float) -> Arrays:
        cap = int(given.pop("cap", 4096))
        values = [value.numpy() for value in inputs_of(camera, score, **given)]
        feeds = dict(zip([tensor.name for tensor in STEP.inputs], values, strict=True))
        names = [tensor.name for tensor in STEP.outputs]
        found = sessions[classes].run(names, feeds)
        merged = MaskRcnnCells()(
            *map(torch.from_numpy, found),
            torch.tensor([given.get("overlap", OVERLAP)]),
            torch.tensor([cap], dtype=torch.int32),
        )
        cells = zip(STEPS["maskrcnn_cells"].outputs, merged, strict=True)
        answer = {tensor.name: value.numpy() for tensor, value in cells}
        return answer | dict(zip(names, found, strict=True))

    return run


def inputs_of(
    camera: torch.Tensor,
    score: float,
    overlap: float = OVERLAP,
    scale: float = 1.0,
    tile: float = 1024,
) -> tuple[torch.Tensor, ...]:
    tiles, origins, tiling, _ = FrameTiles(int(tile))(
        camera, torch.tensor([scale]), torch.tensor([TILE_OVERLAP])
    )
    return tiles, origins, tiling, torch.tensor([score]), torch.tensor([overlap])


def ious(answer: Arrays, masks: np.ndarray) -> list[float]:
    """IoU of every patch, laid on the frame, with a mask ``[H, W]`` of the same cell in its box."""
    shape = (masks.shape[1], masks.shape[2])
    figures = []
    for region, mask in zip(regions(answer["boxes"], answer["masks"], shape), masks, strict=True):
        other = mask[region.rows, region.columns]
        union = (region.mask | other).sum()
        figures.append(float((region.mask & other).sum() / union) if union else 1.0)
    return figures


UINT16 = torch.from_numpy(rendered(3).astype(np.int32) * 17)[:, :, None]
FRAMES = {
    "odd RGB": (camera_frame(97, 130, 3), {}),
    "uint16": (UINT16, {"scale": 0.6}),
    "long": (camera_frame(60, 331, 1), {}),
    "1x1": (camera_frame(1, 1, 1), {}),
    "one row": (camera_frame(1, 300, 1), {}),
    "tiles": (UINT16, {"tile": 160}),
    "tiles of a scaled frame": (UINT16, {"tile": 160, "scale": 0.8}),
}


@pytest.mark.parametrize("classes", [pytest.param(1, id="K=1"), pytest.param(2, id="K=2")])
@pytest.mark.parametrize("frame", list(FRAMES))
@pytest.mark.parametrize("score", [0.5, 0.8])
def test_torchvisions_own_cells(
    networks: dict[int, MaskRCNN],
    find: Find,
    classes: int,
    frame: str,
    score: float,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    camera, given = FRAMES[frame]
    monkeypatch.setattr(maskrcnn_reference, "MASKRCNN_TILE_SIZE", int(given.get("tile", 1024)))
    answer = find(classes, camera, score, **given)
    expected = TorchvisionMaskRcnn(networks[classes]).cells(
        camera.numpy(), given.get("scale", 1.0), TILE_OVERLAP, score, OVERLAP
    )
    ours, theirs, distance = pair_cells(
        answer["boxes"], expected.boxes, answer["detected_ids"], expected.class_ids
    )
    # A grey level that OpenCV rounds otherwise may change a score, and with it which cells stay.
    assert expected.doubtful is not None
    both = len(answer["boxes"]) + len(expected.boxes)
    alone = ~expected.doubtful
    alone[theirs] = False
    assert len(answer["boxes"]) - len(ours) + np.count_nonzero(alone) <= max(2, 0.08 * both)
    assert len(ours) >= 1 or not both
    assert distance.max(initial=0) < 0.02
    np.testing.assert_allclose(answer["scores"][ours], expected.scores[theirs], atol=1e-3)
    np.testing.assert_array_equal(answer["detected_ids"][ours], expected.class_ids[theirs])
    paired = {name: answer[name][ours] for name in ("boxes", "masks")}
    assert not len(ours) or np.mean(ious(paired, expected.masks[theirs])) > 0.98
    chosen = answer["detected_probs"][np.arange(len(answer["boxes"])), answer["detected_ids"]]
    np.testing.assert_array_equal(chosen, answer["scores"])


def test_a_tile_is_torchvisions_own_image(networks: dict[int, MaskRCNN], find: Find) -> None:
    """Before merging, every box of every tile has its partner."""
    answer = find(2, UINT16, 0.6, tile=160)
    reference = TorchvisionMaskRcnn(networks[2])
    grid = frame_grid((256, 256), 1.0, TILE_OVERLAP, 160)
    scaled, count = scaled_rgb(UINT16.numpy(), 1.0), 0
    for x, y in grid.origins:
        cut = scaled[int(y) : int(y) + 160, int(x) : int(x) + 160]
        parts = list(reference.tile(cut, 0.6, 0.7))
        found, expected_scores, expected_ids = (
            np.concatenate([getattr(part, name) for part in parts])
            for name in ("boxes", "scores", "class_ids")
        )
        own = slice(count, count + len(found))
        boxes = found + np.array([x, y, x, y], np.float32)
        ids = answer["candidate_ids"][own]
        ours, theirs, distance = pair_cells(
            answer["candidate_boxes"][own], boxes, ids, expected_ids
        )
        assert len(ours) >= len(boxes) - 1  # boxes of equal scores may take each other's place
        assert distance.max() < 0.02
        scores = answer["candidate_scores"][own][ours]
        np.testing.assert_allclose(scores, expected_scores[theirs], atol=1e-3)
        count += len(boxes)
    assert count == len(answer["candidate_boxes"]) > 100
    kinds = set(zip(answer["whole"].tolist(), answer["large_cut"].tolist(), strict=True))
    assert kinds == {(1, 0), (0, 1), (0, 0)}


@pytest.mark.parametrize("cap", [0, 1, 20])
def test_the_best_cells_up_to_the_cap(find: Find, cap: int) -> None:
    everything = find(2, UINT16, 0.5)
    answer = find(2, UINT16, 0.5, cap=cap)
    found = int(everything["cells_found"][0])
    assert found == len(everything["boxes"]) > 20
    assert answer["cells_found"].tolist() == [found]
    assert answer["masks"].shape == (cap, MASK_SIZE, MASK_SIZE)
    np.testing.assert_array_equal(answer["scores"], everything["scores"][:cap])
    assert (np.diff(everything["scores"]) <= 0).all()
    np.testing.assert_array_equal(answer["cell_boxes"], answer["boxes"])
    np.testing.assert_array_equal(answer["cell_masks"], answer["masks"])


@pytest.mark.parametrize("given", [{}, {"tile": 50}], ids=["one tile", "tiles"])
def test_no_cell(find: Find, given: dict[str, float]) -> None:
    answer = find(2, FRAMES["odd RGB"][0], 1.0, **given)
    shapes = {name: array.shape for name, array in answer.items()}
    assert shapes["boxes"] == (0, 4)
    assert shapes["candidate_probs"] == shapes["detected_probs"] == (0, 2)
    assert shapes["masks"] == (0, MASK_SIZE, MASK_SIZE)
    assert answer["cells_found"].tolist() == [0]


@pytest.mark.parametrize("side", [20, 35, 60, 200])
def test_patches_are_torchvisions_pasted_masks(side: int) -> None:
    grid = (np.arange(28) + 0.5) / 28 * 2 - 1
    disc = 1 / (1 + np.exp(-15 * (0.95 - np.hypot(grid, grid[:, None]))))
    rng = np.random.default_rng(side)
    corner = rng.uniform(-0.3 * side, 260 - 0.7 * side, (40, 2))
    corners = np.hstack([corner, corner + rng.uniform(0.8, 1.2, (40, 2)) * side])
    boxes = torch.from_numpy(corners.clip(0, 260).astype(np.float32))
    masks = torch.from_numpy(disc.astype(np.float32)).repeat(40, 1, 1)
    expected = paste_masks_in_image(masks[:, None], boxes, (260, 260))[:, 0] >= 0.5
    rows, columns = (pasting_weights(boxes[:, i], boxes[:, i + 2], 28, MASK_SIZE) for i in (1, 0))
    patches = (rows @ masks @ columns.transpose(1, 2) * 255).round().to(torch.uint8)
    answer = {"boxes": boxes.numpy(), "masks": patches.numpy()}
    assert np.mean(ious(answer, expected.numpy())) > 0.99


def test_chunks_change_nothing(networks: dict[int, MaskRCNN]) -> None:
    heads = networks[2].eval().roi_heads
    random = torch.Generator().manual_seed(0)
    levels = [torch.randn((1, 32, 64 >> i, 64 >> i), generator=random) for i in range(4)]
    corner = torch.rand((50, 2), generator=random) * 200
    boxes = torch.cat([corner, corner + torch.rand((50, 2), generator=random) ** 3 * 500], dim=1)
    labels = torch.arange(50) % 2 + 1
    with torch.inference_mode():
        for chunked, whole, inputs in (
            (BoxHead(heads, 7), BoxHead(heads, 99), (boxes,)),
            (MaskHead(heads, 56, 7), MaskHead(heads, 56, 99), (boxes, labels)),
        ):
            answers = [head.eval()(*levels, *inputs) for head in (chunked, whole)]
            for some, all_at_once in zip(*answers, strict=True):
                # A grey level of a mask that lies on the edge may be rounded either way.
                limit = FLOAT_TOLERANCE if some.is_floating_point() else LEVEL_TOLERANCE
                torch.testing.assert_close(some, all_at_once, atol=limit, rtol=FLOAT_TOLERANCE)


def test_another_network_is_refused(
    networks: dict[int, MaskRCNN], graphs: dict[int, onnx.ModelProto]
) -> None:
    cases = [Case("a frame", inputs_of(UINT16, 0.5))]
    figures = check_cells(MaskRcnnNetwork(networks[1]), graphs[1], STEP, cases)["a frame"]
    assert figures["cells"] > 20
    assert figures["unmatched"] <= 2
    last = networks[1].roi_heads.mask_predictor.mask_fcn_logits
    with torch.no_grad():
        last.bias.sub_(0.5)
        other = MaskRcnnNetwork(networks[1])
        last.bias.add_(0.5)
    with pytest.raises(ParityError, match="case 'a frame', 'masks': ONNX Runtime deviates"):
        check_cells(other, graphs[1], STEP, cases)
    with pytest.raises(ParityError, match=r"output 'detected_probs': ONNX Runtime answers"):
        check_cells(MaskRcnnNetwork(networks[2]), graphs[1], STEP, cases)


class ChangedChain(Chain):
    """A chain whose answers are changed."""

    def __init__(self, chain: Chain, change: Callable[[Arrays], None]) -> None:
        self.chain, self.change = chain, change
        self.pipeline = chain.pipeline

    def run(self, inputs: Arrays, requested: list[str]) -> Arrays:
        answer = {name: array.copy() for name, array in self.chain.run(inputs, requested).items()}
        self.change(answer)
        return answer


def shift_boxes(answer: Arrays) -> None:
    answer["boxes"] += np.float32(0.6)


def shift_masks(answer: Arrays) -> None:
    answer["masks"] = np.roll(answer["masks"], 9, axis=1)
    answer["masks"][:, :9] = 0


def other_class(answer: Arrays) -> None:
    surest = int(answer["scores"].argmax())
    answer["class_ids"][surest] = 1 - answer["class_ids"][surest]


def test_the_manifest_tells_the_figures(exported_repository: Path) -> None:
    chain = json.loads((exported_repository / "maskrcnn" / "1" / "manifest.json").read_text())[
        "parity"
    ]
    assert {figure["score_threshold"] for figure in chain} == {0.5, 0.25, 0.05}
    assert all(figure["same_classes"] == 1 for figure in chain)
    assert all(figure["mask_iou"] >= 0.98 for figure in chain)
    network = json.loads(
        (exported_repository / "maskrcnn_network" / "1" / "manifest.json").read_text()
    )
    assert network["settings"] == {"proposals": 600}
    assert [figures["cells"] for figures in network["parity"].values()][-1] > 300


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param(shift_boxes, r"have none within 0\.5 px", id="boxes shifted"),
        pytest.param(shift_masks, r"mean mask IoU 0\.\d+ < 0\.\d+", id="masks shifted"),
        pytest.param(other_class, r"classes agree for 9", id="one class changed"),
    ],
)
def test_a_wrong_chain_is_refused(
    exported_repository: Path,
    networks: dict[int, MaskRCNN],
    change: Callable[[Arrays], None],
    message: str,
) -> None:
    chain = Chain(exported_repository, "maskrcnn", threads=1)
    frames = {"rendered.tif": rendered(1)}
    changed = ChangedChain(chain, change)
    reference = TorchvisionMaskRcnn(networks[2])
    figure, *_ = check_chain(chain, reference, None, frames, SCALE, thresholds=[0.5])
    assert figure.cells >= 10
    with pytest.raises(
        ParityError, match=f"frame rendered.tif at score threshold 0.5: .*{message}"
    ):
        check_chain(changed, reference, None, frames, SCALE, thresholds=[0.5])


def test_an_empty_frame_has_no_cells(exported_repository: Path) -> None:
    black = np.zeros((100, 120, 1), np.uint16)
    names = [tensor.name for tensor in INSTANCE_OUTPUTS]
    answer = Chain(exported_repository, "maskrcnn", threads=1).run(
        instance_inputs(black, 1.5), names
    )
    assert answer["class_probs"].shape == (0, 2)


@pytest.mark.parametrize(
    ("shape", "scale", "tiles"),
    [
        pytest.param((31, 45, 3), 1.0, (1, 31, 45), id="as it is"),
        pytest.param((310, 45, 1), 0.5, (1, 155, 22), id="reduced"),
        pytest.param((161, 45, 1), 1.0, (2, 160, 45), id="one row more"),
        pytest.param((300, 400, 1), 1.2, (15, 160, 160), id="tiles"),
    ],
)
def test_prepared_frames(
    shape: tuple[int, int, int], scale: float, tiles: tuple[int, int, int]
) -> None:
    camera = camera_frame(*shape)
    prepared, origins, tiling, size = FrameTiles(160)(
        camera, torch.tensor([scale]), torch.tensor([TILE_OVERLAP])
    )
    count, height, width = tiles
    assert prepared.shape == (count, 3, height, width)
    assert size.tolist() == list(shape[:2])
    grid = frame_grid(shape[:2], scale, TILE_OVERLAP, 160)
    assert grid.tile_size == (width, height)
    np.testing.assert_array_equal(origins, grid.origins)
    np.testing.assert_allclose(tiling, [*grid.scale, *shape[:2], TILE_OVERLAP])
    scaled = scaled_rgb(camera.numpy(), scale).astype(int)
    for tile, (x, y) in zip(prepared.permute(0, 2, 3, 1).numpy(), grid.origins, strict=True):
        cut = scaled[int(y) : int(y) + height, int(x) : int(x) + width]
        assert np.abs(tile - cut).max() <= 1  # a grey level that lies between two


def test_prepared_graph() -> None:
    step = maskrcnn_steps.maskrcnn_prepare()
    assert max(figures["frame_size"] for figures in step.parity.values()) == 0


def test_dims_are_those_of_the_contract(graphs: dict[int, onnx.ModelProto]) -> None:
    """What a graph fixes, a configuration must not leave open."""
    session = open_graph(graphs[2], 1)
    found = {
        node.name: tuple(dim if isinstance(dim, int) else -1 for dim in node.shape)
        for node in (*session.get_inputs(), *session.get_outputs())
    }
    tensors = (*STEP.inputs, *STEP.outputs)
    assert found == {tensor.name: STEP.graph_dims(tensor) for tensor in tensors}
