"""``NAME.neg_text`` for ``neg_sampler: semantic`` where no language model has made one: text neighbours."""

from __future__ import annotations

import logging
from typing import Any

from recbole_hnlm.artefacts.manifest import ArtefactPaths
from recbole_hnlm.chat_build import text_run
from recbole_hnlm.llm.neighbours import write_text_neighbours
from recbole_hnlm.models.text import artefact_directory
from recbole_hnlm.offline import text_sources
from recbole_hnlm.options import HNLMOptions
from recbole_hnlm.processes import on_first_rank
from recbole_hnlm.run_options import RunOptions
from recbole_hnlm.samplers.semantic import SemanticOptions
from recbole_hnlm.text_options import GroundingOptions, TextOptions

logger = logging.getLogger(__name__)
NEIGHBOURS = 5
"""Text neighbours of a pair's item; more than the one item that a named negative is grounded to."""


def ensure_grounded(config: Any, run: RunOptions, train_data: Any) -> None:
    """Write the text neighbours of each pair's item where ``semantic`` runs and nothing was grounded before.

    A folder that the user names is never written to.

    Raises:
        ValueError: If the dataset has no text.
    """
    options = run.sampler_options
    if not isinstance(options, SemanticOptions) or options.folder is not None:
        return
    directory, name = artefact_directory(config, run.hnlm or HNLMOptions()), str(config["dataset"])

    def build() -> None:
        if ArtefactPaths(directory, name).path("neg_text.json").exists():
            return
        logger.warning(
            "no language model has named negatives of %s, so the %d items nearest in text to each positive stand in; "
            "recbole-hnlm build with llm_backend or llm_negatives=hybrid makes better ones",
            *(name, NEIGHBOURS),
        )
        dataset = train_data._dataset
        sources = text_sources(config, run, dataset, directory)
        if sources.encoder is None:
            raise ValueError(
                f"neg_sampler=semantic needs text, {name!r} has none; add an .item file with a title, or use dns"
            )
        options = TextOptions(), GroundingOptions(ground_items=NEIGHBOURS)
        write_text_neighbours(text_run(config, run, dataset, sources, options), sources.encoder)

    on_first_rank(config, build)
