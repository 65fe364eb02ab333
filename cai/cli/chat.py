"""The commands `cai chat` and `cai merge`: talk with a model, and merge an adapter into its base."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cai.cli.main import Json, say, show_summary
from cai.cli.options import Fields, add_command, fields_of, values_of
from cai.errors import CaiError, CallRejected, ModelStopped, UsageError
from cai.models import SPECS, open_model

if TYPE_CHECKING:
    import asyncio

    from rich.text import Text

    from cai.chat import Chat
    from cai.records import Completion

app = typer.Typer(rich_markup_mode=None)


def merge(
    adapter: Annotated[str, typer.Argument(help="Folder of a LoRA adapter, as cai train writes it.")],
    out: Annotated[Path, typer.Option(help="New or empty folder for the merged model.")],
    gguf: Annotated[bool, typer.Option("--gguf", help="Also write OUT.gguf, for local: (Llama models).")] = False,
    json: Json = False,
) -> None:
    """Merge a LoRA adapter into its base model, as one model that needs no base.

    Example: cai merge models/dpo --out models/merged --gguf
    """
    from cai.weights.merge import merge as merge_adapter

    show_summary(merge_adapter(adapter, out, gguf=gguf), json)


def chat(
    model: Annotated[str, typer.Argument(help=f"A folder, a .gguf file, or a spec: {SPECS}.")] = "local",
    system: Annotated[str | None, typer.Option(help="System text of the conversation.")] = None,
    max_tokens: Annotated[
        int | None, typer.Option(help="Longest reply (default: 512, or half of the model's context if less).")
    ] = None,
    seed: Annotated[int, typer.Option(help="The same seed and the same turns give the same replies.")] = 0,
    **options: Any,
) -> None:
    """Talk with a model. Each line of a piped stdin is a turn, and only replies are printed.

    Example: cai chat models/dpo --system "You are brief."
    """
    import asyncio

    from cai.chat import Chat, find_spec, fitting
    from cai.runs.settings import RunSettings
    from cai.sources.yamlfile import make_settings

    if max_tokens is not None:
        options["max_tokens"] = max_tokens
    settings = make_settings(RunSettings, {"seed": seed, **values_of(options)})
    opened = open_model(find_spec(model), settings.connection)
    with asyncio.Runner() as runner:
        runner.run(opened.start())
        try:
            sampling = settings.sampling if max_tokens is not None else fitting(settings.sampling, opened)
            talk = Chat(opened, sampling, system=system, seed=seed)
            if sys.stdin.isatty():
                _talk(runner, talk)
            else:
                _pipe(runner, talk)
        finally:
            runner.run(opened.close())


def _fields() -> Fields:
    """The settings of runs that a conversation takes, too."""
    from cai.runs.settings import RunSettings

    fields = fields_of(RunSettings)
    servers = ("server_command", "server_arg", "server_timeout", "keep_server")
    names = ("temperature", "base_url", "headers", "extra_body", *servers)
    return {name: fields[name] for name in names}


add_command(app, "chat", chat, _fields)
app.command()(merge)


def _pipe(runner: asyncio.Runner, talk: Chat) -> None:
    try:
        for line in sys.stdin:
            if line.strip():
                say([runner.run(talk.say(line.rstrip("\r\n"))).text])
                sys.stdout.flush()
    except UnicodeDecodeError as error:
        raise UsageError(f"stdin is not {error.encoding} text: {error.reason}") from None
    except CallRejected as error:
        raise CallRejected(error.reason, _with_way_out(error, "give fewer turns")) from None


def _talk(runner: asyncio.Runner, talk: Chat) -> None:
    from cai.calls.model import spec_of
    from cai.chat import run_command
    from cai.cli.terminal import console

    console.show([f"{spec_of(talk.model)}; /help shows commands, Ctrl-D ends"])
    for line in _lines():
        try:
            if line.startswith("/"):
                console.show(run_command(talk, line).splitlines())
                continue
            began = time.monotonic()
            reply = runner.run(talk.say(line.strip()))
            say([reply.text])
            console.show([_figures(reply, time.monotonic() - began)])
        except KeyboardInterrupt:
            console.show(["stopped; the turn is taken back"])
        except CaiError as error:
            if isinstance(error, ModelStopped) and not talk.tally.answered:
                raise  # such as a wrong key; later there is a conversation to save
            message = _with_way_out(error, "/undo takes back the last turn, /reset all of them")
            console.show([f"error: {message}"])


def _with_way_out(error: Exception, shorten: str) -> str:
    """An error in words, and if a conversation has grown too long, what to do about it."""
    if isinstance(error, CallRejected) and error.reason == "too_long":
        return f"{error}; {shorten}, and a smaller --max-tokens leaves them more room"
    return str(error)


def _lines() -> Iterator[str]:
    """What a person types, until the end or /quit; Ctrl-C gives up a line."""
    with suppress(ImportError):  # history and editing, if Python has them
        import readline  # noqa: F401
    line = ""
    while line.strip() != "/quit":
        if line.strip():
            yield line
        line = ""
        try:
            line = _typed()
        except KeyboardInterrupt:
            print(file=sys.stderr)
        except UnicodeDecodeError as error:
            print(f"error: this is not {error.encoding} text: {error.reason}", file=sys.stderr)
        except EOFError:
            print(file=sys.stderr)
            return


def _typed() -> str:
    if sys.stdout.isatty():
        return input("> ")
    print("> ", end="", file=sys.stderr, flush=True)  # only replies go to stdout
    return input()


def _figures(reply: Completion, seconds: float) -> Text:
    from rich.text import Text

    parts = [f"{seconds:.1f} s"]
    if reply.output_tokens is not None:
        parts.insert(0, f"{reply.output_tokens:,} tokens")
    if reply.finish != "stop":
        parts.append(f"ended by {reply.finish}")
    return Text(", ".join(parts), style="dim")
