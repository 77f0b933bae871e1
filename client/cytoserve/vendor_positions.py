"""Find the positions of microscope vendors' files, by the optional package bioio and its plugins.

==========  ============  =======  ===================================
suffix      plugin        extra    licence
==========  ============  =======  ===================================
.nd2        bioio-nd2     ``nd2``  MIT; its decoder nd2 is BSD-3-Clause
.dv, .r3d   bioio-dv      ``dv``   MIT; its decoder mrc is BSD-3-Clause
.lif        bioio-lif     ``lif``  BSD-3-Clause, since version 2
.czi        bioio-czi     ``czi``  GPL-3.0
==========  ============  =======  ===================================

Nothing here is imported before such a file is opened, so cytoserve itself is under its own licence
alone.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cytoserve.frames import FrameLimits, check_layout
from cytoserve.pixel_sizes import plausible
from cytoserve.positions import OpenImage, Position, refused


@dataclass(frozen=True)
class Plugin:
    """A reader of one vendor's format.

    Attributes:
        vendor: words for the format.
        module: Python module of the plugin.
        extra: extra of cytoserve that installs it.
        licence: licence of the plugin.
    """

    vendor: str
    module: str
    extra: str
    licence: str


_DELTA_VISION = Plugin("DeltaVision file", "bioio_dv", "dv", "MIT")

PLUGINS: Mapping[str, Plugin] = {
    ".nd2": Plugin("Nikon ND2 file", "bioio_nd2", "nd2", "MIT"),
    ".czi": Plugin("Zeiss CZI file", "bioio_czi", "czi", "GPL-3.0"),
    ".lif": Plugin("Leica LIF file", "bioio_lif", "lif", "BSD-3-Clause"),
    ".dv": _DELTA_VISION,
    ".r3d": _DELTA_VISION,
}
"""Reader of each suffix, in lower case."""

NOT_READ: Mapping[str, str] = {
    ".oir": "Olympus OIR file",
    ".oib": "Olympus OIB file",
    ".oif": "Olympus OIF file",
    ".vsi": "Olympus VSI file",
    ".ims": "Imaris file",
    ".lof": "Leica LOF file",
    ".xlef": "Leica XLEF file",
    ".mrxs": "MIRAX slide",
    ".sld": "SlideBook file",
}
"""Vendors' formats that are known and not read, by suffix."""


def open_vendor_file(path: Path, limits: FrameLimits) -> OpenImage:
    """Open a vendor's file by its plugin.

    Raises:
        UnreadableImage: the plugin is missing, or the format is not read; the message names the
            remedy, and a licence that binds more than cytoserve's.
        Exception: plugins may raise anything on a damaged file.
    """
    suffix = path.suffix.lower()
    if suffix in NOT_READ:
        raise refused(
            f"a {NOT_READ[suffix]}",
            "Convert it to OME-TIFF, such as with Bio-Formats: bfconvert IN OUT.ome.tif.",
        )
    plugin = PLUGINS[suffix]
    try:
        bioio = importlib.import_module("bioio")
        reader = importlib.import_module(plugin.module).Reader
    except ImportError as error:
        bound = f" ({plugin.licence})" if plugin.licence.startswith("GPL") else ""
        raise refused(
            f"a {plugin.vendor}",
            f'Install its reader{bound} with pip install "cytoserve[{plugin.extra}]", or convert '
            "it to OME-TIFF.",
        ) from error
    with ExitStack() as opened:
        image = bioio.BioImage(path, reader=reader)
        positions = tuple(_position(image, number) for number in range(len(image.scenes)))
        for position in positions:
            check_layout(position.shape, np.dtype(np.uint16), limits)
        return OpenImage(path, positions, _opened=opened.pop_all())
    raise AssertionError  # an ExitStack could swallow errors, which this one does not


def _position(image: Any, number: int) -> Position:
    image.set_scene(number)
    dims = image.dims
    samples = getattr(dims, "S", 1) if "S" in dims.order else 1
    names = tuple(str(name) for name in image.channel_names or ())
    channels = int(dims.C)
    x = image.physical_pixel_sizes.X
    return Position(
        name=str(image.scenes[number]),
        times=int(dims.T),
        depth=int(dims.Z),
        channels=names if len(names) == channels else ("",) * channels,
        shape=(int(dims.Y), int(dims.X)) + ((int(samples),) if samples > 1 else ()),
        dtype=np.dtype(image.dtype),
        pixel_size_um=plausible(None if x is None else float(x)),
        load=partial(_load, image, number, samples > 1),
    )


def _load(
    image: Any, number: int, has_samples: bool, time: int, z: int, channel: int
) -> NDArray[Any]:
    image.set_scene(number)
    order = "YXS" if has_samples else "YX"
    plane = image.get_image_dask_data(order, T=time, Z=z, C=channel)
    return np.asarray(plane.compute(scheduler="synchronous"))
