"""What there is to look at in the folders that are named: every kind of run, trainings, and what lies inside others."""

from __future__ import annotations

from contextlib import closing
from functools import partial
from pathlib import Path

import label_cuts
import pytest
from stored_runs import IDENTITY, make_run, revision
from viewed_runs import add, facets, make_folder, opened, read, rows

from cai.errors import CaiError
from cai.records import KINDS
from cai.training.report.samples import Sample
from cai.viewer.index import Index
from cai.viewer.sources import find_sources

TEXT = "Something else, and longer: " + "la " * 50


def training(folder: Path, *samples: Sample) -> Path:
    folder.mkdir(parents=True)
    (folder / "training.json").write_text("{}")
    add(folder / "samples.jsonl", *samples)
    return folder


def sample(number: int, after: str | None) -> Sample:
    prompt = ({"role": "user", "content": f"Question {number}?"},)
    return Sample(id=f"q{number}", prompt=prompt, before="Before", after=after, most_tokens=9)  # type: ignore[arg-type]


@pytest.mark.parametrize("command", KINDS)
def test_a_run_of_every_kind_is_a_source(tmp_path: Path, command: str) -> None:
    (source,) = find_sources([make_folder(tmp_path / "run", IDENTITY | {"command": command})])
    assert (source.kind, source.rows.name) == (f"{command} run", KINDS[command].rows_file)
    with opened(tmp_path / "run") as index:  # nothing is written yet
        assert rows(read(index)) == []
        assert index.state()[0]["entries"] == 0


def test_a_training_is_shown_with_what_the_model_said_before_and_after(tmp_path: Path) -> None:
    with opened(training(tmp_path / "model", sample(0, None), sample(1, TEXT))) as index:
        first, second = rows(read(index))
        assert (first["before"], first["after"], second["after"]) == ("Before", None, TEXT)
        assert facets(index)["length"] == {"under 100": 1, "100 to 299": 1}
        (tmp_path / "model/samples.jsonl").unlink()  # written anew when it is over
        add(tmp_path / "model/samples.jsonl", *(sample(at, "After") for at in range(3)))
        assert [row["after"] for row in rows(read(index))] == ["After"] * 3


def test_the_runs_inside_a_bench_and_an_evaluation_are_sources_of_their_own(tmp_path: Path) -> None:
    make_run(tmp_path / "evaluation/replies/small", [revision(0)])
    label_cuts.make_run(tmp_path / "evaluation/labels", [label_cuts.pair(0, z=1.0)])
    (tmp_path / "evaluation/evaluation.json").write_text("{}")
    label_cuts.make_run(tmp_path / "bench/judge-a", [])
    label_cuts.make_run(tmp_path / "bench/judge-b", [])
    sources = find_sources([tmp_path / "evaluation", tmp_path / "bench"])
    assert [source.title.removeprefix(f"{tmp_path}/") for source in sources] == [
        "evaluation/labels", "evaluation/replies/small", "bench/judge-a", "bench/judge-b",
    ]  # fmt: skip


def test_folders_that_an_evaluation_makes_as_it_goes_are_sources_behind_the_others(tmp_path: Path) -> None:
    evaluation = tmp_path / "evaluation"
    make_run(evaluation / "replies", [revision(0)])
    index = Index(find_sources([evaluation]), partial(find_sources, [evaluation]))
    with closing(index):
        first = index.page(0)
        make_run(evaluation / "labels", [revision(1), revision(2)])
        index.look()
        assert [source.folder.name for source in index.sources] == ["replies", "labels"]
        assert index.page(0) == first
        assert [len(rows(read(index), source)) for source in (0, 1)] == [1, 2]
        (evaluation / "third").mkdir()
        (evaluation / "third/run.json").write_text("{")
        index.look()
        assert "third/run.json" in index.state()[0]["problem"]
        (evaluation / "third/run.json").unlink()
        index.look()
        assert index.state()[0]["problem"] is None


def test_a_folder_that_may_not_be_looked_into_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(folder: Path) -> None:
        raise PermissionError(13, "Permission denied")

    make_run(tmp_path / "run", [revision(0)])
    monkeypatch.setattr("pathlib.Path.iterdir", refuse)
    with pytest.raises(CaiError, match="run cannot be read: Permission denied"):
        find_sources([tmp_path / "run"])


def test_a_folder_that_is_named_twice_is_one_source(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", [revision(0)])
    (tmp_path / "link").symlink_to(run)
    assert len(find_sources([run, tmp_path, run / "revisions.jsonl", run / "run.json", tmp_path / "link"])) == 1


@pytest.mark.parametrize(
    "what", ["nothing", "an empty folder", "a file", "a folder of files", "a damaged run", "a new run"]
)
def test_what_holds_no_rows_is_named(tmp_path: Path, what: str) -> None:
    path = tmp_path / "this"
    if what != "nothing":
        path.mkdir()
    if what == "a file":
        path = path / "rows.jsonl"
        path.write_text("{}\n")
    elif what == "a folder of files":
        (path / "rows.jsonl").write_text("{}\n")
    elif what == "a damaged run":
        (path / "run.json").write_text("{")
    elif what == "a new run":
        make_folder(path, IDENTITY | {"command": "of another version"})
    with pytest.raises(CaiError, match=r"this|of another version"):
        find_sources([path])
