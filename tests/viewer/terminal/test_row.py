"""`cai show`: one row whole, of every kind of run and of trainings, safe to print, and never one that was not meant."""

from __future__ import annotations

import json
import shutil
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from kept import OLD_FOLDERS, run
from steady import Steady
from terminal import cai, failed, on_terminal

from cai.folder.journal.store import read_calls
from cai.folder.lines import read_drops
from cai.records import Probed, Usage

HOSTILE = "\x1b[31mred\x1b]0;title\x07 \u202eback\u2066 \r\x08over \x9b31m \u200bzero\ufeff \U000e0041tag"
PROMPTS = {
    "tea": "Can I give my dog tea?",
    "team": "Who is in the team?",
    "cut": "Tell me more. [truncated]",
    "stuck": "Tell me all. [filtered critique]",
    "odd": f"What is {HOSTILE}?",
}
LAW = """
name: kind
version: 1.0.0
principles:
  - id: kind
    text: A good reply is kind.
    tests:
      - {prompt: "Hello?", better: "Hello, friend.", worse: "Go away."}
"""
SCALE = """
name: scale
version: 1.0.0
principles: [Be kind.]
scale:
  - {id: kind, text: How kind the reply is.}
"""
SHOWN = {  # by run: a row, and what is said of it in this order
    "generate": ("tea", ["Can I give my dog tea?", "reply", "critique 1", "(kind)", "gate: ", "revision 1", "made by"]),
    "sample": ("tea", ["reply 0", "(sample 0 of m-1)", "reply 1", "(sample 1 of m-1)", "sampling: temperature"]),
    "labels": (
        "tea:0-1",
        ["reply a", "reply b", "people", "verdict", "better, confidence", "kind (weight 1)", "ab", "ba"],
    ),
    "tests": ("kind:test-1", ["Hello?", "Hello, friend.", "Go away.", "verdict", "votes"]),
    "evaluation/replies": ("tea", ["reply 0", "reply 1", "(sample 0 of other-1)"]),
    "evaluation/labels": ("tea:", ["reply a", "reply b", "verdict"]),
    "best/labels": ("tea:0-1", ["sample 0", "sample 1", "votes"]),
}


