"""The dual-tree sampler: paths, scores, the contract with tables, policies, and where it is MixGCF."""

from __future__ import annotations

import logging
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

from recbole_hnlm.options.guard import GuardOptions
from recbole_hnlm.samplers import NegativeSampler, TrainingInteractions
from recbole_hnlm.samplers.dtl import DualTreeOptions, DualTreeSynthesizer, DualTreeTables
from recbole_hnlm.samplers.false_negative_scores import FalseNegativeScores
from recbole_hnlm.samplers.guard import CandidateGuard
from recbole_hnlm.samplers.mixgcf import MixGCFSynthesizer
from recbole_hnlm.samplers.tree_codes import TreeCodes
from tests.samplers.contract import (
    N_ITEMS,
    POSITIVES,
    SamplerContract,
    TensorView,
    build,
    tiny_batch,
    tiny_interactions,
)

SCORED = {(4, 4): 0.9, (4, 5): 0.8, (4, 6): 0.05, (5, 1): 0.7, (5, 2): 0.02, (2, 9): 0.6, (1, 7): 0.95}


def tiny_codes(seed: int) -> TreeCodes:
    """Random paths of one to three levels; the padding and item 12 have none."""
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, 2, (N_ITEMS, 3)).astype(np.int8)
    codes[np.arange(3) >= rng.integers(1, 4, N_ITEMS)[:, None]] = -1
    codes[[0, 12]] = -1
    return TreeCodes(torch.from_numpy(codes))


def table_of(scored: dict[tuple[int, int], float]) -> FalseNegativeScores:
    users, items = (torch.tensor([pair[side] for pair in scored], dtype=torch.int64) for side in (0, 1))
    return FalseNegativeScores(users, items, torch.tensor(list(scored.values())), N_ITEMS)


def tiny_tables(scored: dict[tuple[int, int], float] = SCORED) -> DualTreeTables:
    return DualTreeTables(tiny_codes(1), tiny_codes(2), table_of(scored))


def with_tables(scored: dict[tuple[int, int], float] = SCORED, **fixed: Any) -> type[NegativeSampler]:
    """The sampler with its tables from the start and some options fixed."""

    class DualTree(DualTreeSynthesizer):
        def __init__(self, options: Any, interactions: TrainingInteractions, generator: torch.Generator) -> None:
            super().__init__(
                DualTreeOptions(candidates=options.candidates, mix=options.mix, **fixed), interactions, generator
            )
            self.use(tiny_tables(scored))

    return DualTree


def naive_share(first: list[int], second: list[int]) -> float:
    """Common prefix over the shorter path, one level after the other."""
    paths = [[child for child in path if child >= 0] for path in (first, second)]
    shorter = min(map(len, paths))
    common = 0
    while common < shorter and paths[0][common] == paths[1][common]:
        common += 1
    return common / shorter if shorter else 0.0


@st.composite
def code_tables(draw: st.DrawFn) -> list[list[int]]:
    levels, children = draw(st.integers(1, 9)), draw(st.integers(1, 100))
    paths = draw(st.lists(st.lists(st.integers(0, children), max_size=levels), min_size=1, max_size=12))
    return [path + [-1] * (levels - len(path)) for path in paths]


