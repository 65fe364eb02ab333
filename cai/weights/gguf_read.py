"""Reads and copies the metadata of GGUF files."""

from __future__ import annotations

import math
import os
import struct
from pathlib import Path
from typing import Any, BinaryIO

from cai.errors import InputError
from cai.packages import need
from cai.records import Object, Values


def copy_metadata(reader: Any, writer: Any, changed: Object) -> None:
    """Give a GGUFWriter the metadata of a GGUFReader; the values of `changed` replace those of the same keys."""
    for field in reader.fields.values():
        if field.name == "general.architecture" or field.name.startswith("GGUF."):
            continue  # the writer adds these itself
        value = changed.get(field.name)
        if value is None:
            value = field.contents()
        kind, *inner = field.types  # an array's, and its items'
        writer.add_key_value(field.name, value, kind, *inner[-1:])


def write_file(writer: Any) -> None:
    """Write all that a GGUFWriter has been given, and close it."""
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


_SCALARS = {
    0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d",
}  # fmt: skip
_STRING = 8
_ARRAY = 9


def _take(file: BinaryIO, size: int) -> bytes:
    data = file.read(size)
    if len(data) < size:
        raise EOFError
    return data


def _read(file: BinaryIO, form: str) -> Any:
    [value] = struct.unpack(form, _take(file, struct.calcsize(form)))
    return value


def _text(file: BinaryIO) -> str:
    size = _read(file, "<Q")
    if size > 1 << 24:  # of a damaged file: no text is so long
        raise EOFError
    return _take(file, size).decode("utf-8", "replace")


def _value(file: BinaryIO, kind: int) -> Any:
    """One metadata value; of an array only its length, which keeps a vocabulary of 150,000 words out of memory."""
    if kind == _STRING:
        return _text(file)
    if kind != _ARRAY:
        return _read(file, _SCALARS[kind])
    inner = _read(file, "<I")
    count = _read(file, "<Q")
    if inner in _SCALARS:
        file.seek(count * struct.calcsize(_SCALARS[inner]), os.SEEK_CUR)
    else:
        for _ in range(count):
            _value(file, inner)
    return count


def gguf_metadata(path: Path) -> Values:
    """The metadata of a GGUF file (arrays as their length), as `tensors` the names of its weights, as `types` theirs.

    Raises `InputError` if it is not one, or not whole.
    """
    try:
        with path.open("rb") as file:
            if file.read(4) != b"GGUF":
                raise InputError("is not a GGUF file: its first bytes are not 'GGUF'", path)
            version = _read(file, "<I")
            if version not in (2, 3):
                raise InputError(f"GGUF version {version} is not known; convert it again with a current tool", path)
            need("a GGUF file", "local", "gguf")
            tensors = _read(file, "<Q")
            count = _read(file, "<Q")
            metadata = {_text(file): _value(file, _read(file, "<I")) for _ in range(count)}
            found = [_tensor(file) for _ in range(tensors)]
            metadata["tensors"] = tuple(name for name, _, _ in found)
            metadata["types"] = frozenset(kind for _, kind, _ in found)
            last = max((end for _, _, end in found), default=0)
            align = metadata.get("general.alignment", 32)
            if type(align) is not int or align < 1:
                raise InputError(f"is damaged: an alignment of {align!r}; download it again", path)
            whole = -(-file.tell() // align) * align + last
            size = path.stat().st_size
            if size < whole:
                raise InputError(f"is cut short: {size:,} bytes of {whole:,}; download it again", path)
    except (EOFError, KeyError, OverflowError):
        raise InputError("is cut short or damaged; download it again", path) from None
    except ValueError as error:
        raise InputError(f"is damaged, or newer than the installed gguf package: {error}", path) from None
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", path) from None
    return metadata


def _tensor(file: BinaryIO) -> tuple[str, str, int]:
    """The name of a tensor, its type, and where its data end, counted from the start of all data."""
    import gguf

    name = _text(file)
    elements = math.prod(_read(file, "<Q") for _ in range(_read(file, "<I")))
    kind = gguf.GGMLQuantizationType(_read(file, "<I"))
    offset = _read(file, "<Q")
    block, size = gguf.GGML_QUANT_SIZES[kind]
    return name, kind.name, int(offset + elements // block * size)


# Ways of cutting text before merging that OpenVINO GenAI 2026.4 follows. By others, such as GPT-2's and Llama 3's, it
# gave other tokens for numbers, capitals and line breaks.
CUTS_ALIKE = ("smollm", "qwen2")
FREQUENCIES = "rope_freqs.weight"
# Types of which OpenVINO GenAI 2026.4 rounds the minimum of a block: log odds of a judge's letters moved by 0.4 nats.
ROUNDED = ("Q4_1", "Q4_K")


def misread(metadata: Object, *, by_openvino: bool) -> str | None:
    """What in a GGUF file is read otherwise than by llama.cpp: by OpenVINO GenAI 2026.4, or transformers 5.24.

    Log-probabilities of files were compared with those of the models that they were written from.
    """
    if FREQUENCIES in metadata["tensors"]:
        return f"{FREQUENCIES}, the frequencies of positions (as of Llama 3.1), are ignored"
    for kind in ROUNDED:
        if by_openvino and kind in metadata["types"]:
            return f"weights of type {kind} are rounded (those of Q8_0 and F16 are not)"
    pre = metadata.get("tokenizer.ggml.pre")
    if by_openvino and metadata.get("tokenizer.ggml.model") == "gpt2" and pre not in (None, *CUTS_ALIKE):
        return f"text is cut by other rules than its tokenizer's, {pre!r}"
    return None
