"""The commands that make, plan and cut runs: `generate`, `sample`, `label`, `plan` and `export`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cai.cli.main import Json, print_json, show_summary
from cai.cli.options import Fields, add_command, fields_of, values_of
from cai.errors import UsageError
from cai.texts.wording import option

if TYPE_CHECKING:
    from cai.records import Values
    from cai.runs.run import Run

Prompts = Annotated[
    str | None,
    typer.Argument(
        help="A .jsonl(.gz), .csv, .txt or .parquet file, hf:org/name, -, or a built-in set: builtin (64 prompts, the "
        "default), contrast or ordinary."
    ),
]
Source = Annotated[str, typer.Argument(help="A run of cai generate or cai sample, or a file of pairs.")]
Act = Callable[["Run[Any]", bool], None]


def _over_prompts(act: Act, kind: str, prompts: Prompts = None, json: Json = False, **options: Any) -> None:
    act(_run(kind, prompts, options), json)


def _over_pairs(act: Act, kind: str, source: Source, json: Json = False, **options: Any) -> None:
    act(_run(kind, source, options), json)


def _class_of(kind: str) -> Any:
    """The class of a kind of run."""
    return getattr(import_module(f"cai.runs.kinds.{kind}"), f"{kind.title()}Run")


def _run(kind: str, source: str | None, options: Values) -> Run[Any]:
    """A run of a kind, resolved and checked."""
    from cai.sources.yamlfile import make_settings

    make = _class_of(kind)
    run: Run[Any] = make(source, make_settings(make.settings_class, values_of(options)))
    return run


def _fields(kind: str) -> Fields:
    fields = fields_of(_class_of(kind).settings_class)
    if kind == "label":
        del fields["temperature"]  # a judge's letters are not sampled
    return fields


def _play(run: Run[Any], json: bool) -> None:
    from cai.cli.terminal import console
    from cai.runs.fleet.fleet import divide
    from cai.runs.kind import results

    parts = []
    try:
        for part in run.sessions():
            parts.append(part)
            divide(part)
            play_shown(part)
        if parts[-1] is not run:
            console.show(console.ending(run))
    finally:
        if any(part.info for part in parts):
            print_json(results(run, parts), json)


def play_shown(run: Run[Any]) -> None:
    """Play one session of a run to its end, and show how it goes."""
    from cai.cli.terminal import console
    from cai.cli.terminal.progress import Progress

    console.show(run.describe())
    try:
        progress = Progress(run)
        progress.count()
        with progress.shown():
            run.finish()
    finally:
        console.show(console.summary(run))


def _plan(run: Run[Any], json: bool) -> None:
    from cai.runs.plan import estimate

    show_summary(estimate(run), json)


def _export(
    run: Annotated[Path, typer.Argument(help="A run folder of cai generate, cai label, or cai sample --best-of.")],
    push: Annotated[str | None, typer.Option(help="Upload rows and card to this hub dataset, org/name.")] = None,
    public: Annotated[bool, typer.Option("--public", help="With --push: make the dataset public.")] = False,
    inspect: Annotated[
        Path | None,
        typer.Option(help="Write the rows as a log for Inspect's viewer into this .json file or folder; cut nothing."),
    ] = None,
    json: Json = False,
    **options: Any,
) -> None:
    """Cut the training rows and the dataset card of a run again from its stored rows, without a model.

    Example: cai export runs/a --split 0.9 --parquet

    Example: cai export runs/a --inspect logs
    """
    if inspect is not None:
        from cai.export.inspect_log import export_inspect
        from cai.export.options import DEFAULTS

        stated = {"push": push, **{name: value for name, value in options.items() if value != DEFAULTS[name]}}
        words = [option(name) for name, value in stated.items() if value is not None]
        if words:
            raise UsageError(f"--inspect writes every row as it is: leave out {', '.join(words)}")
        show_summary(export_inspect(run, inspect), json)
        return
    from cai.export.export import export_run

    show_summary(export_run(run, push=push, private=not public, **options), json)


def _fields_of_export() -> Fields:
    from cai.export.options import ExportOptions

    return fields_of(ExportOptions)


app = typer.Typer(rich_markup_mode=None)
plan_app = typer.Typer(
    name="plan",
    help="Print what a run would ask and cost, without asking any model.\n\nExample: cai plan generate --rounds 2",
    no_args_is_help=True,
)
app.add_typer(plan_app)


COMMANDS: dict[str, tuple[Callable[..., None], str, str]] = {  # what each is over, its help text, and arguments to plan
    "generate": (
        _over_prompts,
        """Critique and revise an answer to every prompt. Run the same command again to resume.

    Example: cai generate prompts.jsonl --constitution harmless.yaml --model openai:gpt-4.1-mini --max-cost 5
    """,
        "prompts.jsonl --model openai:gpt-4.1-mini --rounds 2",
    ),
    "sample": (
        _over_prompts,
        """Sample several replies to every prompt. Run the same command again to resume.

    Example: cai sample prompts.jsonl --model openai:gpt-4.1-mini -n 4 --out runs/replies

    Example: cai sample prompts.jsonl --model local --best-of 4 --judge openai:gpt-4.1 --out runs/best
    """,
        "prompts.jsonl --model openai:gpt-4.1-mini -n 4",
    ),
    "label": (
        _over_pairs,
        """Judge pairs of replies under a constitution, and write preference data. Run the same command again to resume.

    Example: cai label runs/replies --judge openai:gpt-4.1 --gold gold.jsonl --agreement 0.85 --out runs/labels
    """,
        "runs/replies --judge openai:gpt-4.1",
    ),
}
for kind, (over, summary, example) in COMMANDS.items():
    fields = partial(_fields, kind)
    plan = f"Print what `cai {kind}` with the same arguments would ask and cost, without asking any model."
    add_command(app, kind, partial(over, _play, kind), fields, summary)
    add_command(plan_app, kind, partial(over, _plan, kind), fields, f"{plan}\n\nExample: cai plan {kind} {example}")
add_command(app, "export", _export, _fields_of_export)
