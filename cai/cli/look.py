"""The commands that look at what there is: `report` about runs and trainings, `show` one row, list all `runs`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cai.cli.main import Folders, Json, print_json, print_report

app = typer.Typer(rich_markup_mode=None)


@app.command()
def report(
    source: Folders,
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


@app.command()
def show(
    run: Annotated[Path, typer.Argument(help="Folder of a run or a training.")],
    row: Annotated[
        str | None, typer.Argument(metavar="[ID]", help="Id of a row, or its beginning (default: the first row).")
    ] = None,
    calls: Annotated[bool, typer.Option("--calls", help="Show exactly what was asked and answered, too.")] = False,
    json: Json = False,
) -> None:
    """Print one row whole: its texts, revisions as word diffs, every vote in both orders, what made it, its calls.

    Example: cai show runs/a

    Example: cai show runs/labels moon:0-1 --calls
    """
    from cai.cli.terminal.row import show_row
    from cai.viewer.terminal.row import find_row

    found = find_row(run, row)
    if json:
        print_json(found.summary(requests=calls))
    else:
        show_row(found, requests=calls)


@app.command()
def runs(
    folder: Annotated[
        Path | None,
        typer.Argument(metavar="[DIR]", help="Folder to look in (default: runs, or here if there is none)."),
    ] = None,
    json: Json = False,
) -> None:
    """List the runs, trainings and evaluations under a folder, the newest first, and what to type to resume each.

    Example: cai runs
    """
    from cai.cli.terminal.shelf import show_shelf
    from cai.viewer.terminal.shelf import find_folders

    shelf = find_folders(folder)
    if json:
        print_json([each.summary() for each in shelf.folders])
    else:
        show_shelf(shelf)
