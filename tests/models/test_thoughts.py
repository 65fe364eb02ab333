"""Whatever a model is asked by, its thoughts are kept apart from its reply, and no row holds them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny
from habits import Answer, Habits, Mode, answer, chat, message, serving

import cai
from cai.models.inprocess.hf import HFModel
from cai.models.inprocess.hf_rows import Row
from cai.models.inprocess.hf_words import HFTokenizer

HARMONY = "<|channel|>analysis<|message|>Plan.<|end|><|start|>assistant<|channel|>final<|message|>"
BLOCK = {"type": "thinking", "thinking": "Hm.", "signature": ""}
IN_PARTS = [{"type": "text", "text": "<thought>Plan.</thought>"}, {"type": "text", "text": "Yes."}]
QUOTED = "A template of Qwen closes the block with `</think>`, and the reply follows."
FIELDS: dict[str, tuple[dict[str, Any], str]] = {  # of a message of OpenAI's protocol, and the reply in it
    "empty-field": ({"content": "<think>Plan.</think>Yes.", "reasoning": "", "reasoning_content": None}, "Yes."),
    "full-field": ({"content": "Yes.", "reasoning_content": "Plan."}, "Yes."),
    "field-and-block": ({"content": "<think>Plan.</think>\n\nYes.", "reasoning": "Hm."}, "Yes."),
    "rest-of-block": ({"content": "\n</think>\n\nYes.", "reasoning": "Plan."}, "Yes."),
    "unopened": ({"content": "Plan.\n</think>\n\nYes.", "reasoning": ""}, "Yes."),
    "brackets": ({"content": "[THINK]Plan.[/THINK]Yes."}, "Yes."),
    "channels": ({"content": f"{HARMONY}Yes."}, "Yes."),
    "parts": ({"content": IN_PARTS}, "Yes."),
    "three-blocks": ({"content": "<think>Plan.</think>\n<think>More.</think> <think></think>Yes."}, "Yes."),
    "mentioned": ({"content": QUOTED}, QUOTED),
    "mentioned-after": ({"content": f"<think>Plan.</think>{QUOTED}"}, QUOTED),
    "mentioned-beside": ({"content": QUOTED, "reasoning_content": "Plan."}, QUOTED),
}  # fmt: skip
BLOCKS: dict[str, tuple[list[dict[str, Any]], str]] = {  # of a message of Anthropic's
    "in-text": ([{"type": "text", "text": "<think>Plan.</think>Yes."}], "Yes."),
    "in-two": ([{"type": "text", "text": "<thinking>Plan.</thinking>"}, {"type": "text", "text": "Yes."}], "Yes."),
    "beside": ([BLOCK, {"type": "text", "text": "<think>Plan.</think>Yes."}], "Yes."),
    "said": ([{"type": "text", "text": QUOTED}], QUOTED),
}  # fmt: skip


def odd_message(fields: dict[str, Any]) -> Answer:
    return answer(chat(message=fields))


@pytest.fixture(scope="module")
def server() -> Iterator[Habits]:
    modes = {name: Mode(odd_message(fields)) for name, (fields, _) in FIELDS.items()}
    modes |= {name: Mode(answer(message(content=blocks))) for name, (blocks, _) in BLOCKS.items()}
    modes["cut"] = Mode(answer(chat("<think>Plan, and then", "length")))
    modes["late"] = Mode(answer(chat("Sure.\n\n<think>\nPlan.\n</think>\n\nYes, it is late, so go to bed.")))
    with serving(modes) as habits:
        yield habits


def sampled(model: str, folder: Path, **options: Any) -> tuple[list[str], list[str | None]]:
    """The replies of a run over one prompt, and the reasoning of its calls."""
    list(cai.sample(["Is it late?"], model=model, n=1, out=folder, **options))
    rows = [json.loads(line) for line in (folder / "candidates.jsonl").read_text().splitlines()]
    replies = [reply["text"] for row in rows for reply in row["replies"]]
    return replies, [call.completion.reasoning for call in cai.read_calls(folder)]


@pytest.mark.parametrize("mode", FIELDS)
def test_of_openais_protocol(mode: str, server: Habits, tmp_path: Path) -> None:
    replies, thoughts = sampled("openai:m", tmp_path / "run", base_url=server.url(mode))
    assert replies == [FIELDS[mode][1]]
    assert all("Plan." in (thought or "") for thought in thoughts) or mode == "mentioned"


@pytest.mark.parametrize("mode", BLOCKS)
def test_of_anthropics_protocol(mode: str, server: Habits, tmp_path: Path) -> None:
    replies, thoughts = sampled("anthropic:claude-haiku-4-5", tmp_path / "run", base_url=server.url(mode, ""))
    assert replies == [BLOCKS[mode][1]]
    assert all("Plan." in (thought or "") for thought in thoughts) or mode == "said"


def test_thoughts_that_were_cut_are_no_reply(server: Habits, tmp_path: Path) -> None:
    list(cai.sample(["Is it late?"], model="openai:m", n=1, out=tmp_path / "run", base_url=server.url("cut")))
    [row] = (tmp_path / "run" / "dropped.jsonl").read_text().splitlines()
    assert json.loads(row)["reason"] == "truncated"


def test_what_is_left_of_them_is_not_trained_on(server: Habits, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    rows = cai.generate(
        ["Is it late?"], "harmless", model="openai:m", out=folder, base_url=server.url("late"), rounds=1
    )
    assert len(list(rows)) == 1
    assert (folder / "sft.jsonl").read_text() == ""
    reasons = [json.loads(line)["reason"] for line in (folder / "dropped.jsonl").read_text().splitlines()]
    assert "thoughts" in reasons
    assert cai.audit(folder / "revisions.jsonl").counts["thoughts"] > 0


@pytest.mark.parametrize("text", ["<think>Plan.</think>Yes.", "[THINK]Plan.[/THINK]Yes.", "Plan.\n</think>\n\nYes."])
def test_of_recorded_answers(text: str, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps({"id": "1", "role": "assistant", "index": 0, "reply": text}) + "\n")
    recorded = f"recorded:{tmp_path / 'a.jsonl'}"
    list(cai.sample([{"id": "1", "prompt": "Is it late?"}], model=recorded, n=1, out=tmp_path / "run"))
    assert sampled_texts(tmp_path / "run") == ["Yes."]


def sampled_texts(folder: Path) -> list[str]:
    rows = [json.loads(line) for line in (folder / "candidates.jsonl").read_text().splitlines()]
    return [reply["text"] for row in rows for reply in row["replies"]]


@pytest.mark.parametrize("special", [True, False])
@pytest.mark.parametrize(
    ("opens", "closes"),
    [("<think>", "</think>"), ("[THINK]", "[/THINK]"), ("<|START_THINKING|>", "<|END_THINKING|>")],
)  # fmt: skip
@pytest.mark.parametrize("opened", [True, False])
def test_of_models_of_transformers_whose_marks_are_tokens(
    opens: str, closes: str, special: bool, opened: bool, tmp_path: Path
) -> None:
    transformers = pytest.importorskip("transformers")
    words = tiny.tokenizer()
    marks = [transformers.AddedToken(mark, special=special, normalized=False) for mark in (opens, closes)]
    words.add_tokens(marks, special_tokens=special)
    tokenizer = HFTokenizer(words)
    prompt = tokenizer.conversation([{"role": "user", "content": "Is it late?"}], answer=True)
    said = words.encode(f"{opens}\nPlan.\n{closes}\n\nYes.", add_special_tokens=False)
    assert {*words.convert_tokens_to_ids([opens, closes])} <= {*said}
    row = Row(ids=prompt + said[:1] if opened else prompt)
    row.ids = prompt + said
    model = HFModel(str(tiny.model(tmp_path)))
    done = model._completion(row, {"messages": [], "stop": []}, tokenizer)
    assert (done.text, done.reasoning) == ("Yes.", "Plan.")
