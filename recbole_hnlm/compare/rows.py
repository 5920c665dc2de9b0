"""The rows of a comparison: what a grid of names, or a plan file, asks to be trained."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from recbole_hnlm.compare.spaces import Knob, Space, packaged_rows, read_space
from recbole_hnlm.options import SAMPLER_KEY, HNLMOptions
from recbole_hnlm.options.loss import OWN_LOSS, RANKING_KEY
from recbole_hnlm.options.parsing import nearest, parse_options
from recbole_hnlm.run_options.checks import NO_SAMPLER, RECBOLE_SAMPLER, SAMPLER_PREFIX, TEXT_SAMPLER
from recbole_hnlm.samplers import SAMPLERS, sampler_class

KINDS = ("baseline", "sampler", "loss", "comparator", "text", "control")
"""Kinds of rows in the order of the table."""
ID_ONLY = ("baseline", "sampler", "loss")
"""Kinds that read interactions alone; the best of them is what the others are held against."""


@dataclass(frozen=True)
class Row:
    """One line of the table, before it meets a dataset.

    Attributes:
        name: What the table calls it.
        model: RecBole model that is trained.
        kind: One of :data:`KINDS`.
        values: The settings that make the row.
        space: What is tuned.
        everywhere: Whether the row stands in the block of every backbone, as a baseline does.
        defaults: Settings that it has where nobody says otherwise for all rows.
        apart: Settings that mean something else here than elsewhere, so that those of all rows are not for this one.
    """

    name: str
    model: str
    kind: str
    values: Mapping[str, Any]
    space: Space = field(default_factory=dict)
    everywhere: bool = False
    defaults: Mapping[str, Any] = field(default_factory=dict)
    apart: tuple[str, ...] = ()


@dataclass(frozen=True)
class Grid:
    """The names that a comparison is made of.

    Attributes:
        models: Backbones.
        neg_samplers: Rows of kind sampler or text.
        comparators: Language-model methods on the same text vectors.
        losses: Ranking losses without a clever sampler.
        baselines: Models that train as RecBole trains them.
        controls: Controls put over every row of text.
        rows: Rows of one's own: settings of the run, and ``model``, ``kind``, ``space``.
    """

    models: tuple[str, ...] = ()
    neg_samplers: tuple[str, ...] = ()
    comparators: tuple[str, ...] = ()
    losses: tuple[str, ...] = ()
    baselines: tuple[str, ...] = ()
    controls: tuple[str, ...] = ()
    rows: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def rows_of(grid: Grid) -> list[Row]:
    """Every row of a grid, in the order of the table.

    Raises:
        ValueError: If two rows of a block share a name, a row of one's own is no mapping, a control has nothing to
            control, or there is no row at all.
    """
    for kind in ("neg_samplers", "comparators", "losses"):
        if getattr(grid, kind) and not grid.models:
            raise ValueError(f"--{kind} need --models to train, e.g. --models BPR LightGCN")
    rows = [_packaged("baseline", name, name) for name in grid.baselines]
    for model in grid.models:
        samplers = [_sampler(name, model) for name in grid.neg_samplers]
        rows += samplers
        rows += [_packaged("loss", name, model, {"ranking_loss": name}) for name in grid.losses]
        rows += [_packaged("comparator", name, model, {"hnlm_comparator": name}) for name in grid.comparators]
    for name, given in grid.rows.items():
        rows += _own(name, given, grid.models)
    controlled = [row for row in rows if row.kind == "text" and row.values.get(SAMPLER_KEY) == TEXT_SAMPLER]
    controlled = [row for row in controlled if _reads_text(row)]
    if grid.controls and not controlled:
        raise ValueError(f"controls {list(grid.controls)} need a row that reads text; add hnlm to --neg_samplers")
    for control in grid.controls:
        rows += [_controlled(row, control) for row in controlled]
    if not rows:
        raise ValueError("nothing to compare; name --baselines, or --models with --neg_samplers")
    seen: set[tuple[str, str]] = set()
    for row in rows:
        if (row.name, "" if row.everywhere else row.model) in seen:
            raise ValueError(f"two rows are called {row.name!r}; rename or remove one")
        seen.add((row.name, "" if row.everywhere else row.model))
    return sorted(rows, key=lambda row: KINDS.index(row.kind))


def _reads_text(row: Row) -> bool:
    """Whether the row's models read text vectors, which a control could exchange; ``semantic`` draws names alone."""
    values = {**row.defaults, **row.values}
    try:
        options = parse_options(HNLMOptions, HNLMOptions.PREFIX, values)
    except (TypeError, ValueError):
        return True  # told, with the row's name, when the row is checked
    return options.reads_text or values.get(f"{SAMPLER_PREFIX}guard") == "text"


