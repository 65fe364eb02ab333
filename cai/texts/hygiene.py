"""What can be wrong with a reply as a text: its faults and their register, refusals, and likeness.

A new fault is a function here and an entry in `FAULTS`: exports, trainings and audits read the register. Each function
reads its text once; those that look for words know English only. None can say whether a reply is true or good.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from cai.texts.likeness import Ngram
from cai.texts.off_task import OF_CHAIN, PARAGRAPHS, asks_for_the_text, echo, talks_of_itself, verdict_line
from cai.texts.refusals import refusal as refusal
from cai.texts.scripts import CODE, changes_script
from cai.texts.thoughts import holds_thoughts

READING = 10  # of texts for faults: one more if a text may get another fault than before, so that no cut remembers it
EVASIVE = 80  # characters; a shorter reply counts as evasive, as in the analysis of the paper's samples

# Replies that talk about the task instead of doing it

_DONE = (
    r"(?:revised|rewritten|re-written|rewrote|reworded|rephrased|updated|improved|corrected|edited|modified|amended|refined|"
    r"revise|rewrite|rephrase)"
)
_REPLY = r"(?:responses?(?! (?:time|rate))|repl(?:y|ies)|answers?|revisions?|completions?)"
_VERSION = rf"(?:{_REPLY}|rewrites?|versions?(?! of)|versions? of (?:the|my) (?:\w+ ){{0,2}}?{_REPLY})"
PREAMBLE = re.compile(
    r"\s*(?:[*_#>\"'(\[]+\s*)?"
    r"(?:(?:sure|certainly|of course|absolutely|okay|ok|yes|understood|got it|no problem|thank you|thanks|great|"
    r"apologies|i understand|i apologi[sz]e)\b[^.!:,\n]{0,60}[.!:,]+\s+){0,2}(?:"
    # "Here is a revised reply", and "Here is the reply, revised to …"
    rf"(?:here(?:'s| is| are)|below is|this is|the following is|(?:please )?(?:find|see) below)\b[^.!?:\n]{{0,40}}?"
    rf"\b(?:{_DONE}(?:,? \w+){{0,2}}? {_VERSION}\b|(?:response|reply|answer)\b[^.!?:\n]{{0,60}}?\b{_DONE}\b)"
    # "I have rewritten my answer", "The revised response would be"
    rf"|(?:i(?:'ve| have| will|'ll)?|let me|my|the|an?) {_DONE}(?:,? \w+){{0,2}}? {_REPLY}\b"
    # "Revised response:", "Revision:"
    rf"|(?:\w+ )?{_DONE} (?:\w+ )?{_VERSION}[*_\"]*\s*:|(?:revision(?: \d+)?|revised|rewritten)[*_\"]*\s*:"
    # "Based on the critique, …"
    r"|(?:based on|taking|considering|following|given|in (?:light|view) of|in response to|to address|after|with) "
    r"(?:\w+ )?(?:the|this|that|your|my) (?:\w+ )?(?:critique|criticism|revision request)\b(?! of))",
    re.IGNORECASE,
)

EDITING = re.compile(  # what a user may ask for
    r"\b(?:rewrit\w+|re-writ\w+|rephras\w+|reword\w*|paraphras\w+|edit(?:ed|ing|s)?|proofread\w*|polish(?:ed|ing)?"
    r"|revis(?:e|ed|ing)|improv(?:e|ed|ing)|shorten\w*|refactor\w*"
    r"|mak(?:e|ing) (?:this|it|my|the|these)\b[^.?!\n]{0,60}\b(?:more|less|better|shorter|simpler|clearer|\w+er)\b)",
    re.IGNORECASE,
)

# Replies that continue with the next turns

TOKENS = (
    re.compile(  # of all families: <|im_end|>, <｜User｜>, <|turn>, <turn|>, <end_of_turn>, [INST], <<SYS>>, [|user|] …
        r"<[|｜][^|｜<>\s]{2,40}[|｜]>|<\|turn>|<turn\|>|<(?:start|end)_of_turn>|\[/?(?:INST|SYSTEM_PROMPT)\]|<</?SYS>>"
        r"|\[\|\w{2,20}\|\]|<seed:[be]os>|<longcat_\w+>|\[gMASK\]|<extra_id_\d+>|<SPECIAL_\d+>"
    )
)
TURN = re.compile(  # at the start of a paragraph
    r"(?:\A|(?:\A|\n)[^\S\n]*\n)[ \t]*[*_#]*"
    r"(Human|User|Assistant|Critique ?Request|Revision ?Request|Critique|Revision)[*_]*[ \t]?:"
)
SPEAKER = re.compile(r"^[ \t]*[*_#]*([A-Z][\w.'’ -]{0,24}?)(?: ?\([^)\n]{1,40}\))?[*_]*[ \t]?:", re.MULTILINE)
_PARTY = r"(?:humans?|users?|customers?|assistants?|AIs?|(?:chat)?bots?|robots?|agents?)\b"
SCENE = re.compile(  # what a user may ask for
    r"\b(?:writ(?:e|ing)|give|create|make|imagine|simulate|act out|continue|generate|compose|draft|play)\b"
    r"[^.?!\n]{0,60}?\b(?:(?:dialog(?:ue)?|scene|skit|sketch|screenplay|transcript|role-?play|chat ?log|interview"
    rf"|conversation)\b[^.?!\n]{{0,60}}?\b{_PARTY}"
    rf"|(?:script|play|chat|exchange)\b[^.?!\n]{{0,40}}?\bbetween\b[^.?!\n]{{0,40}}?\b{_PARTY})",
    re.IGNORECASE,
)
REQUESTS = {"CritiqueRequest", "RevisionRequest"}
NO_SPEAKERS = re.compile("Human|User|Assistant|Critique|Revision|Note|Example|Tip|Warning|Step")

# Habits

EMOJI = re.compile(  # pictures; not the ticks, arrows and stars of plain lists
    "[\U0001f1e6-\U0001f1ff\U0001f300-\U0001faff\u2600-\u2604\u2607-\u26ff\u2702-\u270d\u2728\u2763\u2764\u2b50]"
)
COMFORT = re.compile(r"here (?:to listen|to support you|for you)", re.IGNORECASE)
SIGN_OFF = re.compile(
    r"\bhope (?:this|that|it|these|you find (?:this|that|it))\b.{0,40}\b(?:help|useful|answer|clarif)"
    r"|\blet me know (?:if|how|whether|what|when)\b|\b(?:feel free|don['’]?t hesitate|do not hesitate) to\b"
    r"|\bif you(?:['’]d| would)? (?:have|need|want|like) (?:any|more|further|additional|other|some) (?:\w+ )?"
    r"(?:question|help|assistance|information|detail|concern|clarification|advice|support)"
    r"|\bis there anything else\b|\bi(?:['’]m|['’]d be| am| would be) (?:\w+ )?(?:happy|glad|here) to "
    r"(?:help|assist|answer|explain)\b"
    r"|\b(?:good luck|best of luck|happy \w+ing)\W*$|[.!?]\s+enjoy\b.{0,30}$"
    r"|\bhave an? (?:\w+ ){0,2}(?:day|one|time|weekend)\b|\b(?:would|do) you (?:like|want) me to\b",
    re.IGNORECASE,
)
TAIL = 240  # characters in which a reply signs off
ENDS = ".!?…。！？\"'”’»)]}*_`>|~=$"
ITEM = re.compile(r"[ \t]*(?:[-*•+]|\d{1,3}[.)])[ \t]")
PROSE = 60  # characters; a last line that is shorter may be a name, a number, a line of verse


def preamble_leak(reply: str, prompt: str = "") -> bool:
    """Whether a reply begins with talk about its task: "Here is a revised reply", "Revision:", "Given the critique".

    Whoever asks for a text to be edited may be told that it is; if the text is a reply, they say so.
    """
    found = PREAMBLE.match(reply, 0, 400)
    if found is None or not EDITING.search(prompt):
        return found is not None
    return OF_CHAIN.search(found[0]) is not None and not OF_CHAIN.search(prompt)


def role_mixup(reply: str, prompt: str = "") -> bool:
    """Whether a reply continues with turns that are not its own, or holds the markers of a chat template.

    Code is left out. `Human:`, `User:` and `Assistant:` count at the start of a paragraph; a `User:` needs an
    `Assistant:` beside it, and a `Critique:` a `Revision:`, for both are headings of ordinary texts. They do not count
    in a scene, where another speaker has two lines or more, or if the user asks for one with a human, an assistant or
    the like; "write a dialogue" alone does not ask for such turns.
    """
    if ":" not in reply and "<" not in reply and "[" not in reply:
        return False
    text = CODE.sub("", reply) if "`" in reply or "~~~" in reply else reply
    if TOKENS.search(text):
        return True
    names = {name.replace(" ", "") for name in TURN.findall(text)}
    if names & REQUESTS:
        return True
    if SCENE.search(prompt):
        return False
    if not ("Human" in names or "Assistant" in names or {"Critique", "Revision"} <= names):
        return False
    others = Counter(name for name in SPEAKER.findall(text) if not NO_SPEAKERS.fullmatch(name))
    return max(others.values(), default=0) < 2


def evasive(reply: str) -> bool:
    """Whether a reply has fewer than 80 characters, space around it not counted; an empty one is empty, not evasive."""
    return 0 < len(reply.strip()) < EVASIVE


def emoji(reply: str) -> bool:
    """Whether a reply holds a pictograph."""
    return not reply.isascii() and EMOJI.search(reply) is not None


def comfort(reply: str) -> bool:
    """Whether a reply is "here to listen", "here to support you" or "here for you" (or: is, or was, "there …").

    The stock phrase into which harmlessness training collapsed in Bai et al. 2022 (section 4.3).
    """
    return COMFORT.search(reply) is not None


def sign_off(reply: str) -> bool:
    """Whether a reply closes with a pleasantry: "I hope this helps!", "Let me know if …"."""
    return SIGN_OFF.search(reply.rstrip()[-TAIL:]) is not None


def truncated(reply: str) -> bool:
    """Whether a reply seems cut off: its last line is prose that ends without punctuation, or its code is not closed.

    A guess from the text alone: a verse, a name or a list whose items have no full stops is left alone.
    """
    text = reply.rstrip()
    if not text:
        return False
    if ("\n" + text).count("\n```") % 2:
        return True
    if text[-1] in ENDS or EMOJI.match(text[-1]):
        return False
    if text[-1] in ",;(–—-&/":
        return True
    *before, last = text.split("\n")[-12:]
    if ITEM.match(last):
        others = [line.rstrip() for line in before if ITEM.match(line)]
        return bool(others) and all(line[-1] in ENDS for line in others)
    return len(last) >= PROSE and not last.split()[-1].startswith(("http://", "https://"))


# Refusals

READ_FOR_REFUSALS = 1_000  # first replies of a generate run, in input order: the share is then known to 2.5 points
MANY_REFUSALS = 0.2


# The register


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault of a text.

    test: whether a text has it. words: complete "the reply …". of: "learned" if it leaves a text that a model learns
    to write (a chosen reply, a final text) out of the training files, "any" if it is only counted by audits. sees: what
    the test is given: the reply, with what the user has said if "prompt", and with the word n-grams of the questions
    about the reply if "asked".
    """

    test: Callable[..., bool]
    words: str
    of: Literal["learned", "any"] = "any"
    sees: Literal["reply", "prompt", "asked"] = "reply"

    def is_in(self, reply: str, prompt: str = "", asked: frozenset[Ngram] = frozenset()) -> bool:
        """Whether a reply has the fault."""
        if self.sees == "reply":
            return self.test(reply)
        if self.sees == "prompt":
            return self.test(reply, prompt)
        return self.test(reply, prompt, asked)


