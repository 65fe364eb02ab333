"""A hub of models on loopback, in the form of huggingface.co: folders as repositories, some behind a token."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

from loopback import Server, running

COMMIT = "0123456789abcdef0123456789abcdef01234567"
REVISIONS = ("main", "v1", COMMIT)


@dataclass(frozen=True)
class Repository:
    """What a name holds; token: who may read it, None: everybody."""

    folder: Path
    token: str | None = None


@dataclass
class Hub:
    """A running hub; `asked` has the path and the headers of every request."""

    url: str = ""
    asked: list[tuple[str, Mapping[str, str]]] = field(default_factory=list)

    def environment(self, home: Path) -> dict[str, str]:
        """What has `huggingface_hub` ask it; it reads these once, so set them before it is imported."""
        return {"HF_ENDPOINT": self.url, "HF_HOME": str(home), "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}


@contextmanager
def hub(repositories: Mapping[str, Repository]) -> Iterator[Hub]:
    """Serve these repositories by their names."""
    served = Hub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            served.asked.append((self.path, dict(self.headers)))
            parts = self.path.partition("?")[0].strip("/").removeprefix("api/models/").split("/")
            name, rest = "/".join(parts[:2]), parts[2:]
            found = repositories.get(name)
            token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
            if found is None:  # the hub does not say whether a private one exists
                self.refuse(404 if token else 401, "RepoNotFound", "Repository not found")
            elif found.token not in (None, token):
                message = f"Access to model {name} is restricted. You must have access to it and be authenticated."
                self.refuse(403 if token else 401, "GatedRepo", message)
            elif len(rest) > 1 and rest[1] not in REVISIONS:
                self.refuse(404, "RevisionNotFound", "Revision not found")
            elif rest[:1] == ["resolve"]:
                self.file(found.folder.joinpath(*rest[2:]))
            elif rest[:1] == ["tree"] and len(rest) > 2:
                self.refuse(404, "EntryNotFound", "Entry not found")
            else:
                paths = sorted(found.folder.iterdir())
                tree = [{"type": "file", "path": path.name, "size": path.stat().st_size, "oid": "0"} for path in paths]
                info = {"id": name, "sha": COMMIT, "siblings": [{"rfilename": path.name} for path in paths]}
                self.send(json.dumps(tree if rest[:1] == ["tree"] else info).encode())

        def file(self, path: Path) -> None:
            if path.is_file():
                content = path.read_bytes()
                self.send(content, **{"ETag": f'"{hashlib.sha256(content).hexdigest()}"', "X-Repo-Commit": COMMIT})
            else:
                self.refuse(404, "EntryNotFound", "Entry not found")

        def refuse(self, status: int, code: str, message: str) -> None:
            self.send(b"", status, **{"X-Error-Code": code, "X-Error-Message": message})

        def send(self, content: bytes, status: int = 200, **headers: str) -> None:
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(content))}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content)

        def log_message(self, *words: Any) -> None:
            """Prints nothing."""

    with running(Server(Handler)) as served.url:
        yield served
