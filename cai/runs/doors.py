"""Runs as Python functions: every setting is a keyword, as `python tests/doors.py --write` writes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Never

from cai.constitution.principles import Constitution
from cai.errors import UsageError
from cai.records import Candidates, Label, Revision
from cai.runs.generate import GenerateRun
from cai.runs.label import LabelRun
from cai.runs.play import Rows, settings_in, twin
from cai.runs.sample import SampleRun
from cai.runs.settings import NOTHING, GenerateSettings, LabelSettings, SampleSettings
from cai.sources.files import Source


def generate(
    prompts: Source | None,
    constitution: str | Path | Constitution,
    *,
    templates: str | Path | None = None,
    temperature: float = 1.0,
    max_tokens: int = 512,
    extra_body: Mapping[str, Any] = NOTHING,
    limit: int | None = None,
    concurrency: int | None = None,
    rpm: int | None = None,
    tpm: int | None = None,
    seed: int = 0,
    max_cost: float | None = None,
    price: str | None = None,
    base_url: str | None = None,
    headers: Mapping[str, str] = NOTHING,
    timeout: float = 600.0,
    out: str | Path | None = None,
    force: bool = False,
    system: str | None = None,
    format: str | None = None,
    prompt_field: str | None = None,
    model: str = "local",
    critic: str | None = None,
    reviser: str | None = None,
    rounds: int = 2,
    gate: bool | None = None,
    **unknown: Never,
) -> Rows[Revision]:
    """Critique and revise a reply to every prompt; a lazy iterator of rows, in the order in which they finish.

    prompts: a file, `hf:…`, an iterable of texts, message lists or records, or None for the built-in set. With `out`,
    rows, drops and calls are kept in that folder, and the same call again resumes (rows finished before are in the
    folder and not repeated); without it nothing is kept.

    What can be checked is checked at once; errors of models and of a damaged source come while iterating. Prompts that
    are dropped are counted in a warning of the logger "cai". Works inside a running event loop, too.

    Settings:
        templates: Template set: chat (the default), fewshot, or a folder.
        temperature: Sampling temperature; 0 is greedy.
        max_tokens: Longest answer in tokens; a reply that reaches it is dropped.
        extra_body: JSON object merged into every request.
        limit: Read at most this many prompts or pairs.
        concurrency: Most calls in flight at once (default: what the model suggests).
        rpm: Most calls per minute to one model.
        tpm: Most tokens per minute to one model.
        seed: Random seed: same seed, same questions.
        max_cost: Stop before the run folder has cost more than this many USD.
        price: Price in USD per million tokens, IN,OUT; overrides a listed price.
        base_url: Server of a hosted model, such as http://host:8000/v1.
        headers: Extra HTTP header 'Name: value'; repeatable.
        timeout: Seconds to wait for one call.
        out: Run folder (default: runs/<name>-<hash>; in Python nothing is kept without it).
        force: Start over in a folder that holds another run.
        system: System text put before every conversation.
        format: Shape of the prompts: auto, text, prompt, messages or hh.
        prompt_field: Column or key that holds the prompt.
        model: Model that replies: local, local:PATH, openai:NAME, anthropic:NAME, hf:NAME, recorded:FILE.
        critic: Model that critiques (default: --model).
        reviser: Model that revises (default: --critic).
        rounds: Critique and revision rounds, each under one drawn principle.
        gate: Skip the revision if the critique finds nothing to fix (default: on for chat templates).
    """
    return Rows(GenerateRun(prompts, settings_in(GenerateSettings, locals())))


def sample(
    prompts: Source | None,
    model: str | Sequence[str] = "local",
    *,
    templates: str | Path | None = None,
    temperature: float = 1.0,
    max_tokens: int = 512,
    extra_body: Mapping[str, Any] = NOTHING,
    limit: int | None = None,
    concurrency: int | None = None,
    rpm: int | None = None,
    tpm: int | None = None,
    seed: int = 0,
    max_cost: float | None = None,
    price: str | None = None,
    base_url: str | None = None,
    headers: Mapping[str, str] = NOTHING,
    timeout: float = 600.0,
    out: str | Path | None = None,
    force: bool = False,
    system: str | None = None,
    format: str | None = None,
    prompt_field: str | None = None,
    n: int | None = None,
    best_of: int | None = None,
    judge: str | None = None,
    constitution: str | Path | Constitution | None = None,
    protocol: Literal["logprob", "score", "vote", "reason", "reward"] | None = None,
    principles: int | None = None,
    **unknown: Never,
) -> Rows[Candidates]:
    """Draw several replies to every prompt; a lazy iterator of rows, in the order in which they finish.

    model: a spec, or several for contrast. With `best_of`, `judge` and `out` the replies are labelled once all are
    drawn, and the best reply to each prompt is in sft.jsonl of the folder. The rest is as for `generate`.

    Settings:
        templates: Template set: chat (the default), fewshot, or a folder.
        temperature: Sampling temperature; 0 is greedy.
        max_tokens: Longest answer in tokens; a reply that reaches it is dropped.
        extra_body: JSON object merged into every request.
        limit: Read at most this many prompts or pairs.
        concurrency: Most calls in flight at once (default: what the model suggests).
        rpm: Most calls per minute to one model.
        tpm: Most tokens per minute to one model.
        seed: Random seed: same seed, same questions.
        max_cost: Stop before the run folder has cost more than this many USD.
        price: Price in USD per million tokens, IN,OUT; overrides a listed price.
        base_url: Server of a hosted model, such as http://host:8000/v1.
        headers: Extra HTTP header 'Name: value'; repeatable.
        timeout: Seconds to wait for one call.
        out: Run folder (default: runs/<name>-<hash>; in Python nothing is kept without it).
        force: Start over in a folder that holds another run.
        system: System text put before every conversation.
        format: Shape of the prompts: auto, text, prompt, messages or hh.
        prompt_field: Column or key that holds the prompt.
        n: Replies to each prompt from each model (default 2).
        best_of: Like -n; then --judge compares the replies, and sft.jsonl holds the best one of each prompt.
        judge: With --best-of: local, local:PATH, openai:NAME, anthropic:NAME, hf:NAME, recorded:FILE, reward:NAME.
        constitution: With --best-of: a built-in NAME or a PATH (default: harmless).
        protocol: With --best-of: logprob, score, vote or reward (default: the best the judge supports).
        principles: With --best-of: principles drawn for each pair (default 3).
    """
    run = SampleRun(prompts, settings_in(SampleSettings, locals()))
    if run.labels is not None and run.settings.out is None:
        raise UsageError("best_of needs out: a folder for the replies, their labels, and sft.jsonl with the best")
    return Rows(run)


def label(
    source: Source,
    constitution: str | Path | Constitution,
    *,
    templates: str | Path | None = None,
    temperature: float = 1.0,
    max_tokens: int = 1024,
    extra_body: Mapping[str, Any] = NOTHING,
    limit: int | None = None,
    concurrency: int | None = None,
    rpm: int | None = None,
    tpm: int | None = None,
    seed: int = 0,
    max_cost: float | None = None,
    price: str | None = None,
    base_url: str | None = None,
    headers: Mapping[str, str] = NOTHING,
    timeout: float = 600.0,
    out: str | Path | None = None,
    force: bool = False,
    judge: str = "local",
    protocol: Literal["logprob", "score", "vote", "reason", "reward"] | None = None,
    principles: int = 3,
    pairing: Literal["all", "best-worst", "final"] = "all",
    min_confidence: float | None = None,
    agreement: float | None = None,
    gold: str | Path | None = None,
    calibration: str | Path | None = None,
    target: int | None = None,
    max_candidates: int | None = None,
    model: str | None = None,
    **unknown: Never,
) -> Rows[Label]:
    """Judge pairs of replies under a constitution; a lazy iterator of labels, in the order in which they finish.

    source: the folder of a generate or sample run, a file of pairs, or an iterable of their rows (docs/judging.md). A
    label says what the judge believes of a pair; which pairs are kept for training is decided when they are cut, at the
    end of a run with `out`, and by `export_run`. The rest is as for `generate`.

    Settings:
        templates: Template set: chat (the default), fewshot, or a folder.
        temperature: Sampling temperature; 0 is greedy.
        max_tokens: Longest answer in tokens of a judge that votes in words.
        extra_body: JSON object merged into every request.
        limit: Read at most this many prompts or pairs.
        concurrency: Most calls in flight at once (default: what the model suggests).
        rpm: Most calls per minute to one model.
        tpm: Most tokens per minute to one model.
        seed: Random seed: same seed, same questions.
        max_cost: Stop before the run folder has cost more than this many USD.
        price: Price in USD per million tokens, IN,OUT; overrides a listed price.
        base_url: Server of a hosted model, such as http://host:8000/v1.
        headers: Extra HTTP header 'Name: value'; repeatable.
        timeout: Seconds to wait for one call.
        out: Run folder (default: runs/<name>-<hash>; in Python nothing is kept without it).
        force: Start over in a folder that holds another run.
        judge: Judge: local, local:PATH, openai:NAME, anthropic:NAME, hf:NAME, recorded:FILE, reward:NAME.
        protocol: How to ask: logprob, score, vote, reason or reward (default: the best the judge supports).
        principles: Principles drawn for each pair.
        pairing: Pairs to keep: all; best-worst of several replies; final: last revision against first reply.
        min_confidence: Keep pairs with at least this confidence (default 0.7, not calibrated).
        agreement: Keep pairs whose agreement with human labels is certified at this rate (needs --gold or
            --calibration).
        gold: File of pairs with human labels; judged first, to calibrate.
        calibration: A calibration.json of this judge, instead of --gold.
        target: Keep sampling replies until this many pairs are kept.
        max_candidates: With --target: most replies to one prompt.
        model: With --target: model that writes further replies (default: the sample run's model).
    """
    return Rows(LabelRun(source, settings_in(LabelSettings, locals())))


agenerate = twin(generate)
asample = twin(sample)
alabel = twin(label)
