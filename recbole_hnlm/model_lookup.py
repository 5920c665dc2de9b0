"""Model classes by name beyond RecBole's own, by ``package.module:Class``, and what their packages bring along."""

from __future__ import annotations

import importlib
import importlib.resources
import importlib.util
from typing import Any

import yaml
from recbole.config import Config
from recbole.data import create_dataset

from recbole_hnlm.graph_models import GRAPH_MODELS
from recbole_hnlm.options.imports import import_class
from recbole_hnlm.options.parsing import nearest

KNOWN_TO_RECBOLE = ("recbole", "recbole_hnlm")
"""Packages whose models take RecBole's datasets, and read no keys but those in their YAML of defaults."""
_SCRIPT = ("__main__", "__mp_main__")
"""What the module that was started is called, in its own process and in those that it spawns; it is no package."""


def find_model(name: Any) -> Any:
    """The class that a name stands for where RecBole would not find it; anything else as it is.

    Raises:
        ValueError: If ``package.module:Class`` cannot be imported, or nobody knows the name.
        TypeError: If it is no class.
    """
    if not isinstance(name, str):
        return name
    if name in GRAPH_MODELS:
        return GRAPH_MODELS[name]
    if ":" not in name:
        _refuse_unknown(name)
        return name
    found = import_class(name, "model")
    if not isinstance(found, type):
        raise TypeError(f"model {name!r} should be a class, got {type(found).__name__}; give package.module:Class")
    return found


def _refuse_unknown(name: str) -> None:
    """Refuse a name that is no model of RecBole's, which would import all it has, lightgbm too, before it says so."""
    general = importlib.import_module("recbole.model.general_recommender")
    classes = [known for known, value in vars(general).items() if isinstance(value, type)]
    names = {known.lower(): known for known in (*classes, *GRAPH_MODELS)}
    folders = importlib.resources.files("recbole.model")
    other = any(folder.joinpath(f"{name.lower()}.py").is_file() for folder in folders.iterdir() if folder.is_dir())
    if name not in names.values() and (name.lower() in names or not other):
        close = names.get(name.lower()) or name
        hint = f"; did you mean {close!r}?" if close != name else nearest(name, names.values())
        raise ValueError(f"there is no model {name!r}{hint}; give one of RecBole's or package.module:Class")


def package_of(model_class: type) -> str:
    """The outermost package that a model comes from; of a wrapped one, that of its base."""
    base = getattr(model_class, "hnlm_base", model_class)
    return str(base.__module__).partition(".")[0]


def model_defaults(model_class: type) -> dict[str, Any]:
    """Defaults of a model in the ``properties/model`` of its own package, as RecBole-GNN keeps them; else nothing.

    RecBole reads its own files itself.
    """
    package = package_of(model_class)
    spec = importlib.util.find_spec(package) if package not in ("recbole", *_SCRIPT) else None
    if spec is None or spec.submodule_search_locations is None:
        return {}
    if package == "recbole_hnlm":  # an installed package of its own, in a folder of its own
        properties = importlib.resources.files("recbole_hnlm.properties")
    else:
        properties = importlib.resources.files(package).joinpath("properties")
    path = properties.joinpath("model", f"{model_class.__name__}.yaml")
    if not path.is_file():
        return {}
    loader = Config._build_yaml_loader(Config)  # as RecBole reads its own: 1e-05 is a number to it, text to YAML
    return yaml.load(path.read_text(encoding="utf-8"), Loader=loader) or {}  # noqa: S506  (a package that is imported)


def dataset_for(config: Any) -> Any:
    """The filtered dataset: by ``create_dataset`` of the model's own package where that has one, else by RecBole's.

    RecBole-GNN's models read their graph from a dataset class of RecBole-GNN's.
    """
    package = package_of(config.model_class)
    if package not in (*KNOWN_TO_RECBOLE, *_SCRIPT):
        spec = importlib.util.find_spec(package)
        if spec is not None and spec.submodule_search_locations and importlib.util.find_spec(f"{package}.utils"):
            utils = importlib.import_module(f"{package}.utils")
            if hasattr(utils, "create_dataset"):
                return utils.create_dataset(config)
    return create_dataset(config)
