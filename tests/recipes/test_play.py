"""A recipe is played once: what is finished is not run again, and what has changed is never overwritten."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from recipe_runs import PROMPTS, RECIPE, Bench
from recipes.conftest import known

from cai.errors import CaiError, RunError, UsageError
from cai.recipes.play import CommandFailed, Playing, Wishes
from cai.recipes.reading import read_recipe
from cai.recipes.state import cost_of
from cai.records import Values


def test_a_recipe_ends_in_folders_and_a_report_and_is_not_run_again(bench: Bench) -> None:
    playing = bench.play()
    assert playing.ran == ["draft", "draws", "labels", "audited"]
    assert (bench.folder / "out" / "report.html").exists()
    cut = [
        (bench.folder / "out" / "draft" / name).read_bytes().count(b"\n") for name in ("sft.jsonl", "sft.eval.jsonl")
    ]
    assert sum(cut) == len(PROMPTS) and all(cut)
    assert bench.calls() > 0
    again = bench.play()
    assert again.ran == [] and bench.words == [] and bench.calls() == 0
    assert {job["status"] for job in again.summary()["jobs"].values()} == {"finished"}


def test_it_is_the_same_wherever_it_is_typed_and_moved(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.play()
    monkeypatch.chdir(tmp_path)
    bench.folder = Path()
    bench.path = Path("recipe.yaml")
    Path("out").rename("elsewhere")
    Path("elsewhere").rename("out")
    assert bench.play().ran == []


def test_more_prompts_grow_the_runs_and_ask_only_what_is_new(bench: Bench) -> None:
    bench.play(only=("draft", "draws"))
    first = bench.calls()
    bench.prompts([*PROMPTS, *(f"More {number}?" for number in range(6))])
    assert bench.play(only=("draft", "draws")).ran == ["draft", "draws"]
    assert bench.calls() == first


def test_what_changed_before_a_finished_stage_is_refused_with_the_difference(bench: Bench) -> None:
    bench.play()
    bench.write(RECIPE.replace("@draft/sft.jsonl", "@draft/sft.eval.jsonl"))
    with pytest.raises(
        RunError, match=r"audited is finished, and its command was .*sft\.jsonl and is .*--redo audited"
    ):
        bench.play()
    assert bench.play(redo=("audited",)).ran == ["audited"]
    assert (bench.folder / "out" / "audited-2").is_dir() and (bench.folder / "out" / "audited").is_dir()


def test_what_follows_from_a_stage_is_made_anew_with_it(bench: Bench) -> None:
    bench.play()
    bench.calls()
    playing = bench.play(redo=("draws",))
    assert playing.ran == ["draws", "labels"]
    assert playing.folder("labels").name == "labels-2" and bench.calls() > 0
    assert bench.play().ran == []


def test_an_edit_by_hand_is_refused(bench: Bench) -> None:
    bench.play()
    file = bench.folder / "out" / "draft" / "sft.jsonl"
    before = file.read_bytes()
    file.write_bytes(before.splitlines(keepends=True)[0])
    with pytest.raises(
        RunError, match=r"draft: sft\.jsonl has changed since stage draft wrote it: restore it, or --redo"
    ):
        bench.play()
    with pytest.raises(RunError, match=r"sft\.jsonl has changed since stage draft wrote it"):
        bench.play(only=("audited",))
    file.unlink()
    with pytest.raises(RunError, match=r"sft\.jsonl is gone since stage draft wrote it"):
        bench.play()
    file.write_bytes(before)
    assert bench.play().ran == []


def test_a_gate_that_does_not_hold_ends_the_recipe_each_time(bench: Bench) -> None:
    bench.write(RECIPE.replace(">=6", ">=7"))
    for _ in range(2):
        with pytest.raises(CaiError, match=r"stage draft: rows is 6, and >=7 is expected"):
            bench.play()
    assert not (bench.folder / "out" / "draws").exists()
    bench.write(RECIPE)
    assert bench.play().ran == ["draws", "labels", "audited"]


@pytest.mark.parametrize(
    ("gate", "message"),
    [
        ("rwos", r"there is no 'rwos' in what the command says with --json; did you mean 'rows'"),
        ("stopped", "not a number"),
    ],
)
def test_a_gate_without_a_figure_is_refused(bench: Bench, gate: str, message: str) -> None:
    bench.write(RECIPE.replace('{rows: ">=6"', f'{{{gate}: ">=6"'))
    with pytest.raises(UsageError, match=message):
        bench.play()


def test_a_stage_that_fails_is_resumed(bench: Bench) -> None:
    bench.play(until="draws")
    bench.write(RECIPE.replace("judge: $model", 'judge: "openai:tiny@http://127.0.0.1:9/v1"'))
    with pytest.raises(CommandFailed, match=r"127\.0\.0\.1:9"):
        bench.play()
    bench.write(RECIPE)
    assert bench.play().ran == ["labels", "audited"]


def test_until_stops_after_a_stage_and_what_it_needs(bench: Bench) -> None:
    assert bench.play(until="labels").ran == ["draws", "labels"]
    assert not (bench.folder / "out" / "report.html").exists()


def test_until_in_a_loop_has_what_later_turns_need(bench: Bench) -> None:
    bench.write("""
