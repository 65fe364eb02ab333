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
CAPPED = {  # what a cap on the cost cannot hold beside
    "max_tokens": "use --max-tokens alone",
    "max_completion_tokens": "use --max-tokens alone",
    **dict.fromkeys(
        ("models", "route", "plugins", "service_tier", "tools", "web_search_options"), "what it costs is in no table"
    ),
}


def check_extra_body(body: Object, *, capped: bool) -> None:
    """Raise UsageError for a body that cannot be sent, or that would change what is asked; capped: its cost is."""
    try:
        orjson.dumps(dict(body))
    except TypeError as error:
        raise UsageError(f"--extra-body cannot be sent as JSON: {error}") from None
    for name in sorted(FIXED.keys() & body.keys()):
        raise UsageError(f"--extra-body must not hold {name!r}: {FIXED[name]}")
    for name in sorted(CAPPED.keys() & body.keys()) if capped else ():
        raise UsageError(f"--max-cost cannot hold with {name!r} in --extra-body: {CAPPED[name]}")
