"""Atomic files and vectors as text."""

from __future__ import annotations

from pathlib import Path

import numpy as np
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
