from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import pytest
from stub import stub

from cai.constitution.principles import Constitution
from cai.errors import RunError, UsageError
from cai.folder.journal.store import read_calls
from cai.records import Request
from cai.runs.kinds.doors import generate
from cai.runs.kinds.generate import GenerateRun
from cai.runs.kinds.settings import GenerateSettings
from cai.runs.plan import Estimate, estimate
from cai.runs.rehearsal import count_tokens
from cai.sources.yamlfile import make_settings

LAW = Constitution.model_validate(
    {"name": "law", "version": "1.0.0", "principles": [{"id": "kind", "critique": "c" * 40, "revise": "r" * 80}]}
)
TEMPLATES = {"critique.jinja": "{{ principle.critique }}", "revise.jinja": "{{ principle.revise }}"}


def plan(prompts: Any, law: Constitution = LAW, **given: Any) -> Estimate:
    return estimate(
        GenerateRun(
            prompts,
            make_settings(GenerateSettings, {"constitution": law, "model": "openai:no-such-model", **given}),
        )
    )


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    """Templates that add no word to the principle's."""
    folder = tmp_path / "plain"
    folder.mkdir()
    for name, text in TEMPLATES.items():
        (folder / name).write_text(text)
    return folder


def letters(text: str) -> dict[str, Any]:
    """The log probabilities of a word that a gate may answer with."""
    if text not in ("Yes", "No"):
        return {}
    return {"logprobs": [{"Yes": -3.0, "No": -3.0, text: -0.1, "x": -9.0}]}


