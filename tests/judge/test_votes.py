"""Votes of people as every reader of human labels reads them: what was voted, whatever side was shown first."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import label_runs
import pytest
from players import Player, digits
from terminal import cai as terminal
from terminal import failed
from trial_judges import Judge, fair

import cai
from cai.engine.letters import probability
from cai.errors import InputError, SourceError, UsageError
from cai.evaluation.ablation import ablate
from cai.evaluation.arena.gold import read_gold
from cai.evaluation.bench import judge_bench
from cai.judge.calibration import CalibrationReport, calibrate_judge
from cai.judge.certify import certify, certify_all
from cai.judge.people import TRUTHS
from cai.runs.kinds.calibration import check_human_labels
from cai.runs.kinds.label import LabelRun
from cai.training.data.rowfile import read_rows
from cai.viewer.labelling import Labelling

Row = dict[str, Any]
OTHER = {"a": "b", "b": "a", "tie": "tie", None: None}


def pair(n: int) -> Row:
    return {"id": f"p{n}", "prompt": f"Question {n}?", "a": f"reply {n} one", "b": f"reply {n} two"}


def wanted(texts: tuple[str, str]) -> str:
    """What a person says of two replies: mostly what the judge of these tests does; a tenth are ties."""
    if digits(sorted(texts)) % 10 == 0:
        return "tie"
    worth = [digits(text) % 2001 for text in texts]
    better = worth[0] > worth[1]
    return "a" if better == (digits(sorted(texts), "right") % 8 > 0) else "b"


def swapped(row: Row) -> Row:
    return row | {"a": row["b"], "b": row["a"], "human": OTHER[row.get("human")]}


PAIRS = [pair(n) for n in range(160)]
LABELLED = [row | {"human": wanted((row["a"], row["b"]))} for row in PAIRS]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Label runs of the same pairs: `votes`, of which people say nothing; `plain`, of which the source says it."""
    folder = tmp_path_factory.mktemp("runs")
    label_runs.run(PAIRS, folder / "votes", label_runs.scorer())
    label_runs.run(LABELLED, folder / "plain", label_runs.scorer())
    return folder


def cast(labelling: Labelling, queue: str = "random", count: int = 1_000, *, skip: int = 0, **more: Any) -> None:
    """Vote on the next pairs as `wanted` says, and skip every so many."""
    for number in range(1, count + 1):
        asked = labelling.ask(queue)
        if asked is None:
            return
        word = wanted((asked["first"], asked["second"]))
        choice = {"a": "first", "b": "second", "tie": "tie"}[word]
        labelling.vote(asked["key"], queue, "skip" if skip and number % skip == 0 else choice, 1.0, **more)


def same(report: CalibrationReport, other: CalibrationReport) -> bool:
    """Whether two calibrations are of the same rows, in whichever order."""
    names = ("temperature", "thresholds", "n", "before")
    return all(getattr(report.calibration, name) == getattr(other.calibration, name) for name in names) and (
        sorted((row.z, row.truth) for row in report.rows) == sorted((row.z, row.truth) for row in other.rows)
    )


@pytest.mark.parametrize("who", ["ann", "bob"])
def test_votes_beside_a_run_calibrate_as_labels_in_its_rows_do(runs: Path, tmp_path: Path, who: str) -> None:
    cast(Labelling(runs / "votes", tmp_path / "gold.jsonl", who))
    votes = calibrate_judge(runs / "votes", gold=tmp_path / "gold.jsonl")
    plain = calibrate_judge(runs / "plain")
    assert same(votes, plain) and plain.calibration.n == 160
    assert votes.calibration.binding == plain.calibration.binding


def test_votes_are_bound_by_key_to_a_run_of_the_pairs_in_the_other_order(runs: Path, tmp_path: Path) -> None:
    label_runs.run(list(map(swapped, PAIRS[:80])), tmp_path / "turned", label_runs.scorer())
    cast(Labelling(runs / "votes", tmp_path / "gold.jsonl", "ann"))
    turned = calibrate_judge(tmp_path / "turned", gold=tmp_path / "gold.jsonl")
    label_runs.run(list(map(swapped, LABELLED[:80])), tmp_path / "plain", label_runs.scorer())
    assert same(turned, calibrate_judge(tmp_path / "plain"))
    assert any(note.startswith("80 pairs of people not among the judge's") for note in turned.notes)


def test_labels_of_others_are_bound_by_key_too(runs: Path, tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(swapped(row)) + "\n" for row in LABELLED))
    assert same(calibrate_judge(runs / "votes", gold=path), calibrate_judge(runs / "plain"))


