"""Vectors of users' own profiles: what they are, that they are added to artefacts and harm none, and who reads them."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from filling_server import ChatServer
from recbole_runs import made, settings, write_dataset

from recbole_hnlm import run_recbole_hnlm
from recbole_hnlm.artefacts import ArtefactError, add_user_text, export_text, read_manifest
from recbole_hnlm.artefacts.atomic import read_atomic
from recbole_hnlm.artefacts.storage import write_npy, write_text
from recbole_hnlm.building import user_text
from recbole_hnlm.config import HNLMConfig
from recbole_hnlm.llm import build_encoder
from recbole_hnlm.models.text import read_text
from recbole_hnlm.options import HNLMOptions
from recbole_hnlm.quick_start import prepare
from recbole_hnlm.samplers import TrainingInteractions

WIDTH = 12


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_dataset(tmp_path)


def values(folder: Path, **more: Any) -> dict[str, Any]:
    return {"neg_sampler": "hnlm", "llm_teacher_epochs": 1, "llm_text_width": WIDTH, "epochs": 1,
            "llm_cache_dir": str(folder / "cache"), "checkpoint_dir": str(folder / "saved"), **more}  # fmt: skip


def text_of(folder: Path, **more: Any) -> Any:
    model, _, _ = made(folder, "LightGCN", **values(folder, **more))
    return model.hnlm.comparator.text if "hnlm_comparator" in more else model.hnlm.text_head.text


def encoded(texts: list[str]) -> np.ndarray:
    return np.asarray(build_encoder("all-MiniLM-L6-v2").encode(texts), dtype=np.float64)


def naive_users(home: Path, item_texts: list[str], tokens: np.ndarray) -> np.ndarray:
    """Profiles of the users ``tokens``, encoded, centred on the users, along the items' principal directions."""
    profiles = read_atomic(home / "tiny.user_profile", key="user_id")
    of_user = dict(zip(profiles.column("user_id"), profiles.column("profile"), strict=True))
    users, items = encoded([of_user[token] for token in tokens]), encoded(item_texts)
    axes = np.linalg.svd(items - items.mean(axis=0), full_matrices=False)[2][:WIDTH].T
    axes = axes * np.sign(axes[np.abs(axes).argmax(axis=0), np.arange(WIDTH)])
    rows = (users - users.mean(axis=0)) @ axes
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_a_comparator_reads_the_users_profiles_in_the_items_space(folder: Path) -> None:
    model, loaders, _ = made(folder, "LightGCN", **values(folder, hnlm_comparator="rlmrec_con"))
    text, dataset = model.hnlm.comparator.text, loaders[0]._dataset
    tokens = dataset.field2id_token["user_id"][1:]
    items = read_atomic(folder / "tiny" / "tiny.item_profile", key="item_id").column("profile")
    expected = naive_users(folder / "tiny", list(items), tokens)
    assert text.user_mask.tolist() == [False] + [True] * 60
    np.testing.assert_allclose(text.users[1:].numpy(), expected, atol=2e-3)
    means = text_of(folder, hnlm_comparator="rlmrec_con", hnlm_user_text="items")
    assert (means.users * text.users).sum(dim=1).abs().max() < 0.999


def test_ours_reads_means_of_items_unless_told_otherwise(folder: Path) -> None:
    plain = text_of(folder)
    assert not (folder / "tiny" / "tiny.user_text.npy").exists()
    told = text_of(folder, hnlm_user_text="profiles")
    assert torch.equal(plain.items, told.items) and not torch.allclose(plain.users, told.users, atol=0.1)
    again = text_of(folder)
    assert torch.equal(plain.users, again.users)


def test_vectors_are_added_once_and_nothing_else_changes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text_of(folder)
    home = folder / "tiny"
    before = {path.name: path.read_bytes() for path in home.iterdir()}
    text_of(folder, hnlm_comparator="kar")
    after = {path.name: path.read_bytes() for path in home.iterdir()}
    assert set(after) - set(before) == {"tiny.user_text.npy"}
    assert [name for name in before if before[name] != after[name]] == ["tiny.hnlm.json"]
    assert export_text(home, "tiny").has_file("user_text.npy")

    def refuse(*_: Any) -> None:
        raise AssertionError("the encoder was loaded again")

    monkeypatch.setattr(user_text, "build_encoder", refuse)
    text_of(folder, hnlm_comparator="kar")
    monkeypatch.undo()
    text_of(folder, hnlm_rebuild=True)
    assert not (home / "tiny.user_text.npy").exists(), "of the artefacts before the rebuild"


