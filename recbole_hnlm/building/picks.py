"""LLMRec's likes and dislikes by a chat model, asked for before training where they are not kept yet."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recbole_hnlm.artefacts.pairs import ranks_in
from recbole_hnlm.artefacts.storage import file_entry, write_npy, write_text
from recbole_hnlm.building.chat import chat_backend, corpus_of
from recbole_hnlm.building.sources import by_time, tables_of
from recbole_hnlm.building.turns import make_in_turn
from recbole_hnlm.building.unanswered import tell_lost, to_ask_again
from recbole_hnlm.llm.picking import PickingUser, pick, told_history, told_items
from recbole_hnlm.models.attaching import interactions_of
from recbole_hnlm.models.comparators.reference import picks_file, read_reference
from recbole_hnlm.run_options import RunOptions, cache_directory


def ensure_picks(config: Any, run: RunOptions, train_data: Any) -> None:
    """Ask the run's chat model for every user's like and dislike where LLMRec reads them and fitting ones are not kept.

    What was answered is kept one by one, so a run that was killed asks only the rest.

    Args:
        config: RecBole's configuration of the run.
        run: The run's options.
        train_data: A loader over the training split.

    Raises:
        ValueError: If no user got a usable answer.
    """
    options = run.triples
    if options is None or run.chat is None:
        return
    dataset = train_data._dataset
    interactions = interactions_of(dataset)
    path = picks_file(run, interactions, options.top_items)
    report = path.with_suffix(".json")

    def absent() -> Callable[[], None] | None:
        told = ToldSplit(config, run, dataset)

        def ask() -> None:
            best = read_reference(run, interactions, options.top_items).numpy()
            picks, figures = told.picks(chat_backend(config, run, cache_directory(run)), best)
            report.unlink(missing_ok=True)
            entry = asdict(write_npy(path, picks, np.int32))
            about = {"texts": told.digest, "file": entry, "figures": dict(figures)}
            write_text(report, [json.dumps(about, indent=2) + "\n"])

        return None if _is_whole(path, report, told.digest) and not to_ask_again(run, _figures(report)) else ask

    make_in_turn(config, run, absent)
    tell_lost("likes and dislikes", _figures(report))


def _figures(report: Path) -> Mapping[str, Any]:
    try:
        figures: Mapping[str, Any] = json.loads(report.read_text("utf-8"))["figures"]
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return figures


def _is_whole(path: Path, report: Path, texts: str) -> bool:
    """Whether kept picks are there, undamaged and made from the same texts; else they are made of kept answers anew."""
    try:
        about = json.loads(report.read_text("utf-8"))
        return bool(about["texts"] == texts and about["file"] == asdict(file_entry(path)))
    except (OSError, ValueError, KeyError, TypeError):
        return False


class ToldSplit:
    """What the model is told of a training split; ``digest`` is the hash of every item's line.

    Args:
        config: RecBole's configuration of the run.
        run: The run's options.
        dataset: The training split.
    """

    def __init__(self, config: Any, run: RunOptions, dataset: Any) -> None:
        assert run.chat is not None
        tables = tables_of(config, dataset, run.llm)
        corpus = corpus_of(config, run, dataset, tables, by_time(dataset))
        lines = told_items(corpus, run.chat.text.history_words)
        self.digest = hashlib.sha256(json.dumps(lines).encode()).hexdigest()
        self._show_progress = bool(config["show_progress"])
        self._user_tokens = dataset.field2id_token[dataset.uid_field].tolist()
        self._histories = dict(zip(corpus.users, told_history(corpus, lines), strict=True))
        items = np.asarray(dataset.field2id_token[dataset.iid_field], dtype=str)
        self._lines = ["", *(lines[rank] for rank in ranks_in(items[1:], corpus.items))]  # by internal id

    def picks(self, backend: Any, best: NDArray[np.int64]) -> tuple[NDArray[np.int32], Mapping[str, Any]]:
        """Like and dislike of every user by internal ids, 0 for none, shape ``(U, 2)``, and figures of the stage.

        Args:
            backend: The chat model.
            best: Best items of the reference, shape ``(U, T)``, 0 where a user has no more.

        Raises:
            ValueError: If no user got a usable answer.
        """
        offered = [[item for item in row if self._lines[item]] for row in best.tolist()]
        told = [
            PickingUser(self._histories.get(token, []), [self._lines[item] for item in row])
            for token, row in zip(self._user_tokens, offered, strict=True)
        ]
        found, figures = pick(backend, told, show_progress=self._show_progress)
        picks = np.zeros((len(told), 2), dtype=np.int32)
        for user, places in enumerate(found):
            if places is not None:
                picks[user] = [offered[user][place] for place in places]
        if not picks.any():
            raise ValueError(
                f"{backend.name} picked a like and a dislike for none of {len(told) - 1} users; the log tells why. "
                "Use another model, or llm_backend=template"
            )
        return picks, figures
