"""The analyses: what each trains, how its figures are computed, and one whole command."""

from __future__ import annotations

import csv
import math
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from recbole_runs import ITEMS, made, settings, write_dataset

from recbole_hnlm.artefacts import read_atomic
from recbole_hnlm.cli import main as cli
from recbole_hnlm.compare.analyse_command import cells_of_entries, main, parser_of
from recbole_hnlm.compare.analyses import ANALYSES, analysis_of, groups
from recbole_hnlm.compare.analyses.base import Entry
from recbole_hnlm.compare.analyses.groups import GROUPS, group_metrics, popularity_groups
from recbole_hnlm.compare.analyses.probe import train_and_probe
from recbole_hnlm.compare.analyses.readings import Reading, comma_separated, pivot, spreads
from recbole_hnlm.compare.analyses.sparsity import kept_pairs
from recbole_hnlm.compare.plots import svg_element
from recbole_hnlm.compare.request import read_request
from recbole_hnlm.config import HNLMConfig
from recbole_hnlm.leak import LeakCheck, check_leak
from recbole_hnlm.models.statistics import StepStatistics
from recbole_hnlm.quick_start import prepare
from recbole_hnlm.samplers import TrainingInteractions


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("data"))


def shared(folder: Path, **values: Any) -> list[str]:
    small = {**settings(folder, "BPR", eval_step=1), **values}
    del small["state"], small["show_progress"], small["metric_decimal_place"]
    return [f"--{key}={value}" for key, value in small.items()]


def asked_for(folder: Path, name: str, *own: str, **values: Any) -> tuple[Any, Any, list[Entry], Any]:
    analysis = analysis_of(name)
    Path("hybrid.json").touch()  # what an adapter's folder is known by
    arguments = ["--dataset=tiny", "--model=BPR", f"--out={folder / 'out'}", *own, *shared(folder, **values)]
    args, rest = parser_of(analysis, name).parse_known_args(arguments)
    asked = read_request({"datasets": ["tiny"], "models": ["BPR"], "out": args.out, "seeds": 1, "tune": 1}, rest)
    args.first_seed = 2020
    return analysis, asked, analysis.entries(args, asked.request.shared), args


OWN = {"transfer": ["--adapter=."], "sparsity": ["--shares", "20", "100"]}


@pytest.mark.parametrize("name", sorted(ANALYSES))
def test_every_analysis_asks_for_what_can_be_trained(folder: Path, name: str) -> None:
    analysis, asked, entries, _ = asked_for(folder, name, *OWN.get(name, []))
    cells = cells_of_entries(asked, entries, "BPR")
    assert len({cell.setting(cell.start, 1).key for cell in cells}) == len(cells) == len(entries) >= 2
    assert all(cell.budget == 1 for cell in cells)
    assert analysis.title and type(analysis).__doc__
    for entry, cell in zip(entries, cells, strict=True):
        assert entry.values.items() <= {**cell.values, **cell.local}.items()


@pytest.mark.parametrize("preset", ["paper", "frozen"])
@pytest.mark.parametrize("name", ["ablation", "false-negatives"])
def test_an_analysis_goes_with_every_preset(folder: Path, name: str, preset: str) -> None:
    _, asked, entries, _ = asked_for(folder, name, hnlm_preset=preset)
    assert len(cells_of_entries(asked, entries, "BPR")) == len(entries) >= 2


def by_name(entries: list[Entry]) -> dict[str, dict[str, Any]]:
    return {entry.name: dict(entry.values) for entry in entries}


def test_ablation_leaves_one_part_out_at_a_time(folder: Path) -> None:
    analysis, _, entries, _ = asked_for(folder, "ablation")
    rows = by_name(entries)
    assert rows["without mixing"]["hnlm_alpha"] == 0 and rows["without text start"]["hnlm_init"] == "random"
    assert rows["without alignment"]["hnlm_alignment_weight"] == 0 and "without fine-tuning" not in rows
    assert "tune no language model" in " ".join(analysis.notes())
    analysis, _, entries, _ = asked_for(folder, "ablation", llm_negatives="hybrid")
    assert by_name(entries)["without fine-tuning"]["llm_tune_epochs"] == 0 and not list(analysis.notes())


def test_negatives_keep_the_pairs_of_a_step(folder: Path) -> None:
    _, _, entries, _ = asked_for(folder, "negatives", "--counts", "1", "4", "--neg_samplers", "dns")
    rows = [(entry.values["neg_sampler_num"], entry.values["train_batch_size"], entry.x) for entry in entries]
    assert rows == [(1, 128, 1), (4, 512, 4)]
    _, asked, entries, _ = asked_for(folder, "negatives", "--counts", "2", "4", "--neg_samplers", "dns")
    assert [cell.values["train_batch_size"] for cell in cells_of_entries(asked, entries, "BPR")] == [256, 512]


