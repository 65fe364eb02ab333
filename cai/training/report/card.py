"""Writes the model card of a training's folder, and its plots: how to use the model, what made it, and what came out.

Reads what the trainer left there (training.json, metrics.jsonl, samples.jsonl) and nothing else. The prose
is in `card.md.jinja`. Metrics have TRL's names, with `eval_` before those of evaluations.
"""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import orjson
import yaml

from cai.disk.writing import write_atomically
from cai.errors import MissingExtra
from cai.packages import need
from cai.records import Object, Values
from cai.texts.wording import AFTER, BEFORE, GREY, code, new_figure, png_of, render_card, without_path
from cai.training.data.dataset import SPLIT
from cai.training.report.samples import median_lengths, read_samples
from cai.training.report.summary import measures, metric_text
from cai.training.setup.config import dotted
from cai.training.setup.folder import METRICS, RECORD, TrainFolder, read_lines
from cai.training.setup.keys import TrainConfig
from cai.training.setup.methods import METHODS
from cai.training.setup.plan import Lengths

Lines = Sequence[Object]

TEMPLATE = Path(__file__).with_name("card.md.jinja")
DEFAULTS: Values = TrainConfig.model_validate({}).model_dump(mode="json")
EMBEDDED = "HuggingFaceTB/SmolLM2-135M-Instruct"  # what the weights of `local` were quantised from
LOSS, MARGINS, REPLIES = "loss.png", "margins.png", "replies.png"
# Share of the steps that a curve is the mean over, if it has more than FEW: a batch of a few rows is noise.
SMOOTHED, FEW = 0.05, 40
MOST_SHOWN = 600  # characters of a text among the samples; the file has them whole
LONGEST = 80  # characters of a setting in a table


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
    config, model = record["identity"]["config"], record["model"]
    base, hub = _base_and_hub(model)
    train_yaml = _train_yaml(config | record["settled"])
    settled = {setting["name"] for setting in record["plan"]}
    if config["full"]:
        settled |= set(dotted({"lora": config["lora"]}))
    unsettled = {name: value for name, value in dotted(config).items() if value is not None and name not in settled}
    source, method = record["data"]["files"][0]["source"], record["identity"]["method"]
    words = [
        method,
        source if source.startswith("hf:") else "DATA",
        "--model",
        model["spec"] if hub and "adapter" not in model else "MODEL",
        *(("--config", "train.yaml") if train_yaml else ()),
    ]
    evals = [line for line in read_lines(folder / METRICS) if "eval_loss" in line]
    evaluations = {line["step"]: line for line in (*evals[:1], *evals[-1:])}
    return render_card(
        TEMPLATE,
        _front(record, hub),
        **record,
        base=base,
        method=METHODS[method],
        command=shlex.join(["cai", "train", *words, "--out", "OUT"]),
        train_yaml=train_yaml,
        split=config["split"] or SPLIT,
        notes=_notes(record["data"]),
        unsettled=unsettled,
        defaults=dotted(DEFAULTS),
        setting_text=_setting_text,
        lengths=str(Lengths(**record["truncation"])),
        evaluations=list(evaluations.values()),
        metric_text=metric_text,
        measures=measures,
        images=[name for name in PLOTS if (folder / name).exists()],
        samples=[row for row in read_samples(folder) if row.after is not None],
        median_lengths=median_lengths,
        most_shown=MOST_SHOWN,
    )


def _base_and_hub(model: Object) -> tuple[str, str]:
    """What to call the base, and its name on the hub if it has one: the name of a folder would be another model's."""
    if model["spec"] == "local":
        return EMBEDDED, EMBEDDED
    hub = model["place"] if model["mark"].startswith(f"{model['place']}@") else ""
    return without_path(model["spec"]), hub


def _front(record: Object, hub: str) -> Values:
    """The values of the front matter."""
    name = record["identity"]["method"]
    full = record["identity"]["config"]["full"]
    sources = [file["source"] for file in record["data"]["files"]]
    front = {
        "library_name": "transformers" if full else "peft",
        "pipeline_tag": "text-classification" if METHODS[name].scores else "text-generation",
        "base_model": hub,
        "datasets": list(dict.fromkeys(source.split(":")[1] for source in sources if source.startswith("hf:"))),
        "tags": ["constitutional-ai", "rlaif", name, "full" if full else "lora", "trl", "cai-toolkit"],
    }
    return {key: value for key, value in front.items() if value}


def _notes(data: Object) -> list[str]:
    """The notes on the data, without the folder that it was in."""
    place = Path(data["files"][0]["source"])
    if not place.is_absolute():
        return list(data["notes"])
    return [note.replace(str(place.parent), "RUN") for note in data["notes"]]


def _setting_text(value: Any) -> str:
    if isinstance(value, float):
        return code(f"{value:g}")
    if not isinstance(value, str):
        return code(orjson.dumps(value).decode())
    if len(value) > LONGEST:  # a chat template
        return f"{len(value):,} characters, sha256 {code(hashlib.sha256(value.encode()).hexdigest()[:16])}"
    return code(value)


def _train_yaml(config: Object) -> str:
    """A config file of the settings that are not at their defaults; empty if all are."""
    settings = {
        name: config[name] for name in config if name in DEFAULTS and config[name] not in (None, DEFAULTS[name])
    }
    if not settings:
        return ""
    if "chat_template" in settings:
        settings["chat_template"] = "TEMPLATE.jinja"
    return yaml.safe_dump(settings, sort_keys=False, allow_unicode=True, width=1_000).rstrip()


