from __future__ import annotations

import inspect
import json
import math
import random
import re
import sqlite3
import tempfile
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from label_cuts import BINDING, IDENTITY, Row, make_run, pair, rows, text
from pair_labels import MIXED, REFUSED, swapped

from cai.errors import InputError, RunError, UsageError
from cai.export import cut as cuts
from cai.export.export import export_run
from cai.export.options import ExportOptions, Filters
from cai.export.pairs import fault_of_texts
from cai.export.preferences import PreferenceCut
from cai.folder.info import read_info
from cai.folder.lines import lines_in_order
from cai.folder.run import RunFolder
from cai.judge.certify import Binding, Calibration, Threshold
from cai.records import Drop, Label
from cai.texts import hygiene
from cai.texts.likeness import Ngram


def contents(folder: Path) -> dict[str, bytes]:
    """All files that an export writes for others to read."""
    pattern = r"README\.md|dropped\.jsonl|(sft|dpo|kto|reward)\."
    return {path.name: path.read_bytes() for path in folder.iterdir() if re.match(pattern, path.name)}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return make_run(tmp_path / "run", [pair(1, -3.0, human="a"), pair(0, 2.0), pair(2, None), pair(3, 0.1)])


def test_a_label_becomes_a_pair_with_its_probability_and_where_it_came_from(run: Path) -> None:
    summary = export_run(run)
    [first, second] = rows(run / "dpo.jsonl")
    assert first["id"] == "q0:0-1"
    assert second == {
        "prompt": [{"role": "user", "content": "Question 1?"}],
        "chosen": [{"role": "assistant", "content": text(1, 1)}],
        "rejected": [{"role": "assistant", "content": text(1, 0)}],
        "p_chosen": 1 / (1 + math.exp(-3)),
        "judged": True,
        "margin": 3.0,
        "confidence": 1 / (1 + math.exp(-3)),
        "id": "q1:0-1",
        "prompt_id": "q1",
        "principles": ["kind"],
        "constitution": "kind@1.2.0",
        "constitution_hash": "c0ffee",
        "judge": "judge-1",
        "protocol": "logprob",
        "chosen_model": "small-0",
        "rejected_model": "small-0",
        "chosen_from": "sample 1",
        "rejected_from": "sample 0",
        "human": "rejected",
    }
    assert (summary.rows, summary.pairs) == (4, 2)
    assert summary.left_out["pairs"] == {"invalid_vote": 1, "low_confidence": 1}
    assert summary.chosen_longer == 0.5


def test_a_reply_becomes_an_example_with_its_mean_probability(run: Path) -> None:
    export_run(run)
    found = rows(run / "kto.jsonl")
    assert [(row["id"], row["label"]) for row in found] == [
        ("q0:0-1:sample 0", True),
        ("q0:0-1:sample 1", False),
        ("q1:0-1:sample 0", False),
        ("q1:0-1:sample 1", True),
    ]
    assert found[0] == {
        "prompt": [{"role": "user", "content": "Question 0?"}],
        "completion": [{"role": "assistant", "content": text(0, 0)}],
        "label": True,
        "p": 1 / (1 + math.exp(-2)),
        "id": "q0:0-1:sample 0",
        "prompt_id": "q0",
        "labels": ["q0:0-1"],
        "constitution": "kind@1.2.0",
        "constitution_hash": "c0ffee",
        "judge": "judge-1",
        "protocol": "logprob",
        "model": "small-0",
        "from": "sample 0",
    }


def test_drops_say_why_in_input_order_behind_those_of_the_run(tmp_path: Path) -> None:
    own = Drop(id="q1:0-2", position=1 << 16 | 1, stage="judge", reason="model_error", detail="…").model_dump_json()
    make_run(tmp_path, [pair(3, 0.1), pair(2, None), pair(0, 2.0, a=MIXED)], own + "\n")
    export_run(tmp_path)
    told = [(drop["id"], drop["stage"], drop["reason"], drop["detail"]) for drop in rows(tmp_path / "dropped.jsonl")]
    turns = "continues with turns that are not its own"
    assert told == [
        ("q0:0-1", "pairs", "role_mixup", f"the chosen reply {turns}"),
        ("q0:0-1:sample 0", "kto", "role_mixup", f"the reply {turns}"),
        ("q0:0-1:sample 1", "kto", "low_confidence", "p 0.119: there are more undesirable replies than others"),
        ("q1:0-2", "judge", "model_error", "…"),
        ("q2:0-1", "pairs", "invalid_vote", "the letters have 0.10 of the probability"),
        ("q3:0-1", "pairs", "low_confidence", "0.525 is below 0.7"),
        ("q3:0-1:sample 0", "kto", "low_confidence", "p 0.525 is in the dead zone"),
        ("q3:0-1:sample 1", "kto", "low_confidence", "p 0.475 is in the dead zone"),
    ]
    for line in (tmp_path / "dropped.jsonl").read_text().splitlines():
        Drop.model_validate_json(line)


