"""What the files of a result tell about the frame: its name, plane, channels and pixel size."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePosixPath

from cytoserve.files import ODD_NAMES
from cytoserve.settings import check_scale


@dataclass(frozen=True)
class Source:
    """Where a frame comes from.

    Attributes:
        image: path of the image file below the folder of the run, with ``/``. It tells images of
            a run apart; one without a folder is enough for one image.
        plane: place of the frame in a file of several planes; empty if the file has one.
        channels: names of the frame's channels, in order; empty if the file does not name them.
        pixel_size_um: side of a frame pixel in micrometres; None if it is not known.

    Raises:
        InvalidSetting: the pixel size is not a positive, finite number.
    """

    image: str = ""
    plane: str = ""
    channels: tuple[str, ...] = ()
    pixel_size_um: float | None = None

    def __post_init__(self) -> None:
        if self.pixel_size_um is not None:
            check_scale("pixel_size_um", self.pixel_size_um)

    @property
    def name(self) -> str:
        """Name of the image file, without its folder."""
        return PurePosixPath(self.image).name


def encodable(text: str) -> str:
    r"""Return text that can be encoded as UTF-8: Linux allows file names that are no Unicode.

    Their odd bytes are written as escapes, such as ``\udce9``.
    """
    return text.encode("utf-8", ODD_NAMES).decode("utf-8")
