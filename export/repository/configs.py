"""Every ``config.pbtxt`` of the model repository, written from `cytoserve.contract`.

The files are in git, so that ``tritonserver --model-repository`` starts on a clone. Every instance
says its kind: without one, Triton moves a model to a GPU wherever there is one. Only the variants
`cuda` and `tensorrt` say ``KIND_GPU``.
"""

from __future__ import annotations

import json
import shutil
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from cytoserve.contract import (
    CARD_INPUT,
    CARD_OUTPUT,
    COMPUTE_CAPABILITIES,
    PIPELINES,
    STEPS,
    TENSORRT,
    Pipeline,
    Step,
    StepVariant,
    Tensor,
    Wire,
    plan_file,
)
from cytoserve.model_config import CONFIG_FILE, VARIANT_FOLDER

COMMAND = "python -m export configs"

OPENVINO_OPTIONS = {"CPU": {"INFERENCE_PRECISION_HINT": "bf16"}}
"""Options in the form that OpenVINO's ``load_config`` takes."""

CUDA_OPTIONS = {
    "arena_extend_strategy": ("kSameAsRequested", "1"),
    "cudnn_conv_algo_search": ("HEURISTIC", "1"),
}
"""Option of ONNX Runtime's CUDA provider -> its value, and Triton's number for that value.

By default, the provider tries all algorithms of a convolution anew for every new shape of a frame,
and rounds up each piece of memory to a power of two. The native backend takes the names from
``gpu_execution_accelerator`` and then overwrites both with its own default if the configuration has
any ``parameters``, unless these give the number (``src/onnxruntime.cc``, ``LoadModel``). So a
configuration says both."""


def configs() -> dict[Path, str]:
    """Path below the repository -> text, for every step, pipeline, card and variant."""
    texts = {}
    for step in (*STEPS.values(), *map(card_step, PIPELINES.values())):
        texts[Path(step.name, CONFIG_FILE)] = step_config(step)
        for variant in step.variants:
            texts[_variant_path(step.name, variant.name)] = step_config(step, variant)
    for pipeline in PIPELINES.values():
        texts[Path(pipeline.name, CONFIG_FILE)] = pipeline_config(pipeline)
        for name in pipeline.variants:
            texts[_variant_path(pipeline.name, name)] = pipeline_config(pipeline, name)
    return texts


def write_configs(repository: Path) -> list[Path]:
    """Write every configuration below ``repository``, and remove those that belong to no model.

    Returns:
        Paths below ``repository`` of the files that changed.
    """
    texts = configs()
    patterns = (f"*/{CONFIG_FILE}", f"*/{VARIANT_FOLDER}/*.pbtxt")
    there = {path.relative_to(repository) for each in patterns for path in repository.glob(each)}
    changed = []
    for path in sorted(there | set(texts)):
        file = repository / path
        before = file.read_text() if file.is_file() else None
        if path not in texts:
            file.unlink()
            _remove_empty(file.parent, repository)
        elif texts[path] != before:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(texts[path])
        else:
            continue
        changed.append(path)
    return changed


SOURCE = Path(__file__).parents[2] / "model_repository"
ADAPTERS = "*/1/model.py"


def make_repository(folder: Path) -> None:
    """Make a new model repository: every configuration and adapter, and no exported version.

    The folder, which must not exist or be empty, appears complete or not at all.
    """
    unfinished = folder.with_name(f"{folder.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    write_configs(unfinished)
    for file in SOURCE.glob(ADAPTERS):
        copy = unfinished / file.relative_to(SOURCE)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, copy)
    unfinished.rename(folder)


def _remove_empty(folder: Path, repository: Path) -> None:
    """Remove ``folder`` and its parents as long as they are empty, up to the repository."""
    while folder != repository and not any(folder.iterdir()):
        folder.rmdir()
        folder = folder.parent


def card_step(pipeline: Pipeline) -> Step:
    """The step of the model card that describes a pipeline."""
    return Step(
        pipeline.card,
        (CARD_INPUT,),
        (CARD_OUTPUT,),
        summary=f"Class names, model hashes and recipes of the pipeline `{pipeline.name}`.",
        one_thread=True,
    )


