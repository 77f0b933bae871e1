"""The model card of a pipeline: what it reports about itself, as JSON in one tensor."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from cytoserve import contract
from cytoserve.codec.tensors import malformed
from cytoserve.settings import MAX_SCALE, MIN_SCALE
from cytoserve.transport import Request, Tensors

_TOLD = ("network_scale", "cell_diameter_px", "largest_cell_px")
_LENGTHS = (MIN_SCALE, MAX_SCALE)


@dataclass(frozen=True)
class LearnedScale:
    """The scale of a pipeline's training frames. Lengths are in pixels of those frames.

    Attributes:
        network_scale: network pixels per frame pixel.
        cell_diameter_px: median diameter of the cells.
        largest_cell_px: longest box side of the largest cells.
        pixel_size_um: side of a pixel in micrometres, if known.
        cell_diameters_px: least and largest median diameter, for a network that learned cells of
            several sizes; None if it learned one.
    """

    network_scale: float
    cell_diameter_px: float
    largest_cell_px: float
    pixel_size_um: float | None = None
    cell_diameters_px: tuple[float, float] | None = None


@dataclass(frozen=True)
class LearnedAppearance:
    """The look of a pipeline's training frames, see `cytoserve.appearance.Appearance`.

    Attributes:
        kinds: kinds of the frames, in colour or grey.
        background: least and largest background among them.
    """

    kinds: tuple[str, ...]
    background: tuple[float, float]


def diameter_factor(
    diameter_px: float, learned_px: float, range_px: tuple[float, float] | None
) -> float:
    """Return the factor that brings cells to a size that a network learned.

    Args:
        diameter_px: diameter of the cells in frame pixels.
        learned_px: median diameter of the training's cells.
        range_px: least and largest of the sizes that the network learned; cells between them stay
            as they are. None if it learned one size.
    """
    least, most = range_px or (learned_px, learned_px)
    return min(max(diameter_px, least), most) / diameter_px


@dataclass(frozen=True)
class ModelCard:
    """The model card: what a pipeline reports about itself.

    Attributes:
        pipeline: name of the pipeline.
        class_names: the K classes, in the order of ``class_probs``. A semantic pipeline has one,
            its foreground; a prompted pipeline has one, the prompted object.
        models: name of every exported step -> its ``version`` and ``sha256``.
        recipes: how the networks were trained.
        threshold: score or probability threshold chosen in training; None if there is none.
        scale: scale of the training frames; None if the pipeline uses frames as they are.
        appearance: what the training frames look like, if it is known.
    """

    pipeline: str
    class_names: tuple[str, ...]
    models: dict[str, dict[str, Any]] = field(default_factory=dict)
    recipes: dict[str, Any] = field(default_factory=dict)
    threshold: float | None = None
    scale: LearnedScale | None = None
    appearance: LearnedAppearance | None = None

    def hashes(self) -> dict[str, str]:
        """Return the sha256 of every exported step."""
        return {name: str(model.get("sha256", "")) for name, model in self.models.items()}


def encode_request(pipeline: contract.Pipeline) -> Request:
    """Return the request for a pipeline's card."""
    page = np.zeros(contract.CARD_INPUT.dims, np.int64)
    return Request(pipeline.card, {contract.CARD_INPUT.name: page}, (contract.CARD_OUTPUT.name,))


def encode_answer(card: ModelCard) -> Tensors:
    """Return the tensor with which a server answers a card request."""
    text = json.dumps(
        {
            "pipeline": card.pipeline,
            "class_names": card.class_names,
            "models": card.models,
            "recipes": card.recipes,
            "threshold": card.threshold,
            "scale": None if card.scale is None else asdict(card.scale),
            "appearance": None if card.appearance is None else asdict(card.appearance),
        }
    )
    return {contract.CARD_OUTPUT.name: np.array([text.encode()], dtype=np.object_)}


def decode_answer(answer: Tensors, pipeline: contract.Pipeline) -> ModelCard:
    """Return the card of ``pipeline``.

    Raises:
        AnswerMalformed: the answer is not JSON, or not of the form that the contract gives.
    """
    wanted = "a JSON object with class_names and models"
    try:
        values = json.loads(answer[contract.CARD_OUTPUT.name].item())
        class_names = tuple(values["class_names"])
        models, recipes = dict(values["models"]), dict(values.get("recipes", {}))
        threshold, scale = values.get("threshold"), values.get("scale")
        looks = values.get("appearance")
        threshold = None if threshold is None else _number(threshold, 0, 1)
        scale = None if scale is None else _learned_scale(scale)
        looks = None if looks is None else _learned_appearance(looks)
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
    name = str(values.get("pipeline", pipeline.name))
    return ModelCard(name, class_names, models, recipes, threshold, scale, looks)


def _learned_scale(values: dict[str, Any]) -> LearnedScale:
    """Return the scale in a card; fields that this client does not know are ignored."""
    told = {name: _number(values[name], *_LENGTHS) for name in _TOLD}
    size, known = values.get("pixel_size_um"), values.get("cell_diameters_px")
    return LearnedScale(
        **told,
        pixel_size_um=None if size is None else _number(size, *_LENGTHS),
        cell_diameters_px=None if known is None else _range(known, *_LENGTHS),
    )


def _learned_appearance(values: dict[str, Any]) -> LearnedAppearance:
    """Return the appearance in a card; fields that this client does not know are ignored."""
    kinds = tuple(values["kinds"])
    if not (kinds and all(isinstance(kind, str) for kind in kinds)):
        raise ValueError(f"kinds {kinds!r}")
    return LearnedAppearance(kinds, _range(values["background"], 0, 1))


def _range(value: Any, low: float, high: float) -> tuple[float, float]:
    """Return two ascending numbers from low to high; raise ValueError or TypeError otherwise."""
    least, most = (_number(each, low, high) for each in value)
    if least > most:
        raise ValueError(f"{value!r} is not ascending")
    return least, most


def _number(value: Any, low: float, high: float) -> float:
    """Return a float; raise ValueError or TypeError if it is not a number from low to high."""
    number = float(value)
    if not low <= number <= high:
        raise ValueError(f"{value!r} is not from {low:g} to {high:g}")
    return number
