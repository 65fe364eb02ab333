"""Run folders with rows made for tests."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from cai.folder.run import RunFolder
from cai.records import ConstitutionRef, Drop, Message, Prompt, Revision, Round, Usage

LAW = ConstitutionRef(name="kind", version="1.2.0", hash="c0ffee")

IDENTITY: dict[str, Any] = {
    "command": "generate",
    "source": {"what": "python", "format": None, "field": None},
    "constitution": LAW.model_dump(),
    "templates": "7e57",
    "models": {"assistant": "openai:small", "critic": "openai:small", "reviser": "openai:small"},
    "rounds": 1,
    "gate": 0.5,
    "system": None,
    "sampling": {"temperature": 1.0, "max_tokens": 512, "extra_body": {}},
    "seed": 0,
}


def ask(text: str) -> tuple[Message, ...]:
    return ({"role": "user", "content": text},)


def revision(position: int, *texts: str | None, initial: str = "first", prompt: str | None = None) -> Revision:
    """A row whose rounds wrote `texts`; None for a round that the gate let pass."""
    rounds, reply = [], initial
    for number, text in enumerate(texts, 1):
        changed = text is not None and text != reply
        gate: dict[str, Any] = {"verdict": "revise", "p_revise": 0.75}
        if text is None:
            gate = {"verdict": "nothing_to_fix", "p_revise": 0.25}
        rounds.append(Round(principle=f"p{number}", critique="Hm.", revision=text, changed=changed, **gate))
        reply = reply if text is None else text
    return Revision(
        id=f"r{position}",
        position=position,
        prompt=ask(prompt if prompt is not None else f"Question {position}?"),
        initial=initial,
        rounds=tuple(rounds),
        final=reply,
        constitution=LAW,
        templates="7e57",
        models={"assistant": "small-0", "critic": "small-0"} | ({"reviser": "small-1"} if any(texts) else {}),
        seed=0,
        usage=Usage(),
        calls=("00" * 16,),
    )


def revisions_of(folder: Path) -> list[Revision]:
    """The rows of a generate run, in input order."""
    lines = (folder / "revisions.jsonl").read_text().splitlines()
    return sorted(map(Revision.model_validate_json, lines), key=lambda row: row.position)


def lost(position: int, reason: Any = "truncated") -> Drop:
    prompt = ask(f"Lost {position}")
    return Drop(id=f"r{position}", position=position, stage="assistant", reason=reason, detail="…", prompt=prompt)


def make_run(folder: Path, items: Iterable[Revision | Drop], **info: Any) -> Path:
    """A run folder in which `items` finished in this order; called again, it resumes there."""

    async def fill() -> None:
        run = RunFolder(folder, IDENTITY)
        for item in items:
            if isinstance(item, Drop):
                await run.drop(item)
            else:
                prompt = Prompt(id=item.id, messages=item.prompt)
                run.pending(prompt, item.position)
                await run.keep(item, item.position, prompt)
        run.write_info(**({"stopped": None} | info))
        run.close()

    asyncio.run(fill())
    return folder
