"""Writes the dataset card of a run folder, README.md: what the rows are, what made them and how far to trust them.

Pure: what the cut counted and the content of run.json in, text out.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import orjson

from cai.export.cut import Cut, Judged
from cai.export.options import DEFAULTS, ExportOptions, flag
from cai.export.preferences import LabelCut
from cai.judge.certify import threshold
from cai.texts.wording import Card, block, code, one_line, table, without_path

SPLITS = {"": "train", ".eval": "test"}  # by what a file's name has between its stem and .jsonl
Info = Mapping[str, Any]  # the content of run.json, and its `identity`
Cells = Iterator[tuple[str, ...]]

LICENCE = """
The licence of these rows follows from those of the prompts and of the models below.
"""
INTRODUCTIONS = {
    "revisions": """
Replies that a language model wrote to the prompts, criticised under the principles of a constitution and revised
accordingly: supervised Constitutional AI (Bai et al. 2022, arXiv 2212.08073), made with `cai-toolkit`.

**A language model wrote every reply here, and nobody has read them.** Prompts may ask for harmful things, and first
replies (`rejected`) may give them. **The pairs are unjudged**: `chosen` is the last revision and `rejected` the first
reply; that the revision is better is assumed, not checked. So `judged` is false and `p_chosen` is null.
""",
    "preferences": """
Replies of language models, and which of two a judge, another language model, believes to be better under the
principles of a constitution (RLAIF: Bai et al. 2022, arXiv 2212.08073, section 4), made with `cai-toolkit`.

**A language model judged these pairs, and nobody has read them.** Each pair was judged in both orders, so that the
judge's position bias cancels. `p_chosen` is the probability that `chosen` is better. Prompts may ask for harmful
things, and replies, above all `rejected`, may give them.
""",
    "best replies": """
Of several replies that language models wrote to a prompt, the one that a judge, another model, believes to be the best:
best-of-N sampling, which trains nothing, made with `cai-toolkit`. Tuning on such rows is expert iteration.

