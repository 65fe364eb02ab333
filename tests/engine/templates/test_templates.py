"""The exact words a model is sent; `python tests/engine/templates/test_templates.py --write` writes tests/golden."""

from __future__ import annotations

import re
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from cai.constitution.principles import Constitution, Example, Principle
from cai.engine.ask_judge import AskJudge
from cai.engine.gate import Gate, YesNo
from cai.engine.revise import Ask
from cai.engine.screen import AskScreen
from cai.engine.templates.findings import check_templates
from cai.engine.templates.sets import Templates, load_templates
from cai.errors import TemplateError
from cai.records import Message, Prompt, Request
from cai.sources.files import folder

GOLDEN = Path(__file__).parents[2] / "golden"
WHOLE = Principle.model_validate(
    {"id": "kind", "critique": "Is the reply kind?", "revise": "Make the reply kind.", "choose": "Choose the kind one."}
)
SHORTHAND = Principle.model_validate({"id": "kind", "text": "Replies should be kind."})
SYSTEM: Message = {"role": "system", "content": "Answer in one sentence."}
TURNS: tuple[Message, ...] = (
    SYSTEM,
    {"role": "user", "content": "Hello."},
    {"role": "assistant", "content": "Hello! What can I do?"},
    {"role": "user", "content": "How do I sharpen a knife?\n\nIt is {{ blunt }}."},
)
PROMPT = Prompt(id="knife", messages=TURNS)
EXAMPLE = Example.model_validate(
    {
        "prompt": "Is it late?",
        "reply": "Obviously.",
        "critique_request": "Is it kind?",
        "critique": "It is curt.",
        "revision_request": "Make it kind.",
        "revision": "It is: time for bed.",
    }
)
GOOD = {"critique.jinja": "Critique: {{ principle.critique or principle.text }}", "revise.jinja": "{{ principle.id }}"}


def words(request: Request) -> str:
    """A request as a golden file holds it."""
    turns = "".join(f"[{turn['role']}]\n{turn['content']}\n" for turn in request.messages)
    text = "" if request.text is None else f"{request.text}<end>\n"
    begun = f"[assistant, begun] {request.prefill}<end>\n" if request.prefill else ""
    scored = f"[score] {list(request.score)}\n" if request.score else ""
    return f"{turns}{text}{begun}{scored}[stop] {list(request.stop)}\n"


@cache
def golden_texts() -> dict[str, str]:
    """What every golden file should hold, by name."""
    bare = Constitution(name="law", version="1.0.0", principles=(WHOLE,))
    own = Ask(load_templates("fewshot"), bare).critique(PROMPT, "With a stone.", WHOLE)
    texts = {"fewshot-own-examples-critique.txt": words(own)}
    for name in ("chat", "quoted", "fewshot"):
        for kind, principle in (("whole", WHOLE), ("shorthand", SHORTHAND)):
            law = Constitution(name="law", version="1.0.0", principles=(principle,), examples=(EXAMPLE,))
            ask = Ask(load_templates(name), law)
            asked = {
                "respond": ask.respond(PROMPT),
                "critique": ask.critique(PROMPT, "With a stone.", principle),
            }
            ask.begins_replies = True
            asked["revise"] = ask.revise(PROMPT, "With a stone.", "It is curt.", principle)
            if name != "fewshot":
                templates = load_templates(name)
                gate = Gate(0.5, "score", templates.prefix["gate"])
                [asked["gate"]] = next(gate.ask(ask.gate(PROMPT, "With a stone.", "It is curt.", principle)))
                how = YesNo("score", templates.prefix["screen"])
                screen = AskScreen(templates, law).scores(PROMPT.messages, "With a stone.", [principle], how)
                asked["against"], asked["keeps"] = next(screen)
            judge = AskJudge(load_templates(name), law, prefill=True)
            pair = TURNS, "With a stone.", "On a wet stone,\n\nat 20 degrees.", principle
            asked |= {
                "judge": judge.letter(pair, score=True),
                "reasons": judge.reasons(pair),
                "judge-after-reasons": judge.letter(pair, score=False, reasons="The second says how."),
                "vote": AskJudge(load_templates(name), law, prefill=False).vote(pair),
            }
            texts |= {f"{name}-{kind}-{template}.txt": words(request) for template, request in asked.items()}
    return texts


