"""The two forms of a row of sft.jsonl, which differ in what TRL's SFTTrainer learns from it.

Of `prompt` and `completion` it learns the completion: the reply, its end of turn and what the chat template puts after
that. Of `messages` it learns every turn, those of the user and the template's own system text, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from cai.export.parquet import Columns
from cai.records import Values

SftFormat = Literal["completion", "messages"]
SFT_FORMAT = (  # its help
    "Columns of sft.jsonl: completion (prompt and completion; TRL trains on the completion alone) or messages (TRL "
    "trains on all turns). Default: completion."
)
SFT_REASONING = (
    "Generate runs of a thinking model: put its reasoning before each SFT reply, between <think> and </think>, as the "
    "chat templates of such models do."
)
COLUMNS: dict[SftFormat, Columns] = {
    "completion": {"prompt": "turns", "completion": "turns"},
    "messages": {"messages": "turns"},
}


def with_reasoning(reply: str, reasoning: str | None) -> str:
    """A reply behind the reasoning that led to it; as it is if there is none."""
    return reply if reasoning is None else f"<think>\n{reasoning.strip()}\n</think>\n\n{reply}"


def conversation(prompt: Sequence[Any], reply: str, sft_format: SftFormat) -> Values:
    """The columns of a conversation that ends with a reply."""
    answer = {"role": "assistant", "content": reply}
    if sft_format == "messages":
        return {"messages": [*prompt, answer]}
    return {"prompt": prompt, "completion": [answer]}
