"""What separates turns: marks of families of models and labels of plain text, as patterns for careless texts."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from functools import cache

from cai.texts.lookalikes import UNSEEN, careless

HIDDEN = f"{UNSEEN}*+"  # what a reader does not see, between the characters of a mark
DRESSING = rf"_*#\-`~•·{UNSEEN}"  # what labels and tags are dressed in, by Markdown too
# The names in <s>, </s>, <end_of_turn>, <seed:bos>, [INST] …; a # stands for digits.
NAMES = (
    # the borders of texts, and what fills them
    "s|bos|eos|pad|unk|cls|sep|mask|gmask|sop|eop|eod|eom|eot|endoftext|end_of_text|begin_of_text|"
    "end_of_utterance|end_of_sentence|end_of_message|sp|extra_id_#|special_#|unused#|ctrl#|reserved_#|"
    "control_#|seed:bos|seed:eos|longcat_s|startoftext|eoa|eoh|"
    # roles and turns
    "user|assistant|system|human|bot|ai|gpt|role|turn|start_of_turn|end_of_turn|startofturn|endofturn|"
    "im_start|im_end|im_sep|inst|sys|system_prompt|instruction|round #|_user|_bot|_system|longcat_user|"
    "longcat_assistant|"
    # thoughts and tools
    "think|thinking|thought|seed:think|tool_call|tool_calls|tool_response|tool_results|available_tools|"
    "tool_content|call_id|args|minimax:tool_call"
)
# At the start of a line: Vicuna, OpenChat, Baichuan and others; Alpaca and others after "###"; and of few-shot prompts.
SPEAKERS = (
    "User:|Assistant:|System:|Human:|Bot:|AI:|GPT4 User:|GPT4 Correct User:|GPT4 Correct Assistant:|"
    "Code User:|Code Assistant:|Math Correct User:|Chatbot:|用户:|助手:"
)
HEADED = "Instruction:|Response:|Input:|System Prompt|User Message|Assistant"
SHOTS = (
    "Question:|Answer:|Q:|A:|Instruction:|Instruct:|Response:|Input:|Output:|Prompt:|Reply:|Example:|"
    "Critique:|Critique Request:|Revision:|Revision Request:|Problem:|Solution:"
)


@cache  # every session compiles the same labels
def loose(label: str) -> str:
    """A pattern for a label or tag, whatever dresses it and stands between its characters, of which some may lack."""
    shown = [char for char in careless(label).rstrip(">") if not (char.isspace() or char in "_-*#`~")]
    return rf"[\s{DRESSING}]*+".join("[l|!]" if char == "l" else re.escape(char) for char in shown)


def named(name: str) -> str:
    """A pattern for the name of a mark."""
    return HIDDEN.join(rf"[\dlo{UNSEEN}]+" if char == "#" else re.escape(char) for char in careless(name))


_NAMED = "|".join(map(named, NAMES.split("|")))
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
PLAIN = re.compile(r"[\t-\r -~]*")  # letters and signs of ASCII, and space


class Labels:
    """The labels with which the parts of a plain layout begin, none of which a line of a text may pass for.

    Such a line is quoted, as mail readers do. A label counts as it is written; its look-alikes, in other letters or
    with what a reader does not see, count with Markdown around them, too.
    """

    def __init__(self, labels: Collection[str]) -> None:
        self._labels = labels
        every = "|".join(loose(label) or re.escape(label) for label in labels) or NEVER
        self._starts = re.compile(rf"[{LINE_ENDS}](?P<label>(?P<start>(?:[^\S{LINE_ENDS}]|[{DRESSING}])*+)(?:{every}))")

    def quoted(self, text: str) -> str:
        """A text whose first line follows a label of its own."""
        edits = {}
        for found in self._starts.finditer(careless(text)):
            label = text[found.start("label") : found.end()]
            if label.strip() in self._labels or not PLAIN.fullmatch(label):
                edits[found.end("start")] = "> ", 0
        return edited(text, edits)


def edited(text: str, edits: Mapping[int, tuple[str, int]]) -> str:
    """A text with what is put in at each place, and how many characters are left out there."""
    parts: list[str] = []
    end = 0
    for at, (quote, left_out) in sorted(edits.items()):
        parts += text[end:at], quote
        end = at + left_out
    return "".join([*parts, text[end:]])
