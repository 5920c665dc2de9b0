"""What is drawn follows the stated distribution, exactly, also for users who own most of the catalogue."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor

from recbole_hnlm.samplers import TrainingInteractions, candidates
from recbole_hnlm.samplers.candidates import PopularityCandidates, UniformCandidates
from tests.samplers.contract import N_ITEMS, POSITIVES, tiny_interactions

LEAST_P = 1e-3

# Item k of 1..26 occurs in about 27 - k users' training; user 1 owns all but four of the rarest, 98 % of the mass.
CATALOGUE = 29
LONERS = {24, 25, 26, 27}
POPULAR: dict[int, set[int]] = {
    1: set(range(1, 28)) - LONERS,
    2: {1, 5, 9},
    **{user: {item for item in range(1, 27) if item + user <= 30} for user in range(4, 30)},
    31: {27},
}


def _popular() -> TrainingInteractions:
    return tiny_interactions(POPULAR, n_items=CATALOGUE)


def _p_value(drawn: Tensor, expected: NDArray[np.float64]) -> float:
    """Chi-square of drawn ids against probabilities over the whole catalogue; 0 where an impossible id was drawn."""
    counts = np.bincount(drawn.flatten().numpy(), minlength=len(expected))
    possible = expected > 0
    if counts[~possible].any():
        return 0.0
    if possible.sum() == 1:  # one outcome leaves nothing to compare
        return 1.0
    return float(stats.chisquare(counts[possible], counts.sum() * expected[possible]).pvalue)


def _uniform_probabilities(user: int) -> NDArray[np.float64]:
    """The definition, item by item."""
    chance = np.array([0.0] + [0.0 if item in POSITIVES.get(user, set()) else 1.0 for item in range(1, N_ITEMS)])
    return chance / chance.sum()


def _popularity_probabilities(user: int, power: float) -> NDArray[np.float64]:
    """The definition, item by item, from the pairs and not from the counts of the class under test."""
    chance = np.zeros(CATALOGUE)
    for item in range(1, CATALOGUE):
        count = sum(item in items for items in POPULAR.values())
        if count and item not in POPULAR[user]:
            chance[item] = count**power
    return chance / chance.sum()


class TestUniform:
    @staticmethod
    def _draw(user: int, kind: type[UniformCandidates] = UniformCandidates, seed: int = 5) -> Tensor:
        drawer = kind(tiny_interactions(), torch.Generator().manual_seed(seed))
        return drawer.draw(torch.full((4_000,), user), 25)

    @pytest.mark.parametrize("user", [1, 2, 3, 4, 5, 6])
    def test_distribution(self, user: int) -> None:
        assert _p_value(self._draw(user), _uniform_probabilities(user)) > LEAST_P

    def test_users_of_one_batch_do_not_mix(self) -> None:
        drawer = UniformCandidates(tiny_interactions(), torch.Generator().manual_seed(6))
        users = torch.arange(1, 7).repeat(4_000)
        drawn = drawer.draw(users, 10)
        for user in range(1, 7):
            assert _p_value(drawn[users == user], _uniform_probabilities(user)) > LEAST_P

    def test_columns_are_alike_and_independent(self) -> None:
        drawn = self._draw(4)
        for column in (0, 12, 24):
            assert _p_value(drawn[:, column], _uniform_probabilities(4)) > LEAST_P
        free = np.flatnonzero(_uniform_probabilities(4))
        joint = np.array([[((drawn[:, 0] == a) & (drawn[:, 1] == b)).sum() for b in free] for a in free])
        assert stats.chi2_contingency(joint).pvalue > LEAST_P

    @pytest.mark.parametrize("user", [4, 5])
    def test_would_see_a_replacement_by_the_next_free_item(self, user: int) -> None:
        """The test above can fail: linear probing, a common shortcut, favours items behind runs of positives."""

        class Probing(UniformCandidates):
            def _replace(self, users: Tensor) -> Tensor:
                owned = torch.tensor(sorted(POSITIVES[user]))
                rank = (owned[torch.randint(len(owned), users.shape, generator=self.generator)]).clone()
                while (bad := self.interactions.contains(users, rank) | (rank == 0)).any():
                    rank[bad] = (rank[bad] + 1) % N_ITEMS
                return rank

        assert _p_value(self._draw(user, Probing), _uniform_probabilities(user)) < LEAST_P

    def test_would_see_a_missing_last_item(self) -> None:
        drawn = self._draw(2)
        assert _p_value(drawn[drawn != N_ITEMS - 1], _uniform_probabilities(2)) < LEAST_P


class TestPopularity:
    @staticmethod
    def _draw(user: int, power: float, count: int = 40_000) -> Tensor:
        drawer = PopularityCandidates(_popular(), torch.Generator().manual_seed(8), power)
        return drawer.draw(torch.full((count // 20,), user), 20)

    @pytest.mark.parametrize("power", [0.0, 0.75, 1.0, 2.0])
    @pytest.mark.parametrize("user", [2, 9])
    def test_distribution(self, user: int, power: float) -> None:
        assert _p_value(self._draw(user, power), _popularity_probabilities(user, power)) > LEAST_P

    @pytest.mark.parametrize("power", [0.75, 2.0])
    def test_a_user_who_owns_most_of_the_mass(self, power: float, monkeypatch: pytest.MonkeyPatch) -> None:
        """Redraws alone rarely end for this user, so the exact draw over the catalogue is in use as well."""
        exact = []
        original = PopularityCandidates._draw_over_catalogue

        def counted(self: PopularityCandidates, user: Tensor) -> Tensor:
            exact.append(int(user))
            return original(self, user)

        monkeypatch.setattr(PopularityCandidates, "_draw_over_catalogue", counted)
        drawn = self._draw(1, power, count=4_000)
        assert set(exact) == {1}
        assert len(exact) > 500
        assert set(drawn.unique().tolist()) == LONERS
        assert _p_value(drawn, _popularity_probabilities(1, power)) > LEAST_P

    @pytest.mark.parametrize("user", [1, 9])
    def test_without_redraws(self, user: int, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(candidates, "_REDRAWS", 0)
        assert _p_value(self._draw(user, 0.75, count=6_000), _popularity_probabilities(user, 0.75)) > LEAST_P

    def test_would_see_another_power(self) -> None:
        assert _p_value(self._draw(2, 0.75), _popularity_probabilities(2, 1.0)) < LEAST_P
        assert _p_value(self._draw(1, 2.0, count=4_000), _popularity_probabilities(1, 0.75)) < LEAST_P

    def test_would_see_a_uniform_replacement(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The test without redraws can fail: rejected draws replaced uniformly."""

        def uniformly(self: PopularityCandidates, users: Tensor) -> Tensor:
            return UniformCandidates(self.interactions, self.generator)._replace(users)

        monkeypatch.setattr(PopularityCandidates, "_replace", uniformly)
        assert _p_value(self._draw(9, 0.75, count=6_000), _popularity_probabilities(9, 0.75)) < LEAST_P

    def test_items_without_a_training_pair_are_never_drawn(self) -> None:
        assert CATALOGUE - 1 not in self._draw(2, 0.0).unique().tolist()

    def test_a_user_who_owns_everything_that_occurs(self) -> None:
        interactions = tiny_interactions({1: {1, 2, 3}, 2: {2}}, n_items=6)
        with pytest.raises(ValueError, match=r"1 user\(s\) have interacted with every item that occurs.*uniform"):
            PopularityCandidates(interactions, torch.Generator(), 0.75)


