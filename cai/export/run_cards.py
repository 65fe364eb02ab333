"""Writes the dataset cards of runs: revisions of `cai generate`, preferences of `cai label`.

Pure: an export's counts and the run's settings in, text out; what both share is in `cai.export.card`.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

import orjson

from cai.engine.templates import load_templates
from cai.export.card import (
    NAMES,
    Facts,
    constitution_of,
    dropped_rows,
    front_matter,
    list_files,
    loading,
    spec_of,
    versions_and_cost,
)  # fmt: skip
from cai.sources.built_in import folder
from cai.sources.files import describe
from cai.texts.markdown import block, code, one_line, section, table, without_path

INTRODUCTION = """
Replies that a language model wrote to the prompts, criticised under the principles of a constitution and revised
accordingly: supervised Constitutional AI (Bai et al. 2022, arXiv 2212.08073), made with `cai-toolkit`.

**A language model wrote every reply here, and nobody has read them.** Prompts may ask for harmful things, and first
replies (`rejected`) may give them. **The pairs are unjudged**: `chosen` is the last revision and `rejected` the first
reply; that the revision is the better one is assumed, not checked. So `judged` is false and `p_chosen` is null.

The licence of these rows follows from those of the prompts and of the models below.
"""
LABEL_INTRODUCTION = """
Replies of language models, and which of two a judge, another language model, believes to be the better one under the
principles of a constitution (RLAIF: Bai et al. 2022, arXiv 2212.08073, section 4), made with `cai-toolkit`.

**A language model judged these pairs, and nobody has read them.** Each pair was asked in both orders, so that the
judge's liking for the first or second place cancels. `p_chosen` is the probability that `chosen` is better; prompts may
ask for harmful things, and replies, `rejected` above all, may give them.

