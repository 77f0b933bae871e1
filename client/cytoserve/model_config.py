"""Models of a repository on disk: their ``config.pbtxt`` and version folders.

Server and export read the same repository; a client on a microscope needs no more than the names.
"""

from __future__ import annotations

from pathlib import Path

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

CONFIG_FILE = "config.pbtxt"

VARIANT_FOLDER = "configs"
"""In a model's folder: its ``<variant>.pbtxt`` takes the place of ``config.pbtxt`` in a server that
was started with ``--model-config-name=<variant>``."""

MODEL_FILES = {"onnxruntime": "model.onnx", "python": "model.py", "tensorrt": "model.plan"}
"""Default file of a version folder, by backend."""


class ModelConfigError(ValueError):
    """A ``config.pbtxt`` that is absent or that Triton's schema does not admit."""


def config_file(model: Path, variant: str | None = None) -> Path:
    """The configuration that Triton takes for a model's folder, of a variant where it has one."""
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


def versions(model: Path) -> list[int]:
    """The numbered folders of a model, which Triton takes for versions, in ascending order."""
    if not model.is_dir():
        return []
    return sorted(int(p.name) for p in model.iterdir() if p.is_dir() and p.name.isdecimal())
