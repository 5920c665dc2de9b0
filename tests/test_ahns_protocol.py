"""The AHNS authors' protocol: their file format, their penalty, and the whole script on a small split."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from recbole.model.loss import EmbLoss

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "examples"))
import ahns_protocol  # noqa: E402
from ahns_protocol import Counts, convert, main, protocol, read_lists  # noqa: E402

TRAIN = "0 5 9 5 7\n\n2 9\n 3  7 5 \n4\n"
TEST = "0 7 20\n3 9 9\n7 5\n2\n"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    (tmp_path / "train.txt").write_text(TRAIN)
    (tmp_path / "test.txt").write_text(TEST)
    return tmp_path


def test_lists_become_pairs(source: Path, tmp_path: Path) -> None:
    pairs = list(read_lists(source / "train.txt"))
    assert pairs == [("0", "5"), ("0", "9"), ("0", "5"), ("0", "7"), ("2", "9"), ("3", "7"), ("3", "5")]
    counts = convert(source, tmp_path / "out", "some")
    assert counts == Counts(users=3, items=4, train=6, test=3, repeated=2, in_both=1, unseen_users=1)
    written = {part: (tmp_path / "out" / "some" / f"some.{part}.inter").read_text() for part in ("train", "test")}
    assert written["train"] == "user_id:token\titem_id:token\n0\t5\n0\t9\n0\t7\n2\t9\n3\t7\n3\t5\n"
    assert written["test"] == "user_id:token\titem_id:token\n0\t20\n3\t9\n7\t5\n"


@pytest.mark.parametrize(
    ("train", "test", "message"),
    [
        ("0 5 x\n", TEST, "line 1 of .*train.txt should be whole numbers"),
        ("0 5\n1,2 3\n", TEST, "line 2 of .*got '1,2 3"),
        ("\n0\n", TEST, "train.txt leaves no pair"),
        (TRAIN, "0 5\n", "test.txt leaves no pair"),
    ],
)
def test_what_is_no_list_of_ids_is_refused(tmp_path: Path, train: str, test: str, message: str) -> None:
    (tmp_path / "train.txt").write_text(train)
    (tmp_path / "test.txt").write_text(test)
    with pytest.raises(ValueError, match=message):
        convert(tmp_path, tmp_path / "out", "some")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"train\.txt; the protocol needs train\.txt and test\.txt"):
        convert(tmp_path, tmp_path / "out", "some")


def test_recboles_penalty_is_half_the_squares_over_b_only_with_require_pow() -> None:
    rows = [torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) for seed in range(3)]
    squares = 0.0
    for table in rows:
        for row in table.tolist():
            for entry in row:
                squares += entry * entry
    penalty = EmbLoss()
    assert float(penalty(*rows, require_pow=True)) == pytest.approx(squares / 2 / 5, rel=1e-6)
    assert float(penalty(*rows)) != pytest.approx(squares / 2 / 5, rel=0.1)


def _split(folder: Path) -> Path:
    """Two tastes, a tenth of the pairs in the test, ids with gaps, one user without test items."""
    random, lines = np.random.default_rng(0), {"train": [], "test": []}
    for user in range(40):
        taste = 3 * random.choice(np.arange(user % 2, 60, 2), 15, replace=False)
        lines["train"].append(" ".join(map(str, [2 * user, *taste[:12]])))
        lines["test"].append(" ".join(map(str, [2 * user, *(taste[12:] if user else [])])))
    for part, rows in lines.items():
        (folder / f"{part}.txt").write_text("\n".join(rows) + "\n")
    return folder


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _split(tmp_path_factory.mktemp("lists"))


def test_the_settings_are_the_protocols(tmp_path: Path) -> None:
    values = protocol(tmp_path, "phones", "ahns", {"neg_sampler_shift": 0.5})
    wanted = {"embedding_size": 64, "learning_rate": 1e-3, "train_batch_size": 2048, "reg_weight": 1e-4, "seed": 2022,
              "neg_sampler_candidates": 32, "eval_step": 5, "neg_sampler_shift": 0.5}  # fmt: skip
    assert wanted.items() <= values.items()
    assert values["benchmark_filename"] == ["train", "test", "test"]
    assert "neg_sampler_candidates" not in protocol(tmp_path, "phones", "uniform", {})


@pytest.mark.parametrize("sampler", ["uniform", "ahns", "mixgcf"])
def test_the_loss_is_bpr_plus_the_penalty(small: Path, tmp_path: Path, sampler: str) -> None:
    from recbole_hnlm.compare.plan import CompareConfig
    from recbole_hnlm.quick_start import build_model, prepare

    convert(small, tmp_path, "lists")
    values = protocol(tmp_path, "lists", sampler, {"reg_weight": 0.5, "state": "ERROR", "use_gpu": False})
    config = CompareConfig(ahns_protocol.RegularisedBPR, "lists", config_dict=values)
    loaders = prepare(config)
    model = build_model(config, loaders[0])
    bound = (6 / (model.n_users + 64)) ** 0.5
    assert 0.9 * bound < float(model.user_embedding.weight.detach().abs().max()) <= bound
    batch = next(iter(loaders[0]))
    users, items = batch["user_id"], batch["item_id"]
    seen: list[Any] = []
    keep = model.half_squares.register_forward_hook(lambda module, rows, result: seen.append(rows))
    loss = model.calculate_loss(batch)
    keep.remove()
    user, positive, negative = (rows.detach().double().numpy() for rows in seen[0])
    assert np.array_equal(user, model.user_embedding.weight[users].detach().double().numpy())
    assert np.array_equal(positive, model.item_embedding.weight[items].detach().double().numpy())
    total = 0.0
    for u, i, j in zip(user, positive, negative, strict=True):
        total += np.log1p(np.exp(u @ j - u @ i)) + 0.5 * (u @ u + i @ i + j @ j) / 2
    assert float(loss.detach()) == pytest.approx(total / len(user), rel=1e-5)


def test_the_whole_script(small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [f"--data={small}", "--name=phones", f"--work={tmp_path / 'work'}"]
    options = ["epochs=60", "learning_rate=0.02", "state=ERROR", "use_gpu=false", "eval_step=5"]
    result = main([*arguments, "--sampler=ahns", *options])
    told = capsys.readouterr().out
    assert told.count("THE EPOCH IS CHOSEN ON THE TEST PAIRS") == 2
    assert "| phones, ahns, published | 0.1304 | 0.0711 |" in told
    assert f"| phones, ahns, this run | {result['test_result']['recall@20']:.4f} |" in told
    assert result["best_valid_result"] == result["test_result"]
    assert result["test_result"]["recall@20"] > 0.5  # a third of the items, were it by chance
    assert (result["hnlm"]["best_epoch"] + 1) % 5 == 0


def test_options_without_a_value_are_refused(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main([f"--data={small}", "--name=mine", "epochs", "3", "state=ERROR"])
    assert "cannot read epochs 3; further settings are written key=value" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--sampler=ahsn"], "unknown neg_sampler 'ahsn'.*did you mean 'ahns'"),
        (["neg_sampler_slop=1"], "unknown option 'neg_sampler_slop'.*did you mean 'neg_sampler_slope'"),
        (["epochs=2"], "epochs=2 ends before the first evaluation; eval_step is 5"),
        (["--data=nowhere"], "no nowhere/train.txt; the protocol needs"),
    ],
)
def test_a_users_error_is_one_line(
    arguments: list[str], message: str, small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main([f"--data={small}", "--name=small", f"--work={tmp_path / 'work'}", *arguments])
    assert re.search(message, capsys.readouterr().err)


def test_it_stops_after_ten_evaluations_without_gain(
    small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [f"--data={small}", "--name=mine", f"--work={tmp_path / 'work'}", "--sampler=uniform"]
    result = main([*arguments, "learning_rate=0.1", "state=ERROR", "use_gpu=false", "epochs=600"])
    assert result["hnlm"]["epochs"] == result["hnlm"]["best_epoch"] + 1 + 10 * 5
    assert "no published figure for uniform on mine" in capsys.readouterr().out
