"""The commands `cai judge …`: calibrate a judge, and compare several on pairs that people labelled."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from cai.cli import runs as cli_runs
from cai.cli.main import Json, print_report
from cai.cli.options import Fields, add_command, fields_of, values_of
from cai.errors import ModelStopped
from cai.models import JUDGE_SPECS

app = typer.Typer(
    name="judge",
    help="Compare a judge's labels with human labels.\n\nExample: cai judge calibrate runs/gold --out runs/gold",
    no_args_is_help=True,
    rich_markup_mode=None,
)
SHARED = (
    "templates", "max_tokens", "extra_body", "concurrency", "rpm", "tpm", "seed", "max_cost", "price", "base_url",
    "headers", "timeout", "out", "force",
)  # fmt: skip
"""Settings of label runs that other runs of a judge share."""


def fields_of_judging(*more: str) -> Fields:
    """The settings of a judge's runs that are options here."""
    from cai.runs.kinds.settings import LabelSettings

    fields = fields_of(LabelSettings)
    return {name: fields[name] for name in (*more, *SHARED)}


@app.command("calibrate")
def judge_calibrate(
    file: Annotated[Path, typer.Argument(help="A label run of pairs with human labels, or rows with p_a and human.")],
    gold: Annotated[
        Path | None, typer.Option(help="Human labels of the run's pairs (default: gold.jsonl in its folder).")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for calibration.json and two plots.")] = None,
    delta: Annotated[float, typer.Option(help="Chance that a certified agreement is wrong.")] = 0.1,
    plots: Annotated[bool, typer.Option("--plots/--no-plots", help="With --out: draw PNGs.")] = True,
    json: Json = False,
) -> None:
    """Compare labels with human labels: accuracy, calibration and certified thresholds. Asks no model.

    Example: cai judge calibrate runs/gold --out runs/gold
    """
    from cai.judge.calibration import calibrate_judge
    from cai.judge.plots import check_plots

    if out is not None and plots:
        check_plots()
    report = calibrate_judge(file, gold=gold, delta=delta)
    names = report.save(out, plots=plots) if out is not None else []
    print_report(report, json)
    if names:
        typer.echo(f"wrote {', '.join(names)} in {out}", err=True)


def judge_bench(
    gold: Annotated[str, typer.Option(help="Pairs with human labels: chosen and rejected, HH transcripts, LLMBar, …")],
    judge: Annotated[list[str] | None, typer.Option(help=f"Judge: {JUDGE_SPECS}; repeatable (default: local).")] = None,
    protocol: Annotated[
        list[str] | None,
        typer.Option(
            help="How to ask: logprob, score, vote, reason or decide; repeatable (default: the best for each judge)."
        ),
    ] = None,
    constitution: Annotated[
        str, typer.Option("--constitution", "-c", help="Constitution: a built-in NAME or a PATH.")
    ] = "hhh",
    json: Json = False,
    **options: Any,
) -> None:
    """Run judges on pairs with human labels, and report side by side how well they agree with people.

    Each judge and protocol gets its own folder in --out (default: runs/bench-GOLD). Run the same command again to
    resume.

    Example: cai judge bench --judge local --judge openai:gpt-4.1-mini --gold pairs.jsonl --limit 200
    """
    from cai.constitution.files import load_constitution
    from cai.evaluation.bench import resolve_bench, run_bench
    from cai.evaluation.bench_report import BenchReport

    settings = values_of(options)
    out = settings.pop("out", None) or Path("runs") / f"bench-{Path(gold).name.partition('.')[0]}"
    benches = resolve_bench(gold, judge or ["local"], load_constitution(constitution), protocol or [], out, settings)
    results = run_bench(benches, cli_runs.play_shown)
    print_report(BenchReport(gold, tuple(results)), json)
    if stopped := [result.name for result in results if result.stopped is not None]:
        raise ModelStopped(f"not finished: {', '.join(stopped)}; rerun the same command to resume")


add_command(app, "bench", judge_bench, partial(fields_of_judging, "principles", "limit"))
