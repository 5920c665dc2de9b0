"""LLMRec's likes and dislikes by a chat model, asked for before training where they are not kept yet."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recbole_hnlm.artefacts.pairs import ranks_in
from recbole_hnlm.artefacts.storage import write_npy, write_text
from recbole_hnlm.building.artefacts import text_sources
from recbole_hnlm.building.chat import chat_backend, corpus_of
from recbole_hnlm.llm.corpus import Corpus
from recbole_hnlm.llm.picking import PickingUser, pick, told_history
from recbole_hnlm.llm.profiles import cut_words
from recbole_hnlm.llm.sharding import by_the_first
from recbole_hnlm.models.attaching import interactions_of
from recbole_hnlm.models.comparators.reference import picks_file, read_reference
from recbole_hnlm.models.text import artefact_directory
from recbole_hnlm.options.comparator import LLMRecOptions
from recbole_hnlm.run_options import RunOptions, cache_directory
from recbole_hnlm.training.processes import on_first_rank

logger = logging.getLogger(__name__)


def ensure_picks(config: Any, run: RunOptions, train_data: Any) -> None:
    """Ask the run's chat model for every user's like and dislike where LLMRec reads them and fitting ones are not kept.

    What was answered is kept one by one, so a run that was killed asks only the rest.

    Args:
        config: RecBole's configuration of the run.
        run: The run's options.
        train_data: A loader over the training split.

    Raises:
        ValueError: If the dataset has no text to tell, or no user got a usable answer.
    """
    options = run.comparator
    if not isinstance(options, LLMRecOptions) or not options.has_triples or run.chat is None:
        return
    dataset = train_data._dataset

    def build() -> None:
        interactions = interactions_of(dataset)
        path = picks_file(run, interactions, options.top_items)
        told = ToldSplit(config, run, dataset)
        report = path.with_suffix(".json")
        if path.is_file() and report.is_file() and json.loads(report.read_text("utf-8"))["texts"] == told.digest:
            return
        best = read_reference(run, interactions, options.top_items).numpy()
        picks, figures = told.picks(chat_backend(config, run, cache_directory(run)), best)
        report.unlink(missing_ok=True)
        write_npy(path, picks, np.int32)
        write_text(report, [json.dumps({"texts": told.digest, "figures": dict(figures)}, indent=2) + "\n"])

    on_first_rank(config, lambda: by_the_first(build, cache_directory(run)))


class ToldSplit:
    """What the model is told of a training split.

    Args:
        config: RecBole's configuration of the run.
        run: The run's options.
        dataset: The training split.
    """

    def __init__(self, config: Any, run: RunOptions, dataset: Any) -> None:
        assert run.chat is not None and run.hnlm is not None
        sources = text_sources(config, run, dataset, artefact_directory(config, run.hnlm), encoding=False)
        self._corpus: Corpus = corpus_of(config, run, dataset, sources)
        if not self._corpus.item_fields:
            raise ValueError(
                f"llm_backend={run.chat.backend} needs text to tell the model, {config['dataset']!r} has none; add an "
                ".item file with a title, or use llm_backend=template"
            )
        self._words = run.chat.text.history_words
        self._show_progress = bool(config["show_progress"])
        self._user_tokens = dataset.field2id_token[dataset.uid_field].tolist()
        self._histories = dict(zip(self._corpus.users, told_history(self._corpus, self._words), strict=True))
        items = np.asarray(dataset.field2id_token[dataset.iid_field], dtype=str)
        self._rank_of_item = np.append(-1, ranks_in(items[1:], self._corpus.items))

    @property
    def digest(self) -> str:
        """Hash of every item's text."""
        return hashlib.sha256(json.dumps(self._corpus.item_templates).encode()).hexdigest()

    def picks(self, backend: Any, best: NDArray[np.int64]) -> tuple[NDArray[np.int32], Mapping[str, Any]]:
        """Like and dislike of every user by internal ids, 0 for none, shape ``(U, 2)``, and figures of the stage.

        Args:
            backend: The chat model.
            best: Best items of the reference, shape ``(U, T)``.

        Raises:
            ValueError: If no user got a usable answer.
        """
        offered = [[item for item in row if self._line(item)] for row in best.tolist()]
        offered[0] = []  # padding
        told = [
            PickingUser(self._histories.get(token, []), [self._line(item) for item in row])
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

    def _line(self, item: int) -> str:
        """An item's text in a prompt, by internal id; empty where there is none."""
        return cut_words(self._corpus.item_templates[self._rank_of_item[item]], self._words)
