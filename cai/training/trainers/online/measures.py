"""What replies look like while a model learns from rewards: the signs that it learns to please and nothing else."""

from __future__ import annotations

from collections.abc import Sequence

from cai.texts.hygiene import FAULTS
from cai.texts.repetition import distinct, tokens

STOCK = ("comfort", "sign_off")  # faults that make a reply agreeable whatever was asked
# Words of a batch that distinct-2 is of: it falls with the number of words alone, so that longer replies would seem to
# repeat each other more.
WORDS = 256


def text_measures(replies: Sequence[str]) -> dict[str, list[float]]:
    """Measures by the name that metrics.jsonl has: numbers whose mean is meant, one a reply or one for all."""
    boilerplate = [float(any(FAULTS[name].is_in(reply) for name in STOCK)) for reply in replies]
    words = [word for reply in replies for word in [*tokens(reply), "\n"]][:WORDS]
    share = distinct([words], 2)
    return {"replies/boilerplate": boilerplate, "replies/distinct_2": [1.0 if share is None else share]}
