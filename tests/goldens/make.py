"""Makes the golden outputs with the code at hand: python tests/goldens/make.py FOLDER

Every command and function runs on the inputs beside this file, against the server of `steady.py`. What is written is
what must stay the same, see `kept.py`; tests/test_goldens.py holds it against tests/goldens/0.1.0. All that is there is
what 0.1.0 made, but for runs with the gate, whose question is another one since; for a judge's question about a text
with a label of another family in it ("Human:"), which is quoted since; for a pair whose id is a number, which is an id
since; and for what is cut from those.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import orjson

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from kept import INPUTS, contents, in_order, lasting, lines, rows, run, training_files
from steady import WORDS, number, sentences, steady, worth

import cai

LAW = "inputs/law.yaml"
WRITER = ("--model", "openai:writer")
JUDGE = ("--judge", "openai:judge", "-c", LAW)
REPLAYABLE = ("--no-gate", "--temperature", "0.5", "--max-tokens", "99")  # of a run whose calls answer another run
CUT_STAGES = ("sft", "dpo", "pairs", "kto")
TEXTS = ("prompt", "chosen", "rejected", "completion")
OF_RUN = (*TEXTS, "constitution", "constitution_hash", "judge", "protocol", "schema", "position")
RECUTS: dict[str, dict[str, Any]] = {  # folder and options of an export, by name
    "generate-split": {"run": "generate", "split": 0.5},
    "generate-all-rounds": {"run": "generate", "rounds_kept": "all"},
    "generate-no-hygiene": {"run": "generate", "hygiene": False},
    "label-split": {"run": "label-sample", "split": 0.6},
    "label-min-confidence": {"run": "label-sample", "min_confidence": 0.95},
    "label-best-worst": {"run": "label-sample", "pairing": "best-worst", "min_confidence": 0.5},
    "label-final": {"run": "label-generate", "pairing": "final", "min_confidence": 0.5},
    "label-order-flip": {"run": "label-sample", "order_flip": True, "min_confidence": 0.5},
    "label-max-length-ratio": {"run": "label-sample", "max_length_ratio": 1.5},
    "label-benign": {"run": "label-sample", "benign": "inputs/benign.txt", "min_confidence": 0.5, "hygiene": False},
    "label-dead-zone": {"run": "label-sample", "dead_zone": 0.8},
    "label-target": {"run": "label-sample", "target": 3},
    "label-no-hygiene": {"run": "label-sample", "hygiene": False},
    "gold-calibration": {"run": "label-gold", "calibration": "label-gold/calibration.json", "agreement": 0.75},
    "vote-default": {"run": "label-vote"},
}


def main() -> None:
    """Write the golden outputs into the folder that is named."""
    out = Path(sys.argv[1])
    with TemporaryDirectory() as work:
        files = make(Path(work))
    for name, content in files.items():
        path = out / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def make(work: Path) -> dict[str, bytes]:
    """All golden outputs by file name; `work` is an empty folder to work in."""
    write_inputs(work)
    with steady() as server:
        files = make_runs(work, server.url)
        files |= make_recorded(work)
        files |= make_reports(work, server.url)
    for name, options in RECUTS.items():
        files |= recut(work, name, **options)
    return files


# Inputs


def write_inputs(work: Path) -> None:
    """The inputs beside this file, and those that a rule makes."""
    shutil.copytree(INPUTS, work / "inputs", ignore=shutil.ignore_patterns("tiny"))
    (work / "inputs" / "gold.jsonl").write_bytes(lines(gold_pairs(60)))
    (work / "inputs" / "pairs.jsonl").write_bytes(lines([*gold_pairs(6), *BAD_PAIRS]))
    (work / "inputs" / "letters.jsonl").write_bytes(lines(recorded_letters(6)))
    (work / "inputs" / "scores.jsonl").write_bytes(lines(recorded_scores(6)))


def gold_pairs(count: int) -> list[dict[str, Any]]:
    """Pairs whose chosen reply is mostly the one that is worth more."""
    pairs = []
    for place in range(count):
        replies = sorted((sentences(number("gold", place, side), 12) for side in range(2)), key=worth)
        if place % 10 == 3:
            replies.reverse()
        prompt = f"Question {place} about {WORDS[place % len(WORDS)]}?"
        pairs.append({"id": f"g{place}", "prompt": prompt, "chosen": replies[1], "rejected": replies[0]})
    return pairs


BAD_PAIRS: list[dict[str, Any]] = [
    {"id": "same", "prompt": "Alike?", "chosen": "Yes.", "rejected": "Yes. "},
    {"id": "empty", "prompt": "Empty?", "chosen": "Yes.", "rejected": ""},
    {"id": "g0", "prompt": "The id of another?", "chosen": "Yes.", "rejected": "No."},
    {**gold_pairs(1)[0], "id": "again"},
    {"id": "none", "prompt": "No pair?"},
    {"id": "unreadable", "prompt": "Unreadable? [unreadable judge]", "chosen": "Yes.", "rejected": "No."},
    {"id": "refused", "prompt": "Refused? [refused judge]", "chosen": "Yes.", "rejected": "No."},
    {"id": "filtered", "prompt": "Filtered? [filtered judge]", "chosen": "Yes.", "rejected": "No."},
    {"id": "outputs", "input": "Two outputs?", "output_1": "One.", "output_2": "Two.", "label": 2},
]  # fmt: skip


def recorded_letters(count: int) -> list[dict[str, Any]]:
    """Recorded answers of a judge with log probabilities: two principles in both orders."""
    answers = []
    for place in range(count):
        for index in range(4):
            first = -0.1 - number("letter", place, index) % 200 / 100
            listed = {" A": first, " B": -1.5, "A": -9.0}
            answer = {"id": f"g{place}", "role": "judge", "index": index, "reply": " A", "logprobs": [listed]}
            answers.append(answer)
    return answers


def recorded_scores(count: int) -> list[dict[str, Any]]:
    """The same with the scores of both letters."""
    answers = []
    for answer in recorded_letters(count):
        [listed] = answer.pop("logprobs")
        answers.append({**answer, "scores": [listed[" A"], listed[" B"]]})
    return answers


# Runs


def make_runs(work: Path, url: str) -> dict[str, bytes]:
    """One run of every command and protocol."""
    v1 = url + "/v1"
    prompts = "inputs/prompts.jsonl"
    files: dict[str, bytes] = {}

    def keep(name: str, *words: str, server: str = v1) -> None:
        run(*words, "--out", name, folder=work, server=server)
        files.update({f"{name}/{file}": content for file, content in contents(work / name).items()})

    keep("generate", "generate", prompts, "-c", LAW, *WRITER, "--price", "1,2")
    seeds = ("--seed", "5", "--rounds", "1", "--limit", "3", "--system", "Be kind.")
    more = ("--no-gate", "--temperature", "0.5", "--max-tokens", "99", "--extra-body", '{"top_p": 0.9}')
    keep("generate-other", "generate", prompts, "-c", LAW, *WRITER, *seeds, *more, "--critic", "openai:critic")
    keep("generate-fewshot", "generate", prompts, "-c", "harmless", *WRITER, "--templates", "fewshot", "--limit", "3")
    claude = ("--model", "anthropic:claude-haiku-4-5")
    keep("generate-anthropic", "generate", prompts, "-c", LAW, *claude, "--limit", "3", server=url)
    keep("generate-one", "generate", prompts, "-c", LAW, *WRITER, "--limit", "1", *REPLAYABLE)
    keep("sample", "sample", prompts, *WRITER, "-n", "3")
    keep("sample-two", "sample", prompts, *WRITER, "--model", "openai:other", "-n", "1", "--limit", "3")
    keep("sample-few", "sample", prompts, *WRITER, "--limit", "3")
    keep("label-generate", "label", "generate", *JUDGE)
    keep("label-sample", "label", "sample", *JUDGE, "-k", "2", "--min-confidence", "0.6")
    keep("label-pairs", "label", "inputs/pairs.jsonl", *JUDGE, "-k", "2", "--seed", "3")
    keep("label-vote", "label", "inputs/pairs.jsonl", *JUDGE, "--protocol", "vote", "-k", "2")
    target = ("--target", "30", "--max-candidates", "4")  # more than there can be: which come first is not settled
    keep("label-target", "label", "sample-few", *JUDGE, *target)
    reason = ("--protocol", "reason", "--min-confidence", "0.55", "--limit", "4")
    keep("label-reason", "label", "inputs/pairs.jsonl", *JUDGE, "-k", "1", *reason)
    gold = ("--gold", "inputs/gold.jsonl", "--agreement", "0.75", "-k", "1")
    keep("label-gold", "label", "inputs/pairs.jsonl", *JUDGE, *gold)
    gold_run = contents(work / "label-gold" / "gold")
    return files | {f"label-gold/gold/{file}": content for file, content in gold_run.items()}


def make_recorded(work: Path) -> dict[str, bytes]:
    """Runs on recorded answers, and on the calls of an earlier run."""
    files: dict[str, bytes] = {}

    def keep(name: str, *words: str) -> None:
        run(*words, "--out", name, folder=work)
        files.update({f"{name}/{file}": content for file, content in contents(work / name).items()})

    pairs = ("label", "inputs/pairs.jsonl", "-c", LAW, "-k", "2", "--limit", "6")
    keep("recorded-letters", *pairs, "--judge", "recorded:inputs/letters.jsonl", "--protocol", "logprob")
    keep("recorded-scores", *pairs, "--judge", "recorded:inputs/scores.jsonl", "--protocol", "score")
    replayed = ("--model", "recorded:generate-one", "--limit", "1", *REPLAYABLE)
    keep("replayed", "generate", "inputs/prompts.jsonl", "-c", LAW, *replayed)
    return files


# Cuts and reports


def recut(work: Path, name: str, run: str, **options: Any) -> dict[str, bytes]:
    """The training rows of an export, what it left out, and how many rows each file has."""
    paths = {key: str(work / options[key]) for key in ("benign", "calibration") if key in options}
    summary = cai.export_run(work / run, **options | paths)
    files = {file: lines([_of_cut(row) for row in rows(work / run / file)]) for file in training_files(work / run)}
    left_out = [row for row in in_order(work / run / "dropped.jsonl") if row["stage"] in CUT_STAGES]
    files["dropped.jsonl"] = lines([_of_cut(row) for row in left_out])
    counts = {file: count for file, count in summary.files.items() if not file.startswith("reward")}
    files["counts.json"] = lines([counts])
    return {f"cuts/{name}/{file}": content for file, content in files.items()}


def _of_cut(row: dict[str, Any]) -> dict[str, Any]:
    """A row without what is in the rows of its run."""
    return {name: value for name, value in row.items() if name not in OF_RUN}


def make_reports(work: Path, url: str) -> dict[str, bytes]:
    """What the commands print that look at data and judges."""
    v1 = url + "/v1"
    reports: dict[str, Callable[[], str]] = {
        "audit-dpo": lambda: run("audit", "generate/dpo.jsonl", "--json", "--rows", "audit-rows.jsonl", folder=work),
        "audit-against": lambda: run("audit", "sample", "--json", "--against", "inputs/prompts.jsonl", folder=work),
        "calibrate": lambda: run("judge", "calibrate", "label-gold/gold", "--json", folder=work),
        "bench": lambda: run(
            "judge", "bench", "--gold", "inputs/gold.jsonl", "--judge", "openai:judge", "-c", LAW,
            "-k", "1", "--protocol", "logprob", "--protocol", "vote", "--out", "bench", "--json",
            folder=work, server=v1,
        ),
        "check": lambda: run("constitution", "check", LAW, "--json", folder=work),
        "test": lambda: run(
            "constitution", "test", LAW, "--judge", "openai:judge", "--out", "test", "--json",
            folder=work, server=v1, status=1,
        ),
        "ablate": lambda: run("constitution", "ablate", "label-sample", "--json", folder=work),
    }  # fmt: skip
    files = {f"reports/{name}.json": report() for name, report in reports.items()}
    kept = {name: orjson.dumps(lasting(orjson.loads(text)), option=orjson.OPT_INDENT_2) for name, text in files.items()}
    return kept | {"reports/audit-rows.jsonl": lines(rows(work / "audit-rows.jsonl"))}


if __name__ == "__main__":
    main()
