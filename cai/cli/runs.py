"""The commands that make and cut runs: parse, call one function, print."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cai.cli.common import Json, group, print_json
from cai.models import JUDGE_SPECS, SPECS

if TYPE_CHECKING:
    from cai.runs.run import Setup
    from cai.runs.session import Job

Prompts = Annotated[
    str | None,
    typer.Argument(help="A .jsonl(.gz), .csv, .txt or .parquet file, hf:org/name, or - ; default: 64 built-in."),
]
Templates = Annotated[str | None, typer.Option(help="Template set: chat, fewshot, or a folder.")]


def generate(
    prompts: Prompts = None,
    constitution: Annotated[str, typer.Option("--constitution", "-c", help="A built-in NAME or a PATH.")] = "harmless",
    model: Annotated[str, typer.Option(help=f"{SPECS}.")] = "local",
    critic: Annotated[str | None, typer.Option(help="Model that critiques; default: --model.")] = None,
    reviser: Annotated[str | None, typer.Option(help="Model that revises; default: --critic.")] = None,
    rounds: Annotated[int, typer.Option(help="Critique and revision rounds, each under one drawn principle.")] = 2,
    gate: Annotated[
        bool | None, typer.Option("--gate/--no-gate", help="Skip the revision where the critique finds nothing.")
    ] = None,
) -> None:
    """Write critiques and revisions for every prompt; the same command again goes on where it stopped.

    Example: cai generate prompts.jsonl --constitution harmless.yaml --model openai:gpt-4.1-mini --max-cost 5
    """


def sample(
    prompts: Prompts = None,
    model: Annotated[
        list[str] | None,
        typer.Option(help=f"{SPECS}; repeatable: each model gives -n replies. Default: local."),
    ] = None,
    n: Annotated[int | None, typer.Option("-n", help="Replies to each prompt from each model; default: 2.")] = None,
    best_of: Annotated[
        int | None, typer.Option(help="As -n, and --judge picks the best of them, which sft.jsonl then holds.")
    ] = None,
    judge: Annotated[str | None, typer.Option(help=f"With --best-of: {JUDGE_SPECS}.")] = None,
    constitution: Annotated[
        str | None,
        typer.Option("--constitution", "-c", help="With --best-of: a built-in NAME or a PATH; default: harmless."),
    ] = None,
    protocol: Annotated[
        str | None, typer.Option(help="With --best-of: logprob, score or vote; default: the best the judge can do.")
    ] = None,
    principles: Annotated[
        int | None,
        typer.Option("--principles", "-k", help="With --best-of: principles drawn for each pair; default: 3."),
    ] = None,
) -> None:
    """Draw several replies to every prompt; the same command again goes on where it stopped.

    Example: cai sample prompts.jsonl --model openai:gpt-4.1-mini -n 4 --out runs/replies

    Example: cai sample prompts.jsonl --model local --best-of 4 --judge openai:gpt-4.1 --out runs/best
    """


def label(
    source: Annotated[str, typer.Argument(help="A run of cai generate or cai sample, or a file of pairs.")],
    constitution: Annotated[str, typer.Option("--constitution", "-c", help="A built-in NAME or a PATH.")] = "harmless",
    judge: Annotated[str, typer.Option(help=f"{JUDGE_SPECS}.")] = "local",
    protocol: Annotated[
        str | None, typer.Option(help="logprob, score, vote, reason or reward; default: the best the judge can do.")
    ] = None,
    principles: Annotated[int, typer.Option("--principles", "-k", help="Principles drawn for each pair.")] = 3,
    pairing: Annotated[
        str, typer.Option(help="all; best-worst of several replies; final: last revision against first reply.")
    ] = "all",
    min_confidence: Annotated[
        float | None, typer.Option(help="Keep pairs at least so sure; default: 0.7, which promises nothing.")
    ] = None,
    agreement: Annotated[
        float | None, typer.Option(help="Keep what agrees so often with people, as certified on --gold.")
    ] = None,
    gold: Annotated[str | None, typer.Option(help="Pairs that people have labelled; judged first.")] = None,
    calibration: Annotated[
        str | None, typer.Option(help="A calibration.json of this judge, instead of --gold.")
    ] = None,
    target: Annotated[int | None, typer.Option(help="Draw further replies until so many pairs are kept.")] = None,
    max_candidates: Annotated[int | None, typer.Option(help="With --target: most replies to a prompt.")] = None,
    model: Annotated[
        str | None, typer.Option(help="With --target: who writes further replies; default: the sample run's model.")
    ] = None,
    templates: Templates = None,
    max_tokens: Annotated[int, typer.Option(help="Longest answer of a judge that votes in words.")] = 1024,
) -> None:
    """Judge pairs of replies under a constitution, and cut preference data; the same command again goes on.

    Example: cai label runs/replies --judge openai:gpt-4.1 --gold gold.jsonl --agreement 0.85 --out runs/labels
    """


def prompt_options(
    system: Annotated[str | None, typer.Option(help="System text put before every conversation.")] = None,
    templates: Templates = None,
    temperature: Annotated[float, typer.Option(help="0 is greedy.")] = 1.0,
    max_tokens: Annotated[int, typer.Option(help="Longest answer; a reply that reaches it is dropped.")] = 512,
    format: Annotated[str | None, typer.Option(help="auto, text, prompt, messages or hh.")] = None,
    prompt_field: Annotated[str | None, typer.Option(help="Column or key that holds the prompt.")] = None,
) -> None:
    """What every run over prompts can be told."""


def run_options(
    extra_body: Annotated[str | None, typer.Option(help="JSON object merged into every request.")] = None,
    limit: Annotated[int | None, typer.Option(help="Read at most this many prompts or pairs.")] = None,
    concurrency: Annotated[int | None, typer.Option(help="Most calls in flight; default: the model's own.")] = None,
    rpm: Annotated[int | None, typer.Option(help="Most calls a minute.")] = None,
    tpm: Annotated[int | None, typer.Option(help="Most tokens a minute.")] = None,
    seed: Annotated[int, typer.Option(help="The same seed asks the same questions.")] = 0,
    max_cost: Annotated[float | None, typer.Option(help="Stop before the run folder has cost more USD.")] = None,
    price: Annotated[
        str | None, typer.Option(help="USD per million tokens IN,OUT; goes before a listed price.")
    ] = None,
    base_url: Annotated[str | None, typer.Option(help="Server of a hosted model, such as http://host:8000/v1.")] = None,
    header: Annotated[list[str] | None, typer.Option(help="Extra header 'Name: value'; repeatable.")] = None,
    timeout: Annotated[float, typer.Option(help="Seconds for one call.")] = 600.0,
    out: Annotated[str | None, typer.Option(help="Run folder; default: runs/<name>-<hash>.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Start anew in a folder that holds another run.")] = False,
    json: Json = False,
) -> None:
    """What every run can be told."""


def _command(run: Callable[..., None], doc: str | None, *parts: Callable[..., None]) -> Callable[..., None]:
    """A command that does what `run` does, with the parameters of all `parts`."""

    def command(**given: Any) -> None:
        run(**given)

    parameters = [each for part in parts for each in inspect.signature(part, eval_str=True).parameters.values()]
    command.__doc__ = doc
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {each.name: each.annotation for each in parameters}
    return command


def _of_run(own: Callable[..., None], act: Callable[[Setup[Any], bool], None], doc: str | None) -> Callable[..., None]:
    """A command with the parameters of `own` and those such runs have, resolved into a setup before it acts."""

    def run(json: bool, **given: Any) -> None:
        act(_setup(own.__name__, given), json)

    over_prompts = () if own is label else (prompt_options,)
    return _command(run, doc, own, *over_prompts, run_options)


def _setup(name: str, given: Mapping[str, Any]) -> Setup[Any]:
    from cai.cli.settings import settings_from_options
    from cai.runs.settings import GenerateSettings, LabelSettings, SampleSettings

    options = dict(given)
    source = options.pop("source" if name == "label" else "prompts")
    if name == "generate":
        from cai.runs.generate import resolve as generation

        return generation(source, settings_from_options(GenerateSettings, options))
    if name == "sample":
        from cai.runs.sample import resolve as sampling

        options["model"] = tuple(options["model"] or ("local",))
        return sampling(source, settings_from_options(SampleSettings, options))
    from cai.runs.label import resolve as labelling

    return labelling(source, settings_from_options(LabelSettings, options))


def play_shown(job: Job[Any]) -> None:
    """Play a job to its end, and show how it goes."""
    from cai.cli import console
    from cai.runs.play import run_job

    console.show(job.setup.describe())
    try:
        with console.Progress(job) as progress:
            job.setup.count_items(progress.expect)
            run_job(job)
    finally:
        console.show(console.summary(job))


def _run(setup: Setup[Any], json: bool) -> None:
    from cai.runs.play import jobs_of

    info: dict[str, Any] = {}
    try:
        for job in jobs_of(setup):
            try:
                play_shown(job)
            finally:
                info = job.info
                if job.cut is not None and job.cut.best is not None:
                    info = info | {"best_of": job.cut.best.model_dump(mode="json")}
    finally:
        if info:
            print_json(info, json)


def _plan(setup: Setup[Any], json: bool) -> None:
    from cai.cli import console
    from cai.runs.plan import estimate

    found = estimate(setup)
    console.show(found.lines())
    print_json(found.model_dump(mode="json"), json)


PLANS: dict[Callable[..., None], str] = {
    generate: """Say what `cai generate` with the same arguments would ask and cost; asks nothing of any model.

    Example: cai plan generate prompts.jsonl --model openai:gpt-4.1-mini --rounds 2
    """,
    sample: """Say what `cai sample` with the same arguments would ask and cost; asks nothing of any model.

    Example: cai plan sample prompts.jsonl --model openai:gpt-4.1-mini -n 4
    """,
    label: """Say what `cai label` with the same arguments would ask and cost; asks nothing of any model.

    Example: cai plan label runs/replies --judge openai:gpt-4.1
    """,
}


def export(
    run: Annotated[Path, typer.Argument(help="A run folder of cai generate, cai label, or cai sample --best-of.")],
    rounds_kept: Annotated[
        str, typer.Option(help="Of generate: last, or all: one SFT row per round, as the paper trains.")
    ] = "last",
) -> None:
    """Cut training rows and the dataset card from a run's stored rows again, without a model.

    Example: cai export runs/a --split 0.9 --parquet
    """


def label_options(
    min_confidence: Annotated[
        float | None, typer.Option(help="Of label: keep pairs at least so sure; default: 0.7, which promises nothing.")
    ] = None,
    calibration: Annotated[str | None, typer.Option(help="Of label: a calibration.json of its judge.")] = None,
    agreement: Annotated[
        float | None,
        typer.Option(help="Of label: keep what agrees so often with people, as certified."),
    ] = None,
    pairing: Annotated[str, typer.Option(help="Of label: all, best-worst of several replies, or final round.")] = "all",
    order_flip: Annotated[
        bool, typer.Option("--order-flip", help="Of label: leave out pairs whose votes follow the place.")
    ] = False,
    max_length_ratio: Annotated[
        float | None, typer.Option(help="Of label: leave out pairs with a reply so many times as long as the other.")
    ] = None,
    benign: Annotated[str | None, typer.Option(help="Of label: a file of prompts that must not be refused.")] = None,
    dead_zone: Annotated[
        float | None,
        typer.Option(help="Of label: kto.jsonl takes what wins at least so often, or loses."),
    ] = None,
    target: Annotated[int | None, typer.Option(help="Of label: keep at most so many pairs.")] = None,
) -> None:
    """What an export of labels can be told."""


def export_options(
    hygiene: Annotated[
        bool,
        typer.Option("--hygiene/--no-hygiene", help="Leave out leaked preambles, mixed-up roles, …"),
    ] = True,
    split: Annotated[float | None, typer.Option(help="Share of prompts for training; the rest is for eval.")] = None,
    parquet: Annotated[bool, typer.Option("--parquet", help="Write .parquet beside .jsonl.")] = False,
    push: Annotated[str | None, typer.Option(help="Upload rows and card to this hub dataset, org/name.")] = None,
    public: Annotated[bool, typer.Option("--public", help="With --push: a public dataset.")] = False,
    json: Json = False,
) -> None:
    """What every export can be told."""


def _export(run: Path, public: bool, json: bool, **options: Any) -> None:
    from cai.cli import console
    from cai.export.export import export_run

    found = export_run(run, private=not public, **options)
    console.show(found.lines())
    print_json(found.model_dump(mode="json"), json)


COMMANDS: dict[str, Callable[..., None]] = {
    **{own.__name__: _of_run(own, _run, own.__doc__) for own in PLANS},
    "export": _command(_export, export.__doc__, export, label_options, export_options),
}
plan_app = group(
    "Say what a job would ask and cost; asks nothing of any model.\n\nExample: cai plan generate --rounds 2",
    {own.__name__: _of_run(own, _plan, doc) for own, doc in PLANS.items()},
)
