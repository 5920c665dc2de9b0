"""The guard against plain loops: both knobs, spares, what happens where nothing passes, and the sampler contract under
it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from scipy import stats
from torch import Tensor

from recbole_hnlm.options.guard import GuardOptions
from recbole_hnlm.samplers import SAMPLERS, NegativeSampler, TrainingInteractions, sampler_class
from recbole_hnlm.samplers.base import EmbeddingView
from recbole_hnlm.samplers.candidates import CandidateDrawer, UniformCandidates
from recbole_hnlm.samplers.dns import DynamicSelector
from recbole_hnlm.samplers.false_negative_scores import FalseNegativeScores
from recbole_hnlm.samplers.guard import CandidateGuard, GuardScore, TreeScore, model_score
from recbole_hnlm.samplers.uniform import UniformSampler
from tests.samplers.contract import (
    N_ITEMS,
    POSITIVES,
    SamplerContract,
    TensorView,
    build,
    tiny_batch,
    tiny_interactions,
)
from tests.samplers.test_semantic import with_table

FREE = 6
"""The user without training items."""


def options(**values: Any) -> GuardOptions:
    return GuardOptions(guard="score", **{f"guard_{name}": value for name, value in values.items()})


def guarded(sampler: NegativeSampler, score: GuardScore = model_score, seed: int = 9, **values: Any) -> NegativeSampler:
    generator = torch.Generator().manual_seed(seed)
    sampler.guard = CandidateGuard(options(**values), sampler.drawer.with_generator(generator), score)
    return sampler


class ByItem:
    """Scores of a table by item id, the same for every user."""

    def __init__(self, scores: Tensor) -> None:
        self.scores = scores

    def __call__(self, users: Tensor, items: Tensor, view: EmbeddingView) -> Tensor:
        return self.scores[items]


class FixedDrawer(CandidateDrawer):
    """Hands out what it was given, row by row."""

    def __init__(self, spares: dict[int, list[int]]) -> None:
        self.generator = torch.Generator()
        self.spares = spares

    def draw(self, users: Tensor, count: int) -> Tensor:
        return torch.tensor([self.spares[user][:count] for user in users.tolist()])

    def _propose(self, size: int) -> Tensor:
        raise AssertionError

    _replace = _propose


def naive(
    scores: list[float], positive: float, items: list[int], spares: list[int], max_score: Any, margin: Any
) -> tuple[list[int], int, str]:
    """What a pair keeps, how many of its candidates are refused, and how it went."""

    def passes(item: int) -> bool:
        if max_score is not None and scores[item] > max_score:
            return False
        return margin is None or not scores[item] > positive - abs(positive) * margin

    refused = sum(not passes(item) for item in items)
    if not refused:
        return items, 0, "clean"
    kept = [item for item in items + spares if passes(item)]
    if not kept:
        return [min(items + spares, key=lambda item: scores[item])] * len(items), refused, "uncleaned"
    return [kept[k % len(kept)] for k in range(len(items))], refused, "short" if len(kept) < len(items) else "clean"


@torch.no_grad()
@pytest.mark.parametrize("hops", [1, 2])
def test_scores_that_a_guard_has_read_are_not_computed_again(hops: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once for the positives, once for the candidates; the rule asks for the latter again, by hop where hops are one."""
    (users, positives), view = tiny_batch(), TensorView(hops=hops)
    guard = CandidateGuard(options(max_score=1e9), FixedDrawer({}), model_score)
    asked, real = [], view.score
    monkeypatch.setattr(view, "score", lambda users, items: asked.append(items) or real(users, items))
    candidates, told = guard.clean(users, positives, torch.ones(len(users), 3, dtype=torch.int64), view)
    before = len(asked)
    kept = told.score(users, candidates)
    assert len(asked) == before and torch.equal(kept, real(users, candidates))
    assert torch.equal(told.score_hop(0, users, candidates), view.score_hop(0, users, candidates))
    assert len(asked) == before
    told.score(users, candidates.clone())
    assert len(asked) == before + 1


