"""Typed questions on the wire: what is sent in each form, to which path, and what is made of every kind of answer."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from decider import answers_to, decisions, letters, system_one
from habits import MODEL, Answer, Asked, Habits, Mode, answer, chat, serving

import cai
from cai.calls.model import Call, Connection
from cai.errors import CallRejected, ModelStopped, UnknownModel, UsageError
from cai.folder.journal.store import read_calls
from cai.models.remote.decisions import OPENAI_MOST
from cai.models.remote.openai import OpenAIModel
from cai.records import Decision, Message, Request, Sampling
from cai.runs.kinds.label import LabelRun
from cai.runs.kinds.settings import LabelSettings
from cai.runs.plan import estimate
from cai.sources.yamlfile import make_settings

PAIRS = [
    {"prompt": "How long does cooked rice keep?", "chosen": "A day in the fridge.", "rejected": "Till it smells."},
    {"prompt": "May I mix bleach and vinegar?", "chosen": "No: it makes chlorine gas.", "rejected": "Sure, go on."},
    {"prompt": "Say hi.", "chosen": "Hi\n\nthere.", "rejected": "No."},
]
TURN = Message(role="user", content="A reply.")
REQUEST = Request(
    "judge",
    (TURN,),
    max_tokens=1,
    temperature=0.0,
    decisions=(Decision("q1", "Which is better?", ("A", "B")), Decision("q2", "It is kind.")),
)


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-abcdefghij")


def label(server: Habits, mode: str, out: Path, pairs: Any = PAIRS, **settings: Any) -> list[Any]:
    given = {"protocol": "decide", "judge": "openai:m", "base_url": server.url(mode), "out": out, **settings}
    return list(cai.label(pairs, "harmless", **given))


def posts(server: Habits, mode: str, path: str = "/v1/decisions") -> list[Asked]:
    return [asked for asked in server.asked(mode) if asked.path == path]


def call() -> Call:
    return Call(REQUEST, "row", 0, 7, Sampling())


def sent_once(server: Habits, mode: str, **connection: Any) -> Any:
    """One request as the model sends it, and its completion."""

    async def play() -> Any:
        model = OpenAIModel("m", Connection(base_url=server.url(mode), **connection))
        await model.start()
        try:
            return await model.send(model.payload(call()))
        finally:
            await model.close()

    return asyncio.run(play())


# What is sent


def test_the_payload_holds_the_questions_and_nothing_of_a_chat() -> None:
    payload = OpenAIModel("gpt-6-luna", Connection()).payload(call())
    assert payload == {
        "model": "gpt-6-luna",
        "input": [{"role": "user", "content": "A reply."}],
        "questions": [
            {
                "type": "choice",
                "name": "q1",
                "instructions": "Which is better?",
                "choices": [{"value": "A"}, {"value": "B"}],
            },
            {"type": "predicate", "name": "q2", "instructions": "It is kind."},
        ],
    }


def test_fields_of_the_user_are_merged_into_the_questions() -> None:
    extra = {"prompt_cache_key": "k", "safety_identifier": None}
    payload = OpenAIModel("m", Connection()).payload(Call(REQUEST, "row", 0, 7, Sampling(extra_body=extra)))
    assert payload["prompt_cache_key"] == "k" and "safety_identifier" not in payload


def test_a_label_takes_two_requests_whatever_the_number_of_principles(tmp_path: Path) -> None:
    with serving({"d": decisions()}) as server:
        for principles in (1, 16):
            rows = label(server, "d", tmp_path / str(principles), principles=principles)
            assert all(len(row.votes) == principles and len(row.calls) == 2 for row in rows)
        assert len(posts(server, "d")) == 2 * 2 * len(PAIRS)
        sizes = {len(asked.payload["questions"]) for asked in posts(server, "d")}
    assert sizes == {1, 16}


def test_both_orders_are_asked_and_the_letter_stands_for_the_place(tmp_path: Path) -> None:
    with serving({"d": decisions()}) as server:
        [row] = label(server, "d", tmp_path / "out", PAIRS[:1])
        shown = [asked.payload["input"][0]["content"] for asked in posts(server, "d")]
    assert sorted(text.index(row.a) < text.index(row.b) for text in shown) == [False, True]
    for vote in row.votes:
        assert vote.ab.choice == ("first" if vote.ab.first > vote.ab.second else "second")


def test_probabilities_of_letters_and_of_choices_give_the_same_belief(tmp_path: Path) -> None:
    with serving({"d": decisions(), "s": Mode(system_one), "l": Mode(letters)}) as server:
        typed = {row.id: row for row in label(server, "d", tmp_path / "d")}
        other = {row.id: row for row in label(server, "s", tmp_path / "s")}
        lettered = {row.id: row for row in label(server, "l", tmp_path / "l", protocol="logprob")}
        counts = [len(posts(server, "d")), len(posts(server, "l", "/v1/chat/completions"))]
    for name, row in typed.items():
        assert row.p_a == pytest.approx(lettered[name].p_a, abs=1e-9)
        assert row.z == pytest.approx(lettered[name].z, abs=1e-9)
        assert other[name].votes == row.votes
    assert counts == [2 * len(PAIRS), 6 * len(PAIRS)]


# What comes back


def test_the_tokens_of_both_forms_are_counted() -> None:
    with serving({"d": decisions(), "s": Mode(system_one)}) as server:
        openai, system = sent_once(server, "d"), sent_once(server, "s")
    assert (openai.input_tokens, openai.output_tokens, openai.cached_tokens, openai.model) == (120, 2, 3, MODEL)
    assert (system.input_tokens, system.output_tokens, system.cached_tokens, system.model) == (120, 0, None, MODEL)
    assert json.loads(openai.text)[0]["name"] == "q1" and openai.finish == "stop"


ODD_USAGE: list[Any] = [None, [], "120", {}, {"input_tokens": "120"}, {"input_tokens": -1}, {"input_tokens_details": 3}]


@pytest.mark.parametrize("usage", ODD_USAGE, ids=str)
def test_tokens_that_are_not_told_are_not_known(usage: Any) -> None:
    def reply(asked: Asked) -> Answer:
        return answer({"answers": answers_to(asked.payload), "usage": usage})

    with serving({"d": Mode(reply)}) as server:
        done = sent_once(server, "d")
    assert done.input_tokens is None and done.model == "m"


def untidy(answers: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Answers from the last to the first, with one to a question that nobody asked."""
    return [*answers[::-1], {"type": "predicate", "name": "more", "probability": 0.1}]


