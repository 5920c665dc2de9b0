"""Kept answers: found again, never lost once kept, and what is damaged is cut off."""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from recbole_hnlm.llm.backends import salvage
from recbole_hnlm.llm.backends.outcome import Answer
from recbole_hnlm.llm.backends.reply_cache import FILE_NAME, ReplyCache, request_digest
from recbole_hnlm.llm.chat import ChatRequest


def digest(number: int) -> bytes:
    return number.to_bytes(8, "big") * 2


def answer(number: int) -> Answer:
    return Answer(f"text {number} " + "lorem ipsum " * 20 + str(number**7), prompt_tokens=number, final=True)


def filled(folder: Path, count: int) -> ReplyCache:
    cache = ReplyCache(folder)
    for start in range(0, count, 100):
        cache.put((digest(number), answer(number)) for number in range(start, min(start + 100, count)))
    return cache


class TestKeys:
    MESSAGES = ({"role": "user", "content": "hi"},)

    def test_everything_that_changes_an_answer_changes_the_key(self) -> None:
        base = ChatRequest("k", self.MESSAGES, "t")
        keys = [
            request_digest("m", "", {"temperature": 0.0}, base),
            request_digest("n", "", {"temperature": 0.0}, base),
            request_digest("m", "1", {"temperature": 0.0}, base),
            request_digest("m", "", {"temperature": 0.1}, base),
            request_digest("m", "", {"temperature": 0.0}, ChatRequest("k", self.MESSAGES, "u")),
            request_digest("m", "", {"temperature": 0.0}, ChatRequest("k", self.MESSAGES, "t", {"type": "object"})),
            request_digest("m", "", {"temperature": 0.0}, ChatRequest("k", self.MESSAGES, "t", max_tokens=1)),
            request_digest("m", "", {"temperature": 0.0}, ChatRequest("k", self.MESSAGES * 2, "t")),
        ]
        assert len(set(keys)) == len(keys)

    def test_what_the_asker_calls_it_does_not(self) -> None:
        one, two = (request_digest("m", "", {}, ChatRequest(key, self.MESSAGES, "t")) for key in "ab")
        assert one == two and len(one) == 16


class TestKeeping:
    def test_round_trip(self, tmp_path: Path) -> None:
        odd = Answer("\ud800 \0 \u2028 \U0001f600", prompt_tokens=3, completion_tokens=4, final=True)
        failure = Answer(None, "length", "cut off", 1, 2, final=True)
        cache = ReplyCache(tmp_path)
        cache.put([(digest(1), odd), (digest(2), failure)])
        cache.close()
        cache = ReplyCache(tmp_path)
        assert cache.get(digest(1)) == odd and cache.get(digest(2)) == failure
        assert cache.get(digest(3)) is None and len(cache) == 2

    def test_the_first_answer_stays(self, tmp_path: Path) -> None:
        cache = ReplyCache(tmp_path)
        cache.put([(digest(1), answer(1))])
        cache.put([(digest(1), answer(2)), (digest(3), answer(3))])
        assert cache.get(digest(1)) == answer(1) and cache.get(digest(3)) == answer(3)

    def test_two_processes_share_it(self, tmp_path: Path) -> None:
        cache = ReplyCache(tmp_path)
        context = multiprocessing.get_context("spawn")
        others = [context.Process(target=_put_many, args=(tmp_path, first)) for first in (0, 500)]
        for other in others:
            other.start()
        cache.put((digest(number), answer(number)) for number in range(2000, 2100))
        for other in others:
            other.join(60)
            assert other.exitcode == 0
        assert len(cache) == 1100
        assert all(cache.get(digest(number)) == answer(number) for number in range(1000))


def _put_many(folder: Path, first: int) -> None:
    cache = ReplyCache(folder)
    for number in range(first, first + 500):
        cache.put([(digest(number), answer(number))])


_WRITER = """
import sys
from recbole_hnlm.llm.backends.outcome import Answer
from recbole_hnlm.llm.backends.reply_cache import ReplyCache
cache = ReplyCache(sys.argv[1])
for number in range(10 ** 9):
    cache.put([(number.to_bytes(8, "big") * 2, Answer(f"text {number}", final=True))])
    sys.stdout.write(f"{number}\\n")
    sys.stdout.flush()
"""


