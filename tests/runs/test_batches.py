"""Runs whose calls go in batches: the same rows as online, each call paid once, whatever a provider does."""

from __future__ import annotations

import asyncio
import gc
import importlib.util
import json
import shutil
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from batched import KINDS, PROMPTS, PROVIDERS, SDKS, Server, batch_server, cuts, generated, hurry, killed
from habits import Mode, answer, serving
from kept import call_keys
from seldom import seldom

import cai
from cai.calls.batches.follow import Course, Follower
from cai.calls.batches.service import Standing
from cai.disk.locks import LOCK, take_lock
from cai.errors import BudgetReached, MissingExtra, ModelStopped, RunError, ServerDown, UsageError
from cai.models.remote.batch.offers import OFFERS
from cai.records import Completion
from cai.runs.batch_list import batches_in, cancel_batches
from cai.runs.kinds.generate import GenerateRun
from cai.runs.kinds.settings import GenerateSettings
from cai.runs.plan import estimate


@pytest.fixture(scope="module")
def running() -> Iterator[Server]:
    with batch_server() as server:
        yield server


@pytest.fixture
def server(running: Server, monkeypatch: pytest.MonkeyPatch) -> Server:
    """A server that has seen nothing, and behaves."""
    hurry(monkeypatch)
    running.behave()
    return running


@pytest.fixture(scope="module")
def online(running: Server, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, bytes]]:
    """What an online run of generate comes to, by provider."""
    with pytest.MonkeyPatch.context() as patch:
        hurry(patch)
        found = {}
        for provider in PROVIDERS:
            folder = tmp_path_factory.mktemp(provider) / "run"
            generated(running, folder, provider)
            found[provider] = cuts(folder)
    return found


def states(folder: Path) -> list[str]:
    with closing(sqlite3.connect(folder / "calls.sqlite")) as db:
        return [state for (state,) in db.execute("SELECT state FROM batch ORDER BY id")]


def paid_once(server: Server, folder: Path) -> None:
    """Every call that was answered is there; a question that is asked for several replies is several calls."""
    assert server.stats()["statuses"]["200"] == len(call_keys(folder))


def info(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "run.json").read_text())
    return found


# The same rows


@pytest.mark.parametrize("provider", SDKS)
@pytest.mark.parametrize("kind", KINDS)
def test_rows_and_exports_are_those_of_an_online_run(server: Server, tmp_path: Path, kind: str, provider: str) -> None:
    play = KINDS[kind]
    play(server, tmp_path / "online", provider)
    server.behave()
    play(server, tmp_path / "batched", provider, batch=True)
    assert cuts(tmp_path / "batched") == cuts(tmp_path / "online")
    paid_once(server, tmp_path / "batched")
    assert server.did("create") and set(states(tmp_path / "batched")) == {"cleared"}
    assert server.tell()["files"] == 0


@pytest.mark.parametrize("provider", sorted(set(OFFERS) - set(PROVIDERS)))
def test_so_are_those_of_a_preset_that_takes_the_same_batches(server: Server, tmp_path: Path, provider: str) -> None:
    play = partial(generated, server, provider=provider, price="1000,2000")
    play(tmp_path / "online")
    server.behave()
    killed("Follower._note", "before", 2, lambda: play(tmp_path / "batched", batch=True))  # its batch is found again
    play(tmp_path / "batched", batch=True)
    batched, online = cuts(tmp_path / "batched"), cuts(tmp_path / "online")
    assert all(batched[name] == online[name] for name in online if name != "README.md")  # which has the cost
    paid_once(server, tmp_path / "batched")
    assert server.did("create") and server.tell()["files"] == 0
    costs = {name: info(tmp_path / name)["cost_usd"] for name in ("batched", "online")}
    assert costs["batched"] == pytest.approx(OFFERS[provider].share * costs["online"])


