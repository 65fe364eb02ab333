"""The commands `cai train …`, one for each training method."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from cai.cli.main import Fields, Json, add_command, print_json
from cai.training.setup.methods import METHODS

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
    from cai.cli import console, console_train
    from cai.training.setup.opening import join_processes
    from cai.training.train import train

    flags = flags_of(options | {"report_to": report_to}, set or ())
    where: dict[str, Any] = {"out": out, "model": model, "config": config, "eval_data": eval_data, "flags": flags}
    if not join_processes().first:
        logging.getLogger("cai").setLevel(logging.ERROR)  # of several processes the first one speaks
        train(method, data, **where)
        return
    with console_train.TrainProgress() as progress, _faults_of_reporters():
        summary = train(method, data, tell=lambda line: console.show([line]), progress=progress.heard, **where)
    console.show(console_train.summary(summary))
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
