"""What is compared: the models that the contract demands, and the configs that are there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tritonclient.grpc import model_config_pb2

from cytoserve.contract import CARD_INPUT, CARD_OUTPUT, PIPELINES, STEPS, Step, Tensor
from cytoserve.model_config import CONFIG_FILE

STEP_BACKENDS = ("onnxruntime", "python")
"""What a step or card may run on; a pipeline is an ensemble."""


@dataclass(frozen=True)
class Model:
    """One configuration beside what the contract says of it."""

    folder: Path
    contract: Step
    config: Any
    """Triton's ``ModelConfig`` message."""

    file_name: str = CONFIG_FILE
    """Where in the folder it was read."""

    @property
    def file(self) -> Path:
        """The file that was read."""
        return self.folder / self.file_name

    @property
    def is_variant(self) -> bool:
        """Whether a variant of the model is configured by it."""
        return self.file_name != CONFIG_FILE

    @property
    def is_pipeline(self) -> bool:
        """Whether it is an ensemble by contract."""
        return self.contract.name in PIPELINES


def contract_models() -> dict[str, Step]:
    """Name -> inputs and outputs of every step, pipeline and card."""
    pipelines = [
        Step(pipeline.name, pipeline.inputs, (*pipeline.outputs, *pipeline.on_request))
        for pipeline in PIPELINES.values()
    ]
    cards = [Step(p.card, (CARD_INPUT,), (CARD_OUTPUT,)) for p in PIPELINES.values()]
    return {**STEPS, **{model.name: model for model in (*pipelines, *cards)}}


def dtype_name(data_type: int) -> str:
    """The contract's name of a config's ``data_type``."""
    name: str = model_config_pb2.DataType.Name(data_type)
    return {"TYPE_STRING": "BYTES"}.get(name, name.removeprefix("TYPE_"))


def configured(tensors: Any) -> list[Tensor]:
    """The ``input`` or ``output`` entries of a config as the contract writes tensors."""
    return [Tensor(t.name, dtype_name(t.data_type), tuple(t.dims)) for t in tensors]


def show_dims(dims: Sequence[int]) -> str:
    """Dims as a config writes them."""
    return f"[{', '.join(map(str, dims))}]"
