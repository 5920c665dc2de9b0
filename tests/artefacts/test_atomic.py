"""Atomic files and vectors as text."""

from __future__ import annotations

import errno
import os
import random
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from recbole_hnlm.artefacts import read_atomic
from recbole_hnlm.artefacts.float_text import format_rows, parse_row
from recbole_hnlm.artefacts.storage import AtomicFile, write_npy

HALVES = np.arange(1 << 16, dtype=np.uint32).astype(np.uint16).view(np.float16)


def test_every_half_precision_number_survives_as_text() -> None:
    finite = HALVES[np.isfinite(HALVES)].reshape(-1, 64)
    assert finite.size == 63_488
    read = np.stack([parse_row(row) for row in format_rows(finite)])
    np.testing.assert_array_equal(read.view(np.uint16), finite.view(np.uint16))


def test_text_is_the_shortest() -> None:
    assert list(format_rows(np.array([[0.1, -2.0, 0.0]], dtype=np.float16))) == ["0.1 -2.0 0.0"]


def test_quotes_empty_cells_and_missing_ends_are_kept_as_they_stand(tmp_path: Path) -> None:
    path = tmp_path / "x.item"
    lines = ["item_id:token\ttitle:token_seq\tnote:token", '007\t3" binder\t"open', "NA\t\tnull", "nan\tshort"]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    table = read_atomic(path)
    assert table.key == "item_id"
    assert table.types == {"item_id": "token", "title": "token_seq", "note": "token"}
    assert table.column("item_id") == ["007", "NA", "nan"]
    assert table.column("title") == ['3" binder', "", "short"]
    assert table.column("note") == ['"open', "null", ""]


def test_quotes_around_a_cell_are_read_as_recbole_reads_them(tmp_path: Path) -> None:
    """As ``DataFrame.to_csv`` writes a cell with a quote in it; a lone quote and one that closes nothing stay."""
    path = tmp_path / "x.item"
    told = ['"i1"\t"The ""Best"" Pen"', '"a""b"\t"Great" pen "x"', '"\t""', 'c\t"']
    path.write_text("\n".join(["item_id:token\ttitle:token_seq", *told]) + "\n", encoding="utf-8")
    table = read_atomic(path)
    assert table.column("item_id") == ["i1", 'a"b', '"', "c"]
    assert table.column("title") == ['The "Best" Pen', '"Great" pen "x"', "", '"']


ENCLOSED = {
    "separator": (",", '1,"a, b",m\n2,c,n\n', [["1", "a, b", "m"], ["2", "c", "n"]]),
    "separator later": (",", '2,c,n\n1,"a, b",m\n', [["2", "c", "n"], ["1", "a, b", "m"]]),
    "line break": ("\t", '1\t"Copper.\nHolds 1 litres"\tm\n2\tc\tn\n', [["1", "Copper.\nHolds 1 litres", "m"], ["2", "c", "n"]]),
    "line break in the last cell": (",", '1,c,"a,\n\nb"\n"NA","",nan\n', [["1", "c", "a,\n\nb"], ["NA", "", "nan"]]),
    "prose of two cells": (",", '1,a,"Copper\nHolds 1, 2, 3"\n', [["1", "a", "Copper\nHolds 1, 2, 3"]]),
    "short rows": (",", '1,"a, b"\n\n2\n', [["1", "a, b", ""], ["2", "", ""]]),
    "inch": (",", '1,5" disc,"a, b"\n2,7",\n', [["1", '5" disc', "a, b"], ["2", '7"', ""]]),
    "Windows": (",", '1,"a, ""b""",m\r\n2,c,n\r\n', [["1", 'a, "b"', "m"], ["2", "c", "n"]]),
}  # fmt: skip


@pytest.mark.parametrize("name", ENCLOSED)
@pytest.mark.parametrize("encoding", ["utf-8", "latin-1", "utf-16"])
def test_cells_in_quotes_hold_separators_and_line_breaks(tmp_path: Path, name: str, encoding: str) -> None:
    separator, text, expected = ENCLOSED[name]
    path = tmp_path / "x.item"
    header = separator.join(["item_id:token", "title:token_seq", "maker:token"]) + "\n"
    path.write_bytes((header + text).encode(encoding))
    found = read_atomic(path, separator=separator, encoding=encoding).frame
    assert found.to_numpy().tolist() == expected
    of_recbole = pd.read_csv(
        path, delimiter=separator, dtype=str, encoding=encoding, engine="python", keep_default_na=False
    )
    assert of_recbole.fillna("").to_numpy().tolist() == expected


