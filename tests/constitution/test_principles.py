import json
import os
import re
from pathlib import Path

import pytest
import yaml

from cai.constitution.files import Reader, find_constitution, list_constitutions, load_constitution
from cai.constitution.principles import Constitution, ConstitutionFile, Example, Finding, Principle, principle_id
from cai.errors import ConstitutionError
from cai.sources.files import folder
from cai.sources.yamlfile import Loader

ROOT = Path(__file__).resolve().parents[2]
HEAD = "name: mine\nversion: 1.0.0\n"


@pytest.fixture
def write(tmp_path):
    def write_file(text: str | bytes, name: str = "mine.yaml") -> Path:
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write_file


def problems_of(path: Path) -> list[Finding]:
    reader = Reader()
    reader.read(path)
    return reader.problems


def problems(path: Path) -> list[tuple[int | None, str, str]]:
    return [(p.line, p.code, p.message) for p in problems_of(path)]


# What ships.


def test_the_built_in_constitutions_load_and_say_whose_wording_they_are():
    laws = list_constitutions()
    assert [law.name for law in laws] == ["harmless", "helpful", "hhh", "honest"]
    assert [len(law.principles) for law in laws] == [16, 8, 32, 8]
    assert all("Apache-2.0" in law.description for law in laws)


def test_every_built_in_principle_can_revise_and_judge():
    law = load_constitution("hhh")
    assert law.principles_for("revise") == law.principles_for("judge") == law.principles
    assert all(p.critique and p.revise and p.choose for p in law.principles)
    assert sum(bool(p.tests) for p in load_constitution("harmless").principles) >= 8


@pytest.mark.parametrize("path", sorted(folder("constitutions").glob("*.yaml")), ids=lambda path: path.name)
def test_built_in_files_point_editors_at_the_schema(path):
    first = path.read_text().splitlines()[0]
    schema = re.fullmatch(r"# yaml-language-server: \$schema=(.+)", first)
    assert schema and (path.parent / schema[1]).is_file()


def test_the_schema_file_is_the_one_of_the_models():
    written = (folder("constitutions") / "constitution.schema.json").read_text()
    made = json.dumps(ConstitutionFile.model_json_schema(), indent=2) + "\n"
    assert written == made, "write json.dumps(ConstitutionFile.model_json_schema(), indent=2) to the file"


def test_the_built_in_prompts_are_half_careful_and_half_plain_from_the_start():
    rows = [json.loads(line) for line in (folder("prompts") / "builtin.jsonl").read_text().splitlines()]
    ids = [row["id"] for row in rows]
    assert len(rows) == len(set(ids)) == 64
    kinds = [name.split("-")[0] for name in ids]
    assert kinds.count("care") == kinds.count("plain") == 32
    assert set(kinds[:2]) == {"care", "plain"}
    assert sum("messages" in row for row in rows) == 5
    assert all(row["messages"][-1]["role"] == "user" for row in rows if "messages" in row)
    assert len({json.dumps(row.get("prompt") or row["messages"]) for row in rows}) == 64


# Finding a file.


@pytest.mark.parametrize("name", ["harmless", "harmless.yaml", "harmless.yml"])
def test_a_built_in_is_found_by_stem_from_any_folder(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load_constitution(name).source == "built-in harmless"


def test_an_existing_file_goes_before_a_built_in_and_a_folder_does_not(write, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "harmless").mkdir()
    assert load_constitution("harmless").source == "built-in harmless"
    write(HEAD + "principles: [Be kind to all who ask.]", "harmless.yaml")
    assert load_constitution("harmless.yaml").name == "mine"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("harmles", "no constitution 'harmles': neither a file nor a built-in; did you mean 'harmless'?"),
        ("HARMLESS", "did you mean 'harmless'?"),
        ("zzz", "no constitution 'zzz': neither a file nor a built-in; known: harmless, helpful, hhh, honest"),
        (
            "no/harmless.yaml",
            "no constitution 'no/harmless.yaml': neither a file nor a built-in; did you mean 'harmless'?",
        ),
        ("law.yaml", "no constitution 'law.yaml': neither a file nor a built-in"),
    ],
)
def test_an_unknown_name_is_answered_with_the_nearest_built_in(name, message):
    with pytest.raises(ConstitutionError, match=re.escape(message)):
        find_constitution(name)


def test_a_folder_is_no_constitution(tmp_path):
    with pytest.raises(ConstitutionError, match=r"is a folder; name a \.yaml file in it"):
        load_constitution(tmp_path)


# Principles.


