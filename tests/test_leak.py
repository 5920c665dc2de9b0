"""The leak check: honest methods pass it, planted leaks are found where they are."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import leak_plants
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from recbole_runs import ITEMS, settings, write_dataset

from recbole_hnlm import check_leak
from recbole_hnlm.artefacts import read_atomic
from recbole_hnlm.cli import main
from recbole_hnlm.config import MainConfig
from recbole_hnlm.leak import LeakCheck, LeakReport, train_as_configured
from recbole_hnlm.leak.comparing import same
from recbole_hnlm.leak.frozen import mask_fault
from recbole_hnlm.leak.poison import Pairs, poisoned
from recbole_hnlm.leak.report import Finding
from recbole_hnlm.leak.trace import file_digests, state_digests

POPULARITY = {
    "distribution": "popularity",
    "sample_num": 1,
    "alpha": 1.0,
    "dynamic": False,
    "candidate_num": 0,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("data"))


def checked(folder: Path, model: Any, train: Any = train_as_configured, **values: Any) -> LeakReport:
    return check_leak(model, "tiny", config_dict=settings(folder, model, **values), train=train)


def differing(report: LeakReport) -> list[str]:
    return [finding.compared for finding in report.findings if finding.equal is False]


@pytest.mark.parametrize(
    ("model", "values"),
    [
        ("BPR", {"neg_sampler": "dns"}),
        ("BPR", {"neg_sampler": "popularity"}),
        ("LightGCN", {"neg_sampler": "recbole"}),
        ("NeuMF", {"neg_sampler": "mixgcf"}),
        ("MultiVAE", {"neg_sampler": "none"}),
        ("EASE", {"neg_sampler": "none"}),
        ("Pop", {"neg_sampler": "none"}),
        ("LightGCN", {"neg_sampler": "hnlm", "hnlm_alpha": 0.2, "llm_teacher_epochs": 1}),
        ("BPR", {"neg_sampler": "dtl", "neg_sampler_reference_model": "BPR", "neg_sampler_reference_epochs": 1}),
        ("BPR", {"neg_sampler": "dns", "neg_sampler_guard": "tree", "neg_sampler_guard_max_score": 0.5}),
    ],
)
def test_honest_methods_pass(folder: Path, model: str, values: dict[str, Any]) -> None:
    report = checked(folder, model, **values)
    assert report.findings and not report.leaks and report.decided, report.table()
    compared = {finding.compared for finding in report.findings if finding.equal}
    assert {"weights after training", "scores of the frozen model", "items masked in test"} <= compared
    if values["neg_sampler"] not in ("none",):
        assert {"negatives, step by step", "metrics after further sampling"} <= compared
        assert "metrics without sampler and text" in compared
    makes_files = values["neg_sampler"] in ("hnlm", "dtl") or "neg_sampler_guard" in values
    assert ("files made" in compared) == makes_files
    assert report.verdict == "no leak found" and "not judged" not in report.table()


def test_hybrid_prompts_pass(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tiny base model is tuned in each world; the two reports that hold times are remarked, no vectors or weights."""
    pytest.importorskip("peft")
    monkeypatch.syspath_prepend(str(Path(__file__).parent / "llm" / "hybrid"))
    from hybrid_data import save_tiny

    own = {
        "llm_base": str(save_tiny(tmp_path / "qwen", "Qwen2")), "llm_prompt_tokens": 120, "llm_label_tokens": 64,
        "llm_precision": "float32", "llm_tune_pairs": 64, "llm_tune_evaluations": 1, "llm_tune_lora_rank": 4,
        "llm_tune_validation_pairs": 20, "llm_teacher_epochs": 1, "llm_teacher_model": "BPR", "llm_text_width": 16,
    }  # fmt: skip
    values = {**own, "neg_sampler": "hnlm", "llm_negatives": "hybrid", "hnlm_alpha": 0.2}
    config, kept = settings(folder, "BPR", **values), tmp_path / "kept"
    report = check_leak("BPR", "tiny", config_dict=config, settings=LeakCheck(epochs=1, folder=kept))
    assert report.verdict == "no leak found" and report.decided, report.table()
    equal = {finding.compared for finding in report.findings if finding.equal}
    assert {"files made", "weights after training", "negatives, step by step"} <= equal
    remarked = {note.rpartition("/")[2] for note in report.notes if "runs on the same data" in note}
    assert all(name == "hybrid.json" or re.fullmatch(r"vectors-\w+\.json", name) for name in remarked)
    assert list((kept / "true-1" / "hnlm_cache" / "hybrid").rglob("*.safetensors"))


