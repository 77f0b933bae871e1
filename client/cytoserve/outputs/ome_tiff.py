"""Images of a result as OME-TIFF, with the pixel size of the frame."""

from __future__ import annotations

import hashlib
import io
import uuid
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

from cytoserve.cells import Cells
from cytoserve.foreground import Foreground
from cytoserve.outputs.source import Source, encodable

_UM_PER_CM = 10_000.0


def labels_tiff(frame: NDArray[Any], cells: Cells, source: Source) -> bytes:
    """Encode the label image: OME-TIFF, zlib, uint16 (uint32 beyond 65,535 cells)."""
    return _ome_tiff(cells.label_image(), "labels", source)


def mask_tiff(frame: NDArray[Any], foreground: Foreground, source: Source) -> bytes:
    """Encode the mask: OME-TIFF, zlib, uint8, 255 foreground, 0 background."""
    return _ome_tiff(np.where(foreground.mask, np.uint8(255), np.uint8(0)), "mask", source)


def probability_tiff(frame: NDArray[Any], foreground: Foreground, source: Source) -> bytes:
    """Encode the probability: OME-TIFF, zlib, uint8, 0..255 is 0..1."""
    return _ome_tiff(foreground.probability, "probability", source)


def _ome_tiff(image: NDArray[Any], channel: str, source: Source) -> bytes:
    """Encode ``[H, W]``. The pixel size goes into OME-XML, and into tags for other programs."""
    name = _xml_text(" ".join(filter(None, (source.name, source.plane))))
    size = source.pixel_size_um
    image = np.ascontiguousarray(image)
    content = hashlib.sha256(image.data).hexdigest()
    metadata: dict[str, Any] = {
        "axes": "YX",
        "Name": name,
        "Channel": {"Name": channel},
        # The usual random number would make equal results differ.
        "UUID": str(uuid.uuid5(uuid.NAMESPACE_URL, f"cytoserve:{channel}:{name}:{content}")),
    }
    tags: dict[str, Any] = {}
    if size is not None:
        for axis in "XY":
            metadata |= {f"PhysicalSize{axis}": size, f"PhysicalSize{axis}Unit": "µm"}
        tags = {"resolution": (_UM_PER_CM / size,) * 2, "resolutionunit": "CENTIMETER"}
    file = io.BytesIO()
    tifffile.imwrite(
        file,
        image,
        ome=True,
        photometric="minisblack",
        compression="zlib",
        metadata=metadata,
        **tags,
    )
    return file.getvalue()


def _xml_text(text: str) -> str:
    r"""Return text without the characters that XML does not allow; ``\x07`` stands for one."""
    return "".join(
        character
        if character >= " " and character not in "\ufffe\uffff"
        else character.encode("unicode_escape").decode()
        for character in encodable(text)
    )
