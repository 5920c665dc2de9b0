"""Hybrid prompts from options to training: tuned, asked, joined to the artefacts, used by another dataset."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from filling_server import ChatServer
from recbole_runs import settings, write_dataset

from recbole_hnlm import run_recbole_hnlm
from recbole_hnlm.artefacts import ArtefactReader
from recbole_hnlm.artefacts.neg_text import iter_neg_text
from recbole_hnlm.cli import main
from recbole_hnlm.config import HNLMConfig
from recbole_hnlm.llm.hybrid.adapter import load_adapter, read_info
from recbole_hnlm.llm.hybrid.encoder import encode
from recbole_hnlm.llm.hybrid.generation import encode_items
from recbole_hnlm.llm.hybrid.pairs import PairTexts
from recbole_hnlm.llm.hybrid.prompts import PromptBuilder, read_template
from recbole_hnlm.llm.text_space import TextSpace
from recbole_hnlm.options import LLMOptions
from recbole_hnlm.options.hybrid import BaseSettings
from recbole_hnlm.quick_start import prepare

pytest.importorskip("peft")
sys.path.insert(0, str(Path(__file__).parents[1] / "llm" / "hybrid"))
from hybrid_data import save_tiny  # noqa: E402

PAIRS = 60 * 14


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("base") / "qwen", "Qwen2")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_dataset(tmp_path)


def values(folder: Path, qwen: Path, **more: Any) -> dict[str, Any]:
    own = {
        "neg_sampler": "hnlm", "llm_negatives": "hybrid", "llm_base": str(qwen), "llm_prompt_tokens": 120,
        "llm_label_tokens": 64, "llm_precision": "float32", "llm_tune_pairs": 64, "llm_tune_evaluations": 1, "llm_tune_lora_rank": 4,
        "llm_tune_validation_pairs": 20, "llm_generate_part_pairs": 300, "llm_teacher_epochs": 1,
        "llm_teacher_model": "BPR", "llm_text_width": 16, "hnlm_alpha": 0.2, "epochs": 1,
        "llm_cache_dir": str(folder / "cache"), "checkpoint_dir": str(folder / "saved"),
    }  # fmt: skip
    return settings(folder, "BPR", **{**own, **more})


def built(folder: Path, name: str = "tiny") -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder / name).iterdir() if "hnlm" in path.name}


def refuse_teacher(*args: Any, **kwargs: Any) -> Any:
    raise AssertionError("trained a teacher first")


def test_one_command_tunes_asks_and_trains_and_a_second_build_makes_nothing_again(
    folder: Path, qwen: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    with caplog.at_level("INFO"):
        result = run_recbole_hnlm("BPR", "tiny", config_dict=values(folder, qwen))
    assert result["test_result"]
    for stage in ("teacher", "fine-tuning", "vectors of pairs", "vectors of items", "writing"):
        assert any(line.strip().startswith(stage) for line in caplog.text.splitlines()), stage
    manifest = json.loads((folder / "tiny" / "tiny.hnlm.json").read_text())
    assert manifest["covered_pairs"] == manifest["pairs"] == PAIRS and manifest["width"] == 16
    assert manifest["provenance"]["settings"]["hybrid"]["tune_lora_rank"] == 4
    assert manifest["provenance"]["teacher"]["draw_candidates"] == 256
    first = built(folder)

    run_recbole_hnlm("BPR", "tiny", config_dict=values(folder, qwen))  # finds the artefacts

    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("made again what is kept")

    monkeypatch.setattr("recbole_hnlm.llm.hybrid.tuning.run_tuning", refuse)
    monkeypatch.setattr("recbole_hnlm.llm.hybrid.generation._make_parts", refuse)
    run_recbole_hnlm("BPR", "tiny", config_dict=values(folder, qwen, hnlm_rebuild=True))
    assert built(folder) == first

    with pytest.raises(ValueError, match=r"made with llm_tune_temperature=0\.05, this run asks for 0\.1; rebuild"):
        run_recbole_hnlm("BPR", "tiny", config_dict=values(folder, qwen, llm_tune_temperature=0.1))
    plain = {key: value for key, value in values(folder, qwen).items() if key in settings(folder, "BPR")}
    with pytest.raises(ValueError, match="made with llm_negatives='hybrid', this run asks for 'teacher'"):
        run_recbole_hnlm("BPR", "tiny", config_dict={**plain, "neg_sampler": "hnlm", "llm_teacher_model": "BPR"})
    item = folder / "tiny" / "tiny.item"
    item.write_text(item.read_text().replace("number 7", "number seven"))
    with pytest.raises(ValueError, match=r"the text of .*tiny\.item is not what .* made of"):
        run_recbole_hnlm("BPR", "tiny", config_dict=values(folder, qwen))


def test_every_pair_has_the_vector_of_its_own_prompt(folder: Path, qwen: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[PairTexts] = []
    from recbole_hnlm.llm.hybrid import build

    def spy(*args: Any) -> PairTexts:
        seen.append(original(*args))
        return seen[-1]

    original = build.pair_texts
    monkeypatch.setattr(build, "pair_texts", spy)
    run_recbole_hnlm("BPR", "tiny", config_dict=values(folder, qwen))
    (pairs,) = seen
    # Ranks are by sorted token: what stands at a rank must be that token's.
    users, items = (sorted(f"{kind}{n}" for n in range(count)) for kind, count in (("u", 60), ("i", 80)))
    for token, profile in zip(items, pairs.item_profiles, strict=True):
        assert f"number {token[1:]}" in re.split(r"[.;,\n|]", profile)[0]
    config = HNLMConfig("BPR", "tiny", config_dict=values(folder, qwen))
    dataset = prepare(config)[0]._dataset
    (tables,) = (folder / "cache").glob("teacher-*.npz")
    stored = np.load(tables)
    for kind, names, field in (("user", users, "user_id"), ("item", items, "item_id")):
        ids = dataset.token2id(field, np.array(names))
        np.testing.assert_array_equal(getattr(pairs, f"{kind}_vectors"), stored[f"{kind}s"][ids])
    bought: dict[str, set[str]] = {}
    for user, item in zip(dataset.id2token("user_id", dataset.inter_feat["user_id"]),
                          dataset.id2token("item_id", dataset.inter_feat["item_id"]), strict=True):  # fmt: skip
        bought.setdefault(user, set()).add(item)
    assert {(users[u], items[i]) for u, i in zip(pairs.user_of_pair, pairs.item_of_pair, strict=True)} == {
        (user, item) for user, mine in bought.items() for item in mine
    }
    for user, profile in zip(users, pairs.user_profiles, strict=True):
        named = set(re.findall(r"number (\d+)", profile))
        assert named and named <= {item[1:] for item in bought[user]}
    for place in range(0, PAIRS, 50):  # the label is among the best of what the user does not have
        user, hard = users[pairs.user_of_pair[place]], items[pairs.hard_item_of_pair[place]]
        scores = pairs.item_vectors @ pairs.user_vectors[pairs.user_of_pair[place]]
        free = [rank for rank, item in enumerate(items) if item not in bought[user]]
        assert hard not in bought[user]
        assert (scores[free] > scores[pairs.hard_item_of_pair[place]]).sum() <= 3
    (adapter,) = (folder / "cache" / "hybrid").glob("adapter-tiny-*")
    base = BaseSettings(base=str(qwen), prompt_tokens=120, label_tokens=64, precision="float32")
    loaded, info = load_adapter(adapter, base)
    builder = PromptBuilder(pairs, info.template, loaded.tokens, info.lengths)
    from recbole_hnlm.options.hybrid import GenerateSettings

    space = TextSpace.of(encode_items(pairs, adapter, base, GenerateSettings()), pairs.text_of_item >= 0, 16)
    reader = ArtefactReader.open(folder / "tiny", "tiny")
    bound = reader.bind(np.array(["[PAD]", *users]), np.array(["[PAD]", *items]))
    for place in (0, 17, 400, PAIRS - 1):
        user, item = pairs.user_of_pair[place], pairs.item_of_pair[place]
        rows = bound.pair_rows(np.array([user + 1]), np.array([item + 1]))
        expected = space.project(encode(loaded.model, builder.prompts(np.array([place]))))
        np.testing.assert_allclose(bound.read(rows[:, 0]).astype(np.float32), expected, atol=3e-3)
    assert not np.allclose(bound.read(np.array([0])), bound.read(np.array([1])), atol=1e-2)


def test_vectors_are_grounded_for_the_sampler_of_ids(folder: Path, qwen: Path) -> None:
    run_recbole_hnlm("BPR", "tiny", config_dict=values(folder, qwen, llm_grounded_items=2))
    lines = list(iter_neg_text(folder / "tiny", "tiny"))
    assert len(lines) == 2 * PAIRS and len({line[3] for line in lines}) > 20
    bound, vectors = bound_to(folder)
    items, mask = bound.item_text()
    for user, item, _, named, similarity in lines[:40:7]:
        row = bound.pair_rows(np.array([vectors["u"][user]]), np.array([vectors["i"][item]]))[:, 0]
        expected = float(bound.read(row)[0].astype(np.float32) @ items[vectors["i"][named]].astype(np.float32))
        assert mask[vectors["i"][named]] and float(similarity) == pytest.approx(expected, abs=2e-2)
    semantic = settings(folder, "BPR", neg_sampler="semantic", epochs=1, checkpoint_dir=str(folder / "saved"))
    assert run_recbole_hnlm("BPR", "tiny", config_dict=semantic)["test_result"]
    item = folder / "tiny" / "tiny.item"
    text = item.read_text()
    item.write_text(text.replace("number 7\t", "number seven\t"))
    with pytest.raises(ValueError, match=r"the text of .*tiny\.item is not what the negatives in .* named from"):
        run_recbole_hnlm("BPR", "tiny", config_dict=semantic)
    item.write_text(text)
    run_recbole_hnlm("BPR", "tiny", config_dict=values(folder, qwen))  # more than is asked for does no harm
    with pytest.raises(ValueError, match="made with llm_grounded_items=2, this run asks for 3"):
        run_recbole_hnlm("BPR", "tiny", config_dict=values(folder, qwen, llm_grounded_items=3))
    run_recbole_hnlm("BPR", "tiny", config_dict=values(folder, qwen, hnlm_rebuild=True))
    assert not list((folder / "tiny").glob("tiny.neg_text*")), "grounded items of vectors that are no more"


def bound_to(folder: Path) -> tuple[Any, dict[str, dict[str, int]]]:
    """The artefacts bound to ids in the order of the tokens, and those ids."""
    tokens = {kind: sorted(f"{kind}{n}" for n in range(count)) for kind, count in (("u", 60), ("i", 80))}
    bound = ArtefactReader.open(folder / "tiny", "tiny").bind(
        np.array(["[PAD]", *tokens["u"]]), np.array(["[PAD]", *tokens["i"]])
    )
    return bound, {kind: {token: at for at, token in enumerate(names, 1)} for kind, names in tokens.items()}


def test_an_adapter_serves_its_own_dataset_and_is_transferred_to_another(
    folder: Path, qwen: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_recbole_hnlm("BPR", "tiny", config_dict=values(folder, qwen))
    (adapter,) = (folder / "cache" / "hybrid").glob("adapter-tiny-*")
    kept = folder / "kept"
    shutil.copytree(adapter, kept)
    given = {
        "llm_adapter": str(kept),
        "hnlm_artefact_dir": str(folder / "own"),
        "llm_cache_dir": str(folder / "cache2"),
    }
    same = values(folder, qwen, **given)
    run_recbole_hnlm("BPR", "tiny", config_dict=same)
    assert not list((folder / "cache2" / "hybrid").glob("adapter*")), "an adapter was tuned although one was given"
    for name in ("tiny.hnlm_emb.npy", "tiny.item_text.npy"):
        assert (folder / "own" / name).read_bytes() == (folder / "tiny" / name).read_bytes()

    with pytest.raises(ValueError, match="was tuned on other training pairs of tiny, of another split"):
        run_recbole_hnlm("BPR", "tiny", config_dict={**same, "seed": 7, "hnlm_rebuild": True})
    with pytest.raises(ValueError, match="was tuned on another teacher of tiny"):
        run_recbole_hnlm("BPR", "tiny", config_dict={**same, "llm_teacher_epochs": 2, "hnlm_rebuild": True})

    with monkeypatch.context() as patched:
        patched.setattr("recbole_hnlm.building.hybrid.train_teacher", refuse_teacher)
        other_base = save_tiny(folder / "other", "Llama")
        with pytest.raises(ValueError, match="llm_adapter=.* was tuned on .*qwen.*use the same base model"):
            run_recbole_hnlm("BPR", "tiny", config_dict={**same, "llm_base": str(other_base), "hnlm_rebuild": True})

    write_dataset(folder, "mall", seed=3)
    for method in ("refit", "mean"):
        other = values(folder, qwen, llm_adapter=str(kept), llm_transfer=method, hnlm_rebuild=True)
        assert run_recbole_hnlm("BPR", "mall", config_dict=other)["test_result"]
    assert len(list((folder / "cache" / "hybrid").glob("transferred-mall-*"))) == 2
    assert json.loads((folder / "mall" / "mall.hnlm.json").read_text())["covered_pairs"] == PAIRS


def test_datasets_that_are_tuned_together_share_one_adapter(
    folder: Path, qwen: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_dataset(folder, "mall", seed=3)
    prompt = folder / "prompt.yaml"
    own = read_template().text + " Think of what this user would regret."
    prompt.write_text(yaml.safe_dump({"version": "mine-1", "text": own}))
    given = values(folder, qwen, llm_prompt=str(prompt), llm_prompt_tokens=128)
    assert run_recbole_hnlm("BPR", "tiny", config_dict={**given, "llm_tune_datasets": ["mall"]})["test_result"]
    (adapter,) = (folder / "cache" / "hybrid").glob("adapter-*")
    info = read_info(adapter)
    assert adapter.name.startswith("adapter-mall+tiny-") and set(info.projectors) == {"mall", "tiny"}
    assert info.prompt_version == "mine-1" and info.figures["pairs"] == 64
    with pytest.raises(ValueError, match=r"made with llm_tune_datasets=\['mall'\], this run asks for None"):
        run_recbole_hnlm("BPR", "tiny", config_dict=given)

    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("tuned again")

    monkeypatch.setattr("recbole_hnlm.llm.hybrid.tuning.run_tuning", refuse)
    run_recbole_hnlm("BPR", "mall", config_dict={**given, "llm_tune_datasets": ["tiny"]})
    assert json.loads((folder / "mall" / "mall.hnlm.json").read_text())["covered_pairs"] == PAIRS


@pytest.mark.parametrize(
    ("more", "error", "message"),
    [
        ({"llm_tune_datasets": ["tiny"]}, ValueError, "the run's own dataset"),
        ({"llm_tune_datasets": ["nowhere"]}, FileNotFoundError, "dataset 'nowhere' needs nowhere.inter"),
        ({"llm_tune_datasets": ["mall"], "llm_adapter": "x"}, ValueError, "llm_tune_datasets has no effect beside"),
        ({"llm_base": "no/such/model"}, FileNotFoundError, "check llm_base"),
        ({"llm_adapter": "nowhere"}, FileNotFoundError, "give the folder of a fine-tuned adapter as llm_adapter"),
        ({"llm_prompt_tokens": 4000}, ValueError, "exceeds the 128 tokens"),
        ({"llm_prompt_tokens": 20}, ValueError, "leaves .* tokens for both profiles beside the wording"),
        ({"llm_precision": "float16"}, ValueError, "llm_precision=float16 cannot be fine-tuned"),
        ({"llm_transfer": "mean"}, ValueError, "llm_transfer has no effect without llm_adapter"),
        ({"hnlm_base_sampler": "semantic"}, ValueError, "set llm_grounded_items=1 or more"),
        ({"llm_negatives": "hybird"}, ValueError, "did you mean 'hybrid'"),
        ({"llm_negatives_per_pair": 2}, ValueError, "one vector a pair"),
        ({"llm_tune_learning_rat": 1.0}, ValueError, "did you mean 'llm_tune_learning_rate'"),
        ({"llm_tune_batch_size": 0}, ValueError, "llm_tune_batch_size=0 must be above 0"),
        ({"llm_encoder": "x"}, ValueError, "llm_encoder has no effect here: llm_negatives=hybrid encodes texts by its"),
        ({"llm_negatives": "teacher"}, ValueError, "has no effect here: it belongs to llm_negatives=hybrid"),
    ],
)
def test_what_cannot_work_is_refused_before_a_teacher_is_trained(
    folder: Path, qwen: Path, monkeypatch: pytest.MonkeyPatch, more: dict[str, Any], error: type, message: str
) -> None:
    monkeypatch.setattr("recbole_hnlm.building.hybrid.train_teacher", refuse_teacher)
    monkeypatch.setattr("recbole_hnlm.llm.weights.is_reachable", lambda *args: False)
    with pytest.raises(error, match=message):
        run_recbole_hnlm("BPR", "tiny", config_dict=values(folder, qwen, **more))


def test_chat_models_name_text_and_templates_do_not() -> None:
    with pytest.raises(ValueError, match="llm_negatives=text does not go with llm_backend=template"):
        LLMOptions(negatives="text")
    with pytest.raises(ValueError, match="llm_negatives=teacher does not go with llm_backend=openai"):
        LLMOptions(negatives="teacher", backend="openai")


def test_profiles_that_a_chat_model_writes_go_into_hybrid_prompts(
    folder: Path, qwen: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("openai")
    monkeypatch.setenv("OPENAI_API_KEY", "none-needed")
    prompts: list[str] = []
    original = PromptBuilder.prompts

    def spy(self: PromptBuilder, places: Any, *more: Any) -> Any:
        prompts.append(self.pairs.user_profiles[self.pairs.user_of_pair[places[0]]])
        return original(self, places, *more)

    monkeypatch.setattr(PromptBuilder, "prompts", spy)
    with ChatServer.running() as server:
        written = {"llm_backend": "openai", "llm_chat_model": "tiny-chat", "llm_base_url": server.url}
        given = values(folder, qwen, **written)
        monkeypatch.setattr(sys, "argv", ["recbole-hnlm"])
        (folder / "run.yaml").write_text(yaml.safe_dump(given))
        main(["build", "--model=BPR", "--dataset=tiny", f"--config_files={folder / 'run.yaml'}", "--dry_run"])
        lines = {line[2:17].strip(): line.split() for line in capsys.readouterr().out.splitlines()}
        assert [lines[name][2] for name in ("item profiles", "user profiles", "hard negatives")] == ["80", "60", "0"]
        assert not server.asked

        assert run_recbole_hnlm("BPR", "tiny", config_dict=given)["test_result"]
        asked = sum(server.asked.values())
        assert 130 < asked <= 140 and prompts and all(" number " in profile for profile in prompts)
        for kind in ("item_profile", "user_profile"):
            assert (folder / "tiny" / f"tiny.{kind}").read_text().count(" number ") in (60, 80)
        manifest = json.loads((folder / "tiny" / "tiny.hnlm.json").read_text())["provenance"]["settings"]
        assert manifest["chat"]["chat_model"] == "tiny-chat" and manifest["hybrid"]["tune_lora_rank"] == 4
        assert manifest["sources"]["inter"]["text"] == ""  # it was told of reviews, had there been any

        run_recbole_hnlm("BPR", "tiny", config_dict=given)
        run_recbole_hnlm("BPR", "tiny", config_dict={**given, "hnlm_rebuild": True})
        assert sum(server.asked.values()) == asked, "kept answers were asked for again"
        with pytest.raises(ValueError, match="made with llm_user_words=100, this run asks for 50"):
            run_recbole_hnlm("BPR", "tiny", config_dict={**given, "llm_user_words": 50})
        with pytest.raises(ValueError, match="made with llm_backend='openai', this run asks for 'template'"):
            run_recbole_hnlm("BPR", "tiny", config_dict=values(folder, qwen))
        for key, value in {"llm_pair_grouping": "user", "llm_ground_items": 2}.items():
            with pytest.raises(ValueError, match=f"{key} has no effect.*takes the profiles of llm_backend=openai"):
                run_recbole_hnlm("BPR", "tiny", config_dict={**given, key: value})


def test_profiles_that_nobody_answered_for_are_told_of_at_every_run(
    folder: Path, qwen: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("openai")
    monkeypatch.setenv("OPENAI_API_KEY", "none-needed")
    with ChatServer.running() as server:
        server.pages_for = "01"
        asked = {"llm_backend": "openai", "llm_chat_model": "tiny-chat", "llm_base_url": server.url}
        given = values(folder, qwen, **asked, llm_attempts=1, llm_first_wait=0.01)
        for _ in range(2):
            caplog.clear()
            prepare(HNLMConfig("BPR", "tiny", config_dict=given))
        assert re.search(r"gave no usable answer to \d+ of 80 item profiles.*hnlm_rebuild", caplog.text)
        caplog.clear()
        server.pages_for = ""
        prepare(HNLMConfig("BPR", "tiny", config_dict={**given, "llm_attempts": 8, "hnlm_rebuild": True}))
        prepare(HNLMConfig("BPR", "tiny", config_dict=given))
        assert "no usable answer" not in caplog.text


def test_a_dataset_without_text_is_refused(tmp_path: Path, qwen: Path) -> None:
    write_dataset(tmp_path, text=False)
    with pytest.raises(ValueError, match="needs text to tell the model, 'tiny' has none"):
        run_recbole_hnlm("BPR", "tiny", config_dict=values(tmp_path, qwen))


def test_the_command_builds(folder: Path, qwen: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    given = [f"--{key}={value}" for key, value in values(folder, qwen, llm_tune_epochs=0).items()
             if isinstance(value, (str, int, float)) and key != "state"]  # fmt: skip
    monkeypatch.setattr("sys.argv", ["recbole-hnlm", "build", "--model=BPR", "--dataset=tiny", *given])
    main(["build", "--model=BPR", "--dataset=tiny", *given])
    assert (folder / "tiny" / "tiny.hnlm.json").is_file()


@pytest.mark.slow
def test_two_processes_make_the_bytes_of_one(folder: Path, qwen: Path) -> None:
    flags = [f"--{key}={value}" for key, value in values(folder, qwen).items() if isinstance(value, (str, int, float))]
    clean = {key: value for key, value in os.environ.items() if key not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}

    def build(name: str, *words: str) -> dict[str, bytes]:
        own = [f"--hnlm_artefact_dir={folder / name}", f"--llm_cache_dir={folder / name}-cache", "--state=INFO"]
        command = [sys.executable, *words, "-m", "recbole_hnlm.cli", "build", "--model=BPR", "--dataset=tiny"]
        done = subprocess.run(
            [*command, *(flag for flag in flags if "cache_dir" not in flag and "--state" not in flag), *own],
            cwd=folder, env={**clean, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}, capture_output=True,
            text=True, timeout=240, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        made = [int(count) for count in re.findall(r"making vectors of (\d+) pairs", done.stdout + done.stderr)]
        assert len(made) == (2 if words else 1) and sum(made) == PAIRS and min(made) > 0
        return {path.name: path.read_bytes() for path in (folder / name).iterdir()}

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    assert build("both", "-m", "torch.distributed.run", "--nproc-per-node=2", f"--master-port={port}") == build("alone")
