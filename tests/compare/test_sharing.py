"""Artefacts that runs share: paid for out of one budget, and made anew where they were damaged."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from compare_runs import request, train_all

from recbole_hnlm.compare import sharing
from recbole_hnlm.compare.analyse_command import _probing
from recbole_hnlm.compare.ledger import OK, STOPPED, RunSetting
from recbole_hnlm.compare.plan import cells_of
from recbole_hnlm.compare.pool import start_in_child
from recbole_hnlm.compare.runner import train_once
from recbole_hnlm.compare.sharing import open_account
from recbole_hnlm.options.chat import Spent

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
            account = open_account()
            for setting in settings:
                record = train_once(setting, tmp_path, account)
                assert record["status"] == STOPPED and "llm_budget_requests=20 (20 asked)" in record["error"]
                assert server.asked.total() == 20 * command
                spent.append(json.loads(account.read_text())["dollars"])
        assert spent[0] == spent[1] > 0 and spent[2] == spent[3] > 0


@pytest.mark.parametrize("starts", [start_in_child, _probing], ids=["compare", "analyse"])
def test_every_command_has_an_account_of_its_own(
    tmp_path: Path, starts: Callable[[Path], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two in one folder neither takes the other's spending for its own, nor forgets what it has spent itself."""
    given: list[Path] = []
    for module in ("pool", "analyse_command"):
        monkeypatch.setattr(f"recbole_hnlm.compare.{module}.Child", lambda work, words: given.append(words[2]))
    for start in (starts(tmp_path), starts(tmp_path)):
        start(None)
        start(None)
    assert given[0] == given[1] != given[2] == given[3] and not any(path.exists() for path in given)


def test_what_a_killed_build_has_spent_stays_spent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharing, "_SECONDS", 0.01)
    account, spent = tmp_path / "spent.json", Spent()
    with sharing._written_down(spent, account):
        spent.dollars, spent.requests = 0.5, 7
        deadline = time.monotonic() + 30
        while not account.exists() or json.loads(account.read_text()) != {"dollars": 0.5, "requests": 7}:
            assert time.monotonic() < deadline, "nothing is written before the end"
            time.sleep(0.01)
        spent.requests = 9
    again = Spent()
    with sharing._written_down(again, account):
        assert (again.dollars, again.requests) == (0.5, 9)


def test_what_a_run_makes_beside_text_is_built_for_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Picks from another number of items cost requests of their own, which the command's budget is to see."""
    built: list[Any] = []
    monkeypatch.setattr(sharing, "in_child", lambda work, words: built.append(words[2]) or ("", ""))
    values = {"hnlm_artefact_dir": str(tmp_path / "a" / "seed"), "hnlm_comparator": "llmrec"}
    for count in (5, 6, 5):
        more = {**values, "comparator_top_items": count}
        sharing.ensure_shared(RunSetting("tiny", "BPR", more, 2020), more)
    assert [words["comparator_top_items"] for words in built] == [5, 6]


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
