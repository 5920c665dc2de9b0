"""Reading RecBole's checkpoints, which are pickles with more than tensors in them."""

import io
import logging
import sys
import warnings
from fractions import Fraction
from pickle import UnpicklingError
from types import ModuleType
from typing import Any

from .registry import overlay, shim

_OURS = "hnlm."
"""Beginning of the names of what a wrapped model has beside its base."""
_QUICK_START = "recbole.quick_start.quick_start"


def _trusting_load(*args: Any, **kwargs: Any) -> Any:
    import torch

    return torch.load(*args, **{"weights_only": False, **kwargs})


def _torch_load_refuses_objects() -> bool:
    import torch

    checkpoint = io.BytesIO()
    torch.save(Fraction(1, 2), checkpoint)
    checkpoint.seek(0)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # torch 2.4 and 2.5 announce the change
            torch.load(checkpoint)
    except UnpicklingError:
        return True
    return False


@shim(
    "recbole.trainer.trainer",
    "recbole.model.context_aware_recommender.kd_dagfm",
    "recbole.model.general_recommender.convncf",
    "recbole.model.general_recommender.nais",
    "recbole.model.general_recommender.neumf",
    "recbole.model.general_recommender.ract",
    "recbole.model.sequential_recommender.s3rec",
)
def checkpoint_loading(module: ModuleType) -> bool:
    """Let RecBole read its own checkpoints where ``torch.load`` takes tensors only by default (torch 2.6).

    A checkpoint of RecBole holds its ``Config``. Only these modules see the older default, and they load files that
    the run has written or that the user's configuration names; ``torch.load`` itself is untouched. As with every
    pickle, such a file must come from a source you trust. RecBole issues #2212 and #2215.
    """
    if not _torch_load_refuses_objects():
        return False
    import torch

    overlay(module, torch, "torch", load=_trusting_load)
    return True


def plain_state(state: dict[str, Any]) -> dict[str, Any]:
    """A wrapped model's state without what is ours: the state dictionary of the plain RecBole model."""
    return {name: value for name, value in state.items() if not name.startswith(_OURS)}


def _class_of(config: Any, get_model: Any) -> type:
    """The class that a checkpoint's configuration names; RecBole's own function, unlike what ``register()`` puts in its
    place, knows RecBole's alone.
    """
    named: type = config.model_class
    known = named.__module__.startswith("recbole.") or not get_model.__module__.startswith("recbole.")
    found: type = get_model(config["model"]) if known else named
    return found


@shim(_QUICK_START, "recbole.quick_start")
def saved_model_loading(module: Any) -> bool:
    """The same for ``load_data_and_model``, which imports torch inside the function and so is written anew.

    RecBole issue #2215.
    """
    if not _torch_load_refuses_objects():
        return False
    quick_start: Any = sys.modules[_QUICK_START]

    def load_data_and_model(model_file: str) -> tuple[Any, ...]:
        """Config, model, dataset and the three dataloaders of a checkpoint, in this order."""
        checkpoint = _trusting_load(model_file)
        config = checkpoint["config"]
        seed, reproducible = config["seed"], config["reproducibility"]
        quick_start.init_seed(seed, reproducible)
        quick_start.init_logger(config)
        logging.getLogger().info(config)
        dataset = quick_start.create_dataset(config)
        logging.getLogger().info(dataset)
        loaders = quick_start.data_preparation(config, dataset)
        quick_start.init_seed(seed, reproducible)
        model = _class_of(config, quick_start.get_model)(config, loaders[0]._dataset).to(config["device"])
        state = checkpoint["state_dict"]  # after register() the model is wrapped, and has all of it
        model.load_state_dict(state if getattr(model, "hnlm", None) is not None else plain_state(state))
        model.load_other_parameter(checkpoint.get("other_parameter"))
        return config, model, dataset, *loaders

    if module is quick_start:
        quick_start.load_data_and_model = load_data_and_model
    else:  # the package, which has copied the name
        module.load_data_and_model = quick_start.load_data_and_model
    return True
