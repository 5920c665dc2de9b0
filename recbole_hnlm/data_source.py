"""Where a dataset's files should be, told before anything else runs."""

from __future__ import annotations

import codecs
import contextlib
import functools
import glob
import hashlib
import http.client
import importlib.resources
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from recbole_hnlm.artefacts.atomic import stream_atomic
from recbole_hnlm.config import encoding_of
from recbole_hnlm.model_lookup import dataset_for
from recbole_hnlm.selection import check_catalogue

_NAMED = {
    "llm_prompts": "*", "llm_prompt": "*", "llm_adapter": "*", "llm_encoder": "*", "llm_base": "*",
    "llm_chat_model": "*", "neg_sampler_folder": "*.neg_text*",
}  # fmt: skip
"""Settings that may name a file or a folder, and which of its files they stand for."""
_ATOMIC = ("inter", "user", "item", "kg", "link", "net")


def check_dataset_files(config: Any) -> None:
    """Refuse a dataset that is neither on disk nor one that RecBole can download, and filters that find no field.

    Raises:
        FileNotFoundError: With the path where the files are expected and what they are called.
        ValueError: If ``val_interval`` filters, or ``eval_args`` orders or labels, by a field that ``load_col`` leaves
            out, naming both, a file's first line does not name users, items and what ``eval_args`` needs, or
            ``benchmark_filename`` names other than three parts.
    """
    _check_filtered_fields(config)
    path, name = str(config["data_path"]), str(config["dataset"])
    parts = config["benchmark_filename"] or [None]
    if parts != [None] and len(parts) != 3:
        raise ValueError(f"benchmark_filename={parts} should name three parts, e.g. [train, valid, test]")
    masked = [config["masked_filename"]] if config["masked_filename"] else []
    expected = [f"{name}.inter" if part is None else f"{name}.{part}.inter" for part in [*parts, *masked]]
    missing = [file for file in expected if not os.path.isfile(os.path.join(path, file))]
    saved = Path(str(config["checkpoint_dir"])).glob(f"{glob.escape(name)}-*Dataset.pth")  # RecBole reads it by itself
    for file in expected:
        if file not in missing:
            columns = _check_header(Path(path, file), config)
            if file in expected[: len(parts)]:  # what is only masked is not evaluated
                _check_evaluated_fields(config, Path(path, file), columns)
    if not missing or config["save_dataset"] or config["dataset_save_path"] or (not masked and any(saved)):
        return
    if not os.path.exists(path) and _downloadable(config, name):
        return  # RecBole fetches it; see load_dataset for what follows where it cannot
    raise FileNotFoundError(
        f"dataset {name!r} needs {', '.join(missing)} in {os.path.abspath(path)}; put the atomic files there "
        "or set data_path to the folder that holds the dataset's folder"
    )


def _check_header(path: Path, config: Any) -> list[str]:
    """The columns of a file of interactions; refused where RecBole would not find users and items in it."""
    encoding = encoding_of(config)
    types, _ = stream_atomic(path, separator=config["field_separator"], encoding=encoding)
    with path.open("rb") as file:
        marked = file.read(len(codecs.BOM_UTF8)) == codecs.BOM_UTF8
    if marked and codecs.lookup(encoding).name == "utf-8":
        raise ValueError(
            f"{path} begins with a byte order mark, which RecBole takes for a part of the first column's name; save it "
            "without, or set encoding: utf-8-sig"
        )
    for key in ("USER_ID_FIELD", "ITEM_ID_FIELD"):
        if config[key] not in types:
            raise ValueError(f"{path} has no column {config[key]!r}; set {key} to one of its columns, {list(types)}")
    return list(types)


def _check_evaluated_fields(config: Any, path: Path, columns: list[str]) -> None:
    """Refuse an order of time, or labels, of interactions that have none, or are loaded without."""
    loaded, how = config["load_col"], config["eval_args"]
    fields = loaded.get("inter") if isinstance(loaded, dict) else None
    split_here = not config["benchmark_filename"]
    needed = {"order: TO": config["TIME_FIELD"]} if how["order"] == "TO" and split_here else {}
    if "labeled" in how["mode"].values() and not config["threshold"]:
        needed["mode: labeled"] = config["LABEL_FIELD"]
    for key, field in needed.items():
        if field not in columns:
            remedy = "set TIME_FIELD to one of them" if key == "order: TO" else "make it by threshold: {rating: 3}"
            raise ValueError(f"eval_args: {key} needs the field {field!r}, {path} has columns {columns}; {remedy}")
        if fields and "*" not in fields and field not in fields:
            raise ValueError(
                f"eval_args: {key} needs the field {field!r} of every interaction, which load_col leaves out; set "
                f"load_col: {{inter: [{', '.join(map(str, [*fields, field]))}]}}"
            )


