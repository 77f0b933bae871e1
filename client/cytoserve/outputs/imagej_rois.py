"""ROIs for ImageJ's ROI Manager, and for Fiji."""

from __future__ import annotations

import io
import zipfile
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cytoserve.cells import Cells
from cytoserve.foreground import Foreground
from cytoserve.outputs.extras import require
from cytoserve.outputs.shapes import Ring, Shape, shapes
from cytoserve.outputs.source import Source
from cytoserve.overlay import Colour, class_colour

if TYPE_CHECKING:
    from roifile import ImagejRoi

_MOVE_TO, _LINE_TO, _CLOSE = 0.0, 1.0, 4.0  # steps of a path with holes


def imagej_rois(found: Cells | Foreground) -> list[ImagejRoi]:
    """Return one ROI per cell or component with a pixel, in order.

    Its name is its number in the label image. Its property ``class`` is the class on one line, and
    its colour is that of the overlay. A component with holes is a composite ROI.

    Raises:
        ImportError: roifile is not installed.
    """
    require("roifile")
    table = found.table()
    names = (found.class_name,) if isinstance(found, Foreground) else found.class_names
    colours = {name: class_colour(index) for index, name in enumerate(names)}
    classes = table["class"].tolist()
    return [
        _roi(shape, classes[shape.label - 1], colours[classes[shape.label - 1]])
        for shape in shapes(found)
    ]


def rois_zip(frame: NDArray[Any], found: Cells | Foreground, source: Source) -> bytes:
    """Encode :func:`imagej_rois` as a ZIP that the ROI Manager opens; it takes names from it.

    The ZIP is empty if there is no ROI; the ROI Manager refuses to open that.

    Raises:
        ImportError: roifile is not installed.
    """
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for roi in imagej_rois(found):
            entry = zipfile.ZipInfo(f"{roi.name}.roi")  # without a time: equal results are equal
            archive.writestr(entry, roi.tobytes(), zipfile.ZIP_DEFLATED)
    return file.getvalue()


def _roi(shape: Shape, class_name: str, colour: Colour) -> ImagejRoi:
    from roifile import ImagejRoi

    roi = ImagejRoi.frompoints(shape.outline, name=str(shape.label))
    if shape.holes:
        _compose(roi, (shape.outline, *shape.holes))
    roi.stroke_color = bytes((255, *colour))  # alpha first
    # A line holds one property, and the format counts characters as 16 bits.
    text = "".join(
        letter if letter.isprintable() and letter <= "\uffff" else " " for letter in class_name
    )
    roi.props = f"class: {text.strip()}\n"
    return roi


def _compose(roi: ImagejRoi, rings: tuple[Ring, ...]) -> None:
    """Make a ROI of an outline one of several outlines, filled by the even-odd rule."""
    from roifile import ROI_OPTIONS, ROI_TYPE

    path: list[float] = []
    for ring in rings:
        for step, (x, y) in enumerate(ring.tolist()):
            path += (_LINE_TO if step else _MOVE_TO, x, y)
        path.append(_CLOSE)
    roi.roitype = ROI_TYPE.RECT  # what ImageJ calls the type of composite ROIs
    roi.multi_coordinates = np.array(path, np.float32)
    roi.shape_roi_size = len(path)
    roi.integer_coordinates = roi.subpixel_coordinates = None
    roi.n_coordinates = 0
    roi.options &= ~ROI_OPTIONS.SUB_PIXEL_RESOLUTION
    # frompoints counts the last pixel in, which lies before the last side.
    roi.right, roi.bottom = roi.right - 1, roi.bottom - 1