def test_false_negatives_of_rules_without_text_are_logged_beside_no_text(folder: Path) -> None:
    _, asked, entries, _ = asked_for(folder, "false-negatives", "--neg_samplers", "dns", "hnlm")
    plain, text = (entry.values for entry in entries)
    assert plain["hnlm_base_sampler"] == "dns" and plain["hnlm_log_false_negatives"] and plain["hnlm_alpha"] == 0
    assert text == {"neg_sampler": "hnlm", "hnlm_log_false_negatives": True}
    setting = cells_of_entries(asked, entries, "BPR")[0]
    record = train_and_probe(setting.setting(setting.start, 2020), folder / "runs")
    told = list(analysis_of("false-negatives").readings(entries[0], record))
    assert [(one.x, one.metric) for one in told] == [(epoch, metric) for epoch in (1, 2) for metric in
                                                     ("drawn", "vectors")]  # fmt: skip
    assert all(0 <= one.value <= 1 for one in told)
    assert set(record["groups"]) <= set(GROUPS) and record["status"] == "ok"


def test_rules_without_text_draw_as_many_candidates_as_alone() -> None:
    names = ["dns", "mixgcf", "ahns", "dns_mn", "dtl"]
    for entry in analysis_of("false-negatives").entries(Namespace(neg_samplers=names), {}):
        under_hnlm, alone = (
            HNLMConfig("BPR", "ml-100k", config_dict=dict(values)).run
            for values in (entry.values, {"neg_sampler": entry.series})
        )
        assert under_hnlm.sampler_options == alone.sampler_options and not under_hnlm.reads_text
    (asked,) = analysis_of("convergence").entries(Namespace(neg_samplers=["dtl"]), {"neg_sampler_candidates": 4})
    assert "neg_sampler_candidates" not in asked.values  # the user's own, which all rows share


@pytest.mark.parametrize("name", ["ablation", "false-negatives"])
def test_entries_without_text_read_none_whatever_all_share(name: str) -> None:
    shared = {"hnlm_hard_alignment_weight": 0.01}
    entries = analysis_of(name).entries(Namespace(neg_samplers=["dns"]), shared)
    (bare,) = (entry for entry in entries if entry.series in ("id negatives alone", "dns"))
    assert not HNLMConfig("BPR", "ml-100k", config_dict={**shared, **bare.values}).run.reads_text


@pytest.mark.parametrize("mode", ["uni100", {"valid": "uni100", "test": "uni100"}])
def test_groups_of_items_need_the_whole_ranking(mode: Any) -> None:
    with pytest.raises(ValueError, match="groups are read off the ranking of the whole catalogue"):
        analysis_of("popularity").entries(Namespace(neg_samplers=["dns"]), {"eval_args": {"mode": mode}})
    assert analysis_of("popularity").entries(Namespace(neg_samplers=["dns"]), {"eval_args": {"mode": "full"}})


def test_negatives_are_told_of_where_evaluation_samples_items(folder: Path) -> None:
    sampled = {"split": {"RS": [0.8, 0.1, 0.1]}, "order": "RO", "group_by": "user", "mode": "uni20"}
    _, asked, entries, _ = asked_for(folder, "false-negatives", "--neg_samplers", "dns", eval_args=sampled)
    setting = cells_of_entries(asked, entries, "BPR")[0]
    record = train_and_probe(setting.setting(setting.start, 2020), folder / "sampled")
    assert record["status"] == "ok" and record["groups"] == {} and "false_negative_rate" in record["negatives"][0]


@pytest.mark.parametrize("model", ["BPR", "NeuMF"])
def test_a_step_has_as_many_pairs_whatever_k_is(model: str, folder: Path) -> None:
    entries = analysis_of("negatives").entries(Namespace(model=model, neg_samplers=["dns"], counts=[1, 4, 8]), {})
    steps = set()
    for entry in entries:
        config = HNLMConfig(model, "tiny", config_dict={**settings(folder, model), **entry.values})
        steps.add(prepare(config)[0].step)
    assert len(steps) == 1


def test_the_table_of_epochs_is_short_and_the_csv_is_not() -> None:
    analysis = analysis_of("false-negatives")
    readings = [Reading("dns", f"epoch {epoch}", epoch, "drawn", 1, epoch / 100) for epoch in range(1, 101)]
    rows = analysis.table(readings, "tiny").rows
    assert len(rows) == 12 and rows[0][1] == "epoch 1" and rows[-1][1] == "epoch 100"
    assert len(comma_separated(readings).splitlines()) == 101


