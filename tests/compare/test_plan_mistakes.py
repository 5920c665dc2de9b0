"""Plans as people mistype them: nothing is lost, and nothing is trained that was not meant."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from compare_runs import request
from recbole_runs import write_dataset

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
