"""Each rule against a naive loop over its formula, and fixed points that were computed by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from recbole_hnlm.samplers import CandidateSampler, NegativeSampler
from recbole_hnlm.samplers.ahns import AdaptiveHardnessSelector, AdaptiveOptions
from recbole_hnlm.samplers.base import CandidateOptions
from recbole_hnlm.samplers.candidates import UniformCandidates, candidates_for
from recbole_hnlm.samplers.dins import BoundaryOptions, DimensionMixSynthesizer
from recbole_hnlm.samplers.dns import DynamicSelector
from recbole_hnlm.samplers.dns_mn import TopMOptions, TopMSelector
from recbole_hnlm.samplers.mixgcf import MixGCFSynthesizer, MixOptions
from recbole_hnlm.samplers.popularity import PopularityOptions
from recbole_hnlm.samplers.softmax import SoftmaxOptions, SoftmaxWeigher
from recbole_hnlm.samplers.uniform import UniformSampler
from tests.samplers.contract import TensorView, build, tiny_batch, tiny_interactions

DTYPES = [torch.float32, torch.float64]
SEED = 4


def _drawn_candidates(users: Tensor, count: int) -> tuple[Tensor, torch.Generator]:
    """The candidates that a sampler with this seed gets, and the generator as it stands after them."""
    generator = torch.Generator().manual_seed(SEED)
    return UniformCandidates(tiny_interactions(), generator).draw(users, count), generator


def _scores(
    seed: int = 0, batch: int = 40, count: int = 7, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    positive = torch.randn(batch, generator=generator, dtype=dtype)
    return positive, torch.randn(batch, count, generator=generator, dtype=dtype)


def _dot(a: Tensor, b: Tensor) -> float:
    return sum(x * y for x, y in zip(a.tolist(), b.tolist(), strict=True))


class TestOwnRules:
    @pytest.mark.parametrize("wrong", ["topk", "float", "flat"])
    def test_a_rule_that_gives_no_column_is_told_by_name(self, wrong: str) -> None:
        class Mine(DynamicSelector):
            def select(self, pos_scores: Tensor | None, cand_scores: Tensor) -> Tensor:
                if wrong == "topk":
                    return cand_scores.topk(2, dim=1).indices
                return cand_scores[:, 0] if wrong == "float" else cand_scores.argmax()

        with pytest.raises(ValueError, match=r"Mine.select gave .* of shape .*expected one column a row, int64 of"):
            build(Mine, candidates=6).sample(*tiny_batch(), TensorView())


class TestFixedPoints:
    """Settings at which one rule is another."""

    @pytest.mark.parametrize("rule", [DynamicSelector, TopMSelector, AdaptiveHardnessSelector])
    def test_one_candidate_is_uniform_batch_after_batch(self, rule: type[NegativeSampler]) -> None:
        view = TensorView()
        ours, uniform = build(rule, candidates=1, top_m=1), build(UniformSampler)
        for _ in range(5):
            assert torch.equal(ours.sample(*tiny_batch(), view).ids, uniform.sample(*tiny_batch(), view).ids)

    @pytest.mark.parametrize(
        ("rule", "wanted"), [(TopMSelector, {"top_m": 1}), (MixGCFSynthesizer, {"mix": 0.0}), (MixGCFSynthesizer, {})]
    )
    def test_same_choice_as_dns(self, rule: type[NegativeSampler], wanted: dict[str, Any]) -> None:
        view = TensorView()
        ours = build(rule, candidates=6, **wanted).sample(*tiny_batch(), view)
        dns = build(DynamicSelector, candidates=6).sample(*tiny_batch(), view)
        assert torch.equal(ours.ids, dns.ids)

    def test_mixgcf_without_a_share_returns_the_row_of_dns(self) -> None:
        view = TensorView()
        mixed = build(MixGCFSynthesizer, candidates=6, mix=0.0).sample(*tiny_batch(), view)
        dns = build(DynamicSelector, candidates=6).sample(*tiny_batch(), view)
        assert mixed.rows is not None
        assert torch.equal(mixed.rows, view.item_rows(dns.ids.squeeze(1)))

    def test_mixgcf_with_a_share_does_not(self) -> None:
        view = TensorView()
        mixed = build(MixGCFSynthesizer, candidates=6, mix=1.0).sample(*tiny_batch(), view)
        assert mixed.rows is not None
        assert not torch.allclose(mixed.rows, view.item_rows(mixed.ids.squeeze(1)))

    @pytest.mark.parametrize("rho", [0.01, 1.0, 100.0])
    def test_softmax_of_equal_scores_is_equal(self, rho: float) -> None:
        weights = build(SoftmaxWeigher, rho=rho).weigh(torch.full((3, 1), 0.3), torch.full((3, 8), 1.7))  # type: ignore[attr-defined]
        torch.testing.assert_close(weights, torch.full((3, 8), 1 / 8))


class TestCandidatesOfACatalogue:
    @pytest.mark.parametrize(
        ("items", "count"),
        [(1, 8), (1682, 8), (3394, 8), (3395, 16), (6788, 16), (6789, 32), (10_000, 32), (38_048, 32), (10**8, 32)],
    )
    def test_one_for_300_items_within_bounds(self, items: int, count: int) -> None:
        assert candidates_for(items) == count

    @pytest.mark.parametrize(("items", "count"), [(3394, 8), (3395, 16)])
    def test_a_rule_without_a_number_draws_as_many(self, items: int, count: int) -> None:
        interactions = tiny_interactions(n_items=items + 1)  # with padding, which is no item
        rule = DynamicSelector(CandidateOptions(candidates=None), interactions, torch.Generator())
        users, _ = tiny_batch()
        assert rule.draw_candidates(users, negatives=2).shape == (len(users), 2 * count)

    def test_a_number_is_taken_at_its_word(self) -> None:
        interactions = tiny_interactions(n_items=10_001)
        assert DynamicSelector(CandidateOptions(9), interactions, torch.Generator()).candidates_per_negative == 9


class TestDynamic:
    @pytest.mark.parametrize("dtype", DTYPES)
    def test_naive(self, dtype: torch.dtype) -> None:
        _, scores = _scores(dtype=dtype)
        expected = [max(range(7), key=row.__getitem__) for row in scores.tolist()]
        assert build(DynamicSelector).select(None, scores).tolist() == expected  # type: ignore[attr-defined]

    def test_first_of_equals(self) -> None:
        scores = torch.tensor([[1.0, 2.0, 2.0], [3.0, 3.0, 3.0]])
        assert build(DynamicSelector).select(None, scores).tolist() == [1, 0]  # type: ignore[attr-defined]


class TestTopM:
    def test_each_of_the_best_with_the_same_chance(self) -> None:
        scores = torch.tensor([[0.1, 5.0, 0.2, 4.0, 3.0, -9.0]]).expand(30_000, -1)
        drawn = build(TopMSelector, candidates=6, top_m=3).select(None, scores)  # type: ignore[attr-defined]
        counts = torch.bincount(drawn, minlength=6).double()
        assert counts[[0, 2, 5]].sum() == 0
        assert (counts[[1, 3, 4]] / 10_000 - 1).abs().max() < 0.04  # five standard deviations

    def test_all_of_them_is_any_of_them(self) -> None:
        scores = torch.randn(30_000, 4, generator=torch.Generator().manual_seed(2))
        drawn = build(TopMSelector, candidates=4, top_m=4).select(None, scores)  # type: ignore[attr-defined]
        assert (torch.bincount(drawn, minlength=4) / 7_500 - 1).abs().max() < 0.06


class TestAdaptiveHardness:
    @staticmethod
    def _naive(positive: list[float], scores: list[list[float]], options: AdaptiveOptions) -> list[int]:
        chosen = []
        for s_pos, row in zip(positive, scores, strict=True):
            base = s_pos + options.shift
            target = options.slope * max(base, 1e-4) ** (options.exponent + 1)
            distances = [abs(s - target) for s in row]
            chosen.append(distances.index(min(distances)))
        return chosen

    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize(
        "wanted", [{}, {"exponent": -1.5, "slope": 0.7}, {"shift": 3.0, "slope": 2.0}, {"shift": 0.0}]
    )
    def test_naive(self, wanted: dict[str, float], dtype: torch.dtype) -> None:
        positive, scores = _scores(seed=1, batch=200, dtype=dtype)
        rule = build(AdaptiveHardnessSelector, **wanted)
        if wanted.get("shift", 1.0) < 3.0:
            assert (positive + rule.options.shift <= 0).any(), "the guarded branch must be among the cases"
        expected = self._naive(positive.tolist(), scores.tolist(), rule.options)
        assert rule.select(positive, scores).tolist() == expected  # type: ignore[attr-defined]

    def test_known_answer(self) -> None:
        """Target 0.1 / (1 + 1) = 0.05."""
        rule = build(AdaptiveHardnessSelector)
        assert rule.select(torch.tensor([1.0]), torch.tensor([[0.5, 0.06, -0.1]])).tolist() == [1]  # type: ignore[attr-defined]

    @pytest.mark.parametrize("positive", [-1.0, -1.5, -40.0])
    @pytest.mark.parametrize("exponent", [-2.0, -3.0, -40.0])
    def test_a_badly_ranked_positive_meets_the_hardest(self, positive: float, exponent: float) -> None:
        """s(u, i) + shift at or below 0, where the published power is infinite or of the wrong sign."""
        rule = build(AdaptiveHardnessSelector, exponent=exponent)
        for scores in ([-30.0, 0.0, 12.0, 3.0], [0.01, 0.02, 0.0301, 0.03]):
            assert rule.select(torch.tensor([positive]), torch.tensor([scores])).tolist() == [2]  # type: ignore[attr-defined]

    def test_a_well_ranked_positive_meets_an_easier_one(self) -> None:
        rule = build(AdaptiveHardnessSelector, slope=1.0)
        scores = torch.tensor([[2.0, 1.0, 0.5, 0.1]]).expand(2, -1)
        assert rule.select(torch.tensor([0.0, 9.0]), scores).tolist() == [1, 3]  # type: ignore[attr-defined]

    def test_reads_the_score_of_the_positive(self) -> None:
        view, (users, positives) = TensorView(dtype=torch.float64), tiny_batch()
        rule = build(AdaptiveHardnessSelector, seed=SEED, candidates=6)
        candidates, _ = _drawn_candidates(users, 6)
        with torch.no_grad():
            pos = [_dot(view.users[u], view.items[i]) for u, i in zip(users.tolist(), positives.tolist(), strict=True)]
            cand = [
                [_dot(view.users[u], view.items[j]) for j in row]
                for u, row in zip(users.tolist(), candidates.tolist(), strict=True)
            ]
        columns = self._naive(pos, cand, rule.options)
        expected = [row[column] for row, column in zip(candidates.tolist(), columns, strict=True)]
        assert rule.sample(users, positives, view).ids.squeeze(1).tolist() == expected


class TestSoftmax:
    @pytest.mark.parametrize("rho", [0.1, 1.0, 10.0])
    @pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
    def test_naive(self, rho: float, dtype: torch.dtype, tolerance: float) -> None:
        positive, scores = _scores(seed=2)
        expected = []
        for s_pos, row in zip(positive.tolist(), scores.tolist(), strict=True):
            z = [-math.log(1 / (1 + math.exp(-(s_pos - s)))) for s in row]
            mean = sum(z) / len(z)
            temperature = math.sqrt(sum((x - mean) ** 2 for x in z) / len(z) / (2 * rho))
            powers = [math.exp(x / temperature) for x in z]
            expected.append([power / sum(powers) for power in powers])
        weights = build(SoftmaxWeigher, rho=rho).weigh(positive.to(dtype).unsqueeze(1), scores.to(dtype))  # type: ignore[attr-defined]
        torch.testing.assert_close(
            weights.double(), torch.tensor(expected, dtype=torch.float64), rtol=0, atol=tolerance * 10
        )

    def test_far_apart_scores_stay_finite(self) -> None:
        weights = build(SoftmaxWeigher, rho=1e6).weigh(torch.zeros(1, 1), torch.tensor([[-1e4, 0.0, 1e4]]))  # type: ignore[attr-defined]
        torch.testing.assert_close(weights, torch.tensor([[0.0, 0.0, 1.0]]))

    def test_every_candidate_enters(self) -> None:
        view, (users, positives) = TensorView(), tiny_batch()
        negatives = build(SoftmaxWeigher, seed=SEED, candidates=5).sample(users, positives, view)
        assert torch.equal(negatives.ids, _drawn_candidates(users, 5)[0])
        assert negatives.weights is not None
        with torch.no_grad():
            scores = view.score(users, negatives.ids)
        assert torch.equal(negatives.weights.argmax(dim=1), scores.argmax(dim=1))


class TestMixGCF:
    @pytest.mark.parametrize("hops", [1, 2, 4])
    @pytest.mark.parametrize("mix", [1.0, 0.4])
    def test_against_building_every_mixed_candidate(self, hops: int, mix: float) -> None:
        """The paper's order: mix all candidates of a hop, take the best mixed one, pool the hops."""
        view, (users, positives) = TensorView(hops=hops), tiny_batch(times=3)
        candidates, generator = _drawn_candidates(users, 6)
        expected = torch.zeros(len(users), view.users.shape[1])
        first = []
        with torch.no_grad():
            for hop in range(hops):
                share = mix * torch.rand((len(users), 1), generator=generator)
                for b, (user, positive) in enumerate(zip(users.tolist(), positives.tolist(), strict=True)):
                    mixed = [
                        share[b] * view.hops[hop][positive] + (1 - share[b]) * view.hops[hop][candidate]
                        for candidate in candidates[b].tolist()
                    ]
                    best = max(range(6), key=lambda c: _dot(view.users[user], mixed[c]))
                    expected[b] += mixed[best] / hops
                    if hop == 0:
                        first.append(int(candidates[b, best]))
        negatives = build(MixGCFSynthesizer, seed=SEED, candidates=6, mix=mix).sample(users, positives, view)
        torch.testing.assert_close(negatives.rows, expected)
        assert negatives.ids.squeeze(1).tolist() == first

    def test_hops_choose_for_themselves(self) -> None:
        """The loop above would not notice one choice for all hops if the hops agreed."""
        view, (users, _) = TensorView(hops=2), tiny_batch()
        candidates, _ = _drawn_candidates(users, 6)
        with torch.no_grad():
            choices = [view.score_hop(hop, users, candidates).argmax(dim=1) for hop in range(2)]
        assert (choices[0] != choices[1]).float().mean() > 0.2

    def test_gradient_reaches_both_ends_by_their_shares(self) -> None:
        view, (users, positives) = TensorView(), tiny_batch(times=1)
        negatives = build(MixGCFSynthesizer, seed=SEED, candidates=6).sample(users, positives, view)
        assert negatives.rows is not None
        negatives.rows.sum().backward()
        _, generator = _drawn_candidates(users, 6)
        share = torch.rand((len(users), 1), generator=generator).squeeze(1)
        expected = torch.zeros(view.hops[0].shape[0])
        expected.index_add_(0, positives, share).index_add_(0, negatives.ids.squeeze(1), 1 - share)
        torch.testing.assert_close(view.hops[0].grad, expected.unsqueeze(1).expand_as(view.hops[0]))


