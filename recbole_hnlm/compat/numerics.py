"""Names that numpy and scipy have removed and RecBole still asks for."""

from collections.abc import Mapping
from types import ModuleType
from typing import Any

from .registry import shim


@shim("recbole.config.configurator")
def numpy_aliases(module: ModuleType) -> bool:
    """Let ``Config`` be built where numpy has no ``float_`` (numpy 2).

    ``Config.compatibility_settings`` gives numpy back the aliases ``np.float``, ``np.int`` ... that RecBole uses
    everywhere, but spells their targets ``np.float_``, ``np.complex_`` and ``np.unicode_``, which numpy 2 removed. The
    same aliases are set here, and those alone that numpy lacks. They are also set at once, since a ``Config`` out of a
    checkpoint is never constructed. RecBole issue #2215, pull requests #2187 and #2203.
    """
    import numpy as np

    if all(hasattr(np, name) for name in ("float_", "complex_", "unicode_")):
        return False
    targets = {"int": np.int_, "float": np.float64, "complex": np.complex128, "str": np.str_, "unicode": np.str_}
    targets |= {"bool": np.bool_, "object": np.object_, "long": np.int_}

    def compatibility_settings(self: object) -> None:
        for alias, scalar_type in targets.items():
            if alias not in vars(np):  # hasattr would warn about some of them
                setattr(np, alias, scalar_type)

    module.Config.compatibility_settings = compatibility_settings
    compatibility_settings(None)
    return True


@shim("recbole.model.abstract_recommender")
def dok_matrix_update(module: ModuleType) -> bool:
    """Give ``scipy.sparse.dok_matrix`` the ``_update`` that scipy 1.13 removed.

    LightGCN, NGCF, NCL, GCMC, SpectralCF, KGIN and MCCLK fill their adjacency matrix with it. RecBole issue #2090.
    """
    import scipy.sparse

    dok_matrix: Any = scipy.sparse.dok_matrix
    if hasattr(dok_matrix, "_update"):
        return False

    def _update(self: Any, entries: Mapping[tuple[int, int], float]) -> None:
        if entries:
            rows, columns = zip(*entries, strict=True)
            self[list(rows), list(columns)] = list(entries.values())

    dok_matrix._update = _update
    return True
