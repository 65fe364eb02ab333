import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from shared import shared

from cai.constitution.files import load_constitution
from cai.constitution.importers import import_constitution
from cai.constitution.lint import check
from cai.errors import InputError

ROOT = Path(__file__).resolve().parents[2]
PAPER = {
    "kind0": {
        "prompt": ["\n\nCritiqueRequest: Say what is unkind: all of it.\n\nCritique:"],
        "edit_request": "\n\nRevisionRequest: Rewrite it kindly.\n\nRevision:",
    }
}


@pytest.fixture
def imported(tmp_path):
    """Imports data written to a file, loads the result, and makes sure that `check` finds no errors."""

    def run(data, name="source.json"):
        source = tmp_path / name
        source.write_text(data if isinstance(data, str) else json.dumps(data))
        path = tmp_path / "imported.yaml"
        path.write_text(import_constitution(source))
        assert check(path).errors == ()
        return load_constitution(path)

    return run


def test_pairs_of_the_paper_lose_their_wrappers_and_keep_their_ids(imported):
    [principle] = imported(PAPER).principles
    assert (principle.id, principle.critique, principle.revise) == (
        "kind0",
        "Say what is unkind: all of it.",
        "Rewrite it kindly.",
    )


def test_several_critiques_of_one_pair_become_principles_of_their_own(imported):
    pair = {"prompt": ["\n\nCritiqueRequest: One?\n\nCritique:", "Two?"], "edit_request": "Rewrite it kindly."}
    assert [(p.id, p.critique) for p in imported({"kind0": pair}).principles] == [
        ("kind0", "One?"),
        ("kind0-2", "Two?"),
    ]


def test_questions_that_end_in_options_become_choices(imported):
    [principle] = imported(["\nWhich reply is kinder? Options:"]).principles
    assert (principle.choose, principle.text) == ("Which reply is kinder?", None)
    assert principle.id.startswith("which-reply-is-kinder-")


def test_other_values_under_the_names_of_the_other_pair_are_not_its_requests(imported):
    pair = {
        "critic": "openai:gpt-4",
        "revision": None,
        "critique_request": "Point out harm.",
        "revision_request": "Remove it.",
    }
    [principle] = imported([pair]).principles
    assert (principle.critique, principle.revise) == ("Point out harm.", "Remove it.")


@pytest.mark.parametrize("keys", [("critic", "revision"), ("critique_request", "revision_request")])
def test_lists_of_pairs_are_understood_under_a_key_and_bare(imported, keys):
    pair = dict(zip(keys, ("Is it kind?", "Make it kind."), strict=True))
    for data in ([pair], {"constitutions": [pair]}):
        [principle] = imported(data).principles
        assert (principle.critique, principle.revise) == ("Is it kind?", "Make it kind.")
    [principle] = imported([pair | {"name": "Kindness first!"}]).principles
    assert principle.id == "Kindness-first"


def test_chats_of_six_turns_become_examples_and_others_are_counted(imported, tmp_path):
    chat = [{"role": "user", "content": f"turn {i}"} for i in range(6)]
    data = {"constitutions": [{"critic": "Is it kind?", "revision": "Make it kind."}], "system_chat": [chat, chat[:5]]}
    [example] = imported(data).examples
    assert example.prompt == ({"role": "user", "content": "turn 0"},)
    assert (example.reply, example.critique, example.revision) == ("turn 1", "turn 3", "turn 5")
    assert "# Left out 1 chat that did not have the six turns" in (tmp_path / "imported.yaml").read_text()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("s.txt", "# my rules\n- Be kind: always.\n\n2) Say 'no' plainly.\n"),
        ("s.json", json.dumps(["Be kind: always.", "Say 'no' plainly."])),
        ("s.yaml", "- 'Be kind: always.'\n- Say 'no' plainly.\n"),
    ],
)
def test_lists_of_sentences_become_shorthand(imported, name, text):
    assert [p.text for p in imported(text, name).principles] == ["Be kind: always.", "Say 'no' plainly."]


def test_repeated_sentences_are_left_out_and_counted(imported, tmp_path):
    assert len(imported(["Be kind.", "Be fair.", "Be kind."]).principles) == 2
    assert "# Left out 1 that repeated an earlier one" in (tmp_path / "imported.yaml").read_text()


def test_different_pairs_with_one_critique_get_distinct_ids(imported):
    pairs = [{"critic": "Is it kind?", "revision": text} for text in ("Make it kind.", "Make it kinder.")]
    one, two = imported(pairs).principles
    assert two.id == f"{one.id}-2"


