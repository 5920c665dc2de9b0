"""Who gains: test positives by how often training has seen their item."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Mapping
from typing import Any

from recbole_hnlm.compare.analyses.base import Analysis, Entry, add_samplers, values_of_sampler
from recbole_hnlm.compare.analyses.readings import Reading
from recbole_hnlm.compare.ledger import Record


class PopularityGroups(Analysis):
    """Recall and NDCG of the least-clicked 80 % of the items, the top 5 % and the rest."""

    title = "Item popularity"
    probes = True

    def add_arguments(self, parser: ArgumentParser) -> None:
        """``--neg_samplers``."""
        add_samplers(parser, ("uniform", "popularity", "dns", "mixgcf", "hnlm"))

    def entries(self, args: Namespace, shared: Mapping[str, Any]) -> list[Entry]:
        """Every sampler.

        Raises:
            ValueError: Where evaluation samples items, so that there is no ranking of the catalogue.
        """
        mode = (shared.get("eval_args") or {}).get("mode", "full")
        if any(one != "full" for one in (mode.values() if isinstance(mode, Mapping) else [mode])):
            raise ValueError(
                f"groups are read off the ranking of the whole catalogue, not mode {mode!r}; set it to full"
            )
        return [Entry(name, "", values_of_sampler(name, shared)) for name in args.neg_samplers]

    def readings(self, entry: Entry, record: Record) -> Iterator[Reading]:
        """The metrics of every group."""
        for group, metrics in record["groups"].items():
            for metric, value in metrics.items():
                yield Reading(entry.series, group, None, metric, record["seed"], value)

    def notes(self) -> Iterator[str]:
        """How groups are counted."""
        yield (
            "Groups are of items, by their number of training pairs. A group's metric is the mean over the users who "
            "have a test positive in it, of those positives alone; the ranking is that of the whole catalogue."
        )
