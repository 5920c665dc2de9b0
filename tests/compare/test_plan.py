"""A grid of names becomes cells, and what cannot be trained is refused by name before anything is."""

from __future__ import annotations

import shutil
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from compare_runs import cells, request
from recbole_runs import write_dataset

from recbole_hnlm.cli import main as command
from recbole_hnlm.compare import fitness
from recbole_hnlm.compare.command import main, parser
from recbole_hnlm.compare.plan import Request, cells_of
from recbole_hnlm.compare.request import parse_arguments, read_request
from recbole_hnlm.compare.rows import Grid, rows_of
from recbole_hnlm.compare.runner import run_values
from recbole_hnlm.compare.spaces import Knob
from recbole_hnlm.compare.store import read_plan, write_plan
from recbole_hnlm.data_source import named_files_digest


@pytest.fixture(autouse=True)
def _nothing_trains(monkeypatch: pytest.MonkeyPatch) -> None:
    def reached(*args: Any) -> None:
        raise AssertionError("a run was started")

    monkeypatch.setattr("recbole_hnlm.compare.children.Child.__init__", reached)


def test_every_row_has_the_same_budget_and_one_without_knobs_says_so(data: Path) -> None:
    made = cells(data, baselines=("EASE", "Pop"), neg_samplers=("uniform", "dns", "hnlm"), controls=("permuted",))
    assert [(cell.row.name, cell.block, cell.budget) for cell in made] == [
        ("EASE", "", 4), ("Pop", "", 1), ("uniform", "BPR", 4), ("dns", "BPR", 4), ("hnlm", "BPR", 4),
        ("hnlm permuted", "BPR", 4),
    ]  # fmt: skip
    assert made[-1].values["hnlm_control"] == "permuted" and made[-1].space == made[-2].space
    assert {cell.seeds for cell in made} == {(2020, 2021, 2022)}


def test_a_fixed_setting_is_not_tuned(data: Path) -> None:
    asked = request(data, models=("LightGCN",), neg_samplers=("dns",))
    free = cells_of(asked)[0]
    assert set(free.space) == {"learning_rate", "reg_weight", "neg_sampler_candidates"}
    assert free.start == {"learning_rate": 0.001, "reg_weight": 1e-5, "neg_sampler_candidates": 32}
    shared = {**asked.shared, "learning_rate": 0.1}
    fixed = cells_of(Request(asked.datasets, asked.grid, shared=shared, tune=2))[0]
    assert "learning_rate" not in fixed.space and fixed.values["learning_rate"] == 0.1


def test_every_packaged_row_starts_at_its_defaults_within_its_space(data: Path) -> None:
    """Rows whose sampler or method this package has; the first trial tells the search of every knob but l2 of BPR."""
    from recbole_hnlm.compare.spaces import packaged_rows
    from recbole_hnlm.samplers import SAMPLERS

    samplers = tuple(name for kind in ("sampler", "text") for name in packaged_rows()[kind] if name in SAMPLERS)
    comparators, losses = (
        tuple(name for name in packaged_rows()[kind] if name != "any") for kind in ("comparator", "loss")
    )
    baselines = tuple(packaged_rows()["baseline"])
    named = {"comparators": comparators, "losses": losses, "baselines": baselines}
    made = cells(data, models=("LightGCN",), neg_samplers=(*samplers, "hnlm"), **named)
    unknown = {(cell.row.name, key) for cell in made for key in cell.space if key not in cell.start}
    by_catalogue = {(name, "neg_sampler_candidates") for name in ("hnlm", "dtl", "semantic")}
    assert unknown == {("hnlm", "hnlm_alignment_weight"), *by_catalogue}  # the weight's default is the preset's
    outside = {
        (cell.row.name, key) for cell in made for key, value in cell.start.items() if not cell.space[key].holds(value)
    }
    assert outside == set()


def test_defaults_of_a_row_give_way_to_a_setting_for_all(data: Path) -> None:
    asked = request(data, models=("LightGCN",), neg_samplers=("dns",), comparators=("rlmrec_con",))
    patience = {cell.row.name: cell.values["stopping_step"] for cell in cells_of(asked)}
    assert patience == {"dns": 8, "rlmrec_con": 24}
    same = Request(asked.datasets, asked.grid, shared={**asked.shared, "stopping_step": 3}, tune=2)
    assert {cell.values["stopping_step"] for cell in cells_of(same)} == {3}


def test_l2_is_what_the_model_reads(data: Path) -> None:
    bpr, graph = cells(data, models=("BPR", "LightGCN"), neg_samplers=("uniform",))
    assert "weight_decay" in bpr.space and "reg_weight" in graph.space
    assert "l2" not in bpr.space and "weight_decay" not in graph.space


