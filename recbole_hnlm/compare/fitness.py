"""Whether models can take what rows ask of them: asked once a dataset and row, before anything is trained."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch

from recbole_hnlm.compare.ledger import canonical
from recbole_hnlm.compare.measuring import shaping
from recbole_hnlm.compare.plan import Cell, CompareConfig, naming
from recbole_hnlm.data_source import load_dataset
from recbole_hnlm.models.abilities import fitness
from recbole_hnlm.run_options import RunOptions
from recbole_hnlm.selection import check_parts

logger = logging.getLogger(__name__)
_NOT_THE_MODELS = ("neg_sampler", "hnlm_", "llm_", "ranking_loss", "comparator_")
"""Beginnings of keys that rows differ in and no model reads while it is made."""


def refuse_unfit_cells(cells: Sequence[Cell]) -> None:
    """Construct the models of cells, untrained, and refuse rows that they cannot take, as training would.

    A model that cannot be constructed here for another reason, such as a package that is missing, is left to its run.

    Raises:
        ValueError: Naming the row, the reason and the remedy.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # as in the runs
        for dataset in dict.fromkeys(cell.dataset for cell in cells):
            models = _Models()
            for cell in [cell for cell in cells if cell.dataset == dataset]:
                with naming(cell.row, dataset):
                    models.check(cell)


class _Models:
    """Models of one dataset and its splits, each made once, on the CPU."""

    def __init__(self) -> None:
        self._splits: dict[str, Any] = {}
        self._checks: dict[str, Callable[[RunOptions], None] | None] = {}

    def check(self, cell: Cell) -> None:
        config = CompareConfig(cell.row.model, cell.dataset, config_dict={**cell.values, **cell.local, **cell.start})
        config["device"] = torch.device("cpu")
        if config.run is None:
            return
        own = {key: value for key, value in cell.values.items() if not key.startswith(_NOT_THE_MODELS)}
        name = canonical([cell.row.model, own])
        if name not in self._checks:
            self._checks[name] = self._made(config, cell)
        check = self._checks[name]
        if check is not None:
            check(config.run)

    def _made(self, config: CompareConfig, cell: Cell) -> Callable[[RunOptions], None] | None:
        name = canonical([config.model_class.__module__.partition(".")[0], shaping(cell.values)])
        if name not in self._splits:
            parts = load_dataset(config).build()
            check_parts(config, parts)
            self._splits[name] = parts[0]
        try:
            return fitness(config, self._splits[name])
        except (ValueError, TypeError):
            raise
        except Exception as error:  # the run tells it, in its row
            logger.debug("%s was not constructed: %s", cell.label, error)
            return None
