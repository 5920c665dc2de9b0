"""A whole comparison over runs that train nothing: who decides, what is told, what is done twice."""

from __future__ import annotations

import contextlib
import json
import shutil
import threading
from collections.abc import Generator
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from compare_runs import Ended, Fake, cells, compared, request, share

from recbole_hnlm import cli
from recbole_hnlm.compare.command import _known, report
from recbole_hnlm.compare.ledger import FAILED, STOPPED, Ledger, Record, RunSetting
from recbole_hnlm.compare.outcomes import job, replay
from recbole_hnlm.compare.plan import Request, cells_of
from recbole_hnlm.compare.pool import Pool
from recbole_hnlm.compare.progress import Progress
from recbole_hnlm.compare.runner import run_values
from recbole_hnlm.compare.store import read_plan, write_plan
from recbole_hnlm.llm.backends.outcome import RunStopped

PLOTS = ("rows-tiny-BPR.svg", "convergence-tiny-BPR.svg")
TABLES = ("table.md", "table.csv", "table.tex", "cost.md", "report.html", *PLOTS)


def poisoned(setting: RunSetting) -> dict[str, float]:
    """Test metrics that would draw every choice to the point that validation likes least."""
    return {"recall@20": 1000 * share(setting.key, "x"), "ndcg@20": 1e6 * (1 - share(setting.key, "v"))}


def test_only_validation_decides(tmp_path: Path, data: Path) -> None:
    """With other test metrics the same points are tried and chosen, and the same row is the base."""
    asked = request(data, neg_samplers=("uniform", "dns", "mixgcf", "ahns"), tune=7)
    honest, lured = Fake(), Fake(poisoned)
    before = compared(tmp_path / "a", asked, honest)
    after = compared(tmp_path / "b", asked, lured)
    assert [run.key for run in honest.trained] == [run.key for run in lured.trained]
    assert [[line.outcome.point for line in block.lines] for block in before] == [
        [line.outcome.point for line in block.lines] for block in after
    ]
    assert before[0].base == after[0].base
    means = {line.name: line.valid for line in after[0].lines}
    assert after[0].base == max(means, key=lambda name: means[name])
    assert after[0].base != max(after[0].lines, key=lambda line: line.figures["ndcg@20"].mean).name


def test_the_chosen_point_is_the_best_on_validation(tmp_path: Path, data: Path) -> None:
    fake = Fake()
    (block,) = compared(tmp_path, request(data, neg_samplers=("dns",), tune=6), fake)
    tried = [run for run in fake.trained if run.seed == 2020]
    assert len(tried) == 6 and tried[0].values["learning_rate"] == 0.001  # the defaults come first
    best = max(tried, key=lambda run: share(run.key, "v"))
    final = [run for run in fake.trained if run.seed != 2020]
    assert [run.seed for run in final] == [2021, 2022]
    assert all(run.values == best.values for run in final)
    assert block.lines[0].outcome.tried == 6 and len(block.lines[0].outcome.done) == 3


def test_nothing_is_trained_twice_and_tables_stay_the_same(tmp_path: Path, data: Path) -> None:
    asked = request(data, neg_samplers=("uniform", "dns"), baselines=("EASE",))
    first = Fake()
    compared(tmp_path, asked, first)
    tables = [(tmp_path / name).read_bytes() for name in TABLES]
    again = Fake()
    compared(tmp_path, asked, again)
    assert len(first.trained) == 18 == len({run.key for run in first.trained}) and again.trained == []
    assert [(tmp_path / name).read_bytes() for name in TABLES] == tables
    report(tmp_path)
    assert [(tmp_path / name).read_bytes() for name in TABLES] == tables


def test_a_run_that_waits_for_money_ends_the_command_and_is_not_kept(tmp_path: Path, data: Path) -> None:
    asked, fake = request(data, neg_samplers=("uniform", "dns"), tune=2, seeds=1), Fake()

    def start(setting: RunSetting) -> Any:
        if len(fake.trained) == 2:
            return Ended({**setting.described(), "status": STOPPED, "error": "no credit left"})
        return fake(setting)

    with pytest.raises(RunStopped, match="no credit left .every run that has ended is kept"):
        compared(tmp_path, asked, start)  # type: ignore[arg-type]
    assert len(fake.trained) == 2 and "unfinished, 2 of 2 runs left" in (tmp_path / "table.md").read_text()
    again = Fake()
    compared(tmp_path, asked, again)
    assert len(again.trained) == 2 and not {run.key for run in again.trained} & {run.key for run in fake.trained}