def test_a_backbones_own_knobs_are_tuned_in_every_row_of_it(data: Path) -> None:
    own = {"x": {"neg_sampler": "dns", "space": {"neg_sampler_candidates": [4, 8]}}}
    made = cells(data, models=("SGL", "SimGCL", "LightGCN"), neg_samplers=("uniform", "hnlm"), rows=own)
    own_knobs = {"ssl_weight", "ssl_tau", "lambda"}
    knobs = {(cell.row.model, *sorted(set(cell.space) & own_knobs)) for cell in made}
    assert knobs == {("SGL", "ssl_tau", "ssl_weight"), ("SimGCL", "lambda"), ("LightGCN",)}
    assert all(cell.space[key].holds(cell.start[key]) for cell in made for key in set(cell.space) & own_knobs)
    assert {cell.budget for cell in made} == {4}


def test_a_shared_setting_goes_to_the_rows_that_read_it(data: Path) -> None:
    asked = request(data, neg_samplers=("dns", "hnlm"))
    shared = {**asked.shared, "hnlm_projector_width": 64}
    dns, hnlm = cells_of(Request(asked.datasets, asked.grid, shared=shared))
    assert hnlm.values["hnlm_projector_width"] == 64 and "hnlm_projector_width" not in dns.values
    with pytest.raises(ValueError, match="neg_sampler_rho has no effect in any row; remove it"):
        cells_of(Request(asked.datasets, asked.grid, shared={**asked.shared, "neg_sampler_rho": 1.0}))


@pytest.mark.parametrize("where", ["shared", "datasets", "models"])
@pytest.mark.parametrize("values", [{"neg_sampler": "dns"}, {"neg_sampler_rho": 1.0}])
def test_a_setting_that_no_row_reads_is_refused(where: str, values: dict[str, Any], data: Path) -> None:
    """Every row names its own sampler, so one that is given for all is obeyed by none."""
    asked = request(data, neg_samplers=("uniform", "dins"))
    given = {"shared": {**asked.shared, **values}, "datasets": {"tiny": values}, "models": {"BPR": values}}
    with pytest.raises(ValueError, match=f"{next(iter(values))} has no effect in any row; remove it"):
        cells_of(replace(asked, **{where: given[where]}))


@pytest.mark.parametrize(("key", "instead"), [("seed", "seeds"), ("dataset", "datasets")])
def test_a_row_cannot_have_a_seed_or_dataset_of_its_own(key: str, instead: str) -> None:
    rows = {"mine": {"model": "BPR", "neg_sampler": "dns", key: 7}}
    with pytest.raises(ValueError, match=f"{key} is no setting of single runs here; use {instead}"):
        read_request({"datasets": ["tiny"], "rows": rows, "out": "x"})
    rows["mine"].pop(key)
    assert read_request({"datasets": ["tiny"], "rows": rows, "out": "x"}).request.grid.rows == rows


def test_a_row_of_ones_own_with_a_loss_is_tuned_as_that_loss_is(data: Path) -> None:
    own = {"mine": {"neg_sampler": "uniform", "ranking_loss": "psl"},
           "fixed": {"neg_sampler": "uniform", "ranking_loss": "psl", "ranking_loss_activation": "atan"},
           "base": {"neg_sampler": "uniform", "ranking_loss": "base"}}  # fmt: skip
    psl, mine, fixed, base = cells(data, neg_samplers=(), losses=("psl",), rows=own)
    made = {cell.row.name: cell for cell in (psl, mine, fixed, base)}
    assert made["mine"].space == made["psl"].space and "ranking_loss_temperature" in made["mine"].space
    assert set(made["mine"].space) - set(made["fixed"].space) == {"ranking_loss_activation"}
    assert set(made["base"].space) == {"learning_rate", "weight_decay"}


