"""Fused and row-wise Adam against torch's own optimizers, and which one a run gets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from recbole.utils import get_trainer
from recbole_runs import first_loss, made, settings, write_dataset
from torch import Tensor, nn

from recbole_hnlm.config import HNLMConfig
from recbole_hnlm.quick_start import build_model, prepare
from recbole_hnlm.training.optimizers import RowAdam, by_rows, fused
from recbole_hnlm.training.watching import watching


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("data"))


def table(rows: int = 12, width: int = 4) -> nn.Embedding:
    torch.manual_seed(3)
    return nn.Embedding(rows, width)


def steps(module: nn.Embedding, optimizer: torch.optim.Optimizer, batches: list[Tensor]) -> Tensor:
    for ids in batches:
        optimizer.zero_grad()
        (module(ids) * torch.arange(1.0, 5.0)).square().sum().backward()
        optimizer.step()
    return module.weight.detach()


BATCHES = [torch.tensor([1, 5, 5]), torch.tensor([2, 5]), torch.tensor([7, 1, 1, 1])]


@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.AdamW])
def test_fused_is_the_same_optimizer(kind: type[torch.optim.Adam], decay: float) -> None:
    plain, ours = table(), table()
    made_fused = fused(kind(ours.parameters(), lr=0.05, weight_decay=decay))
    assert type(made_fused) is kind and made_fused.defaults["fused"] and made_fused.defaults["weight_decay"] == decay
    expected = steps(plain, kind(plain.parameters(), lr=0.05, weight_decay=decay), BATCHES)
    torch.testing.assert_close(steps(ours, made_fused, BATCHES), expected, rtol=1e-6, atol=1e-7)


def test_other_optimizers_are_left_alone() -> None:
    for optimizer in (torch.optim.SGD(table().parameters(), lr=0.1), RowAdam(table().parameters(), lr=0.1)):
        assert fused(optimizer) is optimizer


def test_rows_that_are_read_move_as_under_sparse_adam_and_others_stay() -> None:
    ours, theirs = table(), table()
    start = ours.weight.detach().clone()
    ours.sparse = theirs.sparse = True
    expected = steps(theirs, torch.optim.SparseAdam(theirs.parameters(), lr=0.05), BATCHES)
    found = steps(ours, by_rows(torch.optim.Adam(ours.parameters(), lr=0.05)), BATCHES)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-7)
    untouched = [row for row in range(12) if row not in {1, 2, 5, 7}]
    assert torch.equal(found[untouched], start[untouched]) and not torch.equal(found[[1, 2, 5, 7]], start[[1, 2, 5, 7]])


def test_dense_gradients_beside_sparse_ones_take_adams_step() -> None:
    dense, sparse, alone = table(), table(), table()
    sparse.sparse = True
    optimizer = by_rows(torch.optim.Adam([*dense.parameters(), *sparse.parameters()], lr=0.05))
    for ids in BATCHES:
        optimizer.zero_grad()
        ((dense(ids) * torch.arange(1.0, 5.0)).square().sum() + sparse(ids).sum()).backward()
        optimizer.step()
    expected = steps(alone, torch.optim.Adam(alone.parameters(), lr=0.05), BATCHES)
    torch.testing.assert_close(dense.weight.detach(), expected, rtol=1e-5, atol=1e-6)


def test_a_restored_optimizer_goes_on_alike() -> None:
    one, two = table(), table()
    one.sparse = two.sparse = True
    steps(one, by_rows(torch.optim.Adam(one.parameters(), lr=0.05)), [*BATCHES, *BATCHES])
    first = by_rows(torch.optim.Adam(two.parameters(), lr=0.05))
    steps(two, first, BATCHES)
    second = by_rows(torch.optim.Adam(two.parameters(), lr=0.05))
    second.load_state_dict(first.state_dict())
    torch.testing.assert_close(steps(two, second, BATCHES), one.weight.detach())


def trainer_of(folder: Path, name: str, **values: Any) -> tuple[Any, Any]:
    model, loaders, config = made(folder, name, checkpoint_dir=str(folder / "saved"), **values)
    return watching(get_trainer(config["MODEL_TYPE"], config["model"]))(config, model), loaders


class TestRuns:
    @pytest.mark.parametrize(
        ("values", "kind", "is_fused"),
        [
            ({"neg_sampler": "uniform"}, torch.optim.Adam, True),
            ({"neg_sampler": "uniform", "learner": "adamw"}, torch.optim.AdamW, True),
            ({"neg_sampler": "uniform", "adam": "plain"}, torch.optim.Adam, None),
            ({"neg_sampler": "recbole"}, torch.optim.Adam, None),
            ({"neg_sampler": "uniform", "adam": "rows"}, RowAdam, True),
            ({"neg_sampler": "uniform", "learner": "sgd"}, torch.optim.SGD, False),
        ],
    )
    def test_which_optimizer(self, folder: Path, values: dict[str, Any], kind: type, is_fused: bool | None) -> None:
        trainer, _ = trainer_of(folder, "BPR", **values)
        assert type(trainer.optimizer) is kind
        assert trainer.optimizer.param_groups[0]["fused"] is is_fused or kind is torch.optim.SGD

    @pytest.mark.parametrize("name", ["BPR", "LightGCN", "NeuMF", "SimpleX"])
    def test_training_is_recboles_to_rounding(self, folder: Path, name: str) -> None:
        states = []
        for adam in ("plain", "fused"):
            trainer, loaders = trainer_of(folder, name, neg_sampler="uniform", adam=adam, fast_propagation=False)
            first_loss(trainer.model, loaders)
            trainer.optimizer.step()
            states.append({key: value.clone() for key, value in trainer.model.named_parameters()})
        for key, expected in states[0].items():
            torch.testing.assert_close(states[1][key], expected, rtol=1e-5, atol=1e-5, msg=key)

    def test_rows_leave_unread_items_alone(self, folder: Path) -> None:
        trainer, loaders = trainer_of(folder, "BPR", neg_sampler="uniform", adam="rows", train_batch_size=4)
        before = trainer.model.item_embedding.weight.detach().clone()
        first_loss(trainer.model, loaders)
        gradient = trainer.model.item_embedding.weight.grad
        assert gradient.is_sparse
        read = gradient.coalesce().indices()[0].tolist()
        trainer.optimizer.step()
        moved = (trainer.model.item_embedding.weight.detach() != before).any(dim=1)
        assert moved.nonzero().flatten().tolist() == read and 0 < len(read) <= 8

    @pytest.mark.parametrize(
        ("name", "values", "message"),
        [
            ("LightGCN", {"adam": "rows"}, "LightGCN computes all rows in every step; set adam: fused"),
            ("BPR", {"adam": "rows", "weight_decay": 0.1}, "cannot do weight_decay"),
            ("BPR", {"adam": "rows", "enable_scaler": True}, "cannot do enable_scaler"),
            ("BPR", {"adam": "rows", "learner": "adamw"}, "no effect with learner='adamw'"),
            ("BPR", {"adam": "fused", "learner": "sgd"}, "no effect with learner='sgd'"),
            ("BPR", {"adam": "rowwise"}, "adam='rowwise' is not one of"),
        ],
    )
    def test_what_cannot_work_is_refused(self, folder: Path, name: str, values: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            made(folder, name, neg_sampler="uniform", **values)

    def test_several_processes_refuse_rows(self, folder: Path) -> None:
        config = HNLMConfig("BPR", "tiny", config_dict=settings(folder, "BPR", neg_sampler="uniform", adam="rows"))
        loaders = prepare(config)
        config.final_config_dict["single_spec"] = False
        with pytest.raises(ValueError, match="adam: rows works in one process"):
            build_model(config, loaders[0])

    def test_without_a_sampler_of_ours_the_key_is_refused(self, folder: Path) -> None:
        with pytest.raises(ValueError, match="adam has no effect here: RecBole trains this model by itself"):
            made(folder, "BPR", neg_sampler="none", adam="fused")
