"""The plan of a recipe counts what its stages will ask, also of what is not there yet."""

from __future__ import annotations

from typing import Any

import pytest
from recipe_runs import PROMPTS, Bench
from recipes.conftest import known

from cai.errors import RunError
from cai.recipes.plan import RecipePlan, plan
from cai.recipes.play import Playing, Wishes
from cai.recipes.reading import read_recipe


def planned(bench: Bench, **wishes: Any) -> RecipePlan:
    playing = Playing(read_recipe(bench.path, known()), bench.folder / "out", Wishes(**wishes))
    return plan(playing, bench.run)


def test_a_plan_asks_nothing_and_bounds_what_is_asked(bench: Bench) -> None:
    stages = {stage.name: stage for stage in planned(bench).stages}
    assert bench.calls() == 0 and not (bench.folder / "out").exists()
    asked = {}
    for name in ("draft", "draws", "labels"):
        bench.play(only=(name,))
        asked[name] = bench.calls()
    assert asked["draws"] == stages["draws"].calls == 2 * len(PROMPTS)
    assert asked["labels"] == stages["labels"].calls and stages["labels"].is_guess
    assert asked["draft"] <= (stages["draft"].calls or 0)
    assert stages["audited"].calls is None


def test_what_is_finished_is_not_counted(bench: Bench) -> None:
    bench.play(only=("draft", "draws"))
    found = planned(bench)
    assert [stage.is_finished for stage in found.stages] == [True, True, False, False]
    assert not found.stages[2].is_guess
    lines = list(found.lines())
    assert len(lines) == 1 + 4 + 2 and lines[1].endswith("generate, finished")


def test_what_a_run_would_make_again_is_counted(bench: Bench) -> None:
    bench.play(only=("draft", "draws"))
    bench.prompts([*PROMPTS, "One more?"])
    assert [stage.is_finished for stage in planned(bench).stages][:2] == [False, False]
    bench.prompts(PROMPTS)
    assert [stage.is_finished for stage in planned(bench, redo=("draws",)).stages][:2] == [True, False]


def test_a_plan_of_what_would_be_refused_is_refused(bench: Bench) -> None:
    bench.play(only=("draft",))
    (bench.folder / "out" / "draft" / "sft.jsonl").write_bytes(b"")
    with pytest.raises(RunError, match=r"sft\.jsonl has changed since stage draft wrote it"):
        planned(bench)


def test_a_bench_and_an_evaluation_that_are_not_there_yet_change_no_number(bench: Bench) -> None:
    bench.write("""
name: compared
vars: {judge: "openai:tiny@URL/v1"}
stages:
  bench: {judge bench: {gold: pairs.jsonl, judge: $judge}}
  first:
    evaluate: {models: "openai:a@URL/v1", against: "openai:b@URL/v1", judge: $judge, bench: "@bench", suite: preference}
  second:
    evaluate: {models: "openai:c@URL/v1", against: "openai:b@URL/v1", judge: $judge, reuse: "@first", suite: preference}
""")
    stages = {stage.name: stage for stage in planned(bench).stages}
    assert stages["first"].calls and stages["first"].calls == stages["second"].calls


def test_a_model_that_is_not_trained_yet_is_planned_as_the_one_it_begins_with(bench: Bench) -> None:
    bench.write("""
name: loop
vars: {model: local}
repeat: 2
next: {model: "@dpo"}
stages:
  draws: {sample: {prompts: prompts.jsonl, model: $model, n: 2}}
  labels: {label: {source: "@draws", judge: "openai:tiny@URL/v1", principles: 1, price: "1,1"}}
  dpo: {train dpo: {data: "@labels", model: $model}}
  eval: {evaluate: {models: "@dpo", against: $model, judge: "openai:tiny@URL/v1", suite: preference, price: "1,1"}}
""")
    found = planned(bench)
    stages = {stage.name: stage for stage in found.stages}
    assert stages["draws"].calls == stages["draws.turn=2"].calls == 12
    assert stages["labels"].calls == stages["labels.turn=2"].calls == 12
    assert stages["eval.turn=2"].calls and stages["eval.turn=2"].is_guess
    assert list(found.lines())[-1].startswith("at most $0.")


@pytest.mark.parametrize(
    ("reward", "counted"),
    [("judge", 16), ("judge,0.5:reward:@rm,length", 16), ("reward:@rm", None), ("length", 0)],
)
def test_what_the_judges_of_an_online_training_ask_is_counted(bench: Bench, reward: str, counted: int | None) -> None:
    bench.write(f"""
name: rl
stages:
  draws: {{sample: {{prompts: prompts.jsonl, model: local, n: 2}}}}
  rm: {{train reward: {{data: prompts.jsonl, model: local}}}}
  rl:
    train rloo:
      {{data: "@draws", model: local, reward: "{reward}", watch: "reward:@rm", judge: "openai:tiny@URL/v1",
       price: "1,1", principles: 1, batch_size: 8, epochs: 10, split: 1.0, set: ["trl.max_steps=2"]}}
""")
    found = planned(bench)
    stage = {stage.name: stage for stage in found.stages}["rl"]
    assert stage.calls == counted
    assert (stage.cost_usd or 0.0) == pytest.approx((stage.tokens or 0) / 1e6)
    assert bench.calls() == 0


def test_the_rows_of_a_finished_run_are_planned_with(bench: Bench) -> None:
    bench.write("""
name: rl
stages:
  draws: {sample: {prompts: prompts.jsonl, model: "openai:tiny@URL/v1", n: 2}}
  labels: {label: {source: "@draws", judge: "openai:tiny@URL/v1", principles: 1}}
  rl:
    train rloo:
      {data: "@labels", model: local, reward: judge, judge: "openai:tiny@URL/v1", principles: 1, batch_size: 8,
       epochs: 10, split: 1.0, set: ["trl.max_steps=2"]}
""")
    before = {stage.name: stage.calls for stage in planned(bench).stages}
    bench.play(only=("draws",))
    assert {stage.name: stage.calls for stage in planned(bench).stages} == before | {"draws": None}
