"""The pair loader: RecBole's order, RecBole's batch sizes, candidates drawn ahead."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from recbole.data.dataloader import TrainDataLoader
from recbole_runs import settings, write_dataset

from recbole_hnlm.config import HNLMConfig
from recbole_hnlm.models.batches import CANDIDATES
from recbole_hnlm.quick_start import build_model, prepare
from recbole_hnlm.training import loader as loader_module


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("data"))


def prepared(folder: Path, **values: Any) -> tuple[Any, HNLMConfig]:
    config = HNLMConfig("BPR", "tiny", config_dict=settings(folder, "BPR", neg_sampler="dns", **values))
    return prepare(config)[0], config


@pytest.mark.parametrize("shuffle", [True, False])
def test_order_is_that_of_recboles_loader_epoch_by_epoch(folder: Path, shuffle: bool) -> None:
    ours, config = prepared(folder, shuffle=shuffle)
    theirs = TrainDataLoader(config, ours._dataset, None, shuffle=shuffle)
    for _ in range(3):
        pairs = list(zip(ours, theirs, strict=True))
        assert len(pairs) == len(ours) == len(theirs)
        for mine, other in pairs:
            assert torch.equal(mine["user_id"], other["user_id"]) and torch.equal(mine["item_id"], other["item_id"])


def test_generator_goes_on_as_recboles(folder: Path) -> None:
    ours, config = prepared(folder)
    theirs = TrainDataLoader(config, ours._dataset, None, shuffle=True)
    for _ in range(2):
        list(ours), list(theirs)
        assert torch.equal(ours.generator.get_state(), theirs.generator.get_state())


def test_columns_of_users_and_items_come_along(folder: Path) -> None:
    columns = {"inter": ["user_id", "item_id", "timestamp"], "item": ["item_id", "title", "maker"]}
    ours, config = prepared(folder, load_col=columns)
    theirs = TrainDataLoader(config, ours._dataset, None, shuffle=True)
    for mine, other in zip(ours, theirs, strict=True):
        assert set(mine.columns) == set(other.columns) >= {"timestamp", "title", "maker"}
        for name in other.columns:
            assert torch.equal(mine[name], other[name]), name


@pytest.mark.parametrize("block", [1, 500, 1 << 16])
@pytest.mark.parametrize("negatives", [1, 2])
def test_candidates_drawn_ahead_fit_their_users(
    folder: Path, monkeypatch: pytest.MonkeyPatch, block: int, negatives: int
) -> None:
    monkeypatch.setattr(loader_module, "BLOCK_CANDIDATES", block)
    loader, config = prepared(folder, neg_sampler_candidates=4, neg_sampler_num=negatives)
    model = build_model(config, loader)
    loader.draw_from(model.hnlm)
    seen = 0
    for batch in loader:
        candidates = batch[CANDIDATES]
        assert candidates.shape == (len(batch), 4 * negatives)
        users = batch["user_id"].unsqueeze(1).expand_as(candidates)
        assert not model.hnlm.interactions.contains(users, candidates).any() and candidates.min() > 0
        loss = model.calculate_loss(batch)
        assert torch.isfinite(loss) and CANDIDATES not in batch
        seen += len(batch)
    assert seen == len(loader._dataset)


def test_false_negatives_are_those_of_validation_and_test(folder: Path) -> None:
    no_text = {"neg_sampler": "hnlm", "hnlm_alpha": 0.0, "hnlm_alignment_weight": 0.0, "hnlm_init": "random"}
    values = settings(folder, "BPR", hnlm_log_false_negatives=True, **no_text)
    loaders = prepare(HNLMConfig("BPR", "tiny", config_dict=values))
    held, expected = (
        [set(zip(*(one.inter_feat[name].tolist() for name in ("user_id", "item_id")), strict=True)) for one in splits]
        for splits in (loaders[0].held_out, [loader._dataset for loader in loaders[1:]])
    )
    assert held == expected and all(held) and not held[0] & held[1]


def test_a_worker_hands_out_the_same_pairs_and_draws_nothing(folder: Path) -> None:
    """Candidates come from one generator, the model's, so they are drawn in the step."""
    (alone, config), (beside, _) = (prepared(folder, worker=workers, train_batch_size=400) for workers in (0, 1))
    model = build_model(config, alone)
    for loader in (alone, beside):
        loader.draw_from(model.hnlm)
    assert (alone.num_workers, beside.num_workers) == (0, 1)
    for _ in range(2):
        for one, other in zip(alone, beside, strict=True):
            assert torch.equal(one["user_id"], other["user_id"]) and torch.equal(one["item_id"], other["item_id"])
            assert CANDIDATES in one and CANDIDATES not in other
            assert torch.isfinite(model.calculate_loss(other))


def test_drawing_ahead_takes_the_blocks_candidates_pair_by_pair(folder: Path) -> None:
    loader, config = prepared(folder, neg_sampler_candidates=4, neg_sampler_num=2)
    model = build_model(config, loader)
    users = torch.arange(1, 11)
    candidates = model.hnlm.draw_candidates(users)  # (10, K C)
    chosen: list[torch.Tensor] = []
    sampler = model.hnlm.sampler
    rule = sampler.choose
    sampler.choose = lambda users, positives, given, view: chosen.append(given) or rule(users, positives, given, view)
    model.hnlm.draw(users.repeat(2), users.repeat(2), model.hnlm_view(), candidates)
    assert torch.equal(chosen[0], torch.cat([candidates[:, :4], candidates[:, 4:]]))
