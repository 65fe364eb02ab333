"""Scales of a constitution: where they stand, what is wrong with one, and that nothing else changes by them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from cai.constitution.files import Reader, load_constitution
from cai.constitution.lint import check
from cai.constitution.principles import Constitution
from cai.constitution.scale import scales_of
from cai.errors import ConstitutionError

HEAD = "name: mine\nversion: 1.0.0\n"
FIVE = "[worst, bad, so-so, good, best]"
LEVELS = ("worst", "bad", "so-so", "good", "best")
Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def make(text: str, name: str = "mine.yaml") -> Path:
        path = tmp_path / name
        path.write_text(text)
        return path

    return make


# What stays


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("harmless", "159a0ad8e5a722b0"),
        ("helpful", "6949d0bad60088fd"),
        ("honest", "16ea981eece1906e"),
        ("hhh", "03f686dccf47ebe1"),
    ],
)
def test_built_in_constitutions_have_scales_and_the_hash_of_before(name: str, known: str) -> None:
    law = load_constitution(name)
    assert law.hash == known and law.version == "1.0.0" and scales_of(law)


def test_a_scale_is_not_part_of_the_hash_of_its_constitution(write: Write) -> None:
    plain = load_constitution(write(HEAD + "principles:\n- {id: a, text: Be kind to all.}", "a.yaml"))
    rated = load_constitution(
        write(HEAD + f"scale: {FIVE}\nprinciples:\n- {{id: a, text: Be kind to all., scale: {FIVE}}}", "b.yaml")
    )
    assert plain.hash == rated.hash and plain.ref == rated.ref


# Where scales stand


def test_helpful_honest_and_harmless_are_three_scales_of_hhh() -> None:
    assert [scale.name for scale in scales_of(load_constitution("hhh"))] == ["helpful", "honest", "harmless"]
    for scale in scales_of(load_constitution("hhh")):
        assert [scale] == scales_of(load_constitution(scale.name))


def test_a_constitution_is_rated_as_a_whole_and_its_principles_one_by_one(write: Write) -> None:
    path = write(
        HEAD
        + f"scale: {FIVE}\nprinciples:\n- {{id: a, text: Be kind to all., scale: {FIVE}}}\n- {{id: b, text: Be brief.}}"
        + f"\n- {{id: c, choose: Choose the calm one., scale: {FIVE}}}"
    )
    scales = scales_of(load_constitution(path))
    assert [(scale.name, scale.criterion) for scale in scales] == [
        ("mine", None), ("a", "Be kind to all."), ("c", None)
    ]  # fmt: skip
    assert all(scale.levels == LEVELS for scale in scales)
    assert scales[0].hash == scales[2].hash != scales[1].hash


def test_scales_are_inherited_and_an_own_one_takes_the_place_of_one_of_its_name(write: Write) -> None:
    write(f"name: base\nversion: 1.0.0\nscale: {FIVE}\nprinciples: [Be kind to all.]", "base.yaml")
    write("name: left\nversion: 1.0.0\nextends: base.yaml", "left.yaml")
    law = load_constitution(write(HEAD + f"extends: [base.yaml, left.yaml]\nscale: {FIVE}"))
    assert [scale.name for scale in scales_of(law)] == ["base", "mine"]
    own = load_constitution(write("name: base\nversion: 2.0.0\nextends: base.yaml\nscale: [a, b, c, d, e]", "own.yaml"))
    assert [(scale.name, scale.levels[0]) for scale in scales_of(own)] == [("base", "a")]


def test_a_scale_can_be_made_in_python() -> None:
    principles = [{"id": "a", "text": "Be kind."}]
    law = Constitution.model_validate({"name": "own", "version": "1.0.0", "principles": principles, "scale": LEVELS})
    assert [scale.name for scale in scales_of(law)] == ["own"]


# What is wrong


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("scale: [a, b, c, d]\nprinciples: [x y]", 3, "'scale' needs 5 levels, from 1, the worst, to 5; it has 4"),
        ("scale: []\nprinciples: [x y]", 3, "'scale' needs 5 levels, from 1, the worst, to 5; it has 0"),
        ("scale:\n- a\n- b\n- c\n- d\n- e\n- f\nprinciples: [x y]", 3, "it has 6"),
        ("scale: {1: a, 2: b}\nprinciples: [x y]", 3, "'scale' must be a list, not a mapping"),
        ("scale: a good one\nprinciples: [x y]", 3, "'scale' must be a list, not 'a good one'"),
        ("scale:\n- a\n- b\n- 3\n- d\n- e\nprinciples: [x y]", 6, "YAML reads entry 3 of 'scale' 3 as a number"),
        ("scale:\n- a\n- b\n- ''\n- d\n- e\nprinciples: [x y]", 6, "entry 3 of 'scale' is empty"),
        ("scale:\n- a\n- b\n- no\n- d\n- e\nprinciples: [x y]", 6, "YAML reads entry 3 of 'scale' no as false"),
        ("scale: [a, b, c, b, e]\nprinciples: [x y]", 3, "levels 2 and 4 of 'scale' are the same"),
        ('scale: ["a\\nb", c, d, e, f]\nprinciples: [x y]', 3, "level 1 of 'scale' must be one line"),
        ("scales: [a, b, c, d, e]\nprinciples: [x y]", 3, "did you mean 'scale'?"),
        ("principles:\n- id: a\n  text: t\n  scal: [a, b, c, d, e]", 6, "did you mean 'scale'?"),
        ("principles:\n- id: a\n  text: t\n  scale: [a, b]", 6, "'scale' needs 5 levels"),
    ],
)
def test_a_scale_that_is_wrong_is_named_with_its_line(write: Write, text: str, line: int, message: str) -> None:
    reader = Reader()
    assert reader.read(write(HEAD + text)) is None
    assert any(message in problem.message and problem.line == line for problem in reader.problems), reader.problems


def test_two_bases_that_differ_in_a_scale_need_a_decision(write: Write) -> None:
    write(f"name: base\nversion: 1.0.0\nscale: {FIVE}\nprinciples: [Be kind to all.]", "one.yaml")
    write("name: base\nversion: 1.0.0\nscale: [a, b, c, d, e]\nprinciples: [Be kind to all.]", "two.yaml")
    with pytest.raises(ConstitutionError, match="differ in the scale of 'base'; give one another name"):
        load_constitution(write(HEAD + "extends: [one.yaml, two.yaml]"))


def test_a_constitution_without_a_scale_cannot_rate(write: Write) -> None:
    law = load_constitution(write(HEAD + "principles: [Be kind to all.]"))
    with pytest.raises(ConstitutionError, match="mine has no 'scale': give it, or some principles, five levels"):
        scales_of(law)


def test_two_scales_of_one_name_are_an_error_of_check(write: Write) -> None:
    path = write(HEAD + f"scale: {FIVE}\nprinciples: [{{id: mine, text: Be kind to all., scale: {FIVE}}}]")
    assert [finding.code for finding in check(path).errors] == ["scale-name"]
    with pytest.raises(ConstitutionError, match="two scales are named 'mine'"):
        scales_of(load_constitution(path))


def test_a_template_in_a_level_is_warned_of(write: Write) -> None:
    path = write(
        HEAD + "scale: ['{{ reply }} is bad', b, c, d, e]\nprinciples: [Choose the reply that is kind to all.]"
    )
    assert "template-syntax" in [finding.code for finding in check(path).warnings]
