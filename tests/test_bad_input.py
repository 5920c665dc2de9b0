"""Every bad input that a user can hand over ends in a clear error before training."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from recbole_runs import settings, write_dataset

from recbole_hnlm import run_recbole_hnlm
from recbole_hnlm.cli import run_main

BUILT = {"llm_teacher_epochs": 1, "hnlm_min_coverage": 0.1, "hnlm_alpha": 0.2}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_dataset(tmp_path_factory.mktemp("bad"))
    values = settings(folder, "BPR", epochs=1, checkpoint_dir=str(folder / "saved"), **BUILT)
    run_recbole_hnlm("BPR", "tiny", config_dict=values)
    return folder


@pytest.fixture
def folder(built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the dataset with its artefacts, and a trainer that must not be reached."""
    shutil.copytree(built / "tiny", tmp_path / "data" / "tiny")

    def reached(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("training began")

    monkeypatch.setattr("recbole.trainer.trainer.Trainer._train_epoch", reached)
    return tmp_path / "data"


def truncate(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 2 // 3])


def put_nan(path: Path) -> None:
    vectors = np.load(path)
    vectors[3, 1] = np.nan
    np.save(path, vectors)


def repeat_a_pair(path: Path) -> None:
    lines = path.read_text().splitlines()
    lines[2] = lines[1]
    path.write_text("\n".join(lines) + "\n")


def foreign_user(path: Path) -> None:
    lines = path.read_text().splitlines()
    user, rest = lines[1].split("\t", 1)
    path.write_text("\n".join([lines[0], "stranger" + user + "\t" + rest, *lines[2:]]) + "\n")


DAMAGE: dict[str, tuple[str, Callable[[Path], None]]] = {
    "truncated pairs": ("tiny.hnlm", truncate),
    "truncated vectors as text": ("tiny.hnlm_emb", truncate),
    "truncated matrix": ("tiny.hnlm_emb.npy", truncate),
    "truncated item text": ("tiny.item_text.npy", truncate),
    "truncated index": ("tiny.hnlm_index.npy", truncate),
    "truncated manifest": ("tiny.hnlm.json", truncate),
    "NaN in a vector": ("tiny.hnlm_emb.npy", put_nan),
    "duplicate pair": ("tiny.hnlm", repeat_a_pair),
    "user of no dataset": ("tiny.hnlm", foreign_user),
    "lost matrix": ("tiny.hnlm_emb.npy", Path.unlink),
}


def test_the_undamaged_copy_gets_as_far_as_training(folder: Path) -> None:
    with pytest.raises(AssertionError, match="training began"):
        run_recbole_hnlm("BPR", "tiny", config_dict=settings(folder, "BPR", **BUILT))


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_artefacts_name_the_file_and_the_remedy(folder: Path, damage: str) -> None:
    name, spoil = DAMAGE[damage]
    spoil(folder / "tiny" / name)
    with pytest.raises((ValueError, FileNotFoundError), match="hnlm_rebuild") as caught:
        run_recbole_hnlm("BPR", "tiny", config_dict=settings(folder, "BPR", **BUILT))
    assert name in str(caught.value) and len(str(caught.value).splitlines()) <= 3


def test_too_little_coverage_stops_the_run_and_is_told_before_the_teacher(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write_dataset(tmp_path) / "tiny" / "tiny.item"
    lines = path.read_text().splitlines()
    path.write_text(
        "\n".join(line if at < 10 else line.split("\t")[0] + "\t\t" for at, line in enumerate(lines)) + "\n"
    )
    values = {**BUILT, "hnlm_min_coverage": 0.9}
    told = (
        r"only \d+\.\d% of the training pairs .* hnlm_min_coverage asks for 90\.0%; .* once the 71 items without text"
    )
    with caplog.at_level("INFO", logger="recbole_hnlm"), pytest.raises(ValueError, match=told):
        run_recbole_hnlm("BPR", "tiny", config_dict=settings(tmp_path, "BPR", **values))
    said = [record.getMessage() for record in caplog.records]
    warned = [at for at, line in enumerate(said) if "the training pairs are of an item with text" in line]
    taught = [at for at, line in enumerate(said) if line.startswith("teacher ")]
    assert len(warned) == 1 and taught and warned[0] < taught[0], said
    assert "(71 items have none)" in said[warned[0]]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"neg_sampler": "dsn"}, "did you mean 'dns'"),
        ({"hnlm_alpah": 0.1}, "did you mean 'hnlm_alpha'"),
        ({"hnlm_alpha": 1.5}, r"outside \[0, 1\]"),
        ({"neg_sampler": "dns_mn", "neg_sampler_top_m": 50}, "exceeds the 32 candidates"),
        ({"hnlm_base_sampler": "dns_mn", "neg_sampler_top_m": 9}, "exceeds the 8 candidates"),
        ({"neg_sampler": "uniform", "hnlm_alpha": 0.1}, "hnlm_alpha has no effect here"),
        ({"neg_sampler_candidates": "many"}, "should be int"),
        ({"valid_metric": "MRR@10"}, "valid_metric=MRR@10 is not computed"),
        ({"save_dataloaders": True}, "own runs read and fail on; remove it under neg_sampler=hnlm"),
        ({"train_neg_sample_args": {"distribution": "popularity"}}, "set neg_sampler: popularity, or .*: recbole"),
    ],
)
def test_options_fail_before_any_data_is_read(tmp_path: Path, values: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        run_recbole_hnlm("BPR", "absent", config_dict=settings(tmp_path, "BPR", **values))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("LihgtGCN", "there is no model 'LihgtGCN'; did you mean 'LightGCN'"),
        ("simgcl", "there is no model 'simgcl'; did you mean 'SimGCL'"),
        ("GRU4Rec", "GRU4Rec is a SEQUENTIAL model; only RecBole's general models are supported"),
        ("nowhere.models:Mine", "model 'nowhere.models:Mine' cannot be imported"),
    ],
)
def test_wrong_models_fail_before_any_data_is_read(tmp_path: Path, model: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        run_recbole_hnlm(model, "absent", config_dict=settings(tmp_path, model, neg_sampler="dns"))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"topk": [5, 81]}, r"topk=\[5, 81\] asks for more than the 80 items of 'tiny'; lower it"),
        ({"valid_metric": "ndcg@x"}, "valid_metric=ndcg@x is not computed: metrics="),
        ({"benchmark_filename": ["a", "b"]}, r"benchmark_filename=\['a', 'b'\] should name three parts"),
    ],
)
def test_an_evaluation_that_cannot_be_made_is_refused_before_training(
    folder: Path, values: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        run_recbole_hnlm("BPR", "tiny", config_dict=settings(folder, "BPR", neg_sampler="uniform", **values))


def test_what_cannot_be_meant_is_told_of(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    values = {"neg_sampler": "dns", "neg_sampler_candidates": 100, "repeatable": True, "state": "WARNING"}
    with pytest.raises(AssertionError, match="training began"):
        run_recbole_hnlm("BPR", "tiny", config_dict=settings(folder, "BPR", **values))
    assert "neg_sampler_candidates=100 draws the 80 items many times" in caplog.text
    assert "repeatable changes nothing under neg_sampler=dns" in caplog.text


def test_no_candidates_are_the_samplers_own_number(folder: Path) -> None:
    file = folder / "run.yaml"
    for nothing in ("null", "None"):
        file.write_text(f"neg_sampler: dns_mn\nneg_sampler_candidates: {nothing}\n")
        values = {key: value for key, value in settings(folder, "BPR").items() if key != "neg_sampler"}
        with pytest.raises(AssertionError, match="training began"):
            run_recbole_hnlm("BPR", "tiny", [str(file)], config_dict=values)


def test_fields_of_users_without_a_file_are_refused_before_the_teacher(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("recbole_hnlm.building.artefacts.train_teacher", lambda *args: pytest.fail("it was trained"))
    (folder / "tiny" / "tiny.user").unlink(missing_ok=True)
    values = settings(folder, "BPR", **{**BUILT, "hnlm_rebuild": True, "llm_user_text_fields": ["age"]})
    with pytest.raises(ValueError, match=r"llm_user_text_fields=.* but there is no .*tiny\.user; put it there"):
        run_recbole_hnlm("BPR", "tiny", config_dict=values)


def test_held_out_positives_are_not_counted_where_none_are_held_out(folder: Path) -> None:
    split = {"split": {"RS": [1, 0, 0]}, "order": "RO", "group_by": "user", "mode": "full"}
    values = {**BUILT, "hnlm_rebuild": True, "hnlm_log_false_negatives": True, "eval_args": split}
    with pytest.raises(ValueError, match="the split holds none out; remove it"):
        run_recbole_hnlm("BPR", "tiny", config_dict=settings(folder, "BPR", **values))


def test_a_file_without_rows_is_no_text(folder: Path) -> None:
    path = folder / "tiny" / "tiny.item"
    path.write_text(path.read_text().splitlines()[0] + "\n")
    with pytest.raises(ValueError, match=r"tiny\.item has a header and no rows; fill it, or remove it"):
        run_recbole_hnlm("BPR", "tiny", config_dict=settings(folder, "BPR", **{**BUILT, "hnlm_rebuild": True}))


def test_artefacts_made_with_other_settings_are_refused(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"llm_teacher_epochs=1, this run asks for 2.*hnlm_rebuild"):
        run_recbole_hnlm("BPR", "tiny", config_dict=settings(folder, "BPR", **{**BUILT, "llm_teacher_epochs": 2}))
    manifest = json.loads((folder / "tiny" / "tiny.hnlm.json").read_text())
    assert manifest["provenance"]["teacher"]["epochs"] == 1


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"llm_text_width": 8}, "made with llm_text_width=128, this run asks for 8"),
        ({"llm_encoder_precision": "bfloat16"}, "llm_encoder_precision='float32', this run asks for 'bfloat16'"),
        ({"llm_encoder_backend": "sentence-transformers"}, "llm_encoder_backend='packed', this run asks for"),
    ],
)
def test_artefacts_encoded_in_another_way_are_refused(folder: Path, values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message + ".*hnlm_rebuild"):
        run_recbole_hnlm("BPR", "tiny", config_dict=settings(folder, "BPR", **{**BUILT, **values}))