def step_config(step: Step, variant: StepVariant | None = None) -> str:
    """The configuration of a step or card, for the default or for a variant."""
    plan = variant.plan_rows if variant else None
    lines = [*_head(step.name, step.summary, variant.name if variant else None)]
    lines.append(f'backend: "{"tensorrt" if plan else step.backend}"')
    if variant and variant.graph:
        lines.append(f'default_model_filename: "{variant.graph}"')
    lines += [_plan_entry(capability) for capability in COMPUTE_CAPABILITIES if plan]
    lines.append(f"max_batch_size: {plan[-1] if plan else step.max_batch}")
    lines += _tensors("input", step, step.inputs)
    if step.leaves_outputs_open:
        lines.append("# Outputs are completed from the graph: the number of classes is its own.")
    else:
        lines += _tensors("output", step, step.outputs)
    if step.batches:
        lines.append("dynamic_batching { }")
    if step.caches_answers:
        lines.append("response_cache { enable: true }")
    count = variant.instances if variant else 1
    kind = "KIND_GPU" if variant and variant.on_gpu else "KIND_CPU"
    lines.append(f"instance_group [ {{ count: {count} kind: {kind} }} ]")
    if step.one_thread:
        lines.append(_parameter("intra_op_thread_count", "1"))
    lines += _warm_up(step)
    if variant and variant.openvino:
        # Encoded twice: protobuf's text format needs the quotes of the JSON text escaped.
        lines += _accelerator("cpu", "openvino", {"load_config": json.dumps(OPENVINO_OPTIONS)})
    elif variant and variant.on_gpu and not plan:
        lines += [_parameter(name, number) for name, (_, number) in CUDA_OPTIONS.items()]
        lines += _accelerator("gpu", "cuda", {n: value for n, (value, _) in CUDA_OPTIONS.items()})
    return "\n".join(lines) + "\n"


def _plan_entry(capability: str) -> str:
    return f'cc_model_filenames {{ key: "{capability}" value: "{plan_file(capability)}" }}'


def _parameter(name: str, value: str) -> str:
    return f'parameters {{ key: "{name}" value: {{ string_value: "{value}" }} }}'


def pipeline_config(pipeline: Pipeline, variant: str | None = None) -> str:
    """The configuration of a pipeline, an ensemble, for the default or for a variant.

    Raises:
        ValueError: the pipeline cannot be wired, see :func:`wiring`.
    """
    lines = [*_head(pipeline.name, f"{pipeline.study}: {pipeline.summary}.", variant)]
    lines += ['platform: "ensemble"', "max_batch_size: 0"]
    ensemble = Step(pipeline.name, pipeline.inputs, (*pipeline.outputs, *pipeline.on_request))
    lines += _tensors("input", ensemble, ensemble.inputs)
    lines += _tensors("output", ensemble, ensemble.outputs)
    steps = [
        [
            "    {",
            f'      model_name: "{step.name}"',
            "      model_version: -1",
            *(f'      input_map {{ key: "{w.tensor}" value: "{w.name}" }}' for w in read),
            *(f'      output_map {{ key: "{w.tensor}" value: "{w.name}" }}' for w in made),
            "    }",
        ]
        for step, read, made in wiring(pipeline, variant)
    ]
    body = ",\n".join("\n".join(each) for each in steps)
    lines += ["ensemble_scheduling {", "  step [", body, "  ]", "}"]
    return "\n".join(lines) + "\n"


def wiring(
    pipeline: Pipeline, variant: str | None = None
) -> list[tuple[Step, list[Wire], list[Wire]]]:
    """Every step of a pipeline, with the wires that it reads and those that it makes for others.

    A tensor that no later step reads and that is no output is left out. Where two steps make a
    tensor of the same name, the later step's counts.

    Raises:
        ValueError: a step reads what no input or earlier step makes; a step that runs only on
            request reads an output of the pipeline; or no step makes an output.
    """
    steps = [STEPS[name] for name in pipeline.steps_of(variant)]
    inputs = {tensor.name for tensor in pipeline.inputs}
    outputs = {tensor.name for tensor in (*pipeline.outputs, *pipeline.on_request)}
    read = [_wires(pipeline, step, step.inputs) for step in steps]
    made = [_wires(pipeline, step, step.outputs) for step in steps]
    table, known = [], set(inputs)
    for index, step in enumerate(steps):
        for wire in read[index]:
            if wire.name not in known:
                raise ValueError(
                    f"{pipeline.name}: {step.name} reads '{wire.name}', which is neither an input "
                    "nor made by an earlier step. Name its source in the pipeline's `wires`."
                )
        later = {wire.name for wires in read[index + 1 :] for wire in wires}
        again = {wire.name for wires in made[index + 1 :] for wire in wires}
        wanted = [w for w in made[index] if w.name in (later | outputs) - again]
        known |= {wire.name for wire in wanted}
        table.append((step, read[index], wanted))
    missing = sorted(outputs - known)
    if missing:
        raise ValueError(f"{pipeline.name}: no step makes {', '.join(missing)}.")
    _refuse_reading_outputs(pipeline, table)
    return table


