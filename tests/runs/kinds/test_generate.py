from __future__ import annotations

import json
import os
import shlex
import threading
from pathlib import Path
from typing import Any

import pytest

from cai.cli.options import values_of
from cai.cli.terminal.progress import Progress
from cai.constitution.files import load_constitution
from cai.constitution.principles import Constitution
from cai.engine.asked import ngrams_asked
from cai.errors import CaiError, UsageError
from cai.folder.identity import identity_hash
from cai.runs.kinds.generate import GenerateRun
from cai.runs.kinds.settings import GenerateSettings, with_defaults
from cai.sources.yamlfile import make_settings as settings_of
from cai.texts.off_task import echo
from cai.texts.wording import SHOWN, telling

PROMPTS = ["How do I sharpen a knife?", "Is it late?"]


@pytest.fixture
def answers(tmp_path: Path) -> str:
    """A recorded model that nobody asks."""
    path = tmp_path / "answers.jsonl"
    path.write_text('{"id": "x", "role": "assistant", "index": 0, "reply": "Hm."}\n')
    return f"recorded:{path}"


def setup(prompts: Any = PROMPTS, constitution: str | Constitution = "harmless", **given: Any) -> GenerateRun:
    return GenerateRun(prompts, make_settings({"model": "openai:gpt-4.1-mini", "constitution": constitution, **given}))


def make_settings(given: dict[str, Any]) -> GenerateSettings:
    return settings_of(GenerateSettings, given)


def refused(**given: Any) -> str:
    with pytest.raises(UsageError) as error:
        setup(**given)
    return str(error.value)


# Values


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[
            (name, value)
            for name in ("rounds", "max_tokens", "limit", "concurrency", "rpm", "tpm")
            for value in (0, -1)
        ],
        *[(name, value) for name in ("rounds", "max_tokens", "limit") for value in (1.5, "2", True, 2**63)],
        *[("temperature", value) for value in (-0.1, 2.1, float("nan"), float("inf"), "1", None)],
        *[("max_cost", value) for value in (-1, float("nan"), float("inf"), "5")],
        *[("timeout", value) for value in (0, -1, float("nan"), float("inf"), None)],
        *[("seed", value) for value in (-1, 2**63, 1.5, None)],
        ("rounds", 1001),
        ("concurrency", 100_001),
        *[(name, 5) for name in ("model", "critic", "system", "templates", "format", "price", "base_url", "out")],
        ("model", None),
        ("gate", "no"),
        ("force", None),
        ("headers", [("a", "b")]),
        ("extra_body", '{"top_p": 1}'),
    ],
)
def test_a_value_that_cannot_be_is_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(UsageError, match=f"--{name.replace('_', '-')} .*must be"):
        make_settings({name: value})


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"headers": {"X-Key": 5}}, "--headers must be of type collections.abc.Mapping[str, str]"),
        ({"headers": "sec"}, "--headers must be a valid dictionary"),
        ({"extra_body": {5: "sec"}}, "--extra-body must be of type collections.abc.Mapping[str, typing.Any]"),
        ({"out": b"x"}, "--out b'x' must be of type str | pathlib.Path | None"),
        ({"rounds": 0}, "--rounds 0 must be greater than or equal to 1"),
    ],
)
def test_what_a_setting_must_be_is_true_of_all_that_it_may_be(given: dict[str, Any], told: str) -> None:
    assert refused(**given) == told


@pytest.mark.parametrize(
    "given",
    [
        {"rounds": 1, "max_tokens": 1, "limit": 1, "concurrency": 1, "rpm": 1, "tpm": 1, "seed": 0, "temperature": 0},
        {"temperature": 2, "max_cost": 0, "timeout": 0.001, "seed": 2**63 - 1, "limit": None},
    ],
)
def test_the_ends_of_the_ranges_are_taken(given: dict[str, Any]) -> None:
    assert make_settings(given).rounds >= 1


