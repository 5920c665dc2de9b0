"""Training pairs as sorted keys: membership, the items left over, and what is refused."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recbole_hnlm.samplers import TrainingInteractions


def _built(pairs: list[tuple[int, int]], n_users: int, n_items: int) -> TrainingInteractions:
    users, items = torch.tensor(pairs).T
    return TrainingInteractions(users, items, n_users, n_items)


@st.composite
def _data(draw: st.DrawFn) -> tuple[list[tuple[int, int]], int, int]:
    """Pairs with duplicates, and table sizes, such that no user owns everything."""
    n_users, n_items = draw(st.integers(2, 9)), draw(st.integers(3, 40))
    pair = st.tuples(st.integers(1, n_users - 1), st.integers(1, n_items - 1))
    pairs = draw(st.lists(pair, min_size=1, max_size=120))
    spared = draw(st.lists(st.integers(1, n_items - 1), min_size=n_users, max_size=n_users))
    pairs = [(user, item) for user, item in pairs if item != spared[user]]
    if not pairs:
        pairs = [(1, 1 if spared[1] != 1 else 2)]
    return pairs, n_users, n_items


@given(_data())
@settings(max_examples=150, deadline=None)
def test_against_a_set_of_pairs(data: tuple[list[tuple[int, int]], int, int]) -> None:
    """Counts, membership, suspects and the items left over, all against Python sets and every (user, item)."""
    pairs, n_users, n_items = data
    known = set(pairs)
    interactions = _built(pairs, n_users, n_items)

    grid = torch.tensor(list(itertools.product(range(n_users), range(n_items))))
    users, items = grid.T
    expected = torch.tensor([(user, item) in known for user, item in grid.tolist()])
    assert torch.equal(interactions.contains(users, items), expected)

    suspects = set(interactions.suspects(users.unsqueeze(1), items.unsqueeze(1)).tolist())
    assert suspects >= set(expected.nonzero().flatten().tolist())

    for user in range(n_users):
        unseen = [item for item in range(1, n_items) if (user, item) not in known]
        assert int(interactions.user_counts[user]) == n_items - 1 - len(unseen)
        owner = torch.full((len(unseen),), user)
        assert interactions.unseen_counts(owner).tolist() == [len(unseen)] * len(unseen)
        assert interactions.unseen_item(owner, torch.arange(len(unseen))).tolist() == unseen
    counts = [sum((user, item) in known for user in range(n_users)) for item in range(n_items)]
    assert interactions.item_counts.tolist() == counts


@given(st.lists(st.tuples(st.integers(1, 31_667), st.integers(1, 38_047)), min_size=1, max_size=300))
@settings(max_examples=100, deadline=None)
def test_the_filter_misses_no_pair_of_a_large_catalogue(pairs: list[tuple[int, int]]) -> None:
    """Keys around 10**9, where a product of the hash wraps around."""
    interactions = _built(pairs, 31_668, 38_048)
    users, items = torch.tensor(pairs).T
    flagged = interactions.suspects(users.unsqueeze(1), items.unsqueeze(1))
    assert flagged.tolist() == list(range(len(pairs)))
    assert interactions.contains(users, items).all()


def test_the_filter_is_worth_its_memory() -> None:
    """Few non-members are suspects; a filter that suspects everybody would pass the test above."""
    generator = torch.Generator().manual_seed(3)
    users = torch.randint(1, 5_000, (50_000,), generator=generator)
    items = torch.randint(1, 9_000, (50_000,), generator=generator)
    interactions = TrainingInteractions(users, items, 5_000, 9_000)
    strangers = torch.randint(1, 5_000, (100_000, 1), generator=generator)
    asked = torch.randint(1, 9_000, (100_000, 4), generator=generator)
    share = len(interactions.suspects(strangers, asked)) / asked.numel()
    assert share < 0.08


def test_suspects_are_positions_in_the_flattened_items() -> None:
    interactions = _built([(1, 3), (2, 5)], 4, 50)
    items = torch.tensor([[3, 3, 4], [5, 5, 3]])
    flagged = set(interactions.suspects(torch.tensor([[1], [2]]), items).tolist())
    assert flagged >= {0, 1, 3, 4}


def test_contains_broadcasts() -> None:
    interactions = _built([(1, 3), (2, 5)], 4, 7)
    found = interactions.contains(torch.tensor([[1], [2], [3]]), torch.tensor([[3, 5]]))
    assert found.tolist() == [[True, False], [False, True], [False, False]]


def test_duplicates_are_merged() -> None:
    interactions = _built([(2, 3), (1, 2), (2, 3), (2, 1), (1, 2), (2, 3)], 3, 5)
    assert interactions.user_counts.tolist() == [0, 1, 2]
    assert interactions.item_counts.tolist() == [0, 1, 1, 1, 0]
    assert interactions.unseen_item(torch.tensor([2, 2, 1, 1, 1]), torch.tensor([0, 1, 0, 1, 2])).tolist() == [
        2,
        4,
        1,
        3,
        4,
    ]


def test_the_last_user_and_the_last_item() -> None:
    """Keys at the end of the table, where a search runs past it."""
    interactions = _built([(2, 4), (3, 4)], 4, 5)
    assert interactions.contains(torch.tensor([3, 3]), torch.tensor([4, 3])).tolist() == [True, False]
    assert interactions.unseen_item(torch.tensor([3, 3, 3]), torch.arange(3)).tolist() == [1, 2, 3]


def test_moving_returns_itself() -> None:
    interactions = _built([(1, 2)], 3, 5)
    assert interactions.to(torch.device("cpu")) is interactions
    assert interactions.device == torch.device("cpu")


class TestRefusals:
    def test_saturated_users(self) -> None:
        pairs = [(user, item) for user in (2, 4) for item in range(1, 5)] + [(1, 2)]
        with pytest.raises(
            ValueError, match=r"^2 user\(s\) have interacted with every item.*first internal id 2\)"
        ) as e:
            _built(pairs, 6, 5)
        assert "user_inter_num_interval" in str(e.value)

    def test_one_item_short_of_saturated(self) -> None:
        assert _built([(1, 1), (1, 2), (1, 4)], 2, 5).unseen_item(torch.tensor([1]), torch.tensor([0])).tolist() == [3]

    def test_duplicates_do_not_saturate(self) -> None:
        _built([(1, 1)] * 10, 2, 5)

    def test_empty(self) -> None:
        nothing = torch.zeros(0, dtype=torch.int64)
        with pytest.raises(ValueError, match="training split has no interactions"):
            TrainingInteractions(nothing, nothing, 3, 5)

    @pytest.mark.parametrize(
        ("pairs", "message"),
        [
            ([(0, 1)], r"user ids should lie in 1\.\.2, got 0\.\.0"),
            ([(3, 1), (1, 1)], r"user ids should lie in 1\.\.2, got 1\.\.3"),
            ([(1, 0)], r"item ids should lie in 1\.\.4, got 0\.\.0"),
            ([(1, 5)], r"item ids should lie in 1\.\.4, got 5\.\.5"),
            ([(1, -1), (2, 2)], r"item ids should lie in 1\.\.4, got -1\.\.2"),
        ],
    )
    def test_out_of_range(self, pairs: list[tuple[int, int]], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            _built(pairs, 3, 5)

    @pytest.mark.parametrize("shapes", [((2,), (3,)), ((2, 1), (2, 1))])
    def test_shapes(self, shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
        users, items = (torch.ones(shape, dtype=torch.int64) for shape in shapes)
        with pytest.raises(ValueError, match="should be of one length"):
            TrainingInteractions(users, items, 3, 5)
