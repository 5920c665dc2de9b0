"""The offline part by a chat model, from options to training, against a real server on loopback."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from filling_server import ChatServer, filled
from recbole_runs import settings, write_dataset
from scripted_server import ScriptedServer

from recbole_hnlm import run_recbole_hnlm
from recbole_hnlm.artefacts import describe
from recbole_hnlm.artefacts.neg_text import iter_neg_text
from recbole_hnlm.building.chat import corpus_of
from recbole_hnlm.building.planning import plan
from recbole_hnlm.building.sources import by_time, tables_of
from recbole_hnlm.cli import main
from recbole_hnlm.config import HNLMConfig
from recbole_hnlm.quick_start import split

pytest.importorskip("openai")
KEY = "sk-never-to-be-seen"
SHARED = {"neg_sampler": "hnlm", "llm_backend": "openai", "llm_chat_model": "tiny-chat", "hnlm_min_coverage": 0.1,
          "epochs": 1, "llm_pair_grouping": "user", "hnlm_alpha": 0.2}  # fmt: skip


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ChatServer]:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with ChatServer.running() as running:
        yield running


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_dataset(tmp_path)


def values(folder: Path, server: ChatServer, **more: Any) -> dict[str, Any]:
    own = {"llm_base_url": server.url, "llm_cache_dir": str(folder / "cache"), "checkpoint_dir": str(folder / "saved")}
    return settings(folder, "BPR", **{**SHARED, **own, **more})


def test_main_job_asks_once_and_trains_on_what_was_answered(folder: Path, server: ChatServer) -> None:
    result = run_recbole_hnlm("BPR", "tiny", config_dict=values(folder, server))
    assert result["test_result"] and max(server.asked.values()) == 1
    asked = sum(server.asked.values())
    lines = list(iter_neg_text(folder / "tiny", "tiny"))
    assert asked > 140 and len(lines) == 60 * 14  # 80 items, 60 users, 120 groups
    assert all("number" in line[2] for line in lines) and sum(bool(line[3]) for line in lines) > 700
    manifest = json.loads((folder / "tiny" / "tiny.hnlm.json").read_text())
    assert manifest["covered_pairs"] == manifest["pairs"] == 60 * 14
    assert manifest["provenance"]["settings"]["chat"]["chat_model"] == "tiny-chat"

    run_recbole_hnlm("BPR", "tiny", config_dict=values(folder, server))
    run_recbole_hnlm("BPR", "tiny", config_dict=values(folder, server, hnlm_rebuild=True))
    assert sum(server.asked.values()) == asked, "kept answers were asked for again"
    semantic = settings(folder, "BPR", neg_sampler="semantic", epochs=1, checkpoint_dir=str(folder / "saved"))
    assert run_recbole_hnlm("BPR", "tiny", config_dict=semantic)["test_result"]
    assert server.keys == {f"Bearer {KEY}"}
    for path in folder.rglob("*"):
        assert path.is_dir() or KEY.encode() not in path.read_bytes(), path


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"llm_user_words": 50}, "made with llm_user_words=100, this run asks for 50"),
        ({"llm_chat_model": "other"}, "made with llm_chat_model='tiny-chat', this run asks for 'other'"),
        ({"llm_backend": "template"}, "made with llm_backend='openai', this run asks for 'template'"),
    ],
)
def test_artefacts_of_another_model_or_way_are_refused(
    folder: Path, server: ChatServer, change: dict[str, Any], message: str
) -> None:
    run_recbole_hnlm("BPR", "tiny", config_dict=values(folder, server))
    other = values(folder, server, **change)
    if change.get("llm_backend") == "template":
        for key in ("llm_base_url", "llm_chat_model", "llm_pair_grouping"):
            del other[key]
    with pytest.raises(ValueError, match=message):
        run_recbole_hnlm("BPR", "tiny", config_dict=other)


def test_another_text_is_refused_and_asks_again_for_what_it_changes_alone(folder: Path, server: ChatServer) -> None:
    run_recbole_hnlm("BPR", "tiny", config_dict=values(folder, server))
    asked = sum(server.asked.values())
    item = folder / "tiny" / "tiny.item"
    item.write_text(item.read_text().replace("number 7\t", "number seven\t"))
    with pytest.raises(ValueError, match=r"the text of .*tiny\.item is not what .* made of"):
        run_recbole_hnlm("BPR", "tiny", config_dict=values(folder, server))
    assert sum(server.asked.values()) == asked
    run_recbole_hnlm("BPR", "tiny", config_dict=values(folder, server, hnlm_rebuild=True))
    assert 0 < sum(server.asked.values()) - asked < asked


def command(monkeypatch: pytest.MonkeyPatch, folder: Path, given: dict[str, Any], *flags: str) -> None:
    """Run ``recbole-hnlm build`` with a YAML file."""
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(given))
    monkeypatch.setattr(sys, "argv", ["recbole-hnlm"])
    monkeypatch.chdir(folder)
    main(["build", "--model=BPR", "--dataset=tiny", f"--config_files={path}", *flags])


def test_dry_run_tells_and_asks_nothing(
    folder: Path, server: ChatServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    prices = {"llm_input_price": 1.0, "llm_output_price": 2.0}
    command(monkeypatch, folder, values(folder, server, **prices), "--dry_run")
    told = capsys.readouterr().out
    assert "item profiles" in told and "user 120 (chosen)" in told, told
    (whole,) = [line.split() for line in told.splitlines() if line.startswith("  all ")]
    parts = [line.split() for line in told.splitlines() if line.startswith(("  item p", "  user p", "  hard n"))]
    assert [sum(int(part[place].replace(",", "")) for part in parts) for place in (2, 3, 4)] == [
        int(cell.replace(",", "")) for cell in whole[1:4]
    ]
    assert whole[6].startswith("~") and "~ every answer at its full length and at a speed that was assumed" in told
    assert not server.asked and not list((folder / "tiny").glob("*.hnlm*"))
    monkeypatch.delenv("OPENAI_API_KEY")
    at_openai = values(folder, server)
    del at_openai["llm_base_url"]
    command(monkeypatch, folder, at_openai, "--dry_run")
    assert "  all " in capsys.readouterr().out
    with pytest.raises(SystemExit) as stopped:
        command(monkeypatch, folder, settings(folder, "BPR", neg_sampler="hnlm"), "--dry_run")
    assert stopped.value.code == 2 and "llm_backend=template asks no model" in capsys.readouterr().err


def test_a_dry_run_knows_all_that_a_run_cut_short_has_paid_for(
    folder: Path, server: ChatServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Prompts of users are made of what was answered for items, and those for negatives of both."""

    def cached(**more: Any) -> list[tuple[int, int]]:
        capsys.readouterr()
        command(monkeypatch, folder, values(folder, server, **more), "--dry_run")
        lines = [line.split() for line in capsys.readouterr().out.splitlines()]
        stages = [
            line for line in lines if line[:2] in (["item", "profiles"], ["user", "profiles"], ["hard", "negatives"])
        ]
        return [(int(line[2]), int(line[3])) for line in stages]

    assert cached() == [(80, 0), (60, 0), (120, 0)]
    for limit, known in ((50, [50, 0, 0]), (80, [80, 50, 0]), (30, [80, 60, 20])):
        with pytest.raises(SystemExit):
            command(monkeypatch, folder, values(folder, server, llm_budget_requests=limit))
        assert [found for _, found in cached()] == known
    command(monkeypatch, folder, values(folder, server))
    assert cached(hnlm_rebuild=True) == [(80, 80), (60, 60), (120, 120)]
    assert max(server.asked.values()) == 1