The licence of these rows follows from those of the prompts and of the models that wrote and judged the replies.
"""
LABEL_NAMES = """
`RUN` is a new folder; `SOURCE`, `CONSTITUTION.yaml`, `MODEL`, `calibration.json` and `BENIGN`, where they stand, are
what the tables above identify.
"""


def dataset_card(info: Mapping[str, Any], facts: Facts, load_from: str = ".") -> str:
    """The text of README.md.

    info: the content of run.json. load_from: what load_dataset is given, a folder or a name on the hub.
    """
    identity = info["identity"]
    law = identity["constitution"]
    parts = [
        f"---\n{front_matter(law['name'], facts)}---\n",
        f"# Revisions under the constitution {code(law['name'])}\n{INTRODUCTION}",
        section("Files", table(("file", "split", "rows"), list_files(facts))),
        section("How it was made", table(("setting", "value"), _settings(info))),
        section("Models", table(("role", "asked", "answered as"), _models(identity, facts))),
        section("Principles", table(("principle", "critiques", "changed the reply"), _principles(facts))),
        section("What was left out", dropped_rows(facts)),
        section("Load it", loading(facts, load_from)),
        section("Make it again", _commands(identity, info.get("settings", {}), facts)),
    ]
    return "\n".join(part for part in parts if part)


def _settings(info: Mapping[str, Any]) -> list[tuple[str, ...]]:
    identity = info["identity"]
    law, sampling = identity["constitution"], identity["sampling"]
    rows: list[tuple[str, ...]] = [
        ("constitution", f"{code(law['name'])} {code(law['version'])}, hash {code(law['hash'])}"),
        ("prompts", code(identity["source"]["what"])),
        ("templates", f"hash {code(identity['templates'])}"),
        ("rounds", str(identity["rounds"])),
        ("gate", "a critique that finds nothing to fix skips the revision" if identity["gate"] else "off"),
        ("system text", "none" if identity["system"] is None else f"{code(identity['system'])}, not in the rows"),
        ("sampling", ", ".join(f"{name} {code(orjson.dumps(value).decode())}" for name, value in sampling.items())),
        ("seed", str(identity["seed"])),
        *versions_and_cost(info),
    ]
    return rows


def _models(identity: Mapping[str, Any], facts: Facts) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for role, spec in identity["models"].items():
        answered = [code(without_path(name)) for name in sorted(facts.models.get(role, ()))]
        rows.append((role, code(without_path(spec)), ", ".join(answered) or "not asked"))
    return rows


def _principles(facts: Facts) -> list[tuple[str, ...]]:
    return [
        (code(name), f"{count:,}", f"{facts.changed[name] / count:.0%}")
        for name, count in sorted(facts.used.items(), key=lambda item: (-item[1], item[0]))
    ]


def _commands(identity: Mapping[str, Any], settings: Mapping[str, Any], facts: Facts) -> str:
    source, sampling = identity["source"], identity["sampling"]
    models = {role: spec_of(name) for role, name in identity["models"].items()}
    prompts = source["what"]
    words = ["cai", "generate"]
    if prompts != describe(None):
        words.append(prompts if prompts.startswith("hf:") else "PROMPTS")
    options: list[tuple[str, Any, Any]] = [  # option, value, the value that needs no option
        ("--constitution", constitution_of(identity["constitution"]["hash"]), None),
        ("--model", models["assistant"], None),
        ("--critic", models["critic"], models["assistant"]),
        ("--reviser", models["reviser"], models["critic"]),
        ("--templates", _templates(identity["templates"]), "chat"),
        ("--rounds", identity["rounds"], 2),
        ("--system", identity["system"], None),
        ("--temperature", sampling["temperature"], 1.0),
        ("--max-tokens", sampling["max_tokens"], 512),
        ("--extra-body", sampling["extra_body"] and orjson.dumps(sampling["extra_body"]).decode(), {}),
        ("--format", source["format"], None),
        ("--prompt-field", source["field"], None),
        ("--limit", settings.get("limit"), None),
        ("--seed", identity["seed"], 0),
    ]
    for name, value, default in options:
        if value is not None and value != default:
            words += [name, str(value)]
    words += ["--gate" if identity["gate"] else "--no-gate", "--out", "RUN"]
    export = shlex.join(["cai", "export", "RUN", *facts.options])
    return block("bash", f"{shlex.join(words)}\n{export}") + NAMES


def _templates(digest: str) -> str:
    return next(
        (name for name in ("chat", "fewshot") if load_templates(folder("prompts") / name).hash == digest), "TEMPLATES"
    )


def label_card(info: Mapping[str, Any], facts: Facts, load_from: str = ".") -> str:
    """The text of README.md of a label run; the arguments are those of `dataset_card`."""
    identity = info["identity"]
    name = identity["binding"]["constitution"]["name"]
    parts = [
        f"---\n{front_matter(name, facts, 'Preferences', ['preference'])}---\n",
        f"# Preferences under the constitution {code(name)}\n{LABEL_INTRODUCTION}",
        section("Files", table(("file", "split", "rows"), list_files(facts))),
        section("How it was made", table(("setting", "value"), _label_settings(info, facts))),
        section("How far to trust it", table(("measure", "value"), _trust(facts))),
        section("Principles", table(("principle", "votes"), _votes(facts))),
        section("What was left out", _left_out(facts)),
        section("Load it", loading(facts, load_from)),
        section("Make it again", _label_commands(identity, info.get("settings", {}), facts)),
    ]
    return "\n".join(part for part in parts if part)


def _label_settings(info: Mapping[str, Any], facts: Facts) -> list[tuple[str, ...]]:
    identity = info["identity"]
    binding, source = identity["binding"], identity["source"]
    law = binding["constitution"]
    served = [code(without_path(name)) for name in sorted(facts.models.get("judge", ()))]
    what = source if isinstance(source, str) else ", ".join(f"{key} {value}" for key, value in source.items())
    return [
        ("constitution", f"{code(law['name'])} {code(law['version'])}, hash {code(law['hash'])}"),
        ("pairs", code(what)),
        ("judge", f"{code(without_path(binding['judge']))}, answered as {', '.join(served) or 'nothing'}"),
        ("protocol", f"{code(binding['protocol'])}, both orders, {binding['principles']} principles a pair"),
        ("templates", f"hash {code(binding['templates'])}"),
        ("seed", str(identity["seed"])),
        *versions_and_cost(info),
    ]


def _trust(facts: Facts) -> list[tuple[str, ...]]:
    judged = facts.judged
    assert judged is not None  # of every label run
    made, least = judged.calibration, judged.min_confidence
    rows: list[tuple[str, ...]] = []
    if made is None:
        rows.append(("calibration", "uncalibrated: nobody compared these labels with people's"))
    else:
        rows.append(
            ("calibration", f"temperature {made.temperature:.3g}, fitted on {made.n:,} pairs with human labels")
        )
        rows += [("of those pairs", one_line(note).replace("|", "\\|")) for note in made.notes]
    at = None if made is None or judged.agreement is None else made.thresholds[str(judged.agreement)]
    promise = "no agreement with people is promised"
    if at is not None and made is not None:
        promise = (
            f"agreement with people of at least {at.target:.0%}, certified on {at.n:,} of {made.n:,} pairs "
            f"({at.errors:,} errors, which with a chance of {1 - made.delta:.0%} means at most {at.upper_bound:.1%}); "
            f"{made.promise}"
        )
    rows.append(("threshold", f"confidence {least:.4g} or more; {promise}"))
    if judged.biases:
        rows.append(("position", f"mean bias {judged.bias / judged.biases:+.2f} nats towards the first reply"))
    if judged.votes:
        rows.append(("order", f"{judged.flips / judged.votes:.1%} of {judged.votes:,} votes flip with it"))
    if (longer := judged.longer_share) is not None:
        rows.append(("length", f"the chosen reply is the longer one in {longer:.1%} of {judged.uneven:,} pairs"))
    return rows


def _votes(facts: Facts) -> list[tuple[str, ...]]:
    return [(code(name), f"{n:,}") for name, n in sorted(facts.used.items(), key=lambda item: (-item[1], item[0]))]


def _left_out(facts: Facts) -> str:
    own = sum(count for (stage, _), count in facts.dropped.items() if stage not in ("pairs", "kto"))
    text = f"{facts.rows + own:,} pairs were read to an end: {facts.rows:,} judged, {own:,} dropped.\n"
    rows = [(code(stage), code(reason), f"{count:,}") for (stage, reason), count in sorted(facts.dropped.items())]
    note = "\n`pairs` are of `dpo` and `reward`; of stage `kto` single replies are counted.\n" if rows else ""
    return f"{text}\n{table(('stage', 'reason', 'rows'), rows)}{note}" if rows else text


def _label_commands(identity: Mapping[str, Any], settings: Mapping[str, Any], facts: Facts) -> str:
    binding = identity["binding"]
    words = ["cai", "label", "SOURCE", "--constitution", constitution_of(binding["constitution"]["hash"])]
    words += ["--judge", spec_of(binding["judge"]), "--protocol", binding["protocol"]]
    words += ["--principles", str(binding["principles"])]
    for name, value, default in (("--limit", settings.get("limit"), None), ("--seed", identity["seed"], 0)):
        words += [name, str(value)] if value != default else []
    export = shlex.join(["cai", "export", "RUN", *facts.options])
    return block("bash", f"{shlex.join([*words, '--out', 'RUN'])}\n{export}") + LABEL_NAMES
