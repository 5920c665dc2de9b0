"""Ranking losses against naive loops in float64: values, gradients, masks, limits, empty batches."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from recbole_hnlm.models import log_sums
from recbole_hnlm.models.ranking_losses import RANKING_LOSSES, RankingBatch, RankingLoss
from recbole_hnlm.options.loss import RANKING_LOSS_OPTIONS

RANKING_NEGATIVES = [name for name, options in RANKING_LOSS_OPTIONS.items() if hasattr(options, "negatives")]
SPARING = [name for name, options in RANKING_LOSS_OPTIONS.items() if options.spares]
USER_OF, ITEM_OF = [0, 2, 1, 0, 2, 0, 3], [1, 1, 0, 2, 3, 4, 2]
SEEN = [(0, 1), (0, 4), (2, 0), (3, 5)]
"""Of users and negatives."""
CASES: list[tuple[str, dict[str, Any]]] = [
    ("sampled_softmax", {"temperature": 0.1}),
    ("sampled_softmax", {"temperature": 1.0}),
    ("bsl", {"temperature": 0.2, "positive_temperature": 0.5}),
    ("bsl", {"temperature": 0.5, "positive_temperature": 0.1}),
    ("psl", {"temperature": 0.1, "activation": "tanh"}),
    ("psl", {"temperature": 0.2, "activation": "atan"}),
    ("psl", {"temperature": 0.5, "activation": "relu"}),
    ("directau", {"gamma": 0.0}),
    ("directau", {"gamma": 2.5}),
]
DTYPES = [(torch.float64, 1e-10), (torch.float32, 1e-5)]


def _unit(count: int, seed: int) -> Tensor:
    rows = torch.randn(count, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return functional.normalize(rows, dim=-1)


def _batch(dtype: torch.dtype = torch.float64, seen: list[tuple[int, int]] | None = None) -> RankingBatch:
    places = torch.tensor([6 * user + column for user, column in (SEEN if seen is None else seen)], dtype=torch.int64)
    users, items, negatives = (_unit(count, seed).to(dtype) for count, seed in ((4, 0), (5, 1), (6, 2)))
    return RankingBatch(users, torch.tensor(USER_OF), items, torch.tensor(ITEM_OF), negatives, places)


def _made(name: str, **values: Any) -> RankingLoss:
    return RANKING_LOSSES[name](RANKING_LOSS_OPTIONS[name](**values))


def _dot(a: Tensor, b: Tensor) -> float:
    return sum(x * y for x, y in zip(a.tolist(), b.tolist(), strict=True))


def _naive(name: str, batch: RankingBatch, seen: list[tuple[int, int]], values: dict[str, Any]) -> float:
    pairs = list(zip(batch.user_of.tolist(), batch.item_of.tolist(), strict=True))
    if name == "directau":
        alignment = sum(2 - 2 * _dot(batch.users[u], batch.items[i]) for u, i in pairs) / len(pairs)
        uniformity = 0.0
        for rows, side in ((batch.users, 0), (batch.items, 1)):
            apart = [
                math.exp(-2 * float((rows[one[side]] - rows[two[side]]).square().sum()))
                for place, one in enumerate(pairs)
                for two in pairs[place + 1 :]
            ]
            uniformity += math.log(sum(apart) / len(apart)) / 2
        return alignment + values["gamma"] * uniformity
    assert batch.negatives is not None
    temperature, losses = values["temperature"], []
    for u, i in pairs:
        positive = _dot(batch.users[u], batch.items[i])
        negatives = [_dot(batch.users[u], row) for j, row in enumerate(batch.negatives) if (u, j) not in seen]
        if name == "psl":
            act = {"tanh": math.tanh, "atan": math.atan, "relu": lambda gap: max(gap, -1.0)}[values["activation"]]
            losses.append(math.log(sum((act((c - positive) / 2) + 1) ** (1 / temperature) for c in negatives)))
            continue
        others = sum(math.exp(c / temperature) for c in negatives)
        if name == "sampled_softmax":
            own = math.exp(positive / temperature)
            losses.append(-math.log(own / (own + others)))
            continue
        wide = values["positive_temperature"]
        same = [math.exp(_dot(batch.users[u], batch.items[k]) / wide) for v, k in pairs if v == u]
        losses.append(math.log(others) - wide / temperature * math.log(sum(same) / len(same)))
    return sum(losses) / len(losses)


@pytest.mark.parametrize(("dtype", "tolerance"), DTYPES)
@pytest.mark.parametrize(("name", "values"), CASES)
def test_naive(
    name: str, values: dict[str, Any], dtype: torch.dtype, tolerance: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_sums, "_BLOCK_ROWS", 2)  # directau: several blocks, as below
    loss = _made(name, **values)(_batch(dtype))
    assert loss.dtype == dtype and loss.shape == ()
    assert loss.item() == pytest.approx(_naive(name, _batch(), SEEN, values), rel=10 * tolerance, abs=tolerance)


@pytest.mark.parametrize(("name", "values"), CASES)
def test_gradient(name: str, values: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_sums, "_BLOCK_ENTRIES", 2 * 6)  # psl: several blocks, the last one short
    monkeypatch.setattr(log_sums, "_BLOCK_ROWS", 2)
    batch, loss = _batch(), _made(name, **values)
    rows = [batch.users, batch.items] + ([batch.negatives] if name != "directau" else [])  # type: ignore[list-item]
    fields = ("users", "items", "negatives")

    def of(*given: Tensor) -> Tensor:
        return loss(dataclasses.replace(batch, **dict(zip(fields, given, strict=False))))

    assert torch.autograd.gradcheck(of, [row.clone().requires_grad_() for row in rows])


@pytest.mark.parametrize("name", RANKING_NEGATIVES)
def test_a_users_positive_among_the_negatives_does_not_count(name: str) -> None:
    """Neither in the value nor in a gradient; where it is nobody's positive, in both."""
    outcomes = []
    for seen in ([(user, 3) for user in range(4)], []):
        batch = _batch(seen=seen)
        assert batch.negatives is not None
        moved = batch.negatives.clone()
        moved[3] = -moved[3]
        values = [_made(name)(dataclasses.replace(batch, negatives=rows)).item() for rows in (batch.negatives, moved)]
        rows = batch.negatives.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(_made(name)(dataclasses.replace(batch, negatives=rows)), rows)
        outcomes.append((values[0] == values[1], bool(gradient[3].abs().sum() == 0)))
    assert outcomes == [(True, True), (False, False)]


