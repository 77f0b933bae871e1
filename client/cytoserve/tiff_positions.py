"""Find the positions of a TIFF: OME-TIFF, ImageJ, pyramids, slides and plain stacks.

tifffile tells the axes of what it calls a series. Pages are read one at a time, when their plane is
asked for, so a file of any length takes the memory of one plane.
"""

from __future__ import annotations

import math
import re
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

from cytoserve.frames import FrameLimits
from cytoserve.pixel_sizes import micrometres, plausible
from cytoserve.positions import OpenImage, Position, check_planes, lacks_none, refused
from cytoserve.tiff_pages import is_multichannel, plane_layout, read_page

TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
"""First four bytes of a TIFF or BigTIFF."""

_SLIDES = ("is_svs", "is_ndpi", "is_scn", "is_bif", "is_qpi", "is_philips", "is_indica", "is_avs")
_KNOWN = {"T": "T", "Z": "Z", "C": "C", "P": "P", "R": "P", "M": "P"}
_AXES = "PTZC"


def open_tiff(path: Path, limits: FrameLimits) -> OpenImage:
    """Open a TIFF; nothing is decoded yet.

    Raises:
        UnreadableImage: the file holds no plane that can be read.
        Exception: tifffile may raise anything on a damaged file.
    """
    with ExitStack() as opened:
        tiff = opened.enter_context(tifffile.TiffFile(path))
        opened.callback(_close_others, tiff)
        _check_claims(tiff)
        positions: list[Position] = []
        series = _series(tiff)
        sizes = _pixel_sizes(tiff, len(series))
        for number, one in enumerate(series):
            positions += _TiffSeries(tiff, one, number, limits).positions(sizes[number])
        if not positions:
            raise refused("a TIFF without a plane", "Copy it again.")
        return OpenImage(path, tuple(positions), _opened=opened.pop_all())
    raise AssertionError  # an ExitStack could swallow errors, which this one does not


def _check_claims(tiff: Any) -> None:
    """Refuse OME-XML that claims so many planes that a list of them would fill the memory."""
    if not tiff.is_ome:
        return
    for pixels in re.findall(r"<(?:\w+:)?Pixels\b[^>]*>", tiff.ome_metadata):
        sizes = re.findall(r"""\bSize[^XY\W]\s*=\s*["'](\d+)""", pixels)
        check_planes(math.prod(map(int, sizes)))
    for number in re.findall(
        r"""\b(?:PlaneCount|NumPlanes|IFD|First\w)\s*=\s*["'](\d+)""", tiff.ome_metadata
    ):
        check_planes(int(number))


def _series(tiff: Any) -> list[Any]:
    """Return the series that are positions, in full resolution.

    Slides have labels and thumbnails beside their picture, and pyramids have smaller copies.
    """
    found = list(tiff.series)
    if tiff.is_imagej:  # may tell of more planes than tifffile finds: never fewer than are told
        told = int((tiff.imagej_metadata or {}).get("images", 1))
        if found and math.prod(found[0].shape[:-2]) < told and len(found[0].pages) < told:
            raise refused(
                f"an ImageJ TIFF of {told} planes, of which {len(tiff.pages)} are there",
                "Copy it again, or save it anew.",
            )
    if any(getattr(tiff, kind, False) for kind in _SLIDES):
        return found[:1]
    whole = [one for one in found if not one.keyframe.is_reduced]
    return whole or found[:1]


def _close_others(tiff: Any) -> None:
    """Close the other files of an OME-TIFF of several files."""
    for file in list(getattr(tiff, "_files", {}).values()):
        if file is not tiff:
            file.close()


class _TiffSeries:
    """One series of a TIFF: its axes, and which page has which plane."""

    def __init__(self, tiff: Any, series: Any, number: int, limits: FrameLimits) -> None:
        self._tiff = tiff
        self._series = series
        self._limits = limits
        self._page = series.keyframe
        self._number = number
        self._shape, self._dtype = plane_layout(self._page)
        self._is_multichannel = is_multichannel(self._page) and len(self._shape) == 3
        lead, self._sizes = _leading(series, self._page)
        self._axes = _known_axes(lead)
        self._pages_per = self._per_page()
        # Only OME-TIFF tells of other files; elsewhere a look at all pages would take long.
        self._own = [
            page is not None and page.parent is tiff
            for page in (series.pages if tiff.is_ome else ())
        ]

    def positions(self, pixel_size_um: float | None) -> list[Position]:
        """Return the positions of the series; a series has one unless it has an axis of them."""
        samples = self._shape[2] if self._is_multichannel else 1
        channels = self._count("C") * samples
        names = _channel_names(self._tiff, self._number, channels)
        shape = self._shape[:2] if self._is_multichannel else self._shape
        total = self._count("P")
        name = str(self._series.name or "") if self._tiff.is_ome else ""
        return [
            Position(
                name=name,
                times=self._count("T"),
                depth=self._count("Z"),
                channels=names,
                shape=shape,
                dtype=self._dtype,
                pixel_size_um=pixel_size_um,
                load=partial(self._load, position),
                lacks=lacks_none if all(self._own) else partial(self._lacks, position),
            )
            for position in range(total)
        ]

    def _count(self, axis: str) -> int:
        return math.prod(
            size for name, size in zip(self._axes, self._sizes, strict=True) if name == axis
        )

    def _per_page(self) -> int:
        """Return how many planes lie behind one page: 1, or all where only the first is told."""
        planes, pages = math.prod(self._sizes), len(self._series.pages)
        if planes == pages:
            return 1
        if pages == 1 and self._series.dataoffset is not None and int(self._page.compression) == 1:
            return planes
        raise refused(
            f"a TIFF with axes {self._series.axes} of {planes} planes in {pages} pages",
            "Save it with a page per plane, such as with ImageJ.",
        )

    def _index(self, position: int, time: int, z: int, channel: int) -> int:
        wanted = {"P": position, "T": time, "Z": z, "C": channel}
        index = 0
        left = dict(wanted)
        places: list[int] = []
        # Of several axes of a name, the last runs fastest.
        for name, size in reversed(list(zip(self._axes, self._sizes, strict=True))):
            places.append(left[name] % size)
            left[name] //= size
        for place, size in zip(reversed(places), self._sizes, strict=True):
            index = index * size + place
        return index

    def _split(self, channel: int) -> tuple[int, int]:
        """Return the number of the page's channel, and of the sample in it."""
        samples = self._shape[2] if self._is_multichannel else 1
        return divmod(channel, samples)

    def _lacks(self, position: int, time: int, z: int, channel: int) -> bool:
        """Tell whether the plane is in another file, or nowhere."""
        return not self._own[self._index(position, time, z, self._split(channel)[0])]

    def _load(self, position: int, time: int, z: int, channel: int) -> NDArray[Any]:
        channel, sample = self._split(channel)
        index = self._index(position, time, z, channel)
        page, first = self._page, None
        if self._pages_per > 1:
            size = math.prod(self._shape) * self._dtype.itemsize
            first = int(self._series.dataoffset) + index * size
        else:
            page = self._series.pages[index]
            if page is None:
                raise refused("a TIFF without this plane", "Copy it again, with all its files.")
            if isinstance(page, tifffile.TiffFrame):
                if page.is_virtual:
                    first, page = int(page.dataoffsets[0]), self._page
                else:
                    page = page.aspage()  # pages need not be alike
            shape, dtype = plane_layout(page)
            if (shape, dtype) != (self._shape, self._dtype):
                raise refused(
                    f"a TIFF whose planes differ: {shape} of {dtype} after {self._shape} of "
                    f"{self._dtype}",
                    "Save them as files of their own.",
                )
        pixels = read_page(page, self._limits, first)
        return np.ascontiguousarray(pixels[..., sample]) if self._is_multichannel else pixels


