"""The sampler over grounded negatives: the contract with a table, shares, and what a table may hold."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch
from scipy import stats
from torch import Tensor

from recbole_hnlm.samplers import NegativeSampler, TrainingInteractions, sampler_class
from recbole_hnlm.samplers.semantic import GroundedTable, SemanticOptions, SemanticSampler
from tests.samplers.contract import (
    N_ITEMS,
    POSITIVES,
    SamplerContract,
    TensorView,
    build,
    tiny_batch,
    tiny_interactions,
)

GROUNDED = {(1, 1): [7], (2, 1): [5, 6], (4, 2): [4, 5, 6], (4, 3): [10]}


def tiny_table(interactions: TrainingInteractions, grounded: dict[tuple[int, int], list[int]]) -> GroundedTable:
    """A table out of lists, as wide as the longest."""
    width = max(map(len, grounded.values()), default=1)
    users, items = (torch.tensor([pair[side] for pair in grounded], dtype=torch.int64) for side in (0, 1))
    rows = [[0] * (width - len(ids)) + ids for ids in grounded.values()]
    return GroundedTable(users, items, torch.tensor(rows, dtype=torch.int64).view(-1, width), interactions)


def with_table(**fixed: Any) -> type[NegativeSampler]:
    """The sampler with a table from the start and some options fixed."""

    class Grounded(SemanticSampler):
        def __init__(self, options: Any, interactions: TrainingInteractions, generator: torch.Generator) -> None:
            super().__init__(SemanticOptions(options.candidates, **fixed), interactions, generator)
            self.use(tiny_table(interactions, GROUNDED))

    return Grounded


class TestContractWithATable(SamplerContract):
    @pytest.fixture(params=["dns", "ahns", "random"])
    def sampler(self, request: pytest.FixtureRequest) -> type[NegativeSampler]:
        return with_table(share=0.5, rule=request.param)

    def test_one_candidate_is_a_uniform_draw(self, sampler: type[NegativeSampler], view: TensorView) -> None:
        """Here it is a grounded item in half of the draws."""
        users, positives = tiny_batch(200)
        ids = build(sampler, candidates=1).sample(users, positives, view).ids[:, 0]
        only = ids[(users == 4) & (positives == 3)]
        assert 0.4 < (only == 10).float().mean() < 0.8


def _ids(share: float, pair: tuple[int, int], draws: int = 4000) -> Tensor:
    users, positives = (torch.full((draws,), side) for side in pair)
    return build(with_table(share=share, rule="random"), candidates=3).sample(users, positives, TensorView()).ids


def test_all_candidates_grounded() -> None:
    ids = _ids(1.0, (4, 2))
    counts = torch.bincount(ids.flatten(), minlength=N_ITEMS)
    assert set(torch.nonzero(counts).flatten().tolist()) == {4, 5, 6}
    assert stats.chisquare(counts[[4, 5, 6]].numpy()).pvalue > 1e-3


def test_the_share_is_that_of_the_candidates() -> None:
    """Item 10 is grounded for the pair and one of eight that the user has not."""
    hits = int((_ids(0.3, (4, 3)) == 10).sum())
    free = N_ITEMS - 1 - len(POSITIVES[4])
    assert stats.binomtest(hits, 4000, 0.3 + 0.7 / free).pvalue > 1e-3


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_a_pair_without_grounded_items_keeps_uniform_ones(share: float) -> None:
    counts = torch.bincount(_ids(share, (4, 11)).flatten(), minlength=N_ITEMS)
    free = [item for item in range(1, N_ITEMS) if item not in POSITIVES[4]]
    assert counts.sum() == counts[free].sum()
    assert stats.chisquare(counts[free].numpy()).pvalue > 1e-3


def test_the_hardest_of_the_grounded_is_taken() -> None:
    view = TensorView()
    users, positives = torch.full((200,), 4), torch.full((200,), 2)
    ids = build(with_table(share=1.0, rule="dns"), candidates=20).sample(users, positives, view).ids
    with torch.no_grad():
        hardest = max((4, 5, 6), key=lambda item: float(view.users[4] @ view.items[item]))
    assert (ids == hardest).all()


def test_pairs_of_a_table_may_come_in_any_order() -> None:
    backwards = dict(reversed(GROUNDED.items()))
    pairs = torch.tensor([*GROUNDED]).T
    draws = [
        tiny_table(tiny_interactions(), grounded).draw(pairs[0], pairs[1], 20, torch.Generator().manual_seed(0))
        for grounded in (GROUNDED, backwards)
    ]
    assert torch.equal(*draws)


def test_each_candidate_is_grounded_or_not_for_itself() -> None:
    users, positives = torch.full((4000,), 4), torch.full((4000,), 3)  # item 10 is grounded for the pair
    sampler = build(with_table(share=0.5), candidates=3)
    grounded = (sampler.offered(users, positives, torch.full((4000, 3), 9)) == 10).sum(dim=1)
    expected = 4000 * stats.binom.pmf([0, 1, 2, 3], 3, 0.5)
    assert stats.chisquare(torch.bincount(grounded, minlength=4).numpy(), expected).pvalue > 1e-3


def test_the_rule_is_the_one_that_is_named() -> None:
    """Without a table candidates are those of the rule's own sampler."""
    pairs, view = tiny_batch(), TensorView()
    chosen = {
        rule: build(SemanticSampler, candidates=6, rule=rule).sample(*pairs, view).ids for rule in ("dns", "ahns")
    }
    for rule, ids in chosen.items():
        assert torch.equal(ids, build(sampler_class(rule), candidates=6).sample(*pairs, view).ids)
    assert not torch.equal(*chosen.values())


def test_without_a_table_it_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    sampler = build(SemanticSampler)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            sampler.sample(*tiny_batch(), TensorView())
    assert caplog.text.count("no grounded negatives") == 1


def test_an_empty_table_is_a_table(caplog: pytest.LogCaptureFixture) -> None:
    sampler = build(SemanticSampler, share=1.0)
    assert isinstance(sampler, SemanticSampler)
    sampler.use(tiny_table(sampler.interactions, {}))
    assert sampler.sample(*tiny_batch(), TensorView()).ids.min() >= 1
    assert "no grounded" not in caplog.text


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda i: tiny_table(i, {(4, 2): [1]}), "a grounded item is a training item of its user"),
        (lambda i: tiny_table(i, {(4, 2): [N_ITEMS]}), "lie outside 1..12"),
        (lambda i: GroundedTable(*(torch.ones(n, dtype=torch.int64) for n in (2, 2, 2)), i), "expected .N,., .N,., .N, G."),
    ],
)  # fmt: skip
def test_tables_that_are_refused(make: Callable[[TrainingInteractions], GroundedTable], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(tiny_interactions())


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"share": 1.1}, "neg_sampler_share=1.1 is outside"),
        ({"rule": "dsn"}, "neg_sampler_rule='dsn' is not one of"),
        ({"min_coverage": -1.0}, "neg_sampler_min_coverage=-1.0"),
        ({"candidates": 0}, "neg_sampler_candidates=0 must be at least 1"),
    ],
)
def test_options_out_of_range(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SemanticOptions(**wrong)
