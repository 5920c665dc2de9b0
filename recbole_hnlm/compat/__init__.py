"""RecBole 1.2.1 on current numpy, pandas, scipy, torch and Python: one guarded shim for each breakage.

RecBole 1.2.1 leans on names and behaviours that its dependencies have dropped since. Each shim is one function that
repairs one of them. It

* first looks whether the thing is really broken, by trying it and never by comparing versions, and does nothing if not;
* changes RecBole's own modules, and a dependency only by adding a name that is missing there;
* keeps the result that RecBole had with the dependencies it was written for, where RecBole meant it.

``import recbole_hnlm`` calls :func:`install`. That is cheap: a shim runs right after the module it repairs is first
imported, by whomever, or at once if that has happened already. The shims: :mod:`.numerics` (numpy, scipy),
:mod:`.checkpoints`, :mod:`.downloads` and :mod:`.autograd` (torch), :mod:`.tables` (pandas), :mod:`.optional` (ray,
pkg_resources), :mod:`.metrics` and :mod:`.counts` (RecBole itself).
"""

import importlib
import sys

from . import autograd, checkpoints, counts, downloads, metrics, numerics, optional, registry, tables
from .import_hook import ImportHook

__all__ = [
    "active", "apply", "autograd", "checkpoints", "counts", "downloads", "install", "metrics", "numerics", "optional",
    "tables",
]  # fmt: skip

_hook = ImportHook({*registry.shims, *registry.surroundings}, registry.execute_repaired)


def install() -> None:
    """Repair what is already imported of RecBole now, and the rest when it is imported. Imports nothing itself."""
    _hook.install()
    for name in registry.shims:
        if name in sys.modules:
            registry.repair(sys.modules[name])


def apply() -> tuple[str, ...]:
    """Import and repair every module of RecBole concerned at once; a second call changes nothing.

    Returns:
        Names of the shims in effect, sorted; each is a function of this package whose docstring says what it repairs.
    """
    install()
    for name in registry.shims:
        importlib.import_module(name)
    return active()


def active() -> tuple[str, ...]:
    """Names of the shims in effect so far, sorted; those of modules not yet imported are not among them."""
    return tuple(sorted(registry.active))
