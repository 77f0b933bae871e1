"""What cells and a foreground can be turned into for other programs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

from numpy.typing import NDArray

if TYPE_CHECKING:
    import pandas
    from roifile import ImagejRoi

    from cytoserve.cells import Cells
    from cytoserve.foreground import Foreground
    from cytoserve.outputs.napari_layers import LayerData


class Exports:
    """Methods that :class:`cytoserve.Cells` and :class:`cytoserve.Foreground` share.

    "Object" below is a cell, or a connected component of a foreground. The methods import what
    they need when they are called.
    """

    def to_dataframe(
        self,
        frame: NDArray[Any] | None = None,
        pixel_size_um: float | None = None,
        channels: Sequence[str] = (),
    ) -> pandas.DataFrame:
        """Return the table as a pandas data frame, one row per object.

        Args:
            frame: ``[H, W]`` or ``[H, W, C]``; adds mean, least and greatest value of every
                channel inside the object. It may have other channels than the segmented frame.
            pixel_size_um: side of a frame pixel in micrometres; adds areas in um² and lengths in
                um.
            channels: names of the frame's channels, for the names of the columns.

        Raises:
            ImportError: pandas is not installed.
            InvalidSetting: the pixel size is not a positive, finite number.
        """
        from cytoserve.outputs.source import Source
        from cytoserve.outputs.tables import data_frame

        source = Source(channels=tuple(channels), pixel_size_um=pixel_size_um)
        return data_frame(self._found, source, frame)

    def to_geojson(
        self,
        frame: NDArray[Any] | None = None,
        pixel_size_um: float | None = None,
        channels: Sequence[str] = (),
        image: str = "",
    ) -> dict[str, Any]:
        """Return a GeoJSON feature collection of detections, for QuPath from 0.5 on.

        An object without a pixel is left out. Write it with ``json.dump``.

        Args:
            frame, pixel_size_um, channels: as for :meth:`to_dataframe`, for the measurements.
            image: name of the image, for the metadata and UUIDs of the detections.

        Raises:
            InvalidSetting: the pixel size is not a positive, finite number.
        """
        from cytoserve.outputs.qupath_geojson import geojson_features
        from cytoserve.outputs.source import Source

        source = Source(image, channels=tuple(channels), pixel_size_um=pixel_size_um)
        return geojson_features(self._found, source, frame)

    def to_rois(self) -> list[ImagejRoi]:
        """Return ImageJ ROIs, one per object with a pixel, named by its number.

        ``roifile.roiwrite("rois.zip", rois)`` writes them for the ROI Manager.

        Raises:
            ImportError: roifile is not installed.
        """
        from cytoserve.outputs.imagej_rois import imagej_rois

        return imagej_rois(self._found)

    def to_napari(
        self, pixel_size_um: float | None = None, outlines: bool = False
    ) -> list[LayerData]:
        """Return napari layers as tuples of data, keyword arguments and layer type.

        The layers are labels, outlines if asked for, and points: the centroids, or the centres
        that the pipeline detected. ``napari.layers.Layer.create(*layer)`` makes each.

        Args:
            pixel_size_um: side of a frame pixel in micrometres, the ``scale`` of the layers; None
                is a scale of 1.
            outlines: whether to add a layer of polygons. napari is slow with thousands of them.

        Raises:
            InvalidSetting: the pixel size is not a positive, finite number.
        """
        from cytoserve.outputs.napari_layers import napari_layers

        return napari_layers(self._found, pixel_size_um, outlines)

    @property
    def _found(self) -> Cells | Foreground:
        return cast("Cells | Foreground", self)
