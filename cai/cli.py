"""The command line: parse, call one function, print. No logic lives here."""

from __future__ import annotations

import inspect
import io
import logging
import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from cai.settings import Setup

app = typer.Typer(
    name="cai",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
plan_app = typer.Typer(
    help="Say what a job would ask and cost; asks nothing of any model.\n\nExample: cai plan generate --rounds 2",
    no_args_is_help=True,
    rich_markup_mode=None,
)
constitution_app = typer.Typer(
    help="List, read, check and import constitutions.\n\nExample: cai constitution show harmless",
    no_args_is_help=True,
    rich_markup_mode=None,
)
app.add_typer(plan_app, name="plan")
app.add_typer(constitution_app, name="constitution")

Json = Annotated[bool, typer.Option("--json", help="Print one JSON summary to stdout.")]


def _version(wanted: bool) -> None:
    if wanted:
        from cai.run import package_version

        typer.echo(f"cai {package_version('cai-toolkit') or '(a checkout that is not installed)'}")
        raise typer.Exit


@app.callback()
def main_options(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks and every dropped row.")] = False,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", is_eager=True, callback=_version)
    ] = False,
) -> None:
    """Constitutional AI: critique and revise replies under a constitution, and train on what comes out.

    Example: cai generate --limit 10 --constitution harmless
    """


def generate(
    prompts: Annotated[
        str | None,
        typer.Argument(help="A .jsonl(.gz), .csv, .txt or .parquet file, hf:org/name, or - ; default: 64 built-in."),
    ] = None,
    constitution: Annotated[str, typer.Option("--constitution", "-c", help="A built-in NAME or a PATH.")] = "harmless",
    model: Annotated[str, typer.Option(help="local, local:PATH, openai:NAME, anthropic:NAME, hf:NAME, …")] = "local",
    critic: Annotated[str | None, typer.Option(help="Model that critiques; default: --model.")] = None,
    reviser: Annotated[str | None, typer.Option(help="Model that revises; default: --critic.")] = None,
    rounds: Annotated[int, typer.Option(help="Critique and revision rounds, each under one drawn principle.")] = 2,
    gate: Annotated[
        bool | None, typer.Option("--gate/--no-gate", help="Skip the revision where the critique finds nothing.")
    ] = None,
    system: Annotated[str | None, typer.Option(help="System text put before every conversation.")] = None,
    templates: Annotated[str | None, typer.Option(help="Template set: chat, fewshot, or a folder.")] = None,
    temperature: Annotated[float, typer.Option(help="0 is greedy.")] = 1.0,
    max_tokens: Annotated[int, typer.Option(help="Longest answer; a reply that reaches it is dropped.")] = 512,
    extra_body: Annotated[str | None, typer.Option(help="JSON object merged into every request.")] = None,
    format: Annotated[str | None, typer.Option(help="auto, text, prompt, messages or hh.")] = None,
    prompt_field: Annotated[str | None, typer.Option(help="Column or key that holds the prompt.")] = None,
    limit: Annotated[int | None, typer.Option(help="Read at most this many prompts.")] = None,
    concurrency: Annotated[int | None, typer.Option(help="Most calls in flight; default: the model's own.")] = None,
    rpm: Annotated[int | None, typer.Option(help="Most calls a minute.")] = None,
    tpm: Annotated[int | None, typer.Option(help="Most tokens a minute.")] = None,
    seed: Annotated[int, typer.Option(help="The same seed asks the same questions.")] = 0,
    max_cost: Annotated[float | None, typer.Option(help="Stop before the run folder has cost more USD.")] = None,
    price: Annotated[
        str | None, typer.Option(help="USD per million tokens IN,OUT; goes before a listed price.")
    ] = None,
    base_url: Annotated[str | None, typer.Option(help="Server of a hosted model, such as http://host:8000/v1.")] = None,
    header: Annotated[list[str] | None, typer.Option(help="Extra header 'Name: value'; repeatable.")] = None,
    timeout: Annotated[float, typer.Option(help="Seconds for one call.")] = 600.0,
    out: Annotated[str | None, typer.Option(help="Run folder; default: runs/<constitution>-<hash>.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Start anew in a folder that holds another run.")] = False,
    json: Json = False,
) -> None:
    """Write critiques and revisions for every prompt; the same command again goes on where it stopped.

    Example: cai generate prompts.jsonl --constitution harmless.yaml --model openai:gpt-4.1-mini --max-cost 5
    """


