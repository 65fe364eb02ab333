"""The commands about a run's batches at its provider: `batch list` and `batch cancel`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cai.cli.main import Json, print_report

app = typer.Typer(rich_markup_mode=None)
batch_app = typer.Typer(
    name="batch",
    help="Look at the batches of a run, or cancel them.\n\nExample: cai batch list runs/a",
    no_args_is_help=True,
)
app.add_typer(batch_app)
RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run that was made with --batch.")]


@batch_app.command("list")
def list_batches(run: RunFolder, json: Json = False) -> None:
    """List the batches of a run: how many calls each has, and how far it is known to have come. Asks no provider.

    Example: cai batch list runs/a
    """
    from cai.runs.batch_list import batches_in

    print_report(batches_in(run), json)


@batch_app.command("cancel")
def cancel_batches(
    run: RunFolder,
    base_url: Annotated[str | None, typer.Option(help="Server of models without an address of their own.")] = None,
    json: Json = False,
) -> None:
    """Cancel the batches of a run that are in progress. What they have answered is taken by the same run with --batch.

    Example: cai batch cancel runs/a
    """
    from cai.runs.batch_list import cancel_batches as cancel

    print_report(cancel(run, base_url), json)
