"""Run folders of version 0.1.0 are exported, read, labelled and gone on with as if this version had made them."""

from __future__ import annotations

import shutil
import sqlite3
import zlib
from contextlib import closing
from pathlib import Path
from typing import Any

import orjson
import pytest
from goldens.make_folders import COMMANDS, TORN, TRAINING
from kept import OLD_FOLDERS, TINY, call_keys, contents, in_order, rows, run, training_files
from steady import steady

import cai
from cai.errors import RunError
from cai.runs.kinds.generate import GenerateRun
from cai.runs.kinds.sample import SampleRun
from cai.runs.kinds.settings import GenerateSettings, SampleSettings

CUT = ("generate", "ungated", "label", "best-of")  # commands that end with training rows
GONE_ON_WITH = ("ungated", "sample", "label")
FINISHED = tuple(COMMANDS)
ROWS = {"ungated": "revisions.jsonl", "sample": "candidates.jsonl", "label": "labels.jsonl"}
ROWS_AUDITED = {"generate": 9, "ungated": 10, "sample": 13, "label": 8, "best-of": 12}


# Options by which sft.jsonl has the columns of version 0.1.0.
AS_BEFORE: dict[str, dict[str, Any]] = {name: {"sft_format": "messages"} for name in ("generate", "ungated", "best-of")}


def command_as_before(name: str) -> tuple[str, ...]:
    """The words of a command that go on with a folder of 0.1.0."""
    return (*COMMANDS[name], "--sft-format", "messages") if name in ("generate", "ungated") else COMMANDS[name]


def lasting_of(folder: Path, name: str) -> dict[str, bytes]:
    """The contents of a folder, but for run.json if `AS_BEFORE` adds an option to it."""
    found = contents(folder)
    if name in AS_BEFORE:
        assert orjson.loads(found.pop("run.json").splitlines()[0])["identity"] == info_of(folder)["identity"]
    return found


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """A copy of all folders and their inputs, in which commands run: to open a journal changes its folder."""
    return Path(shutil.copytree(OLD_FOLDERS, tmp_path / "work"))


def info_of(folder: Path) -> dict[str, Any]:
    info: dict[str, Any] = orjson.loads((folder / "run.json").read_bytes())
    return info


def drops(folder: Path) -> list[tuple[str | None, int, str, str]]:
    """Id, position, stage and reason of everything that was dropped before an export."""
    left_out = ("sft", "dpo", "pairs", "kto")
    found = [row for row in in_order(folder / "dropped.jsonl") if row["stage"] not in left_out]
    return [(row["id"], row["position"], row["stage"], row["reason"]) for row in found]


# What is finished


@pytest.mark.parametrize("name", CUT)
def test_a_finished_run_is_exported_to_the_same_training_rows(work: Path, name: str) -> None:
    folder = work / f"{name}-finished"
    before = lasting_of(folder, name)
    for file in training_files(folder):
        (folder / file).unlink()
    summary = cai.export_run(folder, **AS_BEFORE.get(name, {}), **info_of(folder).get("export", {}))
    assert lasting_of(folder, name) == before
    assert {file: len(rows(folder / file)) for file in training_files(folder)}.items() <= summary.files.items()


@pytest.mark.parametrize("name", AS_BEFORE)
def test_the_rows_of_a_finished_run_become_prompts_and_completions(work: Path, name: str) -> None:
    folder = work / f"{name}-finished"
    before = rows(folder / "sft.jsonl")
    cai.export_run(folder, **info_of(folder).get("export", {}))
    for old, new in zip(before, rows(folder / "sft.jsonl"), strict=True):
        assert [*new.pop("prompt"), *new.pop("completion")] == old.pop("messages") and new == old


def test_a_run_with_a_calibration_is_exported_under_it(work: Path) -> None:
    folder = work / "label-gold-finished"
    before = training_files(folder)
    assert [row["p_chosen"] for row in rows(folder / "dpo.jsonl")]
    run("export", folder.name, "--min-confidence", "0.9", folder=work)
    assert training_files(folder) != before
    run("export", folder.name, "--calibration", f"{folder.name}/calibration.json", folder=work)
    assert training_files(folder) == before


def test_the_card_of_a_best_of_run_says_how_far_to_trust_its_judge(work: Path) -> None:
    folder = work / "best-of-finished"
    assert cai.export_run(folder).flip_rate == pytest.approx(6 / 29)
    card = (folder / "README.md").read_text()
    for line in (
        "| assistant | `openai:writer` | `writer-1` |",
        "| judge | `openai:judge` | `judge-1` |",
        "| position | mean bias +0.42 nats towards the first reply |",
        "| order | 20.7% of 29 votes flip with reply order |",
        "| `kind` | 12 |",
        "18 prompts were processed: 12 rows, 6 dropped.",
    ):
        assert line in card
    assert "calibrat" not in card and "threshold" not in card