class TestTreeCodes:
    @settings(max_examples=60, deadline=None)
    @given(code_tables())
    def test_shared_paths_against_a_loop(self, codes: list[list[int]]) -> None:
        table = TreeCodes(torch.tensor(codes, dtype=torch.int8))
        ids = torch.arange(len(codes))
        found = table.shared(ids.unsqueeze(1), ids.unsqueeze(0))
        expected = [[naive_share(one, other) for other in codes] for one in codes]
        assert torch.equal(found, torch.tensor(expected))

    def test_known_answers(self) -> None:
        table = TreeCodes(torch.tensor([[-1, -1, -1], [0, 1, 2], [0, 1, -1], [0, 2, 2], [1, 1, 2]], dtype=torch.int8))
        found = table.shared(torch.tensor([1, 1, 1, 1, 0]), torch.tensor([1, 2, 3, 4, 0]))
        assert found.tolist() == pytest.approx([1.0, 1.0, 1 / 3, 0.0, 0.0])

    @pytest.mark.parametrize(
        ("codes", "message"),
        [
            (torch.zeros(3), r"shape \(3,\); expected \(items, levels\)"),
            (torch.tensor([[0, -1, 1]]), "a path goes on after its end"),
            (torch.full((2, 10), 126), "a tree of 10 levels with 7 bits each does not fit 63 bits"),
        ],
    )
    def test_codes_that_are_refused(self, codes: Tensor, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            TreeCodes(codes)


class TestFalseNegativeScores:
    def test_every_pair(self) -> None:
        table = table_of(SCORED)
        users = torch.arange(7)
        items = torch.arange(N_ITEMS).expand(7, -1)
        expected = [[SCORED.get((user, item), 0.0) for item in range(N_ITEMS)] for user in range(7)]
        assert torch.equal(table.of(users, items), torch.tensor(expected))
        assert not table_of({}).of(users, items).any()

    def test_draws_are_uniform_over_a_users_items(self) -> None:
        users = torch.full((3000,), 4)
        items, scores = table_of(SCORED).draw(users, torch.Generator().manual_seed(1))
        counts = torch.bincount(items, minlength=N_ITEMS)
        assert set(torch.nonzero(counts).flatten().tolist()) == {4, 5, 6}
        assert stats.chisquare(counts[[4, 5, 6]].numpy()).pvalue > 1e-3
        assert all(
            score == pytest.approx(SCORED[4, item]) for item, score in zip(items.tolist(), scores.tolist(), strict=True)
        )

    @pytest.mark.parametrize("scored", [SCORED, {}], ids=["others", "nobody"])
    def test_users_without_scores_draw_padding(self, scored: dict[tuple[int, int], float]) -> None:
        items, scores = table_of(scored).draw(torch.tensor([3, 6, 0]), torch.Generator())
        assert not items.any() and not scores.any()

    @pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
    def test_the_highest_of_all_but_not_too_many_of_a_user(self, share: float) -> None:
        most = torch.ones(7, dtype=torch.int64)
        kept = table_of(SCORED).highest(share, most)
        best = sorted(SCORED, key=lambda pair: -SCORED[pair])[: int(share * len(SCORED))]
        expected = {user: max((p for p in best if p[0] == user), key=lambda p: SCORED[p]) for user, _ in best}
        assert dict(zip(kept.users.tolist(), kept.items.tolist(), strict=True)) == {
            u: pair[1] for u, pair in expected.items()
        }

    @pytest.mark.parametrize(
        ("make", "message"),
        [
            (lambda one: (one, one[:1], one.float()), r"expected \(N,\), \(N,\), \(N,\)"),
            (lambda one: (one, one * 20, one.float()), "scored items lie outside 1..12"),
            (lambda one: (one, one, one + 0.5), r"lies outside \[0, 1\]"),
            (lambda one: (one, one, one * math.nan), "or is no number"),
            (lambda one: (one, one, one.float()), "scored twice"),
        ],
    )
    def test_tables_that_are_refused(self, make: Any, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            FalseNegativeScores(*make(torch.ones(2, dtype=torch.int64)), N_ITEMS)


class TestContract(SamplerContract):
    @pytest.fixture(params=["exclude", "downweight", "soft_positive"])
    def sampler(self, request: pytest.FixtureRequest) -> type[NegativeSampler]:
        return with_tables(policy=request.param, suspect_share=1.0)

    def test_one_candidate_is_a_uniform_draw(self, sampler: type[NegativeSampler], view: TensorView) -> None:
        """Of what is drawn at all: suspects are not, but for ``downweight``."""
        users, _ = tiny_batch(200)
        ids = self.drawn(sampler, view, candidates=1).ids[:, 0]
        assert ids.min() >= 1 and len(ids.unique()) > 6

    def test_no_pairs_no_extra_loss(self, sampler: type[NegativeSampler], view: TensorView) -> None:
        nobody = torch.zeros(0, dtype=torch.int64)
        assert build(sampler).extra_loss(nobody, nobody, view) is None


def suspects_of(sampler: NegativeSampler) -> set[tuple[int, int]]:
    assert isinstance(sampler, DualTreeSynthesizer) and sampler.suspects is not None
    return set(zip(sampler.suspects.users.tolist(), sampler.suspects.items.tolist(), strict=True))


class TestPolicies:
    @pytest.mark.parametrize("policy", ["exclude", "soft_positive"])
    def test_a_suspect_is_never_drawn(self, policy: str) -> None:
        """Users 4 and 5 have half of their unseen items to spare; user 1's only one stays."""
        sampler = build(with_tables(policy=policy, suspect_share=1.0), candidates=3)
        suspected = suspects_of(sampler)
        assert suspected == {(4, 4), (4, 5), (4, 6), (5, 1), (5, 2), (2, 9)}
        users, positives = tiny_batch(300)
        ids = sampler.sample(users, positives, TensorView()).ids[:, 0]
        drawn = set(zip(users.tolist(), ids.tolist(), strict=True))
        assert not drawn & suspected
        assert (1, 7) in drawn and (4, 7) in drawn

    @pytest.mark.parametrize("policy", ["exclude", "downweight", "soft_positive"])
    def test_a_user_keeps_half_of_what_is_unseen(self, policy: str) -> None:
        """Of 1, 11, 7 and 7 items that are all scored, 0, 5, 3 and 3 are suspected: those of the highest scores."""
        unseen = {user: [item for item in range(1, N_ITEMS) if item not in POSITIVES[user]] for user in (1, 2, 4, 5)}
        scored = {(user, item): (item * 5 % 13) / 13 for user, items in unseen.items() for item in items}
        sampler = build(with_tables(scored, policy=policy, suspect_share=1.0), candidates=3)
        assert {user: len(items) // 2 for user, items in unseen.items()} == {1: 0, 2: 5, 4: 3, 5: 3}
        assert suspects_of(sampler) == {
            (user, item)
            for user, items in unseen.items()
            for item in sorted(items, key=lambda one: -scored[user, one])[: len(items) // 2]  # noqa: B023
        }

    @pytest.mark.parametrize("policy", ["exclude", "soft_positive"])
    def test_a_guard_brings_no_suspect_back(self, policy: str) -> None:
        """The guard comes before the tables do; it refuses item 7, and draws spare ones for it."""
        sampler = build(DualTreeSynthesizer, candidates=3, policy=policy, suspect_share=1.0)
        spares = sampler.drawer.with_generator(torch.Generator().manual_seed(1))
        options = GuardOptions(guard="score", guard_max_score=0.5)
        sampler.guard = CandidateGuard(options, spares, lambda users, items, view: (items == 7).float())
        sampler.use(tiny_tables())
        assert sampler.guard.drawer.generator is spares.generator is not sampler.generator
        users = torch.full((300,), 4)
        used, _ = sampler.guard.clean(users, users, sampler.draw_candidates(users), TensorView())
        assert set(used.unique().tolist()) == set(range(1, N_ITEMS)) - POSITIVES[4] - {4, 5, 6, 7}

    def test_the_rest_is_uniform(self) -> None:
        users = torch.full((6000,), 4)
        drawn = build(with_tables(suspect_share=1.0), candidates=1).draw_candidates(users)[:, 0]
        counts = torch.bincount(drawn, minlength=N_ITEMS)
        free = [item for item in range(1, N_ITEMS) if item not in POSITIVES[4] | {4, 5, 6}]
        assert counts[free].sum() == 6000 and stats.chisquare(counts[free].numpy()).pvalue > 1e-3

    def test_the_interactions_stay_as_they_are(self) -> None:
        interactions = tiny_interactions()
        before = interactions.keys.clone()
        sampler = build(with_tables(suspect_share=1.0), interactions=interactions)
        assert sampler.interactions is interactions and torch.equal(interactions.keys, before)

    def test_only_the_share_of_the_highest_is_suspected(self) -> None:
        assert suspects_of(build(with_tables(suspect_share=0.45))) == {(4, 4), (4, 5)}  # 3 of 7, one of user 1's

    def test_a_suspect_is_mixed_in_by_what_it_is_not_suspected(self) -> None:
        """Against a loop: the share of the positive grows from l to l + (1 - l) f."""
        view, (users, positives) = TensorView(hops=2, dtype=torch.float64), tiny_batch(times=3)
        weightless = {"collaborative_weight": 0.0, "semantic_weight": 0.0}
        unseen = [(user, item) for user in (2, 3, 4, 5) for item in range(1, N_ITEMS) if item not in POSITIVES[user]]
        scored = {pair: (1 + place) / len(unseen) for place, pair in enumerate(unseen)}
        made = build(with_tables(scored, policy="downweight", suspect_share=0.7, **weightless), seed=3, candidates=4)
        rows = made.sample(users, positives, view).rows
        plain = build(MixGCFSynthesizer, seed=3, candidates=4)
        candidates, suspected = plain.draw_candidates(users), suspects_of(made)
        touched = 0
        expected = torch.zeros(len(users), view.users.shape[1], dtype=torch.float64)
        with torch.no_grad():
            for hop in range(2):
                shares = torch.rand((len(users), 1), generator=plain.generator)
                for b, (user, positive) in enumerate(zip(users.tolist(), positives.tolist(), strict=True)):
                    best = max(candidates[b].tolist(), key=lambda j: float(view.users[user] @ view.hops[hop][j]))  # noqa: B023
                    share = float(shares[b])
                    if (user, best) in suspected:
                        share += (1 - share) * scored[user, best]
                        touched += 1
                    expected[b] += (share * view.hops[hop][positive] + (1 - share) * view.hops[hop][best]) / 2
        assert touched > 5
        torch.testing.assert_close(rows, expected, rtol=1e-6, atol=1e-6)

    @pytest.mark.parametrize("policy", ["exclude", "downweight"])
    def test_only_soft_positives_have_a_term(self, policy: str) -> None:
        sampler = build(with_tables(policy=policy, suspect_share=1.0))
        assert sampler.extra_loss(*tiny_batch(), TensorView()) is None
        assert not sampler.reads_user_rows(sampler.options)

    def test_soft_positives_against_a_loop(self) -> None:
        view, (users, positives) = TensorView(dtype=torch.float64), tiny_batch(times=5)
        made = build(with_tables(policy="soft_positive", suspect_share=1.0, soft_weight=0.7), seed=9)
        assert made.reads_user_rows(made.options)
        state = made.generator.get_state()
        loss = made.extra_loss(users, positives, view)
        made.generator.set_state(state)
        assert isinstance(made, DualTreeSynthesizer) and made.suspects is not None
        items, scores = made.suspects.draw(users, made.generator)
        others = made.drawer.draw(users, 1)[:, 0]
        total = 0.0
        for user, item, other, score in zip(*(t.tolist() for t in (users, items, others, scores)), strict=True):
            gap = float((view.users[user] @ (view.items[other] - view.items[item])).detach())
            total += score * math.log1p(math.exp(gap))
            assert item == 0 or score == pytest.approx(SCORED[user, item])
            assert item or not score
        assert loss is not None and float(loss.detach()) == pytest.approx(0.7 * total / len(users), rel=1e-6)
        loss.backward()
        assert view.users.grad is not None and view.users.grad[4].abs().sum() > 0
        assert not view.users.grad[3].any()  # nothing of user 3 is suspected


class TestHardScore:
    @pytest.mark.parametrize("weights", [(0.1, 0.3), (0.0, 2.0), (5.0, 0.0)])
    @pytest.mark.parametrize("hops", [1, 3])
    def test_choice_against_a_loop(self, weights: tuple[float, float], hops: int) -> None:
        view, (users, positives) = TensorView(hops=hops, dtype=torch.float64), tiny_batch(times=3)
        fixed = {"collaborative_weight": weights[0], "semantic_weight": weights[1], "suspect_share": 0.0}
        made = build(with_tables(**fixed), seed=4, candidates=5)
        candidates = build(MixGCFSynthesizer, seed=4, candidates=5).draw_candidates(users)
        chosen = made.hardest(users, positives, candidates, view)  # type: ignore[attr-defined]
        trees, moved = (tiny_codes(1), tiny_codes(2)), 0
        for hop in range(hops):
            for b, (user, positive) in enumerate(zip(users.tolist(), positives.tolist(), strict=True)):
                with torch.no_grad():
                    scores = [float(view.users[user] @ view.hops[hop][j]) for j in candidates[b].tolist()]
                low, high = min(scores), max(scores)
                hard = []
                for j, score in zip(candidates[b].tolist(), scores, strict=True):
                    near = [float(tree.shared(torch.tensor(positive), torch.tensor(j))) for tree in trees]
                    scaled = (score - low) / (high - low) if high > low else 0.0
                    hard.append(scaled + weights[0] * near[0] + weights[1] * near[1])
                best = max(hard)
                assert hard[candidates[b].tolist().index(int(chosen[hop][b]))] == pytest.approx(best, abs=1e-6)
                moved += int(chosen[hop][b]) != candidates[b].tolist()[int(np.argmax(scores))]
        assert moved > 2  # the trees change what is chosen

    @pytest.mark.parametrize("policy", ["exclude", "downweight", "soft_positive"])
    def test_without_weights_and_suspects_it_is_mixgcf_draw_for_draw(self, policy: str) -> None:
        view = TensorView(hops=3)
        fixed = {"collaborative_weight": 0.0, "semantic_weight": 0.0, "suspect_share": 0.0, "policy": policy}
        ours, theirs = build(with_tables(**fixed)), build(MixGCFSynthesizer)
        for _ in range(3):
            one, other = (sampler.sample(*tiny_batch(), view) for sampler in (ours, theirs))
            assert torch.equal(one.ids, other.ids)
            assert one.rows is not None and other.rows is not None and torch.equal(one.rows, other.rows)

    def test_without_tables_it_is_mixgcf_and_says_so_once(self, caplog: pytest.LogCaptureFixture) -> None:
        ours, theirs = build(DualTreeSynthesizer), build(MixGCFSynthesizer)
        with caplog.at_level(logging.WARNING):
            for _ in range(2):
                one, other = (sampler.sample(*tiny_batch(), TensorView()) for sampler in (ours, theirs))
                assert torch.equal(one.ids, other.ids)
        assert caplog.text.count("has no trees") == 1


def test_trees_of_another_catalogue_are_refused() -> None:
    codes = TreeCodes(torch.zeros((5, 2), dtype=torch.int8))
    sampler = build(DualTreeSynthesizer)
    assert isinstance(sampler, DualTreeSynthesizer)
    with pytest.raises(ValueError, match="a tree of 5 items, expected 13"):
        sampler.use(DualTreeTables(codes, codes, table_of(SCORED)))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"collaborative_weight": -0.1}, "neg_sampler_collaborative_weight=-0.1 must be at least 0"),
        ({"semantic_weight": math.inf}, "neg_sampler_semantic_weight=inf must be at least 0"),
        ({"policy": "exlude"}, "neg_sampler_policy='exlude' is not one of"),
        ({"suspect_share": 1.5}, r"neg_sampler_suspect_share=1.5 is outside \[0, 1\]"),
        ({"soft_weight": 0.2}, "neg_sampler_soft_weight has no effect with policy 'exclude'"),
        ({"policy": "soft_positive", "soft_weight": 0.0}, "neg_sampler_soft_weight=0.0 must be above 0"),
        ({"reference_epochs": 0}, "neg_sampler_reference_epochs=0 must be at least 1"),
        ({"mix": 2.0}, r"neg_sampler_mix=2.0 is outside \[0, 1\]"),
    ],
)
def test_options_out_of_range(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DualTreeOptions(**wrong)
