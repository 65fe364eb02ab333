"""Writes the model card of a training's folder: how to use the model, what made it, and what it did on held-out rows.

Reads what the trainer left there (training.json, metrics.jsonl, eval.jsonl, samples.jsonl, plots) and nothing else.
Whatever comes from files and models stands inside a code span, a code block or a YAML scalar, so that no text can end
the front matter or speak for the card. Knows nothing of trainers.
"""

from __future__ import annotations

import hashlib
import re
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from statistics import median
from typing import Any

import orjson
import yaml

from cai.texts.markdown import block, code, section, table, without_path
from cai.texts.wording import one_line
from cai.training.data.masks import Lengths
from cai.training.data.rows import Turns
from cai.training.report.pairs import PairAccuracy, Wins, pair_accuracy
from cai.training.report.plots import LOSS, MARGINS
from cai.training.report.provenance import data_in_words
from cai.training.report.samples import Sample, read_samples
from cai.training.setup.config import TrainConfig
from cai.training.setup.folder import EVALS, METRICS, RECORD, UNTOLD, read_lines

Facts = Mapping[str, Any]

EMBEDDED = "HuggingFaceTB/SmolLM2-135M-Instruct"  # what the weights of `local` were quantised from
METHODS = {
    "sft": "fine-tuned on replies, with the loss on the last reply of each conversation alone",
    "dpo": "trained on pairs of replies by direct preference optimisation (Rafailov et al. 2023, arXiv 2305.18290)",
    "kto": "trained on single replies, desirable or not (KTO: Ethayarajh et al. 2024, arXiv 2402.01306)",
    "reward": "made a reward model: trained on pairs of replies to give the better one the higher number",
}
CAUTION = """
**Nobody has vouched for this model.** What is measured below is measured on held-out rows of the same kind, and where
a language model judged the pairs, against its judgement and not that of people.

The licence of these weights follows from those of the base model and of the rows.
"""
MOST_SHOWN = 600  # characters of a text among the samples; the file has them whole
# What would be shown in another place than it stands, or not at all: control characters but line ends and tabs, halves
# of surrogate pairs, changes of direction.
UNSHOWN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
LONGEST = 80  # characters of a setting in a table
NAMES = """
`DATA`, `MODEL` and `TEMPLATE.jinja`, where they stand, are what the tables above identify; rows that were held out in a
file of their own lie beside `DATA`, with `.eval` before its ending.
"""


def card(folder: Path) -> str:
    """The text of README.md; raises FileNotFoundError without a training.json."""
    record = orjson.loads((folder / RECORD).read_bytes())
    method, config = record["identity"]["method"], record["identity"]["config"]
    what = "Reward model" if method == "reward" else "Language model"
    made = "all of its weights" if config["full"] else "a LoRA adapter"
    parts = [
        f"---\n{front_matter(record)}---\n",
        f"# {what} from {code(_base(record))}, by {code(method)}\n",
        f"{code(_base(record))}, {METHODS[method]}; {made} trained. Made with `cai-toolkit`.\n{CAUTION}",
        section("Use it", _use(record)),
        section("What it was trained on", table(("what", "which"), data_in_words(record))),
        section("How it was trained", _how(record)),
        section("What came out", _outcome(folder, method)),
        section("Samples", _samples(read_samples(folder))),
        section("Train it again", _again(record)),
    ]
    return UNSHOWN.sub("\ufffd", "\n".join(part for part in parts if part))


def _base(record: Facts) -> str:
    model = record["model"]
    return EMBEDDED if model["spec"] == "local" else without_path(model["spec"])