@pytest.mark.parametrize(
    ("stated", "templates", "temperature"),
    [
        ({}, "quoted", 0.7),
        ({"templates": "chat"}, "chat", 0.7),
        ({"temperature": 1.0}, "quoted", 1.0),  # which is what other models have if none is stated
        ({"critic": "local:qwen2.5-coder-1.5b"}, "quoted", 0.7),
        ({"critic": "openai:m"}, None, 1.0),
        ({"reviser": "local"}, None, 1.0),
        ({"model": "local"}, None, 1.0),
        ({"model": "local:smollm2-135m"}, None, 1.0),
        ({"model": "openai:qwen2.5-coder-1.5b"}, None, 1.0),
    ],
)
def test_a_named_model_says_what_its_chains_are_like_unless_that_is_stated(
    stated: dict[str, Any], templates: str | None, temperature: float
) -> None:
    settings = with_defaults(make_settings({"model": "local:qwen2.5-coder-1.5b", **stated}))
    assert (settings.templates, settings.temperature, settings.draw) == (templates, temperature, None)


@pytest.mark.parametrize(
    ("stated", "gate"),
    [
        ({}, 0.4),
        ({"templates": "quoted"}, 0.4),
        ({"templates": "chat"}, 0.5),
        ({"templates": "fewshot"}, None),  # which has none
        ({"gate": 0.7}, 0.7),
        ({"gate": False}, None),
        ({"critic": "local"}, 0.5),
        ({"constitution": "helpful"}, 0.5),  # which asks another question
    ],
)
def test_the_gate_of_a_named_model_is_for_its_own_question(stated: dict[str, Any], gate: float | None) -> None:
    assert setup(model="local:qwen2.5-coder-1.5b", **stated).gate == gate


def test_a_file_with_the_name_of_a_model_is_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "qwen2.5-coder-1.5b").write_text("weights")
    monkeypatch.chdir(tmp_path)
    assert with_defaults(make_settings({"model": "local:qwen2.5-coder-1.5b"})).templates is None


def test_an_unknown_setting_gets_a_suggestion() -> None:
    with pytest.raises(UsageError, match="unknown setting 'temprature'; did you mean 'temperature'"):
        make_settings({"temprature": 1})
    with pytest.raises(
        UsageError, match="unknown setting 'zzz'; known: accept, accept_at, base_url, batch, batch_wait, concurrency"
    ):
        make_settings({"zzz": 1})


@pytest.mark.parametrize("name", ["messages", "prompt", "system", "model", "stream", "n"])
def test_the_extra_body_must_not_undo_what_a_run_stands_on(name: str) -> None:
    assert f"--extra-body must not hold {name!r}" in refused(extra_body={name: "x"})


def test_the_extra_body_may_raise_the_length_of_answers_only_where_no_cost_is_capped() -> None:
    longer = {"max_tokens": None, "max_completion_tokens": 4000}
    assert setup(extra_body=longer).settings.extra_body == longer
    assert "use --max-tokens alone" in refused(extra_body=longer, max_cost=1.0)


@pytest.mark.parametrize("value", [{1, 2}, 2**70, object()])
def test_an_extra_body_that_is_no_json_is_refused(value: object) -> None:
    assert "--extra-body cannot be sent as JSON" in refused(extra_body={"x": value})


# What must agree with what


@pytest.mark.parametrize("gate", [True, 0.5, 0.0, 1])
def test_a_gate_needs_a_template_of_its_own(gate: float, tmp_path: Path) -> None:
    own = a_set(
        tmp_path / "own", critique="{{ principle.critique or principle.text }}{% if gate %} Verdict?{% endif %}"
    )
    for templates in ("fewshot", own):
        told = refused(templates=templates, gate=gate)
        assert str(templates) in told and "has no gate.jinja" in told and "--no-gate" in told
        assert setup(templates=templates).gate is setup(templates=templates, gate=False).gate is None
    assert "always revises (the template set has no gate.jinja)" in "\n".join(setup(templates=own).describe())
    (own / "gate.jinja").write_text("Change it?")
    assert setup(templates=own, gate=gate).gate == (0.5 if gate is True else gate)


def test_an_echo_of_ones_own_templates_is_a_fault_like_one_of_the_built_in_ones(tmp_path: Path) -> None:
    own = a_set(
        tmp_path / "own", critique='{{ principle.critique or "Tell us whether the text is fit for a quiet village" }}'
    )
    echoes = (
        "So: tell us whether the text is fit for a quiet village.",
        "Say in which ways the assistant's last reply falls short of this principle.",
    )
    seen = {}
    for templates in (own, "chat"):
        run = setup(templates=templates)
        assert bool(run.asked) == (templates == own)
        seen[templates] = [echo(text, "Hi", ngrams_asked(run.asked)) for text in echoes]
    assert seen == {own: [True, True], "chat": [False, True]}