def test_artefacts_of_versions_without_encoding_settings_count_as_plain(folder: Path, tmp_path: Path) -> None:
    from recbole_hnlm.artefacts.manifest import Provenance
    from recbole_hnlm.building.provenance import _encoding
    from recbole_hnlm.run_options import parse_run

    def compared(made: Provenance, width: int) -> dict[str, Any]:
        return _encoding(made, parse_run({"neg_sampler": "hnlm", "llm_text_width": width}, (), ()))

    made = Provenance("all-MiniLM-L6-v2", settings={"profile_words": 200})
    assert all(found == asked for found, asked in compared(made, 0).values())
    assert compared(made, 8)["llm_text_width"] == (0, 8)
    assert compared(Provenance("teacher"), 8) == {}


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--metrics=[Recall,NDCG]",
         "ValueError: There is no metric named '[Recall,NDCG]'; a list on the command line is "
         "--metrics=\"['Recall','NDCG']\"\n"),
        ("--eval_args={'split': {'KF': 5}}", "NotImplementedError: The splitting_method [KF] has not been implemented.\n"),
    ],
)  # fmt: skip
def test_what_recbole_does_not_know_ends_with_its_message(
    folder: Path, argument: str, message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--model=BPR", "--dataset=tiny", f"--data_path={folder}", "--neg_sampler=dns", "--use_gpu=False", argument]
    monkeypatch.setattr("sys.argv", ["run_recbole_hnlm.py", *given])
    with pytest.raises(SystemExit) as ended:
        run_main(given)
    told = capsys.readouterr().err
    assert ended.value.code == 2 and told.endswith(message) and "Traceback" not in told


def test_a_folder_that_takes_no_artefacts_is_refused_before_a_teacher_is_trained(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    inside = folder / "tiny" / "tiny.inter" / "artefacts"
    given = ["--model=BPR", "--dataset=tiny", f"--data_path={folder}", "--neg_sampler=hnlm", "--use_gpu=False"]
    given.append(f"--hnlm_artefact_dir={inside}")
    monkeypatch.setattr("sys.argv", ["run_recbole_hnlm.py", *given])
    with pytest.raises(SystemExit) as ended:
        run_main(given)
    told = capsys.readouterr().err
    assert ended.value.code == 2 and f"OSError: {inside} takes no files ([Errno 20] Not a directory" in told
    assert "name another folder by hnlm_artefact_dir" in told and "Traceback" not in told
