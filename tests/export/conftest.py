"""An exported repository that a test may change, and its steps read back."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import onnx
import pytest

from cytoserve.contract import PIPELINES
from export.parity.steps import ExportedStep
from export.repository.install import MODEL_FILE
from export.repository.pipelines import ExportedPipeline
from export.resnet.reference import classify_cells
from export.yolo.steps import yolo_pipeline
from training.resnet.network import load_classifier
from training.yolo.network import load_network


@pytest.fixture
def repository(tmp_path: Path, exported_repository: Path) -> Path:
    """A copy of the exported repository; its graphs are links, so replace them, never write."""

    def copy(source: str, target: str) -> None:
        if source.endswith(MODEL_FILE):
            os.link(source, target)
        else:
            shutil.copy(source, target)

    target = tmp_path / "model_repository"
    shutil.copytree(exported_repository, target, copy_function=copy)
    return target


@pytest.fixture(scope="session")
def exported_pipeline(
    exported_repository: Path, checkpoints: Path
) -> Callable[[str], ExportedPipeline]:
    """A pipeline's proven steps, read back from the exported repository."""

    def read(name: str) -> ExportedPipeline:
        networks = {"yolo": ("yolo_targets", "targets"), "yolo_resnet": ("yolo_cells", "cells")}
        step, checkpoint = networks[name]
        network, network_recipe = load_network(checkpoints / checkpoint)
        recipes, classify = {step: network_recipe}, None
        if name == "yolo_resnet":
            classifier, classifier_recipe = load_classifier(checkpoints / "classifier")
            recipes["resnet50_cells"] = classifier_recipe
            classify = partial(classify_cells, classifier)
        exported = tuple(
            ExportedStep(model, onnx.load(exported_repository / model / "1" / MODEL_FILE), {})
            for model in PIPELINES[name].steps
            if model != "cell_labels"
        )
        class_names = ("spread", "round")
        scale = network_recipe.scale
        return yolo_pipeline(name, class_names, exported, recipes, scale, network, classify)

    return read