def test_a_kill_while_they_are_written_leaves_the_artefacts_fit(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text_of(folder)

    def die(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("recbole_hnlm.artefacts.user_text.write_manifest", die)
    with pytest.raises(KeyboardInterrupt):
        text_of(folder, hnlm_comparator="kar")
    monkeypatch.undo()
    plain = text_of(folder)
    told = text_of(folder, hnlm_comparator="kar")
    assert not torch.allclose(plain.users, told.users, atol=0.1)


def test_a_read_only_folder_is_told_with_the_remedy(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text_of(folder)

    def refuse(path: Path, *_: Any) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("recbole_hnlm.artefacts.user_text.write_npy", refuse)
    with pytest.raises(
        ValueError,
        match="is read-only and lacks vectors of users. profiles; copy it and name the copy in hnlm_artefact_dir",
    ):
        text_of(folder, hnlm_comparator="kar")
    monkeypatch.undo()
    assert text_of(folder).user_mask[1:].all()


def test_where_nothing_is_made_no_lock_and_no_cache_is_touched(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text_of(folder)
    text_of(folder, hnlm_comparator="kar")

    def refuse(*_: Any) -> None:
        raise AssertionError("waits for the builds of others")

    monkeypatch.setattr("recbole_hnlm.building.turns.directory_lock", refuse)
    nowhere = str(folder / "tiny" / "tiny.inter" / "cache")
    for more in ({}, {"hnlm_comparator": "kar"}):
        assert text_of(folder, **more, llm_cache_dir=nowhere).user_mask[1:].all()


@pytest.mark.parametrize("change", ["reworded", "told of more"])
def test_items_that_read_otherwise_now_are_told(folder: Path, change: str) -> None:
    text_of(folder)
    home = folder / "tiny"
    if change == "reworded":
        lines = [f"i{item}\tsomething else {item}\n" for item in range(80)]
        write_changed(folder, "tiny.item_profile", "".join(["item_id:token\tprofile:token_seq\n", *lines]))
    else:
        vectors = np.load(home / "tiny.item_text.npy")
        vectors[5] = 0
        write_changed(folder, "tiny.item_text.npy", vectors)
    with pytest.raises(ValueError, match="items' texts are not those that the artefacts .*rebuild with --hnlm_rebuild"):
        text_of(folder, hnlm_comparator="kar")
    assert not (home / "tiny.user_text.npy").exists()


def write_changed(folder: Path, name: str, content: Any) -> None:
    """Exchange a file of the artefacts, and what the manifest says of it."""
    path = folder / "tiny" / name
    entry = write_npy(path, content, "<f2") if isinstance(content, np.ndarray) else write_text(path, [content])
    manifest = folder / "tiny" / "tiny.hnlm.json"
    told = json.loads(manifest.read_text())
    told["files"][name] = dataclasses.asdict(entry)
    manifest.write_text(json.dumps(told))


def test_vectors_of_other_artefacts_are_not_added(folder: Path) -> None:
    text_of(folder)
    home = folder / "tiny"
    manifest = read_manifest(home, "tiny")
    vectors = np.zeros((manifest.users, WIDTH))
    with pytest.raises(ArtefactError, match=r"changed while vectors of its users were made; run again or"):
        add_user_text(home, "tiny", dataclasses.replace(manifest, pairs_hash="other"), vectors)
    with pytest.raises(ValueError, match=r"have shape \(60, 3\), expected \(60, 12\)"):
        add_user_text(home, "tiny", manifest, vectors[:, :3])


def test_damage_is_told_with_the_file(folder: Path) -> None:
    text_of(folder, hnlm_comparator="kar")
    path = folder / "tiny" / "tiny.user_text.npy"
    content = bytearray(path.read_bytes())
    content[-2:] = b"\x00\x7e"  # NaN
    path.write_bytes(content)
    with pytest.raises(ArtefactError, match=r"tiny\.user_text\.npy has NaN or infinity in row 59; run recbole-hnlm"):
        text_of(folder)
    path.write_bytes(content[:-2])
    with pytest.raises(ArtefactError, match=r"tiny\.user_text\.npy has .* bytes"):
        text_of(folder)


def test_another_revision_of_the_encoder_is_refused(folder: Path) -> None:
    text_of(folder)
    path = folder / "tiny" / "tiny.hnlm.json"
    content = json.loads(path.read_text())
    content["provenance"]["encoder_revision"] = "an-older-one"
    path.write_text(json.dumps(content))
    with pytest.raises(
        ValueError, match="made with revision an-older-one of .*MiniLM.*rebuild with --hnlm_rebuild=True"
    ):
        text_of(folder, hnlm_comparator="kar")


def test_controls_take_the_users_texts_too(folder: Path) -> None:
    honest = text_of(folder, hnlm_comparator="rlmrec_con")
    permuted = text_of(folder, hnlm_comparator="rlmrec_con", hnlm_control="permuted")
    order = (permuted.users @ honest.users.T).argmax(dim=1)[1:]
    assert order.sort().values.tolist() == list(range(1, 61)) and order.tolist() != list(range(1, 61))
    noise = text_of(folder, hnlm_comparator="rlmrec_con", hnlm_control="gaussian")
    assert (noise.users @ honest.users.T).max() < 0.95


def test_without_text_the_means_stand_in_unless_profiles_were_asked_for(tmp_path: Path) -> None:
    folder = write_dataset(tmp_path, text=False)
    assert text_of(folder, hnlm_comparator="rlmrec_con").user_mask[1:].all()
    with pytest.raises(ValueError, match="hnlm_user_text=profiles, but tiny has no text; set hnlm_user_text=items"):
        text_of(folder, hnlm_user_text="profiles")


def test_recboles_own_run_needs_them_in_place(folder: Path) -> None:
    text_of(folder)

    config = HNLMConfig("LightGCN", "tiny", config_dict=settings(folder, "LightGCN", **values(folder)))
    dataset = prepare(config)[0]._dataset
    interactions = TrainingInteractions(torch.tensor([1]), torch.tensor([1]), n_users=61, n_items=81)
    with pytest.raises(ValueError, match="have no vectors of users; train through run_recbole_hnlm, which adds them"):
        read_text(config, dataset, HNLMOptions(user_text="profiles"), interactions, 0)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ChatServer]:
    pytest.importorskip("openai")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
    with ChatServer.running() as running:
        yield running


@pytest.mark.parametrize("made_of", ["fields", "profiles"])
def test_what_a_chat_model_wrote_of_users_reaches_a_comparator(folder: Path, server: ChatServer, made_of: str) -> None:
    run = settings(folder, "BPR", **values(folder, hnlm_comparator="rlmrec_con"))
    del run["llm_teacher_epochs"]
    run |= {"llm_backend": "openai", "llm_chat_model": "tiny-chat", "llm_base_url": server.url,
            "llm_pair_grouping": "user", "llm_item_vectors": made_of}  # fmt: skip
    run_recbole_hnlm("BPR", "tiny", config_dict=run)
    asked = sum(server.asked.values())
    home = folder / "tiny"
    vectors = np.load(home / "tiny.user_text.npy").astype(np.float64)
    if made_of == "profiles":
        texts = list(read_atomic(home / "tiny.item_profile", key="item_id").column("profile"))
    else:
        text_of(folder, hnlm_artefact_dir=str(folder / "template"))
        texts = list(read_atomic(folder / "template" / "tiny.item_profile", key="item_id").column("profile"))
    users = np.sort(np.array([f"u{number}" for number in range(60)]))
    np.testing.assert_allclose(vectors, naive_users(home, texts, users), atol=2e-3)
    assert asked and sum(server.asked.values()) == asked
