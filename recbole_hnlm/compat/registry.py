"""Which shim repairs which module, and the running of it when that module is executed."""

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from types import ModuleType
from typing import Any

from .import_hook import Execute

logger = logging.getLogger(__name__)

Shim = Callable[[ModuleType], bool]
"""Repairs a module that has just been executed; False if there was nothing to repair."""
Surrounding = Callable[[], AbstractContextManager[bool]]
"""What a module needs while it is executed; the value entered is False if it needed nothing."""

_DONE = "__recbole_hnlm_shims__"

shims: dict[str, list[Shim]] = {}
"""Shims by the full name of the module they repair, in the order in which they run."""
surroundings: dict[str, Surrounding] = {}
"""Context managers by the full name of the module whose execution they surround."""
active: set[str] = set()
"""Names of the shims that found something to repair."""


def shim(*module_names: str) -> Callable[[Shim], Shim]:
    """Decorator that has a function repair the named modules after they are executed."""

    def add(function: Shim) -> Shim:
        for name in module_names:
            shims.setdefault(name, []).append(function)
        return function

    return add


def surrounding(module_name: str) -> Callable[[Surrounding], Surrounding]:
    """Decorator that has a context manager surround the execution of the named module."""

    def add(manager: Surrounding) -> Surrounding:
        surroundings[module_name] = manager
        return manager

    return add


class _Overlay(ModuleType):
    """A module of which one importer sees some names replaced."""

    def __init__(self, base: ModuleType, replaced: dict[str, Any]) -> None:
        super().__init__(base.__name__, base.__doc__)
        vars(self).update(replaced, _base=base)

    def __getattr__(self, name: str) -> Any:
        return getattr(vars(self)["_base"], name)


def overlay(module: ModuleType, base: ModuleType, name: str, **replaced: Any) -> None:
    """Replace names of the module ``base`` for ``module`` alone, which has imported it as ``name``."""
    setattr(module, name, _Overlay(base, replaced))


def repair(module: ModuleType) -> None:
    """Run the shims of an executed module, each once."""
    done = vars(module).setdefault(_DONE, set())
    for function in shims.get(module.__name__, ()):
        if function.__name__ in done:
            continue
        done.add(function.__name__)
        if function(module):
            active.add(function.__name__)
            logger.debug("%s repaired by %s", module.__name__, function.__name__)


def execute_repaired(module: ModuleType, execute: Execute) -> None:
    """Execute a module inside its surrounding, if it has one, and repair it."""
    manager = surroundings.get(module.__name__)
    with manager() if manager else nullcontext(False) as needed:
        execute(module)
    if manager and needed:
        active.add(getattr(manager, "__name__"))  # noqa: B009 - a Callable has no __name__ for mypy
    vars(module).pop(_DONE, None)  # a reload brings the original code back
    repair(module)