class TestTenMillionDraws:
    """On pairs as many, as sparse and as skewed as yelp2018's training split."""

    USERS, ITEMS, PAIRS = 31_669, 38_049, 1_130_000

    def _pairs(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        rng = np.random.default_rng(11)
        chances = [1.0 / (np.arange(1, count) + 30.0) ** 0.75 for count in (self.USERS, self.ITEMS)]
        users, items = (1 + rng.choice(len(p), self.PAIRS, p=p / p.sum()) for p in chances)
        return users, items

    def test_no_positive_and_no_padding(self) -> None:
        users, items = self._pairs()
        interactions = TrainingInteractions(torch.from_numpy(users), torch.from_numpy(items), self.USERS, self.ITEMS)
        asked = np.random.default_rng(12).choice(users, 312_500)  # as training asks: often for the busiest users
        drawn = UniformCandidates(interactions, torch.Generator().manual_seed(13)).draw(torch.from_numpy(asked), 32)
        assert drawn.numel() == 10_000_000
        assert drawn.min() == 1
        assert drawn.max() == self.ITEMS - 1
        keys = (asked[:, None] * self.ITEMS + drawn.numpy()).ravel()
        known = users * self.ITEMS + items
        assert not np.isin(keys, known).any()

        naive = np.random.default_rng(14).integers(1, self.ITEMS, 1_000_000)  # the check can fail: unchecked draws hit
        assert np.isin(asked.repeat(32)[:1_000_000] * self.ITEMS + naive, known).any()
