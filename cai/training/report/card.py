"""Writes the model card of a training's folder: how to use the model, what made it, and what it did on held-out rows.

Reads what the trainer left there (training.json, metrics.jsonl, eval.jsonl, samples.jsonl, plots) and nothing else.
Whatever comes from files and models stands inside a code span, a code block or a YAML scalar, so that no text can end
the front matter or speak for the card.
"""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from statistics import median
from typing import Any

import orjson
import yaml

from cai.errors import MissingExtra
from cai.folder.files import write_atomically
from cai.texts.wording import Card, block, code, one_line, table, without_path
from cai.training.data.dataset import SPLIT
from cai.training.report.evidence import LOSS, MARGINS, Sample, read_samples, write_plots
from cai.training.report.provenance import WRITERS, run_in_words
from cai.training.report.summary import PairAccuracy, Wins, evaluated, figure, pair_accuracy
from cai.training.setup.config import TrainConfig
from cai.training.setup.folder import EVALS, METRICS, RECORD, TrainFolder, read_lines
from cai.training.setup.methods import METHODS
from cai.training.setup.plan import Lengths

Facts = Mapping[str, Any]
Cells = Iterator[tuple[str, ...]]

EMBEDDED = "HuggingFaceTB/SmolLM2-135M-Instruct"  # what the weights of `local` were quantised from
CAUTION = """
**Nobody has vouched for this model.** What is measured below is measured on held-out rows of the same kind, and if a
language model judged the pairs, against its judgement and not that of people.

The licence of these weights follows from those of the base model and of the rows.
"""
MOST_SHOWN = 600  # characters of a text among the samples; the file has them whole
LONGEST = 80  # characters of a setting in a table
NAMES = """
`DATA`, `MODEL` and `TEMPLATE.jinja` are what the tables above identify; rows that were held out in a file of their own
lie beside `DATA`, with `.eval` before its ending.
"""


def write_evidence(folder: TrainFolder, tell: Callable[[str], None]) -> None:
    """Draw the plots and write the card, from what the folder holds; without matplotlib a note in place of plots."""
    try:
        write_plots(folder.path, folder.metrics())
    except MissingExtra as error:
        tell(f"note: no plots: {error}")
    write_atomically(folder.path / "README.md", card(folder.path).encode())


def card(folder: Path) -> str:
    """The text of README.md; raises FileNotFoundError without a training.json."""
    record = orjson.loads((folder / RECORD).read_bytes())
    facts = _Facts(record)
    what = "Reward model" if facts.method.scores else "Language model"
    trained = "all of its weights" if facts.full else "a LoRA adapter"
    base = code(facts.base)
    sections = {
        "Use it": _use(facts),
        "What it was trained on": table(("what", "which"), data_in_words(record)),
        "How it was trained": _how(record),
        "What came out": _outcome(folder),
        "Samples": _samples([row for row in read_samples(folder) if row.after is not None]),
        "Train it again": _again(facts),
    }
    introduction = f"\n{base}, {facts.method.card}; {trained} trained. Made with `cai-toolkit`.\n{CAUTION}"
    return Card(_front(facts), f"{what} from {base}, by {code(facts.name)}", introduction, sections).text()


class _Facts:
    """What training.json says."""

    def __init__(self, record: Mapping[str, Any]) -> None:
        self.name: str = record["identity"]["method"]
        self.method = METHODS[self.name]
        self.config: dict[str, Any] = record["identity"]["config"]
        self.full: bool = self.config["full"]
        self.settled: dict[str, Any] = record["settled"]
        self.model: dict[str, Any] = record["model"]
        self.mark: str = self.model["mark"]
        self.sources: list[str] = [file["source"] for file in record["data"]["files"]]
        local = self.model["spec"] == "local"
        self.base = EMBEDDED if local else without_path(self.model["spec"])
        # The base's name on the hub, if it has one there; a folder's name would be another model's.
        self.hub = EMBEDDED if local else ""
        if self.mark.startswith(f"{self.model['place']}@"):
            self.hub = self.model["place"]


def _front(facts: _Facts) -> dict[str, Any]:
    """The values of the front matter."""
    front: dict[str, Any] = {
        "library_name": "transformers" if facts.full else "peft",
        "pipeline_tag": "text-classification" if facts.method.scores else "text-generation",
    }
    if facts.hub:
        front["base_model"] = facts.hub
    datasets = [source.split(":")[1] for source in facts.sources if source.startswith("hf:")]
    if datasets:
        front["datasets"] = list(dict.fromkeys(datasets))
    front["tags"] = ["constitutional-ai", "rlaif", facts.name, "full" if facts.full else "lora", "trl", "cai-toolkit"]
    return front