@pytest.mark.parametrize(
    ("model", "values", "train", "first", "clean"),
    [
        ("BPR", {"neg_sampler": "recbole", "train_neg_sample_args": POPULARITY}, train_as_configured,
         "negatives, step by step", "training pairs, step by step"),
        (leak_plants.KnowingModel, {"neg_sampler": "leak_plants:SparingSampler"}, train_as_configured,
         "negatives, step by step", "weights before training"),
        (leak_plants.KnowingModel, {"neg_sampler": "leak_plants:LengtheningSampler"}, train_as_configured,
         "negatives, step by step", "training pairs, step by step"),
        (leak_plants.MaskingModel, {"neg_sampler": "dns"}, train_as_configured,
         "scores of the frozen model", "weights after training"),
        (leak_plants.CountingModel, {"neg_sampler": "dns"}, train_as_configured,
         "files made", "weights after training"),
        (leak_plants.ActivityModel, {"neg_sampler": "dns"}, train_as_configured,
         "weights before training", "training pairs, step by step"),
        ("BPR", {"neg_sampler": "dns"}, leak_plants.masks_pseudo_positives,
         "items masked in test", "items masked in validation"),
        ("BPR", {"neg_sampler": "dns"}, leak_plants.drops_test_users,
         "items masked in test", "scores of the frozen model"),
        (leak_plants.StepSensitiveModel, {"neg_sampler": "none"}, train_as_configured,
         "metrics after further sampling", "metrics on the true held-out data"),
        (leak_plants.HeadReadingModel, {"neg_sampler": "dns"}, train_as_configured,
         "metrics without sampler and text", "metrics after further sampling"),
    ],
    ids=["recbole-popularity", "spares-held-out", "lengthens-rows", "masks-in-model", "counts-all", "user-activity",
         "masks-in-loader", "drops-users",
         "steps-move-metrics", "head-moves-metrics"],
)  # fmt: skip
def test_planted_leaks_are_found(
    folder: Path, model: Any, values: dict[str, Any], train: Any, first: str, clean: str
) -> None:
    report = checked(folder, model, train, **values)
    assert report.leaks and report.decided
    assert differing(report)[0] == first, report.table()
    assert clean not in differing(report)
    assert report.verdict == f"LEAK: {first} depends on held-out data"
    found = next(finding for finding in report.findings if finding.compared == first)
    assert found.detail and found.detail in report.table()


def test_a_method_that_differs_by_itself_is_not_judged(folder: Path) -> None:
    report = checked(folder, leak_plants.RestlessModel, neg_sampler="dns")
    assert not report.decided and not report.leaks
    assert report.verdict.startswith("UNDECIDED")


def test_the_length_of_a_path_tells_the_worlds_from_each_other_by_nothing(folder: Path) -> None:
    report = checked(folder, leak_plants.PathModel, neg_sampler="dns")
    assert report.verdict == "no leak found" and report.decided, report.table()


def test_a_file_that_differs_by_chance_is_remarked_and_decides_nothing(folder: Path) -> None:
    remark = "differs between two runs on the same data too, and not judged: tiny/tiny.seconds.json"
    report = checked(folder, leak_plants.TimingModel, neg_sampler="dns")
    assert report.verdict == "no leak found" and report.decided
    assert [line for line in report.table().splitlines() if "seconds" in line] == [remark]


def test_a_leak_beside_a_file_that_differs_by_chance_is_found(folder: Path) -> None:
    report = checked(folder, leak_plants.TimingCounter, neg_sampler="dns")
    assert report.verdict == "LEAK: files made depends on held-out data"
    assert report.findings[0].detail == "tiny/tiny.counts.json"
    restless = checked(folder, leak_plants.TimingRestlessModel, neg_sampler="dns")
    assert restless.verdict.startswith("UNDECIDED") and not restless.leaks


def test_the_trace_changes_nothing(folder: Path) -> None:
    from recbole_hnlm.quick_start import build_model, prepare
    from recbole_hnlm.training.watching import watching
    from recbole.utils import get_trainer  # isort: skip

    def config() -> MainConfig:
        return MainConfig("LightGCN", "tiny", config_dict=settings(folder, "LightGCN", neg_sampler="mixgcf"))

    plain_config = config()
    loaders = prepare(plain_config)
    plain = build_model(plain_config, loaders[0])
    trainer = watching(get_trainer(plain_config["MODEL_TYPE"], "LightGCN"))(plain_config, plain)
    trainer.fit(loaders[0], None, saved=False)
    looked_on = train_as_configured(config())
    assert state_digests(looked_on.model) == state_digests(plain)
    assert len(looked_on.trace.negatives) == 2 * len(loaders[0]) > 2
    assert len(set(looked_on.trace.negatives)) == len(looked_on.trace.negatives)


