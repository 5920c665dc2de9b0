"""From rows to cells: every row on every dataset with all its settings, checked before anything is trained."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from recbole.utils import ModelType

from recbole_hnlm.compare.checks import check_artefact_dir, check_text
from recbole_hnlm.compare.defaults import defaults_of, start_of
from recbole_hnlm.compare.ledger import RunSetting, digest
from recbole_hnlm.compare.measuring import evaluation, measuring, refuse_apart
from recbole_hnlm.compare.rows import ID_ONLY, Grid, Row, rows_of
from recbole_hnlm.compare.spaces import L2, Point, Space, is_packaged, resolved_for
from recbole_hnlm.config import HNLMConfig
from recbole_hnlm.data_source import check_dataset_files, data_digest, load_dataset, named_files_digest
from recbole_hnlm.options.chat import ASKING_KEYS
from recbole_hnlm.options.imports import source_digest
from recbole_hnlm.options.parsing import UselessOption
from recbole_hnlm.selection import check_selection

DEFAULTS: dict[str, Any] = {
    "epochs": 300, "eval_step": 2, "stopping_step": 8, "topk": [20], "metrics": ["Recall", "NDCG"],
    "valid_metric": "NDCG@20", "metric_decimal_place": 6, "torch_threads": 1, "eval_batch_size": 2_000_000,
}  # fmt: skip
"""Settings of every run that the user does not give."""
QUIET: dict[str, Any] = {"show_progress": False, "state": "ERROR"}
LOCAL = ("data_path", "gpu_id", "use_gpu", "worker", "checkpoint_dir", "log_wandb", *QUIET)
"""Settings that say where and how loudly a run is computed, and not what."""
_NOT_WHAT = (*LOCAL, *sorted(ASKING_KEYS))
"""As :data:`LOCAL`, with how a chat model is asked and paid: a raised budget trains nothing anew."""
_CLASSES = ("neg_sampler", "hnlm_base_sampler", "neg_sampler_reference_model", "llm_teacher_model")
"""Settings that may name a class of the user's own, beside the model."""


class CompareConfig(HNLMConfig):
    """A configuration that reads no command line: that one is the comparison's."""

    def _load_cmd_line(self) -> dict[str, Any]:
        return {}


@dataclass(frozen=True)
class Cell:
    """One row on one dataset: what is tuned, trained with every seed, and told in one line.

    Attributes:
        dataset: Name of the dataset.
        block: Backbone whose table the line stands in; empty for a line that stands in all of them.
        row: The row.
        values: Every setting but the tuned ones and the seed.
        local: Where it is computed, see :data:`LOCAL`, and how a chat model is asked.
        space: What is tuned, with ``l2`` resolved.
        start: The first trial: the defaults of what is tuned.
        budget: Trials, the same for every row that has something to tune; 1 where there is nothing.
        seeds: Seeds of the final runs; trials take the first.
        data: Hash of the dataset's files.
        code: Hash of the files with classes of the user's own and of files that settings name; empty without any.
        defaults: Our options that neither ``values`` nor a point gives, as a run takes them; no part of any key.
        evaluated: How a run splits and ranks, see :func:`~recbole_hnlm.compare.measuring.evaluation`; likewise.
    """

    dataset: str
    block: str
    row: Row
    values: Mapping[str, Any]
    local: Mapping[str, Any]
    space: Space
    start: Point
    budget: int
    seeds: tuple[int, ...]
    data: str = ""
    code: str = ""
    defaults: Mapping[str, str] = field(default_factory=dict, compare=False)
    evaluated: Mapping[str, Any] = field(default_factory=dict, compare=False)

    def setting(self, point: Point, seed: int) -> RunSetting:
        """The run of this cell at a point with a seed."""
        values = {**self.values, **point}
        return RunSetting(self.dataset, self.row.model, values, seed, self.local, self.data, self.code)

    @property
    def key(self) -> str:
        """What the ledger knows the cell's tuning by."""
        space = {key: knob.described() for key, knob in self.space.items()}
        made_of = [self.dataset, self.data, self.row.model, self.values, space, self.start, self.budget, self.seeds[0]]
        return "tuning-" + digest([*made_of, *([self.code] if self.code else [])])

    @property
    def runs(self) -> int:
        """Runs that the cell takes at most: trials, and seeds beyond the first at the best of them."""
        return self.budget + len(self.seeds) - 1

    @property
    def measured_on(self) -> dict[str, Any]:
        """What rows must share to be compared: data, split, filters and metrics."""
        return {"files of the dataset": self.data, **measuring(self.values)}

    @property
    def label(self) -> str:
        """Dataset, backbone and row, for messages and progress."""
        return " / ".join(part for part in (self.dataset, self.block, self.row.name) if part)


@dataclass(frozen=True)
class Request:
    """What a comparison is asked to do.

    Attributes:
        datasets: Dataset -> its own settings.
        grid: The rows by name.
        models: Model -> its own settings, for those that have some.
        shared: Settings of all rows.
        seeds: Seeds of the final runs.
        tune: Trials of every row.
    """

    datasets: Mapping[str, Mapping[str, Any]]
    grid: Grid
    models: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    shared: Mapping[str, Any] = field(default_factory=dict)
    seeds: tuple[int, ...] = (2020, 2021, 2022, 2023, 2024)
    tune: int = 8


