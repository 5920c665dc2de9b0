"""Artefacts of a dataset whose text has changed while its pairs have not."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from recbole_runs import settings, write_dataset

from recbole_hnlm import run_recbole_hnlm

USERS = "user_id:token\tjob:token_seq\n" + "".join(f"u{user}\tjob {user % 3}\n" for user in range(60))


def run(folder: Path, **values: object) -> None:
    """A run over artefacts in the dataset's folder."""
    given = {"llm_teacher_epochs": 1, "checkpoint_dir": str(folder / "saved"), "epochs": 1, **values}
    run_recbole_hnlm("BPR", "tiny", config_dict=settings(folder, "BPR", neg_sampler="hnlm", **given))


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_dataset(tmp_path_factory.mktemp("text"))
    (folder / "tiny" / "tiny.user").write_text(USERS)
    run(folder)
    return folder


@pytest.fixture
def folder(built: Path, tmp_path: Path) -> Path:
    shutil.copytree(built / "tiny", tmp_path / "tiny")
    return tmp_path


def another_title(file: Path) -> None:
    file.write_text(file.read_text().replace("number 7", "number seven"))


def another_field(file: Path) -> None:
    header, *rows = file.read_text().splitlines()
    told = "\n".join(f"{row}\tof steel and glass" for row in rows)
    file.write_text(f"{header}\tdescription:token_seq\n{told}\n")


@pytest.mark.parametrize("change", [another_title, another_field])
def test_another_text_is_refused_until_it_is_built_anew(folder: Path, change: Callable[[Path], None]) -> None:
    change(folder / "tiny" / "tiny.item")
    before = (folder / "tiny" / "tiny.item_text.npy").read_bytes()
    with pytest.raises(ValueError, match=r"the text of .*tiny\.item is not what .* made of; .*hnlm_rebuild=True"):
        run(folder)
    run(folder, hnlm_rebuild=True)
    assert (folder / "tiny" / "tiny.item_text.npy").read_bytes() != before
    run(folder)


def test_another_text_of_users_is_refused(folder: Path) -> None:
    file = folder / "tiny" / "tiny.user"
    file.write_text(file.read_text().replace("job 2", "job two"))
    with pytest.raises(ValueError, match=r"the text of .*tiny\.user is not what"):
        run(folder)


def shuffled_with_a_price(file: Path) -> None:
    header, *rows = file.read_text().splitlines()
    file.write_text("\n".join([f"{header}\tprice:float", *(f"{row}\t1.5" for row in reversed(rows))]) + "\n")


def forget_sources(file: Path) -> None:
    path = file.with_name("tiny.hnlm.json")
    manifest = json.loads(path.read_text())
    del manifest["provenance"]["settings"]["sources"]
    path.write_text(json.dumps(manifest))
    another_title(file)


@pytest.mark.parametrize("change", [shuffled_with_a_price, Path.unlink, forget_sources])
def test_what_says_the_same_or_cannot_be_told_is_taken(folder: Path, change: Callable[[Path], None]) -> None:
    change(folder / "tiny" / "tiny.item")
    made = (folder / "tiny" / "tiny.item_text.npy").stat().st_mtime_ns
    run(folder)
    assert (folder / "tiny" / "tiny.item_text.npy").stat().st_mtime_ns == made


def test_text_where_there_was_none_is_noticed(folder: Path) -> None:
    item = folder / "tiny" / "tiny.item"
    text = item.read_text()
    item.unlink()
    run(folder, hnlm_rebuild=True)
    run(folder)
    item.write_text(text)
    with pytest.raises(ValueError, match=r"the text of .*tiny\.item is not what"):
        run(folder)
