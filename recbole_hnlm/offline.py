"""The offline part of one run, end to end: split, teacher, text, artefacts. Joins RecBole's dataset to the file
format."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np

from recbole_hnlm.artefacts import ArtefactReader, Manifest
from recbole_hnlm.artefacts.manifest import Provenance
from recbole_hnlm.chat_build import ChatSources, build_by_chat, chat_settings, plan_by_chat
from recbole_hnlm.llm import (
    AtomicTable,
    BuildRequest,
    EncoderRun,
    TextEncoder,
    build_artefacts,
    build_encoder,
    read_atomic,
    select_text_fields,
)
from recbole_hnlm.llm.item_vectors import TEACHER_ENCODER
from recbole_hnlm.llm.profiles import item_profiles
from recbole_hnlm.llm.sharding import encode_share, first_says, is_first, is_sharded, local_device, wait_for_all
from recbole_hnlm.models.abilities import check_model
from recbole_hnlm.models.text import artefact_directory, hash_of_training_pairs, training_pairs
from recbole_hnlm.options import HNLMOptions, LLMOptions
from recbole_hnlm.processes import on_first_rank
from recbole_hnlm.run_options import RunOptions
from recbole_hnlm.teacher import teacher_class, train_teacher

logger = logging.getLogger(__name__)


def cache_directory(run: RunOptions) -> Path:
    """Where encoded texts and trained teachers are kept between builds."""
    return Path(run.llm.cache_dir) if run.llm.cache_dir is not None else Path("hnlm_cache")


def ensure_artefacts(config: Any, run: RunOptions, train_data: Any) -> Path | None:
    """Build what the run reads and is not there yet; refuse what is there and does not fit.

    Of several processes the first one looks and builds, and all go on or fail together.

    Args:
        config: RecBole's configuration of the run.
        run: The run's options.
        train_data: A loader over the training split.

    Returns:
        The artefacts' folder, or None where the run reads no text.

    Raises:
        ValueError: If artefacts are there but damaged or of another split, and ``hnlm_rebuild`` is off.
        FileNotFoundError: If this process does not see what the first one has built on another host.
    """
    if run.hnlm is None or not run.hnlm.reads_text:
        return None
    options = run.hnlm
    directory, name = artefact_directory(config, options), str(config["dataset"])
    manifest = directory / f"{name}.hnlm.json"

    def check_or_build() -> None:
        if first_says(options.rebuild or not manifest.exists()):
            build(config, run, train_data, options)
            if is_sharded():
                wait_for_all(cache_directory(run))
            return
        reader = ArtefactReader.open(directory, name, pairs_hash=hash_of_training_pairs(train_data._dataset))
        _check_provenance(reader.manifest, run, directory)

    on_first_rank(config, check_or_build)
    if not manifest.exists():
        raise FileNotFoundError(
            f"the first process has built {manifest}, which this host does not see; share the folder between the hosts "
            "(hnlm_artefact_dir) or copy it"
        )
    return directory


def build(config: Any, run: RunOptions, train_data: Any, options: HNLMOptions) -> None:
    """Make every artefact of a run: profiles, text vectors, each pair's hard negative, manifest.

    In a group that ``torchrun`` started every process encodes its share of the texts; rank 0 does the rest.
    """
    dataset = train_data._dataset
    directory, name = artefact_directory(config, options), str(config["dataset"])
    logger.info("building hard negatives of %s in %s", name, directory)
    cache = cache_directory(run)
    check_model(config, dataset, run)
    if run.chat is not None:
        if is_first():
            build_by_chat(config, run, dataset, _chat_sources(config, run, dataset, directory))
        return
    teacher_class(run.llm)
    item_table, user_table, encoder = _text_sources(config, dataset, run.llm)
    if encoder is not None and item_table is not None and is_sharded():
        texts = _texts(item_table, dataset, run.llm)
        show = bool(config["show_progress"])
        encode_share(texts, encoder, cache, batch_size=run.llm.encoder_batch_size, show_progress=show)
    if not is_first():
        return
    users, items = training_pairs(dataset)
    order = _by_time(dataset)
    teacher = train_teacher(config, train_data, run.llm, cache)
    catalogue = np.asarray(dataset.field2id_token[dataset.iid_field], dtype=str)
    request = BuildRequest(
        dataset=name,
        output_dir=directory,
        cache_dir=cache,
        user_tokens=users[order],
        item_tokens=items[order],
        catalogue=catalogue[1:],
        hard_negatives=catalogue[teacher.negatives[order]],
        item_table=item_table,
        user_table=user_table,
        fallback_vectors=teacher.item_vectors[1:],
        teacher=teacher.description,
        options=run.llm,
        device=str(config["device"]),
        show_progress=bool(config["show_progress"]),
    )
    build_artefacts(request, encoder)


def plan(config: Any, run: RunOptions, train_data: Any) -> str:
    """What a build by a chat model would take, as a table; nothing is asked, encoded or written.

    Raises:
        ValueError: If the run asks no chat model.
    """
    if run.chat is None or run.hnlm is None:
        raise ValueError("llm_backend=template asks no model, so a build costs nothing; set llm_backend to plan one")
    dataset = train_data._dataset
    directory = artefact_directory(config, run.hnlm)
    return plan_by_chat(config, run, dataset, _chat_sources(config, run, dataset, directory))


def _chat_sources(config: Any, run: RunOptions, dataset: Any, directory: Path) -> ChatSources:
    items, users, encoder = _text_sources(config, dataset, run.llm)
    return ChatSources(items, users, encoder, _by_time(dataset), directory, cache_directory(run))


def _by_time(dataset: Any) -> np.ndarray:
    """Order of the training pairs in time, so that a profile can name the most recent; as they stand without times."""
    feat, field = dataset.inter_feat, dataset.time_field
    times = feat[field].numpy() if field in feat.columns else np.zeros(len(feat))
    return np.argsort(times, kind="stable")


def _check_provenance(manifest: Manifest, run: RunOptions, directory: Path) -> None:
    """Refuse artefacts that another encoder, text field, teacher or chat model made than this run asks for."""
    wanted, made = run.llm, manifest.provenance
    apart = {"seed", "encoder_backend", "encoder_precision", "text_width", "chat"}
    settings = {key: value for key, value in made.settings.items() if key not in apart}
    pairs = {
        **_encoding(made, wanted),
        **{f"llm_{key}": (value, getattr(wanted, key)) for key, value in settings.items()},
        "llm_user_text_fields": (tuple(made.user_fields), wanted.user_text_fields or tuple(made.user_fields)),
        "llm_encoder": (made.encoder, wanted.encoder if made.encoder != TEACHER_ENCODER else TEACHER_ENCODER),
        "llm_text_fields": (tuple(made.item_fields), wanted.text_fields or tuple(made.item_fields)),
        **_negatives(manifest, run),
    }
    for key, (found, asked) in pairs.items():
        if found != asked:
            raise ValueError(
                f"the artefacts in {directory} were made with {key}={found!r}, this run asks for {asked!r}; "
                "rebuild with --hnlm_rebuild=True or drop the option"
            )


def _negatives(manifest: Manifest, run: RunOptions) -> dict[str, tuple[Any, Any]]:
    """Who named the hard negatives, and who should have."""
    made, wanted = manifest.provenance, run.llm
    by_chat: dict[str, Any] = dict(made.settings.get("chat", {}))
    asked = {} if run.chat is None else chat_settings(run.chat, wanted)
    who = {"llm_backend": (by_chat.get("backend", "template"), asked.get("backend", "template"))}
    if by_chat and asked:
        return {**who, **{f"llm_{key}": (by_chat.get(key), asked.get(key)) for key in {**by_chat, **asked}}}
    if by_chat or asked:
        return who
    named = {f"llm_teacher_{key}": key for key in ("model", "epochs", "candidates", "draws")}
    return {
        "llm_seed": (made.teacher.get("seed"), wanted.seed),
        **{option: (made.teacher.get(key), getattr(wanted, option[4:])) for option, key in named.items()},
        "llm_negatives_per_pair": (manifest.negatives_per_pair, wanted.negatives_per_pair),
    }


def _encoding(made: Provenance, wanted: LLMOptions) -> dict[str, tuple[Any, Any]]:
    """How texts were encoded and how this run asks for it; what ``auto`` took is as good as any backend."""
    if made.encoder == TEACHER_ENCODER:
        return {}
    found = {"encoder_backend": "sentence-transformers", "encoder_precision": "float32", "text_width": 0}
    found.update({key: made.settings[key] for key in found if key in made.settings})
    asked = {key: getattr(wanted, key) for key in found}
    if wanted.encoder_backend == "auto":
        asked["encoder_backend"] = found["encoder_backend"]
    return {f"llm_{key}": (found[key], asked[key]) for key in found}


def _text_sources(
    config: Any, dataset: Any, options: LLMOptions
) -> tuple[AtomicTable | None, AtomicTable | None, TextEncoder | None]:
    """The dataset's item and user files and the encoder of its text: all that can fail, before the teacher trains."""
    home, name = Path(config["data_path"]), str(config["dataset"])
    items = _table(home / f"{name}.item", dataset.iid_field, dataset, config)
    users = _table(home / f"{name}.user", dataset.uid_field, dataset, config)
    has_text = items is not None and bool(select_text_fields(items, options.text_fields))
    if users is not None:
        select_text_fields(users, options.user_text_fields)
    if items is None and options.text_fields:
        raise ValueError(f"llm_text_fields={options.text_fields} but there is no {home / name}.item; put it there")
    if not has_text:
        return items, users, None
    encoder = build_encoder(options.encoder, local_device(str(config["device"])), EncoderRun.of(options))
    return items, users, encoder


def _texts(table: AtomicTable, dataset: Any, options: LLMOptions) -> list[str]:
    """The texts that :func:`build_artefacts` will ask vectors of."""
    items = dataset.field2id_token[dataset.iid_field][1:].tolist()
    profiles = item_profiles(table, select_text_fields(table, options.text_fields), items, options.profile_words)
    return [text for text in profiles if text]


def _table(path: Path, key: str, dataset: Any, config: Any) -> AtomicTable | None:
    """An atomic file of the dataset, or None where the dataset has none."""
    if not path.is_file():
        return None
    table = read_atomic(path, key=key, separator=config["field_separator"])
    known = set(dataset.field2id_token[key])
    if not any(token in known for token in table.column(key)):
        raise ValueError(f"no {key} of {path} occurs in the interactions; check the file and field_separator")
    return table
