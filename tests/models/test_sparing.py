"""Negatives weighed by text: against every cosine written out, and inside a wrapped model."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from recbole_runs import made, settings, write_dataset
from torch import Tensor
from torch.nn import functional

from recbole_hnlm import run_recbole_hnlm
from recbole_hnlm.models import sparing
from recbole_hnlm.models.sparing import NegativeSparing
from recbole_hnlm.models.text import TextVectors
from recbole_hnlm.samplers import TrainingInteractions

SOFT = {"neg_sampler": "hnlm", "hnlm_base_sampler": "uniform", "hnlm_alpha": 0.0, "ranking_loss": "sampled_softmax"}
"""A run with text whose loss ranks many negatives."""
ALONE = {**SOFT, "hnlm_alignment_weight": 0.0, "hnlm_init": "random"}
"""The same where nothing but sparing reads text."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("data"))


def _text(users: Tensor, items: Tensor) -> TextVectors:
    pair = torch.tensor([1])
    interactions = TrainingInteractions(pair, pair, n_users=len(users), n_items=len(items))
    vectors = users, users.norm(dim=1) > 0
    return TextVectors(items, items.norm(dim=1) > 0, interactions, None, torch.device("cpu"), vectors)


def _random_text() -> TextVectors:
    draws = torch.Generator().manual_seed(0)
    users, items = (torch.randn(count, 5, generator=draws) for count in (9, 50))
    items[[0, 7]] = 0.0  # no text
    users[[0, 4]] = 0.0
    return _text(users, items)


def test_weights_are_deviations_of_the_users_cosines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sparing, "_BLOCK", 4)  # several blocks of users, the last one short
    text, users, items = _random_text(), torch.tensor([8, 1, 4]), torch.tensor([3, 7, 49])
    weights = NegativeSparing(text, 0.3).log_weights(users, items)
    known = [item for item in range(50) if item not in (0, 7)]
    for row, user in enumerate(users.tolist()):
        cosines = functional.cosine_similarity(text.users[user].double(), text.items.double())
        mean, deviation = cosines[known].mean(), cosines[known].std(unbiased=False)
        for column, item in enumerate(items.tolist()):
            expected = 0.0 if user == 4 or item == 7 else -0.3 * float((cosines[item] - mean) / deviation)
            assert float(weights[row, column]) == pytest.approx(expected, abs=1e-5)


def test_near_negatives_weigh_less_and_below_zero_more() -> None:
    text = _text(
        torch.tensor([[0.0, 0.0], [1.0, 0.0]]), torch.tensor([[0.0, 0.0], [1.0, 0.1], [0.0, 2.0], [-1.0, 0.0]])
    )
    one, items = torch.tensor([1]), torch.tensor([1, 2, 3])
    weights = NegativeSparing(text, 1.0).log_weights(one, items).flatten().tolist()
    assert weights == sorted(weights) and weights[0] < 0 < weights[2]
    assert torch.equal(NegativeSparing(text, -1.0).log_weights(one, items), -torch.tensor([weights]))


def test_a_user_as_near_to_every_item_weighs_them_alike() -> None:
    items = torch.tensor([[0.0, 0.0], [3.0, 0.0], [5.0, 0.0]])
    weights = NegativeSparing(_text(items[:2], items), 0.5).log_weights(torch.tensor([1]), torch.tensor([1, 2]))
    assert torch.equal(weights, torch.zeros(1, 2))


def _kept(folder: Path, **values: Any) -> dict[str, Any]:
    kept = {"hnlm_artefact_dir": str(folder / "kept"), "llm_cache_dir": str(folder / "cache"), "llm_teacher_epochs": 1}
    return {**ALONE, **kept, **values}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "loss"), [("BPR", "sampled_softmax"), ("LightGCN", "psl"), ("BPR", "bsl")])
def test_a_model_ranks_by_the_weights(folder: Path, name: str, loss: str) -> None:
    """A step's loss with the weights set to nothing is that of a run without; a copy keeps them; permuted text has
    others."""
    model, loaders, _ = made(folder, name, **_kept(folder, ranking_loss=loss, hnlm_sparing=0.7))
    batch, start = next(iter(loaders[0])), copy.deepcopy(model.hnlm.state_dict())

    def of(one: Any) -> float:
        one.hnlm.load_state_dict(start)
        torch.manual_seed(1)
        return float(one.calculate_loss(batch).detach())

    spared = of(model)
    assert of(copy.deepcopy(model)) == spared
    model.hnlm.ranking.sparing.strength = 0.0
    plain = of(model)
    model.hnlm.ranking.sparing = None
    assert of(model) == plain != spared
    permuted, *_ = made(folder, name, **_kept(folder, ranking_loss=loss, hnlm_sparing=0.7, hnlm_control="permuted"))
    assert not torch.equal(permuted.hnlm.ranking.sparing.text.items, model.hnlm.text_head.text.items)


@pytest.mark.slow
def test_a_run_spares_with_nothing_else_that_reads_text(folder: Path) -> None:
    values = _kept(folder, hnlm_sparing=0.3, epochs=2)
    result = run_recbole_hnlm("BPR", "tiny", config_dict=settings(folder, "BPR", **values), saved=False)
    assert result["hnlm"]["options"]["hnlm_sparing"] == 0.3


REFUSED = [
    ({"ranking_loss": "base"}, "this run has base; set one of them, with hnlm_base_sampler: uniform"),
    ({"ranking_loss": "directau"}, "this run has directau"),
    ({"hnlm_sparing": math.nan}, "hnlm_sparing=nan should be a finite number"),
    ({"neg_sampler": "uniform", **dict.fromkeys(ALONE.keys() - {"neg_sampler", "ranking_loss"})}, "hnlm_sparing"),
    ({"hnlm_comparator": "kar", **dict.fromkeys(("hnlm_alpha", "hnlm_alignment_weight", "hnlm_init"))}, "hnlm_sparing"),
]


@pytest.mark.parametrize(("values", "message"), REFUSED)
def test_where_no_loss_of_ours_ranks_it_is_refused(folder: Path, values: dict[str, Any], message: str) -> None:
    asked = {key: value for key, value in {**ALONE, "hnlm_sparing": 0.2, **values}.items() if value is not None}
    with pytest.raises(ValueError, match=message):
        made(folder, "BPR", **asked)


def test_rounding_of_items_that_are_all_as_near_is_no_deviation() -> None:
    """Vectors that are equal but for the last digit, which would be many deviations apart."""
    items = torch.full((40, 3), 0.57735)
    items[1:] += 3e-8 * torch.randn(39, 3, generator=torch.Generator().manual_seed(0))
    weights = NegativeSparing(_text(items[:2], items), 1.0).log_weights(torch.tensor([1]), torch.arange(1, 40))
    assert torch.equal(weights, torch.zeros(1, 39))