def test_a_wave_is_one_batch_of_what_all_prompts_wait_for(server: Server, tmp_path: Path) -> None:
    generated(server, tmp_path / "run", batch=True, gate=False)
    assert server.did("create") == [line for line in server.did("create") if line.endswith(" of 6")]
    assert len(server.did("create")) == 3  # a reply, a critique, a revision
    assert server.stats()["statuses"] == {"200": 18}


@pytest.mark.slow
def test_a_flow_that_waits_has_no_task_and_keeps_nothing_that_was_said(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, tasks, kept = Follower._watch, [], []

    async def watched(follower: Follower, course: Course) -> Standing:
        standing = await real(follower, course)
        gc.collect()
        tasks.append(len(asyncio.all_tasks()))
        kept.append(sum(isinstance(each, Completion) for each in gc.get_objects()))
        return standing

    monkeypatch.setattr(Follower, "_watch", watched)
    before = sum(isinstance(each, Completion) for each in gc.get_objects())
    prompts = [{"id": f"p{number}", "prompt": f"Question number {number}?"} for number in range(200)]
    generated(server, tmp_path / "run", prompts=prompts, batch=True, gate=False)
    assert len(tasks) == 3 and max(tasks) < 10
    assert max(kept) - before < 10


def test_the_first_pairs_show_whether_a_judge_can_be_read_before_the_others_are_sent(
    server: Server, tmp_path: Path
) -> None:
    pairs = [{"prompt": f"Question {n}?", "chosen": f"It is {n}.", "rejected": "No."} for n in range(50)]
    common = {"judge": "openai:m", "base_url": server.base("openai"), "min_confidence": 0.6, "principles": 1}
    list(cai.label(pairs, "harmless", out=tmp_path / "run", batch=True, **common))
    assert [line.split()[-1] for line in server.did("create")] == ["40", "60"]


@pytest.mark.parametrize("provider", SDKS)
def test_a_folder_goes_on_online_or_in_batches(
    server: Server, online: dict[str, Any], tmp_path: Path, provider: str
) -> None:
    out = tmp_path / "run"
    generated(server, out, provider, batch=True, limit=2)
    generated(server, out, provider, limit=4)
    generated(server, out, provider, batch=True)
    assert cuts(out) == online[provider]
    paid_once(server, out)


@pytest.mark.parametrize("provider", SDKS)
def test_what_a_batch_does_not_answer_in_time_goes_online(
    server: Server, online: dict[str, Any], tmp_path: Path, provider: str
) -> None:
    server.behave(takes=1e9)
    generated(server, tmp_path / "run", provider, batch=True, batch_wait="0s")
    assert cuts(tmp_path / "run") == online[provider]
    assert server.did("cancel")
    paid_once(server, tmp_path / "run")


def test_a_call_that_is_refused_costs_its_row_alone(server: Server, tmp_path: Path) -> None:
    prompts = [*PROMPTS, {"id": "bad", "prompt": "POISON?"}]
    generated(server, tmp_path / "online", prompts=prompts)
    server.behave()
    generated(server, tmp_path / "batched", prompts=prompts, batch=True)
    assert cuts(tmp_path / "batched") == cuts(tmp_path / "online")
    assert len(cuts(tmp_path / "batched")["dropped.jsonl"].splitlines()) == 1
    paid_once(server, tmp_path / "batched")


# Faults that change nothing

HARMLESS: dict[str, dict[str, Any]] = {
    "results in any order": {"shuffle": True},
    "every line twice": {"duplicate": True},
    "lines that are none": {"garbage": 3},
    "missing lines": {"missing": 4},
    "calls that fail with 429": {"errors": {"429": 3}},
    "calls that fail with 500": {"errors": {"500": 3}},
    "no file with answers": {"errors": {"500": 6}},
    "a batch that expires half done": {"expire": 1},
    "a download that breaks off": {"resets": 2},
    "a batch that is taken and not confirmed": {"die_creating": 1},
    "the same, and not listed at first": {"die_creating": 1, "lag": 1},
    "429 for requests about batches": {"busy": 2},
    "small pages of lists": {"page": 1, "die_creating": 3},
}
OF_FILES: dict[str, dict[str, Any]] = {
    "an upload that is taken and not confirmed": {"die_uploading": 1},
    "a file that is not known yet": {"not_found": 2},
    "too many tokens that wait": {"token_cap": 4},
    "room for a single call": {"token_cap": 1},
}


MOSTLY = ("results in any order", "missing lines", "a batch that expires half done")


@pytest.mark.parametrize("provider", SDKS)
@pytest.mark.parametrize("name", seldom(HARMLESS, MOSTLY))
def test_a_fault_changes_no_row_and_costs_nothing(
    server: Server, online: dict[str, Any], tmp_path: Path, name: str, provider: str
) -> None:
    changes_nothing(server, online[provider], tmp_path / "run", provider, HARMLESS[name])


@pytest.mark.parametrize("name", OF_FILES)
def test_a_fault_of_files_changes_no_row_and_costs_nothing(
    server: Server, online: dict[str, Any], tmp_path: Path, name: str
) -> None:
    changes_nothing(server, online["openai"], tmp_path / "run", "openai", OF_FILES[name])


def changes_nothing(server: Server, online: Any, out: Path, provider: str, knobs: dict[str, Any]) -> None:
    server.behave(**knobs)
    generated(server, out, provider, batch=True)
    assert cuts(out) == online
    if "missing" not in knobs:  # a call without a line may have been answered, and is not paid
        paid_once(server, out)
    assert set(states(out)) == {"cleared"}


# Faults that end the run


def test_calls_that_no_batch_answers_end_the_run_after_some_waves(server: Server, tmp_path: Path) -> None:
    server.behave(errors={"500": 3})
    with pytest.raises(ServerDown, match="3 waves"):
        generated(server, tmp_path / "run", prompts=PROMPTS[:1], batch=True)
    assert len(server.did("create")) == 3
    assert len(generated(server, tmp_path / "run", prompts=PROMPTS[:1], batch=True)) == 1


@pytest.mark.parametrize("provider", SDKS)
def test_no_credit_ends_the_run_which_can_be_resumed(
    server: Server, online: dict[str, Any], tmp_path: Path, provider: str
) -> None:
    server.behave(credit=1)
    with pytest.raises(ModelStopped, match="out of credit"):
        generated(server, tmp_path / "run", provider, batch=True)
    generated(server, tmp_path / "run", provider, batch=True)
    assert cuts(tmp_path / "run") == online[provider]
    paid_once(server, tmp_path / "run")


def test_a_file_that_the_provider_refuses_ends_the_run_and_says_why(
    server: Server, online: dict[str, Any], tmp_path: Path
) -> None:
    server.behave(invalid=1)
    with pytest.raises(ModelStopped, match="This line is not parseable"):
        generated(server, tmp_path / "run", batch=True)
    generated(server, tmp_path / "run")
    assert cuts(tmp_path / "run") == online["openai"]


@pytest.mark.parametrize("status", [400, 404, 413])
def test_a_server_that_takes_no_files_ends_the_run_and_says_so(tmp_path: Path, status: int) -> None:
    refused = answer({"error": {"message": "no such thing"}}, status)
    with serving({"none": Mode(refused)}) as habits:
        spec = f"openai:m@{habits.url('none')}"
        with pytest.raises(ModelStopped, match=r"the server refused a batch .*: leave out --batch"):
            list(cai.sample(PROMPTS, spec, n=1, out=tmp_path / "run", batch=True))
    assert not (tmp_path / "run" / "dropped.jsonl").exists()


def test_shards_in_batches_share_a_prompt_that_is_there_twice_as_online(server: Server, tmp_path: Path) -> None:
    prompts = [{"id": str(n), "prompt": text} for n, text in enumerate(["one", "dup", "dup", "two", "three", "four"])]
    kept = {}
    for batch in (False, True):
        out = tmp_path / f"batch-{batch}"
        for shard in ("0/2", "1/2"):
            base = server.base("openai")
            list(cai.sample(prompts, "openai:m", n=1, base_url=base, shard=shard, out=out, batch=batch))
        files = sorted((out / "shards").glob("*/candidates.jsonl"))
        kept[batch] = [sorted(json.loads(line)["id"] for line in file.read_bytes().splitlines()) for file in files]
    assert kept[True] == kept[False] == [["0", "4"], ["1", "3", "5"]]


def test_batches_that_are_under_way_are_not_paid_again_online(
    server: Server, online: dict[str, Any], tmp_path: Path
) -> None:
    killed("Follower._watch", "before", 1, lambda: generated(server, tmp_path / "run", batch=True))
    with pytest.raises(RunError, match="1 batch whose answers are still at the provider"):
        generated(server, tmp_path / "run")
    generated(server, tmp_path / "run", batch=True, batch_wait="0s")
    assert cuts(tmp_path / "run") == online["openai"]
    paid_once(server, tmp_path / "run")


# Kills

PLACES = {
    "before a call is in a file": ("Batches._gather", "before", 4),
    "before the intent": ("BatchJournal.intend", "before", 1),
    "with the intent not committed": ("BatchJournal.intend", "after", 1),
    "with the intent committed and nothing uploaded": ("Batches._follow", "before", 1),
    "with a file uploaded and not noted": ("Follower._note", "before", 1),
    "with a file noted": ("Follower._note", "after", 1),
    "with a batch created and not noted": ("Follower._note", "before", 2),
    "with a batch noted": ("Follower._note", "after", 2),
    "in the middle of the answers": ("Batches.give", "before", 4),
    "with all answers and nothing settled": ("Follower._settle", "before", 1),
    "with all settled and not noted": ("Follower._note", "before", 3),
    "with all settled": ("Follower._note", "after", 3),
    "with files deleted and not noted": ("Follower._note", "before", 4),
    "with files deleted": ("Follower._note", "after", 4),
    "with the second batch created and not noted": ("Follower._note", "before", 6),
    "in the middle of the second answers": ("Batches.give", "before", 9),
}


OFTEN = ("with files deleted and not noted", "in the middle of the second answers")


@pytest.mark.parametrize("provider", SDKS)
@pytest.mark.parametrize("place", seldom(PLACES, OFTEN))
def test_a_kill_between_any_two_steps_costs_nothing(
    server: Server, online: dict[str, Any], tmp_path: Path, place: str, provider: str
) -> None:
    killed(*PLACES[place], lambda: generated(server, tmp_path / "run", provider, batch=True))
    generated(server, tmp_path / "run", provider, batch=True)
    assert cuts(tmp_path / "run") == online[provider]
    paid_once(server, tmp_path / "run")
    assert set(states(tmp_path / "run")) == {"cleared"}
    assert not (tmp_path / "run" / "batches").exists()


@pytest.mark.slow
@pytest.mark.parametrize("provider", SDKS)
def test_a_run_that_is_killed_at_every_step_ends_as_one_that_is_left_alone(
    server: Server, online: dict[str, Any], tmp_path: Path, provider: str
) -> None:
    for method, side, nth in PLACES.values():
        killed(method, side, nth, lambda: generated(server, tmp_path / "run", provider, batch=True))
    generated(server, tmp_path / "run", provider, batch=True)
    assert cuts(tmp_path / "run") == online[provider]
    paid_once(server, tmp_path / "run")


# Two servers, copies, clocks


def test_two_models_of_one_name_have_each_their_own_batches_and_keys(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with batch_server() as other:
        for each, key in ((server, "key-of-one"), (other, "key-of-other")):
            monkeypatch.setenv(f"CAI_KEY_127_0_0_1_{each.url.rpartition(':')[2]}", key)
        specs = {"model": f"openai:m@{server.base('openai')}", "critic": f"openai:m@{other.base('openai')}"}
        common = {"rounds": 1, "gate": False, **specs}
        list(cai.generate(PROMPTS, "harmless", out=tmp_path / "online", **common))
        for each in (server, other):
            each.behave()
        play = partial(cai.generate, PROMPTS, "harmless", out=tmp_path / "run", batch=True, **common)
        killed("Follower._watch", "before", 2, lambda: list(play()))  # in the second wave, which is the critic's
        listed = batches_in(tmp_path / "run").batches
        assert [entry.model for entry in listed] == [specs["model"], specs["critic"]]
        assert cancel_batches(tmp_path / "run", None).cancelled == 1
        assert other.did("cancel") and not server.did("cancel")
        list(play())
        assert cuts(tmp_path / "run") == cuts(tmp_path / "online")
        assert (server.tell()["keys"], other.tell()["keys"]) == (["key-of-one"], ["key-of-other"])


def test_an_address_that_may_hold_a_key_is_not_written_down(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"CAI_KEY_127_0_0_1_{server.url.rpartition(':')[2]}", "none")
    address = f"{server.url}/hush-4f3a9c/v1"
    killed(
        "Follower._watch", "before", 1, lambda: generated(server, tmp_path / "run", model=f"openai:m@{address}",
        base_url=None, batch=True)
    )  # fmt: skip
    assert [entry.model for entry in batches_in(tmp_path / "run").batches] == ["openai:m"]
    assert not any(b"4f3a9c" in path.read_bytes() for path in (tmp_path / "run").iterdir() if path.is_file())


@pytest.mark.parametrize("provider", SDKS)
def test_two_runs_that_died_alike_find_each_its_own_batch(
    server: Server, online: dict[str, Any], tmp_path: Path, provider: str
) -> None:
    others = [{**prompt, "prompt": f"{prompt['prompt']} Why?"} for prompt in PROMPTS]
    runs = {"one": PROMPTS, "other": others}
    for name, prompts in runs.items():
        play = partial(generated, server, tmp_path / name, provider, prompts, batch=True)
        killed("Follower._note", "before", 2, play)
    for name, prompts in runs.items():
        generated(server, tmp_path / name, provider, prompts, batch=True)
    assert cuts(tmp_path / "one") == online[provider]
    calls = sum(len(call_keys(tmp_path / name)) for name in runs)
    assert server.stats()["statuses"]["200"] == calls


def test_a_run_is_played_by_one_process_alone(server: Server, tmp_path: Path) -> None:
    killed("Follower._watch", "before", 1, lambda: generated(server, tmp_path / "run", batch=True))
    with take_lock(tmp_path / "run" / LOCK) as _, pytest.raises(RunError, match="in use"):
        generated(server, tmp_path / "run", batch=True)


@pytest.mark.parametrize("provider", SDKS)
def test_a_copy_of_a_run_pays_again_what_the_other_has_taken_and_has_the_same_rows(
    server: Server, online: dict[str, Any], tmp_path: Path, provider: str
) -> None:
    killed("Follower._watch", "before", 1, lambda: generated(server, tmp_path / "run", provider, batch=True))
    shutil.copytree(tmp_path / "run", tmp_path / "copy")
    for name in ("run", "copy"):
        generated(server, tmp_path / name, provider, batch=True)
        assert cuts(tmp_path / name) == online[provider]


@pytest.mark.parametrize("provider", SDKS)
@pytest.mark.parametrize("hours", [-1, 1])
def test_a_clock_that_is_wrong_by_an_hour_makes_no_batch_twice(
    server: Server, online: dict[str, Any], tmp_path: Path, provider: str, hours: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + 3600 * hours)
    killed("Follower._note", "before", 2, lambda: generated(server, tmp_path / "run", provider, batch=True))
    generated(server, tmp_path / "run", provider, batch=True)
    assert cuts(tmp_path / "run") == online[provider]
    paid_once(server, tmp_path / "run")


# Money and plans


def test_a_batch_costs_half_and_what_goes_online_all(server: Server, tmp_path: Path) -> None:
    price = {"price": "1000,2000"}
    for name, settings in {"online": {}, "batched": {"batch": True}}.items():
        generated(server, tmp_path / name, **price, **settings)
    server.behave(takes=1e9)
    generated(server, tmp_path / "mixed", batch=True, batch_wait="0s", **price)
    online, batched, mixed = (info(tmp_path / name)["cost_usd"] for name in ("online", "batched", "mixed"))
    assert batched == pytest.approx(online / 2)
    assert online / 2 < mixed < online  # a third of each batch was answered before it was cancelled


def test_a_file_that_does_not_fit_under_the_cap_is_smaller(
    server: Server, online: dict[str, Any], tmp_path: Path
) -> None:
    worst = 0.5 * (700 * 1000 + 512 * 2000) / 1e6  # of a call, at most
    generated(server, tmp_path / "free", batch=True, price="1000,2000")
    cost, files = info(tmp_path / "free")["cost_usd"], len(server.did("create"))
    server.behave()
    generated(server, tmp_path / "run", batch=True, price="1000,2000", max_cost=cost + 2 * worst)
    assert cuts(tmp_path / "run")["revisions.jsonl"] == online["openai"]["revisions.jsonl"]
    assert len(server.did("create")) > files
    paid_once(server, tmp_path / "run")


def test_a_cap_that_is_reached_lets_answers_be_taken_that_are_paid(server: Server, tmp_path: Path) -> None:
    play = partial(generated, server, tmp_path / "run", batch=True, gate=False, price="1000,2000")
    killed("Follower._watch", "before", 1, play)
    server.tell(takes=0)
    with pytest.raises(BudgetReached, match="spent"):
        play(max_cost=0.01)
    assert server.stats()["statuses"] == {"200": 6} and len(call_keys(tmp_path / "run")) == 6
    assert states(tmp_path / "run") == ["cleared"]
    play()
    paid_once(server, tmp_path / "run")


def test_the_cap_holds(server: Server, tmp_path: Path) -> None:
    with pytest.raises(BudgetReached):
        generated(server, tmp_path / "run", batch=True, price="1000,2000", max_cost=2.0)
    assert info(tmp_path / "run")["cost_usd"] <= 2.0


@pytest.mark.parametrize(
    "settings", [{"rounds": 2, "gate": False}, {"rounds": 2}, {"rounds": 1}], ids=["five", "gated", "one round"]
)
def test_a_plan_says_how_many_waves_there_will_be(server: Server, tmp_path: Path, settings: dict[str, Any]) -> None:
    common = {"constitution": "harmless", "model": "openai:m", "base_url": server.base("openai"), "batch": True}
    plan = estimate(GenerateRun(PROMPTS, GenerateSettings(**common, **settings)))
    generated(server, tmp_path / "run", batch=True, **settings)
    assert plan.waves == max(batch.wave for batch in batches_in(tmp_path / "run").batches)
    if settings.get("gate") is False:
        assert plan.waves == 5
    assert f"{plan.waves} waves of batches" in "\n".join(plan.lines())


def test_a_plan_halves_the_price(server: Server) -> None:
    common = {"constitution": "harmless", "model": "openai:m", "price": "1,2"}
    costs = [
        estimate(GenerateRun(PROMPTS, GenerateSettings(**common, batch=batch))).cost_usd for batch in (False, True)
    ]
    assert costs[0] and costs[1] == pytest.approx(costs[0] / 2)


# Settings


def test_a_model_without_batches_is_refused() -> None:
    with pytest.raises(UsageError, match="takes no batches"):
        cai.generate(PROMPTS, "harmless", model="ollama:m", batch=True)
    with pytest.raises(UsageError, match="add --batch"):
        cai.generate(PROMPTS, "harmless", model="openai:m", batch_wait="2h")
    with pytest.raises(UsageError, match="is not a time"):
        cai.generate(PROMPTS, "harmless", model="openai:m", batch=True, batch_wait="soon")


def test_an_sdk_that_is_missing_is_said_before_anything_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in PROVIDERS else found(name))
    for model in ("openai:m", "anthropic:m"):
        with pytest.raises(MissingExtra, match=r"pip install 'cai-toolkit\[cloud\]'"):
            cai.generate(PROMPTS, "harmless", model=model, batch=True)
