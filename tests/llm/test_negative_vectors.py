"""Texts in the catalogue's space, and one vector per pair out of several."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from recbole_hnlm.llm.cache import VectorCache
from recbole_hnlm.llm.encoders import TextEncoder
from recbole_hnlm.llm.grounding import GroundingInput, ground
from recbole_hnlm.llm.negative_stage import NegativeTexts
from recbole_hnlm.llm.negative_vectors import embed_texts, pool_negatives
from recbole_hnlm.llm.text_space import TextSpace
from recbole_hnlm.llm.text_vectors import centre_and_normalise
from recbole_hnlm.options.text import GroundingOptions


@pytest.mark.parametrize("width", [0, 3, 99])
def test_the_space_is_that_of_the_catalogue(width: int) -> None:
    rng = np.random.default_rng(7)
    raw = rng.normal(size=(30, 6)).astype(np.float32)
    mask = np.arange(30) != 4
    expected = centre_and_normalise(raw, mask, width)
    projected = TextSpace.of(raw, mask, width).project(raw)
    np.testing.assert_allclose(projected[mask], expected[mask], atol=1e-6)
    assert projected.shape == expected.shape


def test_the_mean_has_no_direction() -> None:
    space = TextSpace.of(np.array([[1, 0], [3, 2]], np.float32), np.ones(2, bool))
    assert space.project(np.array([[2, 1]], np.float32)).tolist() == [[0, 0]]
    with pytest.raises(ValueError, match="no item has a text vector"):
        TextSpace.of(np.ones((2, 2), np.float32), np.zeros(2, bool))


def test_several_negatives_are_averaged() -> None:
    vectors = np.array([[1, 0], [0, 1], [-1, 0], [0, 0]], dtype=np.float32)
    rows = np.array([[0, 1], [1, 0], [1, -1], [-1, -1], [0, 2], [3, -1], [3, 0], [0, 0]])
    pooled = pool_negatives(NegativeTexts(["a", "b", "c", "d"], rows), vectors)
    got = [pooled.neg_vectors[row].tolist() if row >= 0 else None for row in pooled.neg_rows[:, 0]]
    half = pytest.approx([0.5**0.5] * 2, abs=1e-3)
    assert got[:2] == [half, half]
    assert got[2:] == [[0, 1], None, None, None, [1, 0], [1, 0]]  # opposites cancel out, a zero does not count
    assert pooled.neg_rows[0] == pooled.neg_rows[1]
    assert len(set(pooled.neg_ids)) == len(pooled.neg_ids) == len(pooled.neg_vectors)
    assert all(neg_id.startswith("text:") and " " not in neg_id for neg_id in pooled.neg_ids)


def test_no_pairs() -> None:
    pooled = pool_negatives(NegativeTexts([], np.zeros((0, 2), np.int64)), np.zeros((0, 4), np.float32))
    assert (pooled.neg_rows.shape, pooled.neg_ids, pooled.neg_vectors.shape) == ((0, 1), [], (0, 4))


def test_names_of_vectors_follow_from_their_texts() -> None:
    def ids(names: list[str], rows: list[list[int]]) -> list[str]:
        vectors = np.eye(5, dtype=np.float32)[: len(names)]
        return pool_negatives(NegativeTexts(names, np.array(rows)), vectors).neg_ids

    assert ids(["a", "b"], [[1, 0]]) == ids(["a", "aa", "b"], [[0, 2]])
    assert ids(["a", "b"], [[1, 0]]) != ids(["a", "b"], [[1, -1]])


def test_real_text_is_grounded_to_what_it_means(minilm: TextEncoder, tmp_path: Path) -> None:
    items = [
        *("Black ballpoint pens, pack of 12", "Wireless optical mouse", "A4 copy paper, 500 sheets", "", "Desk lamp"),
        *("Blue ballpoint pens, pack of 12", "USB keyboard", "Heavy duty stapler"),
    ]
    texts = NegativeTexts(["cordless gaming mouse", "ream of printer paper"], np.array([[0], [1], [-1]]))
    cache = VectorCache(tmp_path, minilm)
    embedded = embed_texts(texts, items, minilm, cache, batch_size=8)
    assert embedded.encoded == 9
    assert embed_texts(texts, items, minilm, cache, batch_size=8).encoded == 0
    assert not embedded.items[3].any()
    given = GroundingInput(np.array([0, 1, 1]), np.array([0, 6, 2]), texts.rows, embedded.names, embedded.items)
    found = ground(given, GroundingOptions())
    assert found.items[0, 0, 0] == 1
    assert found.items[1, 0, 0] != 2  # the second user has the paper
    assert found.items[2, 0, 0] == -1
    assert found.similarity[0, 0, 0] > 0.5
    narrow = embed_texts(texts, items, minilm, cache, width=4, batch_size=8)
    assert narrow.names.shape == (2, 4)
