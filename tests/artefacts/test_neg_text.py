"""``NAME.neg_text``: written and read back, and everything that can be wrong with it."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from recbole_hnlm.artefacts import ArtefactError, MissingArtefactError, read_atomic
from recbole_hnlm.artefacts.grounded import read_grounded
from recbole_hnlm.artefacts.neg_text import NegativeTable, iter_neg_text, read_neg_text_manifest, write_neg_text

USERS, ITEMS = ["u1", "u2"], ["a", "b b", "c", "d"]
TABLE = NegativeTable(
    user_tokens=USERS,
    item_tokens=ITEMS,
    names=["A \t pen", "Lamp, 3\" wide", "Nowhere"],
    pair_users=np.array([1, 0, 0]),
    pair_items=np.array([2, 1, 0]),
    name_rows=np.array([[0, 1], [2, -1], [-1, -1]]),
    items=np.array([[[0, 3], [3, -1]], [[-1, -1], [-1, -1]], [[-1, -1], [-1, -1]]]),
    similarity=np.array([[[0.91237, 0.5], [0.25, 0]], [[0, 0], [0, 0]], [[0, 0], [0, 0]]], dtype=np.float32),
    pairs_hash="abc",
    provenance={"prompts": "products-1", "model": "toy"},
)  # fmt: skip
LINES = [
    ("u1", "b b", "Nowhere", "", "0"),
    ("u2", "c", "A pen", "a", "0.9124"),
    ("u2", "c", "A pen", "d", "0.5000"),
    ("u2", "c", 'Lamp, 3" wide', "d", "0.2500"),
]
IDS = (["[PAD]", "u2", "u1"], ["[PAD]", "d", "c", "b b", "a"])


def test_what_is_written(tmp_path: Path) -> None:
    manifest = write_neg_text(tmp_path / "new", "toy", TABLE)
    assert (manifest.pairs, manifest.pairs_with_text, manifest.pairs_grounded, manifest.rows) == (3, 2, 1, 4)
    assert list(iter_neg_text(tmp_path / "new", "toy")) == LINES
    assert list(iter_neg_text(tmp_path / "new", "toy", limit=1)) == LINES[:1]
    assert read_neg_text_manifest(tmp_path / "new", "toy", pairs_hash="abc") == manifest
    table = read_atomic(tmp_path / "new" / "toy.neg_text")
    assert table.types["neg_text"] == "token_seq" and table.types["similarity"] == "float"
    assert sorted(file.name for file in (tmp_path / "new").iterdir()) == ["toy.neg_text", "toy.neg_text.json"]


def test_the_same_bytes_again(tmp_path: Path) -> None:
    first, second = (write_neg_text(tmp_path / name, "toy", TABLE) for name in ("a", "b"))
    assert first == second
    shuffled = {
        name: getattr(TABLE, name)[[2, 0, 1]]
        for name in ("pair_users", "pair_items", "name_rows", "items", "similarity")
    }
    assert write_neg_text(tmp_path / "a", "toy", dataclasses.replace(TABLE, **shuffled)) == second


def test_by_internal_ids(tmp_path: Path) -> None:
    write_neg_text(tmp_path, "toy", TABLE)
    found = read_grounded(tmp_path, "toy", *IDS, pairs_hash="abc")
    assert (found.users.tolist(), found.items.tolist()) == ([1], [2])
    assert found.negatives.tolist() == [[1, 4]]  # d came twice
    assert found.coverage == pytest.approx(1 / 3)


def test_nothing_grounded(tmp_path: Path) -> None:
    bare = dataclasses.replace(TABLE, items=np.full((3, 2, 2), -1), name_rows=np.full((3, 2), -1))
    write_neg_text(tmp_path, "toy", bare)
    found = read_grounded(tmp_path, "toy", *IDS)
    assert (len(found.users), found.negatives.shape, found.coverage) == (0, (0, 1), 0.0)


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ((IDS[0][:2], IDS[1]), "has user 'u1', which the dataset does not have"),
        ((IDS[0], ["[PAD]", "c", "b b", "a"]), "has item 'd', which the dataset does not have"),
        ((["u1", "u2"], IDS[1]), "has user 'u1'"),  # entry 0 is padding, whatever it is called
    ],
)
def test_tokens_that_the_dataset_does_not_have(tmp_path: Path, ids: tuple[list[str], list[str]], message: str) -> None:
    write_neg_text(tmp_path, "toy", TABLE)
    with pytest.raises(ArtefactError, match=f"toy.neg_text {message}.*hnlm_rebuild"):
        read_grounded(tmp_path, "toy", *ids)


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-9])


def _change(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b"0.5000", b"0.5001"))


def _garble(path: Path) -> None:
    path.with_name("toy.neg_text.json").write_text("{", encoding="utf-8")


def _newer(path: Path) -> None:
    manifest = path.with_name("toy.neg_text.json")
    content = json.loads(manifest.read_text(encoding="utf-8"))
    manifest.write_text(json.dumps({**content, "format_version": 9}), encoding="utf-8")


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (_cut, "toy.neg_text has .* bytes, its manifest says .*: it is cut short"),
        (_change, "toy.neg_text has other content than its manifest says"),
        (_garble, "toy.neg_text.json is not a readable manifest"),
        (_newer, "is of format 9; upgrade"),
        (Path.unlink, "toy.neg_text does not exist"),
    ],
)
def test_damage(tmp_path: Path, harm: Callable[[Path], None], message: str) -> None:
    write_neg_text(tmp_path, "toy", TABLE)
    harm(tmp_path / "toy.neg_text")
    with pytest.raises(ArtefactError, match=message):
        read_grounded(tmp_path, "toy", *IDS)


def test_another_split(tmp_path: Path) -> None:
    write_neg_text(tmp_path, "toy", TABLE)
    with pytest.raises(ArtefactError, match="was built from other training pairs .hash abc, this split has xyz"):
        read_grounded(tmp_path, "toy", *IDS, pairs_hash="xyz")


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(MissingArtefactError, match="toy.neg_text.json does not exist"):
        read_grounded(tmp_path, "toy", *IDS)
    with pytest.raises(MissingArtefactError, match="toy.neg_text does not exist"):
        list(iter_neg_text(tmp_path, "toy"))


def test_a_write_that_fails_leaves_no_manifest(tmp_path: Path) -> None:
    """Whoever reads afterwards is told that there is nothing, and never reads half of a file."""
    write_neg_text(tmp_path, "toy", TABLE)

    class Broken(list[str]):
        def __iter__(self) -> Iterator[str]:
            yield "A pen"
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_neg_text(tmp_path, "toy", dataclasses.replace(TABLE, names=Broken(TABLE.names)))
    assert os.listdir(tmp_path) == []
    write_neg_text(tmp_path, "toy", TABLE)
    assert len(list(iter_neg_text(tmp_path, "toy"))) == 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pair_items": np.array([1])}, "expected"),
        ({"similarity": np.zeros((3, 2, 1), np.float32)}, "expected"),
        ({"user_tokens": ["u\t1", "u2"]}, "user token 'u\\\\t1'"),
    ],
)
def test_tables_that_cannot_be_written(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(TABLE, **change)  # type: ignore[arg-type]