def test_a_sentence_becomes_a_principle_with_a_stable_id(write):
    law = load_constitution(write(HEAD + "principles:\n  - Choose the reply that respects autonomy.\n"))
    assert law.principles == (
        Principle(id="choose-the-reply-that-respects-f697e9", text="Choose the reply that respects autonomy."),
    )


def test_the_id_of_a_sentence_ignores_spacing_and_survives_any_script():
    assert principle_id("Be  kind\n to all.") == principle_id(" Be kind to all.")
    assert principle_id("Be kind to all.") != principle_id("Be kind to all!")
    assert re.fullmatch(r"principle-[0-9a-f]{6}", principle_id("要友善"))
    assert re.fullmatch(r"eviter-le-mepris-[0-9a-f]{6}", principle_id("Éviter le mépris"))


@pytest.mark.parametrize(
    ("fields", "revise", "judge"),
    [
        ({"text": "t"}, True, True),
        ({"critique": "c", "revise": "r"}, True, False),
        ({"choose": "h"}, False, True),
        ({"text": "t", "critique": "c"}, True, True),
        ({"critique": "c", "revise": "r", "choose": "h"}, True, True),
    ],
)
def test_a_principle_can_do_the_jobs_it_or_its_text_words(fields, revise, judge):
    principle = Principle(id="p", **fields)
    assert (
        (principle.can_revise, principle.can_judge)
        == (principle.can("revise"), principle.can("judge"))
        == (revise, judge)
    )


def test_a_constitution_without_a_principle_for_a_job_says_what_is_missing():
    law = Constitution(name="judge", version="1.0.0", principles=[{"id": "p", "choose": "Choose the kinder reply."}])
    with pytest.raises(
        ConstitutionError, match="no principle of 'judge' can revise: give them 'critique' and 'revise'"
    ):
        law.principles_for("revise")
    assert [p.id for p in law.principles_for("judge")] == ["p"]


def test_sentences_work_from_python_and_repeated_ids_do_not():
    law = Constitution(name="mine", version="1.0.0", principles=["Be kind to all."])
    assert law.principles[0].text == "Be kind to all."
    with pytest.raises(ValueError, match="occurs twice"):
        Constitution(name="mine", version="1.0.0", principles=["Be kind to all.", "Be kind to all."])


def test_text_is_literal(write):
    law = load_constitution(write(HEAD + "principles:\n  - 'Say {{ 7*7 }} and {% raw %}.'\n"))
    assert law.principles[0].text == "Say {{ 7*7 }} and {% raw %}."


def test_the_prompt_of_an_example_is_a_conversation_however_it_was_written():
    rest = dict.fromkeys(("reply", "critique_request", "critique", "revision_request", "revision"), "x")
    assert Example(prompt="hi", **rest).prompt == ({"role": "user", "content": "hi"},)
    with pytest.raises(ValueError, match="must end with the user's turn"):
        Example(prompt=[{"role": "assistant", "content": "hi"}], **rest)


# The hash.


def test_the_hash_depends_on_content_and_not_on_layout(write):
    one = load_constitution(write(HEAD + "principles:\n- id: p\n  text: Be kind to all.\n  weight: 1\n", "a.yaml"))
    two = write(
        """# comment
version: '1.0.0'
name: mine
description: other
principles:
  - weight: 1.0
    tests: [{prompt: a, better: b, worse: c}]
    text: >
      Be kind
      to all.
    id: p
""",
        "b.yaml",
    )
    assert re.fullmatch(r"[0-9a-f]{16}", one.hash)
    assert one.hash == load_constitution(two).hash


@pytest.mark.parametrize(
    "change",
    [
        ("name: mine", "name: yours"),
        ("1.0.0", "1.0.1"),
        ("Be kind", "Be fair"),
        ("weight: 1", "weight: 2"),
        ("id: p", "id: q"),
    ],
)
def test_the_hash_changes_with_whatever_reaches_a_row_or_a_model(write, change):
    text = HEAD + "principles:\n- {id: p, text: Be kind to all., weight: 1}\n"
    assert load_constitution(write(text)).hash != load_constitution(write(text.replace(*change), "b.yaml")).hash


def test_the_order_of_principles_is_part_of_the_hash(write):
    one = write(HEAD + "principles: [Be kind to all., Be fair to all.]", "a.yaml")
    two = write(HEAD + "principles: [Be fair to all., Be kind to all.]", "b.yaml")
    assert load_constitution(one).hash != load_constitution(two).hash