@pytest.mark.parametrize(
    ("name", "own", "message"),
    [
        ("transfer", [], "is no folder of an adapter; make one by recbole-hnlm build"),
        ("sparsity", ["--shares", "0", "50", "120"], r"shares \[0, 120\] are outside 1 to 100"),
        ("sparsity", ["--masked_filename=x"], "masks what it leaves out, and nothing else; remove masked_filename"),
        ("encoder", ["--encoders", "a", "--widths", "3"], "two analyses"),
        ("negatives", ["--neg_samplers", "uniform", "--counts", "2", "2"], "uniform, K 2 is asked for twice"),
        ("ablaton", [], "did you mean 'ablation'"),
        ("alpha", ["--alphas", "1.5"], r"hnlm_alpha=1.5 is outside \[0, 1\]"),
        ("popularity", ["--neg_samplers", "dnz"], "did you mean 'dns'"),
    ],
)
def test_wrong_arguments_are_refused_before_a_run(folder: Path, name: str, own: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        main([name, "--dataset=tiny", "--model=BPR", f"--out={folder / 'refused'}", *own, *shared(folder)])
    assert not list((folder / "refused").glob("*.md"))


def test_an_analysis_that_is_stopped_ends_with_a_word(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def stopped(setting: Any) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr("recbole_hnlm.compare.analyse_command.start_in_child", lambda place: stopped)
    with pytest.raises(SystemExit, match="130"):
        main(["alpha", "--dataset=tiny", "--model=BPR", f"--out={folder / 'stopped'}", *shared(folder)])
    assert "every run that has ended is kept" in caplog.text
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_usage_names_the_analyses(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli(["analyse"])
    assert ended.value.code == 2
    told = capsys.readouterr().out
    assert all(name in told for name in ANALYSES)


def test_groups_are_the_least_clicked_the_top_and_the_rest() -> None:
    counts = np.array([99, *range(40)])[np.r_[0, np.random.default_rng(0).permutation(40) + 1]]
    group = popularity_groups(counts)
    assert group[0] == -1
    assert sorted(counts[1:][group[1:] == 0]) == list(range(32))
    assert sorted(counts[1:][group[1:] == 1]) == list(range(32, 38))
    assert sorted(counts[1:][group[1:] == 2]) == [38, 39]
    assert (popularity_groups(np.zeros(21, dtype=np.int64))[1:] == np.repeat([0, 1, 2], [16, 3, 1])).all()


def test_group_metrics_are_recall_and_ndcg_of_the_groups_own_positives() -> None:
    random = np.random.default_rng(3)
    ranking = np.array([random.permutation(np.arange(1, 31))[:10] for _ in range(12)])
    positives = [random.choice(np.arange(1, 31), random.integers(1, 8), replace=False) for _ in range(12)]
    group = np.r_[-1, random.integers(0, 2, 30)]  # the third group has no item
    found = group_metrics(ranking, positives, group, [3, 10])
    assert set(found) == set(GROUPS[:2])
    for number in (0, 1):
        for cut in (3, 10):
            recalls, gains = [], []
            for row, items in zip(ranking.tolist(), positives, strict=True):
                wanted = {item for item in items.tolist() if group[item] == number}
                if not wanted:
                    continue
                recalls.append(len(wanted & set(row[:cut])) / len(wanted))
                gain = sum(1 / math.log2(place + 2) for place, item in enumerate(row[:cut]) if item in wanted)
                ideal = sum(1 / math.log2(place + 2) for place in range(min(cut, len(wanted))))
                gains.append(gain / ideal)
            assert found[GROUPS[number]][f"recall@{cut}"] == pytest.approx(sum(recalls) / len(recalls))
            assert found[GROUPS[number]][f"ndcg@{cut}"] == pytest.approx(sum(gains) / len(gains))


@given(users=st.lists(st.integers(1, 5), min_size=1, max_size=60), seed=st.integers(0, 3))
def test_shares_of_training_pairs_lie_within_each_other(users: list[int], seed: int) -> None:
    ids = np.array(users)
    before = np.zeros(len(ids), dtype=bool)
    for share in (1, 20, 50, 99, 100):
        kept = kept_pairs(ids, share, seed)
        assert (kept >= before).all()
        for user in set(users):
            assert kept[ids == user].sum() == math.ceil((ids == user).sum() * share / 100)
        before = kept
    assert before.all()


def test_a_share_changes_the_training_pairs_alone(folder: Path) -> None:
    _, _, entries, args = asked_for(folder, "sparsity", "--shares", "20", "100", "--neg_samplers", "dns")
    small, whole = (Path(entry.values["data_path"]) / str(entry.dataset) for entry in entries)
    assert "data_path" in entries[0].values and isinstance(args, Namespace)

    def rows(home: Path, part: str) -> list[str]:
        return (home / f"{home.name}.{part}.inter").read_text().splitlines()

    for part in ("valid", "test"):
        assert rows(small, part) == rows(whole, part)
    assert set(rows(small, "train")) < set(rows(whole, "train"))
    share = (len(rows(small, "train")) - 1) / (len(rows(whole, "train")) - 1)
    assert 0.2 <= share < 0.25
    from recbole_hnlm.compare.plan import CompareConfig
    from recbole_hnlm.quick_start import split

    sizes, masks = [], []
    for entry in entries:
        values = settings(folder, "BPR", **entry.values)
        loaders = split(CompareConfig("BPR", entry.dataset, config_dict=values))
        assert len(loaders[0]._dataset) == len(rows(Path(entry.values["data_path"]) / str(entry.dataset), "train")) - 1
        sizes.append((loaders[0]._dataset.item_num, loaders[0]._dataset.user_num))
        masks.append([masked_tokens(loader) for loader in loaders[1:]])
    assert sizes[0] == sizes[1] == (ITEMS + 1, 61)
    assert masks[0] == masks[1] and any(masks[0][0].values())  # a true pair that a share leaves out is no mistake


def masked_tokens(loader: Any) -> dict[str, set[str]]:
    """Items that evaluation masks for each user, by name."""
    dataset = loader._dataset
    users, items = (dataset.field2id_token[field] for field in ("user_id", "item_id"))
    return {users[user]: set(items[loader.uid2history_item[user]]) for user in loader.uid_list.tolist()}


def test_pairs_of_a_share_are_drawn_by_the_first_seed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from recbole_hnlm.compare.analyses import sparsity

    drawn: list[int] = []
    monkeypatch.setattr(
        sparsity, "kept_pairs", lambda users, share, seed: drawn.append(seed) or kept_pairs(users, share, seed)
    )
    _, _, _, args = asked_for(folder, "sparsity", "--shares", "35", "--neg_samplers", "dns")
    assert drawn == [args.first_seed]


def test_shares_of_another_split_are_other_data(folder: Path) -> None:
    """Same folder, same names; neither the files nor the runs of the first are taken for those of the second."""

    def cell(*own: str, **values: Any) -> Any:
        _, asked, entries, _ = asked_for(folder, "sparsity", "--shares", "40", "--neg_samplers", "dns", *own, **values)
        return cells_of_entries(asked, entries, "BPR")[0]

    first, same = cell(), cell(learning_rate=0.5)
    other = cell(eval_args={"split": {"RS": [0.5, 0.25, 0.25]}})
    assert first.data == same.data != other.data and first.local["data_path"] != other.local["data_path"]
    assert first.setting({}, 1).key != other.setting({}, 1).key
    assert (
        cell("--neg_samplers", "hnlm", hnlm_alpha=0.2).data == first.data
    )  # what uniform would refuse is no part of the split


def test_a_share_that_a_kill_left_half_written_is_written_anew(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from recbole_hnlm.compare.analyses import sparsity

    arguments = ["sparsity", "--shares", "60", "--neg_samplers", "dns"]

    def killed(folder: Path, name: str, *rest: Any) -> None:
        (folder / name).mkdir(parents=True)
        (folder / name / f"{name}.test.inter").write_text("torn")
        raise KeyboardInterrupt

    with monkeypatch.context() as during:
        during.setattr(sparsity, "write_world", killed)
        with pytest.raises(KeyboardInterrupt):
            asked_for(folder, *arguments)
    (entry,) = asked_for(folder, *arguments)[2]
    home = Path(entry.values["data_path"])
    assert len((home / "tiny-60" / "tiny-60.test.inter").read_text().splitlines()) > 1
    assert not list(home.glob(".*"))


def test_vectors_beside_held_out_positives_are_counted() -> None:
    generator = torch.Generator().manual_seed(0)
    table = torch.randn(12, 3, generator=generator)
    pairs = torch.tensor([1, 1, 2, 3]), torch.tensor([1, 2, 3, 4])
    statistics = StepStatistics(TrainingInteractions(*pairs, n_users=5, n_items=12))

    class Split:
        uid_field, iid_field = "user_id", "item_id"
        inter_feat = {"user_id": torch.tensor([1, 1, 3]), "item_id": torch.tensor([5, 6, 11])}

    class View:
        has_user_rows = False

        def item_rows(self, items: torch.Tensor) -> torch.Tensor:
            return table[items]

    statistics.watch_held_out([Split()])
    users = torch.tensor([1, 1, 1, 2, 3, 3, 4])
    rows = torch.stack([table[6] * 3, table[5] + 0.01, table[7], table[5], -table[11], table[11], table[11]])
    expected = []
    for user, row in zip(users.tolist(), rows, strict=True):
        held = [item for owner, item in ((1, 5), (1, 6), (3, 11)) if owner == user]
        expected.append(any(float(torch.cosine_similarity(row, table[item], dim=0)) > 0.99 for item in held))
    assert expected == [True, True, False, False, False, True, False]
    assert statistics._beside_held_out(users, rows, View()).tolist() == expected  # type: ignore[arg-type]
    statistics.observe(users, users, torch.tensor([5, 7, 8, 5, 11, 4, 11]), rows, View())  # type: ignore[arg-type]
    told = statistics.epoch_means()
    assert told["false_negative_vectors"] == pytest.approx(3 / 7)
    assert told["false_negative_rate"] == pytest.approx(2 / 7)
    nobody = statistics._beside_held_out(users[3:4], rows[3:4], View())  # type: ignore[arg-type]
    assert nobody.tolist() == [False]


def test_weighted_negatives_count_with_their_weights(folder: Path) -> None:
    """Against a loop over pairs and candidates, in the layout that the model hands over."""
    values = {"neg_sampler": "softmax", "neg_sampler_candidates": 4, "neg_sampler_rho": 5.0}
    model, loaders, _ = made(folder, "BPR", **values)
    head, seen = model.hnlm, []
    draw = head.draw
    head.draw = lambda *given: seen.append((given, draw(*given))) or seen[-1][1]
    head.statistics.watch_held_out([loader.dataset for loader in loaders[1:]])
    users, items = (embedding.weight.detach().double() for embedding in (model.user_embedding, model.item_embedding))
    model.calculate_loss(next(iter(loaders[0])))
    (((pairs, positives, *_), negatives),) = seen
    held = {
        pair
        for loader in loaders[1:]
        for pair in zip(
            loader.dataset.inter_feat["user_id"].tolist(), loader.dataset.inter_feat["item_id"].tolist(), strict=True
        )
    }
    false, gap = [], []
    for pair, (user, positive) in enumerate(zip(pairs.tolist(), positives.tolist(), strict=True)):
        for place, item in enumerate(negatives.ids[pair].tolist()):
            weight = float(negatives.weights[pair, place])
            false.append(weight * ((user, item) in held))
            gap.append(weight * float(users[user] @ (items[item] - items[positive])))
    told = head.statistics.epoch_means()
    assert told["false_negative_rate"] == pytest.approx(sum(false) / len(pairs), abs=1e-6) and sum(false) > 0
    assert told["hardness"] == pytest.approx(sum(gap) / len(pairs), abs=1e-6)


def test_an_analysis_of_runs_that_tell_nothing_does_not_call_them_failed(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(work: Any, arguments: tuple[Any, ...]) -> AtOnce:
        return AtOnce({**arguments[0].described(), "status": "ok", "negatives": [{"hardness": 0.5}]})

    monkeypatch.setattr("recbole_hnlm.compare.analyse_command.Child", start)
    with pytest.raises(ValueError, match="ended well, but none tells what false-negatives reads"):
        main(["false-negatives", "--dataset=tiny", "--model=BPR", f"--out={tmp_path}", "--no_progress",
              "--neg_samplers", "dns", *shared(folder)])  # fmt: skip


@pytest.mark.slow
def test_false_negatives_of_softmax_are_told(folder: Path) -> None:
    _, asked, entries, _ = asked_for(folder, "false-negatives", "--neg_samplers", "softmax")
    (cell,) = cells_of_entries(asked, entries, "BPR")
    record = train_and_probe(cell.setting(cell.start, 2020), folder / "runs")
    told = list(analysis_of("false-negatives").readings(entries[0], record))
    assert {one.metric for one in told} == {"drawn", "vectors"} and {one.x for one in told} == {1, 2}


def test_looking_for_false_negatives_changes_no_weight(folder: Path) -> None:
    no_text = {"neg_sampler": "hnlm", "hnlm_alpha": 0.0, "hnlm_alignment_weight": 0.0, "hnlm_init": "random"}
    weights = []
    for logged in (False, True):
        model, loaders, _ = made(folder, "BPR", hnlm_log_false_negatives=logged, **no_text)
        if logged:
            model.hnlm.statistics.watch_held_out(loaders[0].held_out)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for batch in loaders[0]:
            optimizer.zero_grad()
            model.calculate_loss(batch).backward()
            optimizer.step()
        weights.append(model.item_embedding.weight.detach().clone())
    assert torch.equal(*weights)


def test_readings_become_means_and_curves() -> None:
    readings = [Reading(name, f"K {k}", k, "recall@20", seed, k / 10 + seed / 100)
                for name in ("dns", "hnlm") for k in (1, 2) for seed in (1, 3)]  # fmt: skip
    found = spreads(readings)
    mean, deviation = found["dns", "K 2"]["recall@20"]
    assert mean == pytest.approx(0.22) and deviation == pytest.approx(math.sqrt(2) / 100)
    table = pivot(readings, "T")
    assert table.header == ("row", "point", "R@20") and table.rows[1] == ("dns", "K 2", "0.2200 ± 0.0141")
    analysis = analysis_of("negatives")
    figure = analysis.plot(readings)
    axes = figure.axes[0]
    assert axes.get_xlabel() == "negatives per pair" and axes.get_ylabel() == "R@20"
    curve = axes.containers[0].lines[0]  # type: ignore[attr-defined]
    assert np.allclose(curve.get_xydata(), [[1, 0.12], [2, 0.22]])
    drawn = svg_element(figure)
    assert drawn == svg_element(analysis.plot(readings)) and "hnlm" in drawn
    assert list(csv.reader(comma_separated(readings).splitlines()))[1] == ["dns", "K 1", "1", "recall@20", "1", "0.11"]
    bars = analysis_of("popularity").plot(
        [Reading(s, g, None, "recall@20", 1, 0.5) for s in "ab" for g in GROUPS[: 2 if s == "a" else 3]]
    )
    assert [float(bar.get_height()) for bar in bars.axes[0].patches] == [0.5, 0.5, 0.5, 0.5, 0.0, 0.5]  # type: ignore[attr-defined]
    assert len(bars.axes[0].patches) == 6 and [text.get_text() for text in bars.axes[0].get_xticklabels()] == ["a", "b"]


def test_whole_vectors_are_a_level_beside_the_curve_of_widths() -> None:
    entries = analysis_of("encoder").entries(Namespace(encoders=None, widths=[64, 0, 16]), {})
    heights: dict[float | None, float] = {64: 0.3, None: 0.5, 16: 0.1}
    readings = [Reading(one.series, one.label, one.x, "recall@20", 1, heights[one.x]) for one in entries]
    axes = analysis_of("encoder").plot(readings).axes[0]
    curve, level = axes.lines
    assert np.allclose(curve.get_xydata(), [[16, 0.1], [64, 0.3]])
    assert set(np.asarray(level.get_ydata())) == {0.5} and level.get_label() == "hnlm, all"
    assert axes.get_xlabel() == "width of the text vectors" and not axes.patches


def test_convergence_tells_when_a_run_was_at_its_best() -> None:
    analysis = analysis_of("convergence")
    curve = [[0, 1.0, 0.2], [1, 2.5, 0.4], [2, 4.0, 0.396], [3, 6.0, 0.41], [4, 7.0, 0.407]]
    record = {"curve": curve, "seed": 1}
    readings = list(analysis.readings(Entry("dns", "", {}), record))
    table = analysis.table(readings, "tiny")
    assert dict(zip(table.header, table.rows[0], strict=True)) == {
        "row": "dns", "best validation score": "0.4100", "epochs to the best": "4.0000", "seconds to the best": "6.0000",
        "epochs to within 1 %": "4.0000", "seconds to within 1 %": "6.0000",
    }  # fmt: skip
    by_epoch, by_seconds = (axes.lines[0].get_xydata() for axes in analysis.plot(readings).axes)
    assert np.allclose(by_epoch, [[epoch + 1, score] for epoch, _, score in curve])
    assert np.allclose(by_seconds, [[seconds, score] for _, seconds, score in curve])


def test_convergence_of_a_metric_of_which_less_is_better() -> None:
    analysis = analysis_of("convergence")
    curve = [[0, 1.0, 0.9], [1, 2.5, 0.402], [2, 4.0, 0.4], [3, 6.0, 0.5]]
    readings = list(analysis.readings(Entry("dns", "", {}), {"curve": curve, "seed": 1, "higher_is_better": False}))
    table = analysis.table(readings, "tiny")
    assert table.rows[0] == ("dns", "0.4000", "3.0000", "4.0000", "2.0000", "2.5000")


class AtOnce:
    """A run that is over when it starts, in this process."""

    def __init__(self, record: dict[str, Any]) -> None:
        self.reader, writer = multiprocessing.Pipe(duplex=False)
        writer.send(record)

    def result(self) -> dict[str, Any]:
        found: dict[str, Any] = self.reader.recv()
        return found

    def stop(self) -> None:
        self.reader.close()


def test_a_command_trains_once_and_writes_table_csv_and_plot(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("recbole_hnlm.compare.analyse_command.Child", lambda work, arguments: AtOnce(work(*arguments)))
    out = tmp_path / "out"
    command = ["analyse", "popularity", "--dataset=tiny", "--model=BPR", f"--out={out}", "--seeds=2",
               "--no_progress", "--neg_samplers", "uniform", "recbole", *shared(folder)]  # fmt: skip
    cli(command)
    files = {path.name: path.read_bytes() for path in out.glob("popularity.*")}
    assert set(files) == {"popularity.md", "popularity.csv", "popularity.svg"}
    ledger = (out / "probed" / "runs-1.jsonl").read_bytes()
    assert len(ledger.splitlines()) == 4
    text = files["popularity.md"].decode()
    assert "![](popularity.svg)" in text and "| uniform | least-clicked 80 % |" in text and "±" in text
    assert capsys.readouterr().out.endswith(text)
    rows = list(csv.DictReader(files["popularity.csv"].decode().splitlines()))
    assert {row["series"] for row in rows} == {"uniform", "recbole"}
    assert {row["seed"] for row in rows} == {"2020", "2021"}
    cli(command)
    assert (out / "probed" / "runs-1.jsonl").read_bytes() == ledger
    assert {path.name: path.read_bytes() for path in out.glob("popularity.*")} == files


def test_runs_with_other_defaults_are_told_below_the_table(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(work: Any, arguments: tuple[Any, ...]) -> AtOnce:
        groups = {GROUPS[0]: {"recall@5": 0.5}}
        taken = {"neg_sampler_num": "7" if arguments[0].seed == 2021 else "1", "neg_sampler_gone": "3"}
        return AtOnce({**arguments[0].described(), "status": "ok", "groups": groups, "defaults": taken})

    monkeypatch.setattr("recbole_hnlm.compare.analyse_command.Child", start)
    command = ["popularity", "--dataset=tiny", "--model=BPR", f"--out={tmp_path}", "--no_progress", "--seeds=2",
               "--neg_samplers", "dns", *shared(folder)]  # fmt: skip
    (note,) = [note for note in main(command).table.notes if "defaults" in note]
    assert note.startswith("dns: trained with other defaults (neg_sampler_num=7, now 1);")


def test_failed_runs_are_told_below_the_table(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def start(work: Any, arguments: tuple[Any, ...]) -> AtOnce:
        setting = arguments[0]
        if setting.seed == 2021:
            return AtOnce({**setting.described(), "status": "failed", "error": "ValueError: no luck"})
        groups = {GROUPS[0]: {"recall@5": 0.5}}
        return AtOnce({**setting.described(), "status": "ok", "groups": groups})

    monkeypatch.setattr("recbole_hnlm.compare.analyse_command.Child", start)
    command = ["popularity", "--dataset=tiny", "--model=BPR", f"--out={tmp_path}", "--no_progress",
               "--neg_samplers", "dns", *shared(folder)]  # fmt: skip
    written = main([*command, "--seeds=2"])
    assert written.table.title.endswith(", tiny, BPR")
    assert written.table.notes[0].startswith("Seeds 2020, 2021; nothing is tuned; settings of all rows: ")
    assert "epochs 2" in written.table.notes[0]
    assert written.table.rows == (("dns", GROUPS[0], "0.5000"),)
    assert written.table.notes[-1] == "dns, seed 2021, failed: ValueError: no luck"
    with pytest.raises(ValueError, match="every run of the analysis failed; dns, seed 2021"):
        main([*command, "--seed=2021"])


@pytest.mark.slow
def test_a_killed_analysis_goes_on_where_it_was(folder: Path, tmp_path: Path) -> None:
    """In real processes: one run done, the second cut by SIGKILL, the third never begun."""
    out = tmp_path / "out"
    command = [sys.executable, "-m", "recbole_hnlm.cli", "analyse", "negatives", "--dataset=tiny", "--model=BPR",
               f"--out={out}", "--seeds=1", "--no_progress", "--counts", "1", "2", "4", "--neg_samplers", "dns",
               *shared(folder, epochs=4)]  # fmt: skip
    running = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    ledger, deadline = out / "runs-1.jsonl", time.monotonic() + 120
    while (not ledger.exists() or not ledger.read_bytes().endswith(b"\n")) and time.monotonic() < deadline:
        time.sleep(0.02)
    os.killpg(running.pid, signal.SIGKILL)
    running.wait()
    before = ledger.read_text().splitlines()
    assert 1 <= len(before) < 3, "the kill came too late to show anything"
    subprocess.run(command, check=True, capture_output=True, timeout=240)
    after = ledger.read_text().splitlines()
    assert after[: len(before)] == before and len(after) == 3
    assert {path.name for path in out.glob("negatives.*")} == {"negatives.md", "negatives.csv", "negatives.svg"}
    rows = list(csv.DictReader((out / "negatives.csv").read_text().splitlines()))
    assert {row["label"] for row in rows} == {"K 1", "K 2", "K 4"}


def test_groups_of_items_are_those_of_training(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[np.ndarray[Any, Any]] = []
    monkeypatch.setattr(groups, "popularity_groups", lambda counts: asked.append(counts) or popularity_groups(counts))
    model, loaders, config = made(folder, "BPR", neg_sampler="uniform")
    told = groups.metrics_by_popularity(config, model, loaders)
    feat = loaders[0]._dataset.inter_feat["item_id"].tolist()
    assert asked[0].tolist() == [feat.count(item) for item in range(ITEMS + 1)] and set(told) <= set(GROUPS)


def test_a_group_of_all_items_has_the_metrics_of_the_test(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of the best checkpoint, with what was trained on left out of the ranking, as RecBole evaluates."""
    monkeypatch.setattr(groups, "popularity_groups", lambda counts: np.zeros(len(counts), dtype=np.int64))
    own = ["--neg_samplers", "uniform"]
    _, asked, entries, _ = asked_for(folder, "popularity", *own, epochs=6, learning_rate=0.05, topk="[5,10]")
    (cell,) = cells_of_entries(asked, entries, "BPR")
    record = train_and_probe(cell.setting(cell.start, 2020), folder / "one-group")
    assert set(record["groups"]) == {GROUPS[0]} and set(record["test"]) >= {"recall@5", "ndcg@10"}
    assert record["groups"][GROUPS[0]] == pytest.approx(record["test"], abs=1e-6)


RATED = {"val_interval": {"rating": "[2,inf)"}, "load_col": {"inter": ["user_id", "item_id", "rating"]}}


@pytest.mark.parametrize("values", [RATED, {"user_inter_num_interval": "[2,inf)"}], ids=["val", "users"])
def test_shares_of_filtered_data_are_trained(folder: Path, values: dict[str, Any]) -> None:
    """The filter belongs to the split that is written, and the runs on it are told to filter nothing."""
    _, asked, entries, _ = asked_for(folder, "sparsity", "--shares", "50", "--neg_samplers", "dns", **values)
    (cell,) = cells_of_entries(asked, entries, "BPR")
    assert cell.values[next(iter(values))] is None
    (whole,) = cells_of_entries(*asked_for(folder, "sparsity", "--shares", "50", "--neg_samplers", "dns")[1:3], "BPR")
    assert (whole.data != cell.data) == (values is RATED)  # every user has two pairs


def test_shares_keep_items_that_an_item_file_does_not_name(tmp_path: Path) -> None:
    home = write_dataset(tmp_path)
    path = home / "tiny" / "tiny.item"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:20]).rstrip("\n"))  # the last line has no end
    _, _, entries, _ = asked_for(home, "sparsity", "--shares", "10", "--neg_samplers", "dns")
    (entry,) = entries
    loaders = prepare(HNLMConfig("BPR", entry.dataset, config_dict=settings(home, "BPR", **entry.values)))
    assert loaders[0]._dataset.item_num == ITEMS + 1
    assert len(set(loaders[0]._dataset.inter_feat["item_id"].tolist())) < ITEMS  # of which some are not trained on


@pytest.mark.parametrize("text", [True, False])
def test_shares_keep_ids_and_text_in_quotes(tmp_path: Path, text: bool) -> None:
    home = write_dataset(tmp_path, text=text)
    for path in (home / "tiny").iterdir():
        told = pd.read_csv(path, sep="\t", dtype=str)
        told["item_id:token"] = told["item_id:token"].str.replace("i", "i,")
        if "title:token_seq" in told:
            told["title:token_seq"] += ",\n\nand more"
        told.to_csv(path, index=False)
    form = {"field_separator": ","}
    _, _, entries, _ = asked_for(home, "sparsity", "--shares", "10", "--neg_samplers", "dns", **form)
    (entry,) = entries
    values = settings(home, "BPR", **form, **entry.values)
    dataset = prepare(HNLMConfig("BPR", entry.dataset, config_dict=values))[0]._dataset
    assert dataset.item_num == ITEMS + 1 and "i,7" in dataset.field2id_token["item_id"]
    if text:
        table = read_atomic(Path(values["data_path"]) / entry.dataset / f"{entry.dataset}.item", separator=",")
        assert table.column("title")[0].endswith(",\n\nand more")


def test_shares_and_the_leak_check_read_other_separators_and_encodings(tmp_path: Path) -> None:
    home = write_dataset(tmp_path)
    for path in (home / "tiny").iterdir():
        told = path.read_text().replace(",", " ").replace("\t", ",").replace("number 7\n", "number sieben ü\n")
        path.write_bytes(told.encode("latin-1"))
    form = {"field_separator": ",", "encoding": "latin-1"}
    _, _, entries, _ = asked_for(home, "sparsity", "--shares", "50", "--neg_samplers", "dns", **form)
    (entry,) = entries
    values = settings(home, "BPR", **form, **entry.values)
    assert prepare(HNLMConfig("BPR", entry.dataset, config_dict=values))[0]._dataset.item_num == ITEMS + 1
    config = settings(home, "BPR", neg_sampler="dns", **form)
    assert not check_leak("BPR", "tiny", config_dict=config, settings=LeakCheck(epochs=1)).leaks
