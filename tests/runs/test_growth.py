"""Runs that grow: the same folder goes on, asks only what is new, and ends as a run that was made at once."""

from __future__ import annotations

import io
import json
import random
import signal
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from growing import WIDTH, Asked, Bench, Even, prompt
from kept import in_order
from kills import OF_MOVES, PLACES
from steady import steady

import cai

GENERATE = ("generate", "--model", "openai:writer", "-c", "harmless")
SAMPLE = ("sample", "--model", "openai:writer")
JUDGE = ("-c", "harmless", "--judge", "openai:judge")
BEST = (*SAMPLE, *JUDGE)
MARKS = ("", "", "", " [truncated revision]", " [empty critique]", " [same]", " [filtered]")


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with steady(Even) as server:
        yield Bench(tmp_path, server)


def some_of(values: Iterable[Any], *places: int) -> list[Any]:
    """Values for a test, of which those that are not at these places take too long for every time."""
    marks = pytest.mark.slow
    sets = enumerate(value if isinstance(value, tuple) else (value,) for value in values)
    return [pytest.param(*values, marks=() if number in places else marks) for number, values in sets]


def marked(numbers: range | list[int]) -> tuple[str, ...]:
    return tuple(prompt(number, MARKS[number % len(MARKS)]) for number in numbers)


def check(bench: Bench, asked: Asked, out: str, *command: str) -> int:
    """Run a command that must succeed; returns how many calls the server answered."""
    before = bench.server.answered
    ended = bench.run(asked, out, *command)
    assert ended.status == 0, ended.stderr
    return bench.server.answered - before


def refused(bench: Bench, asked: Asked, out: str, *command: str) -> str:
    """Run a command that must be refused before it asks anything; returns what it says, which a plan says before."""
    before = len(bench.server.asked)
    plan = bench.run(asked, out, "plan", *command, "--json")
    ended = bench.run(asked, out, *command)
    assert ended.status == 1 and len(bench.server.asked) == before
    error = ended.stderr.splitlines()[-1]
    assert json.loads(plan.stdout)["notes"][0] == error.removeprefix("error: ")
    return error


# Steps one by one


STEPS = {
    "more prompts behind the others": (Asked(marked(range(5))), Asked(marked(range(9)))),
    "prompts before and between the others": (Asked(marked(range(5))), Asked(marked([8, 0, 1, 7, 2, 3, 6, 4]))),
    "prompts in another order": (Asked(marked(range(6))), Asked(marked([5, 3, 4, 0, 1, 2]))),
    "a higher limit": (Asked(marked(range(9))).having(limit=4), Asked(marked(range(9))).having(limit=8)),
    "a limit in a file that has grown": (
        Asked(marked(range(9))).having(limit=4),
        Asked(marked([9, 8, 0, 1, 2, 3, 4])).having(limit=7),
    ),
    "another round": (Asked(marked(range(7))).having(rounds=1), Asked(marked(range(7))).having(rounds=3)),
    "all at once": (
        Asked(marked(range(5))).having(rounds=1, limit=4),
        Asked(marked([9, 0, 8, 1, 2, 3, 4])).having(rounds=2),
    ),
}


@pytest.mark.parametrize("step", some_of(STEPS, 2, 6))
def test_a_run_that_grows_asks_what_is_new_and_ends_as_one_made_at_once(bench: Bench, step: str) -> None:
    before, after = STEPS[step]
    whole = check(bench, after, "whole", *GENERATE)
    first = check(bench, before, "grown", *GENERATE)
    assert check(bench, after, "grown", *GENERATE) == whole - first
    assert bench.exports("grown") == bench.exports("whole")
    assert check(bench, after, "grown", *GENERATE) == 0
    assert bench.exports("grown") == bench.exports("whole")


def planned(bench: Bench, asked: Asked, out: str, *command: str) -> int:
    """The calls that a plan counts, which asks nothing."""
    before = len(bench.server.asked)
    ended = bench.run(asked, out, "plan", *command, "--json")
    assert ended.status == 0 and len(bench.server.asked) == before, ended.stderr
    calls: int = json.loads(ended.stdout)["calls"]
    return calls


