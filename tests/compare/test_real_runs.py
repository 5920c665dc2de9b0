"""Real trainings in processes of their own: killed and gone on, the same twice, artefacts shared, ends told."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from compare_runs import cells, request, train_all

import recbole_hnlm.config as config_module
from recbole_hnlm.compare.children import Child
from recbole_hnlm.compare.command import compare, report
from recbole_hnlm.compare.ledger import FAILED, OK
from recbole_hnlm.compare.plan import Request, cells_of
from recbole_hnlm.compare.request import Asked
from recbole_hnlm.compare.runner import train_once
from recbole_hnlm.compare.tables import accuracy_table
from recbole_hnlm.config import packaged_defaults

SMALL = {"embedding_size": 8, "epochs": 4, "use_gpu": False, "train_batch_size": 128}
TABLES = ("table.md", "table.csv", "table.tex")


def command(data: Path, out: Path) -> list[str]:
    names = ["--datasets", "tiny", "--models", "BPR", "--neg_samplers", "uniform", "dns", "--processes", "2"]
    settings = [f"--{key}={value}" for key, value in {**SMALL, "data_path": data}.items()]
    budget = ["--tune", "2", "--seeds", "2", "--out", str(out), "--no_progress"]
    return [sys.executable, "-m", "recbole_hnlm.cli", "compare", *names, *budget, *settings]


def lines(out: Path) -> list[dict[str, Any]]:
    """Every line of the ledger that is a training run, as it stands on disk."""
    told = [line for path in sorted(out.glob("runs-*.jsonl")) for line in path.read_text().splitlines()]
    return [record for record in map(json.loads, told) if "seed" in record]


@pytest.mark.slow
def test_killed_in_the_middle_it_recomputes_nothing_and_ends_with_the_same_tables(tmp_path: Path, data: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    running = subprocess.Popen(command(data, killed), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while (not killed.exists() or len(lines(killed)) < 2) and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(running.pid, signal.SIGKILL)
    running.wait()
    before = lines(killed)
    assert 2 <= len(before) < 6, "the kill came too late to show anything"
    for out in (killed, whole):
        subprocess.run(command(data, out), check=True, capture_output=True, timeout=240)
    after = lines(killed)
    assert after[: len(before)] == before and len(after) == 6  # 2 rows, 2 trials, 1 further seed
    assert set(Counter(record["key"] for record in after).values()) == {1}
    assert all(record["status"] == OK for record in after)
    for name in TABLES:
        assert (killed / name).read_bytes() == (whole / name).read_bytes(), name
    subprocess.run(command(data, whole), check=True, capture_output=True, timeout=240)
    assert len(lines(whole)) == 6


@pytest.mark.slow
def test_two_processes_share_the_building_of_artefacts(tmp_path: Path, data: Path) -> None:
    """Both rows read the same files of one seed; one builds, the other waits and reads."""
    asked = request(data, neg_samplers=("hnlm",), controls=("permuted",), seeds=1, tune=1)
    text = {"hnlm_min_coverage": 0.1, "llm_teacher_epochs": 1}
    made = cells_of(Request(asked.datasets, asked.grid, shared={**asked.shared, **SMALL, **text}))
    settings = [cell.setting(cell.start, 2020) for cell in made]
    records = train_all(settings, tmp_path / "out", processes=2)
    assert [record["status"] for record in records] == [OK, OK], records
    home = tmp_path / "out" / "artefacts" / "tiny"
    (manifest,) = home.rglob("tiny.hnlm.json")
    (marker,) = home.glob("*.built")
    assert len(marker.read_text().splitlines()) == 1, "both have built"
    built = manifest.stat().st_mtime_ns
    train_all([made[0].setting({**made[0].start, "learning_rate": 0.01}, 2020)], tmp_path / "out")
    assert manifest.stat().st_mtime_ns == built
    assert records[0]["test"] != records[1]["test"]


def test_a_record_holds_what_the_tables_need(tmp_path: Path, data: Path) -> None:
    asked = request(data, baselines=("EASE",), neg_samplers=("dns",), tune=1, seeds=1)
    made = cells_of(Request(asked.datasets, asked.grid, shared={**asked.shared, **SMALL}))
    closed, stepped = train_all([cell.setting(cell.start, 2020) for cell in made], tmp_path)
    assert closed["epochs"] == 1 and closed["best_epoch"] == 0
    assert list(stepped["test"]) == ["recall@20", "ndcg@20"] and stepped["valid_score"] == stepped["valid"]["ndcg@20"]
    assert [row[0] for row in stepped["curve"]] == [1, 3] and stepped["epochs"] == 4
    seconds = [row[1] for row in stepped["curve"]]
    assert 0 < seconds[0] < seconds[1] == pytest.approx(4 * stepped["seconds_per_epoch"])
    best = max(stepped["curve"], key=lambda row: row[2])
    assert (stepped["best_epoch"], stepped["seconds_to_best"], stepped["valid_score"]) == tuple(best)
    assert 100 < stepped["peak_memory_mib"] < 5000
    assert {"python", "torch", "recbole", "recbole_hnlm"} <= set(stepped["versions"])
    assert not list(Path.cwd().rglob("*.pth"))


def test_a_default_that_has_changed_since_is_told_below_the_table(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a later version nothing is trained again; the row that reads the option says so, also in later reports."""
    out, asked = tmp_path / "out", request(data, neg_samplers=("uniform", "ahns"), tune=1, seeds=1)
    asked = replace(asked, shared={**asked.shared, **SMALL})

    def notes() -> list[str]:
        found = [compare(Asked(asked, out, 1, None), cells_of(asked), show=False), report(out)]
        first, second = ([note for note in accuracy_table(block).notes if "defaults" in note] for (block,) in found)
        assert first == second
        return first

    assert notes() == []
    before, real = (out / "runs-1.jsonl").read_bytes(), packaged_defaults

    def of_a_later_version(name: str) -> dict[str, Any]:
        return {**real(name), **({"neg_sampler_exponent": -9.0} if name == "sampler/ahns.yaml" else {})}

    monkeypatch.setattr(config_module, "packaged_defaults", of_a_later_version)
    old = real("sampler/ahns.yaml")["neg_sampler_exponent"]
    told = (
        f"ahns: trained with other defaults (neg_sampler_exponent={old}, now -9.0); a new --out trains it with these."
    )
    assert notes() == [told]
    assert (out / "runs-1.jsonl").read_bytes() == before