@pytest.mark.parametrize("name", SPARING)
def test_a_weight_of_two_is_the_negative_twice(name: str) -> None:
    batch, loss = _batch(seen=[]), _made(name)
    assert batch.negatives is not None
    weights = torch.zeros(4, 6, dtype=torch.float64)
    weights[:, 2] = math.log(2)
    weighed = loss(dataclasses.replace(batch, log_weights=weights))
    twice = loss(dataclasses.replace(batch, negatives=torch.cat([batch.negatives, batch.negatives[2:3]])))
    assert weighed.item() == pytest.approx(twice.item(), rel=1e-12)
    assert abs(weighed.item() - loss(batch).item()) > 1e-3


@pytest.mark.parametrize("name", SPARING)
def test_gradient_under_weights(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_sums, "_BLOCK_ENTRIES", 2 * 6)
    weights = torch.randn(4, 6, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    batch, loss = dataclasses.replace(_batch(), log_weights=weights), _made(name)

    def of(users: Tensor, items: Tensor, negatives: Tensor) -> Tensor:
        return loss(dataclasses.replace(batch, users=users, items=items, negatives=negatives))

    assert batch.negatives is not None
    rows = [rows.clone().requires_grad_() for rows in (batch.users, batch.items, batch.negatives)]
    assert torch.autograd.gradcheck(of, rows)


@pytest.mark.parametrize("name", RANKING_NEGATIVES)
def test_a_user_without_negatives_that_count_adds_nothing_and_no_nan(name: str) -> None:
    seen = [(0, column) for column in range(6)]
    batch, loss = _batch(seen=seen), _made(name)
    users = batch.users.clone().requires_grad_()
    value = loss(dataclasses.replace(batch, users=users))
    (gradient,) = torch.autograd.grad(value, users)
    assert torch.isfinite(gradient).all() and bool((gradient[0] == 0).all()) and bool(gradient[1].abs().sum() > 0)
    others = [place for place, user in enumerate(USER_OF) if user]
    rest = dataclasses.replace(batch, user_of=batch.user_of[others], item_of=batch.item_of[others])
    pairs = len(USER_OF) if name == "sampled_softmax" else len(others)  # there the loss of the pair is ln 1
    if name != "bsl":  # whose bincount wants every user in the batch
        assert value.item() == pytest.approx(loss(rest).item() * len(others) / pairs)


@pytest.mark.parametrize("name", RANKING_LOSSES)
def test_empty_batch(name: str) -> None:
    none, rows = torch.zeros(0, dtype=torch.int64), torch.zeros(0, 3, requires_grad=True)
    value = _made(name)(RankingBatch(rows, none, rows, none, _unit(6, 2).float(), none))
    assert value.item() == 0.0 and value.shape == ()
    value.backward()


def _distinct_users() -> RankingBatch:
    return dataclasses.replace(_batch(), user_of=torch.arange(4), item_of=torch.tensor([1, 0, 3, 2]))


def test_bsl_is_softmax_where_no_user_has_two_positives() -> None:
    """At equal temperatures and at any others: ln sum exp(c / t) - c+ / t, softmax without the positive below."""
    batch = _distinct_users()
    expected = (torch.logsumexp(batch.negative_logits(0.3), dim=1) - batch.positive_cosines() / 0.3).mean().item()
    for wide in (0.3, 0.05, 2.0):
        value = _made("bsl", temperature=0.3, positive_temperature=wide)(batch).item()
        assert value == pytest.approx(expected)


def test_bsl_at_a_large_positive_temperature_weighs_positives_alike() -> None:
    batch = _batch()
    negatives = torch.logsumexp(batch.negative_logits(0.3), dim=1)[batch.user_of]
    expected = (negatives - batch.positive_cosines() / 0.3).mean().item()
    assert _made("bsl", temperature=0.3, positive_temperature=1e4)(batch).item() == pytest.approx(expected, abs=1e-3)
    assert _made("bsl", temperature=0.3, positive_temperature=0.1)(batch).item() < expected - 0.05


def test_softmax_with_one_negative_is_bpr_on_cosines() -> None:
    batch = dataclasses.replace(_batch(seen=[]), negatives=_unit(6, 2)[:1], seen=torch.zeros(0, dtype=torch.int64))
    gap = batch.negative_cosines()[batch.user_of].squeeze(1) - batch.positive_cosines()
    expected = functional.softplus(gap / 0.4).mean().item()
    assert _made("sampled_softmax", temperature=0.4)(batch).item() == pytest.approx(expected)


def test_directau_of_one_point_and_of_opposite_points() -> None:
    one = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    two, both, twice = torch.cat([one, -one]), torch.tensor([0, 1]), torch.zeros(2, dtype=torch.int64)
    loss = _made("directau", gamma=1.0)
    assert loss(RankingBatch(one, twice, one, twice)).item() == 0.0  # aligned, and not apart at all
    assert loss(RankingBatch(two, both, two, both)).item() == pytest.approx(-8.0)  # |x - (-x)|^2 = 4, twice two
    assert loss(RankingBatch(one, twice[:1], -one, twice[:1])).item() == 4.0  # a single pair has no uniformity


def test_small_temperatures_stay_finite_in_single_precision() -> None:
    for name, least in (("sampled_softmax", 0.01), ("bsl", 0.01), ("psl", 0.015)):
        batch = _batch(torch.float32)
        users = batch.users.clone().requires_grad_()
        value = _made(name, temperature=least)(dataclasses.replace(batch, users=users))
        value.backward()
        assert torch.isfinite(value) and users.grad is not None and torch.isfinite(users.grad).all(), name


def test_every_loss_has_options_and_a_class() -> None:
    assert list(RANKING_LOSSES) == list(RANKING_LOSS_OPTIONS)
    for name, loss in RANKING_LOSSES.items():
        assert loss.Options is RANKING_LOSS_OPTIONS[name]