@pytest.fixture
def answers(tmp_path: Path) -> str:
    """Recorded answers for rows 0 to 4: two rounds, and rows 1 and 3 have nothing to fix in the first."""
    path = tmp_path / "answers.jsonl"
    lines = []
    for row in range(5):
        nothing = row in (1, 3)
        said = [("assistant", 0, "Hello."), ("critic", 0, "Curt."), ("critic", 1, "Curt."), ("gate", 1, "Yes")]
        said += [("gate", 0, "No" if nothing else "Yes"), ("reviser", 0, "Good day."), ("reviser", 1, "Good evening.")]
        lines += [
            {"id": str(row), "role": role, "index": index, "reply": text} | letters(text) for role, index, text in said
        ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return f"recorded:{path}"


ROWS = [{"id": str(n), "prompt": f"Prompt {n}"} for n in range(5)]


# By hand


def test_calls_and_tokens_are_those_counted_by_hand(plain: Path) -> None:
    found = plan(["p" * 400], templates=plain, rounds=1, max_tokens=200, price="10,100")
    # A token is 4 characters, a turn has 4 tokens of markers, an answer has half of max_tokens.
    prompt, reply, critique_question, critique, revise_question = 100 + 4, 100 + 4, 10 + 4, 100 + 4, 20 + 4
    asked = {
        "assistant": prompt,
        "critic": prompt + reply + critique_question,
        "reviser": prompt + reply + critique_question + critique + revise_question,
    }
    assert {role: part.input_tokens for role, part in found.roles.items()} == asked
    assert {role: (part.calls, part.output_tokens) for role, part in found.roles.items()} == dict.fromkeys(
        asked, (1, 100)
    )
    assert (found.calls, found.input_tokens, found.output_tokens) == (3, sum(asked.values()), 300)
    assert found.cost_usd == pytest.approx((sum(asked.values()) * 10 + 300 * 100) / 1e6)
    longer = sum(asked.values()) + 100 + 2 * 100  # one answer is in what the critic reads, two in the reviser's
    assert (found.most_input_tokens, found.most_output_tokens) == (longer, 600)
    assert found.most_cost_usd == pytest.approx((longer * 10 + 600 * 100) / 1e6)


def test_a_repeated_prompt_is_unusable_as_generate_drops_it_and_a_repeated_id_is_not(plain: Path) -> None:
    found = plan([{"id": "a", "prompt": "one"}, {"id": "a", "prompt": "two"}, {"prompt": "one"}], templates=plain)
    assert (found.prompts, found.unusable) == (2, 1)
    assert not any("cannot be used" in note for note in found.notes)


def test_the_first_record_that_is_no_prompt_is_told_with_its_place(plain: Path) -> None:
    found = plan(["a", {"n": 1}, {"m": 1}], templates=plain)
    assert (found.prompts, found.unusable) == (1, 2)
    [note] = (note for note in found.notes if "cannot be used" in note)
    assert note.startswith("record 2 is the first that cannot be used: no prompt") and "it has 'n'" in note


def test_a_text_counts_by_its_bytes() -> None:
    assert count_tokens(Request("assistant", text="a" * 400)) == 104
    assert count_tokens(Request("assistant", text="日" * 400)) == 304


@pytest.mark.parametrize(("rounds", "calls"), [(1, 4), (2, 7), (4, 13)])
def test_a_row_is_one_reply_and_three_calls_a_round(rounds: int, calls: int) -> None:
    assert plan(["a", "b"], rounds=rounds).calls == 2 * calls
    assert plan(["a", "b"], rounds=rounds, gate=False).calls == 2 * (calls - rounds)


@pytest.mark.parametrize("gate", [True, 0.0, 0.75, 1.0])
@pytest.mark.parametrize(("model", "words"), [("openai:gpt-4.1-mini", 1), ("local", 0), ("openai:gpt-5", 0)])
def test_the_gate_lets_nothing_pass_and_at_most_is_asked_for_a_word_too(gate: float, model: str, words: int) -> None:
    if model == "openai:gpt-5" and gate == 1.0:
        return
    found = plan(["a", "b"], model=model, gate=gate)
    assert found.roles["critic"].calls == 2 * 2 * 2
    assert (found.calls, found.most_calls) == (2 * 7, 2 * 7 + 2 * 2 * words * (gate is True or gate <= 0.75))
    assert found.roles["reviser"].calls == 2 * 2


def test_the_question_of_the_gate_has_its_tokens_and_an_answer_of_one(plain: Path) -> None:
    (plain / "gate.jinja").write_text("g" * 60)
    given: dict[str, Any] = {"templates": plain, "rounds": 1, "max_tokens": 200}
    without, found = plan(["p" * 400], gate=False, **given), plan(["p" * 400], **given)
    prompt, reply, critique_question, critique, question = 104, 104, 14, 104, 15 + 4
    assert found.input_tokens - without.input_tokens == prompt + reply + critique_question + critique + question
    assert found.output_tokens - without.output_tokens == 1


def test_what_is_no_prompt_or_comes_twice_is_not_asked() -> None:
    found = plan(["a", "b", "a", 5, "", "c"])
    assert (found.prompts, found.unusable, found.calls) == (3, 3, 21)
    assert plan(["a", "b", "c"], limit=2).calls == 14


# Beside a real run


@pytest.mark.parametrize("gate", [True, False])
def test_a_run_asks_no_more_than_planned_and_exactly_that_without_the_gate(
    answers: str, gate: bool, tmp_path: Path
) -> None:
    given: dict[str, Any] = {"model": answers, "gate": gate, "out": tmp_path / "run"}
    planned = plan(ROWS, **given)
    rows = list(generate(ROWS, LAW, **given))
    calls = len(list(read_calls(tmp_path / "run")))
    assert len(rows) == planned.prompts == 5
    assert planned.calls == (35 if gate else 25)
    assert calls == (33 if gate else 25)


def test_what_is_sent_has_as_many_tokens_as_planned_for_such_answers(tmp_path: Path) -> None:
    with stub() as server:
        given: dict[str, Any] = {
            "model": "openai:stub", "gate": False, "out": tmp_path / "run", "base_url": f"{server.url}/v1",
        }  # fmt: skip
        list(generate(ROWS, LAW, **given))
    calls = [call.request["payload"]["messages"] for call in read_calls(tmp_path / "run")]
    sent = sum(count_tokens(Request("assistant", tuple(messages))) for messages in calls)
    replies = sum(sum(turn["role"] == "assistant" for turn in messages) for messages in calls)
    planned = plan(ROWS, gate=False, max_tokens=2)  # answers of one token
    answered = sum(len(turn["content"]) for messages in calls for turn in messages if turn["role"] == "assistant")
    assert planned.calls == len(calls) == 25
    assert sent - answered / 4 == pytest.approx(planned.input_tokens - replies, abs=len(calls) + replies)


def test_what_a_folder_is_through_with_is_not_counted_again(answers: str, tmp_path: Path) -> None:
    given: dict[str, Any] = {"model": answers, "out": tmp_path / "run"}
    list(generate(ROWS, LAW, limit=3, **given))
    found = plan(ROWS, **given)
    assert (found.prompts, found.finished, found.calls) == (5, 3, 14)
    assert "3 through already" in found.lines()[0]
    assert plan(ROWS, force=True, **given).finished == 0
    assert plan(ROWS, seed=1, **given).finished == 0


def test_dropped_prompts_are_through_too(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    lines = [{"id": str(n), "role": "assistant", "index": 0, "reply": ""} for n in range(2)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    given: dict[str, Any] = {"model": f"recorded:{path}", "out": tmp_path / "run"}
    assert list(generate(ROWS, LAW, limit=2, **given)) == []
    assert plan(ROWS, **given).finished == 2


def test_a_damaged_run_json_is_told_of(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text("{")
    with pytest.raises(RunError, match=r"run\.json cannot be read"):
        plan(ROWS, out=tmp_path / "run")


def test_a_plan_opens_no_connection_and_writes_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a plan asks nothing")

    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, refuse, raising=False)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for model in ("openai:gpt-4.1-mini", "anthropic:claude-sonnet-4-5"):
        assert plan(None, model=model).prompts == 64
    assert list(tmp_path.iterdir()) == []


# Prices and time


def test_a_listed_model_has_its_price_and_another_has_none() -> None:
    listed, unlisted = plan(["a"], model="openai:gpt-4.1-mini"), plan(["a"])
    assert listed.cost_usd is not None and listed.most_cost_usd is not None
    assert 0 < listed.cost_usd < listed.most_cost_usd
    assert unlisted.cost_usd is unlisted.most_cost_usd is unlisted.roles["critic"].cost_usd is None
    assert "no listed price for openai:no-such-model: state it with --price IN,OUT" in "\n".join(unlisted.lines())
    assert "price unknown" in "\n".join(unlisted.lines())


def test_one_unlisted_model_makes_the_sum_unknown() -> None:
    found = plan(["a"], model="openai:gpt-4.1-mini", critic="openai:no-such-model")
    assert found.roles["assistant"].cost_usd is not None
    assert found.cost_usd is None


def test_a_cost_cap_is_refused_for_an_unlisted_model_and_compared_for_others() -> None:
    with pytest.raises(UsageError, match="--max-cost cannot hold"):
        plan(["a"], max_cost=1.0)
    notes = plan(["a"] + [str(n) for n in range(100)], price="100,100", max_cost=0.01).notes
    assert any("--max-cost" in note for note in notes)
    assert not any("--max-cost" in note for note in plan(["a"], price="0.01,0.01", max_cost=5.0).notes)


def test_the_time_is_zero_for_recorded_answers_and_bound_by_calls_a_minute(answers: str) -> None:
    assert plan(ROWS, model=answers).seconds == 0
    assert plan(ROWS, rpm=7).seconds == pytest.approx(35 / 7 * 60)
    assert plan(ROWS, model="openai:gpt-4.1-mini").seconds
    assert "about 5 minutes" in "\n".join(plan(ROWS, rpm=7).lines())
