"""Prompts of an evaluation in the training data: found, counted and shown, and what cannot be looked at is said."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson
import pytest

from cai.errors import CaiError
from cai.evaluation.arena.figures import Contestant
from cai.evaluation.arena.leaks import Leaks, find_leaks
from cai.evaluation.arena.provenance import with_training
from cai.sources.conversations import prompt_hash
from cai.sources.files import read_prompts
from cai.training.data.dataset import trains

LONG = "Please tell me which plants I can grow on a small and shady balcony in a windy town near the sea in autumn"


def user(text: str, *before: str) -> tuple[Any, ...]:
    turns = [{"role": ("user", "assistant")[place % 2], "content": each} for place, each in enumerate(before)]
    return (*turns, {"role": "user", "content": text})


def write(path: Path, rows: Sequence[Any]) -> Path:
    path.write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows))
    return path


def pair(prompt: Any) -> dict[str, Any]:
    return {"prompt": prompt, "chosen": "Yes, of course.", "rejected": "No, never."}


def model(folder: Path, file: Path | str, content: str | None = None, **more: Any) -> list[Contestant]:
    """Two contestants, of which one was trained on a file."""
    if content is None:
        raw = Path(file).read_bytes()
        content = f".jsonl {len(raw)} bytes sha256:{hashlib.sha256(raw).hexdigest()}"
    data = {"files": [{"source": str(file), "content": content}], "held_back": "file", "origins": {}}
    identity = {"method": "dpo", "config": {"split": more.pop("split", None)}}
    record = {"schema": 1, "identity": identity, "data": data | more, "run": None}
    folder.mkdir()
    (folder / "training.json").write_bytes(orjson.dumps(record))
    base = Contestant(name="base", spec="local", base=True)
    return [*with_training([base, Contestant(name="dpo", spec=f"hf:{folder}")])]


def found(leaks: Leaks) -> tuple[int, int]:
    return leaks.same, leaks.near


@pytest.mark.parametrize(
    ("row", "prompt", "counts"),
    [
        (pair("Which plants like shade?"), user("Which plants like shade?"), (1, 0)),
        (pair("Which plants like shade?"), user("  which PLANTS\nlike shade? "), (1, 0)),
        (pair("Which plants like shade?"), user("Which plants like the sun best?"), (0, 0)),
        (pair(LONG), user(LONG.replace("small", "tiny")), (0, 1)),
        (pair(LONG), user(LONG.replace("Please tell", "Tell") + "!"), (0, 1)),
        (pair([*user("Which plants like shade?", "Hi", "Hello!")]), user("Which plants like shade?"), (1, 0)),
        ({"messages": [*user("Which plants like shade?"), {"role": "assistant", "content": "Ferns."}]},
         user("Which plants like shade?"), (1, 0)),
        ({"prompt": "Which plants like shade?", "completion": "Ferns.", "label": True},
         user("Which plants like shade?"), (1, 0)),
        ({"prompt": "Which plants like shade?"}, user("Which plants like shade?"), (1, 0)),
        (pair([*user("Why?", "I like ferns.", "Good.")]), user("Why?", "I like cake.", "Good."), (0, 0)),
        (pair([*user("Why?", "I like ferns.", "Good.")]), user("Why?", "I like ferns.", "Good."), (1, 0)),
    ],
)  # fmt: skip
def test_a_prompt_is_found_by_its_last_turn(tmp_path: Path, row: Any, prompt: Any, counts: tuple[int, int]) -> None:
    file = write(tmp_path / "rows.jsonl", [row, pair("Something else entirely, about cars?")])
    leaks = find_leaks([prompt, user("Who was the first person to walk on the moon?")], [], [str(file)])
    assert found(leaks) == counts and leaks.prompts == 2 and leaks.missing == ()
    assert leaks.compared == (f"{file} (2 rows)",) and len(leaks.examples) == sum(counts)


def test_what_the_folder_of_a_model_names_is_looked_at_by_default(tmp_path: Path) -> None:
    file = write(tmp_path / "rows.jsonl", [pair(f"What is {n} plus {n} in words?") for n in range(20)])
    contestants = model(tmp_path / "dpo", file)
    leaks = find_leaks([user("What is 3 plus 3 in words?"), user("Is it going to rain on Sunday?")], contestants)
    assert found(leaks) == (1, 0) and leaks.examples == ("'What is 3 plus 3 in words?'",)
    [line, examples] = leaks.lines()
    assert line == f"1 of 2 prompts are in the training data (1 the same, 0 nearly): {file} (20 rows)"
    assert examples == "such as: 'What is 3 plus 3 in words?'"


def test_leaks_can_be_refused(tmp_path: Path) -> None:
    file = write(tmp_path / "rows.jsonl", [pair("Which plants like shade?")])
    find_leaks([user("Who was the first on the moon?")], [], [str(file)]).check()
    leaks = find_leaks([user("Which plants like shade?")], [], [str(file)])
    with pytest.raises(
        CaiError, match=r"--refuse-leaks: 1 of 1 prompt are in the training data .*; evaluate on prompts"
    ):
        leaks.check()


def test_data_is_found_beside_the_folder_if_the_training_was_started_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write(tmp_path / "rows.jsonl", [pair("Which plants like shade?"), pair("And sun, by the way?")])
    contestants = model(tmp_path / "dpo", file)
    contestants[1].trained["data"][0]["source"] = "rows.jsonl"  # type: ignore[index]
    monkeypatch.chdir("/")
    assert found(find_leaks([user("Which plants like shade?")], contestants)) == (1, 0)


def test_prompts_that_the_training_held_back_are_not_leaks(tmp_path: Path) -> None:
    texts = [f"How does one count from {n} to {n + 9} in French?" for n in range(40)]
    file = write(tmp_path / "rows.jsonl", [pair(text) for text in texts])
    contestants = model(tmp_path / "dpo", file, held_back="split", split=0.5)
    held = [text for text in texts if not trains(prompt_hash(user(text)), 0.5)]
    assert 5 < len(held) < 35
    leaks = find_leaks([user(text) for text in texts], contestants)
    assert leaks.same == 40 - len(held)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("gone", "it is not there any more (--training-data FILE)"),
        ("changed", "it has changed since the training (--training-data FILE)"),
        ("hub", "it is on the hub (--training-data hf:org/rows downloads it)"),
        ("memory", "the rows were in memory (--training-data FILE)"),
    ],
)
def test_data_that_cannot_be_looked_at_is_said_and_no_error(tmp_path: Path, change: str, message: str) -> None:
    file = write(tmp_path / "rows.jsonl", [pair("Which plants like shade?")])
    if change == "hub":
        contestants = model(tmp_path / "dpo", "hf:org/rows", "hf:org/rows")
    elif change == "memory":
        contestants = model(tmp_path / "dpo", "ROWS", "0123456789abcdef")
    else:
        contestants = model(tmp_path / "dpo", file)
        file.unlink() if change == "gone" else write(file, [pair("Other?")])
    leaks = find_leaks([user("Which plants like shade?")], contestants)
    assert found(leaks) == (0, 0) and leaks.compared == ()
    assert len(leaks.missing) == 1 and leaks.missing[0].endswith(message)
    assert [*leaks.lines()] == [f"not looked for in {leaks.missing[0]}"]


@pytest.mark.parametrize("content", ["", "{", '{"a": 1}\n', "\x00\x01"])
def test_data_that_cannot_be_read_is_said_and_no_error(tmp_path: Path, content: str) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text(content)
    other = write(tmp_path / "other.jsonl", [pair("Which plants like shade?")])
    leaks = find_leaks([user("Which plants like shade?")], [], [str(file), str(tmp_path / "no.jsonl"), str(other)])
    assert found(leaks) == (1, 0)
    assert any("no.jsonl" in each for each in leaks.missing)


def test_a_run_folder_is_its_training_file(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    write(run / "dpo.jsonl", [pair("Which plants like shade?")])
    leaks = find_leaks([user("Which plants like shade?")], [], [str(run)])
    assert found(leaks) == (1, 0) and leaks.compared == (f"{run / 'dpo.jsonl'} (1 row)",)
    (run / "dpo.jsonl").unlink()
    assert "without dpo.jsonl" in find_leaks([user("Hi")], [], [str(run)]).missing[0]


def test_models_that_name_no_data_are_said(tmp_path: Path) -> None:
    contestants = [Contestant(name="base", spec="local", base=True), Contestant(name="api", spec="openai:x")]
    leaks = find_leaks([user("Hi there, my friend")], contestants)
    assert leaks.missing == ("the training data of api: its folder does not name it",)
    assert find_leaks([user("Hi there, my friend")], contestants[:1]).missing == (
        "training data: it is not known what the models were trained on (name it with --training-data FILE)",
    )


def test_the_built_in_prompts_and_the_built_in_contrast_pairs_do_not_leak_into_each_other() -> None:
    from cai.sources.files import folder

    prompts = [prompt.messages for prompt in read_prompts(None) if hasattr(prompt, "messages")]
    leaks = find_leaks(prompts, [], [str(folder("prompts") / "contrast.jsonl")])
    assert found(leaks) == (0, 0) and leaks.missing == ()