def test_a_dry_run_tells_of_artefacts_in_the_way(
    folder: Path, server: ChatServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    template = settings(folder, "BPR", neg_sampler="hnlm", epochs=1, llm_teacher_epochs=1)
    run_recbole_hnlm("BPR", "tiny", config_dict={**template, "checkpoint_dir": str(folder / "saved")})
    command(monkeypatch, folder, values(folder, server), "--dry_run")
    told = capsys.readouterr().out
    assert "the build will not begin: " in told and "rebuild with --hnlm_rebuild=True" in told
    command(monkeypatch, folder, values(folder, server, hnlm_rebuild=True), "--dry_run")
    told = capsys.readouterr().out
    assert "  all " in told and "will not begin" not in told and not server.asked


def test_too_little_text_is_told_before_anything_is_asked(
    folder: Path, server: ChatServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    item = folder / "tiny" / "tiny.item"
    lines = item.read_text().splitlines()
    bare = [line.split("\t")[0] + "\t\t" for line in lines[31:]]
    item.write_text("\n".join([*lines[:31], *bare]) + "\n")
    enough, much = values(folder, server), values(folder, server, hnlm_min_coverage=0.9)
    told = r"nothing was asked of the model: lower hnlm_min_coverage, or give the items a text \(50 of 80 have none\)"
    with pytest.raises(ValueError, match=told):
        run_recbole_hnlm("BPR", "tiny", config_dict=much)
    textless = {"hnlm_alpha": 0.0, "hnlm_alignment_weight": 0.0, "hnlm_init": "random"}
    semantic = values(folder, server, hnlm_base_sampler="semantic", neg_sampler_min_coverage=0.9, **textless)
    del semantic["hnlm_min_coverage"]  # it reads no vectors
    with pytest.raises(ValueError, match="lower neg_sampler_min_coverage"):
        run_recbole_hnlm("BPR", "tiny", config_dict=semantic)
    command(monkeypatch, folder, much, "--dry_run")
    assert "the build will not begin: only " in capsys.readouterr().out
    assert not server.asked
    run_recbole_hnlm("BPR", "tiny", config_dict=enough)
    assert server.asked


def test_pairs_of_users_alike_are_not_taken_for_one(
    folder: Path, server: ChatServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """No profile is written yet, so every user looks alike to a careless estimate, and most requests would be free."""
    command(monkeypatch, folder, values(folder, server, llm_pair_grouping="pair"), "--dry_run")
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("  hard negatives")]
    assert line.split()[2:4] == ["840", "0"], line


@pytest.mark.parametrize("requests", [25, 100, 150], ids=["items", "users", "negatives"])
def test_a_budget_stops_the_build_and_the_next_goes_on(
    folder: Path,
    server: ChatServer,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    requests: int,
) -> None:
    """The budget is the run's: 80 items, 60 users and then the negatives are asked of it, wherever it ends."""
    with pytest.raises(SystemExit) as stopped:
        command(monkeypatch, folder, values(folder, server, llm_budget_requests=requests))
    assert stopped.value.code == 2 and f"({requests} asked)" in capsys.readouterr().err
    assert sum(server.asked.values()) == requests
    command(monkeypatch, folder, values(folder, server))
    assert max(server.asked.values()) == 1 and (folder / "tiny" / "tiny.hnlm.json").exists()


def test_what_the_model_left_out_is_told_until_it_is_asked_again(
    folder: Path, server: ChatServer, caplog: pytest.LogCaptureFixture
) -> None:
    """A proxy answers a quarter of the prompts; what stands in for them is no news of the model's."""
    server.pages_for = "0123"
    given = values(folder, server, llm_attempts=3, llm_first_wait=0.01, state="WARNING")
    run_recbole_hnlm("BPR", "tiny", config_dict=given)
    told = r"no usable answer to (\d+) of 80 item profiles, (\d+) of 60 user profiles, (\d+) of \d+ hard negatives: "
    (first,) = re.findall(told, caplog.text)
    lost = sum(map(int, first))
    again = f"without negatives; --hnlm_rebuild=True asks {lost} of them again, and what their answers change"
    assert all(int(one) for one in first) and again in caplog.text

    server.pages_for = ""
    server.asked.clear()
    caplog.clear()
    run_recbole_hnlm("BPR", "tiny", config_dict=given)
    assert again in caplog.text and not server.asked
    run_recbole_hnlm("BPR", "tiny", config_dict={**given, "hnlm_rebuild": True})
    items = [count for prompt, count in server.asked.items() if "describe the items of a catalogue" in prompt]
    assert items == [1] * int(first[0]) and server.asked.total() >= lost
    caplog.clear()
    run_recbole_hnlm("BPR", "tiny", config_dict=given)
    assert "no usable answer" not in caplog.text


def test_an_outage_that_is_over_when_a_stage_ends_leaves_no_trace(
    folder: Path, server: ChatServer, caplog: pytest.LogCaptureFixture
) -> None:
    """Users are told of what the model wrote of items, so an item that a server lost would be paid for thrice."""
    text = folder / "tiny" / "tiny.neg_text"
    run_recbole_hnlm("BPR", "tiny", config_dict=values(folder, server))
    healthy, prompts = text.read_bytes(), set(server.asked)
    shutil.rmtree(folder / "cache")
    server.asked.clear()
    server.pages_for, server.mended_after = "01234567", 60
    run_recbole_hnlm("BPR", "tiny", config_dict=values(folder, server, llm_attempts=1, hnlm_rebuild=True))
    again = [prompt for prompt, count in server.asked.items() if count > 1]
    assert set(server.asked) == prompts and 10 < len(again) < 50 and server.asked.total() == len(prompts) + len(again)
    assert f"asking {len(again)} prompts again whose answers were lost" in caplog.text
    assert text.read_bytes() == healthy and "no usable answer" not in caplog.text


def test_profiles_alone_where_nothing_reads_hard_negatives(
    folder: Path, server: ChatServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A comparator asks for none by itself; what was asked for more than that is as good, and less is refused."""
    published = {"hnlm_comparator": "rlmrec_con", "hnlm_alpha": None, "llm_pair_grouping": None}
    published = {key: value for key, value in {**values(folder, server), **published}.items() if value is not None}
    published.pop("hnlm_min_coverage")
    command(monkeypatch, folder, published, "--dry_run")
    told = capsys.readouterr().out
    (line,) = [line for line in told.splitlines() if line.startswith("  hard negatives")]
    assert line.split()[2:4] == ["0", "0"] and "none 0 (chosen)" in told and "pair 840," in told
    assert run_recbole_hnlm("BPR", "tiny", config_dict=published)["test_result"]
    assert 130 < sum(server.asked.values()) <= 140  # profiles of 80 items and 60 users, but for alike ones
    assert not (folder / "tiny" / "tiny.neg_text").exists()
    manifest = json.loads((folder / "tiny" / "tiny.hnlm.json").read_text())
    assert (manifest["covered_pairs"], manifest["pairs"]) == (0, 60 * 14)
    aligned = values(folder, server, hnlm_alpha=0.0, llm_pair_grouping="none")
    aligned.pop("hnlm_min_coverage")
    assert run_recbole_hnlm("BPR", "tiny", config_dict=aligned)["test_result"]
    with pytest.raises(ValueError, match="made with llm_pair_grouping='none', this run asks for 'user'"):
        run_recbole_hnlm("BPR", "tiny", config_dict=values(folder, server))
    run_recbole_hnlm("BPR", "tiny", config_dict=values(folder, server, hnlm_rebuild=True))
    assert run_recbole_hnlm("BPR", "tiny", config_dict=published)["test_result"]
    assert max(server.asked.values()) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"llm_pair_grouping": "none"}, "asks for no hard negatives, but hnlm_alpha=0.2 mixes them in"),
        (
            {"llm_pair_grouping": "none", "hnlm_alpha": 0.0, "hnlm_hard_alignment_weight": 0.1},
            "asks for no hard negatives, but Eq. 9 reads them",
        ),
        (
            {"llm_pair_grouping": "none", "hnlm_base_sampler": "semantic"},
            "names no negatives that semantic could draw",
        ),
        (
            {"llm_pair_grouping": "none", "hnlm_base_sampler": "recbole_hnlm.samplers.semantic:SemanticSampler"},
            "names no negatives that semantic could draw",
        ),
        ({"llm_chat_model": None}, "llm_backend=openai needs the name of a model"),
        ({"llm_teacher_epochs": 3}, "names negatives without a teacher"),
        ({"llm_chat_quantization": "nf4"}, "it belongs to llm_backend=transformers, this run has openai"),
        ({"llm_backend": "template"}, "it belongs to llm_backend=openai, this run has template"),
        ({"llm_backend": "opnai"}, "did you mean 'openai'"),
        ({"llm_concurrency": 0}, "llm_concurrency=0 is outside"),
        ({"llm_pair_groping": "user"}, "did you mean 'llm_pair_grouping'"),
    ],
)
def test_options_that_cannot_work_are_refused(
    folder: Path, server: ChatServer, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        HNLMConfig("BPR", "tiny", config_dict=values(folder, server, **change))


def test_a_dataset_without_text_or_a_run_without_key_is_refused_before_anything_is_asked(
    tmp_path: Path, server: ChatServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    bare = write_dataset(tmp_path / "bare", text=False)
    with pytest.raises(ValueError, match="needs text to tell the model"):
        run_recbole_hnlm("BPR", "tiny", config_dict=values(bare, server))
    told = write_dataset(tmp_path / "told")
    found = importlib.util.find_spec
    with monkeypatch.context() as patched:
        patched.setattr(
            importlib.util, "find_spec", lambda name, *more: None if name == "faiss" else found(name, *more)
        )
        with pytest.raises(ImportError, match="faiss"):
            run_recbole_hnlm("BPR", "tiny", config_dict=values(told, server, llm_ground_search="faiss"))
    assert not server.asked
    monkeypatch.delenv("OPENAI_API_KEY")
    given = values(told, server)
    del given["llm_base_url"]
    with pytest.raises(ValueError, match="OPENAI_API_KEY"):
        run_recbole_hnlm("BPR", "tiny", config_dict=given)
    assert not server.asked


def test_items_that_do_not_exist_are_counted_and_never_drawn(
    folder: Path, server: ChatServer, caplog: pytest.LogCaptureFixture
) -> None:
    server.invents = True
    with caplog.at_level("INFO", "recbole_hnlm"):
        run_recbole_hnlm("BPR", "tiny", config_dict=values(folder, server, llm_ground_min_similarity=0.7, state="INFO"))
    lines = list(iter_neg_text(folder / "tiny", "tiny"))
    assert len(lines) == 60 * 14 and all(line[2] and not line[3] for line in lines)
    assert re.search(r"coverage of pairs +0\.00%", caplog.text)
    semantic = settings(folder, "BPR", neg_sampler="semantic", epochs=1, checkpoint_dir=str(folder / "saved"))
    with pytest.raises(
        ValueError, match="only 0.0% of the training pairs have a grounded negative .* ground anew or lower it"
    ):
        run_recbole_hnlm("BPR", "tiny", config_dict=semantic)


@pytest.mark.slow
def test_a_build_killed_at_three_points_ends_with_the_same_bytes(tmp_path: Path, server: ChatServer) -> None:
    """While profiles of items, of users, and hard negatives are asked; what had no answer yet is all that is repeated."""
    whole, cut = (write_dataset(tmp_path / name) for name in ("whole", "cut"))
    command = [sys.executable, "-m", "recbole_hnlm.cli", "build", "--model=BPR", "--dataset=tiny"]
    for folder in (whole, cut):
        (folder / "run.yaml").write_text(yaml.safe_dump(values(folder, server, llm_concurrency=4)))
    subprocess.run([*command, "--config_files=run.yaml"], cwd=whole, check=True, stderr=subprocess.DEVNULL)
    prompts = dict(server.asked)
    server.asked.clear()
    waiting = 0
    for answered in (30, 110, 190):
        server.speak(until=answered + waiting)
        victim = subprocess.Popen([*command, "--config_files=run.yaml"], cwd=cut, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 120
        while server.asked.total() < answered + waiting + 4:
            assert victim.poll() is None, "it ended before it could be killed"
            assert time.monotonic() < deadline, "it asks no more"
            time.sleep(0.005)
        victim.kill()
        assert victim.wait() == -signal.SIGKILL
        waiting += 4
        assert not (cut / "tiny" / "tiny.hnlm.json").exists()
    server.speak()
    subprocess.run([*command, "--config_files=run.yaml"], cwd=cut, check=True, stderr=subprocess.DEVNULL)
    assert set(server.asked) == set(prompts)
    assert server.asked.total() - len(prompts) <= waiting and max(server.asked.values()) == 2
    made = {path.name: path.read_bytes() for path in (whole / "tiny").iterdir()}
    assert {path.name: path.read_bytes() for path in (cut / "tiny").iterdir()} == made
    assert {"tiny.hnlm_emb.npy", "tiny.neg_text", "tiny.user_profile", "tiny.hnlm.json"} <= set(made)


@pytest.mark.slow
def test_two_builds_that_start_together_ask_once(folder: Path, server: ChatServer) -> None:
    (folder / "run.yaml").write_text(yaml.safe_dump(values(folder, server)))
    command = [sys.executable, "-m", "recbole_hnlm.cli", "build", "--model=BPR", "--dataset=tiny"]
    both = [
        subprocess.Popen([*command, f"--config_files={folder / 'run.yaml'}"], cwd=folder, stderr=subprocess.DEVNULL)
        for _ in range(2)
    ]
    assert [one.wait(timeout=240) for one in both] == [0, 0]
    assert sum(server.asked.values()) > 140 and max(server.asked.values()) == 1


def test_what_was_paid_for_outlives_a_build_that_fails(
    folder: Path, server: ChatServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_recbole_hnlm("BPR", "tiny", config_dict=values(folder, server))
    kept = (folder / "tiny" / "tiny.neg_text").read_bytes()
    again = values(folder, server, hnlm_rebuild=True)
    asked = sum(server.asked.values())
    monkeypatch.delenv("OPENAI_API_KEY")
    del again["llm_base_url"]
    with pytest.raises(ValueError, match="OPENAI_API_KEY"):
        run_recbole_hnlm("BPR", "tiny", config_dict=again)
    assert (folder / "tiny" / "tiny.neg_text").read_bytes() == kept
    assert sum(server.asked.values()) == asked
    run_recbole_hnlm("BPR", "tiny", config_dict=settings(folder, "BPR", neg_sampler="hnlm", hnlm_rebuild=True))
    assert not (folder / "tiny" / "tiny.neg_text").exists()


@pytest.mark.parametrize("order", [("semantic", "hnlm"), ("hnlm", "semantic")])
def test_semantic_draws_what_the_model_names_whoever_comes_first(
    order: tuple[str, str], folder: Path, server: ChatServer
) -> None:
    textless = {"hnlm_alpha": 0.0, "hnlm_alignment_weight": 0.0, "hnlm_init": "random"}
    rows = {
        "semantic": values(folder, server, hnlm_base_sampler="semantic", **textless),
        "hnlm": values(folder, server),
    }
    del rows["semantic"]["hnlm_min_coverage"]  # it reads no vectors
    found = {row: run_recbole_hnlm("BPR", "tiny", config_dict=rows[row]) for row in order}
    named = json.loads((folder / "tiny" / "tiny.neg_text.json").read_text())["provenance"]
    assert named["model"] == "tiny-chat" and max(server.asked.values()) == 1
    asked = server.asked.total()
    again = run_recbole_hnlm("BPR", "tiny", config_dict=rows["semantic"])
    assert again["test_result"] == found["semantic"]["test_result"] and server.asked.total() == asked


def with_reviews(folder: Path) -> Path:
    """The dataset's interactions, each with a review."""
    path = folder / "tiny" / "tiny.inter"
    header, *rows = path.read_text().splitlines()
    told = [f"{row}\tword {place % 7} of it" for place, row in enumerate(rows)]
    path.write_text("\n".join([f"{header}\treview:token_seq", *told]) + "\n")
    return path


@pytest.mark.parametrize("row", ["hnlm", "semantic", "semantic in a folder"])
def test_other_text_and_reviews_are_refused_whoever_reads_what_the_model_named(
    row: str, folder: Path, server: ChatServer
) -> None:
    columns = {"load_col": {"inter": ["user_id", "item_id", "timestamp"]}}
    inter, item = with_reviews(folder), folder / "tiny" / "tiny.item"
    run_recbole_hnlm("BPR", "tiny", config_dict=values(folder, server, **columns))
    asked, own = server.asked.total(), {"epochs": 1, "checkpoint_dir": str(folder / "saved"), **columns}
    assert any("word 3 of it" in prompt for prompt in server.asked), "the model was told no review"
    if row == "semantic in a folder":
        own["neg_sampler_folder"] = str(shutil.copytree(folder / "tiny", folder / "kept"))
    given = (
        values(folder, server, **columns) if row == "hnlm" else settings(folder, "BPR", neg_sampler="semantic", **own)
    )

    kept = {path: path.read_text() for path in (inter, item)}
    header, *rows = kept[inter].splitlines()
    inter.write_text("\n".join([f"{header}\tprice:float", *(f"{line}\t1.5" for line in rows)]) + "\n")
    named, *titles = kept[item].splitlines()
    item.write_text("\n".join([f"{named}\tprice:float", *(f"{line}\t1.5" for line in reversed(titles))]) + "\n")
    assert run_recbole_hnlm("BPR", "tiny", config_dict=given)["test_result"]  # both say the same
    for path, said, now in ((item, "number 7\t", "number seven\t"), (inter, "word 3", "word three")):
        inter.write_text(kept[inter])
        item.write_text(kept[item])
        path.write_text(kept[path].replace(said, now))
        with pytest.raises(ValueError, match=rf"the text of .*{path.name} is not what .*hnlm_rebuild=True.* old file"):
            run_recbole_hnlm("BPR", "tiny", config_dict=given)
    assert server.asked.total() == asked


def test_neighbours_outlive_a_build_that_names_nothing(folder: Path) -> None:
    run_recbole_hnlm("BPR", "tiny", config_dict=settings(folder, "BPR", neg_sampler="semantic"))
    kept = (folder / "tiny" / "tiny.neg_text").read_bytes()
    run_recbole_hnlm("BPR", "tiny", config_dict=settings(folder, "BPR", neg_sampler="hnlm"))
    assert (folder / "tiny" / "tiny.neg_text").read_bytes() == kept


def test_the_dry_run_counts_the_judge_and_what_pooled_datasets_ask(folder: Path, server: ChatServer) -> None:
    def all_requests(**more: Any) -> tuple[int, str]:
        asked = values(folder, server, **more)
        if "llm_negatives" in more:
            del asked["llm_pair_grouping"]
        config = HNLMConfig("BPR", "tiny", config_dict=asked)
        told = plan(config, config.run, split(config)[0])
        (line,) = (line for line in told.splitlines() if line.startswith("  all "))
        return int(line.split()[1].replace(",", "")), told

    write_dataset(folder, "mall", seed=3)
    trees = {"hnlm_base_sampler": "dtl", "neg_sampler_reference_model": "BPR", "neg_sampler_reference_epochs": 1}
    plain, judged = all_requests(**trees), all_requests(**trees, neg_sampler_judge="llm")
    assert judged[0] == plain[0] + 60 and "  judge  " in judged[1]
    hybrid = {"llm_negatives": "hybrid", "llm_base": "all-MiniLM-L6-v2"}
    alone, pooled = all_requests(**hybrid), all_requests(**hybrid, llm_tune_datasets=["mall"])
    assert pooled[0] == 2 * alone[0] and "items of mall" in pooled[1]
    assert not server.asked


def test_a_judge_alone_asks_for_no_texts(folder: Path, server: ChatServer) -> None:
    textless = {"hnlm_alpha": 0.0, "hnlm_alignment_weight": 0.0, "hnlm_init": "random"}
    asked = values(folder, server, hnlm_base_sampler="dtl", neg_sampler_judge="llm", **textless)
    del asked["hnlm_min_coverage"]
    config = HNLMConfig("BPR", "tiny", config_dict=asked)
    told = plan(config, config.run, split(config)[0])
    assert "  judge  " in told and "profiles" not in told and "hard negatives  " not in told


def test_reviews_in_quotes_and_another_encoding_are_told(folder: Path, server: ChatServer) -> None:
    path = folder / "tiny" / "tiny.inter"
    lines = path.read_text().splitlines()
    rows = [",".join(f'"{cell}"' for cell in line.split("\t")) + ',"schön,\nso ""la la"""' for line in lines[1:]]
    header = lines[0].replace("\t", ",") + ",review:token_seq"
    path.write_bytes("\n".join([header, *rows, ""]).encode("latin-1"))
    items = folder / "tiny" / "tiny.item"
    items.write_text(items.read_text().replace("\t", ","))
    form = {"field_separator": ",", "encoding": "latin-1"}
    config = HNLMConfig("BPR", "tiny", config_dict=values(folder, server, **form))
    dataset = split(config)[0]._dataset
    corpus = corpus_of(config, config.run, dataset, tables_of(config, dataset, config.run.llm), by_time(dataset))
    assert corpus.reviews and set(corpus.reviews) == {'schön,\nso "la la"'}


def test_reviews_of_pairs_that_training_repeats_are_told(tmp_path: Path, server: ChatServer) -> None:
    home = tmp_path / "tiny"
    home.mkdir()
    header = "user_id:token\titem_id:token\ttimestamp:float\treview:token_seq\n"
    once = [f"u{user}\ti{item}\t{item}\tfirst of {user} and {item}\n" for user in range(6) for item in range(6)]
    twice = [f"u{user}\ti0\t9\tsecond of {user} and 0\n" for user in range(6)]
    held = {part: [f"u{user}\ti{place + 2 * user}\t20\theld\n" for user in range(6)]
            for part, place in (("valid", 7), ("test", 8))}  # fmt: skip
    for part, rows in {"train": once + twice, **held}.items():
        (home / f"tiny.{part}.inter").write_text(header + "".join(rows))
    (home / "tiny.item").write_text(
        "item_id:token\ttitle:token_seq\n" + "".join(f"i{n}\tthing {n}\n" for n in range(30))
    )
    split_files = {"benchmark_filename": ["train", "valid", "test"]}
    columns = {"load_col": {"inter": ["user_id", "item_id", "timestamp"]}}
    config = HNLMConfig("BPR", "tiny", config_dict=values(tmp_path, server, **split_files, **columns))
    dataset = split(config)[0]._dataset
    corpus = corpus_of(config, config.run, dataset, tables_of(config, dataset, config.run.llm), by_time(dataset))
    assert corpus.reviews is not None and len(corpus.reviews) == 36
    told = [
        review
        for review, item in zip(corpus.reviews, corpus.history.item_ranks, strict=True)
        if corpus.items[item] == "i0"
    ]
    assert sorted(told) == [f"second of {user} and 0" for user in range(6)]
    assert all(corpus.reviews)


def test_inspect_shows_what_the_model_named(folder: Path, server: ChatServer) -> None:
    run_recbole_hnlm("BPR", "tiny", config_dict=values(folder, server))
    told = describe(folder / "tiny", "tiny", 2)
    named = [line for line in told.splitlines() if line.startswith("  named: ")]
    lines = {line[2] for line in iter_neg_text(folder / "tiny", "tiny")}
    assert len(named) >= 2 and all(line.removeprefix("  named: ").split(" (")[0] in lines for line in named)


def test_a_whole_build_by_jobs_of_the_batch_api(folder: Path) -> None:
    """Profiles need the answers of the stage before; one answer in ten is of no use, and is repaired in a later job."""

    def written(body: dict[str, Any]) -> str:
        mark = hashlib.sha256(body["messages"][-1]["content"].encode()).hexdigest()
        broken = mark[0] in "01" and len(body["messages"]) == 2
        return (
            '{"oops": 1}' if broken else json.dumps(filled(body["response_format"]["json_schema"]["schema"], mark[:6]))
        )

    jobs = {"llm_backend": "openai-batch", "llm_batch_poll": 0.02, "llm_batch_requests": 50}
    with ScriptedServer() as server:
        server.batches.writes = written
        run_recbole_hnlm("BPR", "tiny", config_dict=values(folder, server, **jobs))  # type: ignore[arg-type]
        submitted = server.batches.submitted
        assert len(server.batches.jobs) > 6 and submitted.total() > 270 and set(submitted.values()) == {1}
        manifest = json.loads((folder / "tiny" / "tiny.hnlm.json").read_text())
        assert manifest["covered_pairs"] == manifest["pairs"] == 60 * 14
        run_recbole_hnlm("BPR", "tiny", config_dict=values(folder, server))  # type: ignore[arg-type]
        assert not server.asked  # the same model by single calls has nothing left to ask
