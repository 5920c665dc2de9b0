"""Real processes that build with one cache at once."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from recbole_runs import settings, write_dataset
from scripted_server import ScriptedServer, completion

PICKS = {"hnlm_comparator": "llmrec", "llm_teacher_epochs": 1, "comparator_top_items": 4, "hnlm_artefact_dir": "made"}
JUDGE = {
    **{"hnlm_base_sampler": "dtl", "neg_sampler_judge": "llm", "neg_sampler_reference_model": "BPR"},
    **{"neg_sampler_reference_epochs": 1, "hnlm_alpha": 0.0, "hnlm_alignment_weight": 0.0, "hnlm_init": "random"},
}


class SlowServer(ScriptedServer):
    """Takes its time over candidates, so that two askers who know nothing of each other ask alike."""

    async def _chat(self, request: dict[str, Any], headers: dict[str, str]) -> tuple[int, Any, dict[str, str]]:
        prompt = request["messages"][-1]["content"]
        self.asked[prompt] += 1
        labels = re.findall(r"^(A\d+): ", prompt, re.MULTILINE)
        if not labels:
            return 200, completion('{"summarization": "liked by many", "reasoning": "so"}'), {}
        await asyncio.sleep(1)
        picks = {"like": labels[-1], "dislike": labels[0]}
        return 200, completion(json.dumps(picks if "dislike" in json.dumps(request) else {"liked": labels[:1]})), {}


@pytest.mark.slow
@pytest.mark.parametrize("asking", [PICKS, JUDGE], ids=["picks", "judge"])
def test_two_processes_that_start_together_ask_once(
    asking: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("openai")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-loopback")
    folder = write_dataset(tmp_path)
    with SlowServer() as server:
        values = settings(
            folder, "BPR", neg_sampler="hnlm", llm_backend="openai", llm_chat_model="slow", llm_base_url=server.url,
            llm_concurrency=8, llm_cache_dir=str(folder / "cache"), **asking,
        )  # fmt: skip
        (folder / "run.yaml").write_text(yaml.safe_dump(values))
        command = [sys.executable, "-m", "recbole_hnlm.cli", "build", "--model=BPR", "--dataset=tiny"]
        both = [
            subprocess.Popen([*command, f"--config_files={folder / 'run.yaml'}"], cwd=folder, stderr=subprocess.PIPE)
            for _ in range(2)
        ]
        ended = [(one.communicate(timeout=240)[1][-300:], one.returncode) for one in both]
        assert [code for _, code in ended] == [0, 0], ended
        of_users = [count for prompt, count in server.asked.items() if "A1: " in prompt]
        assert len(of_users) >= 50 and set(of_users) == {1}
