"""What may be merged into every request by hand, and what not."""

from __future__ import annotations

FIXED = {  # keys of a request that the method, the reader of the answers, or the run's identity depends on
    "messages": "the templates word what is asked",
    "prompt": "the templates word what is asked",
    "input": "the templates word what is asked",
    "questions": "the templates word what is asked",
    "system": "use --system",
    "model": "name the model by its option",
    "stream": "answers are read whole",
    "n": "one answer is read",
    "best_of": "one answer is read, and all are billed",
}
