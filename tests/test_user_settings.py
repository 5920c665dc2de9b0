"""What users write on a command line and into files: read as it stands, or refused before any data is read."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from recbole_runs import settings, write_dataset

from recbole_hnlm import run_recbole_hnlm
from recbole_hnlm.cli import main, run_main
from recbole_hnlm.config import HNLMConfig
from recbole_hnlm.options.parsing import parse_options
from recbole_hnlm.samplers.base import CandidateOptions


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return write_dataset(tmp_path / "data")


def ended(capsys: pytest.CaptureFixture[str], command: Any, *given: str) -> str:
    """The message with which a command ends."""
    with pytest.raises(SystemExit) as end:
        command(list(given))
    assert end.value.code == 2
    return capsys.readouterr().err


RUN = ("--model=BPR", "--dataset=tiny", "--data_path=data", "--use_gpu=False", "--epochs=1", "--show_progress=False")


class TestCommandLine:
    @pytest.mark.parametrize("command", [run_main, *(["build"], ["inspect"], ["export"], ["check-leak"])])
    def test_what_is_no_setting_is_refused(
        self, folder: Path, capsys: pytest.CaptureFixture[str], command: Any
    ) -> None:
        words = [] if callable(command) else command
        told = ended(capsys, command if callable(command) else main, *words, *RUN, "--neg_sampler", "dns")
        assert "cannot read '--neg_sampler'; settings of the runs are written --key=value, with the =" in told

    def test_settings_take_effect_whoever_hands_them_over(self, folder: Path) -> None:
        before = sys.argv[:]
        result = run_main([*RUN, "--neg_sampler=dns", "--neg_sampler_num=2"])
        assert result is not None and result["hnlm"]["options"]["neg_sampler"] == "dns"
        assert result["hnlm"]["options"]["neg_sampler_num"] == 2 and result["hnlm"]["epochs"] == 1
        assert sys.argv == before

    @pytest.mark.parametrize("flags", [(), ("--model=BPR",), ("--dataset=tiny",), ("--model=BPR", "--dataset=tiny")])
    def test_files_name_model_and_dataset_where_no_flag_does(
        self, folder: Path, capsys: pytest.CaptureFixture[str], flags: tuple[str, ...]
    ) -> None:
        """They would else be trained as LightGCN on ml-100k, without a word."""
        named = {"--model": "model: BPR\n", "--dataset": "dataset: tiny\n"}
        other = {"--model": "model: Pop\n", "--dataset": "dataset: elsewhere\n"}  # a flag goes before a file
        given = {flag.partition("=")[0] for flag in flags}
        Path("a.yaml").write_text("".join(other[key] if key in given else line for key, line in named.items()))
        result = run_main([*flags, "--config_files=a.yaml", *RUN[2:], "--neg_sampler=dns"])
        assert result is not None and result["hnlm"]["epochs"] == 1
        told = ended(capsys, main, "inspect", *flags, "--config_files=a.yaml", *RUN[2:])
        assert "tiny.hnlm.json" in told and "ml-100k" not in told

    def test_values_may_hold_the_sign(self, folder: Path) -> None:
        (folder.parent / "data").rename(folder.parent / "d=x")
        result = run_main([*RUN[:2], "--data_path=d=x", *RUN[3:], "--neg_sampler=uniform"])
        assert result is not None and result["test_result"]

    def test_a_key_with_two_values_is_refused(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        told = ended(capsys, run_main, *RUN, "--neg_sampler=dns", "--neg_sampler=uniform")
        assert "--neg_sampler is given twice, as 'dns' and as 'uniform'; keep one" in told

    @pytest.mark.parametrize("form", [["--config_files=a.yaml  b c.yaml"], ["--config_files", "a.yaml", "b c.yaml"]])
    def test_files_come_in_one_word_or_in_several(
        self, folder: Path, capsys: pytest.CaptureFixture[str], form: list[str]
    ) -> None:
        Path("a.yaml").write_text("neg_sampler: dns\nneg_sampler_candidates: 4\n")
        Path("b c.yaml").write_text("neg_sampler_candidates: 8\n")
        if len(form) == 1:
            assert "there is no file b; check --config_files" in ended(capsys, run_main, *RUN, *form)
            form = ["--config_files=b c.yaml"]
        result = run_main([*RUN, "--neg_sampler=dns", *form])
        assert result is not None and result["hnlm"]["options"]["neg_sampler_candidates"] == 8

    def test_without_a_test_part_there_is_no_table(self, folder: Path) -> None:
        result = run_main([*RUN, "--neg_sampler=dns", "--eval_args={'split': {'RS': [1,0,0]}}"])
        assert result is not None and result["test_result"] is None

    def test_what_others_raise_says_where(
        self, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def broken(*args: Any, **kwargs: Any) -> None:
            torch.zeros(2).reshape(3, "x")

        monkeypatch.setattr("recbole.trainer.trainer.Trainer.fit", broken)
        told = ended(capsys, run_main, *RUN, "--neg_sampler=dns")
        assert told.startswith("TypeError: ") and "(in broken of " in told and "test_user_settings.py, line" in told

    def test_a_run_that_is_stopped_says_so(
        self, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def stopped(*args: Any, **kwargs: Any) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr("recbole.trainer.trainer.Trainer.fit", stopped)
        with pytest.raises(SystemExit) as end:
            run_main([*RUN, "--neg_sampler=dns"])
        assert end.value.code == 130 and capsys.readouterr().err.startswith("stopped; ")

    def test_what_is_no_checkpoint_is_told(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        Path("a.yaml").write_text("neg_sampler: dns\n")
        assert "a.yaml is no checkpoint of RecBole's" in ended(capsys, main, "export", "--checkpoint=a.yaml")
        torch.save({"weights": 1}, "b.pth")
        assert "b.pth is no checkpoint of RecBole's" in ended(capsys, main, "export", "--checkpoint=b.pth")


def test_arguments_of_a_script_of_ones_own_are_told_and_left_alone(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("sys.argv", ["mine.py", "train", "--learning_rate=0.5", "--neg_sampler", "dns"])
    config = HNLMConfig("BPR", "tiny", config_dict={"neg_sampler": "uniform"})
    assert config["learning_rate"] == 0.5 and config["neg_sampler"] == "uniform"
    assert "not read as settings, which are written --key=value: train --neg_sampler dns" in caplog.text


class TestFiles:
    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("- neg_sampler\n", "a.yaml should hold settings as key: value, got a list"),
            ("neg_sampler: [dns\n", "a.yaml is no YAML: "),
        ],
    )
    def test_what_holds_no_settings_is_refused(self, folder: Path, text: str, message: str) -> None:
        Path("a.yaml").write_text(text)
        with pytest.raises(ValueError, match=message):
            HNLMConfig("BPR", "tiny", ["a.yaml"])

    def test_an_empty_one_holds_none_and_a_single_one_needs_no_list(self, folder: Path) -> None:
        Path("a.yaml").write_text("# nothing\n")
        Path("b.yaml").write_text("neg_sampler: dns\nlearning_rate: 1e-3\n")
        assert HNLMConfig("BPR", "tiny", ["a.yaml", "b.yaml"])["learning_rate"] == 1e-3
        assert HNLMConfig("BPR", "tiny", "b.yaml")["neg_sampler"] == "dns"  # type: ignore[arg-type]

    def test_a_missing_one_is_named(self, folder: Path) -> None:
        with pytest.raises(FileNotFoundError, match=r"there is no file b\.yaml; check --config_files"):
            HNLMConfig("BPR", "tiny", ["b.yaml"])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"epochs": "one"}, "epochs='one' should be int"),
        ({"learning_rate": "1e-3x"}, "learning_rate='1e-3x' should be float"),
        ({"train_batch_size": [2048]}, "train_batch_size=.2048. should be int"),
        (
            {"eval_args": {"split": {"RS": [0.8, 0.2]}}},
            r"RS: \[0.8, 0.2\] should be the shares of train, valid and test",
        ),
        ({"eval_args": {"split": {"RS": ["a", 1, 1]}}}, "should be the shares of train, valid and test"),
        ({"train_batch_size": 0}, "train_batch_size=0 should be at least 1"),
        ({"clip_grad_norm": 5}, r"clip_grad_norm=5 should be a mapping, e.g. {'max_norm': 5}"),
        ({"loss_decimal_place": "x"}, "loss_decimal_place='x' should be int"),
        (
            {"train_neg_sample_args": "mixgcf"},
            "train_neg_sample_args='mixgcf' should map .* neg_sampler names a sampler",
        ),
        ({"neg_sampler": "hnml"}, r"choose one of \['hnlm', 'recbole', 'none', .*did you mean 'hnlm'"),
        ({"neg_sampler": "DNS"}, "did you mean 'dns'"),
        ({"neg_sampler": "hnlm", "hnlm_base_sampler": "dnss"}, r"choose one of \['recbole', 'ahns'"),
        ({"neg_sampler": False}, "neg_sampler False should be a NegativeSampler class, its name or module:Class"),
        ({"metrics": ["AUC"], "valid_metric": "AUC"}, "Full sort evaluation do not match value-based metrics!$"),
        ({"metrics": "['Recal']"}, r"no metric named .*; a list on the command line is --metrics="),
    ],
)
def test_values_are_refused_by_their_key(tmp_path: Path, values: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        HNLMConfig("BPR", "absent", config_dict=settings(tmp_path, "BPR", **{"neg_sampler": "dns", **values}))


def test_a_sampler_of_ones_own_without_a_default_is_told(tmp_path: Path) -> None:
    import dataclasses

    options = dataclasses.make_dataclass("OwnOptions", [("rank", int)], frozen=True)
    with pytest.raises(ValueError, match="neg_sampler_rank has no value; give one, or a default in OwnOptions"):
        parse_options(options, "neg_sampler_", {})
    assert parse_options(CandidateOptions, "neg_sampler_", {}).candidates > 0


@pytest.mark.parametrize(
    ("header", "values", "message"),
    [
        (
            "user_id\titem_id\trating\ttimestamp",
            {},
            r"tiny\.inter is no atomic file .*expected name:type.*field_separator",
        ),
        (
            "user_id:token,item_id:token,rating:float,timestamp:float",
            {},
            r"tiny\.inter is no atomic file .*field_separator '\\t'",
        ),
        ("\ufeffuser_id:token\titem_id:token\trating:float\ttimestamp:float", {}, "begins with a byte order mark"),
        ("userID:token\tproductID:token\trating:float\ttimestamp:float", {}, "no column 'user_id'; set USER_ID_FIELD"),
        (
            "userID:token\tproductID:token\trating:float\ttimestamp:float",
            {"USER_ID_FIELD": "userID", "load_col": None},
            "no column 'item_id'; set ITEM_ID_FIELD to one of its columns, .*'productID'",
        ),
    ],
)
def test_interactions_that_recbole_would_not_find_are_refused(
    folder: Path, header: str, values: dict[str, Any], message: str
) -> None:
    file = folder / "tiny" / "tiny.inter"
    file.write_text("\n".join([header, *file.read_text().splitlines()[1:]]) + "\n", encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        run_recbole_hnlm("BPR", "tiny", config_dict=settings(folder, "BPR", neg_sampler="dns", epochs=1, **values))


def test_a_mark_of_byte_order_is_read_where_the_encoding_says_so(folder: Path) -> None:
    file = folder / "tiny" / "tiny.inter"
    file.write_text(file.read_text(), encoding="utf-8-sig")
    values = {"neg_sampler": "dns", "epochs": 1, "encoding": "utf-8-sig", "checkpoint_dir": str(folder / "saved")}
    assert run_recbole_hnlm("BPR", "tiny", config_dict=settings(folder, "BPR", **values))["test_result"]
