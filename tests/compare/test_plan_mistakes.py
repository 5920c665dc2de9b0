"""Plans as people mistype them: nothing is lost, and nothing is trained that was not meant."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from compare_runs import request
from recbole_runs import write_dataset

from recbole_hnlm.compare.fitness import refuse_unfit_cells
from recbole_hnlm.compare.plan import cells_of
from recbole_hnlm.compare.request import read_request
from recbole_hnlm.compare.rows import Grid


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("data"))


def planned(tmp_path: Path, text: str) -> Any:
    (tmp_path / "plan.yaml").write_text(text)
    return read_request({"plan": str(tmp_path / "plan.yaml"), "out": "x"}).request


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({"eval_args": [{"split": {"RS": [5, 1, 4]}}]}, "space: eval_args is the same in all rows of a table"),
        ({"user_inter_num_interval": ["[5,inf)"]}, "space: user_inter_num_interval is the same"),
        ({"valid_metric": ["NDCG@5", "Recall@5"]}, "space: valid_metric is the same"),
        ({"seed": [1, 2]}, "space: seed is the same"),
        ({"model": ["BPR", "LightGCN"]}, "space: model is the same"),
        ({"zork": [1, 2]}, "zork has no effect here, nothing reads it"),
        ({"neg_sampler_candidates": [4, "many"]}, "space of neg_sampler_candidates, where 'many' is tried"),
        ({"neg_sampler_candidates": [4, 0]}, "space of neg_sampler_candidates, where 0 is tried"),
        ({"neg_sampler_candidates": {"low": 4, "high": 8}}, "space of neg_sampler_candidates, where 5.27 is tried"),
        ({"learning_rate": {"low": False, "high": True}}, "low and high are two numbers"),
        ({"learning_rate": {"low": 0.1, "high": 0.2, "log": "false"}}, "log is true or false"),
        (["neg_sampler_candidates"], r"space is \['neg_sampler_candidates'\]; write a mapping"),
    ],
)
def test_a_space_of_what_no_row_can_tune_is_refused(space: Any, message: str, data: Path) -> None:
    rows = {"mine": {"neg_sampler": "dns", "space": space}}
    with pytest.raises(ValueError, match=message):
        cells_of(request(data, rows=rows))


def test_a_space_of_ones_own_with_values_that_can_be_taken_is_planned(data: Path) -> None:
    space = {"neg_sampler_candidates": [2, 6], "learning_rate": {"low": 0.01, "high": 0.02, "log": True}}
    (cell,) = (one for one in cells_of(request(data, rows={"mine": {"neg_sampler": "dns", "space": space}}))
               if one.row.name == "mine")  # fmt: skip
    assert cell.space["neg_sampler_candidates"].choices == (2, 6) and cell.space["learning_rate"].high == 0.02


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"val_interval": {"user_id": ">=4"}},
            "val_interval of user_id='>=4' is no interval, and RecBole would filter nothing",
        ),
        ({"user_inter_num_interval": 5}, "user_inter_num_interval=5 is no interval"),
        ({"item_inter_num_interval": "[5,]"}, "item_inter_num_interval=.5. is no interval"),
        ({"eval_args": {"orders": "TO"}}, "eval_args has 'orders', which nothing reads; did you mean 'order'"),
        ({"eval_args": {"mode": {"valdi": "uni20"}}}, "eval_args: mode has 'valdi', which nothing reads.*'valid'"),
        ({"eval_args": {"split": {"RS": [8, 1, 1], "LS": "valid_and_test"}}}, "either RS or LS"),
        ({"eval_args": {"split": {"RS": [0.8, 0.0, 0.2]}}}, "no validation or no test part"),
        ({"eval_args": {"split": {"RS": [8, 2, 0]}}}, "no validation or no test part"),
        ({"eval_args": {"split": {"LS": "valid_only"}, "order": "RO"}}, "no validation or no test part"),
        ({"learner": "sgdd"}, "learner='sgdd' is none of .*did you mean 'sgd'"),
        ({"epochs": 20.0}, "epochs=20.0 should be a whole number, e.g. 20"),
    ],
)
def test_what_recbole_would_pass_over_is_refused(values: dict[str, Any], message: str, data: Path) -> None:
    asked = request(data)
    with pytest.raises((ValueError, TypeError), match=message):
        cells_of(replace(asked, shared={**asked.shared, **values}))


def test_a_part_that_comes_out_empty_is_refused_before_training(tmp_path: Path) -> None:
    """Of two pairs a user the test has one, and validation none."""
    write_dataset(tmp_path)
    path = tmp_path / "tiny" / "tiny.inter"
    head, *lines = path.read_text().splitlines()
    path.write_text("\n".join([head, *(line for place, line in enumerate(lines) if place % 16 < 2)]) + "\n")
    with pytest.raises(ValueError, match=r"row 'uniform'.*leaves .60, 0, 60. pairs of tiny for train, valid and test"):
        refuse_unfit_cells(cells_of(request(tmp_path)))


def test_what_no_optimizer_trains_is_not_tuned_by_one(data: Path) -> None:
    baselines = ("SLIMElastic", "ADMMSLIM", "AsymKNN", "Random", "EASE")
    wide = {"EASE wide": {"neg_sampler": "none", "model": "EASE", "space": {"reg_weight": {"low": 1, "high": 9}}},
            "SLIM": {"neg_sampler": "none", "model": "SLIMElastic", "space": {"alpha": [0.1, 0.2]}}}  # fmt: skip
    made = {cell.row.name: cell for cell in cells_of(request(data, neg_samplers=(), baselines=baselines, rows=wide))}
    assert not any({"learning_rate", "weight_decay"} & set(cell.space) for cell in made.values())
    assert {name: cell.budget for name, cell in made.items()} == {**dict.fromkeys(made, 4), "Random": 1}
    assert list(made["EASE wide"].space) == ["reg_weight"] and list(made["SLIM"].space) == ["alpha"]


def test_a_row_has_one_model(data: Path) -> None:
    with pytest.raises(ValueError, match="row 'a' names model .*one row has one model"):
        cells_of(request(data, rows={"a": {"neg_sampler": "dns", "model": ["BPR", "LightGCN"]}}))


def test_a_key_of_a_row_that_nothing_reads_is_refused(data: Path) -> None:
    with pytest.raises(ValueError, match=r"row 'mine'.*zork has no effect here, nothing reads it; remove it"):
        cells_of(request(data, rows={"mine": {"neg_sampler": "dns", "zork": 3}}))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("models: [BPR]\nneg_samplers: {dns: {neg_sampler_candidates: 4}}", "neg_samplers is a list of names.*'rows'"),
        ("baselines: {EASE: {reg_weight: 77.0}}", "baselines is a list of names"),
        ("rows:\n  a: {neg_sampler: dns}\n  a: {neg_sampler: ahns}", r"plan.yaml: 'a' is given twice.*line 3"),
        ("seeds: [2020.5]", r"seeds=\[2020.5\] should be a number of seeds or a list"),
        ("seeds: true", "seeds=True should be"),
        ("seeds: 2.7", "seeds=2.7 should be"),
        ("tune: 2.9", "tune=2.9 should be a whole number"),
        ("tune:", "tune=None should be a whole number"),
        ("processes: two", "processes='two' should be a whole number"),
        ("seeds: [2020]\nsettings: {seed: 5}", r"seed=5 beside seeds=\[2020\] would be lost"),
    ],
)
def test_what_would_be_lost_of_a_plan_is_told(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        planned(tmp_path, text)


def test_an_empty_folder_is_none(tmp_path: Path) -> None:
    (tmp_path / "plan.yaml").write_text("out:\n")
    with pytest.raises(ValueError, match="no folder for the results"):
        read_request({"plan": str(tmp_path / "plan.yaml")})


def test_yaml_merges_are_no_twins_and_numbers_are_names(tmp_path: Path) -> None:
    text = "models: [BPR]\nrows:\n  8: &eight {neg_sampler: dns, embedding_size: 8}\n  16: {<<: *eight, embedding_size: 16}"
    assert list(planned(tmp_path, text).grid.rows) == ["8", "16"]


def test_a_row_whose_model_is_left_empty_takes_those_of_the_plan(data: Path) -> None:
    rows = {"mine": {"model": None, "neg_sampler": "dns"}}
    assert "BPR" in {cell.row.model for cell in cells_of(request(data, rows=rows)) if cell.row.name == "mine"}
    with pytest.raises(ValueError, match="row 'mine' names no model"):
        cells_of(replace(request(data), grid=Grid(rows=rows)))
