"""Texts become catalogue items: against a loop over everything, and at the edges."""

from __future__ import annotations

import importlib.util
import logging

import numpy as np
import pytest
from numpy.typing import NDArray

from recbole_hnlm.llm import grounding
from recbole_hnlm.llm.figures import figures
from recbole_hnlm.llm.grounding import Grounding, GroundingInput, ground
from recbole_hnlm.llm.nearest import ItemIndex
from recbole_hnlm.options.text import GroundingOptions

USERS, ITEMS, NAMES = 9, 60, 25


def _unit(rng: np.random.Generator, rows: int, width: int = 8) -> NDArray[np.float32]:
    vectors = rng.normal(size=(rows, width))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture
def given() -> GroundingInput:
    """Some items without text, some all but equal, and one user who has nearly everything."""
    rng = np.random.default_rng(4)
    items = _unit(rng, ITEMS)
    items[10:14] = items[20]
    items[14] = (items[21] + 0.05 * items[22]) / np.linalg.norm(items[21] + 0.05 * items[22])
    items[[3, 30]] = 0
    keys = np.union1d(rng.choice(USERS * ITEMS, 120, replace=False), np.arange(ITEMS - 3))
    rng.shuffle(keys)
    names = _unit(rng, NAMES)
    names[:5] = items[20:25]  # texts that are an item, whoever has it
    names[5] = 0
    rows = rng.integers(-1, NAMES, (len(keys), 2))
    return GroundingInput(keys // ITEMS, keys % ITEMS, rows, names, items)


def _by_loops(given: GroundingInput, options: GroundingOptions) -> tuple[list[list[list[int]]], int]:
    """The definition, text by text and item by item; and how many texts got an item."""
    had: dict[int, set[int]] = {}
    for user, item in zip(given.pair_users.tolist(), given.pair_items.tolist(), strict=True):
        had.setdefault(user, set()).add(item)
    result, grounded = [], 0
    for user, positive, rows in zip(given.pair_users, given.pair_items, given.name_rows, strict=True):
        of_pair = []
        for row in rows:
            near = []
            for item in range(ITEMS):
                if row < 0 or not given.items[item].any() or not given.names[row].any() or item in had[user]:
                    continue
                if float(given.items[item] @ given.items[positive]) >= options.ground_duplicates_above:
                    continue
                similarity = float(given.names[row] @ given.items[item])
                if similarity >= options.ground_min_similarity:
                    near.append((-round(similarity, 6), item))
            chosen = [item for _, item in sorted(near)[: options.ground_items]]
            of_pair.append(chosen + [-1] * (options.ground_items - len(chosen)))
            grounded += bool(chosen)
        result.append(of_pair)
    return result, grounded


def _check(found: Grounding, given: GroundingInput, options: GroundingOptions) -> None:
    expected, grounded = _by_loops(given, options)
    known = found.items >= 0
    assert found.items.shape == (len(given.pair_users), 2, options.ground_items)
    # Equal items (10 to 13 and 20) may stand for each other, as their similarity is the same.
    same = np.arange(ITEMS)
    same[10:14] = 20
    assert np.where(known, same[found.items], -1).tolist() == [
        [[same[item] if item >= 0 else -1 for item in items] for items in pair] for pair in expected
    ]
    assert found.counts.grounded == grounded
    pairs, negatives, _ = np.nonzero(known)
    cosine = np.einsum("ns,ns->n", given.names[given.name_rows[pairs, negatives]], given.items[found.items[known]])
    np.testing.assert_allclose(found.similarity[known], cosine, atol=1e-6)
    assert (found.similarity[~known] == 0).all()


@pytest.mark.parametrize(
    "options",
    [
        GroundingOptions(),
        GroundingOptions(ground_items=3),
        GroundingOptions(ground_duplicates_above=0.5, ground_items=2),
        GroundingOptions(ground_min_similarity=0.6),
        GroundingOptions(ground_min_similarity=-1.0, ground_items=70),
    ],
)
@pytest.mark.parametrize("neighbours", [2, 64])
def test_against_loops(
    given: GroundingInput, options: GroundingOptions, neighbours: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grounding, "_NEIGHBOURS", neighbours)
    monkeypatch.setattr(grounding, "_BLOCK_PAIRS", 7)
    monkeypatch.setattr(grounding, "_BLOCK_NAMES", 10)
    found = ground(given, options)
    _check(found, given, options)
    if neighbours == 2 and options.ground_min_similarity <= 0 and options.ground_items < 60:
        assert found.counts.searched_whole > 0
    assert found.counts.seen > 0


def test_the_text_of_an_item_that_is_free_finds_it() -> None:
    items = np.eye(4, dtype=np.float32)
    given = GroundingInput(np.array([0, 1]), np.array([0, 1]), np.array([[2], [1]]), items, items)
    found = ground(given, GroundingOptions(ground_min_similarity=0.5))
    assert found.items.ravel().tolist() == [2, -1]  # the second text is an item that its user has
    assert found.similarity.ravel().tolist() == [1, 0]
    assert (found.coverage, found.counts.seen) == (0.5, 1)
    assert found.quantiles()[0.5] == 1


def test_near_duplicates_of_the_positive_are_passed_over() -> None:
    items = np.array([[1, 0], [0.96, 0.28], [0.6, 0.8]], dtype=np.float32)
    given = GroundingInput(np.array([0]), np.array([0]), np.array([[0]]), items[:1], items)
    assert ground(given, GroundingOptions(ground_duplicates_above=0.95)).items.ravel().tolist() == [2]
    assert ground(given, GroundingOptions(ground_duplicates_above=0.97)).items.ravel().tolist() == [1]
    assert ground(given, GroundingOptions(ground_duplicates_above=0.95)).counts.duplicates == 1


def test_the_report(given: GroundingInput, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        found = ground(given, GroundingOptions())
    assert figures([("coverage of pairs", f"{found.coverage:.2%}")]) in caplog.text
    assert len(found.quantiles()) == 5
    assert list(found.quantiles().values()) == sorted(found.quantiles().values())


def test_nothing_to_ground() -> None:
    empty = GroundingInput(
        np.zeros(2, int), np.arange(2), np.full((2, 1), -1), np.zeros((0, 3), np.float32), np.eye(3, dtype=np.float32)
    )
    found = ground(empty, GroundingOptions())
    assert (found.coverage, found.quantiles(), found.counts.texts) == (0.0, {}, 0)
    blank = GroundingInput(*(empty.pair_users, empty.pair_items, empty.name_rows, empty.names), np.zeros((3, 3), "f4"))
    with pytest.raises(ValueError, match="no item has a text vector"):
        ground(blank, GroundingOptions())


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"ground_items": 0}, "llm_ground_items=0"),
        ({"ground_duplicates_above": 0.0}, r"llm_ground_duplicates_above=0.0 is outside \(0, 1\]"),
        ({"ground_min_similarity": 2.0}, "llm_ground_min_similarity=2.0"),
        ({"ground_search": "fast"}, "llm_ground_search='fast'"),
    ],
)
def test_options_out_of_range(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GroundingOptions(**wrong)  # type: ignore[arg-type]


def test_exact_search_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(5)
    queries, items = _unit(rng, 33), _unit(rng, 50)
    monkeypatch.setattr("recbole_hnlm.llm.nearest._BLOCK_NUMBERS", 200)
    rows, products = ItemIndex(items, "exact").nearest(queries, 7)
    whole = queries @ items.T
    assert np.array_equal(rows, np.argsort(-whole, axis=1, kind="stable")[:, :7])
    np.testing.assert_allclose(products, -np.sort(-whole, axis=1)[:, :7], atol=1e-6)


@pytest.mark.parametrize("best", [0, 2])
def test_of_equal_products_the_first_rows_are_found_however_many_there_are(best: int) -> None:
    """Thin text: more items with one text than are asked for, ``best`` of the last nearer than those."""
    items = np.tile(np.float32([0.6, 0.8]), (10, 1))
    items[10 - best :] = [1.0, 0.0]
    rows, _ = ItemIndex(items, "exact").nearest(np.float32([[1.0, 0.0], [0.0, 1.0]]), 4)
    assert rows.tolist() == [[*range(10 - best, 10), *range(4 - best)], [0, 1, 2, 3]]


@pytest.mark.skipif(importlib.util.find_spec("faiss") is None, reason="faiss is not installed")
def test_faiss_finds_nearly_all() -> None:
    rng = np.random.default_rng(6)
    items = _unit(rng, 4000, 16)
    queries = items[::40] + rng.normal(0, 0.05, (100, 16)).astype(np.float32)
    rows, products = ItemIndex(items, "faiss").nearest(queries, 10)
    exact, _ = ItemIndex(items, "exact").nearest(queries, 10)
    shared = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(rows.tolist(), exact.tolist(), strict=True)])
    assert shared > 0.9
    assert (rows[:, 0] == exact[:, 0]).mean() > 0.95
    assert (np.diff(products, axis=1) <= 0).all()


def test_faiss_is_said_to_be_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ImportError, match="pip install faiss-cpu"):
        ItemIndex(np.eye(2, dtype=np.float32), "faiss")
