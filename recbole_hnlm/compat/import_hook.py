"""Run code around the first import of chosen modules, without importing them now.

:mod:`recbole_hnlm.compat` repairs modules of RecBole that pull in torch, pandas and scipy. Importing them just to
repair them would make ``import recbole_hnlm`` as slow as a training run, so the repair waits here until someone else
imports them.
"""

import sys
from collections.abc import Callable, Iterable, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

Execute = Callable[[ModuleType], None]
"""Runs the body of a module; what a loader calls ``exec_module``."""


class ImportHook(MetaPathFinder):
    """Finder that finds nothing itself, but hands the execution of some modules to a callback.

    The module is found and loaded by whoever would have found it anyway (a wheel, a zip, an editable install), so
    its source, resources and tracebacks stay what they were.

    Args:
        names: Full names of the modules to intercept; all others are left alone.
        around: Called in place of the loader's ``exec_module`` with the module and that method. It must call the
            method once, and may act before and after.
    """

    def __init__(self, names: Iterable[str], around: Callable[[ModuleType, Execute], None]) -> None:
        self.names = frozenset(names)
        self._around = around

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The spec another finder gives for ``fullname``, with its execution intercepted; None for other modules."""
        if fullname not in self.names:
            return None
        spec = self._ask_other_finders(fullname, path, target)
        if spec is not None and spec.loader is not None:
            self._intercept(spec)
        return spec

    def install(self) -> None:
        """Put the hook in front of all finders; a second call changes nothing."""
        if self not in sys.meta_path:
            sys.meta_path.insert(0, self)

    def _ask_other_finders(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None
    ) -> ModuleSpec | None:
        for finder in list(sys.meta_path):
            if finder is self or not hasattr(finder, "find_spec"):
                continue
            spec = finder.find_spec(fullname, path, target)
            if spec is not None:
                return spec
        return None

    def _intercept(self, spec: ModuleSpec) -> None:
        loader, around = spec.loader, self._around
        assert loader is not None
        execute = loader.exec_module

        def exec_module(module: ModuleType) -> None:
            around(module, execute)

        # On the instance: a loader belongs to one spec, and its class serves every other module of the process.
        setattr(loader, "exec_module", exec_module)  # noqa: B010 - mypy refuses a plain assignment to a method