def test_kto_leaves_out_what_is_nearest_to_one_half_where_one_kind_has_more(tmp_path: Path) -> None:
    make_run(tmp_path, [pair(0, 3.0, a=MIXED), pair(1, 2.0, a=MIXED), pair(2, 1.0), pair(3, -4.0)])
    export_run(tmp_path)
    kept = [(row["id"], row["label"]) for row in rows(tmp_path / "kto.jsonl")]
    assert kept == [
        ("q0:0-1:sample 1", False),
        ("q2:0-1:sample 0", True),
        ("q3:0-1:sample 0", False),
        ("q3:0-1:sample 1", True),
    ]


zs = st.none() | st.floats(-12, 12) | st.sampled_from([0.0, 0.8472978603872034, -0.8472978603872034])
labels = st.lists(
    st.tuples(
        st.lists(zs, min_size=1, max_size=4), st.sampled_from([None, "same", "refused", "mixed", "empty", "close"])
    ),
    max_size=8,
)
options = st.fixed_dictionaries(
    {},
    optional={
        "min_confidence": st.floats(0.5, 1),
        "split": st.floats(0.01, 0.99),
        "hygiene": st.booleans(),
        "order_flip": st.booleans(),
        "max_length_ratio": st.floats(1, 3),
        "dead_zone": st.floats(0.5, 1),
        "pairing": st.sampled_from(["all", "best-worst"]),
        "target": st.integers(1, 8),
    },
)
PLACES = [(0, 1), (0, 2), (1, 2), (0, 3)]


def run_of(prompts: list[tuple[list[float | None], str | None]]) -> list[Row]:
    made = []
    for number, (odds, fault) in enumerate(prompts):
        for (x, y), z in zip(PLACES, odds, strict=False):
            row = pair(number, z, x, y)
            row |= {
                "same": {"b": row["a"] + " "},
                "refused": {"a": REFUSED, "b": REFUSED[:-1] + "!"},
                "mixed": {"a": MIXED},
                "empty": {"b": " "},
                "close": {"b": row["a"].upper()},
                None: {},
            }[fault]  # fmt: skip
            made.append(row)
    return made


@settings(max_examples=40)
@given(labels, options, st.randoms(use_true_random=False))
def test_what_is_kept_and_what_is_dropped_make_up_all_labels_and_replies(
    prompts: list[Any], asked: dict[str, Any], order: random.Random
) -> None:
    made = run_of(prompts)
    with tempfile.TemporaryDirectory() as name:
        folder = make_run(Path(name), order.sample(made, len(made)))
        export_run(folder, **asked)
        found = {kind: [r for path in folder.glob(f"{kind}*.jsonl") for r in rows(path)] for kind in ("dpo", "kto")}
        drops = rows(folder / "dropped.jsonl")
        sides = [Counter(row["label"] for row in rows(path)) for path in folder.glob("kto*.jsonl")]
    ids = Counter(row["id"] for row in made)
    dropped = Counter(drop["id"] for drop in drops if drop["stage"] == "pairs")
    assert Counter(row["id"] for row in found["dpo"]) + dropped == ids
    assert not {row["id"] for row in made if row["z"] is None} & {row["id"] for row in found["dpo"]}
    assert all(row["p_chosen"] > 0.5 and row["margin"] > 0 for row in found["dpo"])
    assert [drop["position"] for drop in drops] == sorted(drop["position"] for drop in drops)
    replies = [row["id"] for row in found["kto"]] + [drop["id"] for drop in drops if drop["stage"] == "kto"]
    assert len(replies) == len(set(replies))
    if "target" not in asked:
        judged = [row for row in made if row["z"] is not None]
        texts = {(row["prompt_id"], row[side].strip()) for row in judged for side in "ab" if row[side].strip()}
        assert len(replies) == len(texts)
    for kinds in sides:
        assert kinds[True] == kinds[False]
    assert all((row["p"] > 0.5) is row["label"] for row in found["kto"])