@pytest.mark.parametrize("spares", [0, 3])
@pytest.mark.parametrize(
    ("max_score", "margin"), [(0.3, None), (None, 0.2), (None, 0.0), (0.5, 0.4), (-0.4, None), (None, 5.0)]
)
def test_against_a_loop(max_score: float | None, margin: float | None, spares: int) -> None:
    generator = torch.Generator().manual_seed(3)
    pairs, count, n_items = 60, 5, 40
    scores = torch.randn(n_items, generator=generator, dtype=torch.float64)
    users = torch.arange(pairs)
    positives = torch.randint(n_items, (pairs,), generator=generator)
    candidates = torch.randint(n_items, (pairs, count), generator=generator)
    drawer = FixedDrawer({u: torch.randint(n_items, (3,), generator=generator).tolist() for u in range(pairs)})
    guard = CandidateGuard(options(max_score=max_score, relative_margin=margin, spares=spares), drawer, ByItem(scores))
    untouched = candidates.clone()
    kept, _ = guard.clean(users, positives, candidates, TensorView())
    assert torch.equal(candidates, untouched)
    refused, outcomes = 0, []
    for b in range(pairs):
        own = drawer.spares[b][:spares]
        expected, count_refused, outcome = naive(
            scores.tolist(), float(scores[positives[b]]), candidates[b].tolist(), own, max_score, margin
        )
        assert kept[b].tolist() == expected
        refused += count_refused
        outcomes.append(outcome)
    assert float(guard.last["guard_refused"]) == pytest.approx(refused / (pairs * count))
    assert float(guard.last["guard_uncleaned"]) == pytest.approx(outcomes.count("uncleaned") / pairs)
    assert f"| pairs of which nothing passed | {outcomes.count('uncleaned')} |" in guard.table()
    assert f"| pairs filled up with what passed | {outcomes.count('short')} |" in guard.table()
    assert (scores[positives] < 0).any() and refused


def test_a_margin_goes_below_a_negative_positive_too() -> None:
    """-1 less 20 % is -1.2, not -0.8."""
    scores = torch.tensor([0.0, -1.0, -1.1, -1.3])
    guard = CandidateGuard(options(relative_margin=0.2), FixedDrawer({1: [3, 3, 3, 3]}), ByItem(scores))
    kept, _ = guard.clean(torch.tensor([1]), torch.tensor([1]), torch.tensor([[2, 3]]), TensorView())
    assert kept.tolist() == [[3, 3]]


def test_what_cannot_be_judged_passes() -> None:
    scores = torch.tensor([0.0, -torch.inf, 0.9, -torch.inf])
    guard = CandidateGuard(options(relative_margin=0.2, max_score=2.0), FixedDrawer({1: [2] * 4}), ByItem(scores))
    pairs = torch.tensor([1, 1]), torch.tensor([1, 2])  # the first positive cannot be judged, nor can item 3
    kept, _ = guard.clean(*pairs, torch.tensor([[2, 3], [2, 3]]), TensorView())
    assert kept.tolist() == [[2, 3], [3, 3]]


@pytest.mark.parametrize("rule", sorted(SAMPLERS))
def test_as_long_as_nothing_is_refused_nothing_changes(rule: str) -> None:
    (users, positives), view = tiny_batch(), TensorView(hops=2)
    plain, under = (build(sampler_class(rule), candidates=6, top_m=3) for _ in range(2))
    guarded(under, max_score=1e9, relative_margin=None)
    assert under.guard is not None
    before = under.guard.drawer.generator.get_state()
    for _ in range(3):
        expected, found = (sampler.sample(users, positives, view) for sampler in (plain, under))
        for name in ("ids", "rows", "weights"):
            one, two = getattr(expected, name), getattr(found, name)
            assert one is two is None or torch.equal(one, two)
    assert torch.equal(under.guard.drawer.generator.get_state(), before)
    assert "nothing was refused; lower neg_sampler_guard_max_score to guard more" in under.guard.table()