def test_filters_and_labels_of_the_split_are_not_applied_again(tmp_path: Path) -> None:
    home = write_dataset(tmp_path, text=True)
    values = {"neg_sampler": "dns", "val_interval": {"rating": "[2,inf)"}, "threshold": {"rating": 3},
              "user_inter_num_interval": "[5,inf)", "item_inter_num_interval": "[3,inf)",
              "load_col": {"inter": ["user_id", "item_id", "rating", "timestamp"], "item": ["item_id", "title"]},
              "eval_args": {"split": {"RS": [0.7, 0.15, 0.15]}, "order": "TO", "group_by": "user"}}  # fmt: skip
    kept = tmp_path / "kept"
    config = settings(home, "BPR", **values)
    report = check_leak("BPR", "tiny", config_dict=config, settings=LeakCheck(epochs=1, folder=kept))
    assert not report.leaks, report.table()
    from recbole_hnlm.quick_start import split

    loaders = split(MainConfig("BPR", "tiny", config_dict=config))
    for part, loader in zip(("train", "valid", "test"), loaders, strict=True):
        dataset = loader._dataset
        ids = (dataset.inter_feat[name].numpy() for name in ("user_id", "item_id"))
        users, items = (dataset.field2id_token[name][at] for name, at in zip(("user_id", "item_id"), ids, strict=True))
        true, other = (leak_plants.rows_of(kept / world / "tiny", part) for world in ("true-1", "poison"))
        assert true == list(zip(users, items, strict=True))
        assert (set(true) & set(other) == set()) if part != "train" else true == other
    with pytest.raises(ValueError, match="should be an empty folder"):
        check_leak("BPR", "tiny", config_dict=config, settings=LeakCheck(folder=kept))


pairs_of_ids = st.lists(st.tuples(st.integers(1, 6), st.integers(1, 12)), min_size=1, max_size=30, unique=True)


@given(pairs=pairs_of_ids, cut=st.integers(1, 29), seed=st.integers(0, 5))
@example(pairs=[(1, 1), (1, 2), (1, 3), (2, 4), (2, 1), (2, 2)], cut=4, seed=1)  # the first user lacks one item
@example(pairs=[(1, 1), (1, 2), (1, 3), (2, 4), (2, 1), (2, 2)], cut=4, seed=2)
def test_poison_keeps_training_and_the_order_of_first_occurrence(
    pairs: list[tuple[int, int]], cut: int, seed: int
) -> None:
    def split(part: list[tuple[int, int]]) -> Pairs:
        ids = np.array(part, dtype=np.int64).reshape(-1, 2)
        return Pairs(ids[:, 0], ids[:, 1])

    train, held = split(pairs[:cut]), [split(pairs[cut : cut + 5]), split(pairs[cut + 5 :])]
    found, kept = poisoned(train, held, np.random.default_rng(seed))
    true_pairs = set(pairs)
    same = 0
    for before, after in zip(held, found, strict=True):
        for row in range(len(before.users)):
            old, new = ((int(side.users[row]), int(side.items[row])) for side in (before, after))
            same += old == new
            assert old == new or new not in true_pairs
            for side, known in ((0, train.users), (1, train.items)):
                assert new[side] in known if old[side] in known else new[side] == old[side]
    assert same == kept
    every = [pair for part in found for pair in zip(part.users.tolist(), part.items.tolist(), strict=True)]
    assert len(set(every)) == len(every)
    warm = set(train.items.tolist())
    for user in train.users.tolist():  # RecBole refuses users who have every item
        before, after = ({item for owner, item in side if owner == user} for side in (pairs, [*pairs[:cut], *every]))
        assert warm - after or not warm - before
    for column in ("users", "items"):
        orders = []
        for parts in (held, found):
            together = np.concatenate([getattr(part, column) for part in (train, *parts)])
            orders.append(list(dict.fromkeys(together.tolist())))
        assert orders[0] == orders[1]