def a_set(path: Path, **files: str) -> Path:
    """A template set in a folder of its own; `critique__jinja` stands for critique.jinja."""
    path.mkdir(exist_ok=True)
    for name, text in {**GOOD, **{name.replace("__", "."): text for name, text in files.items()}}.items():
        (path / name).write_text(text, encoding="utf-8")
    return path


def refused(path: Path, **files: str) -> str:
    with pytest.raises(TemplateError) as error:
        load_templates(a_set(path, **files))
    return str(error.value)


# The exact words


@pytest.mark.parametrize("name", golden_texts())
def test_a_model_is_sent_exactly_these_words(name: str) -> None:
    assert (GOLDEN / name).read_text(encoding="utf-8") == golden_texts()[name], "see the top of this file"


def test_every_golden_file_is_of_use() -> None:
    assert {path.name for path in GOLDEN.glob("*.txt")} == set(golden_texts())


def test_the_gate_is_in_no_question_but_its_own() -> None:
    texts = golden_texts()
    for kind in ("whole", "shorthand"):
        own = texts[f"chat-{kind}-gate.txt"].rpartition("[user]\n")[2].partition("\n[assistant, begun]")[0]
        holders = {name for name, text in texts.items() if own in text or "Verdict" in text}
        assert holders == {"chat-whole-gate.txt", "chat-shorthand-gate.txt"}


@pytest.mark.parametrize("name", ["chat", "quoted", "fewshot"])
def test_no_built_in_template_has_more_stop_strings_than_openai_takes(name: str) -> None:
    assert all(len(stop) <= 4 for stop in load_templates(name).stop.values())


def test_every_label_that_the_few_shot_layout_writes_is_a_stop_string_somewhere() -> None:
    templates = load_templates("fewshot")
    stops = {stop.strip() for name in ("respond", "critique", "revise") for stop in templates.stop[name]}
    labels = {"Human:", "Assistant:", "CritiqueRequest:", "Critique:", "RevisionRequest:", "Revision:"}
    text = (GOLDEN / "fewshot-whole-revise.txt").read_text(encoding="utf-8")
    assert labels == stops == {label for label in labels if f"\n\n{label}" in text}


@pytest.mark.parametrize("name", ["chat", "quoted", "fewshot"])
def test_built_in_sets_have_no_problems(name: str) -> None:
    assert check_templates(folder("prompts") / name) == []


# Finding


def test_the_default_is_the_built_in_chat_set_whatever_lies_in_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "chat").mkdir()
    monkeypatch.chdir(tmp_path)
    assert load_templates().source == "built-in chat"
    assert load_templates().hash == load_templates(folder("prompts") / "chat").hash


def test_a_folder_goes_before_a_built_in_set_of_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    a_set(tmp_path / "fewshot")
    monkeypatch.chdir(tmp_path)
    found = load_templates("fewshot")
    assert (found.source, found.completes) == ("fewshot", False)
    assert load_templates("chat").source == "built-in chat"


def test_a_name_that_is_neither_folder_nor_built_in_gets_a_suggestion() -> None:
    with pytest.raises(TemplateError, match=r"no template set 'fewshots'.*did you mean 'fewshot'"):
        load_templates("fewshots")
    with pytest.raises(TemplateError, match="known: chat, fewshot"):
        load_templates("xyz")


# A user's own set


def test_a_set_of_the_users_own_words_the_questions(tmp_path: Path) -> None:
    ask = Ask(load_templates(a_set(tmp_path / "own")), Constitution(name="l", version="1.0.0", principles=(SHORTHAND,)))
    assert ask.critique(PROMPT, "With a stone.", SHORTHAND).messages[-1]["content"] == (
        "Critique: Replies should be kind."
    )


