"""The commands `cai chat` and `cai merge`: talk with a model, and put an adapter into its base."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cai.cli.main import Json, print_json, say, settings_from_options
from cai.models import SPECS, open_model, spec_of

if TYPE_CHECKING:
    from cai.chat import Chat
    from cai.records import Completion

app = typer.Typer(rich_markup_mode=None)


@app.command()
def merge(
    adapter: Annotated[str, typer.Argument(help="Folder of a LoRA adapter, as cai train leaves it.")],
    out: Annotated[Path, typer.Option(help="Folder for the merged model; new, or empty.")],
    gguf: Annotated[bool, typer.Option("--gguf", help="Write OUT.gguf too, for local: (Llama models).")] = False,
    json: Json = False,
) -> None:
    """Put a LoRA adapter into its base model: one model, which needs no base.

    Example: cai merge models/dpo --out models/merged --gguf
    """
    from cai.cli import console
    from cai.weights.merge import merge as merge_adapter

    found = merge_adapter(adapter, out, gguf=gguf, tell=lambda line: console.show([line]))
    console.show(found.lines())
    print_json(found.model_dump(mode="json"), json)


@app.command()
def chat(
    model: Annotated[str, typer.Argument(help=f"A folder, a .gguf file, or a spec: {SPECS}.")] = "local",
    system: Annotated[str | None, typer.Option(help="System text of the conversation.")] = None,
    temperature: Annotated[float, typer.Option(help="0 is greedy.")] = 1.0,
    max_tokens: Annotated[
        int | None, typer.Option(help="Longest reply; else 512, or half of a model's context where that is less.")
    ] = None,
    base_url: Annotated[str | None, typer.Option(help="Server of a hosted model, such as http://host:8000/v1.")] = None,
    header: Annotated[list[str] | None, typer.Option(help="Extra header 'Name: value'; repeatable.")] = None,
    extra_body: Annotated[str | None, typer.Option(help="JSON object merged into every request.")] = None,
    seed: Annotated[int, typer.Option(help="The same seed and the same turns give the same replies.")] = 0,
) -> None:
    """Talk with a model; each line of a piped stdin is a turn, and only replies are printed.

    Example: cai chat models/dpo --system "You are brief."
    """
    from cai.chat import Chat, find_spec, fitting
    from cai.runs.settings import RunSettings

    options = {
        "temperature": temperature, "base_url": base_url, "headers": header, "extra_body": extra_body, "seed": seed,
    } | ({} if max_tokens is None else {"max_tokens": max_tokens})  # fmt: skip
    settings = settings_from_options(RunSettings, options)
    opened = open_model(find_spec(model), settings.connection)
    with asyncio.Runner() as runner:
        runner.run(opened.start())
        try:
            sampling = settings.sampling
            sampling = fitting(sampling, opened) if max_tokens is None else sampling
            talk = Chat(opened, sampling, system=system, seed=seed)
            (_talk if sys.stdin.isatty() else _pipe)(runner, talk)
        finally:
            runner.run(opened.close())


def _pipe(runner: asyncio.Runner, talk: Chat) -> None:
    from cai.errors import CallRejected, UsageError

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
    from cai.chat import obey
    from cai.cli import console
    from cai.errors import CaiError, ModelStopped

    console.show([f"{spec_of(talk.model)}; /help shows commands, Ctrl-D ends"])
    for line in _lines():
        try:
            if line.startswith("/"):
                console.show(obey(talk, line).splitlines())
                continue
            began = time.monotonic()
            done = runner.run(talk.say(line.strip()))
            say([done.text])
            _tell(done, time.monotonic() - began)
        except KeyboardInterrupt:
            console.show(["stopped; the turn is taken back"])
        except CaiError as error:
            if isinstance(error, ModelStopped) and not talk.tally.answered:
                raise  # such as a wrong key; later there is a conversation to save
            told = _with_way_out(error, "/undo takes back the last turn, /reset all of them")
            console.show([f"error: {told}"])


def _with_way_out(error: Exception, shorten: str) -> str:
    """What is told of an error, and of a conversation that has grown too long what can be done."""
    from cai.errors import CallRejected

    if not isinstance(error, CallRejected) or error.reason != "too_long":
        return str(error)
    return f"{error}; {shorten}, and a smaller --max-tokens leaves them more room"


def _lines() -> Iterator[str]:
    """What a person types, until the end or /quit; Ctrl-C gives up a line."""
    import contextlib

    with contextlib.suppress(ImportError):  # history and editing, where Python has them
        import readline  # noqa: F401
    while True:
        try:
            if not sys.stdout.isatty():  # where only replies belong
                print("> ", end="", file=sys.stderr, flush=True)
            line = input("> " if sys.stdout.isatty() else "")
        except KeyboardInterrupt:
            print(file=sys.stderr)
            continue
        except UnicodeDecodeError as error:
            print(f"error: that is no {error.encoding} text: {error.reason}", file=sys.stderr)
            continue
        except EOFError:
            print(file=sys.stderr)
            return
        if line.strip() == "/quit":
            return
        if line.strip():
            yield line


def _tell(done: Completion, seconds: float) -> None:
    from rich.text import Text

    from cai.cli import console

    tokens = "" if done.output_tokens is None else f"{done.output_tokens:,} tokens, "
    cut = "" if done.finish == "stop" else f", ended by {done.finish}"
    console.show([Text(f"{tokens}{seconds:.1f} s{cut}", style="dim")])