def test_settings_of_a_dataset_and_of_a_model_lie_over_the_shared_ones(data: Path) -> None:
    made = cells_of(
        Request(
            {"tiny": {"train_batch_size": 7}},
            Grid(models=("BPR", "LightGCN"), neg_samplers=("uniform",)),
            models={"LightGCN": {"n_layers": 1}},
            shared={"data_path": str(data), "train_batch_size": 9, "n_layers": 2},
        )
    )
    assert [cell.values["train_batch_size"] for cell in made] == [7, 7]
    assert [cell.values["n_layers"] for cell in made] == [2, 1]
    assert all("data_path" not in cell.values and cell.local["data_path"] == str(data) for cell in made)


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "model": ({"models": ("LightGNC",)}, r"row 'uniform' \(LightGNC\) on tiny: there is no model 'LightGNC'; did you "
              "mean 'LightGCN'"),
    "model of ours": ({"models": ("SimGLC",)}, "there is no model 'SimGLC'; did you mean 'SimGCL'"),
    "sampler": ({"neg_samplers": ("mixgfc",)}, "row 'mixgfc'.*unknown neg_sampler 'mixgfc'.*did you mean 'mixgcf'"),
    "sampler and model": ({"models": ("EASE",)}, "row 'uniform' .EASE. on tiny: EASE has no gradient steps"),
    "control": ({"neg_samplers": ("hnlm",), "controls": ("permutet",)}, "'hnlm permutet'.*did you mean 'permuted'"),
    "control of nothing": ({"controls": ("permuted",)}, "need a row that reads text; add hnlm to --neg_samplers"),
    "baseline": ({"baselines": ("ItemKN",)}, "row 'ItemKN'.*did you mean 'ItemKNN'"),
    "loss": ({"losses": ("bsl",), "models": ()}, "--neg_samplers need --models to train"),
    "nothing": ({"models": (), "neg_samplers": ()}, "nothing to compare; name --baselines, or --models"),
    "twice": ({"rows": {"dns": {"neg_sampler": "dns"}}}, "two rows are called 'dns'"),
    "own row": ({"rows": {"x": {"neg_sampler": "dns", "neg_sampler_candidate": 3}}}, "row 'x'.*did you mean "
                "'neg_sampler_candidates'"),
    "own row's kind": ({"rows": {"x": {"neg_sampler": "dns", "kind": "texts"}}}, "did you mean 'text'"),
    "own row's sampler": ({"rows": {"x": {"model": "BPR"}}}, "row 'x' should be a mapping with neg_sampler"),
    "own space": ({"rows": {"x": {"neg_sampler": "dns", "space": {"neg_sampler_rho": [1.0]}}}}, "row 'x'.*neg_sampler"
                  "_rho has no effect here"),
    "own range": ({"rows": {"x": {"neg_sampler": "dns", "space": {"learning_rate": {"low": 1, "high": 0}}}}},
                  "space of learning_rate.*low must be below high"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_be_trained_is_refused_with_its_row(case: str, data: Path) -> None:
    grid, message = WRONG[case]
    with pytest.raises(ValueError, match=message):
        cells(data, **grid)


def test_a_wrong_dataset_names_its_folder(data: Path) -> None:
    asked = request(data)
    with pytest.raises(FileNotFoundError, match="on nowhere: dataset 'nowhere' needs nowhere.inter in"):
        cells_of(Request({"nowhere": {}}, asked.grid, shared=asked.shared))


def test_a_dataset_that_recbole_fetches_is_fetched_once_and_known_by_its_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched: list[Path] = []

    def fetch(config: Any) -> None:
        fetched.append(Path(config["data_path"]))
        fetched[-1].mkdir()
        (fetched[-1] / "ml-1m.inter").write_text("user_id:token\titem_id:token\n1\t1\n")

    monkeypatch.setattr("recbole_hnlm.compare.plan.load_dataset", fetch)
    grid = Grid(models=("BPR",), neg_samplers=("uniform", "dns"))
    first, again = (cells_of(Request({"ml-1m": {}}, grid, shared={"data_path": str(tmp_path)})) for _ in range(2))
    assert fetched == [tmp_path / "ml-1m"]
    assert len({cell.data for cell in [*first, *again]}) == 1


TEXT_ROWS: dict[str, dict[str, Any]] = {
    "hnlm": {"neg_samplers": ("hnlm",)},
    "semantic": {"neg_samplers": ("semantic",)},
    "rlmrec_con": {"comparators": ("rlmrec_con",)},
    "guarded": {"rows": {"guarded": {"neg_sampler": "hnlm", "hnlm_alignment_weight": 0.0, "hnlm_init": "random",
                                     "hnlm_alpha": 0.0, "neg_sampler_guard": "text",
                                     "neg_sampler_guard_max_score": 0.5}}},
}  # fmt: skip


@pytest.mark.parametrize("items", [None, "item_id:token\tprice:float\ni1\t2\n"])
@pytest.mark.parametrize("row", TEXT_ROWS)
def test_rows_of_text_are_refused_on_a_dataset_without(row: str, items: str | None, tmp_path: Path) -> None:
    """The teacher's item embeddings would stand in for text, and the table would call them text."""
    bare = write_dataset(tmp_path, text=False)
    if items is not None:
        (bare / "tiny" / "tiny.item").write_text(items)
    with pytest.raises(
        ValueError, match=f"row '{row}'.*reads text and tiny has none.*leave the row out, or add"
    ) as told:
        cells(bare, **{"neg_samplers": ("uniform", "dtl"), **TEXT_ROWS[row]})
    assert str(tmp_path) in str(told.value)
    assert [cell.row.name for cell in cells(bare, neg_samplers=("uniform", "dtl"))] == ["uniform", "dtl"]
    (bare / "tiny" / "tiny.item").write_text("item_id:token\ttitle:token_seq\ni1\ta kettle\n")
    assert cells(bare, **{"neg_samplers": (), **TEXT_ROWS[row]})


@pytest.mark.parametrize("encoder", ["mini", "teacher"])
def test_artefacts_that_the_user_names_may_bring_the_text(
    encoder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bare = write_dataset(tmp_path, text=False)
    manifest = SimpleNamespace(provenance=SimpleNamespace(encoder=encoder))
    monkeypatch.setattr("recbole_hnlm.compare.checks.read_manifest", lambda folder, name: manifest)
    asked = request(bare, neg_samplers=("hnlm",))
    asked = Request(asked.datasets, asked.grid, shared={**asked.shared, "hnlm_artefact_dir": "made"}, seeds=(1,))
    if encoder == "mini":
        assert cells_of(asked)
    else:
        with pytest.raises(ValueError, match="reads text and tiny has none"):
            cells_of(asked)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"eval_step": 4, "epochs": 3}, "eval_step=4 with epochs=3 never validates"),
        ({"valid_metric": "NDCG@10"}, "valid_metric=NDCG@10 is not computed"),
    ],
)
def test_a_run_that_validation_could_not_choose_is_refused(values: dict[str, Any], message: str, data: Path) -> None:
    asked = request(data)
    with pytest.raises(ValueError, match=message):
        cells_of(Request(asked.datasets, asked.grid, shared={**asked.shared, **values}))


