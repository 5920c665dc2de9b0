"""RecBole's Config with our options: layered defaults under the user's keys, checked before any data is read."""

from __future__ import annotations

import copy
import copyreg
import importlib.resources
import sys
from collections.abc import Mapping
from typing import Any, ClassVar

import yaml
from recbole.config import Config, configurator
from recbole.utils import InputType, ModelType

from recbole_hnlm.model_lookup import KNOWN_TO_RECBOLE, find_model, model_defaults, package_of
from recbole_hnlm.models.support import refuse_unsupported
from recbole_hnlm.options import SAMPLER_KEY, HNLMOptions, LLMOptions
from recbole_hnlm.options.comparator import COMPARATOR_PREFIX
from recbole_hnlm.options.general import GeneralOptions
from recbole_hnlm.options.loss import RANKING_KEY
from recbole_hnlm.options.parsing import option_keys
from recbole_hnlm.recbole_spelling import later_of_two, translate_recbole_spelling
from recbole_hnlm.recbole_values import check_recbole_values
from recbole_hnlm.run_options import RunOptions, base_sampler_of, parse_given
from recbole_hnlm.run_options.checks import (
    BASE_SAMPLER_KEY,
    NO_SAMPLER,
    RECBOLE_SAMPLER,
    SAMPLER_PREFIX,
    TEXT_SAMPLER,
    WRAPPED_KEYS,
)
from recbole_hnlm.samplers import SAMPLERS
from recbole_hnlm.training.processes import join_group
from recbole_hnlm.user_settings import (
    overruled,
    read_settings_files,
    refuse_to_save_loaders,
    settings_of_command_line,
)

_OURS = (SAMPLER_KEY, RANKING_KEY, HNLMOptions.PREFIX, LLMOptions.PREFIX, COMPARATOR_PREFIX, *WRAPPED_KEYS)
"""Beginnings of our keys, but for those that plain runs obey too."""
_READ_WITHOUT_DEFAULT = ("encoding", "norm", "tail_ratio")
"""Keys that RecBole's general part reads and has no default of."""
_NOT_PICKLED = ("run", "set_aside", "overruled_spelling", "_recbole_keys", "_files")


def packaged_defaults(name: str) -> dict[str, Any]:
    """The defaults of one YAML file of ``properties/``, or nothing where there is no such file.

    Raises:
        FileNotFoundError: If it is that of one of our samplers, without which the sampler is not whole.
    """
    path = importlib.resources.files("recbole_hnlm.properties").joinpath(*name.split("/"))
    folder, _, file = name.rpartition("/")
    if not path.is_file():
        if folder != "sampler" or file.removesuffix(".yaml") not in SAMPLERS:
            return {}
        raise FileNotFoundError(
            f"there is no {path}, which holds the defaults of neg_sampler={file.removesuffix('.yaml')}; write it, or, "
            "where it is in another checkout, install the package from there (pip install -e .)"
        )
    return yaml.safe_load(path.read_text(encoding="utf-8")) or {}


def encoding_of(config: Any) -> str:
    """How a dataset's files are encoded; RecBole's configuration may leave it open, which means UTF-8."""
    return str(config["encoding"] or "utf-8")


