"""The teacher: which items it names, and its cache."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from recbole_runs import settings, write_dataset

from recbole_hnlm.building.teacher import hard_negatives, teacher_class, train_teacher
from recbole_hnlm.config import HNLMConfig
from recbole_hnlm.options import LLMOptions
from recbole_hnlm.quick_start import prepare
from recbole_hnlm.samplers import TrainingInteractions
from recbole_hnlm.samplers.candidates import UniformCandidates


def test_hard_negatives_are_the_most_frequent_winners_of_seeded_draws() -> None:
    generator = torch.Generator().manual_seed(1)
    users, items = torch.randint(1, 6, (30,), generator=generator), torch.randint(1, 21, (30,), generator=generator)
    pairs = TrainingInteractions(users, items, n_users=6, n_items=21)
    user_rows, item_rows = torch.randn(6, 4, generator=generator), torch.randn(21, 4, generator=generator)
    options = LLMOptions(teacher_candidates=3, teacher_draws=15, negatives_per_pair=3, seed=5)
    found = hard_negatives(user_rows, item_rows, pairs, users, items, options)
    drawer = UniformCandidates(pairs, torch.Generator().manual_seed(5))
    wins: list[list[int]] = [[] for _ in range(30)]
    for _ in range(15):
        candidates = drawer.draw(users, 3)
        for row in range(30):
            scores = [float(user_rows[users[row]] @ item_rows[item]) for item in candidates[row]]
            wins[row].append(int(candidates[row][int(np.argmax(scores))]))
    for row in range(30):
        counted = Counter(wins[row])
        expected = sorted(counted, key=lambda j: (-counted[j], -float(user_rows[users[row]] @ item_rows[j])))[:3]
        expected += [expected[0]] * (3 - len(expected))
        assert found[row].tolist() == expected
    assert not pairs.contains(users.unsqueeze(1).expand_as(found), found).any()


@pytest.mark.parametrize("seed", range(6))
def test_ties_go_to_the_higher_score_however_high_scores_are(seed: int) -> None:
    """One user and two draws of one candidate each among items that score 400, 500 and 450."""
    pairs = TrainingInteractions(torch.tensor([1]), torch.tensor([4]), n_users=2, n_items=5)
    rows = torch.tensor([[0.0], [400.0], [500.0], [450.0], [0.0]])
    options = LLMOptions(teacher_candidates=1, teacher_draws=2, negatives_per_pair=2, seed=seed)
    drawer = UniformCandidates(pairs, torch.Generator().manual_seed(seed))
    drawn = [int(drawer.draw(torch.tensor([1]), 1)) for _ in range(2)]
    found = hard_negatives(torch.ones(2, 1), rows, pairs, torch.tensor([1]), torch.tensor([4]), options)
    assert found[0].tolist() == sorted(drawn, key=lambda item: -float(rows[item]))


def test_the_cache_is_read_back_and_a_damaged_one_is_trained_anew(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_dataset(tmp_path)
    config = HNLMConfig("BPR", "tiny", config_dict=settings(tmp_path, "BPR", neg_sampler="uniform"))
    loader = prepare(config)[0]
    options = LLMOptions(teacher_epochs=1, teacher_model="BPR")
    first = train_teacher(config, loader, options, tmp_path / "cache")
    (file,) = (tmp_path / "cache").glob("teacher-*.npz")
    file.write_bytes(file.read_bytes()[:100])
    second = train_teacher(config, loader, options, tmp_path / "cache")
    assert np.array_equal(first.item_vectors, second.item_vectors)

    def refuse(*args: Any) -> None:
        raise AssertionError("trained although the cache holds it")

    monkeypatch.setattr("recbole_hnlm.building.teacher._fit", refuse)
    assert np.array_equal(train_teacher(config, loader, options, tmp_path / "cache").negatives, first.negatives)


def test_a_teacher_without_inner_products_is_refused(tmp_path: Path) -> None:
    write_dataset(tmp_path)
    config = HNLMConfig("BPR", "tiny", config_dict=settings(tmp_path, "BPR", neg_sampler="uniform"))
    loader = prepare(config)[0]
    with pytest.raises(ValueError, match="NeuMF does not score by inner product"):
        train_teacher(config, loader, LLMOptions(teacher_epochs=1, teacher_model="NeuMF"), tmp_path / "cache")


@pytest.mark.parametrize("name", ["SimGCL", "XSimGCL", "recbole_hnlm.graph_models:SimGCL", "NGCF", "SGL"])
def test_any_model_that_scores_by_inner_product_teaches(tmp_path: Path, name: str) -> None:
    write_dataset(tmp_path)
    config = HNLMConfig("BPR", "tiny", config_dict=settings(tmp_path, "BPR", neg_sampler="uniform"))
    loader = prepare(config)[0]
    found = train_teacher(config, loader, LLMOptions(teacher_epochs=1, teacher_model=name), tmp_path / "cache")
    assert found.negatives.shape[0] == 60 * 14 and found.item_vectors.shape[0] == 81
    assert found.description["model"] == name and np.ptp(found.item_vectors[1:]) > 0


@pytest.mark.parametrize("name", ["Nonsense", "nowhere:Nothing"])
def test_an_unknown_teacher_is_refused_with_the_option(name: str) -> None:
    with pytest.raises(ValueError, match=f"llm_teacher_model='{name}' is no model of RecBole's or ours"):
        teacher_class(LLMOptions(teacher_model=name))