def a_set(path: Path, critique: str) -> Path:
    path.mkdir()
    (path / "critique.jinja").write_text(critique)
    (path / "revise.jinja").write_text("{{ principle.revise or principle.text }}")
    return path


def test_the_gate_of_chat_templates_is_at_one_half_unless_told_otherwise() -> None:
    assert setup().gate == setup(gate=True).gate == 0.5
    assert (setup(gate=0.8).gate, setup(gate=False).gate) == (0.8, None)
    assert "p ≥ 0.8" in "\n".join(setup(gate=0.8).describe())


def test_what_the_gate_of_the_constitution_asks_is_part_of_who_a_run_is() -> None:
    asked = setup(constitution="harmless")
    assert asked.identity["gate_question"].startswith("Could someone be hurt")
    assert "the answer to its gate is Yes with p ≥ 0.5" in "\n".join(asked.describe())
    for other in (setup(constitution="harmless", gate=False), setup(constitution="helpful")):
        assert "gate_question" not in other.identity


@pytest.mark.parametrize("gate", [-0.1, 1.01, float("nan"), float("inf"), 2])
def test_a_gate_is_a_probability(gate: float) -> None:
    assert "must be a probability, from 0 to 1" in refused(gate=gate)


@pytest.mark.parametrize("model", ["anthropic:claude-sonnet-4-5", "openai:gpt-5"])
def test_a_gate_that_would_let_every_word_pass_is_refused(model: str) -> None:
    told = refused(critic=model, gate=0.9)
    assert "its words count as 0.75 at most, so that no reply would be revised" in told and model in told
    assert setup(critic=model, gate=0.75).gate == 0.75
    assert setup(model=model, critic="openai:gpt-4.1-mini", gate=0.9).gate == 0.9


@pytest.mark.parametrize("model", ["anthropic:claude-sonnet-4-5", "openai:gpt-5"])
@pytest.mark.parametrize(
    ("given", "threshold", "most"),
    [({"draw": "screen", "critic": "MODEL"}, "screen_at", 0.89), ({"accept": "MODEL"}, "accept_at", 0.83)],
)
def test_a_threshold_that_no_word_can_reach_is_refused(
    model: str, given: dict[str, str], threshold: str, most: float
) -> None:
    asked = {name: value.replace("MODEL", model) for name, value in given.items()}
    assert f"--{threshold.replace('_', '-')} 0.95: " in refused(**asked, **{threshold: 0.95})
    setup(**asked, **{threshold: most})
    certain = {name: value.replace("MODEL", "openai:gpt-4.1-mini") for name, value in given.items()}
    setup(**certain, **{threshold: 0.95})


def test_the_critic_answers_for_the_gate() -> None:
    [(roles, _, _)] = setup(critic="openai:gpt-4.1-nano").seats()
    assert roles == {"assistant": "assistant", "critic": "critic", "reviser": "reviser", "gate": "critic"}
    [(roles, _, _)] = setup(gate=False).seats()
    assert "gate" not in roles


def test_a_model_that_cannot_continue_text_is_refused_for_a_completion_set() -> None:
    assert "cannot continue text" in refused(model="anthropic:claude-sonnet-4-5", templates="fewshot")


def test_critic_and_reviser_default_to_the_model_before_them(answers: str) -> None:
    def names(**given: str) -> list[str]:
        return [f"{m.provider}:{m.name}".split("@")[0] for m in setup(**given).players.values()]

    mini, nano = "openai:gpt-4.1-mini", "openai:gpt-4.1-nano"
    assert names() == [mini] * 3
    assert names(critic=nano) == [mini, nano, nano]
    assert names(reviser=nano) == [mini, mini, nano]
    assert names(critic=answers, reviser=nano) == [mini, "recorded:answers", nano]


def test_one_model_in_two_roles_is_opened_once() -> None:
    models = setup(critic="openai:gpt-4.1-nano").players
    assert models["critic"] is models["reviser"] is not models["assistant"]


@pytest.mark.parametrize("name", ["model", "critic", "reviser", "templates"])
def test_an_empty_name_is_not_taken_for_none(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CaiError):
        setup(**{name: ""})


