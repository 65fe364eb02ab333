"""One HTML file about runs: what it counts, which rows it shows, and what it says of a folder that is not whole."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import label_cuts
import pytest
from page_records import rows_of
from stored_runs import lost, make_run, revision
from terminal import cai, failed

import cai as package
from cai.disk.locks import LOCK, take_lock
from cai.errors import CaiError
from cai.report.report import MOST_BYTES, ReportSummary

OLD = Path(__file__).resolve().parents[1] / "folders-0.1.0"


def report(tmp_path: Path, *sources: Path, **options: Any) -> ReportSummary:
    return package.make_report(sources, tmp_path / "report.html", **options)


def page(tmp_path: Path) -> str:
    return (tmp_path / "report.html").read_text("utf-8")


def labels(folder: Path, number: int, **more: Any) -> Path:
    """A label run of as many pairs, the judge surer from pair to pair; people prefer a in all but each fourth."""
    rows = [label_cuts.pair(at, z=0.1 + at / 10, human="b" if at % 4 == 0 else "a", **more) for at in range(number)]
    return label_cuts.make_run(folder, rows)


# What it counts


def test_a_generate_run_is_counted_from_its_rows_and_drops(tmp_path: Path) -> None:
    items = [revision(0, "second"), revision(1, None), revision(2, "second"), lost(3), lost(4, "empty")]
    run = make_run(tmp_path / "run", items)
    (section,) = report(tmp_path, run).sections
    assert section.facts["rows"] == "3 of 5 inputs"
    assert section.facts["changed by a revision"].startswith("66.7%")
    assert section.groups == {"kept": (3, 3), "dropped: truncated": (1, 1), "dropped: empty": (1, 1)}
    assert section.warnings == ()


def test_labels_are_compared_with_people(tmp_path: Path) -> None:
    (section,) = report(tmp_path, labels(tmp_path / "run", 40)).sections
    assert section.facts["agreement with people"] == "75.0% 59.8 to 85.8% 40 pairs"
    assert section.groups["the judge disagrees with people"] == (10, 10)
    html = page(tmp_path)
    for title in ("Agreement with people", "Calibration", "Risk and coverage", "Thresholds certified on 40 pairs"):
        assert f"<h3>{title}</h3>" in html


def test_labels_that_people_did_not_judge_are_compared_with_nobody(tmp_path: Path) -> None:
    run = label_cuts.make_run(tmp_path / "run", [label_cuts.pair(at, z=1.0) for at in range(3)])
    (section,) = report(tmp_path, run).sections
    assert "agreement with people" not in section.facts
    assert "<h3>Risk and coverage</h3>" not in page(tmp_path)


@pytest.mark.parametrize("name", sorted(path.name for path in OLD.glob("*-*") if not path.name.startswith("train")))
def test_runs_of_version_0_1_0_can_be_reported(tmp_path: Path, name: str) -> None:
    summary = report(tmp_path, OLD / name)
    assert summary.sections and all(section.rows for section in summary.sections)


def test_the_runs_inside_a_bench_have_sections_of_their_own(tmp_path: Path) -> None:
    labels(tmp_path / "bench/judge-a", 3)
    labels(tmp_path / "bench/judge-b", 4)
    together, *sections = report(tmp_path, tmp_path / "bench").sections
    assert [section.facts["pairs judged"] for section in sections] == ["3", "4"]
    assert together.kind == "judges side by side"
    assert 'href="#s3"' in page(tmp_path)


def test_people_who_labelled_the_pairs_of_a_run_are_compared(tmp_path: Path) -> None:
    pairs = [label_cuts.pair(at, z=1.0) for at in range(20)]
    rows = [pair | {"annotator": who, "human": "ab"[at % every == 0]}
            for who, every in (("ann", 4), ("bob", 2)) for at, pair in enumerate(pairs)]  # fmt: skip
    (section,) = report(tmp_path, label_cuts.make_run(tmp_path / "run", rows)).sections
    assert section.facts["annotators agree"].startswith("75.0%")
    assert section.facts["agreement with people"].startswith("62.5%")
    assert section.rows == 20


def test_win_rates_are_of_prompts(tmp_path: Path) -> None:
    rows = [label_cuts.pair(at, z=1.0 if at < 3 else -1.0, a_from="initial", b_from="final") for at in range(12)]
    report(tmp_path, label_cuts.make_run(tmp_path / "run", rows))
    html = page(tmp_path)
    assert "final over initial" in html
    assert "75.0%" in html


@pytest.mark.parametrize("name", ["run.json", "revisions.jsonl"])
def test_a_file_of_a_run_means_its_folder(tmp_path: Path, name: str) -> None:
    (section,) = report(tmp_path, make_run(tmp_path / "run", [revision(0)]) / name).sections
    assert section.kind == "generate run"


def test_a_run_that_is_named_in_several_ways_has_one_section(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", [revision(0)])
    assert len(report(tmp_path, run, run / "run.json", run / ".." / "run").sections) == 1


def test_the_folder_of_the_page_is_made(tmp_path: Path) -> None:
    summary = package.make_report(make_run(tmp_path / "run", []), tmp_path / "new/folder/a.html")
    assert summary.out.exists()


def test_more_figures_than_can_be_mailed_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cai.report.report.MOST_BYTES", 1_000)
    with pytest.raises(CaiError, match="name fewer sources"):
        report(tmp_path, make_run(tmp_path / "run", []))


# Which rows it shows


def test_every_group_has_rows_in_a_small_sample(tmp_path: Path) -> None:
    items = [*(revision(at, "second") for at in range(300)), *(lost(at) for at in range(300, 310)), lost(310, "empty")]
    (section,) = report(tmp_path, make_run(tmp_path / "run", items), rows=30).sections
    assert {name: shown for name, (_, shown) in section.groups.items()} == {
        "kept": 19, "dropped: truncated": 10, "dropped: empty": 1,
    }  # fmt: skip
    assert len(rows_of(page(tmp_path))[0]) == section.shown == 30


def test_the_surest_of_those_that_people_contradict_are_shown_first(tmp_path: Path) -> None:
    run = labels(tmp_path / "run", 200)
    report(tmp_path, run, rows=4)
    shown = [row["id"] for row in rows_of(page(tmp_path))[0] if row["human"] == "b"]
    assert shown == ["q192:0-1", "q196:0-1"]


def test_the_page_of_the_same_run_and_seed_is_the_same(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", [revision(at, "second") for at in range(50)])
    pages = []
    for seed in (1, 1, 2):
        report(tmp_path, run, rows=10, seed=seed)
        pages.append(page(tmp_path))
    assert pages[0] == pages[1] != pages[2]


def test_runs_share_the_rows_of_a_page(tmp_path: Path) -> None:
    small = make_run(tmp_path / "small", [revision(at) for at in range(5)])
    large = make_run(tmp_path / "large", [revision(at) for at in range(100)])
    sections = report(tmp_path, large, small, rows=50).sections
    assert [section.shown for section in sections] == [45, 5]


def test_long_texts_are_cut_and_the_page_stays_small_enough_to_mail(tmp_path: Path) -> None:
    long = "é&" * 10_000
    run = make_run(tmp_path / "run", [revision(at, f"{at}{long}", f"{long}{at}", initial=long) for at in range(150)])
    summary = report(tmp_path, run)
    (section,) = summary.sections
    assert summary.bytes == (tmp_path / "report.html").stat().st_size <= MOST_BYTES
    assert 0 < section.shown < section.rows == 150
    assert rows_of(page(tmp_path))[0][0]["initial"][1] == len(long)


def test_no_rows_can_be_asked_for(tmp_path: Path) -> None:
    (section,) = report(tmp_path, make_run(tmp_path / "run", [revision(0)]), rows=0).sections
    assert (section.rows, section.shown) == (1, 0)


# Folders that are not whole


def test_a_run_that_is_being_written_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", [revision(at) for at in range(3)])
    with open(run / "revisions.jsonl", "ab") as file:
        file.write(b'{"schema":1,"id":"r3","posi')
    with take_lock(run / LOCK):
        (section,) = report(tmp_path, run).sections
    assert section.facts["rows"] == "3"
    assert any("still being written" in warning for warning in section.warnings)
    assert any("revisions.jsonl is not whole" in warning for warning in section.warnings)


def test_a_run_that_stopped_says_why(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", [revision(0)], stopped="the server is gone")
    (section,) = report(tmp_path, run).sections
    assert section.warnings == ("this run stopped early: the server is gone",)


def test_a_prompt_that_was_dropped_and_then_done_is_a_row(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", [lost(0, "model_error"), revision(1)])
    line = revision(0).model_dump_json().encode() + b"\n"
    with open(run / "revisions.jsonl", "ab") as file:
        file.write(line)
    (section,) = report(tmp_path, run).sections
    assert section.groups == {"kept": (2, 2)}


def test_an_empty_run_is_a_page_without_figures(tmp_path: Path) -> None:
    (section,) = report(tmp_path, make_run(tmp_path / "run", [])).sections
    assert (section.facts, section.rows) == ({"rows": "0"}, 0)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("[1]\n", "line 1 is damaged"),
        ('{"schema":1,"id":"a","position":0,"final":7}\n', "line 1 is damaged"),
        ("not json\n", "line 1 is damaged"),
        ('{"position":-1}\n', "line 1 is damaged"),
        ("\x00" * 50 + "\n", "line 1 is damaged"),
    ],
)
def test_a_damaged_row_is_named(tmp_path: Path, content: str, problem: str) -> None:
    run = make_run(tmp_path / "run", [])
    (run / "revisions.jsonl").write_text(content)
    with pytest.raises(CaiError, match=problem) as error:
        report(tmp_path, run)
    assert "\n" not in str(error.value)


def test_what_cannot_be_reported_says_what_can(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken/run.json").write_text("{")
    (tmp_path / "other").mkdir()
    (tmp_path / "other/run.json").write_text('{"identity": {"command": "dance"}}')
    assert "cai dance" in failed("report", str(tmp_path / "other"))
    for name in ("missing", "empty", "broken"):
        assert name in failed("report", str(tmp_path / name), "--out", str(tmp_path / "a.html"))
    assert "evaluation.json" in failed("report", str(tmp_path / "empty"))
    assert not (tmp_path / "a.html").exists()


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["--rows", "2001"], "0 to 2,000 rows"),
        (["--rows", "-1"], "0 to 2,000 rows"),
        (["--out", "data.jsonl"], "ends in .html"),
    ],
)
def test_options_that_cannot_be_are_refused(tmp_path: Path, words: list[str], problem: str) -> None:
    run = make_run(tmp_path / "run", [])
    assert problem in failed("report", str(run), *words)


def test_the_command_says_what_it_put_into_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_run(tmp_path / "run", [revision(0, "second")])
    monkeypatch.chdir(tmp_path)  # a long path would be cut
    words = ("report", "run", "--out", "a.html")
    summary = json.loads(cai(*words, "--json").stdout)
    assert summary["bytes"] == (tmp_path / "a.html").stat().st_size
    assert summary["sections"][0]["groups"] == {"kept": [1, 1]}
    assert cai(*words).stdout.startswith("run: generate run, 1 of 1 row shown\n")