def _leading(series: Any, page: Any) -> tuple[str, tuple[int, ...]]:
    """Return the axes and sizes of a series before those of its pages."""
    axes, shape = series.axes, series.shape
    own = page.axes
    if axes.endswith(own):
        return axes[: -len(own)], shape[: -len(own)]
    # tifffile may call the samples of a page channels, or another axis.
    if len(own) <= len(axes) and shape[-len(page.shape) :] == page.shape:
        return axes[: -len(own)], shape[: -len(own)]
    raise refused(f"a TIFF with axes {axes} in pages {own}", "Save it with a page per plane.")


def _known_axes(axes: str) -> str:
    """Return axes as P, T, Z and C; one that no program explained is z, or the next one free."""
    found = [_KNOWN.get(axis, "") for axis in axes]
    for at in reversed(range(len(found))):
        if not found[at]:
            found[at] = next((free for free in "ZTP" if free not in found), "P")
    return "".join(found)


def _channel_names(tiff: Any, number: int, channels: int) -> tuple[str, ...]:
    names: list[str] = []
    try:
        if tiff.is_ome:
            told = _ome_pixels(tiff, number).get("Channel", [])
            told = told if isinstance(told, list) else [told]
            names = [str(each.get("Name", "")) for each in told]
        elif tiff.is_imagej and channels > 1:
            names = _imagej_channels(tiff, channels)
        elif tiff.is_micromanager:
            names = [str(name) for name in tiff.micromanager_metadata["Summary"]["ChNames"]]
    except Exception:  # names are a help; a file without them has numbers
        names = []
    return tuple(names) if len(names) == channels else ("",) * channels


def _imagej_channels(tiff: Any, channels: int) -> list[str]:
    """Return names of channels from ImageJ's slice labels, such as ``c:1/3 z:1/5 - DAPI``."""
    labels = tiff.imagej_metadata.get("Labels", [])[:channels]
    names = [label.rpartition(" - ")[2] if " - " in label else label for label in labels]
    return names if len(set(names)) == channels else []


def _ome_pixels(tiff: Any, number: int) -> dict[str, Any]:
    images = tifffile.xml2dict(tiff.ome_metadata)["OME"]["Image"]
    images = images if isinstance(images, list) else [images]
    found: dict[str, Any] = images[number]["Pixels"]
    return found


def _pixel_sizes(tiff: Any, count: int) -> list[float | None]:
    """Return the pixel size of every series in micrometres."""
    found: list[float | None] = []
    for number in range(count):
        try:
            size = _ome_pixel_size(tiff, number) if tiff.is_ome else tiff_pixel_size(tiff)
        except Exception:  # as of a damaged tag; the pixels need none
            size = None
        found.append(plausible(size))
    return found


def tiff_pixel_size(tiff: Any) -> float | None:
    """Return the pixel size that a TIFF states for its first image, in micrometres; None if none.

    A resolution in inches or without a unit is a printer's, not a microscope's.
    """
    if tiff.is_ome:
        return _ome_pixel_size(tiff, 0)
    if tiff.is_imagej:
        factor = micrometres((tiff.imagej_metadata or {}).get("unit", ""))
        pixels, units = tiff.pages[0].tags.valueof("XResolution")
        return None if factor is None else units / pixels * factor
    if tiff.is_svs:
        told = tifffile.tifffile.svs_description_metadata(tiff.pages[0].description)
        return float(told["MPP"])
    return None


def _ome_pixel_size(tiff: Any, number: int) -> float | None:
    pixels = _ome_pixels(tiff, number)
    factor = micrometres(pixels.get("PhysicalSizeXUnit", "µm"))
    return None if factor is None else float(pixels["PhysicalSizeX"]) * factor