def test_more_replies_are_asked_for_prompts_of_which_none_could_be_used(bench: Bench) -> None:
    marks = ("", " [sometimes empty]", " [sometimes filtered]", " [sometimes truncated]", " [empty]")
    asked = Asked(tuple(prompt(number, marks[number % len(marks)]) for number in range(30)))
    whole = check(bench, asked.having(n=5), "whole", *SAMPLE)
    first = check(bench, asked.having(n=1), "grown", *SAMPLE)
    before = {drop["reason"] for drop in in_order(bench.folder / "grown" / "dropped.jsonl")}
    assert before == {"empty", "content_filter", "truncated"}
    wanted = planned(bench, asked.having(n=5), "grown", *SAMPLE)
    assert check(bench, asked.having(n=5), "grown", *SAMPLE) == wanted == whole - first
    for name in ("candidates.jsonl", "dropped.jsonl"):
        assert in_order(bench.folder / "grown" / name) == in_order(bench.folder / "whole" / name)


def test_a_prompt_with_one_reply_that_was_cut_is_asked_again_whatever_is_wrong_with_the_others(bench: Bench) -> None:
    marks = (" [sometimes empty]", " [sometimes filtered]", "")
    asked = Asked(tuple(prompt(number, marks[number % len(marks)]) for number in range(12))).having(n=3)
    check(bench, asked.having(**{"max-tokens": 40}), "whole", *SAMPLE)
    check(bench, asked.having(**{"max-tokens": 5}), "grown", *SAMPLE)
    check(bench, asked.having(**{"max-tokens": 40, "retry": "truncated"}), "grown", *SAMPLE)
    for name in ("candidates.jsonl", "dropped.jsonl"):
        grown, whole = (in_order(bench.folder / out / name) for out in ("grown", "whole"))
        assert [row | {"calls": None} for row in grown] == [row | {"calls": None} for row in whole]


@pytest.mark.parametrize("protocol", ["logprob", pytest.param("vote", marks=pytest.mark.slow)])
def test_replies_and_principles_that_grow_ask_what_is_new_as_a_plan_says(bench: Bench, protocol: str) -> None:
    few, many = Asked(tuple(map(prompt, range(3)))), Asked(tuple(map(prompt, [4, 0, 1, 5, 2])))
    once = check(bench, many.having(n=4), "whole", *SAMPLE) + bench.label("whole", 4, protocol)
    total = check(bench, few.having(n=2), "grown", *SAMPLE) + bench.label("grown", 2, protocol)
    wanted = planned(bench, many.having(n=4), "grown", *SAMPLE)
    assert check(bench, many.having(n=4), "grown", *SAMPLE) == wanted
    assert total + wanted + bench.label("grown", 4, protocol) == once
    grown, whole = bench.exports("grown-judged"), bench.exports("whole-judged")
    del grown["README.md"], whole["README.md"]  # which name the run that was labelled
    assert grown == whole


def test_the_last_revisions_are_judged_in_place_of_those_of_fewer_rounds(bench: Bench) -> None:
    def label(out: str, source: str) -> int:
        before = bench.server.answered
        ended = bench.type("label", source, *JUDGE, "--pairing", "final", "--min-confidence", "0.5", "--out", out)
        assert ended.status == 0, ended.stderr
        return bench.server.answered - before

    few, many = Asked(marked(range(7))).having(rounds=1), Asked(marked([8, *range(7)])).having(rounds=2)
    check(bench, few, "out", *GENERATE)
    assert label("grown", "out") > 0
    check(bench, many, "out", *GENERATE)
    more = label("grown", "out")
    assert 0 < more <= label("whole", "out")
    grown, whole = (bench.exports(out) for out in ("grown", "whole"))
    assert grown == whole
    assert label("grown", "out") == 0
    check(bench, Asked(marked(range(3))), "other", *GENERATE)
    ended = bench.type("label", "other", *JUDGE, "--pairing", "final", "--out", "grown")
    assert ended.status == 1 and "holds a pair that is not in the source any more" in ended.stderr


@pytest.mark.parametrize("protocol", ["logprob", pytest.param("vote", marks=pytest.mark.slow)])
def test_more_replies_of_several_models_have_no_judge_asked_again(bench: Bench, protocol: str) -> None:
    both = (*SAMPLE, "--model", "openai:other")
    asked = Asked(tuple(map(prompt, range(3))))
    once = check(bench, asked.having(n=3), "whole", *both) + bench.label("whole", 2, protocol)
    total = check(bench, asked.having(n=1), "grown", *both) + bench.label("grown", 2, protocol)
    total += check(bench, asked.having(n=2), "grown", *both) + bench.label("grown", 2, protocol)
    assert total + check(bench, asked.having(n=3), "grown", *both) + bench.label("grown", 2, protocol) == once
    grown, whole = (in_order(bench.folder / f"{out}-judged" / "labels.jsonl") for out in ("grown", "whole"))
    assert grown == whole