def test_what_pandas_writes_is_what_is_read(tmp_path: Path) -> None:
    rng, pieces = random.Random(0), ["a", "1", "é", '"', " ", "\t", ",", "\n", ";", "'"]
    for turn in range(60):
        cells = [["".join(rng.choices(pieces, k=rng.randint(0, 6))) for _ in range(3)] for _ in range(5)]
        told = pd.DataFrame([[f"i{row}", *texts, "end"] for row, texts in enumerate(cells)])
        told.columns = ["item_id:token", "a:token_seq", "b:token", "c:token_seq", "d:token"]
        for separator in "\t,":
            told.to_csv(tmp_path / "x.item", sep=separator, index=False)
            assert (
                read_atomic(tmp_path / "x.item", separator=separator).frame.to_numpy().tolist()
                == told.to_numpy().tolist()
            ), turn


@pytest.mark.parametrize(
    ("text", "expected", "reason"),
    [
        ('1\t"Weird Al\n2\tb\n', [["1", '"Weird Al'], ["2", "b"]], r"line 2 on enclose no cell"),
        ('1\ta\n2\t"Great" pen\n3\t"b"\n', [["1", "a"], ["2", '"Great" pen'], ["3", "b"]], r"line 3 on enclose no"),
        ('1\ta\n2\t"Weird Al\n3\tBest of 5"\n', [["1", "a"], ["2", '"Weird Al'], ["3", 'Best of 5"']], "line 3 would"),
    ],
)  # fmt: skip
def test_stray_quotes_swallow_no_rows(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, text: str, expected: list[list[str]], reason: str
) -> None:
    path = tmp_path / "x.item"
    path.write_text("item_id:token\ttitle:token_seq\n" + text)
    assert read_atomic(path).frame.to_numpy().tolist() == expected
    (told,) = caplog.messages
    assert "x.item: quotes are read as text" in told and re.search(reason, told)


def test_another_encoding_is_read_and_a_wrong_one_names_the_setting(tmp_path: Path) -> None:
    path = tmp_path / "x.item"
    path.write_bytes("item_id:token\ttitle:token_seq\n1\tÜbung\n".encode("latin-1"))
    assert read_atomic(path, encoding="latin-1").column("title") == ["Übung"]
    with pytest.raises(ValueError, match=r"x\.item is not in utf-8 .*set RecBole's encoding to the file's"):
        read_atomic(path)


def test_windows_line_ends_and_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "x.item"
    path.write_bytes("\ufeffitem_id:token\ttitle:token_seq\r\n1\té\r\n2\t\r\n".encode())
    table = read_atomic(path)
    assert table.column("item_id") == ["1", "2"]
    assert table.column("title") == ["é", ""]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("item_id\ttitle:token\n1\ta\n", "header column 'item_id'"),
        ("item_id:token\titem_id:token\n", "occurs twice"),
        ("item_id:token\ttitle:token\n1\ta\n2\tb\tc\n", "line 3"),
        ("item_id:token\ttitle:token\n1\ta\tEXTRA\n2\tb\n", "line 2 has 3 columns, expected 2"),
        ("item_id:token\ttitle:token\n1\ta\tEXTRA\n2\tb\tEXTRA\n", "line 2 has 3"),
        ('item_id:token\ttitle:token\n1\t"a\n\nb"\n2\tb\tc\n', "line 5 has 3"),
        ("", "header column"),
    ],
)
def test_what_is_no_atomic_file_is_refused_by_name(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "bad.item"
    path.write_text(text)
    with pytest.raises(ValueError, match=message) as error:
        read_atomic(path)
    assert "bad.item" in str(error.value)


def test_read_real_ml_100k() -> None:
    recbole = pytest.importorskip("recbole")
    directory = Path(recbole.__file__).parent / "dataset_example" / "ml-100k"
    table = read_atomic(directory / "ml-100k.item")
    assert len(table) == 1682
    assert table.column("movie_title")[0] == "Toy Story"


@pytest.mark.parametrize("when", ["the block ends", "within the block"])
def test_a_full_disk_names_the_file_and_leaves_nothing_behind(
    when: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    path = tmp_path / "x"
    path.write_text("old")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=re.escape(f"No space left on device: '{path}'")), AtomicFile(path) as file:
        file.write(b"new")
        if when == "within the block":
            full()
    assert [found.name for found in tmp_path.iterdir()] == ["x"] and path.read_text() == "old"


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(RuntimeError), AtomicFile(path) as file:
        file.write(b"half of the ne")
        raise RuntimeError
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (9000, 2), (1, 4)])
def test_npy_is_what_numpy_reads(tmp_path: Path, shape: tuple[int, int]) -> None:
    array = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    entry = write_npy(tmp_path / "a.npy", array, "<f2")
    read = np.load(tmp_path / "a.npy", allow_pickle=False)
    np.testing.assert_array_equal(read, array.astype(np.float16))
    assert entry.bytes == (tmp_path / "a.npy").stat().st_size
