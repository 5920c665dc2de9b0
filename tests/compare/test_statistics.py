"""Numbers worked out by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from recbole_hnlm.compare.splits import held_out_share
from recbole_hnlm.compare.statistics import difference, holm, least_wilcoxon, mean_and_deviation


def test_holm_by_hand() -> None:
    """.005 x 4, .01 x 3, .03 x 2, and .04 x 1, which may not fall below the one before it."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_holm_leaves_out_what_was_not_tested_and_stops_at_one() -> None:
    assert holm([None, 0.02, None, 0.6, 0.7]) == [None, pytest.approx(0.06), None, 1.0, 1.0]
    assert holm([]) == []
    assert holm([0.02, math.nan, 0.6, 0.001]) == [pytest.approx(0.04), None, 0.6, pytest.approx(0.003)]


def test_difference_by_hand() -> None:
    """Differences 1, 2, 3: t = 2 sqrt(3) with 2 degrees of freedom, p = 1 - t / sqrt(t^2 + 2); all signs alike: 2/8."""
    told = difference({7: 11.0, 8: 12.0, 9: 13.0}, {7: 10.0, 8: 10.0, 9: 10.0})
    assert told is not None and told.seeds == 3
    t = 2 * math.sqrt(3)
    assert told.p_t == pytest.approx(1 - t / math.sqrt(t * t + 2))
    assert told.p_wilcoxon == pytest.approx(0.25) == least_wilcoxon(3)
    assert told.percent == pytest.approx(20.0)


def test_splits_that_overlap_by_hand() -> None:
    """Differences 1, 2, 3 again, whose variance of the mean is 1/3 + 1/8 of theirs, not 1/3."""
    ours, theirs = {7: 11.0, 8: 12.0, 9: 13.0}, {7: 10.0, 8: 10.0, 9: 10.0}
    told = difference(ours, theirs, held_out=0.125)
    assert told is not None
    t = 2 / math.sqrt(11 / 24)
    assert told.p_resampled == pytest.approx(1 - t / math.sqrt(t * t + 2))
    fixed, unknown = difference(ours, theirs), difference(ours, theirs, held_out=None)
    assert fixed is not None and fixed.p_resampled == pytest.approx(fixed.p_t) and told.p_t == fixed.p_t
    assert unknown is not None and unknown.p_resampled is None and unknown.p_t == fixed.p_t
    less = difference(theirs, ours, held_out=0.125)
    assert less is not None and less.p_resampled == pytest.approx(told.p_resampled)


@pytest.mark.parametrize(
    ("values", "share"),
    [
        ({}, 1 / 8),
        ({"eval_args": {"mode": "uni100"}}, 1 / 8),
        ({"eval_args": {"split": {"RS": [7, 1, 2]}}}, 2 / 7),
        ({"eval_args": {"order": "TO"}}, 0),
        ({"benchmark_filename": ["train", "valid", "test"]}, 0),
        ({"eval_args": {"split": {"LS": "valid_and_test"}}}, None),
        ({"eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO"}}, 0),
    ],
)
def test_what_a_split_holds_out(values: dict[str, Any], share: float | None) -> None:
    assert held_out_share(values) == (share if share is None else pytest.approx(share))
    counted = held_out_share(values, [{"pairs": [600, 200, 200]}, {"pairs": [500, 250, 250]}, {}])
    assert counted == (0 if share == 0 else pytest.approx((1 / 3 + 1 / 2) / 2))


def test_pairs_are_made_by_seed_and_not_by_place() -> None:
    """The same runs in another order, and a seed that one row lacks."""
    ours, theirs = {1: 0.30, 2: 0.20, 3: 0.15}, {1: 0.29, 2: 0.18, 3: 0.12}
    told = difference(ours, theirs)
    assert told == difference({3: 0.15, 1: 0.30, 2: 0.20, 9: 99.0}, dict(reversed(theirs.items())))
    crossed = difference(ours, {1: 0.12, 2: 0.29, 3: 0.18})
    assert told is not None and crossed is not None and told.p_t is not None and crossed.p_t is not None
    assert told.p_t < 0.1 < crossed.p_t


def test_too_few_seeds_give_no_p() -> None:
    told = difference({1: 0.3}, {1: 0.2, 2: 0.2})
    assert told is not None and (told.p_t, told.p_wilcoxon) == (None, None) and told.percent == pytest.approx(50)
    assert difference({1: 0.3}, {2: 0.3}) is None


