"""The configurations are what the contract says, and Triton can take them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from cytoserve.contract import CUDA, PIPELINES, STEPS, TENSORRT, Pipeline, Wire
from export.repository.configs import configs, pipeline_config, wiring, write_configs
from export.repository.contract_page import contract_page

ROOT = Path(__file__).parents[3]
MODELS = model_config_pb2.ModelInstanceGroup


def parsed(text: str) -> model_config_pb2.ModelConfig:
    return text_format.Parse(text, model_config_pb2.ModelConfig())


def test_writing_them_again_changes_nothing() -> None:
    texts = configs()
    folder = ROOT / "model_repository"
    written = {
        path.relative_to(folder)
        for pattern in ("*/config.pbtxt", "*/configs/*")
        for path in folder.glob(pattern)
    }
    assert set(texts) == written
    wrong = [path for path, text in texts.items() if (folder / path).read_text() != text]
    assert not wrong, "run python -m export configs"


def test_only_what_changed_is_written(tmp_path: Path) -> None:
    assert set(write_configs(tmp_path)) == set(configs())
    assert write_configs(tmp_path) == []
    other = tmp_path / "yolo/configs/old.pbtxt"
    other.write_text("")
    former = tmp_path / "former/configs/old.pbtxt"
    former.parent.mkdir(parents=True)
    former.write_text("")
    (tmp_path / "yolo/config.pbtxt").write_text("name: 'mine'")
    (tmp_path / "yolo/notes.txt").write_text("kept")
    changed = ["former/configs/old.pbtxt", "yolo/config.pbtxt", "yolo/configs/old.pbtxt"]
    assert [str(path) for path in write_configs(tmp_path)] == changed
    assert not other.exists()
    assert not (tmp_path / "former").exists()
    assert (tmp_path / "yolo/notes.txt").exists()
    assert write_configs(tmp_path) == []


@pytest.mark.parametrize("path", configs(), ids=str)
def test_a_configuration_is_one_of_tritons(path: Path) -> None:
    text = configs()[path]
    assert text.startswith("# Written by `python -m export configs`")
    config = parsed(text)
    assert config.name == path.parts[0]
    if config.platform == "ensemble":
        assert not config.instance_group
        assert not config.model_warmup
        return
    on_gpu = path.stem in (CUDA.name, TENSORRT)
    kind = MODELS.KIND_GPU if on_gpu else MODELS.KIND_CPU
    assert [group.kind for group in config.instance_group] == [kind]
    assert all(group.count >= 1 for group in config.instance_group)
    assert config.HasField("dynamic_batching") == (config.max_batch_size > 0)
    for sample in config.model_warmup:
        assert 1 <= sample.batch_size <= config.max_batch_size
        for given in config.input:
            dims = sample.inputs[given.name].dims
            assert sample.inputs[given.name].data_type == given.data_type
            assert [d if w == -1 else w for d, w in zip(dims, given.dims, strict=True)] == dims
            assert all(d > 0 for d in dims)


@pytest.mark.parametrize("name", [name for name, step in STEPS.items() if step.variants])
def test_on_a_gpu_a_step_takes_what_it_takes_by_default(name: str) -> None:
    texts = configs()
    default = parsed(texts[Path(name, "config.pbtxt")])
    files = {v: Path(name, "configs", f"{v}.pbtxt") for v in (CUDA.name, TENSORRT)}
    assert (files[CUDA.name] in texts) == (files[TENSORRT] in texts)
    for file in set(files.values()) & set(texts):
        config = parsed(texts[file])
        assert (config.input, config.output) == (default.input, default.output)
        gpu = config.optimization.execution_accelerators.gpu_execution_accelerator
        if config.backend == TENSORRT:
            [plan] = [v.plan_rows for v in STEPS[name].variants if v.plan_rows]
            assert config.max_batch_size == plan[-1] <= default.max_batch_size
            assert config.cc_model_filenames["9.0"] == "model.sm90.plan"
            assert not config.default_model_filename
            assert not gpu
            continue
        assert config.max_batch_size == default.max_batch_size
        [accelerator] = gpu
        assert accelerator.name == CUDA.name
        # By number too: the native backend prefers its default to the name.
        assert accelerator.parameters["cudnn_conv_algo_search"] == "HEURISTIC"
        assert config.parameters["cudnn_conv_algo_search"].string_value == "1"


def test_without_a_plan_tensorrt_serves_as_cuda() -> None:
    for step in STEPS.values():
        own = {v.name: v for v in step.variants if v.name in (CUDA.name, TENSORRT)}
        if own and not own[TENSORRT].plan_rows:
            assert replace(own[TENSORRT], name=CUDA.name) == own[CUDA.name]


def test_networks_are_warm_before_the_first_request() -> None:
    """SAM's encoder alone differs: the side of its input is that of the SAM exported."""
    assert [s.name for s in STEPS.values() if s.batches and not s.warm_up] == ["sam_encoder"]


