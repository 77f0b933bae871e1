"""COCO: ``images/`` and one JSON file of images, categories and annotations.

Polygons, RLE and compressed RLE are read. Several polygons of one annotation are one cell.
Overlapping cells keep their overlap. Annotations with ``iscrowd`` 1 outline groups, not cells, and
are skipped. Images that the file does not list are not part of the data set.
https://cocodataset.org/#format-data

The data of study S2 are read as published, one JSON file per split:

- LIVECell, ``annotations/LIVECell/livecell_coco_{train,val,test}.json`` and ``images/`` two levels
  above, whose files lie in subfolders. Some images are listed twice, since they were
  annotated twice. The first listing counts, and the cells of the others are ignored.
- Glioma C6, ``spec/{train,valid,test}/anno_{train,valid,test}.json`` and ``images/`` next to it.
  Cells and their somata are categories of one file; in a binary mask the soma lies within its cell.

The numbers of polygons are packed while the file is read, to 8 bytes each instead of 32, and boxes
and areas are dropped. For cells of 40 points, reading takes 2.7 kB of memory per cell at its peak,
mostly for the text and its entries. Afterwards 1.6 kB per cell remain in use.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, TypeVar

import numpy as np
from pydantic import (
    BaseModel,
    BeforeValidator,
    Discriminator,
    FiniteFloat,
    PositiveFloat,
    PositiveInt,
    Tag,
    ValidatorFunctionWrapHandler,
    WrapValidator,
)

from training.datasets.annotated import (
    AnnotatedCell,
    AnnotatedDataset,
    AnnotatedFrame,
    AnnotationError,
    cell_from_polygons,
    cell_from_rle,
    polygon_points,
)
from training.datasets.readers.files import image_size, images_in, parse, read_json


class _Image(BaseModel):
    id: int
    file_name: str
    height: PositiveInt
    width: PositiveInt


class _Category(BaseModel):
    id: int
    name: str


class _Rle(BaseModel):
    size: tuple[int, int]
    counts: str | list[int]


def _segmentation_kind(value: Any) -> str:
    return "rle" if isinstance(value, dict | _Rle) else "polygons"


def _pack(entry: dict[str, Any]) -> dict[str, Any]:
    """Reduce the memory of an entry. What cannot be packed is left for the model to reject."""
    for unread in ("bbox", "area"):
        entry.pop(unread, None)
    polygons = entry.get("segmentation")
    if isinstance(polygons, list):
        with suppress(TypeError, OverflowError):
            entry["segmentation"] = [array("d", numbers) for numbers in polygons]
    return entry


def _check_packed(value: Any, check: ValidatorFunctionWrapHandler) -> Any:
    """Accept packed numbers as they are if all are finite; otherwise check each one."""
    if isinstance(value, array):
        return value if np.isfinite(value).all() else check(value.tolist())
    return check(value)


_Numbers = Annotated[list[FiniteFloat], WrapValidator(_check_packed)]


def _values(entries: Any) -> Any:
    """Return the annotations as a list, also from a file that keys them by their id."""
    return list(entries.values()) if isinstance(entries, dict) else entries


class _Annotation(BaseModel):
    id: int
    image_id: int
    category_id: int
    iscrowd: int = 0
    segmentation: Annotated[
        Annotated[list[_Numbers], Tag("polygons")] | Annotated[_Rle, Tag("rle")],
        Discriminator(_segmentation_kind),
    ]


def _mapping(value: Any) -> Any:
    """Return ``info`` if it is an object: public files may hold anything there."""
    return value if isinstance(value, dict) else {}


class _Info(BaseModel):
    pixel_size_um: PositiveFloat | None = None


class _Instances(BaseModel):
    info: Annotated[_Info, BeforeValidator(_mapping)] = _Info()
    images: list[_Image]
    categories: list[_Category]
    annotations: Annotated[list[_Annotation], BeforeValidator(_values)]


def read_coco(path: Path) -> AnnotatedDataset:
    """Read the COCO file ``path``.

    Its images lie in ``images/`` next to it or, if there is none, next to one of the two folders
    above it. There they are found at their ``file_name``, or at any depth by its last part. Classes
    are numbered in the order of ``categories``. ``info`` may hold ``pixel_size_um``, the side of a
    pixel in micrometres. Raises AnnotationError.
    """
    instances = parse(_Instances, read_json(path, _pack), path)
    images = _by_id(instances.images, "image", path)
    categories = _by_id(instances.categories, "category", path)
    class_ids = {category: index for index, category in enumerate(categories)}
    cells: dict[int, list[AnnotatedCell]] = {image: [] for image in images}
    for annotation in instances.annotations:
        image = images.get(annotation.image_id)
        entry = f"annotation {annotation.id}"
        if image is None:
            reason = f"is on image {annotation.image_id}, which is not listed under 'images'"
            raise AnnotationError(path, entry, f"{reason}; add the image or remove the annotation")
        if annotation.category_id not in class_ids:
            reason = f"has category {annotation.category_id}, which is not in 'categories'"
            raise AnnotationError(path, entry, f"{reason} ({_listed(categories.values())}); add it")
        if annotation.iscrowd:
            continue
        try:
            cell = _cell(annotation, class_ids[annotation.category_id], image)
        except ValueError as error:
            raise AnnotationError(path, f"{entry} on {image.file_name}", str(error)) from error
        cells[image.id].append(cell)
    files = _ImageFiles(path)
    first_listed = {image.file_name: image for image in reversed(images.values())}
    frames = tuple(
        _frame(path, files.find(image), image, cells[image.id])
        for image in images.values()
        if image is first_listed[image.file_name]
    )
    names = tuple(category.name for category in categories.values())
    return AnnotatedDataset(names, frames, instances.info.pixel_size_um)


def _cell(annotation: _Annotation, class_id: int, image: _Image) -> AnnotatedCell:
    shape = annotation.segmentation
    if isinstance(shape, _Rle):
        if shape.size != (image.height, image.width):
            raise ValueError(
                f"has an RLE of size {list(shape.size)} where the image is declared as "
                f"[{image.height}, {image.width}]; encode the mask at the size of its image"
            )
        return cell_from_rle(shape.counts, class_id, image.height, image.width)
    if not shape:
        raise ValueError("has no segmentation; outline the cell, a box alone is not enough")
    polygons = [polygon_points(numbers) for numbers in shape]
    return cell_from_polygons(polygons, class_id, image.height, image.width)


class _ImageFiles:
    """Finds the image files of one COCO file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        folders = [folder / "images" for folder in path.absolute().parents[:3]]
        self._folder = next((folder for folder in folders if folder.is_dir()), folders[0])
        self._by_name: dict[str, list[Path]] | None = None

    def find(self, image: _Image) -> Path:
        """Find the file of ``image``, maybe missing; raise AnnotationError if several match."""
        file = self._folder / image.file_name
        if file.is_file():
            return file
        if self._by_name is None:  # listed once for thousands of images
            self._by_name = {}
            for found in images_in(self._folder):
                self._by_name.setdefault(found.name, []).append(found)
        named = self._by_name.get(Path(image.file_name).name, [file])
        if len(named) > 1:
            reason = (
                f"is one of {len(named)} files of that name in {self._folder}, such as "
                f"{named[0].relative_to(self._folder)} and {named[1].relative_to(self._folder)}; "
                "write the path below images/ into 'file_name'"
            )
            raise AnnotationError(self._path, f"image {image.id}, {image.file_name}", reason)
        return named[0]


def _frame(path: Path, file: Path, image: _Image, cells: list[AnnotatedCell]) -> AnnotatedFrame:
    found = image_size(file)
    if found != (image.height, image.width):
        raise AnnotationError(
            path,
            f"image {image.id}, {image.file_name}",
            f"is declared as {image.width} x {image.height} pixels, the file has "
            f"{found[1]} x {found[0]}; annotate the file that is there",
        )
    return AnnotatedFrame(file, image.height, image.width, tuple(cells))


_Item = TypeVar("_Item", _Image, _Category)


def _by_id(items: list[_Item], kind: str, path: Path) -> dict[int, _Item]:
    """Key ``items`` by their id, in their order. Raises AnnotationError for a duplicate id."""
    by_id = {item.id: item for item in items}
    if len(by_id) < len(items):
        twice = next(item.id for item in items if by_id[item.id] is not item)
        raise AnnotationError(path, f"{kind} {twice}", "is listed twice; give every entry its id")
    return by_id


def _listed(categories: Iterable[_Category]) -> str:
    return ", ".join(f"{category.id} {category.name}" for category in categories)