def test_stop_strings_of_a_chat_set_are_sent_too(tmp_path: Path) -> None:
    own = a_set(tmp_path / "own", critique__jinja='{% set stop = ["END", "\\n\\n\\n"] %}{{ principle.id }}')
    ask = Ask(load_templates(own), Constitution(name="law", version="1.0.0", principles=(WHOLE,)))
    assert ask.critique(PROMPT, "Hm.", WHOLE).stop == ("END", "\n\n\n")
    assert ask.revise(PROMPT, "Hm.", "Hm.", WHOLE).stop == ()


@pytest.mark.parametrize(
    "template",
    [
        "{% include '_part.jinja' %}",
        "{% from '_part.jinja' import shout %}{{ shout(principle.id) }}",
        "{% import '_part.jinja' as part %}{{ part.shout(principle.id) }}",
    ],
)
def test_the_files_of_a_set_may_use_each_other(tmp_path: Path, template: str) -> None:
    part = "{% macro shout(text) %}{{ text | upper }}!{% endmacro %}"
    own = load_templates(a_set(tmp_path / "own", critique__jinja=template + "{{ principle.id }}", _part__jinja=part))
    assert own.render("critique", principle=WHOLE, gate=False, examples=()).endswith("kind")


def test_what_was_loaded_stays_as_it_was_when_a_file_changes(tmp_path: Path) -> None:
    own = a_set(tmp_path / "own", critique__jinja="{{ principle.id }} {% include '_part.jinja' %}", _part__jinja="old")
    loaded = load_templates(own)
    (own / "_part.jinja").write_text("new")
    assert loaded.render("critique", principle=WHOLE, gate=False, examples=()) == "kind old"


@pytest.mark.parametrize("file", ["critique.jinja", "revise.jinja", "_part.jinja", "examples.yaml"])
def test_any_byte_of_any_file_changes_the_hash(tmp_path: Path, file: str) -> None:
    own = a_set(tmp_path / "own", _part__jinja="part", examples__yaml="# none\n")
    before = load_templates(own).hash
    assert load_templates(own).hash == before
    (own / file).write_bytes((own / file).read_bytes() + b" ")
    assert load_templates(own).hash != before


def test_a_hash_tells_files_apart_that_hold_the_same_bytes_together(tmp_path: Path) -> None:
    one = a_set(tmp_path / "one", _a__jinja="x", _b__jinja="yz")
    two = a_set(tmp_path / "two", _a__jinja="xy", _b__jinja="z")
    assert load_templates(one).hash != load_templates(two).hash


JUDGE = {
    "judge.jinja": '{% set frame = ["<one>", "Said:"] %}{{ prompt }} {{ first }} {{ second }} {{ principle.text }}',
    "verdict.jinja": '{% set prefix = "It is" %}Which?',
}


@pytest.mark.parametrize(
    ("file", "revision", "judge"),
    [("critique.jinja", True, False), ("revise.jinja", True, False), ("judge.jinja", False, True),
     ("verdict.jinja", False, True), ("_part.jinja", True, True), ("examples.yaml", True, True)],
)  # fmt: skip
def test_other_words_for_one_job_leave_the_hash_of_the_other_as_it_is(
    tmp_path: Path, file: str, revision: bool, judge: bool
) -> None:
    own = a_set(tmp_path / "own", **JUDGE, _part__jinja="part", examples__yaml="# none\n")
    before = load_templates(own)
    (own / file).write_bytes((own / file).read_bytes() + b" ")
    after = load_templates(own)
    assert (after.hash != before.hash, after.judge_hash != before.judge_hash) == (revision, judge)


def test_a_set_may_word_the_judge_alone_or_the_revision_alone(tmp_path: Path) -> None:
    judge = a_set(tmp_path / "judge", **JUDGE)
    for name in GOOD:
        (judge / name).unlink()
    load_templates(judge).need("judge")
    with pytest.raises(TemplateError, match=r"has no critique\.jinja and no revise\.jinja: it cannot revise"):
        load_templates(judge).need("revise")
    with pytest.raises(TemplateError, match=r"has no judge\.jinja and no verdict\.jinja: it cannot judge"):
        load_templates(a_set(tmp_path / "own")).need("judge")


