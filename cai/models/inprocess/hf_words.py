"""Between text and token ids, for tokenizers of transformers: no text of a user becomes a control token."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from functools import cached_property
from typing import Any

from cai.errors import CallRejected
from cai.folder.journal.answers import added
from cai.records import Values
from cai.weights.chat_templates import FOLDED, begins_with_system, folded, has_system, in_parts, takes_parts
from cai.weights.control_tokens import apart, control_tokens, normalizer, special_tokens

log = logging.getLogger("cai")


class HFTokenizer:
    """A tokenizer of transformers and its chat template; safe to use from several threads."""

    def __init__(self, tokenizer: Any) -> None:
        # Encoding sets options on the Rust tokenizer: "Already borrowed" while another thread reads it.
        self._lock = threading.Lock()
        self._tokenizer = tokenizer
        tokenizer.model_max_length = 1 << 60  # else it logs about long texts, whose fit is checked elsewhere
        self._control = control_tokens(tokenizer)
        tokenizer.chat_control_tokens = self._control  # what a template's texts may not become
        plain = set(self._control) - special_tokens(tokenizer)
        self._unsplit = set(tokenizer.convert_tokens_to_ids(sorted(plain)))  # which encoding does not split by itself
        self._normalizes = normalizer(tokenizer) is not str
        self._newline = self._encode("\n", add_special_tokens=False)
        self._newline_text = self.decode(self._newline)
        self._names: dict[int, str] = {}

    def prompt(self, payload: Values) -> list[int]:
        """The ids of a payload's `messages` or `text` and its `prefill`, ready to be continued.

        Control tokens in the text ("<|im_start|>"), whatever the tokenizer adds, are spelled out, so that no prompt can
        open a turn of its own.
        """
        prefill = payload.get("prefill", "")
        if "messages" in payload:
            return self.conversation(payload["messages"], answer=True) + self.plain(prefill)
        text, *parts = apart(payload["text"] + prefill, self._control)
        return sum(map(self.plain, parts), self._encode(text))

    def conversation(self, messages: list[dict[str, str]], *, answer: bool) -> list[int]:
        """The ids of a conversation in the model's template; answer: up to where a reply begins.

        Raises CallRejected("bad_input", …) if the template refuses the conversation.
        """
        from jinja2 import TemplateError

        if begins_with_system(messages) and not self._has_system:
            messages = folded(messages)
        for message in messages if self._normalizes else ():
            self.plain(message["content"])  # raises CallRejected for what the template would make a control token
        turns: list[dict[str, Any]] = [dict(message) for message in messages]
        if self._takes_parts:
            turns = [{**turn, "content": in_parts(turn["content"])} for turn in turns]
        try:
            with self._lock:
                ids: list[int] = self._tokenizer.apply_chat_template(
                    turns, add_generation_prompt=answer, sanitize_control_tokens=True, return_dict=False
                )
        except TemplateError as error:
            raise CallRejected("bad_input", f"the model's chat template refuses the conversation: {error}") from error
        return ids

    @cached_property
    def _takes_parts(self) -> bool:
        """Whether the template shows texts only in parts."""
        with self._lock:
            return takes_parts(lambda turns: str(self._tokenizer.apply_chat_template(turns, tokenize=False)))

    @cached_property
    def _has_system(self) -> bool:
        """Whether the template has a system role; says so once if it has not."""
        with self._lock:
            found = has_system(lambda messages: str(self._tokenizer.apply_chat_template(messages, tokenize=False)))
        if not found:
            log.warning(FOLDED)
        return found

    def plain(self, text: str) -> list[int]:
        """The ids of `text` as it stands in the middle of a text: no begin token, no space put before it.

        Prompt and continuation are tokenised apart, so the sum of a continuation's log-probabilities is of these ids.
        """
        text, *parts = apart(text, self._control)
        if parts:
            return sum(map(self.plain, parts), self.plain(text))
        ids = self._encode("\n" + text, add_special_tokens=False)
        head = len(self._newline)
        if ids[:head] == self._newline:
            return ids[head:]
        return self._encode(text, add_special_tokens=False)

    def text(self, ids: list[int]) -> str:
        """What `ids` add to a text they continue, a leading space included; control tokens are left out."""
        return self.decode(self._newline + ids, skip_special_tokens=True).removeprefix(self._newline_text)

    def named(self, top: Sequence[tuple[int, float]]) -> dict[str, float]:
        """Log-probabilities by the text of their tokens, those of equal text (half a letter) added up."""
        for token, _ in top:
            if token not in self._names:
                self._names[token] = self.decode([*self._newline, token]).removeprefix(self._newline_text)
        return added((self._names[token], value) for token, value in top)

    def _encode(self, text: str, **options: Any) -> list[int]:
        with self._lock:
            ids: list[int] = self._tokenizer.encode(text, split_special_tokens=True, **options)
            forged = self._unsplit.intersection(ids)
            names = self._tokenizer.convert_ids_to_tokens(sorted(forged))
        if forged:
            raise CallRejected("bad_input", f"the tokenizer reads a part of the text as {names[0]!r}, a control token")
        return ids

    def decode(self, ids: list[int], **options: Any) -> str:
        """`ids` as a text of their own, without the space that some tokenizers put before a first word.

        options: what the tokenizer takes; control tokens are spelled out unless `skip_special_tokens` is true.
        """
        with self._lock:
            text: str = self._tokenizer.decode(ids, clean_up_tokenization_spaces=False, **options)
        return text
