"""What the table of speed compares: the plain rules are ours, and README shows what the last run wrote."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from recbole_runs import write_dataset

from recbole_hnlm.cli import main as cli
from recbole_hnlm.compare.command import parser
from recbole_hnlm.compare.plan import cells_of
from recbole_hnlm.compare.request import read_request
from recbole_hnlm.compare.store import read_plan, write_plan
from recbole_hnlm.samplers import SAMPLERS, TrainingInteractions, sampler_class

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))

PEERS = {
    "peers": "amazon-office", "peers-bpr": "amazon-office", "peers-ml-100k": "ml-100k", "peers-bpr-ml-100k": "ml-100k",
    "peers-bpr-movietweetings": "movietweetings", "peers-movietweetings": "movietweetings",
    "peers-bpr-goodbooks": "goodbooks", "peers-goodbooks": "goodbooks",
    "peers-ngcf": "amazon-office", "peers-simgcl": "amazon-office", "peers-sgl": "amazon-office",
    "trials-movietweetings": "movietweetings", "trials-ml-100k": "ml-100k",
    "sparing": "amazon-office", "sparing-movietweetings": "movietweetings", "sparing-ml-100k": "ml-100k",
}  # fmt: skip
"""Folders of ``results/`` with a table of ``compare`` -> the dataset in it."""

B, C, D = 6, 5, 4


class Rows:
    """A model's rows; candidates of all pairs in one table."""

    has_user_rows = True
    n_hops = 1

    def __init__(self, users: torch.Tensor, items: torch.Tensor) -> None:
        self.users, self.items = users, items

    def score(self, users: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
        return torch.einsum("bd,bcd->bc", self.users[users], self.items[items])

    def score_hop(self, hop: int, users: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
        return self.score(users, items)

    def user_rows(self, users: torch.Tensor) -> torch.Tensor:
        return self.users[users]

    def item_rows(self, items: torch.Tensor) -> torch.Tensor:
        return self.items[items]

    def item_hop_rows(self, hop: int, items: torch.Tensor) -> torch.Tensor:
        return self.items[items]


@pytest.mark.parametrize("rule", ["mixgcf", "ahns", "dins"])
def test_the_plain_rules_are_the_samplers(rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import plain_rules

    assert rule in SAMPLERS
    generator = torch.Generator().manual_seed(4)
    users, items = torch.randn(B, D, generator=generator), torch.randn(B + B * C, D, generator=generator)
    pairs, candidates = torch.arange(B), torch.arange(B, B + B * C).view(B, C)
    share = torch.rand(B, 1, generator=generator)
    monkeypatch.setattr(torch, "rand", lambda *size, **_: share.view(size[0] if isinstance(size[0], tuple) else size))
    kind = sampler_class(rule)
    sampler = kind(
        kind.Options(candidates=C), TrainingInteractions(pairs + 1, pairs + 1, B + 1, B + B * C + 1), torch.Generator()
    )
    view = Rows(users, items)
    negatives = sampler.choose(pairs, pairs, candidates, view)  # type: ignore[arg-type]
    ours = negatives.rows if negatives.rows is not None else items[negatives.ids.squeeze(1)]
    plain = {"mixgcf": plain_rules.PlainMixGCF, "ahns": plain_rules.PlainAHNS, "dins": plain_rules.PlainDINS}[rule]
    theirs = plain.negative(plain.__new__(plain), users, items[pairs], items[candidates])
    torch.testing.assert_close(ours, theirs)


def test_readme_shows_the_last_table_of_speed() -> None:
    from bench import BEGIN, END

    page = (ROOT / "results" / "speed.md").read_text(encoding="utf-8")
    shown = (ROOT / "README.md").read_text(encoding="utf-8").partition(BEGIN + "\n")[2].partition(END)[0]
    assert shown == page and "| LightGCN + uniform, epoch |" in page


def test_results_show_the_tables_of_the_hybrid_ledgers() -> None:
    from hybrid_report import places, runs_of, table

    page = (ROOT / "results" / "README.md").read_text(encoding="utf-8")
    homes = ROOT / "results" / "hybrid", ROOT / "results" / "hybrid" / "ways"
    folders = [folder for home in homes for folder in sorted((home / "runs").iterdir())]
    assert len(folders) == 5
    for folder in folders:
        for line in table(runs_of(folder)):
            assert line in page, f"{folder.name}: {line}"
    placed = runs_of(ROOT / "results" / "hybrid" / "places" / "amazon-office")
    assert len(placed) == 3 and all(line in page for line in places(placed))


def test_results_show_the_tables_of_the_road() -> None:
    import road
    from accuracy import Ledger

    page = (ROOT / "results" / "README.md").read_text(encoding="utf-8")
    for dataset, rows in road.ROWS.items():
        runs = Ledger(ROOT / "results" / "road" / dataset, "a").runs
        assert [run["values"] for run in runs if rows[run["row"]] != run["values"]] == []
        assert all(line in page for line in road.table(dataset, runs)) and len(runs) == len(rows)


def test_results_show_how_large_a_start_from_text_should_be() -> None:
    from screening import table
    from start_scale import LINES

    page = (ROOT / "results" / "README.md").read_text(encoding="utf-8")
    lines = table(str(ROOT / "results" / "road" / "start-scale"), LINES)
    assert len(lines) == 2 + len(LINES) and all(line.count("0.") >= 4 for line in lines[2:])
    assert all(line in page for line in lines)


def test_results_show_how_many_candidates_were_tried() -> None:
    from candidate_counts import COUNTS, LINES
    from screening import table

    page = (ROOT / "results" / "README.md").read_text(encoding="utf-8")
    lines = table(str(ROOT / "results" / "road" / "candidates"), LINES)
    assert len(lines) == 2 + len(LINES) and all(line.count("0.") == len(COUNTS) for line in lines[2:])
    told = page.partition("<!-- candidates: begin -->\n")[2].partition("<!-- candidates: end -->")[0]
    assert told.splitlines() == lines


def test_results_show_what_leads_at_a_glance() -> None:
    from overview import FOLDERS, table

    lines = table(ROOT / "results")
    page = (ROOT / "results" / "README.md").read_text(encoding="utf-8")
    assert all(line in page for line in lines)
    assert set(FOLDERS) == {folder for folder in PEERS if folder.startswith("peers")}
    with (ROOT / "results" / "peers-ngcf" / "table.csv").open(encoding="utf-8") as file:
        rows = {(row["row"], row["metric"]): row for row in csv.DictReader(file)}
    ours = [rows["hnlm", metric] for metric in ("recall@20", "ndcg@20")]
    assert {row["against"] for row in ours} == {"dns_mn"}
    cell = " / ".join(f"{float(row['percent']):+.1f}" for row in ours)
    p = " / ".join(f"{float(row['p_resampled']):.3f}" for row in ours)
    told = next(line for line in lines if line.startswith("| NGCF, amazon-office | dns_mn |"))
    assert f"| {cell} % ({p}) |" in told
    cells = [line.split("|")[4] for line in lines if line.startswith("| BPR,")]
    percents = [[float(one) for one in cell.split(" %")[0].split(" / ")] for cell in cells]
    *single, mean = percents
    assert len(single) == 4 and mean == pytest.approx(np.mean(single, axis=0), abs=0.11)  # of rounded figures


@pytest.mark.parametrize("folder", PEERS)
def test_results_show_the_table_that_the_ledger_of_peers_gives(tmp_path: Path, folder: str) -> None:
    """Made anew from the raw runs: a figure that was typed, or a run that went missing, is found."""
    kept = ROOT / "results" / folder
    for name in ("plan.json", "runs-1.jsonl"):
        shutil.copy(kept / name, tmp_path)
    cli(["compare", "--report_only", f"--out={tmp_path}", "--no_progress"])
    for name in ("table.md", "table.csv"):
        assert (tmp_path / name).read_text("utf-8") == (kept / name).read_text("utf-8"), name
    page = (ROOT / "results" / "README.md").read_text(encoding="utf-8")
    lines = [line for line in (kept / "table.md").read_text("utf-8").splitlines() if line.startswith("| ")]
    cells = json.loads((kept / "plan.json").read_text("utf-8"))["cells"]
    assert len(lines) == 1 + len(cells) and all(line in page for line in lines)


@pytest.mark.parametrize("folder", PEERS)
def test_the_commands_above_a_table_plan_its_rows(tmp_path: Path, folder: str) -> None:
    """They are run by bash as they stand, up to the plan, on a dataset of that name."""
    page = (ROOT / "results" / "README.md").read_text(encoding="utf-8")
    section = page.partition(f"<!-- {folder}: begin -->")[0].rpartition("### ")[2]
    script = "\n".join(line for line in section.splitlines() if line.startswith("    "))
    told = "recbole-hnlm() { printf '%s\\n' \"$@\"; echo END; }\n" + script
    commands = subprocess.run(["bash", "-c", told], capture_output=True, text=True, check=True).stdout.split("END\n")
    write_dataset(tmp_path, PEERS[folder])
    for command in filter(None, commands):
        words = [str(ROOT / word) if word.endswith(".yaml") else word for word in command.splitlines()[1:]]
        args, settings = parser().parse_known_args([word.replace("=DATA", f"={tmp_path}") for word in words])
        assert args.out in (None, f"results/{folder}")
        asked = read_request({key: value for key, value in vars(args).items() if not isinstance(value, bool)}, settings)
        write_plan(tmp_path, cells_of(asked.request), None)
    planned, kept = (read_plan(place)[0] for place in (tmp_path, ROOT / "results" / folder))
    ours, theirs = ({cell.label: replace(cell, data="", local={}) for cell in cells} for cells in (planned, kept))
    assert ours == theirs


@pytest.mark.parametrize("name", ["ablation", "alpha", "encoder", "negatives", "popularity", "sparsity"])
def test_results_show_the_means_of_an_analysis_readings(name: str) -> None:
    """The page of results repeats some of the means of ``hnlm``."""
    readings = pd.read_csv(ROOT / "results" / "analyses" / f"{name}.csv", keep_default_na=False)
    told = (ROOT / "results" / "analyses" / f"{name}.md").read_text()
    rows = {tuple(line.strip("| ").split(" | ")) for line in told.splitlines() if line.startswith("| ")}
    for (series, label), group in readings.groupby(["series", "label"]):
        means = [group[group["metric"] == metric]["value"] for metric in ("recall@20", "ndcg@20")]
        cells = [f"{values.mean():.4f} ± {values.std():.4f}" for values in means]
        assert tuple(cell for cell in (series, label, *cells) if cell) in rows
    page = (ROOT / "results" / "README.md").read_text().partition(f"(analyses/{name}.md)")[2].partition("\n- **")[0]
    ours = readings[readings["series"].isin(["hnlm", "all"])].groupby(["label", "metric"])["value"].mean()
    assert any(f".{round(10_000 * mean):04d}" in page for mean in ours)


@pytest.mark.parametrize("dataset", ["amazon-office", "goodbooks", "movietweetings", "ml-100k"])
def test_the_plan_of_all_peers_loads_every_dataset(tmp_path: Path, dataset: str) -> None:
    """Its filters name fields that are loaded."""
    write_dataset(tmp_path, dataset)
    told = ["--comparators", "--losses", "--baselines", "--controls", "--neg_samplers", "uniform"]
    plan = f"--plan={ROOT / 'benchmarks' / 'plans' / 'peers.yaml'}"
    cli(["compare", plan, f"--datasets={dataset}", *told, f"--data_path={tmp_path}", f"--out={tmp_path}", "--dry_run"])


@pytest.mark.parametrize("dataset", ["amazon-office", "goodbooks", "movietweetings", "ml-100k"])
def test_the_readme_shows_what_tunings_measured(dataset: str) -> None:
    figures = json.loads((ROOT / "results" / "hybrid" / "adapters" / f"{dataset}.json").read_text())["figures"]
    parts = [f"{100 * figures[part]['accuracy']:.1f} %" for part in ("untuned", "tuned", "zeroed", "shuffled")]
    rows = [line for line in (ROOT / "README.md").read_text().splitlines() if line.startswith(f"| {dataset}")]
    assert any(line.endswith("| " + " | ".join(parts) + " |") for line in rows), parts


@pytest.mark.parametrize(("method", "share"), [("refit", "10.6 %"), ("mean", "2.2 %")])
def test_the_readme_shows_what_transfer_measured(method: str, share: str) -> None:
    path = ROOT / "results" / "hybrid" / "adapters" / f"goodbooks-on-amazon-office-{method}.json"
    assert f"{100 * json.loads(path.read_text())['figures']['tuned']['accuracy']:.1f} %" == share
    (told,) = [
        part for part in (ROOT / "README.md").read_text().split("\n\n") if part.startswith("An adapter of another")
    ]
    assert share in told


def test_throughput_counts_the_weights_that_tokens_go_through(tmp_path: Path) -> None:
    import hybrid
    import hybrid_throughput

    from recbole_hnlm.llm.hybrid import BaseSettings
    from recbole_hnlm.llm.hybrid.loading import load_base

    base = BaseSettings(str(hybrid.save_llama(tmp_path / "llama-tiny")), precision="float32")
    layers = [weight for name, weight in load_base(base).model.base.named_parameters() if "_proj" in name]
    assert hybrid_throughput.weights_of(hybrid_throughput.SHAPES["tiny"]) == sum(weight.numel() for weight in layers)
    assert 6.9e9 < hybrid_throughput.weights_of(hybrid_throughput.SHAPES["8b"]) < 7.1e9
    done = hybrid_throughput.Throughput("generation", pairs=10, tokens=1000, padded=1500, seconds=2.0, operations=4e12)
    assert done.line(20.0) == "| generation | 5.0 | 500.0 | 750.0 | 2.000 | 10.0% |"
