"""LLM-driven hard negative sampling for RecBole 1.2.1.

Importing this package is cheap: it arranges for RecBole to be repaired on current dependencies when it is imported
(:mod:`recbole_hnlm.compat`) and loads everything else when it is first asked for.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from . import compat

if TYPE_CHECKING:
    from .config import HNLMConfig
    from .leak import check_leak
    from .models import hnlm
    from .quick_start import run_recbole_hnlm
    from .registration import register, unregister

__version__ = "0.1.0"
__all__ = ["HNLMConfig", "__version__", "check_leak", "hnlm", "register", "run_recbole_hnlm", "unregister"]

# Where each public name lives. No submodule may bear the name of a public function: importing it would put the module
# in the function's place, hence ``registration``.
_HOMES = {
    "HNLMConfig": "config",
    "check_leak": "leak",
    "hnlm": "models",
    "register": "registration",
    "run_recbole_hnlm": "quick_start",
    "unregister": "registration",
}

compat.install()


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_HOMES[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