@settings(max_examples=25)
@given(labels, options, st.randoms(use_true_random=False))
def test_neither_the_order_of_lines_nor_the_places_of_replies_change_what_is_kept(
    prompts: list[Any], asked: dict[str, Any], chance: random.Random
) -> None:
    made = run_of(prompts)
    turned = [swapped(row) if chance.random() < 0.5 else row for row in made]
    for row in turned:
        Label.model_validate(row)
    chance.shuffle(turned)
    with tempfile.TemporaryDirectory() as name:
        one, other = make_run(Path(name) / "one", made), make_run(Path(name) / "other", turned)
        export_run(one, **asked)
        export_run(other, **asked)
        files = contents(one)
        for kind in ("dropped.jsonl", "README.md"):  # lengths are told in order, and flips are of no reply
            files.pop(kind)
        assert files.items() <= contents(other).items()
        assert [(d["id"], d["reason"]) for d in rows(one / "dropped.jsonl")] == [
            (d["id"], d["reason"]) for d in rows(other / "dropped.jsonl")
        ]


def test_the_bytes_do_not_depend_on_finishing_order_or_on_cuts_between(tmp_path: Path) -> None:
    made = [pair(n, (-1) ** n * n / 4, x, y) for n in range(30) for x, y in ((0, 1), (0, 2), (1, 2))]
    straight = make_run(tmp_path / "straight", made)
    export_run(straight, split=0.6, min_confidence=0.8)
    disturbed = make_run(tmp_path / "disturbed", random.Random(1).sample(made, len(made)))
    export_run(disturbed, pairing="best-worst", min_confidence=0.55)
    export_run(disturbed, split=0.6, min_confidence=0.8)
    assert contents(disturbed) == contents(straight)


def test_a_reward_file_of_an_earlier_version_is_removed(run: Path) -> None:
    for name in ("reward.jsonl", "reward.eval.jsonl", "reward.parquet"):
        (run / name).write_text("old")
    export_run(run)
    assert not list(run.glob("reward*")) and (run / "dpo.jsonl").exists()


def test_a_label_made_again_under_its_key_is_read_again(tmp_path: Path) -> None:
    make_run(tmp_path, [pair(0, 2.0, a=MIXED), pair(1, 2.0)])  # the key of replies drawn later does not name their text
    assert export_run(tmp_path).left_out["pairs"] == {"role_mixup": 1}
    make_run(tmp_path, [pair(0, 2.0), pair(1, 2.0, a=MIXED)])
    (tmp_path / "calls.sqlite").unlink()
    assert export_run(tmp_path).left_out["pairs"] == {"role_mixup": 1}
    assert [row["id"] for row in rows(tmp_path / "dpo.jsonl")] == ["q0:0-1"]


def test_a_split_is_by_prompt_in_every_file(tmp_path: Path) -> None:
    make_run(tmp_path, [pair(n, 3.0, x, y) for n in range(40) for x, y in ((0, 1), (0, 2))])
    summary = export_run(tmp_path, split=0.5)
    assert summary.files["dpo.jsonl"] + summary.files["dpo.eval.jsonl"] == 80
    sides = [
        [{row["prompt_id"] for row in rows(tmp_path / f"{kind}{side}.jsonl")} for side in ("", ".eval")]
        for kind in ("dpo", "kto")
    ]
    for train, held in sides:
        assert train and held and not train & held
    assert sides[1][0] <= sides[0][0] and sides[1][1] <= sides[0][1]


# Target


def test_a_target_keeps_the_first_pairs_and_those_that_needed_no_further_samples_before_all_others(
    tmp_path: Path,
) -> None:
    made = [pair(0, 0.1), pair(0, 3.0, 0, 2), pair(1, 3.0), pair(2, 3.0), pair(3, 3.0)]
    make_run(tmp_path, made)
    assert export_run(tmp_path, target=2).pairs == 2
    assert [row["id"] for row in rows(tmp_path / "dpo.jsonl")] == ["q1:0-1", "q2:0-1"]
    assert {row["prompt_id"] for row in rows(tmp_path / "kto.jsonl")} == {"q1", "q2"}
    drops = [(d["id"], d["reason"]) for d in rows(tmp_path / "dropped.jsonl") if d["stage"] == "pairs"]
    assert drops == [("q0:0-1", "low_confidence"), ("q0:0-2", "over_target"), ("q3:0-1", "over_target")]
    assert export_run(tmp_path, target=4).pairs == 4
    assert export_run(tmp_path, target=9).pairs == 4


