"""The commands `cai train …`: parse, call one function, print."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cai.cli.common import Json, print_json

if TYPE_CHECKING:
    from cai.training.data.rows import Method

train_app = typer.Typer(
    help="Train a model on rows of a run or of a file: an adapter, or all weights."
    "\n\nExample: cai train dpo runs/labels --model local --out models/dpo",
    no_args_is_help=True,
    rich_markup_mode=None,
)
REPORTERS = ("wandb", "tensorboard")
KEYS = {"learning_rate": "learning_rate", "lora_rank": "lora.rank", "report_to": "trl.report_to"} | {
    name: name
    for name in ("full", "epochs", "batch_size", "max_length", "loss", "beta", "split", "chat_template", "seed",
                 "rows_at_once")
}  # fmt: skip
"""Keys of the config, by the option that sets them."""
ONLY: dict[str, tuple[Method, ...]] = {"loss": ("dpo", "kto", "reward"), "beta": ("dpo", "kto")}


def train_options(
    data: Annotated[str, typer.Argument(help="A run folder, a .jsonl(.gz) or .parquet file of rows, or hf:org/name.")],
    out: Annotated[Path, typer.Option(help="Folder for the trained model and all that was measured.")],
    model: Annotated[
        str, typer.Option(help="local (embedded), a folder (an adapter's, too), a .gguf file, or a name on the hub.")
    ] = "local",
    config: Annotated[Path | None, typer.Option(help="A file like examples/train.yaml; options go before it.")] = None,
    full: Annotated[bool | None, typer.Option("--full", help="Train all weights, not a LoRA adapter.")] = None,
    epochs: Annotated[float | None, typer.Option(help="How often each row is seen; default: 1.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Its highest value; default: by method.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Rows in one step, over all devices; default: 16.")] = None,
    rows_at_once: Annotated[
        int | None, typer.Option(help="Rows in one forward pass of a device; default: from its memory.")
    ] = None,
    max_length: Annotated[
        int | None, typer.Option(help="Tokens of a row; default: holds 99 % of the rows, up to a cap.")
    ] = None,
    lora_rank: Annotated[int | None, typer.Option(help="Rank of the adapter; default: 16.")] = None,
    loss: Annotated[
        str | None,
        typer.Option(help="dpo: cdpo, gap_scaled, sigmoid, ipo, …; kto: kto, …; reward: soft, margin, hard."),
    ] = None,
    beta: Annotated[float | None, typer.Option(help="How near the reference the model stays; default: 0.1.")] = None,
    split: Annotated[
        float | None, typer.Option(help="Share of the prompts that train; default: 0.95, or a file of eval rows.")
    ] = None,
    eval_data: Annotated[str | None, typer.Option(help="Rows to evaluate on; default: DATA's .eval twin.")] = None,
    chat_template: Annotated[str | None, typer.Option(help="A Jinja file, for a model without one.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of the order of rows and of the adapter; default: 0.")] = None,
    report_to: Annotated[str | None, typer.Option(help="wandb or tensorboard, beside metrics.jsonl.")] = None,
    set: Annotated[
        list[str] | None,
        typer.Option(help="KEY=VALUE: any key of the config, such as trl.weight_decay=0.1; repeatable."),
    ] = None,
    json: Json = False,
) -> None:
    """What every training can be told."""


DOCS: dict[Method, str] = {
    "sft": """Train on replies: the loss is on the last reply only; the same command again goes on.

    Example: cai train sft runs/a --model local --out models/sft
    """,
    "dpo": """Train on pairs, by the probability that the chosen reply is better; the same command again goes on.

    Example: cai train dpo runs/labels --model models/sft --out models/dpo --beta 0.1
    """,
    "kto": """Train on single replies, each desirable or not; the same command again goes on.

    Example: cai train kto runs/labels --model models/sft --out models/kto
    """,
    "reward": """Train a reward model on pairs, a judge for reward:PATH; the same command again goes on.

    Example: cai train reward runs/labels --model local --out models/reward
    """,
}


def _command(method: Method) -> Callable[..., None]:
    """The command of a method, with the options that mean something to it."""

    def run(**given: Any) -> None:
        _train(method, given)

    known = inspect.signature(train_options, eval_str=True).parameters.values()
    parameters = [each for each in known if method in ONLY.get(each.name, (method,))]
    run.__doc__ = DOCS[method]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {each.name: each.annotation for each in parameters}
    return run


def _train(method: Method, given: Mapping[str, Any]) -> None:
    from cai.cli import console, console_train
    from cai.training.setup.processes import join_processes
    from cai.training.train import train

    told = {name: given[name] for name in ("out", "model", "config", "eval_data")} | {"flags": flags_of(given)}
    if not join_processes().first:
        logging.getLogger("cai").setLevel(logging.ERROR)  # of several processes the first one tells
        train(method, given["data"], **told)
        return
    with console_train.TrainProgress() as progress, _faults_of_reporters():
        done = train(method, given["data"], tell=lambda line: console.show([line]), progress=progress.heard, **told)
    console.show(console_train.summary(done))
    print_json(done.model_dump(mode="json"), given["json"])


@contextmanager
def _faults_of_reporters() -> Iterator[None]:
    """What wandb says of keys and servers, as an error that a user can mend."""
    from cai.errors import CaiError

    try:
        yield
    except Exception as error:
        reporter = type(error).__module__.partition(".")[0]
        if reporter not in REPORTERS:
            raise
        raise CaiError(f"{reporter}: {error}") from error


def flags_of(given: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of the config that options set; raises UsageError for what is no KEY=VALUE, or is set twice."""
    from cai.errors import UsageError

    found = {KEYS[name]: value for name, value in given.items() if name in KEYS and value is not None}
    for key, value in _assignments(given.get("set") or ()):
        if key in found:
            raise UsageError(f"{key} is set twice: leave one of them out")
        if within := next((each for each in found if each.startswith(f"{key}.") or key.startswith(f"{each}.")), None):
            raise UsageError(f"{key} and {within} set the same: leave one of them out")
        found[key] = value
    return found


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
            raise UsageError(f"--set {word} has no value; what is null in a config is what is left out")
        yield key, value


def add_to(app: typer.Typer) -> None:
    """Give the command line these commands."""
    for method in DOCS:
        train_app.command(method)(_command(method))
    app.add_typer(train_app, name="train")
