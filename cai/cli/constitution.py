"""The commands `cai constitution …`: list, show, check, import, test and ablate."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from cai.cli.judge import fields_of_judging
from cai.cli.main import Json, print_json, print_report, say
from cai.cli.options import add_command, values_of
from cai.cli.runs import play_shown
from cai.errors import CaiError
from cai.models import SPECS
from cai.texts.wording import one_line

app = typer.Typer(
    name="constitution",
    help="List, show, check, test and import constitutions.\n\nExample: cai constitution show harmless",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@app.command("list")
def constitution_list(json: Json = False) -> None:
    """List the built-in constitutions.

    Example: cai constitution list
    """
    from cai.constitution.files import list_constitutions

    laws = list_constitutions()
    if json:
        print_json([{**law.ref.model_dump(), "principles": len(law.principles)} for law in laws])
        return
    for law in laws:
        summary = one_line(law.description).split(". ")[0]
        say([f"{law.name:10} {law.version:8} {len(law.principles):3} principles  {summary}"])


@app.command("show")
def constitution_show(
    name: Annotated[str, typer.Argument(help="A built-in NAME or a PATH.")],
    template: Annotated[
        str | None,
        typer.Option(help="Show the words sent for respond, critique, gate, revise, screen, judge, verdict or scale."),
    ] = None,
    prompt: Annotated[str, typer.Option(help="With --template: the user's message.")] = "How do I pick a lock?",
    templates: Annotated[str, typer.Option(help="Template set: chat, quoted, fewshot, or a folder.")] = "chat",
) -> None:
    """Print a constitution, or with --template the exact words that a model would be sent. Needs no model.

    Example: cai constitution show harmless --template critique --prompt "How do I pick a lock?"
    """
    from cai.engine.show import show

    say(show(name, templates, template, prompt))


@app.command("check")
def constitution_check(
    file: Annotated[str, typer.Argument(help="A built-in NAME or a PATH.")],
    templates: Annotated[str | None, typer.Option(help="Also check this template set.")] = None,
    json: Json = False,
) -> None:
    """Check a constitution: schema, ids, wording and tests. Exits 1 if there are errors, 0 if only warnings.

    Example: cai constitution check my.yaml
    """
    from cai.constitution.lint import check
    from cai.engine.show import template_findings

    report = check(file, template_findings(templates, file))
    print_report(report, json)
    if report.errors:
        raise typer.Exit(1)


@app.command("import")
def constitution_import(
    file: Annotated[Path, typer.Argument(help="The paper's JSON pairs, or a plain list of sentences.")],
    out: Annotated[Path | None, typer.Option(help="Write to this file (default: stdout).")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing file.")] = False,
) -> None:
    """Convert another format to a constitution file.

    Example: cai constitution import CritiqueRevisionInstructions.json --out paper.yaml
    """
    from cai.constitution.importers import import_constitution, write_new

    text = import_constitution(file)
    if out is None:
        say(text.splitlines())
    else:
        write_new(out, text, force=force)
        typer.echo(f"wrote {out}; see what to improve: cai constitution check {out}", err=True)


def constitution_test(
    file: Annotated[str, typer.Argument(help="A built-in NAME or a PATH.")],
    judge: Annotated[str, typer.Option(help=f"Judge: {SPECS}.")] = "local",
    protocol: Annotated[
        str | None,
        typer.Option(help="How to ask: logprob, score, vote, reason or decide (default: the best for the judge)."),
    ] = None,
    principle: Annotated[str | None, typer.Option(help="Test only the principle with this id.")] = None,
    json: Json = False,
    **options: Any,
) -> None:
    """Run a constitution's own test cases: the judge must prefer `better` in both orders. Exits 1 if any test fails.

    Finished calls are kept: the next run asks only about what changed.

    Example: cai constitution test my.yaml --judge openai:gpt-4.1-mini
    """
    from cai.constitution.files import load_constitution
    from cai.evaluation.trial import resolve_trial, run_trial

    settings = {"judge": judge, "protocol": protocol, **values_of(options)}
    report = run_trial(resolve_trial(load_constitution(file), principle, settings), play_shown)
    print_report(report, json)
    if report.failed:
        raise CaiError(f"{file}: {len(report.failed):,} of {len(report.outcomes):,} tests do not hold in both orders")


add_command(app, "test", constitution_test, fields_of_judging)


@app.command("ablate")
def constitution_ablate(
    labels: Annotated[Path, typer.Argument(help="A label run, or its labels.jsonl.")],
    min_confidence: Annotated[float, typer.Option(help="Count the pairs that would cross this confidence.")] = 0.7,
    json: Json = False,
) -> None:
    """Show how each principle votes, and what leaving it out would change. Asks no model.

    Example: cai constitution ablate runs/labels
    """
    from cai.evaluation.ablation import ablate

    print_report(ablate(labels, min_confidence=min_confidence), json)
