"""RecBole's ``enable_amp``: runs end, losses are finite, and what is learned is near what single precision learns."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from recbole.utils import get_trainer
from recbole_runs import made, write_dataset
from torch import Tensor
from torch.nn import functional

from recbole_hnlm.models.contrast import contrast
from recbole_hnlm.models.ranking_losses import RANKING_LOSSES, RankingBatch
from recbole_hnlm.options.loss import RANKING_LOSS_OPTIONS
from recbole_hnlm.training.watching import watching

OF_TEXT = {"neg_sampler": "hnlm", "llm_teacher_epochs": 1}
RUNS = {
    **{f"{model} {loss}": (model, {"neg_sampler": "uniform", "ranking_loss": loss})
       for model in ("BPR", "LightGCN") for loss in RANKING_LOSSES},
    "NGCF psl": ("NGCF", {"neg_sampler": "uniform", "ranking_loss": "psl"}),
    **{f"LightGCN {name}": ("LightGCN", {**OF_TEXT, "hnlm_comparator": name}) for name in ("rlmrec_con", "rlmrec_gen")},
    **{f"{model} hnlm": (model, OF_TEXT) for model in ("BPR", "LightGCN")},
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("data"))


def trained(folder: Path, model: str, values: dict[str, Any], amp: bool) -> tuple[list[float], dict[str, float]]:
    """Loss of every epoch, and metrics of the test."""
    steps = {"epochs": 8, "learning_rate": 0.05, "topk": [20], "valid_metric": "NDCG@20"}
    wrapped, loaders, config = made(folder, model, **values, **steps, enable_amp=amp)
    trainer = watching(get_trainer(config["MODEL_TYPE"], config["model"]))(config, wrapped)
    trainer.fit(loaders[0], None, saved=False)
    trainer.tensorboard.close()
    losses = [float(loss) for loss in trainer.train_loss_dict.values()]
    return losses, trainer.evaluate(loaders[2], load_best_model=False)


@pytest.mark.parametrize("name", RUNS)
def test_what_is_learned_is_near_single_precision(folder: Path, name: str) -> None:
    (exact, metrics), (losses, found) = (trained(folder, *RUNS[name], amp=amp) for amp in (False, True))
    assert all(math.isfinite(loss) for loss in losses) and len(losses) == 8
    for wanted, loss in zip(exact, losses, strict=True):
        assert abs(loss - wanted) < 0.03 * max(1.0, abs(wanted))
    for metric, wanted in metrics.items():
        assert abs(found[metric] - wanted) < 0.1, metric


def rows(count: int, seed: int, dtype: torch.dtype) -> Tensor:
    drawn = functional.normalize(torch.randn(count, 4, generator=torch.Generator().manual_seed(seed)), dim=1)
    return drawn.to(dtype).requires_grad_()


@pytest.mark.parametrize("model", ["BPR", "LightGCN"])
def test_scores_of_candidates_are_those_of_single_precision(folder: Path, model: str) -> None:
    """Early in training scores differ by hundredths, which half precision would round to a handful of values."""
    wrapped, loaders, _ = made(folder, model, neg_sampler="softmax")
    users = torch.arange(1, 9)
    candidates = wrapped.hnlm.sampler.draw_candidates(users)
    view = wrapped.hnlm_view()
    exact = view.score(users, candidates)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = view.score(users, candidates)
        weights = wrapped.hnlm.sampler.choose(users, candidates[:, 0], candidates, view).weights
    assert torch.equal(found, exact) and weights.dtype is torch.float32
    assert torch.equal(weights, wrapped.hnlm.sampler.choose(users, candidates[:, 0], candidates, view).weights)


@pytest.mark.parametrize("name", RANKING_LOSSES)
def test_ranking_losses_are_the_same_under_autocast(name: str) -> None:
    of, none = torch.tensor([0, 1, 1, 2]), torch.tensor([], dtype=torch.int64)
    results = []
    for amp in (False, True):
        users, items, negatives = (rows(count, seed, torch.float32) for seed, count in enumerate((3, 4, 6)))
        with torch.autocast("cpu", enabled=amp):
            batch = RankingBatch(users, of, items, torch.arange(4), negatives, none)
            loss = RANKING_LOSSES[name](RANKING_LOSS_OPTIONS[name]())(batch)
        loss.backward()
        results.append((loss.detach(), users.grad, items.grad))
    for plain, other in zip(*results, strict=True):
        assert torch.equal(plain, other)


@pytest.mark.parametrize("pooled", [False, True])
def test_a_contrast_of_half_precision_is_summed_in_single_precision(pooled: bool) -> None:
    ids = (torch.arange(5), torch.arange(5)) if pooled else None
    results = []
    for dtype, amp in ((torch.float32, False), (torch.bfloat16, True)):
        anchors, targets = (rows(5, seed, torch.bfloat16).detach().to(dtype).requires_grad_() for seed in (0, 1))
        with torch.autocast("cpu", enabled=amp):
            loss = contrast(anchors, targets, targets, 0.1, ids)
        loss.backward()
        assert loss.dtype is torch.float32 and anchors.grad.dtype is dtype
        results.append((loss.detach(), anchors.grad.float()))
    assert torch.equal(results[0][0], results[1][0])
    torch.testing.assert_close(results[0][1], results[1][1], rtol=0.01, atol=0.01)