def test_what_runs_beside_a_run_that_stops_is_carried_to_its_end(tmp_path: Path, data: Path) -> None:
    fake = Fake()

    def start(setting: RunSetting) -> Any:
        if setting.values["neg_sampler"] == "dns":
            return Ended({**setting.described(), "status": STOPPED, "error": "no credit left"})
        return fake(setting)

    with pytest.raises(RunStopped):
        compared(tmp_path, request(data, neg_samplers=("uniform", "dns"), tune=3), start, processes=2)  # type: ignore[arg-type]
    kept = [json.loads(line) for line in (tmp_path / "runs-1.jsonl").read_text().splitlines()]
    assert [record["key"] for record in kept] == [run.key for run in fake.trained]


def test_a_larger_budget_goes_on_where_the_smaller_ended(tmp_path: Path, data: Path) -> None:
    small, large = Fake(), Fake()
    compared(tmp_path, request(data, neg_samplers=("dns",), tune=4, seeds=1), small)
    compared(tmp_path, request(data, neg_samplers=("dns",), tune=9, seeds=1), large)
    assert len(small.trained) == 4 and len(large.trained) == 5


def test_stopped_anywhere_it_tries_the_same_points(tmp_path: Path, data: Path) -> None:
    """After each run in turn: what is left is what a comparison that was never stopped would have trained."""
    asked = request(data, neg_samplers=("dns",), tune=8, seeds=2)
    whole = Fake()
    compared(tmp_path / "whole", asked, whole)

    class Stopping(Fake):
        def __call__(self, setting: RunSetting):  # type: ignore[no-untyped-def]
            if self.trained:
                raise KeyboardInterrupt
            return super().__call__(setting)

    trained: list[RunSetting] = []
    for _ in range(len(whole.trained) - 1):
        stopping = Stopping()
        with pytest.raises(SystemExit, match="130"):
            compared(tmp_path / "stopped", asked, stopping)
        trained += stopping.trained
    last = Fake()
    compared(tmp_path / "stopped", asked, last)
    assert [run.key for run in trained + last.trained] == [run.key for run in whole.trained]
    for name in ("table.md", "table.csv", "table.tex"):
        assert (tmp_path / "stopped" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_tables_need_no_search_once_it_is_finished(tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another optuna would ask for other points; what was found stays found."""
    compared(tmp_path, request(data, tune=6), Fake())
    tables = (tmp_path / "table.md").read_bytes()

    def asked(*args: object) -> None:
        raise AssertionError("optuna was asked")

    monkeypatch.setattr("optuna.study.Study.ask", asked)
    report(tmp_path)
    assert (tmp_path / "table.md").read_bytes() == tables


def test_a_failing_row_is_told_and_stops_no_other(tmp_path: Path, data: Path) -> None:
    asked = request(data, neg_samplers=("uniform", "dns", "mixgcf"), tune=2)
    (block,) = compared(tmp_path, asked, Fake(failing=("dns",)))
    assert [line.name for line in block.lines] == ["uniform", "mixgcf"]
    assert "dns: failed: ValueError: no & never_mind" in (tmp_path / "table.md").read_text()
    assert r"dns: failed: ValueError: no \& never\_mind" in (tmp_path / "table.tex").read_text()
    again = Fake()
    compared(tmp_path, asked, again)
    assert again.trained == []
    retried = Fake()
    cell = next(cell for cell in cells(data, neg_samplers=("dns",), tune=2))
    with Ledger(tmp_path) as ledger:
        (outcome,) = Pool(ledger, retried, retry_failed=True).run([job(cell, ledger)])
    assert outcome.complete and len(retried.trained) == 4  # two trials, and the other two seeds


def test_a_row_whose_first_trial_is_refused_wastes_no_others(tmp_path: Path, data: Path) -> None:
    asked = request(data, neg_samplers=("uniform", "dns"), tune=5)
    fake = Fake(failing=("dns",), refused=True)
    (block,) = compared(tmp_path, asked, fake)
    assert [run.values["neg_sampler"] for run in fake.trained].count("dns") == 1
    assert [line.name for line in block.lines] == ["uniform"]
    assert "dns: failed: ValueError: no & never_mind" in (tmp_path / "table.md").read_text()
    again, retried = Fake(), Fake()
    compared(tmp_path, asked, again)
    assert again.trained == []
    with Ledger(tmp_path) as ledger:
        (outcome,) = Pool(ledger, retried, retry_failed=True).run(
            [job(cells(data, neg_samplers=("dns",), tune=5)[0], ledger)]
        )
    assert outcome.complete and len(retried.trained) == 7  # five trials, and the other two seeds


def test_a_refused_row_is_done_in_the_progress(data: Path) -> None:
    made = cells(data, neg_samplers=("uniform", "dns"), tune=5)
    progress = Progress(made, [0, 0], visible=False)
    for record in (None, {"status": FAILED, "refused": True}):
        progress.advanced(1, 1, record)
    assert progress.states()[1] == ("tiny / BPR / dns", "done, 7 of 7, 1 failed") and progress.left().startswith(
        "7 runs left"
    )


def test_a_run_that_two_rows_want_is_trained_once(tmp_path: Path, data: Path) -> None:
    rows = {"twin": {"neg_sampler": "uniform"}}
    fake = Fake()
    (block,) = compared(tmp_path, request(data, neg_samplers=("uniform",), rows=rows, seeds=2), fake, processes=2)
    assert len(fake.trained) == 5 and len({run.key for run in fake.trained}) == 5
    one, two = block.lines
    assert one.figures["ndcg@20"].mean == two.figures["ndcg@20"].mean
    assert one.figures["ndcg@20"].rank == two.figures["ndcg@20"].rank == 1


def test_what_another_comparison_trains_meanwhile_is_not_trained_again(tmp_path: Path, data: Path) -> None:
    asked = request(data, neg_samplers=("uniform", "dns", "mixgcf"), tune=1)

    class Overtaken(Fake):
        def __call__(self, setting: RunSetting):  # type: ignore[no-untyped-def]
            if not self.trained:
                compared(tmp_path, request(data, neg_samplers=("dns", "mixgcf"), tune=1), Fake())
            return super().__call__(setting)

    fake = Overtaken()
    (block,) = compared(tmp_path, asked, fake)
    assert [run.values["neg_sampler"] for run in fake.trained] == ["uniform"] * 3
    assert len(block.lines) == 3 and all(line.outcome.complete for line in block.lines)


@pytest.mark.parametrize("stops", [False, True])
def test_what_another_comparison_is_training_is_waited_for(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch, stops: bool
) -> None:
    """The second begins while the first trains what both want; where the first stops, the second trains it."""
    monkeypatch.setattr("recbole_hnlm.compare.pool._LOOK_AGAIN", 0.02)
    (cell,) = cells(data, neg_samplers=("dns",), tune=1)
    begun, second = threading.Event(), Fake()

    class Slow(Fake):
        def __call__(self, setting: RunSetting):  # type: ignore[no-untyped-def]
            if not self.trained:
                begun.set()
                waiter.join(0.3)
                assert not second.trained, "it has not waited for this run"
            if stops:
                raise KeyboardInterrupt
            return super().__call__(setting)

    def wait_and_train() -> None:
        begun.wait(30)
        with Ledger(tmp_path) as ledger:
            Pool(ledger, second).run([job(cell, ledger)])

    waiter = threading.Thread(target=wait_and_train)
    waiter.start()
    first = Slow()
    with Ledger(tmp_path) as ledger, contextlib.suppress(KeyboardInterrupt):
        Pool(ledger, first).run([job(cell, ledger)])
    waiter.join(60)
    assert not waiter.is_alive()
    keys = [run.key for run in (*first.trained, *second.trained)]
    assert len(keys) == len(set(keys)) == 3 and replay(cell, Ledger(tmp_path)).complete
    assert len(second.trained) == 3 if stops else second.trained[:1] != first.trained[:1]
    assert not list(tmp_path.glob(".claims"))


def test_a_job_that_went_on_with_what_another_process_ran_ends_once(tmp_path: Path, data: Path) -> None:
    (cell,) = cells(data, neg_samplers=("dns",), tune=1)
    first, second = (cell.setting(cell.start, seed) for seed in (2020, 2021))

    class Overtaken(Fake):
        def __call__(self, setting: RunSetting):  # type: ignore[no-untyped-def]
            if not self.trained:
                with Ledger(tmp_path) as other:
                    other.add(Fake()(second).result())
            return super().__call__(setting)

    def both() -> Generator[list[RunSetting], list[Record], Any]:
        return (yield [first, second])

    fake = Overtaken()
    with Ledger(tmp_path) as ledger:
        (records,) = Pool(ledger, fake).run([both()])
    assert [one["seed"] for one in records] == [2020, 2021] and fake.trained == [first]


def test_a_job_may_ask_anew_in_a_place_that_still_waits(tmp_path: Path, data: Path) -> None:
    """Another comparison trains the first of two runs while the second one is trained here, and the job goes on."""
    (cell,) = cells(data, neg_samplers=("dns",), tune=1)
    settings = [cell.setting(cell.start, seed) for seed in range(2020, 2024)]
    with Ledger(tmp_path) as other, Ledger(tmp_path) as ledger:
        assert other.claim(settings[0].key)

        class Overtaken(Fake):
            def __call__(self, setting: RunSetting):  # type: ignore[no-untyped-def]
                if setting is settings[1]:
                    other.add(Fake()(settings[0]).result())
                    other.release(settings[0].key)
                return super().__call__(setting)

        def twice() -> Generator[list[RunSetting], list[Record], Any]:
            yield settings[:2]
            return (yield settings[2:])

        fake = Overtaken()
        (records,) = Pool(ledger, fake).run([twice()])
    assert [one["seed"] for one in records] == [2022, 2023] and fake.trained == settings[1:]


def test_a_later_comparison_adds_to_the_folder(tmp_path: Path, data: Path) -> None:
    compared(tmp_path, request(data, neg_samplers=("uniform", "dns")), Fake())
    fake = Fake()
    (block,) = compared(tmp_path, request(data, neg_samplers=("mixgcf",)), fake)
    assert [line.name for line in block.lines] == ["uniform", "dns", "mixgcf"]
    assert {run.values["neg_sampler"] for run in fake.trained} == {"mixgcf"}


def copied(data: Path, target: Path, line: str = "") -> Path:
    shutil.copytree(data, target)
    with (target / "tiny" / "tiny.inter").open("a") as file:
        file.write(line)
    return target


def test_runs_on_other_files_of_the_same_name_are_other_runs(tmp_path: Path, data: Path) -> None:
    line = (data / "tiny" / "tiny.inter").read_text().splitlines()[-1] + "\n"
    same, other = copied(data, tmp_path / "same"), copied(data, tmp_path / "other", line)
    fakes = [Fake(), Fake(), Fake()]
    for fake, place in zip(fakes, (data, same, other), strict=True):
        compared(tmp_path / "out", request(place), fake)
    assert fakes[0].trained and fakes[1].trained == []
    assert not {run.key for run in fakes[2].trained} & {run.key for run in fakes[0].trained}
    assert len(fakes[2].trained) == len(fakes[0].trained)
    text = [cells(place, neg_samplers=("hnlm",))[0].setting({}, 2020) for place in (data, same, other)]
    homes = [run_values(run, tmp_path, "checkpoints")["hnlm_artefact_dir"] for run in text]
    assert homes[0] == homes[1] != homes[2]


@pytest.mark.parametrize("values", [{"user_inter_num_interval": "[3,inf)"}, {"topk": [10, 20]}, {"repeatable": True}])
def test_rows_of_another_split_or_metric_do_not_join_the_table(
    tmp_path: Path, data: Path, values: dict[str, Any]
) -> None:
    asked = request(data, neg_samplers=("uniform",), tune=1)
    compared(tmp_path, asked, Fake())
    plan = (tmp_path / "plan.json").read_bytes()
    more = request(data, neg_samplers=("dns",), tune=1)
    fake = Fake()
    with pytest.raises(ValueError, match=f"BPR / dns and .* differ in {next(iter(values))}, so they cannot stand"):
        compared(tmp_path, replace(more, shared={**more.shared, **values}), fake)
    assert fake.trained == [] and (tmp_path / "plan.json").read_bytes() == plan


def test_a_model_that_recbole_evaluates_otherwise_stands_in_no_table_of_others(tmp_path: Path, data: Path) -> None:
    """A sequential model's split is by time and leaves one out, and it ranks what a user has."""
    rows = {"GRU4Rec": {"neg_sampler": "none", "model": "GRU4Rec", "train_neg_sample_args": None, "space": {}}}
    loaded = {"load_col": {"inter": ["user_id", "item_id", "timestamp"]}}
    asked = request(data, neg_samplers=("uniform",), rows=rows, tune=1)
    with pytest.raises(ValueError, match="differ in eval_args, repeatable, so they cannot stand in one table .*'LS'"):
        compared(tmp_path, replace(asked, shared={**asked.shared, **loaded}), Fake())


def test_a_plan_of_before_the_evaluation_was_kept_takes_further_rows(tmp_path: Path, data: Path) -> None:
    compared(tmp_path, request(data, neg_samplers=("uniform",), tune=1), Fake())
    plan = json.loads((tmp_path / "plan.json").read_text())
    del plan["cells"][0]["evaluated"]
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    (block,) = compared(tmp_path, request(data, neg_samplers=("dns",), tune=1), Fake())
    assert [line.name for line in block.lines] == ["uniform", "dns"]


def test_of_a_few_choices_none_is_tried_twice(tmp_path: Path, data: Path) -> None:
    """And once all are, the budget is filled by known scores, which train nothing."""
    rows = {"mine": {"neg_sampler": "dns", "space": {"neg_sampler_candidates": [2, 4, 8, 16]}}}
    fixed = {"learning_rate": 0.001, "weight_decay": 0.0}
    for tune, distinct in ((4, 4), (5, 5), (9, 5)):  # the start, dns' own 32, and the four
        asked = request(data, neg_samplers=(), rows=rows, tune=tune, seeds=1)
        fake = Fake()
        compared(tmp_path / str(tune), replace(asked, shared={**asked.shared, **fixed}), fake)
        tried = [setting.values.get("neg_sampler_candidates") for setting in fake.trained]
        assert len(set(tried)) == len(tried) == distinct


def test_runs_that_failed_are_left_to_train_where_they_are_tried_again(tmp_path: Path, data: Path) -> None:
    asked = request(data, neg_samplers=("uniform", "dns"), tune=2)
    compared(tmp_path, asked, Fake(failing=("dns",)))
    outcomes = [replay(cell, Ledger(tmp_path)) for cell in cells_of(asked)]
    assert [_known(one, retry_failed=False) for one in outcomes] == [4, 4]
    assert [_known(one, retry_failed=True) for one in outcomes] == [4, 2]


def test_an_interrupted_search_is_told_as_far_as_it_is(tmp_path: Path, data: Path) -> None:
    """Knobs in the order in which the search goes through them, which is not that of the alphabet."""
    fake = Fake()
    (cell,) = made = cells(data, neg_samplers=("hnlm",), tune=6)
    assert list(cell.space) != sorted(cell.space)
    with Ledger(tmp_path) as ledger:
        write_plan(tmp_path, made, None)
        steps = job(cell, ledger)
        settings = next(steps)
        for _ in range(4):
            settings = steps.send([ledger.add(fake(one).record) for one in settings])
        ledger.add(fake(settings[0]).record)
    told = replay(read_plan(tmp_path)[0][0], Ledger(tmp_path))
    assert (told.tried, told.missing) == (5, 3)


def test_unfinished_rows_say_what_is_left(tmp_path: Path, data: Path) -> None:
    (cell,) = cells(data, neg_samplers=("dns",))
    assert replay(cell, Ledger(tmp_path)).missing == cell.runs == 6
    fake = Fake()
    steps = job(cell, Ledger(tmp_path), keep=False)
    with Ledger(tmp_path) as ledger:
        ledger.add(fake(next(steps)[0]).record)
    told = replay(cell, Ledger(tmp_path))
    assert (told.tried, told.missing, told.complete) == (1, 5, False)


def test_the_rows_are_held_against_the_one_named(tmp_path: Path, data: Path) -> None:
    asked = request(data, neg_samplers=("uniform", "dns", "mixgcf"))
    for name in ("uniform", "mixgcf"):
        (block,) = compared(tmp_path, asked, Fake(), against=name)
        assert block.base == name and f"N@20 vs {name}" in (tmp_path / "table.md").read_text()
        assert [line.name for line in block.lines if line.figures["ndcg@20"].against is None] == [name]


def test_baselines_stand_beside_every_backbone(tmp_path: Path, data: Path) -> None:
    asked = request(data, models=("BPR", "LightGCN"), neg_samplers=("dns",), baselines=("EASE",))
    blocks = compared(tmp_path, asked, Fake())
    assert [[line.name for line in block.lines] for block in blocks] == [["EASE", "dns"]] * 2
    assert [block.title for block in blocks] == ["tiny, BPR", "tiny, LightGCN"]


def test_the_page_loads_nothing_and_shows_the_plots(tmp_path: Path, data: Path) -> None:
    compared(tmp_path, request(data, rows={"a $^ & b$": {"neg_sampler": "dns"}}), Fake())
    page = (tmp_path / "report.html").read_text()
    assert "<td>a $^ &amp; b$</td>" in page and ">a $^ &amp; b$</text>" in page
    assert page.count("<svg") == 2 and page.count("</table>") == 2
    assert "<script" not in page and "<link" not in page and "src=" not in page and 'href="http' not in page
    for name in PLOTS:
        plot = (tmp_path / name).read_text()
        assert plot in page and ElementTree.fromstring(plot).tag == "{http://www.w3.org/2000/svg}svg"


def test_the_plan_is_kept_without_the_place(tmp_path: Path, data: Path) -> None:
    compared(tmp_path, request(data), Fake())
    plan = json.loads((tmp_path / "plan.json").read_text())
    assert [cell["row"] for cell in plan["cells"]] == ["uniform", "dns"] and plan["cells"][0]["trials"] == 4
    assert str(data) not in (tmp_path / "plan.json").read_text()


def test_seeds_are_paired_over_rows(tmp_path: Path, data: Path) -> None:
    fake = Fake()
    asked = request(data, neg_samplers=("uniform", "dns"))
    compared(tmp_path, Request(asked.datasets, asked.grid, shared=asked.shared, seeds=(4, 9), tune=1), fake)
    assert [(run.values["neg_sampler"], run.seed) for run in fake.trained] == [
        ("uniform", 4), ("uniform", 9), ("dns", 4), ("dns", 9),
    ]  # fmt: skip


def test_the_command_ends_with_a_message_and_not_a_traceback(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = ["compare", "--datasets", "tiny", "--models", "BPR", "--neg_samplers", "uniform", f"--data_path={data}"]
    for further, message in (
        (
            ["--out", "x", "--against", "uniforn"],
            "against='uniforn' is no row, choose one of ['uniform']; did you mean",
        ),
        ([], "ValueError: no folder for the results; name one with --out"),
        (["--out", "x", "--report_only"], "x holds no plan.json; run recbole-hnlm compare with --out=x first"),
    ):
        with pytest.raises(SystemExit, match="2"):
            cli.main([*names, *further])
        assert message in capsys.readouterr().err


def test_the_row_that_others_are_held_against_stays_when_rows_are_added(tmp_path: Path, data: Path) -> None:
    compared(tmp_path, request(data), Fake(), against="uniform")
    compared(tmp_path, request(data, neg_samplers=("mixgcf",)), Fake())
    (block,) = report(tmp_path)
    assert block.base == "uniform" and len(block.lines) == 3
    compared(tmp_path, request(data, neg_samplers=("mixgcf",)), Fake(), against="dns")
    assert report(tmp_path)[0].base == "dns"
