"""Which fields of a request a server does not take, and what to do about them."""

from __future__ import annotations

import json
import re

from cai.models.remote.failures import Failure, pattern_of
from cai.records import Object

REFUSES = pattern_of(
    r"unknown|unrecogni[sz]ed|unsupported|unexpected|invalid|deprecated|disabled|no such|extra_forbidden",
    r"extra (inputs|fields?|data|propert)|additional propert|out of range|range of|too (large|high|many)",
    r"no (endpoints?|providers?|models?) .{0,40}support",
    r"at most|max(imum| allowed)|(greater|less|more) than|exceed|between",
    r"(not|n['’]t)( be)? (support|allow|permit|accept|a valid|a support|available|recogni|implement)",
    r"(not|n['’]t) (take|exist|have)|only .{0,60}(support|allow|accept)|(must|should)( not)? be|must not|cannot",
)
TAKEN_BY_ALL = ("model", "messages", "prompt", "system", "stream")
ENGLISH = ("stop", "user", "n", "tools")  # fields whose names are words: they count if they are named as a field
NOUN = r"(?:parameters?|fields?|arguments?|names?|property|properties|options?|keys?|supports?|supported|settings?)"
PLACE = r"(?:(?:\$|\b(?:body|properties|request))[./]|#/|(?<![^\s\"'`(\[])/)"  # before the name in a pointer or a path
TOGETHER = ({"continue_final_message", "add_generation_prompt"}, {"logprobs", "top_logprobs"})  # one is not without
LIMIT = re.compile(r"(?:equal to|at most|max(?:imum)?(?: allowed)?(?: is| of)?:?|up to|<=|between \d+ and)\s*(\d+)")
INSTEAD = {  # what does better than leaving a field out
    "max_tokens": "lower --max-tokens",
    "max_completion_tokens": "lower --max-tokens",
    "temperature": "set --temperature",
    "logprobs": "ask a judge with --protocol vote",
    "top_logprobs": "ask a judge with --protocol vote",
}


def refused_fields(answer: Failure, payload: Object) -> list[str]:
    """The fields of a request that an error names as what the server does not take.

    What follows a mention of the conversation is not read: it may quote it.
    """
    if not REFUSES.search(answer.words):
        return []
    fields = [name for name in payload if name not in TAKEN_BY_ALL]
    stated = [name for name in fields if name in answer.fields]
    text = re.split(r"\b(?:messages|content|prompts?)\b", answer.words)[0]
    return stated or [name for name in fields if _names(text, name)]


def _names(text: str, field: str) -> bool:
    if re.search(rf"{PLACE}{re.escape(field)}(?!\w)", text):
        return True
    if field not in ENGLISH:
        return re.search(rf"(?<![\w.]){re.escape(field)}(?!\w)", text) is not None
    named = rf"[`'\"\[(>]\s?{field}\b|\b{NOUN}[:s]?( supplied:)?\s+{field}\b|\b{field}\s*(?:=|:|{NOUN}|is\b|must\b)"
    return re.search(named, text) is not None


def way_out(answer: Failure, payload: Object) -> str:
    """What to do about a field that a server does not take."""
    fields = refused_fields(answer, payload)
    if not fields:
        return "change the setting, or take it out with --extra-body '{\"NAME\": null}'"
    for together in TOGETHER:
        if together & set(fields):
            fields += sorted(together & payload.keys() - set(fields))
    changes: dict[str, object] = dict.fromkeys(fields)
    if fields == ["max_tokens"] and "max_completion_tokens" in answer.message:
        changes["max_completion_tokens"] = payload["max_tokens"]
    limit = LIMIT.search(answer.message)
    if limit is not None and int(limit[1]) > 1 and "top_logprobs" in fields:
        return f"ask for fewer with --extra-body '{json.dumps({'top_logprobs': int(limit[1])})}'"
    others = dict.fromkeys(INSTEAD[field] for field in fields if field in INSTEAD)
    leave_out = f"leave {' and '.join(fields)} out with --extra-body '{json.dumps(changes)}'"
    return ", or ".join([*others, leave_out])