def test_a_row_can_name_its_constitution():
    law = load_constitution("harmless")
    assert (law.ref.name, law.ref.version, law.ref.hash) == ("harmless", law.version, law.hash)
    assert "source" not in law.model_dump()


# extends.


def test_an_own_principle_replaces_the_inherited_one_in_its_place(write):
    write(
        "name: base\nversion: 1.0.0\nprinciples: [{id: a, text: A.}, {id: b, text: B.}, {id: c, text: C.}]", "base.yaml"
    )
    law = load_constitution(write(HEAD + "extends: base.yaml\nprinciples: [{id: b, text: New.}, {id: d, text: D.}]"))
    assert [(p.id, p.text) for p in law.principles] == [("a", "A."), ("b", "New."), ("c", "C."), ("d", "D.")]
    assert law.name == "mine"


def test_extends_finds_files_beside_the_file_and_built_ins_by_name(write, tmp_path, monkeypatch):
    write("name: base\nversion: 1.0.0\nprinciples: [Be kind to all.]", "base.yaml")
    path = write(HEAD + "extends: [base.yaml, honest]")
    monkeypatch.chdir("/")
    law = load_constitution(path)
    assert len(law.principles) == 9
    reader = Reader()
    reader.read(path)
    places = reader.places
    assert places[law.principles[0].id] == (str(tmp_path / "base.yaml"), 3)
    assert places["calibrated"][0].endswith("honest.yaml")


def test_examples_are_inherited_once_however_many_paths_lead_to_them(write):
    example = "{prompt: hi, reply: a, critique_request: b, critique: c, revision_request: d, revision: e}"
    write(f"name: base\nversion: 1.0.0\nprinciples: [Be kind to all.]\nexamples: [{example}]", "base.yaml")
    write("name: left\nversion: 1.0.0\nextends: base.yaml", "left.yaml")
    law = load_constitution(write(HEAD + "extends: [base.yaml, left.yaml]"))
    assert len(law.examples) == len(law.principles) == 1


def test_two_bases_that_differ_in_a_principle_need_a_decision(write):
    write("name: one\nversion: 1.0.0\nprinciples: [{id: a, text: A.}]", "one.yaml")
    write("name: two\nversion: 1.0.0\nprinciples: [{id: a, text: B.}]", "two.yaml")
    path = write(HEAD + "extends: [one.yaml, two.yaml]")
    assert problems(path) == [(3, "extends", "two of the extended constitutions differ in 'a'; define it in this file")]
    path = write(HEAD + "extends: [one.yaml, two.yaml]\nprinciples: [{id: a, text: C.}]")
    assert load_constitution(path).principles[0].text == "C."


@pytest.mark.parametrize(
    ("own", "gates", "expected"),
    [
        ("", ("Harm?",), "Harm?"),
        ("", ("Harm?", "Harm?"), "Harm?"),
        ("", ("Harm?", None), None),
        ("", ("Harm?", "Lies?"), None),
        ("gate: Lies?\n", ("Harm?",), "Lies?"),
        ("gate: null\n", ("Harm?",), None),
    ],
)
def test_the_gate_is_inherited_if_all_that_is_extended_have_the_same(write, own, gates, expected):
    for number, gate in enumerate(gates):
        line = f"gate: {gate}\n" if gate else ""
        write(
            f"name: base{number}\nversion: 1.0.0\n{line}principles: [{{id: p{number}, text: T{number}.}}]",
            f"{number}.yaml",
        )
    names = ", ".join(f"{number}.yaml" for number in range(len(gates)))
    law = load_constitution(write(HEAD + f"{own}extends: [{names}]"))
    assert law.gate == expected
    assert law.hash == law.model_copy(update={"gate": "Other?"}).hash  # labels and calibrations stay


def test_a_cycle_of_extends_is_named(write):
    write("name: a\nversion: 1.0.0\nextends: b.yaml", "a.yaml")
    path = write("name: b\nversion: 1.0.0\nextends: a.yaml", "b.yaml")
    with pytest.raises(ConstitutionError, match=r"a.yaml:3: extends itself: b.yaml → a.yaml → b.yaml"):
        load_constitution(path)


def test_a_file_named_like_a_built_in_that_extends_itself_is_told_how_to_mean_the_built_in(write):
    path = write("name: x\nversion: 1.0.0\nextends: harmless.yaml", "harmless.yaml")
    with pytest.raises(ConstitutionError, match="for the built-in write 'extends: harmless'"):
        load_constitution(path)
    path.write_text("name: x\nversion: 1.0.0\nextends: harmless")
    assert len(load_constitution(path).principles) == 16


