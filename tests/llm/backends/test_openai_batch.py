"""The Batch API backend against a real server on loopback, with faults and kills at every stage."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("openai")

import batch_run
from scripted_server import ScriptedServer

from recbole_hnlm.llm.backends.batch_calls import BatchCalls
from recbole_hnlm.llm.backends.openai_batch import OpenAIBatchBackend
from recbole_hnlm.llm.backends.openai_chat import OpenAIBackend
from recbole_hnlm.llm.backends.outcome import BudgetExceeded, RunStopped
from recbole_hnlm.llm.chat import ChatReply, ChatRequest
from recbole_hnlm.options.chat import BatchOptions, OpenAIOptions, SpendingOptions

KEY = "sk-very-secret-0123456789"


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with ScriptedServer() as server:
        yield server


def options(server: ScriptedServer, **more: Any) -> OpenAIOptions:
    return OpenAIOptions("m", server.url, **{"first_wait": 0.01, "timeout": 5.0, **more})


def backend(
    server: ScriptedServer, cache: Path, spending: SpendingOptions | None = None, **more: Any
) -> OpenAIBatchBackend:
    batch = BatchOptions(**{"batch_requests": 10, "batch_poll": 0.02, **more})
    return OpenAIBatchBackend(options(server, attempts=4), cache, batch, spending)


def prompt(text: str, key: str | None = None) -> ChatRequest:
    return ChatRequest(key or text, ({"role": "user", "content": text},), "t", max_tokens=32)


def ask(made: OpenAIBatchBackend | OpenAIBackend, *texts: str) -> dict[str, ChatReply]:
    return {reply.key: reply for reply in made.complete(prompt(text) for text in texts)}


TEXTS = [f"prompt {number}" for number in range(25)]


def leave_under_way(server: ScriptedServer, cache: Path) -> None:
    """A job of the first three prompts, submitted by a run that then heard no more of it."""
    server.batches.faults.extend([("GET /v1/batches/", 500)] * 4)
    with pytest.raises(RunStopped):
        ask(backend(server, cache), *TEXTS[:3])


class TestAnswers:
    def test_jobs_bring_an_answer_to_every_request(self, server: ScriptedServer, tmp_path: Path) -> None:
        made = backend(server, tmp_path)
        replies = ask(made, *TEXTS)
        assert {key: reply.text for key, reply in replies.items()} == {text: f"answer to {text}" for text in TEXTS}
        assert len(server.batches.jobs) == 3 and set(server.batches.submitted.values()) == {1}
        assert made.summary.answered == 25 and made.summary.prompt_tokens == 250
        assert all(job["completion_window"] == "24h" for job in server.batches.jobs.values())
        assert not list((tmp_path / "batches").rglob("*.json*"))

    def test_single_calls_and_jobs_share_their_answers(self, server: ScriptedServer, tmp_path: Path) -> None:
        ask(OpenAIBackend(options(server), tmp_path), "a", "b")
        replies = ask(backend(server, tmp_path), "a", "b", "c")
        assert [replies[key].cached for key in "abc"] == [True, True, False]
        assert server.batches.submitted.total() == 1
        assert ask(OpenAIBackend(options(server), tmp_path), "c")["c"].cached
        assert server.asked == {"a": 1, "b": 1}

    def test_equal_requests_are_submitted_once(self, server: ScriptedServer, tmp_path: Path) -> None:
        replies = list(backend(server, tmp_path).complete(prompt("same", f"k{number}") for number in range(30)))
        assert sorted(reply.key for reply in replies) == sorted(f"k{number}" for number in range(30))
        assert server.batches.submitted.total() == 1
        assert sum(not reply.cached for reply in replies) == 1

    def test_nothing_to_ask_submits_nothing(self, server: ScriptedServer, tmp_path: Path) -> None:
        assert list(backend(server, tmp_path).complete([])) == []
        assert not server.batches.files

    def test_files_keep_to_their_size(self, server: ScriptedServer, tmp_path: Path) -> None:
        texts = [f"{number} {'x' * 300_000}" for number in range(7)]
        assert len(ask(backend(server, tmp_path, batch_megabytes=1), *texts)) == 7
        assert max(file["bytes"] for file in server.batches.files.values() if file["purpose"] == "batch") <= 1_000_000
        assert len(server.batches.jobs) == 3

    def test_the_key_is_in_no_file(self, server: ScriptedServer, tmp_path: Path) -> None:
        replies = backend(server, tmp_path).complete(prompt(text) for text in TEXTS)
        found = []
        server.batches.hooks.append(("GET /v1/batches/", lambda: found.extend(_files(tmp_path))))
        list(replies)
        assert any(".jsonl" in name for name, _ in found)
        assert not [name for name, content in [*found, *_files(tmp_path)] if KEY.encode() in content]


def _files(folder: Path) -> list[tuple[str, bytes]]:
    return [(path.name, path.read_bytes()) for path in folder.rglob("*") if path.is_file()]


class TestFaults:
    @pytest.mark.parametrize("script", ["late", "late and lost"])
    def test_what_a_job_did_not_come_to_is_submitted_anew(
        self, server: ScriptedServer, tmp_path: Path, script: str
    ) -> None:
        texts = [*TEXTS, f"[[{script}]] a", f"[[{script}]] b"]
        made = backend(server, tmp_path)
        with pytest.raises(RunStopped, match="2 requests were not asked before their batch jobs expired .* anew"):
            ask(made, *texts)
        assert len(server.batches.jobs) == 3 and made.summary.answered == 25
        assert not list((tmp_path / "batches").rglob("*.json*"))
        replies = ask(backend(server, tmp_path), *texts)
        assert all(reply.text for reply in replies.values())
        assert sorted(set(server.batches.submitted.values())) == [1, 2] and server.batches.submitted.total() == 29

    @pytest.mark.parametrize(
        "call", ["POST /v1/files", "POST /v1/batches", "GET /v1/batches/", "GET /v1/files/file-2/content"]
    )
    @pytest.mark.parametrize("status", [500, 429, 0])
    def test_a_passing_fault_submits_nothing_twice(
        self, server: ScriptedServer, tmp_path: Path, call: str, status: int
    ) -> None:
        """Status 0: the call works at the server and its answer is cut off on the way."""
        server.batches.faults.append((call, status))
        made = backend(server, tmp_path)
        assert len(ask(made, *TEXTS[:5])) == 5
        assert not server.batches.faults and made.summary.retried.total() == 1
        assert len(server.batches.jobs) == 1 and set(server.batches.submitted.values()) == {1}
        assert sum(file["purpose"] == "batch" for file in server.batches.files.values()) == 1

    def test_lines_that_fail_are_counted_and_asked_again_next_time(
        self, server: ScriptedServer, tmp_path: Path
    ) -> None:
        texts = ["fine", "[[400]] a", "[[lost]] b", "[[empty]] c", "[[shapeless]] d", "[[length]] e"]
        with pytest.raises(RunStopped, match="batch-1 is complete, and its files lack 1 of its 6 answers"):
            ask(backend(server, tmp_path), *texts)
        made = backend(server, tmp_path)
        replies = ask(made, *texts)
        assert [reply.text for reply in replies.values()] == ["answer to fine", None, None, None, None, None]
        counted = {
            "rejected": 1,
            "lost": 1,
            "empty": 1,
            "garbled": 1,
            "length": 2,
        }  # kept before, and fetched once more
        assert made.summary.failed == counted
        with pytest.raises(RunStopped, match="batch-2 is complete"):
            ask(backend(server, tmp_path), *texts)
        assert sorted(server.batches.submitted.values()) == [1, 1, 2, 2, 2, 2]  # not what is fine or was cut off

    def test_files_that_came_too_short_are_fetched_once_more(
        self, server: ScriptedServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        whole = BatchCalls.download
        monkeypatch.setattr(BatchCalls, "download", lambda *args: (found := whole(*args))[: len(found) // 2])
        with pytest.raises(RunStopped, match="the same command fetches the files once more"):
            ask(backend(server, tmp_path), *TEXTS[:10])
        monkeypatch.setattr(BatchCalls, "download", whole)
        replies = ask(backend(server, tmp_path), *TEXTS[:10])
        assert [reply.text for reply in replies.values()] == [f"answer to {text}" for text in TEXTS[:10]]
        assert set(server.batches.submitted.values()) == {1} and len(server.batches.submitted) == 10

    def test_answers_that_are_not_counted_are_taken_at_the_estimate(
        self, server: ScriptedServer, tmp_path: Path
    ) -> None:
        made = backend(server, tmp_path, SpendingOptions(input_price=1e5, output_price=1e5))
        text = "[[counts:none]] a"
        assert ask(made, text)[text].text == "counted"
        assert made.summary.prompt_tokens == made.count(prompt(text)) > 0

    def test_a_job_is_known_however_the_servers_address_is_written(
        self, server: ScriptedServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        server.batches.faults.extend([("GET /v1/batches/", 500)] * 4)
        with pytest.raises(RunStopped, match="failed 4 times"):
            ask(backend(server, tmp_path), *TEXTS[:5])
        asked_singly = OpenAIBackend(options(server), tmp_path)
        assert "1 batch jobs of m are not over" in caplog.text and asked_singly.name == "m"
        slashed = OpenAIOptions("m", server.url + "/", first_wait=0.01, timeout=5.0, attempts=4)
        made = OpenAIBatchBackend(slashed, tmp_path, BatchOptions(batch_requests=10, batch_poll=0.02))
        assert len(ask(made, *TEXTS[:5])) == 5
        assert set(server.batches.submitted.values()) == {1} and len(server.batches.jobs) == 1

    def test_a_job_that_fails_as_a_whole_ends_the_run_and_is_submitted_anew(
        self, server: ScriptedServer, tmp_path: Path
    ) -> None:
        with pytest.raises(RunStopped, match="line 1 is bad"):
            ask(backend(server, tmp_path), "[[failjob]] a")
        with pytest.raises(RunStopped, match="line 1 is bad"):
            ask(backend(server, tmp_path), "[[failjob]] a")
        assert len(server.batches.jobs) == 2

    def test_a_server_without_a_batch_api_is_said(self, server: ScriptedServer, tmp_path: Path) -> None:
        server.batches.faults.append(("POST /v1/files", 405))
        with pytest.raises(RunStopped, match="Batch API"):
            ask(backend(server, tmp_path), "a")

    def test_a_lasting_fault_keeps_the_job(self, server: ScriptedServer, tmp_path: Path) -> None:
        server.batches.faults.extend([("GET /v1/batches/", 500)] * 4)
        with pytest.raises(RunStopped, match="failed 4 times"):
            ask(backend(server, tmp_path), *TEXTS)
        assert len(ask(backend(server, tmp_path), *TEXTS)) == 25
        assert set(server.batches.submitted.values()) == {1} and len(server.batches.jobs) == 3

    @pytest.mark.slow
    @pytest.mark.parametrize(
        "call", ["POST /v1/files", "POST /v1/batches", "GET /v1/batches/", "GET /v1/files/file-4/content"]
    )
    def test_a_killed_run_takes_up_where_it_stood(self, server: ScriptedServer, tmp_path: Path, call: str) -> None:
        """Killed when the call has worked at the server and its answer is on the way."""
        arguments = [sys.executable, batch_run.__file__, server.url, str(tmp_path), "25"]
        started: list[subprocess.Popen[bytes]] = []
        server.batches.hooks.append((call, lambda: os.kill(started[0].pid, signal.SIGKILL)))
        started.append(subprocess.Popen(arguments))
        assert started[0].wait(60) == -signal.SIGKILL
        subprocess.run(arguments, check=True, timeout=60)
        replies = json.loads((tmp_path / "replies.json").read_text())
        assert replies == {f"k{number}": f"answer to prompt {number}" for number in range(25)}
        assert len(server.batches.jobs) == 3
        assert len(server.batches.submitted) == 25 and set(server.batches.submitted.values()) == {1}


class TestSpending:
    def test_jobs_cost_half(self, server: ScriptedServer, tmp_path: Path) -> None:
        made = backend(server, tmp_path, SpendingOptions(input_price=1e5, output_price=1e5))
        ask(made, *TEXTS[:4])
        assert made.summary.cost == pytest.approx(4 * 1.5 / 2)

    def test_an_estimate_is_at_half_the_price_and_knows_no_time(self, server: ScriptedServer, tmp_path: Path) -> None:
        ask(OpenAIBackend(options(server), tmp_path), "a")  # which measures the time of single calls
        found = backend(server, tmp_path, SpendingOptions(input_price=1.0, output_price=2.0)).estimate(
            [prompt("x" * 35)]
        )
        assert found.cost == pytest.approx((14 + 2 * 32) / 1e6 / 2) and found.seconds is None
        assert not server.batches.files

    def test_a_budget_stops_before_the_job_that_could_exceed_it(self, server: ScriptedServer, tmp_path: Path) -> None:
        spending = SpendingOptions(budget_requests=20)
        with pytest.raises(BudgetExceeded, match="20 asked"):
            ask(backend(server, tmp_path, spending), *TEXTS)
        assert server.batches.submitted.total() == 20
        assert len(ask(backend(server, tmp_path, spending), *TEXTS)) == 25
        assert server.batches.submitted.total() == 25

    def test_what_was_not_sent_is_forgotten_unless_it_is_asked_for(
        self, server: ScriptedServer, tmp_path: Path
    ) -> None:
        with pytest.raises(BudgetExceeded):
            ask(backend(server, tmp_path, SpendingOptions(budget_requests=10)), *TEXTS)
        assert server.batches.submitted.total() == 10
        assert len(ask(backend(server, tmp_path), "another", TEXTS[20])) == 2
        assert server.batches.submitted.total() == 12 and set(server.batches.submitted.values()) == {1}

    def test_smaller_jobs_get_on_where_a_budget_is_smaller_than_a_job(
        self, server: ScriptedServer, tmp_path: Path
    ) -> None:
        spending = SpendingOptions(budget_requests=8)
        with pytest.raises(BudgetExceeded, match="jobs of fewer requests, by llm_batch_requests, may still fit"):
            ask(backend(server, tmp_path, spending), *TEXTS[:20])
        assert server.batches.submitted.total() == 0
        with pytest.raises(BudgetExceeded):
            ask(backend(server, tmp_path, spending, batch_requests=2), *TEXTS)
        assert server.batches.submitted.total() == 8

    def test_a_job_under_way_is_read_whatever_the_field_of_its_limit_is_called_now(
        self, server: ScriptedServer, tmp_path: Path
    ) -> None:
        leave_under_way(server, tmp_path)
        other = options(server, attempts=4, token_field="max_completion_tokens")
        made = OpenAIBatchBackend(other, tmp_path, BatchOptions(batch_poll=0.02))
        assert len(ask(made, *TEXTS[:3])) == 3 and server.batches.submitted.total() == 3

    def test_a_job_that_the_server_does_not_know_names_the_file_to_remove(
        self, server: ScriptedServer, tmp_path: Path
    ) -> None:
        leave_under_way(server, tmp_path)
        server.batches.jobs.clear()
        with pytest.raises(RunStopped, match=r"does not know batch job .*remove (\S+)\.json, and its") as told:
            ask(backend(server, tmp_path), *TEXTS[:3])
        (state,) = (tmp_path / "batches").rglob("*.json")
        assert str(state) in str(told.value)
        state.unlink()
        assert len(ask(backend(server, tmp_path), *TEXTS[:3])) == 3

    def test_a_refused_schema_names_the_option_that_sends_none(self, server: ScriptedServer, tmp_path: Path) -> None:
        (reply,) = ask(backend(server, tmp_path), "[[noschema]] a").values()
        assert reply.text is None and "llm_json_schema=never sends none" in (reply.error or "")

    def test_more_room_asks_again_for_what_was_cut_off(self, server: ScriptedServer, tmp_path: Path) -> None:
        ask(backend(server, tmp_path), "[[narrow]] a", "b")
        wide = OpenAIBatchBackend(options(server, thinking_tokens=100), tmp_path, BatchOptions(batch_poll=0.02))
        replies = ask(wide, "[[narrow]] a", "b")
        assert replies["[[narrow]] a"].text and replies["b"].cached
        assert server.batches.submitted.total() == 3
