"""A conversation with one model: what it is asked, what a person can do to it, and the command in a pipe and on a
terminal."""

from __future__ import annotations

import asyncio
import io
import json
import os
import pty
import select
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from fakes import Fake, skipping

from cai.chat import HELP, Chat, find_spec, fitting, run_command
from cai.cli import chat as cli_chat
from cai.errors import CallRejected, ModelBusy, ModelFault, RunError, ServerDown, UsageError
from cai.records import Abilities, Sampling
from cai.sources.files import path_of

ROOT = Path(__file__).resolve().parent.parent


class Asked(Fake):
    """Keeps what it is asked."""

    def __init__(self, **more: Any) -> None:
        super().__init__(**more)
        self.payloads: list[dict[str, Any]] = []

    async def send(self, payload: dict[str, Any]) -> Any:
        self.payloads.append(payload)
        return await super().send(payload)


def chat(model: Any = None, **more: Any) -> Chat:
    return Chat(model or Asked(), Sampling(), **more)


def say(talk: Chat, text: str) -> str:
    return asyncio.run(talk.say(text)).text


def texts(talk: Chat) -> list[str]:
    return [message["content"] for message in talk.messages]


def test_every_turn_is_asked_with_all_that_was_said_before() -> None:
    model = Asked()
    talk = chat(model, system="Be brief.")
    assert say(talk, "one") == "answer to one"
    say(talk, "two")
    assert [message["content"] for message in model.payloads[1]["messages"]] == [
        "Be brief.", "one", "answer to one", "two",
    ]  # fmt: skip
    assert [message["role"] for message in talk.messages] == ["system", "user", "assistant", "user", "assistant"]


def test_the_same_seed_and_turns_ask_the_same_and_a_turn_taken_back_draws_anew() -> None:
    one, two = Asked(), Asked()
    for model in (one, two):
        talk = chat(model, seed=3)
        say(talk, "hi")
        run_command(talk, "/undo")
        say(talk, "hi")
    assert one.payloads == two.payloads
    assert one.payloads[0]["messages"] == one.payloads[1]["messages"]
    assert one.payloads[0]["seed"] != one.payloads[1]["seed"]


def test_a_turn_without_a_reply_leaves_the_conversation_as_it_was() -> None:
    def fail(text: str, time: int) -> None:
        if text == "two":
            raise CallRejected("content_filter", "not this")

    talk = chat(Asked(behave=fail))
    say(talk, "one")
    with pytest.raises(CallRejected, match=r"^not this$") as refused:
        say(talk, "two")
    assert refused.value.reason == "content_filter"
    assert texts(talk) == ["one", "answer to one"]


def test_a_busy_server_and_a_passing_fault_are_asked_again_as_a_run_asks() -> None:
    def behave(text: str, time: int) -> None:
        if time == 1:
            raise ModelBusy("429", retry_after=30)
        if time < 4:
            raise ModelFault("reset")

    model = Asked(behave=behave)

    async def main() -> float:
        talk = chat(model)
        await talk.say("one")
        await talk.say("two")
        assert texts(talk) == ["one", "answer to one", "two", "answer to two"]
        assert (talk.tally.throttled, talk.tally.retries, talk.tally.answered) == (2, 4, 2)
        return asyncio.get_running_loop().time()

    assert 60 < skipping(main()) < 70
    assert model.payloads[:4] == [model.payloads[0]] * 4


def test_a_server_that_goes_down_after_an_answer_costs_a_turn_and_not_the_conversation() -> None:
    down = True

    def behave(text: str, time: int) -> None:
        if text == "two" and down:
            raise ModelFault("refused")

    async def main() -> None:
        nonlocal down
        talk = chat(Asked(behave=behave))
        await talk.say("one")
        for _ in range(4):
            with pytest.raises(CallRejected, match=r"refused \(6 tries\)"):
                await talk.say("two")
        down = False
        assert (await talk.say("two")).text == "answer to two"

    skipping(main())


