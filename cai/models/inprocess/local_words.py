"""Between texts and tokens for the embedded model: chat markup, harmless role markers, lengths."""

from __future__ import annotations

import logging
import secrets
from functools import cached_property, partial
from typing import Any

from cai.errors import CallRejected, ModelStopped
from cai.models.inprocess.local_engine import last_line
from cai.records import Values
from cai.weights.chat_templates import FOLDED, begins_with_system, folded, has_system
from cai.weights.control_tokens import apart, could_mark

log = logging.getLogger("cai")

CUT = f"\ufdd0{secrets.token_hex(8)}\ufdd0"  # put into a marker in a text, which is encoded in two parts; unguessable


class LocalTokenizer:
    """OpenVINO GenAI's tokenizer of one model, as payloads need it."""

    def __init__(self, tokenizer: Any, name: str, context: int | None) -> None:
        self.tokenizer = tokenizer
        self._name = name
        every = [[token] for token in range(len(tokenizer.get_vocab()))]
        shown = tokenizer.decode(every, skip_special_tokens=False)
        hidden = tokenizer.decode(every)
        markers = {text for text, plain in zip(shown, hidden, strict=True) if text != plain}
        # Others that a tokenizer adds have no flag: they are the ones that a text of theirs is made into at once.
        template = tokenizer.chat_template or ""
        others = [token for token, text in enumerate(shown) if text not in markers and could_mark(text, template)]
        markers |= {shown[token] for token in others if self._ids(shown[token]) == [token]}
        self._markers = sorted(markers - {""}, key=len, reverse=True)
        # Fewest tokens a text can be: its length by the longest token, in characters.
        self._longest = max(map(len, shown))
        # Some tokenizers cut silently (those made of a GGUF file at 8,192 tokens): what they cut is past the context.
        probe = tokenizer.encode("a " * (context or 1 << 18), add_special_tokens=False).input_ids.shape[1]
        self.context = int(min(context or probe, probe))

    def prompt(self, payload: Values) -> list[int]:
        """The tokens of a payload's conversation or text, and of the started reply.

        Texts cannot forge a turn: "<|im_start|>" in one becomes the tokens of its letters, never the marker's own.
        Raises `CallRejected` if it cannot fit or the template refuses it, `ModelStopped` if there is no template.
        """
        prefill = self._apart(payload.get("prefill", ""))
        if "text" in payload:
            return self._encode(self._apart(payload["text"]) + prefill, special=True)
        if not self.tokenizer.chat_template:
            raise ModelStopped(f"{self._name} has no chat template: it is a base model, use few-shot templates with it")
        conversation = payload["messages"]
        if begins_with_system(conversation) and not self._has_system:
            conversation = folded(conversation)
        messages = [message | {"content": self._apart(message["content"])} for message in conversation]
        try:
            text = self.tokenizer.apply_chat_template(messages, add_generation_prompt=True)
        except RuntimeError as error:  # some templates refuse a system message, or two turns of one role
            problem = f"the chat template of {self._name} refuses the conversation: {last_line(error)}"
            raise CallRejected("bad_input", problem) from error
        return self._encode(text + prefill)

    @cached_property
    def _has_system(self) -> bool:
        """Whether the template has a system role; says so once if it has not."""
        render = partial(self.tokenizer.apply_chat_template, add_generation_prompt=True)
        found = has_system(render, own_way="\n")  # OpenVINO GenAI 2026.4; trainings put an empty line between
        if not found:
            log.warning(FOLDED)
        return found

    def fit(self, tokens: int, reply: int) -> None:
        """Raise `CallRejected("too_long", …)` if prompt and reply together exceed the context."""
        if tokens + reply > self.context:
            self._too_long(f"{tokens} tokens + {reply} for the reply")

    def continuation(self, text: str) -> list[int]:
        """The tokens of a text that is scored after a prompt; " A" and "A" differ."""
        return self._encode(self._apart(text))

    def text(self, tokens: list[int]) -> str:
        """The text of generated tokens, markers left out."""
        return str(self.tokenizer.decode(tokens))

    def shown(self, tokens: list[int]) -> str:
        """The text of tokens, markers included."""
        return str(self.tokenizer.decode(tokens, skip_special_tokens=False))

    def _apart(self, text: str) -> str:
        try:
            text.encode()
        except UnicodeEncodeError:
            raise CallRejected("bad_input", "the prompt holds half a surrogate pair, which is not text") from None
        return CUT.join(apart(text, self._markers))

    def _encode(self, text: str, special: bool = False) -> list[int]:
        """The tokens of the parts between `CUT`s; a text of megabytes is refused for its length, unencoded."""
        least = len(text) // self._longest
        if least > self.context:
            self._too_long(f"at least {least} tokens")
        tokens: list[int] = []
        for part in text.split(CUT):
            tokens += self._ids(part, special and not tokens)
        if len(tokens) >= self.context:  # at which some tokenizers cut
            self._too_long(f"at least {len(tokens)} tokens")
        return tokens

    def _ids(self, text: str, special: bool = False) -> list[int]:
        encoded = self.tokenizer.encode(text, add_special_tokens=special)
        ids: list[int] = encoded.input_ids.data[0].tolist()
        return ids

    def _too_long(self, length: str) -> None:
        raise CallRejected("too_long", f"{length}; the context of {self._name} is {self.context}")
