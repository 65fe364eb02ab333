"""The commands `cai train …`, one for each training method, and how a training goes in a terminal."""

from __future__ import annotations

import logging
import math
import os
import re
import shlex
import time
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cai.cli import runs as cli_runs
from cai.cli.main import Json, print_json, show_summary
from cai.cli.options import Fields, add_command, fields_of, values_of
from cai.errors import UsageError
from cai.texts.wording import clock
from cai.training.setup.methods import METHODS
from cai.training.setup.trackers import TRACKERS

if TYPE_CHECKING:
    from cai.records import Object, Values
    from cai.training.report.summary import TrainSummary

LINE_EVERY = 30.0  # seconds between lines of one tenth of the work, if stderr is not a terminal
STEP = (  # the most important first: a narrow terminal leaves out the last ones
    "{left} left · step {step:,}/{steps:,} · loss {loss:.4g} · {measures}{tokens_per_second:,.0f} tokens/s · "
    "{memory_gb:.1f} GB"
)
ASKING = "asking the model {when} the training: {replies:,}/{of:,} replies, the next at token {token:,} of {most:,}"
MEASURES = {  # as TRL's trainers name them: of preferences, of reward models, and of replies to which rewards are given
    "rewards/margins": "margin {:+.3g}",
    "margin": "margin {:+.3g}",
    "rewards/accuracies": "accuracy {:.0%}",
    "accuracy": "accuracy {:.0%}",
    "reward": "reward {:+.3g}",
    "kl": "KL {:.2g}",
}


def _train(
    method: Any,
    data: Annotated[str, typer.Argument(help="A run folder, a .jsonl(.gz) or .parquet file of rows, or hf:org/name.")],
    out: Annotated[Path, typer.Option(help="Folder for the trained model and its measurements.")],
    model: Annotated[
        str,
        typer.Option(help="Model to train: local (embedded), a folder (an adapter too), a .gguf file, or a hub name."),
    ] = "local",
    config: Annotated[
        Path | None, typer.Option(help="Config file like examples/train.yaml; options override it.")
    ] = None,
    eval_data: Annotated[
        str | None, typer.Option(help="Rows to evaluate on (default: the .eval file beside DATA).")
    ] = None,
    report_to: Annotated[
        str | None, typer.Option(help=f"Send the metrics to a tracker, too: {', '.join(TRACKERS)}.")
    ] = None,
    set: Annotated[
        list[str] | None,
        typer.Option(help="Set any key of the config: KEY=VALUE, such as trl.weight_decay=0.1; repeatable."),
    ] = None,
    json: Json = False,
    **options: Any,
) -> None:
    from cai.cli.terminal import console
    from cai.training.train import train

    where: Values = {"out": out, "model": model, "config": config, "eval_data": eval_data}
    if METHODS[method].online:
        where["judging"] = _judging(options)
    where["flags"] = flags_of(options | {"report_to": report_to}, set or ())
    if os.environ.get("RANK", "0") != "0":
        logging.getLogger("cai").setLevel(logging.ERROR)  # of several processes the first one speaks
        train(method, data, **where)
        return
    progress = TrainProgress()
    with console.live_line(progress.line):
        summary = train(method, data, progress=progress.on_metrics, **where)
    console.show([*summary.lines(), *next_steps(summary)])
    print_json(summary.model_dump(mode="json"), json)


def _fields(method: str) -> Fields:
    """The keys of the config that options set: those that mean something to a method, of the adapter as lora_KEY.

    None has a default, because the config file decides what no option sets. Lists are for --set.
    """
    from pydantic.fields import FieldInfo

    from cai.training.setup.config import keys_of

    fields = {}
    for key, field in keys_of(method).items():
        description = field.description
        if field.default is not None:
            description = f"{description} [default: {field.default}]"
        option = FieldInfo(annotation=field.annotation, default=None, description=description)
        fields[key.replace(".", "_")] = option
    fields.pop("lora_targets", None)
    if METHODS[method].online:
        fields |= {name: field for name, field in _fields_of_judging().items() if name not in fields}
    return fields


def _fields_of_judging() -> Fields:
    """The settings of judges that give rewards."""
    from cai.rewards.settings import RewardSettings

    return fields_of(RewardSettings)


def flags_of(options: Object, assignments: Iterable[str]) -> Values:
    """The keys of the config that options set; raises UsageError for what is not KEY=VALUE, or is set twice."""
    from cai.sources import yamlfile

    flags = {
        name.replace("lora_", "lora.").replace("report_to", "trl.report_to"): value
        for name, value in options.items()
        if value is not None
    }
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals or not key:
            raise UsageError(f"--set {assignment} must be KEY=VALUE, such as lora.rank=8")
        if not re.fullmatch(r"[^.]+|(lora|trl)\.[^.]*", key):
            raise UsageError(f"--set {key}: a dotted key is lora.KEY or trl.KEY")
        try:
            value = yamlfile.parse(text).value
        except yamlfile.BadYaml as error:
            raise UsageError(f"--set {assignment}: {error.message}") from None
        if value is None:
            raise UsageError(f"--set {assignment} has no value; to leave a key at null, leave it out")
        if key in flags:
            raise UsageError(f"{key} is set twice: leave one of them out")
        for other in flags:
            if other.startswith(f"{key}.") or key.startswith(f"{other}."):
                raise UsageError(f"{key} and {other} set the same: leave one of them out")
        flags[key] = value
    return flags


