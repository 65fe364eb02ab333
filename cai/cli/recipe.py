"""The command `cai run` and the function behind it: a recipe, which is our own commands in order."""

from __future__ import annotations

import inspect
import logging
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from importlib import import_module
from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args, get_origin

import typer
from typer.models import ArgumentInfo

from cai.cli.main import Json, print_json, print_report
from cai.texts.wording import clock, option

if TYPE_CHECKING:
    from cai.recipes.commands import Command, Parameter
    from cai.recipes.play import Playing, Wishes
    from cai.records import Values

Entry = dict[str, Any]
COMMANDS: dict[str, tuple[str, Entry]] = {  # that recipes may use: where each is defined, and what its folder is
    "generate": ("runs", {"grows": True}),
    "sample": ("runs", {"grows": True}),
    "label": ("runs", {"grows": True}),
    "export": ("runs", {"into": None}),
    "train sft": ("train", {}),
    "train dpo": ("train", {}),
    "train kto": ("train", {}),
    "train orpo": ("train", {}),
    "train simpo": ("train", {}),
    "train cpo": ("train", {}),
    "train reward": ("train", {}),
    "train rloo": ("train", {}),
    "train grpo": ("train", {}),
    "train ppo": ("train", {}),
    "merge": ("chat", {}),
    "evaluate": ("evaluate", {"defaults": {"refuse_leaks": True}}),
    "judge calibrate": ("judge", {}),
    "judge bench": ("judge", {}),
    "constitution test": ("constitution", {}),
    "audit": ("audit", {"into": "--rows", "file": "verdicts.jsonl"}),
    "report": ("look", {"file": "report.html"}),
}
NAMES = {("evaluate", "names"): "models", ("report", "source"): "runs"}  # of arguments, by command and parameter
JSON = ("extra_body",)
SWITCHED = ("gate",)  # numbers that an option of their own switches off

app = typer.Typer(rich_markup_mode=None)
log = logging.getLogger(__name__)


def run_recipe(
    recipe: str | Path,
    out: str | Path | None = None,
    *,
    set: Mapping[str, Any] | None = None,
    only: Sequence[str] = (),
    until: str | None = None,
    redo: Sequence[str] = (),
    max_cost: float | None = None,
    tell: Callable[[str], object] = log.info,
) -> Values:
    """Run a recipe as `cai run` does, each of its commands in a process of its own; what became of every stage.

    recipe: a file, or the name of a built-in. out: the folder of its stages; None: runs/NAME. set: values for variables
    of the recipe. only, until, redo: stages, as for `cai run`. max_cost: USD for all stages together. tell: gets what
    happens, a line at a time. The same call resumes.
    Raises InputError for a fault of the file, UsageError for a stage or variable that it has not, RunError for what was
    finished and has changed since, and CaiError for a command that fails and a gate that does not hold.
    """
    from cai.recipes.play import Wishes
    from cai.recipes.process import run_command

    assignments = [f"{name}={dumps(value, default=str, ensure_ascii=False)}" for name, value in (set or {}).items()]
    playing = _playing(str(recipe), out, assignments, Wishes(tuple(only), until, tuple(redo), max_cost))
    playing.play(run_command, tell)
    return playing.summary()


def _playing(recipe: str, out: str | Path | None, assignments: Iterable[str], wishes: Wishes) -> Playing:
    from cai.recipes.play import Playing
    from cai.recipes.reading import read_recipe

    chosen = read_recipe(recipe, commands(), assignments)
    return Playing(chosen, Path(out) if out else Path("runs") / chosen.name, wishes)