def _packaged(kind: str, name: str, model: str, marks: Mapping[str, Any] | None = None) -> Row:
    """A row as ``spaces.yaml`` has it, or as its kind's ``any`` has it."""
    section = packaged_rows()[kind]
    entry = section.get(name) or section.get("any") or _unlisted(kind, name)
    values: dict[str, Any] = {SAMPLER_KEY: NO_SAMPLER} if kind == "baseline" else {}
    values.update({**entry.get("values", {}), **(marks or {})})
    own = read_space(entry.get("space"))
    space = own if entry.get("alone") else {**_common_space(model), **own}
    apart = tuple(entry.get("apart", ()))
    return Row(name, model, kind, values, space, kind == "baseline", entry.get("defaults", {}), apart)


def _unlisted(kind: str, name: str) -> Mapping[str, Any]:
    """What is tuned of a sampler that ``spaces.yaml`` does not have: the number of candidates, where it has one."""
    if kind != "sampler" or name in packaged_rows()[kind] or not (":" in name or name in SAMPLERS):
        return {}
    if "candidates" not in {knob.name for knob in fields(sampler_class(name).Options)}:
        return {}
    return {"space": packaged_rows()[kind]["dns"]["space"]}


def _common_space(model: str) -> dict[str, Knob]:
    """What is tuned in every row of a model: rate and l2, and the model's own knobs."""
    packaged = packaged_rows()
    return read_space({**packaged["shared"], **packaged["model"].get(model, {})})


def _sampler(name: str, model: str) -> Row:
    kind = "text" if name in packaged_rows()["text"] else "sampler"
    return _packaged(kind, name, model, None if _made_of_values(kind, name) else {SAMPLER_KEY: name})


def _made_of_values(kind: str, name: str) -> bool:
    return SAMPLER_KEY in (packaged_rows()[kind].get(name) or {}).get("values", {})


def _own(name: str, given: Mapping[str, Any], models: Iterable[str]) -> Iterator[Row]:
    if not isinstance(given, Mapping) or SAMPLER_KEY not in given:
        raise ValueError(
            f"row {name!r} should be a mapping with neg_sampler (none for RecBole's own way), got {given!r}"
        )
    values = {key: value for key, value in given.items() if key not in ("model", "kind", "space")}
    sampler = values[SAMPLER_KEY]
    guess = "baseline" if sampler == NO_SAMPLER else ("text" if sampler in packaged_rows()["text"] else "sampler")
    comparator = values.get("hnlm_comparator")
    guess = guess if comparator is None else "comparator"
    kind = given.get("kind", guess)
    if kind not in KINDS:
        raise ValueError(f"row {name!r} has kind {kind!r}, choose one of {list(KINDS)}{nearest(str(kind), KINDS)}")
    used = [given["model"]] if given.get("model") else list(models)
    if not used:
        raise ValueError(f"row {name!r} names no model and there are no --models; add model: NAME to it")
    for model in used:
        if given.get("model") is not None and not isinstance(given["model"], str):
            raise ValueError(f"row {name!r} names model {given['model']!r}; one row has one model, a name")
        if "space" in given:
            alone = kind == "baseline" and (packaged_rows()["baseline"].get(model) or {}).get("alone")
            space = {**({} if alone else _common_space(model)), **read_space(given["space"])}
        elif kind == "baseline":
            space = dict(_packaged("baseline", model, model).space)
        elif comparator is not None:
            space = dict(_packaged("comparator", str(comparator), model).space)
        else:
            packaged = _with_knobs_of_rule(_sampler(str(sampler), model).space, values)
            space = {**packaged, **_space_of_loss(values.get(RANKING_KEY), model)}
        defaults = {} if comparator is None else _packaged("comparator", str(comparator), model).defaults
        apart = _packaged("baseline", model, model).apart if kind == "baseline" else ()
        yield Row(name, model, kind, values, space, kind == "baseline", defaults, apart)


def _with_knobs_of_rule(space: Space, values: Mapping[str, Any]) -> Space:
    """The space of ``hnlm`` with the knobs of the row's own rule in place of those of hnlm's."""
    rule = values.get("hnlm_base_sampler")
    if rule is None:
        return space
    others = {key: knob for key, knob in space.items() if not key.startswith(SAMPLER_PREFIX)}
    entry = packaged_rows()["sampler"].get(rule) or ({} if rule == RECBOLE_SAMPLER else _unlisted("sampler", rule))
    return {**others, **read_space(entry.get("space"))}


def _space_of_loss(loss: Any, model: str) -> Space:
    """What a row with this loss tunes; nothing where the model's own loss trains it."""
    return {} if loss in (None, OWN_LOSS) else _packaged("loss", str(loss), model).space


def _controlled(row: Row, control: str) -> Row:
    marks = (packaged_rows()["control"].get(control) or {"values": {"hnlm_control": control}})["values"]
    return replace(row, name=f"{row.name} {control}", kind="control", values={**row.values, **marks})
