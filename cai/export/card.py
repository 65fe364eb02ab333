"""What every card of a run folder shares: the counts, front matter that `datasets` loads by, files, versions, commands.

Pure. Whatever comes from files and models stands inside a code span, a code block or a YAML scalar, so that no text
can end the front matter or speak for the card.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml

from cai.constitution.principles import list_constitutions
from cai.judge.certify import Calibration
from cai.texts.markdown import block, code, one_line, table, without_path

KINDS = ("sft", "dpo", "kto", "reward")
SPLITS = {"": "train", ".eval": "test"}  # by what the file name has between its stem and .jsonl
NAMES = """
`RUN` is a new folder; `PROMPTS`, `CONSTITUTION.yaml`, `MODEL` and `TEMPLATES`, where they stand, are what the tables
above identify.
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


def front_matter(name: str, facts: Facts, kind_of_rows: str = "Revisions", tags: Sequence[str] = ()) -> str:
    """The front matter's YAML; an empty kind is left out, for it has no columns that `datasets` could load."""
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
        "pretty_name": one_line(f"{kind_of_rows} under {name}"),
        "license": "unknown",
        "task_categories": ["text-generation"],
        "tags": ["constitutional-ai", "rlaif", *tags, "synthetic", "cai-toolkit"],
        "configs": configs,
    }
    return yaml.safe_dump(front, sort_keys=False, allow_unicode=True, width=1_000)


def list_files(facts: Facts) -> list[tuple[str, ...]]:
    """A row for each file: its name, split and lines."""
    rows: list[tuple[str, ...]] = []
    for name, lines in facts.files.items():
        rows.append((code(name), SPLITS[".eval" if ".eval." in name else ""], f"{lines:,}"))
    return rows


def versions_and_cost(info: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Rows that say what made the run, and what it cost once it is over."""
    rows: list[tuple[str, ...]] = [("cai-toolkit", info["versions"]["cai"] or "a checkout")]
    if info.get("stopped") is None and "usage" in info:
        usage, cost = info["usage"], info.get("cost_usd")
        spent = [f"{usage['calls']:,} calls", "cost unknown" if cost is None else f"{cost:.2f} USD"]
        if usage["output_tokens"]:  # 0: the server reported none
            spent.insert(1, f"{usage['input_tokens']:,} tokens in, {usage['output_tokens']:,} out")
        rows.append(("spent", ", ".join(spent)))
    return rows


def dropped_rows(facts: Facts) -> str:
    """How many prompts came to nothing, in which stage and why."""
    lost = sum(count for (stage, _), count in facts.dropped.items() if stage not in ("sft", "dpo"))
    text = f"{facts.rows + lost:,} prompts were read to an end: {facts.rows:,} rows, {lost:,} dropped."
    rows = [(code(stage), code(reason), f"{count:,}") for (stage, reason), count in sorted(facts.dropped.items())]
    note = (
        "\nRows that stage `dpo` left out as `identical` are in `sft`.\n" if facts.dropped["dpo", "identical"] else ""
    )
    return f"{text}\n\n{table(('stage', 'reason', 'rows'), rows)}{note}" if rows else f"{text}\n"


def loading(facts: Facts, load_from: str) -> str:
    """The lines of Python that load the files; load_from: a folder, or a name on the hub."""
    kinds = [kind for kind in KINDS if any(n for name, n in facts.files.items() if name.startswith(kind))]
    if not kinds:
        return "There is nothing to load: every file is empty.\n"
    lines = [f'{kind} = load_dataset("{load_from}", "{kind}")' for kind in kinds]
    return block("python", "\n".join(["from datasets import load_dataset", "", *lines]))


def spec_of(name: str) -> str:
    """The spec that asks for a model again; weights that lay on a disk are told by their hash, not by their path."""
    provider = name.partition(":")[0]
    return f"{provider}:MODEL" if "@" in name or without_path(name) != name else name


def constitution_of(digest: str) -> str:
    """The name of the built-in constitution with a hash; of another one a place for its file."""
    return next(
        (law.source.removeprefix("built-in ") for law in list_constitutions() if law.hash == digest),
        "CONSTITUTION.yaml",
    )