def test_a_best_of_run_whose_votes_mostly_flip_says_so(work: Path) -> None:
    folder = work / "best-of-finished"
    (folder / "calls.sqlite").unlink()  # it knows how long the files were
    candidates = rows(folder / "candidates.jsonl")
    for pair in (pair for row in candidates for pair in row["best"]["comparisons"]):
        for vote in pair["votes"]:
            vote["ab"]["choice"] = vote["ba"]["choice"] = "first"
    (folder / "candidates.jsonl").write_bytes(b"\n".join([*map(orjson.dumps, candidates), b""]))
    assert cai.export_run(folder).notes == (
        "100% of the votes flip with reply order: position bias outweighs most preferences",
    )


@pytest.mark.parametrize("name", ["ungated", "sample", "label", "label-gold"])
def test_a_finished_run_asks_for_nothing_but_what_was_refused(work: Path, name: str) -> None:
    folder = work / f"{name}-finished"
    before = lasting_of(folder, name)
    with steady() as server:
        run(*command_as_before(name), "--out", folder.name, folder=work, server=server.url + "/v1")
        assert (server.answered, server.refused) == (0, len(server.asked))
    assert lasting_of(folder, name) == before


@pytest.mark.parametrize("name", [*(f"{name}-finished" for name in FINISHED), "label-gold-finished/gold"])
def test_the_calls_of_a_finished_run_are_read(work: Path, name: str) -> None:
    folder = work / name
    calls = {call.key: call for call in cai.read_calls(folder)}
    assert len(calls) == info_of(folder)["usage"]["calls"]
    [file] = [file for file in ("revisions", "candidates", "labels") if (folder / f"{file}.jsonl").exists()]
    for row in rows(folder / f"{file}.jsonl"):
        asked = [calls[key] for key in row["calls"]]
        assert asked and {call.request["provider"] for call in asked} == {"openai"}
        assert sum(call.completion.output_tokens or 0 for call in asked) == row["usage"]["output_tokens"]
        if file == "revisions":
            assert asked[0].completion.text == row["initial"]
            assert asked[0].request["payload"]["messages"] == row["prompt"]


def test_a_finished_run_is_audited(work: Path) -> None:
    audited = {name: cai.audit(work / f"{name}-finished").rows for name in ROWS_AUDITED}
    assert audited == ROWS_AUDITED


@pytest.mark.parametrize("name", ["generate", "ungated", "sample", "best-of"])
def test_a_finished_run_is_the_source_of_labels(work: Path, name: str) -> None:
    given = ("label", f"{name}-finished", "--judge", "openai:judge", "-c", "inputs/law.yaml", "-k", "1")
    with steady() as server:
        run(*given, "--out", "labels", folder=work, server=server.url + "/v1")
    prompts = {row["id"] for file in work.glob(f"{name}-finished/[rc]*s.jsonl") for row in rows(file)}
    labels = rows(work / "labels" / "labels.jsonl")
    assert len(labels) > 5 and {row["prompt_id"] for row in labels} <= prompts


def test_a_folder_of_another_run_is_refused(work: Path) -> None:
    before = contents(work / "ungated-finished")
    with steady() as server:
        other = (*COMMANDS["ungated"], "--seed", "1", "--out", "ungated-finished")
        run(*other, folder=work, server=server.url + "/v1", status=1)
        assert server.asked == []
    assert contents(work / "ungated-finished") == before


# What was killed


@pytest.mark.parametrize("name", GONE_ON_WITH)
def test_a_killed_run_asks_only_for_what_is_missing_and_ends_as_if_nothing_had_happened(work: Path, name: str) -> None:
    folder, whole = work / f"{name}-half", work / f"{name}-finished"
    before = call_keys(folder)
    missing = set(call_keys(whole)) - set(before)
    assert before and missing
    with steady() as server:
        run(*command_as_before(name), "--out", folder.name, folder=work, server=server.url + "/v1")
        assert server.answered == len(missing)
        assert server.refused == len(server.asked) - len(missing)
    assert lasting_of(folder, name) == lasting_of(whole, name)
    assert set(before) < set(call_keys(folder))


@pytest.mark.parametrize("name", GONE_ON_WITH)
def test_drops_keep_their_reasons_but_for_those_that_are_tried_again(work: Path, name: str) -> None:
    folder = work / f"{name}-half"
    before = drops(folder)
    assert len({reason for *_, reason in before}) >= 3
    with steady() as server:
        run(*COMMANDS[name], "--out", folder.name, folder=work, server=server.url + "/v1")
    kept = [drop for drop in before if drop[3] != "model_error"]
    assert set(kept) <= set(drops(folder))
    finished = {row["id"] for row in in_order(folder / ROWS[name])}
    tried = {drop[0] for drop in before if drop[3] == "model_error"}
    assert tried & finished and tried <= finished | {drop[0] for drop in drops(folder)}
    counts: dict[str, int] = {}
    for *_, reason in drops(folder):
        counts[reason] = counts.get(reason, 0) + 1
    assert info_of(folder)["dropped"] == counts


