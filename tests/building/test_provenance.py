"""Artefacts of hybrid prompts under another run: every option that decides a vector is compared by name."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from recbole_hnlm.artefacts.manifest import Provenance
from recbole_hnlm.building.chat import chat_settings
from recbole_hnlm.building.provenance import check_provenance, settings_of_hybrid
from recbole_hnlm.llm.weights import fingerprint
from recbole_hnlm.options import LLMOptions
from recbole_hnlm.options.parsing import option_keys
from recbole_hnlm.options.text import GroundingOptions, TextOptions
from recbole_hnlm.run_options import RunOptions, parse_run
from recbole_hnlm.run_options.hybrid import hybrid_keys

WITHOUT_EFFECT = {
    "llm_generate_batch_tokens", "llm_generate_part_pairs", "llm_generate_show_progress", "llm_tune_tensorboard",
    "llm_adapter", "llm_transfer", "llm_grounded_items",
}  # fmt: skip
"""What changes no vector, and what has tests of its own."""
OTHER = {
    "llm_base": "elsewhere", "llm_quantization": "nf4", "llm_precision": "bfloat16", "llm_tune_held_out_by": "pair",
    "llm_tune_gradient_checkpointing": True, "llm_user_history_order": "random", "llm_teacher_model": "BPR",
    "llm_tune_datasets": ("mall",), "llm_prompt": str(Path(__file__).parents[2] / "properties" / "prompts" / "hybrid.yaml"),
}  # fmt: skip
OF_THE_TEACHER = ("epochs", "candidates", "draws", "draw_candidates")


class _Manifest:
    """As much of a manifest as is compared."""

    def __init__(self, run: RunOptions) -> None:
        assert run.hybrid is not None
        llm = run.llm
        teacher = {"model": llm.teacher_model, "seed": llm.seed, "draw_candidates": llm.draw_candidates}
        teacher |= {key: getattr(llm, f"teacher_{key}") for key in OF_THE_TEACHER[:3]}
        apart = {"profile_words": llm.profile_words, "user_history": llm.user_history}
        apart["user_history_order"] = llm.user_history_order  # type: ignore[assignment]
        settings = {**apart, "text_width": llm.text_width, "hybrid": settings_of_hybrid(run.hybrid)}
        fields = {field.name for field in dataclasses.fields(Provenance)}
        known = {"encoder": "m", "settings": settings, "teacher": teacher, "item_fields": (), "user_fields": ()}
        self.provenance = Provenance(**{**dict.fromkeys(fields, ""), **known})
        self.negatives_per_pair = llm.negatives_per_pair


def run_with(**values: Any) -> RunOptions:
    base = {"neg_sampler": "hnlm", "llm_negatives": "hybrid", "llm_precision": "float32"}
    run = parse_run({**base, **values}, given=(), recbole_keys=())
    assert run is not None
    return run


def other(key: str) -> Any:
    """A value that differs from the default and is allowed."""
    if key in OTHER:
        return OTHER[key]
    run = run_with()
    assert run.hybrid is not None
    for prefix, options in (("llm_tune_", run.hybrid.tune), ("llm_", run.hybrid.base), ("llm_", run.llm)):
        if key.startswith(prefix) and hasattr(options, key.removeprefix(prefix)):
            value = getattr(options, key.removeprefix(prefix))
            return 64 if value is None else value / 2 if isinstance(value, float) else value + 1
    raise AssertionError(key)


@pytest.mark.parametrize("key", sorted(hybrid_keys() - WITHOUT_EFFECT))
def test_every_option_of_hybrid_prompts_is_compared(key: str) -> None:
    manifest: Any = _Manifest(run_with())
    check_provenance(manifest, run_with(), Path("x"))
    with pytest.raises(ValueError, match=rf"made with {key}=.*this run asks for .*rebuild with"):
        check_provenance(manifest, run_with(**{key: other(key)}), Path("x"))


@pytest.mark.parametrize(
    "key",
    ["llm_seed", "llm_text_width", "llm_profile_words", "llm_user_history", "llm_user_history_order",
     "llm_teacher_model", *(f"llm_teacher_{key}" for key in OF_THE_TEACHER)],
)  # fmt: skip
def test_every_option_of_the_teacher_and_the_texts_is_compared(key: str) -> None:
    assert key in option_keys(LLMOptions, "llm_")
    manifest: Any = _Manifest(run_with())
    with pytest.raises(ValueError, match=rf"made with {key}="):
        check_provenance(manifest, run_with(**{key: other(key)}), Path("x"))


@pytest.mark.parametrize("key", sorted(WITHOUT_EFFECT - {"llm_adapter", "llm_transfer"}))
def test_what_changes_no_vector_is_no_reason_to_build_anew(key: str) -> None:
    more = {"llm_generate_show_progress": True, "llm_tune_tensorboard": True}.get(key, 77)
    if key == "llm_grounded_items":
        manifest: Any = _Manifest(run_with(llm_grounded_items=3))
        check_provenance(manifest, run_with(), Path("x"))
        return
    check_provenance(_Manifest(run_with()), run_with(**{key: more}), Path("x"))  # type: ignore[arg-type]


OWN_PROMPTS = Path(__file__).parents[2] / "properties" / "prompts" / "media.yaml"
OTHER_CHAT: dict[str, Any] = {
    "llm_domain": "media", "llm_prompts": str(OWN_PROMPTS), "llm_pair_grouping": "user", "llm_item_vectors": "profiles",
    "llm_ground_search": "exact",
    "llm_chat_model": "other", "llm_chat_revision": "2", "llm_chat_quantization": "nf4", "llm_temperature": 0.5,
}  # fmt: skip


def chat_run(**values: Any) -> RunOptions:
    base = {"neg_sampler": "hnlm", "llm_backend": "transformers", "llm_chat_model": "m"}
    run = parse_run({**base, **values}, given=(), recbole_keys=())
    assert run is not None and run.chat is not None
    return run


def chat_manifest(run: RunOptions) -> Any:
    assert run.chat is not None
    fields = {field.name for field in dataclasses.fields(Provenance)}
    settings = {"chat": chat_settings(run.chat, run.llm), "text_width": run.llm.text_width}
    known = {"encoder": run.llm.encoder, "settings": settings, "teacher": {}, "item_fields": (), "user_fields": ()}
    return SimpleNamespace(provenance=Provenance(**{**dict.fromkeys(fields, ""), **known}))


@pytest.mark.parametrize(
    "key",
    [*option_keys(TextOptions, "llm_"), *option_keys(GroundingOptions, "llm_"), "llm_chat_model", "llm_chat_revision", "llm_chat_quantization", "llm_temperature"],
)  # fmt: skip
def test_every_option_that_decides_what_a_chat_model_says_is_compared(key: str) -> None:
    run = chat_run()
    assert run.chat is not None
    value = OTHER_CHAT.get(key)
    if value is None:
        owner = run.chat.text if key in option_keys(TextOptions, "llm_") else run.chat.grounding
        value = getattr(owner, key.removeprefix("llm_"))
        value = value / 2 + 0.1 if isinstance(value, float) else value + 1
    check_provenance(chat_manifest(run), chat_run(), Path("x"))
    with pytest.raises(ValueError, match=rf"made with {key}=.*this run asks for .*rebuild with"):
        check_provenance(chat_manifest(run), chat_run(**{key: value}), Path("x"))


def test_prompts_are_known_by_their_words_and_not_by_their_place(tmp_path: Path) -> None:
    first, second = tmp_path / "first.yaml", tmp_path / "second.yaml"
    for path in (first, second):
        path.write_text(OWN_PROMPTS.read_text())
    made = chat_manifest(chat_run(llm_prompts=str(first)))
    check_provenance(made, chat_run(llm_prompts=str(second)), Path("x"))
    first.write_text(OWN_PROMPTS.read_text().replace("version: ", "version: my"))
    with pytest.raises(ValueError, match=r"made with llm_prompts='media-\S+ \w{12}', this run asks for 'media-my"):
        check_provenance(made, chat_run(llm_prompts=str(first)), Path("x"))


def test_an_encoder_in_a_folder_is_known_by_its_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "enc").mkdir()
    (tmp_path / "enc" / "model.safetensors").write_bytes(b"one")
    made = chat_manifest(chat_run(llm_encoder="enc"))
    made.provenance = dataclasses.replace(made.provenance, encoder_revision=fingerprint(tmp_path / "enc"))
    for spelt in ("enc", "./enc", str(tmp_path / "enc")):
        check_provenance(made, chat_run(llm_encoder=spelt), Path("x"))
    (tmp_path / "enc" / "model.safetensors").write_bytes(b"another")
    with pytest.raises(ValueError, match=r"made with llm_encoder='enc \(sha256:.*this run asks for 'enc \(sha256:"):
        check_provenance(made, chat_run(llm_encoder="enc"), Path("x"))
    (tmp_path / "enc").rename(tmp_path / "gone")
    check_provenance(made, chat_run(llm_encoder="enc"), Path("x"))
