import json
from pathlib import Path

import pytest
from shared import shared

from cai.constitution.lint import Finding, Report, check, similarity
from cai.errors import ConstitutionError
from cai.sources.files import folder

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def lint(tmp_path):
    """Checks a constitution whose principles are given as Python values; returns the report."""

    def run(*principles, description: str = "Ours.", **more) -> Report:
        path = tmp_path / "law.yaml"
        head = {"name": "law", "version": "1.0.0", "description": description}
        path.write_text(json.dumps(head | {"principles": list(principles)} | more, indent=1))
        return check(path)

    return run


def codes(report: Report) -> list[str]:
    return [finding.code for finding in (*report.errors, *report.warnings)]


SOUND = (
    "Choose the reply that treats the user as a capable adult.",
    "Choose the reply that names its sources so they can be checked.",
    "Choose the reply that a patient teacher would have given.",
)


@pytest.mark.parametrize("path", sorted(folder("constitutions").glob("*.yaml")), ids=lambda path: path.stem)
def test_the_built_in_constitutions_have_neither_errors_nor_warnings(path):
    report = check(path)
    assert (report.errors, report.warnings) == ((), ())


def test_a_sound_constitution_is_clean_and_named(lint):
    report = lint(*SOUND)
    assert codes(report) == []
    assert report.constitution is not None and report.constitution.name == "law"


def test_errors_of_a_file_that_cannot_load_are_all_listed_with_lines(tmp_path):
    path = tmp_path / "law.yaml"
    path.write_text("name: law\nversion: 1.0\nprinciples:\n- {id: a, txt: x}\n- {id: b, text: y, weight: -1}\n")
    report = check(path)
    assert [(f.line, f.code) for f in report.errors] == [(2, "wrong-type"), (4, "unknown-key"), (5, "wrong-type")]
    assert report.constitution is None and report.warnings == ()


def test_a_missing_file_raises(tmp_path):
    with pytest.raises(ConstitutionError, match="neither a file nor a built-in"):
        check(tmp_path / "none.yaml")


def test_findings_of_other_checks_join_the_report(tmp_path):
    other = Finding(
        level="error", code="template", message="unknown variable 'guidance'", file="critique.jinja", line=3
    )
    report = check("harmless", [other])
    assert report.errors == (other,)
    assert json.loads(report.model_dump_json())["errors"][0]["message"] == "unknown variable 'guidance'"


def test_a_finding_cites_the_file_and_line_of_its_principle(tmp_path):
    (tmp_path / "base.yaml").write_text("name: base\nversion: 1.0.0\nprinciples:\n- Choose option A when in doubt.\n")
    path = tmp_path / "law.yaml"
    path.write_text("name: law\nversion: 1.0.0\ndescription: Ours.\nextends: base.yaml\n")
    [finding] = check(path).warnings
    assert (Path(finding.file or "").name, finding.line, finding.code) == ("base.yaml", 4, "position-wording")


def test_a_missing_description_is_a_warning(lint):
    assert codes(lint(*SOUND, description="")) == ["no-description"]


def test_principles_that_cannot_do_a_job_are_counted_once_per_job(lint):
    judges = {"id": "j", "choose": "Choose the reply that names its sources."}
    revises = {"id": "r", "critique": "Say which words would hurt a reader.", "revise": "Rewrite it in kind words."}
    report = lint(judges, revises, *SOUND)
    assert codes(report) == ["judge-only", "revise-only"]
    assert "1 of 5 principles lack 'critique' and 'revise'" in report.warnings[0].message
    assert "generating never draws them: j" in report.warnings[0].message
    assert "labelling is refused" in lint(revises).warnings[0].message


def test_the_same_words_under_two_ids_are_a_duplicate(lint):
    report = lint(*SOUND, {"id": "again", "text": SOUND[0].upper().replace(".", " !")})
    assert codes(report) == ["duplicate"]
    assert report.warnings[0].principle == "again"


def test_a_reworded_principle_is_a_near_duplicate(lint):
    assert codes(lint(*SOUND, "Choose the reply that would treat the user as a capable adult.")) == ["near-duplicate"]


def test_short_sentences_that_share_only_their_frame_are_different():
    assert similarity("Choose the reply that is kinder.", "Choose the reply that is safer.") == 0
    assert similarity("Choose the reply.", "Read the reply.") == 0
    assert similarity("Choose the reply.", "choose  the reply") == 1


@pytest.mark.shared_data
def test_the_principles_of_the_paper_are_not_near_duplicates():
    pairs = json.loads((shared("cai_paper", "CritiqueRevisionInstructions.json")).read_text())
    critiques = [pair["prompt"][0] for pair in pairs.values()]
    choices = json.loads((shared("cai_paper", "RLMadisonInstructions.json")).read_text())
    for texts in (critiques, choices):
        assert max(similarity(a, b) for i, a in enumerate(texts) for b in texts[:i]) < 0.6