def front_matter(record: Facts) -> str:
    method, config, model = record["identity"]["method"], record["identity"]["config"], record["model"]
    sources = [file["source"].split(":") for file in record["data"]["files"]]
    sets = list(dict.fromkeys(parts[1] for parts in sources if parts[0] == "hf"))
    hub = EMBEDDED if model["spec"] == "local" else model["place"] if _on_hub(model) else None
    front = {
        "library_name": "transformers" if config["full"] else "peft",
        "pipeline_tag": "text-classification" if method == "reward" else "text-generation",
        **({"base_model": hub} if hub is not None else {}),  # a folder's name would be another model's on the hub
        **({"datasets": sets} if sets else {}),
        "tags": ["constitutional-ai", "rlaif", method, "full" if config["full"] else "lora", "trl", "cai-toolkit"],
    }
    return yaml.safe_dump(front, sort_keys=False, width=1_000)


def _on_hub(model: Facts) -> bool:
    """Whether the weights have a name there; its commit is their mark."""
    return str(model["mark"]).startswith(f"{model['place']}@")


def _use(record: Facts) -> str:
    method, full = record["identity"]["method"], record["identity"]["config"]["full"]
    if method == "reward":
        lines = ["cai label SOURCE --constitution harmless --judge reward:THIS", "cai judge bench --judge reward:THIS"]
    else:
        lines = ["cai chat THIS", "cai generate PROMPTS --constitution harmless --model hf:THIS"]
        lines += [] if full else ["cai merge THIS --out MERGED"]
    model = record["model"]
    needs = [f"`THIS` is this folder. {'It holds the whole model.' if full else 'The adapter needs its base model:'}"]
    if not full:
        needs.append(f"{code(_base(record))}, weights of mark {code(model['mark'])}.")
        if "adapter" in model:
            spec, mark = without_path(model["adapter"]["spec"]), model["adapter"]["mark"]
            needs.append(f"It is a further training of the adapter {code(spec)}, of mark {code(mark)}.")
    return f"{block('bash', chr(10).join(lines))}\n{' '.join(needs)}\n"


# How


def _how(record: Facts) -> str:
    rows = [
        (code(one["name"]), _value(one["value"]), one["origin"], one_line(one["why"]).replace("|", "\\|"))
        for one in record["plan"]
    ]
    told, defaults = {one["name"] for one in record["plan"]}, dict(_dotted(_defaults()))
    for name, value in _dotted(record["identity"]["config"]):
        if value is not None and name not in told and not (record["identity"]["config"]["full"] and "lora." in name):
            rows.append((code(name), _value(value), "default" if value == defaults.get(name) else "given", ""))
    summary = record["summary"]
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
    if isinstance(value, str) and len(value) > LONGEST:  # a chat template
        return f"{len(value):,} characters, sha256 {code(hashlib.sha256(value.encode()).hexdigest()[:16])}"
    return code(f"{value:g}" if isinstance(value, float) else value if isinstance(value, str) else _json(value))


def _json(value: Any) -> str:
    return orjson.dumps(value).decode()


# What came out


def _outcome(folder: Path, method: str) -> str:
    lines = read_lines(folder / METRICS)
    evals = [line for line in lines if "eval_loss" in line]
    found = pair_accuracy(read_lines(folder / EVALS))
    parts = [_pairs(found)] if found is not None else []
    if evals:
        ends = {line["step"]: line for line in (evals[0], evals[-1])}
        names = [name for name in evals[-1] if name.startswith("eval_") and name not in UNTOLD]
        rows = [
            (code(name.removeprefix("eval_")), *(_number(line.get(name)) for line in ends.values())) for name in names
        ]
        parts.append(table(("held out", *(f"at step {step:,}" for step in ends)), rows))
    else:
        parts.append("Nothing was held out, so nothing was measured.\n")
    images = {LOSS: "Loss of each step", MARGINS: "Rewards of chosen and rejected replies"}
    parts += [f"![{text}]({name})\n" for name, text in images.items() if (folder / name).exists()]
    return "\n".join(parts)