# Plots


class _Curve(NamedTuple):
    metric: str
    label: str
    colour: str
    mark: str  # of its evaluations


REWARDS, SHARES, CHANGE = "reward", "pairs that chosen wins", "change, held-out"  # labels of axes
# Each image: its title, and the curves of each plot in it by the label of its axis. Of DPO and KTO the rewards are beta
# times the gain in log probability over the reference; of ORPO the log odds of a reply, of SimPO and CPO beta times its
# log probability. KTO has no pairs to share.
PLOTS: dict[str, tuple[str, dict[str, Sequence[_Curve]]]] = {
    LOSS: ("Loss", {"loss": (_Curve("loss", "loss", AFTER, "s"),)}),
    MARGINS: (
        "Chosen and rejected replies",
        {
            REWARDS: (
                _Curve("rewards/margins", "margin", AFTER, "s"),
                _Curve("rewards/chosen", "chosen", "#6a994e", "^"),
                _Curve("rewards/rejected", "rejected", BEFORE, "v"),
                _Curve("margin", "margin", AFTER, "s"),  # of a reward model
            ),
            SHARES: (
                _Curve("rewards/accuracies", "accuracy", AFTER, "s"),
                _Curve("accuracy", "accuracy", AFTER, "s"),
            ),
        },
    ),
    REPLIES: (
        "Rewards of the model's own replies",
        {
            REWARDS: (_Curve("reward", "reward", AFTER, "s"),),
            CHANGE: (_Curve("reward_change", "reward", AFTER, "s"), _Curve("watch_change", "watch", BEFORE, "v")),
            "nats": (_Curve("kl", "KL a token", AFTER, "s"), _Curve("entropy", "entropy", BEFORE, "v")),
            "tokens": (_Curve("completions/mean_length", "length", AFTER, "s"),),
            "share": (
                _Curve("frac_reward_zero_std", "groups without spread", GREY, "s"),
                _Curve("replies/boilerplate", "boilerplate", BEFORE, "v"),
                _Curve("replies/distinct_2", "distinct-2", AFTER, "^"),
            ),
        },
    ),
}


def write_plots(folder: Path, lines: Lines) -> None:
    """Draw into the folder what the lines of its metrics.jsonl hold.

    Raises MissingExtra without matplotlib, RunError if the folder cannot be written.
    """
    for name in PLOTS:
        figure = figure_of(name, lines)
        if figure is not None:
            write_atomically(folder / name, png_of(figure))


def figure_of(name: str, lines: Lines) -> Any:
    """An image of `PLOTS` as a matplotlib Figure, one plot over the other; None: the lines have none of its metrics."""
    title, plots = PLOTS[name]
    measured = {
        label: [c for c in curves if _points(lines, c.metric) or _points(lines, f"eval_{c.metric}")]
        for label, curves in plots.items()
    }
    labels = [label for label, curves in measured.items() if curves]
    if not labels:
        return None
    need("drawing the plots of a training", "plot", "matplotlib")
    figure, all_axes = new_figure(len(labels), height_ratios=(3, *[2] * len(labels))[: len(labels)])
    figure.suptitle(title)
    for axes, label in zip(all_axes, labels, strict=True):
        _draw(axes, lines, measured[label])
        axes.set_ylabel(label)
        if label in (REWARDS, CHANGE):
            axes.axhline(0, color=GREY, linewidth=1)
        if label == SHARES:
            axes.axhline(0.5, color=GREY, linewidth=1, linestyle="--")
            axes.set_ylim(-0.03, 1.03)
    all_axes[-1].set_xlabel("step")
    all_axes[-1].xaxis.get_major_locator().set_params(integer=True)
    return figure


def _points(lines: Lines, metric: str) -> list[tuple[int, float]]:
    """Steps and values of a metric that is a number; JSON has null for one that is not."""
    return [(line["step"], line[metric]) for line in lines if line.get(metric) is not None]


def _draw(axes: Any, lines: Lines, curves: Sequence[_Curve]) -> None:
    """Each curve as it was measured; of many steps that is thin, and the mean over the last ones is drawn."""
    for metric, label, colour, mark in curves:
        points, evaluations = _points(lines, metric), _points(lines, f"eval_{metric}")
        name, marker = label, None
        if len(points) > FEW:
            window = round(SMOOTHED * len(points))
            name = f"{label}, mean of {window} steps"
            axes.plot(*zip(*points, strict=True), color=colour, linewidth=0.5, alpha=0.35)
            points = _means(points, window)
        if len(points) == 1:  # which makes no line
            marker = "."
        if points:
            axes.plot(*zip(*points, strict=True), color=colour, linewidth=1.5, marker=marker, label=name)
        if evaluations:
            axes.plot(
                *zip(*evaluations, strict=True), color=colour, marker=mark, markersize=6, markeredgecolor="white",
                linewidth=1, linestyle=":", label=f"{label}, held out",
            )  # fmt: skip
    axes.legend(fontsize=8, frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=len(curves))


def _means(points: Sequence[tuple[int, float]], window: int) -> list[tuple[int, float]]:
    """For each step the mean over the last `window` steps."""
    ends = range(window, len(points) + 1)
    return [(points[end - 1][0], fmean(value for _, value in points[end - window : end])) for end in ends]