class TestDimensionMix:
    @staticmethod
    def _naive(user: list[float], positive: list[float], negative: list[float], boundary: float) -> list[float]:
        mixed = []
        for u, i, n in zip(user, positive, negative, strict=True):
            w = 1 / (1 + math.exp(-(u * (n - i) - math.log(boundary))))
            mixed.append((1 - w) * i + w * n)
        return mixed

    @pytest.mark.parametrize("boundary", [0.5, 1.0, 2.0])
    @pytest.mark.parametrize("hops", [1, 3])
    def test_naive(self, hops: int, boundary: float) -> None:
        view, (users, positives) = TensorView(hops=hops, dtype=torch.float64), tiny_batch(times=2)
        candidates, _ = _drawn_candidates(users, 6)
        rule = build(DimensionMixSynthesizer, seed=SEED, candidates=6, boundary=boundary)
        rows = rule.sample(users, positives, view).rows
        assert rows is not None
        for b, (user, positive) in enumerate(zip(users.tolist(), positives.tolist(), strict=True)):
            expected = [0.0] * rows.shape[1]
            for table in view.hops:
                hardest = max(candidates[b].tolist(), key=lambda j: _dot(view.users[user], table[j]))  # noqa: B023
                row = self._naive(*(t.tolist() for t in (view.users[user], table[positive], table[hardest])), boundary)
                expected = [total + value / hops for total, value in zip(expected, row, strict=True)]
            torch.testing.assert_close(rows[b].detach(), torch.tensor(expected, dtype=torch.float64))

    def test_gradient_flows_through_the_weight(self) -> None:
        """Finite differences in float64 with respect to all three rows; a detached weight would be off."""
        rule = build(DimensionMixSynthesizer)
        rows = [torch.randn(4, 3, generator=torch.Generator().manual_seed(s), dtype=torch.float64) for s in range(3)]
        inputs = [row.requires_grad_() for row in rows]
        assert torch.autograd.gradcheck(rule.mix, inputs)  # type: ignore[attr-defined]
        (to_user,) = torch.autograd.grad(rule.mix(*inputs).sum(), inputs[0])  # type: ignore[attr-defined]
        assert to_user.abs().min() > 0

    def test_gradient_reaches_the_tables_of_the_model(self) -> None:
        view, (users, positives) = TensorView(hops=2, dtype=torch.float64), tiny_batch(times=1)

        def pulled(user_table: Tensor, *hops: Tensor) -> Tensor:
            view.users, view.hops = user_table, list(hops)
            rule = build(DimensionMixSynthesizer, seed=SEED, candidates=6)
            rows = rule.sample(users, positives, view).rows
            assert rows is not None
            return rows.sum(dim=0)

        assert torch.autograd.gradcheck(pulled, (view.users, *view.hops))