def _pairs(found: PairAccuracy) -> str:
    reward = found.measure == "reward"
    more = "chosen gets the higher reward" if reward else "chosen is the likelier reply"
    when = "under the reference" if found.before_step is None else f"at step {found.before_step:,}"
    rows = [_wins(f"{more}, {when}", found.before)] if found.before is not None else []
    rows.append(_wins(f"{more}, at step {found.step:,}", found.after))
    if found.implicit is not None:
        rows.append(_wins("implicit reward prefers chosen (D > 0)", found.implicit))
    text = table(("held-out pairs", "share", "95 % interval", "pairs", "ties"), rows)
    told = [f"Mean margin {'of the rewards' if reward else 'D'}: {found.told_margin()}."]
    if found.before is not None:
        told.append(
            f"{found.gained:,} pairs turned to the chosen reply and {found.lost:,} away from it (exact sign test: "
            f"p {found.p_value:.2g})."
        )
    told.append("Intervals are Wilson's; a tie counts half.")
    if not reward:
        told.append(
            "D is the gain in log probability of chosen over that of rejected since the reference. Log probabilities "
            "are summed over the tokens, so the shorter reply tends to be the likelier."
        )
    if found.unmeasured:
        told.append(f"Not counted, for want of a number: {found.unmeasured:,} pairs.")
    return f"{text}\n{' '.join(told)}\n"


def _wins(what: str, wins: Wins) -> tuple[str, ...]:
    low, high = wins.interval
    return what, f"{wins.share:.1%}", f"{low:.1%} to {high:.1%}", f"{wins.n:,}", f"{wins.ties:,}"


def _number(value: float | None) -> str:
    return "no number" if value is None else f"{value:.4g}"


# Samples


def _samples(rows: list[Sample]) -> str:
    rows = [row for row in rows if row.after is not None]
    if not rows:
        return ""
    first = rows[0]
    before, after = median(len(row.before) for row in rows), median(len(row.after or "") for row in rows)
    parts = [
        f"Replies to {len(rows):,} held-out prompts, the likeliest token each time, at most {first.most_tokens:,} "
        f"tokens. The median reply had {before:g} characters before and has {after:g} after. Long texts are cut here; "
        "`samples.jsonl` has them whole. Prompts may ask for harmful things, and replies may give them.\n"
    ]
    for row in rows:
        prompt = _plain(_conversation(row.prompt))
        prompt = prompt if len(prompt) <= MOST_SHOWN else f"[…] {prompt[-MOST_SHOWN:]}"  # its end is what is answered
        parts += [f"### {code(row.id)}\n", f"Prompt:\n\n{block('text', prompt)}"]
        for name, text in (("Before", _plain(row.before)), ("After", _plain(row.after or ""))):
            shown = text if len(text) <= MOST_SHOWN else f"{text[:MOST_SHOWN]} […]"
            parts.append(f"{name}:\n\n{block('text', shown)}")
    return "\n".join(parts)


def _conversation(prompt: Turns | str) -> str:
    if isinstance(prompt, str):
        return prompt
    return "\n\n".join(f"{turn['role']}: {turn['content']}" for turn in prompt)


def _plain(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _again(record: Facts) -> str:
    config, model = record["identity"]["config"], record["model"]
    given: dict[str, Any] = {}
    defaults = _defaults()
    settled = {name: value for name, value in record["settled"].items() if name in config}
    for name, value in (config | settled).items():
        if isinstance(value, Mapping) and name != "trl":
            value = {key: one for key, one in value.items() if one != defaults[name].get(key)} or defaults[name]
        if value is not None and value != defaults.get(name):
            given[name] = "TEMPLATE.jinja" if name == "chat_template" else value
    source, spec = record["data"]["files"][0]["source"], model.get("adapter", model)["spec"]
    data = source if source.startswith("hf:") else "DATA"
    base = spec if spec == "local" or (_on_hub(model) and "adapter" not in model) else "MODEL"
    words = ["cai", "train", record["identity"]["method"], data, "--model", base]
    words += ["--config", "train.yaml", "--out", "OUT"] if given else ["--out", "OUT"]
    settings = yaml.safe_dump(given, sort_keys=False, allow_unicode=True, width=1_000) if given else ""
    listed = f"`train.yaml`:\n\n{block('yaml', settings.rstrip())}\n" if given else ""
    return f"{listed}{block('bash', shlex.join(words))}{NAMES}"
