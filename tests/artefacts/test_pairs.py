"""Hash of the pairs, ranks and index."""

from __future__ import annotations

import numpy as np
import pytest

from recbole_hnlm.artefacts.lookup import PairIndex
from recbole_hnlm.artefacts.pairs import (
    build_index,
    hash_pairs,
    hash_pairs_of_ids,
    item_neg_id,
    neg_id_item,
    rank_tokens,
    ranks_in,
)


def test_hash_ignores_order_repetition_and_container() -> None:
    users, items = ["b", "a", "a"], ["x", "y", "x"]
    expected = hash_pairs(users, items)
    assert hash_pairs(users[::-1], items[::-1]) == expected
    assert hash_pairs([*users, "a"], [*items, "y"]) == expected
    assert hash_pairs(np.array(users), np.array(items)) == expected
    assert hash_pairs(np.array(users, dtype=object), np.array(items, dtype=object)) == expected


def test_hash_sees_every_change() -> None:
    hashes = {
        hash_pairs(users, items)
        for users, items in (
            (["a", "b"], ["x", "y"]),
            (["a", "b"], ["y", "x"]),  # the same tokens, paired otherwise
            (["a"], ["x"]),
            (["x", "y"], ["a", "b"]),
            (["a", "b", "b"], ["x", "y", "x"]),
            (["a ", "b"], ["x", "y"]),
            ([], []),
        )
    }
    assert len(hashes) == 7


def test_hash_is_stable_over_versions() -> None:
    assert hash_pairs(["u1", "ü2"], ["i1", "i2"]) == "b5d2ba3dd3527208ffd03cd3ead3eac9b2b8aaf8e219693e4455fe644f6665ac"


@pytest.mark.parametrize("token", ["a\tb", "a\nb", "a\r", ""])
def test_hash_refuses_tokens_that_no_file_can_hold(token: str) -> None:
    with pytest.raises(ValueError, match="without tab or line break"):
        hash_pairs([token], ["x"])


def test_hash_refuses_unequal_lengths() -> None:
    with pytest.raises(ValueError, match="2 users for 1 items"):
        hash_pairs(["a", "b"], ["x"])
    with pytest.raises(ValueError, match="2 users for 1 items"):
        hash_pairs_of_ids(["a", "b"], ["x"], np.array([0, 1]), np.array([0]))


@pytest.mark.parametrize("dtype", [object, str])
def test_hash_of_ids_is_that_of_their_tokens(dtype: type) -> None:
    rng = np.random.default_rng(1)
    users = np.array(["[PAD]", *(f"u{number}" for number in rng.permutation(30))], dtype=dtype)
    items = np.array(["[PAD]", *(f"ï{number}" for number in rng.permutation(50))], dtype=dtype)
    user_ids, item_ids = rng.integers(1, 25, 200), rng.integers(10, 51, 200)  # some occur in no pair, some pairs twice
    expected = hash_pairs(users[user_ids], items[item_ids])
    assert hash_pairs_of_ids(users, items, user_ids, item_ids) == expected
    user_ids[3] = 1 + user_ids[3] % 24
    assert hash_pairs_of_ids(users, items, user_ids, item_ids) != expected


def test_hash_of_ids_looks_only_at_tokens_in_use() -> None:
    ids = np.array([1])
    assert hash_pairs_of_ids(["a\tb", "u"], ["", "i"], ids, ids) == hash_pairs(["u"], ["i"])
    with pytest.raises(ValueError, match="without tab or line break"):
        hash_pairs_of_ids(["[PAD]", "a\tb"], ["[PAD]", "i"], ids, ids)


def test_ranks_are_places_among_the_sorted_tokens() -> None:
    names, ranks = rank_tokens(["u2", "u10", "u2", "a"])
    assert names == ["a", "u10", "u2"]
    assert ranks.tolist() == [2, 1, 2, 0]
    assert ranks_in(["u2", "zz", "a"], names).tolist() == [2, -1, 0]


def test_index_is_sorted_and_leaves_out_pairs_without_vectors() -> None:
    index = build_index(
        np.array([1, 0, 0, 2]), np.array([0, 1, 0, 2]), 3, np.array([[5, -1], [-1, 7], [-1, -1], [1, 2]])
    )
    assert index.tolist() == [[1, 3, 8], [7, 5, 1], [-1, -1, 2]]


def test_index_refuses_a_pair_twice() -> None:
    with pytest.raises(ValueError, match="occurs twice"):
        build_index(np.array([1, 1]), np.array([0, 0]), 3, np.array([[0], [1]]))


@pytest.mark.parametrize("token", ["i1", "Toy Story", "100% wool", "a%20b", "%", " "])
def test_neg_id_of_an_item_has_no_space_and_reads_back(token: str) -> None:
    assert " " not in item_neg_id(token)
    assert neg_id_item(item_neg_id(token)) == token


@pytest.mark.parametrize("spread", [1, 3, 10**6, 10**12])
@pytest.mark.parametrize("count", [0, 1, 7, 5000])
def test_lookup_finds_every_key_and_no_other(spread: int, count: int) -> None:
    rng = np.random.default_rng(count)
    keys = np.unique(np.concatenate([rng.integers(0, spread * count + 1, count), np.arange(count // 2)]))
    index = PairIndex(np.stack([keys, np.arange(len(keys)) * 2, -np.arange(len(keys))]))
    near = np.concatenate([keys, keys - 1, keys + 1, [-1, 0, -(1 << 62), 1 << 62], rng.integers(0, spread * 9 + 9, 50)])
    place = {key: at for at, key in enumerate(keys.tolist())}
    expected = [[2 * place[key], -place[key]] if key in place else [-1, -1] for key in near.tolist()]
    assert index.rows(near).tolist() == expected
    assert index.locate(near)[1].tolist() == [key in place for key in near.tolist()]
