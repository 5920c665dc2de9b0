"""Losses against naive double loops in float64, in two types, with duplicates and empty batches."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from recbole_hnlm.models.losses import HardPairLoss, InfoNCELoss, joint_ranking_loss, unit_rows

DTYPES = [(torch.float64, 1e-10), (torch.float32, 1e-5)]


def _rows(seed: int, batch: int = 9, width: int = 4) -> Tensor:
    return torch.randn(batch, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _unit(seed: int) -> Tensor:
    return functional.normalize(_rows(seed), dim=-1)


def _dot(a: Tensor, b: Tensor) -> float:
    return sum(x * y for x, y in zip(a.tolist(), b.tolist(), strict=True))


class TestInfoNCE:
    IDS = torch.tensor([5, 2, 5, 7, 2, 5, 1, 9, 3])
    """Ids 5 and 2 occur more than once."""

    @staticmethod
    def _naive(anchors: Tensor, targets: Tensor, ids: list[int], temperature: float) -> float:
        total = 0.0
        for b in range(len(ids)):
            own = math.exp(_dot(anchors[b], targets[b]) / temperature)
            others = 0.0
            for c in range(len(ids)):
                if c != b and ids[c] != ids[b]:
                    others += math.exp(_dot(anchors[b], targets[c]) / temperature)
            total -= math.log(own / (own + others))
        return total / len(ids)

    @pytest.mark.parametrize(("dtype", "tolerance"), DTYPES)
    @pytest.mark.parametrize("temperature", [0.05, 0.2, 1.0])
    @pytest.mark.parametrize("ids", [IDS, torch.arange(9), torch.full((9,), 4)], ids=["twins", "distinct", "one id"])
    def test_naive(self, ids: Tensor, temperature: float, dtype: torch.dtype, tolerance: float) -> None:
        anchors, targets = _unit(0), _unit(1)
        expected = self._naive(anchors, targets, ids.tolist(), temperature)
        loss = InfoNCELoss(temperature)(anchors.to(dtype), targets.to(dtype), ids)
        assert loss.dtype == dtype
        assert loss.item() == pytest.approx(expected, rel=tolerance * 10, abs=tolerance)

    def test_twins_are_no_negatives(self) -> None:
        """The masked target gets no gradient from its twin; unmasked it would."""
        anchors, targets = _unit(0), _unit(1).requires_grad_()
        for ids, touched in ((torch.tensor([1, 1]), False), (torch.tensor([1, 2]), True)):
            logits = torch.autograd.grad(InfoNCELoss(0.2)(anchors[:2], targets[:2], ids), targets)[0]
            assert bool(logits.abs().sum() > 1e-6) is touched

    def test_a_batch_of_one_costs_nothing(self) -> None:
        assert InfoNCELoss(0.2)(_unit(0)[:1], _unit(1)[:1], torch.tensor([3])).item() == 0.0

    def test_empty_batch(self) -> None:
        rows = torch.zeros(0, 4, requires_grad=True)
        loss = InfoNCELoss(0.2)(rows, rows, torch.zeros(0, dtype=torch.int64))
        assert loss.shape == ()
        assert loss.item() == 0.0
        loss.backward()

    def test_gradient(self) -> None:
        inputs = (_unit(0).requires_grad_(), _unit(1).requires_grad_())
        assert torch.autograd.gradcheck(lambda a, t: InfoNCELoss(0.5)(a, t, self.IDS), inputs)

    def test_large_logits_stay_finite(self) -> None:
        anchors, targets = _unit(0).float(), _unit(1).float()
        assert torch.isfinite(InfoNCELoss(1e-3)(anchors, targets, self.IDS))


class TestHardPair:
    @pytest.mark.parametrize(("dtype", "tolerance"), DTYPES)
    @pytest.mark.parametrize("temperature", [0.05, 0.2, 1.0])
    def test_naive(self, temperature: float, dtype: torch.dtype, tolerance: float) -> None:
        users, positives, hard = _unit(0), _unit(1), _unit(2)
        gaps = [_dot(u, h) - _dot(u, i) for u, i, h in zip(users, positives, hard, strict=True)]
        expected = sum(math.log(1 + math.exp(gap / temperature)) for gap in gaps) / len(gaps)
        loss = HardPairLoss(temperature)(users.to(dtype), positives.to(dtype), hard.to(dtype))
        assert loss.dtype == dtype
        assert loss.item() == pytest.approx(expected, rel=tolerance * 10)

    def test_it_is_info_nce_over_two(self) -> None:
        """Eq. 9 of HNLMRec: InfoNCE over the positive and the hard negative."""
        users, positives, hard = _unit(0), _unit(1), _unit(2)
        logits = torch.stack([(users * positives).sum(1), (users * hard).sum(1)], dim=1) / 0.2
        expected = functional.cross_entropy(logits, torch.zeros(len(users), dtype=torch.int64))
        torch.testing.assert_close(HardPairLoss(0.2)(users, positives, hard), expected)

    def test_the_nearer_positive_costs_less(self) -> None:
        user, near, far = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.8, 0.6]]), torch.tensor([[0.0, 1.0]])
        loss = HardPairLoss(0.2)
        assert loss(user, near, far) < loss(user, far, near)

    def test_empty_batch(self) -> None:
        rows = torch.zeros(0, 4, requires_grad=True)
        loss = HardPairLoss(0.2)(rows, rows, rows)
        assert loss.shape == ()
        assert loss.item() == 0.0
        loss.backward()


class TestJointRanking:
    @staticmethod
    def _scores(negatives: int) -> tuple[Tensor, Tensor, Tensor]:
        positive = 3 * _rows(0)[:, 0]
        return positive, 3 * _rows(1, width=negatives), torch.softmax(_rows(2, width=negatives), dim=1)

    @pytest.mark.parametrize(("dtype", "tolerance"), DTYPES)
    @pytest.mark.parametrize("negatives", [1, 2, 7])
    def test_naive(self, negatives: int, dtype: torch.dtype, tolerance: float) -> None:
        positive, scores, _ = self._scores(negatives)
        terms = [
            math.log(1 + sum(math.exp(s - s_pos) for s in row))
            for s_pos, row in zip(positive.tolist(), scores.tolist(), strict=True)
        ]
        loss = joint_ranking_loss(positive.to(dtype), scores.to(dtype), None)
        assert loss.dtype == dtype
        assert loss.item() == pytest.approx(sum(terms) / len(terms), rel=tolerance * 10)

    @pytest.mark.parametrize(("dtype", "tolerance"), DTYPES)
    @pytest.mark.parametrize("negatives", [1, 2, 7])
    def test_naive_with_weights(self, negatives: int, dtype: torch.dtype, tolerance: float) -> None:
        positive, scores, weights = self._scores(negatives)
        total = 0.0
        for b in range(len(positive)):
            for k in range(negatives):
                gap = scores[b, k].item() - positive[b].item()
                total += weights[b, k].item() * math.log(1 + math.exp(gap))
        loss = joint_ranking_loss(positive.to(dtype), scores.to(dtype), weights.to(dtype))
        assert loss.item() == pytest.approx(total / len(positive), rel=tolerance * 10)

    def test_one_negative_is_bpr(self) -> None:
        positive, scores, _ = self._scores(1)
        bpr = -functional.logsigmoid(positive - scores.squeeze(1)).mean()
        torch.testing.assert_close(joint_ranking_loss(positive, scores, None), bpr)
        torch.testing.assert_close(joint_ranking_loss(positive, scores, torch.ones_like(scores)), bpr)

    def test_several_negatives_are_not_their_mean(self) -> None:
        """What RecBole does with several negatives: the mean of BPR over all (pair, negative)."""
        positive, scores, _ = self._scores(3)
        mean = functional.softplus(scores - positive.unsqueeze(1)).mean()
        assert joint_ranking_loss(positive, scores, None) > mean
        uniform = torch.full_like(scores, 1 / 3)
        torch.testing.assert_close(joint_ranking_loss(positive, scores, uniform), mean)

    def test_gradient(self) -> None:
        positive, scores, weights = self._scores(4)
        inputs = (positive.requires_grad_(), scores.requires_grad_())
        assert torch.autograd.gradcheck(lambda p, s: joint_ranking_loss(p, s, None), inputs)
        assert torch.autograd.gradcheck(lambda p, s: joint_ranking_loss(p, s, weights), inputs)

    def test_far_apart_scores_stay_finite(self) -> None:
        positive = torch.tensor([0.0], requires_grad=True)
        loss = joint_ranking_loss(positive, torch.tensor([[1e4, -1e4]]), None)
        assert loss.item() == pytest.approx(1e4)
        (gradient,) = torch.autograd.grad(loss, positive)
        assert gradient.item() == pytest.approx(-1.0)

    @pytest.mark.parametrize("weights", [None, torch.zeros(0, 3)])
    def test_empty_batch(self, weights: Tensor | None) -> None:
        assert joint_ranking_loss(torch.zeros(0), torch.zeros(0, 3), weights).item() == 0.0


class TestUnitRows:
    @pytest.mark.parametrize("scale_free", [True, False])
    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
    def test_rows_of_norm_one(self, scale_free: bool, dtype: torch.dtype) -> None:
        rows = _rows(0)
        expected = torch.tensor([[x / math.sqrt(_dot(row, row)) for x in row.tolist()] for row in rows])
        torch.testing.assert_close(unit_rows(rows.to(dtype), scale_free), expected.to(dtype), rtol=1e-5, atol=1e-6)

    def test_scale_free_changes_no_value(self) -> None:
        assert torch.equal(unit_rows(_rows(0), True), unit_rows(_rows(0), False))

    @pytest.mark.parametrize("scale", [0.01, 1.0, 30.0])
    def test_scale_free_gradient_is_squared_norm_times_the_plain_one(self, scale: float) -> None:
        rows, pull = (scale * _rows(0)).requires_grad_(), _rows(3)
        (plain,) = torch.autograd.grad((unit_rows(rows, False) * pull).sum(), rows)
        (scaled,) = torch.autograd.grad((unit_rows(rows, True) * pull).sum(), rows)
        assert plain.abs().sum() > 0
        torch.testing.assert_close(scaled, rows.detach().square().sum(1, keepdim=True) * plain)

    def test_the_pull_grows_with_the_norm(self) -> None:
        """The claim of the docstring: twice the row, twice the gradient; plain, half of it."""
        pull = _rows(3)
        norms = {}
        for scale in (1.0, 2.0):
            for scale_free in (True, False):
                rows = (scale * _rows(0)).requires_grad_()
                (gradient,) = torch.autograd.grad((unit_rows(rows, scale_free) * pull).sum(), rows)
                norms[scale, scale_free] = gradient.norm().item()
        assert norms[2.0, True] / norms[1.0, True] == pytest.approx(2.0)
        assert norms[2.0, False] / norms[1.0, False] == pytest.approx(0.5)

    def test_the_plain_gradient_is_exact(self) -> None:
        assert torch.autograd.gradcheck(lambda rows: unit_rows(rows, False), (_rows(0).requires_grad_(),))

    @pytest.mark.parametrize("scale_free", [True, False])
    def test_a_zero_row_stays_finite(self, scale_free: bool) -> None:
        rows = torch.zeros(2, 3, requires_grad=True)
        unit = unit_rows(rows, scale_free)
        assert torch.equal(unit, torch.zeros(2, 3))
        unit.sum().backward()
        assert rows.grad is not None
        assert torch.isfinite(rows.grad).all()

    @pytest.mark.parametrize("scale_free", [True, False])
    def test_empty_batch(self, scale_free: bool) -> None:
        assert unit_rows(torch.zeros(0, 3), scale_free).shape == (0, 3)


def test_cosines_over_a_small_temperature_stay_in_single_precision_under_autocast() -> None:
    from recbole_hnlm.graph_models.noise import contrast

    rows = [functional.normalize(torch.randn(64, 16), dim=1) for _ in range(2)]
    ids = torch.arange(64)
    for loss in (lambda: InfoNCELoss(0.05)(*rows, ids), lambda: contrast(*rows, ids, 0.05)):
        expected = loss()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            torch.testing.assert_close(loss(), expected)