class HNLMConfig(Config):
    """A RecBole configuration in which ``neg_sampler`` and our prefixed keys have a meaning.

    Precedence is RecBole's: command line over dictionary over files over defaults; our defaults lie above RecBole's and
    below the user's. A checkpoint pickles it as RecBole's own ``Config``, so plain RecBole can read it.

    Args:
        model: Name or class of the model.
        dataset: Name of the dataset.
        config_file_list: YAML files.
        config_dict: Parameters that override the files; left unchanged.

    Raises:
        ValueError: On unknown or useless keys of ours and impossible combinations.
        TypeError: On values of the wrong type.
    """

    external_config_dict: dict[str, Any]
    set_aside: list[str]
    """Options that were written for a sampler whose place another took, and that this one does not read."""
    default_sampler: ClassVar[str | None] = None
    """The sampler of a configuration that names none; None leaves RecBole as it is."""

    def __init__(
        self,
        model: str | type | None = None,
        dataset: str | None = None,
        config_file_list: list[str] | None = None,
        config_dict: Mapping[str, Any] | None = None,
    ) -> None:
        self.__dict__["run"] = None
        super().__init__(model, dataset, config_file_list, copy.deepcopy(dict(config_dict or {})))

    @property
    def unread(self) -> list[str]:
        """Keys of the user's that neither RecBole, nor the model's defaults, nor this package knows.

        RecBole takes them without a word. A model from elsewhere may read any key, so under one nothing is told.
        """
        if package_of(self.model_class) not in KNOWN_TO_RECBOLE:
            return []
        known = {*self.__dict__["_recbole_keys"], *_READ_WITHOUT_DEFAULT, *option_keys(GeneralOptions, "")}
        return sorted(key for key in self.external_config_dict if key not in known and not key.startswith(_OURS))

    @property
    def _layers(self) -> tuple[Mapping[str, Any], ...]:
        """What the user has given, what counts less first."""
        return *self.__dict__["_files"], self.variable_config_dict, self.cmd_config_dict

    def _load_config_files(self, file_list: Any) -> dict[str, Any]:
        files = self.__dict__["_files"] = read_settings_files(file_list, self.yaml_loader)
        return {key: value for values in files for key, value in values.items()}

    def _load_cmd_line(self) -> dict[str, Any]:
        given = [] if "ipykernel_launcher" in sys.argv[0] else sys.argv[1:]
        return dict(self._convert_config_dict(settings_of_command_line(given)))

    def _merge_external_config_dict(self) -> None:
        super()._merge_external_config_dict()
        values = self.external_config_dict
        if values.get(SAMPLER_KEY, "") in (None, "None"):
            values[SAMPLER_KEY] = NO_SAMPLER
        self.__dict__["overruled_spelling"] = later_of_two(values, self._layers)
        translate_recbole_spelling(values)
        if self.default_sampler is not None:
            values.setdefault(SAMPLER_KEY, self.default_sampler)
            translate_recbole_spelling(values)  # what RecBole's own distribution means to that sampler

    def _get_model_and_dataset(self, model: Any, dataset: str | None) -> Any:
        found = find_model(self.external_config_dict.get("model") if model is None else model)
        return super()._get_model_and_dataset(found, dataset)

    def _load_internal_config_dict(self, model: str, model_class: type, dataset: str) -> None:
        super()._load_internal_config_dict(model, model_class, dataset)
        self.internal_config_dict.update(model_defaults(model_class))
        self.__dict__["_recbole_keys"] = {
            *self.internal_config_dict,
            *(key for keys in self.parameters.values() for key in keys),
            "model", "dataset", "config_files", "nproc", "world_size", "ip", "port", "group_offset", "local_rank",
            "offset",
        }  # fmt: skip
        values = self.external_config_dict
        names = []
        rule = base_sampler_of(values)
        if isinstance(rule, str) and ":" not in rule:  # a rule of the user's own has its own defaults
            names.append(f"sampler/{rule}")
            if values.get(SAMPLER_KEY) == TEXT_SAMPLER and rule not in (RECBOLE_SAMPLER, "uniform", "popularity"):
                names.append(f"sampler/{TEXT_SAMPLER}")
        for name in names:
            self.internal_config_dict.update(packaged_defaults(f"{name}.yaml"))

    def _get_final_config_dict(self) -> dict[str, Any]:
        final: dict[str, Any] = super()._get_final_config_dict()
        check_recbole_values(final)
        earlier = overruled(self._layers, SAMPLER_KEY)
        earlier |= {key for key in overruled(self._layers, BASE_SAMPLER_KEY) if key.startswith(SAMPLER_PREFIX)}
        known = self.__dict__["_recbole_keys"]
        run, useless = parse_given(final, self.external_config_dict, known, earlier)
        self.__dict__["set_aside"] = self.__dict__["overruled_spelling"] + useless
        self.__dict__["run"] = run
        if run is not None:
            refuse_unsupported(self.model_class, str(final[SAMPLER_KEY]))
            if run.sampler_type is not None:  # negatives are drawn on the device, the loader hands out pairs
                final["train_neg_sample_args"] = None
                refuse_to_save_loaders(final)
        return final

    def _set_default_parameters(self) -> None:
        try:
            super()._set_default_parameters()
        except NotImplementedError as error:  # of a metric that RecBole does not know
            listed = "; a list on the command line is --metrics=\"['Recall','NDCG']\""
            raise ValueError(f"{error}{listed if 'no metric named' in str(error) else ''}") from error

    def _init_device(self) -> None:
        if "local_rank" not in self.final_config_dict:
            super()._init_device()
            return
        if self.final_config_dict["MODEL_TYPE"] is ModelType.TRADITIONAL:  # Pop would count its share alone
            raise ValueError(f"{self.model} has no gradients to average over processes; run it with --nproc=1")
        join_group(self.final_config_dict)

    def _set_train_neg_sample_args(self) -> None:
        super()._set_train_neg_sample_args()
        run: RunOptions | None = self.__dict__["run"]
        args = self.final_config_dict["train_neg_sample_args"]
        if run is not None and run.sampler_type is not None:  # SimpleX reads its negatives per pair from here
            args["sample_num"] = run.negatives
        elif run is not None and self._reads_negatives(run) and args["distribution"] == "none":
            key = SAMPLER_KEY if run.hnlm is None else BASE_SAMPLER_KEY
            raise ValueError(
                f"{key}={RECBOLE_SAMPLER} trains on the negatives that RecBole draws, and train_neg_sample_args asks "
                "for none; give it a distribution, or name another sampler"
            )

    def _reads_negatives(self, run: RunOptions) -> bool:
        """Whether a run on RecBole's own sampler needs the negatives of its loader."""
        return run.hnlm is not None or self.final_config_dict["MODEL_INPUT_TYPE"] is InputType.PAIRWISE

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Pickle as RecBole's own Config with plain classes, so that a checkpoint needs nothing of ours to be read."""
        state = {key: value for key, value in self.__dict__.items() if key not in _NOT_PICKLED}
        state["model_class"] = getattr(self.model_class, "hnlm_base", self.model_class)
        for name, values in state.items():
            if isinstance(values, dict) and isinstance(values.get(SAMPLER_KEY), type):
                sampler = values[SAMPLER_KEY]
                state[name] = {**values, SAMPLER_KEY: f"{sampler.__module__}:{sampler.__qualname__}"}
        return copyreg._reconstructor, (configurator.Config, object, None), state  # type: ignore[attr-defined]


class MainConfig(HNLMConfig):
    """The configuration of ``run_recbole_hnlm``: negatives are HNLM's unless ``neg_sampler`` says otherwise."""

    default_sampler = TEXT_SAMPLER


class PlainConfig(HNLMConfig):
    """The same settings without anything of ours: the base that a run on hard negatives is compared with."""

    def _merge_external_config_dict(self) -> None:
        super()._merge_external_config_dict()
        kept = {key: value for key, value in self.external_config_dict.items() if not key.startswith(_OURS)}
        self.external_config_dict = {**kept, SAMPLER_KEY: NO_SAMPLER}
