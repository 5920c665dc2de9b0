"""Text by columns and blocks is the text line by line, and vectors never lie whole in memory."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from recbole_hnlm.artefacts import Manifest, atomic, blocks, read_atomic
from recbole_hnlm.artefacts.atomic import iter_rows
from recbole_hnlm.artefacts.blocks import text_blocks
from recbole_hnlm.artefacts.lines import check_neg_ids
from recbole_hnlm.artefacts.matrix_text import StoredRows, read_vector_text
from recbole_hnlm.artefacts.pair_text import read_pair_text

PIECES = ["a", "1", "\t", "\t", "\n", "\n", " ", '"', "'", "é", "\r", "\r\n", "\\", "#", "NA", "\ufeff", "\0", "b\tc\n"]


def texts(count: int) -> list[str]:
    rng = random.Random(0)
    plain = ["x\ty\n" * rng.randint(0, 5) + rng.choice(["", "last\trow"]) for _ in range(count // 4)]
    return plain + ["".join(rng.choices(PIECES, k=rng.randint(0, 20))) for _ in range(count)]


def test_blocks_hold_the_rows_of_the_file_whatever_is_in_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 7)
    path, by_column = tmp_path / "x", 0
    for text in texts(400):
        path.write_bytes(b"header\n" + text.encode())
        expected: object
        try:
            expected = list(iter_rows(path, 2))
        except ValueError as error:
            expected = str(error)
        found: list[tuple[int, list[str]]] = []
        try:
            for block in text_blocks(path):
                rows = block.rows(2)
                columns = block.columns(2)
                if columns is not None:
                    cells = [list(row) for row in zip(*(column.to_pylist() for column in columns), strict=True)]
                    by_column += len(cells)
                    assert list(rows) == list(enumerate(cells, start=block.first_line))
                    rows = enumerate(cells, start=block.first_line)
                found += rows
        except ValueError as error:
            assert str(error) == expected
        else:
            assert found == expected
    assert by_column > 200


@pytest.mark.filterwarnings("ignore::pandas.errors.ParserWarning")
def test_an_atomic_file_reads_the_same_by_columns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, by_column, columnar = tmp_path / "x.item", 0, atomic._read_columns
    for text in texts(400):
        path.write_bytes(b"a:token\tb:token_seq\n" + text.encode())
        found = []
        for read in (columnar, lambda *_: None):
            monkeypatch.setattr(atomic, "_read_columns", read)
            try:
                found.append(read_atomic(path).frame)
            except ValueError as error:
                found.append(str(error))
        if isinstance(found[0], str):
            assert found[0] == found[1]
        else:
            assert found[0].dtypes.tolist() == found[1].dtypes.tolist()
            assert found[0].to_numpy().tolist() == found[1].to_numpy().tolist()
        by_column += columnar(path, ["a", "b"], "\t") is not None
    assert by_column > 50


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_numbers_in_any_writing_and_over_many_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: str) -> None:
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 64)
    rng = np.random.default_rng(0)
    numbers = rng.standard_normal((60, 3)) * 10.0 ** rng.integers(-9, 4, (60, 3))
    rows = [" ".join(f"{number!r}" for number in row.tolist()) for row in numbers]
    rows[20] = " ".join(f"+{abs(number):.4e}" for number in numbers[20])  # the columnar reader knows no plus sign
    rows[40] = "  ".join(f"{number:.30f}" for number in numbers[40]) + " "
    rows[41] = ".5 1_0 -.25e1"
    path = tmp_path / "x"
    path.write_bytes(("id:token\tv:float_seq" + end + end.join(f"n{n}\t{row}" for n, row in enumerate(rows))).encode())
    ids, vectors = read_vector_text(path, tmp_path)
    assert ids == [f"n{n}" for n in range(60)]
    expected = np.array([[float(part) for part in row.split()] for row in rows]).astype(np.float16)
    np.testing.assert_array_equal(vectors[:].view(np.uint16), expected.view(np.uint16))
    assert [path.name for path in tmp_path.iterdir()] == ["x"]  # the matrix has no name


def test_a_late_fault_names_its_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 32)
    path = tmp_path / "x"
    lines = ["id:token\tv:float_seq", *(f"n{n}\t1.0 2.0" for n in range(50))]
    for place, bad, message in (
        (30, "n30\t1.0", "1 numbers, expected 2"),
        (47, "n47\tnan 1", "NaN"),
        (9, "n8", "1 col"),
    ):
        path.write_text("\n".join([*lines[:place], bad, *lines[place:]]))
        with pytest.raises(ValueError, match=f"line {place + 1} has {message}"):
            read_vector_text(path, tmp_path)


def test_stored_rows_are_slices_of_the_matrix(tmp_path: Path) -> None:
    matrix = np.arange(12, dtype=np.float16).reshape(4, 3)
    (tmp_path / "m").write_bytes(b"head" + matrix.tobytes())
    with (tmp_path / "m").open("rb") as handle:
        stored = StoredRows(handle, (4, 3), offset=4)
        assert len(stored) == 4
        for rows in (slice(1, 3), slice(None), slice(3, 9), slice(2, 2), slice(-1, None)):
            np.testing.assert_array_equal(stored[rows], matrix[rows])
    (tmp_path / "m").write_bytes(matrix.tobytes()[:-2])
    with (tmp_path / "m").open("rb") as handle, pytest.raises(OSError, match="ends before row 4"):
        StoredRows(handle, (4, 3))[2:4]


def test_pairs_as_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 12)
    path = tmp_path / "x.hnlm"
    path.write_text("u:token\ti:token\tn:token_seq\nz\tb\tn1\na\tb\tn0 n2 n1\nz\ta\tn2\n")
    told = read_pair_text(path, ["n0", "n1", "n2"], 1)
    assert told is not None
    pairs = [(told.users[u], told.items[i]) for u, i in zip(told.user_codes, told.item_codes, strict=True)]
    assert pairs == [("z", "b"), ("a", "b"), ("z", "a")]
    assert told.neg_rows.tolist() == [[1, -1, -1], [0, 2, 1], [2, -1, -1]]
    assert read_pair_text(path, ["n0", "n1"], 1) is None  # n2 is unknown
    path.write_text("u:token\ti:token\tn:token_seq\n")
    told = read_pair_text(path, [], 2)
    assert told is not None and told.neg_rows.shape == (0, 2)


@pytest.mark.parametrize("bad", [["a", "a"], ["a b"], ["a\u00a0b", "a\tb"], [""], ["x", "a\r"]])
def test_names_that_no_file_can_hold(bad: list[str]) -> None:
    check_neg_ids(["a", "é\u00a0", "%20"])
    with pytest.raises(ValueError, match="without"):
        check_neg_ids(bad)


MEASURE = """
import sys
from pathlib import Path
from recbole_hnlm.artefacts import ArtefactReader, export_text, import_text
import numpy as np
work, directory, name = sys.argv[1:]
def peak(): return int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]) / 1024
if work == "read":
    tokens = [f"t{place:05d}" for place in range(256)]
    bound = ArtefactReader.open(directory, name).bind(["", *tokens], ["", *tokens], resident_bytes=1 << 20)
    order = np.random.default_rng(0).permutation(1 << 16)
    bound.read(bound.pair_rows(order[:2048] // 256 + 1, order[:2048] % 256 + 1)[:, 0])
    before = peak()
    for batch in order.reshape(-1, 2048):
        assert bound.read(bound.pair_rows(batch // 256 + 1, batch % 256 + 1)[:, 0]).any()
else:
    import pyarrow.csv, pyarrow.compute
    before = peak()
    {"export": export_text, "import": import_text}[work](directory, name)
print(peak() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from /proc")
def test_memory_does_not_hold_the_vectors(tmp_path: Path, wide_artefact: Manifest) -> None:
    """A matrix of 67 MB, all of whose rows are read, exported and imported: no work keeps it."""

    def growth(work: str) -> float:
        command = [sys.executable, "-c", MEASURE, work, str(tmp_path), wide_artefact.name]
        return float(subprocess.run(command, check=True, capture_output=True, text=True, timeout=300).stdout)

    assert wide_artefact.rows * wide_artefact.width * 2 == 67_108_864
    assert growth("read") < 10
    before = (tmp_path / "wide.hnlm_emb.npy").read_bytes()
    assert growth("export") < 67
    assert growth("import") < 134
    assert (tmp_path / "wide.hnlm_emb.npy").read_bytes() == before