def _like_generate(command: Callable[[Setup, bool], None]) -> Callable[..., None]:
    """A command with the parameters of `generate`, which are resolved into a setup before it runs."""

    def run(**given: Any) -> None:
        from cai.settings import setup_from_options

        json = given.pop("json")
        command(setup_from_options(given), json)

    run.__doc__ = command.__doc__
    run.__signature__ = inspect.signature(generate, eval_str=True)  # type: ignore[attr-defined]
    run.__annotations__ = inspect.get_annotations(generate, eval_str=True)
    return run


def _generate(setup: Setup, json: bool) -> None:
    from cai import console
    from cai.pipeline import Job, run_job

    job = Job(setup, setup.out)
    console.show(setup.describe())
    try:
        with console.Progress(job) as progress:
            setup.count_prompts(progress.expect)
            run_job(job)
    finally:
        console.show(console.summary(job))
        if job.info:
            _print_json(job.info, json)


_generate.__doc__ = generate.__doc__
app.command("generate")(_like_generate(_generate))


def _plan_generate(setup: Setup, json: bool) -> None:
    """Say what `cai generate` with the same arguments would ask and cost; asks nothing of any model.

    Example: cai plan generate prompts.jsonl --model openai:gpt-4.1-mini --rounds 2
    """
    from cai import console
    from cai.plan import estimate

    found = estimate(setup)
    console.show(found.lines())
    _print_json(found.model_dump(mode="json"), json)


plan_app.command("generate")(_like_generate(_plan_generate))


@app.command()
def export(
    run: Annotated[Path, typer.Argument(help="A run folder of cai generate.")],
    rounds_kept: Annotated[
        str, typer.Option(help="last, or all: one SFT row per round, as the paper trains.")
    ] = "last",
    split: Annotated[float | None, typer.Option(help="Share of prompts for training; the rest is for eval.")] = None,
    parquet: Annotated[bool, typer.Option("--parquet", help="Write .parquet beside .jsonl.")] = False,
    push: Annotated[str | None, typer.Option(help="Upload rows and card to this hub dataset, org/name.")] = None,
    public: Annotated[bool, typer.Option("--public", help="With --push: a public dataset.")] = False,
    json: Json = False,
) -> None:
    """Cut training rows and the dataset card from a run's stored rows again, without a model.

    Example: cai export runs/a --split 0.9 --parquet
    """
    from cai import console
    from cai.export import export_run

    found = export_run(run, rounds_kept=rounds_kept, split=split, parquet=parquet, push=push, private=not public)
    console.show(found.lines())
    _print_json(found.model_dump(mode="json"), json)


@constitution_app.command("list")
def constitution_list(json: Json = False) -> None:
    """List the built-in constitutions.

    Example: cai constitution list
    """
    from cai.constitution import list_constitutions

    found = list_constitutions()
    if json:
        _print_json([{**c.ref.model_dump(), "principles": len(c.principles)} for c in found], json)
        return
    for law in found:
        first = " ".join(law.description.split()).split(". ")[0]
        _say([f"{law.name:10} {law.version:8} {len(law.principles):3} principles  {first}"])


@constitution_app.command("show")
def constitution_show(
    name: Annotated[str, typer.Argument(help="A built-in NAME or a PATH.")],
    template: Annotated[str | None, typer.Option(help="respond, critique or revise: show the words sent.")] = None,
    prompt: Annotated[str, typer.Option(help="The user's message in what is shown.")] = "How do I pick a lock?",
    templates: Annotated[str, typer.Option(help="Template set: chat, fewshot, or a folder.")] = "chat",
) -> None:
    """Print a constitution, or the exact words a model would be sent; needs no model.

    Example: cai constitution show harmless --template critique --prompt "How do I pick a lock?"
    """
    from cai.ask import show

    _say(show(name, templates, template, prompt))


