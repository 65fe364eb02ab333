"""The batches of the stub server: files and batches of OpenAI, message batches of Anthropic, a clock, and faults.

`POST /knobs` with a JSON object sets fields of `Knobs`, and with `anew` forgets all that was. Faults that have a number
come so many times. Time passes for batches only when somebody looks at one. A call counts as paid once its batch has
answered it.
"""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import orjson

Answer = Callable[[str, dict[str, Any]], tuple[int, bytes]]  # path and payload to status and body
OPENAI_STATES = {"running": "in_progress", "ended": "completed", "cancelled": "cancelled", "expired": "expired"}
CREDIT = {"type": "invalid_request_error", "code": "insufficient_quota", "message": "insufficient credit"}


@dataclass
class Knobs:
    """How batches behave."""

    takes: float = 0.0  # seconds until a batch ends
    tick: float = 60.0  # seconds that pass with a look
    page: int = 100  # entries of a list, at most
    die_uploading: int = 0  # uploads that are taken and not answered
    die_creating: int = 0  # batches that are taken and not answered
    lag: int = 0  # lists that do not show the newest batch
    invalid: int = 0  # batches that fail as they are checked
    token_cap: int = 0  # calls that may wait here at once; 0: any number
    not_found: int = 0  # batches that are refused since their file is not known yet
    busy: int = 0  # requests about batches that get 429
    expire: int = 0  # batches that expire with half of their calls answered
    missing: int = 0  # lines that are left out of the results
    garbage: int = 0  # results files that begin with lines that are none
    errors: dict[str, int] = field(default_factory=dict)  # calls by the status that they fail with
    credit: int = 0  # calls that fail since there is no credit
    resets: int = 0  # downloads that come byte by byte, and break off
    shuffle: bool = False
    duplicate: bool = False  # every line of the results comes twice


@dataclass
class Job:
    """One batch."""

    id: str
    calls: list[tuple[str, str, dict[str, Any]]]  # name, path, payload
    created: float
    ends: float
    metadata: dict[str, str] = field(default_factory=dict)
    endpoint: str = ""
    input: str = ""
    state: str = "running"
    problem: dict[str, Any] | None = None
    answered: list[dict[str, Any]] = field(default_factory=list)
    failed: list[dict[str, Any]] = field(default_factory=list)
    files: dict[str, str] = field(default_factory=dict)


