"""Tab-separated bytes as columns of strings, where the columnar reader sees in them what a plain split would."""

from __future__ import annotations

import codecs
from collections.abc import Sequence

import pyarrow as pa
from pyarrow import csv


def parse_columns(data: bytes, names: Sequence[str], separator: str = "\t") -> pa.Table | None:
    """Cells of whole lines as they stand, without a header; quotes mean nothing.

    None where another reader has to be asked, since this one sees other cells than lines split at the separator, or
    says less well what is wrong: a carriage return, a mark of byte order, an empty line, a row of another length, bytes
    that are no UTF-8.
    """
    if b"\r" in data or data.startswith((codecs.BOM_UTF8, b"\n")) or b"\n\n" in data:
        return None
    try:
        table = csv.read_csv(
            pa.BufferReader(data),
            csv.ReadOptions(use_threads=False, block_size=len(data) + 1, column_names=list(names)),
            csv.ParseOptions(delimiter=separator, quote_char=False, double_quote=False, escape_char=False),
            csv.ConvertOptions(column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=False),
        )
    except pa.ArrowInvalid:
        return None
    return table.combine_chunks()
