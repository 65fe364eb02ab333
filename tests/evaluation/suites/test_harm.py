"""The suite `harm`: what a judge, a reward model or a guard model makes of replies to unsafe prompts."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
from contrast_replies import NO, YES, Says, arena, played, player, refusing, written
from players import Player
from trial_judges import Judge

import cai
import cai.models
from cai.errors import SourceError, UsageError
from cai.evaluation.arena.figures import Evaluation, Line, Result
from cai.evaluation.arena.settings import EvaluateSettings
from cai.evaluation.run import EvaluateRun
from cai.evaluation.statistics.estimates import mean_of
from cai.evaluation.suites import SUITES
from cai.evaluation.suites.harm import ONE_SIDED, Harm
from cai.models import Provider
from cai.records import Completion, Condition
from cai.runs.plan import estimate

UNSAFE = 20
TEMPLATE = (  # turns and end as those of Llama Guard, which is told by the name of its folder
    "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}{{ '[/INST]' }}"
)


def prefers_refusals(question: str, first: str, second: str) -> float:
    """A judge that is fond of refusals, by four nats."""
    return 4.0 * ((first == NO) - (second == NO))


def reward(payload: dict[str, Any]) -> Completion:
    """2 for a refusal, 0 for an answer, and no number for a reply with a ~."""
    said = payload["messages"][-1]["content"]
    value = math.nan if "~" in said else 2.0 * (said == NO)
    return Completion("", "stop", "rm-1", 9, 0, scores=(value,))


@pytest.fixture
def result_of(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Result]:
    """The result of models that reply so, BASE first, with this judge."""

    def make(judge: Any = None, *, settings: dict[str, Any] | None = None, **models: Says) -> Result:
        contrast = written(tmp_path / "contrast.jsonl", 10, UNSAFE)
        players = {name: player(says, name) for name, says in models.items()}
        values = {"contrast": contrast, "judge": "fake:judge", **(settings or {})}
        judge = judge or Judge(prefers_refusals)
        return played(Harm(arena(monkeypatch, tmp_path / "out", players, judge, **values))).result()

    return make


def harm_of(result: Result, model: str) -> Line:
    [one] = [each for each in result.lines if (each.model, each.measure) == (model, "harm")]
    return one


def fewer(prompt: str) -> str:
    """Refuses half of what `refusing("unsafe")` refuses."""
    return NO if "unsafe" in prompt and int(prompt.split()[-1].rstrip("?")) % 2 else YES


@pytest.mark.parametrize("kind", ["judge", "reward", "conditioned"])
def test_harm_is_how_often_the_reply_is_judged_the_more_harmful_one(result_of: Any, kind: str) -> None:
    """Half of the pairs are refusals alike, which is even; in the others BASE refuses and the model answers."""
    judge: Any = Judge(prefers_refusals)
    if kind != "judge":
        condition = Condition("{principle}", ()) if kind == "conditioned" else None
        judge = Player(reward, "rm", chat=False, reward=True, condition=condition)
    result = result_of(judge, base=refusing("unsafe"), tuned=fewer)
    line = harm_of(result, "tuned")
    assert line.figure.value == pytest.approx(0.75) and line.figure.n == UNSAFE
    assert line.difference is not None and line.difference.value == pytest.approx(0.25)
    assert line.difference.low is not None and line.difference.low > 0
    assert [each.model for each in result.lines] == ["tuned"]
    assert result.details["pairs"]["tuned"]["same"] == UNSAFE // 2
    assert result.details["evaluator"]["protocol"] == ("logprob" if kind == "judge" else kind)
    assert result.details["evaluator"]["constitution"].startswith("none" if kind == "reward" else "harmless")


def test_a_model_that_is_less_harmful_than_base_has_a_negative_difference(result_of: Any) -> None:
    line = harm_of(result_of(base=fewer, tuned=refusing("unsafe")), "tuned")
    assert line.difference is not None and line.difference.value == pytest.approx(-0.25)
    assert line.difference.high is not None and line.difference.high < 0


def test_only_unsafe_prompts_are_judged_each_model_against_base(result_of: Any, tmp_path: Path) -> None:
    result = result_of(base=refusing("unsafe"), one=fewer, two=lambda prompt: YES)
    assert [harm_of(result, name).figure.value for name in ("one", "two")] == [0.75, 1]
    assert [harm_of(result, name).figure.n for name in ("one", "two")] == [UNSAFE, UNSAFE]
    rows = [json.loads(row) for row in (tmp_path / "out" / "harm" / "labels.jsonl").read_text().splitlines()]
    assert all("unsafe" in row["prompt"][-1]["content"] for row in rows)
    assert {(row["a_model"], row["b_model"]) for row in rows} == {("base", "one"), ("base", "two")}
    assert len(rows) == UNSAFE  # where `one` and `two` say the same, their pairs with BASE are one


def test_a_reward_that_is_no_number_drops_its_pair_with_the_reason_and_is_counted(result_of: Any) -> None:
    judge = Player(reward, "rm", chat=False, reward=True)
    result = result_of(
        judge, base=refusing("unsafe"), tuned=lambda prompt: "Sure ~" if prompt.endswith(" 3?") else fewer(prompt)
    )
    line = harm_of(result, "tuned")
    assert line.figure.n == UNSAFE - 1 and "1 not judged" in line.note
    assert "tuned: 1 of 20 pairs were not judged (dropped: model_error 1)" in result.warnings


def test_replies_that_are_all_alike_show_no_difference(result_of: Any) -> None:
    line = harm_of(result_of(base=refusing("unsafe"), tuned=refusing("unsafe")), "tuned")
    assert line.difference is not None and line.difference.value == 0
    assert line.difference.low is not None and line.difference.low < 0


def test_an_answer_that_was_cut_is_judged_and_one_without_text_is_not(result_of: Any) -> None:
    cut = Completion(YES, "length", "m-1", 5, 3)
    line = harm_of(result_of(base=refusing("unsafe"), tuned=lambda prompt: cut), "tuned")
    assert line.figure.value == 1 and line.figure.n == UNSAFE


@pytest.mark.parametrize("suite", ["harm", "preference, harm"])
def test_harm_is_never_shown_without_over_refusal(result_of: Any, suite: str) -> None:
    alone = result_of(settings={"suite": suite}, base=refusing("unsafe"), wall=lambda prompt: NO)
    assert [line.figure.value for line in alone.lines if line.measure == "over-refusal"] == [0, 1]
    assert any("wall refuses all 10 safe prompts" in warning for warning in alone.warnings)


def test_harm_says_so_if_over_refusal_cannot_be_measured(result_of: Any) -> None:
    empty = Completion("", "stop", "m-1")
    result = result_of(base=refusing("unsafe"), tuned=lambda prompt: NO if "unsafe" in prompt else empty)
    assert f"over-refusal is not measured for every model: {ONE_SIDED}" in result.warnings


def test_nothing_is_asked_of_a_judge_if_there_is_no_pair(result_of: Any) -> None:
    empty = Completion("", "stop", "m-1")
    judge = Judge(prefers_refusals)
    result = result_of(judge, base=refusing("unsafe"), tuned=lambda prompt: empty if "unsafe" in prompt else YES)
    line = harm_of(result, "tuned")
    assert line.figure.value is None and line.figure.n == 0
    assert judge.asked == []


@pytest.mark.parametrize(("spec", "problem"), [("guard:Qwen/Qwen3-8B", "neither its name"), ("nobody:x", "unknown")])
def test_an_evaluator_that_cannot_be_used_is_refused_before_anything_is_asked(
    result_of: Any, spec: str, problem: str
) -> None:
    with pytest.raises(UsageError, match=problem):
        result_of(settings={"harm": spec}, base=refusing("unsafe"), tuned=fewer)


# A guard model, made and taught here


@pytest.fixture(scope="module")
def guard(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model of a guard's form that has learned which of two replies is unsafe."""
    pytest.importorskip("torch")
    folder = tiny.model(tmp_path_factory.mktemp("guards") / "Llama-Guard-tiny", TEMPLATE, context=512)
    lessons = {}
    for prompt in ("Is it unsafe 1?", "Is it unsafe 12?"):
        for reply, label in ((NO, "safe"), (YES, "unsafe")):
            lessons[f"user: {prompt}\nassistant: {reply}\n[/INST]"] = label
    return tiny.taught(folder, lessons)


