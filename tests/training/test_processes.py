"""Training in several processes, with real ones over gloo: what they must agree on, and how they fail."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import group_runs
import pytest
import torch
from group_runs import FIXED, fitted, run_group
from recbole_runs import USERS, settings, write_dataset

from recbole_hnlm import launch as launch_module
from recbole_hnlm.config import HNLMConfig
from recbole_hnlm.launch import launch
from recbole_hnlm.training import groups, processes
from recbole_hnlm.training.processes import backend_of

ROOT = Path(__file__).parents[2]
QUIET = {"shuffle": False, "train_batch_size": 64}
EVERY_METRIC = ["Recall", "MRR", "NDCG", "Hit", "MAP", "Precision", "GAUC", "ShannonEntropy"]
"""All that RecBole 1.2.1 computes for ranking; its coverage and Gini index die in ``int.cpu()``."""
RUNS: dict[str, tuple[str, dict[str, Any]]] = {
    "fixed": ("LightGCN", {"neg_sampler": FIXED, "epochs": 3, "metrics": EVERY_METRIC, **QUIET}),
    "pointwise": ("NeuMF", {"neg_sampler": FIXED, "epochs": 2, "learner": "sgd", "dropout_prob": 0.0, **QUIET}),
    "dns": ("BPR", {"neg_sampler": "dns", "epochs": 2}),
    "stops": ("LightGCN", {"neg_sampler": "mixgcf", "epochs": 40, "stopping_step": 1, "learning_rate": 0.05}),
    "recbole": ("BPR", {"neg_sampler": "none", "epochs": 2}),
}  # fmt: skip
EVALS: list[dict[str, Any]] = [
    {"metrics": EVERY_METRIC, "eval_batch_size": 900},
    {"metrics": EVERY_METRIC, "eval_batch_size": 100_000},
    {"metrics": ["AUC", "LogLoss"], "valid_metric": "AUC", "threshold": {"rating": 3},
     "load_col": {"inter": ["user_id", "item_id", "rating"]},
     "eval_args": {"split": {"RS": [0.8, 0.1, 0.1]}, "order": "RO", "mode": "labeled"}},
]  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Without the last user, so that the users cannot be shared out evenly; the training pairs can."""
    folder = write_dataset(tmp_path_factory.mktemp("data"))
    path = folder / "tiny" / "tiny.inter"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(line for line in lines if not line.startswith(f"u{USERS - 1}\t")))
    return folder