@pytest.mark.parametrize(
    ("before", "after"),
    some_of(
        [
            ({"best-of": 2, "principles": 1}, {"best-of": 4, "principles": 1}),
            ({"best-of": 2, "principles": 1}, {"best-of": 2, "principles": 3}),
            ({"best-of": 2, "principles": 2}, {"best-of": 3, "principles": 30}),
        ]
    ),
)
def test_the_best_of_more_replies_takes_the_labels_that_are_there(
    bench: Bench, before: dict[str, int], after: dict[str, int]
) -> None:
    few, many = Asked(tuple(map(prompt, range(3)))), Asked(tuple(map(prompt, [4, 0, 1, 5, 2])))
    whole = check(bench, many.having(**after), "whole", *BEST)
    first = check(bench, few.having(**before), "grown", *BEST)
    assert planned(bench, many.having(**after), "grown", *BEST) == whole - first
    assert check(bench, many.having(**after), "grown", *BEST) == whole - first
    assert bench.exports("grown") == bench.exports("whole")


@pytest.mark.parametrize("step", some_of(["prompts before and between the others", "another round", "all at once"]))
def test_a_plan_counts_the_calls_that_a_folder_has_no_answer_to(bench: Bench, step: str) -> None:
    before, after = STEPS[step]
    plain = [
        Asked(tuple(prompt(json.loads(line)["id"][1:]) for line in asked.prompts), asked.options)
        for asked in (before, after)
    ]
    check(bench, plain[0], "out", *GENERATE, "--no-gate")
    wanted = planned(bench, plain[1], "out", *GENERATE, "--no-gate")
    assert check(bench, plain[1], "out", *GENERATE, "--no-gate") == wanted > 0


# Any steps, with kills


class Walk:
    """A run that grows by steps that chance chooses, some of which are killed once or twice.

    killed: how often it was killed.
    """

    def __init__(self, bench: Bench, seed: int, asked: Asked) -> None:
        self.bench, self.asked = bench, asked
        self.chance = random.Random(seed)
        self.fresh = iter(range(4, 1000))
        self.killed = 0

    def prompts(self) -> None:
        """More of them, anywhere."""
        lines = list(self.asked.prompts)
        for line in marked([next(self.fresh) for _ in range(self.chance.randint(1, 3))]):
            lines.insert(self.chance.randint(0, len(lines)), line)
        self.asked = Asked(tuple(lines), self.asked.options)

    def order(self) -> None:
        """Another order, of all of them."""
        lines = tuple(self.chance.sample(self.asked.prompts, len(self.asked.prompts)))
        self.asked = Asked(lines, self.asked.options).having(limit=None)

    def more(self, option: str, by: int = 1) -> None:
        self.asked = self.asked.having(**{option: int(self.asked.option(option) or 1) + by})

    def play(self, asked: Asked, out: str, *command: str) -> None:
        """Run a command, which may be killed before it succeeds, or instead."""
        for _ in range(self.chance.choice([0, 1, 2])):
            place = self.chance.choice([*PLACES, *OF_MOVES])
            ended = self.bench.run(asked, out, *command, place=place, nth=self.chance.randint(1, 4))
            assert ended.status in (0, -signal.SIGKILL), ended.stderr
            self.killed += ended.status != 0
        if self.chance.random() < 0.7:
            check(self.bench, asked, out, *command)


def check_same(bench: Bench, before: int, killed: int, grown: str, whole: str) -> None:
    """Compare what two runs asked and gave; before: how many answers were not cut before the second one began."""
    assert bench.server.whole - before <= before <= bench.server.whole - before + killed * WIDTH
    assert bench.exports(grown) == bench.exports(whole)


