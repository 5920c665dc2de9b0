"""Pairs beside the split that evaluation masks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from recbole_runs import ITEMS, made, settings, write_dataset

import recbole_hnlm
from recbole_hnlm import run_recbole_hnlm
from recbole_hnlm.config import HNLMConfig
from recbole_hnlm.quick_start import prepare


@pytest.fixture
def masking(tmp_path: Path) -> Path:
    """A dataset that masks every item of ``u0``, ``i7`` of ``u1``, and pairs of strangers."""
    home = write_dataset(tmp_path)
    pairs = [*(("u0", f"i{item}") for item in range(ITEMS)), ("u1", "i7"), ("stranger", "i1"), ("u1", "nothing")]
    lines = ["item_id:token\tuser_id:token", *(f"{item}\t{user}" for user, item in pairs)]
    (home / "tiny" / "tiny.kept.inter").write_text("\n".join(lines) + "\n")
    return home


@pytest.mark.parametrize("sampler", ["dns", "none"])
def test_what_a_file_names_is_masked(masking: Path, sampler: str) -> None:
    config = HNLMConfig("BPR", "tiny", config_dict=settings(masking, "BPR", neg_sampler=sampler))
    usual = prepare(config)
    values = settings(masking, "BPR", neg_sampler=sampler, masked_filename="kept")
    changed = prepare(HNLMConfig("BPR", "tiny", config_dict=values))
    user, other, item = (
        usual[0]._dataset.token2id(field, token)
        for field, token in (("user_id", "u0"), ("user_id", "u1"), ("item_id", "i7"))
    )
    for before, after in zip(usual[1:], changed[1:], strict=True):
        positives = set(after.uid2positive_item[user].tolist())
        assert positives and positives == set(before.uid2positive_item[user].tolist())
        assert set(after.uid2history_item[user].tolist()) == set(range(1, ITEMS + 1)) - positives
        wanted = {*before.uid2history_item[other].tolist(), item} - set(before.uid2positive_item[other].tolist())
        assert set(after.uid2history_item[other].tolist()) == wanted
    assert changed[0]._dataset.inter_num == usual[0]._dataset.inter_num


def test_what_is_masked_is_nothing_to_rank_against(masking: Path) -> None:
    values: dict[str, Any] = {"eval_args": {"mode": "uni20"}, "masked_filename": "kept", "neg_sampler": "uniform"}
    _, loaders, _ = made(masking, "BPR", **values)
    user, item = (loaders[0]._dataset.token2id(f"{kind}_id", token) for kind, token in (("user", "u1"), ("item", "i7")))
    for loader in loaders[1:]:
        assert item in loader._sampler.used_ids[user]
    assert item not in loaders[1]._sampler.sample_by_user_ids([user], [0], 400).tolist()


def test_recboles_own_run_masks_alike(masking: Path) -> None:
    from recbole.quick_start import run_recbole

    values = settings(masking, "BPR", neg_sampler="dns", masked_filename="kept")
    ours = run_recbole_hnlm("BPR", "tiny", config_dict=values)
    unmasked = run_recbole_hnlm("BPR", "tiny", config_dict={**values, "masked_filename": None})
    recbole_hnlm.register()
    try:
        theirs = run_recbole("BPR", "tiny", config_dict=values)
        with pytest.raises(FileNotFoundError, match="masked_filename='keept' asks for .*tiny.keept.inter"):
            run_recbole("BPR", "tiny", config_dict={**values, "masked_filename": "keept"})
    finally:
        recbole_hnlm.unregister()
    assert theirs["test_result"] == ours["test_result"] != unmasked["test_result"]


def test_labelled_data_say_themselves_what_is_ranked(masking: Path) -> None:
    values: dict[str, Any] = {"eval_args": {"mode": "labeled"}, "metrics": ["AUC"], "valid_metric": "AUC",
                              "threshold": {"rating": 3},
                              "load_col": {"inter": ["user_id", "item_id", "rating"]}}  # fmt: skip
    usual, masked = (
        run_recbole_hnlm("BPR", "tiny", config_dict=settings(masking, "BPR", neg_sampler="dns", **values, **own))
        for own in ({}, {"masked_filename": "kept"})
    )
    assert usual["test_result"] == masked["test_result"]


def test_a_masked_file_that_is_not_there(masking: Path) -> None:
    values = settings(masking, "BPR", neg_sampler="dns", masked_filename="keept")
    with pytest.raises(FileNotFoundError, match="needs tiny.keept.inter"):
        run_recbole_hnlm("BPR", "tiny", config_dict=values)
    values["masked_filename"] = 3
    with pytest.raises(TypeError, match="masked_filename=3 should be str"):
        run_recbole_hnlm("BPR", "tiny", config_dict=values)