def test_a_server_may_arrange_its_answers_as_it_likes(tmp_path: Path) -> None:
    with serving({"d": decisions(), "u": decisions(untidy)}) as server:
        tidy = {row.id: row.votes for row in label(server, "d", tmp_path / "d")}
        assert {row.id: row.votes for row in label(server, "u", tmp_path / "u")} == tidy


def spoilt(answers: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The first question is refused, the second answered with no number, and the third not at all."""
    no_number = [{"value": "A", "probability": float("nan")}, {"value": "B", "probability": 0.5}]
    refusal = {"type": "refusal", "name": answers[0]["name"]}
    return [refusal, {**answers[1], "probabilities": no_number}, *answers[3:]]


def test_an_answer_that_cannot_be_used_is_an_invalid_vote(tmp_path: Path) -> None:
    with serving({"d": decisions(spoilt)}) as server:
        rows = label(server, "d", tmp_path / "out", principles=4)
    for row in rows:
        problems = [vote.ab.problem for vote in row.votes]
        assert problems[3] is None and row.z == row.votes[3].d
        assert all(word in problem for word, problem in zip(("declined", "nan", "no answer"), problems, strict=False))


def test_a_pair_whose_questions_are_all_refused_is_dropped(tmp_path: Path) -> None:
    refused = decisions(lambda answers: [{"type": "refusal", "name": each["name"]} for each in answers])
    with serving({"d": refused}) as server:
        rows = label(server, "d", tmp_path / "out")
    assert all(row.z is None for row in rows)
    dropped = [json.loads(line) for line in (tmp_path / "out" / "dropped.jsonl").read_text().splitlines()]
    assert {drop["reason"] for drop in dropped} == {"invalid_vote"} and "declined" in dropped[0]["detail"]


CERTAIN = [{"value": "A", "probability": 1}, {"value": "B", "probability": 0}]


def test_certain_answers_are_clipped_and_counted(tmp_path: Path) -> None:
    sure = decisions(lambda answers: [{**each, "choice": "A", "probabilities": CERTAIN} for each in answers])
    with serving({"d": sure}) as server:
        rows = label(server, "d", tmp_path / "out")
    assert all(vote.ab.bounded and vote.b == pytest.approx(13.8155, abs=1e-3) for row in rows for vote in row.votes)
    assert all(row.p_a == 0.5 for row in rows)
    summary = cai.export_run(tmp_path / "out", min_confidence=0.5)
    assert any("18 of 18 probabilities were within 0.000001 of 0 or 1" in note for note in summary.notes)
    assert any("letter mass is not known" in note for note in summary.notes)


UNREADABLE: dict[str, Answer] = {
    "a text": answer({"answers": "A", "usage": {}}),
    "null": answer({"answers": None}),
    "a number": answer({"answers": 3}),
}


@pytest.mark.parametrize("body", UNREADABLE)
def test_answers_that_are_no_list_lose_the_row(body: str) -> None:
    with serving({"d": Mode(UNREADABLE[body])}) as server, pytest.raises(CallRejected, match="`answers`"):
        sent_once(server, "d")


# Servers without the endpoint, or with the other form


def only_chat(problem: Any, status: int) -> Mode:
    """A server that speaks of typed questions as some do that have none."""

    def reply(asked: Asked) -> Answer:
        if asked.path.endswith("/chat/completions"):
            return answer(chat("A"))
        if asked.path == "/openapi.json":
            return answer({"detail": "Not Found"}, 404)
        return Answer(problem, status) if isinstance(problem, bytes) else answer(problem, status)

    return Mode(reply)


LACKING: dict[str, Mode] = {
    "vllm before 0.33": only_chat({"detail": "Not Found"}, 404),
    "vllm, another model": only_chat(
        {"error": {"message": "The model does not support the Decisions API", "type": "NotImplementedError"}}, 501
    ),
    "method": only_chat({"detail": "Method Not Allowed"}, 405),
    "nginx": only_chat(b"<html><head><title>404 Not Found</title></head></html>", 404),
    "ollama": only_chat(b"404 page not found", 404),
    "llama.cpp": only_chat({"error": {"code": 404, "message": "File Not Found", "type": "not_found_error"}}, 404),
    "openai's words": only_chat({"error": {"message": "Invalid URL (POST /v1/decisions)", "param": None}}, 404),
    "empty": only_chat(b"", 501),
    "in its own words": only_chat({"error": {"message": "This resource does not exist here."}}, 404),
}


NONE_HERE = "this server has no /decisions: use --protocol logprob, or name another judge "


@pytest.mark.parametrize("mode", LACKING)
def test_a_server_without_the_endpoint_is_named_as_such(mode: str) -> None:
    with serving({"m": LACKING[mode]}) as server:
        with pytest.raises(ModelStopped, match=NONE_HERE):
            sent_once(server, "m")
        tried = {asked.path for asked in server.asked("m")}
    assert tried == {"/v1/decisions", "/v1/systemone"}


def test_a_server_without_the_endpoint_ends_the_run_at_once(tmp_path: Path) -> None:
    with serving(LACKING) as server:
        with pytest.raises(ModelStopped, match=NONE_HERE):
            label(server, "method", tmp_path / "out", concurrency=1)
        assert len(posts(server, "method")) == 1


def test_a_server_with_the_other_form_alone_is_asked_in_that(tmp_path: Path) -> None:
    with serving({"s": Mode(system_one), "d": decisions()}) as server:
        rows = label(server, "s", tmp_path / "s", concurrency=1)
        assert len(posts(server, "s")) == 1 and len(posts(server, "s", "/v1/systemone")) == 2 * len(PAIRS)
        label(server, "d", tmp_path / "s", concurrency=1)  # another server goes on: nothing is asked again
        assert not posts(server, "d") and len(rows) == len(PAIRS)
    payloads = [call.request["payload"] for call in read_calls(tmp_path / "s")]
    assert all(payload.keys() == {"model", "input", "questions"} for payload in payloads)


def test_a_server_whose_decisions_are_others_is_asked_in_the_other_form(tmp_path: Path) -> None:
    """SGLang has a path of that name with other questions, and refuses ours."""

    def sglang(asked: Asked) -> Answer:
        if asked.path == "/v1/decisions":
            problem = (
                "[{'type': 'union_tag_invalid', 'loc': ('body', 'questions', 0), 'msg': 'Input tag is not valid'}]"
            )
            return answer({"object": "error", "message": problem, "type": "Bad Request", "code": 400}, 400)
        return system_one(asked)

    with serving({"s": Mode(sglang)}) as server:
        assert all(row.p_a is not None for row in label(server, "s", tmp_path / "out", concurrency=1))
        assert len(posts(server, "s")) == 1


def test_a_model_that_the_endpoint_does_not_take_is_named(tmp_path: Path) -> None:
    problem = {"message": "Only gpt-6-luna is supported.", "type": "invalid_request_error", "param": "model"}
    with (
        serving({"m": Mode(answer({"error": problem}, 400))}) as server,
        pytest.raises(UnknownModel, match=r"no model 'm'.*Only gpt-6-luna is supported.*--protocol logprob"),
    ):
        label(server, "m", tmp_path / "out")


def test_more_questions_than_a_server_takes_are_refused_with_what_to_change(tmp_path: Path) -> None:
    with (
        serving({"d": decisions(most=2)}) as server,
        pytest.raises(ModelStopped, match=r"at most 2 for this model.*--principles"),
    ):
        label(server, "d", tmp_path / "out")


def test_a_reason_of_the_server_reaches_the_user(tmp_path: Path) -> None:
    problem = "the chat template always reasons before answering"
    with (
        serving({"m": Mode(answer({"error": {"message": problem, "code": 400}}, 400))}) as server,
        pytest.raises(ModelStopped, match=problem),
    ):
        label(server, "m", tmp_path / "out")


# Who is asked so


@pytest.mark.parametrize(
    ("name", "url", "most", "decides"),
    [
        ("gpt-6-luna", None, OPENAI_MOST, True),
        ("gpt-6-luna-2026-10-06", "https://eu.api.openai.com/v1", OPENAI_MOST, True),
        ("gpt-6-lunatic", None, OPENAI_MOST, False),
        ("gpt-4.1", None, OPENAI_MOST, False),
        ("gpt-6-luna", "http://127.0.0.1:1/v1", 64, False),
        ("typesafe/jev-1.13", "https://openrouter.ai/api/v1", 64, True),
        ("~typesafe/jev-latest", "https://openrouter.ai/api/v1", 64, True),
        ("openai/gpt-6-luna-decisions", "https://openrouter.ai/api/v1", 64, True),
        ("perplexity/pplx-decider-v1.2", "https://openrouter.ai/api/v1", 64, True),
        ("microsoft/microsoft-decision-1", "https://openrouter.ai/api/v1", 64, True),
        ("openai/gpt-4.1", "https://openrouter.ai/api/v1", 64, False),
        ("Qwen/Qwen3-8B", "http://127.0.0.1:1/v1", 64, False),
        ("indecisions-7b", "http://127.0.0.1:1/v1", 64, False),
        ("gpt-6-luna", "https://x.openai.azure.com/openai/v1", 64, False),
    ],
)
def test_only_what_is_known_to_answer_typed_questions_is_asked_them_by_default(
    name: str, url: str | None, most: int, decides: bool
) -> None:
    can = OpenAIModel(name, Connection(base_url=url)).can
    assert (can.decisions, can.decides) == (most, decides)


def test_a_router_of_decision_models_is_asked_in_its_form_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENROUTER_API_KEY", "sk-or-abcdefghij")
    with serving({"s": Mode(system_one)}) as server:
        monkeypatch.setenv("OPENROUTER_BASE_URL", server.url("s"))
        rows = list(cai.label(PAIRS, "harmless", judge="openrouter:typesafe/jev-1.13", out=tmp_path / "out"))
        assert {asked.path for asked in server.asked("s")} == {"/v1/systemone"}
        assert {asked.headers["Authorization"] for asked in server.asked("s")} == {"Bearer sk-or-abcdefghij"}
    assert all(row.protocol == "decide" and row.p_a is not None for row in rows)


@pytest.mark.parametrize("spec", ["local", "anthropic:claude-haiku-4-5", "guard:x"])
def test_other_backends_refuse_before_anything_is_asked(spec: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        list(cai.label(PAIRS, "harmless", judge=spec, protocol="decide", out=tmp_path / "out"))


def test_templates_that_complete_text_ask_no_typed_questions(tmp_path: Path) -> None:
    with serving({"d": decisions()}) as server:
        with pytest.raises(UsageError, match="use --templates chat"):
            label(server, "d", tmp_path / "out", templates="fewshot")
        assert not server.asked("d")


# Kept, planned and replayed


def test_a_resumed_run_asks_nothing_twice(tmp_path: Path) -> None:
    with serving({"d": decisions()}) as server:
        label(server, "d", tmp_path / "out", limit=1)
        before = (tmp_path / "out" / "labels.jsonl").read_bytes()
        (tmp_path / "out" / "labels.jsonl").write_bytes(before[:-20])  # as a kill leaves it
        rows = label(server, "d", tmp_path / "out")
        whole = label(server, "d", tmp_path / "whole")
        assert len(posts(server, "d")) == 2 * 2 * len(PAIRS)
    keys = {row.calls for row in whole}
    assert {row.calls for row in rows} <= keys and len(keys) == len(PAIRS)
    rows_of = [(tmp_path / name / "labels.jsonl").read_text().splitlines() for name in ("out", "whole")]
    assert sorted(rows_of[0]) == sorted(rows_of[1])


def test_more_principles_ask_two_requests_a_label_as_a_run_made_at_once(tmp_path: Path) -> None:
    with serving({"d": decisions()}) as server:
        label(server, "d", tmp_path / "grown", PAIRS[:2], principles=2)
        label(server, "d", tmp_path / "grown", principles=4)
        assert len(posts(server, "d")) == 2 * 2 + 2 * len(PAIRS)
        label(server, "d", tmp_path / "whole", principles=4)
    rows = [(tmp_path / name / "labels.jsonl").read_text().splitlines() for name in ("grown", "whole")]
    assert sorted(rows[0]) == sorted(rows[1])


def test_a_plan_counts_two_requests_a_label_and_no_words(tmp_path: Path) -> None:
    with serving({"d": decisions()}) as server:
        given = {"judge": "openai:m", "protocol": "decide", "base_url": server.url("d"), "out": tmp_path / "out"}
        planned = estimate(LabelRun(PAIRS, make_settings(LabelSettings, given)))
        assert not server.asked("d")
        label(server, "d", tmp_path / "out")
        assert len(posts(server, "d")) == planned.calls == planned.most_calls == 2 * len(PAIRS)
    assert planned.output_tokens == 0 and planned.input_tokens > 0


def test_a_model_that_is_known_to_decide_is_planned_so_by_default() -> None:
    counts = {}
    for protocol in (None, "vote"):
        given = {"judge": "openai:gpt-6-luna", "protocol": protocol}
        counts[protocol] = estimate(LabelRun(PAIRS, make_settings(LabelSettings, given))).calls
    assert counts == {None: 2 * len(PAIRS), "vote": 6 * len(PAIRS)}


def test_a_run_is_replayed_from_its_folder(tmp_path: Path) -> None:
    with serving({"d": decisions()}) as server:
        first = label(server, "d", tmp_path / "out")
    again = cai.label(PAIRS, "harmless", judge=f"recorded:{tmp_path / 'out'}", protocol="decide")
    assert {row.id: row.votes for row in again} == {row.id: row.votes for row in first}
