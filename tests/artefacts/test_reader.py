"""Vectors of pairs by internal id."""

from __future__ import annotations

import dataclasses
import itertools
import json
import threading
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from recbole_hnlm.artefacts import (
    ArtefactContents,
    ArtefactError,
    ArtefactReader,
    BoundArtefact,
    Provenance,
    describe,
    hash_pairs,
    read_manifest,
    write_artefact,
)
from recbole_hnlm.artefacts.exchange import read_profiles
from recbole_hnlm.artefacts.manifest import ArtefactPaths
from recbole_hnlm.artefacts.storage import directory_lock

USERS = ["[PAD]", "u2", "u1", "u10", "cold"]
ITEMS = ["[PAD]", "i3", "i2", "unseen", "i1", "i0"]


@pytest.fixture
def bound(built: Path) -> BoundArtefact:
    return ArtefactReader.open(built, "toy").bind(USERS, ITEMS)


@pytest.mark.parametrize("how", ["begun", "ended", "the same again", "users' text has joined"])
def test_files_of_two_builds_are_not_read_as_one(built: Path, contents: ArtefactContents, how: str) -> None:
    reader, manifest = ArtefactReader.open(built, "toy"), built / "toy.hnlm.json"
    if how == "begun":
        manifest.unlink()
    elif how == "users' text has joined":
        told = json.loads(manifest.read_text())
        told["files"]["toy.user_text.npy"] = told["files"]["toy.item_text.npy"]
        manifest.write_text(json.dumps(told))
    else:
        other = -contents.neg_vectors if how == "ended" else contents.neg_vectors
        write_artefact(built, "toy", dataclasses.replace(contents, neg_vectors=other), Provenance(encoder="test"))
    if how in ("begun", "ended"):
        with pytest.raises(ArtefactError, match=r"toy\.hnlm\.json has changed since it was opened.*run again when"):
            reader.bind(USERS, ITEMS)
    else:
        reader.bind(USERS, ITEMS)


def test_rows_of_every_pair(bound: BoundArtefact) -> None:
    known = {("u1", "i2"): [0, 1], ("u1", "i0"): [2, -1], ("u2", "i1"): [1, -1]}
    pairs = list(itertools.product(range(len(USERS)), range(len(ITEMS))))
    users, items = (np.array(ids) for ids in zip(*pairs, strict=True))
    rows = bound.pair_rows(users, items)
    assert rows.dtype == np.int64
    expected = [known.get((USERS[user], ITEMS[item]), [-1, -1]) for user, item in pairs]
    assert rows.tolist() == expected
    assert bound.coverage(users, items) == pytest.approx(3 / len(pairs))
    assert bound.coverage(users[:0], items[:0]) == 0.0


def test_vectors_are_those_written(bound: BoundArtefact, contents: ArtefactContents) -> None:
    rows = np.array([2, 0, 2])
    read = bound.read(rows)
    assert read.dtype == np.float16
    np.testing.assert_array_equal(read, contents.neg_vectors[rows].astype(np.float16))
    read[:] = 7  # a copy: the files stay as they are
    np.testing.assert_array_equal(bound.read(rows), contents.neg_vectors[rows].astype(np.float16))


def test_reading_row_by_row_is_reading_through_the_map(built: Path) -> None:
    by_map, by_row = (
        ArtefactReader.open(built, "toy").bind(USERS, ITEMS, resident_bytes=limit) for limit in (1 << 30, 17)
    )
    assert (by_map.mapped, by_row.mapped) == (True, False)  # the matrix has 18 bytes
    for rows in ([2, 0, 2], [1], []):
        found = by_row.read(np.array(rows, dtype=np.int64))
        np.testing.assert_array_equal(found, by_map.read(np.array(rows, dtype=np.int64)))
        assert found.shape == (len(rows), 3)
        found[:] = 7  # a copy
    with pytest.raises(IndexError, match="without a vector"):
        by_row.read(np.array([0, -1]))
    path = built / "toy.hnlm_emb.npy"
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(ArtefactError, match="became shorter"):
        by_row.read(np.array([2]))


@pytest.mark.parametrize("row", [-1, 3])
def test_a_row_that_is_not_there_is_refused(bound: BoundArtefact, row: int) -> None:
    with pytest.raises(IndexError, match="without a vector"):
        bound.read(np.array([0, row]))


def test_item_text_by_internal_id(bound: BoundArtefact, contents: ArtefactContents) -> None:
    vectors, mask = bound.item_text()
    assert vectors.dtype == np.float32
    assert mask.tolist() == [False, True, False, False, True, True]
    half = contents.item_vectors.astype(np.float16).astype(np.float32)
    np.testing.assert_array_equal(vectors[[1, 4, 5]], half[[3, 1, 0]])
    assert not vectors[~mask].any()


def test_padding_is_never_a_token(built: Path) -> None:
    bound = ArtefactReader.open(built, "toy").bind(["u1", *USERS[1:]], ITEMS)
    assert bound.pair_rows(np.array([0]), np.array([2])).tolist() == [[-1, -1]]


