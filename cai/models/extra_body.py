"""What may be merged into every request by hand, and what not."""

from __future__ import annotations

import orjson

from cai.errors import UsageError
from cai.records import Object

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
PRICED = ("models", "route", "plugins", "service_tier", "tools", "web_search_options")  # cost more than the table says


def check_extra_body(body: Object, *, capped: bool) -> None:
    """Raise UsageError for a body that cannot be sent, or that would change what is asked; capped: its cost is."""
    try:
        orjson.dumps(dict(body))
    except TypeError as error:
        raise UsageError(f"--extra-body cannot be sent as JSON: {error}") from None
    for name in sorted(FIXED.keys() & body.keys()):
        raise UsageError(f"--extra-body must not hold {name!r}: {FIXED[name]}")
    for name in sorted({"max_tokens", "max_completion_tokens"} & body.keys()):
        if capped:
            raise UsageError(f"--max-cost cannot hold with {name!r} in --extra-body: use --max-tokens alone")
    for name in PRICED:
        if capped and body.get(name) is not None:
            raise UsageError(f"--max-cost cannot hold with {name!r} in --extra-body: what it costs is in no table")
