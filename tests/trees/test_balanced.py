"""The tree: sizes, capacity by ascending distance, determinism, and that it finds clusters."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from recbole_hnlm.trees.balanced import balanced_tree, nearest_with_room
from recbole_hnlm.trees.spectral import co_occurrence_vectors, unit


def vectors(count: int, width: int = 4, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=(count, width)).astype(np.float32)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 400), st.integers(2, 6), st.integers(0, 40), st.integers(0, 3))
def test_nodes_are_balanced_and_leaves_small(count: int, branches: int, more: int, seed: int) -> None:
    leaf = branches + more
    codes = balanced_tree(vectors(count, seed=seed), branches=branches, leaf=leaf, seed=seed)
    assert codes.dtype == np.int8 and codes.min() >= -1 and codes.max() < branches
    for level in range(codes.shape[1]):
        sizes = Counter(tuple(path[:level]) for path in codes.tolist() if path[level] >= 0)
        children = Counter(tuple(path[: level + 1]) for path in codes.tolist() if path[level] >= 0)
        for node, size in sizes.items():
            assert size > leaf or codes.shape[1] == 1  # nothing is split that fits a leaf
            parts = [children[(*node, child)] for child in range(branches)]
            assert max(parts) - min(parts) <= 1 or count <= leaf
    leaves = Counter(map(tuple, codes.tolist()))
    assert max(leaves.values()) <= leaf
    ends = (codes >= 0).sum(axis=1)
    assert ends.max() - ends.min() <= 1 and ends.min() >= 1


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 5), st.integers(1, 4), st.integers(0, 1000))
def test_capacity_by_ascending_distance_against_a_loop(nodes: int, branches: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    there = np.arange(9) < rng.integers(1, 10, nodes)[:, None]
    distance = rng.random((nodes, 9, branches)).astype(np.float32)
    sizes = there.sum(axis=1, keepdims=True)
    capacity = sizes // branches + (np.arange(branches) < sizes % branches)
    found = nearest_with_room(distance, there, capacity)
    for node in range(nodes):
        room, part = capacity[node].tolist(), {}
        pairs = sorted((distance[node, m, c], m, c) for m in range(9) if there[node, m] for c in range(branches))
        for _, member, centre in pairs:
            if member not in part and room[centre]:
                part[member] = centre
                room[centre] -= 1
        assert found[node].tolist() == [part.get(member, -1) for member in range(9)]


def test_same_seed_same_tree() -> None:
    rows = vectors(300)
    first, second, other = (balanced_tree(rows, seed=seed) for seed in (5, 5, 6))
    assert np.array_equal(first, second) and not np.array_equal(first, other)


def test_far_clusters_come_apart_at_the_root() -> None:
    centres = np.eye(4, dtype=np.float32) * 10
    owner = np.arange(160) % 4
    codes = balanced_tree(centres[owner] + 0.1 * vectors(160), seed=1)
    assert len({(child, cluster) for child, cluster in zip(codes[:, 0].tolist(), owner.tolist(), strict=True)}) == 4


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_parts_are_those_of_their_centres_whatever_the_length_of_rows(seed: int) -> None:
    """K-means has come to rest: under capacity every row is where its distance to the parts' means puts it."""
    rows = (vectors(60, seed=seed) * np.linspace(0.1, 3, 60)[:, None]).astype(np.float32)
    part = balanced_tree(rows, branches=3, seed=seed)[:, 0]
    centres = np.stack([rows[part == child].mean(axis=0) for child in range(3)])
    distance = ((rows[:, None] - centres) ** 2).sum(axis=2)
    found = nearest_with_room(distance[None], np.ones((1, 60), dtype=bool), np.full((1, 3), 20))
    assert found[0].tolist() == part.tolist()


def test_rows_of_zeros_have_no_path() -> None:
    rows = vectors(100)
    rows[[0, 7]] = 0
    codes = balanced_tree(rows)
    assert (codes[[0, 7]] == -1).all() and (codes[1:7, 0] >= 0).all()
    assert (balanced_tree(np.zeros((3, 2), dtype=np.float32)) == -1).all()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [({"branches": 1}, "branches=1, leaf=30"), ({"branches": 4, "leaf": 3}, "no smaller leaf")],
)
def test_options_that_are_refused(wrong: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        balanced_tree(vectors(5), **wrong)  # type: ignore[arg-type]


def test_vectors_that_are_no_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="NaN or infinity"):
        balanced_tree(np.full((3, 2), np.nan, dtype=np.float32))


def test_leading_eigenvectors_against_a_dense_matrix() -> None:
    """The subspace of the normalised item-item matrix; eigenvectors themselves are fixed up to sign."""
    rng = np.random.default_rng(0)
    matrix = (rng.random((30, 20)) < 0.3).astype(float)
    matrix[:, 0] = matrix[0] = 0  # padding
    users, items = np.nonzero(matrix)
    found = co_occurrence_vectors(np.repeat(users, 2), np.repeat(items, 2), (30, 20), count=5)  # pairs twice
    scaled = matrix / np.sqrt(np.maximum(matrix.sum(1, keepdims=True), 1)) / np.sqrt(np.maximum(matrix.sum(0), 1))
    _, leading = np.linalg.eigh(scaled.T @ scaled)
    rows = leading[:, -5:]
    rows = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    assert not found[0].any()
    np.testing.assert_allclose(found[1:] @ found[1:].T, rows[1:] @ rows[1:].T, atol=1e-4)


def test_two_tastes_are_two_directions() -> None:
    users, items = (side.ravel() + 1 for side in np.meshgrid(np.arange(20), np.arange(20)))
    same = users % 2 == items % 2
    rows = co_occurrence_vectors(users[same], items[same], (21, 21), count=2)
    cosine = unit(rows)[1:] @ unit(rows)[1:].T
    parity = (np.arange(20)[:, None] % 2) == (np.arange(20) % 2)
    assert cosine[parity].min() > 0.99 and np.abs(cosine[~parity]).max() < 0.01


def test_a_single_item_has_a_place() -> None:
    rows = co_occurrence_vectors(np.array([1, 2]), np.array([1, 1]), (3, 2))
    assert rows.tolist() == [[0.0], [1.0]]
