"""What the user asks to compare: the command line over a plan file over the defaults."""

from __future__ import annotations

import argparse
import importlib.resources
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from recbole.utils import argument_list

from recbole_hnlm.compare.plan import CompareConfig, Request
from recbole_hnlm.compare.rows import Grid
from recbole_hnlm.config import packaged_defaults
from recbole_hnlm.graph_models import GRAPH_MODELS
from recbole_hnlm.options.parsing import nearest, reject_misspelled
from recbole_hnlm.user_settings import split_setting, told_of

LISTS = ("neg_samplers", "comparators", "losses", "baselines", "controls")
MAPPINGS = ("datasets", "models")
"""Lists of names, or mappings of a name to settings of its own."""
FIRST_SEED = 2020
_SPACE = "\0"  # which no argument holds
_SAID_ELSEWHERE = {"dataset": "datasets", "model": "models", "seed": "seeds"}
_PLAN_KEYS = (*MAPPINGS, *LISTS, "rows", "seeds", "tune", "settings", "config_files", "processes", "out", "against")


@dataclass(frozen=True)
class Asked:
    """A comparison, and how it is carried out.

    Attributes:
        request: What is compared.
        out: Folder of everything that is written.
        processes: Runs at a time.
        against: Row that the others are held against; None takes the best id-only row by validation.
    """

    request: Request
    out: Path
    processes: int
    against: str | None


