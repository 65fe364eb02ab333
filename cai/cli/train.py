"""The commands `cai train …`, one for each training method, and how a training goes in a terminal."""

from __future__ import annotations

import logging
import math
import os
import shlex
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cai.cli.main import Fields, Json, add_command, print_json
from cai.texts.wording import clock
from cai.training.setup.methods import METHODS

if TYPE_CHECKING:
    from cai.training.report.summary import TrainSummary

LINE_EVERY = 30.0  # seconds between lines of one tenth of the work, if stderr is not a terminal
MEASURES = (  # as TRL's trainers name them: of preferences, then of rewards
    ("rewards/margins", "margin", "{:+.3g}"),
    ("margin", "margin", "{:+.3g}"),
    ("rewards/accuracies", "accuracy", "{:.0%}"),
    ("accuracy", "accuracy", "{:.0%}"),
)
REPORTERS = ("wandb", "tensorboard")


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
        str | None, typer.Option(help="Log to wandb or tensorboard too, not just metrics.jsonl.")
    ] = None,
    set: Annotated[
        list[str] | None,
        typer.Option(help="Set any key of the config: KEY=VALUE, such as trl.weight_decay=0.1; repeatable."),
    ] = None,
    json: Json = False,
    **options: Any,
) -> None:
    from cai.cli import console
    from cai.training.train import train

    flags = flags_of(options | {"report_to": report_to}, set or ())
    where: dict[str, Any] = {"out": out, "model": model, "config": config, "eval_data": eval_data, "flags": flags}
    if os.environ.get("RANK", "0") != "0":
        logging.getLogger("cai").setLevel(logging.ERROR)  # of several processes the first one speaks
        train(method, data, **where)
        return
    progress = TrainProgress()
    with console.live_line(progress.line), _faults_of_reporters():
        summary = train(method, data, tell=lambda line: console.show([line]), progress=progress.on_metrics, **where)
    console.show([*summary.lines(), *next_steps(summary)])
    print_json(summary.model_dump(mode="json"), json)


def _fields(method: str) -> Fields:
    """The keys of the config that options set: all that mean something to a method; those of the adapter as lora_KEY.

    None has a value unless it is given, for what no option sets, the config file decides. Lists are for --set.
    """
    from pydantic.fields import FieldInfo

    from cai.training.setup.config import keys_of

    fields = {}
    for key, field in keys_of(method).items():
        if key == "lora.targets":
            continue
        default = "" if field.default is None else f" [default: {field.default}]"
        option = FieldInfo(annotation=field.annotation, default=None, description=f"{field.description}{default}")
        fields[key.replace(".", "_")] = option
    return fields


@contextmanager
def _faults_of_reporters() -> Iterator[None]:
    """Turn what wandb says of keys and servers into an error that a user can mend."""
    from cai.errors import CaiError

    try:
        yield
    except Exception as error:
        reporter = type(error).__module__.partition(".")[0]
        if reporter not in REPORTERS:
            raise
        raise CaiError(f"{reporter}: {error}") from error


def flags_of(options: Mapping[str, Any], assignments: Iterable[str]) -> dict[str, Any]:
    """The keys of the config that options set; raises UsageError for what is not KEY=VALUE, or is set twice."""
    from cai.errors import UsageError

    flags = {_key(name): value for name, value in options.items() if value is not None}
    for key, value in _assignments(assignments):
        if key in flags:
            raise UsageError(f"{key} is set twice: leave one of them out")
        for other in flags:
            if other.startswith(f"{key}.") or key.startswith(f"{other}."):
                raise UsageError(f"{key} and {other} set the same: leave one of them out")
        flags[key] = value
    return flags


def _key(option: str) -> str:
    """The key of the config that an option sets."""
    if option == "report_to":
        return "trl.report_to"
    return option.replace("lora_", "lora.", 1) if option.startswith("lora_") else option