@pytest.mark.parametrize("name", TORN)
def test_the_line_that_a_kill_tore_is_there(name: str) -> None:
    assert not (OLD_FOLDERS / name / TORN[name]).read_bytes().endswith(b"\n")


def test_what_is_tried_again_and_refused_again_is_dropped_once(work: Path) -> None:
    folder = work / "ungated-half"
    before = drops(folder)
    with steady() as server:
        server.rough = True
        given = (*COMMANDS["ungated"], "--out", folder.name, "--limit", "9")  # none of them is held
        run(*given, folder=work, server=server.url + "/v1")
        assert server.refused == 2
    assert drops(folder) == before


@pytest.mark.parametrize("name", ["half", "finished"])
def test_a_best_of_run_is_not_resumed_and_the_error_names_the_new_command(work: Path, name: str) -> None:
    folder = f"best-of-{name}"
    before = contents(work / folder)
    with steady() as server:
        run(*COMMANDS["best-of"], "--out", folder, folder=work, server=server.url + "/v1", status=1)
        assert server.asked == []
    with pytest.raises(
        RunError, match=r"best-of run of version 0\.1\.0.*: start anew with cai sample PROMPTS --best-of N"
    ):
        for part in SampleRun(None, SampleSettings(best_of=3, judge="openai:x", out=work / folder)).sessions():
            part.describe()
    assert contents(work / folder) == before


def test_an_unfinished_best_of_run_is_not_exported(work: Path) -> None:
    with pytest.raises(RunError, match=r"unfinished best-of run of version 0\.1\.0.*--best-of N --judge SPEC"):
        cai.export_run(work / "best-of-half")


@pytest.mark.parametrize("name", ["half", "finished"])
def test_a_run_whose_critiques_gave_the_verdict_is_not_resumed_and_the_error_says_what_to_do(
    work: Path, name: str
) -> None:
    folder = f"generate-{name}"
    before = contents(work / folder)
    with steady() as server:
        for gate in ("--gate", "--gate=0.9"):
            run(*COMMANDS["generate"], gate, "--out", folder, folder=work, server=server.url + "/v1", status=1)
        assert server.asked == []
    made = GenerateRun(None, GenerateSettings(model="openai:x", out=work / folder))
    with pytest.raises(RunError, match=r"run of version 0\.1\.0 with the gate.*cai export.*--out NEW"):
        next(made.sessions())
    assert contents(work / folder) == before


# Trainings


def trained(out: Path, work: Path) -> tuple[Any, list[str]]:
    """The summary of the training of 0.1.0 in a folder, and what is told."""
    told: list[str] = []
    data = work / "inputs" / "chats.jsonl"
    return cai.train("sft", data, out=out, model=str(TINY), flags=TRAINING, tell=told.append), told


def losses(folder: Path) -> dict[int, float]:
    return {line["step"]: line["loss"] for line in rows(folder / "metrics.jsonl") if "loss" in line}


@pytest.mark.filterwarnings("ignore")  # those of torch, trl and peft about themselves
def test_a_finished_training_has_nothing_to_do(work: Path) -> None:
    pytest.importorskip("trl")
    before = (work / "train-finished" / "adapter_model.safetensors").read_bytes()
    summary, _ = trained(work / "train-finished", work)
    assert summary.steps == len(losses(work / "train-finished"))
    assert (work / "train-finished" / "adapter_model.safetensors").read_bytes() == before


@pytest.mark.filterwarnings("ignore")  # those of torch, trl and peft about themselves
def test_an_interrupted_training_goes_on_from_its_checkpoint(work: Path) -> None:
    pytest.importorskip("trl")
    half, whole = work / "train-half", losses(OLD_FOLDERS / "train-finished")
    before = losses(half)
    assert 0 < len(before) < len(whole)
    trained(half, work)
    assert losses(half) == pytest.approx(whole, rel=1e-6)
    assert {step: losses(half)[step] for step in before} == before


# What an old version stored, and could not read


@pytest.mark.parametrize(
    "tokens", [[{"A": -0.2, "B": None}], [{"A": "-0.2", "B": -1.5}], [{"A": {"x": 1}}], [None], [3], [["A"]], []]
)
def test_a_run_whose_stored_log_probabilities_are_odd_is_gone_on_with(work: Path, tokens: Any) -> None:
    folder = work / "label-half"
    with closing(sqlite3.connect(folder / "calls.sqlite")) as db, db:
        db.execute("UPDATE calls SET logprobs = ?", (zlib.compress(orjson.dumps(tokens)),))
    with steady() as server:
        run(*COMMANDS["label"], "--out", folder.name, folder=work, server=server.url + "/v1")
        run(*COMMANDS["label"], "--out", folder.name, "--force", folder=work, server=server.url + "/v1")
    assert info_of(folder)["stopped"] is None
    assert all(isinstance(call.completion.logprobs, tuple) for call in cai.read_calls(folder))
    cai.export_run(folder)
