"""A view of a model repository whose pipelines have no output that is computed on request only.

``perf_analyzer`` asks for all outputs of a model and cannot be told otherwise; cytoserve's client
leaves out those on request. In this view both ask for the same work.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from google.protobuf import text_format

from cytoserve.contract import PIPELINES
from cytoserve.model_config import CONFIG_FILE, VARIANT_FOLDER, read_config, versions


def without_outputs_on_request(repository: Path, pipelines: Sequence[str], folder: Path) -> Path:
    """Fill ``folder`` with links to the models, and pipelines' configurations of its own.

    Returns:
        ``folder``, a model repository of the pipelines and all that they need.
    """
    for model in sorted(path for path in repository.resolve().iterdir() if path.is_dir()):
        if model.name not in pipelines:
            (folder / model.name).symlink_to(model)
            continue
        (folder / model.name).mkdir()
        for number in map(str, versions(model)):
            (folder / model.name / number).symlink_to(model / number)
        for file in (model / CONFIG_FILE, *(model / VARIANT_FOLDER).glob("*.pbtxt")):
            own = folder / file.relative_to(repository.resolve())
            own.parent.mkdir(exist_ok=True)
            own.write_text(_reduced(file, model.name))
    return folder


def _reduced(file: Path, pipeline: str) -> str:
    config = read_config(file)
    left_out = {tensor.name for tensor in PIPELINES[pipeline].on_request}
    outputs = [tensor for tensor in config.output if tensor.name not in left_out]
    scheduling = config.ensemble_scheduling
    steps = [step for step in scheduling.step if not left_out & set(step.output_map.values())]
    # Triton refuses an ensemble with a tensor that nothing reads.
    read = {tensor.name for tensor in outputs}.union(*(step.input_map.values() for step in steps))
    for step in steps:
        for name, tensor in list(step.output_map.items()):
            if tensor not in read:
                del step.output_map[name]
    del config.output[:], scheduling.step[:]
    config.output.extend(outputs)
    scheduling.step.extend(steps)
    return text_format.MessageToString(config)
