"""DENS against plain loops in float64: gates, choice by epoch, gate loss; its fixed points and a planted case."""

from __future__ import annotations

import logging
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from recbole_hnlm.samplers import dens
from recbole_hnlm.samplers.dens import DisentangledSynthesizer, FactorGates, GateOptions
from recbole_hnlm.samplers.dns import DynamicSelector
from recbole_hnlm.samplers.hops import hardest_per_hop
from tests.samplers.contract import N_ITEMS, WIDTH, TensorView, build, global_random_state, tiny_batch

Row = list[float]


def made(epoch: int | None = 0, double: bool = True, **wanted: Any) -> DisentangledSynthesizer:
    sampler = build(DisentangledSynthesizer, seed=5, **{"candidates": 6, **wanted})
    assert isinstance(sampler, DisentangledSynthesizer) and sampler.gates is not None
    sampler.epoch = epoch
    if double:
        sampler.gates.double()
    return sampler


def constant_gates(sampler: DisentangledSynthesizer, value: float) -> None:
    """Gates that let the same share of every dimension through, whatever the rows."""
    assert sampler.gates is not None
    with torch.no_grad():
        for layer in sampler.gates.children():
            assert isinstance(layer, nn.Linear)
            layer.weight.zero_()
            layer.bias.fill_(math.log(value / (1 - value)) / 2)  # two biases are added up


def drawn(sampler: DisentangledSynthesizer, users: Tensor) -> Tensor:
    """The candidates of the next draw, which happens again afterwards."""
    state = sampler.generator.get_state()
    candidates = sampler.draw_candidates(users)
    sampler.generator.set_state(state)
    return candidates


def linear(layer: nn.Linear, row: Row) -> Row:
    return [b + sum(w * x for w, x in zip(line, row, strict=True)) for line, b in zip(layer.weight.tolist(),
            layer.bias.tolist(), strict=True)]  # fmt: skip


def gated(row: Row, one: Row, two: Row) -> Row:
    return [x / (1 + math.exp(-(a + b))) for x, a, b in zip(row, one, two, strict=True)]


def dot(one: Row, two: Row) -> float:
    return sum(a * b for a, b in zip(one, two, strict=True))


class Naive:
    """The published formulas for one pair and hop."""

    def __init__(self, gates: Any, user: Tensor, positive: Tensor) -> None:
        self.gates, self.user, self.positive = gates, user.tolist(), positive.tolist()
        self.relevant = gated(self.positive, linear(gates.item, self.positive), linear(gates.user, self.user))

    def negative(self, row: Row) -> Row:
        return gated(row, linear(self.gates.negative, row), linear(self.gates.positive, self.relevant))

    def choice(self, row: Row, weight: float) -> float:
        relevant = self.negative(row)
        irrelevant = [x - r for x, r in zip(row, relevant, strict=True)]
        return (1 - weight) * dot(self.user, irrelevant) - weight * dot(self.user, relevant)


@pytest.mark.parametrize(("epoch", "weight"), [(0, 0.0), (30, 0.3), (100, 1.0), (250, 1.0), (None, 1.0)])
@pytest.mark.parametrize("hops", [1, 3])
@pytest.mark.parametrize("times", [1, 2], ids=["rows of candidates", "whole tables"])
def test_choice(hops: int, epoch: int | None, weight: float, times: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dens, "_BLOCK_FLOATS", 4 * 6 * WIDTH)  # several blocks, the last one shorter
    view, (users, positives) = TensorView(hops=hops, dtype=torch.float64), tiny_batch(times=1)
    if times == 1:
        users, positives = users[-2:], positives[-2:]
    sampler = made(epoch)
    assert (6 * len(users) >= N_ITEMS) == (times > 1)
    candidates = drawn(sampler, users)
    negatives = sampler.sample(users, positives, view)
    assert negatives.rows is not None
    for b, (user, positive) in enumerate(zip(users.tolist(), positives.tolist(), strict=True)):
        expected, first = torch.zeros(WIDTH, dtype=torch.float64), 0
        for hop, table in enumerate(view.hops):
            naive = Naive(sampler.gates, view.users[user], table[positive])
            best = max(candidates[b].tolist(), key=lambda j: naive.choice(table[j].tolist(), weight))  # noqa: B023
            expected += table[best].detach() / hops
            first = best if hop == 0 else first
        torch.testing.assert_close(negatives.rows[b].detach(), expected)
        assert int(negatives.ids[b]) == first


@pytest.mark.parametrize(
    ("epoch", "warmup", "weight"), [(0, 4, 0.0), (1, 4, 0.25), (3, 4, 0.75), (4, 4, 1.0), (9, 4, 1.0), (0, 0, 1.0)]
)
def test_weight_of_the_relevant_factor_by_epoch(epoch: int, warmup: int, weight: float) -> None:
    assert made(epoch, warmup=warmup).relevant_weight == weight


@pytest.mark.parametrize("hops", [1, 3])
def test_gate_loss(hops: int) -> None:
    view, (users, positives) = TensorView(hops=hops, dtype=torch.float64), tiny_batch(times=1)
    sampler = made(epoch=40, gamma=0.3)
    sampler.sample(users, positives, view)
    loss = sampler.extra_loss(users, positives, view)
    assert loss is not None
    total = 0.0
    for b, (user, positive) in enumerate(zip(users.tolist(), positives.tolist(), strict=True)):
        own = rest = other = other_rest = 0.0
        for hop, table in enumerate(view.hops):
            naive, row = (
                Naive(sampler.gates, view.users[user], table[positive]),
                table[sampler._chosen[hop][b]].tolist(),
            )
            own += dot(naive.user, naive.relevant) / hops
            rest += (dot(naive.user, naive.positive) - dot(naive.user, naive.relevant)) / hops
            other += dot(naive.user, naive.negative(row)) / hops
            other_rest += (dot(naive.user, row) - dot(naive.user, naive.negative(row))) / hops
        gaps = rest - own, other - other_rest, other - own, rest - other_rest
        total += sum(math.log(1 + math.exp(gap)) for gap in gaps) / 4 / len(users)
    assert loss.item() == pytest.approx(0.3 * total, rel=1e-10)


