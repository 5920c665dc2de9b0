"""What a run would ask its chat model, told before anything is asked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from recbole_hnlm.artefacts.manifest import ArtefactPaths
from recbole_hnlm.building.artefacts import reads_artefacts, refuse_unfit_artefacts
from recbole_hnlm.building.chat import asked_of, chat_backend
from recbole_hnlm.building.coverage import check_tellable
from recbole_hnlm.building.hybrid import told_of_others
from recbole_hnlm.building.sources import told_sources
from recbole_hnlm.llm import judging, picking
from recbole_hnlm.llm.dry_run import AlsoAsked, dry_run
from recbole_hnlm.llm.text_pipeline import TextRun
from recbole_hnlm.models.text import artefact_directory
from recbole_hnlm.run_options import RunOptions


def plan(config: Any, run: RunOptions, train_data: Any) -> str:
    """Requests, tokens, money and time of every stage, as a table; nothing is asked, and no artefact made.

    Args:
        config: RecBole's configuration of the run.
        run: The run's options.
        train_data: A loader over the training split.

    Raises:
        ValueError: If the run asks no chat model.
    """
    if run.chat is None or run.hnlm is None:
        raise ValueError("llm_backend=template asks no model, so a build costs nothing; set llm_backend to plan one")
    dataset = train_data._dataset
    sources = told_sources(config, run, dataset, artefact_directory(config, run.hnlm))
    text = asked_of(config, run, dataset, sources)
    picks: list[picking.PickingUser] = []
    if run.triples is not None:
        picks = picking.stand_ins(text.corpus, run.chat.text.history_words, run.triples.top_items)
    by_model = getattr(run.sampler_options, "judge", "rule") == "llm"
    judged = judging.stand_ins(text.corpus.history, len(text.corpus.users)) if by_model else []
    reads = reads_artefacts(run)
    also = AlsoAsked(reads, picks, judged, told_of_others(config, run))
    table: str = dry_run(text, chat_backend(config, run, sources.cache, estimates_only=True), also).table()
    return table + (_in_the_way(config, run, dataset, text) if reads else "")


def _in_the_way(config: Any, run: RunOptions, dataset: Any, text: TextRun) -> str:
    """Why the build would refuse to begin: artefacts that it does not replace by itself, or too little text."""
    assert run.hnlm is not None
    directory = Path(text.output_dir)
    there = ArtefactPaths(directory, text.dataset).manifest.exists()
    try:
        if there and not run.hnlm.rebuild:
            refuse_unfit_artefacts(config, run, dataset, directory)
        elif run.llm.names_by == "text":
            check_tellable(run, text.corpus)
    except ValueError as error:
        return f"\n\nthe build will not begin: {error}"
    return ""