def test_a_test_split_that_would_choose_is_refused(tmp_path: Path, data: Path) -> None:
    """The same part twice, or two parts with the same pairs; a third is another matter."""
    home = tmp_path / "tiny"
    shutil.copytree(data / "tiny", home)
    lines = (home / "tiny.inter").read_text().splitlines(keepends=True)
    for part, own in (("train", lines[1:-60]), ("a", lines[-60:]), ("b", lines[-60:]), ("c", lines[-30:])):
        (home / f"tiny.{part}.inter").write_text("".join([lines[0], *own]))
    asked = request(tmp_path)

    def planned(*parts: str) -> Any:
        return cells_of(replace(asked, shared={**asked.shared, "benchmark_filename": ["train", *parts]}))

    for parts in (("a", "a"), ("a", "b")):
        with pytest.raises(ValueError, match="are the same pairs, so the test would choose"):
            planned(*parts)
    assert planned("a", "c")


def test_a_plan_file_and_the_command_line_over_it(tmp_path: Path, data: Path) -> None:
    plan = tmp_path / "plan.yaml"
    plan.write_text(
        "datasets: {tiny: {train_batch_size: 64}}\nmodels: [BPR]\nneg_samplers: [dns]\nseeds: [7, 9]\ntune: 3\n"
        "settings: {embedding_size: 8, epochs: 10}\nout: there\n"
        "rows:\n  mine: {neg_sampler: dns, neg_sampler_candidates: 2, space: {learning_rate: [1e-3, 1e-2]}}\n"
    )
    asked = read_request({"plan": str(plan), "tune": 5}, [f"--data_path={data}", "--epochs=20"])
    assert (asked.out, asked.request.seeds, asked.request.tune) == (Path("there"), (7, 9), 5)
    dns, mine = cells_of(asked.request)
    assert (dns.values["epochs"], dns.values["embedding_size"], dns.values["train_batch_size"]) == (20, 8, 64)
    assert mine.space["learning_rate"] == Knob(choices=(1e-3, 1e-2)) and mine.values["neg_sampler_candidates"] == 2
    plan.write_text("dataset: [tiny]\n")
    with pytest.raises(ValueError, match="unknown key 'dataset'.*did you mean 'datasets'"):
        read_request({"plan": str(plan)})


def test_names_of_the_command_line_keep_the_settings_of_the_plan_file(tmp_path: Path) -> None:
    plan = tmp_path / "plan.yaml"
    plan.write_text(
        "datasets: {tiny: {train_batch_size: 64}, small: {}}\nmodels: {BPR: {reg_weight: 0.1}, LightGCN: {}}\n"
        "neg_samplers: [dns]\nlosses: [psl]\nout: there\n"
    )
    asked = read_request({"plan": str(plan), "datasets": ["tiny", "other"], "models": ["BPR"], "losses": []}).request
    assert asked.datasets == {"tiny": {"train_batch_size": 64}, "other": {}}
    assert asked.models == {"BPR": {"reg_weight": 0.1}} and asked.grid.models == ("BPR",)
    assert (asked.grid.neg_samplers, asked.grid.losses) == (("dns",), ())


@pytest.mark.parametrize("named", ["command line", "plan"])
def test_configuration_files_are_settings_of_all_rows(named: str, data: Path, tmp_path: Path) -> None:
    (tmp_path / "first.yaml").write_text("epochs: 3\nlearning_rate: 1e-2\n")
    (tmp_path / "second.yaml").write_text("epochs: 4\n")
    files = [str(tmp_path / name) for name in ("first.yaml", "second.yaml")]
    given: dict[str, Any] = {"datasets": ["tiny"], "models": ["BPR"], "neg_samplers": ["dns"], "out": "x"}
    if named == "plan":
        (tmp_path / "plan.yaml").write_text(f"config_files: {files}\n")
        given["plan"] = str(tmp_path / "plan.yaml")
    else:
        given["config_files"] = files
    (cell,) = cells_of(read_request(given, [f"--data_path={data}"]).request)
    assert (cell.values["epochs"], cell.values["learning_rate"]) == (4, 0.01) and "learning_rate" not in cell.space


