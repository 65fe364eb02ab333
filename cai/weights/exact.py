"""Makes an OpenVINO folder of a GGUF file that has the weights of the file, which OpenVINO GenAI's own reading has not.

Its reader rounds the minimum of each block of Q4_K to a whole number of steps, which moves the log odds of a judge's
letters by 0.4 nats on average. Here each block keeps its own minimum. Q6_K, whose blocks of 16 OpenVINO would unpack to
16 bits a weight, and the table of tokens, which it would unpack to 32, become Q8_0. Other types stay as they are read.
"""

from __future__ import annotations

import ctypes
import hashlib
import mmap
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread
from typing import Any

import orjson

from cai.disk.hashes import sha256_of
from cai.errors import CaiError
from cai.packages import need

RECORD = "sha256.json"  # of a folder: the hashes of its files as they were made
BLOCK = 32  # weights that share a scale, and a minimum
ROWS = 16_384  # that are unpacked at once
Q4_K = 144  # bytes of a block of 256 weights
Q6_K = 210


def make_folder(file: Path, target: Path, genai: Any) -> None:
    """Write the OpenVINO folder of a GGUF file as `target`; takes 2.4 times its size in memory, and 3 times on disk."""
    need("a named model", "local", "gguf")
    import openvino

    read = target / "read"
    read.mkdir(parents=True)
    link = read / "model.gguf"  # OpenVINO GenAI writes what it has read beside the file
    link.symlink_to(file.resolve())
    words = genai.Tokenizer(link, enable_save_ov_model=True)
    scheduler = genai.SchedulerConfig()
    scheduler.cache_size = 1
    genai.ContinuousBatchingPipeline(link, words, scheduler, "CPU", enable_save_ov_model=True)
    with mapped_out(file, read / "openvino_model.bin"):
        model = openvino.Core().read_model(read / "openvino_model.xml")
        _mend(model, file)
        _widen(model)
        openvino.save_model(model, target / "openvino_model.xml", compress_to_fp16=False)
        del model
    for path in read.glob("openvino_*tokenizer.*"):
        path.rename(target / path.name)
    shutil.rmtree(read)
    (target / RECORD).write_bytes(orjson.dumps(_hashes(target)))


def is_whole(folder: Path) -> bool:
    """Whether an OpenVINO folder is as it was made."""
    record = folder / RECORD
    return record.exists() and record.read_bytes() == orjson.dumps(_hashes(folder))


def _hashes(folder: Path) -> dict[str, str]:
    return {path.name: sha256_of(path) for path in sorted(folder.iterdir()) if path.name != RECORD}


def _mend(model: Any, file: Path) -> None:
    """Put the file's own weights in place of what was read; CaiError if a tensor is not found in the model."""
    import gguf

    levels = {
        hashlib.sha256(node.data.tobytes()).digest(): node
        for node in model.get_ops()
        if node.get_type_name() == "Constant" and node.get_element_type().get_type_name() in ("u4", "u8")
    }
    for tensor in gguf.GGUFReader(file).tensors:
        kind = tensor.tensor_type.name
        if kind not in LEVELS:
            continue
        node = levels.get(hashlib.sha256(LEVELS[kind](tensor.data).tobytes()).digest())
        if node is None:
            raise CaiError(f"OpenVINO GenAI reads {tensor.name} of {file.name} in another way than 2026.4 does")
        if kind == "Q4_K" and tensor.name != "token_embd.weight":
            _give_minima(node, tensor.data)
        else:
            _give_8_bits(node, tensor)


def _widen(model: Any) -> None:
    """Give the 16-bit scales and minima as 32-bit numbers, of the same values.

    OpenVINO computes with 32 bits: those it reads from the file, but of 16-bit numbers it makes a copy that it keeps,
    which for 1.5B parameters is 0.36 GB of memory.
    """
    import numpy
    from openvino import opset13 as ops

    for node in model.get_ops():
        if not node.get_output_size() or node.get_output_element_type(0).get_type_name() != "f16":
            continue
        if node.get_type_name() == "Constant":
            wide = ops.constant(node.data.astype(numpy.float32))
        elif node.get_type_name() == "Convert":
            wide = ops.convert(node.input_value(0), "f32")
        else:
            continue
        for use in node.output(0).get_target_inputs():
            use.replace_source_output(wide.output(0))
    model.validate_nodes_and_infer_types()


def _levels_of_q4_k(data: Any) -> Any:
    """The 4-bit levels, two neighbours to a byte; 32 bytes of a block hold 32 levels low, and the next 32 high."""
    import numpy

    packed = data.reshape(-1, Q4_K)[:, 16:].reshape(-1, 4, 1, 32)
    levels = numpy.concatenate((packed & 15, packed >> 4), axis=2).reshape(-1, 2)
    return levels[:, 0] | (levels[:, 1] << 4)


