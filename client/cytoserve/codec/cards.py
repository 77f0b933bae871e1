"""The card of a pipeline: what it says of itself, as JSON in one tensor."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from cytoserve import contract
from cytoserve.codec.tensors import malformed
from cytoserve.transport import Request, Tensors


@dataclass(frozen=True)
class Card:
    """What a pipeline says of itself.

    Attributes:
        pipeline: its name.
        class_names: the K classes, in the order of ``class_probs``; a semantic pipeline has one,
            its foreground, and so has a prompted one, what is prompted.
        models: for every exported step its ``version`` and ``sha256``.
        recipes: how the networks were trained.
    """

    pipeline: str
    class_names: tuple[str, ...]
    models: dict[str, dict[str, Any]] = field(default_factory=dict)
    recipes: dict[str, Any] = field(default_factory=dict)

    def hashes(self) -> dict[str, str]:
        """Return the sha256 of every exported step."""
        return {name: str(model.get("sha256", "")) for name, model in self.models.items()}


def encode_request(pipeline: contract.Pipeline) -> Request:
    """Return the request for a pipeline's card."""
    page = np.zeros(contract.CARD_INPUT.dims, np.int64)
    return Request(pipeline.card, {contract.CARD_INPUT.name: page}, (contract.CARD_OUTPUT.name,))


def encode_answer(card: Card) -> Tensors:
    """Return the tensor that a server answers to a card request."""
    text = json.dumps(
        {
            "pipeline": card.pipeline,
            "class_names": card.class_names,
            "models": card.models,
            "recipes": card.recipes,
        }
    )
    return {contract.CARD_OUTPUT.name: np.array([text.encode()], dtype=np.object_)}


def decode_answer(answer: Tensors, pipeline: contract.Pipeline) -> Card:
    """Return the card of ``pipeline``.

    Raises:
        AnswerMalformed: no JSON, or not of the form that the contract gives.
    """
    wanted = "a JSON object with class_names and models"
    try:
        values = json.loads(answer[contract.CARD_OUTPUT.name].item())
        class_names = tuple(values["class_names"])
        models, recipes = dict(values["models"]), dict(values.get("recipes", {}))
        if not (class_names and all(isinstance(name, str) for name in class_names)):
            raise ValueError(f"class_names {class_names!r}")
        if not all(isinstance(model, dict) for model in models.values()):
            raise ValueError(f"models {models!r}")
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise malformed(pipeline.card, wanted, repr(error)) from error
    if not pipeline.is_instance and len(class_names) != 1:
        only = "its foreground" if pipeline.is_semantic else "what is prompted"
        raise malformed(
            pipeline.card, f"{wanted}, one class: {only}", f"class_names {class_names!r}"
        )
    return Card(str(values.get("pipeline", pipeline.name)), class_names, models, recipes)
