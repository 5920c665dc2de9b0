"""What is kept is found again, whatever was torn or written by whom."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recbole_hnlm.compare.ledger import FAILED, OK, Ledger, RunSetting, canonical


def setting(seed: int = 1, local: dict[str, Any] | None = None, **values: Any) -> RunSetting:
    return RunSetting("data", "BPR", {"epochs": 3, **values}, seed, local or {})


def record(run: RunSetting, status: str = OK, **figures: Any) -> dict[str, Any]:
    return {**run.described(), "status": status, **figures}


def test_a_record_is_found_by_another_process(tmp_path: Path) -> None:
    with Ledger(tmp_path) as ledger:
        ledger.add(record(setting(), figure=np.float32(0.5)))
    found = Ledger(tmp_path).find(setting().key)
    assert found is not None and found["figure"] == 0.5
    assert (found["dataset"], found["model"], found["values"], found["seed"]) == ("data", "BPR", {"epochs": 3}, 1)


def test_the_key_is_what_is_computed_and_not_where() -> None:
    same = RunSetting("data", "BPR", {"b": [1, 2], "a": 1}, 1, {"data_path": "x"})
    assert same.key == RunSetting("data", "BPR", {"a": np.int64(1), "b": (1, 2)}, 1, {"data_path": "y"}).key
    others = [setting(2), setting(epochs=4), setting(more=1), RunSetting("data", "NGCF", {"epochs": 3}, 1)]
    others.append(RunSetting("data", "BPR", {"epochs": 3}, 1, data="other files"))
    assert len({run.key for run in [setting(), *others]}) == 6


def test_a_torn_line_is_left_out_and_costs_no_other(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with Ledger(tmp_path) as ledger:
        ledger.add(record(setting(1)))
        ledger.add(record(setting(2)))
    path = tmp_path / "runs-1.jsonl"
    path.write_bytes(path.read_bytes()[:-20])
    assert Ledger(tmp_path).find(setting(2).key) is None
    with Ledger(tmp_path) as ledger:
        ledger.add(record(setting(3)))
    again = Ledger(tmp_path)
    assert [again.find(setting(seed).key) is not None for seed in (1, 2, 3)] == [True, False, True]
    assert "torn" in caplog.text


def test_a_line_of_something_else_is_not_called_torn(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "runs-1.jsonl").write_text('{"epoch": 3}\n7\n{"key": "a"}\n')
    assert not Ledger(tmp_path).records()
    assert caplog.text.count("holds a line that is no run of compare's") == 3 and "torn" not in caplog.text


def test_two_writers_have_a_file_each_and_see_one_another(tmp_path: Path) -> None:
    with Ledger(tmp_path) as one, Ledger(tmp_path) as other:
        one.add(record(setting(1)))
        assert other.find(setting(1).key) is not None
        other.add(record(setting(2)))
        assert one.find(setting(2).key) is not None
    assert sorted(path.name for path in tmp_path.glob("*.jsonl")) == ["runs-1.jsonl", "runs-2.jsonl"]
    with Ledger(tmp_path) as ledger:
        ledger.add(record(setting(3)))
    assert len((tmp_path / "runs-1.jsonl").read_text().splitlines()) == 2


def test_a_run_is_claimed_by_one_writer_until_it_gives_it_back(tmp_path: Path) -> None:
    with Ledger(tmp_path) as one, Ledger(tmp_path) as other:
        assert one.claim("a") and not other.claim("a") and other.claim("b")
        one.release("a")
        one.release("a")  # none of its own any more
        assert other.claim("a") and not one.claim("b")
        other.release("b")
    assert not (tmp_path / ".claims").exists()


def test_a_claim_ends_with_its_process(tmp_path: Path) -> None:
    source = f"from pathlib import Path; from recbole_hnlm.compare.ledger import Ledger; l = Ledger(Path({str(tmp_path)!r}))\n"
    source += "l.__enter__(); l.claim('a'); print('held', flush=True); input()"
    victim = subprocess.Popen([sys.executable, "-c", source], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert victim.stdout is not None and victim.stdout.readline() == "held\n"
    with Ledger(tmp_path) as ledger:
        assert not ledger.claim("a")
        victim.kill()
        victim.wait()
        assert ledger.claim("a")


@pytest.mark.parametrize("place", ["afile", "afile/below"])
def test_a_folder_that_cannot_be_made_is_told_with_the_option(tmp_path: Path, place: str) -> None:
    (tmp_path / "afile").write_text("")
    with pytest.raises(ValueError, match=r"cannot make the folder .*afile.* \(.+\); name another with --out"):
        Ledger(tmp_path / place)


def test_success_stands_over_failure_in_any_order(tmp_path: Path) -> None:
    with Ledger(tmp_path) as ledger:
        for seed, order in ((1, (FAILED, OK)), (2, (OK, FAILED))):
            for status in order:
                ledger.add(record(setting(seed), status))
    assert [Ledger(tmp_path).find(setting(seed).key)["status"] for seed in (1, 2)] == [OK, OK]  # type: ignore[index]


def test_what_json_cannot_hold_is_refused() -> None:
    with pytest.raises(TypeError, match="cannot be kept as JSON; use numbers, texts and lists"):
        _ = setting(sampler=object).key


def test_a_line_that_is_being_written_is_read_when_it_is_whole(tmp_path: Path) -> None:
    line = canonical(record(setting(1))).encode() + b"\n"
    ledger = Ledger(tmp_path)
    path = tmp_path / "runs-1.jsonl"
    path.write_bytes(line[:30])
    assert ledger.find(setting(1).key) is None
    with path.open("ab") as file:
        file.write(line[30:])
    assert ledger.find(setting(1).key) is not None