def _check_filtered_fields(config: Any) -> None:
    loaded, asked = config["load_col"], config["val_interval"]
    if asked and not isinstance(asked, dict):
        raise ValueError(f"val_interval={asked!r} should map fields to intervals, e.g. {{'rating': '[4,inf)'}}")
    if not isinstance(loaded, dict) or not isinstance(asked, dict):
        return
    known = {str(field) for fields in loaded.values() for field in fields or ()}
    left_out = [field for field in asked if str(field) not in known and "*" not in known]
    if left_out:
        inter = [*(loaded.get("inter") or (config["USER_ID_FIELD"], config["ITEM_ID_FIELD"])), *left_out]
        raise ValueError(
            f"val_interval filters by {', '.join(map(str, left_out))}, which load_col leaves out; set load_col: "
            f"{{inter: [{', '.join(map(str, inter))}]}}, or load_col: null to load every field"
        )


def _downloadable(config: Any, name: str) -> bool:
    if config["url"]:
        return True
    listed = importlib.resources.files("recbole").joinpath("properties", "dataset", "url.yaml")
    return name in (yaml.safe_load(listed.read_text(encoding="utf-8")) or {})


def data_digest(config: Any) -> str:
    """Short hash of the names and contents of a dataset's files, so that results on other data are told apart."""
    name = glob.escape(str(config["dataset"]))
    suffixes = {f".{suffix}" for suffix in (*_ATOMIC, *(config["additional_feat_suffix"] or ()))}
    files = [path for path in Path(str(config["data_path"])).glob(f"{name}.*") if path.suffix in suffixes]
    if config["dataset_save_path"]:
        files.append(Path(config["dataset_save_path"]))
    return _digest(files)


def named_files_digest(values: Mapping[str, Any]) -> str:
    """Short hash of the files that settings name, such as prompts or an adapter; empty where they name none here.

    Artefacts in a folder that the user names (``hnlm_artefact_dir``) are not among them.
    """
    files: list[Path] = []
    for key, wanted in _NAMED.items():
        place = Path(str(values.get(key) or ""))
        if values.get(key) and place.exists():
            inside = [place] if place.is_file() else place.rglob(wanted)
            files += [path for path in inside if not path.name.startswith(".")]
    return _digest(files) if files else ""


def _digest(files: Iterable[Path]) -> str:
    known = [(str(path), path.stat()) for path in sorted(files) if path.is_file()]
    return _digest_of(tuple((path, stat.st_size, stat.st_mtime_ns) for path, stat in known))


@functools.cache
def _digest_of(files: tuple[tuple[str, int, int], ...]) -> str:
    """The hash of files; their sizes and times are there for the cache."""
    hashed = hashlib.sha256()
    for path, size, _ in files:
        hashed.update(f"{os.path.basename(path)}\0{size}\0".encode())
        with open(path, "rb") as file:
            for block in iter(functools.partial(file.read, 1 << 20), b""):
                hashed.update(block)
    return hashed.hexdigest()[:20]


def load_dataset(config: Any) -> Any:
    """RecBole's filtered dataset; RecBole downloads a known one that is not on disk.

    Raises:
        FileNotFoundError: If the download failed, with the folder where the files can be put by hand.
        ValueError: If ``topk`` is more than all items.
    """
    path = os.path.abspath(str(config["data_path"]))
    present = os.path.exists(path)
    try:
        dataset = dataset_for(config)
    except (OSError, http.client.HTTPException) as error:
        if present:
            raise
        name = str(config["dataset"])
        with contextlib.suppress(OSError):
            os.rmdir(path)  # RecBole leaves an empty folder behind, which would look like a dataset without files
        raise FileNotFoundError(
            f"dataset {name!r} is not on disk and RecBole could not download it ({type(error).__name__}: {error}); "
            f"put {name}.inter (and {name}.item, {name}.user) into {path}"
        ) from error
    check_catalogue(config, dataset)
    return dataset