@pytest.mark.parametrize("hops", [1, 2])
def test_gate_loss_moves_users_and_items_too(hops: int) -> None:
    """Gradients by every row, against differences: of users, positives and chosen candidates, and of no other."""
    view, (users, positives) = TensorView(hops=hops, dtype=torch.float64), tiny_batch(times=1)
    sampler = made(epoch=40)
    sampler.sample(users, positives, view)

    def loss_of(user_table: Tensor, *item_tables: Tensor) -> Tensor:
        view.users, view.hops = user_table, list(item_tables)
        loss = sampler.extra_loss(users, positives, view)
        assert loss is not None
        return loss

    tables = (view.users, *view.hops)
    assert torch.autograd.gradcheck(loss_of, tables)
    by_users, *by_items = (table.abs().sum(dim=1) > 0 for table in torch.autograd.grad(loss_of(*tables), tables))
    assert set(torch.nonzero(by_users).flatten().tolist()) == set(users.tolist())
    for moved, ids in zip(by_items, sampler._chosen, strict=True):
        assert set(torch.nonzero(moved).flatten().tolist()) == {*positives.tolist(), *ids.tolist()}


@pytest.mark.parametrize("hops", [1, 3])
@pytest.mark.parametrize("share", [1e-12, 0.25, 0.5])
def test_gates_that_tell_no_factors_apart_choose_as_dns_does(hops: int, share: float) -> None:
    view, (users, positives) = TensorView(hops=hops), tiny_batch()
    sampler = made(epoch=0, double=False)
    constant_gates(sampler, share)
    candidates = drawn(sampler, users)
    negatives = sampler.sample(users, positives, view)
    chosen = hardest_per_hop(users, candidates, view)
    expected = torch.stack([view.item_hop_rows(hop, ids) for hop, ids in enumerate(chosen)]).mean(dim=0)
    torch.testing.assert_close(negatives.rows, expected)
    if hops == 1:
        dns = build(DynamicSelector, seed=5, candidates=6).sample(users, positives, view)
        assert torch.equal(negatives.ids, dns.ids)


def test_in_the_end_the_least_relevant_is_chosen() -> None:
    view, (users, positives) = TensorView(), tiny_batch()
    sampler = made(epoch=100, double=False)
    constant_gates(sampler, 0.5)
    candidates = drawn(sampler, users)
    with torch.no_grad():
        lowest = candidates.gather(1, view.score(users, candidates).argmin(dim=1, keepdim=True))
    assert torch.equal(sampler.sample(users, positives, view).ids, lowest)


def test_gate_loss_falls_where_there_are_factors_to_find() -> None:
    """Users read the first two dimensions alone, positives and negatives differ in them; the rest is noise."""
    view, (users, positives) = TensorView(), tiny_batch(times=4)
    with torch.no_grad():
        view.users[:, :2], view.users[:, 2:] = 1.5, -0.5
        view.hops[0][:, 2:] = view.hops[0][:, 2:].abs() * 0.5
        view.hops[0][:, :2] = view.hops[0][:, :2].abs() + 0.5
    sampler = made(epoch=0, double=False)
    assert sampler.gates is not None
    optimizer = torch.optim.Adam(sampler.gates.parameters(), lr=0.05)
    losses = []
    for _ in range(60):
        sampler.sample(users, positives, view)
        loss = sampler.extra_loss(users, positives, view)
        assert loss is not None
        optimizer.zero_grad()
        loss.backward()
        losses.append(loss.item())
        for name, parameter in sampler.gates.named_parameters():
            assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name
        optimizer.step()
    assert losses[-1] < 0.6 * losses[0]


def test_gates_are_made_from_a_seed_alone() -> None:
    before = global_random_state()
    first, second, other = (FactorGates(WIDTH, seed) for seed in (1, 1, 2))
    assert global_random_state() == before
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert not torch.equal(first.user.weight, other.user.weight)


@pytest.mark.parametrize("gamma", [0.0, 0.5])
def test_without_a_weight_nothing_is_trained(gamma: float) -> None:
    sampler = made(double=False, gamma=gamma)
    assert sampler.gates is not None
    assert {p.requires_grad for p in sampler.gates.parameters()} == {gamma > 0}
    batch, view = tiny_batch(), TensorView()
    sampler.sample(*batch, view)
    assert (sampler.extra_loss(*batch, view) is None) == (gamma == 0)


def test_without_gates_it_says_what_to_do() -> None:
    sampler = made(double=False)
    sampler.gates = None
    with pytest.raises(RuntimeError, match="dens has no gates yet; call build_gates with the width"):
        sampler.sample(*tiny_batch(), TensorView())


def test_without_an_epoch_it_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    sampler = made(epoch=None, double=False)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            sampler.sample(*tiny_batch(), TensorView())
    assert caplog.text.count("neg_sampler_warmup has no effect") == 1


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"gamma": -0.1}, "neg_sampler_gamma=-0.1 must be at least 0"),
        ({"gamma": math.nan}, "neg_sampler_gamma=nan must be at least 0"),
        ({"warmup": -1}, "neg_sampler_warmup=-1 is negative"),
        ({"candidates": 0}, "neg_sampler_candidates=0 must be at least 1"),
    ],
)
def test_options_out_of_range(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GateOptions(**wrong)
