"""Reading the files of a data set, with errors that name the file."""

from __future__ import annotations

import json
import reprlib
import struct
from collections.abc import Callable, Hashable, Iterable
from operator import attrgetter
from pathlib import Path
from typing import Any, TypeVar

import tifffile
import yaml
from pydantic import BaseModel, ValidationError

from cytoserve import images
from cytoserve.images import SUFFIXES
from training.datasets.annotated import AnnotationError

Model = TypeVar("Model", bound=BaseModel)
Name = TypeVar("Name", bound=Hashable)

STEM = attrgetter("stem")
"""Get a file's name without its suffix."""


def read_text(path: Path) -> str:
    """Read the UTF-8 text of ``path``."""
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise AnnotationError(path, "", "is missing; add the file") from error
    except UnicodeDecodeError as error:
        raise AnnotationError(path, "", "is not UTF-8 text; export it again") from error


def read_json(path: Path, object_hook: Callable[[dict[str, Any]], Any] | None = None) -> Any:
    """Parse the JSON file ``path``; ``object_hook`` is that of :func:`json.loads`."""
    try:
        return json.loads(read_text(path), object_hook=object_hook)
    except json.JSONDecodeError as error:
        entry = f"line {error.lineno}, column {error.colno}"
        raise AnnotationError(
            path, entry, f"is not valid JSON ({error.msg}); export the annotations again"
        ) from error


def read_yaml(path: Path) -> Any:
    """Parse the YAML file ``path``."""
    try:
        return yaml.safe_load(read_text(path))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        entry = f"line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or "unreadable"
        raise AnnotationError(path, entry, f"is not valid YAML ({problem}); mend it") from error


def parse(model: type[Model], raw: Any, path: Path) -> Model:
    """Validate ``raw``, read from ``path``, as a ``model``; errors name the first wrong entry."""
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        given = "" if first["type"] == "missing" else f", given {reprlib.repr(first['input'])}"
        raise AnnotationError(
            path, _entry(raw, first["loc"]), f"{first['msg']}{given}; correct the entry"
        ) from error


def images_in(directory: Path) -> list[Path]:
    """List every image file at any depth below ``directory``, sorted."""
    files = sorted(directory.rglob("*"))
    return [file for file in files if file.suffix.lower() in SUFFIXES and file.is_file()]


def by_name(files: Iterable[Path], name: Callable[[Path], Name]) -> dict[Name, Path]:
    """Key files by the name of their frame. Raises AnnotationError if two have the same name."""
    named: dict[Name, Path] = {}
    for file in files:
        other = named.setdefault(name(file), file)
        if other is not file:
            reason = f"has the name of {other}; frames are told by names without suffix: rename one"
            raise AnnotationError(file, "", reason)
    return named


def image_size(path: Path) -> tuple[int, int]:
    """Read ``(height, width)`` in pixels, upright, from the file's header."""
    try:
        with path.open("rb") as file:
            size = images.image_size(file)
        if size is not None:
            return size
        with tifffile.TiffFile(path) as tiff:
            page = tiff.pages.first
            size = int(page.imagelength), int(page.imagewidth)
            is_turned = page.tags.valueof("Orientation", 1) in range(5, 9)
            return size[::-1] if is_turned else size
    except FileNotFoundError as error:
        reason = "is missing; add the image file, or take its annotations out"
        raise AnnotationError(path, "", reason) from error
    except (OSError, ValueError, IndexError, struct.error) as error:  # tifffile raises all of these
        reason = f"cannot be read as an image ({error}); replace the file"
        raise AnnotationError(path, "", reason) from error


def _entry(raw: Any, location: tuple[int | str, ...]) -> str:
    """Name an entry: ``annotation 7, key 'image_id'``, or ``annotations[3], ...`` without an id."""
    if not location:
        return ""
    name, item = str(location[0]), None
    if len(location) > 1 and isinstance(location[1], int):
        items = raw[name]
        item = list(items.values() if isinstance(items, dict) else items)[location[1]]
        name = f"{name}[{location[1]}]"
    if isinstance(item, dict) and "id" in item:
        name = f"{str(location[0]).removesuffix('s')} {item['id']}"
    keys = [f"key '{key}'" for key in location[1:] if isinstance(key, str)]
    return ", ".join([name, *keys[:1]])
