"""Imports that RecBole or hyperopt make in vain: modules they hardly use and that current stacks cannot provide."""

import importlib
import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from .registry import surrounding


@contextmanager
def _stand_ins(**modules: ModuleType) -> Iterator[None]:
    """Let modules be imported under other names; they are gone again afterwards, so nobody else meets them."""
    sys.modules.update(modules)
    try:
        yield
    finally:
        for name, module in modules.items():
            if sys.modules.get(name) is module:
                del sys.modules[name]


def _ray_tune_works() -> bool:
    search_path = list(sys.path)
    try:
        importlib.import_module("ray.tune")
    except Exception:  # an old ray on a new stack fails in many ways, ImportError is only the most frequent
        sys.path[:] = search_path  # ray puts its own copies of psutil and others in front
        return False
    return True


def _report(*args: Any, **metrics: Any) -> None:
    """Stand-in for ``ray.tune.report`` where no search by ray can be running."""


@surrounding("recbole.quick_start.quick_start")
@contextmanager
def ray_stand_in() -> Iterator[bool]:
    """Let ``recbole.quick_start`` be imported where ``ray.tune`` cannot be.

    It wants ``ray.tune`` only to report to a search that ray runs. RecBole asks for ray 2.6.3 or older, which has no
    wheel above Python 3.11 and fails on numpy 2 or without ``pkg_resources``. The stand-in reports nothing.
    RecBole issues #1518 and #2215, pull request #2078.
    """
    if _ray_tune_works():
        yield False
        return
    ray, tune = ModuleType("ray"), ModuleType("ray.tune")
    vars(ray).update(tune=tune, __path__=[])
    vars(tune).update(report=_report)
    with _stand_ins(**{"ray": ray, "ray.tune": tune}):
        yield True


@surrounding("hyperopt.atpe")
@contextmanager
def pkg_resources_stand_in() -> Iterator[bool]:
    """Let hyperopt 0.2.5, which RecBole pins for ``HyperTuning``, be imported without ``pkg_resources``.

    setuptools 82 removed it. hyperopt needs it for the models of its adaptive TPE alone, which RecBole does not offer.
    No upstream issue known.
    """
    if "pkg_resources" in sys.modules or importlib.util.find_spec("pkg_resources"):
        yield False
        return
    with _stand_ins(pkg_resources=ModuleType("pkg_resources")):
        yield True
