"""COCO: ``images/`` and one JSON file of images, categories and annotations.

Polygons (several of one annotation are one cell), RLE and compressed RLE are read; overlapping
cells keep their overlap. Annotations with ``iscrowd`` 1 outline groups, not cells, and are
skipped. Images that the file does not list are not part of the data set.
https://cocodataset.org/#format-data
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, Discriminator, FiniteFloat, PositiveInt, Tag

from training.annotated import AnnotatedCell, AnnotatedDataset, AnnotatedFrame, AnnotationError
from training.readers.files import image_size, parse, read_json
from training.readers.polygons import cell_from_polygons, polygon_points
from training.readers.rle import cell_from_rle


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


class _Annotation(BaseModel):
    id: int
    image_id: int
    category_id: int
    iscrowd: int = 0
    segmentation: Annotated[
        Annotated[list[list[FiniteFloat]], Tag("polygons")] | Annotated[_Rle, Tag("rle")],
        Discriminator(_segmentation_kind),
    ]


class _Instances(BaseModel):
    images: list[_Image]
    categories: list[_Category]
    annotations: list[_Annotation]


def read_coco(path: Path) -> AnnotatedDataset:
    """Read the COCO file ``path``; its images lie in ``images/`` beside it.

    Classes are numbered in the order of ``categories``. Raises AnnotationError.
    """
    instances = parse(_Instances, read_json(path), path)
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
    frames = tuple(_frame(path, image, cells[image.id]) for image in images.values())
    return AnnotatedDataset(tuple(category.name for category in categories.values()), frames)


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


def _frame(path: Path, image: _Image, cells: list[AnnotatedCell]) -> AnnotatedFrame:
    file = path.parent / "images" / image.file_name
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
    """``items`` by their id, in their order; AnnotationError for an id that is used twice."""
    by_id = {item.id: item for item in items}
    if len(by_id) < len(items):
        twice = next(item.id for item in items if by_id[item.id] is not item)
        raise AnnotationError(path, f"{kind} {twice}", "is listed twice; give every entry its id")
    return by_id


def _listed(categories: Iterable[_Category]) -> str:
    return ", ".join(f"{category.id} {category.name}" for category in categories)