def test_replies_of_the_pairs_beyond_a_target_are_accounted_for(tmp_path: Path) -> None:
    made = [pair(n, 3.0, x, y) for n in range(4) for x, y in ((0, 1), (0, 2), (1, 2))]
    make_run(tmp_path, made)
    for target in (1, 4, 5, 12):
        summary = export_run(tmp_path, target=target)
        kept, dropped = summary.files["kto.jsonl"], summary.left_out["kto"]
        assert kept + sum(dropped.values()) == 12
        listed = Counter(d["reason"] for d in rows(tmp_path / "dropped.jsonl") if d["stage"] == "kto")
        assert listed == dropped
    assert export_run(tmp_path, target=3).left_out["kto"]["over_target"] == 6 and "over_target" not in dropped


def test_a_run_with_a_target_is_cut_to_it(tmp_path: Path) -> None:
    make_run(tmp_path, [pair(n, 3.0) for n in range(5)], settings={"target": 2})
    assert export_run(tmp_path).pairs == 2
    assert export_run(tmp_path, target=3).pairs == 3


# Options


def calibration(**binding: Any) -> Calibration:
    at = Threshold(
        target=0.8, confidence=0.9, calibrated=0.75, coverage=0.6, upper_bound=0.18, n=120, errors=14
    )  # fmt: skip
    return Calibration(
        binding=Binding.model_validate(BINDING | binding),
        n=200,
        temperature=2.0,
        delta=0.1,
        thresholds={"0.8": at, "0.9": None},
        before=None,
        after=None,
    )


def test_a_calibration_and_benign_prompts_are_found_again_from_another_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_run(tmp_path / "run", [pair(0, 2.0), pair(1, 3.0)])
    (tmp_path / "made.json").write_text(calibration().model_dump_json())
    (tmp_path / "benign.jsonl").write_text('{"prompt": "How do bees fly?"}\n')
    monkeypatch.chdir(tmp_path)
    export_run("run", calibration="made.json", benign="benign.jsonl", agreement=0.8)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    info = json.loads((tmp_path / "run" / "run.json").read_text())
    assert info["export"]["calibration"] == info["calibration"]["path"] == str(tmp_path / "made.json")
    export_run(tmp_path / "run", **info["export"])
    assert json.loads((tmp_path / "run" / "run.json").read_text()) == info


def test_benign_prompts_may_be_a_built_in_set(tmp_path: Path) -> None:
    make_run(tmp_path / "run", [pair(0, 2.0)])
    [note] = (note for note in export_run(tmp_path / "run", benign="contrast").notes if "--benign" in note)
    assert note.startswith("no prompt of the run is one of --benign contrast")
    assert json.loads((tmp_path / "run" / "run.json").read_text())["export"]["benign"] == "contrast"


def test_what_speaks_against_a_calibration_is_told_of_what_was_cut_by_it(run: Path) -> None:
    made = calibration().model_copy(update={"notes": ("12 pairs are too few",)})
    assert "of the gold pairs: 12 pairs are too few" in export_run(run, calibration=made, agreement=0.8).notes
    assert "| of those pairs | 12 pairs are too few |" in (run / "README.md").read_text()


def test_an_agreement_takes_its_threshold_and_its_temperature_from_the_calibration(tmp_path: Path) -> None:
    make_run(tmp_path / "run", [pair(0, 2.0), pair(1, 3.0)])
    file = tmp_path / "calibration.json"
    file.write_text(calibration().model_dump_json())
    summary = export_run(tmp_path / "run", calibration=file, agreement=0.8)
    [row] = rows(tmp_path / "run" / "dpo.jsonl")
    assert row["id"] == "q1:0-1"
    assert row["confidence"] == row["p_chosen"] == 1 / (1 + math.exp(-1.5))
    assert row["margin"] == 1.5
    assert summary.notes == (
        "labels of confidence 0.75 or more agree with people in at least 80% of the cases: certified on 120 gold "
        "pairs; holds for pairs drawn like the gold pairs",
    )
    card = (tmp_path / "run" / "README.md").read_text()
    assert "temperature 2, fitted on 200 pairs with human labels" in card
    assert "agreement with people of at least 80%, certified on 120 of 200 pairs" in card
    info = json.loads((tmp_path / "run" / "run.json").read_text())
    assert info["calibration"]["path"] == str(file) and len(info["calibration"]["sha256"]) == 64
    again = export_run(tmp_path / "run", **info["export"])
    assert again == summary
    export_run(tmp_path / "run")
    assert json.loads((tmp_path / "run" / "run.json").read_text())["calibration"] is None