**Language models wrote and chose these replies, and nobody has read them.** Prompts may ask for harmful things, and the
best of several replies may still give them.
""",
}
TAGS = {"revisions": [], "preferences": ["preference"], "best replies": ["best-of-n"]}
PLACES = """
`RUN` is the run's folder. Files and models that were on a disk are named without their folder; the tables above
identify them.
"""


def dataset_card(info: Info, cut: Cut, load_from: str = ".") -> str:
    """The text of README.md.

    info: the content of run.json. load_from: what load_dataset is given, a folder or a name on the hub.
    """
    facts, identity = cut.facts, info["identity"]
    judging: Info = cut.binding if isinstance(cut, LabelCut) else identity.get("best_of") or identity
    law = judging["constitution"]
    under = "a reward model" if law is None else law["name"]
    title = f"{cut.kind.capitalize()} under"
    card = Card(
        front_matter(f"{title} {under}", cut),
        f"{title} {code(under)}",
        INTRODUCTIONS[cut.kind] + LICENCE,
        {
            "Files": table(("file", "split", "rows"), files(facts.files)),
            "How it was made": table(("setting", "value"), [*settings(identity, judging), *versions_and_cost(info)]),
            "Models": table(("role", "asked", "answered as"), models(identity, judging, facts.models)),
            "How far to trust it": table(("measure", "value"), trust(cut)),
            "Principles": principles(cut),
            "What was left out": left_out(cut),
            "Load it": loading(cut, load_from),
            "Make it again": commands(info, cut),
        },
    )
    return card.text()


def front_matter(title: str, cut: Cut) -> dict[str, Any]:
    """What `datasets` loads the files by; an empty file is left out, as it has no columns to load."""
    configs: list[dict[str, Any]] = []
    for kind in cut.files:
        names = {split: f"{kind}{side}.jsonl" for side, split in SPLITS.items()}
        data = [{"split": split, "path": name} for split, name in names.items() if cut.facts.files.get(name)]
        if data:
            configs.append({"config_name": kind, "data_files": data})
    if not configs:  # without any, `datasets` would load whatever else is in the folder, run.json first
        configs = [{"config_name": kind, "data_files": []} for kind in cut.files]
    return {
        "pretty_name": one_line(title),
        "license": "unknown",
        "task_categories": ["text-generation"],
        "tags": ["constitutional-ai", "rlaif", *TAGS[cut.kind], "synthetic", "cai-toolkit"],
        "configs": configs,
    }


def files(rows: Mapping[str, int]) -> Cells:
    """Each file with its split and rows."""
    for name, count in rows.items():
        yield code(name), SPLITS[".eval" if ".eval." in name else ""], f"{count:,}"


def settings(identity: Info, judging: Info) -> Cells:
    """What made the run, from its identity and that of its judge."""
    law, source = judging["constitution"], identity["source"]
    if law is not None:
        yield "constitution", f"{code(law['name'])} {code(law['version'])}, hash {code(law['hash'])}"
    yield "source", code(_source(source))
    if "protocol" in judging:
        yield "protocol", f"{code(judging['protocol'])}, both orders, principles per pair: {judging['principles']}"
    yield "templates", f"hash {code(judging['templates'])}"
    if "rounds" in identity:
        yield "rounds", str(identity["rounds"])
        gate = "a critique that finds nothing to fix skips the revision"
        yield "gate", gate if identity["gate"] else "off"
    if "sampling" in identity:
        system = identity["system"]
        yield "system text", "none" if system is None else f"{code(system)}, not in the rows"
        pairs = (f"{name} {code(orjson.dumps(value).decode())}" for name, value in identity["sampling"].items())
        yield "sampling", ", ".join(pairs)
    yield "seed", str(identity["seed"])


def _source(source: Any) -> str:
    if isinstance(source, str):
        return source
    if "what" in source:
        return str(source["what"])
    return ", ".join(f"{key} {value}" for key, value in source.items())


def versions_and_cost(info: Info) -> Cells:
    """The version that made the run, and what it cost once it is over."""
    yield "cai-toolkit", info["versions"]["cai"] or "a checkout"
    if info.get("stopped") is not None or "usage" not in info:
        return
    usage, cost = info["usage"], info.get("cost_usd")
    parts = [f"{usage['calls']:,} calls"]
    if usage["output_tokens"]:  # 0: the server reported none
        parts.append(f"{usage['input_tokens']:,} tokens in, {usage['output_tokens']:,} out")
    parts.append("cost unknown" if cost is None else f"{cost:.2f} USD")
    yield "spent", ", ".join(parts)


def models(identity: Info, judging: Info, answered: Mapping[str, Mapping[str, int]]) -> Cells:
    """Each role with the model that was asked, and as what it answered."""
    asked = identity.get("models")
    specs = list(asked.items()) if isinstance(asked, Mapping) else [("assistant", spec) for spec in asked or ()]
    if "judge" in judging:
        specs.append(("judge", judging["judge"]))
    for role, spec in specs:
        names = [code(without_path(name)) for name in sorted(answered.get(role, ()))]
        yield role, code(without_path(spec)), ", ".join(names) or "not asked"


def principles(cut: Cut) -> str:
    """How often each principle was used, and of revisions what came of it."""
    used = sorted(cut.facts.used.items(), key=lambda item: (-item[1], item[0]))
    if cut.judged is not None:
        return table(("principle", "votes"), ((code(name), f"{count:,}") for name, count in used))
    changed = cut.facts.changed
    rows = ((code(name), f"{count:,}", f"{changed[name] / count:.0%}") for name, count in used)
    return table(("principle", "critiques", "changed the reply"), rows)


def trust(cut: Cut) -> Cells:
    """What is known of the judge: its calibration, the threshold, and its biases."""
    if isinstance(cut, LabelCut):
        yield from _calibration(cut)
    if cut.judged is not None:
        yield from _biases(cut.judged)


def _calibration(cut: LabelCut) -> Cells:
    calibration, agreement = cut.calibration, cut.options.agreement
    promise = "no agreement with people is guaranteed"
    if calibration is None:
        yield "calibration", "not calibrated: these labels have not been compared with human labels"
    else:
        fitted = f"temperature {calibration.temperature:.3g}, fitted on {calibration.n:,} pairs with human labels"
        yield "calibration", fitted
        for note in calibration.notes:
            yield "of those pairs", one_line(note).replace("|", "\\|")
        if agreement is not None:
            at = threshold(calibration, agreement)
            promise = (
                f"agreement with people of at least {at.target:.0%}, certified on {at.n:,} of {calibration.n:,} pairs "
                f"({at.errors:,} errors: at most {at.upper_bound:.1%} with probability {1 - calibration.delta:.0%}); "
                f"{calibration.promise}"
            )
    if not cut.options.best:
        yield "threshold", f"confidence {cut.filters.min_confidence:.4g} or more; {promise}"


def _biases(judged: Judged) -> Cells:
    if judged.mean_bias is not None:
        yield "position", f"mean bias {judged.mean_bias:+.2f} nats towards the first reply"
    if judged.flip_rate is not None:
        yield "order", f"{judged.flip_rate:.1%} of {judged.votes:,} votes flip with reply order"
    if judged.longer_share is not None:
        yield "length", f"the chosen reply is the longer one in {judged.longer_share:.1%} of {judged.uneven:,} pairs"


def left_out(cut: Cut) -> str:
    """How much came to nothing, at which stage and why."""
    facts = cut.facts
    lost = sum(count for (stage, _), count in facts.dropped.items() if stage not in cut.stages)
    unit = "prompts" if cut.judged is None else "pairs"
    text = f"{facts.rows + lost:,} {unit} were processed: {facts.rows:,} rows, {lost:,} dropped.\n"
    rows = [(code(stage), code(reason), f"{count:,}") for (stage, reason), count in sorted(facts.dropped.items())]
    if not rows:
        return text
    text += f"\n{table(('stage', 'reason', 'rows'), rows)}"
    if facts.dropped["dpo", "identical"]:
        text += "\nRows that stage `dpo` left out as `identical` are in `sft`.\n"
    if "kto" in cut.stages:
        text += "\nStage `pairs` counts pairs, left out of `dpo`; stage `kto` counts single replies.\n"
    return text


def loading(cut: Cut, load_from: str) -> str:
    """The lines of Python that load the files; load_from: a folder, or a name on the hub."""
    counts = cut.facts.files
    kinds = [kind for kind in cut.files if any(n for name, n in counts.items() if name.startswith(f"{kind}."))]
    if not kinds:
        return "There is nothing to load: every file is empty.\n"
    lines = ["from datasets import load_dataset", ""]
    lines += [f'{kind} = load_dataset("{load_from}", "{kind}")' for kind in kinds]
    return block("python", "\n".join(lines))


def commands(info: Info, cut: Cut) -> str:
    """The commands that made the run, if run.json has it, and its training rows."""
    lines = [shlex.join(["cai", "export", "RUN", *words(cut.options)])]
    if "command" in info:
        lines.insert(0, without_folders(shlex.split(info["command"])))
    return block("bash", "\n".join(lines)) + PLACES


def without_folders(line: Sequence[str]) -> str:
    """A command line in which files and models are named without the folders they were in."""
    return shlex.join(word if " " in word or "\n" in word else without_path(word) for word in line)


def words(options: ExportOptions) -> list[str]:
    """The command line options of what is not the default; files by what they are, and not by their path."""
    files = {"calibration": "calibration.json", "benign": "BENIGN"}
    line: list[str] = []
    for name, default in DEFAULTS.items():
        value = getattr(options, name)
        if value == default or name == "parquet":
            continue
        if value is False:
            line.append(f"--no-{name}")
        elif value is True:
            line.append(flag(name))
        else:
            line += [flag(name), files.get(name, str(value))]
    return line
