"""The judge of ``dtl``: what a model is told, what it may answer, and a whole run against a server on loopback."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from recbole_runs import settings, write_dataset
from scripted_server import ScriptedServer, completion

from recbole_hnlm import run_recbole_hnlm
from recbole_hnlm.building.judge import rerank
from recbole_hnlm.config import HNLMConfig
from recbole_hnlm.llm.chat import ChatRequest
from recbole_hnlm.llm.judging import JudgedUser, judge, judge_requests, judge_template, read_verdict
from recbole_hnlm.llm.replies import ReplyError
from recbole_hnlm.quick_start import prepare
from recbole_hnlm.samplers import TrainingInteractions
from recbole_hnlm.trees.build import DualTrees
from recbole_hnlm.trees.store import JUDGE_TEMPLATE
from tests.llm.talking import ScriptedBackend


def some_trees() -> tuple[DualTrees, TrainingInteractions]:
    """Three users with 25, 3 and no scored items; item 30 has no path."""
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 3, (2, 31, 2)).astype(np.int8)
    codes[:, [0, 30]] = -1
    users, items = np.array([1] * 25 + [2] * 3), np.array([*range(1, 26), 4, 9, 2])
    scores = rng.permutation(28).astype(np.float32) / 28
    seen = TrainingInteractions(torch.tensor([1, 2, 2, 3]), torch.tensor([26, 27, 30, 1]), 4, 31)
    return DualTrees(codes[0], codes[1], users, items, scores, {"AUC": 0.7}), seen


def by_user(trees: DualTrees, user: int) -> list[int]:
    """Items of a user, the highest score first."""
    mine = trees.users == user
    return [int(item) for _, item in sorted(zip(-trees.scores[mine], trees.items[mine], strict=True))]


def test_a_prompt_tells_places_and_local_labels_alone() -> None:
    backend = ScriptedBackend(lambda request: '{"liked": []}')
    trees, seen = some_trees()
    rerank(trees, seen, backend)
    told = {request.key: request.messages[-1]["content"] for request in backend.asked}
    first, second = told["judge-0"], told["judge-1"]  # user 3 has nothing to judge
    assert len(told) == 2
    assert "A20: " in first and "A21: " not in first and "A3: " in second and "A4: " not in second
    lines = dict(line.split(": ") for line in first.splitlines() if re.match(r"A\d+: ", line))
    for label, item in zip(lines, by_user(trees, 1)[:20], strict=True):
        paths = trees.collaborative[item].tolist(), trees.semantic[item].tolist()
        assert lines[label] == "/".join(".".join(map(str, path)) for path in paths)
    assert "-/- x1" in second  # item 30, of which nothing is known


def test_liked_candidates_take_the_highest_scores() -> None:
    trees, seen = some_trees()
    judged = rerank(trees, seen, ScriptedBackend(lambda request: '```json\n{"liked": ["A3", "A1"]}\n```'))
    for user in (1, 2):
        before = by_user(trees, user)
        assert by_user(judged, user) == [before[2], before[0], before[1], *before[3:]]
        mine = trees.users == user
        assert sorted(judged.scores[mine]) == sorted(trees.scores[mine])
    assert judged.report["judge"] == {
        "requests": 2,
        "failed": 0,
        "lost": 0,
        "judged": 23,
        "positive rate": round(4 / 23, 4),
    }
    assert judged.report["AUC"] == 0.7 and "judge" not in trees.report


def test_failures_are_counted_and_leave_the_rule(caplog: pytest.LogCaptureFixture) -> None:
    trees, seen = some_trees()

    def answer(request: ChatRequest) -> str | None:
        return None if request.key == "judge-0" else '{"liked": ["A9"]}'

    judged = rerank(trees, seen, ScriptedBackend(answer))
    assert np.array_equal(judged.scores, trees.scores)
    assert judged.report["judge"]["failed"] == 2 and "2 of 2 requests failed" in caplog.text


@pytest.mark.parametrize(("liked", "warned"), [(13, True), (12, False)])
def test_a_judge_who_likes_nearly_all_is_warned_of(liked: int, warned: bool, caplog: pytest.LogCaptureFixture) -> None:
    labels = json.dumps({"liked": [f"A{place}" for place in range(1, liked + 1)]})
    found, figures = judge(ScriptedBackend(lambda request: labels), [JudgedUser(["0/0"], ["0/1"] * 20)])
    assert found == [list(range(liked))] and figures["positive rate"] == liked / 20
    assert ("hardly tells them apart" in caplog.text) is warned


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        ('{"liked": ["A4"]}', "'A4' is no label; they are A1 to A3"),
        ('{"liked": ["A1", "A1"]}', "a label comes twice"),
        ('{"liked": ["A1", "A2", "A3", "A1"]}', "should have 0 entries, got 4"),
        ('{"likes": []}', "lacks 'liked'"),
        ("none of them", "there is no JSON"),
    ],
)
def test_replies_that_cannot_be_used(reply: str, message: str) -> None:
    with pytest.raises(ReplyError, match=message):
        read_verdict(reply, 3)


@pytest.mark.parametrize("reply", ['["A2"]', '{"liked": ["A2"]}', '{"liked": [" A2 "],}'])
def test_replies_that_are_taken_as_meant(reply: str) -> None:
    assert read_verdict(reply, 3).texts == ("A2",)
    assert read_verdict("[]", 3).texts == ()


def test_kept_scores_name_the_prompt_they_were_made_with() -> None:
    """Whoever changes the wording changes the version; the fingerprint has to follow."""
    assert judge_template().name == JUDGE_TEMPLATE
    (request,) = judge_requests([JudgedUser(["0/0"], ["0/1"])])
    assert request.template == JUDGE_TEMPLATE and "{" not in request.messages[0]["content"]


class JudgeServer(ScriptedServer):
    """Likes the last candidate of every prompt; the first attempt of each meets a 500."""

    down_for = ""
    """First letters of digests of prompts that meet nothing else."""

    async def _chat(self, request: dict[str, Any], headers: dict[str, str]) -> tuple[int, Any, dict[str, str]]:
        prompt = request["messages"][-1]["content"]
        self.asked[prompt] += 1
        if self.asked[prompt] == 1 or hashlib.sha256(prompt.encode()).hexdigest()[0] in self.down_for:
            return 500, {"error": {"message": "not yet"}}, {}
        label = re.findall(r"^(A\d+): ", prompt, re.MULTILINE)[-1]
        return 200, completion(json.dumps({"liked": [label]})), {}


def test_a_run_by_a_judge_asks_once_and_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("openai")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-loopback")
    folder = write_dataset(tmp_path)
    textless = {"hnlm_alpha": 0.0, "hnlm_alignment_weight": 0.0, "hnlm_init": "random"}
    with JudgeServer() as server:
        asking = {
            "llm_backend": "openai",
            "llm_chat_model": "judge",
            "llm_base_url": server.url,
            "llm_first_wait": 0.01,
        }
        dtl = {"hnlm_base_sampler": "dtl", "neg_sampler_judge": "llm", "neg_sampler_reference_model": "BPR",
               "neg_sampler_reference_epochs": 2}  # fmt: skip
        values = settings(folder, "BPR", neg_sampler="hnlm", epochs=1, **textless, **asking, **dtl)
        first = run_recbole_hnlm("BPR", "tiny", config_dict=values)
        second = run_recbole_hnlm("BPR", "tiny", config_dict=values)
    assert set(server.asked.values()) == {2} and 50 <= len(server.asked) <= 60  # users, but for alike ones; no more
    assert first["test_result"] == second["test_result"]
    reports = [json.loads(path.read_text())["report"] for path in Path("hnlm_cache").glob("dual-trees-*.json")]
    (told,) = [report["judge"] for report in reports if "judge" in report]
    assert len(reports) == 2 and told == {"requests": 60, "failed": 0, "lost": 0, "judged": 1200, "positive rate": 0.05}


def test_lost_verdicts_are_told_at_every_run_and_asked_again_by_a_rebuild(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("openai")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-loopback")
    folder = write_dataset(tmp_path)
    with JudgeServer() as server:
        given = settings(
            folder, "BPR", neg_sampler="hnlm", hnlm_alpha=0.0, hnlm_alignment_weight=0.0, hnlm_init="random",
            hnlm_base_sampler="dtl", neg_sampler_judge="llm", neg_sampler_reference_model="BPR",
            neg_sampler_reference_epochs=1, llm_backend="openai", llm_chat_model="judge", llm_base_url=server.url,
            llm_first_wait=0.01, llm_attempts=2,
        )  # fmt: skip
        server.down_for = "0123"
        for _ in range(2):
            caplog.clear()
            prepare(HNLMConfig("BPR", "tiny", config_dict=given))
            told = re.search(r"(\d+) of 60 requests for verdicts of the judge were lost.*hnlm_rebuild", caplog.text)
            assert told and int(told[1]) > 3
        server.down_for, before = "", server.asked.total()
        caplog.clear()
        prepare(HNLMConfig("BPR", "tiny", config_dict={**given, "hnlm_rebuild": True}))
        assert server.asked.total() > before and "were lost" not in caplog.text
        before = server.asked.total()
        prepare(HNLMConfig("BPR", "tiny", config_dict=given))
        assert server.asked.total() == before


def test_a_judge_needs_a_chat_model(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="neg_sampler_judge=llm needs a chat model: neg_sampler=hnlm"):
        HNLMConfig("BPR", "tiny", config_dict=settings(tmp_path, "BPR", neg_sampler="dtl", neg_sampler_judge="llm"))