class TrainProgress:
    """The line that shows how a training goes: live in a terminal, elsewhere printed each tenth of the work."""

    def __init__(self) -> None:
        self._began = self._printed = time.monotonic()
        self._tenth = ("starting", 0)  # of the reference or of the steps, last printed
        self._first_rows = (self._began, 0)  # when the reference first answered, and how many rows it had then
        self._text = "reading the rows, and loading the model"

    def line(self) -> str:
        """How the training stands now."""
        from cai.cli.terminal.progress import timed

        return timed(time.monotonic() - self._began, self._text)

    def on_metrics(self, metrics: Object) -> None:
        """Take what `cai.train` gives to its `progress`."""
        from cai.cli.terminal.console import show

        if "eval_loss" in metrics:
            show([evaluation(metrics)])
        elif "reference_rows" in metrics:
            done, total = metrics["reference_rows"], metrics["of"]
            self._update(self._reference(done, total), ("reference", 10 * done // total))
        elif "replies" in metrics:
            done, total = metrics["replies"], metrics["of"]
            self._update(ASKING.format(**metrics), (f"asking {metrics['when']}", 10 * done // total))
        elif "loss" in metrics:
            self._update(step(metrics), ("steps", 10 * metrics["step"] // metrics["steps"]))

    def _reference(self, done: int, total: int) -> str:
        text = f"reference {done:,}/{total:,} rows"
        now = time.monotonic()
        began, first = self._first_rows
        if first == 0 or done <= first:
            self._first_rows = now, done
            return text
        return f"{clock((total - done) * (now - began) / (done - first))} left · {text}"

    def _update(self, text: str, tenth: tuple[str, int]) -> None:
        from cai.cli.terminal.console import is_live, show

        self._text = text
        now = time.monotonic()
        if not is_live() and (tenth != self._tenth or now - self._printed >= LINE_EVERY):
            self._tenth = tenth
            self._printed = now
            show([self.line()])


def step(metrics: Object) -> str:
    """One step of a training, as a line of metrics.jsonl has it."""
    measures = "".join(f"{measure} · " for measure in _measures(metrics))
    return STEP.format(**metrics, left=clock(metrics["eta_seconds"]), measures=measures)


def evaluation(metrics: Object) -> str:
    """What the held-out rows gave after a step."""
    when = f"after step {metrics['step']:,}" if metrics["step"] > 0 else "before the first step"
    measures = "".join(f", {measure}" for measure in _measures(metrics, "eval_"))
    return f"held-out rows {when}: loss {metrics['eval_loss']:.4g}{measures}"


def _measures(metrics: Object, prefix: str = "") -> Iterator[str]:
    for name, form in MEASURES.items():
        value = metrics.get(prefix + name)
        if value is not None and math.isfinite(value):  # a mean of unknown rewards is None
            yield form.format(value)


def next_steps(summary: TrainSummary) -> Iterator[str]:
    """What to type next."""
    folder = shlex.quote(str(summary.folder))
    method = METHODS[summary.method]
    if method.scores:
        yield f"next: cai judge bench --judge reward:{folder} --gold FILE"
        return
    yield f"next: cai chat {folder}"
    if method.following:
        yield f"next: {method.following.format(folder=folder)}"
    if (summary.folder / "adapter_config.json").exists():
        yield f"next: cai merge {folder} --out FOLDER"


def _plan(
    method: Annotated[str, typer.Argument(help="rloo, grpo or ppo.")],
    data: Annotated[str, typer.Argument(help="Prompts: a run folder, a file, hf:org/name, or a built-in set.")],
    out: Annotated[Path | None, typer.Option(help="Taken as `cai train` takes it, and not used.")] = None,
    model: Annotated[str | None, typer.Option(help="Taken as `cai train` takes it, and not used.")] = None,
    config: Annotated[Path | None, typer.Option(help="Config file like examples/train.yaml.")] = None,
    eval_data: Annotated[
        str | None, typer.Option(help="Held-out prompts (default: the .eval file beside DATA).")
    ] = None,
    report_to: Annotated[str | None, typer.Option(help="Taken as `cai train` takes it, and not used.")] = None,
    set: Annotated[list[str] | None, typer.Option(help="Set any key of the config: KEY=VALUE; repeatable.")] = None,
    json: Json = False,
    **options: Any,
) -> None:
    """Print what the rewards of `cai train rloo`, `grpo` or `ppo` would ask and cost, without asking any model.

    Example: cai plan train grpo prompts.jsonl --reward judge -c harmless --judge openai:gpt-4.1-mini
    """
    from cai.training.plan import plan_rewards

    judging = _judging(options)
    flags = flags_of(options, set or ())
    show_summary(plan_rewards(method, data, config=config, flags=flags, eval_data=eval_data, judging=judging), json)


def _planned() -> Fields:
    """The options of all online methods together."""
    return {name: field for method, entry in METHODS.items() if entry.online for name, field in _fields(method).items()}


def _judging(options: Values) -> Values:
    """The settings of judges among the options of a command, which are taken out of them."""
    names = [name for name in _fields_of_judging() if name in options and name != "seed"]
    return values_of({name: options.pop(name) for name in names})


add_command(cli_runs.plan_app, "train", _plan, _planned)

app = typer.Typer(
    name="train",
    help="Train a model on the rows of a run or a file: an adapter, or all weights.\n\n"
    "Example: cai train dpo runs/labels --model local --out models/dpo",
    no_args_is_help=True,
    rich_markup_mode=None,
)
for method, entry in METHODS.items():
    summary = f"{entry.summary} Run the same command again to resume.\n\nExample: cai train {method} {entry.example}"
    add_command(app, method, partial(_train, method), partial(_fields, method), summary)