def test_a_setting_with_a_space_is_no_name_of_the_list_before_it() -> None:
    told = "--val_interval={'rating': '[4,inf)'}"
    args, settings = parse_arguments(parser(), ["--datasets", "one", "two", told, "--out=a folder", "--epochs=3"])
    assert (args.datasets, args.out, settings) == (["one", "two"], "a folder", [told, "--epochs=3"])
    assert read_request(vars(args), settings).request.shared["val_interval"] == {"rating": "[4,inf)"}


@pytest.mark.parametrize("key", ["plan", "config_files"])
def test_a_file_that_is_no_yaml_is_named(key: str, tmp_path: Path) -> None:
    (tmp_path / "broken.yaml").write_text("seeds: [1, 2\nout: x\n")
    with pytest.raises(ValueError, match=r"broken\.yaml is no YAML: .*line 2"):
        read_request({key: str(tmp_path / "broken.yaml"), "out": "x"})


@pytest.mark.parametrize("seeds", ["null", "[2020, x]", "many"])
def test_seeds_that_are_none_are_told_by_name(seeds: str, tmp_path: Path) -> None:
    (tmp_path / "plan.yaml").write_text(f"seeds: {seeds}\nout: x\n")
    with pytest.raises(ValueError, match=r"^seeds=.* should be a number of seeds or a list of them"):
        read_request({"plan": str(tmp_path / "plan.yaml")})


def test_a_row_on_semantic_by_any_name_has_no_control_and_one_of_text_has() -> None:
    """What it draws was named beforehand; a control of it would exchange vectors that nothing reads."""
    alone = {"neg_sampler": "hnlm", "hnlm_alpha": 0.0, "hnlm_alignment_weight": 0.0, "hnlm_init": "random"}
    rows = {
        "named": {**alone, "hnlm_base_sampler": "semantic"},
        "started": {**alone, "hnlm_init": "text"},
        "guarded": {**alone, "neg_sampler_guard": "text", "neg_sampler_guard_max_score": 0.5},
    }
    found = rows_of(Grid(models=("BPR",), neg_samplers=("semantic",), controls=("permuted",), rows=rows))
    assert [row.name for row in found if row.kind == "control"] == ["started permuted", "guarded permuted"]


def test_a_row_without_text_is_given_none(data: Path) -> None:
    asked = request(data, neg_samplers=("dns", "dtl"))
    shared = {**asked.shared, "hnlm_hard_alignment_weight": 0.01}
    with pytest.raises(ValueError, match=r"row 'dtl'.*without text, and \['hnlm_hard_alignment_weight'\] give it some"):
        cells_of(replace(asked, shared=shared))


def test_a_comparator_under_a_name_of_ones_own_is_tuned_and_waits_as_it_does(data: Path) -> None:
    own = {"neg_sampler": "hnlm", "hnlm_comparator": "kar", "hnlm_base_sampler": "dns"}
    packaged, mine = cells(data, neg_samplers=(), comparators=("kar",), rows={"kar on dns": own})
    assert mine.space == packaged.space and "comparator_expert_width" in mine.space
    assert mine.values["stopping_step"] == packaged.values["stopping_step"] == 24 and mine.row.kind == "comparator"


