"""One table for all images of a run, joined from the tables of the images.

The images' files are read one after another, so that memory does not grow with the run. A column
that some images lack is empty, or null, in their rows.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from cytoserve.files import ODD_NAMES, written_atomically
from cytoserve.outputs.extras import require

_ROW_GROUP = 50_000  # rows that are written at once: readers are slow with many small groups


def join_tables(parts: Sequence[Path], joined: Path) -> None:
    """Write one table with the rows of many, in their order.

    Args:
        parts: one CSV or Parquet file per image, as :mod:`cytoserve.outputs.tables` encodes them.
        joined: the file to write, with the ending of the parts. It is the old one or the whole
            new one at any moment.

    Raises:
        OSError: a part cannot be read, the disk is full, or another program keeps ``joined`` open.
        ValueError: a part is no table of this kind.
        ImportError: pyarrow is not installed, and the tables are Parquet.
    """
    with written_atomically(joined) as part:
        try:
            _JOINERS[joined.suffix](parts, part)
        except csv.Error as error:
            raise ValueError(str(error)) from error


def _join_csv(parts: Sequence[Path], joined: Path) -> None:
    columns = _union(map(_csv_columns, parts))
    with joined.open("w", encoding="utf-8", errors=ODD_NAMES, newline="") as file:
        writer = csv.DictWriter(file, columns, restval="")
        writer.writeheader()
        for path in parts:
            with path.open(encoding="utf-8", newline="") as one:
                writer.writerows(csv.DictReader(one))


def _csv_columns(path: Path) -> list[str]:
    with path.open(encoding="utf-8", newline="") as file:
        return next(csv.reader(file), [])


def _join_parquet(parts: Sequence[Path], joined: Path) -> None:
    require("pyarrow")
    import pyarrow
    from pyarrow import parquet

    types: dict[str, pyarrow.DataType] = {}
    for path in parts:
        schema = parquet.read_schema(path)
        types |= dict(zip(schema.names, schema.types, strict=True))
    merged = pyarrow.schema(list(types.items()))
    with parquet.ParquetWriter(joined, merged) as writer:
        waiting: list[pyarrow.Table] = []
        for path in parts:
            table = parquet.read_table(path)
            missing = {name: pyarrow.nulls(len(table), type_) for name, type_ in types.items()}
            have = dict(zip(table.column_names, table.columns, strict=True))
            waiting.append(pyarrow.table(missing | have).cast(merged))
            if sum(map(len, waiting)) >= _ROW_GROUP:
                writer.write_table(pyarrow.concat_tables(waiting))
                waiting.clear()
        if waiting:
            writer.write_table(pyarrow.concat_tables(waiting))


def _union(several: Iterable[Iterable[str]]) -> list[str]:
    """Return every name once: new ones follow those that came before them."""
    return list(dict.fromkeys(name for names in several for name in names))


_JOINERS: Mapping[str, Callable[[Sequence[Path], Path], None]] = {
    ".csv": _join_csv,
    ".parquet": _join_parquet,
}
