"""The command `cai evaluate`: plays the runs of an evaluation, prints its figures, and exits 1 above a bound."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cai.cli import runs as cli_runs
from cai.cli.main import Json, print_report, show_summary
from cai.cli.options import Fields, add_command, fields_of, values_of
from cai.errors import CaiError, ModelStopped

if TYPE_CHECKING:
    from cai.evaluation.run import EvaluateRun
    from cai.records import Values

Names = Annotated[
    list[str],
    typer.Argument(
        metavar="MODEL... [PROMPTS]",
        help="Folders or specs of models; then a file of prompts, or - (default: 64 built-in prompts).",
    ),
]
Prompts = Annotated[str | None, typer.Option(help="Prompts by name, such as hf:org/name.")]
SUFFIXES = (".jsonl", ".json", ".gz", ".csv", ".txt", ".parquet")

app = typer.Typer(rich_markup_mode=None)


def _fields() -> Fields:
    from cai.evaluation.arena.settings import EvaluateSettings

    return fields_of(EvaluateSettings)


def _run(names: list[str], prompts: str | None, options: Values) -> EvaluateRun:
    """The evaluation that the words of a command mean: the last name is a file of prompts if it looks like one."""
    from cai.evaluation.arena.settings import EvaluateSettings
    from cai.evaluation.run import EvaluateRun
    from cai.sources.yamlfile import make_settings

    if prompts is None and (names[-1] == "-" or (names[-1].endswith(SUFFIXES) and ":" not in names[-1])):
        *names, prompts = names
    return EvaluateRun(names, prompts, make_settings(EvaluateSettings, values_of(options)))


def evaluate(names: Names, prompts: Prompts = None, json: Json = False, **options: Any) -> None:
    """Compare models with BASE: which replies a judge prefers, harm, over-refusal, alignment tax, degeneration.

    Run the same command again to resume.

    Example: cai evaluate models/dpo --against local prompts.jsonl --judge reward:models/rm --out runs/evaluation
    """
    from cai.cli.terminal import console
    from cai.evaluation.evaluate import play_evaluation

    run = _run(names, prompts, options)
    console.show(run.describe())
    evaluation = play_evaluation(run, cli_runs.play_shown)
    print_report(evaluation, json)
    console.show([f"figures in {Path(run.out) / 'evaluation.json'}"])
    if evaluation.stopped is not None:
        raise ModelStopped(f"not finished: {evaluation.unfinished}")
    broken = [bound for bound in evaluation.bounds if bound.verdict == "broken"]
    if broken:
        words = (f"{bound.measure}={bound.bound:+g} by {bound.model}" for bound in broken)
        raise CaiError(f"--fail-on is broken: {', '.join(words)}")


def plan(names: Names, prompts: Prompts = None, json: Json = False, **options: Any) -> None:
    """Print what `cai evaluate` with the same arguments would ask and cost, without asking any model.

    Example: cai plan evaluate models/dpo --against local prompts.jsonl --judge openai:gpt-4.1
    """
    from cai.runs.plan import estimate

    show_summary(estimate(_run(names, prompts, options)), json)


add_command(app, "evaluate", evaluate, _fields)
add_command(cli_runs.plan_app, "evaluate", plan, _fields)
