"""Texts of items and users."""

from __future__ import annotations

import logging
from collections.abc import Callable

import numpy as np
import pytest

from recbole_hnlm.artefacts import AtomicTable
from recbole_hnlm.llm.profiles import History, fill_template, item_names, item_profiles, user_profiles

FIELDS = ("title", "brand", "release_year", "description")


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        (("Stapler.", "Bic", "1999", 'It is 3" wide.'), 'Stapler. brand: Bic; release year: 1999. It is 3" wide.'),
        (("Stapler", "", "", ""), "Stapler"),
        (("", "Bic", "", "Good"), "brand: Bic. Good"),
        (("", "", "", ""), ""),
        ((" a \t b ", "", "", ""), "a b"),
        (("one two three", "", "", "four five six seven eight nine"), "one two three. four five six seven"),
    ],
)
def test_template(cells: tuple[str, ...], expected: str) -> None:
    assert fill_template(FIELDS, cells, words=7 if "one" in cells[0] else 50) == expected


@pytest.fixture
def items(table: Callable[..., AtomicTable]) -> AtomicTable:
    return table({"item_id:token": ["b", "a", "b"], "title:token_seq": ["Bee", "Ay", "Other"]})


def test_item_profiles_follow_the_catalogue(items: AtomicTable, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert item_profiles(items, ["title"], ["a", "b", "zz"], 9) == ["Ay", "Bee", ""]
    assert "1 rows repeat a item_id" in caplog.text
    assert item_profiles(None, [], ["a"], 9) == [""]


def test_names_are_titles_or_the_first_words(table: Callable[..., AtomicTable]) -> None:
    items = table({"item_id:token": ["a"], "title:token": ["T"], "description:token_seq": ["w " * 30]})
    assert item_names(items, ["title", "description"], ["a"]) == ["T"]
    assert item_names(items, ["description"], ["a"]) == [" ".join("w" * 12)]


def test_recent_history_is_the_end_of_the_training_order() -> None:
    users, items = np.array([0, 1, 0, 0, 1]), np.array([5, 6, 7, 8, 9])
    assert History(users, items, length=2).of_users(3) == [[8, 7], [9, 6], []]
    assert History(users, items, length=1).of_users(3) == [[8], [9], []]


def test_random_history_is_seeded_and_blind_to_the_order_of_the_pairs() -> None:
    rng = np.random.default_rng(0)
    users, items = np.repeat([0, 1], 50), np.tile(np.arange(50), 2)
    order = rng.permutation(100)
    one = History(users, items, 10, "random", seed=1).of_users(2)
    assert one == History(users[order], items[order], 10, "random", seed=1).of_users(2)
    assert one != History(users, items, 10, "random", seed=2).of_users(2)
    assert one[0] != one[1]
    assert len(set(one[0])) == 10


def test_user_profiles(table: Callable[..., AtomicTable]) -> None:
    users = table({"user_id:token": ["u", "w"], "job:token": ["baker", ""]})
    history = History(np.array([0, 0, 1, 2]), np.array([0, 1, 1, 2]), length=5)
    profiles = user_profiles(users, ["job"], ["u", "v", "w"], ["Ay", "Bee.", ""], history, 50)
    assert profiles == ["job: baker. Chose: Bee; Ay", "Chose: Bee", ""]
    assert user_profiles(None, [], ["u"], ["Ay"], History(*np.zeros((2, 1), int), 0), 9) == [""]


def test_unknown_order() -> None:
    with pytest.raises(ValueError, match="expected recent or random"):
        History(np.zeros(1, int), np.zeros(1, int), order="newest").of_users(1)
