"""Prompts in, answers out of a causal language model, many at a time.

Legend: B prompts of a batch, T tokens of the longest of them.
"""

from __future__ import annotations

import time
from typing import Any

from recbole_hnlm.llm.backends.outcome import Answer, Job, too_long
from recbole_hnlm.llm.backends.tokens import in_chat_template
from recbole_hnlm.llm.chat import ChatRequest

_SEEDS = 1 << 32


class ChatGenerator:
    """A causal language model and its tokenizer.

    Attributes:
        tokenizer: A transformers tokenizer with a chat template.
    """

    def __init__(self, model: Any, tokenizer: Any, temperature: float = 0.0, seed: int = 2020) -> None:
        """Generate with ``model``, which is put into its inference mode; greedily at temperature 0.

        Raises:
            ValueError: If the tokenizer has no chat template.
        """
        if getattr(tokenizer, "chat_template", None) is None:
            raise ValueError("the tokenizer has no chat template; name a chat or instruct model as llm_chat_model")
        self.tokenizer = tokenizer
        self._model = model.eval()
        self._temperature = temperature
        self._seed = seed
        ends = model.generation_config.eos_token_id
        ends = ends if ends is not None else tokenizer.eos_token_id
        self._ends = {int(end) for end in (ends if isinstance(ends, list) else [ends]) if end is not None}
        pad = tokenizer.pad_token_id
        self._pad = int(pad) if pad is not None else min(self._ends, default=0)
        self._longest = getattr(model.config, "max_position_embeddings", None)

    def tokens(self, request: ChatRequest) -> list[int]:
        """Token ids of a prompt in the model's chat template, up to where the answer begins."""
        text = in_chat_template(self.tokenizer, request.messages)
        return [int(token) for token in self.tokenizer(text, add_special_tokens=False)["input_ids"]]

    def answers(self, batch: list[tuple[Job, list[int]]]) -> list[Answer]:
        """An answer for each prompt of a batch, in its order.

        A prompt that leaves no room for its answer fails without being generated; nothing is cut off in silence.
        """
        result: list[Answer | None] = [self._refusal(job, tokens) for job, tokens in batch]
        fitting = [place for place, refusal in enumerate(result) if refusal is None]
        if fitting:
            started = time.perf_counter()
            limit = max(batch[place][0].request.max_tokens for place in fitting)
            written = self._generate([batch[place][1] for place in fitting], limit)
            seconds = (time.perf_counter() - started) / len(fitting)
            for place, tokens in zip(fitting, written, strict=True):
                job, prompt = batch[place]
                result[place] = self._answer(job, len(prompt), tokens, seconds)
        return [answer for answer in result if answer is not None]

    def _refusal(self, job: Job, tokens: list[int]) -> Answer | None:
        needed = len(tokens) + job.request.max_tokens
        if self._longest is None or needed <= self._longest:
            return None
        detail = f"prompt and answer need {needed} tokens and the model has {self._longest}; shorten the prompt"
        return Answer(None, "rejected", detail)

    def _generate(self, prompts: list[list[int]], limit: int) -> list[list[int]]:
        """New token ids of each prompt, at most ``limit``; prompts are padded on the left to shape ``(B, T)``."""
        import torch

        width = max(map(len, prompts))
        ids = torch.full((len(prompts), width), self._pad)
        mask = torch.zeros_like(ids)
        for row, prompt in enumerate(prompts):
            ids[row, width - len(prompt) :] = torch.tensor(prompt)
            mask[row, width - len(prompt) :] = 1
        device = self._model.device
        how: dict[str, Any] = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
        if self._temperature > 0:
            how = {"do_sample": True, "temperature": self._temperature, "top_p": 1.0, "top_k": 0}
        devices = [device] if device.type == "cuda" else []
        with torch.random.fork_rng(devices), torch.inference_mode():  # nobody else's random state changes
            torch.manual_seed((self._seed + int(ids.sum())) % _SEEDS)
            found = self._model.generate(
                input_ids=ids.to(device),
                attention_mask=mask.to(device),
                max_new_tokens=limit,
                pad_token_id=self._pad,
                **how,
            )
        return [[int(token) for token in row] for row in found[:, width:].tolist()]

    def _answer(self, job: Job, read: int, tokens: list[int], seconds: float) -> Answer:
        limit = job.request.max_tokens
        end = next((place for place, token in enumerate(tokens) if token in self._ends), len(tokens))
        if end >= limit:
            return too_long(limit, read, limit, seconds)
        text = self.tokenizer.decode(tokens[:end], skip_special_tokens=True)
        if not text.strip():
            return Answer(
                None, "empty", "the answer holds no text", read, end + 1, seconds, final=self._temperature == 0
            )
        return Answer(text, "", "", read, end + 1, seconds, final=True)
