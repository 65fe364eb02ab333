"""Which fields of a request a server does not take, and what to do about them."""

from __future__ import annotations

import json
import re

from cai.models.remote.failures import Failure, pattern_of
from cai.records import Object

REFUSES = pattern_of(
    r"unknown|unrecogni[sz]ed|unsupported|unexpected|invalid|malformed|deprecated|disabled|no such|extra_forbidden",
    r"extra (inputs|fields?|data|propert)|additional propert|\brange\b|too (large|high|many|big)",
    r"no (endpoints?|providers?|models?) .{0,40}support",
    r"at most|max(imum| allowed)|(greater|less|more) than|less or equal|exceed|between|requires",
    r"(not|n['’]t)( be)? (support|allow|permit|accept|enabl|a valid|a support|available|recogni|implement)",
    r"(not|n['’]t) (take|exist|have)|only .{0,60}(support|allow|accept)|\b(must|should|cannot)\b",
)
# OpenRouter's words if nobody behind it takes all fields; it is told to leave out whoever lists no alternatives.
UNNAMED = pattern_of(r"no endpoints found that can handle the requested parameters")
TAKEN_BY_ALL = ("model", "messages", "prompt", "system", "stream")
ENGLISH = ("stop", "user", "n", "tools")  # fields whose names are words: they count if they are named as a field
TOKENS = r"max(imum)?[_ ]?((output|new|completion)[_ ]?)?tokens(_to_sample)?"
SPELLINGS = {"max_tokens": TOKENS, "max_completion_tokens": TOKENS, "stop": "stop(_?sequences)?"}
QUOTES = re.compile(  # what follows quotes the conversation, or lists the fields that are taken
    r"\b(?:messages|content|prompts?)\b|expected one of"
    r"|(?<!not )\b(?:known|valid|allowed|permitted|supported|available|accepted|allowed_\w+)[ _]"
    r"(?:properties|fields|parameters|params|keys|options|names|arguments)\b"
)
NOUN = r"(?:parameters?|fields?|arguments?|names?|property|properties|options?|keys?|supports?|supported|settings?)"
PLACE = r"(?:(?:\$|\b(?:body|properties|request))[./]|#/|(?<![^\s\"'`(\[])/)"  # before the name in a pointer or a path
TOGETHER = ({"continue_final_message", "add_generation_prompt"}, {"logprobs", "top_logprobs"})  # one is not without
LIMIT = re.compile(
    r"(?:equal to|at most|max(?:imum)?(?: allowed)?(?: is| of)?:?|up to|<=|between \d+ and|\[\d+,)\s*(\d+)"
)
INSTEAD = {  # what does better than leaving a field out
    "max_tokens": "lower --max-tokens",
    "max_completion_tokens": "lower --max-tokens",
    "temperature": "set --temperature",
    "logprobs": "ask a judge with --protocol vote",
    "top_logprobs": "ask a judge with --protocol vote",
    "questions": "ask under fewer with --principles",
}
NEEDED = ("input", "questions", "state")  # of typed questions: they cannot be left out


def refused_fields(answer: Failure, payload: Object) -> list[str]:
    """The fields of a request that an error points to, or names in words as what the server does not take."""
    fields = {name: SPELLINGS.get(name, name.replace("_", "_?")) for name in payload if name not in TAKEN_BY_ALL}
    stated = [name for name, spelling in fields.items() if any(_is(spelling, field) for field in answer.fields)]
    if not stated and UNNAMED.search(answer.words):
        stated = [name for name in ("logprobs", "top_logprobs") if name in payload]
    if stated or not REFUSES.search(answer.words):
        return stated
    text = QUOTES.split(answer.words.replace("&quot;", '"'), maxsplit=1)[0]
    return [name for name, spelling in fields.items() if _names(text, name, spelling)]


def _is(spelling: str, field: str) -> bool:
    return re.fullmatch(spelling, field, re.IGNORECASE) is not None


def _names(text: str, name: str, field: str) -> bool:
    """Whether a text names a field; field: a pattern of its spellings, such as topLogprobs."""
    ways = [rf"{PLACE}{field}(?!\w)"]
    if name in ENGLISH:
        ways += [rf"[`'\"\[(>]\s?{field}\b", rf"\b{NOUN}[:s]?( supplied:)?\s+{field}\b", rf": {field}\W*$"]
        ways.append(rf"\b{field}\s*(?:=|:|{NOUN}|is\b|must\b)")
    else:
        ways.append(rf"(?<![\w.-]){field}(?![\w-])")
    return re.search("|".join(ways), text, re.IGNORECASE) is not None


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
    if not {*fields}.isdisjoint(NEEDED):
        return ", or ".join([*others, "ask with another --protocol"])
    leave_out = f"leave {' and '.join(fields)} out with --extra-body '{json.dumps(changes)}'"
    return ", or ".join([*others, leave_out])
