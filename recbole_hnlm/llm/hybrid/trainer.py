"""transformers' Trainer over contrastive batches; imported only where something is tuned."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.utils.data import Dataset, Sampler, SequentialSampler
from transformers import EarlyStoppingCallback, PrinterCallback, Trainer, TrainerState, TrainingArguments
from transformers.integrations.integration_utils import TensorBoardCallback
from transformers.trainer_utils import get_last_checkpoint

from recbole_hnlm.llm.hybrid.adapter import load_weights, write_weights
from recbole_hnlm.llm.hybrid.contrast import ContrastiveBatch, contrastive_batch, contrastive_loss
from recbole_hnlm.llm.hybrid.encoder import HybridEncoder
from recbole_hnlm.llm.hybrid.evaluation import HeldOutPairs, Retrieval, SoftTokens, overall
from recbole_hnlm.llm.hybrid.prompts import PromptBuilder
from recbole_hnlm.options.hybrid import FineTuneSettings

logger = logging.getLogger(__name__)
_STATE = "trainer_state.json"


class Plan(Dataset[ContrastiveBatch]):
    """Every step of a tuning in order, over all epochs, each of one dataset's pairs.

    A step follows from its number alone, so that a resumed tuning goes on with the batches it would have had.
    """

    def __init__(
        self, builders: Sequence[PromptBuilder], places: Sequence[NDArray[np.int64]], settings: FineTuneSettings
    ) -> None:
        """Shuffle the pairs at ``places`` of each dataset into steps, and the steps of all datasets."""
        self._builders, self._settings = builders, settings
        generator = np.random.default_rng(settings.seed)
        self._steps: list[tuple[int, NDArray[np.int64]]] = []
        for _ in range(settings.epochs):
            steps = []
            for number, mine in enumerate(places):
                shuffled = generator.permutation(mine)
                count = max(len(shuffled) // settings.batch_size, 1)  # of equal size, so none has few negatives
                steps += [(number, part) for part in np.array_split(shuffled, count)]
            self._steps += [steps[place] for place in generator.permutation(len(steps)).tolist()]

    def __len__(self) -> int:
        """Number of steps before accumulation."""
        return len(self._steps)

    def __getitem__(self, step: int) -> ContrastiveBatch:
        """The batch of a step."""
        number, places = self._steps[step]
        builder = self._builders[number]
        generator = np.random.default_rng((self._settings.seed, step))
        extra = generator.integers(len(builder.pairs.item_profiles), size=self._settings.extra_negatives)
        return contrastive_batch(builder, places, extra)


class Validation:
    """Held-out pairs of every dataset."""

    def __init__(self, parts: Sequence[HeldOutPairs], temperature: float) -> None:
        """Measure over ``parts`` together."""
        self._parts, self._temperature = parts, temperature

    def __len__(self) -> int:
        """Number of datasets; Trainer wants to know that there is something."""
        return len(self._parts)

    def measure(self, model: HybridEncoder, soft_tokens: SoftTokens = "own") -> Retrieval:
        """Loss and retrieval accuracy of ``model``."""
        return overall([part.measure(model, self._temperature, soft_tokens) for part in self._parts])


class ContrastiveTrainer(Trainer):
    """Trainer whose rows are whole batches and whose checkpoints hold the adapter alone."""

    def __init__(
        self, model: HybridEncoder, plan: Plan, validation: Validation, settings: FineTuneSettings, folder: Path
    ) -> None:
        """Prepare to tune ``model``; checkpoints go to ``folder``."""
        self._settings = settings
        arguments = _arguments(settings, len(plan), str(model.device), folder)
        arguments._n_gpu = min(arguments.n_gpu, 1)  # DataParallel cannot split our batches
        super().__init__(
            model=model,
            args=arguments,
            train_dataset=plan,
            eval_dataset=validation,
            data_collator=_one_row,
            optimizers=(_optimizer(model, settings), None),
            callbacks=[EarlyStoppingCallback(settings.patience), *_tensorboard(settings, folder)],
        )
        self.remove_callback(PrinterCallback)
        self.model_accepts_loss_kwargs = False  # so that accumulated losses are averaged

    def tune(self, folder: Path) -> int:
        """Train to the end or until validation gets no better, from the newest checkpoint in ``folder`` on.

        Returns:
            Number of steps; the model has the best weights.
        """
        found = last_checkpoint(folder)
        state = None if found is None else TrainerState.load_from_json(str(Path(found) / _STATE))
        if state is not None and _patience_lost(state) >= self._settings.patience:
            self.state = state  # it was killed after its last step, and Trainer would take another
            self._load_best_model()
        else:
            self.train(resume_from_checkpoint=found)
        return int(self.state.global_step)

    def compute_loss(
        self, model: nn.Module, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """InfoNCE of one step."""
        assert isinstance(model, HybridEncoder) and not return_outputs
        return contrastive_loss(model, inputs["batch"].to(model.device), self._settings.temperature)

    def evaluate(self, eval_dataset: Any = None, ignore_keys: Any = None, metric_key_prefix: str = "eval") -> Any:
        """Validation loss and retrieval accuracy."""
        assert isinstance(self.eval_dataset, Validation) and isinstance(self.model, HybridEncoder)
        found = self.eval_dataset.measure(self.model)
        metrics = {f"{metric_key_prefix}_loss": found.loss, f"{metric_key_prefix}_retrieval_accuracy": found.accuracy}
        self.log(metrics)
        step, steps = self.state.global_step, self.args.max_steps
        logger.info(
            "step %d of %d: loss %.4f, retrieval accuracy %.2f%%", step, steps, found.loss, 100 * found.accuracy
        )
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int]:
        assert isinstance(self.train_dataset, Plan)
        return SequentialSampler(self.train_dataset)

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        assert isinstance(self.model, HybridEncoder)
        write_weights(self.model, Path(output_dir or str(self.args.output_dir)))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        assert isinstance(self.model, HybridEncoder)
        load_weights(self.model, Path(resume_from_checkpoint))

    def _load_best_model(self) -> None:
        assert isinstance(self.model, HybridEncoder)
        load_weights(self.model, Path(str(self.state.best_model_checkpoint)))


def last_checkpoint(folder: Path) -> str | None:
    """The newest whole checkpoint in ``folder``; half-written ones, which lack the state, are set aside."""
    while folder.is_dir():
        found = get_last_checkpoint(str(folder))
        if found is None:
            return None
        try:
            json.loads((Path(found) / _STATE).read_text(encoding="utf-8"))
            return str(found)
        except (OSError, ValueError):
            Path(found).rename(folder / f"damaged-{Path(found).name}")
    return None


def _patience_lost(state: TrainerState) -> int:
    """Validations without a better loss, up to a checkpoint."""
    told: Any = state.stateful_callbacks
    return int(told["EarlyStoppingCallback"]["attributes"]["early_stopping_patience_counter"])


def _arguments(settings: FineTuneSettings, rows: int, device: str, folder: Path) -> TrainingArguments:
    steps = -(-rows // settings.accumulation)
    between = max(steps // settings.evaluations, 1)
    return TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=1,  # a row is a whole batch
        gradient_accumulation_steps=settings.accumulation,
        max_steps=steps,
        lr_scheduler_type="linear",
        warmup_steps=round(settings.warmup * steps),
        eval_strategy="steps",
        eval_steps=between,
        save_strategy="steps",
        save_steps=between,
        save_total_limit=2,
        load_best_model_at_end=True,
        restore_callback_states_from_checkpoint=True,  # how long validation has not improved
        metric_for_best_model="eval_loss",
        greater_is_better=False,
        logging_steps=max(steps // 50, 1),
        report_to=[],
        disable_tqdm=not settings.show_progress,
        use_cpu=device == "cpu",
        seed=settings.seed,
        remove_unused_columns=False,
        dataloader_pin_memory=False,
    )


def _optimizer(model: HybridEncoder, settings: FineTuneSettings) -> torch.optim.Optimizer:
    """AdamW with a rate for the projectors and one for LoRA."""
    soft = list(model.soft_tokens.parameters())
    lora = [weight for weight in model.base.parameters() if weight.requires_grad]
    groups: list[dict[str, Any]] = [{"params": soft, "lr": settings.projector_learning_rate}]
    if lora:
        groups.append({"params": lora, "lr": settings.learning_rate})
    return torch.optim.AdamW(groups, weight_decay=settings.weight_decay)


def _tensorboard(settings: FineTuneSettings, folder: Path) -> list[TensorBoardCallback]:
    """Curves in ``NAME-runs`` beside the adapter, since checkpoints go when the tuning is done."""
    if not settings.tensorboard:
        return []
    from torch.utils.tensorboard import SummaryWriter

    runs = folder.parent.with_name(folder.parent.name.removesuffix("-checkpoints") + "-runs") / folder.name
    return [TensorBoardCallback(SummaryWriter(str(runs)))]


def _one_row(rows: list[ContrastiveBatch]) -> dict[str, ContrastiveBatch]:
    return {"batch": rows[0]}
