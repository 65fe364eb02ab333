"""A conversation with one model: its messages, one turn asked at a time, and the commands that change it.

A turn is sent as every run sends a call, with its waits and retries. Only /save writes to disk.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace

import orjson

from cai.calls.flow import Driver
from cai.calls.limits import Limiter
from cai.calls.model import Model, spec_of
from cai.calls.prices import Tally
from cai.calls.seats import Flow, Seat
from cai.disk.writing import unwritable
from cai.errors import CallRejected, RowDropped, UsageError
from cai.models import PROVIDERS
from cai.models.specs import meaning_of
from cai.records import Completion, Message, Request, Sampling
from cai.sources.files import path_of


def find_spec(name: str) -> str:
    """The model spec for what a person names: a folder is `hf:`, a .gguf file or an OpenVINO folder `local:`.

    Raises UsageError for a path that does not exist.
    """
    path = path_of(name)
    if name == "local" or (":" in name and not path.exists()):
        return name
    if not path.exists():
        meant = meaning_of(name, PROVIDERS)
        advice = "give a folder, a .gguf file, or a spec such as local or openai:NAME"
        raise UsageError(f"no model {name}: {advice}{f'; did you mean {meant}?' if meant else ''}")
    if path.suffix == ".gguf" or (path / "openvino_model.xml").exists():
        return f"local:{name}"
    return f"hf:{name}"


def fitting(sampling: Sampling, model: Model) -> Sampling:
    """Sampling whose replies take at most half of the model's context, if that is known: the rest is for the turns."""
    if model.context is None:
        return sampling
    return replace(sampling, max_tokens=max(1, min(sampling.max_tokens, model.context // 2)))


class Chat:
    """A conversation; `messages` is all of it, with the system text first if there is one."""

    def __init__(self, model: Model, sampling: Sampling, *, system: str | None = None, seed: int = 0) -> None:
        if not model.can.chat:
            raise UsageError(
                f"{spec_of(model)} cannot chat: its tokenizer has no chat template (a base model), or it "
                "is a reward model"
            )
        self.model, self.sampling, self.seed = model, sampling, seed
        self.messages: list[Message] = []
        self.tally = Tally()
        self._turns = 0  # asked so far, so that a turn which is undone and asked again draws anew
        self.system(system or "")

    async def say(self, text: str) -> Completion:
        """Ask for the reply to one turn of the user; after an error or a cancel the conversation is as it was.

        A passing fault and a busy server are retried as in a run. Raises CallRejected if this turn fails, ModelStopped
        if the next one would fail, too, and UsageError for a turn that is not text.
        """
        check_text(text)
        messages = (*self.messages, Message(role="user", content=text))
        request = Request("assistant", messages, index=self._turns)
        self._turns += 1
        # A driver that has stopped stays so, and the next turn may find the server up again.
        limiter = Limiter(1, tally=self.tally)
        if self.tally.answered:
            limiter.answered()
        seat = Seat(self.model, limiter, self.sampling, None)
        driver = Driver({"assistant": seat}, None, seed=self.seed, budget=None, tally=self.tally)
        try:
            reply = (await driver.play("chat", 0, _turn(request))).result
        except RowDropped as dropped:
            raise CallRejected(dropped.reason, dropped.detail) from dropped
        self.messages = [*messages, Message(role="assistant", content=reply.text)]
        return reply

    def system(self, text: str) -> str:
        """Set the system text, or remove it if `text` is empty; the turns stay. Raises UsageError if it is not text."""
        check_text(text)
        self.messages = [message for message in self.messages if message["role"] != "system"]
        if not text:
            return "there is no system text"
        self.messages.insert(0, Message(role="system", content=text))
        return "the system text is set"

    def reset(self, _: str = "") -> str:
        """Forget all turns; the system text stays."""
        self.messages = [message for message in self.messages if message["role"] == "system"]
        return "a new conversation"

    def undo(self, _: str = "") -> str:
        """Take back the last turn and its reply."""
        if not self._has_reply():
            return "nothing to take back"
        del self.messages[-2:]
        return "the last turn is taken back"

    def save(self, path: str) -> str:
        """Append the conversation to a .jsonl file that `cai train sft` takes."""
        if not path:
            raise UsageError("write /save FILE")
        if not self._has_reply():
            raise UsageError("nothing to save: no reply yet")
        file = path_of(path)
        try:
            with file.open("ab+") as out:
                if out.tell() > 0:
                    out.seek(-1, os.SEEK_END)
                    if out.read() != b"\n":
                        out.write(b"\n")  # the last row has no line end
                out.write(orjson.dumps({"messages": self.messages}, option=orjson.OPT_APPEND_NEWLINE))
        except OSError as error:
            raise unwritable(file, error, "name another file") from error
        return f"added to {file}"

    def _has_reply(self) -> bool:
        return any(message["role"] == "assistant" for message in self.messages)


def _turn(request: Request) -> Flow[Completion]:
    [reply] = yield [request]
    return reply


def check_text(text: str) -> None:
    """Raise UsageError if bytes that are not UTF-8 were read, which Python keeps as halves of surrogate pairs."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        end = error.start + 1
        code = ord(text[error.start])
        fault = f"the byte 0x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else "half a surrogate pair"
        raise UsageError(
            f"{text[:end][-21:]!r} ends with {fault}, which is not UTF-8 text: convert it, as with iconv"
        ) from None


HELP = """\
/reset         forget all turns
/system TEXT   set the system text; without TEXT, remove it
/undo          take back the last turn and its reply
/save FILE     append the conversation to a .jsonl file for cai train sft
/help          show this
/quit          end; Ctrl-D too. Ctrl-C stops a reply"""


def run_command(chat: Chat, line: str) -> str:
    """Run a line such as `/save FILE`; returns what to show. Raises UsageError for an unknown command."""
    commands: dict[str, Callable[[str], str]] = {
        "/reset": chat.reset,
        "/system": chat.system,
        "/undo": chat.undo,
        "/save": chat.save,
        "/help": lambda _: HELP,
    }
    name, _, rest = line.strip().partition(" ")
    if name not in commands:
        raise UsageError(f"no command {name}; /help shows them (a space before it makes it text)")
    return commands[name](rest.strip())