def _refuse_reading_outputs(
    pipeline: Pipeline, table: Sequence[tuple[Step, list[Wire], list[Wire]]]
) -> None:
    """Refuse a step that may be skipped but reads an output of the ensemble: Triton deadlocks."""
    on_request = {tensor.name for tensor in pipeline.on_request}
    outputs = {tensor.name for tensor in pipeline.outputs} | on_request
    for step, read, made in table:
        wrong = [wire.name for wire in read if wire.name in outputs]
        if wrong and on_request & {wire.name for wire in made}:
            raise ValueError(
                f"{pipeline.name}: {step.name} runs on request only, so it must read internal "
                f"tensors; it reads {', '.join(wrong)}, outputs of the pipeline."
            )


def _wires(pipeline: Pipeline, step: Step, tensors: Iterable[Tensor]) -> list[Wire]:
    renamed = {wire.tensor: wire for wire in pipeline.wires if wire.step == step.name}
    return [renamed.get(t.name, Wire(step.name, t.name, t.name)) for t in tensors]


def _variant_path(model: str, variant: str) -> Path:
    return Path(model, VARIANT_FOLDER, f"{variant}.pbtxt")


def _head(name: str, summary: str, variant: str | None) -> Iterator[str]:
    yield f"# Written by `{COMMAND}` from cytoserve.contract: change it there."
    yield from textwrap.wrap(summary, 98, initial_indent="# ", subsequent_indent="# ")
    if variant == TENSORRT:
        yield f"# Served by NVIDIA's image: tritonserver --model-config-name={variant}"
    elif variant:
        yield f"# Served by: python -m server --variant {variant}"
    yield f'name: "{name}"'


def _tensors(role: str, step: Step, tensors: Sequence[Tensor]) -> Iterator[str]:
    yield f"{role} ["
    for tensor in tensors:
        comma = "" if tensor is tensors[-1] else ","
        shape = _shape(tensor, step.config_dims(tensor))
        yield f'  {{ name: "{tensor.name}" {shape} }}{comma}'
    yield "]"


def _shape(tensor: Tensor, dims: Sequence[int]) -> str:
    dtype = "STRING" if tensor.dtype == "BYTES" else tensor.dtype
    return f"data_type: TYPE_{dtype} dims: [ {', '.join(map(str, dims))} ]"


def _warm_up(step: Step) -> Iterator[str]:
    """Warm-up of a network, so that the first request does not pay for its start."""
    if step.warm_up is None:
        return
    rows, dims = step.warm_up
    [tensor] = step.inputs
    shape = f"{{ {_shape(tensor, dims)} zero_data: true }}"
    yield "model_warmup ["
    yield "  {"
    yield '    name: "zeros"'
    yield f"    batch_size: {rows}"
    yield f'    inputs {{ key: "{tensor.name}" value: {shape} }}'
    yield "  }"
    yield "]"


def _accelerator(device: str, name: str, options: Mapping[str, str]) -> Iterator[str]:
    """How ONNX Runtime computes the step on a ``device``, cpu or gpu."""
    yield "optimization {"
    yield "  execution_accelerators {"
    yield f"    {device}_execution_accelerator ["
    yield "      {"
    yield f'        name: "{name}"'
    for key, value in options.items():
        yield f'        parameters {{ key: "{key}" value: {json.dumps(value)} }}'
    yield "      }"
    yield "    ]"
    yield "  }"
    yield "}"
