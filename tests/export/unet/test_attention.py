"""The MiT encoders' attention in parts: the same answers, in torch and as a graph of any size."""

from __future__ import annotations

import io

import numpy as np
import onnx
import pytest
import torch
from segmentation_models_pytorch.encoders.mix_transformer import Attention

from export.graphs.files import open_session
from export.unet.network import PARTS, AttentionInParts, chunk_attention_queries
from training.unet.network import build_unet

# Of the exporter, which `export.graphs.trace` keeps quiet likewise.
pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning"
)

CHANNELS = 16
REDUCTIONS = (1, 2)  # sides of the keys to those of the queries


class OnImages(torch.nn.Module):
    """An attention that takes an image, as an encoder's block does."""

    def __init__(self, attention: torch.nn.Module) -> None:
        super().__init__()
        self.attention = attention

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        height, width = image.shape[2:]
        return self.attention(image.flatten(2).transpose(1, 2), height, width)


@pytest.fixture(scope="module", params=REDUCTIONS)
def attention(request: pytest.FixtureRequest) -> Attention:
    torch.manual_seed(0)
    attention = Attention(CHANNELS, num_heads=2, qkv_bias=True, sr_ratio=request.param).eval()
    with torch.no_grad():
        attention.kv.weight.mul_(50)  # so that tokens attend to some, not to all alike
    return attention


@pytest.fixture(scope="module")
def graph(attention: Attention) -> onnx.ModelProto:
    file = io.BytesIO()
    torch.onnx.export(
        OnImages(AttentionInParts(attention)).eval(),
        (torch.randn(1, CHANNELS, 12, 14),),
        file,
        dynamo=False,
        opset_version=17,
        input_names=["image"],
        output_names=["tokens"],
        dynamic_axes={"image": {0: "batch", 2: "height", 3: "width"}},
    )
    return onnx.load_from_string(file.getvalue())


@pytest.mark.parametrize(
    "shape",
    [
        pytest.param((1, 12, 14), id="traced"),
        pytest.param((2, 20, 34), id="batch of 2, larger"),
        pytest.param((1, 2, 2), id="fewer tokens than parts"),
        pytest.param((1, 2, 10), id="parts that are not full"),
    ],
)
def test_the_answers_are_smps(
    attention: Attention, graph: onnx.ModelProto, shape: tuple[int, int, int]
) -> None:
    image = torch.randn(shape[0], CHANNELS, *shape[1:], generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected = OnImages(attention)(image)
        in_parts = OnImages(AttentionInParts(attention))(image)
    assert expected.std() > 0.01
    assert torch.allclose(in_parts, expected, atol=1e-6)
    [served] = open_session(graph.SerializeToString(), threads=1).run(
        None, {"image": image.numpy()}
    )
    np.testing.assert_allclose(served, expected.numpy(), atol=1e-6)


def test_no_part_weighs_more_than_its_tokens(graph: onnx.ModelProto) -> None:
    weighed = [node.output[0] for node in graph.graph.node if node.op_type == "Softmax"]
    assert len(weighed) == PARTS
    graph = onnx.ModelProto.FromString(graph.SerializeToString())
    graph.graph.output.extend(onnx.helper.make_empty_tensor_value_info(n) for n in weighed)
    image = np.zeros((1, CHANNELS, 32, 40), np.float32)
    _, *parts = open_session(graph.SerializeToString(), threads=1).run(None, {"image": image})
    assert [part.shape[2] for part in parts] == [32 * 40 // PARTS] * PARTS


def test_of_networks_only_their_attention_is_changed() -> None:
    plain = build_unet("U-Net", width=4)
    assert chunk_attention_queries(plain) is plain
    unet = build_unet("MiT-B3").eval()
    changed = chunk_attention_queries(unet)
    kinds = [[type(module) for module in each.modules()] for each in (unet, changed)]
    assert kinds[0].count(Attention) == kinds[1].count(AttentionInParts) == 28
    assert AttentionInParts not in kinds[0]  # the trained one stays the reference
    image = torch.randint(0, 256, (1, 3, 40, 72), dtype=torch.uint8)
    with torch.inference_mode():
        assert torch.allclose(changed(image), unet(image), atol=1e-4)
