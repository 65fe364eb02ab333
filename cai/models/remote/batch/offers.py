"""Whose models take calls as batches, through which SDK, and what a call costs there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cai.calls.batches.service import BatchService
    from cai.models.remote.anthropic import AnthropicModel
    from cai.models.remote.openai import OpenAIModel


@dataclass(frozen=True, slots=True)
class BatchOffer:
    """The batches of a provider.

    open: for a model that was started, seconds of a call, and what names the run. package: the SDK that it takes.
    source: the page that documents them. share: what a call costs, of its price online.
    """

    open: Callable[[Any, float, str], BatchService]
    package: str
    source: str
    share: float = 0.5


def _in_files(model: OpenAIModel, timeout: float, run: str) -> BatchService:
    from cai.models.remote.batch.openai import OpenAIBatches

    return OpenAIBatches(model, timeout, run)


def _of_messages(model: AnthropicModel, timeout: float, run: str) -> BatchService:
    from cai.models.remote.batch.anthropic import AnthropicBatches

    return AnthropicBatches(model, timeout, run)


_OPENAI = BatchOffer(_in_files, "openai", "https://platform.openai.com/docs/guides/batch")
OFFERS = {
    "openai": _OPENAI,
    "azure": replace(_OPENAI, source="https://learn.microsoft.com/azure/ai-foundry/openai/how-to/batch"),
    "anthropic": BatchOffer(
        _of_messages, "anthropic", "https://platform.claude.com/docs/en/build-with-claude/batch-processing"
    ),
    # A quarter less, as its page had it; if it takes half off by now, a cap holds all the more.
    "groq": replace(_OPENAI, source="https://console.groq.com/docs/batch", share=0.75),
}