def test_the_result_names_its_source_and_reminds_of_the_licence(tmp_path):
    source = tmp_path / "Their Rules.json"
    source.write_text(json.dumps(PAPER))
    text = import_constitution(source)
    assert text.startswith(
        "# Imported from Their Rules.json (critique and revision requests of the paper): 1 principle,"
    )
    assert "check its licence before you share" in text
    assert "name: Their-Rules\n" in text


@pytest.mark.parametrize(
    "text",
    ["two\nlines: here", "  - bullet\n\n\n# not a comment", "tab\there", "emoji 🙂", "'quotes\" {{ x }}", "long " * 90],
)
def test_any_text_survives_the_import(imported, text):
    pair = {"critic": text, "revision": "Make it kind."}
    assert imported([pair]).principles[0].critique == text.strip()


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (
            "a.json",
            '[{"prompt": "x", "corrects": []}]',
            "in no format that can be imported; these can: the paper's pairs",
        ),
        ("a.json", '["\\n\\nHuman: hi\\n\\nAssistant: hello"]', "in no format that can be imported"),
        ("a.json", '"words"', "in no format that can be imported"),
        ("a.json", "[1, 2]", "in no format that can be imported"),
        ("a.json", "[]", "holds no principles"),
        ("a.json", "{]", "a.json:1: is not JSON"),
        ("a.json", "[" * 100_000, "is nested too deeply"),
        ("a.json", '["half a pair \\ud800 here"]', "cannot be imported"),
        ("a.json", '[{"critic": " ", "revision": "Make it kind."}]', "cannot be imported: 'critique' is empty"),
        ("a.txt", "# nothing\n\n", "holds no principles"),
        ("a.yaml", "- x\n- *y\n", "a.yaml:2:"),
        ("a.yaml", "name: x\nversion: 1.0.0\nprinciples: [x]", "is already a constitution"),
        ("a.md", "words", "has the ending '.md'; .json, .yaml and .txt can be imported"),
        ("a.txt", "a\0b", "is a binary file"),
    ],
)
def test_what_cannot_be_imported_is_refused_with_a_reason(tmp_path, name, text, message):
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        import_constitution(path)
    assert message in str(caught.value)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(InputError, match="cannot be read: No such file"):
        import_constitution(tmp_path / "none.json")


TEXT = st.text(max_size=40)
ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)
PAIR = st.fixed_dictionaries({"critic": TEXT, "revision": TEXT})
PAPERS = st.dictionaries(TEXT, st.fixed_dictionaries({"prompt": st.lists(TEXT, max_size=2), "edit_request": TEXT}))


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=ANY | st.lists(TEXT) | st.lists(PAIR) | PAPERS)
def test_whatever_the_file_holds_it_is_imported_cleanly_or_refused(tmp_path, data):
    source, target = tmp_path / "a.json", tmp_path / "b.yaml"
    source.write_text(json.dumps(data))
    try:
        text = import_constitution(source)
    except InputError:
        return
    target.write_text(text)
    assert check(target).errors == ()


@pytest.mark.shared_data
def test_the_files_of_the_paper_and_of_llm_swarm_import_whole(tmp_path):
    laws = {}
    for name in ("cai_paper/CritiqueRevisionInstructions", "cai_paper/RLMadisonInstructions", "llm_swarm_constitution"):
        path = tmp_path / "imported.yaml"
        path.write_text(import_constitution(shared(f"{name}.json")))
        assert check(path).errors == ()
        laws[name.split("/")[-1]] = load_constitution(path)
    assert [len(law.principles) for law in laws.values()] == [16, 16, 16]
    pairs = laws["CritiqueRevisionInstructions"].principles
    raw = json.loads((shared("cai_paper", "CritiqueRevisionInstructions.json")).read_text())
    assert [p.id for p in pairs] == list(raw)
    for principle in pairs:  # the templates of the few-shot mode put the same marks back
        assert raw[principle.id]["prompt"] == [f"\n\nCritiqueRequest: {principle.critique}\n\nCritique:"]
        assert raw[principle.id]["edit_request"] == f"\n\nRevisionRequest: {principle.revise}\n\nRevision:"
    choices = json.loads((shared("cai_paper", "RLMadisonInstructions.json")).read_text())
    assert [f"\n{p.choose} Options:" for p in laws["RLMadisonInstructions"].principles] == choices
    assert len(laws["llm_swarm_constitution"].examples) == 4
