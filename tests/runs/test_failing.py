"""Models that fail: one of several that answers nothing ends a run, prompts on which a server always fails do not."""

from __future__ import annotations

import json
import random
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from habits import Answer, Asked, Mode, answer, at_first, chat, says, serving

from cai.cli.runs import play_shown
from cai.errors import CaiError, ModelStopped, RunError, ServerDown
from cai.runs.kinds.generate import GenerateRun
from cai.runs.kinds.label import LabelRun
from cai.runs.kinds.sample import SampleRun
from cai.runs.run import Run

REFUSES = answer({"error": {"message": "this field is not welcome here"}}, 400)
FAILS = answer({"error": {"message": "CUDA error: an illegal memory access"}}, 500)
BROKEN = [
    FAILS,
    answer({"error": "upstream gave up"}, 502),
    answer({"detail": "worker died"}, 503),
    Answer(b"<html>Gateway Time-out</html>", 504, {"Content-Type": "text/html"}),
    answer({"error": {"type": "api_error", "message": "Internal"}}, 599),
    Answer(lambda: iter([b'{"choices": [']), 200, {"Content-Length": "100"}),  # breaks off
    Answer(b'{"choices": [{"mess'),
    Answer(b""),
]


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cai.calls.limits.BACKOFF", 0.001)


@contextmanager
def server(reply: Callable[[Asked], Answer]) -> Iterator[str]:
    with serving({"mixed": Mode(reply)}) as habits:
        yield habits.url("mixed")


def unless(model: str, special: Answer) -> Callable[[Asked], Answer]:
    """Answers `special` for this model, and the others with words that differ."""

    def reply(asked: Asked) -> Answer:
        if asked.payload["model"] == model:
            return special
        return says(f"Reply {asked.number} about it.")(asked)

    return reply


