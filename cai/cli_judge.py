"""The commands `cai judge …`: parse, call one function, print."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cai.cli_common import Json, print_json, say

judge_app = typer.Typer(
    help="Hold a judge's labels against people's.\n\nExample: cai judge calibrate runs/gold --out runs/gold",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@judge_app.callback()
def judge_options() -> None:  # keeps `calibrate` a subcommand while it is the only one
    """Hold a judge's labels against people's.

    Example: cai judge calibrate runs/gold --out runs/gold
    """


@judge_app.command("calibrate")
def judge_calibrate(
    file: Annotated[Path, typer.Argument(help="A label run of pairs people judged, or rows with p_a and human.")],
    out: Annotated[Path | None, typer.Option(help="Folder for calibration.json and two plots.")] = None,
    delta: Annotated[float, typer.Option(help="Chance that a certified agreement is wrong.")] = 0.1,
    plots: Annotated[bool, typer.Option("--plots/--no-plots", help="With --out: draw PNGs.")] = True,
    json: Json = False,
) -> None:
    """Compare labels with people's: accuracy, calibration, and thresholds with a promise; asks nothing of any model.

    Example: cai judge calibrate runs/gold --out runs/gold
    """
    from cai.calibration import calibrate_file
    from cai.plots import check_plots

    if out is not None and plots:
        check_plots()
    report = calibrate_file(file, delta=delta)
    written = [] if out is None else report.save(out, plots=plots)
    if json:
        print_json(report.summary(), True)
    else:
        say(report.lines())
    if written:
        typer.echo(f"wrote {', '.join(written)} in {out}", err=True)
