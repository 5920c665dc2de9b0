"""Runs of the openai backend in processes of their own: with many faults, and killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("openai")

import chat_run
import scripted_server

KEY = "sk-very-secret-0123456789"


@pytest.fixture
def server() -> Iterator[str]:
    """Address of a server in a process of its own."""
    process = subprocess.Popen([sys.executable, scripted_server.__file__], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    yield f"http://127.0.0.1:{int(process.stdout.readline())}"
    process.kill()
    process.wait()


def start(server: str, folder: Path, count: int, concurrency: int, level: str = "DEBUG") -> subprocess.Popen[str]:
    arguments = [chat_run.__file__, f"{server}/v1", str(folder), str(count), str(concurrency), level]
    environment = {**os.environ, "OPENAI_API_KEY": KEY}

    def hears_interrupts() -> (
        None
    ):  # tests that a shell runs in the background have them ignored, and so their children
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    return subprocess.Popen(
        [sys.executable, *arguments], stdout=subprocess.PIPE, text=True, env=environment, preexec_fn=hears_interrupts
    )


def finish(process: subprocess.Popen[str], folder: Path) -> dict[str, tuple[str, bool]]:
    """Replies of a run that ends by itself: text, and whether it was known before."""
    process.communicate(timeout=120)
    assert process.returncode == 0
    lines = [json.loads(line) for line in (folder / f"replies-{process.pid}.txt").read_text().splitlines()]
    assert len({key for key, _, _ in lines}) == len(lines)
    return {key: (text, cached) for key, text, cached in lines}


def stats(server: str) -> Any:
    with urllib.request.urlopen(f"{server}/stats") as reply:
        return json.load(reply)


def expected(count: int) -> dict[str, str]:
    return {f"k{number}": f"answer to {chat_run.prompt(number)}" for number in range(count)}


def assert_no_key(folder: Path) -> None:
    """No file that a run left holds the key; answers are packed, but a key would be found in a log or a request."""
    found = [path for path in folder.rglob("*") if path.is_file()]
    assert {"run.log", "chat_replies.sqlite"} <= {path.name for path in found}
    assert not [path for path in found if KEY.encode() in path.read_bytes()]


@pytest.mark.slow
def test_ten_thousand_requests_with_faults_lose_nothing(server: str, tmp_path: Path) -> None:
    """One in twenty meets a fault; nothing is lost, nothing asked again after its answer, the key is nowhere."""
    count = 10_000
    replies = finish(start(server, tmp_path, count, 64, "INFO"), tmp_path)
    assert {key: text for key, (text, _) in replies.items()} == expected(count)
    seen = stats(server)
    assert sum(seen["answered"].values()) == count and set(seen["answered"].values()) == {1}
    faults = sum(len(chat_run.prompt(n).split("]]")[0].split(",")) for n in range(3, count, 20))
    assert sum(seen["asked"].values()) == count + faults
    assert seen["keys"] == ["", f"Bearer {KEY}"]  # "" is this test's own question for the counts
    assert_no_key(tmp_path)


@pytest.mark.slow
def test_two_processes_share_a_cache(server: str, tmp_path: Path) -> None:
    """At the same moment both may ask; whoever keeps an answer first is who both of them believe afterwards."""
    processes = [start(server, tmp_path, 200, 4) for _ in range(2)]
    for process in processes:
        assert {key: text for key, (text, _) in finish(process, tmp_path).items()} == expected(200)
    assert set(stats(server)["answered"].values()) <= {1, 2}
    replies = finish(start(server, tmp_path, 200, 4), tmp_path)
    assert all(cached for _, cached in replies.values())


@pytest.mark.slow
def test_an_interrupted_run_keeps_all_that_was_answered(server: str, tmp_path: Path) -> None:
    """Ctrl-C waits for what is on its way, so that not even that is asked again."""
    process = start(server, tmp_path, 3000, 8)
    assert process.stdout is not None
    for _ in range(100):
        process.stdout.readline()
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode not in (0, -signal.SIGKILL)
    assert "answered / known before" in (tmp_path / "run.log").read_text()
    count = sum(stats(server)["answered"].values())
    assert 100 <= count < 2500
    finish(start(server, tmp_path, count, 8), tmp_path)
    assert set(stats(server)["answered"].values()) == {1}


@pytest.mark.parametrize("handed_out", [1, 120, 270])
def test_a_killed_run_takes_up_where_it_stood(server: str, tmp_path: Path, handed_out: int) -> None:
    count, concurrency = 300, 8
    process = start(server, tmp_path, count, concurrency)
    assert process.stdout is not None
    got = [process.stdout.readline().strip() for _ in range(handed_out)]
    os.kill(process.pid, signal.SIGKILL)
    got += process.stdout.read().split("\n")[:-1]
    process.wait()
    assert process.returncode == -signal.SIGKILL and len(got) < count
    before = stats(server)["asked"]
    replies = finish(start(server, tmp_path, count, concurrency), tmp_path)
    assert {key: text for key, (text, _) in replies.items()} == expected(count)
    assert all(replies[key][1] for key in got)
    after = stats(server)
    assert not [key for key in got if after["asked"][(p := chat_run.prompt(int(key[1:])))] != before[p]]
    assert sum(after["answered"].values()) - count <= concurrency  # on their way when the process died
    assert_no_key(tmp_path)  # nor in the finest log
