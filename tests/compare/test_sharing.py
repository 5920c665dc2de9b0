"""Artefacts that runs share: paid for out of one budget, and made anew where they were damaged."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from compare_runs import request, train_all

from recbole_hnlm.compare.analyse_command import _probing
from recbole_hnlm.compare.ledger import OK, STOPPED
from recbole_hnlm.compare.plan import cells_of
from recbole_hnlm.compare.pool import start_in_child
from recbole_hnlm.compare.runner import train_once
from recbole_hnlm.compare.sharing import open_account

SMALL = {"embedding_size": 8, "epochs": 1, "train_batch_size": 128, "hnlm_min_coverage": 0.1}


def test_all_builds_of_a_command_spend_of_one_budget(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every seed has a build of its own; a command that comes later has its whole budget again."""
    pytest.importorskip("openai")
    from filling_server import ChatServer

    monkeypatch.setenv("OPENAI_API_KEY", "sk-none")
    with ChatServer.running() as server:
        told = {"llm_backend": "openai", "llm_chat_model": "m", "llm_base_url": server.url, "llm_budget_requests": 20,
                "llm_input_price": 1.0, "llm_output_price": 1.0}  # fmt: skip
        asked = request(data, neg_samplers=("hnlm",), tune=1)
        (cell,) = cells_of(replace(asked, shared={**asked.shared, **SMALL, **told}))
        settings = [cell.setting(cell.start, seed) for seed in (2020, 2021)]
        spent: list[float] = []
        for command in (1, 2):
            open_account(tmp_path)
            for setting in settings:
                record = train_once(setting, tmp_path)
                assert record["status"] == STOPPED and "llm_budget_requests=20 (20 asked)" in record["error"]
                assert server.asked.total() == 20 * command
                spent.append(json.loads((tmp_path / "artefacts" / "spent.json").read_text())["dollars"])
        assert spent[0] == spent[1] > 0 and spent[2] == spent[3] > 0


@pytest.mark.parametrize("starts", [start_in_child, _probing], ids=["compare", "analyse"])
def test_a_command_begins_with_its_whole_budget(tmp_path: Path, starts: Callable[[Path], Any]) -> None:
    account = tmp_path / "artefacts" / "spent.json"
    account.parent.mkdir()
    account.write_text("{}")
    starts(tmp_path)
    assert not account.exists()


def test_artefacts_that_were_damaged_are_built_anew(tmp_path: Path, data: Path) -> None:
    asked = request(data, neg_samplers=("hnlm",), tune=1)
    (cell,) = cells_of(replace(asked, shared={**asked.shared, **SMALL, "llm_teacher_epochs": 1}))
    (whole,) = train_all([cell.setting(cell.start, 2020)], tmp_path)
    (vectors,) = (tmp_path / "artefacts").rglob("tiny.item_text.npy")
    made = vectors.read_bytes()
    for damage in (lambda: vectors.write_bytes(made[:100]), vectors.unlink):
        damage()
        again = train_once(cell.setting(cell.start, 2020), tmp_path)
        assert again["status"] == OK == whole["status"] and again["test"] == whole["test"]
        assert vectors.read_bytes() == made
    own = {**asked.shared, **SMALL, "llm_teacher_epochs": 1, "hnlm_artefact_dir": str(vectors.parent)}
    (cell,) = cells_of(replace(request(data, neg_samplers=("hnlm",), tune=1, seeds=1), shared=own))
    assert train_once(cell.setting(cell.start, 2020), tmp_path)["status"] == OK
    vectors.write_bytes(made[:100])
    record = train_once(cell.setting(cell.start, 2020), tmp_path)
    assert "item_text.npy has 100 bytes" in record["error"] and vectors.read_bytes() == made[:100]