@pytest.mark.parametrize("seed", some_of(range(12), 0))
def test_any_steps_in_any_order_ask_what_one_run_asks_and_give_its_rows(bench: Bench, seed: int) -> None:
    asked = Asked(marked(range(4))).having(rounds=1, limit=3, retry="truncated", **{"max-tokens": 18})
    walk = Walk(bench, seed, asked)
    steps = [walk.prompts, walk.order, partial(walk.more, "rounds"), partial(walk.more, "max-tokens", 6)]
    for _ in range(5):
        walk.chance.choice(steps)()
        walk.play(walk.asked, "grown", *GENERATE)
    check(bench, walk.asked.having(limit=None), "grown", *GENERATE)
    before = bench.server.whole
    check(bench, walk.asked.having(limit=None), "whole", *GENERATE)
    check_same(bench, before, walk.killed, "grown", "whole")


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(6))
def test_any_steps_of_replies_and_their_labels_ask_what_one_run_asks_and_give_its_rows(bench: Bench, seed: int) -> None:
    walk = Walk(bench, seed, Asked(marked(range(3))).having(**{"best-of": 2, "principles": 1}))
    steps = [walk.prompts, walk.order, partial(walk.more, "best-of"), partial(walk.more, "principles", 2)]
    for _ in range(5):
        walk.chance.choice(steps)()
        walk.play(walk.asked, "grown", *BEST)
    check(bench, walk.asked, "grown", *BEST)
    before = bench.server.whole
    check(bench, walk.asked, "whole", *BEST)
    check_same(bench, before, walk.killed * 2, "grown", "whole")


@pytest.mark.parametrize("place", some_of(OF_MOVES, 2))
def test_a_kill_while_prompts_are_moved_loses_none_and_asks_nothing_twice(bench: Bench, place: str) -> None:
    before, after = STEPS["prompts before and between the others"]
    first = check(bench, before, "grown", *GENERATE)
    assert bench.run(after, "grown", *GENERATE, place=place, nth=1).status == -signal.SIGKILL
    more = check(bench, after, "grown", *GENERATE)
    assert check(bench, after, "whole", *GENERATE) == first + more
    assert bench.exports("grown") == bench.exports("whole")


# Sources that can be read once


@pytest.mark.parametrize("source", ["stdin", "generator", "list"])
def test_prompts_of_any_source_may_move(bench: Bench, source: str) -> None:
    url = bench.server.url + "/v1"

    def finish(numbers: list[int], out: str) -> None:
        prompts = [json.loads(prompt(number)) for number in numbers]
        given = {"list": prompts, "generator": iter(prompts), "stdin": "-"}[source]
        content = "".join(f"{json.dumps(each)}\n" for each in prompts).encode()
        with pytest.MonkeyPatch.context() as patched:
            patched.setenv("OPENAI_API_KEY", "none")
            patched.setattr("sys.stdin", io.TextIOWrapper(io.BufferedReader(io.BytesIO(content))))
            for _ in cai.generate(given, "harmless", model="openai:writer", base_url=url, out=bench.folder / out):
                pass

    finish([0, 1, 2], "grown")
    finish([5, 0, 3, 1, 2, 4], "grown")
    answered = bench.server.answered
    finish([5, 0, 3, 1, 2, 4], "whole")
    assert bench.server.answered == 2 * answered
    assert bench.exports("grown") == bench.exports("whole")


# The folder of a command that names none


def test_a_command_without_out_finds_the_folder_that_it_extends_and_says_by_what(bench: Bench) -> None:
    def said(numbers: range | list[int], *options: str) -> list[str]:
        (bench.folder / "prompts.jsonl").write_text("".join(f"{prompt(number)}\n" for number in numbers))
        ended = bench.type(*GENERATE, "prompts.jsonl", *options)
        assert ended.status in (0, 1)
        return [
            line for line in ended.stderr.splitlines() if line.startswith(("folder", "not used", "extended", "error"))
        ]

    [folder] = said(range(3), "--rounds", "1", "--limit", "2")
    assert said(range(3), "--rounds", "1") == [folder, "extended      limit 2 → none"]
    assert said([4, 0, 1, 2], "--rounds", "2") == [folder, "extended      rounds 1 → 2; 3 prompts there, 4 now"]
    assert said([4, 0, 1, 2], "--rounds", "2") == [folder]
    assert said([4, 0, 1, 2], "--rounds", "1")[1].endswith("start anew there")
    [other] = said(range(10, 13), "--rounds", "2")
    assert other != folder
    assert said([4, 0, 1, 2, 8], "--rounds", "2")[0] == folder
    assert said([*range(10, 13), 14], "--rounds", "2")[0] == other
    assert bench.type(*GENERATE, "One prompt?").status == bench.type(*GENERATE, "Another one?").status == 0
    assert len(list((bench.folder / "runs").iterdir())) == 4
    named = folder.split()[1]
    lacks = f"not used      {named} has 3 of these prompts: --reuse {named} asks nothing about them twice"
    assert said([4, 0, 1, 15], "--rounds", "2")[1:] == [lacks]
    assert said([4, 0, 1, 15], "--rounds", "2")[1:] == []


