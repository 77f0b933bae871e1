"""The variant that a server takes by itself: the fastest that is proven on this machine.

A GPU is taken where its graphs are exported, since their export proves them. Among the variants for
processors, only `python -m benchmarks.variants` knows which is the fastest here and keeps its
accuracy on annotated frames. It leaves its choice in the model repository.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from cytoserve.contract import CUDA, Pipeline
from cytoserve.files import file_sha256, write_atomically
from cytoserve.gpu import find_gpu
from cytoserve.model_config import MANIFEST_FILE, versions
from server.errors import RepositoryError, VariantError
from server.repository import models_of_variant, survey
from server.variants import DEFAULT, VARIANTS, check_machine, processor_instructions

CHOICE_FILE = "fastest_variant.json"
"""File in the model repository with the variant that was measured to be the fastest."""

MEASURE = "python -m benchmarks.variants --model-repository {} --data PIPELINE=DIR"


@dataclass(frozen=True, kw_only=True)
class MeasuredChoice:
    """The fastest variant of one machine, and the models that it was measured with."""

    variant: str
    """Name of the variant, or `DEFAULT`."""
    speedup: float
    """Geometric mean over the measured pipelines of the default's seconds / the variant's."""
    processor: str
    """Digest of the processor's instructions: they decide what is fast."""
    manifests: dict[str, str]
    """Model of the variant -> sha256 of the manifest of its newest version."""
    date: str
    """Day of the measurement, such as ``2026-12-01``."""

    def write(self, repository: Path) -> None:
        """Leave the choice in the repository, for servers to come."""
        text = json.dumps(asdict(self), indent=2) + "\n"
        write_atomically(repository / CHOICE_FILE, text.encode())


def choose(repository: Path, pipelines: Sequence[Pipeline]) -> tuple[str, str]:
    """Choose how to serve ``pipelines``, which are exported.

    Returns:
        Name of the variant or `DEFAULT`, and the reason as one line for the operator.
    """
    if fits(CUDA.name, repository, pipelines):
        return CUDA.name, f"its graphs are exported and this machine has an {find_gpu().name}"
    measure = MEASURE.format(repository)
    try:
        choice = MeasuredChoice(**json.loads((repository / CHOICE_FILE).read_text()))
    except FileNotFoundError:
        return DEFAULT, f"no other was measured here. To find the fastest: {measure}"
    except (OSError, ValueError, TypeError) as error:
        return DEFAULT, f"{CHOICE_FILE} cannot be read ({error}). Measure again: {measure}"
    if choice.processor != processor_digest():
        return DEFAULT, f"the others were measured on another processor. Measure here: {measure}"
    if choice.variant == DEFAULT:
        return DEFAULT, f"it was the fastest on {choice.date}"
    if choice.variant not in VARIANTS or not fits(choice.variant, repository, pipelines):
        return DEFAULT, (
            f"{choice.variant} was the fastest on {choice.date}, but cannot be served now. "
            f"What it lacks: python -m server --variant {choice.variant}"
        )
    models = models_of_variant(repository, pipelines, choice.variant)
    new = [
        name
        for name, digest in manifest_digests(repository, models).items()
        if choice.manifests.get(name) != digest
    ]
    if new:
        return DEFAULT, (
            f"{choice.variant} was not proven with the present {', '.join(new)}. "
            f"Measure again: {measure}"
        )
    return choice.variant, (
        f"{choice.speedup:.2f} times as fast as the default on {choice.date}, within its accuracy"
    )


def fits(variant: str, repository: Path, pipelines: Sequence[Pipeline]) -> bool:
    """Tell whether a variant changes these pipelines, is exported, and runs on this machine."""
    names = [pipeline.name for pipeline in pipelines]
    try:
        check_machine(VARIANTS[variant], processor_instructions())
        models_of_variant(repository, pipelines, variant)
        return not any(export.missing for export in survey(repository, names, variant))
    except (VariantError, RepositoryError):
        return False


def processor_digest() -> str:
    """Return a digest of the instructions of this machine's processor."""
    return hashlib.sha256(" ".join(sorted(processor_instructions())).encode()).hexdigest()


def manifest_digests(repository: Path, models: Iterable[str]) -> dict[str, str]:
    """Return model -> sha256 of the manifest of its newest version, which has its files' hashes."""
    found = {}
    for model in models:
        for version in versions(repository / model)[-1:]:
            manifest = repository / model / str(version) / MANIFEST_FILE
            if manifest.is_file():
                found[model] = file_sha256(manifest)
    return found