@pytest.fixture(scope="module")
def alone(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The same runs and evaluations in one process."""
    home = tmp_path_factory.mktemp("alone")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        patch.setattr(sys, "argv", ["pytest"])
        trained = {name: fitted({}, data, *RUNS[name]) for name in ("fixed", "pointwise", "dns")}
        checkpoint = str(home / trained["dns"]["agreed"]["checkpoint"])
        return {
            "trained": trained,
            "checkpoint": checkpoint,
            "metrics": group_runs.evaluate_checkpoint(0, {}, data, checkpoint, EVALS),
        }


@pytest.fixture(scope="module")
def ranks(data: Path, alone: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """What two processes answered: runs, a resumed run, evaluations."""
    home = tmp_path_factory.mktemp("ranks")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        patch.setattr(sys, "argv", ["pytest"])
        results = run_group(group_runs.train_and_evaluate, data, RUNS, alone["checkpoint"], EVALS)
    return [*results, home]


class TestTraining:
    @pytest.mark.parametrize("name", RUNS)
    def test_ranks_agree_after_every_epoch(self, ranks: list[Any], name: str) -> None:
        first, second = (rank[0][name]["agreed"] for rank in ranks[:2])
        assert first == second
        assert len(set(first["digests"])) == len(first["digests"]) > 1, "training did not change anything"

    @pytest.mark.parametrize("name", ["fixed", "pointwise"])
    def test_two_processes_are_one_process_on_their_union(
        self, ranks: list[Any], alone: dict[str, Any], name: str
    ) -> None:
        """Gradients are averaged: with negatives that do not depend on the process, the weights are those of one."""
        together, one = ranks[0][0][name], alone["trained"][name]
        for key, weight in one["weights"].items():
            torch.testing.assert_close(together["weights"][key], weight, rtol=1e-4, atol=1e-5)
        for epoch, loss in one["agreed"]["losses"].items():
            assert together["agreed"]["losses"][epoch] == pytest.approx(loss, rel=1e-5)

    @pytest.mark.parametrize("name", ["fixed", "dns", "recbole"])
    def test_each_pair_is_seen_once(self, ranks: list[Any], name: str) -> None:
        own = [Counter(rank[0][name]["pairs"]) for rank in ranks[:2]]
        total = own[0] + own[1]
        size = ranks[0][0][name]["split"]
        assert total.total() == size + size % 2, "padded to equal shares"
        assert len(total) == size and not (size % 2 == 0 and own[0] & own[1])

    def test_batches_are_shares_of_one_batch(self, ranks: list[Any], alone: dict[str, Any]) -> None:
        """``train_batch_size`` counts the rows of all processes, as in RecBole."""
        assert ranks[0][0]["fixed"]["agreed"]["batch"] == (2, alone["trained"]["fixed"]["agreed"]["batch"][1])

    def test_ranks_draw_different_negatives(self, ranks: list[Any]) -> None:
        for run in (lambda rank: rank[0]["dns"], lambda rank: rank[1]):  # from the start, and resumed
            first, second = (run(rank)["generator"] for rank in ranks[:2])
            assert len(first) > 0 and first != second

    def test_resuming_goes_on_in_agreement(self, ranks: list[Any]) -> None:
        first, second = (rank[1]["agreed"] for rank in ranks[:2])
        before = ranks[0][0]["dns"]["agreed"]
        assert first == second and len(first["digests"]) == 4 - (before["best_epoch"] + 1) > 0
        assert first["checkpoint"] == before["checkpoint"]

    def test_early_stopping_stops_all(self, ranks: list[Any]) -> None:
        agreed = ranks[0][0]["stops"]["agreed"]
        assert 2 < len(agreed["digests"]) < 40 and agreed["best_epoch"] == len(agreed["digests"]) - 3

    def test_the_first_rank_alone_writes(self, ranks: list[Any]) -> None:
        home: Path = ranks[2]
        saved = {path.name for path in (home / "saved").iterdir()}
        assert saved == {Path(ranks[0][0][name]["agreed"]["checkpoint"]).name for name in RUNS}
        writers = {path.name.split(".")[-2] for path in (home / "log_tensorboard").rglob("events*")}
        assert len(writers) == 1, "process ids in the names of the event files"
        assert not [path for path in (home / "log_tensorboard").iterdir() if path.name.startswith("model-")]
        assert len(list((home / "log").rglob("*.log"))) <= len(RUNS) + 1 + len(EVALS)


class TestEvaluation:
    @pytest.mark.parametrize("index", range(len(EVALS)))
    def test_metrics_of_a_checkpoint_are_those_of_one_process(
        self, ranks: list[Any], alone: dict[str, Any], index: int
    ) -> None:
        one = alone["metrics"][index]
        assert ranks[0][2][index] == ranks[1][2][index]
        assert ranks[0][2][index] == pytest.approx(one, rel=1e-6)
        assert len(set(one.values())) > 1

    def test_padding_is_taken_back(self) -> None:
        from recbole_hnlm.training.groups import _dealt_back

        rows = torch.arange(7).unsqueeze(1)
        assert torch.equal(_dealt_back([rows[0::3], rows[1::3], rows[2::3]], 7), rows)
        assert torch.equal(_dealt_back([rows[:4], rows[4:]], 2), rows)


class TestNames:
    ALONE = {"single_spec": True, "offset": 0}

    def test_runs_of_a_second_in_one_process(self) -> None:
        """Named before a file of them is written; a file with the second name is there already."""
        own = f"saved/BPR-{os.getpid()}"
        Path("saved").mkdir()
        Path(f"{own}-2.pth").touch()
        names = [groups.checkpoint_name(self.ALONE, "saved/BPR.pth") for _ in range(3)]
        assert names == [f"{own}.pth", f"{own}-3.pth", f"{own}-4.pth"]
        assert groups.checkpoint_name(self.ALONE, "saved/NGCF.pth") == f"saved/NGCF-{os.getpid()}.pth"

    def test_threads(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(os.path, "exists", lambda path: time.sleep(0.005) or False)  # all look before one has it
        with ThreadPoolExecutor(8) as pool:
            names = list(pool.map(lambda _: groups.checkpoint_name(self.ALONE, "BPR.pth"), range(16)))
        assert len(set(names)) == 16

    def test_ranks_take_the_first_ones_and_hosts_their_own(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(groups, "shared", lambda config, name: "first")
        names = [groups.checkpoint_name({"single_spec": False, "offset": offset}, "BPR.pth") for offset in (0, 0, 4)]
        assert names == ["first.pth", "first.pth", "first-host4.pth"]


class TestFailing:
    def test_all_ranks_learn_how_the_first_ones_work_ended(self, data: Path) -> None:
        """Also when its process dies, which must not leave the other waiting."""
        first, second = run_group(group_runs.all_endings, data)
        assert first == ["whole0", "FileNotFoundError: no such profile; write it", "ZeroDivisionError: by nought"]
        assert second[:3] == ["whole1", "FileNotFoundError: no such profile; write it", "RuntimeError: by nought"]
        assert "the first process ended while the others waited" in second[3]

    def test_a_failed_build_ends_the_run_with_its_message(self, data: Path) -> None:
        values = settings(data, "BPR", neg_sampler="hnlm", llm_text_fields=["titel"], hnlm_rebuild=True)
        started = time.monotonic()
        with pytest.raises(ValueError, match="titel"):
            launch("BPR", "tiny", None, values, {"nproc": 2})
        assert time.monotonic() - started < group_runs.DEADLINE

    @pytest.mark.parametrize(
        ("group", "message"),
        [
            ({"nproc": 2, "world_size": 1}, "does not fit into world_size=1; world_size counts"),
            ({"nproc": 2, "world_size": 3, "group_offset": 2}, "from rank group_offset=2 on does not fit"),
            ({"nproc": 0, "world_size": 1}, "nproc=0"),
        ],
    )
    def test_groups_that_cannot_be(self, data: Path, group: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            launch("BPR", "tiny", None, settings(data, "BPR"), group)

    def test_what_can_be_known_is_told_before_a_process_starts(
        self, data: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def never(*_: Any, **__: Any) -> None:
            raise AssertionError("a process was started")

        monkeypatch.setattr(launch_module, "_spawn", never)
        with pytest.raises(FileNotFoundError, match="nowhere"):
            launch("BPR", "nowhere", None, settings(data, "BPR"), {"nproc": 2})
        with pytest.raises(ValueError, match="did you mean"):
            launch("BPR", "tiny", None, settings(data, "BPR", neg_sampler="dsn"), {"nproc": 2})
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
        with pytest.raises(ValueError, match=r"nproc=2 needs as many CUDA devices.*--gpu_id=0,1.*--use_gpu=False"):
            launch("BPR", "tiny", None, settings(data, "BPR", use_gpu=True), {"nproc": 2})

    def test_backend(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
        cuda = {"gpu_id": "0,1", "use_gpu": True, "nproc": 2}
        assert backend_of(cuda) == "nccl"
        assert backend_of({**cuda, "use_gpu": False}) == backend_of({**cuda, "gpu_id": ""}) == "gloo"
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        assert backend_of(cuda) == "gloo"

    def test_torchrun_and_nproc_exclude_each_other(self, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        place = {"RANK": 1, "LOCAL_RANK": 1, "WORLD_SIZE": 2, "MASTER_ADDR": "localhost", "MASTER_PORT": 1}
        for name, value in place.items():
            monkeypatch.setenv(name, str(value))
        with pytest.raises(ValueError, match="torchrun has started the processes already"):
            launch("BPR", "tiny", None, settings(data, "BPR"), {"nproc": 2})

    def test_a_model_without_gradients(self, data: Path) -> None:
        values = {**settings(data, "Pop"), "local_rank": 0}
        with pytest.raises(ValueError, match="Pop has no gradients to average over processes; run it with --nproc=1"):
            HNLMConfig("Pop", "tiny", config_dict=values)

    def test_a_rank_without_a_group_is_an_error(self) -> None:
        with pytest.raises(ValueError, match="local_rank=1 without nproc, .*start with --nproc"):
            processes.join_group({"local_rank": 1, "gpu_id": "0", "use_gpu": False})


def flags(data: Path) -> list[str]:
    words = "--model=BPR --dataset=tiny --use_gpu=False --show_progress=False --epochs=2 --llm_teacher_epochs=1"
    return [
        *words.split(),
        f"--data_path={data}",
        "--hnlm_alpha=0.1",
        "--hnlm_min_coverage=0.1",
        "--topk=5",
        "--valid_metric=NDCG@5",
    ]


def environment() -> dict[str, str]:
    """Of a command line: a thread a process, our package, no devices."""
    return {**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}


class TestStarting:
    @pytest.mark.slow
    def test_command_line(self, tmp_path: Path) -> None:
        """Artefacts built once, both processes train, one result is told."""
        folder = write_dataset(tmp_path)
        words = [sys.executable, str(ROOT / "run_recbole_hnlm.py"), "--nproc=2", *flags(folder)]
        done = subprocess.run(
            words, capture_output=True, text=True, env=environment(), timeout=group_runs.DEADLINE, check=False
        )
        assert done.returncode == 0, done.stderr
        told = done.stdout + done.stderr
        assert told.count("| BPR, hnlm(dns)") == 1 and told.count("building hard negatives of tiny") == 1
        assert len(list(Path("saved").iterdir())) == len(list(Path("log/BPR").iterdir())) == 1
        assert json.loads((folder / "tiny" / "tiny.hnlm.json").read_text())["rows"] > 0

    @pytest.mark.slow
    def test_torchrun(self, tmp_path: Path) -> None:
        """Two runs in one group: the base and the wrapped model."""
        folder = write_dataset(tmp_path)
        words = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
        done = subprocess.run(
            [*words, str(ROOT / "run_recbole_hnlm.py"), "--compare_base", *flags(folder)],
            capture_output=True, text=True, env=environment(), timeout=group_runs.DEADLINE, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        told = done.stdout + done.stderr
        assert told.count("| BPR, hnlm(dns)") == 1 and told.count("| BPR, RecBole") == 1
        assert len(list(Path("saved").iterdir())) == 2

    @pytest.mark.slow
    def test_recboles_own_run_after_register(self, data: Path) -> None:
        import recbole_hnlm

        recbole_hnlm.register()
        try:
            from recbole.quick_start.quick_start import run

            values = settings(data, "BPR", neg_sampler="dns", epochs=2)
            result = run("BPR", "tiny", config_dict=dict(values), nproc=2, port=processes.free_port())
        finally:
            recbole_hnlm.unregister()
        ours = launch("BPR", "tiny", None, values, {"nproc": 2})
        assert ours is not None and result["test_result"] == ours["test_result"]
        assert result["best_valid_score"] == ours["best_valid_score"]
        assert ours["hnlm"]["epochs"] == 2 == len(ours["hnlm"]["negatives"]) and ours["hnlm"]["seconds_per_epoch"] > 0
        assert Path(ours["hnlm"]["checkpoint"]).is_file()