def test_only_networks_keep_their_answers() -> None:
    """A cache is asked by a hash over a request's bytes, which pays for a network only."""
    assert [s.name for s in STEPS.values() if s.caches_answers] == ["sam_encoder"]
    assert all(s.batches for s in STEPS.values() if s.caches_answers)


@pytest.mark.parametrize("pipeline", PIPELINES.values(), ids=lambda p: p.name)
def test_wires_agree_in_dtype_and_dims(pipeline: Pipeline) -> None:
    for variant in (None, *pipeline.variants):
        wires = {t.name: (t.dtype, t.dims) for t in pipeline.inputs}
        for step, read, made in wiring(pipeline, variant):
            tensors = {t.name: t for t in (*step.inputs, *step.outputs)}
            for wire in read:
                tensor = tensors[wire.tensor]
                dtype, dims = wires[wire.name]
                assert dtype == tensor.dtype
                # A step that batches sees the rows as its batch, another one as a dim.
                own = step.graph_dims(tensor)
                assert len(own) == len(dims)
                assert all(-1 in (a, b) or a == b for a, b in zip(own, dims, strict=True))
            sources = {wire.name for wire in made} & set(wires)
            assert not sources, f"{step.name} makes {sources} once more"
            wires |= {
                w.name: (tensors[w.tensor].dtype, step.graph_dims(tensors[w.tensor])) for w in made
            }
        for tensor in (*pipeline.outputs, *pipeline.on_request):
            assert wires[tensor.name][0] == tensor.dtype
            assert len(wires[tensor.name][1]) == len(tensor.dims)


YOLO = PIPELINES["yolo"]


@pytest.mark.parametrize(
    ("pipeline", "message"),
    [
        pytest.param(
            replace(YOLO, steps=("yolo_targets", "yolo_prepare", "yolo_decode", "cell_labels")),
            "yolo_targets reads 'network_image', which is neither",
            id="a step before its source",
        ),
        pytest.param(
            replace(YOLO, wires=()), "no step makes class_ids, class_probs", id="no output"
        ),
        pytest.param(
            replace(YOLO, wires=(*YOLO.wires, Wire("yolo_decode", "cell_boxes", "boxes"))),
            "cell_labels reads 'cell_boxes', which is neither",
            id="a wire under another name",
        ),
        pytest.param(
            replace(YOLO, wires=(*YOLO.wires, Wire("cell_labels", "cell_boxes", "boxes"))),
            "cell_labels runs on request only, so it must read internal tensors; it reads boxes",
            id="a step on request reads an output",
        ),
    ],
)
def test_a_pipeline_that_cannot_be_wired(pipeline: Pipeline, message: str) -> None:
    with pytest.raises(ValueError, match=f"^yolo: {message}"):
        pipeline_config(pipeline)


def test_what_nobody_reads_is_not_wired() -> None:
    """`maskrcnn_sam` reads boxes and classes of Mask R-CNN; masks and scores are SAM's."""
    made = {
        step.name: {w.tensor for w in made} for step, _, made in wiring(PIPELINES["maskrcnn_sam"])
    }
    assert made["maskrcnn_cells"] == {"boxes", "detected_ids", "detected_probs", "cells_found"}
    assert {"masks", "scores", "cell_boxes"} <= made["sam_cells"]


def test_the_contract_page_is_up_to_date() -> None:
    page = (ROOT / "docs" / "contract.md").read_text()
    assert page == contract_page(), "run python -m export contract-page"


def test_the_contract_page_tells_what_every_tensor_means() -> None:
    page = contract_page()
    for pipeline in PIPELINES.values():
        for tensor in (*pipeline.inputs, *pipeline.outputs, *pipeline.on_request):
            assert tensor.meaning
            assert f"| `{tensor.name}` | {tensor.dtype} |" in page
