"""What every negative sampler must do, as one mixin; and the tiny data and model that it is tried on.

Shapes: ``B`` pairs, ``C`` candidates per pair, ``D`` width of a row, ``H`` hops.
"""

from __future__ import annotations

import dataclasses
import random
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from recbole_hnlm.samplers import Negatives, NegativeSampler, TrainingInteractions
from recbole_hnlm.samplers.uniform import UniformSampler

N_USERS, N_ITEMS, WIDTH = 7, 13, 5
ONE_LEFT = 7
"""The only item that user 1 has not in training."""
POSITIVES: dict[int, set[int]] = {
    1: {item for item in range(1, N_ITEMS) if item != ONE_LEFT},
    2: {1},
    3: {N_ITEMS - 1},
    4: {1, 2, 3, 11, 12},
    5: {4, 6, 7, 8, 10},
}  # user 6 has nothing, so its items are all negatives


def tiny_interactions(positives: dict[int, set[int]] = POSITIVES, n_items: int = N_ITEMS) -> TrainingInteractions:
    """Training pairs, given by user."""
    pairs = [(user, item) for user, items in positives.items() for item in sorted(items)]
    users, items = torch.tensor(pairs).T
    return TrainingInteractions(users, items, n_users=max(N_USERS, max(positives) + 1), n_items=n_items)


def tiny_batch(times: int = 20) -> tuple[Tensor, Tensor]:
    """Every training pair ``times`` times, shapes ``(B,), (B,)``."""
    pairs = [(user, item) for user, items in POSITIVES.items() for item in sorted(items)] * times
    users, items = torch.tensor(pairs).T
    return users.contiguous(), items.contiguous()


class TensorView:
    """An :class:`EmbeddingView` over plain tensors: a user table and one item table per hop, all with gradient.

    Args:
        hops: ``H``; the final item table is the mean of the hops.
        seed: Seed of the tables.
        dtype: Type of their entries.
    """

    has_user_rows = True

    def __init__(self, hops: int = 1, seed: int = 0, dtype: torch.dtype = torch.float32) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.users = torch.randn(N_USERS, WIDTH, generator=generator, dtype=dtype, requires_grad=True)
        self.hops = [
            torch.randn(N_ITEMS, WIDTH, generator=generator, dtype=dtype, requires_grad=True) for _ in range(hops)
        ]
        self.n_hops = hops

    @property
    def items(self) -> Tensor:
        """The final item table, ``(N_ITEMS, D)``."""
        return torch.stack(self.hops).mean(dim=0)

    def score(self, users: Tensor, items: Tensor) -> Tensor:
        """Inner products of final rows; refuses to be asked with gradient."""
        assert not torch.is_grad_enabled(), "choosing must run under no_grad"
        return torch.einsum("bd,bcd->bc", self.users[users], self.items[items])

    def score_hop(self, hop: int, users: Tensor, items: Tensor) -> Tensor:
        """Inner products with one hop's rows; refuses to be asked with gradient."""
        assert not torch.is_grad_enabled(), "choosing must run under no_grad"
        return torch.einsum("bd,bcd->bc", self.users[users], self.hops[hop][items])

    def user_rows(self, users: Tensor) -> Tensor:
        """Final user rows."""
        return self.users[users]

    def item_rows(self, items: Tensor) -> Tensor:
        """Final item rows."""
        return self.items[items]

    def item_hop_rows(self, hop: int, items: Tensor) -> Tensor:
        """Item rows at one hop."""
        return self.hops[hop][items]


def options_for(sampler: type[NegativeSampler], **wanted: Any) -> Any:
    """The sampler's options with those of ``wanted`` that it has."""
    names = {field.name for field in dataclasses.fields(sampler.Options)}
    return sampler.Options(**{name: value for name, value in wanted.items() if name in names})


def build(
    sampler: type[NegativeSampler], seed: int = 1, interactions: TrainingInteractions | None = None, **wanted: Any
) -> NegativeSampler:
    """A sampler on the tiny data with its own generator."""
    generator = torch.Generator().manual_seed(seed)
    built = sampler(options_for(sampler, **wanted), interactions or tiny_interactions(), generator)
    built.build_gates(WIDTH, seed)
    return built


def global_random_state() -> tuple[Any, ...]:
    """The global state of torch, numpy and Python, comparable with ``==``."""
    kind, keys, *rest = np.random.get_state()
    return torch.get_rng_state().tolist(), kind, keys.tolist(), rest, random.getstate()