def _assignments(words: Iterable[str]) -> Iterator[tuple[str, Any]]:
    from cai.errors import UsageError
    from cai.sources import yamlfile

    for word in words:
        key, equals, text = word.partition("=")
        around, dot, _ = key.partition(".")
        if not equals or not key:
            raise UsageError(f"--set {word} must be KEY=VALUE, such as lora.rank=8")
        if dot and (around not in ("lora", "trl") or key.count(".") > 1):
            raise UsageError(f"--set {key}: a dotted key is lora.KEY or trl.KEY")
        try:
            value = yamlfile.parse(text).value
        except yamlfile.BadYaml as error:
            raise UsageError(f"--set {word}: {error.message}") from None
        if value is None:
            raise UsageError(f"--set {word} has no value; to leave a key at null, leave it out")
        yield key, value


class TrainProgress:
    """The line that shows how a training goes: live in a terminal, elsewhere printed each tenth of the work."""

    def __init__(self) -> None:
        self._began = self._printed = time.monotonic()
        self._tenth = ("starting", 0)  # of the reference or of the steps, last printed
        self._first_rows = (self._began, 0)  # when the reference first answered, and how many rows it had then
        self._text = "starting"

    def line(self) -> str:
        """How the training stands now."""
        return f"  {clock(time.monotonic() - self._began)}  {self._text}"

    def on_metrics(self, metrics: Mapping[str, Any]) -> None:
        """Take what `cai.train` gives to its `progress`."""
        from cai.cli.console import show

        if "eval_loss" in metrics:
            show([evaluation(metrics)])
        elif "reference_rows" in metrics:
            done, total = metrics["reference_rows"], metrics["of"]
            self._update(self._reference(done, total), ("reference", 10 * done // total))
        elif "loss" in metrics:
            self._update(step(metrics), ("steps", 10 * metrics["step"] // metrics["steps"]))

    def _reference(self, done: int, total: int) -> str:
        text = f"reference {done:,}/{total:,} rows"
        now = time.monotonic()
        began, first = self._first_rows
        if first == 0 or done <= first:
            self._first_rows = now, done
            return text
        return f"{text} · {clock((total - done) * (now - began) / (done - first))} left"

    def _update(self, text: str, tenth: tuple[str, int]) -> None:
        from cai.cli.console import is_live, show

        self._text = text
        now = time.monotonic()
        if not is_live() and (tenth != self._tenth or now - self._printed >= LINE_EVERY):
            self._tenth = tenth
            self._printed = now
            show([self.line()])


def step(metrics: Mapping[str, Any]) -> str:
    """One step of a training, as a line of metrics.jsonl has it."""
    parts = (
        f"step {metrics['step']:,}/{metrics['steps']:,}",
        f"{clock(metrics['eta_seconds'])} left",  # not at the end, which a narrow terminal cuts off
        f"loss {metrics['loss']:.4g}",
        *_measures(metrics),
        f"{metrics['tokens_per_second']:,.0f} tokens/s",
        f"{metrics['memory_gb']:.1f} GB",
    )
    return " · ".join(parts)


def evaluation(metrics: Mapping[str, Any]) -> str:
    """What the held-out rows gave after a step."""
    when = "before the first step"
    if metrics["step"] > 0:
        when = f"after step {metrics['step']:,}"
    parts = [f"loss {metrics['eval_loss']:.4g}", *_measures(metrics, "eval_")]
    return f"held-out rows {when}: {', '.join(parts)}"


def _measures(metrics: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for name, word, form in MEASURES:
        value = metrics.get(prefix + name, math.nan)
        if math.isfinite(value):
            yield f"{word} {form.format(value)}"


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


app = typer.Typer(rich_markup_mode=None)
train_app = typer.Typer(
    help="Train a model on the rows of a run or a file: an adapter, or all weights.\n\n"
    "Example: cai train dpo runs/labels --model local --out models/dpo",
    no_args_is_help=True,
)
app.add_typer(train_app, name="train")
for method, entry in METHODS.items():
    summary = f"{entry.summary} Run the same command again to resume.\n\nExample: cai train {method} {entry.example}"
    add_command(train_app, method, partial(_train, method), partial(_fields, method), summary)
