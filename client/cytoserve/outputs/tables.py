"""Tables of one image: one row per cell or component, as CSV, Parquet or a data frame."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cytoserve.cells import Cells
from cytoserve.files import ODD_NAMES
from cytoserve.foreground import Foreground
from cytoserve.measurements import in_micrometres, measure_intensities
from cytoserve.outputs.extras import require
from cytoserve.outputs.source import Source, encodable

if TYPE_CHECKING:
    import pandas

Columns = dict[str, NDArray[Any]]


def table_columns(
    found: Cells | Foreground, source: Source, frame: NDArray[Any] | None = None
) -> Columns:
    """Return one column per key, one row per cell or component.

    ``image`` and ``plane`` come first, if the source tells them. The columns of ``table()``
    follow; then its areas and lengths in um² and um with ``pixel_size_um``, if that is known; then
    the intensities of every channel of the frame, if it is given.
    """
    columns: Columns = dict(found.table())
    rows = len(columns["label"])
    if source.pixel_size_um is not None:
        columns |= in_micrometres(columns, source.pixel_size_um)
        columns["pixel_size_um"] = np.full(rows, source.pixel_size_um)
    if frame is not None:
        regions = found.components() if isinstance(found, Foreground) else found.regions()
        columns |= measure_intensities(regions, frame, source.channels)
    places = {"image": source.image, "plane": source.plane}
    return {
        name: np.full(rows, encodable(place)) for name, place in places.items() if place
    } | columns


def table_csv(frame: NDArray[Any], found: Cells | Foreground, source: Source) -> bytes:
    """Encode the table: CSV as in RFC 4180, UTF-8, one row per cell or component; unknown values
    are empty."""
    return _csv(table_columns(found, source, frame))


def summary_csv(frame: NDArray[Any], foreground: Foreground, source: Source) -> bytes:
    """Encode the summary: CSV as in RFC 4180, UTF-8, one row; unknown values are empty."""
    facts: dict[str, Any] = {"image": encodable(source.image)}
    if source.plane:
        facts["plane"] = encodable(source.plane)
    facts |= {"class": foreground.class_name, "threshold": foreground.threshold}
    facts |= foreground.summary()
    if source.pixel_size_um is not None:
        pixels = np.count_nonzero(foreground.mask)
        facts |= {
            "area_um2": float(pixels) * source.pixel_size_um**2,
            "pixel_size_um": source.pixel_size_um,
        }
    return _csv({key: [value] for key, value in facts.items()})


def table_parquet(frame: NDArray[Any], found: Cells | Foreground, source: Source) -> bytes:
    """Encode the table as Parquet: the columns of :func:`table_csv`; unknown values are null.

    Raises:
        ImportError: pyarrow is not installed.
    """
    require("pyarrow")
    import pyarrow
    from pyarrow import parquet

    columns = table_columns(found, source, frame)
    table = pyarrow.table(
        {
            name: pyarrow.array(
                values.tolist() if values.dtype.kind == "U" else values,
                pyarrow.string() if values.dtype.kind == "U" else None,
                from_pandas=True,  # NaN is unknown, and null
            )
            for name, values in columns.items()
        }
    )
    file = io.BytesIO()
    parquet.write_table(table, file)
    return file.getvalue()


def data_frame(
    found: Cells | Foreground, source: Source, frame: NDArray[Any] | None = None
) -> pandas.DataFrame:
    """Return :func:`table_columns` as a data frame.

    Raises:
        ImportError: pandas is not installed.
    """
    require("pandas")
    import pandas

    return pandas.DataFrame(table_columns(found, source, frame))


def _csv(columns: Mapping[str, Iterable[Any]]) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(columns)
    writer.writerows(zip(*(map(_field, column) for column in columns.values()), strict=True))
    return text.getvalue().encode("utf-8", ODD_NAMES)


def _field(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float | np.floating):
        if np.isnan(value):
            return ""
        return f"{value:.0f}" if value.is_integer() else f"{value:.7g}"  # counts stay exact
    return str(value)