def test_equal_rows_differ_by_nothing() -> None:
    told = difference({1: 0.3, 2: 0.4}, {1: 0.3, 2: 0.4})
    assert told is not None and (told.percent, told.p_t, told.p_wilcoxon) == (0.0, 1.0, 1.0)


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_equal_differences_are_no_certainty(seeds: int) -> None:
    """.1 at every seed but for rounding: t is infinite, or 1e15, and its p would be shown as <.001."""
    theirs = {seed: 0.1 + 0.02 * seed for seed in range(seeds)}
    told = difference({seed: value + 0.1 for seed, value in theirs.items()}, theirs)
    assert told is not None and told.p_t is None and told.p_wilcoxon == pytest.approx(least_wilcoxon(seeds))
    told = difference({seed: value + 0.1 + 1e-6 * seed for seed, value in theirs.items()}, theirs)
    assert told is not None and told.p_t is not None and told.p_t < 0.001


@pytest.mark.parametrize("seeds", [2, 8])
def test_copies_of_one_run_are_no_evidence(seeds: int) -> None:
    """EASE and Pop on a split that all seeds share: more seeds would make any p as small as one likes."""
    told = difference(dict.fromkeys(range(seeds), 0.3), dict.fromkeys(range(seeds), 0.2), 0.0)
    assert told is not None and (told.p_t, told.p_resampled, told.p_wilcoxon) == (None, None, None)
    varied = {seed: 0.3 + 0.01 * seed for seed in range(seeds)}
    told = difference(varied, dict.fromkeys(range(seeds), 0.2))
    assert told is not None and told.p_wilcoxon is not None


def test_figures_that_are_no_numbers_have_no_p() -> None:
    told = difference({1: math.nan, 2: 0.2, 3: 0.3}, {1: 0.1, 2: 0.1, 3: 0.1})
    assert told is not None and (told.p_t, told.p_wilcoxon) == (None, None)


def test_deviation_is_the_samples() -> None:
    assert mean_and_deviation([1.0, 2.0, 3.0, 4.0]) == (2.5, pytest.approx(math.sqrt(5 / 3)))
    assert mean_and_deviation([1.0]) == (1.0, None)


def test_five_seeds_are_too_few_for_wilcoxon() -> None:
    told = difference(dict(enumerate([1.1, 2.2, 3.3, 4.4, 5.5])), dict(enumerate([1.0, 2.0, 3.0, 4.0, 5.0])))
    assert told is not None and told.p_wilcoxon == pytest.approx(0.0625) == least_wilcoxon(5)


@pytest.mark.parametrize(
    ("differences", "p"),
    [
        ([1, 1, 1, 1, 1], 2 / 32),  # ties: all signs alike, one of 32 patterns at either end
        ([0, 1, 1, 2, 2], 2 / 16),  # a zero is left out
        ([-1, 2, 2, 3, 3], 4 / 32),  # ranks 1, 2.5, 2.5, 4.5, 4.5: as far out are the two ends of 13 and of 15
    ],
)
def test_wilcoxon_is_exact_with_ties_and_zeros(differences: list[int], p: float) -> None:
    """No normal approximation, which would fall below what so few seeds can give."""
    theirs = {seed: 10.0 + seed for seed in range(5)}
    told = difference({seed: theirs[seed] + one for seed, one in enumerate(differences)}, theirs)
    assert told is not None and told.p_wilcoxon == pytest.approx(p)


def hits(differences: list[int], base: list[int], users: int) -> tuple[dict[int, float], dict[int, float]]:
    """Two rows of so many hits over ``users``, as runs keep them."""
    sides = [base, [one + more for one, more in zip(base, differences, strict=True)]]
    theirs, ours = ({seed: round(count / users, 6) for seed, count in enumerate(side)} for side in sides)
    return ours, theirs


def test_ties_are_those_of_counts_and_not_of_their_rounding() -> None:
    """Ranks 1, 3, 3, 3 and a zero left out: 4 for and 6 against, in the middle of 16 patterns."""
    told = difference(*hits([6, 0, -6, -6, 4], [300, 311, 287, 295, 302], users=943))
    assert told is not None and told.p_wilcoxon == pytest.approx(1.0)
    rng = np.random.default_rng(0)
    for _ in range(150):
        differences, base = rng.integers(-6, 7, 5).tolist(), rng.integers(200, 400, 5).tolist()
        whole = difference({seed: one + 10.0 for seed, one in enumerate(differences)}, dict.fromkeys(range(5), 10.0))
        told = difference(*hits(differences, base, users=int(rng.integers(900, 6041))))
        assert told is not None and whole is not None and told.p_wilcoxon == whole.p_wilcoxon, (differences, base)


def test_small_differences_are_not_taken_for_none() -> None:
    """A hit of half a million users is 2e-6; .1 + .2 is .3."""
    told = difference({1: 0.200002, 2: 0.300001, 3: 0.1 + 0.2}, {1: 0.2, 2: 0.3, 3: 0.3})
    assert told is not None and told.p_wilcoxon == pytest.approx(least_wilcoxon(2))
    told = difference({1: 0.1 + 0.2, 2: 0.7 + 0.1}, {1: 0.3, 2: 0.8})
    assert told is not None and told.p_wilcoxon == 1.0