def test_most_rows_of_a_real_split_are_exchanged(folder: Path) -> None:
    report = checked(folder, "BPR", neg_sampler="dns")
    assert report.notes[-1].startswith("120 of 120 held-out pairs were exchanged")


def test_only_recboles_own_logs_and_checkpoints_are_left_out(tmp_path: Path) -> None:
    for name in ("log/BPR/a.log", "log_tensorboard/b", "saved/c.pth", "saved/f.npy", "logits/d.npy", "e.bin", "input"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert list(file_digests(tmp_path, {tmp_path / "input"})) == ["e.bin", "logits/d.npy", "saved/f.npy"]


def test_files_from_outside_are_named(folder: Path, tmp_path: Path) -> None:
    prepared = tmp_path / "outside" / "clusters.npy"
    prepared.parent.mkdir()
    prepared.write_bytes(b"made of who knows what")
    report = checked(folder, "BPR", neg_sampler="dns", clusters_of_mine=str(prepared))
    assert f"given from outside and not judged: clusters_of_mine={prepared}" in report.table()


def test_command_line_and_status(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    import yaml

    values = {**settings(folder, "BPR"), "epochs": 50}
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(values))

    def run(*arguments: str) -> int:
        given = ["check-leak", "--dataset=tiny", f"--config_files={tmp_path / 'own.yaml'}", *arguments]
        monkeypatch.setattr("sys.argv", ["recbole-hnlm", *given])
        try:
            main(given)
        except SystemExit as ended:
            return int(ended.code or 0)
        return 0

    assert run("--model=BPR", "--neg_sampler=dns", "--epochs=1") == 0
    assert "1 epochs" in capsys.readouterr().out
    assert run("--model=leak_plants:KnowingModel", "--neg_sampler=leak_plants:SparingSampler") == 1
    told = capsys.readouterr().out
    assert "DIFFERS" in told and "LEAK: negatives, step by step" in told and "2 epochs" in told
    assert run("--model=leak_plants:Nobody", "--neg_sampler=dns") == 2
    assert "model 'leak_plants:Nobody' cannot be imported" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"eval_args": {"split": {"RS": [0.8, 0.0, 0.2]}}}, "needs validation and test pairs"),
        ({"neg_sampler_candidate": 3}, "did you mean 'neg_sampler_candidates'"),
    ],
)
def test_what_cannot_be_checked_is_refused(folder: Path, values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        checked(folder, "BPR", neg_sampler="dns", **values)


def test_settings_and_report_by_hand() -> None:
    with pytest.raises(ValueError, match="epochs=0 must be at least 1"):
        LeakCheck(epochs=0)
    report = LeakReport("M", [Finding("a", True), Finding("b", False, "x"), Finding("c", None)])
    assert report.leaks and "| b        | DIFFERS | x" in report.table()
    assert not report.with_repeat([Finding("b", False)]).leaks
    assert report.with_repeat([Finding("b", True)]).leaks


def test_two_sides_by_hand() -> None:
    assert same("a", None, None).equal is None
    assert same("a", ["x", "y"], ["x", "y"]).equal and same("a", {"x": 1}, {"x": 1}).equal
    for first, second, detail in (
        (None, ["x"], "only one of the runs has any"),
        ({"x": 1}, None, "only one of the runs has any"),
        (["x"], ["x", "y"], "1 and 2 in number"),
        (["x", "z"], ["x", "y"], "number 2 of 2"),
        ({"x": 1.0}, {"x": 2.0, "y": 3.0}, "x (1.0 and 2.0) and 1 more"),
    ):
        assert same("a", first, second) == Finding("a", False, detail)


def test_masks_by_hand() -> None:
    """The first user takes item 5 again, so RecBole asks for it and does not mask it."""
    seen = Pairs(np.array([1, 1, 2]), np.array([3, 5, 4]))
    positives = Pairs(np.array([1, 1, 2]), np.array([5, 6, 7]))

    def fault(asked: dict[int, list[int]], masked: dict[int, list[int]]) -> str | None:
        sides = ({user: torch.tensor(items) for user, items in side.items()} for side in (asked, masked))
        loader = SimpleNamespace(uid_list=torch.tensor([*asked]))
        loader.uid2positive_item, loader.uid2history_item = sides
        return mask_fault(loader, seen, positives)

    asked, masked = {1: [5, 6], 2: [7]}, {1: [3], 2: [4]}
    assert fault(asked, masked) is None
    assert fault({**asked, 2: [7, 8]}, masked) == "user 2: 1 items too many are asked for, 0 too few"
    assert fault({**asked, 1: [5]}, masked) == "user 1: 0 items too many are asked for, 1 too few"
    assert fault(asked, {**masked, 1: [3, 5]}) == "user 1: 1 items too many are masked, 0 too few"
    assert fault(asked, {**masked, 2: []}) == "user 2: 0 items too many are masked, 1 too few"


def test_what_is_kept_of_the_true_data_is_not_read_in_the_other_world(folder: Path, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    values = {"neg_sampler": "hnlm", "hnlm_alpha": 0.2, "llm_teacher_epochs": 1, "llm_cache_dir": str(kept)}
    report = checked(folder, leak_plants.CachingModel, **values)
    assert report.verdict == "LEAK: files made depends on held-out data" and not kept.exists()


def test_the_methods_own_loaders_are_evaluated_with(folder: Path) -> None:
    report = checked(folder, "BPR", leak_plants.masks_all_but_positives, neg_sampler="dns")
    assert "metrics with the method's own loaders" in differing(report)


def test_what_further_steps_leave_in_the_state_is_put_back(folder: Path) -> None:
    report = checked(folder, leak_plants.BufferedModel, neg_sampler="none")
    assert report.verdict == "no leak found", report.table()


def test_what_further_steps_leave_beside_the_state_is_put_back(folder: Path) -> None:
    report = checked(folder, leak_plants.PlainBufferedModel, neg_sampler="none")
    assert report.verdict == "no leak found", report.table()


def test_scores_that_differ_by_chance_alone_are_no_leak(folder: Path) -> None:
    report = checked(folder, leak_plants.NoisyScores, neg_sampler="none")
    assert not report.decided and report.verdict.startswith("UNDECIDED"), report.table()


def test_whatever_the_settings_rank_everything_is_ranked(folder: Path) -> None:
    sampled = {"split": {"RS": [0.8, 0.1, 0.1]}, "order": "RO", "group_by": "user", "mode": "uni20"}
    report = checked(folder, "BPR", neg_sampler="dns", eval_args=sampled)
    assert not report.leaks
    assert "items masked in test" in {finding.compared for finding in report.findings if finding.equal}


def test_worlds_have_side_files_of_known_items_and_shuffled_numbers(tmp_path: Path) -> None:
    home = write_dataset(tmp_path, text=True)
    with (home / "tiny" / "tiny.item").open("a") as lines:
        lines.write("nobody\tnever bought\tmaker0\n")
    quoted = (home / "tiny" / "tiny.item").read_text().replace("\ni9\t", '\n"i9"\t')  # RecBole reads i9
    quoted = quoted.replace("\ni11\t", '\ni11\t"').replace("number 11\t", 'number\t11\n\nelf"\t')
    (home / "tiny" / "tiny.item").write_text(quoted)
    (home / "tiny" / "tiny.kg").write_text("head_id:token\trelation_id:token\ttail_id:token\na\tb\tc\n")
    columns = {"inter": ["user_id", "item_id", "rating"], "item": ["item_id", "title"]}
    config = settings(home, "BPR", neg_sampler="dns", load_col=columns, item_inter_num_interval="[1,inf)")
    for seed in (0, 1):
        check = LeakCheck(epochs=1, folder=tmp_path / f"kept{seed}", seed=seed)
        assert not check_leak("BPR", "tiny", config_dict=config, settings=check).leaks

    def split(seed: int, world: str, part: str) -> pd.DataFrame:
        return pd.read_csv(tmp_path / f"kept{seed}" / world / "tiny" / f"tiny.{part}.inter", sep="\t")

    for world in ("true-1", "poison"):
        there = tmp_path / "kept0" / world / "tiny"
        assert (there / "tiny.kg").read_text() == (home / "tiny" / "tiny.kg").read_text()
        assert "\ni7\t" in (there / "tiny.item").read_text() and "nobody" not in (there / "tiny.item").read_text()
        table = read_atomic(there / "tiny.item")
        assert len(table) == ITEMS and "i9" in table.column("item_id")
        assert sum(title.endswith("number\t11\n\nelf") for title in table.column("title")) == 1
        assert split(0, world, "train").equals(split(1, world, "train"))
    for part in ("valid", "test"):
        true, other = (split(0, world, part)["rating:float"].tolist() for world in ("true-1", "poison"))
        assert true != other and sorted(true) == sorted(other)
        first, second = (split(seed, "poison", part).drop(columns="rating:float") for seed in (0, 1))
        assert not first.equals(second)