@pytest.mark.parametrize(
    ("users", "items", "message"),
    [(USERS, ITEMS[:-1], "item 'i0'"), ([*USERS[:3], "cold"], ITEMS, "user 'u10'")],
)
def test_a_token_the_dataset_lacks_is_refused(built: Path, users: list[str], items: list[str], message: str) -> None:
    with pytest.raises(ArtefactError, match=message) as error:
        ArtefactReader.open(built, "toy").bind(users, items)
    assert "recbole-hnlm build --dataset=toy --hnlm_rebuild=True" in str(error.value)


def test_many_pairs_against_a_dictionary(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    n_users, n_items, n_pairs = 300, 200, 20_000
    keys = rng.choice(n_users * n_items, n_pairs, replace=False)
    users, items = np.divmod(keys, n_items)
    rows = rng.integers(-1, 50, (n_pairs, 1))
    user_tokens = sorted(f"u{place}" for place in range(n_users))
    item_tokens = sorted(f"i{place}" for place in range(n_items))
    contents = ArtefactContents(
        user_tokens=user_tokens,
        item_tokens=item_tokens,
        pair_users=users,
        pair_items=items,
        neg_rows=rows,
        neg_ids=[f"n{row}" for row in range(50)],
        neg_vectors=rng.standard_normal((50, 8)),
        item_vectors=np.zeros((n_items, 8)),
        item_profiles=[""] * n_items,
        user_profiles=[""] * n_users,
        pairs=n_pairs,
        pairs_hash="0",
    )
    manifest = write_artefact(tmp_path, "big", contents, Provenance(encoder="x"))
    assert manifest.covered_pairs == (rows >= 0).sum()
    known = {
        (user_tokens[user], item_tokens[item]): row
        for user, item, row in zip(users.tolist(), items.tolist(), rows[:, 0].tolist(), strict=True)
    }
    internal_users = ["[PAD]", *rng.permutation(user_tokens).tolist()]
    internal_items = ["[PAD]", *rng.permutation(item_tokens).tolist()]
    bound = ArtefactReader.open(tmp_path, "big").bind(internal_users, internal_items)
    asked = rng.integers(0, n_users + 1, 5000), rng.integers(0, n_items + 1, 5000)
    expected = [known.get((internal_users[user], internal_items[item]), -1) for user, item in zip(*asked, strict=True)]
    assert bound.pair_rows(*asked)[:, 0].tolist() == expected


def test_no_pair_has_a_vector(tmp_path: Path, contents: ArtefactContents) -> None:
    empty = dataclasses.replace(
        contents, neg_rows=np.full((4, 1), -1), neg_ids=[], neg_vectors=np.zeros((0, 3), np.float32)
    )
    assert write_artefact(tmp_path, "toy", empty, Provenance(encoder="x")).coverage == 0
    bound = ArtefactReader.open(tmp_path, "toy").bind(USERS, ITEMS)
    assert bound.pair_rows(np.array([1, 2]), np.array([1, 2])).tolist() == [[-1], [-1]]
    assert bound.coverage(np.array([1]), np.array([1])) == 0.0
    assert bound.read(np.zeros(0, dtype=np.int64)).shape == (0, 3)
    assert "no pair has a vector" in describe(tmp_path, "toy")


def test_manifest_says_what_is_there(built: Path) -> None:
    manifest = read_manifest(built, "toy")
    assert (manifest.pairs, manifest.covered_pairs, manifest.coverage) == (4, 3, 0.75)
    assert (manifest.rows, manifest.width, manifest.negatives_per_pair) == (3, 3, 2)
    assert (manifest.users, manifest.items, manifest.items_with_text) == (3, 4, 3)
    assert manifest.provenance.teacher == {"model": "BPR"}
    assert manifest.pairs_hash == hash_pairs(["u1", "u1", "u2", "u10"], ["i2", "i0", "i1", "i3"])
    assert set(manifest.files) == {path.name for path in built.iterdir()} - {"toy.hnlm.json"}


def test_atomic_text_of_the_artefact(built: Path) -> None:
    assert (built / "toy.hnlm").read_text() == (
        "user_id:token\titem_id:token\tneg_id:token_seq\nu1\ti0\ti3\nu1\ti2\ti0 i1\nu2\ti1\ti1\n"
    )
    assert (built / "toy.item_profile").read_text().split("\n")[1:] == [
        "i0\tZero",
        "i1\tOne and more",
        "i2\t",
        'i3\tThree "quoted" 3" wide',
        "",
    ]
    assert (built / "toy.hnlm_emb").read_text().split("\n")[2] == "i1\t0.0 0.5 -0.25"
    assert "i2" not in (built / "toy.item_text").read_text()


@pytest.mark.parametrize("text", ['"Heat" is a film', '"Heat"', '"', '""', 'the "Heat"', '"He said ""no"" twice'])
def test_texts_that_begin_with_a_quote_are_read_by_pandas_and_by_us(
    text: str, tmp_path: Path, contents: ArtefactContents
) -> None:
    """RecBole reads with pandas, to which a quote at the beginning of a cell opens one that must close."""
    profiles = [text, *contents.item_profiles[1:]]
    write_artefact(tmp_path, "toy", dataclasses.replace(contents, item_profiles=profiles), Provenance(encoder="test"))
    table = pd.read_csv(tmp_path / "toy.item_profile", sep="\t", dtype=str, keep_default_na=False)
    assert table["profile:token_seq"].tolist()[0] == text and len(table) == 4
    assert read_profiles(ArtefactPaths(tmp_path, "toy"), "item_profile")["i0"] == text
    assert f"positive i0: {text}\n" in describe(tmp_path, "toy")


def test_describe_tells_of_files_that_are_cut_short_or_gone(built: Path) -> None:
    vectors = built / "toy.hnlm_emb.npy"
    vectors.write_bytes(vectors.read_bytes()[:-9])
    (built / "toy.user_profile").unlink()
    told = describe(built, "toy").split("\n")
    (cut,), (gone,) = ([line for line in told if f"toy.{name} " in line] for name in ("hnlm_emb.npy", "user_profile"))
    assert cut.endswith(f"DAMAGED: {vectors.stat().st_size:,} bytes on disk") and gone.endswith("MISSING")
    assert "hnlm_rebuild=True" in told[-2]


@pytest.mark.parametrize(
    ("name", "spoil", "told"),
    [
        ("hnlm", lambda data: data.replace(b"\t", b" "), "toy.hnlm: line 2 has 1 columns, expected 3"),
        ("hnlm", lambda data: bytes(len(data)), "toy.hnlm has fewer pairs than toy.hnlm.json says"),
        ("item_profile", lambda data: data.replace(b"\t", b" "), "toy.item_profile: line 2 has 1 columns, expected 2"),
    ],
)
def test_describe_names_a_file_that_it_cannot_read(
    built: Path, name: str, spoil: Callable[[bytes], bytes], told: str
) -> None:
    path = built / f"toy.{name}"
    path.write_bytes(spoil(path.read_bytes()))
    last = describe(built, "toy").splitlines()[-1]
    assert told in last and "hnlm_rebuild=True" in last


def test_describe_shows_numbers_and_sample_texts(built: Path) -> None:
    text = describe(built, "toy", samples=3)
    for part in ("coverage 75.0%", "test", "BPR", "toy.hnlm_emb.npy", "positive i2: (no text)"):
        assert part in text
    assert 'negative i3: Three "quoted" 3" wide' in text
    assert "user u1: first" in text


def test_memory_of_a_bound_artefact_does_not_grow_with_the_pairs(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    used = {}
    for n_pairs in (100, 80_000):
        keys = rng.choice(400 * 300, n_pairs, replace=False)
        contents = ArtefactContents(
            user_tokens=(users := sorted(f"u{place}" for place in range(400))),
            item_tokens=(items := sorted(f"i{place}" for place in range(300))),
            pair_users=keys // 300,
            pair_items=keys % 300,
            neg_rows=np.arange(n_pairs)[:, None],
            neg_ids=[f"n{place}" for place in range(n_pairs)],
            neg_vectors=np.ones((n_pairs, 8), dtype=np.float16),
            item_vectors=np.zeros((300, 8)),
            item_profiles=[""] * 300,
            user_profiles=[""] * 400,
            pairs=n_pairs,
            pairs_hash="0",
        )
        write_artefact(tmp_path, f"p{n_pairs}", contents, Provenance(encoder="x"), text_rows_limit=0)
        tracemalloc.start()
        bound = ArtefactReader.open(tmp_path, f"p{n_pairs}").bind(["[PAD]", *users], ["[PAD]", *items])
        bound.read(bound.pair_rows(keys[:64] // 300 + 1, keys[:64] % 300 + 1)[:, 0])
        used[n_pairs] = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
    assert used[80_000] < used[100] + 100_000  # the index alone is 1.3 MB


def test_a_second_writer_waits_for_the_first(tmp_path: Path, contents: ArtefactContents) -> None:
    writer = threading.Thread(target=write_artefact, args=(tmp_path, "toy", contents, Provenance(encoder="x")))
    with directory_lock(tmp_path):
        writer.start()
        writer.join(0.3)
        assert writer.is_alive()
        assert list(tmp_path.iterdir()) == []
    writer.join(10)
    assert ArtefactReader.open(tmp_path, "toy")


def test_leftovers_of_a_killed_writer_are_removed(tmp_path: Path, contents: ArtefactContents) -> None:
    mine, others = tmp_path / ".toy.hnlm.77.hnlm-tmp", tmp_path / ".toys.hnlm.77.hnlm-tmp"
    mine.touch()
    others.touch()
    write_artefact(tmp_path, "toy", contents, Provenance(encoder="x"))
    assert (mine.exists(), others.exists()) == (False, True)