@pytest.mark.parametrize("file", ["judge.jinja", "verdict.jinja"])
def test_half_of_a_judge_is_no_set(tmp_path: Path, file: str) -> None:
    error = refused(tmp_path / "own", **{file: JUDGE[file]})
    assert "a template set needs judge.jinja and verdict.jinja; this folder has" in error


def test_frame_and_prefix_are_those_the_templates_set(tmp_path: Path) -> None:
    loaded = load_templates(a_set(tmp_path / "own", **JUDGE))
    assert (loaded.frame["judge"], loaded.prefix["verdict"]) == (("<one>", "Said:"), "It is")
    bare = load_templates(a_set(tmp_path / "bare", **JUDGE | {"verdict.jinja": "Which?"}))
    assert bare.prefix["verdict"] == ""


@pytest.mark.parametrize("prefix", ["'It is '", "''", "['It is']", "principle.id", "'It is\\n'"])
def test_a_prefix_that_the_letter_could_not_follow_is_refused(tmp_path: Path, prefix: str) -> None:
    error = refused(tmp_path / "own", **JUDGE | {"verdict.jinja": f"Which?\n{{% set prefix = {prefix} %}}"})
    assert "verdict.jinja:2: prefix must be a plain text that does not end in space" in error


def test_a_judge_without_a_frame_is_a_warning(tmp_path: Path) -> None:
    words = JUDGE["judge.jinja"].partition("%}")[2]
    [found] = check_templates(a_set(tmp_path / "own", **JUDGE | {"judge.jinja": words}))
    assert found.level == "warning" and "sets no frame: a reply can imitate the end of itself" in found.message


@pytest.mark.parametrize("name", ["first", "second", "prompt", "principle"])
def test_a_judge_that_ignores_what_it_should_judge_is_a_warning(tmp_path: Path, name: str) -> None:
    words = JUDGE["judge.jinja"].replace("{{ principle.text }}" if name == "principle" else f"{{{{ {name} }}}}", "")
    [found] = check_templates(a_set(tmp_path / "own", **JUDGE | {"judge.jinja": words}))
    assert found.level == "warning" and f"never uses '{name}'" in found.message


@pytest.mark.parametrize("name", ["chat", "fewshot"])
def test_every_label_of_a_judges_layout_is_in_its_frame(name: str) -> None:
    text = (GOLDEN / f"{name}-whole-judge-after-reasons.txt").read_text(encoding="utf-8").split("[assistant]")[0]
    written = set(
        re.findall(r"^(</?\w+>)$|^((?:User|Assistant|System|Human|Reply [AB]|Rule|Reasons|Choice):)", text, re.M)
    )
    assert {tag or label for tag, label in written} == set(load_templates(name).frame["judge"])


# What is wrong with a set is said before a model is asked


def test_an_unknown_variable_is_named_with_file_line_and_suggestion(tmp_path: Path) -> None:
    error = refused(tmp_path / "own", critique__jinja="one\ntwo {{ principel.text }} {{ principle.id }}")
    assert error.startswith(f"{tmp_path / 'own' / 'critique.jinja'}:2: unknown variable 'principel'")
    assert "did you mean 'principle'?" in error


def test_an_unknown_part_of_a_principle_is_named(tmp_path: Path) -> None:
    error = refused(tmp_path / "own", revise__jinja="one\n\n{{ principle.revision }}")
    assert error.endswith("revise.jinja:3: a principle has no 'revision'; did you mean 'revise'?")


@pytest.mark.parametrize("name", ["prompt", "reply"])
def test_a_chat_template_is_not_given_what_stands_in_the_turns(tmp_path: Path, name: str) -> None:
    error = refused(tmp_path / "own", critique__jinja=f"{{{{ principle.id }}}}\n{{{{ {name} }}}}")
    assert f"critique.jinja:2: '{name}' is not given to chat templates" in error
    assert "respond.jinja" in error


def test_a_completion_set_is_given_all_of_it(tmp_path: Path) -> None:
    own = load_templates(
        a_set(
            tmp_path / "own",
            respond__jinja="{% set stop = ['U:'] %}{% for turn in prompt %}{{ turn.content }}\n{% endfor %}A:",
            critique__jinja="{{ reply }} {{ principle.id }}",
            revise__jinja="{{ reply }} {{ critique }} {{ principle.id }}",
        )
    )
    ask = Ask(own, Constitution(name="law", version="1.0.0", principles=(WHOLE,)))
    request = ask.revise(PROMPT, "A\nU: b", "c", WHOLE)
    assert (own.completes, request.text) == (True, "A\n> U: b c kind")