class TestDamage:
    @pytest.mark.parametrize("seconds", [0.0, 0.11, 0.23])
    def test_a_killed_process_loses_nothing_that_was_kept(self, tmp_path: Path, seconds: float) -> None:
        process = subprocess.Popen([sys.executable, "-c", _WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(seconds)
        os.kill(process.pid, signal.SIGKILL)
        rest = [line for line in process.stdout.read().splitlines(keepends=True) if line.endswith("\n")]
        process.wait()
        last = int(rest[-1]) if rest else 0
        cache = ReplyCache(tmp_path)
        for number in range(last + 1):
            found = cache.get(digest(number))
            assert found is not None and found.text == f"text {number}"
        assert len(cache) - (last + 1) in (0, 1)

    @pytest.mark.parametrize("share", [0.02, 0.5, 0.97])
    def test_a_truncated_file_is_cut_with_a_warning(
        self, tmp_path: Path, share: float, caplog: pytest.LogCaptureFixture
    ) -> None:
        filled(tmp_path, 2000).close()
        path = tmp_path / FILE_NAME
        size = path.stat().st_size
        os.truncate(path, int(size * share))
        cache = ReplyCache(tmp_path)
        assert "was damaged" in caplog.text
        assert 2000 * (share - 0.3) < len(cache) < 2000
        found = [cache.get(digest(number)) for number in range(2000)]
        assert all(kept in (None, answer(number)) for number, kept in enumerate(found))
        cache.put([(digest(number), answer(number)) for number in range(2000)])
        assert len(cache) == 2000
        assert [old.stat().st_size for old in tmp_path.glob("*.damaged-*.sqlite")] == [int(size * share)]

    def test_a_truncated_log_is_cut_with_a_warning(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        process = subprocess.Popen([sys.executable, "-c", _WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        for _ in range(50):
            process.stdout.readline()
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        log = tmp_path / f"{FILE_NAME}-wal"
        os.truncate(log, log.stat().st_size - 100)
        cache = ReplyCache(tmp_path)
        assert "the last write" in caplog.text and "was cut off" in caplog.text
        assert len(cache) >= 40
        cache.put([(digest(10**6), answer(1))])
        assert cache.get(digest(10**6)) == answer(1)

    def test_an_answer_that_fails_its_checksum_is_asked_for_again(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        filled(tmp_path, 3).close()
        with sqlite3.connect(tmp_path / FILE_NAME) as connection:
            connection.execute("UPDATE replies SET body = x'00' WHERE id = 2")
        cache = ReplyCache(tmp_path)
        assert cache.get(digest(1)) is None and "damaged" in caplog.text
        cache.put([(digest(1), answer(1))])
        assert [cache.get(digest(number)) for number in range(3)] == [answer(number) for number in range(3)]

    def test_something_else_under_its_name_is_put_aside(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        (tmp_path / FILE_NAME).write_bytes(b"not a database at all, but a rather long text" * 100)
        cache = ReplyCache(tmp_path)
        cache.put([(digest(1), answer(1))])
        assert len(cache) == 1 and "was damaged" in caplog.text

    def test_a_repair_that_was_killed_is_finished(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        filled(tmp_path, 2000).close()
        path = tmp_path / FILE_NAME
        os.truncate(path, path.stat().st_size // 2)
        with monkeypatch.context() as patch:
            patch.setattr(salvage, "finish_salvage", lambda path: os.kill(os.getpid(), signal.SIGKILL))
            child = os.fork()
            if not child:
                ReplyCache(tmp_path)
                os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
        assert not path.exists()
        (tmp_path / f"{FILE_NAME}-wal").write_bytes(b"left by the damaged file" * 100)
        cache = ReplyCache(tmp_path)
        assert 600 < len(cache) < 2000
        assert cache.get(digest(0)) == answer(0)

    def test_a_page_lost_in_the_middle_is_found_on_reading_and_mended_next_time(self, tmp_path: Path) -> None:
        filled(tmp_path, 2000).close()
        path = tmp_path / FILE_NAME
        with path.open("r+b") as handle:
            handle.seek(path.stat().st_size // 8192 * 4096)
            handle.write(b"\xff" * 4096 * 4)
        cache = ReplyCache(tmp_path)
        with pytest.raises(RuntimeError, match="run the same command again"):
            for number in range(2000):
                cache.get(digest(number))
        cache.close()
        cache = ReplyCache(tmp_path)
        found = [cache.get(digest(number)) for number in range(2000)]
        assert all(kept in (None, answer(number)) for number, kept in enumerate(found))
        assert 1500 < sum(kept is not None for kept in found) < 2000

    def test_a_full_disk_is_said_and_loses_nothing(self, tmp_path: Path) -> None:
        cache = filled(tmp_path, 100)
        pages = cache._connection.execute("PRAGMA page_count").fetchone()[0]
        cache._connection.execute(f"PRAGMA max_page_count = {pages + 2}")
        with pytest.raises(RuntimeError, match="full"):
            cache.put((digest(number), answer(number)) for number in range(100, 2000))
        assert len(cache) == 100
        cache._connection.execute("PRAGMA max_page_count = 100000")
        cache.put([(digest(100), answer(100))])
        assert len(cache) == 101


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="descriptors are not told here")
def test_a_cache_that_nobody_closed_holds_nothing(tmp_path: Path) -> None:
    filled(tmp_path, 1)
    gc.collect()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        filled(tmp_path, 1)
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) == before
    presence = salvage.Presence(tmp_path / Path(FILE_NAME).with_suffix(".lock"))
    assert presence.alone


def test_a_folder_that_takes_no_files_is_told_with_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(OSError, match="taken takes no files.*name another folder by llm_cache_dir"):
        ReplyCache(tmp_path / "taken")
