"""One call from options to results: data, artefacts, training, evaluation. The one place that knows every part."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from recbole.data import data_preparation
from recbole.data.transform import construct_transform
from recbole.utils import get_flops, get_trainer, init_logger, init_seed

from recbole_hnlm.building.preparing import make_what_is_absent
from recbole_hnlm.config import HNLMConfig, MainConfig
from recbole_hnlm.data_source import check_dataset_files, load_dataset
from recbole_hnlm.extra_masking import mask_also
from recbole_hnlm.models import HardNegativeMixin, hnlm
from recbole_hnlm.models.abilities import construct
from recbole_hnlm.run_options import RunOptions, describe_options
from recbole_hnlm.selection import check_held_out, check_valid_metric
from recbole_hnlm.training.loader import training_loader
from recbole_hnlm.training.processes import leave_group, set_threads
from recbole_hnlm.training.watching import forget_gpu_peak, peak_gpu_memory_mib, peak_memory_mib, watching
from recbole_hnlm.user_settings import warn_of_unread

logger = logging.getLogger(__name__)


def run_recbole_hnlm(
    model: str | type | None = None,
    dataset: str | None = None,
    config_file_list: list[str] | None = None,
    config_dict: Mapping[str, Any] | None = None,
    saved: bool = True,
    queue: Any = None,
    config_class: type[HNLMConfig] = MainConfig,
) -> dict[str, Any]:
    """Train and evaluate a RecBole model on hard negatives, building absent artefacts first.

    Args:
        model: Name or class of a RecBole general model.
        dataset: Name of the dataset.
        config_file_list: YAML files, as RecBole reads them.
        config_dict: Parameters that override the files.
        saved: Whether the best checkpoint is written and read back for the test.
        queue: Queue that takes the result in a multi-process run.
        config_class: How the settings are read; ``PlainConfig`` leaves out all that is ours.

    Returns:
        RecBole's result dictionary, plus under ``"hnlm"`` the options, pairs of train, valid and test, seconds per
        stage, epochs, the curve of validation (epoch, seconds of training, score), negatives' statistics, peak memory
        of the process on the host
        (``peak_memory_mib``) and of model, training and test on a CUDA device (``peak_gpu_memory_mib``, else None). Of
        several processes: losses and statistics are means over them, seconds and memory those of this one.

    Raises:
        ValueError: On options, data or artefacts that cannot work; before training.
        FileNotFoundError: If the dataset's files are missing and cannot be downloaded.
    """
    started = time.perf_counter()
    config = config_class(model, dataset, config_file_list, config_dict)
    check_valid_metric(config)
    prepared = prepare(config)
    data_seconds = time.perf_counter() - started
    result = train(config, prepared, saved=saved)
    result["hnlm"]["data_seconds"] = data_seconds
    leave_group(config)
    if config["local_rank"] == 0 and queue is not None:
        for name in ("negatives", "curve"):
            result["hnlm"][name] = result["hnlm"][name][-1:]  # a pipe takes 64 KiB before it is read
        queue.put(result)
    return result


def prepare(config: HNLMConfig) -> tuple[Any, Any, Any]:
    """Seed, log, load, split and, where the run reads text, build artefacts: train, valid and test loaders."""
    train_data, valid_data, test_data = split(config)
    check_held_out(config, (valid_data, test_data))
    run: RunOptions | None = config.run
    if run is not None:
        make_what_is_absent(config, run, train_data)
    return training_loader(config, (train_data, valid_data, test_data), run), valid_data, test_data


def split(config: HNLMConfig) -> tuple[Any, Any, Any]:
    """Seed, log, load and split: RecBole's train, valid and test loaders."""
    set_threads(config)
    check_dataset_files(config)
    init_seed(config["seed"], config["reproducibility"])
    if config["local_rank"] == 0:
        # RecBole looks for the folder and then makes it, in which two processes that start together collide
        Path("log", str(config["model"])).mkdir(parents=True, exist_ok=True)
        init_logger(config)
    else:
        logging.basicConfig(level=logging.ERROR)  # no log file of its own
    logger.info(sys.argv)
    logger.info(config)
    warn_of_unread(config)
    data = load_dataset(config)
    logger.info(data)
    loaders: tuple[Any, Any, Any] = data_preparation(config, data)
    mask_also(config, loaders[0], loaders[1:])
    return loaders


def build_model(config: HNLMConfig, train_data: Any) -> Any:
    """The run's model on its device: wrapped where a sampler or text takes part, RecBole's own otherwise."""
    model_class = config.model_class
    if config.run is not None and not issubclass(model_class, HardNegativeMixin):
        model_class = hnlm(model_class)
    init_seed(config["seed"] + (config["group_rank"] or 0), config["reproducibility"])
    return construct(model_class, config, train_data._dataset)


def _told_options(run: RunOptions | None, model: Any) -> dict[str, Any]:
    """What a run has used; of its sampler's options as the sampler has them, which knows the data."""
    if run is None:
        return {}
    sampler = model.hnlm.sampler
    return describe_options(run if sampler is None else replace(run, sampler_options=sampler.options))


def train(config: HNLMConfig, loaders: tuple[Any, Any, Any], saved: bool = True) -> dict[str, Any]:
    """Fit, select by validation, test; see :func:`run_recbole_hnlm` for what comes back."""
    train_data, valid_data, test_data = loaders
    forget_gpu_peak(config["device"])
    model = build_model(config, train_data)
    logger.info(model)
    run: RunOptions | None = config.run
    if run is None or run.sampler_type is None:  # RecBole counts operations first; models that draw go on from there
        dataset, transform = train_data._dataset, construct_transform(config)
        logger.info("FLOPs: %s", get_flops(model, dataset, config["device"], logger, transform))
    trainer = watching(get_trainer(config["MODEL_TYPE"], config["model"]))(config, model)
    started = time.perf_counter()
    best_score, best_result = trainer.fit(train_data, valid_data, saved=saved, show_progress=config["show_progress"])
    fit_seconds = time.perf_counter() - started
    test_result = trainer.evaluate(test_data, load_best_model=saved, show_progress=config["show_progress"])
    logger.info("best valid: %s", best_result)
    logger.info("test result: %s", test_result)
    trainer.tensorboard.close()
    seconds = trainer.epoch_seconds
    return {
        "best_valid_score": best_score,
        "valid_score_bigger": config["valid_metric_bigger"],
        "best_valid_result": best_result,
        "test_result": test_result,
        "hnlm": {
            "options": _told_options(run, model),
            "pairs": [0 if loader is None else len(loader._dataset) for loader in loaders],
            "epochs": len(seconds),
            "best_epoch": trainer.best_epoch,
            "fit_seconds": fit_seconds,
            "seconds_per_epoch": sum(seconds) / max(1, len(seconds)),
            "curve": trainer.curve,
            "negatives": trainer.negative_statistics,
            "peak_memory_mib": peak_memory_mib(),
            "peak_gpu_memory_mib": peak_gpu_memory_mib(config["device"]),
            "checkpoint": trainer.saved_model_file if saved else None,
        },
    }
