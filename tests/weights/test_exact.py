"""An OpenVINO folder answers as the GGUF file that it is made of, also where OpenVINO's own reading would not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("gguf")
pytest.importorskip("openvino_genai")
import gguf
import numpy as np
import tiny
import transformers
from scored import USERS, scores

from cai.disk.hashes import sha256_of
from cai.models.inprocess import local
from cai.weights import embedded, exact
from cai.weights.gguf_read import copy_metadata, write_file
from cai.weights.gguf_write import write_gguf
from cai.weights.named import NAMED, Named

KINDS = gguf.GGMLQuantizationType
REPLIES = (" A", "B")


def blocks(kind: Any, shape: tuple[int, ...], rng: Any) -> Any:
    """Random blocks of 256 weights of some 0.05, in the bytes of `kind`; one in ten of Q4_K has no scale."""
    count = shape[0] * shape[1] // 256
    if kind == KINDS.Q6_K:
        data = rng.integers(0, 256, (count, 210), np.uint8)
        data[:, 208:] = np.frombuffer(np.float16(2e-5).tobytes(), np.uint8)
    else:
        data = rng.integers(0, 256, (count, 144), np.uint8)
        data[:, :2] = np.frombuffer(np.float16(2e-4).tobytes(), np.uint8)
        data[:, 2:4] = np.frombuffer(np.float16(1.5e-3).tobytes(), np.uint8)
        data[::10, 4] &= 0b11000000  # the scale of the first 32 weights; the rest of the byte belongs to another
    return data.reshape(shape[0], -1)


def packed(folder: Path) -> Path:
    """A small Qwen2 as a GGUF file of Q4_K, Q6_K and F32, as published files of Q4_K_M are."""
    words = tiny.tokenizer(tiny.PLAIN)
    from tokenizers import pre_tokenizers as cuts

    words.backend_tokenizer.pre_tokenizer = cuts.Sequence([cuts.Digits(True), cuts.ByteLevel(add_prefix_space=False)])
    whole = tiny.written(
        folder / "whole", words, "Qwen2", hidden_size=256, intermediate_size=512, num_attention_heads=4,
        num_key_value_heads=2, tie_word_embeddings=False,
    )  # fmt: skip
    model = transformers.AutoModelForCausalLM.from_pretrained(whole)
    write_gguf(model, transformers.AutoTokenizer.from_pretrained(whole), folder / "f16.gguf")
    reader = gguf.GGUFReader(folder / "f16.gguf")
    writer = gguf.GGUFWriter(folder / "packed.gguf", "qwen2")
    copy_metadata(reader, writer, {"general.file_type": int(gguf.LlamaFileType.MOSTLY_Q4_K_M)})
    rng = np.random.default_rng(0)
    for tensor in reader.tensors:
        if tensor.data.ndim == 1:
            writer.add_tensor(tensor.name, tensor.data)
            continue
        kind = KINDS.Q6_K if tensor.name.endswith(("ffn_down.weight", "output.weight")) else KINDS.Q4_K
        writer.add_tensor(tensor.name, blocks(kind, tensor.data.shape, rng), raw_dtype=kind)
    write_file(writer)
    return folder / "packed.gguf"


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of a named model, in the cache."""
    monkeypatch.setenv("CAI_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(
        local, "LEAN", local.FAST | {"DYNAMIC_QUANTIZATION_GROUP_SIZE": "0", "KV_CACHE_PRECISION": "f32"}
    )
    file = packed(tmp_path)
    digest = sha256_of(file)
    named = Named("Packed", "p", "MIT", file.stat().st_size, digest, 256, (100, 10), wheels=(), exact=True)
    monkeypatch.setitem(NAMED, "packed", named)
    (tmp_path / "cache").mkdir()
    return file.rename(tmp_path / "cache" / named.file)


def test_the_folder_scores_as_the_file_and_openvino_s_own_reading_which_is_warned_of_does_not(
    model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    own = scores(f"hf:{model}", replies=REPLIES)
    kept = scores("local:packed", replies=REPLIES)
    assert [record for record in caplog.records if record.levelname == "WARNING"] == []
    read = scores(f"local:{model}", replies=REPLIES)
    assert "weights of type Q4_K are rounded" in caplog.text and "not quite the model's" in caplog.text
    assert float((kept - own).abs().max()) < 0.02
    assert float((read - own).abs().max()) > 0.1


def test_the_folder_is_made_once_and_again_if_it_is_damaged(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = embedded.folder_of("packed", local.import_genai())
    assert exact.is_whole(folder)
    assert "f16" not in (folder / "openvino_model.xml").read_text()  # of which OpenVINO would keep a copy of 32 bits
    model.unlink()  # it is needed no more
    monkeypatch.setattr(embedded, "weights_of", None)
    assert embedded.folder_of("packed", local.import_genai()) == folder
    (folder / "openvino_model.bin").write_bytes(b"x")
    assert not exact.is_whole(folder)


def test_replies_and_letters_come_from_one_engine_that_has_let_the_file_go(model: Path) -> None:
    import asyncio

    from cai.calls.model import Call
    from cai.models import open_model
    from cai.records import Request, Sampling

    async def play() -> None:
        asked = open_model("local:packed")
        await asked.start()
        user = {"role": "user", "content": USERS[0]}
        written = Call(Request("assistant", (user,)), "r", 0, 0, Sampling(0.7, 8))
        judged = Call(Request("judge", (user,), score=REPLIES), "r", 0, 0, Sampling())
        both = await asyncio.gather(*(asked.send(asked.payload(call)) for call in (written, judged)))
        assert both[0].output_tokens and both[1].scores
        await asked.close()

    asyncio.run(play())


def test_a_page_that_is_let_go_is_read_again(tmp_path: Path) -> None:
    import mmap

    path = tmp_path / "weights.bin"
    path.write_bytes(b"x" * 3 * mmap.PAGESIZE)
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as pages:
        assert pages[0] == pages[-1] == ord("x")
        with exact.mapped_out(path):
            assert pages[0] == pages[-1] == ord("x")
        assert pages[0] == pages[-1] == ord("x")
