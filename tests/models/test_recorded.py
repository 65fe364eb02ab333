from __future__ import annotations

import asyncio
import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from stub import stub

import cai
from cai.calls.model import Call
from cai.errors import InputError, ModelStopped
from cai.models import open_model
from cai.models.recorded import RecordedModel
from cai.records import Completion, Request, Sampling

PROMPTS = ["How do bees fly?", "What is rust?"]
HELLO = {"id": "r1", "role": "assistant", "index": 0, "reply": "Hello."}


def write(path: Path, *answers: dict[str, Any]) -> str:
    path.write_text("".join(json.dumps(answer) + "\n" for answer in answers), encoding="utf-8")
    return str(path)


def call(row: str = "r1", index: int = 0, seed: int = 1, temperature: float = 1.0, **fields: Any) -> Call:
    fields = {"role": "assistant", "messages": ({"role": "user", "content": "Hi"},)} | fields
    return Call(Request(**fields), row=row, index=index, seed=seed, sampling=Sampling(temperature=temperature))


def ask(path: str, question: Call) -> Completion:
    async def run() -> Completion:
        model = RecordedModel(path)
        await model.start()
        try:
            return await model.send(model.payload(question))
        finally:
            await model.close()
            await model.close()

    return asyncio.run(run())


def test_an_answer_is_found_by_row_role_and_order(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.jsonl",
        HELLO,
        HELLO | {"index": 1, "reply": "second"},
        HELLO | {"role": "critic", "reply": "critic's"},
        HELLO | {"id": "r2", "reply": "other row"},
    )
    assert ask(path, call()).text == "Hello."
    assert ask(path, call(index=1)).text == "second"
    assert ask(path, call(role="critic")).text == "critic's"
    assert ask(path, call("r2")).text == "other row"


def test_a_bare_answer_stopped_by_itself_and_names_the_file_as_its_model(tmp_path: Path) -> None:
    model = RecordedModel(write(tmp_path / "a.jsonl", HELLO))
    assert ask(str(tmp_path / "a.jsonl"), call()) == Completion("Hello.", "stop", model.name)


def test_everything_recorded_comes_back(tmp_path: Path) -> None:
    full = HELLO | {
        "finish_reason": "length",
        "logprobs": [{"A": -0.5, " B": -1.5}],
        "scores": [-0.25, -2.0],
        "reasoning": "hm",
        "usage": {"input_tokens": 7, "output_tokens": 2, "cached_tokens": 3},
        "model": "big-1",
    }
    path = write(tmp_path / "a.jsonl", full)
    assert ask(path, call(top_logprobs=20, score=("A", "B"))) == Completion(
        text="Hello.",
        finish="length",
        model="big-1",
        input_tokens=7,
        output_tokens=2,
        cached_tokens=3,
        reasoning="hm",
        logprobs=({"A": -0.5, " B": -1.5},),
        scores=(-0.25, -2.0),
    )


