"""What separates turns: marks of families of models and labels of plain text, as patterns for careless texts."""

from __future__ import annotations

import re
from collections.abc import Collection

from cai.texts.lookalikes import UNSEEN, careless

HIDDEN = f"{UNSEEN}*+"  # what a reader does not see, between the characters of a mark
DRESSING = rf"_*#\-`~•·{UNSEEN}"  # what labels and tags are dressed in, by Markdown too
# The names in <s>, </s>, <end_of_turn>, <seed:bos>, [INST] …; a # stands for digits.
NAMES = (
    # the borders of texts, and what fills them
    "s", "bos", "eos", "pad", "unk", "cls", "sep", "mask", "gmask", "sop", "eop", "eod", "eom", "eot", "endoftext",
    "end_of_text", "begin_of_text", "end_of_utterance", "end_of_sentence", "end_of_message", "sp", "extra_id_#",
    "special_#", "unused#", "ctrl#", "reserved_#", "control_#", "seed:bos", "seed:eos", "longcat_s",
    "startoftext", "eoa", "eoh",
    # roles and turns
    "user", "assistant", "system", "human", "bot", "ai", "gpt", "role", "turn", "start_of_turn", "end_of_turn",
    "startofturn", "endofturn", "im_start", "im_end", "im_sep", "inst", "sys", "system_prompt", "instruction",
    "round #", "_user", "_bot", "_system", "longcat_user", "longcat_assistant",
    # thoughts and tools
    "think", "thinking", "thought", "seed:think", "tool_call", "tool_calls", "tool_response", "tool_results",
    "available_tools", "tool_content", "call_id", "args", "minimax:tool_call",
)  # fmt: skip
# At the start of a line: Vicuna, OpenChat, Baichuan and others; Alpaca and others after "###"; and of few-shot prompts.
SPEAKERS = (
    "User:", "Assistant:", "System:", "Human:", "Bot:", "AI:", "GPT4 User:", "GPT4 Correct User:",
    "GPT4 Correct Assistant:", "Code User:", "Code Assistant:", "Math Correct User:", "Chatbot:", "用户:", "助手:",
)  # fmt: skip
HEADED = ("Instruction:", "Response:", "Input:", "System Prompt", "User Message", "Assistant")
SHOTS = (
    "Question:", "Answer:", "Q:", "A:", "Instruction:", "Instruct:", "Response:", "Input:", "Output:", "Prompt:",
    "Reply:", "Example:", "Critique:", "Critique Request:", "Revision:", "Revision Request:", "Problem:", "Solution:",
)  # fmt: skip


def loose(label: str) -> str:
    """A pattern for a label or tag, whatever dresses it and stands between its characters, of which some may lack."""
    shown = [char for char in careless(label).rstrip(">") if not (char.isspace() or char in "_-*#`~")]
    return rf"[\s{DRESSING}]*+".join("[l|!]" if char == "l" else re.escape(char) for char in shown)


def named(name: str) -> str:
    """A pattern for the name of a mark."""
    return HIDDEN.join(rf"[\dlo{UNSEEN}]+" if char == "#" else re.escape(char) for char in careless(name))


_NAMED = "|".join(map(named, NAMES))
MARKS = (
    rf"<{HIDDEN}\|"  # <|im_start|>, <｜User｜>, and <|turn> of Gemma 4
    rf"|\[{HIDDEN}\|"  # [|user|]
    rf"|<(?=[\w{UNSEEN}]{{1,40}}+\|)"  # <turn|>
    rf"|[<\[](?={HIDDEN}/?{HIDDEN}(?:{_NAMED}){HIDDEN}[>\]])"
    rf"|<(?={HIDDEN}/?[\w▁{UNSEEN}]{{0,40}}[_▁][\w▁{UNSEEN}]{{0,40}}>)"  # <start_of_image>, <fim_prefix>
    rf"|◁(?={HIDDEN}/?{HIDDEN}\w)"
    rf"|](?={HIDDEN}~{HIDDEN}[!b])|\[(?={HIDDEN}e{HIDDEN}~{HIDDEN}\[)"  # ]~b]ai … [e~[ of MiniMax
)
LINE_ENDS = r"\n\v\f\r\x1c-\x1e\x85\u2028\u2029"  # all that str.splitlines knows
NEVER = "(?!)"  # a pattern that matches nowhere
UNPRINTED = re.compile(r"[\x00-\x08\x0e-\x1b\x7f]")  # of ASCII


class Labels:
    """The labels with which the parts of a plain layout begin, none of which a line of a text may pass for.

    Such a line is quoted, as mail readers do. A label counts as it is written; its look-alikes, in other letters or
    with what a reader does not see, count with Markdown around them, too.
    """

    def __init__(self, labels: Collection[str]) -> None:
        exact = "|".join(map(re.escape, labels))
        alike = "|".join(filter(None, map(loose, labels)))
        self._exact = re.compile(rf"([{LINE_ENDS}][^\S{LINE_ENDS}]*)(?={exact or NEVER})")
        self._alike = re.compile(rf"(?P<start>[{LINE_ENDS}](?:[^\S{LINE_ENDS}]|[{DRESSING}])*+)(?:{alike or NEVER})")

    def quoted(self, text: str) -> str:
        """A text whose first line follows a label of its own."""
        text = self._exact.sub(r"\1> ", text)
        if text.isascii() and not UNPRINTED.search(text):
            return text
        parts: list[str] = []
        end = 0
        for found in self._alike.finditer(careless(text)):
            label = text[found.start() + 1 : found.end()]  # behind the end of a line
            if not label.isascii() or UNPRINTED.search(label):
                parts += text[end : found.end("start")], "> "
                end = found.end("start")
        return "".join([*parts, text[end:]])
