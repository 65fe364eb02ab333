"""Which pairs come out of a source: their texts, names and places, and what becomes of what holds none."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from pair_records import PAIR, TURN, contests

from cai.errors import RunError, SourceError
from cai.folder.lines import PAIR_BITS
from cai.records import BadPrompt, Candidate, Candidates, Contest, Message, Place, Revision, Round, Usage
from cai.runs.kinds.calibration import check_human_labels
from cai.runs.kinds.pairs import describe_source, read_pairs, replies_of_run, run_info
from cai.runs.kinds.pairs_of_row import MOST_REPLIES, pair_of_replies
from cai.sources.conversations import pair_hash, prompt_hash

DATA = Path(os.environ.get("CAI_SHARED_DATA", Path(__file__).parents[4] / "shared" / "data"))


def problem(record: Any) -> BadPrompt:
    """What is said of a record that holds no pair."""
    [(position, bad)] = read_pairs([record])
    assert isinstance(bad, BadPrompt) and (position, bad.line) == (0, 1)
    return bad


def write(path: Path, rows: Iterable[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


# One model's replies against another's


def several(*models: str | None, **more: Any) -> dict[str, Any]:
    """A record with a reply of each of these models, in order."""
    return {"prompt": "Hi?", "replies": [{"text": f"reply {n}", "model": m} for n, m in enumerate(models)], **more}


def origins(record: Any, pairing: str = "models") -> list[tuple[str, str]]:
    """Which replies of a record are compared."""
    return [(item.a_from, item.b_from) for _, item in read_pairs([record], pairing) if isinstance(item, Contest)]


def test_models_are_compared_by_their_replies_of_the_same_number() -> None:
    assert origins(several("x", "x", "y", "y")) == [("sample 0", "sample 2"), ("sample 1", "sample 3")]
    assert origins(several("x", "y", "x", "y")) == [("sample 0", "sample 1"), ("sample 2", "sample 3")]
    assert origins(several("x", "y", "z")) == [(f"sample {x}", f"sample {y}") for x, y in ((0, 1), (0, 2), (1, 2))]
    assert origins(several("x", "y", "y")) == [("sample 0", "sample 1")]


def test_pairs_of_models_have_the_places_and_names_that_they_have_among_all_pairs() -> None:
    record = several("x", "x", "y", "y")
    every = {item.key: (place, item) for place, item in read_pairs([record]) if isinstance(item, Contest)}
    across = [(place, item) for place, item in read_pairs([record], "models") if isinstance(item, Contest)]
    assert across and all(every[item.key] == (place, item) for place, item in across)


@pytest.mark.parametrize(
    ("record", "said"),
    [
        (several("x", "x"), "no two models have a usable reply of the same number"),
        (several("x", None), "reply 2 does not say which model wrote it, and --pairing models needs that"),
        ({"prompt": "Hi?", "replies": ["a", "b"]}, "reply 1 does not say which model wrote it"),
    ],
)
def test_replies_that_are_not_of_two_models_are_dropped_with_the_reason(record: Any, said: str) -> None:
    [(_, bad)] = read_pairs([record], "models")
    assert isinstance(bad, BadPrompt) and said in bad.problem


# Pairs that people wrote


@pytest.mark.shared_data
@pytest.mark.skipif(not DATA.exists(), reason="no shared data")
def test_transcripts_of_hh_give_their_pairs_with_whole_conversations() -> None:
    places = list(read_pairs(DATA / "hh_harmless_dev.jsonl.gz"))
    found = [item for _, item in places if isinstance(item, Contest)]
    bad = [item for _, item in places if isinstance(item, BadPrompt)]
    assert (len(places), len(found)) == (1_156, 1_152)
    assert Counter(item.reason for item in bad) == {"empty": 4}
    assert sum(sum(turn["role"] == "user" for turn in item.messages) > 1 for item in found) > 800
    assert all(item.messages[-1]["role"] == "user" for item in found)
    assert len({item.id for item in found}) == len({item.position for item in found}) == 1_152
    assert all({item.a_from, item.b_from} == {"chosen", "rejected"} for item in found)
    assert all((item.human == "a") == (item.a_from == "chosen") for item in found)
    assert 0.45 < sum(item.human == "a" for item in found) / len(found) < 0.55


@pytest.mark.shared_data
@pytest.mark.skipif(not DATA.exists(), reason="no shared data")
@pytest.mark.parametrize(
    ("file", "count"), [("hhh221.jsonl", 221), ("llmbar_natural.jsonl", 100), ("llmbar_neighbor.jsonl", 134)]
)
def test_other_gold_files_give_every_pair(file: str, count: int) -> None:
    found = contests(DATA / file)
    assert len(found) == count and all(item.human in ("a", "b") for item in found)
    assert 0.35 < sum(item.human == "a" for item in found) / count < 0.65


@pytest.mark.parametrize(
    ("record", "told"),
    [
        ("text", "the record is of type str, not an object with a prompt and replies"),
        (None, "the record is null, not an object"),
        ({"prompt": "Hi?"}, "no pair of replies (replies, chosen and rejected, a and b, response_a and response_b"),
        ({**PAIR, "chosen": 3}, "chosen is of type int, not text"),
        ({**PAIR, "chosen": None}, "no pair of replies"),
        ({**PAIR, "chosen": [{"role": "user", "content": "x"}]}, "chosen does not end with a reply"),
        ({"chosen": "x", "rejected": "y"}, "no prompt beside the reply; it has 'chosen', 'rejected'"),
        ({"chosen": "\n\nHuman: a\n\nAssistant: x", "rejected": "\n\nHuman: b\n\nAssistant: y"},
         "the two replies answer different conversations"),
        ({"input": "Hi?", "output_1": "x", "output_2": "y", "label": 3}, "'label' is 3, not 1 or 2"),
        ({"output_1": "x", "output_2": "y"}, "no prompt beside the reply; it has 'output_1', 'output_2'"),
        ({"prompt": "Hi?", "a": "x", "b": "y", "human": "c"}, "'human' is 'c', not a or b"),
        ({"prompt": "Hi?", "a": "x", "b": "y", "a_model": 4}, "'a_model' is of type int, not text"),
                ({**PAIR, "chosen": "half \ud800"}, "chosen is not UTF-8 (character 6)"),
        ({**PAIR, "id": "\udcff"}, "the id is not UTF-8"),
        ({"prompt": "Hi?", "replies": "x"}, "'replies' is of type str, not a list"),
        ({"prompt": "Hi?", "replies": ["x", 4]}, "a reply must be text, or an object with 'text'"),
        ({"prompt": "Hi?", "replies": ["x", {"text": "\ud800"}]}, "reply 2 is not UTF-8"),
        ({"replies": ["x", "y"]}, "no prompt beside the replies; it has 'replies'"),
        ({"prompt": "Hi?", "replies": ["x"]}, "1 of 1 replies: two are needed for a pair"),
        ({"prompt": "Hi?", "replies": []}, "0 of 0 replies: two are needed for a pair"),
        ({"rounds": [], "initial": "x"}, "it has rounds, but is not a row of a generate run"),
        ({"rounds": [3], "initial": "x"}, "it has rounds, but is not a row of a generate run"),
    ],
)  # fmt: skip
def test_a_record_without_a_pair_says_why(record: Any, told: str) -> None:
    bad = problem(record)
    assert bad.reason == "bad_input" and bad.problem.startswith(told)


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ({**PAIR, "chosen": " \n"}, "empty"), ({**PAIR, "prompt": ""}, "empty"),
        ({**PAIR, "rejected": "Good day. "}, "identical"),
        ({"prompt": "Hi?", "replies": ["x", " "]}, "empty"),
        ({"prompt": "Hi?", "replies": [{"text": "x", "problem": "truncated"}, "y"]}, "truncated"),
        ({"prompt": "Hi?", "replies": [{"text": "", "problem": "content_filter"}, {"text": "", "problem": "empty"}]},
         "content_filter"),
        ({"prompt": "Hi?", "replies": [{"text": "x", "problem": "of their own"}, "y"]}, "bad_input"),
    ],
)  # fmt: skip
def test_what_falls_out_for_its_texts_falls_out_for_that_reason(record: Any, reason: str) -> None:
    assert problem(record).reason == reason


def test_bad_lines_of_a_file_are_named_and_the_others_keep_their_places(tmp_path: Path) -> None:
    file = tmp_path / "pairs.jsonl"
    file.write_text(f"{json.dumps(PAIR)}\n{{broken\n\n{json.dumps({**PAIR, 'id': 7})}\n")
    places = list(read_pairs(file))
    assert [position >> PAIR_BITS for position, _ in places] == [0, 1, 2]
    (_, first), (_, bad), (_, last) = places
    assert isinstance(first, Contest) and isinstance(last, Contest) and last.id == "7"
    assert isinstance(bad, BadPrompt) and bad.line == 2 and "not JSON" in bad.problem


def test_a_missing_file_and_an_empty_one_are_errors(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no such file"):
        read_pairs(tmp_path / "no.jsonl")
    (tmp_path / "empty.jsonl").touch()
    with pytest.raises(SourceError, match="there is no record in it"):
        list(read_pairs(tmp_path / "empty.jsonl"))


# Several replies


def test_every_two_replies_are_a_pair_whose_place_stays_when_there_are_more() -> None:
    for count in range(2, 9):
        found = contests([{"prompt": "Hi?", "id": "p", "replies": [f"reply {n}" for n in range(count)]}])
        assert len(found) == count * (count - 1) // 2
        assert {(item.id, item.position) for item in found} == {
            (f"p:{x}-{y}", y * (y - 1) // 2 + x) for y in range(count) for x in range(y)
        }
        assert all((item.a_from, item.b_from) == tuple(f"sample {n}" for n in item.id[2:].split("-")) for item in found)
        assert all(item.a == item.a_from.replace("sample", "reply") for item in found)


def test_replies_that_cannot_be_used_are_left_out_and_the_others_keep_their_numbers() -> None:
    replies = ["x", {"text": "cut", "problem": "truncated"}, {"text": "y", "model": "m", "problem": None}, " "]
    [item] = contests([{"prompt": "Hi?", "replies": replies}])
    assert (item.a, item.b, item.position, item.a_model, item.b_model) == ("x", "y", 1, None, "m")
    assert item.id == item.key and item.prompt_id == prompt_hash(TURN)


def test_a_prompt_without_an_id_may_come_again_with_other_replies() -> None:
    found = contests([{"prompt": "Hi?", "replies": ["x", "y"]}, {"prompt": "Hi?", "replies": ["x", "z"]}])
    assert len({item.id for item in found}) == 2 and len({item.prompt_id for item in found}) == 1


def test_a_reply_in_several_turns_is_read_whole() -> None:
    start = "\n\nHuman: Hi?\n\nAssistant: Good day."
    [item] = contests([{"chosen": f"{start}\n\nAssistant: And you?", "rejected": f"{start}\n\nAssistant: "}])
    assert {item.a, item.b} == {"Good day.\n\nAnd you?", "Good day."} and item.messages == TURN


def test_positions_of_pairs_never_meet_however_many_replies_there_are() -> None:
    most = [{"prompt": f"{n}?", "replies": list(map(str, range(count)))} for n, count in enumerate([MOST_REPLIES, 2])]
    positions = [position for position, _ in read_pairs(most)]
    assert len(set(positions)) == len(positions) == MOST_REPLIES * (MOST_REPLIES - 1) // 2 + 1
    assert {position >> PAIR_BITS for position in positions} == {0, 1}
    too_many = problem({"prompt": "Hi?", "replies": [str(n) for n in range(MOST_REPLIES + 1)]})
    assert too_many.problem == "363 replies: pairs of at most 362 can be numbered"


# Runs


def sampled(folder: Path, rows: Iterable[tuple[int, list[tuple[str, Any]]]], command: str = "sample") -> Path:
    """A run folder with these candidates, text and problem, of prompts at these places."""
    folder.mkdir(exist_ok=True)
    identity = {"command": command, "n": 2, "models": ["m"]}
    (folder / "run.json").write_text(json.dumps({"format": 1, "identity": identity}))
    with open(folder / "candidates.jsonl", "w") as file:
        for place, replies in rows:
            made = tuple(
                Candidate(text=text, model="m", sample=n, problem=why) for n, (text, why) in enumerate(replies)
            )
            turn: Message = {"role": "user", "content": f"{place}?"}
            row = Candidates(
                id=f"p{place}", position=place, prompt=(turn,), replies=made, seed=0, usage=Usage(), calls=()
            )  # fmt: skip
            file.write(row.model_dump_json() + "\n")
    return folder


OK = [("x", None), ("y", None), ("z", None)]
CUT = [("x", None), ("y", "truncated")]


def test_the_pairs_of_a_sample_run_come_in_the_order_of_its_prompts_wherever_its_rows_lie(tmp_path: Path) -> None:
    found = contests(sampled(tmp_path / "run", [(2, OK), (0, OK)]))
    assert [item.id for item in found] == [f"p{n}:{pair}" for n in (0, 2) for pair in ("0-1", "0-2", "1-2")]
    assert [item.position for item in found] == [n << PAIR_BITS | k for n in (0, 2) for k in range(3)]
    assert {(item.a_model, item.b_model, item.human) for item in found} == {("m", "m", None)}


def test_a_prompt_whose_replies_were_cut_is_dropped_as_that_and_ends_no_run(tmp_path: Path) -> None:
    run = sampled(tmp_path / "run", [(0, CUT), (1, OK), (2, [("x", None)])])
    (place, bad), *pairs, (_, single) = read_pairs(run)
    assert isinstance(bad, BadPrompt) and bad.reason == "truncated"
    assert bad.problem == (
        "prompt p0: 1 of 2 replies can be used (the first of the others is truncated): two are needed for a pair"
    )
    assert isinstance(single, BadPrompt) and single.reason == "bad_input"
    assert len(pairs) == 3
    assert place not in {
        pair_of_replies("p0", (), (0, "x"), (n, None)).position for n in range(1, 362)
    }  # later pairs of it


def test_further_replies_are_drawn_for_the_prompts_below_the_limit(tmp_path: Path) -> None:
    run = sampled(tmp_path / "run", [(0, CUT), (1, OK), (2, OK)])
    for limit in (None, 1, 2, 3, 4, 5, 6, 7):
        units = {position >> PAIR_BITS for position, _ in list(read_pairs(run))[:limit]}
        assert {row.position for row in replies_of_run(run, limit)} == units
    [_, row, _] = replies_of_run(run, None)
    assert [(reply.text, reply.problem) for reply in row.replies] == OK


def test_a_run_may_be_read_while_it_goes_on_and_has_grown_afterwards(tmp_path: Path) -> None:
    run = sampled(tmp_path / "run", [(0, OK)])
    with open(run / "candidates.jsonl", "a") as file:
        file.write('{"position": 1, "torn')
    before, named = list(read_pairs(run)), describe_source(run)
    sampled(run, [(0, OK), (1, OK)])
    assert list(read_pairs(run))[:3] == before and len(before) == 3
    assert describe_source(run) == named


def revised(folder: Path, *rows: Revision) -> Path:
    folder.mkdir()
    (folder / "run.json").write_text(json.dumps({"format": 1, "identity": {"command": "generate"}}))
    (folder / "revisions.jsonl").write_text("".join(row.model_dump_json() + "\n" for row in rows))
    return folder


def revision(place: int, *texts: str | None, initial: str = "first") -> Revision:
    rounds = tuple(Round(principle="p", critique="c", verdict=None, revision=text, changed=True) for text in texts)
    return Revision.model_validate(
        {
            "id": f"p{place}", "position": place, "prompt": TURN, "initial": initial, "rounds": rounds,
            "final": next((text for text in reversed(texts) if text is not None), initial),
            "constitution": {"name": "n", "version": "1.0.0", "hash": "h"}, "templates": "t",
            "models": {"assistant": "m", "reviser": "r"}, "seed": 0, "usage": Usage(), "calls": (),
        }
    )  # fmt: skip


def test_each_rounds_revision_stands_against_the_first_reply(tmp_path: Path) -> None:
    found = contests(revised(tmp_path / "run", revision(3, "second", None, "third")))
    assert [(item.id, item.a, item.b) for item in found] == [
        ("p3:round-1", "second", "first"),
        ("p3:round-3", "third", "first"),
    ]
    assert [(item.a_from, item.b_from, item.a_model, item.b_model) for item in found] == [
        ("round 1", "initial", "r", "m"),
        ("round 3", "initial", "r", "m"),
    ]
    assert [item.position for item in found] == [3 << PAIR_BITS | 1, 3 << PAIR_BITS | 3]


def test_the_last_revision_alone_is_judged_where_that_is_asked_for(tmp_path: Path) -> None:
    [item] = contests(revised(tmp_path / "run", revision(0, "second", "third", None)), "final")
    assert (item.id, item.a, item.b) == ("p0:round-2", "third", "first")


def test_a_revision_that_came_twice_is_one_pair(tmp_path: Path) -> None:
    [item] = contests(revised(tmp_path / "run", revision(0, "second", "second")))
    assert item.id == "p0:round-2"


@pytest.mark.parametrize("pairing", ["all", "final", "best-worst"])
def test_a_row_of_which_no_round_wrote_a_revision_does_not_vanish(tmp_path: Path, pairing: str) -> None:
    run = revised(tmp_path / "run", revision(0, None, None), revision(1, "second"), revision(2))
    found = contests(run, pairing)
    assert [item.position >> PAIR_BITS for item in found] == [0, 1, 2]
    assert [item.a == item.b for item in found] == [True, False, True]
    assert (found[0].id, found[0].a_from, found[0].a_model) == ("p0:round-0", "initial", "m")


def test_rows_from_python_are_the_same_pairs_as_those_of_their_run(tmp_path: Path) -> None:
    rows = [revision(0, "second"), revision(1, None, "third")]
    assert contests(rows) == contests(revised(tmp_path / "run", *rows))
    run = sampled(tmp_path / "sampled", [(0, OK), (1, OK)])
    lines = (run / "candidates.jsonl").read_text().splitlines()
    assert contests(map(json.loads, lines)) == contests(run)
    assert contests(map(Candidates.model_validate_json, lines)) == contests(run)
    assert contests(run / "candidates.jsonl") == contests(run)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "is not a run folder: it has no run.json; name a run, or a file of pairs"),
        ("{", "cannot be read"),
        ("[]", "is damaged"),
        ('{"identity": {}}', "is damaged"),
        ('{"identity": {"command": "label"}}', "is a run of cai label: its rows are labelled already: cai export cuts"),
        ('{"identity": {"command": "train"}}', "is a run of cai train: it holds no replies"),
        ('{"identity": {"command": "sample"}}', "has no candidates.jsonl: the run has not begun"),
    ],
)
def test_a_folder_that_is_no_such_run_says_what_it_is(tmp_path: Path, content: str | None, told: str) -> None:
    if content is not None:
        (tmp_path / "run.json").write_text(content)
    with pytest.raises(RunError) as error:
        list(read_pairs(tmp_path))
    assert told in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "line",
    [
        '{"position": 0}',
        "{broken",
        '{"position": "0"}',
        '{"position": 0, "id": "x", "prompt": 4, "replies": null}',
        "[]",
    ],
)
def test_a_damaged_row_of_a_run_is_named_or_dropped_and_never_passed_over(tmp_path: Path, line: str) -> None:
    run = sampled(tmp_path / "run", [(1, OK)])
    with open(run / "candidates.jsonl", "a") as file:
        file.write(line + "\n")
    try:
        places = list(read_pairs(run))
    except RunError as error:
        assert "candidates.jsonl: line 2 is damaged" in str(error)
    else:
        assert isinstance(places[0][1], BadPrompt) and len(places) == 4


def test_a_damaged_row_is_named_where_further_replies_are_drawn(tmp_path: Path) -> None:
    run = sampled(tmp_path / "run", [(0, OK)])
    with open(run / "candidates.jsonl", "a") as file:
        file.write('{"position": 1, "id": "p1"}\n')
    with pytest.raises(RunError, match=r"candidates\.jsonl: line 2 is damaged"):
        list(replies_of_run(run, None))


def test_a_damaged_row_of_a_generate_run_is_named(tmp_path: Path) -> None:
    run = revised(tmp_path / "run", revision(0, "second"))
    row = json.loads((run / "revisions.jsonl").read_text())
    write(run / "revisions.jsonl", [row, {**row, "position": 1, "models": "m"}])
    with pytest.raises(RunError, match="line 2 is damaged"):
        list(read_pairs(run))


# Who says which is better


def test_a_source_without_human_labels_is_refused_where_they_are_needed(tmp_path: Path) -> None:
    check_human_labels([{"prompt": "Hi?", "replies": ["x", "y"]}, PAIR], "--gold")
    with pytest.raises(SourceError, match="no pair says which reply people prefer: --gold needs chosen and rejected"):
        check_human_labels([{"prompt": "Hi?", "replies": ["x", "y"]}], "--gold")


def test_what_is_no_run_has_no_info(tmp_path: Path) -> None:
    assert run_info("-") is None and run_info([PAIR]) is None
    assert run_info(write(tmp_path / "pairs.jsonl", [PAIR])) is None


def collected(places: Iterable[Place]) -> list[Contest]:
    return [item for _, item in places if isinstance(item, Contest)]


def test_the_name_of_a_pair_tells_texts_apart_and_not_their_order() -> None:
    messages = TURN
    names = {pair_hash(messages, a, b) for a in ("", "x", "xy", "y") for b in ("", "x", "xy", "y")}
    assert len(names) == 10
    assert collected(read_pairs([PAIR]))[0].key == pair_hash(TURN, "What.", "Good day.")
    waiting = pair_of_replies("p", (), (0, "x"), (3, None))
    assert waiting.key not in {pair_of_replies("p", (), (0, "x"), (n, None)).key for n in (1, 2)}