def test_a_guard_model_gives_the_mean_probability_that_a_reply_is_unsafe(
    result_of: Any, guard: Path, tmp_path: Path
) -> None:
    result = result_of(settings={"harm": f"guard:{guard}"}, base=refusing("unsafe"), tuned=fewer)
    rows = [json.loads(row) for row in (tmp_path / "out" / "harm" / "ratings.jsonl").read_text().splitlines()]
    assert len(rows) == 2 * UNSAFE and all(row["mass"] > 0.9 for row in rows)
    assert all((row["value"] > 0.9) == (row["reply"] == YES) and 0 <= row["value"] <= 1 for row in rows)
    base, tuned = harm_of(result, "base"), harm_of(result, "tuned")
    values = [row["value"] for row in sorted(rows, key=lambda row: row["position"]) if row["contestant"] == "tuned"]
    assert tuned.figure.value == pytest.approx(mean_of(values, 0, 1).value)
    assert base.figure.value is not None and base.figure.value < 0.1 and base.difference is None
    assert tuned.difference is not None and tuned.difference.value == pytest.approx(0.5, abs=0.1)
    assert tuned.difference.low is not None and tuned.difference.low > 0
    shares = result.details["labels"]["tuned"]
    assert set(shares) == {"safe", "unsafe"} and sum(shares.values()) == pytest.approx(1)


def test_a_guard_that_answers_with_no_label_stops_the_run(result_of: Any, tmp_path: Path) -> None:
    """Its template or its family is the wrong one: no figure can be made of what is left of its labels."""
    from cai.errors import Unreadable

    folder = tiny.model(tmp_path / "Llama-Guard-random", TEMPLATE, context=512)
    with pytest.raises(Unreadable, match="one of its labels"):
        result_of(settings={"harm": f"guard:{folder}"}, base=refusing("unsafe"), tuned=fewer)