def test_a_gzipped_file_is_read_too(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl.gz"
    path.write_bytes(gzip.compress(json.dumps(HELLO).encode()))
    assert ask(str(path), call()).text == "Hello."
    assert RecordedModel(str(path)).name.startswith("answers@")


def test_the_name_follows_the_content(tmp_path: Path) -> None:
    first = RecordedModel(write(tmp_path / "a.jsonl", HELLO)).name
    assert RecordedModel(write(tmp_path / "a.jsonl", HELLO)).name == first
    assert RecordedModel(write(tmp_path / "a.jsonl", HELLO | {"reply": "Bye."})).name != first
    assert first.startswith("a@") and len(first) == len("a@") + 12


def test_a_missing_answer_ends_the_run_and_says_what_was_asked(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", HELLO)
    long = "Line one\n" + "x" * 500
    with pytest.raises(ModelStopped) as caught:
        ask(path, call("r9", index=3, role="judge", messages=({"role": "user", "content": long},)))
    message = str(caught.value)
    assert "a.jsonl has no answer for id 'r9', role judge, index 3" in message
    assert '"Line one\\nxxx' in message
    assert "\n" not in message and len(message) < len(path) + 300


def test_a_missing_answer_to_raw_text_shows_its_end(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", HELLO)
    with pytest.raises(ModelStopped, match=r'asked: "x+\\nCritique:"$'):
        ask(path, call("r9", messages=(), text="x" * 500 + "\nCritique:"))


def test_an_answer_without_the_logprobs_or_scores_asked_for_is_a_gap(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", HELLO, HELLO | {"index": 1, "scores": [-1.0]})
    with pytest.raises(ModelStopped, match="without `logprobs`"):
        ask(path, call(top_logprobs=5))
    with pytest.raises(ModelStopped, match="has 1 `scores` and 2 were asked for"):
        ask(path, call(index=1, score=("A", "B")))


def test_the_payload_tells_what_was_asked_and_not_how_it_was_drawn(tmp_path: Path) -> None:
    model = RecordedModel(write(tmp_path / "a.jsonl", HELLO))
    assert model.payload(call(seed=1, temperature=0.0)) == model.payload(call(seed=2, temperature=1.0))
    assert model.payload(call()) != model.payload(call(messages=({"role": "user", "content": "Ho"},)))
    assert model.payload(call()) != model.payload(call(messages=(), text="Hi"))
    assert model.payload(call()) != model.payload(call(stop=("\n",)))
    assert json.loads(json.dumps(model.payload(call()))) == model.payload(call())


def test_two_answers_to_one_question_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", HELLO, HELLO | {"index": 1}, HELLO)
    with pytest.raises(InputError, match=r"a\.jsonl:3: a second answer for id 'r1', role assistant, index 0"):
        ask(path, call())


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ('{"id": "r2"', ""),
        ('{"id": "r2", "role": "assistant", "index": 0}', "reply: "),
        ('{"id": "r2", "role": "poet", "index": 0, "reply": ""}', "role: "),
        ('{"id": "r2", "role": "judge", "index": -1, "reply": ""}', "index: "),
        ('{"id": "r2", "role": "judge", "index": 0, "reply": "", "text": ""}', "text: "),
        ('{"id": "r2", "role": "judge", "index": 0, "reply": "", "logprobs": [{"A": "x"}]}', "logprobs.0.A: "),
        ("\x00\xff", ""),
    ],
)
def test_a_bad_line_is_named_by_number_and_field(tmp_path: Path, line: str, problem: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(json.dumps(HELLO).encode() + b"\n\n" + line.encode("latin-1") + b"\n")
    with pytest.raises(InputError, match=rf"a\.jsonl:3: {problem}\w") as caught:
        ask(str(path), call())
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named_before_anything_is_asked(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.jsonl: cannot read the recorded answers: No such file"):
        open_model(f"recorded:{tmp_path / 'none.jsonl'}")


def test_a_cut_gzip_file_is_an_input_error(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(json.dumps(HELLO).encode() * 100)[:-12])
    with pytest.raises(InputError, match=r"a\.jsonl\.gz:1: cannot read"):
        ask(str(path), call())


# The finished calls of a run answer in place of the model that made them


def run(out: Path, model: str, **more: Any) -> list[dict[str, Any]]:
    rows = cai.generate(PROMPTS, "harmless", model=model, rounds=1, max_tokens=64, out=out, **more)
    return sorted((row.model_dump(include={"id", "initial", "rounds", "final"}) for row in rows), key=str)


def test_a_run_is_played_again_from_its_own_calls(tmp_path: Path) -> None:
    with stub() as server:
        first = run(tmp_path / "a", "openai:stub", base_url=server.url)
    assert first
    assert run(tmp_path / "b", f"recorded:{tmp_path / 'a'}") == first
    assert run(tmp_path / "c", f"recorded:{tmp_path / 'b' / 'calls.sqlite'}") == first


def test_what_was_never_asked_is_told_with_the_sampling_it_was_asked_for(tmp_path: Path) -> None:
    with stub() as server:
        run(tmp_path / "a", "openai:stub", base_url=server.url)
    with pytest.raises(ModelStopped, match=r"number 1 was asked for, at temperature 0\.5 and 64 tokens"):
        run(tmp_path / "b", f"recorded:{tmp_path / 'a'}", temperature=0.5)


def test_a_second_sample_is_not_the_first_one_again(tmp_path: Path) -> None:
    with stub() as server:
        run(tmp_path / "a", "openai:stub", base_url=server.url)
    model = open_model(f"recorded:{tmp_path / 'a'}")
    asyncio.run(model.start())
    request = Request("assistant", ({"role": "user", "content": PROMPTS[0]},))

    def ask(sample: int) -> str:
        call = Call(request, "row", 0, 0, Sampling(1.0, 64), sample)
        return asyncio.run(model.send(model.payload(call))).text

    assert ask(0)
    with pytest.raises(ModelStopped, match="has 1 answers, and number 2 was asked for"):
        ask(1)


@pytest.mark.parametrize("closed", [False, True])
def test_answers_are_read_at_the_first_question_if_nobody_started_the_model(tmp_path: Path, closed: bool) -> None:
    async def answer(spec: str, question: Call) -> str:
        model = open_model(spec)
        if closed:
            await model.start()
            await model.close()
        return (await model.send(model.payload(question))).text

    assert asyncio.run(answer(f"recorded:{write(tmp_path / 'a.jsonl', HELLO)}", call())) == "Hello."
    with stub() as server:
        run(tmp_path / "a", "openai:stub", base_url=server.url)
    request = Request("assistant", ({"role": "user", "content": PROMPTS[0]},))
    assert asyncio.run(answer(f"recorded:{tmp_path / 'a'}", Call(request, "row", 0, 0, Sampling(1.0, 64))))


def test_a_folder_without_calls_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not a run folder"):
        open_model(f"recorded:{tmp_path}")