def test_a_calibration_of_the_folder_serves_an_agreement_and_one_from_python_is_remembered(tmp_path: Path) -> None:
    make_run(tmp_path, [pair(0, 2.0), pair(1, 3.0)])
    export_run(tmp_path, calibration=calibration(), agreement=0.8)
    expected = contents(tmp_path)
    export_run(tmp_path, **json.loads((tmp_path / "run.json").read_text())["export"])
    assert contents(tmp_path) == expected
    (tmp_path / "calibration.json").write_text(calibration().model_dump_json())
    export_run(tmp_path, agreement=0.8)
    assert contents(tmp_path) == expected


def test_a_calibration_that_does_not_fit_is_refused(run: Path, tmp_path: Path) -> None:
    export_run(run)
    before = contents(run)
    with pytest.raises(UsageError, match=r"made for a different judge: .*judge is 'openai:other' there"):
        export_run(run, calibration=calibration(judge="openai:other"))
    with pytest.raises(UsageError, match=r"--agreement 0.9 is not certified on the 200 gold pairs \(certified: 0.8\)"):
        export_run(run, calibration=calibration(), agreement=0.9)
    with pytest.raises(UsageError, match=r"--agreement 0.87 is not certified on the 200 gold pairs \(certified: 0.8\)"):
        export_run(run, calibration=calibration(), agreement=0.87)
    with pytest.raises(UsageError, match="--agreement needs --calibration FILE"):
        export_run(run, agreement=0.9)
    with pytest.raises(InputError, match="cannot be read"):
        export_run(run, calibration=tmp_path / "nowhere.json")
    assert contents(run) == before


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"rounds_kept": "all"}, "--rounds-kept: only for runs of cai generate; this is a run of cai label"),
        ({"min_confidence": 0.4}, "--min-confidence 0.4 must be greater than or equal to 0.5"),
        ({"dead_zone": 1.2}, "--dead-zone 1.2 must be less than or equal to 1"),
        ({"max_length_ratio": 0.5}, "--max-length-ratio 0.5 must be greater than or equal to 1"),
        ({"target": 0}, "--target 0 must be greater than or equal to 1"),
        ({"target": 1.5}, "--target 1.5 must be a valid integer"),
        ({"target": True}, "--target True must be a valid integer"),
        ({"min_confidence": "0.8"}, "--min-confidence '0.8' must be a valid number"),
        ({"min_confidence": math.nan}, "--min-confidence nan must be less than or equal to 1"),
        ({"hygiene": "no"}, "--hygiene 'no' must be a valid boolean"),
        ({"benign": 3}, "--benign 3 must be of type str | pathlib.Path"),
        ({"calibration": 3}, "--calibration 3 must be of type str | pathlib.Path | cai.judge.certify.Calibration"),
        ({"calibration": {"n": 3}}, "the value of calibration is not a calibration (binding: "),
        ({"calibration": {"n": {3}}}, "the value of calibration is not a calibration ("),
        ({"agreement": 1.0}, "--agreement 1.0 must be less than 1"),
        ({"agreement": 0.3}, "--agreement 0.3 must be greater than or equal to 0.5"),
        ({"agreement": math.nan}, "--agreement nan must be less than 1"),
        ({"pairing": "some"}, "--pairing 'some' must be 'all', 'best-worst' or 'final'"),
        ({"pairing": "final"}, "--pairing final is for labels of a generate run"),
        ({"agreement": 0.8, "min_confidence": 0.8}, "give one of them"),
        ({"best": True, "target": 3, "min_confidence": 0.8}, "--min-confidence, --target: only for pairs"),
        ({"confidence": 0.8}, "unknown setting 'confidence'; did you mean 'min_confidence'"),
    ],
)
def test_an_option_that_cannot_be_is_refused(run: Path, options: dict[str, Any], problem: str) -> None:
    with pytest.raises(UsageError, match=re.escape(problem)):
        export_run(run, **options)
    assert not list(run.glob("*.part"))