def rows_of(folder: Path, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


def finish(run: Run[Any]) -> None:
    """Play a run and its other parts, as the command line does."""
    for part in run.sessions():
        part.finish()


def questions(count: int) -> list[str]:
    return [f"Question number {n}?" for n in range(count)]


def pairs(path: Path, count: int) -> Path:
    lines = [json.dumps({"prompt": f"Q{n}?", "chosen": f"Yes {n}.", "rejected": f"No {n}."}) for n in range(count)]
    path.write_text("\n".join(lines))
    return path


# One model of several


def generating(**models: str) -> Callable[[Path, int, dict[str, Any]], Run[Any]]:
    def make(folder: Path, count: int, options: dict[str, Any]) -> Run[Any]:
        return GenerateRun(questions(count), settings_of(GenerateRun, out=folder / "out", **models, **options))

    return make


def sampling(**settings: Any) -> Callable[[Path, int, dict[str, Any]], Run[Any]]:
    def make(folder: Path, count: int, options: dict[str, Any]) -> Run[Any]:
        return SampleRun(questions(count), settings_of(SampleRun, out=folder / "out", **settings, **options))

    return make


def labelling(gold: bool) -> Callable[[Path, int, dict[str, Any]], Run[Any]]:
    def make(folder: Path, count: int, options: dict[str, Any]) -> Run[Any]:
        more: dict[str, Any] = {"gold": pairs(folder / "gold.jsonl", count)} if gold else {}
        settings = settings_of(
            LabelRun, judge="openai:bad", protocol="vote", principles=1, out=folder / "out", **more, **options
        )
        return LabelRun(pairs(folder / "pairs.jsonl", count), settings)

    return make


def settings_of(kind: type[Run[Any]], **values: Any) -> Any:
    return kind.settings_class(**values)


GOOD, BAD = "openai:good", "openai:bad"
SEATS = {
    "assistant": (generating(model=BAD), "assistant"),
    "critic": (generating(model=GOOD, critic=BAD, reviser=GOOD), "critic"),
    "reviser": (generating(model=GOOD, reviser=BAD, gate=False), "reviser"),
    "second sampler": (sampling(model=[GOOD, BAD]), "assistant"),
    "third sampler": (sampling(model=[GOOD, "openai:fine", BAD], n=1), "assistant"),
    "judge": (labelling(gold=False), "judge"),
    "gold judge": (labelling(gold=True), "judge"),
    "judge of the best": (sampling(model=GOOD, best_of=2, judge=BAD, protocol="vote", principles=1), "judge"),
}


SILENCES = {"22 refusals": (REFUSES, 22), "2 refusals": (REFUSES, 2), "22 failures": (FAILS, 22)}
IN_ALL_WAYS = ("critic", "judge of the best")  # seats whose model fails in each of these in the default suite


def unless_slow(often: bool, *values: Any) -> Any:
    """Values for a test, which are left to `pytest -m slow` if they show little that others do not."""
    return pytest.param(*values, marks=() if often else pytest.mark.slow)


@pytest.mark.parametrize(
    ("seat", "silence"),
    [
        unless_slow(seat in IN_ALL_WAYS or silence == "22 refusals", seat, silence)
        for seat in SEATS
        for silence in SILENCES
    ],
)
def test_a_model_that_answers_nothing_ends_the_run_by_name(seat: str, silence: str, tmp_path: Path) -> None:
    special, count = SILENCES[silence]
    make, role = SEATS[seat]
    with server(unless("bad", special)) as url:
        made = make(tmp_path, count, {"base_url": url, "concurrency": 2})
        with pytest.raises(ModelStopped, match=f"openai:bad answered none of ({count}|2.) rows as {role}"):
            finish(made)
    assert made.resumable
    with server(says("A")) as url:
        again = make(tmp_path, count, {"base_url": url, "concurrency": 2})
        if seat != "gold judge":  # whose labels would not calibrate it
            finish(again)
            assert again.finished + again.skipped == count


WITHHELD = {
    "a filter's refusal": answer({"error": {"message": "This prompt was flagged", "code": "invalid_prompt"}}, 400),
    "a filtered reply": answer(chat("", "content_filter")),
    "no choices": answer(chat(choices=[])),
    "null for a text": answer(chat(None)),
    "blanks": answer(chat(" \n")),
    "thoughts alone": answer(chat(None, "length", message={"reasoning": "Hm."})),
    "a call of a tool": answer(chat(None, "tool_calls")),
}


BLOCKED = ["a filter's refusal", "a filtered reply", "no choices"]


@pytest.mark.parametrize(
    ("seat", "name"),
    [
        unless_slow(seat == "critic" or name in ("null for a text", "a call of a tool"), seat, name)
        for seat in ("critic", "reviser", "second sampler", "assistant")
        for name in WITHHELD
        if seat != "assistant" or name not in BLOCKED
    ],
)
def test_a_model_that_withholds_every_text_ends_the_run_by_name(seat: str, name: str, tmp_path: Path) -> None:
    make, role = SEATS[seat]
    with server(unless("bad", WITHHELD[name])) as url:
        made = make(tmp_path, 60, {"base_url": url, "concurrency": 2})
        with pytest.raises(ModelStopped, match=f"openai:bad answered none of 2. rows as {role}, the last with: "):
            finish(made)


@pytest.mark.parametrize("name", [*BLOCKED, "a long prompt"])
def test_any_number_of_first_prompts_may_be_blocked_or_too_long(name: str, tmp_path: Path) -> None:
    long = answer({"error": {"message": "too many tokens", "code": "context_length_exceeded"}}, 400)
    special = WITHHELD.get(name, long)
    with server(failing_on(set(range(30)), special)) as url:
        made = generating(model=GOOD)(tmp_path, 40, {"base_url": url, "concurrency": 1})
        finish(made)
    assert (made.finished, dict(made.dropped)) == (10, {"too_long" if special is long else "content_filter": 30})


def test_a_model_that_withholds_texts_now_and_then_costs_those_rows_alone(tmp_path: Path) -> None:
    def shy(asked: Asked) -> Answer:
        return says("Fine.")(asked) if b"number 19?" in asked.raw else WITHHELD["a filtered reply"]

    with server(shy) as url:
        made = sampling(model=GOOD, n=1)(tmp_path, 40, {"base_url": url, "concurrency": 1})
        finish(made)
    assert (made.finished, dict(made.dropped)) == (1, {"content_filter": 39})


def test_a_judge_that_refuses_every_question_about_its_only_pair_ends_the_run(tmp_path: Path) -> None:
    with server(REFUSES) as url:
        made = labelling(gold=False)(tmp_path, 1, {"base_url": url})
        with pytest.raises(ModelStopped, match="openai:bad answered nothing as judge"):
            finish(made)


def test_one_refused_call_is_a_dropped_row_and_the_summary_says_where_to_look(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with server(REFUSES) as url:
        made = sampling(model=GOOD, n=1)(tmp_path, 1, {"base_url": url})
        play_shown(made)
    assert made.dropped == {"model_error": 1}
    assert "nothing finished: each line of that file says" in capfd.readouterr().err
    with server(says("Fine.")) as url:
        play_shown(sampling(model=GOOD, n=1)(tmp_path, 1, {"base_url": url}))
    assert "nothing finished" not in capfd.readouterr().err


def test_a_run_that_cannot_write_any_more_gives_no_counts_that_are_not_true(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    with server(lambda asked: says(random.Random(asked.number).randbytes(2_000).hex())(asked)) as url:
        made = sampling(model=GOOD, n=1)(tmp_path, 100, {"base_url": url})
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, before[1]))
        try:
            with pytest.raises(RunError, match="see to the folder and its disk"):
                play_shown(made)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert made.finished and not made.info
        assert "rows kept" not in capfd.readouterr().err
        again = sampling(model=GOOD, n=1)(tmp_path, 100, {"base_url": url})
        play_shown(again)
    assert again.info["rows"] == 100


def test_a_model_that_answers_one_role_and_refuses_another_ends_the_run(tmp_path: Path) -> None:
    def only_first_turns(asked: Asked) -> Answer:
        return says("Fine.")(asked) if len(asked.payload["messages"]) == 1 else REFUSES

    with server(only_first_turns) as url:
        made = generating(model=GOOD)(tmp_path, 30, {"base_url": url, "concurrency": 1})
        with pytest.raises(ModelStopped, match="openai:good answered none of 20 rows as critic"):
            finish(made)


def test_a_model_that_refuses_some_rows_only_costs_those(tmp_path: Path) -> None:
    def odd_ones(asked: Asked) -> Answer:
        return REFUSES if b"number 1" in asked.raw else says("Fine.")(asked)

    with server(odd_ones) as url:
        made = sampling(model=GOOD, n=1)(tmp_path, 20, {"base_url": url, "concurrency": 1})
        finish(made)
    assert (made.finished, dict(made.dropped)) == (9, {"model_error": 11})


def test_a_model_that_blocks_prompts_has_understood_them(tmp_path: Path) -> None:
    blocked = answer({"error": {"message": "This prompt was flagged", "code": "invalid_prompt"}}, 400)

    def picky(asked: Asked) -> Answer:
        return REFUSES if b"number 1" in asked.raw else blocked

    with server(picky) as url:
        made = sampling(model=GOOD, n=1)(tmp_path, 15, {"base_url": url, "concurrency": 1})
        finish(made)
    assert made.dropped == {"content_filter": 9, "model_error": 6}


# Prompts on which a server fails


def failing_on(numbers: set[int], special: Answer) -> Callable[[Asked], Answer]:
    words = [f"number {n}?".encode() for n in numbers]
    return lambda asked: special if any(word in asked.raw for word in words) else says("Fine.")(asked)


def kept_at(folder: Path) -> list[int]:
    return sorted(row["position"] for row in rows_of(folder / "out", "candidates.jsonl"))


@pytest.mark.parametrize("seed", range(5))
def test_prompts_on_which_a_server_always_fails_cost_their_rows_alone(seed: int, tmp_path: Path) -> None:
    chance = random.Random(seed)
    count = chance.randint(6, 30)
    bad = set(chance.sample(range(count), chance.randint(1, min(count - 2, 18))))
    good = [n for n in range(count) if n not in bad]
    concurrency = chance.choice([1, 2, 8])
    with server(failing_on(bad, chance.choice(BROKEN))) as url:
        for _ in range(3):  # a finished run stays finished
            made = sampling(model=GOOD, n=1)(tmp_path, count, {"base_url": url, "concurrency": concurrency})
            finish(made)
            assert made.dropped == {"model_error": len(bad)}
            assert kept_at(tmp_path) == good
    with server(says("Well.")) as url:
        finish(sampling(model=GOOD, n=1)(tmp_path, count, {"base_url": url, "concurrency": concurrency}))
    assert kept_at(tmp_path) == list(range(count))
    assert rows_of(tmp_path / "out", "dropped.jsonl") == []


@pytest.mark.parametrize("special", [FAILS, REFUSES], ids=["fails", "refuses"])
def test_no_number_of_such_prompts_keeps_the_others_from_being_reached(special: Answer, tmp_path: Path) -> None:
    bad, sessions = set(range(50)), 0
    with server(failing_on(bad, special)) as url:
        while True:
            made = sampling(model=GOOD, n=1)(tmp_path, 60, {"base_url": url, "concurrency": 1})
            sessions += 1
            try:
                finish(made)
                break
            except CaiError as error:
                assert sessions < 5, error
    assert kept_at(tmp_path) == list(range(50, 60))


def test_a_resumed_run_begins_with_rows_that_have_not_failed(tmp_path: Path) -> None:
    with server(failing_on({0, 1, 2}, FAILS)) as url:
        finish(sampling(model=GOOD, n=1)(tmp_path, 5, {"base_url": url, "concurrency": 1}))
    with serving({"all": Mode(says("Fine."))}) as habits:
        finish(sampling(model=GOOD, n=1)(tmp_path, 8, {"base_url": habits.url("all"), "concurrency": 1}))
        order = [asked.payload["messages"][0]["content"] for asked in habits.asked("all")]
    assert order == [f"Question number {n}?" for n in (5, 6, 7, 0, 1, 2)]


@pytest.mark.parametrize(
    ("count", "special"),
    [unless_slow(count == 3 or special is FAILS, count, special) for count in (1, 3, 22) for special in BROKEN],
    ids=lambda value: str(getattr(value, "status", value)),
)
def test_a_server_that_fails_on_every_prompt_is_down_however_often_it_is_asked(
    count: int, special: Answer, tmp_path: Path
) -> None:
    with server(lambda _: special) as url:
        for _ in range(3):
            made = sampling(model=GOOD, n=1)(tmp_path, count, {"base_url": url, "concurrency": 3})
            with pytest.raises(ServerDown):
                finish(made)
    with server(says("Fine.")) as url:
        finish(sampling(model=GOOD, n=1)(tmp_path, count, {"base_url": url}))
    assert kept_at(tmp_path) == list(range(count))


@pytest.mark.parametrize("concurrency", [1, 8])
def test_training_rows_are_in_the_order_of_the_prompts_whatever_failed_at_first(
    concurrency: int, tmp_path: Path
) -> None:
    for name, bad in (("calm", set[int]()), ("failing", {0, 3, 4, 5, 6})):
        out = tmp_path / name
        out.mkdir()
        for special in (failing_on(bad, FAILS), says("Fine.")):
            with server(special) as url:
                finish(generating(model=GOOD)(out, 12, {"base_url": url, "concurrency": concurrency}))
    calm, failing = ((tmp_path / name / "out" / "sft.jsonl").read_bytes() for name in ("calm", "failing"))
    assert calm == failing


# What a server says


@pytest.mark.parametrize("status", [400, 413, 422, 500])
def test_a_conversation_that_is_too_long_is_asked_about_once_and_not_again(status: int, tmp_path: Path) -> None:
    special = answer({"error": {"message": "the prompt exceeds the context size of 4096 tokens"}}, status)
    with serving({"mixed": Mode(failing_on({1, 4}, special))}) as habits:
        for _ in range(2):
            made = sampling(model=GOOD, n=1)(tmp_path, 6, {"base_url": habits.url("mixed"), "concurrency": 2})
            finish(made)
        assert len(habits.asked("mixed")) == 6
    assert [drop["reason"] for drop in rows_of(tmp_path / "out", "dropped.jsonl")] == ["too_long"] * 2


@pytest.mark.parametrize("status", [500, 502, 503])
def test_a_model_that_loads_is_waited_for_and_asked_by_one_call_at_a_time(
    status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("cai.calls.limits.BUSY_WAIT", 0.01)
    loading = answer({"error": {"message": "Loading model", "type": "unavailable_error"}}, status)
    with serving({"slow": Mode(at_first(30, loading))}) as habits:
        made = sampling(model=GOOD, n=1)(tmp_path, 12, {"base_url": habits.url("slow"), "concurrency": 8})
        finish(made)
        assert len(habits.asked("slow")) == 30 + 12
    assert (made.finished, made.dropped) == (12, {})
    [said] = [text for text in caplog.messages if "loaded" in text]
    assert f"answered {status}: Loading model; waiting until it is loaded, for 300 s at most" in said


@pytest.mark.parametrize(
    "special",
    [
        answer({"error": {"message": "Unknown name 'seed': cannot find field"}}, 400),
        answer({"error": {"message": "Your account is suspended", "type": "exceeded_current_quota_error"}}, 429),
        answer([{"error": {"message": "API key not valid", "status": "INVALID_ARGUMENT"}}], 400),
        answer({"error": "Unexpected endpoint or method. (POST /chat/completions)"}),
        answer({"error": {"message": "bad key", "code": "invalid_api_key"}}),
    ],
)
def test_what_no_prompt_can_change_ends_the_run_at_the_first_call(special: Answer, tmp_path: Path) -> None:
    with serving({"all": Mode(special)}) as habits:
        made = sampling(model=GOOD, n=1)(tmp_path, 50, {"base_url": habits.url("all"), "concurrency": 1})
        with pytest.raises(ModelStopped, match=r"OPENAI_API_KEY|--extra-body|suspended|check the base URL"):
            finish(made)
        assert len(habits.asked("all")) == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "words",
    [
        "Could not read 'what does temperature do, is it unsupported?'",
        "input_value='seed must be an integer'",
        "`max_tokens` is too large for this one",
    ],
)
def test_a_field_that_was_taken_before_is_not_what_the_server_refuses(words: str, tmp_path: Path) -> None:
    special = answer({"error": {"message": words}}, 400)
    with server(failing_on({5, 7}, special)) as url:
        made = sampling(model=GOOD, n=1)(tmp_path, 9, {"base_url": url, "concurrency": 1})
        finish(made)
    assert (made.finished, dict(made.dropped)) == (7, {"model_error": 2})
    with server(failing_on({0}, special)) as url, pytest.raises(ModelStopped, match="--extra-body"):
        finish(sampling(model=GOOD, n=1)(tmp_path / "first", 9, {"base_url": url, "concurrency": 1}))


@pytest.mark.parametrize(
    "special",
    [
        answer({"error": "Unexpected endpoint or method. (POST /chat/completions)"}),
        answer({"object": "error", "message": "no route for POST /chat/completions"}),
        answer({"detail": "Not Found"}, 404),
        answer({"error": {"code": 404, "message": "File Not Found", "type": "not_found_error"}}, 404),
        answer({"detail": "Method Not Allowed"}, 405),
        Answer(b"404 page not found\n", 404, {"Content-Type": "text/plain"}),
        Answer(b"<html><title>Chat</title></html>", 200, {"Content-Type": "text/html"}),
        Answer(b"<html>Cannot POST /chat/completions</html>", 404, {"Content-Type": "text/html"}),
    ],
)
@pytest.mark.parametrize("path", ["", "/", "/api"])
def test_a_base_url_without_v1_is_told_to_have_it(path: str, special: Answer, tmp_path: Path) -> None:
    with serving({"bare": Mode(special)}) as habits:
        made = sampling(model=GOOD, n=1)(tmp_path, 3, {"base_url": habits.url("bare", path), "concurrency": 1})
        with pytest.raises(ModelStopped, match="add /v1 to the base URL"):
            finish(made)


def test_a_base_url_that_goes_on_to_the_call_is_told_to_end_before_it(tmp_path: Path) -> None:
    with serving({"whole": Mode(answer({"detail": "Not Found"}, 404))}) as habits:
        url = habits.url("whole", "/v1/chat/completions")
        with pytest.raises(ModelStopped, match="end the base URL before the path of the call"):
            finish(sampling(model=GOOD, n=1)(tmp_path, 3, {"base_url": url}))