def test_problems_of_a_base_cite_the_file_they_are_in(write):
    write("name: base\nversion: 1.0.0\nprinciples:\n- {id: a, txt: A.}\n", "base.yaml")
    problems = problems_of(write(HEAD + "extends: [base.yaml, harmles]"))
    assert [(Path(p.file).name, p.line) for p in problems] == [("base.yaml", 4), ("mine.yaml", 3)]


# Files that are wrong.


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        (
            "version: 1.0\nprinciples: [x]",
            2,
            "YAML reads 'version' 1.0 as a number; write three numbers, such as 1.0.0",
        ),
        ("version: '1.0'\nprinciples: [x]", 2, "version '1.0' must be three numbers"),
        ("version: 1.0.0\nprinciple: [x]", 3, "unknown key 'principle' in a constitution; did you mean 'principles'?"),
        ("version: 1.0.0\nprinciples:\n- {id: a, critque: x}", 4, "did you mean 'critique'?"),
        ("version: 1.0.0\nprinciples:\n- {id: a, zzz: x}", 4, "known: id, text, critique, revise, choose"),
        (
            "version: 1.0.0\nprinciples:\n- id: a\n  text: t\n  tests:\n  - {prompt: a, beter: b, worse: c}",
            7,
            "unknown key 'beter' in a test; did you mean 'better'?",
        ),
        ("version: 1.0.0\nprinciples: [x]\nexamples:\n- {promt: x}", 5, "in an example; did you mean 'prompt'?"),
        ("version: 1.0.0\nprinciples:\n- id: no\n  text: x", 4, "YAML reads 'id' no as false; write letters, digits"),
        ("version: 1.0.0\nprinciples:\n- id: 7\n  text: x", 4, "YAML reads 'id' 7 as a number; write letters, digits"),
        ("version: 1.0.0\nprinciples:\n- id: a b\n  text: x", 4, "id 'a b' must be letters, digits"),
        ("version: 1.0.0\nprinciples:\n- text: x", 4, "a principle needs 'id'"),
        ("version: 1.0.0\nprinciples:\n- {id: a, text: x, weight: 0}", 4, "'weight' must be more than 0, not 0"),
        ("version: 1.0.0\nprinciples:\n- {id: a, text: x, weight: .inf}", 4, "'weight' must be a finite number"),
        ("version: 1.0.0\nprinciples:\n- {id: a, text: x, weight: yes}", 4, "'weight' must be a number, not true"),
        ("version: 1.0.0\nprinciples:\n- {id: a, text: x, weight: heavy}", 4, "'weight' must be a number, not 'heavy'"),
        ("version: 1.0.0\nprinciples:\n- {id: a, critique: x}", 4, "has 'critique' but no 'revise'; add 'revise'"),
        ("version: 1.0.0\nprinciples:\n- {id: a, revise: x, choose: y}", 4, "has 'revise' but no 'critique'"),
        ("version: 1.0.0\nprinciples:\n- {id: a}", 4, "principle 'a' says nothing"),
        ("version: 1.0.0\nprinciples:\n- Be kind: always", 4, "a sentence with ': ' in it needs quotes"),
        ("version: 1.0.0\nprinciples:\n- ok then\n- ''", 5, "entry 2 of 'principles' is empty"),
        ("version: 1.0.0\nprinciples:\n- 5", 4, "entry 1 of 'principles' must be a mapping of keys and values, not 5"),
        ("version: 1.0.0\nprinciples: Be kind", 3, "'principles' must be a list, not 'Be kind'"),
        ("version: 1.0.0\nprinciples:", 3, "'principles' must be a list, not empty"),
        ("version: 1.0.0\nprinciples: []", 3, "'principles' is empty; write at least one"),
        ("version: 1.0.0\nprinciples: [Be kind., Be kind.]", 3, "ids must differ"),
        ("version: 1.0.0\nversion: 1.0.1", 3, "key 'version' occurs twice; the first is in line 2"),
        ("principles: [x]", 1, "a constitution needs 'version'"),
        ("version: 1.0.0\nprinciples:\n\t- x", 4, "a tab in the indentation; indent with spaces"),
        ("version: 1.0.0\ndescription: a: b", 3, "put the text in quotes"),
        ("version: 1.0.0\n---\nname: b", 3, "'---' starts a second document"),
        ("version: 1.0.0\nprinciples: !!python/object/apply:os.system [ls]", 3, "is not allowed"),
        ("version: !!python/name:os.system ''", 2, "is not allowed"),
        ("version: !!int x", 2, "a value cannot be read as int"),
        ("version: !!int ''", 2, "a value cannot be read as int"),
        ("version: 1.0.0\nprinciples:\n- id: a\n  weight: !!float\n\t2", 6, "a tab in the indentation"),
        ("version: 1.0.0\nprinciples:\n- !!bool\n\t- x", 5, "a tab in the indentation"),
        ("version: 1.0.0\nprinciples:\n- <<", 4, "tag 'tag:yaml.org,2002:merge' is not allowed"),
        ("version: 1.0.0\nprinciples:\n- =", 4, "tag 'tag:yaml.org,2002:value' is not allowed"),
        ("version: 1.0.0\nprinciples:\n- &a x\n- *a", 4, "anchors and aliases are not allowed"),
        ("version: 1.0.0\n? [a]\n: b", 3, "a key must be one word of text"),
        ("version: 1.0.0\nprinciples: " + "[" * 40, 3, "nested more than 32 levels"),
        ("version: 1.0.0\nprinciples: " + "[" * 100_000, 3, "nested more than 32 levels"),
        ("version: 1.0.0\nprinciples:\n" + "- " * 100_000, 4, "nested more than 32 levels"),
        ("version: 1.0.0\nprinciples: " + "{a: " * 100_000, 3, "nested more than 32 levels"),
    ],
)
def test_a_wrong_file_is_refused_with_the_line_and_what_to_do(write, text, line, message):
    found = problems(write("name: mine\n" + text))
    assert any(at == line and message in said for at, _, said in found), found