def test_mostly_negative_wording_is_a_warning_and_some_is_not(lint):
    negative = ("Never insult the people who ask you.", "Avoid giving advice that could be dangerous.")
    assert codes(lint(*SOUND, *negative)) == []
    report = lint(SOUND[0], *negative)
    assert codes(report) == ["negative-framing"]
    assert "2 of 3 principles say what to avoid" in report.warnings[0].message


def test_a_critique_may_speak_of_what_is_wrong(lint):
    principle = {"critique": "Say what the reply should not have said.", "revise": "Rewrite it as a friend would."}
    report = lint(*({"id": f"p{i}", "choose": text, **principle} for i, text in enumerate(SOUND)))
    assert "negative-framing" not in codes(report)


def test_lopsided_weights_are_warnings(lint):
    heavy = lint(*SOUND, {"id": "heavy", "text": "Answer in the language of the user.", "weight": 4})
    assert codes(heavy) == ["weight-dominates"]
    assert "has 57% of the weight" in heavy.warnings[0].message
    light = lint(*SOUND, {"id": "light", "text": "Answer in the language of the user.", "weight": 0.001})
    assert codes(light) == ["weight-negligible"]


def test_very_short_and_very_long_wordings_are_warnings(lint):
    assert codes(lint(*SOUND, "Be nice!")) == ["too-short"]
    assert codes(lint(*SOUND, "word " * 121)) == ["too-long"]


def test_words_are_counted_in_languages_without_spaces(lint):
    assert codes(lint(*SOUND, "选择更尊重用户的回复")) == []
    assert codes(lint(*SOUND, "友善")) == ["too-short"]


@pytest.mark.parametrize("mark", ["{{ reply }}", "{% if x %}", "{# note #}", "{guidance}", "{}"])
def test_template_syntax_in_text_is_a_warning_because_text_is_literal(lint, mark):
    report = lint(*SOUND, f"Answer as a doctor would, given {mark}")
    assert codes(report) == ["template-syntax"]
    assert "text is literal" in report.warnings[0].message


@pytest.mark.parametrize(
    "mark", ["CritiqueRequest: Say what is wrong", "Which reply is kinder to all? Options:", "Human: hi"]
)
def test_the_marks_of_a_template_in_a_principle_are_a_warning(lint, mark):
    assert "wrapper-text" in codes(lint(*SOUND, mark))


@pytest.mark.parametrize(
    "text",
    [
        "Choose option A unless it is rude.",
        "Prefer (B) where both are fine.",
        "When in doubt, the first reply wins here.",
    ],
)
def test_wording_that_names_a_place_is_a_warning(lint, text):
    assert codes(lint(*SOUND, text)) == ["position-wording"]


@pytest.mark.parametrize("text", ["Choose a reply that puts safety first.", "Point out the first mistake of the user."])
def test_wording_that_only_contains_such_words_is_fine(lint, text):
    assert codes(lint(*SOUND, text)) == []


def test_a_test_that_no_judge_can_pass_is_an_error(lint):
    tests = [{"prompt": "hi", "better": "Hello there!", "worse": "hello there"}]
    report = lint(*SOUND, {"id": "p", "text": "Greet the user as a friend would.", "tests": tests})
    assert [(f.level, f.code, f.principle) for f in report.errors] == [("error", "test-same", "p")]


def test_a_test_of_a_principle_that_cannot_judge_is_an_error(lint):
    tests = [{"prompt": "hi", "better": "Hello!", "worse": "What?"}]
    principle = {"id": "p", "critique": "Say how friendly the greeting is.", "revise": "Rewrite it as a friend would."}
    assert [f.code for f in lint(*SOUND, principle | {"tests": tests}).errors] == ["test-no-choose"]


@pytest.mark.parametrize(
    ("better", "worse", "word"), [("long" * 9, "short", "longer"), ("short", "long" * 9, "shorter")]
)
def test_tests_that_a_judge_of_length_would_pass_are_a_warning(lint, better, worse, word):
    tests = [{"prompt": f"hi {i}", "better": better, "worse": worse} for i in range(4)]
    report = lint(*SOUND, {"id": "p", "text": "Greet the user as a friend would.", "tests": tests})
    assert codes(report) == ["test-length"]
    assert f"the better reply is the {word} one in 4 of 4 tests" in report.warnings[0].message
    tests[0] |= {"better": worse, "worse": better}
    tests[1] |= {"better": worse, "worse": better}
    assert codes(lint(*SOUND, {"id": "p", "text": "Greet the user as a friend would.", "tests": tests})) == []


CODES = """
    yaml unknown-key missing-key wrong-type wrong-value empty bad-id bad-name bad-version half-principle
    empty-principle bad-prompt no-principles repeated-id extends no-description judge-only revise-only duplicate
    near-duplicate negative-framing weight-dominates weight-negligible too-short too-long template-syntax wrapper-text
    position-wording test-same test-no-choose test-length
"""


@pytest.mark.parametrize("code", CODES.split())
def test_the_manual_explains_every_code(code):
    assert f"`{code}`" in (ROOT / "docs" / "writing-a-constitution.md").read_text()