def test_a_folder_that_cannot_be_looked_at_is_named_and_left_alone(bench: Bench) -> None:
    def folders(*numbers: int) -> tuple[set[str], str]:
        (bench.folder / "prompts.jsonl").write_text("".join(f"{prompt(number)}\n" for number in numbers))
        ended = bench.type(*GENERATE, "prompts.jsonl", "--rounds", "1")
        assert ended.status == 0, ended.stderr
        return {f"runs/{path.name}" for path in (bench.folder / "runs").iterdir()}, ended.stderr

    [first], _ = folders(0, 1)
    journal = bench.folder / first / "calls.sqlite"
    journal.write_bytes(b"not a database" * 1000)
    both, said = folders(0, 1, 2)
    assert len(both) == 2 and f"{first} cannot be looked at, whether this run goes on there: " in said
    assert journal.read_bytes().startswith(b"not a database")


def test_the_same_prompts_in_another_column_are_the_same_source(bench: Bench) -> None:
    check(bench, Asked(marked(range(3))), "out", *GENERATE)
    other = bench.folder / "other.jsonl"
    other.write_text("".join(prompt(number).replace("prompt", "question") + "\n" for number in (3, 0, 1, 2)))
    for options, status in ((("--prompt-field", "question"), 0), (("--format", "text", "--prompt-field", "id"), 1)):
        before = bench.server.answered
        ended = bench.type(*GENERATE, "other.jsonl", *options, "--out", "out")
        assert ended.status == status and (bench.server.answered > before) == (not status), ended.stderr
    assert "whose id" in ended.stderr or "not in the source any more" in ended.stderr


# Ids


def test_a_row_whose_id_an_earlier_prompt_takes_is_made_again_under_another_name(bench: Bench) -> None:
    later, earlier = (json.dumps({"id": "same", "prompt": text}) for text in ("One?", "Zero?"))
    check(bench, Asked((later, prompt(1))), "grown", *GENERATE)
    for prompts in ((earlier, later, prompt(1)), (later, prompt(1), earlier)):
        check(bench, Asked(prompts), "grown", *GENERATE)
        check(bench, Asked(prompts), f"whole-{prompts.index(earlier)}", *GENERATE)
        grown, whole = bench.exports("grown"), bench.exports(f"whole-{prompts.index(earlier)}")
        assert (grown["sft.jsonl"], grown["dpo.jsonl"]) == (whole["sft.jsonl"], whole["dpo.jsonl"])


# What is refused


def test_fewer_prompts_are_refused_with_the_counts_and_the_first_that_is_missing(bench: Bench) -> None:
    check(bench, Asked(marked(range(5))), "out", *GENERATE)
    said = refused(bench, Asked(marked([0, 1, 2, 4])), "out", *GENERATE)
    assert "4 prompts now, 5 there" in said and "'r3'" in said and "--reuse out" in said
    assert check(bench, Asked(marked(range(5))).having(limit=2), "out", *GENERATE) == 0


@pytest.mark.parametrize(("option", "there", "now"), [("rounds", 3, 2), ("max-tokens", 99, 98)])
def test_less_than_the_folder_has_is_refused_and_the_error_says_what_is_there(
    bench: Bench, option: str, there: int, now: int
) -> None:
    asked = Asked(marked(range(2)))
    check(bench, asked.having(**{option: there}), "out", *GENERATE)
    said = refused(bench, asked.having(**{option: now}), "out", *GENERATE)
    assert f"--{option} {there}, and {now} is less" in said


def test_a_prompt_under_another_id_is_refused(bench: Bench) -> None:
    check(bench, Asked(marked(range(3))), "out", *GENERATE)
    renamed = json.dumps({"id": "other", "prompt": "Question 1?"})
    said = refused(bench, Asked((prompt(0), renamed, prompt(2))), "out", *GENERATE)
    assert "holds prompt 'r1', whose id is 'other' in the source now" in said
