"""LLMRec's likes and dislikes by a chat model: prompts, answers, and whole runs against a server on loopback."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import group_runs
import numpy as np
import pytest
import torch
from group_runs import run_group
from recbole.data import create_dataset, data_preparation
from recbole_runs import settings, write_dataset
from scripted_server import ScriptedServer, completion

from recbole_hnlm import run_recbole_hnlm
from recbole_hnlm.building.picks import ToldSplit, ensure_picks
from recbole_hnlm.building.planning import plan
from recbole_hnlm.config import HNLMConfig
from recbole_hnlm.llm.picking import PickingUser, pick, pick_requests, pick_template, read_pick
from recbole_hnlm.llm.replies import ReplyError
from recbole_hnlm.models.comparators.reference import PICK_TEMPLATE, picks_file, reference_file
from recbole_hnlm.quick_start import build_model, prepare
from recbole_hnlm.samplers import TrainingInteractions
from tests.llm.talking import ScriptedBackend, good_reply

USERS = [
    PickingUser(["a\nbook", "a film"], ["one", "two", "three"]),
    PickingUser([], ["one", "two"]),
    PickingUser(["a film"], ["alone"]),
    PickingUser(["a film"], ["x", "y"]),
]


def test_a_prompt_tells_texts_and_local_labels() -> None:
    first, second = pick_requests(USERS)
    assert (first.key, second.key) == ("pick-0", "pick-3")  # nothing to tell of one, nothing to choose for the other
    told = first.messages[-1]["content"]
    assert "- a book\n- a film" in told and "A1: one\nA2: two\nA3: three" in told and "A4" not in told
    assert first.template == PICK_TEMPLATE == pick_template().name and "{" not in first.messages[0]["content"]


def test_answers_are_places_and_failures_have_none() -> None:
    def answer(request: Any) -> str | None:
        return '{"like": "A3", "dislike": " A1"}' if request.key == "pick-0" else '{"like": "A1", "dislike": "A3"}'

    found, figures = pick(ScriptedBackend(answer), USERS)
    assert found == [(2, 0), None, None, None]
    assert figures == {"requests": 2, "failed": 1, "lost": 0, "picked": 1}


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        ('{"like": "A1", "dislike": "A4"}', "'A4' is no label; they are A1 to A3"),
        ('{"like": "A2", "dislike": "A2"}', "a label comes twice"),
        ('{"like": "A2"}', "lacks 'dislike'"),
        ("A1", "there is no JSON"),
    ],
)
def test_replies_that_cannot_be_used(reply: str, message: str) -> None:
    with pytest.raises(ReplyError, match=message):
        read_pick(reply, 3)


class PickServer(ScriptedServer):
    """Likes the last candidate and dislikes the first; the first attempt of each such question meets a 503."""

    down_for = ""
    """First letters of digests of questions that meet nothing else."""

    async def _chat(self, request: dict[str, Any], headers: dict[str, str]) -> tuple[int, Any, dict[str, str]]:
        prompt = request["messages"][-1]["content"]
        self.asked[prompt] += 1
        if "Candidates" not in prompt:
            return 200, completion('{"summarization": "liked by many", "reasoning": "so"}'), {}
        if self.asked[prompt] == 1 or hashlib.sha256(prompt.encode()).hexdigest()[0] in self.down_for:
            return 503, {"error": {"message": "not yet"}}, {}
        labels = re.findall(r"^(A\d+): ", prompt, re.MULTILINE)
        return 200, completion(json.dumps({"like": labels[-1], "dislike": labels[0]})), {}

    @property
    def picks_asked(self) -> int:
        return sum("Candidates" in prompt for prompt in self.asked)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[PickServer]:
    pytest.importorskip("openai")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-loopback")
    with PickServer() as running:
        yield running


def values(folder: Path, server: PickServer, **changed: Any) -> dict[str, Any]:
    return settings(
        folder, "BPR", neg_sampler="hnlm", hnlm_comparator="llmrec", llm_backend="openai", llm_chat_model="picker",
        llm_base_url=server.url, llm_first_wait=0.01, llm_teacher_epochs=1, comparator_top_items=4, epochs=1,
        hnlm_artefact_dir=str(folder / "artefacts"), llm_cache_dir=str(folder / "cache"),
        checkpoint_dir=str(folder / "saved"), **changed,
    )  # fmt: skip


def test_a_run_asks_once_and_trains_on_what_was_picked(tmp_path: Path, server: PickServer) -> None:
    folder = write_dataset(tmp_path)
    first = run_recbole_hnlm("BPR", "tiny", config_dict=values(folder, server))
    asked = dict(server.asked)
    assert 50 <= server.picks_asked <= 60  # users, but for alike ones
    config = HNLMConfig("BPR", "tiny", config_dict=values(folder, server))
    loaders = prepare(config)
    model = build_model(config, loaders[0])
    comparator, interactions = model.hnlm.comparator, model.hnlm.interactions
    best = np.load(reference_file(config.run, interactions, 4))
    assert comparator.likes[1:].tolist() == best[1:, -1].tolist()
    assert comparator.dislikes[1:].tolist() == best[1:, 0].tolist()
    assert comparator.has_pick[1:].all() and not comparator.has_pick[0]
    report = json.loads(picks_file(config.run, interactions, 4).with_suffix(".json").read_text())
    assert report["figures"] == {"requests": 60, "failed": 0, "lost": 0, "picked": 60}
    second = run_recbole_hnlm("BPR", "tiny", config_dict=values(folder, server))
    assert dict(server.asked) == asked and first["test_result"] == second["test_result"]


@pytest.mark.slow
def test_a_group_asks_and_trains_as_one_process(tmp_path: Path, server: PickServer) -> None:
    folder = write_dataset(tmp_path)
    run_recbole_hnlm("BPR", "tiny", config_dict=values(folder, server))
    alone, asked = dict(server.asked), server.picks_asked
    server.asked.clear()
    shutil.rmtree(folder / "cache")
    shutil.rmtree(folder / "artefacts")
    runs = {"llmrec": ("BPR", values(folder, server))}
    first, second = (ranks["llmrec"] for ranks in run_group(group_runs.train_all, folder, runs))
    assert dict(server.asked) == alone and asked == server.picks_asked  # twice each, by one rank
    assert first["agreed"] == second["agreed"]


def test_prompts_hold_training_items_of_the_user_alone(tmp_path: Path, server: PickServer) -> None:
    folder = write_dataset(tmp_path)
    config = HNLMConfig("BPR", "tiny", config_dict=values(folder, server))
    loaders = prepare(config)
    parts = [loader._dataset for loader in loaders]
    tokens = parts[0].field2id_token
    chosen: list[dict[str, set[str]]] = []
    for part in parts:
        by_user: dict[str, set[str]] = {}
        for user, item in zip(part.inter_feat["user_id"].tolist(), part.inter_feat["item_id"].tolist(), strict=True):
            by_user.setdefault(tokens["user_id"][user], set()).add(tokens["item_id"][item].removeprefix("i"))
        chosen.append(by_user)
    asked = [prompt for prompt in server.asked if "Candidates" in prompt]
    assert asked
    for prompt in asked:
        history, candidates = prompt.split("Candidates")
        told, offered = (set(re.findall(r"number (\d+)", part)) for part in (history, candidates))
        owners = [user for user, items in chosen[0].items() if items == told]  # 20 are told, none has more
        assert len(owners) == 1 and len(offered) == 4 and not told & offered
        assert not told & (chosen[1].get(owners[0], set()) | chosen[2].get(owners[0], set()))


def test_other_texts_are_asked_anew_and_a_cut_short_file_too(tmp_path: Path, server: PickServer) -> None:
    folder = write_dataset(tmp_path)
    config = HNLMConfig("BPR", "tiny", config_dict=values(folder, server))
    loaders = prepare(config)
    path = picks_file(config.run, build_model(config, loaders[0]).hnlm.interactions, 4)
    kept, asked = path.read_bytes(), server.picks_asked
    path.with_suffix(".json").unlink()
    ensure_picks(config, config.run, loaders[0])
    assert server.picks_asked == asked and path.read_bytes() == kept and path.with_suffix(".json").exists()
    items = folder / "tiny" / "tiny.item"
    items.write_text(items.read_text().replace("number", "no."))
    ensure_picks(config, config.run, loaders[0])
    assert server.picks_asked == 2 * asked


@pytest.mark.parametrize("name", ["", ".json"])
def test_a_damaged_file_is_made_anew_from_kept_answers(tmp_path: Path, server: PickServer, name: str) -> None:
    folder = write_dataset(tmp_path)
    config = HNLMConfig("BPR", "tiny", config_dict=values(folder, server))
    loaders = prepare(config)
    path = picks_file(config.run, build_model(config, loaders[0]).hnlm.interactions, 4)
    kept, asked = path.read_bytes(), dict(server.asked)
    hurt = path.with_suffix(name or ".npy")
    hurt.write_bytes(hurt.read_bytes()[:-40])
    ensure_picks(config, config.run, loaders[0])
    assert path.read_bytes() == kept and dict(server.asked) == asked


def test_what_a_server_has_lost_is_told_at_every_run_and_asked_again_by_a_rebuild(
    tmp_path: Path, server: PickServer, caplog: pytest.LogCaptureFixture
) -> None:
    folder = write_dataset(tmp_path)
    given = values(folder, server, llm_attempts=2)
    server.down_for = "0123"
    for _ in range(2):
        caplog.clear()
        config = HNLMConfig("BPR", "tiny", config_dict=given)
        loaders = prepare(config)
        told = re.search(r"(\d+) of 60 requests for likes and dislikes were lost.*hnlm_rebuild", caplog.text)
        assert told and 5 < int(told[1]) < 30
    path = picks_file(config.run, build_model(config, loaders[0]).hnlm.interactions, 4)
    assert (np.load(path)[1:, 0] == 0).sum() == int(told[1])
    server.down_for, before = "", server.asked.total()
    prepare(HNLMConfig("BPR", "tiny", config_dict=given))
    assert server.asked.total() == before
    caplog.clear()
    prepare(HNLMConfig("BPR", "tiny", config_dict={**given, "hnlm_rebuild": True}))
    assert server.asked.total() == before + int(told[1]) and np.load(path)[1:].all() and "were lost" not in caplog.text


def test_a_user_without_an_answer_has_no_triple(tmp_path: Path, server: PickServer) -> None:
    folder = write_dataset(tmp_path)
    config = HNLMConfig("BPR", "tiny", config_dict=values(folder, server))
    loaders = prepare(config)
    path = picks_file(config.run, build_model(config, loaders[0]).hnlm.interactions, 4)
    picks = np.load(path)
    picks[7] = 0
    np.save(path, picks)
    assert np.flatnonzero(~build_model(config, loaders[0]).hnlm.comparator.has_pick.numpy()).tolist() == [0, 7]


OTHER_QUESTIONS = {"llm_chat_model": "other", "llm_temperature": 0.5, "llm_history_words": 3, "llm_user_history": 5,
                   "llm_user_history_order": "random", "llm_text_fields": ["title"], "llm_seed": 7,
                   "llm_teacher_epochs": 2, "comparator_top_items": 5}  # fmt: skip


@pytest.mark.parametrize("key", [*OTHER_QUESTIONS, "llm_concurrency"])
def test_kept_picks_belong_to_what_was_asked_and_of_whom(tmp_path: Path, server: PickServer, key: str) -> None:
    seen = TrainingInteractions(torch.tensor([1, 2]), torch.tensor([1, 2]), 3, 9)
    changed = {**values(tmp_path, server), key: OTHER_QUESTIONS.get(key, 3)}
    runs = [HNLMConfig("BPR", "tiny", config_dict=given).run for given in (values(tmp_path, server), changed)]
    paths = {picks_file(run, seen, run.triples.top_items) for run in runs}
    assert len(paths) == (2 if key in OTHER_QUESTIONS else 1)


def test_another_prompt_has_picks_of_its_own(
    tmp_path: Path, server: PickServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = TrainingInteractions(torch.tensor([1, 2]), torch.tensor([1, 2]), 3, 9)
    run = HNLMConfig("BPR", "tiny", config_dict=values(tmp_path, server)).run
    before = picks_file(run, seen, 4)
    monkeypatch.setattr("recbole_hnlm.models.comparators.reference.PICK_TEMPLATE", "picks-2/like_and_dislike")
    assert picks_file(run, seen, 4) != before


def test_a_dry_run_counts_the_picks(tmp_path: Path, server: PickServer) -> None:
    folder = write_dataset(tmp_path)
    config = HNLMConfig("BPR", "tiny", config_dict=values(folder, server))
    told = plan(config, config.run, data_preparation(config, create_dataset(config))[0])
    (line,) = [line for line in told.splitlines() if line.startswith("  likes, dislikes")]
    assert line.split()[2:4] == ["60", "0"] and int(line.split()[4].replace(",", "")) > 60 * 100
    assert not server.asked


def test_without_triples_nobody_is_asked(tmp_path: Path, server: PickServer) -> None:
    folder = write_dataset(tmp_path)
    given = values(folder, server, comparator_weight=0.0)
    del given["comparator_top_items"]
    prepare(HNLMConfig("BPR", "tiny", config_dict=given))
    assert server.asked and not server.picks_asked


def test_nothing_usable_is_an_error_before_training(tmp_path: Path, server: PickServer) -> None:
    folder = write_dataset(tmp_path)
    config = HNLMConfig("BPR", "tiny", config_dict=values(folder, server))
    dataset = data_preparation(config, create_dataset(config))[0]._dataset
    with pytest.raises(ValueError, match="scripted picked a like and a dislike for none of 60 users"):
        ToldSplit(config, config.run, dataset).picks(ScriptedBackend(good_reply), np.ones((61, 4), dtype=np.int64))


def test_options_of_the_reference_are_taken_beside_a_chat_model(tmp_path: Path, server: PickServer) -> None:
    HNLMConfig("BPR", "tiny", config_dict=values(tmp_path, server, llm_teacher_model="BPR"))
    with pytest.raises(ValueError, match="llm_teacher_draws has no effect here"):
        HNLMConfig("BPR", "tiny", config_dict=values(tmp_path, server, llm_teacher_draws=3))