@pytest.mark.parametrize(
    ("template", "line", "told"),
    [
        ("{{ principle.id }\n", 1, "'}'"),
        ("a\n{% if principle.id %}\nb", 3, "'endif'"),
        ("a\n{% include '_prat.jinja' %}{{ principle.id }}", 2, "no '_prat.jinja' in this folder"),
        ("a\n\n{{ principle.id | uper }}", 3, "uper"),
        ("a\n{{ 1 // 0 }}{{ principle.id }}", 2, ""),  # in the words of Python, or of Jinja
        ("a\n{{ principle.id + 1 }}", 2, ""),
        ("a\n{% for x in range(10 ** 9) %}{% endfor %}{{ principle.id }}", 2, ""),
        ("{{ principle.id }}\n{% set stop = principle.id %}", 2, "stop must be a plain list of texts"),
        ("{{ principle.id }}\n{% set stop %}END{% endset %}", 2, "stop must be"),
        ("{{ principle.id }}\n{% set stop = 'END' %}", 2, "stop must be"),
        ("{{ principle.id }}\n{% set stop = [] %}", 2, "stop must be"),
        ("{{ principle.id }}\n{% set stop = ['a', ''] %}", 2, "stop must be"),
        ("{{ principle.id }}\n{% if gate %}{% set stop = ['a'] %}{% endif %}", 2, "stop must be"),
    ],
)
def test_a_faulty_template_is_refused_with_its_line(tmp_path: Path, template: str, line: int, told: str) -> None:
    error = refused(tmp_path / "own", critique__jinja=template)
    assert f"critique.jinja:{line}: " in error
    assert told in error
    assert "\n" not in error


def test_a_fault_in_a_part_is_shown_where_it_stands(tmp_path: Path) -> None:
    part = "{% macro turn(message) %}\n{{ message.text }}{% endmacro %}"
    respond = "{% set stop = ['x'] %}{% from '_part.jinja' import turn %}{{ turn(prompt[0]) }}"
    error = refused(tmp_path / "own", respond__jinja=respond, _part__jinja=part)
    assert "_part.jinja:2: " in error and "'text'" in error


@pytest.mark.parametrize("template", ["{{ principle.critique }}", "{{ 'Ask: ' ~ principle.critique }}"])
def test_a_wording_that_a_principle_lacks_is_never_written_as_none(tmp_path: Path, template: str) -> None:
    own = load_templates(a_set(tmp_path / "own", critique__jinja=template))
    assert own.render("critique", principle=WHOLE).endswith("Is the reply kind?")
    law = Constitution(name="law", version="1.0.0", principles=(WHOLE, SHORTHAND.model_copy(update={"id": "short"})))
    with pytest.raises(TemplateError, match=r"critique\.jinja:1: principle 'short' has no 'critique': say"):
        Ask(own, law).check(law.principles)


def test_what_stands_in_for_a_wording_is_written_where_it_is_lacking(tmp_path: Path) -> None:
    own = load_templates(a_set(tmp_path / "own", critique__jinja="{{ principle.critique or principle.text }}"))
    assert own.render("critique", principle=WHOLE) == "Is the reply kind?"
    assert own.render("critique", principle=SHORTHAND) == "Replies should be kind."


@pytest.mark.parametrize("missing", ["critique.jinja", "revise.jinja"])
def test_a_set_without_a_needed_file_says_what_it_has(tmp_path: Path, missing: str) -> None:
    own = a_set(tmp_path / "own")
    (own / missing).unlink()
    with pytest.raises(TemplateError, match=r"needs critique\.jinja and revise\.jinja; this folder has"):
        load_templates(own)
    assert [finding.level for finding in check_templates(own)] == ["error"]