@app.command("run")
def run(
    recipe: Annotated[str, typer.Argument(help="A recipe: a built-in NAME or a PATH.")],
    out: Annotated[Path | None, typer.Option(help="Folder of its stages (default: runs/NAME).")] = None,
    set: Annotated[list[str] | None, typer.Option(help="Set a variable: NAME=VALUE; repeatable.")] = None,
    only: Annotated[list[str] | None, typer.Option(help="Run no other stage than this one; repeatable.")] = None,
    until: Annotated[str | None, typer.Option(help="Run this stage and what it needs, and stop.")] = None,
    redo: Annotated[
        list[str] | None, typer.Option(help="Make this stage and what follows from it anew; repeatable.")
    ] = None,
    max_cost: Annotated[
        float | None, typer.Option(help="Stop before all stages together cost more USD.", min=0)
    ] = None,
    plan: Annotated[
        bool, typer.Option("--plan", help="Print what each stage would ask and cost, and run none.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the commands, and run none.")] = False,
    json: Json = False,
) -> None:
    """Run a recipe: data, judge, trainings and evaluation in order, each in its own folder, with one report.

    Run the same command again to resume; what is finished is not run again.

    Example: cai run laptop --out runs/laptop
    """
    from cai.cli.terminal import console
    from cai.recipes.plan import plan as plan_recipe
    from cai.recipes.play import Wishes
    from cai.recipes.process import run_command

    playing = _playing(recipe, out, set or (), Wishes(tuple(only or ()), until, tuple(redo or ()), max_cost))
    if plan:
        print_report(plan_recipe(playing, partial(run_command, is_quiet=True)), json)
        return
    if dry_run:
        for job in playing.chosen:
            for words in playing.commands(job):
                typer.echo(shlex.join(["cai", *words]))
        return
    try:
        playing.play(run_command, lambda line: console.show([line]))
    finally:
        console.show(table(playing))
        print_json(playing.summary(), json)
    if not playing.ran:
        console.show(["nothing was left to do: no model was asked"])


def table(playing: Playing) -> Iterator[str]:
    """What became of every stage."""
    width = max(len(job.name) for job in playing.jobs)
    for job in playing.jobs:
        entry = playing.state.entries.get(job.name)
        status = "not begun"
        took = ""
        if entry is not None:
            status = entry.status
            took = f"{clock(entry.seconds)}  ${entry.cost_usd:.2f}  {playing.out / entry.folder}"
        yield f"{job.name:{width}}  {status:9}  {took}".rstrip()


def commands() -> Mapping[str, Command]:
    """The commands that recipes may use, with their settings."""
    from cai.recipes.commands import Command

    made = {}
    for name, (module, entry) in COMMANDS.items():
        function = _function(import_module(f"cai.cli.{module}").app, name.split()[-1])
        signature = inspect.signature(function, eval_str=True).parameters.values()
        named = {NAMES.get((name, each.name), each.name): each for each in signature}
        required = frozenset(key for key, each in named.items() if each.default is each.empty) - {"out"}
        parameters = {key: _parameter(key, each) for key, each in named.items() if not _is_set_by_recipe(key, named)}
        into = entry.get("into", "--out")  # None: its argument is the folder of the stage
        required = frozenset() if into is None else required
        parameters = {key: each for key, each in parameters.items() if each.option != into}
        made[name] = Command(name=name, parameters=parameters, required=required, **entry)
    return made


def _function(app: typer.Typer, name: str) -> Callable[..., Any]:
    """What is called for a command, with all of its options in its signature."""
    for each in app.registered_commands:
        function: Any = each.callback
        if (each.name or function.__name__) == name:
            whole = getattr(function, "whole", None)
            return function if whole is None else whole()  # type: ignore[no-any-return]
    raise LookupError(name)


def _is_set_by_recipe(key: str, named: Mapping[str, Any]) -> bool:
    """Whether a key is no setting of its own: the folder, the form of the summary, and the switch of another one."""
    return key in ("out", "json") or (key.startswith("no_") and key[3:] in named)


def _parameter(key: str, parameter: inspect.Parameter) -> Parameter:
    from cai.recipes.commands import Parameter

    kind, info = get_args(parameter.annotation)
    kinds = [each for each in (*get_args(kind), kind) if each in (bool, int, float)]
    repeats = list in (get_origin(kind), *map(get_origin, get_args(kind)))
    if isinstance(info, ArgumentInfo):
        return Parameter(key, str, None, repeats=repeats, help=info.help or "")
    words = [each for each in info.param_decls or () if each.startswith("--")]
    word, _, off = (words or [option(parameter.name)])[0].partition("/")
    switch = off or (option(f"no_{parameter.name}") if parameter.name in SWITCHED else None)
    return Parameter(key, (kinds or [str])[0], word, switch, repeats, key in JSON, info.help or "")
