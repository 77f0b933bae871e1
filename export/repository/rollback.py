"""Going back to the former version of a pipeline, which every export leaves in the repository."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from cytoserve.contract import PIPELINES
from cytoserve.model_config import recorded_models, versions
from export.repository.install import Staging


class RollbackError(ValueError):
    """There is no former version, or another pipeline needs what would be removed."""


def roll_back(repository: Path, pipelines: Sequence[str]) -> list[Path]:
    """Remove the newest version of pipelines, and of their models that were exported with it.

    A model that the former version used as well stays. The version that is then the newest is the
    one that was served before.

    Args:
        repository: model repository with exported versions.
        pipelines: names of pipelines. Those that share a model go back together.

    Returns:
        The version folders that were removed.

    Raises:
        RollbackError: a pipeline has no former version, a model of it is gone, or another pipeline
            uses a model that would be removed. Nothing has been changed then.
        RepositoryBusyError: an export is writing into the repository.
    """
    with Staging(repository) as staging:
        newer: dict[str, int] = {}
        for name in dict.fromkeys(pipelines):
            former, newest = _last_two(repository, name)
            newer |= {model: n for model, n in newest.items() if former.get(model) != n}
        _refuse_if_used(repository, pipelines, newer)
        folders = [repository / model / str(number) for model, number in newer.items()]
        for folder in folders:
            # A rename takes a version away at once; leaving the block deletes it.
            folder.rename(staging.root / f"{folder.parent.name}-{folder.name}")
    return folders


def _last_two(repository: Path, name: str) -> tuple[dict[str, int], dict[str, int]]:
    """Return the version of every model of a pipeline, before and now.

    An export writes a version of the pipeline together with one of its card.
    """
    card = PIPELINES[name].card
    pairs = [versions(repository / model)[-2:] for model in (name, card)]
    if any(len(pair) < 2 for pair in pairs):
        there = ", ".join(map(str, pairs[0])) or "none"
        raise RollbackError(
            f"{name} needs two versions to go back to the former; {repository} holds: {there}. "
            f"Export the checkpoint that you want: python -m export {name}"
        )
    former, newest = (
        recorded_models(repository / name / str(number)) | {name: number, card: of_card}
        for number, of_card in zip(*pairs, strict=True)
    )
    gone = [f"{m}/{n}" for m, n in former.items() if not (repository / m / str(n)).is_dir()]
    if gone:
        raise RollbackError(
            f"{name}'s former version needs {', '.join(gone)}, which is gone from {repository}: "
            f"later exports replaced it. Export the checkpoint that you want: python -m export "
            f"{name}"
        )
    return former, newest


def _refuse_if_used(repository: Path, pipelines: Collection[str], newer: Mapping[str, int]) -> None:
    """Refuse to remove a version that a pipeline uses which does not go back as well."""
    for other in PIPELINES:
        numbers = versions(repository / other)
        if other in pipelines or not numbers:
            continue
        models = recorded_models(repository / other / str(numbers[-1]))
        shared = [model for model, number in newer.items() if models.get(model) == number]
        if shared:
            raise RollbackError(
                f"{', '.join(pipelines)} shares {', '.join(shared)} with {other}, which would "
                "change too. Let both go back: python -m export rollback "
                f"{' '.join(pipelines)} {other}"
            )