def test_an_empty_folder_is_no_set(tmp_path: Path) -> None:
    with pytest.raises(TemplateError, match=r"has no \.jinja file"):
        load_templates(tmp_path)


@pytest.mark.parametrize(
    ("content", "told"), [(b"- {reply: 1}", "not a list of worked"), (b"\xff", "not a list"), (b"a: [", "not a list")]
)
def test_bad_worked_examples_are_refused(tmp_path: Path, content: bytes, told: str) -> None:
    own = a_set(tmp_path / "own")
    (own / "examples.yaml").write_bytes(content)
    with pytest.raises(TemplateError, match=rf"examples.yaml.*: {told}"):
        load_templates(own)


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    own = a_set(tmp_path / "own")
    (own / "revise.jinja").write_bytes(b"\xff\xfe")
    with pytest.raises(TemplateError, match=r"revise\.jinja:1: is not UTF-8 text"):
        load_templates(own)


def test_an_editors_byte_order_mark_is_not_sent(tmp_path: Path) -> None:
    own = a_set(tmp_path / "own")
    (own / "revise.jinja").write_bytes(b"\xef\xbb\xbfRevise {{ principle.id }}.")
    assert load_templates(own).render("revise", principle=WHOLE) == "Revise kind."


def test_a_template_that_ignores_the_principle_is_a_warning(tmp_path: Path) -> None:
    own = a_set(tmp_path / "own", critique__jinja="What is wrong?", respond__jinja="{{ prompt[0].content }}")
    found = {Path(str(finding.file)).name: finding for finding in check_templates(own)}
    assert all(finding.level == "warning" for finding in found.values())
    assert "never uses 'principle'" in found["critique.jinja"].message
    assert "sets no stop strings" in found["respond.jinja"].message
    assert load_templates(own).by_name


# Text is data, and templates are kept in


def rendered(path: Path, template: str, **variables: Any) -> str:
    loaded: Templates = load_templates(a_set(path, critique__jinja=template))
    return loaded.render("critique", **{"principle": WHOLE, "gate": False, "examples": (), **variables})


@pytest.mark.parametrize("name", ["chat", "fewshot"])
def test_marks_of_a_template_stay_literal_wherever_they_come_from(name: str) -> None:
    mark = "{{ 7*7 }} {% raw %} {# x #} ${x} %s {0}"
    principle = Principle.model_validate({"id": "p", "critique": f"C {mark}", "revise": f"R {mark}"})
    ask = Ask(load_templates(name), Constitution(name="law", version="1.0.0", principles=(principle,)))
    prompt = Prompt(id="p", messages=({"role": "user", "content": f"P {mark}"},))
    sent = words(ask.revise(prompt, f"A {mark}", f"K {mark}", principle))
    assert all(f"{who} {mark}" in sent for who in "CRPAK")
    assert "49" not in sent


@pytest.mark.parametrize(
    "escape",
    [
        "{{ principle.__class__ }}",
        "{{ ''.__class__.__mro__ }}",
        "{{ cycler.__init__.__globals__ }}",
        "{{ lipsum.__globals__['os'] }}",
        "{{ self._TemplateReference__context }}",
        "{{ '{0.__class__}'.format(principle) }}",
        "{{ principle.update({'id': 'x'}) }}",
        "{{ examples.append(1) }}",
        "{{ principle['parse_raw']('cos\nsystem\n(S\\'true\\'\ntR.', proto='pickle', allow_pickle=True) }}",
        "{{ principle['model_fields'] }}",
        "{% include '/etc/hostname' %}",
        "{% include '../own/revise.jinja' %}",
    ],
)
def test_a_template_cannot_reach_out_of_its_sandbox(tmp_path: Path, escape: str) -> None:
    with pytest.raises(TemplateError):
        rendered(tmp_path / "own", escape + "{{ principle.id }}", examples=[])


def write() -> None:
    GOLDEN.mkdir(exist_ok=True)
    for name, text in golden_texts().items():
        (GOLDEN / name).write_text(text, encoding="utf-8")


if __name__ == "__main__" and sys.argv[1:] == ["--write"]:
    write()
    subprocess.run(["git", "diff", "--stat", "--", str(GOLDEN)], check=True)
