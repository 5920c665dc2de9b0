"""Every fault of the files is found before training, by name and with the remedy."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recbole_hnlm.artefacts import (
    ArtefactContents,
    ArtefactError,
    ArtefactReader,
    MissingArtefactError,
    Provenance,
    checks,
    export_text,
    import_text,
    read_manifest,
    write_artefact,
)

REMEDY = "recbole-hnlm build --dataset=toy --hnlm_rebuild=True"
MATRICES = ("hnlm_emb.npy", "item_text.npy", "hnlm_index.npy")


def refusal(directory: Path, **options: Any) -> str:
    with pytest.raises(ArtefactError) as error:
        ArtefactReader.open(directory, "toy", **options)
    assert REMEDY in str(error.value)
    assert "\n" not in str(error.value)
    return str(error.value)


def edit_manifest(directory: Path, change: Callable[[dict[str, Any]], None]) -> None:
    path = directory / "toy.hnlm.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_the_whole_artefact_is_taken(built: Path) -> None:
    digest = read_manifest(built, "toy").pairs_hash
    assert ArtefactReader.open(built, "toy", pairs_hash=digest).manifest.rows == 3


def test_nothing_built(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as error:
        ArtefactReader.open(tmp_path, "toy")
    assert isinstance(error.value, ArtefactError)
    assert "toy.hnlm.json does not exist" in str(error.value)
    assert REMEDY in str(error.value)


def test_another_split(built: Path) -> None:
    remedy = "add --hnlm_rebuild=True to this run's own settings, or give each split an hnlm_artefact_dir$"
    with pytest.raises(ArtefactError, match=f"was built from other training pairs .*; {remedy}"):
        ArtefactReader.open(built, "toy", pairs_hash="f" * 64)


@pytest.mark.parametrize("suffix", ["hnlm", "hnlm_tokens", "item_profile", "hnlm_emb", *MATRICES])
def test_missing_file(built: Path, suffix: str) -> None:
    (built / f"toy.{suffix}").unlink()
    with pytest.raises(MissingArtefactError, match=f"toy.{suffix} does not exist"):
        ArtefactReader.open(built, "toy")


@pytest.mark.parametrize("suffix", ["hnlm", "hnlm_tokens", "item_profile", "hnlm_emb", *MATRICES])
def test_truncated_file(built: Path, suffix: str) -> None:
    path = built / f"toy.{suffix}"
    path.write_bytes(path.read_bytes()[:-3])
    assert f"toy.{suffix}" in (message := refusal(built))
    assert "cut short" in message


@pytest.mark.parametrize("suffix", ["hnlm", "hnlm_tokens", "item_profile", "hnlm_emb", "user_profile"])
def test_changed_byte_in_a_text_file(built: Path, suffix: str) -> None:
    path = built / f"toy.{suffix}"
    data = bytearray(path.read_bytes())
    data[-2] ^= 1
    path.write_bytes(data)
    assert f"toy.{suffix}" in (message := refusal(built))
    assert "sha256 differs" in message


@pytest.mark.parametrize("suffix", ["hnlm_emb.npy", "item_text.npy"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("hashed", [True, False])
def test_vector_that_is_not_finite(
    built: Path, suffix: str, value: float, hashed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not hashed:
        monkeypatch.setattr(checks, "HASHED_BYTES", 0)
    matrix = np.load(built / f"toy.{suffix}", mmap_mode="r+")
    matrix[2, 1] = value
    matrix.flush()
    assert "NaN or infinity in row 2" in refusal(built)


def test_non_finite_vector_is_found_in_a_later_block(built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "_SCAN_BYTES", 6)  # one row of three numbers
    assert ArtefactReader.open(built, "toy")
    matrix = np.load(built / "toy.hnlm_emb.npy", mmap_mode="r+")
    matrix[2, 0] = np.nan
    matrix.flush()
    assert "NaN or infinity in row 2" in refusal(built)


def test_matrix_of_another_shape(built: Path) -> None:
    edit_manifest(built, lambda content: content.update(rows=4))
    assert "the manifest says float16 (4, 3)" in refusal(built)


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        ((0, 1), 0, "duplicate pair"),
        ((0, 0), 10, "not sorted"),
        ((0, 2), 99, "users or items"),
        ((1, 0), 3, "names row 3 of 3"),
        ((1, 0), -2, "names row"),
    ],
)
def test_damaged_index(built: Path, place: tuple[int, int], value: int, message: str) -> None:
    index = np.load(built / "toy.hnlm_index.npy", mmap_mode="r+")
    index[place] = value
    index.flush()
    assert message in refusal(built)


def test_header_that_is_no_npy(built: Path) -> None:
    path = built / "toy.hnlm_emb.npy"
    path.write_bytes(b"x" * path.stat().st_size)
    assert "no readable .npy" in refusal(built)


def test_duplicate_pair_in_the_text(built: Path) -> None:
    with (built / "toy.hnlm").open("a") as file:
        file.write("u1\ti0\ti1\n")
    assert "duplicate pair (u1, i0) in lines 2 and 5" in refusal(built)
    with pytest.raises(ArtefactError, match="lines 2 and 5"):
        import_text(built, "toy")


def test_unknown_neg_id_in_the_text(built: Path) -> None:
    path = built / "toy.hnlm"
    path.write_text(path.read_text().replace("i0 i1", "i0 i9"))  # the length stays
    assert "unknown neg_id 'i9' in line 3" in refusal(built)
    with pytest.raises(ArtefactError, match="unknown neg_id 'i9' in line 3"):
        import_text(built, "toy")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not a readable manifest"),
        ('{"format_version": 1', "not a readable manifest"),
        ("[]", "not a readable manifest"),
        ('{"format_version": 1}', "lacks or garbles"),
        ('{"format_version": 99}', "upgrade recbole_hnlm"),
    ],
)
def test_corrupt_or_newer_manifest(built: Path, text: str, message: str) -> None:
    (built / "toy.hnlm.json").write_text(text)
    assert message in refusal(built)


@pytest.mark.parametrize(
    "change", [{"pairs": "many"}, {"rows": -1}, {"name": "other"}, {"files": [1]}, {"provenance": None}]
)
def test_manifest_with_a_garbled_field(built: Path, change: dict[str, Any]) -> None:
    edit_manifest(built, lambda content: content.update(change))
    assert "lacks or garbles" in refusal(built)


def test_manifest_without_a_needed_file(built: Path) -> None:
    edit_manifest(built, lambda content: content["files"].pop("toy.hnlm_index.npy"))
    assert "does not list toy.hnlm_index.npy" in refusal(built)


def test_writer_refuses_what_it_cannot_hold(tmp_path: Path, contents: ArtefactContents) -> None:
    import dataclasses

    origin = Provenance(encoder="x")
    bad_vectors = contents.neg_vectors.copy()
    bad_vectors[1, 1] = 1e6  # finite, but not in half precision
    cases: list[tuple[dict[str, Any], str]] = [
        ({"neg_vectors": bad_vectors}, "row 1 is not finite"),
        ({"user_tokens": ["u1", "u2", "u10"]}, "sorted"),
        ({"user_tokens": ["u1", "u10", "u\t2"]}, "without tab"),
        ({"neg_ids": ["i0", "i1", "i 3"]}, "without spaces"),
        ({"neg_ids": ["i0", "i1", "i1"]}, "distinct"),
        ({"neg_rows": np.full((4, 1), 3)}, "row 3"),
        ({"pair_users": np.array([0, 0, 2])}, "shape"),
        ({"pair_items": np.array([2, 2, 1, 3])}, "occurs twice"),
    ]
    for change, message in cases:
        with pytest.raises(ValueError, match=message):
            write_artefact(tmp_path, "toy", dataclasses.replace(contents, **change), origin)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("suffix", "old", "new", "message"),
    [
        ("hnlm_emb", "0.5", "nan", "line 3 has NaN"),
        ("hnlm_emb", "0.5", "1e9", "line 3 has NaN or infinity"),
        ("hnlm_emb", "0.5", "half", "could not convert"),
        ("hnlm_emb", "0.0 0.5", "0.5", "line 3 has 2 numbers, expected 3"),
        ("item_text", "i1\t", "i0\t", "an id occurs twice"),
        ("hnlm", "u2\ti1\t", "u2\t", "line 4 has 2 columns"),
    ],
)
def test_import_refuses_damaged_text(built: Path, suffix: str, old: str, new: str, message: str) -> None:
    path = built / f"toy.{suffix}"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(ArtefactError, match=message) as error:
        import_text(built, "toy")
    assert str(path) in str(error.value)


def test_import_needs_the_text(tmp_path: Path, contents: ArtefactContents) -> None:
    write_artefact(tmp_path, "toy", contents, Provenance(encoder="x"), text_rows_limit=2)
    assert not (tmp_path / "toy.hnlm_emb").exists()
    with pytest.raises(MissingArtefactError, match="toy.hnlm_emb does not exist"):
        import_text(tmp_path, "toy")
    assert export_text(tmp_path, "toy").has_file("hnlm_emb")
    assert import_text(tmp_path, "toy").rows == 3


def test_duplicate_across_blocks_of_the_index(built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "_CHUNK_BYTES", 8)  # one pair a block
    index = np.load(built / "toy.hnlm_index.npy", mmap_mode="r+")
    index[0, 2] = index[0, 1]
    index.flush()
    assert "duplicate pair (entry 2)" in refusal(built)
