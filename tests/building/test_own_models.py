"""Teachers and references of the user's own: what was made by one is not taken for another's of the same name."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from recbole_runs import settings, write_dataset

from recbole_hnlm import run_recbole_hnlm
from recbole_hnlm.compare.ledger import RunSetting
from recbole_hnlm.compare.runner import run_values


@pytest.fixture
def edit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Writes the module ``mine_teaches`` with the model ``Mine``, and a word in it."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "mine_teaches", raising=False)  # of another test's folder

    def write(word: str) -> None:
        source = f"from recbole.model.general_recommender import BPR\n\n\nclass Mine(BPR):\n    word = {word!r}\n"
        (tmp_path / "mine_teaches.py").write_text(source)

    write("first")
    return write


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_dataset(tmp_path / "data")


def run(folder: Path, **values: Any) -> None:
    given = {"epochs": 1, "checkpoint_dir": str(folder / "saved"), "llm_cache_dir": str(folder / "cache"), **values}
    run_recbole_hnlm("BPR", "tiny", config_dict=settings(folder, "BPR", **given))


def test_an_edited_teacher_is_another_teacher(folder: Path, edit: Callable[[str], None]) -> None:
    told = {"neg_sampler": "hnlm", "llm_teacher_model": "mine_teaches:Mine", "llm_teacher_epochs": 1}
    run(folder, **told)
    run(folder, **told)
    edit("second")
    asked = "made with llm_teacher_model='mine_teaches:Mine [0-9a-f]+', this run asks for 'mine_teaches:Mine [0-9a-f]+'"
    with pytest.raises(ValueError, match=asked):
        run(folder, **told)
    run(folder, **told, hnlm_rebuild=True)
    assert len(list((folder / "cache").glob("teacher-*.npz"))) == 2
    run(folder, **told)


def test_an_edited_reference_grows_other_trees(folder: Path, edit: Callable[[str], None]) -> None:
    told = {"neg_sampler": "hnlm", "hnlm_base_sampler": "dtl", "hnlm_alpha": 0.0, "neg_sampler_reference_epochs": 1,
            "neg_sampler_reference_model": "mine_teaches:Mine", "llm_teacher_epochs": 1}  # fmt: skip
    for word, made in (("first", 1), ("second", 2), ("first", 2)):
        edit(word)
        run(folder, **told)
        assert len(list((folder / "cache").glob("dual-trees-tiny-*.npz"))) == made


def test_an_edited_model_picks_anew_for_llmrec(folder: Path, edit: Callable[[str], None]) -> None:
    told = {"neg_sampler": "hnlm", "hnlm_comparator": "llmrec", "hnlm_base_sampler": "uniform",
            "llm_teacher_model": "mine_teaches:Mine", "llm_teacher_epochs": 1}  # fmt: skip
    run(folder, **told)
    edit("second")
    run(folder, **told, hnlm_rebuild=True)
    assert len(list((folder / "cache").glob("reference-*.npy"))) == 2


def test_a_comparison_gives_an_edited_teacher_a_folder_of_its_own(tmp_path: Path, edit: Callable[[str], None]) -> None:
    values = {"neg_sampler": "hnlm", "llm_teacher_model": "mine_teaches:Mine"}
    folders = []
    for word in ("first", "second", "first"):
        edit(word)
        made = run_values(RunSetting("tiny", "BPR", values, 2020), tmp_path, "x")
        folders.append(made["hnlm_artefact_dir"])
        assert made["llm_teacher_model"] == "mine_teaches:Mine"
    assert folders[0] == folders[2] != folders[1]


@pytest.mark.parametrize(
    "other", [{"seed": 2021}, {"eval_args": {"order": "TO"}}, {"load_col": {"inter": ["user_id"]}}]
)
def test_a_comparison_gives_every_split_a_folder_of_its_own(tmp_path: Path, other: dict[str, Any]) -> None:
    seed = other.pop("seed", 2020)
    one = run_values(RunSetting("tiny", "BPR", {"neg_sampler": "hnlm"}, 2020), tmp_path, "x")
    two = run_values(RunSetting("tiny", "BPR", {"neg_sampler": "hnlm", **other}, seed), tmp_path, "x")
    assert one["hnlm_artefact_dir"] != two["hnlm_artefact_dir"]
