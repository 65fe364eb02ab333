"""The paper's own chains through our flow: every turn asked, and every row, come out as they were recorded."""

from __future__ import annotations

import asyncio
import gzip
import json
from pathlib import Path
from statistics import mean
from typing import Any

import pytest
from shared import shared

from cai.calls.flow import Driver
from cai.calls.limits import Limiter
from cai.calls.prices import Tally
from cai.calls.seats import Played, Seat
from cai.constitution.files import load_constitution
from cai.constitution.importers import import_constitution
from cai.constitution.principles import Constitution, Principle
from cai.engine.revise import Ask, Chain, revise
from cai.engine.templates.sets import load_templates
from cai.folder.journal.store import Store, read_calls
from cai.models.recorded import RecordedModel
from cai.records import Prompt, Role, Sampling
from cai.sources.files import read_prompts

pytestmark = pytest.mark.shared_data
ROLES: tuple[Role, ...] = ("assistant", "critic", "reviser")


@pytest.fixture(scope="module")
def paper() -> Path:
    return shared("cai_paper")


@pytest.fixture(scope="module")
def chains(paper: Path) -> list[dict[str, Any]]:
    with gzip.open(paper / "PALMS_SLMADISON.jsonl.gz", "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


@pytest.fixture(scope="module")
def law(paper: Path, tmp_path_factory: pytest.TempPathFactory) -> Constitution:
    path = tmp_path_factory.mktemp("law") / "paper.yaml"
    path.write_text(import_constitution(paper / "CritiqueRevisionInstructions.json"), encoding="utf-8")
    return load_constitution(path)


@pytest.fixture(scope="module")
def prompts(chains: list[dict[str, Any]]) -> list[Prompt]:
    read = list(read_prompts([{"id": str(n), "prompt": chain["rl_prompt"]} for n, chain in enumerate(chains)]))
    return [item for item in read if isinstance(item, Prompt)]


@pytest.fixture(scope="module")
def played(
    chains: list[dict[str, Any]], law: Constitution, prompts: list[Prompt], tmp_path_factory: pytest.TempPathFactory
) -> tuple[list[Played[Chain]], dict[str, str]]:
    """The chains that the driver played, and the text of every call by its key."""
    folder = tmp_path_factory.mktemp("paper")
    record(chains, folder / "answers.jsonl")
    by_id = {principle.id: principle for principle in law.principles}
    drawn = [[by_id[turn["cst_key"]] for turn in chain["cst"]] for chain in chains]
    results = asyncio.run(play(folder, law, prompts, drawn))
    return results, {call.key: call.request["payload"]["text"] for call in read_calls(folder)}


def record(chains: list[dict[str, Any]], path: Path) -> None:
    """The samples of the paper's model as a file for `recorded:`."""
    with path.open("w", encoding="utf-8") as file:
        for number, chain in enumerate(chains):
            said = [("assistant", 0, chain["initial_response"][0])]
            for index, turn in enumerate(chain["cst"]):
                said += [("critic", index, turn["critique"]), ("reviser", index, turn["revision"])]
            for role, index, answer in said:
                line = {"id": str(number), "role": role, "index": index, "reply": answer["sample"]}
                file.write(json.dumps(line) + "\n")


async def play(
    folder: Path, law: Constitution, prompts: list[Prompt], drawn: list[list[Principle]]
) -> list[Played[Chain]]:
    ask = Ask(load_templates("fewshot"), law)
    model, tally = RecordedModel(str(folder / "answers.jsonl")), Tally()
    await model.start()
    seat = Seat(model, Limiter(8, tally=tally), Sampling(), None)
    store = Store(folder)
    driver = Driver(dict.fromkeys(ROLES, seat), store, seed=0, budget=None, tally=tally)
    flows = [revise(prompt, principles, ask, gate=None) for prompt, principles in zip(prompts, drawn, strict=True)]
    plays = [driver.play(prompt.id, n, flow) for n, (prompt, flow) in enumerate(zip(prompts, flows, strict=True))]
    try:
        return await asyncio.gather(*plays)
    finally:
        store.close()
        await model.close()


def papers_turns(chain: dict[str, Any]) -> list[str]:
    """What the paper's model was asked: its own texts, put end to end as in its appendix."""
    asked = [chain["rl_prompt"]]
    reply = chain["initial_response"][0]["sample"].strip()
    for turn in chain["cst"]:
        [request] = turn["cst_value"]["prompt"]
        before = f"{chain['rl_prompt']} {reply}{request}"
        asked += [before, f"{before} {turn['critique']['sample'].strip()}{turn['cst_value']['edit_request']}"]
        reply = turn["revision"]["sample"].strip()
    return asked


def test_the_papers_prompts_are_read_as_one_question_each(prompts: list[Prompt], chains: list[dict[str, Any]]) -> None:
    assert [f"\n\nHuman: {prompt.messages[0]['content']}\n\nAssistant:" for prompt in prompts] == [
        chain["rl_prompt"] for chain in chains
    ]


def test_every_turn_asked_is_the_papers_after_our_worked_examples(
    played: tuple[list[Played[Chain]], dict[str, str]], chains: list[dict[str, Any]]
) -> None:
    results, texts = played
    before: dict[bool, set[str]] = {True: set(), False: set()}
    for result, chain in zip(results, chains, strict=True):
        turns = papers_turns(chain)
        assert len(result.calls) == len(turns) == 9
        for number, (key, turn) in enumerate(zip(result.calls, turns, strict=True)):
            assert texts[key].endswith(turn)
            before[number == 0].add(texts[key].removesuffix(turn))
    assert all(len(starts) == 1 for starts in before.values())  # the examples, the same in front of every turn
    assert all(start.count("\n\nAssistant:") >= 5 for starts in before.values() for start in starts)
    assert len(texts) == 9 * len(chains)


def test_every_row_comes_out_as_recorded(
    played: tuple[list[Played[Chain]], dict[str, str]], chains: list[dict[str, Any]]
) -> None:
    for result, chain in zip(played[0], chains, strict=True):
        rounds = result.result.rounds
        assert result.result.initial == chain["initial_response"][0]["sample"].strip()
        assert [turn.principle for turn in rounds] == [turn["cst_key"] for turn in chain["cst"]]
        assert [turn.critique for turn in rounds] == [turn["critique"]["sample"].strip() for turn in chain["cst"]]
        revisions = [turn["revision"]["sample"].strip() for turn in chain["cst"]]
        assert [turn.revision for turn in rounds] == revisions
        assert result.result.final == revisions[-1]
        replies = [result.result.initial, *revisions]
        assert [turn.changed for turn in rounds] == [a != b for a, b in zip(replies, revisions, strict=False)]
        assert {turn.verdict for turn in rounds} == {None}


def test_lengths_and_repetitions_are_those_of_the_data(
    played: tuple[list[Played[Chain]], dict[str, str]], chains: list[dict[str, Any]]
) -> None:
    recorded = [[c["initial_response"][0], *(turn["revision"] for turn in c["cst"])] for c in chains]
    assert [round(mean(len(c[n]["sample"]) for c in recorded)) for n in range(5)] == [486, 378, 352, 361, 370]
    kept = [[p.result.initial, *(turn.revision or "" for turn in p.result.rounds)] for p in played[0]]
    # Our rows are stripped: of the space after "Assistant:", and of blank lines at the end of a few.
    assert [round(mean(len(c[n]) for c in kept)) for n in range(5)] == [485, 377, 351, 360, 369]
    drawn = [[turn.principle for turn in p.result.rounds] for p in played[0]]
    assert sum(len(set(principles)) < 4 for principles in drawn) == 13
