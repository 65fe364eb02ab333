"""What a training leaves beside its model: samples before and after, plots and the model card.

Knows the folder and the model at hand; nothing of rows' kinds or of trainers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from cai.errors import MissingExtra
from cai.folder.files import write_atomically
from cai.training.data.rows import TrainingRow
from cai.training.report.card import card
from cai.training.report.plots import write_plots
from cai.training.report.samples import Sample, choose_prompts, length_note, read_samples, samples, write_samples
from cai.training.setup.folder import TrainFolder

MOST_TOKENS = 128  # of a sampled reply: half a minute for 8 of them with 135M parameters on a CPU


def sample_before(
    folder: TrainFolder, model: Any, tokenizer: Any, rows: Iterable[TrainingRow], *, room: int, most: int
) -> None:
    """Keep what the untrained model says to up to `most` of the rows' prompts that have at most `room` tokens."""
    chosen = choose_prompts(rows, tokenizer, room, most)
    prompts = [row.prompt for row in chosen]
    before = samples(model, tokenizer, prompts, most_tokens=MOST_TOKENS) if prompts else []
    made = [
        Sample(id=row.id, prompt=row.prompt, before=text, most_tokens=MOST_TOKENS)
        for row, text in zip(chosen, before, strict=True)
    ]
    write_samples(folder.path, made)


def sample_after(folder: TrainFolder, model: Any, tokenizer: Any) -> str | None:
    """Add what the trained model says to the same prompts; a line where lengths changed much."""
    rows = read_samples(folder.path)
    if not rows:
        return None
    texts = samples(model, tokenizer, [row.prompt for row in rows], most_tokens=MOST_TOKENS)
    made = [row.model_copy(update={"after": text}) for row, text in zip(rows, texts, strict=True)]
    write_samples(folder.path, made)
    return length_note(made)


def write_evidence(folder: TrainFolder, tell: Callable[[str], None]) -> None:
    """Draw the plots and write the card, from what the folder holds; without matplotlib a note in place of plots."""
    try:
        write_plots(folder.path, folder.metrics())
    except MissingExtra as error:
        tell(f"note: no plots: {error}")
    write_atomically(folder.path / "README.md", card(folder.path).encode())
