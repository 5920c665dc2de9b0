"""What users hand over beside a dictionary, read strictly: YAML files, ``--key=value``, and RecBole's own values."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from recbole_hnlm.options import SAMPLER_KEY

logger = logging.getLogger(__name__)


@contextlib.contextmanager
def told_of(path: str | Path) -> Iterator[None]:
    """Put the file before what is wrong with its YAML."""
    try:
        yield
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is no YAML: {' '.join(str(error).split())}") from error


def read_settings_files(paths: Sequence[str] | str | None, loader: Any) -> list[dict[str, Any]]:
    """The settings of YAML files, one after the other; later ones count more.

    Args:
        paths: The files; a single one may come without a list.
        loader: RecBole's YAML loader, which reads ``1e-3`` as a number.

    Raises:
        FileNotFoundError: If one is not there; before any is read.
        ValueError: If one is no YAML, or holds anything but ``key: value``.
    """
    paths = [paths] if isinstance(paths, (str, Path)) else list(paths or ())
    for path in paths:
        if not Path(path).is_file():
            raise FileNotFoundError(f"there is no file {path}; check --config_files")
    found: list[dict[str, Any]] = []
    for path in paths:
        with told_of(path):
            read = yaml.load(Path(path).read_text(encoding="utf-8"), Loader=loader)
        if not isinstance(read, Mapping | None):
            raise ValueError(f"{path} should hold settings as key: value, got a {type(read).__name__}")
        found.append(dict(read or {}))
    return found


def files_named(given: Sequence[str] | None) -> list[str] | None:
    """The paths after ``--config_files``: one word each, or several in one with spaces between, as RecBole has them."""
    if not given:
        return None
    return [path for word in given for path in ([word] if Path(word).is_file() else word.split())]


def split_setting(argument: str) -> tuple[str, str]:
    """Key and value of ``--key=value``; the value may hold ``=``.

    Raises:
        ValueError: If it has another form.
    """
    key, equals, value = argument.removeprefix("--").partition("=")
    if not argument.startswith("--") or not equals or not key:
        raise ValueError(f"cannot read {argument!r}; settings of the runs are written --key=value, with the =")
    return key, value


def settings_of_command_line(arguments: Sequence[str]) -> dict[str, str]:
    """The ``--key=value`` among arguments; a warning names the others, which may be those of a script.

    Raises:
        ValueError: If a key comes twice with different values.
    """
    found: dict[str, str] = {}
    others = []
    for argument in arguments:
        try:
            key, value = split_setting(argument)
        except ValueError:
            others.append(argument)
            continue
        if found.setdefault(key, value) != value:
            raise ValueError(f"--{key} is given twice, as {found[key]!r} and as {value!r}; keep one")
    if others:
        logger.warning("not read as settings, which are written --key=value: %s", " ".join(others))
    return found


def overruled(layers: Sequence[Mapping[str, Any]], key: str) -> set[str]:
    """What is given only below the last layer that changes ``key``: it was written beside another value of that key."""
    last, value = 0, None
    for place, layer in enumerate(layers):
        if key in layer and layer[key] != value:
            last, value = place, layer[key]
    return {name for layer in layers[:last] for name in layer} - {name for layer in layers[last:] for name in layer}


def refuse_to_save_loaders(values: Mapping[str, Any]) -> None:
    """Refuse ``save_dataloaders`` where the loaders draw nothing: RecBole's own runs would read them and fail.

    Raises:
        ValueError: If they would be saved.
    """
    if values.get("save_dataloaders"):
        raise ValueError(
            f"save_dataloaders would leave loaders without RecBole's sampler in {values['checkpoint_dir']}, which its "
            f"own runs read and fail on; remove it under neg_sampler={values[SAMPLER_KEY]}, save_dataset keeps the data"
        )


def warn_of_unread(config: Any) -> None:
    """Log what of the user's settings a run does not read, though it may go on.

    Args:
        config: An ``HNLMConfig``.
    """
    taken = f"{SAMPLER_KEY}={config[SAMPLER_KEY] if config.run is None else config.run.sampler}"
    if config.set_aside:
        logger.warning("%s was given over the one that %s was written for; that is not read", taken, config.set_aside)
    if config["repeatable"] and config.run is not None and config.run.sampler_type is not None:
        logger.warning("repeatable changes nothing under %s, which draws no training positive of the user", taken)
    if config.unread:
        logger.warning("with %s nothing reads %s; remove it, or check the spelling", config["model"], config.unread)
