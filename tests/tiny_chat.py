"""Small chat models of random weights with a tokenizer made here, and an endpoint of the OpenAI protocol for them."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from filling_server import send_json

TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
_TEXTS = ["who would enjoy this item and why", "a book about the sea", "red shoes for running", "users like music"]
_SPECIAL = ["<|pad|>", "<|end|>", "<|user|>", "<|system|>", "<|assistant|>"]


def write_tiny_chat(folder: Path, family: str, *, template: str | None = TEMPLATE) -> Path:
    """Write a model of ``llama`` or ``qwen2``. Every fifth token ends its answers, so that random weights come to an end."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=_SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(_TEXTS * 4, trainer)
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<|pad|>", eos_token="<|end|>")
    wrapped.chat_template = template
    wrapped.save_pretrained(folder)
    size = len(wrapped)
    settings = {
        **{"vocab_size": size, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2},
        **{"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512},
        **{"bos_token_id": None, "eos_token_id": 1, "pad_token_id": 0, "initializer_range": 0.3},
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model: Any
        if family == "llama":
            model = LlamaForCausalLM(LlamaConfig(**settings))
        else:
            model = Qwen2ForCausalLM(Qwen2Config(**settings))
    model.generation_config.eos_token_id = [1, *range(10, size, 5)]
    model.save_pretrained(folder)
    return folder


@contextmanager
def endpoint(folder: Path) -> Iterator[str]:
    """Serve the model of ``folder``, one prompt at a time and without padding; yields the address."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(folder).float().eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["content-length"])))
            text = tokenizer.apply_chat_template(request["messages"], tokenize=False, add_generation_prompt=True)
            ids = tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"]
            with lock, torch.no_grad():
                found = model.generate(ids, max_new_tokens=request["max_tokens"], do_sample=False)[
                    0, ids.shape[1] :
                ].tolist()
            ended = found[-1] in model.generation_config.eos_token_id
            content = tokenizer.decode(found[:-1] if ended else found, skip_special_tokens=True)
            choice = {
                "index": 0,
                "message": {"role": "assistant", "content": content},
                "finish_reason": "stop" if ended else "length",
            }
            usage = {"prompt_tokens": ids.shape[1], "completion_tokens": len(found)}
            send_json(self, {"id": "c", "object": "chat.completion", "choices": [choice], "usage": usage})

        def log_message(self, *_: Any) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}/v1"
    server.shutdown()
    server.server_close()