def test_a_run_is_calibrated_by_its_own_votes_or_by_their_file(runs: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    label_runs.run(PAIRS[:60], folder, label_runs.scorer())
    with_votes = failed("judge", "calibrate", str(folder))
    assert "no row can be compared" in with_votes and "cai view" in with_votes
    cast(Labelling(folder, annotator="ann"), count=55)
    reports = [calibrate_judge(path) for path in (folder, folder / "labels.jsonl", folder / "gold.jsonl")]
    assert {report.metrics.n for report in reports} == {55}
    assert all(same(report, reports[0]) for report in reports)


def test_people_who_disagree_are_compared_and_have_the_majority_between_them(runs: Path, tmp_path: Path) -> None:
    gold = tmp_path / "gold.jsonl"
    for who in ("ann", "bob"):
        cast(Labelling(runs / "votes", gold, who), count=60)
    alone = calibrate_judge(runs / "votes", gold=gold)
    contrary = Labelling(runs / "votes", gold, "cem")
    for number in range(30):
        asked = contrary.ask("random")
        assert asked is not None
        contrary.vote(asked["key"], "random", ["first", "second", "tie"][number % 3])
    report = calibrate_judge(runs / "votes", gold=gold)
    assert same(report, alone)  # two against one
    shown = terminal("judge", "calibrate", str(runs / "votes"), "--gold", str(gold)).stdout
    assert "ann and bob agree on 100.0% of 60 pairs, Cohen's kappa 1.00 (95 % interval 0.89 to 1.00)" in shown
    assert shown.count("of 30 pairs, Cohen's kappa ") == 2


@pytest.mark.parametrize("more", [{"queue": "uncertain"}, {"queue": "random", "blind": False}])
def test_votes_that_may_not_certify_change_no_calibration_and_alone_are_refused(
    runs: Path, tmp_path: Path, more: Row
) -> None:
    gold = tmp_path / "gold.jsonl"
    cast(Labelling(runs / "votes", gold, "bob"), count=40, **more)
    refusal = failed("judge", "calibrate", str(runs / "votes"), "--gold", str(gold))
    assert "no row can be compared" in refusal and "left out: 40 votes" in refusal
    refusal = failed("label", str(runs / "none"), "--gold", str(gold), "--judge", "fake:x")
    before = tmp_path / "before.jsonl"
    for path in (gold, before):
        cast(Labelling(runs / "votes", path, "ann"), count=100)
    with_others = calibrate_judge(runs / "votes", gold=gold)
    assert same(with_others, calibrate_judge(runs / "votes", gold=before))
    assert any(note.startswith("left out: 40 votes") for note in with_others.notes)


def test_a_skipped_pair_is_an_error_for_thresholds_and_nothing_for_the_agreement(runs: Path, tmp_path: Path) -> None:
    cast(Labelling(runs / "votes", tmp_path / "gold.jsonl", "ann"), skip=8)
    report = calibrate_judge(runs / "votes", gold=tmp_path / "gold.jsonl")
    assert (report.metrics.n, report.calibration.n) == (140, 160)
    plain = calibrate_judge(runs / "plain")
    kept = {row.key: row for row in report.rows}
    lost = [row for row in plain.rows if row.key not in kept]
    ps = [*report.ps, *(probability(row.z) for row in lost)]
    truths = [*report.truths, *(0.5 for _ in lost)]
    assert report.calibration.thresholds == certify_all(ps, truths, report.calibration.temperature)
    assert any(note.startswith("20 of 160 pairs drawn (12.5%) were skipped") for note in report.notes)


def test_people_who_skip_what_is_hard_break_the_promise_unless_it_counts_as_errors() -> None:
    draw = random.Random(1)
    world = []
    for _ in range(20_000):
        p = probability(draw.gauss(0, 2))
        is_hard = draw.random() < 0.25  # where the judge is right in 55 % of the pairs, however sure it is
        is_right = draw.random() < (0.55 if is_hard else max(p, 1 - p) * 0.97 + 0.02)
        world.append((p, float((p > 0.5) == is_right), is_hard))
    broken = {"left out": 0, "errors": 0}
    for _ in range(400):
        pairs = [(p, truth, is_hard and draw.random() < 0.6) for p, truth, is_hard in draw.sample(world, 250)]
        labels = [(p, truth) for p, truth, is_skipped in pairs if not is_skipped]
        all_drawn = [(p, 0.5 if is_skipped else truth) for p, truth, is_skipped in pairs]
        for how, rows in {"left out": labels, "errors": all_drawn}.items():
            at = certify(*zip(*rows, strict=True), target=0.8, delta=0.1)
            if at is not None:
                kept = [(p > 0.5) == (truth == 1) for p, truth, _ in world if max(p, 1 - p) >= at.confidence]
                broken[how] += sum(kept) / len(kept) < 0.8
    assert broken["left out"] > 1.5 * 40 and broken["errors"] <= 40  # of 400, at delta 0.1


def test_a_label_that_is_taken_back_counts_as_skipped(runs: Path, tmp_path: Path) -> None:
    labelling = Labelling(runs / "votes", tmp_path / "gold.jsonl", "ann")
    cast(labelling, count=60)
    labelling.undo()
    report = calibrate_judge(runs / "votes", gold=tmp_path / "gold.jsonl")
    assert (report.metrics.n, report.calibration.n) == (59, 60)


def test_votes_from_the_beginning_of_a_run_are_not_taken_for_a_draw_of_all(runs: Path, tmp_path: Path) -> None:
    gold = tmp_path / "gold.jsonl"
    label_runs.run(PAIRS[:60], tmp_path / "early", label_runs.scorer())
    cast(Labelling(tmp_path / "early", gold, "ann"), count=50)
    notes = calibrate_judge(runs / "votes", gold=gold).notes
    assert any("the run has grown since" in note for note in notes)
    cast(Labelling(runs / "votes", tmp_path / "whole.jsonl", "ann", seed=5), count=50)
    cast(Labelling(runs / "votes", tmp_path / "whole.jsonl", "bob", seed=6), count=40)
    for run in (runs / "votes", tmp_path / "early"):  # part of a draw of all is a draw of the part
        notes = calibrate_judge(run, gold=tmp_path / "whole.jsonl").notes
        assert not any("the run has grown since" in note for note in notes)


def finished(run: LabelRun) -> list[LabelRun]:
    parts = []
    for part in run.sessions():
        part.finish()
        parts.append(part)
    return parts


@pytest.mark.slow
def test_gold_of_a_label_run_may_be_votes(runs: Path, tmp_path: Path) -> None:
    votes, plain = tmp_path / "gold.jsonl", tmp_path / "plain.jsonl"
    cast(Labelling(runs / "votes", votes, "ann"))
    plain.write_text("".join(json.dumps(row) + "\n" for row in LABELLED))
    thresholds = []
    for gold in (votes, plain):
        given = {"gold": gold, "min_confidence": None}
        judged, _ = finished(label_runs.setup(PAIRS[:5], tmp_path / gold.stem / "out", label_runs.scorer(), **given))
        assert judged.info["rows"] == 160
        content = json.loads((tmp_path / gold.stem / "out" / "calibration.json").read_text())
        thresholds.append((content["thresholds"], content["temperature"], content["before"]))
    assert thresholds[0] == thresholds[1]


def test_gold_that_has_grown_is_judged_where_it_is_new(runs: Path, tmp_path: Path) -> None:
    labelling = Labelling(runs / "votes", tmp_path / "gold.jsonl", "ann")
    given = {"gold": tmp_path / "gold.jsonl", "min_confidence": None}
    asked: list[Player] = []
    others = [pair(n) for n in range(900, 905)]
    for count in (60, 30):
        cast(labelling, count=count)
        cast(labelling, "uncertain", count=5)  # which are not judged
        asked.append(label_runs.scorer())
        finished(label_runs.setup(others, tmp_path / "out", asked[-1], **given))
    assert len(label_runs.rows_of(tmp_path / "out" / "gold")) == 90
    assert not asked[0].asked.keys() & asked[1].asked.keys()
    content = json.loads((tmp_path / "out" / "calibration.json").read_text())
    assert content["n"] == 90


def test_a_bench_measures_on_votes_as_on_labels(runs: Path, tmp_path: Path, judged: Callable[..., Judge]) -> None:
    judged(fair)
    votes, plain = tmp_path / "gold.jsonl", tmp_path / "plain.jsonl"
    rows = [{"prompt": f"Question {n}?", "a": f"{n % 7} worth", "b": f"{n % 5} worth more"} for n in range(60)]
    label_runs.run(rows, tmp_path / "run", label_runs.scorer())
    cast(Labelling(tmp_path / "run", votes, "ann"))
    plain.write_text("".join(json.dumps(row | {"human": wanted((row["a"], row["b"]))}) + "\n" for row in rows))
    on_votes, on_labels = (judge_bench(path, "fake:x", "hhh")[0].summary() for path in (votes, plain))
    for name in ("pairs", "n", "accuracy", "interval", "thresholds", "consistent_accuracy", "flip_rate"):
        assert on_votes[name] == pytest.approx(on_labels[name]), name


def test_an_evaluation_reads_votes_as_labels(runs: Path, tmp_path: Path) -> None:
    cast(Labelling(runs / "votes", tmp_path / "gold.jsonl", "ann"), count=50)
    rows = label_runs.rows_of(runs / "votes")
    for side in ("a", "b"):
        truths = read_gold(tmp_path / "gold.jsonl", {row["key"]: row[side] for row in rows}, seed=0)
        both = {row["key"]: TRUTHS[wanted((row[side], row["ab".replace(side, "")]))] for row in rows}
        assert len(truths) == 50 and truths.items() <= both.items()


def test_an_evaluation_refuses_votes_of_which_people_skipped_more_than_a_tenth(runs: Path, tmp_path: Path) -> None:
    replies = {row["key"]: row["a"] for row in label_runs.rows_of(runs / "votes")}
    for skip, is_refused in ((11, False), (9, True)):
        gold = tmp_path / f"{skip}.jsonl"
        cast(Labelling(runs / "votes", gold, "ann"), skip=skip, count=99)
        if is_refused:
            with pytest.raises(UsageError, match="people skipped 11 of 99 pairs"):
                read_gold(gold, replies, seed=0)
        else:
            assert len(read_gold(gold, replies, seed=0)) == 90


def test_an_evaluation_says_which_votes_it_leaves_out(
    runs: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    replies = {row["key"]: row["a"] for row in label_runs.rows_of(runs / "votes")}
    gold = tmp_path / "gold.jsonl"
    cast(Labelling(runs / "votes", gold, "ann"), "uncertain", count=12)
    with pytest.raises(UsageError, match=r"labels no pair .*left out: 12 votes of the queue uncertain"):
        read_gold(gold, replies, seed=0)
    cast(Labelling(runs / "votes", gold, "ann"), count=20)
    assert len(read_gold(gold, replies, seed=0)) == 20
    check_human_labels(gold, "--gold")
    assert "left out: 12 votes of the queue uncertain" in caplog.text


def test_an_ablation_counts_votes_as_labels(tmp_path: Path) -> None:
    for name, rows in {"votes": PAIRS[:60], "plain": LABELLED[:60]}.items():
        label_runs.run(rows, tmp_path / name, label_runs.scorer())
    cast(Labelling(tmp_path / "votes", annotator="ann"))
    votes, plain = (ablate(tmp_path / name).summary() for name in ("votes", "plain"))
    assert votes["principles"] == plain["principles"]


def test_a_report_shows_votes_as_labels(tmp_path: Path) -> None:
    for name, rows in {"votes": PAIRS[:60], "plain": LABELLED[:60]}.items():
        label_runs.run(rows, tmp_path / name, label_runs.scorer())
    for who in ("ann", "bob"):
        cast(Labelling(tmp_path / "votes", annotator=who))
    sections = [
        *cai.make_report([tmp_path / "votes", tmp_path / "plain"], tmp_path / "runs.html").sections,
        *cai.make_report(tmp_path / "votes" / "gold.jsonl", tmp_path / "gold.html").sections,
    ]
    assert len({section.facts["agreement with people"] for section in sections}) == 1
    assert [section.facts.get("annotators agree", "").split()[:1] for section in sections] == [
        ["100.0%"],
        [],
        ["100.0%"],
    ]


def test_rows_that_say_what_people_prefer_are_not_overruled_by_a_file_beside_them(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "run"
    label_runs.run(LABELLED[:60], folder, label_runs.scorer())
    before = calibrate_judge(folder)
    labelling = Labelling(folder, annotator="ann")
    for _ in range(10):
        asked = labelling.ask("random")
        assert asked is not None
        labelling.vote(asked["key"], "random", "tie")
    assert same(calibrate_judge(folder), before)
    assert "gold.jsonl is not read, as the rows of labels.jsonl have human labels" in caplog.text
    assert calibrate_judge(folder, gold=folder / "gold.jsonl").truths == [0.5] * 10


def test_a_file_of_votes_that_is_empty_is_not_spoken_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    label_runs.run(PAIRS[:3], tmp_path, label_runs.scorer())
    (tmp_path / "gold.jsonl").touch()
    with pytest.raises(InputError, match="3 have no human label"):
        calibrate_judge(tmp_path)
    assert "gold.jsonl" not in caplog.text


def test_votes_beside_no_labels_of_a_judge_say_what_to_name(runs: Path, tmp_path: Path) -> None:
    gold = tmp_path / "gold.jsonl"
    cast(Labelling(runs / "votes", gold, "ann"), count=3)
    assert f"cai judge calibrate RUN --gold {gold}" in failed("judge", "calibrate", str(gold))


def test_pairs_and_votes_in_one_file_are_all_read(runs: Path, tmp_path: Path) -> None:
    gold = tmp_path / "gold.jsonl"
    gold.write_text("".join(json.dumps(row) + "\n" for row in LABELLED[:80]))
    others = tmp_path / "votes.jsonl"
    cast(Labelling(runs / "votes", others, "ann"))
    with gold.open("a") as file:
        file.writelines(line + "\n" for line in others.read_text().splitlines() if '"id":"p1' in line)
    count = 80 + sum(row["id"].startswith("p1") and int(row["id"][1:]) >= 80 for row in PAIRS)
    assert calibrate_judge(runs / "votes", gold=gold).metrics.n == count
    with gold.open("a") as file:
        file.write("{broken}\n")
    with pytest.raises(SourceError, match=rf"gold.jsonl:{len(gold.read_text().splitlines())}: "):
        calibrate_judge(runs / "votes", gold=gold)


def test_votes_outlive_the_run_that_they_were_made_in(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    label_runs.run(PAIRS[:60], folder, label_runs.scorer())
    cast(Labelling(folder, annotator="ann"))
    votes = (folder / "gold.jsonl").read_text()
    label_runs.run(PAIRS[:60], folder, label_runs.scorer(), principles=1, force=True)
    assert calibrate_judge(folder).metrics.n == 60
    for path in folder.iterdir():
        if path.name != "gold.jsonl":
            path.unlink()
    label_runs.run(PAIRS[:60], folder, label_runs.scorer())
    assert calibrate_judge(folder).metrics.n == 60 and (folder / "gold.jsonl").read_text() == votes


def test_people_who_train_on_their_votes_train_on_each_pair_once_as_most_say(runs: Path, tmp_path: Path) -> None:
    gold = tmp_path / "gold.jsonl"
    for who, queue in {"ann": "random", "bob": "random", "cem": "uncertain"}.items():
        cast(Labelling(runs / "votes", gold, who), queue, 40)
    lines = [json.loads(line) for line in gold.read_text().splitlines()]
    chosen = {(line[line["human"]], line[str(OTHER[line["human"]])]) for line in lines if line["human"] != "tie"}
    rows = read_rows(gold, "dpo").rows
    assert {(row.reply, row.rejected) for row in rows} == chosen and len(rows) == len(chosen)
    while (undone := Labelling(runs / "votes", gold, "cem").undo()) is not None:
        pass
    of_others = {line["key"] for line in lines if line["annotator"] != "cem" and line["human"] != "tie"}
    assert undone is None and len(read_rows(gold, "dpo").rows) == len(of_others)


# The way there


def test_a_label_run_ends_with_the_command_that_opens_its_pairs(tmp_path: Path) -> None:
    def last_words(rows: list[Row], name: str, **given: Any) -> Iterator[str]:
        run = label_runs.run(rows, tmp_path / name, label_runs.scorer(), **given)
        yield from run.next_steps(str(tmp_path / name))

    assert f"cai view '{tmp_path / 'a run'}' --annotate 100" in "".join(last_words(PAIRS[:3], "a run"))
    assert f"cai view {tmp_path / 'b'} --annotate 7" in "".join(last_words(PAIRS[:3], "b", annotate=7))
    assert "cai view" not in "".join(last_words(LABELLED[:3], "c"))
    assert "judge calibrate" not in "".join(last_words(PAIRS[:3], "b"))
    cast(Labelling(tmp_path / "b", annotator="ann"))
    assert f"cai judge calibrate {tmp_path / 'b'} --out" in "".join(last_words(PAIRS[:3], "b"))
    assert "--annotate 7" in "".join(last_words(LABELLED[:3], "d", annotate=7))


def test_an_agreement_without_gold_says_how_to_label_pairs_of_the_run(tmp_path: Path) -> None:
    import sample_runs

    model = Player(sample_runs.seeded, "m", seeds=True)
    sample_runs.run(sample_runs.PROMPTS[:3], tmp_path / "replies", model, n=2)
    with pytest.raises(UsageError, match="--agreement needs pairs that people have labelled") as refused:
        label_runs.setup(
            tmp_path / "replies", tmp_path / "out", label_runs.scorer(), agreement=0.8, min_confidence=None
        )
    assert f"cai view {tmp_path / 'replies'} --annotate 100" in str(refused.value)
    assert f"--gold {tmp_path / 'replies' / 'gold.jsonl'}" in str(refused.value)
