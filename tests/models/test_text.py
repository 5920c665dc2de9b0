"""Text vectors in training: means, masks, controls, mixing and the start from text, against plain loops."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from recbole_hnlm.models.controls import ControlledPairs, controlled, noise_of
from recbole_hnlm.models.head import TextHead
from recbole_hnlm.models.statistics import StepStatistics
from recbole_hnlm.models.text import TextVectors
from recbole_hnlm.options import HNLMOptions
from recbole_hnlm.samplers import TrainingInteractions

U, N, S, D = 5, 8, 6, 4


class Pairs:
    """Two vectors a pair at most; the pair (1, 2) has one, (2, 3) two, all others none."""

    matrix = np.arange(5 * S, dtype=np.float32).reshape(5, S)

    def pair_rows(self, users: np.ndarray, items: np.ndarray) -> np.ndarray:
        rows = {(1, 2): (4, -1), (2, 3): (0, 2)}
        return np.array([rows.get((int(u), int(i)), (-1, -1)) for u, i in zip(users, items, strict=True)])

    def read(self, rows: np.ndarray) -> np.ndarray:
        return self.matrix[rows].copy()


@pytest.fixture
def interactions() -> TrainingInteractions:
    return TrainingInteractions(torch.tensor([1, 1, 2, 3]), torch.tensor([2, 3, 3, 7]), n_users=U, n_items=N)


@pytest.fixture
def text(interactions: TrainingInteractions) -> TextVectors:
    items = torch.nn.functional.normalize(torch.randn(N, S, generator=torch.Generator().manual_seed(0)), dim=1)
    mask = torch.tensor([False, True, True, True, True, True, True, False])
    items[~mask] = 0
    return TextVectors(items, mask, interactions, Pairs(), torch.device("cpu"))


def test_a_users_vector_is_the_unit_mean_of_the_users_items(text: TextVectors) -> None:
    mean = text.items[2] + text.items[3]
    torch.testing.assert_close(text.users[1], mean / mean.norm())
    torch.testing.assert_close(text.users[2], text.items[3])
    assert text.user_mask.tolist() == [False, True, True, False, False]  # user 3 has only an item without text


def test_pair_vectors_are_averaged_and_missing_ones_are_told(text: TextVectors) -> None:
    users, items = torch.tensor([1, 2, 3, 2, 1]), torch.tensor([2, 3, 7, 3, 2])
    pairs = text.pair_vectors(text.rows_of(users, items))
    assert pairs.present.tolist() == [True, True, False, True, True]
    assert len(pairs.vectors) == 3  # each distinct vector once
    found = pairs.vectors[pairs.index]
    torch.testing.assert_close(found[0], torch.from_numpy(Pairs.matrix[4]))
    torch.testing.assert_close(found[1], torch.from_numpy((Pairs.matrix[0] + Pairs.matrix[2]) / 2))
    assert torch.equal(found[1], found[3]) and torch.equal(found[2], torch.zeros(S))


@pytest.mark.parametrize("matched", [True, False])
def test_mixing_follows_equation_7_and_leaves_pairs_without_a_vector_alone(text: TextVectors, matched: bool) -> None:
    head = TextHead(HNLMOptions(alpha=0.25, match_norm=matched), text, D, seed=0)
    rows, hard = torch.randn(3, D), torch.randn(3, D)
    mixed = head.mix(rows, head.like(rows, hard), torch.tensor([0.25, 0.0, 0.25]))
    for row in (0, 2):
        other = hard[row] * (rows[row].norm() / hard[row].norm()) if matched else hard[row]
        torch.testing.assert_close(mixed[row], 0.75 * rows[row] + 0.25 * other)
    assert torch.equal(mixed[1], rows[1])


@pytest.mark.parametrize(("preset", "trained"), [("anchored", False), ("paper", True), ("frozen", False)])
def test_presets_say_who_trains_the_projector(text: TextVectors, preset: str, trained: bool) -> None:
    head = TextHead(HNLMOptions(alpha=0.5, preset=preset), text, D, seed=0)  # type: ignore[arg-type]
    hard, _ = head.hard_rows(text.rows_of(torch.tensor([1, 2]), torch.tensor([2, 3])))
    assert hard.requires_grad is trained
    assert all(p.requires_grad is (preset != "frozen") for p in head.projector.parameters())


class RowsView:
    has_user_rows = True

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(3)
        self.users = torch.randn(U, D, generator=generator, requires_grad=True)
        self.items = torch.randn(N, D, generator=generator, requires_grad=True)

    def user_rows(self, users: torch.Tensor) -> torch.Tensor:
        return self.users[users]

    def item_rows(self, items: torch.Tensor) -> torch.Tensor:
        return self.items[items]


def test_anchored_alignment_is_infonce_of_both_sides_over_what_has_text(text: TextVectors) -> None:
    options = HNLMOptions(alignment_weight=2.0, temperature=0.5, scale_free=False)
    head = TextHead(options, text, D, seed=0)
    view: Any = RowsView()
    users, items = torch.tensor([1, 1, 2, 3]), torch.tensor([2, 3, 3, 7])
    found = head.alignment(view, users, items)
    assert found is not None

    def side(rows: torch.Tensor, vectors: torch.Tensor, ids: list[int]) -> float:
        rows, targets = rows.double(), head.projector(vectors).double()
        total = 0.0
        for b in range(len(ids)):

            def cosine(c: int, b: int = b) -> float:
                return float(rows[b] @ targets[c] / (rows[b].norm() * targets[c].norm()))

            others = [c for c in range(len(ids)) if c == b or ids[c] != ids[b]]
            total -= cosine(b) / 0.5 - np.log(sum(np.exp(cosine(c) / 0.5) for c in others))
        return total / len(ids)

    expected = side(view.items[items[:3]], text.items[items[:3]], [2, 3, 3])
    expected += side(view.users[users[:3]], text.users[users[:3]], [1, 1, 2])
    assert float(found.detach()) == pytest.approx(2.0 * expected, rel=1e-5)
    found.backward()
    assert view.items.grad is not None and view.items.grad[7].abs().sum() == 0  # item 7 has no text
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in head.projector.parameters())


def test_alignment_reads_so_many_pairs_and_no_more(text: TextVectors) -> None:
    head = TextHead(HNLMOptions(aligned_pairs=1), text, D, seed=0)
    view: Any = RowsView()
    loss = head.alignment(view, torch.tensor([1, 2]), torch.tensor([2, 3]))
    assert loss is not None
    loss.backward()
    assert view.items.grad[3].abs().sum() == 0
    assert (
        TextHead(HNLMOptions(alignment_weight=0.0), text, D, seed=0).alignment(
            view, torch.tensor([1]), torch.tensor([2])
        )
        is None
    )


@pytest.mark.parametrize("aligned", [0, 2, 5])
def test_copies_of_a_pair_are_aligned_once(text: TextVectors, aligned: int) -> None:
    options = HNLMOptions(aligned_pairs=aligned, hard_alignment_weight=0.5)
    view: Any = RowsView()
    users, items = torch.tensor([1, 1, 3]), torch.tensor([2, 3, 2])
    once = TextHead(options, text, D, seed=0).alignment(view, users, items)
    thrice = TextHead(options, text, D, seed=0, blocks=3).alignment(view, users.repeat(3), items.repeat(3))
    assert once is not None and thrice is not None and torch.equal(once, thrice)
    told = TextHead(options, text, D, seed=0).alignment(view, users.repeat(3), items.repeat(3))
    assert told is not None and (aligned == 2 or not torch.equal(once, told))


def test_controls_permute_or_replace_only_items_with_text(text: TextVectors) -> None:
    generator = torch.Generator().manual_seed(1)
    permuted = controlled(text.items, text.item_mask, "permuted", generator)
    assert torch.equal(permuted[~text.item_mask], text.items[~text.item_mask])
    assert not torch.equal(permuted, text.items)
    torch.testing.assert_close(permuted.sum(dim=0), text.items.sum(dim=0))
    noise = controlled(text.items, text.item_mask, "gaussian", generator)
    assert (
        torch.equal(noise[0], torch.zeros(S))
        and (noise[text.item_mask] * text.items[text.item_mask]).sum(1).max() < 0.999
    )
    torch.testing.assert_close(noise[text.item_mask].norm(dim=1), torch.ones(6))
    rows = np.array([0, 3, 3, 1])
    shuffled = ControlledPairs(Pairs(), 5, S, "permuted", seed=1)
    assert np.array_equal(shuffled.read(rows)[1], shuffled.read(rows)[2])
    assert not np.array_equal(shuffled.read(np.arange(5)), Pairs.matrix)
    gaussian = ControlledPairs(Pairs(), 5, S, "gaussian", seed=1)
    assert gaussian.read(np.zeros(0, dtype=np.int64)).shape == (0, S)
    assert np.array_equal(gaussian.read(rows)[1], gaussian.read(np.array([3]))[0])


@pytest.mark.parametrize("has_user_rows", [True, False])
def test_where_projected_vectors_lie_is_told_of_pairs_that_have_one(
    interactions: TrainingInteractions, has_user_rows: bool
) -> None:
    generator = torch.Generator().manual_seed(3)
    view: Any = RowsView()
    view.has_user_rows = has_user_rows
    users, items = view.users.detach(), view.items.detach()
    rows, hard = torch.randn(3, D, generator=generator), 3 * torch.randn(3, D, generator=generator)
    present = torch.tensor([True, False, True])
    statistics = StepStatistics(interactions)
    statistics.place_text(torch.tensor([1, 2, 3]), torch.tensor([2, 3, 7]), (rows, hard, present), view)
    told = statistics.epoch_means()
    expected: dict[str, list[float]] = {}
    for pair, user, positive in ((0, 1, 2), (2, 3, 7)):
        e_j, q, e_u = (row.double().numpy() for row in (rows[pair], hard[pair], users[user]))
        of_items = items.double().numpy()
        matched = q * np.linalg.norm(e_j) / np.linalg.norm(q)
        for name, value in {
            "text_norm": np.linalg.norm(q) / np.linalg.norm(e_j),
            "text_cosine_negative": q @ e_j / np.linalg.norm(q) / np.linalg.norm(e_j),
            "text_cosine_positive": q @ of_items[positive] / np.linalg.norm(q) / np.linalg.norm(of_items[positive]),
            "text_above_items": np.mean([matched @ e_u > of_items[item] @ e_u for item in range(1, N)]),
            "negative_above_items": np.mean([e_j @ e_u > of_items[item] @ e_u for item in range(1, N)]),
        }.items():
            expected.setdefault(name, []).append(float(value))
    if not has_user_rows:
        del expected["text_above_items"], expected["negative_above_items"]
    assert told == pytest.approx({name: np.mean(values) for name, values in expected.items()}, rel=1e-5)
    statistics.place_text(torch.tensor([1]), torch.tensor([2]), (rows[:1], hard[:1], torch.tensor([False])), view)
    assert statistics.epoch_means() == {}


def test_noise_of_rows_is_normal_and_belongs_to_the_row() -> None:
    noise = noise_of(np.arange(3000), 64, seed=3)
    moments = [float((noise**power).mean()) for power in (1, 2, 3, 4)]
    assert moments == pytest.approx([0, 1, 0, 3], abs=0.06)
    for table in (noise[:64], noise.T):  # neither rows nor columns know of one another
        correlations = np.corrcoef(table)[np.triu_indices(len(table), 1)]
        assert correlations.std() == pytest.approx(table.shape[1] ** -0.5, rel=0.15)
        assert abs(correlations.mean()) < 0.01
    places = np.array([2999, 7, 7, 10**9])
    assert np.array_equal(noise_of(places, 64, seed=3)[:3], noise[places[:3]])
    assert abs(np.corrcoef(noise_of(places, 64, seed=4)[0], noise[2999])[0, 1]) < 0.5
