"""Whether artefacts that are there are those that a run asks for: what made them, against options and text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from recbole_hnlm.artefacts import Manifest
from recbole_hnlm.artefacts.manifest import Provenance
from recbole_hnlm.artefacts.neg_text import NegTextManifest
from recbole_hnlm.artefacts.storage import hash_file
from recbole_hnlm.building.chat import backend_family, chat_settings
from recbole_hnlm.building.reviews import review_file, text_of_reviews
from recbole_hnlm.building.sources import source_files, tables_of
from recbole_hnlm.llm import select_text_fields
from recbole_hnlm.llm.item_vectors import TEACHER_ENCODER
from recbole_hnlm.llm.source_text import text_digest
from recbole_hnlm.llm.weights import fingerprint
from recbole_hnlm.options import LLMOptions
from recbole_hnlm.options.hybrid import HybridRun
from recbole_hnlm.options.imports import known_by
from recbole_hnlm.run_options import RunOptions
from recbole_hnlm.run_options.chat import ChatRun
from recbole_hnlm.run_options.hybrid import hybrid_settings

_APART = (
    *("encoder_backend", "encoder_precision", "text_width", "chat", "hybrid", "text_fields", "user_text_fields"),
    "sources",
    "unanswered",
)
Compared = dict[str, tuple[Any, Any]]
"""Option -> what the artefacts were made with, and what this run asks for."""


def check_provenance(manifest: Manifest, run: RunOptions, directory: Path) -> None:
    """Refuse artefacts that another encoder, text field, teacher or language model made than this run asks for.

    Raises:
        ValueError: Naming the first option that differs.
    """
    wanted, made = run.llm, manifest.provenance
    settings = {key: value for key, value in made.settings.items() if key not in _APART}
    compared: Compared = {
        "llm_backend": (made.settings.get("chat", {}).get("backend", "template"), backend_family(wanted.backend)),
        "llm_negatives": (_named_by(made), wanted.names_by),
        **_encoding(made, run),
        **{f"llm_{key}": (value, getattr(wanted, key)) for key, value in settings.items()},
        "llm_user_text_fields": _fields(made, "user_text_fields", made.user_fields, wanted.user_text_fields),
        "llm_text_fields": _fields(made, "text_fields", made.item_fields, wanted.text_fields),
    }
    if _named_by(made) == wanted.names_by:
        compared.update(_negatives(manifest, run))
    for key, (found, asked) in compared.items():
        if found != asked:
            raise ValueError(
                f"the artefacts in {directory} were made with {key}={found!r}, this run asks for {asked!r}; "
                "rebuild with --hnlm_rebuild=True, or give the option the value that made them"
            )


def check_sources(manifest: Manifest, config: Any, run: RunOptions, dataset: Any, directory: Path) -> None:
    """Refuse artefacts that were made of another text than the dataset's files hold now.

    Files that are no longer there are not missed, and artefacts that do not tell what they were made of are taken.

    Raises:
        ValueError: Naming the file whose text has changed.
    """
    fields = {"item": run.llm.text_fields, "user": run.llm.user_text_fields}
    changed = _changed_text(manifest.provenance.settings.get("sources"), fields, config, run, dataset)
    if changed is not None:
        raise ValueError(
            f"the text of {changed} is not what the artefacts in {directory} were made of; rebuild with "
            "--hnlm_rebuild=True (what was encoded or answered for unchanged texts is kept), or put the old file back"
        )


def check_named(manifest: NegTextManifest, config: Any, run: RunOptions, dataset: Any, directory: Path) -> None:
    """Refuse negatives that a model named from another text than the dataset's files hold now.

    Compared are the fields that it was told; files that are no longer there are not missed, as above.

    Raises:
        ValueError: Naming the file whose text has changed.
    """
    made = manifest.provenance
    fields = {kind: made.get(f"{kind}_fields", ()) for kind in ("item", "user")}
    changed = _changed_text(made.get("sources"), fields, config, run, dataset)
    if changed is not None:
        raise ValueError(
            f"the text of {changed} is not what the negatives in {directory} were named from; name them anew by "
            f"recbole-hnlm build with --hnlm_rebuild=True and the options of {made.get('model')} (what was answered "
            "for unchanged texts is kept), or put the old file back"
        )


def _changed_text(
    made: Mapping[str, Mapping[str, str]] | None,
    fields: Mapping[str, Sequence[str] | None],
    config: Any,
    run: RunOptions,
    dataset: Any,
) -> Path | None:
    """The first file whose text is not what ``made`` tells of; None if there is none, or nothing is told."""
    files = {**source_files(config), "inter": review_file(config)}
    others = [
        kind
        for kind, told in (made or {}).items()
        if files[kind].is_file() and told.get("file") != hash_file(files[kind])
    ]
    if not made or not others:
        return None
    tables = dict(zip(("item", "user"), tables_of(config, dataset, run.llm), strict=True))
    for kind in others:
        if kind == "inter":
            text = text_of_reviews(config, dataset)
        else:
            table = tables[kind]
            assert table is not None, "its file is there"
            known = all(field in table.types for field in fields[kind] or ())
            text = text_digest(table, select_text_fields(table, fields[kind])) if known else "without a field"
        if text != made[kind].get("text", ""):
            return files[kind]
    return None


def settings_of_hybrid(hybrid: HybridRun) -> dict[str, Any]:
    """What decides the vectors of hybrid prompts, with the adapter by its weights and not by its folder.

    Raises:
        FileNotFoundError: If the adapter is not there.
        ValueError: If it cannot be read.
    """
    from recbole_hnlm.llm.hybrid.adapter import adapter_digest
    from recbole_hnlm.llm.hybrid.prompts import read_template

    adapter, prompt = hybrid.options.adapter, hybrid.options.prompt
    return hybrid_settings(
        hybrid,
        None if adapter is None else adapter_digest(adapter),
        None if prompt is None else read_template(prompt).digest,
    )


def _fields(made: Provenance, key: str, found: tuple[str, ...], asked: tuple[str, ...] | None) -> tuple[Any, Any]:
    """Fields that were read, and those that this run asks for: by name, or chosen by their content."""
    if asked is not None:
        return tuple(found), asked
    named = made.settings.get(key)
    return (None if named is None else tuple(named)), None


def _named_by(made: Provenance) -> str:
    if "hybrid" in made.settings:
        return "hybrid"
    return "text" if "chat" in made.settings else "teacher"


def _negatives(manifest: Manifest, run: RunOptions) -> Compared:
    """How the hard negatives were named, and how they should have been."""
    made, wanted = manifest.provenance, run.llm
    said = {} if run.chat is None else _said(made, run.chat, wanted)
    if wanted.names_by == "text":
        return said
    named = {f"llm_teacher_{key}": key for key in ("epochs", "candidates", "draws")}
    drawn = made.teacher.get("draw_candidates", made.teacher.get("candidates"))
    compared: Compared = {
        **said,
        "llm_seed": (made.teacher.get("seed"), wanted.seed),
        **{option: (made.teacher.get(key), getattr(wanted, option[4:])) for option, key in named.items()},
        "llm_teacher_model": (made.teacher.get("model"), known_by(wanted.teacher_model)),
        "llm_teacher_draw_candidates": (drawn, wanted.draw_candidates),
        "llm_negatives_per_pair": (manifest.negatives_per_pair, wanted.negatives_per_pair),
    }
    if run.hybrid is not None:
        by_hybrid: dict[str, Any] = dict(made.settings.get("hybrid", {}))
        settings = settings_of_hybrid(run.hybrid)
        if settings["precision"] == "auto":  # what another machine took is as good
            settings["precision"] = by_hybrid.get("precision")
        if "grounded_items" not in settings:
            by_hybrid.pop("grounded_items", None)  # there is more than this run needs
        compared.update({f"llm_{key}": (by_hybrid.get(key), settings.get(key)) for key in {**by_hybrid, **settings}})
    return compared


def _said(made: Provenance, chat: ChatRun, options: LLMOptions) -> Compared:
    """What a chat model was asked, and what it should have been."""
    found: dict[str, Any] = dict(made.settings.get("chat", {}))
    asked = chat_settings(chat, options)
    if chat.text.pair_grouping == "none":  # there may be more than this run needs
        asked["pair_grouping"] = found.get("pair_grouping")
    return {f"llm_{key}": (found.get(key), asked.get(key)) for key in {**found, **asked}}


def _encoding(made: Provenance, run: RunOptions) -> Compared:
    """How texts were encoded and how this run asks for it; what ``auto`` took is as good as any backend."""
    wanted: LLMOptions = run.llm
    if made.encoder == TEACHER_ENCODER:
        return {}
    width = {"llm_text_width": (made.settings.get("text_width", 0), wanted.text_width)}
    if run.hybrid is not None or "hybrid" in made.settings:
        return width
    found = {"encoder_backend": "sentence-transformers", "encoder_precision": "float32"}
    found.update({key: made.settings[key] for key in found if key in made.settings})
    asked = {key: getattr(wanted, key) for key in found}
    if wanted.encoder_backend == "auto":
        asked["encoder_backend"] = found["encoder_backend"]
    return {
        "llm_encoder": _encoder(made, wanted.encoder),
        **{f"llm_{key}": (found[key], asked[key]) for key in found},
        **width,
    }


def _encoder(made: Provenance, wanted: str) -> tuple[str, str]:
    """What made the vectors and what a run asks for: a folder's files tell, where there is one, not how it is spelt."""
    folder = Path(wanted)
    if not folder.is_dir():
        return made.encoder, wanted
    found = fingerprint(folder)
    if found == made.encoder_revision:
        return made.encoder, made.encoder
    return f"{made.encoder} ({made.encoder_revision})", f"{wanted} ({found})"
