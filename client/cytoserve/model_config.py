"""Model repositories on disk: the ``config.pbtxt`` and version folders of each model.

Server and export read the same repository; a client at a microscope needs only the names.
"""

from __future__ import annotations

import json
from pathlib import Path

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

CONFIG_FILE = "config.pbtxt"

CARD_FILE = "card.json"
"""File in the version folder of a pipeline, which has no graph of its own."""

MANIFEST_FILE = "manifest.json"
"""File of a version folder: what made the version, from what, and the hash of every file."""

VARIANT_FOLDER = "configs"
"""Folder in a model's folder. Its ``<variant>.pbtxt`` replaces ``config.pbtxt`` if the server was
started with ``--model-config-name=<variant>``."""

MODEL_FILES = {"onnxruntime": "model.onnx", "python": "model.py", "tensorrt": "model.plan"}
"""Backend -> default file of a version folder."""


class ModelConfigError(ValueError):
    """A ``config.pbtxt`` is missing or does not fit Triton's schema."""


def config_file(model: Path, variant: str | None = None) -> Path:
    """Return the file that configures a model in Triton: the variant's if there is one."""
    own = model / VARIANT_FOLDER / f"{variant}.pbtxt"
    return own if variant and own.is_file() else model / CONFIG_FILE


def read_config(path: Path) -> model_config_pb2.ModelConfig:
    """Parse a ``config.pbtxt``; raise `ModelConfigError` naming file, line and reason."""
    if not path.is_file():
        raise ModelConfigError(f"{path} is absent; write it: python -m export configs")
    try:
        return text_format.Parse(path.read_text(), model_config_pb2.ModelConfig())
    except (text_format.ParseError, UnicodeDecodeError) as error:
        raise ModelConfigError(f"{path} is not a model configuration: {error}") from error


def files_of(config: model_config_pb2.ModelConfig) -> tuple[str, ...]:
    """Return the files of a version folder of which Triton loads one; none for an ensemble.

    A GPU loads the one of its compute capability, if the configuration names it.
    """
    if config.ensemble_scheduling.step:
        return ()
    default = config.default_model_filename or MODEL_FILES.get(config.backend, "")
    return (*(config.cc_model_filenames[key] for key in sorted(config.cc_model_filenames)), default)


def recorded_models(version: Path) -> dict[str, int]:
    """Return step -> version from the card in a version folder of a pipeline.

    Raises:
        OSError, ValueError, KeyError: there is no card, or it is none.
    """
    card = json.loads((version / CARD_FILE).read_text())
    return {model: int(about["version"]) for model, about in card["models"].items()}


def versions(model: Path) -> list[int]:
    """Return the numbers of a model's version folders, in ascending order."""
    if not model.is_dir():
        return []
    return sorted(int(p.name) for p in model.iterdir() if p.is_dir() and p.name.isdecimal())
