"""The folder that a GGUF file is unpacked into: whoever changes it in the cache, it is not used."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("gguf")
pytest.importorskip("transformers")
pytest.importorskip("peft")
import tiny
import transformers
from adapters import adapter

from cai.disk.hashes import fingerprint
from cai.errors import CaiError
from cai.weights import unpacked as module
from cai.weights.bases import base_of, find_base
from cai.weights.gguf_write import write_gguf
from cai.weights.unpacked import RECORD, is_sound, unpacked, unpacked_name

WEIGHTS = "model.safetensors"


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small GGUF file, and an empty cache."""
    monkeypatch.setenv("CAI_CACHE", str(tmp_path / "cache"))
    whole = tiny.model(tmp_path / "whole")
    model = transformers.AutoModelForCausalLM.from_pretrained(whole)
    write_gguf(model, transformers.AutoTokenizer.from_pretrained(whole), tmp_path / "small.gguf")
    return tmp_path / "small.gguf"


def flip(path: Path) -> None:
    """Change one bit at the end, and hide it: size and time are as before."""
    before = path.stat()
    data = bytearray(path.read_bytes())
    data[-2] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def others(path: Path) -> None:
    """Other weights of the same shapes."""
    shutil.copy(tiny.model(path.parent / "others", seed=7) / WEIGHTS, path)
    shutil.rmtree(path.parent / "others")


def half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def text(path: Path) -> None:
    path.write_text("text")


DAMAGE = [
    *((change, WEIGHTS) for change in (flip, others, half, empty, Path.unlink)),
    *((change, name) for name in ("config.json", "tokenizer.json", RECORD) for change in (text, empty, Path.unlink)),
]


@pytest.mark.parametrize(("change", "name"), DAMAGE)
def test_a_folder_that_has_changed_is_made_again(file: Path, change: Callable[[Path], None], name: str) -> None:
    folder = unpacked(file)
    before = (folder / WEIGHTS).read_bytes()
    first = (folder / WEIGHTS).stat().st_ino
    assert unpacked(file) == folder and (folder / WEIGHTS).stat().st_ino == first
    change(folder / name)
    assert not is_sound(folder)
    assert unpacked(file) == folder and is_sound(folder)
    assert (folder / WEIGHTS).read_bytes() == before


@pytest.mark.parametrize("is_there", [True, False])
def test_an_adapters_base_is_checked_and_made_again_if_its_file_is_there(file: Path, is_there: bool) -> None:
    made = adapter(file.parent / "lora", str(file))
    folder = Path(base_of(made).place)
    before = (folder / WEIGHTS).read_bytes()
    flip(folder / WEIGHTS)
    if is_there:
        assert base_of(made).place == str(folder)
        assert (folder / WEIGHTS).read_bytes() == before
        return
    file.unlink()
    with pytest.raises(CaiError, match=r"base model cannot be found: .* has changed since it was unpacked"):
        base_of(made)


def test_other_bytes_of_a_file_are_seen_whatever_a_note_says_of_its_hash(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cai.disk.hashes.LARGE", 1)
    monkeypatch.setattr("cai.disk.hashes.SETTLED", 0)
    before = unpacked_name(file)
    assert before.endswith(fingerprint(file))  # as it was named before; and its hash is remembered now
    flip(file)
    assert before.endswith(fingerprint(file))
    assert unpacked_name(file) != before


def test_the_weights_of_the_embedded_model_are_compared_with_a_constant(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = unpacked(file)
    record = json.loads((folder / RECORD).read_bytes())
    monkeypatch.setattr(module, "EMBEDDED", folder.name)
    monkeypatch.setattr(module, "EMBEDDED_SHA256", record["*.safetensors"])
    assert is_sound(folder)
    others(folder / WEIGHTS)
    (folder / RECORD).write_text(json.dumps(module._hashes(folder)))  # a record that fits what is there
    assert not is_sound(folder)
    (folder / RECORD).unlink()
    assert not is_sound(folder)
    assert find_base(str(file)).place == str(folder) and is_sound(folder)
    monkeypatch.setattr(module, "EMBEDDED_SHA256", "0" * 64)
    with pytest.raises(CaiError, match=r"transformers \S+ unpacks the embedded model to other weights"):
        unpacked(file)


def test_the_constants_are_those_of_the_embedded_model() -> None:
    weights = Path(os.environ.get("CAI_CACHE", "~/.cache/cai")).expanduser() / module.EMBEDDED
    if not (weights / WEIGHTS).exists():
        pytest.skip("the embedded model has not been unpacked here")
    assert is_sound(weights)