def test_arguments_that_are_no_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="cannot read '--epochs'; settings of the runs are written --key=value"):
        main(["--datasets", "tiny", "--epochs", "3", "--out", "x"])


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--learnin_rate=0.1", "unknown option 'learnin_rate'; did you mean 'learning_rate'"),
        ("--n_layer=3", "unknown option 'n_layer'; did you mean 'n_layers'"),
        ("--dataset=tiny", "dataset is no setting of single runs here; use datasets"),
        ("--model=BPR", "model is no setting of single runs here; use models"),
    ],
)
def test_settings_that_no_run_reads_are_refused(argument: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_request({"out": "x"}, [argument])


def test_settings_of_ours_and_of_recbole_are_not_taken_for_slips() -> None:
    from recbole_hnlm.config import packaged_defaults
    from recbole_hnlm.graph_models import GRAPH_MODELS

    keys = ["torch_threads", "adam", "fast_propagation", "ranking_loss", "ranking_loss_gamma", "neg_sampler_num",
            "neg_sampler_guard_spares", "hnlm_alpha", "llm_encoder", "comparator_weight", "load_col", "val_interval",
            "reg_weight", "n_layers", *(key for name in GRAPH_MODELS for key in packaged_defaults(f"model/{name}.yaml"))]  # fmt: skip
    shared = read_request({"out": "x"}, [f"--{key}=1" for key in keys]).request.shared
    assert set(shared) == set(keys)


@pytest.mark.parametrize(
    ("model", "given", "told"),
    [
        ("BPR", "lr=0.1", "lr has no effect in any row"),
        ("BPR", "n_layers=3", "n_layers has no effect in any row"),
        ("LightGCN", "n_layers=3", ""),
    ],
)
def test_settings_that_no_model_of_the_rows_knows_are_refused(model: str, given: str, told: str, data: Path) -> None:
    names = {"datasets": ["tiny"], "models": [model], "neg_samplers": ["dns"], "out": "x"}
    asked = read_request(names, [f"--data_path={data}", f"--{given}"]).request
    if not told:
        assert cells_of(asked)[0].values["n_layers"] == 3
        return
    with pytest.raises(ValueError, match=told):
        cells_of(asked)


@pytest.mark.parametrize(("epochs", "step"), [(1, 1), (2, 2), (9, 2)])
def test_few_epochs_are_validated_too(epochs: int, step: int, data: Path) -> None:
    names = {"datasets": ["tiny"], "models": ["BPR"], "neg_samplers": ["dns"], "out": "x"}
    asked = read_request(names, [f"--data_path={data}", f"--epochs={epochs}"]).request
    assert cells_of(asked)[0].values["eval_step"] == step


def test_nobody_trains_with_no_process() -> None:
    with pytest.raises(ValueError, match="processes=0 must be at least 1"):
        read_request({"out": "x", "processes": 0})


@pytest.mark.parametrize(("seeds", "order", "refused"), [(2, "RO", True), (1, "RO", False), (2, "TO", False)])
def test_a_folder_of_artefacts_is_of_one_split(seeds: int, order: str, refused: bool, data: Path) -> None:
    split = {"split": {"RS": [0.8, 0.1, 0.1]}, "order": order, "group_by": "user", "mode": "full"}
    asked = request(data, neg_samplers=("uniform", "hnlm"))
    shared = {**asked.shared, "hnlm_artefact_dir": "somewhere", "eval_args": split, "load_col": None}
    asked = replace(asked, shared=shared, seeds=tuple(range(seeds)))
    if not refused:
        assert len(cells_of(asked)) == 2
        return
    with pytest.raises(ValueError, match=r"row 'hnlm'.*somewhere is of one training split.*\[0, 1\] split differently"):
        cells_of(asked)


OWN = "from recbole_hnlm.samplers.dns import DynamicSelector\n\n\nclass Mine(DynamicSelector):\n    pass\n"


def test_a_sampler_of_ones_own_is_found_where_one_starts_and_tuned_and_known_by_its_code(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [entry for entry in sys.path if entry])
    (tmp_path / "beside_the_user.py").write_text(OWN)
    name = "beside_the_user:Mine"
    names = ["--datasets", "tiny", "--models", "BPR", "--neg_samplers", name]
    command(["compare", *names, "--out", "x", "--dry_run", f"--data_path={data}"])
    assert f"tiny / BPR / {name}: 8 trials of learning_rate, neg_sampler_candidates" in capsys.readouterr().out
    asked = request(data, neg_samplers=("dns", name))
    dns, mine = cells_of(asked)
    again = cells_of(asked)[1]
    assert not dns.code and (mine.key, mine.setting({}, 1).key) == (again.key, again.setting({}, 1).key)
    (tmp_path / "x").mkdir()
    write_plan(tmp_path / "x", [dns, mine], None)
    assert [cell.key for cell in read_plan(tmp_path / "x")[0]] == [dns.key, mine.key]
    (tmp_path / "beside_the_user.py").write_text(OWN + "# other rule\n")
    changed = cells_of(asked)[1]
    assert mine.key != changed.key and mine.setting({}, 1).key != changed.setting({}, 1).key
    assert cells_of(asked)[0].key == dns.key


def test_seed_says_where_the_seeds_begin() -> None:
    assert read_request({"out": "x", "seeds": 2}, ["--seed=5"]).request.seeds == (5, 6)


def test_a_dry_run_counts_and_trains_nothing(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = ["--datasets", "tiny", "--models", "BPR", "--neg_samplers", "uniform", "dns", "--baselines", "Pop"]
    main([*names, "--seeds", "3", "--tune", "4", "--out", "x", "--dry_run", f"--data_path={data}"])
    told = capsys.readouterr().out.splitlines()
    assert told[0] == "tiny / Pop: 1 trials of nothing"
    assert told[-1] == "3 rows, 3 seeds, at most 15 runs"  # 1 + 2, twice 4 + 2
    assert not Path("x").exists()


def test_plans_of_a_folder_are_joined(tmp_path: Path, data: Path) -> None:
    first, second = cells(data), cells(data, neg_samplers=("dns", "mixgcf"), tune=2)
    write_plan(tmp_path, first, None)
    every = write_plan(tmp_path, second, "dns")
    assert [(cell.row.name, cell.budget) for cell in every] == [("uniform", 4), ("dns", 2), ("mixgcf", 2)]
    read, against = read_plan(tmp_path)
    assert [cell.key for cell in read] == [first[0].key, *(cell.key for cell in second)] and against == "dns"


def test_a_row_under_another_name_stands_in_for_the_one_before(tmp_path: Path, data: Path) -> None:
    first = cells(data)
    write_plan(tmp_path, first, None)
    again = write_plan(tmp_path, first[:1], None)
    assert [cell.key for cell in again] == [cell.key for cell in first]  # given again, a row keeps its place
    renamed = replace(first[0], row=replace(first[0].row, name="drawn evenly"))
    every = write_plan(tmp_path, [renamed], None)
    assert sorted(cell.row.name for cell in every) == ["dns", "drawn evenly"]
    assert [cell.row.name for cell in write_plan(tmp_path, [renamed], None)] == [cell.row.name for cell in every]


UNFIT = {
    "loss": ("--models BPR NeuMF --losses bsl", r"row 'bsl' \(NeuMF\) on tiny: ranking_loss=bsl cannot train NeuMF"),
    "comparator": ("--models BPR --comparators rlmrec_con rlmrec_gen", r"row 'rlmrec_gen' \(BPR\) on tiny: BPR does not"),
    "optimizer": ("--models LightGCN --neg_samplers dns --adam=rows", r"row 'dns' \(LightGCN\) on tiny: adam: rows needs"),
    "weights": ("--models LightGCN NeuMF --neg_samplers uniform softmax", r"row 'softmax' \(NeuMF\) on tiny: softmax weighs"),
}  # fmt: skip


@pytest.mark.parametrize("case", UNFIT)
def test_what_a_model_cannot_take_is_refused_in_the_plan(case: str, data: Path, tmp_path: Path) -> None:
    """Its options alone would pass, and every trial of the row would end when the model is attached."""
    names, message = UNFIT[case]
    command = ["--datasets=tiny", *names.split(), f"--out={tmp_path}", f"--data_path={data}", "--embedding_size=8"]
    with pytest.raises(ValueError, match=message):
        main([*command, "--dry_run"])
    with pytest.raises(ValueError, match=message):
        main([*command, "--tune", "2"])


def test_a_model_is_made_once_for_all_its_rows(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    real = fitness.fitness
    monkeypatch.setattr(
        fitness, "fitness", lambda config, dataset: made.append(config["model"]) or real(config, dataset)
    )
    grid = {
        "models": ("BPR", "LightGCN"),
        "neg_samplers": ("dns", "hnlm"),
        "losses": ("bsl", "psl"),
        "baselines": ("Pop",),
    }
    fitness.refuse_unfit_cells(cells(data, **grid))
    assert made == ["BPR", "LightGCN"]


def test_a_model_that_cannot_be_made_here_is_left_to_its_run(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(config: Any, dataset: Any) -> None:
        raise ImportError("no faiss")

    monkeypatch.setattr(fitness, "fitness", missing)
    fitness.refuse_unfit_cells(cells(data))


def test_a_reg_weight_for_all_rows_is_not_eases(data: Path) -> None:
    """There it is the ridge, of the order of 100."""
    asked = request(data, neg_samplers=("uniform",), models=("LightGCN",), baselines=("EASE",))
    ease, ours = cells_of(replace(asked, shared={**asked.shared, "reg_weight": 1e-4}))
    assert "reg_weight" in ease.space and ease.budget == 4 and "reg_weight" not in ease.values
    assert ours.values["reg_weight"] == 1e-4 and "reg_weight" not in ours.space
    own, _ = cells_of(replace(asked, models={"EASE": {"reg_weight": 90.0}}))
    assert own.values["reg_weight"] == 90.0 and own.budget == 1
    mine = request(
        data, neg_samplers=("uniform",), models=("LightGCN",), rows={"mine": {"neg_sampler": "none", "model": "EASE"}}
    )
    (named,) = [
        cell for cell in cells_of(replace(mine, shared={**mine.shared, "reg_weight": 1e-4})) if cell.row.name == "mine"
    ]
    assert "reg_weight" in named.space and "reg_weight" not in named.values
    alone = request(data, neg_samplers=(), models=(), baselines=("EASE",))
    with pytest.raises(
        ValueError, match="reg_weight has no effect in any row; remove it, or give EASE their own under"
    ):
        cells_of(replace(alone, shared={**alone.shared, "reg_weight": 1e-4}))


def test_a_row_of_text_under_a_loss_needs_no_space_of_its_own(data: Path) -> None:
    own = {"neg_sampler": "hnlm", "hnlm_base_sampler": "uniform", "hnlm_alpha": 0.0, "ranking_loss": "psl"}
    other = {"neg_sampler": "hnlm", "hnlm_base_sampler": "dns_mn"}
    soft, hard = cells(data, neg_samplers=(), rows={"hnlm psl": own, "hnlm on dns_mn": other})
    assert not any(key.startswith("neg_sampler") for key in soft.space)
    assert {"neg_sampler_candidates", "neg_sampler_top_m", "hnlm_alignment_weight"} <= set(hard.space)
    assert {"ranking_loss_temperature", "hnlm_alignment_weight"} <= set(soft.space)


@pytest.mark.parametrize("key", ["llm_prompts", "llm_adapter", "llm_encoder", "neg_sampler_folder"])
def test_what_a_file_says_that_settings_name_is_part_of_the_run(key: str, tmp_path: Path) -> None:
    place = tmp_path / "named"
    if key == "llm_prompts":
        place.write_text("version: 1\n")
    else:
        place.mkdir()
    file = place if place.is_file() else place / ("x.neg_text" if key == "neg_sampler_folder" else "model.safetensors")
    file.write_text("one")
    first = named_files_digest({key: str(place), "llm_chat_model": "of-a-server", "epochs": 3})
    file.write_text("two")
    assert first and first != named_files_digest({key: str(place)})
    file.write_text("one")
    assert first == named_files_digest({key: str(place)})
    assert named_files_digest({key: str(tmp_path / "absent"), "hnlm_artefact_dir": str(tmp_path)}) == ""


def test_a_run_is_another_where_its_prompts_were_edited(data: Path, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.yaml"
    told = {"llm_prompts": str(prompts), "llm_backend": "openai", "llm_chat_model": "m", "llm_base_url": "http://x/v1"}
    seen = []
    for text in ("version: a\n", "version: b\n", "version: a\n"):
        prompts.write_text(text)
        asked = request(data, neg_samplers=("hnlm",), tune=1)
        (cell,) = cells_of(replace(asked, shared={**asked.shared, **told}))
        setting = cell.setting({}, 2020)
        seen.append((cell.key, setting.key, run_values(setting, tmp_path, "x")["hnlm_artefact_dir"]))
    assert seen[0] == seen[2] and all(one != other for one, other in zip(seen[0], seen[1], strict=True))


def test_how_a_chat_model_is_asked_makes_no_other_run(data: Path, tmp_path: Path) -> None:
    """A raised budget trains nothing anew, and reads the same artefacts."""
    told = {"llm_backend": "openai", "llm_chat_model": "m", "llm_base_url": "http://x/v1", "llm_budget_requests": 5}
    seen = []
    for changed in ({}, {"llm_budget_requests": 9, "llm_concurrency": 2, "llm_base_url": "http://y/v1"}):
        asked = request(data, neg_samplers=("hnlm", "dns"), tune=1)
        cells = cells_of(replace(asked, shared={**asked.shared, **told, **changed}))
        cell, other = (next(cell for cell in cells if cell.row.name == name) for name in ("hnlm", "dns"))
        values = run_values(cell.setting({}, 2020), tmp_path, "x")
        assert values["llm_budget_requests"] == {**told, **changed}["llm_budget_requests"]
        assert "llm_budget_requests" not in {**other.values, **other.local}
        seen.append((cell.key, cell.setting({}, 2020).key, values["hnlm_artefact_dir"]))
    assert seen[0] == seen[1]
    alone = request(data, neg_samplers=("hnlm",), tune=1)
    (revised,) = cells_of(replace(alone, shared={**alone.shared, **told, "llm_chat_revision": "v2"}))
    assert revised.key != seen[0][0]


def test_a_metric_of_the_whole_ranking_may_choose(data: Path) -> None:
    asked = request(data, neg_samplers=("uniform",))
    told = {"metrics": ["Recall", "GAUC"], "valid_metric": "GAUC"}
    (cell,) = cells_of(replace(asked, shared={**asked.shared, **told}))
    assert cell.values["valid_metric"] == "GAUC"
    with pytest.raises(ValueError, match="valid_metric=NDCG is not computed"):
        cells_of(replace(asked, shared={**asked.shared, "valid_metric": "NDCG"}))


def test_a_file_of_another_encoding_is_told_by_row_and_name(data: Path, tmp_path: Path) -> None:
    home = tmp_path / "latin"
    shutil.copytree(data, home)
    path = home / "tiny" / "tiny.item"
    path.write_bytes(path.read_bytes() + "i7\tÜbung\tmaker0\n".encode("latin-1"))
    asked = request(home, neg_samplers=("hnlm",))
    with pytest.raises(ValueError, match=r"row 'hnlm'.*tiny\.item is not in utf-8.*set RecBole's encoding"):
        cells_of(asked)
    (cell,) = cells_of(replace(asked, shared={**asked.shared, "encoding": "latin-1"}))
    assert cell.values["encoding"] == "latin-1"