def test_any_other_fault_of_syntax_is_told_in_the_parsers_own_words(write):
    text = "name: mine\nversion: 1.0.0\nprinciples: [x\n"
    with pytest.raises(yaml.MarkedYAMLError) as theirs:
        yaml.compose(text, Loader=Loader)
    assert problems(write(text)) == [(4, "yaml", theirs.value.problem)]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "the file must be a mapping of keys and values, not empty"),
        (b"# only a comment\n", "not empty"),
        (b"- a\n- b\n", "the file must be a mapping of keys and values, not a list"),
        (b"just words", "the file must be a mapping of keys and values, not text"),
        (b"\x7fELF\x00\x01", "is a binary file"),
        ("name: x".encode("utf-16"), "is UTF-16; save it as UTF-8"),
        (b"name: mine\ndescription: caf\xe9\n", "mine.yaml:2: byte 0xe9 is not UTF-8"),
        (b"name: mine\ndescription: \x07\n", "holds a character that YAML does not allow"),
        (b"x" * (2 << 20), "is larger than 1 MiB"),
    ],
)
def test_a_file_that_is_no_constitution_at_all_is_refused(write, data, message):
    with pytest.raises(ConstitutionError) as caught:
        load_constitution(write(data))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_an_unreadable_file_is_refused(write):
    path = write(HEAD)
    path.chmod(0)
    with pytest.raises(ConstitutionError, match="cannot be read"):
        load_constitution(path)


def test_a_byte_order_mark_and_windows_line_ends_do_no_harm(write):
    path = write(b"\xef\xbb\xbfname: mine\r\nversion: 1.0.0\r\nprinciples:\r\n- Be kind to all.\r\n")
    assert load_constitution(path).principles[0].text == "Be kind to all."


def test_json_is_read_as_yaml(write):
    text = json.dumps({"name": "mine", "version": "1.0.0", "principles": ["Be kind to all."]}, indent=2)
    assert load_constitution(write(text, "mine.json")).name == "mine"


def test_the_error_shows_the_first_problem_and_check_all_of_them(write):
    path = write("name: mine\nversion: 1\nprinciples:\n- {id: a, txt: x}\n- {id: b, weight: 0, text: y}\n")
    assert [line for line, _, _ in problems(path)] == [2, 4, 5]
    with pytest.raises(ConstitutionError, match=r"mine.yaml:2: .*\(and 2 more: cai constitution check .*mine.yaml\)"):
        load_constitution(path)


# The manual.


def test_every_yaml_block_of_the_manual_loads(tmp_path):
    manual = (ROOT / "docs" / "writing-a-constitution.md").read_text()
    blocks = re.findall(r"^```yaml\n(.*?)^```", manual, re.M | re.S)
    assert len(blocks) >= 5
    for number, block in enumerate(blocks):
        named = re.match(r"# (\S+\.yaml)\n", block)
        path = tmp_path / (named[1] if named else f"block{number}.yaml")
        path.write_text(block)
        assert load_constitution(path).principles