def test_prompts_listed_as_benign_must_not_be_refused(tmp_path: Path) -> None:
    make_run(tmp_path / "run", [pair(0, 3.0, a=REFUSED), pair(1, 3.0, a=REFUSED)])
    benign = tmp_path / "benign.jsonl"
    benign.write_text('{"prompt": "Question 1?"}\n')
    summary = export_run(tmp_path / "run", benign=benign)
    assert [row["id"] for row in rows(tmp_path / "run" / "dpo.jsonl")] == ["q0:0-1"]
    assert summary.left_out["pairs"] == {"refused_benign": 1}
    assert not any("--benign" in note for note in summary.notes)
    benign.write_text('{"prompt": "Another question?"}\n')
    [note] = (note for note in export_run(tmp_path / "run", benign=benign).notes if "--benign" in note)
    assert note.startswith(f"no prompt of the run is one of --benign {benign}, so it has left nothing out")
    benign.write_text("7\n")
    with pytest.raises(UsageError, match=r"--benign .*benign.jsonl: record 1 is not a prompt"):
        export_run(tmp_path / "run", benign=benign)


# Notes, the card, and what else a reader should know


def test_an_empty_file_is_explained_by_how_sure_the_judge_is(tmp_path: Path) -> None:
    make_run(tmp_path, [pair(0, 0.1), pair(1, -0.2), pair(2, 0.4), pair(3, None)])
    summary = export_run(tmp_path)
    assert summary.files == {"dpo.jsonl": 0, "kto.jsonl": 0}
    assert summary.notes[0].startswith("not calibrated: how often confidence-0.7 labels agree with people is unknown")
    assert summary.notes[1] == (
        "no pair is kept at confidence 0.7, so dpo.jsonl is empty: the median confidence is 0.550, the highest 0.599; "
        "set --min-confidence between 0.5 and 0.599, or use a stronger judge"
    )
    assert "0 of 4 pairs kept" in summary.lines()
    assert export_run(tmp_path, min_confidence=0.58).pairs == 1


def test_what_files_say_is_part_of_one_note(run: Path) -> None:
    made = calibration().model_copy(update={"notes": (f"few{HOSTILE}",), "promise": HOSTILE})
    make_run(run, [pair(0, 3.0)], stopped=HOSTILE)
    summary = export_run(run, calibration=made, agreement=0.8)
    owned = '--- license: mit --- # "Owned" `` | <b>[x](y) ```'
    stopped, certified, few = summary.notes
    assert stopped == f"the run is unfinished ({owned}): rerun its command to resume; these are the rows so far"
    assert certified.endswith(f"gold pairs; {owned}") and few == f"of the gold pairs: few{owned}"
    assert summary.lines()[-3:] == [f"note: {note}" for note in summary.notes]
    card = (run / "README.md").read_text()
    assert owned not in card and card.count(owned.replace("|", "\\|")) == 2


@pytest.mark.parametrize("least", [0.5, 0.7])
def test_a_judge_that_decides_nothing_is_told_so(tmp_path: Path, least: float) -> None:
    make_run(tmp_path, [pair(0, 0.0), pair(1, 0.0)])
    assert "this judge decides nothing" in export_run(tmp_path, min_confidence=least).notes[1]


def test_a_run_without_labels_is_cut_to_empty_files(tmp_path: Path) -> None:
    summary = export_run(make_run(tmp_path, []))
    assert summary.pairs == 0 and "no finished row" in summary.notes[0]
    assert (tmp_path / "kto.jsonl").read_bytes() == b""


def test_a_calibration_without_an_agreement_promises_nothing(run: Path) -> None:
    summary = export_run(run, calibration=calibration())
    assert summary.notes == (
        "--min-confidence 0.7 guarantees no agreement with people; --agreement chooses one that does",
    )


def test_beliefs_after_reasoning_need_a_threshold_that_they_can_reach(tmp_path: Path) -> None:
    make_run(tmp_path, [pair(0, 3.0, protocol="reason")])
    with pytest.raises(UsageError, match=r"--min-confidence 0\.7 keeps no label of --protocol reason"):
        export_run(tmp_path)
    assert export_run(tmp_path, min_confidence=0.6).pairs == 1


