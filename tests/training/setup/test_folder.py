"""The folder of a training: nothing half written is taken for whole, and nobody else's folder is touched."""

from __future__ import annotations

import resource
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest

from cai.errors import RunError
from cai.training.setup.folder import TrainFolder

IDENTITY = {"method": "sft", "config": {"seed": 0}}


def opened(path: Path) -> TrainFolder:
    return TrainFolder(path, IDENTITY)


def checkpoint(out: Path, step: int) -> Path:
    """A checkpoint with the files that transformers writes, whole."""
    numpy = pytest.importorskip("numpy")
    pytest.importorskip("safetensors")
    from safetensors.numpy import save_file

    path = out / "checkpoints" / f"checkpoint-{step}"
    path.mkdir(parents=True)
    save_file({"w": numpy.ones(64)}, path / "adapter_model.safetensors")
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
        with zipfile.ZipFile(path / name, "w") as file:
            file.writestr("data", b"0" * 64)
    (path / "adapter_config.json").write_text("{}")
    (path / "trainer_state.json").write_bytes(orjson.dumps({"global_step": step}))
    return path


@contextmanager
def full_disk(path: Path, room: int) -> Iterator[None]:
    """No file can grow beyond the size of this one and `room` bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + room, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_line_that_did_not_fit_on_the_disk_is_not_left_half(tmp_path: Path) -> None:
    with opened(tmp_path / "out") as folder:
        folder.add({"step": 1, "loss": 2.0})
        with full_disk(tmp_path / "out" / "metrics.jsonl", 7), pytest.raises(OSError, match=r"space|too large"):
            folder.add({"step": 2, "loss": 1.5})
        folder.add({"step": 2, "loss": 1.5})
        assert [line["step"] for line in folder.metrics()] == [1, 2]


def test_lines_that_a_loss_of_power_spoilt_are_left_out_when_the_training_goes_on(tmp_path: Path) -> None:
    with opened(tmp_path / "out") as folder:
        for step in (1, 2, 3):
            folder.add({"step": step})
        path = tmp_path / "out" / "metrics.jsonl"
        path.write_bytes(path.read_bytes().replace(b'"step":2', b'"st\0\0\0\0\0') + b'{"step":4,"lo')
        with pytest.raises(RunError, match=r"metrics\.jsonl: line 2 is damaged"):
            folder.metrics()
        assert folder.rewind(5) == 1
        assert [line["step"] for line in folder.metrics()] == [1, 3]


@pytest.mark.parametrize(("last", "kept"), [(b'{"step":2}', [1, 2]), (b'{"step":2', [1]), (b"{", [1]), (b"", [1])])
def test_a_last_line_without_its_line_break_is_kept_if_it_is_whole(
    tmp_path: Path, last: bytes, kept: list[int]
) -> None:
    with opened(tmp_path / "out") as folder:
        folder.add({"step": 1})
        with open(tmp_path / "out" / "metrics.jsonl", "ab") as file:
            file.write(last)
        assert folder.rewind(2) == 0
        folder.add({"step": 3})
        assert [line["step"] for line in folder.metrics()] == [*kept, 3]


def half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty_object(path: Path) -> None:
    path.write_text("{}")


def no_object(path: Path) -> None:
    path.write_text("null")


NAMES = ("adapter_model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json")


@pytest.mark.parametrize(
    ("spoil", "name"),
    [(spoil, name) for spoil in (Path.unlink, half) for name in NAMES]
    + [(half, "adapter_config.json"), (empty_object, "trainer_state.json"), (no_object, "trainer_state.json")],
)
def test_a_checkpoint_that_lacks_or_cuts_a_file_is_passed_over_for_the_one_before(
    tmp_path: Path, spoil: Callable[[Path], None], name: str
) -> None:
    with opened(tmp_path / "out") as folder:
        before, last = checkpoint(tmp_path / "out", 9), checkpoint(tmp_path / "out", 12)
        assert folder.last_checkpoint() == last
        spoil(last / name)
        assert folder.last_checkpoint() == before
        assert not last.exists()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"schema": 2}, "schema 2, of another release"),
        ({"schema": None}, "schema None, of another release"),
        ({"finished": "yes"}, "is damaged"),
        ({"finished": True}, "is damaged"),  # and no summary
        ({"seconds": None}, "is damaged"),
        ({"settled": None}, "is damaged"),
        ({"identity": []}, "is damaged"),
    ],
)
def test_a_record_that_nobody_wrote_so_is_refused(tmp_path: Path, change: dict[str, Any], told: str) -> None:
    with opened(tmp_path / "out") as folder:
        folder.write(**change)
    with pytest.raises(RunError, match=told):
        opened(tmp_path / "out")


@pytest.mark.parametrize("text", ["", "[]", "{", "null"])
def test_a_record_that_is_no_object_is_refused(tmp_path: Path, text: str) -> None:
    opened(tmp_path / "out").__exit__()
    (tmp_path / "out" / "training.json").write_text(text)
    with pytest.raises(RunError, match=r"training\.json (is damaged|cannot be read)"):
        opened(tmp_path / "out")


def test_a_kill_before_the_first_record_is_in_place_leaves_the_folder_usable(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / ".lock").touch()
    (tmp_path / "out" / "training.json.part").write_text('{"sche')
    with opened(tmp_path / "out") as folder:
        assert folder.record["finished"] is False


def test_a_folder_of_something_else_is_left_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(RunError, match="holds something else"):
        opened(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]
