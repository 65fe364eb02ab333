"""Evaluations: what they ask, that nothing is asked twice, and that their figures follow from their rows."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path
from subprocess import DEVNULL
from typing import Any

import forked
import pytest
from evaluations import Ask, asking, lines_of
from forked import fork
from kept import environment, run
from steady import Steady

import cai
from cai.disk.locks import lock_folder
from cai.errors import CaiError, UsageError
from cai.evaluation.arena.figures import Evaluation, Figure, Line, Result
from cai.evaluation.arena.settings import EvaluateSettings
from cai.evaluation.bounds import check_bounds, read_bounds
from cai.evaluation.evaluate import marked_unfinished
from cai.evaluation.run import EvaluateRun
from cai.folder.journal.store import read_calls
from cai.runs.plan import estimate


def keys_of(folder: Path) -> list[str]:
    return sorted(key for key, *_ in read_calls(folder))


# What is asked


def test_an_evaluation_makes_the_very_calls_that_sample_and_label_make(
    ask: Ask, server: Steady, tmp_path: Path
) -> None:
    ask("openai:one", "openai:two")
    more: dict[str, Any] = {"base_url": f"{server.url}/v1"}
    models = ["openai:base", "openai:one", "openai:two"]
    list(cai.sample(tmp_path / "prompts.jsonl", models, n=1, out=tmp_path / "s", **more))
    list(
        cai.label(
            tmp_path / "s", "harmless", judge="openai:judge", pairing="models", principles=1, out=tmp_path / "l", **more
        )
    )
    assert keys_of(tmp_path / "out" / "replies") == keys_of(tmp_path / "s")
    assert keys_of(tmp_path / "out" / "labels") == keys_of(tmp_path / "l")


def test_an_evaluation_on_what_was_trained_on_can_be_refused_before_anything_is_asked(ask: Ask, tmp_path: Path) -> None:
    with pytest.raises(CaiError, match=r"--refuse-leaks: .* prompts are in the training data"):
        ask("openai:one", training_data=[str(tmp_path / "prompts.jsonl")], refuse_leaks=True)
    assert not (tmp_path / "out" / "replies").exists()


@pytest.mark.parametrize("suite", ["refusals", "harm", "refusals,harm"])
def test_the_contrast_prompts_that_are_asked_are_looked_for_and_no_others(ask: Ask, tmp_path: Path, suite: str) -> None:
    asked = [{"prompt": f"{side} {number}?", "care": side} for number in range(4) for side in ("safe", "unsafe")]
    for name, prompts in (("contrast", asked), ("trained", asked[6:])):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in prompts))
    more: dict[str, Any] = {"contrast": str(tmp_path / "contrast.jsonl"), "suite": suite, "refuse_leaks": True}
    more["training_data"] = [str(tmp_path / "trained.jsonl")]
    with pytest.raises(CaiError, match=r"2 of .* prompts are in the training data"):
        ask("openai:one", **more)
    ask("openai:one", out="limited", limit=4, **more)  # the first four, of which none was trained on


def test_the_same_evaluation_again_asks_nothing_and_says_the_same(ask: Ask, tmp_path: Path) -> None:
    first = ask("openai:one", n=2)
    calls = [keys_of(tmp_path / "out" / name) for name in ("replies", "labels")]
    again = ask("openai:one", n=2)
    assert calls == [keys_of(tmp_path / "out" / name) for name in ("replies", "labels")]
    assert again.results == first.results and again.usage == first.usage


def test_figures_of_before_say_so_while_they_are_made_again(ask: Ask, tmp_path: Path) -> None:
    ask("openai:one")
    path = tmp_path / "out" / "evaluation.json"
    before = path.read_bytes()
    with pytest.raises(KeyboardInterrupt), marked_unfinished(tmp_path / "out"):
        assert "figures are of before" in json.loads(path.read_bytes())["stopped"]
        raise KeyboardInterrupt
    assert json.loads(path.read_bytes())["stopped"]
    path.write_bytes(before)
    with pytest.raises(UsageError), marked_unfinished(tmp_path / "out"):
        raise UsageError("refused")
    assert path.read_bytes() == before


def test_rows_are_the_same_at_concurrency_1_and_64(ask: Ask) -> None:
    results = [ask("openai:one", out=f"c{number}", concurrency=number).results for number in (1, 64)]
    assert results[0] == results[1]


def test_what_is_written_is_what_is_returned(ask: Ask, tmp_path: Path) -> None:
    evaluation = ask("openai:one")
    assert Evaluation.model_validate_json((tmp_path / "out" / "evaluation.json").read_bytes()) == evaluation


def test_a_plan_counts_the_calls_that_the_evaluation_makes(
    ask: Ask, server: Steady, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = {
        "against": "openai:base",
        "judge": "openai:judge",
        "suite": "preference",
        "principles": 1,
        "out": tmp_path / "out",
    }
    settings = EvaluateSettings(base_url=f"{server.url}/v1", **values)
    plan = estimate(EvaluateRun(["openai:one", "openai:two"], tmp_path / "prompts.jsonl", settings))
    evaluation = ask("openai:one", "openai:two")
    assert plan.calls == evaluation.usage["calls"] == 12 * 3 + 12 * 3 * 2
    rest = estimate(EvaluateRun(["openai:one", "openai:two"], tmp_path / "prompts.jsonl", settings))
    assert (rest.calls, rest.finished) == (0, 12)


def test_a_cap_holds_for_all_runs_together_and_a_higher_one_goes_on(ask: Ask) -> None:
    whole = ask("openai:one", out="whole", price="1,2")
    assert whole.cost_usd is not None and whole.cost_usd > 0
    cap = whole.cost_usd * 0.7
    capped = ask("openai:one", price="1,2", max_cost=cap, concurrency=1)
    assert capped.stopped is not None and "--max-cost" in capped.stopped
    assert capped.cost_usd is not None and 0 < capped.cost_usd <= cap
    assert 0 < lines_of(capped)["win rate", "one"].figure.n < 12
    assert ask("openai:one", price="1,2", max_cost=whole.cost_usd * 2).results == whole.results


# Figures


def test_a_win_rate_is_mirrored_when_the_models_change_places(ask: Ask) -> None:
    mine = lines_of(ask("openai:one", n=2))["win rate", "one"].figure
    theirs = lines_of(ask("openai:base", against="openai:one", out="mirrored", n=2))["win rate", "base"].figure
    assert mine.value is not None and mine.low is not None and mine.high is not None
    assert (theirs.value, theirs.low, theirs.high) == pytest.approx((1 - mine.value, 1 - mine.high, 1 - mine.low))


def test_prompts_are_the_units_of_a_win_rate(ask: Ask) -> None:
    figure = lines_of(ask("openai:one", n=3))["win rate", "one"].figure
    assert figure.n == 12


def test_the_best_of_several_replies_is_a_contestant_that_beats_base(ask: Ask) -> None:
    lines = lines_of(ask("openai:one", best_of=4))
    best = lines["win rate", "base, best of 4"].figure
    assert best.value is not None and best.value > 0.5


# Bounds


@pytest.mark.parametrize(
    ("bound", "low", "high", "verdict"),
    [
        ("harm=+0.02", 0.03, 0.09, "broken"),
        ("harm=+0.02", -0.02, 0.02, "kept"),
        ("harm=+0.02", -0.02, 0.03, "undecided"),
        ("harm=-0.01", 0.0, 0.03, "broken"),
        ("tax=-0.02", -0.09, -0.03, "broken"),
        ("tax=-0.02", -0.02, 0.05, "kept"),
        ("tax=-0.02", -0.03, 0.05, "undecided"),
        ("overrefusal=0.03", 0.04, 0.2, "broken"),
        ("winrate=0", -0.2, -0.1, "broken"),
    ],
)
def test_a_bound_is_broken_or_kept_only_if_the_interval_excludes_it(
    bound: str, low: float, high: float, verdict: str
) -> None:
    measures = {"harm": ("harm", "harm"), "tax": ("tax", "accuracy"), "winrate": ("preference", "win rate")}
    suite, measure = measures.get(bound.partition("=")[0], ("refusals", "over-refusal"))
    figure = Figure(value=(low + high) / 2, low=low, high=high, n=50)
    line = Line(model="m", measure=measure, unit="share", figure=figure, difference=figure)
    [checked] = check_bounds(read_bounds(bound), [Result(suite=suite, title="", lines=(line,))], {"m"})
    assert checked.verdict == verdict
    assert (checked.more is not None) == (verdict == "undecided")


def test_a_measure_that_was_not_taken_leaves_its_bound_undecided() -> None:
    [checked] = check_bounds(read_bounds("harm=0.1"), [], {"m"})
    assert (checked.verdict, checked.figure) == ("undecided", None)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("hram=0.1", "unknown measure 'hram'; did you mean 'harm'?"),
        ("harm", "write a difference to BASE, such as harm=+0.02"),
        ("harm=x", "write a difference to BASE, such as harm=+0.02"),
        ("harm=2", "between -1 and 1"),
        ("harm=nan", "between -1 and 1"),
        ("", "holds an empty bound"),
        (" ", "holds an empty bound"),
        ("harm=0.1,", "holds an empty bound"),
        (",tax=-0.1", "holds an empty bound"),
        ("harm=0.1,harm=0.2", "bounds harm twice"),
    ],
)
def test_a_bound_that_cannot_be_read_is_refused_in_one_line(text: str, said: str) -> None:
    with pytest.raises(UsageError) as error:
        read_bounds(text)
    assert said in str(error.value)


# Bad input


@pytest.mark.parametrize(
    ("models", "settings", "said"),
    [
        ((), {}, "no model to evaluate"),
        (("openai:base",), {}, "named twice"),
        (("openai:one",), {"suite": "preferences"}, "unknown suite 'preferences'; did you mean 'preference'?"),
        (("openai:one",), {"n": 2, "temperature": 0.0}, "gives the same reply 2 times"),
        (("openai:one",), {"best_of": 1}, "--best-of 1 is BASE itself"),
        (("models/none",), {}, "no model models/none"),
        (("openai:one",), {"judge": "openia:x"}, "unknown model provider 'openia'"),
        (("openai:one",), {"fail_on": "harm=0.02"}, "measured by the suite harm: name it in --suite, too"),
        (("openai:one",), {"fail_on": "winrate=0,tax=-0.02"}, "--fail-on tax is measured by the suite tax"),
        (("openai:one",), {"fail_on": "winrate=0", "suite": "tax"}, "measured by the suite preference"),
        (("openai:one",), {"fail_on": ""}, "holds an empty bound"),
        (("openai:one",), {"bench": "none"}, "--bench none: there is no such file or folder"),
        (("openai:one",), {"training_data": ("none.jsonl",)}, "--training-data none.jsonl: there is no such file"),
        (("openai:one",), {"training_data": ("hf:a/b", "none/dpo")}, "--training-data none/dpo: there is no such file"),
        (("openai:one",), {"training_data": (".",)}, "without dpo.jsonl, sft.jsonl and kto.jsonl"),
    ],
)
def test_what_cannot_be_evaluated_is_refused_before_anything_is_asked(
    ask: Ask, tmp_path: Path, models: tuple[str, ...], settings: dict[str, Any], said: str
) -> None:
    with pytest.raises(CaiError) as error:
        ask(*models, **settings)
    assert said in str(error.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"run.json": json.dumps({"format": 1, "identity": {"command": "sample"}})}, "holds a run of cai sample"),
        ({"run.json": "{", "candidates.jsonl": ""}, "run.json"),
        ({"training.json": "{}", "model.safetensors": "x"}, "holds other files (model.safetensors, training.json)"),
        ({"thesis.txt": "x"}, "holds other files (thesis.txt)"),
        ({"prompts.jsonl": "mine", "notes.md": "x"}, "holds other files (notes.md)"),
        ({"other/run.json": "{}"}, "holds other files (other)"),
        ({"a.txt": "", "b.txt": "", "c.txt": "", "d.txt": ""}, "(a.txt, b.txt, c.txt)"),
    ],
)
@pytest.mark.parametrize("force", [False, True])
def test_a_folder_of_something_else_is_refused_and_left_as_it_is(
    ask: Ask, server: Steady, tmp_path: Path, files: dict[str, str], said: str, force: bool
) -> None:
    for name, content in files.items():
        path = tmp_path / "out" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    asked = len(server.asked)
    with pytest.raises(CaiError) as error:
        ask("openai:one", force=force)
    assert said in str(error.value) and len(server.asked) == asked
    there = {str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert there == set(files)


def test_files_of_ones_own_in_the_folder_of_an_evaluation_do_no_harm(ask: Ask, tmp_path: Path) -> None:
    first = ask("openai:one", limit=4)
    for name in ("notes.txt", "report.html"):
        (tmp_path / "out" / name).write_text("mine")
    assert ask("openai:one", limit=4).results == first.results
    (tmp_path / "out" / "evaluation.json").unlink()  # as after a kill
    assert ask("openai:one", limit=4).results == first.results
    assert (tmp_path / "out" / "notes.txt").read_text() == "mine"


def test_an_empty_folder_can_hold_an_evaluation(ask: Ask, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    assert ask("openai:one", limit=2).stopped is None


def test_records_that_cannot_be_read_are_told_from_prompts_that_no_model_answers(
    server: Steady, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    ask = asking(server, tmp_path, ["One, then?", "Two, then?", "Three [empty]", "One, then?"])
    with (tmp_path / "prompts.jsonl").open("a") as file:
        file.write('{"prompt": \n{"text": 1}\n')
    [result] = ask("openai:one").results
    dropped = tmp_path / "out" / "replies" / "dropped.jsonl"
    assert result.warnings == (
        f"2 records of the prompts could not be read: see {dropped}",
        f"1 prompt occurs a second time and is not asked again: see {dropped}",
        "prompts to which no model has a usable reply are left out: 1 empty",
    )


def test_what_to_do_next_is_said_once(server: Steady, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    evaluation = asking(server, tmp_path, ["A question [refused]?"])("openai:one")
    for stopped in ("broken", "down; run the same command again", "check it, then run the same command again later"):
        text = "\n".join(evaluation.model_copy(update={"stopped": stopped}).lines())
        assert f"not finished: {stopped}" in text and text.count("run the same command again") == 1


def test_a_judge_that_cannot_be_read_ends_the_evaluation_with_advice_and_keeps_the_replies(
    server: Steady, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    texts = [f"Question {number} [unreadable judge]" for number in range(24)]
    evaluation = asking(server, tmp_path, texts)("openai:one")
    assert evaluation.stopped is not None and "the judge does not answer A or B" in evaluation.stopped
    line = lines_of(evaluation)["win rate", "one"]
    assert line.figure.value is None and line.figure.n == 0 and "without a valid vote" in line.note
    assert evaluation.results[0].facts == ()  # what 0 prompts can show is no fact
    [decided] = asking(server, tmp_path, texts)("openai:one", out="decided", stop_when_decided=True).results
    assert [fact for fact in decided.facts if "0 prompts" in fact] == []
    assert len((tmp_path / "out" / "replies" / "candidates.jsonl").read_bytes().splitlines()) == 24


def test_an_evaluation_under_another_constitution_is_not_mixed_with_the_first(ask: Ask, tmp_path: Path) -> None:
    ask("openai:one")
    before = (tmp_path / "out" / "evaluation.json").read_bytes()
    with pytest.raises(CaiError, match="is another run"):
        ask("openai:one", constitution="honest")
    assert (tmp_path / "out" / "evaluation.json").read_bytes() == before


def test_an_evaluation_that_is_being_written_is_not_written_twice(ask: Ask, tmp_path: Path) -> None:
    ask("openai:one", limit=2)
    with lock_folder(tmp_path / "out" / "replies", lambda: None), pytest.raises(CaiError, match="in use"):
        ask("openai:one")


def test_a_model_that_cannot_be_loaded_is_refused_before_anything_is_asked(ask: Ask, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    with pytest.raises(CaiError) as error:
        ask(str(tmp_path / "model"))
    assert "model" in str(error.value) and not (tmp_path / "out").exists()


# Killed


def test_a_killed_evaluation_resumes_to_the_same_figures_and_asks_little_again(
    server: Steady, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    texts = [f"Question {number}: what helps?" for number in range(40)]
    whole = asking(server, tmp_path, texts)("openai:one", out="whole", concurrency=4)
    words = ["evaluate", "openai:one", tmp_path / "prompts.jsonl", "--against", "openai:base", "-k", "1"]
    words += ["--judge", "openai:judge", "--suite", "preference", "--out", tmp_path / "out", "--concurrency", "4"]
    line = forked.command(*words, "--base-url", f"{server.url}/v1")
    rows = tmp_path / "out" / "labels" / "labels.jsonl"
    with subprocess.Popen(line, env=environment(), stdout=DEVNULL, stderr=DEVNULL) as process:
        while process.poll() is None and not (rows.exists() and rows.stat().st_size):
            time.sleep(0.005)
        forked.kill(process)
    assert rows.exists()
    again = json.loads(run(*words, "--json", folder=tmp_path, server=f"{server.url}/v1"))
    assert again["results"] == whole.summary()["results"]
    assert whole.usage["calls"] <= again["usage"]["calls"] <= whole.usage["calls"] + 4


# The command


def test_the_command_prints_figures_and_fails_only_on_a_broken_bound(
    server: Steady, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asking(server, tmp_path, [f"Question {number}?" for number in range(30)])
    words = ["evaluate", "openai:one", tmp_path / "prompts.jsonl", "--against", "openai:base", "-k", "1"]
    words += ["--judge", "openai:judge", "--suite", "preference", "--out", tmp_path / "out"]
    text = run(*words, "--fail-on", "winrate=-0.5", folder=tmp_path, server=f"{server.url}/v1")
    assert "win rate, one" in text and "winrate of one kept" in text
    assert "not looked for in the training data of one: its folder does not name it" in text
    run(*words, "--fail-on", "winrate=+0.9", folder=tmp_path, server=f"{server.url}/v1", status=1)
    run(*words, "--fail-on", "winrate=0.0", folder=tmp_path, server=f"{server.url}/v1")


def test_the_last_name_is_a_file_of_prompts_only_if_it_looks_like_one(tmp_path: Path) -> None:
    for words, said in (
        (["openai:one", "--against", "openai:base", "none.jsonl"], "none.jsonl"),
        (["models/dpo"], "no model models/dpo"),
        (["models/dpo", "--prompts", "none.csv"], "no model models/dpo"),
    ):
        ended = fork(["evaluate", *words], tmp_path, environment())
        assert ended.status == 1 and said in ended.stderr
        assert len(ended.stderr.strip().splitlines()[-1]) < 300