def test_the_card_says_who_judged_how_and_how_far_it_can_be_trusted(run: Path) -> None:
    export_run(run, split=0.5, min_confidence=0.6)
    card = (run / "README.md").read_text(encoding="utf-8")
    front = yaml.safe_load(card.split("---\n")[1])
    assert front["license"] == "unknown"
    assert [config["config_name"] for config in front["configs"]] == ["dpo", "kto"]
    for words in (
        "| judge | `openai:judge` | `judge-1` |",
        "| protocol | `logprob`, both orders, principles per pair: 1 |",
        "not calibrated: these labels have not been compared with human labels",
        "confidence 0.6 or more; no agreement with people is guaranteed",
        "| position | mean bias +0.00 nats towards the first reply |",
        "| order | 0.0% of 3 votes flip with reply order |",
        "| length | the chosen reply is the longer one in 50.0% of 2 pairs |",
        "4 pairs were processed: 4 rows, 0 dropped.",
        "| `pairs` | `invalid_vote` | 1 |",
        "| `kind` | 3 |",
        'dpo = load_dataset(".", "dpo")',
        "\ncai export RUN --min-confidence 0.6 --split 0.5\n",
    ):
        assert words in card


HOSTILE = '---\nlicense: mit\n---\n# "Owned" `` | <b>[x](y)\n```\n'


def test_hostile_text_cannot_leave_its_place_in_the_card(tmp_path: Path) -> None:
    law = {"name": HOSTILE, "version": HOSTILE, "hash": HOSTILE}
    binding = BINDING | {"judge": HOSTILE, "templates": HOSTILE, "constitution": law}
    row = pair(0, 3.0, models={"judge": HOSTILE})
    row["votes"][0]["principle"] = HOSTILE
    make_run(tmp_path, [row], identity=IDENTITY | {"binding": binding, "source": {"what": HOSTILE}})
    export_run(tmp_path)
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert yaml.safe_load(card.split("\n---\n")[0])["license"] == "unknown"
    body = card.split("\n---\n", 1)[1]
    prose = re.sub(r"^(`{3,})\w+\n.*?\n\1$", "", body, flags=re.DOTALL | re.MULTILINE)
    outside_code = re.sub(r"(?<!`)(`+)(?!`)(.+?)(?<!`)\1(?!`)", "", prose)
    assert "Owned" in prose and "Owned" not in outside_code


