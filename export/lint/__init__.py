"""Compare a model repository with Triton's schema, the contract and the exported graphs.

Nothing is started: what Triton would refuse at load, or answer wrongly, is found by reading.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from cytoserve.model_config import CONFIG_FILE, ModelConfigError, read_config
from export.lint.ensembles import lint_ensemble
from export.lint.exported import lint_pipeline_versions, lint_versions
from export.lint.models import Model, contract_models
from export.lint.one_sam import lint_one_sam
from export.lint.problem import Problem
from export.lint.serving import lint_serving
from export.lint.tensors import lint_tensors
from export.lint.variants import lint_variants
from export.repository.install import STAGING

__all__ = ["Problem", "lint_repository"]


def lint_repository(repository: Path) -> list[Problem]:
    """Every problem of a model repository, model by model; an empty list is a clean one."""
    problems = list(_folders(repository))
    models = {}
    for name, step in contract_models().items():
        try:
            config = read_config(repository / name / CONFIG_FILE)
        except ModelConfigError as error:
            file, rule = repository / name / CONFIG_FILE, "a config of Triton's schema"
            problems.append(Problem(file, "file", rule, str(error)))
        else:
            models[name] = Model(repository / name, step, config)
    for model in models.values():
        problems += _lint_model(model, models)
    return problems


def _lint_model(model: Model, models: dict[str, Model]) -> Iterator[Problem]:
    yield from lint_serving(model)
    yield from lint_tensors(model)
    yield from lint_versions(model)
    yield from lint_variants(model, models)
    if model.is_pipeline:
        yield from lint_ensemble(model, models)
        yield from lint_pipeline_versions(model, models)
        yield from lint_one_sam(model, models)


def _folders(repository: Path) -> Iterator[Problem]:
    known = contract_models()
    for folder in sorted(path for path in repository.iterdir() if path.is_dir()):
        if folder.name == STAGING:
            found = "present: an export runs, or was cut off; the next one removes it"
            yield Problem(folder, "folder", "absent", found)
        elif folder.name not in known:
            found = "unknown to cytoserve.contract"
            yield Problem(folder, "folder", "a step, pipeline or card", found)