class SamplerContract:
    """Inherit, give a fixture ``sampler`` that returns the class, and every rule that all samplers obey is tried."""

    CANDIDATES = 6

    @pytest.fixture(params=[1, 3], ids=["one hop", "three hops"])
    def view(self, request: pytest.FixtureRequest) -> TensorView:
        return TensorView(hops=request.param)

    def drawn(self, sampler: type[NegativeSampler], view: TensorView, seed: int = 1, **wanted: Any) -> Negatives:
        built = build(sampler, seed, **{"candidates": self.CANDIDATES, "top_m": 3, **wanted})
        return built.sample(*tiny_batch(), view)

    def test_never_a_positive_nor_padding(self, sampler: type[NegativeSampler], view: TensorView) -> None:
        users, positives = tiny_batch()
        built = build(sampler, candidates=self.CANDIDATES, top_m=3)
        for _ in range(20):
            ids = built.sample(users, positives, view).ids
            assert ids.min() >= 1
            assert ids.max() < N_ITEMS
            for user, row in zip(users.tolist(), ids.tolist(), strict=True):
                assert not POSITIVES[user] & set(row)

    def test_the_one_item_left_is_found(self, sampler: type[NegativeSampler], view: TensorView) -> None:
        users, positives = tiny_batch()
        ids = self.drawn(sampler, view).ids
        assert (ids[users == 1] == ONE_LEFT).all()

    def test_a_user_without_training_pairs(self, sampler: type[NegativeSampler], view: TensorView) -> None:
        negatives = build(sampler, candidates=2, top_m=1).sample(
            torch.full((500,), 6), torch.ones(500, dtype=torch.int64), view
        )
        assert len(negatives.ids.unique()) > 1

    def test_ids(self, sampler: type[NegativeSampler], view: TensorView) -> None:
        users, _ = tiny_batch()
        ids = self.drawn(sampler, view).ids
        assert ids.dtype == torch.int64
        assert ids.shape == (len(users), self.CANDIDATES if sampler.weighs else 1)

    def test_rows(self, sampler: type[NegativeSampler], view: TensorView) -> None:
        rows = self.drawn(sampler, view).rows
        if not sampler.synthesizes:
            assert rows is None
            return
        assert rows is not None
        assert rows.shape == (len(tiny_batch()[0]), WIDTH)
        assert rows.dtype == view.users.dtype
        rows.sum().backward()
        for table in view.hops:
            assert table.grad is not None
            assert torch.isfinite(table.grad).all()
            assert table.grad.abs().sum() > 0

    def test_weights(self, sampler: type[NegativeSampler], view: TensorView) -> None:
        negatives = self.drawn(sampler, view)
        if not sampler.weighs:
            assert negatives.weights is None
            return
        assert negatives.weights is not None
        assert negatives.weights.shape == negatives.ids.shape
        assert not negatives.weights.requires_grad
        assert (negatives.weights >= 0).all()
        torch.testing.assert_close(negatives.weights.sum(dim=1), torch.ones(len(negatives.ids)))

    def test_same_generator_same_draws(self, sampler: type[NegativeSampler], view: TensorView) -> None:
        first, second, other = (self.drawn(sampler, view, seed) for seed in (1, 1, 2))
        assert torch.equal(first.ids, second.ids)
        for name in ("rows", "weights"):
            ours, theirs = getattr(first, name), getattr(second, name)
            assert (ours is None) == (theirs is None)
            assert ours is None or torch.equal(ours, theirs)
        assert not torch.equal(first.ids, other.ids)

    def test_draws_move_on(self, sampler: type[NegativeSampler], view: TensorView) -> None:
        built = build(sampler, candidates=self.CANDIDATES, top_m=3)
        first, second = (built.sample(*tiny_batch(), view).ids for _ in range(2))
        assert not torch.equal(first, second)

    def test_global_random_state_is_left_alone(self, sampler: type[NegativeSampler], view: TensorView) -> None:
        before = global_random_state()
        self.drawn(sampler, view)
        assert global_random_state() == before

    def test_arguments_and_gradient_mode_are_left_alone(self, sampler: type[NegativeSampler], view: TensorView) -> None:
        users, positives = tiny_batch()
        build(sampler, candidates=self.CANDIDATES, top_m=3).sample(users, positives, view)
        assert torch.is_grad_enabled()
        for left, untouched in zip((users, positives), tiny_batch(), strict=True):
            assert torch.equal(left, untouched)

    def test_one_candidate_is_a_uniform_draw(self, sampler: type[NegativeSampler], view: TensorView) -> None:
        if "candidates" not in {field.name for field in dataclasses.fields(sampler.Options)}:
            pytest.skip("draws no candidates")
        ids = self.drawn(sampler, view, candidates=1, top_m=1).ids
        uniform = build(UniformSampler).sample(*tiny_batch(), view).ids
        assert torch.equal(ids, uniform)

    def test_no_pairs_no_negatives(self, sampler: type[NegativeSampler], view: TensorView) -> None:
        """RecBole's loaders hand out no empty batch; should one come, it passes through."""
        nobody = torch.zeros(0, dtype=torch.int64)
        negatives = build(sampler, candidates=self.CANDIDATES, top_m=3).sample(nobody, nobody, view)
        assert negatives.ids.shape == (0, self.CANDIDATES if sampler.weighs else 1)
        assert negatives.rows is None or negatives.rows.shape == (0, WIDTH)