@pytest.fixture(scope="module")
def made(server: Steady, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run of each kind."""
    folder = tmp_path_factory.mktemp("made")
    lines = (json.dumps({"id": name, "prompt": text}) + "\n" for name, text in PROMPTS.items())
    (folder / "prompts.jsonl").write_text("".join(lines) + '{"id": "broken"}\n')
    (folder / "law.yaml").write_text(LAW)
    model, law = ("--model", "openai:m"), ("-c", "law.yaml")
    url = f"{server.url}/v1"
    run("generate", "prompts.jsonl", *model, *law, "--out", "generate", folder=folder, server=url)
    run("sample", "prompts.jsonl", *model, "-n", "2", "--out", "sample", folder=folder, server=url)
    run("label", "sample", "--judge", "openai:judge", *law, "--out", "labels", folder=folder, server=url)
    best = ("--best-of", "2", "--judge", "openai:judge", *law, "--out", "best")
    run("sample", "prompts.jsonl", *model, *best, folder=folder, server=url)
    words = ("constitution", "test", "law.yaml", "--judge", "openai:judge", "--out", "tests")
    cai_words = [*words, "--base-url", url]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("OPENAI_API_KEY", "none")
        cai(*cai_words)
        against = ("--against", "openai:m", "--judge", "openai:judge", "--suite", "preference", *law)
        cai("evaluate", "openai:other", "prompts.jsonl", *against, "--out", "evaluation", "--base-url", url)
    return folder


@pytest.fixture(autouse=True)
def _here(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(made)


def shown(*words: str) -> str:
    done = cai("show", *words)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return done.stdout


def as_json(*words: str) -> Any:
    return json.loads(shown(*words, "--json"))


@pytest.mark.parametrize("name", SHOWN)
def test_a_row_of_each_kind_is_shown_whole(name: str, made: Path) -> None:
    row_id, words = SHOWN[name]
    row = as_json(name, row_id)
    text = shown(name, row["row"]["id"])
    place = 0
    for word in words:
        assert word in text[place:], (word, text)
        place += text[place:].index(word)
    assert row["calls"] and all(call["key"] in text for call in row["calls"])
    assert [call["key"] for call in row["calls"]] == row["row"]["calls"]


@pytest.mark.parametrize("name", SHOWN)
def test_what_was_asked_and_answered_is_that_of_the_journal(name: str, made: Path) -> None:
    row = as_json(name, SHOWN[name][0], "--calls")
    journal = {call.key: call for call in read_calls(made / name)}
    for call in row["calls"]:
        assert call["request"] == journal[call["key"]].request
        assert call["completion"]["text"] == journal[call["key"]].completion.text
        assert call["cost_usd"] == journal[call["key"]].cost_usd
    text = shown(name, row["row"]["id"], "--calls")
    for call in row["calls"]:
        for turn in call["request"]["payload"]["messages"]:
            assert all(line.strip() in text for line in turn["content"].splitlines())
        assert call["completion"]["text"].strip() in text


@pytest.mark.parametrize("name", ["generate", "sample", "labels", "tests", "evaluation/labels"])
def test_without_an_id_it_is_the_first_row_and_how_to_name_another(name: str) -> None:
    text = shown(name)
    assert f"another row: cai show {name} ID" in text
    position = as_json(name)["row"]["position"]
    file = next(Path(name).glob("[rcl]*s.jsonl"))
    assert position == min(json.loads(line)["position"] for line in file.read_text().splitlines())


def test_a_revision_is_shown_as_what_it_changed(made: Path) -> None:
    row = as_json("generate", "tea")["row"]
    changed = [turn for turn in row["rounds"] if turn["changed"]]
    text = shown("generate", "tea")
    assert not changed or changed[0]["revision"] in text or "{+" in text
    assert all(f"P(revise) {turn['p_revise']:.3f}" in text for turn in row["rounds"])


@pytest.mark.parametrize(
    ("name", "row_id", "calls"),
    [("generate", "cut", 1), ("generate", "stuck", 2), ("sample", "cut", 2), ("best", "cut", 2)],
)
def test_a_drop_is_shown_with_its_reason_and_the_calls_that_were_made(name: str, row_id: str, calls: int) -> None:
    [drop] = [each for each in read_drops(Path(name)) if each.id == row_id and each.stage != "sft"]
    text, row = shown(name, row_id), as_json(name, row_id, "--calls")
    assert f"{drop.reason} at {drop.stage}" in text and drop.detail in text
    assert row["what"] == "Drop" and len(row["calls"]) == calls
    assert row["calls"][-1]["completion"]["finish"] in ("length", "content_filter")
    assert all(call["key"] in text for call in row["calls"])


def test_a_row_says_which_files_lack_it_and_why(made: Path) -> None:
    for drop in read_drops(made / "labels"):
        if drop.stage == "pairs":
            assert f"not in pairs: {drop.reason}" in shown("labels", str(drop.id))


@pytest.mark.parametrize(("name", "row_id"), [("generate", "cut"), ("sample", "cut"), ("generate", "filtered")])
def test_the_calls_of_a_drop_that_an_earlier_version_wrote_are_found_by_its_prompt(name: str, row_id: str) -> None:
    folder = OLD_FOLDERS / f"{name}-finished"
    row = as_json(str(folder), row_id, "--calls")
    assert row["what"] == "Drop" and row["calls"]
    for call in row["calls"]:
        assert call["request"]["payload"]["messages"][0] == row["row"]["prompt"][0]
    assert "its calls are not written down" in shown(str(folder), row_id)


def test_what_people_said_of_a_pair_is_shown_with_the_sides_of_the_row(made: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(made / "labels", tmp_path / "labels")
    row = as_json("labels", "tea:0-1")["row"]
    vote = {"schema": 1, "key": row["key"], "id": row["id"], "prompt": row["prompt"], "a": row["a"], "b": row["b"]}
    votes = [
        {**vote, "human": "a", "annotator": "ann", "blind": True, "queue": "random"},
        {**vote, "human": "b", "annotator": "ann", "blind": True, "queue": "random"},
        {**vote, "a": row["b"], "b": row["a"], "human": "b", "annotator": "bob", "blind": False, "queue": "uncertain"},
        {**vote, "human": "tie", "annotator": "cid", "blind": True, "queue": "random", "key": "0" * 32},
    ]
    lines = "".join(json.dumps(each) + "\n" for each in votes)
    (folder / "gold.jsonl").write_text(lines + json.dumps({**vote, "human": "a"})[:-9])
    text = shown(str(folder), "tea:0-1")
    assert "labelled     ann: b (random queue, blind)" in text and "bob: a (uncertain queue)" in text
    assert "cid" not in text


# Which row


def test_the_beginning_of_an_id_names_its_row_unless_several_begin_so() -> None:
    assert as_json("generate", "tea")["row"]["id"] == "tea"  # whole, though another goes on with it
    assert as_json("generate", "team")["row"]["id"] == "team"
    assert as_json("generate", "od")["row"]["id"] == "odd"
    assert as_json("generate", "cu")["row"]["id"] == "cut"
    line = failed("show", "generate", "te")
    assert "2 ids begin with 'te': 'tea', 'team'" in line
    assert "'tea:0-1', 'team:0-1'" in failed("show", "labels", "t")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("generate", "taem"), "did you mean 'team'?"),
        (("generate", "zzz"), "its ids are like"),
        (
            ("evaluation",),
            "is an evaluation; its rows are in the runs inside it: cai show RUN, such as evaluation/labels",
        ),
        ((".",), "is not a run or a training; its rows are in the runs inside it"),
        (("nowhere",), "there is no such file or folder"),
        (("prompts.jsonl",), "is a file: name the folder"),
        (("best/nothing",), "there is no such file or folder"),
    ],
)
def test_what_is_no_row_is_refused_in_one_line_with_what_to_name(words: tuple[str, ...], said: str) -> None:
    assert said in failed("show", *words)


@pytest.mark.parametrize("name", ["generate/revisions.jsonl", "generate/run.json", "labels/labels.jsonl"])
def test_a_file_of_a_run_means_its_folder(name: str) -> None:
    assert shown(name) == shown(name.partition("/")[0])


def test_a_row_that_is_not_finished_is_told_from_one_that_is_not_there(
    server: Steady, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from stored_runs import IDENTITY, ask

    from cai.folder.run import RunFolder
    from cai.records import Prompt

    folder = RunFolder(tmp_path / "run", IDENTITY)
    folder.write_info(stopped="interrupted")
    prompt = Prompt(id="begun", messages=ask("Hello?"))
    assert folder.pending(prompt, 0) is True and folder.named(prompt, 0) == prompt
    folder.store.flush()
    assert "'begun' is not finished" in (line := failed("show", str(tmp_path / "run"), "begun"))
    assert line.endswith("it is being written")
    assert "has no row yet; it is being written" in failed("show", str(tmp_path / "run"))
    folder.close()
    assert "being written" not in failed("show", str(tmp_path / "run"), "begun")


# What is shown is safe, and nothing is changed


def unsafe(text: str) -> set[str]:
    return {
        each for each in text if unicodedata.category(each) in ("Cc", "Cf", "Cs", "Zl", "Zp") and each not in "\n\t"
    }


@pytest.mark.parametrize("words", [(), ("--calls",)])
def test_nothing_in_a_text_moves_the_cursor_or_hides_words(words: tuple[str, ...]) -> None:
    text = shown("generate", "odd", *words)
    assert unsafe(text) == set()
    for character in HOSTILE:
        if unsafe(character):
            assert f"⟨U+{ord(character):04X}⟩" in text
    assert as_json("generate", "odd", *words)["row"]["prompt"][0]["content"] == PROMPTS["odd"]
    raw = shown("generate", "odd", "--json", *words)
    assert not {"\x1b", "\x9b", "\u202e", "\u2066", "\x07", "\r"} & set(raw)


def test_on_a_terminal_lines_are_wrapped_and_nothing_but_colours_is_sent(made: Path) -> None:
    status, text = on_terminal(["show", "generate", "odd"])
    assert status == 0
    plain = text.replace("\r\n", "\n")
    for code in ("1", "0", "2", "9", "31", "32", "9;31", "31;9"):
        plain = plain.replace(f"\x1b[{code}m", "")
    assert unsafe(plain) == set()
    assert all(len(line) <= 130 for line in plain.splitlines())


def test_to_look_changes_nothing(made: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in (made / "best").rglob("*")}
    shown("best", "tea", "--calls")
    failed("show", "best", "nothing of this name")
    assert {path: path.stat().st_mtime_ns for path in (made / "best").rglob("*")} == before


@pytest.mark.parametrize("journal", ["missing", "damaged"])
def test_a_row_beside_a_lost_journal_is_shown_and_its_calls_are_said_to_be_unknown(
    journal: str, made: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(made / "generate", tmp_path / "copy")
    (folder / "calls.sqlite").unlink()
    if journal == "damaged":
        (folder / "calls.sqlite").write_bytes(b"not a database" * 100)
    text = shown(str(folder), "tea", "--calls")
    assert "its calls are not known" in text and "Can I give my dog tea?" in text


def test_a_damaged_line_is_named(made: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(made / "generate", tmp_path / "copy")
    path = folder / "revisions.jsonl"
    path.write_text(path.read_text().replace('"initial":', '"inital":'))
    assert "the line of 'tea' is damaged: initial: Field required" in failed("show", str(folder), "tea")


# Other kinds


def test_probes_and_ratings_are_shown(tmp_path: Path) -> None:
    probe = Probed(
        id="sum:1", position=0, key="00" * 16, prompt=(), text="2 + 2 =", continuations=(" 4", " 5"), sizes=(2, 2),
        logprobs=((-0.25, -3.5), None), models=("base-1", None), usage=Usage(), calls=(),
    )  # fmt: skip
    folder = tmp_path / "probe"
    folder.mkdir()
    identity = {"command": "probe", "models": ["a", "b"], "seed": 7}
    (folder / "run.json").write_text(json.dumps({"format": 1, "identity": identity, "stopped": None}))
    (folder / "probes.jsonl").write_text(probe.model_dump_json() + "\n")
    text = shown(str(folder))
    for word in ("2 + 2 =", "base-1: log p -0.250 of 2 bytes", "base-1: log p -3.500", "seed: 7"):
        assert word in text
    assert "None" not in text
    assert as_json(str(folder), "sum")["row"]["sizes"] == [2, 2]


@pytest.mark.parametrize(
    ("prompt", "after"), [("Plain text", "Fine, thanks."), ([{"role": "user", "content": "How are you?"}], None)]
)
def test_samples_of_a_training_are_shown_before_and_after(prompt: Any, after: str | None, tmp_path: Path) -> None:
    record = {"schema": 1, "identity": {"method": "dpo", "model": "m", "config": {"seed": 3}}, "finished": True}
    (tmp_path / "training.json").write_text(json.dumps(record))
    samples = [
        {"id": f"q{n}", "prompt": prompt, "before": "Fine.", "after": after, "most_tokens": 9} for n in (1, 10, 2)
    ]
    (tmp_path / "samples.jsonl").write_text("".join(json.dumps(each) + "\n" for each in samples))
    text = shown(str(tmp_path))
    for word in (
        "q1, of cai train dpo",
        "before       Fine.",
        "after",
        "method: dpo",
        "seed 3",
        "3 samples; another one",
    ):
        assert word in text
    assert as_json(str(tmp_path), "q1")["row"]["id"] == "q1"
    assert as_json(str(tmp_path), "q2")["row"]["id"] == "q2"
    assert "2 ids begin with 'q1" not in shown(str(tmp_path), "q1")
    assert "3 ids begin with 'q'" in failed("show", str(tmp_path), "q")
    assert "has no sample 'x'" in failed("show", str(tmp_path), "x")
