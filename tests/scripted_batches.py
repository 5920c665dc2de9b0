"""The part of the scripted server that stands in for OpenAI's Batch API: files and batches, kept in memory."""

from __future__ import annotations

import json
import re
import time
from collections import Counter
from collections.abc import Callable
from typing import Any


class Batches:
    """Answers every line of a job when it is looked at for the ``looks``-th time."""

    def __init__(self, looks: int = 2) -> None:
        self.looks = looks
        self.files: dict[str, dict[str, Any]] = {}
        self.contents: dict[str, bytes] = {}
        self.jobs: dict[str, dict[str, Any]] = {}
        self.submitted: Counter[str] = Counter()
        self.hooks: list[tuple[str, Callable[[], None]]] = []
        """Pairs of ``METHOD path`` and what to do once after the next such call has worked and before it is answered."""
        self.faults: list[tuple[str, int]] = []
        """Pairs of ``METHOD path`` and a status: the next such call gets the status; 0 does it, and then cuts."""
        self.writes: Callable[[dict[str, Any]], str] | None = None
        """Writes the answer to the body of a request, in place of what its prompt scripts."""

    def handle(self, method: str, path: str, headers: dict[str, str], body: bytes) -> tuple[int, Any]:
        for place, (call, status) in enumerate(self.faults):
            if f"{method} {path}".startswith(call):
                del self.faults[place]
                if status == 0:
                    return 0, self._do(method, path, headers, body)[1]
                return status, {"error": {"message": f"scripted {status}"}}
        result = self._do(method, path, headers, body)
        for place, (call, hook) in enumerate(self.hooks):
            if f"{method} {path}".startswith(call):
                del self.hooks[place]
                hook()
                break
        return result

    def _do(self, method: str, path: str, headers: dict[str, str], body: bytes) -> tuple[int, Any]:
        parts = path.strip("/").split("/")[1:]
        if parts == ["files"] and method == "POST":
            return 200, self._upload(headers, body)
        if parts == ["files"]:
            return 200, _page(self.files)
        if parts[0] == "files" and parts[-1] == "content":
            return 200, self.contents[parts[1]]
        if parts == ["batches"] and method == "POST":
            return 200, self._create(json.loads(body))
        if parts == ["batches"]:
            return 200, _page(self.jobs)
        if parts[0] == "batches" and parts[1] in self.jobs:
            return 200, self._look(self.jobs[parts[1]])
        return 404, {"error": {"message": f"no {path}"}}

    def _upload(self, headers: dict[str, str], body: bytes) -> dict[str, Any]:
        boundary = re.search(r"boundary=(\S+)", headers["content-type"])
        assert boundary is not None
        name, content = "", b""
        for part in body.split(b"--" + boundary[1].encode()):
            head, _, data = part.partition(b"\r\n\r\n")
            found = re.search(rb'filename="([^"]+)"', head)
            if found:
                name, content = found[1].decode(), data.removesuffix(b"\r\n")
        return self._file(name, content, "batch")

    def _file(self, name: str, content: bytes, purpose: str) -> dict[str, Any]:
        number = f"file-{len(self.files) + 1}"
        entry = {
            **{"id": number, "object": "file", "filename": name, "bytes": len(content), "purpose": purpose},
            **{"created_at": int(time.time()), "status": "processed"},
        }
        self.files[number] = entry
        self.contents[number] = content
        return entry

    def _create(self, request: dict[str, Any]) -> dict[str, Any]:
        number = f"batch-{len(self.jobs) + 1}"
        for line in self.contents[request["input_file_id"]].splitlines():
            self.submitted[json.loads(line)["custom_id"]] += 1
        job = {
            **{"id": number, "object": "batch", "status": "in_progress", "created_at": int(time.time()), "looks": 0},
            **{"endpoint": request["endpoint"], "input_file_id": request["input_file_id"]},
            **{"completion_window": request["completion_window"], "metadata": request.get("metadata")},
        }
        self.jobs[number] = job
        return job

    def _look(self, job: dict[str, Any]) -> dict[str, Any]:
        job["looks"] += 1
        if job["status"] == "in_progress" and job["looks"] >= self.looks:
            self._finish(job)
        return job

    def _finish(self, job: dict[str, Any]) -> None:
        from scripted_server import completion, scripted

        good, bad, late = [], [], False
        for line in self.contents[job["input_file_id"]].splitlines():
            request = json.loads(line)
            prompt = request["body"]["messages"][-1]["content"]
            script = re.match(r"\[\[(.*?)\]\]", prompt)
            step = script[1] if script else "ok"
            if step == "failjob":
                job["status"] = "failed"
                job["errors"] = {
                    "object": "list",
                    "data": [{"code": "bad_line", "message": "line 1 is bad", "line": 1}],
                }
                return
            if step == "lost":
                continue
            if step in {"late", "late and lost"} and self.submitted[request["custom_id"]] == 1:
                late = True
                if step == "late":
                    error = {"code": "batch_expired", "message": "the window is over"}
                    bad.append(
                        json.dumps({"id": "r", "custom_id": request["custom_id"], "response": None, "error": error})
                    )
                continue
            if step == "narrow":
                step = "length" if request["body"]["max_tokens"] < 100 else "ok"
            status, reply, _ = scripted(step, prompt, {})
            if self.writes is not None:
                status, reply = 200, completion(self.writes(request["body"]))
            entry = {
                **{"id": "r", "custom_id": request["custom_id"], "error": None},
                "response": {"status_code": status, "request_id": "q", "body": reply},
            }
            (good if status == 200 else bad).append(json.dumps(entry))
        job["status"] = "expired" if late else "completed"
        job["output_file_id"] = self._file("out", "\n".join(good).encode(), "batch_output")["id"] if good else None
        job["error_file_id"] = self._file("bad", "\n".join(bad).encode(), "batch_output")["id"] if bad else None


def _page(entries: dict[str, dict[str, Any]]) -> dict[str, Any]:
    data = list(reversed(entries.values()))
    return {"object": "list", "data": data, "has_more": False, "first_id": None, "last_id": None}