def _levels_of_q6_k(data: Any) -> Any:
    """The 6-bit levels, a byte each; their low 4 bits stand before their high 2."""
    import numpy

    blocks = data.reshape(-1, Q6_K)
    low = blocks[:, :128].reshape(-1, 2, 1, 64) >> numpy.array([[[0], [4]]], numpy.uint8)
    high = blocks[:, 128:192].reshape(-1, 2, 1, 32) >> numpy.array([[[0], [2], [4], [6]]], numpy.uint8)
    levels = (low & 15).reshape(-1, 8, 32) | ((high & 3) << 4).reshape(-1, 8, 32)
    return levels.reshape(-1)


LEVELS = {"Q4_K": _levels_of_q4_k, "Q6_K": _levels_of_q6_k}


def _user(node: Any) -> Any:
    """The one node that takes what `node` gives."""
    [use] = node.output(0).get_target_inputs()
    return use.get_node()


def _give_minima(levels: Any, data: Any) -> None:
    """w = scale * (level - minimum / scale), as the file has it."""
    import gguf
    import numpy
    import openvino
    from openvino import opset13 as ops

    blocks = data.reshape(-1, Q4_K)
    d, dmin = (blocks[:, at : at + 2].copy().view(numpy.float16).astype(numpy.float32) for at in (0, 2))
    scale, minimum = gguf.quants.Q4_K.get_scale_min(blocks[:, 4:16])
    rows, columns, _ = levels.get_output_shape(0)
    scales = (d * scale).reshape(rows, columns, 1)
    minima = (dmin * minimum).reshape(rows, columns, 1)
    convert = _user(levels)
    flat = scales == 0  # all weights of such a block are one number, whatever its levels
    if flat.any():
        plain = openvino.Tensor(openvino.Type.u4, levels.get_output_shape(0))
        kept = numpy.where(flat.reshape(-1, 1), 0, levels.data.reshape(-1, BLOCK // 2))
        plain.data[:] = kept.reshape(plain.data.shape)
        convert.input(0).replace_source_output(openvino.op.Constant(plain).output(0))
        scales[flat] = minima[flat]
    steps = numpy.divide(minima, scales, out=numpy.zeros_like(minima), where=scales != 0)
    subtract = _user(convert)
    for place, values in ((subtract, steps), (_user(subtract), scales)):
        place.input(1).replace_source_output(ops.constant(values.astype(numpy.float16)).output(0))


def _give_8_bits(levels: Any, tensor: Any) -> None:
    import gguf
    import numpy
    from openvino import opset13 as ops

    old = _user(_user(_user(_user(levels))))
    parts = []
    for at in range(0, len(tensor.data), ROWS):
        exact = gguf.quants.dequantize(tensor.data[at : at + ROWS], tensor.tensor_type)
        parts.append(gguf.quants.quantize(exact, gguf.GGMLQuantizationType.Q8_0))
    blocks = numpy.concatenate(parts).reshape(len(tensor.data), -1, BLOCK + 2)
    middle = numpy.full((*blocks.shape[:2], 1), 128, numpy.uint8)
    levels_8 = ops.convert(ops.constant(blocks[..., 2:] ^ 128), "f16")
    signed = ops.subtract(levels_8, ops.convert(ops.constant(middle), "f16"))
    weights = ops.multiply(signed, ops.constant(blocks[..., :2].copy().view(numpy.float16)))
    whole = ops.reshape(weights, old.input_value(1), False)
    for use in old.output(0).get_target_inputs():
        use.replace_source_output(whole.output(0))


@contextmanager
def mapped_out(*files: Path) -> Iterator[None]:
    """Meanwhile and at the end, take the pages of files that this process maps out of its memory, over and over.

    OpenVINO makes memory of its own of what it reads in a file; without this both are there at once.
    """
    done = Event()

    def repeat() -> None:
        while not done.wait(0.2):
            let_go(*files)

    thread = Thread(target=repeat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        let_go(*files)


def let_go(*files: Path) -> None:
    """Take the pages of files that this process has mapped out of its memory; they are read again if they are used.

    Does nothing but on Linux.
    """
    maps = Path("/proc/self/maps")
    if not maps.exists():
        return
    names = tuple(str(file.resolve()) for file in files)
    advise = ctypes.CDLL(None).madvise
    advise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    for line in maps.read_text().splitlines():
        if line.endswith(names):
            begin, end = (int(address, 16) for address in line.split()[0].split("-"))
            advise(begin, end - begin, mmap.MADV_DONTNEED)
