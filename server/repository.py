"""Survey of a model repository: which pipelines are exported, and what the others lack."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from cytoserve.contract import CUDA_GRAPH, PIPELINES, Pipeline
from cytoserve.model_config import (
    VARIANT_FOLDER,
    ModelConfigError,
    config_file,
    files_of,
    read_config,
    versions,
)
from server.errors import RepositoryError


@dataclass(frozen=True)
class PipelineExport:
    """One pipeline of the contract, and what the repository lacks of it."""

    pipeline: Pipeline

    missing: tuple[str, ...]
    """Missing files, each as a path below the repository; empty when all is exported."""

    variant: str | None = None
    """Name of the variant, if only that is missing and a command of its own makes it."""

    @property
    def models(self) -> tuple[str, str]:
        """Models to load by name: the ensemble, whose steps Triton loads itself, and the card."""
        return self.pipeline.name, self.pipeline.card

    @property
    def command(self) -> str:
        """The command that makes what is missing."""
        return f"python -m export {self.variant or self.pipeline.name}"


def survey(
    repository: Path, names: Iterable[str] = PIPELINES, variant: str | None = None
) -> list[PipelineExport]:
    """Look for the models of each named pipeline; raise `RepositoryError` for a bad config."""
    if not repository.is_dir():
        raise RepositoryError(f"The model repository {repository} is not a folder.")
    return [survey_one(repository, PIPELINES[name], variant) for name in names]


def survey_one(repository: Path, pipeline: Pipeline, variant: str | None) -> PipelineExport:
    """Look for the models of one pipeline, first for those that every variant is made from."""
    models = [pipeline.name, pipeline.card]
    if missing := tuple(missing_of(repository, models)):
        return PipelineExport(pipeline, missing)
    missing = tuple(missing_of(repository, models, variant))
    made_alone = not any(path.startswith(f"{pipeline.merged_step}/") for path in missing)
    if any(Path(path).name == CUDA_GRAPH.graph for path in missing):
        variant = CUDA_GRAPH.name  # variant tensorrt serves it too
    return PipelineExport(pipeline, missing, variant if made_alone else None)


def missing_of(
    repository: Path, models: Iterable[str], variant: str | None = None
) -> Iterator[str]:
    """Yield what ``models``, and the steps of those that are ensembles, lack."""
    for model in dict.fromkeys(models):
        config_path = config_file(repository / model, variant)
        if not config_path.exists():
            yield f"{model}/config.pbtxt"
            continue
        try:
            config = read_config(config_path)
        except ModelConfigError as error:
            raise RepositoryError(str(error)) from error
        steps = [step.model_name for step in config.ensemble_scheduling.step]
        files = files_of(config) or ("",)
        newest = [repository / model / str(n) for n in versions(repository / model)[-1:]]
        if not any((folder / file).exists() for folder in newest for file in files):
            yield f"{model}/<version>/{files[-1]}"
        yield from missing_of(repository, steps, variant)


def is_configured(repository: Path, pipeline: Pipeline, variant: str) -> bool:
    """Whether ``variant`` serves ``pipeline`` differently from the default."""
    try:
        return bool(models_of_variant(repository, [pipeline], variant))
    except RepositoryError:
        return False


def models_of_variant(
    repository: Path, pipelines: Iterable[Pipeline], variant: str
) -> tuple[str, ...]:
    """Return the models of ``pipelines``, the ensembles included, that ``variant`` configures.

    Raise `RepositoryError` where there is none.
    """
    names = [pipeline.name for pipeline in pipelines]
    ensembles = [read_config(config_file(repository / name)) for name in names]
    steps = (step.model_name for e in ensembles for step in e.ensemble_scheduling.step)
    models = dict.fromkeys((*names, *steps))
    found = tuple(m for m in models if config_file(repository / m, variant).stem == variant)
    if not found:
        raise RepositoryError(
            f"No model of these pipelines has a {VARIANT_FOLDER}/{variant}.pbtxt in {repository}: "
            f"variant {variant} would change nothing. Serve with --variant default."
        )
    return found