def _use(facts: _Facts) -> str:
    commands = list(facts.method.usage)
    text = "`THIS` is this folder."
    if facts.full:
        text += " It holds the whole model."
    else:
        text += f" The adapter needs its base model: {code(facts.base)}, weights of mark {code(facts.mark)}."
        if not facts.method.scores:
            commands.append("cai merge THIS --out MERGED")
    adapter = facts.model.get("adapter")
    if adapter is not None:
        spec, mark = code(without_path(adapter["spec"])), code(adapter["mark"])
        text += f" It is a further training of the adapter {spec}, of mark {mark}."
    lines = "\n".join(commands)
    return f"{block('bash', lines)}\n{text}\n"


def data_in_words(record: Facts) -> Cells:
    """What a training.json says of its data, a name and a text in Markdown each."""
    data = record["data"]
    run = record.get("run")
    for file in data["files"]:
        yield "file", f"{code(without_path(file['source']))}, content {code(file['content'])}"
    rows = f"{data['read']:,} read: {data['train']:,} train, {data['eval']:,} held out"
    counts = ", ".join(f"{code(reason)} {count:,}" for reason, count in data["dropped"].items())
    dropped = f"{sum(data['dropped'].values()):,} dropped"
    yield "rows", f"{rows}, {dropped} ({counts})" if counts else f"{rows}, {dropped}"
    yield "held out", _held_out(data["held_back"], record["identity"]["config"]["split"])
    if run is not None:
        yield from run_in_words(run)
    for column, values in data["origins"].items():
        if run is None or column in WRITERS:
            yield column.replace("_", " "), ", ".join(code(without_path(value)) for value in values)
    if run is None and METHODS[record["identity"]["method"]].rows != "chat":
        who = "the rows name a judge" if "judge" in data["origins"] else "the rows name no judge"
        yield "calibration", f"not known: {who}, and they come without the run that made them"
    place = Path(data["files"][0]["source"])
    for note in data["notes"]:
        if place.is_absolute():
            note = note.replace(str(place.parent), "RUN")
        yield "note", code(note)


def _held_out(held_back: str, share: float | None) -> str:
    if held_back == "file":
        return "rows of a file of their own, none of whose prompts trains"
    if held_back == "nothing":
        return "none: nothing was evaluated"
    chance = 1 - (SPLIT if share is None else share)
    return f"each prompt with a chance of {chance:.0%}, by its hash: none is on both sides"


def _how(record: Facts) -> str:
    config, summary = record["identity"]["config"], record["summary"]
    rows = [
        (code(one["name"]), _value(one["value"]), one["origin"], one_line(one["why"]).replace("|", "\\|"))
        for one in record["plan"]
    ]
    planned, defaults = {one["name"] for one in record["plan"]}, dict(_dotted(_defaults()))
    for name, value in _dotted(config):
        idle = config["full"] and name.startswith("lora.")
        if value is not None and name not in planned and not idle:
            rows.append((code(name), _value(value), "default" if value == defaults.get(name) else "given", ""))
    versions = ", ".join(f"{name} {version or 'of a checkout'}" for name, version in record["versions"].items())
    lengths = str(Lengths(**record["truncation"]))
    return (
        f"{summary['steps']:,} steps in {summary['seconds']:,.0f} s. {lengths[:1].upper()}{lengths[1:]}.\n\n"
        f"{table(('setting', 'value', 'from', 'why'), rows)}\nMade with {versions}.\n"
    )


def _defaults() -> dict[str, Any]:
    return TrainConfig.model_validate({}).model_dump(mode="json")


def _dotted(values: Facts) -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from ((f"{key}.{inner}", one) for inner, one in value.items())
        else:
            yield key, value


def _value(value: Any) -> str:
    if isinstance(value, float):
        return code(f"{value:g}")
    if not isinstance(value, str):
        return code(orjson.dumps(value).decode())
    if len(value) > LONGEST:  # a chat template
        return f"{len(value):,} characters, sha256 {code(hashlib.sha256(value.encode()).hexdigest()[:16])}"
    return code(value)