def test_the_limit_holds_wherever_a_spare_passes() -> None:
    """With so many spares one of them passes for all but a negligible share of pairs."""
    view = TensorView()
    users, positives = torch.full((3000,), FREE), torch.full((3000,), 5)
    sampler = guarded(build(UniformSampler), max_score=0.0, spares=60)
    with torch.no_grad():
        assert (view.score(torch.tensor([FREE]), torch.arange(N_ITEMS).unsqueeze(0)) > 0).sum() > 2
        assert view.score(users, sampler.sample(users, positives, view).ids).max() <= 0


@pytest.mark.parametrize("candidates", [1, 4])
def test_survivors_are_as_the_drawer_draws_them(candidates: int) -> None:
    allowed = torch.tensor([2, 3, 5, 8, 9, 12])
    scores = torch.ones(N_ITEMS)
    scores[allowed] = 0
    drawer = UniformCandidates(tiny_interactions(), torch.Generator().manual_seed(4))
    guard = CandidateGuard(options(max_score=0.5, spares=40), drawer, ByItem(scores))
    users = torch.full((6000 // candidates,), FREE)
    kept, _ = guard.clean(users, users, drawer.draw(users, candidates), TensorView())
    counts = torch.bincount(kept.flatten(), minlength=N_ITEMS)
    assert counts[allowed].sum() == counts.sum()
    assert stats.chisquare(counts[allowed].numpy()).pvalue > 1e-3


def test_a_rule_chooses_among_what_is_kept() -> None:
    """The rule reads the guard's scores; they are those of the candidates that it gets."""
    (users, positives), view = tiny_batch(), TensorView()
    sampler = guarded(build(DynamicSelector, candidates=6), relative_margin=0.1)
    assert sampler.guard is not None
    candidates = sampler.draw_candidates(users)
    state = sampler.guard.drawer.generator.get_state()
    kept, seen = sampler.guard.clean(users, positives, candidates, view)
    with torch.no_grad():
        torch.testing.assert_close(seen.score(users, kept), view.score(users, kept))
        torch.testing.assert_close(seen.score_hop(0, users, kept), view.score(users, kept))
        torch.testing.assert_close(seen.score(users, candidates), view.score(users, candidates))
        best = kept.gather(1, view.score(users, kept).argmax(dim=1, keepdim=True))
    assert seen.n_hops == 1 and not torch.equal(kept, candidates)
    sampler.guard.drawer.generator.set_state(state)
    assert torch.equal(sampler.sample(users, positives, view, candidates).ids, best)


def test_a_rule_chooses_by_the_model_whatever_the_guard_judges_by() -> None:
    (users, positives), view = tiny_batch(), TensorView()
    sampler = guarded(build(DynamicSelector, candidates=6), ByItem(torch.linspace(0, 1, N_ITEMS)), max_score=0.6)
    assert sampler.guard is not None
    candidates = sampler.draw_candidates(users)
    kept, seen = sampler.guard.clean(users, positives, candidates, view)
    assert not torch.equal(kept, candidates)
    with torch.no_grad():
        torch.testing.assert_close(seen.score(users, kept), view.score(users, kept))
        torch.testing.assert_close(seen.score_hop(0, users, kept), view.score_hop(0, users, kept))


def test_hops_are_still_scored_hop_by_hop() -> None:
    (users, positives), view = tiny_batch(), TensorView(hops=2)
    sampler = guarded(build(DynamicSelector, candidates=6), relative_margin=0.1)
    assert sampler.guard is not None
    kept, seen = sampler.guard.clean(users, positives, sampler.draw_candidates(users), view)
    with torch.no_grad():
        assert torch.equal(seen.score_hop(1, users, kept), view.score_hop(1, users, kept))


def test_grounded_items_are_judged_too() -> None:
    scores = torch.zeros(N_ITEMS)
    scores[[4, 5]] = 1  # two of the three items that were grounded for the pair
    sampler = guarded(
        build(with_table(share=1.0, rule="random"), candidates=4), ByItem(scores), max_score=0.5, spares=8
    )
    users, positives = torch.full((300,), 4), torch.full((300,), 2)
    ids = sampler.sample(users, positives, TensorView()).ids
    assert not {4, 5} & set(ids.flatten().tolist()) and (ids == 6).any()


def test_scores_of_trees() -> None:
    table = FalseNegativeScores(torch.tensor([1, 2]), torch.tensor([3, 2]), torch.tensor([0.4, 0.9]), N_ITEMS)
    found = TreeScore(table)(torch.tensor([1, 2]), torch.tensor([[2, 3], [2, 3]]), TensorView())
    torch.testing.assert_close(found, torch.tensor([[0.0, 0.4], [0.9, 0.0]]))


@pytest.mark.parametrize(
    ("limits", "advice"),
    [
        ({"max_score": -9.0}, "raise neg_sampler_guard_max_score or raise neg_sampler_guard_spares"),
        ({"relative_margin": 90.0}, "lower neg_sampler_guard_relative_margin or raise neg_sampler_guard_spares"),
        ({"max_score": 9.0, "relative_margin": 90.0}, "lower neg_sampler_guard_relative_margin or raise"),
        ({"max_score": 9.0}, "nothing was refused; lower neg_sampler_guard_max_score to guard more"),
    ],
)
def test_the_table_names_the_knob_to_relax(limits: dict[str, float], advice: str) -> None:
    sampler = guarded(build(UniformSampler), **limits)
    users, positives = tiny_batch(times=1)
    sampler.sample(users, positives, TensorView())
    assert sampler.guard is not None
    table = sampler.guard.table()
    assert advice in table
    assert f"| pairs | {len(users)} |" in table
    assert ("above max_score 9.0 | 0 | 0.00 %" in table) == (limits.get("max_score") == 9.0)


def under_guard(name: str) -> type[NegativeSampler]:
    """A registered sampler that is guarded from the start, by limits that refuse about half of what is drawn."""
    kind = sampler_class(name)

    class Guarded(kind):  # type: ignore[valid-type,misc]
        def __init__(self, options: Any, interactions: TrainingInteractions, generator: torch.Generator) -> None:
            super().__init__(options, interactions, generator)
            guarded(self, seed=generator.initial_seed(), max_score=0.0, spares=30)

    return Guarded


class TestContractUnderGuard(SamplerContract):
    @pytest.fixture(params=["uniform", "softmax", "mixgcf", "dens", "semantic"])
    def sampler(self, request: pytest.FixtureRequest) -> type[NegativeSampler]:
        return under_guard(request.param)

    def test_one_candidate_is_a_uniform_draw(self, sampler: type[NegativeSampler], view: TensorView) -> None:
        """Here of what passes, for the users who have anything that does."""
        ids = self.drawn(sampler, view, candidates=1, top_m=1).ids
        users, _ = tiny_batch()
        with torch.no_grad():
            scores = view.score(users, ids).squeeze(1)
        for user in (2, 3, 4, 5):
            assert (scores[users == user] <= 0).float().mean() > 0.8, POSITIVES[user]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"guard": "score"}, "neg_sampler_guard=score refuses nothing yet; set neg_sampler_guard_relative_margin"),
        ({"guard": "tree"}, "neg_sampler_guard=tree refuses nothing yet; set neg_sampler_guard_max_score"),
        ({"guard": "score", "guard_relative_margin": -0.1}, "guard_relative_margin=-0.1 must be at least 0"),
        ({"guard": "score", "guard_relative_margin": float("nan")}, "guard_relative_margin=nan must be at least 0"),
        ({"guard": "score", "guard_max_score": float("inf")}, "guard_max_score=inf must be a finite number"),
        ({"guard": "score", "guard_max_score": 1.0, "guard_spares": -1}, "guard_spares=-1 is negative; 0 draws none"),
        ({"guard": "text", "guard_max_score": 1.5}, r"guard_max_score=1.5 is outside \[-1, 1\) of guard=text"),
        ({"guard": "tree", "guard_max_score": 1.0}, r"=1.0 is outside \[0, 1\) of guard=tree; 1 refuses nothing"),
        ({"guard": "tree", "guard_max_score": -0.5}, r"guard_max_score=-0.5 is outside \[0, 1\) of guard=tree"),
        ({"guard": "tree", "guard_max_score": 0.5, "guard_relative_margin": 0.1}, "compares with the positive, which"),
    ],
)
def test_options_that_are_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GuardOptions(**wrong)
