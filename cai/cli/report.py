"""The command `cai report`: one HTML file about runs, trainings and evaluations, to open and to mail."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cai.cli.main import Json, print_report

app = typer.Typer(rich_markup_mode=None)


@app.command()
def report(
    source: Annotated[
        list[str],
        typer.Argument(metavar="RUN|MODEL|EVALUATION…", help="Folders of runs, trainings, benches or evaluations."),
    ],
    out: Annotated[Path, typer.Option(help="File to write.")] = Path("report.html"),
    rows: Annotated[int, typer.Option(help="Rows to show, at most 2,000.")] = 2_000,
    seed: Annotated[int, typer.Option(help="Seed of the choice of rows.")] = 0,
    json: Json = False,
) -> None:
    """Write one HTML file to mail: figures with intervals, pictures, and a sample of rows with word diffs and votes.

    Example: cai report runs/a --out report.html
    """
    from cai.report.report import make_report

    print_report(make_report(source, out, rows=rows, seed=seed), json)