class Batches:
    """All files and batches; `handle` answers a request about one."""

    def __init__(self, answer: Answer, forget: Callable[[], None]) -> None:
        self.answer, self.forget = answer, forget
        self.begin_anew(Knobs())

    def begin_anew(self, knobs: Knobs) -> None:
        """Forget everything, and behave like this."""
        self.knobs = knobs
        self.files: dict[str, tuple[str, bytes]] = {}
        self.jobs: dict[str, Job] = {}
        self.log: list[str] = []  # what was done, such as "create batch-1"
        self.keys: set[str] = set()  # that were sent
        self.offset = 0.0
        self.number = 0

    @property
    def now(self) -> float:
        return time.time() + self.offset

    def again(self, knob: str) -> bool:
        """Whether a fault that comes so many times comes now."""
        left = getattr(self.knobs, knob)
        if left:
            setattr(self.knobs, knob, left - 1)
        return bool(left)

    def change(self, knobs: dict[str, Any]) -> None:
        """Behave like this from now on; with `anew`, as if nothing had been."""
        if knobs.pop("anew", False):
            self.forget()
            self.begin_anew(Knobs(**knobs))
        for name, value in knobs.items():
            setattr(self.knobs, name, value)

    def knows(self, path: str) -> bool:
        return path == "/knobs" or re.search(r"/(files|batches)(/|$)", path) is not None

    def handle(self, connection: Any, method: str, path: str, query: dict[str, str], head: bytes, body: bytes) -> None:
        """Answer a request."""
        key = re.search(rb"(?:authorization: bearer|x-api-key:) *([^\r]+)", head, re.IGNORECASE)
        if key:
            self.keys.add(key[1].decode())
        if path == "/knobs":
            if body:
                self.change(orjson.loads(body))
            state = {
                "log": self.log,
                "files": len(self.files),
                "keys": sorted(self.keys),
                "jobs": {job.id: job.state for job in self.jobs.values()},
            }
            return connection.write(200, orjson.dumps(state))
        if self.again("busy"):
            return connection.write(429, orjson.dumps({"error": {"message": "too many requests"}}))
        anthropic = "/messages/batches" in path
        words = path.partition("/messages/batches" if anthropic else "/v1")[2].strip("/").split("/")
        if anthropic:
            words = ["messages", *filter(None, words)]
        self.route(connection, method, words, query, head, body)

    def route(
        self, connection: Any, method: str, words: list[str], query: dict[str, str], head: bytes, body: bytes
    ) -> None:
        match method, words:
            case "POST", ["files"]:
                self.upload(connection, head, body)
            case "GET", ["files"]:
                files = [
                    {"id": id, "object": "file", "filename": name, "purpose": "batch"}
                    for id, (name, _) in self.files.items()
                ]
                self.listed(connection, files[::-1], query, "after")
            case "GET", ["files", id, "content"]:
                self.content(connection, self.files[id][1] if id in self.files else None)
            case "DELETE", ["files", id]:
                self.log.append(f"delete {id}")
                status = 200 if self.files.pop(id, None) else 404
                connection.write(status, orjson.dumps({"id": id, "object": "file", "deleted": status == 200}))
            case "POST", ["batches"]:
                self.create(connection, orjson.loads(body))
            case "POST", ["messages"]:
                self.create_messages(connection, orjson.loads(body))
            case "GET", ["batches" | "messages" as kind]:
                jobs = [job for job in self.jobs.values() if bool(job.endpoint) == (kind == "batches")]
                if self.again("lag"):
                    jobs = jobs[:-1]
                shown = [self.shown(job) for job in reversed(jobs)]
                self.listed(connection, shown, query, "after" if kind == "batches" else "after_id")
            case "GET", ["batches" | "messages", id] if id in self.jobs:
                self.offset += self.knobs.tick
                self.progress(self.jobs[id])
                connection.write(200, orjson.dumps(self.shown(self.jobs[id])))
            case "POST", ["batches" | "messages", id, "cancel"] if id in self.jobs:
                self.cancel(self.jobs[id])
                connection.write(200, orjson.dumps(self.shown(self.jobs[id])))
            case "DELETE", ["messages", id] if id in self.jobs:
                self.delete_messages(connection, id)
            case "GET", ["messages", id, "results"] if id in self.jobs:
                job = self.jobs[id]
                self.content(connection, self.lines([*job.answered, *job.failed]))
            case _:
                connection.write(
                    404, orjson.dumps({"error": {"message": "No such batch or file", "type": "invalid_request_error"}})
                )

    def listed(self, connection: Any, entries: list[Any], query: dict[str, str], after: str) -> None:
        """A page of a list that begins with the newest."""
        ids = [entry["id"] for entry in entries]
        first = ids.index(query[after]) + 1 if query.get(after) in ids else 0
        page = entries[first : first + min(self.knobs.page, int(query.get("limit", 20)))]
        more = first + len(page) < len(entries)
        connection.write(200, orjson.dumps({"object": "list", "data": page, "has_more": more}))

    def upload(self, connection: Any, head: bytes, body: bytes) -> None:
        """A file of a form."""
        boundary = re.search(rb'boundary="?([^\s;"]+)', head)
        assert boundary, "an upload without a form"
        for part in body.split(b"--" + boundary[1]):
            about, _, content = part.partition(b"\r\n\r\n")
            name = re.search(rb'filename="([^"]+)"', about)
            if name:
                self.number += 1
                id = f"file-{self.number}"
                self.files[id] = name[1].decode(), content.removesuffix(b"\r\n")
        self.log.append(f"upload {id}")
        if self.again("die_uploading"):
            return connection.transport.abort()
        connection.write(
            200,
            orjson.dumps(
                {
                    "id": id,
                    "object": "file",
                    "purpose": "batch",
                    "bytes": len(body),
                    "created_at": int(self.now),
                    "filename": "x",
                    "status": "processed",
                }
            ),
        )

    def create(self, connection: Any, asked: dict[str, Any]) -> None:
        """A batch of a file."""
        file = asked["input_file_id"]
        if self.again("not_found") or file not in self.files:
            return connection.write(404, orjson.dumps({"error": {"message": f"No such File object: {file}"}}))
        lines = [orjson.loads(line) for line in self.files[file][1].splitlines()]
        calls = [(line["custom_id"], line["url"], line["body"]) for line in lines]
        self.begin(connection, calls, metadata=asked.get("metadata") or {}, endpoint=asked["endpoint"], input=file)

    def create_messages(self, connection: Any, asked: dict[str, Any]) -> None:
        """A batch with its calls."""
        calls = [(request["custom_id"], "/v1/messages", request["params"]) for request in asked["requests"]]
        self.begin(connection, calls)

    def delete_messages(self, connection: Any, id: str) -> None:
        """Forget a batch, which must be over."""
        if self.jobs[id].state == "running":
            error = {"type": "invalid_request_error", "message": "Batch cannot be deleted while in_progress"}
            return connection.write(400, orjson.dumps({"type": "error", "error": error}))
        self.log.append(f"delete {id}")
        del self.jobs[id]
        connection.write(200, orjson.dumps({"id": id, "type": "message_batch_deleted"}))

    def begin(self, connection: Any, calls: list[tuple[str, str, dict[str, Any]]], **more: Any) -> None:
        self.number += 1
        waiting = sum(len(job.calls) for job in self.jobs.values() if job.state == "running")
        job = Job(f"batch-{self.number}", calls, self.now, self.now + self.knobs.takes, **more)
        self.jobs[job.id] = job
        self.log.append(f"create {job.id} of {len(calls)}")
        if self.knobs.token_cap and waiting + len(calls) > self.knobs.token_cap:
            job.state, job.problem = (
                "failed",
                {"code": "token_limit_exceeded", "message": "Enqueued token limit reached"},
            )
        elif self.again("invalid"):
            job.state, job.problem = (
                "failed",
                {"code": "invalid_json_line", "message": "This line is not parseable", "line": 1},
            )
        if self.again("die_creating"):
            return connection.transport.abort()
        connection.write(200, orjson.dumps(self.shown(job)))

    # Answers

    def progress(self, job: Job) -> None:
        """End a batch whose time has come."""
        if job.state == "running" and self.now >= job.ends:
            expires = self.again("expire")
            self.end(job, len(job.calls) // 2 if expires else len(job.calls), "expired" if expires else "ended")

    def cancel(self, job: Job) -> None:
        """End a batch early: a share of its calls is answered."""
        if job.state == "running":
            self.log.append(f"cancel {job.id}")
            self.end(job, len(job.calls) // 3, "cancelled")

    def end(self, job: Job, count: int, state: str) -> None:
        """Answer the first calls of a batch."""
        job.state = state
        for place, (name, path, payload) in enumerate(job.calls):
            failing = next((status for status, left in self.knobs.errors.items() if left), None)
            if place >= count:
                self.unanswered(job, name, state)
            elif self.again("missing"):
                pass
            elif self.again("credit"):
                self.failing(job, name, 429, CREDIT)
            elif failing is not None:
                self.knobs.errors[failing] -= 1
                self.failing(job, name, int(failing), {"type": "stub", "message": f"the stub fails with {failing}"})
            else:
                self.answering(job, name, *self.answer(path, payload))
        if job.endpoint:
            self.write_files(job)

    def answering(self, job: Job, name: str, status: int, body: bytes) -> None:
        answer = orjson.loads(body)
        if job.endpoint:
            line = {"id": name, "custom_id": name, "response": {"status_code": status, "body": answer}, "error": None}
            (job.answered if status == 200 else job.failed).append(line)
        elif status == 200:
            job.answered.append({"custom_id": name, "result": {"type": "succeeded", "message": answer}})
        else:
            self.failing(job, name, status, answer["error"])

    def failing(self, job: Job, name: str, status: int, error: dict[str, Any]) -> None:
        if job.endpoint:
            response = {"status_code": status, "body": {"error": error}}
            job.failed.append({"id": name, "custom_id": name, "response": response, "error": None})
            return
        kinds = {400: "invalid_request_error", 429: "rate_limit_error", 500: "api_error"}
        kind = "billing_error" if error is CREDIT else kinds.get(status, "api_error")
        inner = {"type": kind, "message": error["message"]}
        job.failed.append(
            {"custom_id": name, "result": {"type": "errored", "error": {"type": "error", "error": inner}}}
        )

    def unanswered(self, job: Job, name: str, state: str) -> None:
        if job.endpoint:
            error = {"code": f"batch_{state}", "message": "This request could not be executed in time."}
            job.failed.append({"id": name, "custom_id": name, "response": None, "error": error})
        else:
            job.failed.append(
                {"custom_id": name, "result": {"type": "canceled" if state == "cancelled" else "expired"}}
            )

    def write_files(self, job: Job) -> None:
        """The files with answers and with errors, each if there are any."""
        for key, lines in (("output_file_id", job.answered), ("error_file_id", job.failed)):
            if lines:
                self.number += 1
                job.files[key] = f"file-{self.number}"
                self.files[job.files[key]] = f"{key}.jsonl", self.lines(lines)
        job.answered, job.failed = [], []
        job.calls = [("", "", {})] * len(job.calls)

    def lines(self, lines: list[dict[str, Any]]) -> bytes:
        raw = [orjson.dumps(line) for line in lines]
        if self.knobs.shuffle:
            random.Random(0).shuffle(raw)
        if self.knobs.duplicate:
            raw = [line for line in raw for _ in range(2)]
        if self.again("garbage"):
            raw = [b"<html>", b'{"custom_id": "no such"}', b"[1]", b"", b'{"custom_id":', *raw]
        return b"\n".join(raw) + b"\n"

    def content(self, connection: Any, raw: bytes | None) -> None:
        """A file; byte by byte and then no more of it, if that is to be."""
        if raw is None:
            return connection.write(404, orjson.dumps({"error": {"message": "No such File object"}}))
        if not self.again("resets"):
            return connection.write(200, raw, "application/jsonl")
        connection.write(200, raw, "application/jsonl", upto=0)
        half = len(raw) // 2

        def drip(place: int) -> None:
            if place >= half or connection.transport.is_closing():
                return connection.transport.abort()
            connection.transport.write(raw[place : place + 1])
            connection.loop.call_soon(drip, place + 1)

        drip(0)

    def shown(self, job: Job) -> dict[str, Any]:
        """A batch as its provider shows it."""
        total = len(job.calls)
        over = job.state != "running"
        if not job.endpoint:
            counts = {"processing": 0 if over else total, "succeeded": 0, "errored": 0, "canceled": 0, "expired": 0}
            for line in [*job.answered, *job.failed]:
                counts[line["result"]["type"]] += 1
            counts["succeeded"] += (total if over else 0) - sum(counts.values()) if over else 0
            created = datetime.fromtimestamp(job.created, UTC).isoformat()
            status = "ended" if over else "in_progress"
            return {
                "id": job.id,
                "type": "message_batch",
                "processing_status": status,
                "request_counts": counts,
                "created_at": created,
                "expires_at": created,
                "results_url": None,
            }
        counts = {"total": total, "completed": total if over else 0, "failed": 0}
        errors = {"object": "list", "data": [job.problem]} if job.problem else None
        shown = {
            "id": job.id,
            "object": "batch",
            "endpoint": job.endpoint,
            "input_file_id": job.input,
            "completion_window": "24h",
        }
        state = "failed" if job.problem else OPENAI_STATES[job.state]
        more = {
            "status": state,
            "created_at": int(job.created),
            "metadata": job.metadata,
            "request_counts": counts,
            "errors": errors,
        }
        return {**shown, **more, **job.files}
