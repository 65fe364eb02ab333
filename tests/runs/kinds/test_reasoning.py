"""The reasoning of a thinking model is kept apart from its replies, and exported only if that is wanted."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from habits import Answer, Asked, Habits, Mode, answer, chat, serving
from kept import rows

import cai

REPLY, REVISION = "Freeze it.", "Freeze it within three days."


def thinks(asked: Asked) -> Answer:
    """The first reply and what follows it, each after a thought of its own."""
    turns = len(asked.payload["messages"])
    text = REVISION if turns > 1 else REPLY
    return answer(chat(f"<think>Thought {turns}.</think>{text}"))


@pytest.fixture(scope="module")
def server() -> Iterator[Habits]:
    with serving({"thinker": Mode(thinks)}) as running:
        yield running


@pytest.fixture
def folder(server: Habits, tmp_path: Path) -> Path:
    model = f"openai:tiny@{server.url('thinker')}"
    list(cai.generate(["May I freeze rice?"], "harmless", model=model, rounds=1, gate=False, out=tmp_path / "run"))
    return tmp_path / "run"


def completions(folder: Path) -> list[str]:
    return [row["completion"][0]["content"] for row in rows(folder / "sft.jsonl")]


def test_a_row_has_the_thoughts_beside_the_replies(folder: Path) -> None:
    [row] = rows(folder / "revisions.jsonl")
    assert (row["initial"], row["reasoning"]) == (REPLY, "Thought 1.")
    [turn] = row["rounds"]
    assert (turn["revision"], turn["reasoning"]) == (REVISION, "Thought 5.")


def test_training_rows_have_no_thoughts_unless_they_are_wanted(folder: Path) -> None:
    assert completions(folder) == [REVISION]
    cai.export_run(folder, sft_reasoning=True, rounds_kept="all")
    assert completions(folder) == [f"<think>\nThought 5.\n</think>\n\n{REVISION}"]
    [pair] = rows(folder / "dpo.jsonl")
    assert pair["chosen"][0]["content"] == REVISION
    cai.export_run(folder)
    assert completions(folder) == [REVISION]


@pytest.mark.parametrize("kept", [False, True])
def test_a_run_can_cut_them_at_its_end(server: Habits, tmp_path: Path, kept: bool) -> None:
    settings: dict[str, Any] = {"model": f"openai:tiny@{server.url('thinker')}", "distill": True, "sft_reasoning": kept}
    list(cai.generate(["May I freeze rice?"], "harmless", out=tmp_path / "run", **settings))
    [text] = completions(tmp_path / "run")
    assert text.startswith("<think>\nThought 2.\n") == kept and text.endswith(REVISION)


def test_rows_whose_model_gave_no_thoughts_are_counted(tmp_path: Path) -> None:
    prompts = ["May I freeze rice?", "May I freeze beans?"]
    model = f"recorded:{tmp_path / 'answers.jsonl'}"
    answers = [
        {"id": id, "role": role, "index": 0, "reply": reply}
        for id, thought in (("rice", "<think>Thought.</think>"), ("beans", ""))
        for role, reply in (("assistant", REPLY), ("reviser", thought + REVISION))
    ]
    (tmp_path / "answers.jsonl").write_text("".join(json.dumps(line) + "\n" for line in answers))
    records = [{"id": id, "prompt": prompt} for id, prompt in zip(("rice", "beans"), prompts, strict=True)]
    list(cai.generate(records, "harmless", model=model, distill=True, out=tmp_path / "run"))
    noted = cai.export_run(tmp_path / "run", sft_reasoning=True).notes
    assert sum(note.startswith("1 of 2 rows of sft.jsonl have no reasoning") for note in noted) == 1
    assert not any("no reasoning" in note for note in cai.export_run(tmp_path / "run").notes)
