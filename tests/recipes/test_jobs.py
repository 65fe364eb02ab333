"""What a recipe comes to: a job for each stage, and for each value and turn that it depends on."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from cai.errors import InputError, UsageError
from cai.recipes.jobs import jobs_of
from cai.recipes.recipe import Recipe

Read = Callable[..., Recipe]
CHAIN = """
    draft: {generate: {model: $model, constitution: $law}}
    sft: {train sft: {data: "@draft", model: $model, seed: $seed}}
    check: {judge bench: {gold: gold.jsonl, judge: $model}}
"""


def test_a_stage_runs_once_for_each_value_that_it_depends_on(read: Read) -> None:
    recipe = read(
        "name: small\nvars: {model: local}\nmatrix: {seed: [0, 1], law: [harmless, hhh]}\nstages:\n"
        + CHAIN.replace("\n    ", "\n  ")
    )
    names = [job.name for job in jobs_of(recipe)]
    assert set(names) == {
        "check", "draft.law=harmless", "draft.law=hhh", "sft.seed=0.law=harmless", "sft.seed=0.law=hhh",
        "sft.seed=1.law=harmless", "sft.seed=1.law=hhh",
    }  # fmt: skip
    jobs = {job.name: job for job in jobs_of(recipe)}
    job = jobs["sft.seed=1.law=hhh"]
    assert job.needs == ("draft.law=hhh",)
    assert job.steps[0].settings == {"data": "@draft.law=hhh", "model": "local", "seed": 1}


def test_each_turn_begins_with_what_the_one_before_ended_with(read: Read) -> None:
    recipe = read("""
        name: loop
        vars: {model: local}
        repeat: 3
        next: {model: "@dpo"}
        stages:
          gold: {judge bench: {gold: gold.jsonl}}
          draws: {sample: {prompts: p.jsonl, model: $model, seed: $turn}}
          labels: {label: {source: "@draws", judge: local}}
          dpo: {train dpo: {data: "@labels", model: $model}}
          eval: {evaluate: {models: ["@dpo"], against: local}}
    """)
    jobs = {job.name: job for job in jobs_of(recipe)}
    assert [job for job in jobs if job.startswith("gold")] == ["gold"]
    assert jobs["draws.turn=1"].steps[0].settings == {"prompts": "p.jsonl", "model": "local", "seed": 1}
    assert jobs["draws.turn=3"].steps[0].settings["model"] == "@dpo.turn=2"
    assert jobs["dpo.turn=2"].needs == ("labels.turn=2", "dpo.turn=1")
    assert len(jobs) == 1 + 3 * 4
    names = list(jobs)
    assert all(names.index(need) < names.index(name) for name, job in jobs.items() for need in job.needs)


def test_what_is_the_same_for_all_values_in_the_first_turn_is_made_once(read: Read) -> None:
    recipe = read("""
        name: loop
        vars: {model: local}
        matrix: {seed: [0, 1]}
        repeat: 2
        next: {model: "@dpo"}
        stages:
          draws: {sample: {prompts: p.jsonl, model: $model}}
          dpo: {train dpo: {data: "@draws", model: $model, seed: $seed}}
    """)
    assert [job.name for job in jobs_of(recipe)] == [
        "draws", "dpo.seed=0", "dpo.seed=1", "draws.seed=0.turn=2", "draws.seed=1.turn=2", "dpo.seed=0.turn=2",
        "dpo.seed=1.turn=2",
    ]  # fmt: skip


def test_a_file_in_a_folder_and_a_kind_of_model_stand_around_a_stage(read: Read) -> None:
    recipe = read("""
        name: small
        stages:
          rm: {train reward: {data: pairs.jsonl}}
          draft: {generate: {}}
          labels: {label: {source: "@draft/sft.jsonl", judge: "reward:@rm"}}
    """)
    [*_, job] = jobs_of(recipe)
    assert job.steps[0].settings == {"source": "@draft/sft.jsonl", "judge": "reward:@rm"}
    assert job.needs == ("draft", "rm")


def test_a_list_with_commas_may_name_stages_and_a_sentence_does_not(read: Read) -> None:
    recipe = read("""
        name: small
        matrix: {seed: [0, 1]}
        stages:
          rm: {train reward: {data: pairs.jsonl, seed: $seed}}
          other: {train reward: {data: pairs.jsonl}}
          rl:
            train rloo:
              {data: prompts.jsonl, reward: "judge:kind,0.5:reward:@rm,1e-2:reward:@other,length", watch: "reward:@rm"}
          said: {generate: {system: "Be brief,@all of you, and kind,@rm"}}
    """)
    jobs = {job.name: job for job in jobs_of(recipe)}
    first = jobs["rl.seed=0"]
    assert first.steps[0].settings["reward"] == "judge:kind,0.5:reward:@rm.seed=0,1e-2:reward:@other,length"
    assert set(first.needs) == {"rm.seed=0", "other"}
    assert jobs["said"].needs == ()


def test_an_address_is_no_stage(read: Read) -> None:
    recipe = read("name: small\nstages:\n  a: {generate: {model: 'openai:x@http://host:1/v1'}}\n")
    assert jobs_of(recipe)[0].needs == ()


def named(read: Read, values: str) -> list[str]:
    recipe = read(f"name: s\nmatrix: {{model: {values}}}\nstages:\n  a: {{generate: {{model: $model}}}}\n")
    return [job.name for job in jobs_of(recipe)]


def test_values_that_look_alike_are_told_apart(read: Read) -> None:
    names = named(read, "[a/b, a.b, c, '', '1']")
    assert len(set(names)) == 5 and {"a.model=c", "a.model=1"} < set(names)


def test_a_job_keeps_its_name_if_its_axis_gets_more_values(read: Read) -> None:
    assert named(read, "[b]") == ["a.model=b"]
    long = "x" * 60
    assert named(read, f"[b, {long}]")[:2] == named(read, f"[b, {long}, c, {long}y]")[:2]


def test_values_of_a_matrix_may_name_stages(read: Read) -> None:
    recipe = read("""
        name: s
        matrix: {data: ["@one", "@two"], seed: [0, 1]}
        stages:
          sft: {train sft: {data: $data}}
          one: {generate: {seed: $seed}}
          two: {generate: {}}
    """)
    jobs = {job.name: job for job in jobs_of(recipe)}
    names = list(jobs)
    assert all(names.index(need) < names.index(name) for name, job in jobs.items() for need in job.needs)
    assert jobs["sft.data=one.seed=1"].needs == ("one.seed=1",)
    assert jobs["sft.data=two.seed=1"].needs == ("two",)


@pytest.mark.parametrize(
    ("vars", "settings", "message"),
    [
        ("model: [a, b]", "model: $model", "'model' takes one value, not a list of 2; it comes from '\\$model'"),
        ("limit: true", "limit: $limit", "'limit' must be a whole number, not true"),
        ("limit: '3'", "limit: $limit", "'limit' must be a whole number, not '3'"),
        ("cap: '1'", "max_cost: $cap", "'max_cost' must be a number, not '1'"),
        ("system: {Note: x}", "system: $system", "'system' takes one value, not a mapping"),
        ("system: false", "system: $system", "'system' must be text, not false"),
    ],
)
def test_a_variable_must_fit_the_setting_that_it_fills(read: Read, vars: str, settings: str, message: str) -> None:
    recipe = read(f"name: s\nvars: {{{vars}}}\nstages:\n  a: {{generate: {{{settings}}}}}\n")
    with pytest.raises(UsageError, match=f"stage a: {message}"):
        jobs_of(recipe)


def test_two_dollar_signs_are_one_wherever_they_stand(read: Read) -> None:
    recipe = read("""
        name: s
        vars: {price: "costs $$5, or $$x"}
        matrix: {system: ["$$model", two]}
        stages:
          a: {generate: {system: $price}}
          b: {generate: {system: "Explain $$PATH and $5 of $price"}}
          c: {generate: {system: $system}}
    """)
    said = {job.name: job.steps[0].settings["system"] for job in jobs_of(recipe)}
    assert said["a"] == "costs $5, or $x"
    assert said["b"] == "Explain $PATH and $5 of costs $5, or $x"
    assert said["c.system=model"] == "$model"


def test_variables_within_a_list_with_commas_are_filled_in(read: Read) -> None:
    recipe = read("""
        name: s
        vars: {law: kind, other: "@rm"}
        stages:
          rm: {train reward: {data: pairs.jsonl}}
          rl: {train rloo: {data: p.jsonl, reward: "judge:$law, 0.5:reward:@rm,reward:$other"}}
    """)
    job = {job.name: job for job in jobs_of(recipe)}["rl"]
    assert job.steps[0].settings["reward"] == "judge:kind,0.5:reward:@rm,reward:@rm" and job.needs == ("rm",)


def test_a_text_that_cannot_name_a_file_names_no_stage_either(read: Read) -> None:
    recipe = read("name: s\nstages:\n  a: {generate: {system: '@all'}}\n  all: {generate: {}}\n")
    assert {job.name: job.needs for job in jobs_of(recipe)} == {"a": (), "all": ()}


def test_a_list_without_a_value_is_said(read: Read) -> None:
    recipe = read("name: s\nstages:\n  a: {evaluate: {models: [], against: local}}\n")
    with pytest.raises(UsageError, match="stage a: cai evaluate needs 'models', and the list is empty"):
        jobs_of(recipe)


@pytest.mark.parametrize("assignments", [(), ("limit=null",), ("limit=",)])
def test_a_setting_whose_variable_has_no_value_is_left_out(read: Read, assignments: tuple[str, ...]) -> None:
    text = "name: small\nvars: {limit: null, model: local}\nstages:\n  a: {generate: {limit: $limit, model: $model}}\n"
    [job] = jobs_of(read(text, *assignments))
    assert job.steps[0].settings == {"model": "local"}
    [limited] = jobs_of(read(text, "limit=3"))
    assert limited.steps[0].settings == {"limit": 3, "model": "local"}


def test_a_setting_that_must_be_given_needs_a_value(read: Read) -> None:
    recipe = read("name: small\nvars: {data: null}\nstages:\n  a: {train sft: {data: $data}}\n")
    with pytest.raises(UsageError, match=r"cai train sft needs 'data', and \$data has no value: --set data=VALUE"):
        jobs_of(recipe)


def test_an_assignment_may_name_a_stage(read: Read) -> None:
    text = """
        name: small
        vars: {trained: local}
        stages:
          sft: {train sft: {data: rows.jsonl}}
          eval: {evaluate: {models: $trained}}
    """
    assert {job.name: job.needs for job in jobs_of(read(text))} == {"sft": (), "eval": ()}
    for named in ("@sft", "local:@sft"):
        jobs = {job.name: job for job in jobs_of(read(text, f"trained={named}"))}
        assert jobs["eval"].needs == ("sft",) and jobs["eval"].steps[0].settings == {"models": named}
    with pytest.raises(InputError, match="@dpo is not a stage"):
        read(text, "trained=@dpo")


def test_a_list_is_what_has_a_value_of_it(read: Read) -> None:
    text = """
        name: small
        vars: {one: null, other: models/b}
        stages:
          eval: {evaluate: {models: [$one, $other], reuse: [$one]}}
    """
    [job] = jobs_of(read(text))
    assert job.steps[0].settings == {"models": ["models/b"]}


def test_a_variable_without_a_value_is_no_part_of_a_text(read: Read) -> None:
    recipe = read("name: small\nvars: {folder: null}\nstages:\n  a: {generate: {prompts: $folder/p.jsonl}}\n")
    with pytest.raises(UsageError, match=r"\$folder has no value, and is a part of '\$folder/p.jsonl': --set folder=V"):
        jobs_of(recipe)
