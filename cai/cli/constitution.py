"""The commands `cai constitution …`: list, show, check, import, test and ablate."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from cai.cli.judge import fields_of_judging
from cai.cli.main import Json, add_command, print_json, print_report, say, values_of
from cai.cli.runs import play_shown
from cai.models import SPECS

app = typer.Typer(rich_markup_mode=None)
constitution_app = typer.Typer(
    help="List, read, check and import constitutions.\n\nExample: cai constitution show harmless", no_args_is_help=True
)
app.add_typer(constitution_app, name="constitution")


@constitution_app.command("list")
def constitution_list(json: Json = False) -> None:
    """List the built-in constitutions.

    Example: cai constitution list
    """
    from cai.constitution.principles import list_constitutions

    found = list_constitutions()
    if json:
        print_json([{**c.ref.model_dump(), "principles": len(c.principles)} for c in found], json)
        return
    for law in found:
        first = " ".join(law.description.split()).split(". ")[0]
        say([f"{law.name:10} {law.version:8} {len(law.principles):3} principles  {first}"])


@constitution_app.command("show")
def constitution_show(
    name: Annotated[str, typer.Argument(help="A built-in NAME or a PATH.")],
    template: Annotated[
        str | None, typer.Option(help="respond, critique, revise or judge: show the words sent.")
    ] = None,
    prompt: Annotated[str, typer.Option(help="The user's message in what is shown.")] = "How do I pick a lock?",
    templates: Annotated[str, typer.Option(help="Template set: chat, fewshot, or a folder.")] = "chat",
) -> None:
    """Print a constitution, or the exact words a model would be sent; needs no model.

    Example: cai constitution show harmless --template critique --prompt "How do I pick a lock?"
    """
    from cai.engine.show import show

    say(show(name, templates, template, prompt))


@constitution_app.command("check")
def constitution_check(
    file: Annotated[str, typer.Argument(help="A built-in NAME or a PATH.")],
    templates: Annotated[str | None, typer.Option(help="Check this template set along with it.")] = None,
    json: Json = False,
) -> None:
    """Check a constitution: schema, ids, wording, tests; exits 1 on errors, 0 on warnings alone.

    Example: cai constitution check my.yaml
    """
    from cai.constitution.lint import check
    from cai.engine.show import template_findings

    report = check(file, template_findings(templates, file))
    print_report(report, json)
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
    from cai.constitution.importers import import_constitution, write_new

    text = import_constitution(file)
    if out is None:
        say(text.splitlines())
    else:
        write_new(out, text, force=force)
        typer.echo(f"wrote {out}; see what to improve: cai constitution check {out}", err=True)


def constitution_test(
    file: Annotated[str, typer.Argument(help="A built-in NAME or a PATH.")],
    judge: Annotated[str, typer.Option(help=f"{SPECS}.")] = "local",
    protocol: Annotated[
        str | None, typer.Option(help="logprob, score, vote or reason; default: the best the judge can do.")
    ] = None,
    principle: Annotated[str | None, typer.Option(help="Test this principle alone, by its id.")] = None,
    json: Json = False,
    **options: Any,
) -> None:
    """Hold a constitution to its own examples: a judge must prefer `better` in both orders; exits 1 where one fails.

    Finished calls are kept: running it again asks only about what changed.

    Example: cai constitution test my.yaml --judge openai:gpt-4.1-mini
    """
    from cai.constitution.principles import load_constitution
    from cai.errors import CaiError
    from cai.evaluation.trial import resolve_trial, run_trial

    settings = {"judge": judge, "protocol": protocol, **values_of(options)}
    report = run_trial(resolve_trial(load_constitution(file), principle, settings), play_shown)
    print_report(report, json)
    if report.failed:
        raise CaiError(f"{file}: {len(report.failed):,} of {len(report.outcomes):,} tests do not hold in both orders")


add_command(constitution_app, "test", constitution_test, fields_of_judging)


@constitution_app.command("ablate")
def constitution_ablate(
    labels: Annotated[Path, typer.Argument(help="A label run, or its labels.jsonl.")],
    min_confidence: Annotated[float, typer.Option(help="The threshold whose crossings are counted.")] = 0.7,
    json: Json = False,
) -> None:
    """Say of each principle how it votes, and what leaving it out would change; asks nothing of any model.

    Example: cai constitution ablate runs/labels
    """
    from cai.evaluation.ablation import ablate

    print_report(ablate(labels, min_confidence=min_confidence), json)