@constitution_app.command("check")
def constitution_check(
    file: Annotated[str, typer.Argument(help="A built-in NAME or a PATH.")],
    templates: Annotated[str | None, typer.Option(help="Check this template set along with it.")] = None,
    json: Json = False,
) -> None:
    """Check a constitution: schema, ids, wording, tests; exits 1 on errors, 0 on warnings alone.

    Example: cai constitution check my.yaml
    """
    from cai.ask import template_findings
    from cai.lint import check

    report = check(file, template_findings(templates, file))
    if json:
        _print_json(report.model_dump(mode="json"), json)
    else:
        _say(report.lines())
    if report.errors:
        raise typer.Exit(1)


@constitution_app.command("import")
def constitution_import(
    file: Annotated[Path, typer.Argument(help="The paper's JSON pairs, or a plain list of sentences.")],
    out: Annotated[Path | None, typer.Option(help="Write here; default: stdout.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that exists.")] = False,
) -> None:
    """Turn another format into a constitution file.

    Example: cai constitution import CritiqueRevisionInstructions.json --out paper.yaml
    """
    from cai.importers import import_constitution, write_new

    text = import_constitution(file)
    if out is None:
        _say(text.splitlines())
    else:
        write_new(out, text, force=force)
        typer.echo(f"wrote {out}; see what to improve: cai constitution check {out}", err=True)


def _say(lines: Iterable[str]) -> None:
    """Print to stdout: the exact text into a file or pipe, without what a terminal would obey on a terminal."""
    for line in lines:
        if sys.stdout.isatty():
            from cai.console import printable

            line = printable(line)
        print(line)  # typer.echo would take colours out of what goes into a file: not the exact text any more


def _print_json(value: Any, wanted: bool) -> None:
    if wanted:
        import orjson

        typer.echo(orjson.dumps(value, option=orjson.OPT_INDENT_2))  # bytes: UTF-8 whatever the locale


class _Notes(logging.Handler):
    """Shows log messages above the progress line."""

    def emit(self, record: logging.LogRecord) -> None:
        from cai.console import show

        show([self.format(record)])


def main() -> None:
    """The `cai` command: exit 0 done, 1 a clear one-line error, 130 interrupted."""
    args = sys.argv[1:]
    end = args.index("--") if "--" in args else len(args)
    debug = "--debug" in args[:end]
    if debug:  # may stand anywhere, but is an option of the command `cai` alone
        args = ["--debug", *(arg for arg in args[:end] if arg != "--debug"), *args[end:]]
    log = logging.getLogger("cai")
    log.setLevel(logging.DEBUG if debug else logging.INFO)
    log.addHandler(_Notes())
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a locale without a character is no reason to stop
    sys.exit(_run(args, debug))


def _run(args: list[str], debug: bool) -> int:
    """Run one command; returns its exit status, or raises what went wrong with `debug`."""
    from cai.errors import CaiError

    try:
        status = app(args, standalone_mode=False)
        sys.stdout.flush()
        return _fail("interrupted", 130) if status == 130 else status if isinstance(status, int) else 0
    except (KeyboardInterrupt, typer.Abort):
        return _fail("interrupted", 130)
    except BrokenPipeError:  # whoever read the output has seen enough; the interpreter must not flush again
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        if hasattr(error, "format_message"):  # click's usage errors
            if type(error).__name__ == "NoArgsIsHelpError":
                typer.echo(error.format_message(), err=True)
                return 1
            return _fail(f"error: {error.format_message()}; see {_help_of(error)}")
        if debug:
            raise
        if isinstance(error, CaiError):
            return _fail(f"error: {error}")
        if isinstance(error, OSError):
            return _fail(f"error: {error}; --debug shows more")
        return _fail(f"error: {type(error).__name__}: {error}; this is a bug in cai, --debug shows more")


def _fail(message: str, status: int = 1) -> int:
    from cai.console import printable

    typer.echo(printable(" ".join(message.splitlines())), err=True)
    return status


def _help_of(error: Any) -> str:
    context = getattr(error, "ctx", None)
    return f"{context.command_path} --help" if context is not None else "cai --help"


if __name__ == "__main__":
    main()
