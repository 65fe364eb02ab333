"""Unpacks a GGUF file into a folder of float32 weights, which an adapter can name as its base, and checks them."""

from __future__ import annotations

import hashlib
import logging
import tempfile
from pathlib import Path

import orjson

from cai.disk.hashes import cache_folder, sha256_of
from cai.errors import CaiError
from cai.packages import need, package_version
from cai.records import Values
from cai.weights.gguf_read import gguf_metadata, misread
from cai.weights.named import DEFAULT, NAMED
from cai.weights.vendors import quiet

UNPACKED = "-float32-"  # in the name of a folder, before the fingerprint of its GGUF file
RECORD = "sha256.json"  # of a folder: the hashes of its files as they were made
EMBEDDED = f"{Path(NAMED[DEFAULT].file).stem}{UNPACKED}1cf9922c405d"  # the folder of the embedded model
# The names, shapes and values of its weights; they are exact, so that no release of transformers gives others.
EMBEDDED_SHA256 = "2aeda9aeb9dd59c045c424b81755a23c9be5668b44ea6ca0c22e57e3df75c31d"

log = logging.getLogger("cai")


def unpacked_name(gguf: Path) -> str:
    """The name of the folder that a GGUF file is unpacked into: other bytes, another name; all of them are read."""
    digest = hashlib.sha256(b"\0" + sha256_of(gguf).encode() + b"\0")  # as `fingerprint`, which trusts its notes
    return f"{gguf.stem}{UNPACKED}{digest.hexdigest()[:12]}"


def unpacked(gguf: Path) -> Path:
    """The folder of a GGUF file's weights in float32, which holds them exactly; made once, in the cache.

    It is checked each time (3 s per GB), and made again if it has changed.
    """
    need("a GGUF file as the base of an adapter", "hf", "torch")
    need("a GGUF file", "local", "gguf")
    folder = cache_folder() / unpacked_name(gguf)
    if is_sound(folder):
        return folder
    warn_of_gguf(gguf)
    log.info("%s: dequantising into %s (once)", gguf.name, folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".making-", dir=folder.parent) as scratch:
            target = Path(scratch) / folder.name
            _unpack(gguf, target)
            if folder.exists():
                log.info("%s has changed, or is of an earlier version: it is replaced", folder)
                folder.rename(Path(scratch) / "changed")
            target.rename(folder)
    except OSError as error:
        if is_sound(folder):  # another process was faster
            return folder
        raise CaiError(f"cannot unpack {gguf} into {folder}: {error}; free some space, or set CAI_CACHE") from error
    return folder


def _unpack(gguf: Path, target: Path) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GgufConfig

    place: Values = {"gguf_file": gguf.name, "trust_remote_code": False}
    with quiet():
        packed = AutoModelForCausalLM.from_pretrained(
            gguf.parent, dtype="float32", quantization_config=GgufConfig(dequantize=True), **place
        )
        # What was loaded from a GGUF file refuses to be saved, dequantised or not: its weights move to a model that
        # was not.
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(gguf.parent, **place), dtype="float32")
        model.load_state_dict(packed.state_dict())
        model.save_pretrained(target)
        AutoTokenizer.from_pretrained(gguf.parent, **place).save_pretrained(target)
    (target / RECORD).write_bytes(orjson.dumps(_hashes(target)))
    if not is_sound(target):
        release = f"transformers {package_version('transformers')}"
        raise CaiError(f"{release} unpacks the embedded model to other weights: name a folder of it, such as hf:FOLDER")


def is_sound(folder: Path) -> bool:
    """Whether an unpacked folder is as it was made, says its record; or a constant, of the embedded model's weights."""
    from safetensors import SafetensorError

    try:
        hashes = _hashes(folder)
        record = folder / RECORD
        recorded = orjson.loads(record.read_bytes()) if record.exists() else None
    except (OSError, ValueError, SafetensorError):
        return False
    if folder.name != EMBEDDED:
        return bool(hashes == recorded)
    return hashes["*.safetensors"] == EMBEDDED_SHA256 and recorded in (None, hashes)


def _hashes(folder: Path) -> dict[str, str]:
    """The SHA-256 of all weights together, whatever else their files hold, and of each other file."""
    from safetensors import safe_open

    hashes = {}
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.suffix != ".safetensors":
            if path.name != RECORD:
                hashes[path.name] = sha256_of(path)
            continue
        with safe_open(path, framework="numpy") as file:
            for name in sorted(file.keys()):
                tensor = file.get_tensor(name)
                digest.update(f"{name} {tensor.dtype} {tensor.shape}\n".encode())
                digest.update(tensor)
    return hashes | {"*.safetensors": digest.hexdigest()}


def warn_of_gguf(path: Path) -> None:
    """Say what transformers reads otherwise than it is in a GGUF file."""
    problem = misread(gguf_metadata(path), by_openvino=False)
    if problem is not None:
        log.warning(
            "%s: %s: its answers are not quite the model's; name the folder that the file was made from", path, problem
        )