def test_a_cost_cap_needs_a_price() -> None:
    assert "openai:no-such-model" in refused(model="openai:no-such-model", max_cost=1.0)
    assert setup(model="openai:no-such-model", max_cost=1.0, price="1,2").prices["critic"] is not None
    assert setup(max_cost=1.0).prices["critic"] is not None


@pytest.mark.parametrize("price", ["", "1", "a,b", "1,2,3", "-1,2", "nan,1", "inf,1"])
def test_a_price_that_is_none_is_refused(price: str) -> None:
    assert "--price" in refused(price=price)


# Identity: what decides the rows, and nothing else


def identity(**given: Any) -> str:
    return identity_hash(setup(**given).identity)


@pytest.mark.parametrize(
    "given",
    [
        {"constitution": "honest"},
        {"templates": "fewshot", "gate": False},
        {"model": "openai:gpt-4.1-nano"},
        {"critic": "openai:gpt-4.1-nano"},
        {"reviser": "openai:gpt-4.1-nano"},
        {"rounds": 3},
        {"gate": False},
        {"gate": 0.7},
        {"gate": 0},
        {"system": "Be brief."},
        {"system": ""},
        {"temperature": 0.5},
        {"max_tokens": 100},
        {"extra_body": {"top_p": 0.9}},
        {"seed": 1},
        {"format": "text"},
        {"prompt_field": "question"},
        {"prompts": None},
    ],
)
def test_what_decides_the_rows_is_part_of_the_identity(given: dict[str, Any]) -> None:
    assert identity(**given) != identity()


@pytest.mark.parametrize(
    "given",
    [
        {"limit": 1},
        {"concurrency": 3},
        {"rpm": 10, "tpm": 1000},
        {"max_cost": 5.0},
        {"price": "1,2"},
        {"base_url": "http://127.0.0.1:9/v1"},
        {"headers": {"X-Key": "secret"}},
        {"timeout": 5.0},
        {"out": "elsewhere"},
        {"force": True},
        {"critic": "openai:gpt-4.1-mini"},
        {"gate": True},
        {"gate": 0.5},
        {"templates": "chat"},
        {"temperature": 1},
        {"prompts": ["Something else"]},
    ],
)
def test_what_does_not_decide_them_is_not(given: dict[str, Any]) -> None:
    assert identity(**given) == identity()


def test_a_prompt_file_counts_by_its_content_wherever_it_lies(tmp_path: Path) -> None:
    for folder, text in (("a", "one\n"), ("b", "one\n"), ("c", "two\n")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / f"{folder}.txt").write_text(text)
    a, b, c = (identity(prompts=tmp_path / name / f"{name}.txt") for name in "abc")
    assert a == b != c


def test_a_constitution_counts_by_what_it_says(tmp_path: Path) -> None:
    path = tmp_path / "law.yaml"
    path.write_text("name: law\nversion: 1.0.0\nprinciples: [Be kind.]\n")
    before = identity(constitution=str(path))
    path.write_text("# the same\nname: law\nversion: 1.0.0\nprinciples:\n  - Be kind.\n")
    assert identity(constitution=str(path)) == before
    path.write_text("name: law\nversion: 1.0.0\nprinciples: [Be very kind.]\n")
    assert identity(constitution=str(path)) != before


def test_neither_headers_nor_addresses_are_in_the_identity() -> None:
    text = json.dumps(setup(headers={"X-Key": "secret"}, base_url="http://127.0.0.1:9/v1").identity)
    assert "secret" not in text
    assert "127.0.0.1" not in text


def test_the_stored_command_states_what_decides_the_rows_and_holds_no_secret(tmp_path: Path) -> None:
    (tmp_path / "p \udcff.txt").write_text("Hi.\n")
    secrets = {"headers": {"X-Key": "sec"}, "base_url": "http://h:1/v1?key=sec", "extra_body": {"api_key": "sec"}}
    made = setup(str(tmp_path / "p \udcff.txt"), load_constitution("honest"), rounds=3, out=tmp_path, **secrets)
    words = ["--constitution", "honest", "--model", "openai:gpt-4.1-mini", "--rounds", "3", "--base-url", "URL"]
    assert shlex.split(made.command_line or "") == ["cai", "generate", f"{tmp_path}/p \\udcff.txt", *words]
    assert setup(None).command_line == "cai generate --model openai:gpt-4.1-mini"
    assert setup(PROMPTS).command_line is None