def test_a_run_that_fails_says_why(tmp_path: Path, data: Path) -> None:
    (cell,) = cells(data, neg_samplers=("dns",), seeds=1)
    record = train_once(cell.setting({"learning_rate": 1e30, "epochs": 2}, 2020), tmp_path)
    assert record["status"] == FAILED and "nan" in record["error"].lower()
    assert record["refused"] is False  # at another point it may train


def test_a_run_that_is_refused_before_it_trains_says_so(tmp_path: Path, data: Path) -> None:
    asked = request(data, models=("NeuMF",), neg_samplers=(), losses=("bsl",), seeds=1)
    (cell,) = cells_of(Request(asked.datasets, asked.grid, shared={**asked.shared, "train_batch_size": 128}))
    record = train_once(cell.setting(cell.start, 2020), tmp_path)
    assert "ranking_loss=bsl cannot train NeuMF" in record["error"] and record["refused"] is True


@pytest.mark.slow
def test_a_refusal_by_the_build_is_one_of_the_run(tmp_path: Path, data: Path) -> None:
    (cell,) = cells(data, neg_samplers=("hnlm",), seeds=1)
    record = train_once(cell.setting({**SMALL, "llm_text_fields": ["titel"]}, 2020), tmp_path)
    assert "building the artefacts failed: ValueError" in record["error"] and record["refused"] is True


def leave(code: int) -> None:
    os._exit(code)


def kill_itself() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_process_that_ends_without_a_word_is_told() -> None:
    with pytest.raises(ChildProcessError, match="ended with status 3"):
        Child(leave, (3,)).result()
    with pytest.raises(ChildProcessError, match="ended with signal SIGKILL; out of memory?"):
        Child(kill_itself, ()).result()


def wait_in(folder: Path) -> None:
    with tempfile.TemporaryDirectory(dir=folder):
        (folder / "begun").touch()
        time.sleep(60)


def test_a_stopped_run_leaves_no_temporary_files(tmp_path: Path) -> None:
    child = Child(wait_in, (tmp_path,))
    while not (tmp_path / "begun").exists():
        time.sleep(0.02)
    child.stop()
    assert [path.name for path in tmp_path.iterdir()] == ["begun"] and child.process.exitcode is not None


ORPHAN = """
import sys, time
from recbole_hnlm.compare.children import Child
if __name__ == "__main__":
    child = Child(time.sleep, (60,))
    print(child.process.pid, flush=True)
    child.result()
"""


@pytest.mark.slow
def test_runs_end_with_a_killed_comparison(tmp_path: Path) -> None:
    script = tmp_path / "orphan.py"
    script.write_text(ORPHAN)
    parent = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    os.kill(pid, 0)
    time.sleep(1)  # until the child listens
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.1)
    os.kill(pid, signal.SIGKILL)
    raise AssertionError("the run goes on without its comparison")