def parse_arguments(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """The parser's own arguments, and every further ``--key=value``.

    A list of names before ``--val_interval={'rating': '[4,inf)'}`` ends there: argparse takes what has a space in it
    for a name.
    """
    args, settings = parser.parse_known_args([x.replace(" ", _SPACE) if x.startswith("--") else x for x in arguments])
    told = {key: value.replace(_SPACE, " ") if isinstance(value, str) else value for key, value in vars(args).items()}
    return argparse.Namespace(**told), [setting.replace(_SPACE, " ") for setting in settings]


def read_request(given: Mapping[str, Any], settings: Sequence[str] = ()) -> Asked:
    """Read the command line's arguments, and the plan file that they may name.

    Args:
        given: Arguments by name, None where not given.
        settings: ``--key=value`` of RecBole or of ours, shared by all rows.

    Raises:
        ValueError: On keys of the plan file that mean nothing, and arguments that are no settings.
        FileNotFoundError: If a file is not there.
    """
    plan = _plan_file(given["plan"]) if given.get("plan") else {}
    asked = {**plan, **{key: value for key, value in given.items() if value is not None}}
    files = _listed("config_files", asked.get("config_files"))
    filed = _reader()._load_config_files(files)
    shared = {**filed, **_mapping("settings", asked.get("settings")), **_read_settings(settings)}
    rows = _mapping("rows", asked.get("rows"))
    if "seed" in shared and isinstance(asked.get("seeds"), (list, tuple)):
        raise ValueError(
            f"seed={shared['seed']!r} beside seeds={list(asked['seeds'])} would be lost; name all in seeds"
        )
    first_seed = shared.pop("seed", FIRST_SEED)
    names = {key: tuple(_listed(key, asked.get(key))) for key in LISTS}
    models = _with_settings("models", asked.get("models"), plan.get("models"))
    grid = Grid(models=tuple(models), rows=rows, **names)
    datasets = _with_settings("datasets", asked.get("datasets"), plan.get("datasets"))
    _check_keys([shared, *datasets.values(), *models.values()], [row for row in rows.values() if row])
    request = Request(
        datasets=datasets,
        grid=grid,
        models={name: own for name, own in models.items() if own},
        shared=shared,
        seeds=_seeds(asked.get("seeds", 5), first_seed),
        tune=_whole("tune", asked.get("tune", 8)),
    )
    processes = _whole("processes", asked.get("processes", 1))
    if processes < 1:
        raise ValueError(f"processes={processes} must be at least 1")
    if not asked.get("out"):
        raise ValueError("no folder for the results; name one with --out, e.g. --out results/x")
    return Asked(request, Path(asked["out"]), processes, asked.get("against"))


def _check_keys(settings: Sequence[Mapping[str, Any]], rows: Sequence[Any]) -> None:
    """Refuse settings that nothing reads: RecBole takes unknown keys for absent ones and says nothing."""
    told = [key for group in settings for key in group]
    told += [key for row in rows if isinstance(row, Mapping) for key in row if key != "model"]
    for key in [key for key in told if key in _SAID_ELSEWHERE]:
        raise ValueError(f"{key} is no setting of single runs here; use {_SAID_ELSEWHERE[key]}")
    given = {str(key) for group in [*settings, *rows] if isinstance(group, Mapping) for key in group}
    reject_misspelled(sorted(given), ("model", "kind", "space"), _known_keys())


def _known_keys() -> set[str]:
    """What RecBole, its models and ours read, but for options of this package."""
    lists = ("general", "training", "evaluation", "dataset")
    known = {key for name in lists for key in getattr(argument_list, f"{name}_arguments")}
    for file in importlib.resources.files("recbole").joinpath("properties", "model").iterdir():
        known.update(yaml.safe_load(file.read_text(encoding="utf-8")) or {})
    for name in GRAPH_MODELS:
        known.update(packaged_defaults(f"model/{name}.yaml"))
    return known


def _plan_file(path: str) -> dict[str, Any]:
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no plan {path}; see --help for what it holds")
    with told_of(path):
        plan = yaml.load(Path(path).read_text(encoding="utf-8"), Loader=_refusing_twins(path)) or {}
    for key in _mapping("the plan", plan):
        if key not in _PLAN_KEYS:
            raise ValueError(
                f"{path}: unknown key {key!r}{nearest(str(key), _PLAN_KEYS)}; settings of runs go under 'settings'"
            )
    return dict(plan)


def _refusing_twins(path: str) -> Any:
    """RecBole's YAML loader, but that a key given twice is no longer the last one."""

    class Loader(_reader().yaml_loader):  # type: ignore[misc]
        """Knows the plan's name, for its message."""

        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            """The mapping, of keys that each come once."""
            seen: set[str] = set()
            for key, _ in node.value:
                if key.value in seen and isinstance(key, yaml.ScalarNode):
                    raise ValueError(f"{path}: {key.value!r} is given twice{key.start_mark}; rename or remove one")
                seen |= {key.value} if isinstance(key, yaml.ScalarNode) else set()
            return super().construct_mapping(node, deep)

    return Loader


def _reader() -> Any:
    """RecBole's way to read YAML and the command line, without a configuration."""
    made = CompareConfig.__new__(CompareConfig)
    made.yaml_loader = made._build_yaml_loader()
    return made


def _read_settings(arguments: Sequence[str]) -> dict[str, Any]:
    """``--key=value`` as RecBole reads it."""
    return dict(_reader()._convert_config_dict(dict(map(split_setting, arguments))))


def _listed(name: str, given: Any) -> list[str]:
    if given is None:
        return []
    if isinstance(given, Mapping):
        raise ValueError(
            f"{name} is a list of names, got {given!r}; settings of one belong to a row of its own in 'rows'"
        )
    return [str(name) for name in ([given] if isinstance(given, str) else given)]


def _mapping(name: str, given: Any) -> dict[str, Any]:
    if given is not None and not isinstance(given, Mapping):
        raise ValueError(f"{name} should be a mapping of names, got {given!r}")
    return {str(key): own for key, own in (given or {}).items()}


def _whole(name: str, given: Any) -> int:
    """A whole number as YAML or a command line gives it; what ``int`` would cut, or take a yes for, is refused."""
    if not str(given).lstrip("+-").isdecimal():
        raise ValueError(f"{name}={given!r} should be a whole number")
    return int(given)


def _with_settings(name: str, given: Any, planned: Any) -> dict[str, dict[str, Any]]:
    """Names with their settings; those that the command line names keep their settings in the plan file."""
    if not isinstance(given, Mapping):
        known = _with_settings(name, planned, None) if isinstance(planned, Mapping) else {}
        return {one: known.get(one, {}) for one in _listed(name, given)}
    return {str(key): _mapping(f"{name}: {key}", own) for key, own in given.items()}


def _seeds(given: Any, first: int) -> tuple[int, ...]:
    try:
        if isinstance(given, (list, tuple)):
            return tuple(_whole("seeds", seed) for seed in given)
        start = _whole("seed", first)
        return tuple(range(start, start + _whole("seeds", given)))
    except ValueError:
        raise ValueError(f"seeds={given!r} should be a number of seeds or a list of them, seed={first!r} one") from None