def test_a_server_that_was_never_there_is_told_soon() -> None:
    def behave(text: str, time: int) -> None:
        raise ModelFault("refused")

    with pytest.raises(ServerDown, match="no answer after 3 tries: refused"):
        skipping(chat(Asked(behave=behave)).say("one"))


def test_replies_take_at_most_half_of_a_small_context() -> None:
    model = Asked()
    assert fitting(Sampling(), model).max_tokens == 512
    for context, most in ((256, 128), (4096, 512), (1, 1)):
        model.context = context
        assert fitting(Sampling(temperature=0.5), model) == Sampling(temperature=0.5, max_tokens=most)


def test_bytes_that_are_no_text_are_refused_before_they_are_said() -> None:
    talk = chat()
    for give in (lambda: say(talk, "ab\udcff"), lambda: run_command(talk, "/system ab\udcff")):
        with pytest.raises(UsageError, match=r"'ab\\udcff' ends with the byte 0xff, which is not UTF-8 text"):
            give()
    with pytest.raises(UsageError, match="half a surrogate pair"):
        chat(system="\ud83d")
    assert texts(talk) == []


def test_turns_are_forgotten_taken_back_and_put_under_another_system_text() -> None:
    talk = chat()
    assert run_command(talk, "/undo") == "nothing to take back"
    say(talk, "one")
    run_command(talk, "/system  Be kind.")
    assert texts(talk) == ["Be kind.", "one", "answer to one"]
    run_command(talk, "/undo")
    assert texts(talk) == ["Be kind."]
    assert run_command(talk, "/undo") == "nothing to take back"
    say(talk, "two")
    run_command(talk, "/reset")
    assert texts(talk) == ["Be kind."]
    assert run_command(talk, "/system") == "there is no system text"
    assert texts(talk) == []


def test_a_conversation_is_saved_below_a_row_that_has_no_line_end(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text('{"messages": []}')
    talk = chat()
    say(talk, "one")
    for _ in range(2):
        run_command(talk, f"/save {file}")
    assert [len(json.loads(line)["messages"]) for line in file.read_text().splitlines()] == [0, 2, 2]


def test_a_saved_conversation_can_be_trained_on(tmp_path: Path) -> None:
    from cai.training.data.dataset import load_rows

    talk = chat(system="Be brief.")
    with pytest.raises(UsageError, match="no reply yet"):
        run_command(talk, f"/save {tmp_path / 'a.jsonl'}")
    say(talk, "one")
    run_command(talk, f"/save {tmp_path / 'a.jsonl'}")
    say(talk, "two")
    run_command(talk, f"/save {tmp_path / 'a.jsonl'}")
    lines = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    assert [len(line["messages"]) for line in lines] == [3, 5]
    found = load_rows(tmp_path / "a.jsonl", "sft", eval_data=None, split=None)
    assert [row.reply for row in found.train] == ["answer to one", "answer to two"]
    with pytest.raises(RunError, match="cannot write"):
        run_command(talk, f"/save {tmp_path / 'no' / 'a.jsonl'}")
    with pytest.raises(UsageError, match="/save FILE"):
        run_command(talk, "/save")


def test_a_path_that_cannot_be_is_told_and_the_conversation_goes_on() -> None:
    talk = chat()
    say(talk, "one")
    with pytest.raises(UsageError, match="~nosuch/x: there is no home folder of that name"):
        run_command(talk, "/save ~nosuch/x")
    with pytest.raises(UsageError, match="NUL"):
        run_command(talk, "/save a\0b")
    assert texts(talk) == ["one", "answer to one"]
    with pytest.raises(UsageError, match="no home folder"):
        find_spec("~nosuch/x")
    assert path_of("~/x") == Path.home() / "x"


def test_commands_explain_themselves_and_an_unknown_one_is_told() -> None:
    shown = run_command(chat(), "/help")
    assert shown == HELP
    for name in ("/reset", "/system TEXT", "/undo", "/save FILE", "/help", "/quit"):
        assert name in shown
    with pytest.raises(UsageError, match=r"no command /rest; /help"):
        run_command(chat(), "/rest")


def test_a_model_without_a_chat_template_is_refused() -> None:
    model = Asked()
    model.can = Abilities(chat=False)
    with pytest.raises(UsageError, match="no chat template"):
        chat(model)


def test_folders_and_files_are_models_and_specs_stay_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "whole").mkdir()
    (tmp_path / "whole" / "config.json").write_text('{"architectures": ["LlamaForCausalLM"]}')
    (tmp_path / "m.gguf").write_bytes(b"GGUF")
    assert find_spec(str(tmp_path / "whole")) == f"hf:{tmp_path / 'whole'}"
    assert find_spec(str(tmp_path / "m.gguf")) == f"local:{tmp_path / 'm.gguf'}"
    assert [find_spec(name) for name in ("local", "openai:gpt-4.1", "hf:org/name")] == [
        "local", "openai:gpt-4.1", "hf:org/name",
    ]  # fmt: skip
    with pytest.raises(UsageError, match="no model models/typo: give a folder"):
        find_spec("models/typo")


