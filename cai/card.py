"""Writes the dataset card of a run folder: front matter that `datasets` loads by, then where the rows come from.

Pure: an export's counts and the run's settings in, text out. Whatever comes from files and models stands inside a code
span, a code block or a YAML scalar, so that no text can end the front matter or speak for the card.
"""

from __future__ import annotations

import re
import shlex
from array import array
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson
import yaml

from cai.calibrate import Calibration
from cai.constitution import list_constitutions
from cai.resources import folder
from cai.sources import describe
from cai.templates import load_templates

KINDS = ("sft", "dpo", "kto", "reward")
SPLITS = {"": "train", ".eval": "test"}  # by what the file name has between its stem and .jsonl
INTRODUCTION = """
Replies that a language model wrote to the prompts, criticised under the principles of a constitution and revised
accordingly: supervised Constitutional AI (Bai et al. 2022, arXiv 2212.08073), made with `cai-toolkit`.

**A language model wrote every reply here, and nobody has read them.** Prompts may ask for harmful things, and first
replies (`rejected`) may give them. **The pairs are unjudged**: `chosen` is the last revision and `rejected` the first
reply; that the revision is the better one is assumed, not checked. So `judged` is false and `p_chosen` is null.

The licence of these rows follows from those of the prompts and of the models below.
"""
NAMES = """
`RUN` is a new folder; `PROMPTS`, `CONSTITUTION.yaml`, `MODEL` and `TEMPLATES`, where they stand, are what the tables
above identify.
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


@dataclass(slots=True)
class Judged:
    """What an export of labels counted, of pairs with a valid vote."""

    confidences: array[float] = field(default_factory=lambda: array("d"))  # of each
    min_confidence: float = 0.0
    calibration: Calibration | None = None
    agreement: float | None = None  # with people, that the threshold was chosen for
    asked: int = 0  # principles put to the judge, in both orders
    votes: int = 0  # of those, the ones whose both orders were read
    flips: int = 0  # of those, the ones that prefer the same place in both orders
    biases: int = 0  # of those, the ones with log probabilities
    bias: float = 0.0  # sum of their position biases towards the first reply, in nats
    uneven: int = 0  # kept pairs whose replies differ in length
    longer: int = 0  # of those, the ones whose chosen reply is the longer one

    @property
    def invalid_rate(self) -> float | None:
        """Share of the votes that could not be read; None: the protocol has no votes."""
        return 1 - self.votes / self.asked if self.asked else None

    @property
    def flip_rate(self) -> float | None:
        """Share of the valid votes that prefer the same place in both orders; None: there are none."""
        return self.flips / self.votes if self.votes else None

    @property
    def mean_bias(self) -> float | None:
        """Mean position bias in nats, towards the first reply; None: no vote has log probabilities."""
        return self.bias / self.biases if self.biases else None

    @property
    def longer_share(self) -> float | None:
        """Share of the kept pairs of unequal length whose chosen reply is the longer one; None: there are none."""
        return self.longer / self.uneven if self.uneven else None


@dataclass(slots=True)
class Facts:
    """What an export counted."""

    rows: int = 0  # finished rows of the run
    files: dict[str, int] = field(default_factory=dict)  # lines by name of the JSONL files
    dropped: Counter[tuple[str, str]] = field(default_factory=Counter)  # by stage and reason
    used: Counter[str] = field(default_factory=Counter)  # critiques by principle
    changed: Counter[str] = field(default_factory=Counter)  # revisions that differ from the reply, by principle
    models: dict[str, Counter[str]] = field(default_factory=dict)  # rows by role and model as the server named it
    options: tuple[str, ...] = ()  # of cai export
    judged: Judged | None = None  # of a label run

    def count_models(self, models: Mapping[str, str]) -> None:
        """Count a row under the models of its roles."""
        for role, name in models.items():
            if role not in self.models:
                self.models[role] = Counter()
            self.models[role][name] += 1


def dataset_card(info: Mapping[str, Any], facts: Facts, load_from: str = ".") -> str:
    """The text of README.md.

    info: the content of run.json. load_from: what load_dataset is given, a folder or a name on the hub.
    """
    identity = info["identity"]
    law = identity["constitution"]
    parts = [
        f"---\n{_front_matter(law['name'], facts)}---\n",
        f"# Revisions under the constitution {_code(law['name'])}\n{INTRODUCTION}",
        _section("Files", _table(("file", "split", "rows"), _files(facts))),
        _section("How it was made", _table(("setting", "value"), _settings(info))),
        _section("Models", _table(("role", "asked", "answered as"), _models(identity, facts))),
        _section("Principles", _table(("principle", "critiques", "changed the reply"), _principles(facts))),
        _section("What was left out", _dropped(facts)),
        _section("Load it", _loading(facts, load_from)),
        _section("Make it again", _commands(identity, info.get("settings", {}), facts)),
    ]
    return "\n".join(part for part in parts if part)


def label_card(info: Mapping[str, Any], facts: Facts, load_from: str = ".") -> str:
    """The text of README.md of a label run; the arguments are those of `dataset_card`."""
    identity = info["identity"]
    name = identity["binding"]["constitution"]["name"]
    parts = [
        f"---\n{_front_matter(name, facts, 'Preferences', ['preference'])}---\n",
        f"# Preferences under the constitution {_code(name)}\n{LABEL_INTRODUCTION}",
        _section("Files", _table(("file", "split", "rows"), _files(facts))),
        _section("How it was made", _table(("setting", "value"), _label_settings(info, facts))),
        _section("How far to trust it", _table(("measure", "value"), _trust(facts))),
        _section("Principles", _table(("principle", "votes"), _votes(facts))),
        _section("What was left out", _left_out(facts)),
        _section("Load it", _loading(facts, load_from)),
        _section("Make it again", _label_commands(identity, info.get("settings", {}), facts)),
    ]
    return "\n".join(part for part in parts if part)


def _label_settings(info: Mapping[str, Any], facts: Facts) -> list[tuple[str, ...]]:
    identity = info["identity"]
    binding, source = identity["binding"], identity["source"]
    law = binding["constitution"]
    served = [_code(_without_path(name)) for name in sorted(facts.models.get("judge", ()))]
    what = source if isinstance(source, str) else ", ".join(f"{key} {value}" for key, value in source.items())
    return [
        ("constitution", f"{_code(law['name'])} {_code(law['version'])}, hash {_code(law['hash'])}"),
        ("pairs", _code(what)),
        ("judge", f"{_code(_without_path(binding['judge']))}, answered as {', '.join(served) or 'nothing'}"),
        ("protocol", f"{_code(binding['protocol'])}, both orders, {binding['principles']} principles a pair"),
        ("templates", f"hash {_code(binding['templates'])}"),
        ("seed", str(identity["seed"])),
        *_versions_and_cost(info),
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
        rows += [("of those pairs", _one_line(note).replace("|", "\\|")) for note in made.notes]
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
    return [(_code(name), f"{n:,}") for name, n in sorted(facts.used.items(), key=lambda item: (-item[1], item[0]))]


def _left_out(facts: Facts) -> str:
    own = sum(count for (stage, _), count in facts.dropped.items() if stage not in ("pairs", "kto"))
    text = f"{facts.rows + own:,} pairs were read to an end: {facts.rows:,} judged, {own:,} dropped.\n"
    rows = [(_code(stage), _code(reason), f"{count:,}") for (stage, reason), count in sorted(facts.dropped.items())]
    note = "\n`pairs` are of `dpo` and `reward`; of stage `kto` single replies are counted.\n" if rows else ""
    return f"{text}\n{_table(('stage', 'reason', 'rows'), rows)}{note}" if rows else text


def _label_commands(identity: Mapping[str, Any], settings: Mapping[str, Any], facts: Facts) -> str:
    binding = identity["binding"]
    words = ["cai", "label", "SOURCE", "--constitution", _constitution(binding["constitution"]["hash"])]
    words += ["--judge", _spec(binding["judge"]), "--protocol", binding["protocol"]]
    words += ["--principles", str(binding["principles"])]
    for name, value, default in (("--limit", settings.get("limit"), None), ("--seed", identity["seed"], 0)):
        words += [name, str(value)] if value != default else []
    export = shlex.join(["cai", "export", "RUN", *facts.options])
    return _block("bash", f"{shlex.join([*words, '--out', 'RUN'])}\n{export}") + LABEL_NAMES


def _front_matter(name: str, facts: Facts, kind_of_rows: str = "Revisions", tags: Sequence[str] = ()) -> str:
    configs = []
    for kind in KINDS:
        files = [
            {"split": split, "path": f"{kind}{side}.jsonl"}
            for side, split in SPLITS.items()
            if facts.files.get(f"{kind}{side}.jsonl")  # an empty file has no columns to load
        ]
        if files:
            configs.append({"config_name": kind, "data_files": files})
    if not configs:  # else `datasets` would take whatever lies in the folder, run.json first, for the rows
        configs = [{"config_name": kind, "data_files": []} for kind in KINDS if f"{kind}.jsonl" in facts.files]
    front = {
        "pretty_name": _one_line(f"{kind_of_rows} under {name}"),
        "license": "unknown",
        "task_categories": ["text-generation"],
        "tags": ["constitutional-ai", "rlaif", *tags, "synthetic", "cai-toolkit"],
        "configs": configs,
    }
    return yaml.safe_dump(front, sort_keys=False, allow_unicode=True, width=1_000)


def _files(facts: Facts) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for name, lines in facts.files.items():
        rows.append((_code(name), SPLITS[".eval" if ".eval." in name else ""], f"{lines:,}"))
    return rows


def _settings(info: Mapping[str, Any]) -> list[tuple[str, ...]]:
    identity = info["identity"]
    law, sampling = identity["constitution"], identity["sampling"]
    rows: list[tuple[str, ...]] = [
        ("constitution", f"{_code(law['name'])} {_code(law['version'])}, hash {_code(law['hash'])}"),
        ("prompts", _code(identity["source"]["what"])),
        ("templates", f"hash {_code(identity['templates'])}"),
        ("rounds", str(identity["rounds"])),
        ("gate", "a critique that finds nothing to fix skips the revision" if identity["gate"] else "off"),
        ("system text", "none" if identity["system"] is None else f"{_code(identity['system'])}, not in the rows"),
        ("sampling", ", ".join(f"{name} {_code(orjson.dumps(value).decode())}" for name, value in sampling.items())),
        ("seed", str(identity["seed"])),
        *_versions_and_cost(info),
    ]
    return rows


def _versions_and_cost(info: Mapping[str, Any]) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = [("cai-toolkit", info["versions"]["cai"] or "a checkout")]
    if info.get("stopped") is None and "usage" in info:
        usage, cost = info["usage"], info.get("cost_usd")
        spent = [f"{usage['calls']:,} calls", "cost unknown" if cost is None else f"{cost:.2f} USD"]
        if usage["output_tokens"]:  # 0: the server reported none
            spent.insert(1, f"{usage['input_tokens']:,} tokens in, {usage['output_tokens']:,} out")
        rows.append(("spent", ", ".join(spent)))
    return rows


def _models(identity: Mapping[str, Any], facts: Facts) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for role, spec in identity["models"].items():
        answered = [_code(_without_path(name)) for name in sorted(facts.models.get(role, ()))]
        rows.append((role, _code(_without_path(spec)), ", ".join(answered) or "not asked"))
    return rows


def _principles(facts: Facts) -> list[tuple[str, ...]]:
    return [
        (_code(name), f"{count:,}", f"{facts.changed[name] / count:.0%}")
        for name, count in sorted(facts.used.items(), key=lambda item: (-item[1], item[0]))
    ]


def _dropped(facts: Facts) -> str:
    lost = sum(count for (stage, _), count in facts.dropped.items() if stage not in ("sft", "dpo"))
    text = f"{facts.rows + lost:,} prompts were read to an end: {facts.rows:,} rows, {lost:,} dropped."
    rows = [(_code(stage), _code(reason), f"{count:,}") for (stage, reason), count in sorted(facts.dropped.items())]
    note = (
        "\nRows that stage `dpo` left out as `identical` are in `sft`.\n" if facts.dropped["dpo", "identical"] else ""
    )
    return f"{text}\n\n{_table(('stage', 'reason', 'rows'), rows)}{note}" if rows else f"{text}\n"


def _loading(facts: Facts, load_from: str) -> str:
    kinds = [kind for kind in KINDS if any(n for name, n in facts.files.items() if name.startswith(kind))]
    if not kinds:
        return "There is nothing to load: every file is empty.\n"
    lines = [f'{kind} = load_dataset("{load_from}", "{kind}")' for kind in kinds]
    return _block("python", "\n".join(["from datasets import load_dataset", "", *lines]))


def _commands(identity: Mapping[str, Any], settings: Mapping[str, Any], facts: Facts) -> str:
    source, sampling = identity["source"], identity["sampling"]
    models = {role: _spec(name) for role, name in identity["models"].items()}
    prompts = source["what"]
    words = ["cai", "generate"]
    if prompts != describe(None):
        words.append(prompts if prompts.startswith("hf:") else "PROMPTS")
    options: list[tuple[str, Any, Any]] = [  # option, value, the value that needs no option
        ("--constitution", _constitution(identity["constitution"]["hash"]), None),
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
    return _block("bash", f"{shlex.join(words)}\n{export}") + NAMES


def _spec(name: str) -> str:
    """The spec that asks for a model again; weights that lay on a disk are told by their hash, not by their path."""
    provider = name.partition(":")[0]
    return f"{provider}:MODEL" if "@" in name or _without_path(name) != name else name


def _constitution(digest: str) -> str:
    return next(
        (law.source.removeprefix("built-in ") for law in list_constitutions() if law.hash == digest),
        "CONSTITUTION.yaml",
    )


def _templates(digest: str) -> str:
    return next(
        (name for name in ("chat", "fewshot") if load_templates(folder("prompts") / name).hash == digest), "TEMPLATES"
    )


# Text that cannot get out of its place


def _without_path(name: str) -> str:
    """A model's name without the folders it lay in; a hub's `org/name` stays."""
    provider, path = re.findall(r"^((?:[a-z]{2,}:)?)(.*)", _one_line(name))[0]
    if re.match(r"[/\\.~]|[A-Za-z]:", path):
        path = re.split(r"[/\\]", path.rstrip("/\\"))[-1]
    return f"{provider}{path}"


def _one_line(text: str) -> str:
    return " ".join(str(text).split())


def _code(text: str) -> str:
    """A code span of one line that no backtick or table bar in the text can leave."""
    line = _one_line(text).replace("|", "\\|")
    fence = "`" * (max(map(len, re.findall("`+", line)), default=0) + 1)
    pad = " " if line.startswith("`") or line.endswith("`") or not line else ""
    return f"{fence}{pad}{line}{pad}{fence}"


def _block(language: str, text: str) -> str:
    fence = "`" * max(3, max(map(len, re.findall("`+", text)), default=0) + 1)
    return f"{fence}{language}\n{text}\n{fence}\n"


def _table(names: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [f"| {' | '.join(cells)} |" for cells in (names, ("---",) * len(names), *rows)]
    return "\n".join(lines) + "\n" if len(lines) > 2 else ""


def _section(title: str, text: str) -> str:
    return f"## {title}\n\n{text}" if text else ""
