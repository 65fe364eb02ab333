"""The thoughts of a reasoning model, separated from its reply; and what is left of them in a text.

Thoughts are blocks in front of a reply, between two marks of a family in `FAMILIES`. A mark that a text only mentions
is part of the text: one in code or quotes, or in the middle of a sentence ("the tag </think> closes it"). A block may
lack its opening mark, which many chat templates write: then the closing mark counts if no opening one comes before it
and it ends what comes before, at the start of a line, after a full stop, or with no space before it. What could be
either stays in the reply, and is the fault `thoughts`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

_NAME = (
    r"(?:\w{1,20}[:_])?(?:think(?:ing)?(?:_process)?|thoughts?(?:_process)?|chain_of_thought|cot|reasoning|deliberation|"
    r"scratch_?pad|monologue|reflection)(?::\w{1,20})?"
)
_CODE = (
    r"^[ \t]*(?P<fence>```|~~~)(?s:.*?)^[ \t]*(?P=fence)|(?P<ticks>``?)[^`\n]+(?P=ticks)|<code>[^\n]*?</code>"
    r"|^(?:[ ]{4,}|\t+)[<\[◁][^\n]*"  # indented
    r"|(?<=[ (=,\[{rfb])(?P<quote>['\"])(?=[<\[◁])[^'\"\n]*(?P=quote)"  # a string that begins with a mark
)
_CHANNEL = r"(?:(?:<\|start\|>)?assistant)?<\|channel\|>"
_OPTIONS = re.IGNORECASE | re.MULTILINE


@dataclass(frozen=True)
class Family:
    """The marks of a family of models, as patterns.

    words: they are ordinary words, which count only as a pair in front of a reply. shared: the closing mark closes
    other things, too, and counts only after the opening one.
    """

    opens: str
    closes: str
    words: bool = False
    shared: bool = False

    @cached_property
    def opening(self) -> re.Pattern[str]:
        """The opening mark."""
        return re.compile(self.opens, _OPTIONS)

    @cached_property
    def marks(self) -> re.Pattern[str]:
        """Either mark, and code, in which they do not count."""
        return re.compile(f"(?P<code>{_CODE})|(?P<closing>{self.closes})|(?P<opening>{self.opens})", _OPTIONS)

    @cached_property
    def alone(self) -> re.Pattern[str]:
        """A closing mark alone on its line."""
        return re.compile(rf"^[ \t]*(?P<closing>{self.closes})[ \t]*$", _OPTIONS)


FAMILIES = {  # by the models that write them
    "gpt-oss": Family(
        rf"{_CHANNEL}(?:analysis|commentary)\b[^<\n]*(?:<\|constrain\|>\w+)?<\|message\|>",
        rf"<\|end\|>|(?={_CHANNEL})",
        shared=True,
    ),
    "gpt-oss, its marks left out": Family(
        r"(?-i:\A(?:analysis|commentary)(?=[A-Z\W]))",
        r"(?-i:assistantfinal|assistant\sfinal(?=\s?[A-Z]))",
        words=True,
    ),
    "Solar Open": Family(r"<\|think\|>", r"<\|end\|>", shared=True),
    "Command A, OpenThinker, Sky-T1": Family(
        rf"<[|｜](?:(?:begin|start)_(?:of_)?)?{_NAME}[|｜]>", rf"<[|｜](?:end_of_|end_|/){_NAME}[|｜]>"
    ),
    "Apertus": Family(r"<\|inner_prefix\|>", r"<\|inner_suffix\|>"),
    "Gemma 4": Family(r"<\|channel>\s*thought\b", r"<channel\|>"),
    "MedGemma": Family(r"<unused94>(?:thought\b)?", r"<unused95>"),
    "Kimi": Family(r"◁think▷", r"◁/think▷"),
    "Magistral": Family(
        r"(?-i:\[(?:THINK(?:ING)?|THOUGHT|REASONING)])", r"(?-i:\[/(?:THINK(?:ING)?|THOUGHT|REASONING)])"
    ),
    "Open WebUI": Family(
        r"<details(?: type=\"reasoning\"[^<>]{0,200}>"
        r"|[^<>]{0,80}>\s*<summary>\W*(?:think|thought|reason)[^<>\n]{0,80}</summary>)",
        r"</details>",
        shared=True,
    ),
    # <think>: DeepSeek, Qwen, GLM, Nemotron, Hunyuan, ERNIE, Granite 3.3, Phi, MiniMax and most others; <thought>:
    # Gemini, EXAONE Deep, Marco; <seed:think>, <longcat_think>, <think:opensource>, <thinking>, <reasoning>
    "all others": Family(  # also of full width or escaped, as a server or a page may write them
        rf"(?:[<＜]|&lt;)(?!end_){_NAME}(?:[ \t][^<>\n]{{0,80}})?(?:[>＞]|&gt;)",
        rf"(?:[<＜]|&lt;)(?:/|end_(?:of_)?){_NAME}\s?(?:[>＞]|&gt;)",
    ),
    "all others, in Markdown": Family(
        rf"(?:\*\*|__)<{_NAME}>(?:\*\*|__)[ \t]*\n", rf"^(?:\*\*|__)</{_NAME}>(?:\*\*|__)[ \t]*$", words=True
    ),
    "Granite 3.2": Family(
        r"(?:\*\*)?Here(?: i|'|’)s my thought process:(?:\*\*)?",
        r"(?:\*\*)?Here(?: i|'|’)s my response:(?:\*\*)?",
        words=True,
    ),
    "Apriel": Family(r"Here are my reasoning steps:", r"(?=\[BEGIN FINAL RESPONSE])", words=True),
    "s1": Family(r"(?-i:\A(?:<\|im_start\|>)?think\n)", r"(?-i:^(?:<\|im_start\|>)?answer\n)", words=True),
    "Ollama's terminal": Family(r"Thinking\.\.\.\n", r"^\.\.\.done thinking\.", words=True),
}  # fmt: skip
MARKED = [family for family in FAMILIES.values() if not family.words]
ANY = Family(
    "|".join(family.opens for family in MARKED), "|".join(family.closes for family in MARKED if not family.shared)
)
FRAMES = [  # what some families put around the reply; the first only after thoughts
    (re.compile(rf"\s*{opens}", _OPTIONS), re.compile(rf"(?:{closes})\s*\Z", _OPTIONS))
    for opens, closes in (
        (r"<(?:answer|response|output)>", r"</(?:answer|response|output)>"),
        (rf"{_CHANNEL}final\b[^<\n]*(?:<\|constrain\|>\w+)?<\|message\|>", r"<\|(?:return|end)\|>"),
        (r"<\|START_(?:RESPONSE|TEXT)\|>", r"<\|END_(?:RESPONSE|TEXT)\|>"),
        (r"<\|begin_of_solution\|>", r"<\|end_of_solution\|>"),
        (r"(?:<\|begin\|>assistant)?<\|content\|>", r"<\|end\|>"),
        (r"\[BEGIN FINAL RESPONSE]", r"\[END FINAL RESPONSE](?:\s*<\|end\|>)?"),
        (r"<\|begin_of_box\|>", r"<\|end_of_box\|>"),
    )
]
BEFORE_FRAMES = ("<", "[", "a", "A")  # a frame begins with one of these: the last two are of "assistant"
PROMPT_END = 16  # tokens of a prompt that hold an opening mark, if its template ends with one
FURTHER = 50  # marks after one that could close thoughts, among which a better one is looked for; bounds the work
BEGUN = re.compile(  # may begin thoughts, or close those that the prompt has opened
    "|".join([family.opens for family in FAMILIES.values()] + [ANY.closes]), _OPTIONS
)
SPACE = re.compile(r"[\s\ufeff\u200b\u2060]*")
QUOTED = re.compile(
    r"""(?:(?:\A|[\s([{:,;–—-])(?:\*\*?|["'`])|[“‘«„(\[「『]|\|[ \t]?)\Z"""
)  # ends before a mark that is quoted
UNQUOTED = (*"*\"'”’»“)]」』`|", " |")  # begins after it
EXPLAINED = re.compile(r"[ \t]?(?:[→⇒=:：]|[–—][ \t])")  # "</think>: closes the block", "</think> → closes it"
STOPS = tuple(".,;:!?…)]}\"'’”»`。，、")  # no reply begins with them
ENDED = tuple(".!?…:。！？)\"'”’*`")  # ends a sentence


def split_thoughts(text: str, before: str | None = None, thoughts: str | None = None) -> tuple[str, str | None]:
    """The reply and the thoughts of a text; None for a text without thoughts. Thoughts that never close leave no reply.

    before: the end of the prompt, because some chat templates open the thoughts there; None if only the server knows
    it. thoughts: those that came beside the text.
    """
    found: list[str] = []
    at = 0
    opened = _opened(before) if before else None
    if opened:
        closing = _closing(opened, text, 0)
    elif before is None and not thoughts:
        closing = _unopened(text)
    else:
        closing = None
    if opened or closing:
        found.append(text[: closing.start()] if closing else text)
        at = closing.end() if closing else len(text)
    while block := _block(text, at):
        thought, at = block
        found.append(thought)
    reply = text[at:].lstrip() if found else text
    parts = [part.strip() for part in (thoughts or "", *found) if part.strip()]
    return _unframed(reply, after=bool(found)), "\n\n".join(parts) if found else thoughts or None


def holds_thoughts(reply: str) -> bool:
    """Whether a reply holds thoughts, or a mark of them that it does not just mention."""
    if split_thoughts(reply) != (reply, None):
        return True
    return any(True for _ in _meant(reply))


def _opened(before: str) -> Family | None:
    """The family whose opening mark a prompt ends with."""
    end = before.rstrip()[-80:]
    for family in MARKED:
        if any(mark.end() == len(end) for mark in family.opening.finditer(end)):
            return family
    return None


def _block(text: str, at: int) -> tuple[str, int] | None:
    """The thoughts of the block that begins at `at`, white space apart, and where it ends.

    One that never closes ends with the text. A closing mark alone closes nothing, and is left out.
    """
    at = SPACE.match(text, at).end()  # type: ignore[union-attr]
    if BEGUN.match(text, at) is None:  # as of most replies: a family at a time takes five times as long
        return None
    unclosed = None
    for family in FAMILIES.values():
        opening = family.opening.match(text, at)
        if opening is None:
            continue
        closing = _closing(family, text, opening.end())
        if closing is None:
            unclosed = unclosed or (None if family.words else opening)
        elif (_goes_on(text, opening) or EXPLAINED.match(text, opening.end())) and _in_sentence(text, closing):
            return None
        else:
            return text[opening.end() : closing.start()], closing.end()
    if unclosed:
        return text[unclosed.end() :], len(text)
    mark = ANY.marks.match(text, at)
    if mark is not None and mark.lastgroup == "closing" and not _goes_on(text, mark):
        return "", mark.end()
    return None


def _closing(family: Family, text: str, at: int) -> re.Match[str] | None:
    """The mark that closes the thoughts which are open at `at`, or the first that could.

    Better than none are one in the middle of a sentence, and one alone on its line in what seems to be code, which the
    thoughts may have begun and not ended.
    """
    depth = looked_at = 0
    likely = mentioned = None
    for mark in family.marks.finditer(text, at):
        looked_at += bool(likely or mentioned)
        if looked_at > FURTHER:
            break
        if mark.lastgroup == "code" or _quoted(text, mark):
            continue
        if _in_sentence(text, mark):
            if mark.lastgroup == "closing":
                mentioned = mentioned or mark
        elif mark.lastgroup == "opening":
            depth += 1
        elif depth == 0:
            return mark
        else:
            likely = likely or mark
            depth -= 1
    return likely or mentioned or family.alone.search(text, at)


def _unopened(text: str) -> re.Match[str] | None:
    """The mark that closes thoughts at the start of a text whose opening mark is in the prompt."""
    for mark in _meant(text):
        if mark.lastgroup == "opening":
            return None
        start = text[: mark.start()].rstrip(" \t")
        after = text[mark.end() : mark.end() + 1]
        if start.rstrip().endswith((":", "：")):  # "The closing tag is:"
            ends = False
        elif not start or start.endswith(("\n", *ENDED)):
            ends = not _goes_on(text, mark)
        elif len(start) < mark.start():
            ends = False
        else:
            ends = after in ("", "\n", "\r") or not (
                after.isspace() or after.startswith(STOPS) or (after.isalpha() and after.lower() == after.upper())
            )
        return mark if ends else None
    return None


def _unframed(reply: str, *, after: bool) -> str:
    """A reply without the frame that some families put around it; after: whether thoughts came before it."""
    if not reply.lstrip().startswith(BEFORE_FRAMES):  # like most replies
        return reply
    for opens, closes in FRAMES[not after :]:
        start = opens.match(reply)
        if start is not None:
            reply = closes.sub("", reply[start.end() :]).strip()
    return reply


def _meant(text: str) -> Iterator[re.Match[str]]:
    """The marks of a text that it does not just mention."""
    if any(map(text.__contains__, ("<", "[", "◁", "＜", "&lt;"))):
        for mark in ANY.marks.finditer(text):
            if mark.lastgroup != "code" and not _quoted(text, mark) and not _in_sentence(text, mark):
                yield mark


def _quoted(text: str, mark: re.Match[str]) -> bool:
    """Whether a mark stands in quotes."""
    return (
        text.startswith(UNQUOTED, mark.end())
        and QUOTED.search(text[max(mark.start() - 8, 0) : mark.start()]) is not None
    )


def _in_sentence(text: str, mark: re.Match[str]) -> bool:
    """Whether a mark stands between the words of a sentence, ends one, or is explained.

    It stands there after a space and before a word or a stop.
    """
    if EXPLAINED.match(text, mark.end()):
        return True
    before = text[mark.start() - 1 : mark.start()] if mark.start() else ""
    return before in (" ", "\t", "(") and _goes_on(text, mark)


def _goes_on(text: str, mark: re.Match[str]) -> bool:
    """Whether a sentence goes on after a mark: with punctuation, or with a space and a word that has no capital."""
    after = text[mark.end() : mark.end() + 2]
    if after.startswith(STOPS):
        return True
    return after[:1] in (" ", "\t") and after[1:].isalpha() and not after[1:].isupper()
