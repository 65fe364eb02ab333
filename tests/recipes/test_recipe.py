"""A recipe is read with every fault in its line, before anything runs."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from recipes.conftest import known

from cai.errors import InputError, UsageError
from cai.recipes.reading import read_recipe
from cai.recipes.recipe import Recipe, built_ins

Read = Callable[..., Recipe]
HEAD = "name: small\nvars: {model: local}\nstages:\n"
FAULTS = {  # what is wrong → the stages, and what is said
    "an unknown key": ("nmae: small\n", r"1: unknown key 'nmae' in a recipe; did you mean 'name'\?"),
    "no stages": ("name: small\n", r"1: a recipe needs 'stages'"),
    "an unknown command": (
        HEAD + "  a: {genrate: {}}\n",
        r"4: stage 'a': unknown command 'genrate'; did you mean 'generate'\?",
    ),
    "no command": (HEAD + "  a: {expect: {rows: '>1'}}\n", r"4: stage 'a' needs one command: it has none"),
    "two commands": (HEAD + "  a: {generate: {}, sample: {}}\n", r"4: stage 'a' needs one command: generate, sample"),
    "an unknown setting": (
        HEAD + "  a:\n    generate:\n      round: 2\n",
        r"6: unknown setting 'round' of cai generate; did you mean 'rounds'\?",
    ),
    "a missing setting": (HEAD + "  a: {label: {judge: local}}\n", r"4: cai label needs 'source'"),
    "a folder of its own": (HEAD + "  a: {generate: {out: x}}\n", r"4: 'out': the recipe names the folders"),
    "a setting without a value": (HEAD + "  a: {generate: {rounds: }}\n", r"4: 'rounds' has no value"),
    "text for a number": (HEAD + "  a: {generate: {rounds: two}}\n", r"4: 'rounds' must be a whole number, not 'two'"),
    "a number for a switch": (HEAD + "  a: {generate: {batch: 1}}\n", r"4: 'batch' must be true or false, not 1"),
    "a list for one value": (HEAD + "  a: {generate: {model: [a, b]}}\n", r"4: 'model' takes one value, not a list"),
    "a stage that is not there": (
        HEAD + "  draft: {generate: {}}\n  b: {label: {source: '@darft'}}\n",
        r"5: @darft is not a stage; did you mean 'draft'\?",
    ),
    "a variable that is not there": (
        HEAD + "  a: {generate: {model: $modle}}\n",
        r"4: \$modle is not a variable; did you",
    ),
    "a cycle": (
        HEAD + "  a: {sample: {prompts: '@b', model: local}}\n  b: {sample: {prompts: '@a', model: local}}\n",
        r"[45]: the stages wait for each other: (a -> b -> a|b -> a -> b)",
    ),
    "a stage that waits for itself": (HEAD + "  a: {sample: {prompts: '@a'}}\n", r"4: the stages wait .*: a -> a"),
    "a gate that is none": (HEAD + "  a: {generate: {}, expect: {rows: many}}\n", r"4: 'rows' must be a bound such as"),
    "a key in a setting": (
        HEAD + "  a: {generate: {system: sk-proj-abcdefghijklmnopqrst}}\n",
        r"4: 'system' holds what looks like a key: put it into an environment variable",
    ),
    "a key in an address": (
        HEAD + "  a: {generate: {base_url: 'https://me:Zq8vW2mT@host/v1'}}\n",
        r"4: 'base_url' holds what looks like a key",
    ),
    "a key in the query of a model's address": (
        HEAD + "  a: {generate: {model: 'openai:x@https://host/v1?api-key=Zq8vW2mT'}}\n",
        r"4: 'model' holds what looks like a key",
    ),
    "a header": (HEAD + "  a: {generate: {headers: ['X-Key: 1']}}\n", r"4: 'headers': headers may hold keys"),
    "a loop without an end of its turns": (
        "name: small\nrepeat: 2\nstages:\n  a: {generate: {}}\n",
        r"2: repeat: 2 needs 'next'",
    ),
    "a matrix over a variable": (
        "name: small\nvars: {seed: 1}\nmatrix: {seed: [0]}\nstages:\n  a: {generate: {}}\n",
        r"3: 'seed' is in vars and in matrix",
    ),
    "a matrix without values": (
        "name: s\nmatrix: {seed: []}\nstages:\n  a: {generate: {}}\n",
        r"2: 'seed' has no values",
    ),
    "an export of a training": (
        HEAD + "  a: {train sft: {data: x.jsonl}, export: {split: 0.9}}\n",
        r"4: stage 'a': cai train sft has nothing to export",
    ),
    "a name that begins like that of a stage": (
        HEAD + "  draws: {sample: {}}\n  b: {label: {source: '@draws.jsonl'}}\n",
        r"5: '@draws.jsonl' is not '@STAGE' or '@STAGE/FILE'; did you mean 'draws'\?",
    ),
    "a stage with a capital": (
        HEAD + "  draws: {sample: {}}\n  b: {label: {source: '@Draws'}}\n",
        r"5: '@Draws' is not '@STAGE'",
    ),
    "a stage that is not there, behind a comma and a space": (
        HEAD + "  b: {train rloo: {data: p.jsonl, reward: 'judge, 0.5:reward:@rm'}}\n",
        r"4: @rm is not a stage",
    ),
    "a stage for a number": (
        HEAD + "  a: {sample: {}}\n  b: {sample: {n: '@a'}}\n",
        r"5: 'n' must be a whole number, not '@a'",
    ),
    "a variable with a capital": (
        HEAD + "  a: {generate: {model: $Model}}\n",
        r"4: \$Model is not a variable; did you mean 'model'\?",
    ),
    "a stage that is not there in a matrix": (
        "name: s\nmatrix:\n  data: ['@b']\nstages:\n  a: {train sft: {data: $data}}\n",
        r"3: @b is not a stage; known: a",
    ),
    "a key in a matrix": (
        "name: s\nmatrix: {m: ['openai:x@http://me:Zq8vW2mT@host/v1', local]}\nstages:\n  a: {generate: {model: $m}}\n",
        r"2: 'm' holds what looks like a key",
    ),
    "a key in the description": (
        "name: s\ndescription: sk-proj-abcdefghijklmnopqrst\nstages:\n  a: {generate: {}}\n",
        r"2: 'description' holds what looks like a key",
    ),
    "a variable in a matrix": (
        "name: s\nmatrix: {seed: [$turn]}\nstages:\n  a: {generate: {seed: $seed}}\n",
        r"2: 'seed' names another variable",
    ),
    "a value twice in a matrix": (
        "name: s\nmatrix: {gate: [0, false]}\nstages:\n  a: {generate: {gate: $gate}}\n",
        r"2: 'gate' has a value twice: False",
    ),
    "a number twice in a matrix": (
        "name: s\nmatrix: {gate: [1, 1.0]}\nstages:\n  a: {generate: {gate: $gate}}\n",
        r"2: 'gate' has a value twice: 1.0",
    ),
    "a number that is too great": (
        "name: s\nmatrix: {seed: [99999999999999999999]}\nstages:\n  a: {generate: {seed: $seed}}\n",
        r"2: 'seed' has 99999999999999999999: a number must be smaller",
    ),
    "a gate on a reason that does not exist": (
        HEAD + "  a: {generate: {}, expect: {dropped.trucnated: '==0'}}\n",
        r"4: 'dropped.trucnated': no row is ever dropped as 'trucnated'; did you mean 'truncated'\?",
    ),
    "a gate on a reason for leaving out that does not exist": (
        HEAD + "  a: {generate: {}, expect: {left_out.sft.emtpy: '==0'}}\n",
        r"4: 'left_out.sft.emtpy': no row is ever dropped as 'emtpy'; did you mean 'empty'\?",
    ),
    "a reserved @": (HEAD + "  a: {label: {source: @draft}}\n", r"4: "),
}


@pytest.mark.parametrize(("text", "message"), FAULTS.values(), ids=FAULTS)
def test_a_fault_is_said_with_its_line(read: Read, text: str, message: str) -> None:
    with pytest.raises(InputError, match=f"recipe.yaml:{message}"):
        read(text)


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("modle=x", "has no such variable; did you mean 'model'"),
        ("model", "must be NAME=VALUE"),
        ("model=openai:x@https://me:Zq8vW2mT@host", "--set model holds what looks like a key"),
        ("model=[", "--set model="),
    ],
)
def test_a_wrong_assignment_is_refused(read: Read, assignment: str, message: str) -> None:
    with pytest.raises(UsageError, match=message.replace("[", r"\[")):
        read(HEAD + "  a: {generate: {model: $model}}\n", assignment)


def test_an_assignment_takes_the_place_of_a_variable(read: Read) -> None:
    assert read(HEAD + "  a: {generate: {model: $model}}\n", "model=openai:x").variables == {"model": "openai:x"}


@pytest.mark.parametrize(
    ("typed", "value"),
    [
        ("Note: answer briefly", "Note: answer briefly"),
        ("# be kind", "# be kind"),
        ("Say yes # always", "Say yes # always"),
        ("a: b: c", "a: b: c"),
        ("- one", "- one"),
        ("5", 5),
        ("0.5", 0.5),
        ("true", True),
        ("", None),
        ("null", None),
        ("[a, b]", ["a", "b"]),
        ('"5"', "5"),
        ("5 # five", "5 # five"),
    ],
)
def test_what_is_typed_for_a_variable_is_a_text_unless_it_is_a_value(read: Read, typed: str, value: object) -> None:
    text = HEAD.replace("model: local", "model: local, said: x") + "  a: {generate: {model: $model}}\n"
    assert read(text, f"said={typed}").variables["said"] == value


def test_a_recipe_that_is_not_there_is_refused_with_a_name_that_is() -> None:
    with pytest.raises(UsageError, match=r"no recipe 'labtop': neither a file nor a built-in; did you mean 'laptop'\?"):
        read_recipe("labtop", known())


@pytest.mark.parametrize("name", built_ins())
def test_every_built_in_can_be_read(name: str) -> None:
    assert read_recipe(name, known()).name == name