def cells_of(request: Request) -> list[Cell]:
    """Every cell of a request, by dataset and then in the order of the table.

    Raises:
        ValueError: On anything that could not be trained, naming the row; nothing has been read or trained.
        TypeError: On values of the wrong type, naming the row.
        FileNotFoundError: On a dataset that is not there.
    """
    if not request.datasets:
        raise ValueError("no dataset to compare on; name --datasets, e.g. --datasets ml-100k")
    if request.tune < 1 or not request.seeds or len(set(request.seeds)) < len(request.seeds):
        raise ValueError(f"tune={request.tune}, seeds={list(request.seeds)}; both start at 1, and no seed comes twice")
    rows = rows_of(request.grid)
    unread = {key for group in _given(request) for key in group if key not in LOCAL}
    cells = []
    for dataset, settings in request.datasets.items():
        for row in rows:
            of_all = {key: value for key, value in {**request.shared, **settings}.items() if key not in row.apart}
            shared = {**of_all, **request.models.get(row.model, {})}
            with naming(row, dataset):
                cell, dropped = _cell(request, dataset, row, shared)
            unread -= {key for key in shared if key not in dropped and key not in row.values}
            cells.append(cell)
    if unread:
        apart = sorted({row.model for row in rows for key in unread if key in row.apart})
        told = f", or give {' and '.join(apart)} their own under 'models' of a plan file" if apart else ""
        raise ValueError(f"{', '.join(sorted(unread))} has no effect in any row; remove it{told}")
    return cells


def _given(request: Request) -> Iterator[Mapping[str, Any]]:
    yield from (request.shared, *request.datasets.values(), *request.models.values())


def _cell(request: Request, dataset: str, row: Row, shared: dict[str, Any]) -> tuple[Cell, set[str]]:
    """A cell, and the shared settings that its run would not read."""
    refuse_apart(row.space)
    tried = {key: knob.values()[0] for key, knob in row.space.items() if key != L2}
    dropped: set[str] = set()
    while True:
        read = {key: value for key, value in shared.items() if key not in dropped}
        values = {**DEFAULTS, **row.defaults, **read, **row.values}
        fixed = {key for key in values if key not in DEFAULTS}
        if "eval_step" not in {**read, **row.values} and isinstance(values["epochs"], int):
            values["eval_step"] = max(1, min(DEFAULTS["eval_step"], values["epochs"]))
        point = {key: value for key, value in tried.items() if key not in fixed}
        try:
            config = CompareConfig(row.model, dataset, config_dict={**values, **point})
            break
        except UselessOption as error:
            if error.key not in shared or error.key in row.values:
                raise
            dropped.add(error.key)
    useless = [key for key in config.unread if key in row.values or key in tried]
    if useless:
        raise ValueError(f"{', '.join(useless)} has no effect here, nothing reads it; remove it")
    for key, knob in row.space.items():
        for value in () if key in fixed or key == L2 or is_packaged(key, knob) else knob.values()[1:]:
            try:
                CompareConfig(row.model, dataset, config_dict={**values, **point, key: value})
            except (ValueError, TypeError) as error:
                raise ValueError(f"space of {key}, where {value!r} is tried: {error}") from error
    if row.kind in ID_ONLY and config.run is not None and config.run.reads_text:
        text = sorted(key for key in shared if key.startswith("hnlm_"))
        raise ValueError(
            f"it is compared as a row without text, and {text} give it some; name them in rows of their own"
        )
    check_dataset_files(config)
    if not Path(config["data_path"]).exists():
        load_dataset(config)  # RecBole fetches it: once, here, and not in several runs at a time
    check_selection(config)
    check_text(config)
    check_artefact_dir(config, request.seeds)
    if config["MODEL_TYPE"] is ModelType.TRADITIONAL:  # RecBole trains it for one epoch
        values["eval_step"] = 1
    space = resolved_for(config, row.space, fixed)
    untuned = CompareConfig(row.model, dataset, config_dict=values)
    start, defaults = start_of(space, untuned), defaults_of(untuned, {*values, *space})
    local = {**QUIET, **{key: values.pop(key) for key in _NOT_WHAT if key in values}}
    if "data_path" in local:
        local["data_path"] = str(Path(local["data_path"]).resolve())
    block = "" if row.everywhere else row.model
    budget = request.tune if space else 1
    named = [str(name) for name in (row.model, *(values.get(key, "") for key in _CLASSES))]
    code, files = source_digest([name for name in named if ":" in name]), named_files_digest(values)
    digests = data_digest(config), digest([code, files]) if files else code
    told = defaults, evaluation(config)
    cell = Cell(dataset, block, row, values, local, space, start, budget, request.seeds, *digests, *told)
    return cell, dropped.union(config.unread)


@contextlib.contextmanager
def naming(row: Row, dataset: str) -> Iterator[None]:
    """Put the row, its model and the dataset before the message of a user's error."""
    try:
        yield
    except (ValueError, TypeError, FileNotFoundError) as error:
        kind = ValueError if isinstance(error, UnicodeError) else type(error)  # which is made of five arguments
        raise kind(f"row {row.name!r} ({row.model}) on {dataset}: {error}") from error
