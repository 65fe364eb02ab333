"""A conversation with one model: what was said, one turn asked at a time, and what a person can do to it.

A turn is sent as every run sends a call, waits and retries included; nothing is kept on disk but what is saved. Knows
models and messages; nothing of terminals.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import replace

import orjson

from cai.calls.flow import Driver, Flow, Seat
from cai.calls.limits import Limiter
from cai.calls.model import Model
from cai.calls.prices import Tally
from cai.errors import CallRejected, RowDropped, UsageError
from cai.folder.files import unwritable
from cai.models import spec_of
from cai.records import Completion, Message, Request, Sampling
from cai.sources.files import path_of


def find_spec(name: str) -> str:
    """The model spec that a person means: a folder is `hf:`, a .gguf file or an OpenVINO folder `local:`.

    Raises UsageError for a path where nothing is.
    """
    path = path_of(name)
    if name == "local" or (":" in name and not path.exists()):
        return name
    if not path.exists():
        raise UsageError(f"no model {name}: give a folder, a .gguf file, or a spec such as local or openai:NAME")
    if path.suffix == ".gguf" or (path / "openvino_model.xml").exists():
        return f"local:{name}"
    return f"hf:{name}"


def fitting(sampling: Sampling, model: Model) -> Sampling:
    """The same with replies of at most half of the model's context, where that is known: the rest is for the turns."""
    if model.context is None:
        return sampling
    return replace(sampling, max_tokens=max(1, min(sampling.max_tokens, model.context // 2)))


class Chat:
    """A conversation; `messages` is all of it, the system text first where there is one."""

    def __init__(self, model: Model, sampling: Sampling, *, system: str | None = None, seed: int = 0) -> None:
        if not model.can.chat:
            raise UsageError(
                f"{spec_of(model)} cannot chat: its tokenizer has no chat template (a base model), or it "
                "is a reward model"
            )
        self.model, self.sampling, self.seed = model, sampling, seed
        self.messages: list[Message] = []
        self.tally = Tally()
        self._asked = 0  # so that a turn which is undone and asked again draws anew
        self.system(system or "")

    async def say(self, text: str) -> Completion:
        """The reply to one turn of the user; without one (an error, a cancel) the conversation is as it was.

        Sent again as a run would after a passing fault and when the server is busy; then CallRejected, or ModelStopped
        where the next turn would fail, too. UsageError for what is no text.
        """
        check_text(text)
        messages = (*self.messages, Message(role="user", content=text))
        request = Request("assistant", messages, index=self._asked)
        self._asked += 1
        # A driver that has stopped stays so, and the next turn may find the server up again.
        limiter = Limiter(1, tally=self.tally)
        if self.tally.answered:
            limiter.answered()
        seat = Seat(self.model, limiter, self.sampling, None)
        driver = Driver({"assistant": seat}, None, seed=self.seed, budget=None, tally=self.tally)
        try:
            done = (await driver.play("chat", 0, _turn(request))).result
        except RowDropped as dropped:
            raise CallRejected(dropped.reason, dropped.detail) from dropped
        self.messages = [*messages, Message(role="assistant", content=done.text)]
        return done

    def system(self, text: str) -> str:
        """Set the system text, or with "" take it away; the turns stay. UsageError for what is no text."""
        check_text(text)
        turns = [message for message in self.messages if message["role"] != "system"]
        self.messages = [Message(role="system", content=text), *turns] if text else turns
        return "the system text is set" if text else "there is no system text"

    def reset(self, _: str = "") -> str:
        """Forget all turns; the system text stays."""
        self.messages = [message for message in self.messages if message["role"] == "system"]
        return "a new conversation"

    def undo(self, _: str = "") -> str:
        """Take back the last turn and its reply."""
        if not self.messages or self.messages[-1]["role"] != "assistant":
            return "nothing to take back"
        del self.messages[-2:]
        return "the last turn is taken back"

    def save(self, path: str) -> str:
        """Append the conversation to a .jsonl file that `cai train sft` takes."""
        if not path:
            raise UsageError("write /save FILE")
        if not self.messages or self.messages[-1]["role"] != "assistant":
            raise UsageError("nothing to save: no reply yet")
        file = path_of(path)
        try:
            with file.open("ab+") as out:
                size = out.seek(0, os.SEEK_END)
                out.seek(max(0, size - 1))
                joined = out.read(1) not in (b"", b"\n")  # the last row has no line end
                row = orjson.dumps({"messages": self.messages}, option=orjson.OPT_APPEND_NEWLINE)
                out.write(b"\n" + row if joined else row)
        except OSError as error:
            raise unwritable(file, error, "name another file") from error
        return f"added to {file}"


def _turn(request: Request) -> Flow[Completion]:
    [done] = yield [request]
    return done


def check_text(text: str) -> None:
    """Raises UsageError where bytes that are no UTF-8 were read, which Python keeps as halves of surrogate pairs."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        at, code = error.start, ord(text[error.start])
        what = f"the byte 0x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else "half a surrogate pair"
        raise UsageError(
            f"{text[max(0, at - 20) : at + 1]!r} ends with {what}, which is no UTF-8 text: convert it, as with iconv"
        ) from None


COMMANDS: Mapping[str, tuple[str, str, Callable[[Chat, str], str]]] = {  # name: what follows, what it does
    "/reset": ("", "forget all turns", Chat.reset),
    "/system": ("TEXT", "set the system text; without TEXT, take it away", Chat.system),
    "/undo": ("", "take back the last turn and its reply", Chat.undo),
    "/save": ("FILE", "append the conversation to a .jsonl file for cai train sft", Chat.save),
}


def help_lines() -> list[str]:
    """The commands, for people."""
    more = [("/help", "", "show this"), ("/quit", "", "end; Ctrl-D too. Ctrl-C stops a reply")]
    rows = [(name, what, does) for name, (what, does, _) in COMMANDS.items()] + more
    return [f"{f'{name} {what}':14} {does}" for name, what, does in rows]


def obey(chat: Chat, line: str) -> str:
    """Do what a line with a command says; returns what to tell. UsageError for one that is not known."""
    name, _, rest = line.strip().partition(" ")
    if name == "/help":
        return "\n".join(help_lines())
    if name not in COMMANDS:
        raise UsageError(f"no command {name}; /help shows them (a space before it makes it text)")
    return COMMANDS[name][2](chat, rest.strip())
