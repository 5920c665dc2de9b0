"""Options that nobody gives: what a run takes for them, and which have changed since a run that the ledger kept.

A run is known by the settings that it was given. Another version may have other defaults, which give the same settings
another meaning, so a run tells what it took, too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from recbole_hnlm.compare.ledger import Record
from recbole_hnlm.compare.spaces import Point, Space
from recbole_hnlm.config import HNLMConfig
from recbole_hnlm.run_options import describe_options


def defaults_of(config: HNLMConfig, given: Iterable[str]) -> dict[str, str]:
    """Our options of a configuration that are not among the ``given`` ones, as texts: a sampler may have any type."""
    named = set(given)
    return {key: str(value) for key, value in _options(config).items() if key not in named}


def start_of(space: Space, config: HNLMConfig) -> Point:
    """What a run takes for the settings of a space that nobody sets; without those that others, or the data, decide."""
    ours = _options(config)
    found = {key: config[key] if config[key] is not None else ours.get(key) for key in space}
    return {key: value for key, value in found.items() if value is not None}


def _options(config: HNLMConfig) -> dict[str, Any]:
    return describe_options(config.run) if config.run is not None else {}


def told_of_defaults(now: Mapping[str, str], runs: Iterable[Record]) -> str:
    """A sentence about runs that took other defaults than a run would take ``now``; empty where none did.

    An option that one of the two does not know is not compared: it may be new, and change nothing by its default.
    """
    taken = [(key, old, now[key]) for run in runs for key, old in run.get("defaults", {}).items() if key in now]
    changed = sorted({f"{key}={old}, now {new}" for key, old, new in taken if old != new})
    return f"trained with other defaults ({'; '.join(changed)}); a new --out trains it with these." if changed else ""
