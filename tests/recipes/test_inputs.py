"""What a stage reads is seen from the recipe's folder, and a change of it is noticed."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from recipe_runs import PROMPTS, RECIPE, Bench
from recipes.conftest import known

from cai.errors import RunError, UsageError
from cai.recipes.inputs import placed
from cai.recipes.jobs import Job, jobs_of
from cai.recipes.play import CommandFailed, Playing, Wishes
from cai.recipes.reading import read_recipe
from cai.sources.files import folder as built_in

LONG = "You are a helpful assistant of a library. " * 10


def words_of(bench: Bench, stage: str) -> list[str]:
    played = Playing(read_recipe(bench.path, known()), bench.folder / "out", Wishes())
    job: Job = next(job for job in jobs_of(played.recipe) if job.name == stage)
    [words, *_] = played.commands(job)
    return words


def test_a_text_may_be_longer_than_the_name_of_a_file(bench: Bench) -> None:
    bench.write(RECIPE.replace("n: 2", f"n: 2, system: {LONG!r}"))
    assert LONG in words_of(bench, "draws")
    assert bench.play(until="draws").ran == ["draws"] and bench.play(until="draws").ran == []


def test_a_setting_that_names_no_file_is_no_path(bench: Bench) -> None:
    (bench.folder / "screen").mkdir()
    bench.write("name: s\nstages:\n  a: {generate: {draw: screen, system: screen, constitution: screen}}\n")
    words = words_of(bench, "a")
    shown = {words[words.index(option) + 1] for option in ("--draw", "--system")}
    assert shown == {"screen"} and words[words.index("--constitution") + 1] == str(bench.folder / "screen")


@pytest.mark.parametrize("before", ["", "recorded:", "reward:", "local:", "0.5:reward:", "judge:", "guard:"])
def test_a_path_is_seen_from_the_folder_of_the_recipe_behind_a_kind_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: str
) -> None:
    base, here = tmp_path / "base", tmp_path / "here"
    for each in (base, here):
        each.mkdir()
    monkeypatch.chdir(here)
    (base / "a.jsonl").touch()
    (here / "b.jsonl").touch()
    assert placed(f"{before}a.jsonl", base) == f"{before}{base / 'a.jsonl'}"
    assert placed(f"{before}c.jsonl", base) == f"{before}c.jsonl"
    with pytest.raises(UsageError, match=r"b\.jsonl is where you typed this, and not in .*base: paths of a recipe are"):
        placed(f"{before}b.jsonl", base)
    assert placed(f"{before}{here / 'b.jsonl'}", base) == f"{before}{here / 'b.jsonl'}"


def test_a_dataset_of_the_hub_is_no_folder_of_that_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "org" / "name").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "org")
    assert placed("hf:org/name", tmp_path) == "hf:org/name" and placed("hf:name", tmp_path) == "hf:name"
    (tmp_path / "org" / "name" / "config.json").touch()
    assert placed("hf:org/name", tmp_path) == f"hf:{tmp_path / 'org' / 'name'}"
    with pytest.raises(UsageError, match="name is where you typed this"):
        placed("hf:name", tmp_path)


def test_a_run_elsewhere_that_has_grown_is_read_again(bench: Bench) -> None:
    bench.play(only=("draws",))
    shutil.move(bench.folder / "out" / "draws", bench.folder / "earlier")
    shutil.rmtree(bench.folder / "out")
    bench.write(RECIPE.replace('"@draws"', '"earlier"'))
    bench.play(only=("labels",))
    assert bench.play(only=("labels",)).ran == []
    bench.prompts([*PROMPTS, "One more?"])
    bench.run(
        ["sample", "prompts.jsonl", "--model", f"openai:tiny@{bench.server.url}/v1", "-n", "2", "--out", "earlier"]
    )
    assert bench.play(only=("labels",)).ran == ["labels"]


def test_templates_that_were_edited_are_noticed(bench: Bench) -> None:
    shutil.copytree(built_in("prompts") / "chat", bench.folder / "mine")
    bench.write(RECIPE.replace("concurrency: 4}\n    export", "concurrency: 4, templates: mine}\n    export"))
    bench.play(only=("draft",))
    assert bench.play(only=("draft",)).ran == []
    critique = bench.folder / "mine" / "critique.jinja"
    critique.write_text(critique.read_text() + "Be brief.\n")
    with pytest.raises(CommandFailed, match="templates"):
        bench.play(only=("draft",))


def test_people_s_votes_in_a_folder_are_noticed_by_who_reads_them(bench: Bench) -> None:
    bench.write(RECIPE.replace("@draft/sft.jsonl", "@draft/gold.jsonl"))
    bench.play(until="draft")
    votes = bench.folder / "out" / "draft" / "gold.jsonl"
    votes.write_bytes((bench.folder / "out" / "draft" / "sft.jsonl").read_bytes())
    bench.play(until="audited")
    assert bench.play(until="audited").ran == []
    votes.write_bytes(votes.read_bytes().splitlines(keepends=True)[0])
    with pytest.raises(RunError, match=r"stage audited is finished, and @draft/gold\.jsonl has changed"):
        bench.play(until="audited")


@pytest.mark.parametrize("limits", [(4, 1), (None, 4)])
def test_a_limit_that_was_lowered_is_refused(bench: Bench, limits: tuple[Any, Any]) -> None:
    first, second = (RECIPE.replace("n: 2", "n: 2" if limit is None else f"n: 2, limit: {limit}") for limit in limits)
    bench.write(first)
    bench.play(only=("draws",))
    bench.write(second)
    with pytest.raises(RunError, match=r"stage draws is finished, and its command was .*--redo draws"):
        bench.play(only=("draws",))
    bench.write(first)
    assert bench.play(only=("draws",)).ran == []