name: loop
vars: {model: local}
repeat: 2
next: {model: "@m"}
stages:
  draws: {sample: {prompts: prompts.jsonl, model: $model}}
  labels: {label: {source: "@draws"}}
  m: {train dpo: {data: "@labels", model: $model}}
""")
    playing = Playing(read_recipe(bench.path, known()), bench.folder / "out", Wishes(until="labels"))
    names = [job.name for job in playing.chosen]
    assert names == ["draws", "labels", "m", "draws.turn=2", "labels.turn=2"]


def test_the_page_is_written_again_when_it_shows_what_is_no_longer_there(bench: Bench) -> None:
    bench.play()
    bench.play(redo=("audited",), only=("audited",))
    assert bench.play().ran == [] and [words[0] for words in bench.words] == ["report"]
    bench.play()
    assert bench.words == []


@pytest.mark.parametrize("cap", [-1.0, float("nan"), float("inf")])
def test_a_cap_that_is_none_is_refused(bench: Bench, cap: float) -> None:
    with pytest.raises(UsageError, match=r"max_cost is .*: it must be 0 or more USD"):
        bench.play(max_cost=cap)


def test_a_stage_whose_needs_are_missing_is_refused(bench: Bench) -> None:
    with pytest.raises(RunError, match="stage labels needs draws, which is not finished: run it first"):
        bench.play(only=("labels",))


@pytest.mark.parametrize("wish", [{"only": ("darft",)}, {"until": "darft"}, {"redo": ("darft",)}])
def test_a_stage_that_is_not_there_is_refused(bench: Bench, wish: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=r"has no stage 'darft'; did you mean 'draft'\?"):
        bench.play(**wish)


def test_the_cap_is_that_of_all_stages_together(bench: Bench) -> None:
    bench.write(RECIPE.replace("concurrency: 4", "concurrency: 4, price: '1000,1000'"))
    bench.play(only=("draft",))
    cost = bench.play(only=("draft",)).summary()["cost_usd"]
    assert cost > 0
    with pytest.raises(CommandFailed, match="max-cost"):
        bench.play(max_cost=cost + 0.001)
    [*_, words] = bench.words
    assert words[0] == "sample" and float(words[words.index("--max-cost") + 1]) == pytest.approx(0.001)


def test_an_evaluation_on_its_training_data_is_refused_unless_the_stage_allows_it(bench: Bench) -> None:
    for given, expected in (("", True), (", refuse_leaks: false", False)):
        bench.write(f"name: a\nstages:\n  eval: {{evaluate: {{models: openai:x, against: openai:y{given}}}}}\n")
        playing = Playing(read_recipe(bench.path, known()), bench.folder / "out", Wishes())
        [words] = playing.commands(playing.jobs[0])
        assert ("--refuse-leaks" in words) == expected


def test_shards_that_are_joined_cost_once(tmp_path: Path) -> None:
    costs = {"": 3.0, "shards/0": 1.0, "shards/1": 2.0, "labels": 0.5, "shards/0/labels": 0.5}
    for name, cost in costs.items():
        (tmp_path / name).mkdir(parents=True, exist_ok=True)
        (tmp_path / name / "run.json").write_text(f'{{"cost_usd": {cost}}}')
    assert cost_of(tmp_path) == 3.5
    (tmp_path / "run.json").unlink()
    assert cost_of(tmp_path) == 3.5


def test_two_processes_cannot_play_one_recipe(bench: Bench) -> None:
    def run(words: Sequence[str]) -> Values:
        with pytest.raises(RunError, match="is in use by another process"):
            bench.play()
        raise CommandFailed("seen")

    playing = Playing(read_recipe(bench.path, known()), bench.folder / "out", Wishes())
    with pytest.raises(CommandFailed, match="seen"):
        playing.play(run, lambda line: None)


def test_a_damaged_record_is_said(bench: Bench) -> None:
    bench.play(only=("draft",))
    for content in ("{", "[]", "{}", '{"jobs": {"draft": {}}}'):
        (bench.folder / "out" / "recipe.json").write_text(content)
        with pytest.raises(
            RunError, match=r"recipe\.json (is damaged|cannot be read).* restore it, or name another --out"
        ):
            bench.play()
