"""The command `cai audit`: reads a dataset, prints its faults, and exits 1 above a limit."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cai.cli.main import Json, print_report
from cai.errors import CaiError

app = typer.Typer(rich_markup_mode=None)


@app.command()
def audit(
    file: Annotated[
        str, typer.Argument(help="A .jsonl(.gz), .csv, .txt or .parquet file, a run folder, hf:org/name, or -.")
    ],
    reply_field: Annotated[str | None, typer.Option(help="Column or key that holds the reply.")] = None,
    prompt_field: Annotated[str | None, typer.Option(help="Column or key that holds the prompt.")] = None,
    against: Annotated[
        str | None, typer.Option(help="Report prompts that also occur in this file, such as an eval file.")
    ] = None,
    rows: Annotated[Path | None, typer.Option(help="Write the verdict on every reply to this .jsonl file.")] = None,
    fail_on: Annotated[
        list[str] | None, typer.Option(help="NAME=SHARE,…: exit 1 if a share is higher; repeatable.")
    ] = None,
    json: Json = False,
) -> None:
    """Audit the hygiene of a dataset: refusals, leaks, mixed-up roles, boilerplate, repeated prompts.

    Example: cai audit runs/a/dpo.jsonl --rows verdicts.jsonl --fail-on role_mixup=0,chosen.refusal_full=0.1
    """
    from cai.evaluation.audit import audit as audit_dataset
    from cai.evaluation.audit_report import read_limits

    limits = read_limits(fail_on or [])
    report = audit_dataset(file, reply_field=reply_field, prompt_field=prompt_field, against=against, rows=rows)
    print_report(report, json)
    failures = report.failures(limits)
    if failures:
        raise CaiError(f"{file}: {'; '.join(failures)}")