FAULTS: dict[str, Fault] = {  # by name, the drop reason; of several faults of a text the first is its reason
    "truncated": Fault(truncated, "seems to be cut off"),
    "preamble_leak": Fault(preamble_leak, "announces itself", of="learned", sees="prompt"),
    "role_mixup": Fault(role_mixup, "continues with turns that are not its own", of="learned", sees="prompt"),
    "thoughts": Fault(holds_thoughts, "holds thoughts of a reasoning model", of="learned"),
    "verdict_line": Fault(verdict_line, "gives a verdict on itself", of="learned", sees="prompt"),
    "off_task": Fault(talks_of_itself, "talks about a reply instead of being one", of="learned", sees="prompt"),
    "asks_for_text": Fault(asks_for_the_text, "asks for the text to rewrite", of="learned", sees="prompt"),
    "echo": Fault(echo, "repeats the words of what was asked about it", of="learned", sees="asked"),
    "script": Fault(changes_script, "changes to another script", of="learned", sees="prompt"),
    "evasive": Fault(evasive, "is very short"),
    "comfort": Fault(comfort, "offers stock comfort"),
    "sign_off": Fault(sign_off, "closes with a pleasantry"),
    "emoji": Fault(emoji, "holds a pictograph"),
}
LEARNED = {name: fault for name, fault in FAULTS.items() if fault.of == "learned"}


def said_in(conversation: Iterable[Mapping[str, Any]]) -> str:
    """What the user says in a conversation, which a reply may be about: after "ok" its language is that of before."""
    return PARAGRAPHS.join(turn["content"] for turn in conversation if turn["role"] == "user")


def faults_of(text: str, prompt: str = "", asked: frozenset[Ngram] = frozenset()) -> Iterator[str]:
    """The faults for which a reply is not fit to be learned, by name.

    prompt: what the user has said (`said_in`). asked: the word n-grams of the questions about the reply
    (`off_task.ngrams_of`).
    """
    for name, fault in LEARNED.items():
        if fault.is_in(text, prompt, asked):
            yield name