def test_parquet_holds_the_same_rows_with_the_same_types_whatever_the_values(run: Path, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    export_run(run, parquet=True)
    for name in ("dpo", "kto"):
        assert parquet.read_table(run / f"{name}.parquet").to_pylist() == rows(run / f"{name}.jsonl") != []
        assert parquet.read_schema(run / f"{name}.parquet").names == list(rows(run / f"{name}.jsonl")[0])
    empty = make_run(tmp_path / "empty", [])
    export_run(empty, parquet=True)
    for name in ("dpo", "kto"):
        assert parquet.read_schema(empty / f"{name}.parquet") == parquet.read_schema(run / f"{name}.parquet")


def test_every_config_of_the_card_loads_with_datasets(run: Path, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    export_run(run)
    for kind in ("dpo", "kto"):
        loaded = datasets.load_dataset(str(run), kind, cache_dir=str(tmp_path / "cache"))
        assert loaded["train"].to_list() == rows(run / f"{kind}.jsonl")


def test_a_damaged_label_is_named_and_no_file_is_replaced(run: Path) -> None:
    export_run(run)
    before = contents(run)
    lines = (run / "labels.jsonl").read_bytes().splitlines(keepends=True)
    lines[1] = b'{"position": 1, "z": 2.0, "prompt": []}'.ljust(len(lines[1]) - 1) + b"\n"
    (run / "labels.jsonl").write_bytes(b"".join(lines))
    with pytest.raises(RunError, match=r"labels.jsonl: line 2 is damaged"):
        export_run(run)
    assert contents(run) == before
    assert not list(run.glob("*.part"))


@pytest.mark.parametrize("damage", [{"votes": [{}]}, {"z": "sure"}, {"a": None}, {"models": None}, {"prompt": []}])
@pytest.mark.parametrize("target", [None, 1])
def test_whatever_a_label_lacks_is_told_of_its_line(run: Path, damage: Row, target: int | None) -> None:
    lines = [json.loads(line) for line in (run / "labels.jsonl").read_text().splitlines()]
    lines[1] |= damage
    make_run(run, lines)
    (run / "calls.sqlite").unlink(missing_ok=True)
    with pytest.raises(RunError, match=r"labels.jsonl.*(line 2 is damaged|cannot be read)"):
        export_run(run, target=target)


def test_a_fault_of_the_code_is_not_blamed_on_the_labels(run: Path) -> None:
    opened = RunFolder(run, read_info(run, "")["identity"])
    cut = PreferenceCut(opened, ExportOptions())
    cut.filters = Filters(max_length_ratio="2")  # type: ignore[arg-type]
    try:
        with pytest.raises(TypeError):
            cut.write()
    finally:
        opened.close()


def test_a_run_started_anew_keeps_no_training_file(run: Path) -> None:
    export_run(run, split=0.5, parquet=True)
    RunFolder(run, IDENTITY | {"seed": 1}, force=True).close()
    assert contents(run) == {"dropped.jsonl": b""}


# What was found in the texts


def test_texts_are_read_once_and_again_where_they_or_their_reading_changed(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []

    def reading(chosen: str, rejected: str, prompt: Sequence[Any], asked: frozenset[Ngram]) -> str:
        read.append(prompt[-1]["content"])
        return fault_of_texts(chosen, rejected, prompt, asked)

    monkeypatch.setattr(cuts, "fault_of_texts", reading)
    export_run(run)
    first = contents(run)
    assert sorted(read) == ["Question 0?", "Question 1?"]
    export_run(run)
    assert contents(run) == first and len(read) == 2
    export_run(run, min_confidence=0.5)
    assert read[2:] == ["Question 3?"]
    lines = (run / "labels.jsonl").read_text().replace("Question 1?", "Question 7?")
    (run / "labels.jsonl").write_text(lines)
    export_run(run)
    assert read[3:] == ["Question 7?"]
    monkeypatch.setattr(hygiene, "READING", hygiene.READING + 1)
    export_run(run)
    assert sorted(read[4:]) == ["Question 0?", "Question 7?"]


def test_a_damaged_memory_of_faults_says_what_to_do(run: Path) -> None:
    export_run(run)
    (run / "faults.sqlite").write_bytes(b"no database" * 99)
    with pytest.raises(RunError, match=r"faults.sqlite cannot be used: .*; delete it, and run the same command again"):
        export_run(run)
    (run / "faults.sqlite").unlink()
    with closing(sqlite3.connect(run / "faults.sqlite", isolation_level=None)) as other:
        other.executescript(f"CREATE TABLE pairs(ours); PRAGMA user_version = {hygiene.READING}")
        with pytest.raises(RunError, match="cannot be used: no such column: fault; delete it, and run"):
            export_run(run)
    (run / "faults.sqlite").unlink()
    export_run(run)


def test_a_memory_of_faults_that_is_whole_need_not_be_deleted(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    advice = "see to the folder and its disk, and run the same command again$"

    def full(text: str, other: str, last_turn: str, asked: frozenset[Ngram]) -> str:
        texts: Any = inspect.stack()[1].frame.f_locals["self"]
        texts._db.execute("PRAGMA max_page_count = 1")
        return "near_duplicate" * 9999

    with monkeypatch.context() as patch:
        patch.setattr(cuts, "fault_of_texts", full)
        with pytest.raises(RunError, match=f"faults.sqlite cannot be used: database or disk is full; {advice}"):
            export_run(run)
    export_run(run)
    (run / "faults.sqlite").unlink()
    (run / "faults.sqlite").mkdir()
    with pytest.raises(RunError, match=f"faults.sqlite cannot be used: unable to open database file; {advice}"):
        export_run(run)


# Reading


@settings(max_examples=60)
@given(st.text(), st.integers(0, 2**40), st.booleans())
def test_a_place_is_found_in_a_line_whatever_the_texts_before_it(before: str, position: int, spaced: bool) -> None:
    row = {"id": before + '"position":7,', "position": position, "prompt": []}
    separators = (", ", ": ") if spaced else (",", ":")
    with tempfile.TemporaryDirectory() as name:
        file = Path(name) / "labels.jsonl"
        lines = [row, {"position": position + 1}, {"prompt": [], "position": position + 2}]
        file.write_text("".join(json.dumps(line, separators=separators) + "\n" for line in lines) + '{"position": 1')
        places = list(lines_in_order(file))
    assert [place for place, _ in places] == [json.loads(line)["position"] for _, line in places]
    assert [place for place, _ in places] == [position, position + 1, position + 2]