class TestOptionRanges:
    """Cross-field checks at construction; the messages name the key and the remedy."""

    @pytest.mark.parametrize(
        ("options", "wanted", "message"),
        [
            (CandidateOptions, {"candidates": 0}, "neg_sampler_candidates=0 must be at least 1"),
            (TopMOptions, {"top_m": 0}, "neg_sampler_top_m=0 must be at least 1"),
            (
                TopMOptions,
                {"candidates": 3, "top_m": 9},
                "neg_sampler_top_m=9 exceeds the 3 candidates per pair; lower",
            ),
            (AdaptiveOptions, {"slope": 0.0}, "neg_sampler_slope=0.0 must be above 0"),
            (AdaptiveOptions, {"candidates": -2}, "neg_sampler_candidates=-2 must be at least 1"),
            (BoundaryOptions, {"boundary": 0.0}, "neg_sampler_boundary=0.0 must be above 0"),
            (MixOptions, {"mix": 1.5}, r"neg_sampler_mix=1.5 is outside \[0, 1\]"),
            (MixOptions, {"mix": -0.1}, r"neg_sampler_mix=-0.1 is outside \[0, 1\]"),
            (SoftmaxOptions, {"rho": 0.0}, "neg_sampler_rho=0.0 must be above 0"),
        ],
    )
    def test_refused(self, options: type, wanted: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            options(**wanted)

    @pytest.mark.parametrize(
        ("options", "wanted"),
        [
            (AdaptiveOptions, {"exponent": -1.0}),  # documented: below -1
            (AdaptiveOptions, {"slope": math.nan}),
            (BoundaryOptions, {"boundary": math.nan}),
            (SoftmaxOptions, {"rho": math.nan}),
            (PopularityOptions, {"power": math.nan}),
            (PopularityOptions, {"power": math.inf}),
        ],
    )
    def test_refused_too(self, options: type, wanted: dict[str, Any]) -> None:
        with pytest.raises(ValueError, match="neg_sampler_"):
            options(**wanted)

    @pytest.mark.parametrize(
        ("options", "wanted"),
        [(TopMOptions, {"candidates": 3, "top_m": 3}), (MixOptions, {"mix": 0.0}), (MixOptions, {"mix": 1.0})],
    )
    def test_ends_of_a_range_are_allowed(self, options: type, wanted: dict[str, Any]) -> None:
        options(**wanted)


def test_candidate_samplers_draw_with_their_own_generator() -> None:
    rule = build(DynamicSelector)
    assert isinstance(rule, CandidateSampler)
    assert rule.drawer.generator is rule.generator
