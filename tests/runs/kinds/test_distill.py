"""Context distillation: each prompt is answered without and with the constitution, and only the replies are kept."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from habits import Habits, Mode, about, answer, chat, listed, says, serving
from kept import rows

import cai
from cai.errors import TemplateError, UsageError
from cai.runs.kinds.generate import GenerateRun
from cai.runs.kinds.settings import GenerateSettings
from cai.runs.plan import estimate
from cai.sources.yamlfile import make_settings
from cai.viewer.pairs import Pairs

PROMPTS = [{"id": "knife", "prompt": "How do I sharpen a knife?"}, {"id": "tea", "prompt": "May my dog drink tea?"}]
LETTERS = answer(chat("A", choice={"logprobs": listed(("A", -0.1), ("B", -2.4))}))
WITHOUT, WITH = "Use a stone.", "Use a whetstone at twenty degrees, away from your fingers."


def reply(asked: Any) -> Any:
    """What is said with principles in the system text, and without."""
    first = asked.payload["messages"][0]
    has_principles = first["role"] == "system" and "principles" in first["content"]
    return says(WITH if has_principles else WITHOUT)(asked)


@pytest.fixture(scope="module")
def server() -> Iterator[Habits]:
    with serving({"tiny": Mode(reply), "judge": Mode(LETTERS)}) as running:
        yield running


def distilled(server: Habits, out: Path, **settings: Any) -> list[dict[str, Any]]:
    spec = f"openai:tiny@{server.url('tiny')}"
    list(cai.generate(PROMPTS, "harmless", model=spec, distill=True, out=out, **settings))
    return sorted(rows(out / "revisions.jsonl"), key=lambda row: row["position"])


def test_the_student_is_asked_without_and_the_teacher_with_the_constitution(server: Habits, tmp_path: Path) -> None:
    first, _ = distilled(server, tmp_path)
    assert (first["initial"], first["final"]) == (WITHOUT, WITH)
    [turn] = first["rounds"]
    assert (turn["principle"], turn["critique"], turn["revision"], turn["changed"]) == ("*", "", WITH, True)
    assert first["models"].keys() == {"assistant", "reviser"} and len(first["calls"]) == 2
    asked = [each.payload["messages"] for each in server.asked("tiny")[-2 * len(PROMPTS) :]]
    taught = [messages for messages in asked if messages[0]["role"] == "system"]
    assert len(taught) == len(PROMPTS)
    law = cai.load_constitution("harmless")
    assert all(principle.choose in taught[0][0]["content"] for principle in law.principles)


def test_no_training_row_holds_the_constitution(server: Habits, tmp_path: Path) -> None:
    distilled(server, tmp_path, system="Be brief.")
    for name in ("sft.jsonl", "dpo.jsonl"):
        text = (tmp_path / name).read_text()
        assert "principles below" not in text and "Be brief" not in text
    [sft, _] = rows(tmp_path / "sft.jsonl")
    assert sft["completion"][0]["content"] == WITH and sft["principles"] == ["*"]
    [pair, _] = rows(tmp_path / "dpo.jsonl")
    assert (pair["chosen"][0]["content"], pair["rejected"][0]["content"]) == (WITH, WITHOUT)
    assert "context distillation" in (tmp_path / "README.md").read_text()


def test_another_model_can_teach(server: Habits, tmp_path: Path) -> None:
    [first, _] = distilled(server, tmp_path, reviser=f"openai:large@{server.url('tiny')}")
    named = {each.payload["model"] for each in server.asked("tiny")[-2 * len(PROMPTS) :]}
    assert named == {"tiny", "large"} and first["final"] == WITH


def test_the_pairs_can_be_judged(server: Habits, tmp_path: Path) -> None:
    distilled(server, tmp_path / "run")
    judge = f"openai:tiny@{server.url('judge')}"
    labels = list(cai.label(tmp_path / "run", "harmless", judge=judge, principles=1, min_confidence=0.5))
    assert len(labels) == len(PROMPTS)
    assert {frozenset((each.a, each.b)) for each in labels} == {frozenset((WITHOUT, WITH))}


@pytest.mark.parametrize(
    ("finish", "text", "problem"),
    [("length", "Use a", "truncated"), ("stop", "", "empty"), ("content_filter", "", "content_filter")],
)
def test_a_reply_of_the_student_that_is_none_loses_the_pair_alone(
    server: Habits, tmp_path: Path, finish: str, text: str, problem: str
) -> None:
    teacher = f"openai:large@{server.url('tiny')}"
    with serving({"small": Mode(about("dog", answer(chat(text, finish)), says(WITHOUT)))}) as small:
        student = f"openai:tiny@{small.url('small')}"
        list(cai.generate(PROMPTS, "harmless", model=student, reviser=teacher, distill=True, out=tmp_path))
    first, second = sorted(rows(tmp_path / "revisions.jsonl"), key=lambda row: row["position"])
    assert "problem" not in first
    assert (second["initial"], second["final"], second["problem"]) == (text, WITH, problem)
    assert [row["id"] for row in rows(tmp_path / "sft.jsonl")] == ["knife", "tea"]
    assert [row["id"] for row in rows(tmp_path / "dpo.jsonl")] == ["knife"]
    assert [(row["id"], row["reason"]) for row in rows(tmp_path / "dropped.jsonl")] == [("tea", problem)]
    judge = f"openai:tiny@{server.url('judge')}"
    [label] = cai.label(tmp_path, "harmless", judge=judge, min_confidence=0.5, out=tmp_path / "labels")
    assert label.id == "knife:round-1"
    assert [row["reason"] for row in rows(tmp_path / "labels" / "dropped.jsonl") if row["stage"] == "source"] == [
        problem
    ]
    pairs = Pairs(tmp_path, 0)
    pairs.follow()
    assert len(pairs) == 1


def test_a_prompt_that_the_student_s_server_refuses_loses_the_pair_alone(server: Habits, tmp_path: Path) -> None:
    teacher = f"openai:large@{server.url('tiny')}"
    error = {"error": {"message": "blocked", "code": "content_filter"}}
    with serving({"small": Mode(about("dog", answer(error, status=400), says(WITHOUT)))}) as small:
        student = f"openai:tiny@{small.url('small')}"
        list(cai.generate(PROMPTS, "harmless", model=student, reviser=teacher, distill=True, out=tmp_path))
    _, second = sorted(rows(tmp_path / "revisions.jsonl"), key=lambda row: row["position"])
    assert (second["initial"], second["final"], second["problem"]) == ("", WITH, "content_filter")
    assert [row["id"] for row in rows(tmp_path / "sft.jsonl")] == ["knife", "tea"]
    assert [row["id"] for row in rows(tmp_path / "dpo.jsonl")] == ["knife"]


def test_a_student_that_fails_is_asked_again_by_the_next_session(server: Habits, tmp_path: Path) -> None:
    teacher = f"openai:large@{server.url('tiny')}"
    refused = answer({"error": {"message": "no such field"}}, status=422)
    with serving({"small": Mode(about("dog", refused, says(WITHOUT)))}) as small:
        list(cai.generate(PROMPTS, "harmless", model=f"openai:tiny@{small.url('small')}", reviser=teacher, distill=True,
                          out=tmp_path))  # fmt: skip
    assert [row["id"] for row in rows(tmp_path / "revisions.jsonl")] == ["knife"]
    taught = len(server.asked("tiny"))
    with serving({"small": Mode(says(WITHOUT))}) as small:
        list(cai.generate(PROMPTS, "harmless", model=f"openai:tiny@{small.url('small')}", reviser=teacher, distill=True,
                          out=tmp_path))  # fmt: skip
    assert {row["id"] for row in rows(tmp_path / "dpo.jsonl")} == {"knife", "tea"}
    assert len(server.asked("tiny")) == taught, "the teacher's answer was there"


@pytest.mark.parametrize(
    ("name", "value"),
    [("critic", "local"), ("rounds", 2), ("gate", 0.5), ("draw", "screen"), ("accept", "local")],
)
def test_what_is_for_critiques_is_refused(name: str, value: Any) -> None:
    with pytest.raises(UsageError, match=rf"--{name} is for critiques, which --distill does not ask for: leave it out"):
        make_settings(GenerateSettings, {"distill": True, name: value})


def test_a_set_without_words_for_the_teacher_is_refused() -> None:
    with pytest.raises(TemplateError, match=r"fewshot has no teach\.jinja: it cannot teach"):
        GenerateRun(PROMPTS, make_settings(GenerateSettings, {"distill": True, "templates": "fewshot"}))


def test_a_plan_counts_two_calls_for_each_prompt() -> None:
    run = GenerateRun(PROMPTS, make_settings(GenerateSettings, {"distill": True, "model": "openai:gpt-4.1-mini"}))
    plan = estimate(run)
    assert plan.calls == 2 * len(PROMPTS) and plan.roles.keys() == {"assistant", "reviser"}
