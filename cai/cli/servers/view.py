"""The command `cai view`: a local page to read runs and trainings, and to label pairs by hand."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from cai.cli.main import Folders, say
from cai.errors import UsageError

app = typer.Typer(rich_markup_mode=None)


@app.command()
def view(
    source: Folders,
    annotate: Annotated[
        int | None, typer.Option(help="Open the page with pairs to label, this many of them.", metavar="N", min=1)
    ] = None,
    queue: Annotated[
        str,
        typer.Option(
            help="random: pairs whose labels may certify a threshold. uncertain: those that the judge is least sure of."
        ),
    ] = "random",
    gold: Annotated[Path | None, typer.Option(help="File of the labels (default: gold.jsonl in the run).")] = None,
    annotator: Annotated[
        str | None, typer.Option(help="Whose labels they are (default: the user of this system).")
    ] = None,
    agreement: Annotated[
        float, typer.Option(help="Agreement with people to certify: the page says how many labels it needs.")
    ] = 0.85,
    seed: Annotated[int, typer.Option(help="Seed of the random queue.")] = 0,
    port: Annotated[int, typer.Option(help="Port of 127.0.0.1; 0: a free one.", min=0, max=65_535)] = 0,
) -> None:
    """Open a local page to read rows and label pairs; it follows a run that is being written. Ctrl-C ends it.

    Example: cai view runs/labels --annotate 40
    """
    from cai.cli.terminal.console import show
    from cai.viewer.pairs import QUEUES
    from cai.viewer.questions import Wishes
    from cai.viewer.server import view

    if queue not in QUEUES:
        raise UsageError(f"--queue {queue}: name one of {', '.join(QUEUES)}")
    if not 0.5 < agreement < 1:
        raise UsageError(f"--agreement {agreement:g}: a share between 0.5 and 1, such as 0.9")

    def announce(address: str) -> None:
        show(["open this address in a browser of this machine; Ctrl-C ends the viewer"])
        say([address])
        sys.stdout.flush()

    wishes = Wishes(annotate, queue, gold, annotator, agreement, seed)
    view(source, wishes, port, announce)