def _outcome(folder: Path) -> str:
    evals = [line for line in read_lines(folder / METRICS) if "eval_loss" in line]
    pairs = pair_accuracy(read_lines(folder / EVALS))
    parts = [] if pairs is None else [_pairs(pairs)]
    if evals:
        ends = {line["step"]: line for line in (evals[0], evals[-1])}
        rows = [
            (code(name.removeprefix("eval_")), *(figure(line.get(name)) for line in ends.values()))
            for name in evaluated(evals[-1])
        ]
        parts.append(table(("held out", *(f"at step {step:,}" for step in ends)), rows))
    else:
        parts.append("Nothing was held out, so nothing was measured.\n")
    for name, text in ((LOSS, "Loss of each step"), (MARGINS, "Rewards of chosen and rejected replies")):
        if (folder / name).exists():
            parts.append(f"![{text}]({name})\n")
    return "\n".join(parts)


def _pairs(pairs: PairAccuracy) -> str:
    reward = pairs.measure == "reward"
    better = "chosen gets the higher reward" if reward else "chosen is the likelier reply"
    sentences = [f"Mean margin {'of the rewards' if reward else 'D'}: {pairs.margin_text()}."]
    rows = []
    if pairs.before is not None:
        rows.append(_wins(f"{better}, {pairs.before_when()}", pairs.before))
        sentences.append(
            f"{pairs.gained:,} pairs turned to the chosen reply and {pairs.lost:,} away from it (exact sign test: "
            f"p {pairs.p_value:.2g})."
        )
    rows.append(_wins(f"{better}, at step {pairs.step:,}", pairs.after))
    if pairs.implicit is not None:
        rows.append(_wins("implicit reward prefers chosen (D > 0)", pairs.implicit))
    sentences.append("Intervals are Wilson's; a tie counts half.")
    if not reward:
        sentences.append(
            "D is the gain in log probability of chosen over that of rejected since the reference. Log probabilities "
            "are summed over the tokens, so the shorter reply tends to be the likelier."
        )
    if pairs.unmeasured:
        sentences.append(f"Not counted, because a number is missing: {pairs.unmeasured:,} pairs.")
    shares = table(("held-out pairs", "share", "95 % interval", "pairs", "ties"), rows)
    return f"{shares}\n{' '.join(sentences)}\n"


def _wins(what: str, wins: Wins) -> tuple[str, ...]:
    low, high = wins.interval
    return what, f"{wins.share:.1%}", f"{low:.1%} to {high:.1%}", f"{wins.n:,}", f"{wins.ties:,}"


def _samples(rows: list[Sample]) -> str:
    if not rows:
        return ""
    before, after = median(len(row.before) for row in rows), median(len(row.after or "") for row in rows)
    parts = [
        f"Replies to {len(rows):,} held-out prompts, the likeliest token each time, at most {rows[0].most_tokens:,} "
        f"tokens. The median reply had {before:g} characters before and has {after:g} after. Long texts are cut here; "
        "`samples.jsonl` has them whole. Prompts may ask for harmful things, and replies may give them.\n"
    ]
    for row in rows:
        prompt = row.prompt
        if not isinstance(prompt, str):
            prompt = "\n\n".join(f"{turn['role']}: {turn['content']}" for turn in prompt)
        if len(prompt) > MOST_SHOWN:
            prompt = f"[…] {prompt[-MOST_SHOWN:]}"  # its end is what is answered
        parts += [f"### {code(row.id)}\n", f"Prompt:\n\n{_shown(prompt)}"]
        for name, text in (("Before", row.before), ("After", row.after or "")):
            if len(text) > MOST_SHOWN:
                text = f"{text[:MOST_SHOWN]} […]"
            parts.append(f"{name}:\n\n{_shown(text)}")
    return "\n".join(parts)


def _shown(text: str) -> str:
    return block("text", text.replace("\r\n", "\n").replace("\r", "\n"))


def _again(facts: _Facts) -> str:
    defaults = _defaults()
    given: dict[str, Any] = {}
    for name, value in (facts.config | facts.settled).items():
        if name in defaults and value not in (None, defaults[name]):
            given[name] = "TEMPLATE.jinja" if name == "chat_template" else value
    data = facts.sources[0] if facts.sources[0].startswith("hf:") else "DATA"
    base = "MODEL"
    if "adapter" not in facts.model and facts.hub:
        base = facts.model["spec"]
    words = ["cai", "train", facts.name, data, "--model", base]
    listed = ""
    if given:
        words += ["--config", "train.yaml"]
        settings = yaml.safe_dump(given, sort_keys=False, allow_unicode=True, width=1_000)
        listed = f"`train.yaml`:\n\n{block('yaml', settings.rstrip())}\n"
    return f"{listed}{block('bash', shlex.join([*words, '--out', 'OUT']))}{NAMES}"
