"""Finds and makes the weight files of named models in the cache: downloaded, hash-checked, and converted if need be."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Collection, Iterator
from pathlib import Path
from threading import Event
from typing import Any

from cai.disk.hashes import cache_folder, sha256_of
from cai.errors import CaiError
from cai.packages import need, package_version
from cai.texts.wording import reason_of
from cai.weights.download import alone, download
from cai.weights.exact import is_whole, make_folder
from cai.weights.gguf_read import copy_metadata, write_file
from cai.weights.named import DEFAULT, NAMED, Named

STEM = NAMED[DEFAULT].name
NAME = NAMED[DEFAULT].mark  # the published file decides every byte of ours, and is known unfetched

log = logging.getLogger("cai")


def default_weights() -> Path:
    """The weights of the embedded model, as `weights_of` gives them."""
    return weights_of(DEFAULT)


def weights_of(name: str, stop: Event | None = None) -> Path:
    """The weights of a named model as a GGUF file in the cache; downloaded on first use, and converted if need be.

    All its bytes are compared with the hash in the register each time (1 s per GB), so neither a damaged file nor
    another one that is put in its place is opened. stop: ends a download once it is set, with ModelStopped. Raises
    `CaiError` if the file cannot be downloaded, the cache cannot be written, or the conversion gives something else.
    """
    model, stop = NAMED[name], stop or Event()
    target = cache_folder() / model.file
    try:
        if _is_whole(target, model):
            return target
        target.parent.mkdir(parents=True, exist_ok=True)
        with alone(target, stop):
            if target.exists() and not _is_whole(target, model):
                log.info("%s is damaged: making it again", target)
                target.unlink()
            if not target.exists():
                _make(name, model, target, stop)
    except OSError as error:
        raise CaiError(
            f"cannot keep local:{name} in {target.parent}: {error.strerror or error}; it needs "
            f"{model.needs / 1e6:,.0f} MB there, or set CAI_CACHE to another folder; the same command continues"
        ) from error
    log.info("local:%s: kept in %s", name, target)
    return target


def folder_of(name: str, genai: Any, stop: Event | None = None) -> Path:
    """The OpenVINO folder of a named model of which weights are kept exactly; made in the cache on first use.

    Its files are compared each time with the hashes that they had. genai: the module of OpenVINO GenAI. Raises as
    `weights_of` does.
    """
    target = cache_folder() / f"{Path(NAMED[name].file).stem}-openvino"
    if is_whole(target):
        return target
    file = weights_of(name, stop)
    try:
        with (
            alone(target, stop or Event()),
            tempfile.TemporaryDirectory(prefix=".making-", dir=target.parent) as scratch,
        ):
            if not is_whole(target):
                log.info("local:%s: writing its OpenVINO folder (once, a minute or two)", name)
                made = Path(scratch) / target.name
                make_folder(file, made, genai)
                if target.exists():
                    target.rename(Path(scratch) / "damaged")
                made.rename(target)
    except (OSError, RuntimeError) as error:
        raise CaiError(
            f"cannot write {target}: {reason_of(error)}; it takes {3 * file.stat().st_size / 1e6:,.0f} MB there"
        ) from error
    return target


def missing_weights(specs: Collection[str]) -> Iterator[str]:
    """What a run of these models has to download first, in words. specs: with the names that rows have."""
    for name, model in NAMED.items():
        folder = cache_folder() / f"{Path(model.file).stem}-openvino"
        if f"local:{model.mark}" in specs and not folder.exists() and not (cache_folder() / model.file).exists():
            yield f"local:{name} is not in the cache: {model.size / 1e6:,.0f} MB are downloaded once"


def _is_whole(target: Path, model: Named) -> bool:
    return target.exists() and sha256_of(target) == model.digest


def _make(name: str, model: Named, target: Path, stop: Event) -> None:
    source = download(f"local:{name}", model, target, stop)
    if model.converted is None:
        source.replace(target)
        return
    with tempfile.TemporaryDirectory(prefix=".making-", dir=target.parent) as scratch:
        converted = Path(scratch) / "q8_0.gguf"
        log.info("local:%s: converting to Q8_0 (once, some 5 s)", name)
        convert_to_q8_0(source, converted)
        digest = sha256_of(converted)
        if digest != model.converted:
            raise CaiError(
                f"gguf {package_version('gguf')} converts local:{name} to other weights (sha256 {digest[:12]}…, not "
                f"{model.converted[:12]}…): pip install gguf==0.19.0"
            )
        converted.replace(target)
    source.unlink()


def convert_to_q8_0(source: Path, target: Path) -> None:
    """Write the GGUF file `source` again with all quantised tensors as Q8_0; metadata and F32 tensors stay.

    OpenVINO re-quantises Q4_1 on reading and shifts log-probabilities by more than a nat; Q8_0 it reads faithfully.
    """
    need("a named model", "local", "gguf")
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