def test_it_is_one_of_the_suites(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    models = {name: player(refusing("unsafe"), name) for name in ("base", "tuned")}
    made = arena(monkeypatch, tmp_path / "out", models, Judge(prefers_refusals), judge="fake:judge")
    assert list(SUITES).index("refusals") < list(SUITES).index("harm")
    assert SUITES["harm"](made).skipped() is None


# In an evaluation


@pytest.fixture
def evaluate(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Evaluates models that reply so with the suites refusals and harm; `.asked` counts what each was asked."""
    contrast = written(tmp_path / "contrast.jsonl", 40, UNSAFE)
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "What is a mill?"}\n{"prompt": "What is a river?"}\n')
    players: dict[str, Any] = {name: Judge(prefers_refusals) for name in ("judge", "other")}
    monkeypatch.setitem(
        cai.models.PROVIDERS, "fake", Provider(lambda name, connection: players[name], "fake:NAME", free=True)
    )

    def run(*, settings: dict[str, Any] | None = None, **models: Says) -> Evaluation:
        players.update({name: player(says, name) for name, says in models.items()})
        base, *others = (f"fake:{name}" for name in models)
        values = {"suite": "refusals,harm", "contrast": contrast, "judge": "fake:judge", **(settings or {})}
        evaluation = cai.evaluate(others, base, tmp_path / "prompts.jsonl", out=tmp_path / "out", **values)
        run.asked = {name: sum(players[name].asked.values()) for name in models}  # type: ignore[attr-defined]
        return evaluation

    return run


def test_an_evaluation_asks_the_contrast_set_once_for_both_suites_and_the_same_again_asks_nothing(
    evaluate: Any,
) -> None:
    models = {"base": refusing("unsafe"), "tuned": fewer}
    first = evaluate(**models)
    assert evaluate.asked == {"base": 62, "tuned": 62}
    again = evaluate(**models)
    assert evaluate.asked == {"base": 0, "tuned": 0}
    assert again.results == first.results


def test_a_plan_counts_the_replies_and_the_pairs_of_the_unsafe_prompts(evaluate: Any, tmp_path: Path) -> None:
    """20 pairs, in both orders, under three principles."""
    values: Any = {"suite": "refusals,harm", "contrast": tmp_path / "contrast.jsonl", "judge": "fake:judge"}
    evaluate(base=refusing("unsafe"), tuned=lambda prompt: YES)  # so that these models are there
    settings = EvaluateSettings(against="fake:base", out=tmp_path / "plan", **values)
    plan = estimate(EvaluateRun(["fake:tuned"], tmp_path / "prompts.jsonl", settings))
    assert plan.calls == 2 * 62 + 20 * 2 * 3
    assert not any("not counted" in note for note in plan.notes)
    alone = settings.model_copy(update={"suite": "harm"})
    assert estimate(EvaluateRun(["fake:tuned"], tmp_path / "prompts.jsonl", alone)).calls == plan.calls
    other = settings.model_copy(update={"harm": "fake:other"})
    notes = estimate(EvaluateRun(["fake:tuned"], tmp_path / "prompts.jsonl", other)).notes
    assert any("harm" in note and "not counted" in note for note in notes)  # they would be counted as the judge's


def test_whether_an_evaluator_is_independent_is_said_before_the_figures(result_of: Any) -> None:
    result = result_of(base=refusing("unsafe"), tuned=fewer)
    assert result.facts[-1].startswith("whether it is independent of the training is not known: ")
    assert "tuned" in result.details["evaluator"]["why"] and result.details["evaluator"]["independent"] is None


def test_more_prompts_go_on_where_fewer_ended(evaluate: Any) -> None:
    models = {"base": refusing("unsafe"), "tuned": fewer}
    few = evaluate(settings={"limit": 42}, **models)
    more = evaluate(**models)
    assert evaluate.asked == {"base": 18, "tuned": 18}
    assert [harm_of(one.results[1], "tuned").figure.n for one in (few, more)] == [2, UNSAFE]


@pytest.mark.parametrize(
    ("bounds", "verdicts"),
    [
        ("harm=+0.02", ["broken"]),
        ("harm=+0.5,overrefusal=+0.1", ["kept", "kept"]),
        ("overrefusal=+0.03", ["undecided"]),  # of 40 safe prompts none changed, which is up to 6.6 points
        ("overrefusal=-0.5", ["broken"]),
    ],
)
def test_bounds_on_harm_and_over_refusal_are_those_of_the_differences(
    evaluate: Any, bounds: str, verdicts: list[str]
) -> None:
    evaluation = evaluate(settings={"fail_on": bounds}, base=refusing("unsafe"), tuned=fewer)
    assert [bound.verdict for bound in evaluation.bounds] == verdicts


def test_a_contrast_set_that_cannot_be_used_stops_the_evaluation_before_anything_is_asked(
    evaluate: Any, tmp_path: Path
) -> None:
    with pytest.raises(SourceError, match="no such file"):
        evaluate(settings={"contrast": tmp_path / "gone.jsonl", "suite": None}, base=fewer, tuned=fewer)
    assert not (tmp_path / "out" / "replies").exists()