def test_the_default_folder_is_named_after_constitution_and_identity() -> None:
    assert setup().out == Path("runs") / f"harmless-{identity()}"
    assert setup(out="here").out == Path("here")


# What will run


def test_a_setup_says_what_will_run(tmp_path: Path) -> None:
    prompts = tmp_path / "p.txt"
    prompts.write_text("one\n")
    law = load_constitution("harmless")
    told = "\n".join(setup(prompts=prompts, limit=1000, out="runs/a", critic="openai:gpt-4.1-nano").describe())
    for fact in (
        f"harmless {law.version} (built-in harmless), {len(law.principles)} principles", f"{prompts}, the first 1,000",
        "2 rounds", "templates built-in chat", "seed 0", "assistant openai:gpt-4.1-mini", "critic openai:gpt-4.1-nano",
        "runs/a",
    ):  # fmt: skip
        assert fact in told
    plain = "\n".join(setup(prompts=None, rounds=1, gate=False).describe())
    assert "the built-in set\n" in plain and "1 round, always revises" in plain
    assert "model         openai:gpt-4.1-mini\n" in plain


def test_prompts_of_a_file_are_counted_and_others_are_not(tmp_path: Path) -> None:
    def count(prompts: Any, **given: Any) -> list[int]:
        progress = Progress(setup(prompts=prompts, **given))
        progress.count()
        for thread in threading.enumerate():
            if thread.name == "cai-count":
                thread.join()
        return [] if progress.total is None else [progress.total]

    path = tmp_path / "p.txt"
    path.write_text("one\n\ntwo\n")
    assert count(None) == [64]
    assert count(str(path)) == count(path) == [sum(1 for _ in setup(prompts=path).items())]
    assert count(None, limit=10) == [10]
    assert count("-") == count(PROMPTS) == count(iter(PROMPTS)) == []


# From the command line


def from_options(**given: Any) -> GenerateSettings:
    return make_settings(values_of({"headers": None, "extra_body": None, **given}))


def test_options_are_read_into_settings() -> None:
    found = from_options(extra_body='{"top_p": 0.9}', headers=["X-One: 1", "X-Two:  a: b "])
    assert found.extra_body == {"top_p": 0.9}
    assert found.headers == {"X-One": "1", "X-Two": "a: b"}


@pytest.mark.parametrize(("text", "told"), [("{", "is not JSON"), ("[1]", "must be a JSON object"), ("5", "must be a")])
def test_an_extra_body_that_is_no_object_is_refused(text: str, told: str) -> None:
    with pytest.raises(UsageError, match=f"--extra-body {told}"):
        from_options(extra_body=text)


@pytest.mark.parametrize("text", ["sk-secret", ": sk-secret", "A b: sk-secret", "A: sk-secret\r\nB: c", "Ä: sk-secret"])
def test_a_header_that_is_none_is_refused_without_showing_it(text: str) -> None:
    with pytest.raises(UsageError, match="--header must be 'Name: value'") as error:
        from_options(headers=[text])
    assert "secret" not in str(error.value)


def test_bytes_that_are_no_text_are_told_of() -> None:
    with pytest.raises(UsageError, match="not UTF-8 text"):
        setup(system=os.fsdecode(b"\xff"))


# The example that is shown


REPLY = "Mix both and stir well."
CRITIQUE = "It should warn of the fumes."
REVISION = "Never mix both and stir: fumes kill."


@pytest.mark.parametrize(
    "worse",
    [
        (REPLY, REPLY, CRITIQUE),
        (REPLY, REVISION + " " * 2 * SHOWN, CRITIQUE),
        (REPLY, f"{REVISION} {REVISION}", CRITIQUE),
        (REPLY, "It should really warn of the fumes.", CRITIQUE),
        (REPLY, "Rain is good for plants.", CRITIQUE),
    ],
    ids=["unchanged", "long", "twice as long as the reply", "the critique again", "about something else"],
)
def test_the_example_is_a_short_revision_of_the_reply_and_not_its_critique(worse: tuple[str, str, str]) -> None:
    assert telling(REPLY, REVISION, CRITIQUE) > telling(*worse)