# The command

APP = "import cai.cli.main as c; c.main()"


def recorded(folder: Path, *replies: str) -> Path:
    """A recorded model that gives these replies to a chat's turns."""
    path = folder / "replies.jsonl"
    rows = [
        {"id": "chat", "role": "assistant", "index": number, "reply": reply} for number, reply in enumerate(replies)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_in_a_pipe_every_line_is_a_turn_and_only_replies_are_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = recorded(tmp_path, "First.", "Second\nof two lines.")
    monkeypatch.setattr(sys, "stdin", io.StringIO("one\n\n/help\n"))
    cli_chat.chat(f"recorded:{path}")
    out, err = capsys.readouterr()
    assert out == "First.\nSecond\nof two lines.\n"
    assert err == ""


def piped(text: bytes, *words: str, encoding: str) -> subprocess.CompletedProcess[bytes]:
    """The command with this stdin, in a locale of this encoding."""
    env = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONIOENCODING": encoding, "NO_COLOR": "1"}
    command = [sys.executable, "-m", "cai", "chat", *words]
    return subprocess.run(command, input=text, capture_output=True, env=env, timeout=60, check=False)


@pytest.mark.parametrize(
    ("encoding", "told"),
    [
        ("utf-8:surrogateescape", rb"error: 'two\udcff' ends with the byte 0xff, which is not UTF-8 text"),
        ("utf-8:strict", b"error: stdin is not utf-8 text: invalid start byte"),
    ],
)
def test_a_pipe_with_bytes_that_are_no_text_ends_in_one_line(tmp_path: Path, encoding: str, told: bytes) -> None:
    done = piped(b"one\ntwo\xff\n", f"recorded:{recorded(tmp_path, 'A.', 'B.')}", encoding=encoding)
    assert done.returncode == 1 and b"B." not in done.stdout
    assert done.stderr.startswith(told) and done.stderr.count(b"\n") == 1


def test_a_pipe_waits_for_a_busy_server() -> None:
    from stub import stub

    with stub("--mode", "429", "--rate", "1") as server:
        words = ("openai:some", "--base-url", f"{server.url}/v1", "--max-tokens", "4")
        done = piped(b"one\ntwo\n", *words, encoding="utf-8")
        assert (done.returncode, done.stderr) == (0, b"")
        assert len(done.stdout.splitlines()) == 2
        assert server.stats()["statuses"]["429"] >= 1


def test_a_conversation_past_the_context_is_told_with_ways_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def send(payload: Any) -> Any:
        raise CallRejected("too_long", "267 tokens exceed the context of 256")

    model = Asked()
    model.send = send  # type: ignore[method-assign]
    with asyncio.Runner() as runner:
        monkeypatch.setattr(sys, "stdin", io.StringIO("one\n"))
        with pytest.raises(CallRejected, match=r"of 256; give fewer turns, and a smaller --max-tokens leaves"):
            cli_chat._pipe(runner, chat(model))
        monkeypatch.setattr(sys, "stdin", io.StringIO("one\n"))
        cli_chat._talk(runner, chat(model))
    shown = " ".join(capsys.readouterr().err.split())
    assert "of 256; /undo takes back the last turn, /reset all of them, and a smaller --max-tokens leaves" in shown


def test_bad_settings_are_told_before_anything_is_asked(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--temperature"):
        cli_chat.chat(f"recorded:{recorded(tmp_path, 'x')}", temperature=9.0)
    with pytest.raises(UsageError, match="--extra-body"):
        cli_chat.chat(f"recorded:{recorded(tmp_path, 'x')}", extra_body="{")


class Terminal:
    """The command on a terminal of its own."""

    def __init__(self, *words: str) -> None:
        self.side, other = pty.openpty()
        env = os.environ | {"PYTHONPATH": str(ROOT), "TERM": "dumb", "COLUMNS": "120"}
        self.process = subprocess.Popen(
            [sys.executable, "-c", APP, *words], stdin=other, stdout=other, stderr=other, env=env, close_fds=True,
            start_new_session=True,
        )  # fmt: skip
        os.close(other)
        self.seen = ""

    def until(self, text: str) -> str:
        """All that was shown before `text`."""
        while text not in self.seen:
            ready, _, _ = select.select([self.side], [], [], 60)
            assert ready, f"nothing more came, and no {text!r}: {self.seen}"
            try:
                part = os.read(self.side, 4096)
            except OSError:  # the other side is closed
                part = b""
            assert part, f"ended without {text!r}: {self.seen}"
            self.seen += part.decode(errors="replace")  # echoes what was typed
        before, _, self.seen = self.seen.partition(text)
        return before

    def type(self, text: str) -> None:
        os.write(self.side, text.encode())

    def kept(self, folder: Path) -> list[dict[str, str]]:
        """The conversation, which the chat saves, and ends."""
        self.until("> ")
        self.type(f"/save {folder / 'kept.jsonl'}\n")
        self.until("added to")
        self.until("> ")
        self.type("\x04")
        assert self.process.wait(20) == 0
        messages: list[dict[str, str]] = json.loads((folder / "kept.jsonl").read_text())["messages"]
        return messages


def test_on_a_terminal_replies_have_a_dim_line_and_commands_are_obeyed(tmp_path: Path) -> None:
    terminal = Terminal("chat", f"recorded:{recorded(tmp_path, 'First.', 'Second.')}")
    terminal.until("> ")
    terminal.type("hello\n")
    assert "First." in terminal.until(" s")
    terminal.until("> ")
    terminal.type("/rest\n")
    terminal.until("error: no command /rest")
    assert terminal.kept(tmp_path)[1]["content"] == "First."


@pytest.mark.parametrize("encoding", ["utf-8:surrogateescape", "utf-8:strict"])
def test_on_a_terminal_a_byte_that_is_no_text_costs_a_turn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoding: str
) -> None:
    monkeypatch.setenv("PYTHONIOENCODING", encoding)
    terminal = Terminal("chat", f"recorded:{recorded(tmp_path, 'First.', 'Second.')}")
    for text, shown in ((b"one\n", "First."), (b"two\xff\n", "error: "), (b"two\n", "Second.")):
        terminal.until("> ")
        os.write(terminal.side, text)
        terminal.until(shown)
    assert len(terminal.kept(tmp_path)) == 4


def test_ctrl_c_stops_a_reply_and_keeps_the_session(tmp_path: Path) -> None:
    from stub import stub

    with stub("--latency", "60") as server:
        terminal = Terminal("chat", "openai:slow", "--base-url", f"{server.url}/v1")
        terminal.until("> ")
        terminal.type("hello\n")
        server.wait_for_a_request()
        os.kill(terminal.process.pid, signal.SIGINT)
        terminal.until("stopped; the turn is taken back")
        terminal.until("> ")
        terminal.type("/quit\n")
        assert terminal.process.wait(20) == 0
