"""Grounded negatives without a language model: the items nearest in text to the positive."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from recbole_hnlm.artefacts.neg_text import NegTextManifest, write_neg_text
from recbole_hnlm.llm.cache import VectorCache
from recbole_hnlm.llm.encoders import TextEncoder
from recbole_hnlm.llm.grounding import Grounding, GroundingInput, ground
from recbole_hnlm.llm.negative_stage import NegativeTexts, Profiles
from recbole_hnlm.llm.negative_vectors import embed_texts
from recbole_hnlm.llm.source_text import text_digest
from recbole_hnlm.llm.text_pipeline import TextRun, negative_table

NO_MODEL = "text neighbours of the positive"


def write_text_neighbours(run: TextRun, encoder: TextEncoder) -> tuple[Grounding, NegTextManifest]:
    """Write ``NAME.neg_text`` with the positive's name for the text and its neighbours for the items.

    So the sampler ``semantic`` works where nobody can ask a model. Near-duplicates of the positive and what the user
    has are left out, as for any text; ``ground_items`` says how many neighbours a pair gets.

    Args:
        run: The dataset and the options of grounding; its prompts are not looked at.
        encoder: What makes text vectors.

    Raises:
        ValueError: If no item has text.
    """
    corpus = run.corpus
    texts = run.item_texts(Profiles(corpus.user_templates, corpus.item_templates))
    nothing = NegativeTexts([], np.zeros((0, 1), dtype=np.int64))
    cache = VectorCache(run.cache_dir, encoder)
    vectors = embed_texts(
        nothing,
        texts,
        encoder,
        cache,
        width=run.text_width,
        batch_size=run.encoder_batch_size,
        show_progress=run.show_progress,
    )
    told = np.array([bool(text) for text in texts])[corpus.pair_items]
    rows = np.where(told, corpus.pair_items, -1)[:, None]
    grounding = ground(
        GroundingInput(corpus.pair_users, corpus.pair_items, rows, vectors.items, vectors.items), run.grounding
    )
    table = negative_table(run, NegativeTexts(corpus.names, rows), grounding, neighbours_provenance(run, encoder))
    return grounding, write_neg_text(run.output_dir, run.dataset, table)


def neighbours_provenance(run: TextRun, encoder: TextEncoder) -> dict[str, Any]:
    """What decides the neighbours, beside the training pairs."""
    table, fields = run.corpus.item_table, run.corpus.item_fields
    return {
        "model": NO_MODEL,
        "encoder": encoder.name,
        "encoder_revision": encoder.revision,
        "text_width": run.text_width,
        "item_fields": list(fields),
        "item_text": "" if table is None else text_digest(table, fields),
        "words": run.corpus.template_words,
        **dataclasses.asdict(run.grounding),
    }
