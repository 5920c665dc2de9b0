"""``register()``: RecBole's own ``run_recbole`` and HyperTuning learn our samplers; ``unregister()`` takes it back.

Besides ``compat/`` the only module that changes anything of RecBole's: five names, in every module of RecBole that
holds them.
"""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Callable
from typing import Any

import recbole.config
import recbole.data
import recbole.utils

_replaced: list[tuple[Any, str, Any]] = []
_prepared: dict[str, type] = {}
"""Name -> class of the configuration whose data was prepared last: RecBole then asks for the class by its name alone,
which tells nothing of one of the user's own.
"""


def register() -> None:
    """Teach RecBole ``neg_sampler`` and our options, until :func:`unregister`.

    Afterwards ``recbole.quick_start.run_recbole``, ``run`` (with ``nproc`` processes too), ``objective_function`` and
    ``HyperTuning`` accept every sampler, build absent artefacts after the split, and train wrapped models. A
    configuration without ``neg_sampler`` runs as before. Scripts that took ``Config`` or ``get_model`` out of RecBole
    before this call keep what they took, and are warned. Calling twice changes nothing.
    """
    if _replaced:
        return
    from recbole_hnlm.config import HNLMConfig

    quick_start = importlib.import_module("recbole.quick_start.quick_start")
    original_preparation, original_get_model = recbole.data.data_preparation, recbole.utils.get_model
    replacements: list[tuple[Any, Any]] = [
        (recbole.config.Config, HNLMConfig),
        (original_preparation, _with_artefacts(original_preparation)),
        (original_get_model, _wrapping(original_get_model)),
        (recbole.utils.get_trainer, _watched(recbole.utils.get_trainer)),
        (quick_start.run_recboles, run_registered_process),
    ]
    kept: set[str] = set()
    for original, replacement in replacements:
        for name, module in list(sys.modules.items()):
            owner = name.partition(".")[0]
            if owner == "recbole_hnlm" or name == "recbole.config.configurator":
                continue  # the configurator looks up plain classes to read their type
            for attribute, value in list(getattr(module, "__dict__", {}).items()):
                if value is original and owner == "recbole":
                    _replaced.append((module, attribute, original))
                    setattr(module, attribute, replacement)
                elif value is original:
                    kept.add(f"{name}.{attribute}")
    if kept:
        warnings.warn(
            f"{', '.join(sorted(kept))} are RecBole's own and know no neg_sampler; import them after register()",
            stacklevel=2,
        )


def unregister() -> None:
    """Put everything back as :func:`register` found it; does nothing where nothing is registered."""
    while _replaced:
        _prepared.clear()
        module, attribute, original = _replaced.pop()
        setattr(module, attribute, original)


def run_registered_process(rank: int, *arguments: Any) -> None:
    """RecBole's ``run_recboles``, one process of ``run(nproc=...)``; a process starts without what its parent
    registered.
    """
    register()
    run_recboles = next(original for _, name, original in _replaced if name == "run_recboles")
    run_recboles(rank, *arguments)


def _with_artefacts(preparation: Callable[..., Any]) -> Callable[..., Any]:
    """RecBole's ``data_preparation``, followed by what a run of ours needs of the split."""

    def data_preparation(config: Any, dataset: Any) -> tuple[Any, Any, Any]:
        from recbole_hnlm.building.preparing import make_what_is_absent
        from recbole_hnlm.config import HNLMConfig
        from recbole_hnlm.extra_masking import mask_also
        from recbole_hnlm.selection import check_catalogue, check_held_out, check_valid_metric
        from recbole_hnlm.training.loader import training_loader
        from recbole_hnlm.training.processes import set_threads
        from recbole_hnlm.user_settings import warn_of_unread

        _prepared[config["model"]] = config.model_class
        if isinstance(config, HNLMConfig):
            warn_of_unread(config)
        check_valid_metric(config)
        check_catalogue(config, dataset)
        train_data, valid_data, test_data = preparation(config, dataset)
        mask_also(config, train_data, (valid_data, test_data))
        check_held_out(config, (valid_data, test_data))
        set_threads(config)
        run = getattr(config, "run", None)
        if run is not None:
            make_what_is_absent(config, run, train_data)
        return training_loader(config, (train_data, valid_data, test_data), run), valid_data, test_data

    return data_preparation


def _wrapping(get_model: Callable[[str], type]) -> Callable[[str], type]:
    """RecBole's ``get_model``, wrapping every class that can train on our negatives; inert without ``neg_sampler``."""

    def get_wrapped_model(model_name: str) -> type:
        from recbole_hnlm.model_lookup import find_model
        from recbole_hnlm.models import hnlm, refusal

        found = _prepared.get(model_name) or find_model(model_name)
        model_class = found if isinstance(found, type) else get_model(model_name)
        return model_class if refusal(model_class) else hnlm(model_class)

    return get_wrapped_model


def _watched(get_trainer: Callable[..., type]) -> Callable[..., type]:
    """RecBole's ``get_trainer``, whose trainers write our scalars to TensorBoard."""

    def get_watching_trainer(model_type: Any, model_name: str) -> type:
        from recbole_hnlm.training.watching import watching

        return watching(get_trainer(model_type, model_name))

    return get_watching_trainer
