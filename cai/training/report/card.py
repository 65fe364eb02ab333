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
from cai.texts.markdown import Card, block, code, table, without_path
from cai.texts.wording import one_line
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
    name, full = record["identity"]["method"], record["identity"]["config"]["full"]
    what = "Reward model" if METHODS[name].scores else "Language model"
    trained = "all of its weights" if full else "a LoRA adapter"
    base = code(_base(record))
    sections = {
        "Use it": _use(record),
        "What it was trained on": table(("what", "which"), data_in_words(record)),
        "How it was trained": _how(record),
        "What came out": _outcome(folder),
        "Samples": _samples([row for row in read_samples(folder) if row.after is not None]),
        "Train it again": _again(record),
    }
    introduction = f"\n{base}, {METHODS[name].card}; {trained} trained. Made with `cai-toolkit`.\n{CAUTION}"
    return Card(front_of(record), f"{what} from {base}, by {code(name)}", introduction, sections).text()


def _base(record: Facts) -> str:
    model = record["model"]
    return EMBEDDED if model["spec"] == "local" else without_path(model["spec"])


def front_of(record: Facts) -> dict[str, Any]:
    name, full, model = record["identity"]["method"], record["identity"]["config"]["full"], record["model"]
    sources = [file["source"].split(":") for file in record["data"]["files"]]
    front: dict[str, Any] = {
        "library_name": "transformers" if full else "peft",
        "pipeline_tag": "text-classification" if METHODS[name].scores else "text-generation",
    }
    if model["spec"] == "local":
        front["base_model"] = EMBEDDED
    elif _on_hub(model):  # a folder's name would be another model's on the hub
        front["base_model"] = model["place"]
    sets = list(dict.fromkeys(parts[1] for parts in sources if parts[0] == "hf"))
    if sets:
        front["datasets"] = sets
    front["tags"] = ["constitutional-ai", "rlaif", name, "full" if full else "lora", "trl", "cai-toolkit"]
    return front


def _on_hub(model: Facts) -> bool:
    """Whether the weights have a name there; its commit is their mark."""
    return str(model["mark"]).startswith(f"{model['place']}@")


def _use(record: Facts) -> str:
    method, model = METHODS[record["identity"]["method"]], record["model"]
    commands = list(method.usage)
    if record["identity"]["config"]["full"]:
        text = "`THIS` is this folder. It holds the whole model."
    else:
        text = (
            f"`THIS` is this folder. The adapter needs its base model: {code(_base(record))}, weights of mark "
            f"{code(model['mark'])}."
        )
        if not method.scores:
            commands.append("cai merge THIS --out MERGED")
        if "adapter" in model:
            spec, mark = without_path(model["adapter"]["spec"]), model["adapter"]["mark"]
            text += f" It is a further training of the adapter {code(spec)}, of mark {code(mark)}."
    lines = "\n".join(commands)
    return f"{block('bash', lines)}\n{text}\n"


# What it was trained on


def data_in_words(record: Facts) -> Cells:
    """What a training.json says of its data, a name and a text in Markdown each."""
    data, run = record["data"], record.get("run")
    for file in data["files"]:
        yield "file", f"{code(without_path(file['source']))}, content {code(file['content'])}"
    counts = ", ".join(f"{code(reason)} {count:,}" for reason, count in data["dropped"].items())
    dropped = f"{sum(data['dropped'].values()):,} dropped" + (f" ({counts})" if counts else "")
    yield "rows", f"{data['read']:,} read: {data['train']:,} train, {data['eval']:,} held out, {dropped}"
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
        yield "note", code(note.replace(str(place.parent), "RUN") if place.is_absolute() else note)


def _held_out(held_back: str, share: float | None) -> str:
    if held_back == "file":
        return "rows of a file of their own, none of whose prompts trains"
    if held_back == "nothing":
        return "none: nothing was evaluated"
    chance = 1 - (SPLIT if share is None else share)
    return f"each prompt with a chance of {chance:.0%}, by its hash: none is on both sides"


# How


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


# What came out


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
    when = "under the reference" if pairs.before_step is None else f"at step {pairs.before_step:,}"
    sentences = [f"Mean margin {'of the rewards' if reward else 'D'}: {pairs.margin_text()}."]
    rows = []
    if pairs.before is not None:
        rows.append(_wins(f"{better}, {when}", pairs.before))
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


# Samples


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


def _again(record: Facts) -> str:
    config, model = record["identity"]["config"], record["model"]
    given: dict[str, Any] = {}
    defaults = _defaults()
    settled = {name: value for name, value in record["settled"].items() if name in config}
    for name, value in (config | settled).items():
        if value is not None and value != defaults.get(name):
            given[name] = "TEMPLATE.jinja" if name == "chat_template" else value
    source, spec = record["data"]["files"][0]["source"], model.get("adapter", model)["spec"]
    data = source if source.startswith("hf:") else "DATA"
    base = spec if spec == "local" or (_on_hub(model) and "adapter" not in model) else "MODEL"
    words = ["cai", "train", record["identity"]["method"], data, "--model", base]
    listed = ""
    if given:
        words += ["--config", "train.yaml"]
        settings = yaml.safe_dump(given, sort_keys=False, allow_unicode=True, width=1_000)
        listed = f"`train.yaml`:\n\n{block('yaml', settings.rstrip())}\n"
    return f"{listed}{block('bash', shlex.join([*words, '--out', 'OUT']))}{NAMES}"
