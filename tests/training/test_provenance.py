"""Where the rows of a training come from: what is taken from a run folder, and what a card says of it."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import orjson
import pytest
from training_records import make

from cai.folder.identity import identity_hash
from cai.judge.certify import Calibration, Threshold
from cai.training.provenance import provenance
from cai.training.report.card import card

LAW = {"name": "kind", "version": "1.2.0", "hash": "c0ffee"}
LABEL = {
    "command": "label",
    "source": {"command": "sample", "run": "0badcafe", "n": 2},
    "pairing": "all",
    "binding": {
        "judge": "local:/home/me/judge@abc",
        "protocol": "score",
        "templates": "7e57",
        "constitution": LAW,
        "principles": 3,
    },
    "seed": 4,
}
GENERATE = {
    "command": "generate",
    "source": {"what": "hf:org/prompts", "format": None, "field": None},
    "constitution": LAW,
    "templates": "7e57",
    "models": {"assistant": "openai:small", "critic": "openai:big", "reviser": "openai:big"},
    "rounds": 2,
    "seed": 0,
}
AT = Threshold(target=0.8, confidence=0.9, calibrated=0.75, coverage=0.5, upper_bound=0.19, n=100, errors=12)
MADE = Calibration(binding=None, n=200, temperature=2.0, delta=0.1, thresholds={"0.8": AT}, before=None, after=None)


def make_run(folder: Path, identity: Any, **more: Any) -> Path:
    info = {
        "format": 1, "identity": identity, "versions": {"cai": "0.1.0", "python": "3.12"}, "rows": 90,
        "dropped": {"truncated": 10}, "stopped": None, "usage": {"calls": 5}, **more,
    }  # fmt: skip
    folder.mkdir()
    (folder / "run.json").write_bytes(orjson.dumps(info))
    return folder


def words(folder: Path, run: Any = None, **more: Any) -> dict[str, str]:
    """What a card says of a training's data with this run, by name; several lines of one name as one text."""
    data = {
        "files": [{"source": "/home/me/runs/b/dpo.jsonl", "content": ".jsonl 9 bytes"}], "read": 100, "train": 80,
        "eval": 15, "dropped": {"too_long": 5}, "held_back": "split", "origins": {}, "notes": [],
    } | more  # fmt: skip
    text = card(make(folder / "training", data=data, run=run))
    table = text.partition("## What it was trained on\n\n| what | which |\n| --- | --- |\n")[2].partition("\n\n")[0]
    facts: dict[str, str] = {}
    for line in table.splitlines():
        name, words = line.removeprefix("| ").removesuffix(" |").split(" | ", 1)
        facts[name] = f"{facts[name]}\n{words}" if name in facts else words
    return facts


def test_a_label_run_names_judge_constitution_and_source(tmp_path: Path) -> None:
    facts = provenance(make_run(tmp_path / "run", LABEL))
    assert facts == {
        "run": identity_hash(LABEL),
        "command": "label",
        "source": LABEL["source"],
        "pairing": "all",
        "seed": 4,
        **LABEL["binding"],  # type: ignore[dict-item]
        "rows": 90,
        "dropped": {"truncated": 10},
        "stopped": None,
        "versions": {"cai": "0.1.0", "python": "3.12"},
        "calibration": None,
        "min_confidence": 0.7,
        "agreement": None,
    }
    table = words(tmp_path, facts)
    assert table["run"] == f"cai label, `{identity_hash(LABEL)}`, seed 4"
    assert table["constitution"] == "`kind` `1.2.0`, hash `c0ffee`"
    assert table["judge"] == "`local:judge@abc`, protocol `score`, 3 principles a pair"
    assert table["calibration"] == "not calibrated: these labels have not been compared with human labels"
    assert table["confidence"] == "0.7 or more"
    assert table["rows of the run"] == "90 finished, dropped `truncated` 10"


def test_a_generate_run_names_its_models_and_that_nobody_judged(tmp_path: Path) -> None:
    table = words(tmp_path, provenance(make_run(tmp_path / "run", GENERATE, stopped="interrupted | by `me`")))
    assert (table["assistant"], table["critic"]) == ("`openai:small`", "`openai:big`")
    assert table["judge"].startswith("none: a revision is assumed to be better")
    assert table["unfinished"] == "`` interrupted \\| by `me` ``"
    assert "calibration" not in table and "confidence" not in table


@pytest.mark.parametrize("protocol", ["logprob", "decide", "vote", "score", "reward"])
def test_a_generate_run_whose_revisions_were_accepted_names_who_judged(tmp_path: Path, protocol: str) -> None:
    models = {"assistant": "openai:small", "critic": "openai:big", "accept": "openai:other"}
    identity = GENERATE | {"models": models, "accept": {"protocol": protocol, "at": 0.5}}
    table = words(tmp_path, provenance(make_run(tmp_path / "run", identity)))
    under = "" if protocol == "reward" else ", 2 principles a pair"
    assert table["judge"] == f"`openai:other`, protocol `{protocol}`{under}"
    assert table["calibration"].startswith("not calibrated")


def test_the_best_of_a_sample_run_name_who_picked_them(tmp_path: Path) -> None:
    picked = LABEL["binding"] | {"protocol": "reward", "constitution": None, "templates": None}  # type: ignore[operator]
    sample = {"command": "sample", "models": ["hf:one", "hf:two"], "templates": "ab", "n": 4, "seed": 1}
    table = words(tmp_path, provenance(make_run(tmp_path / "run", sample | {"best_of": picked})))
    assert table["judge"] == "`local:judge@abc`, protocol `reward`"
    assert table["assistant"] == "`hf:one`\n`hf:two`"
    assert "not calibrated" in table["calibration"] and "constitution" not in table
    assert table["templates"] == "hash `ab`"


def test_the_best_of_a_sample_run_name_the_judge_of_its_labels(tmp_path: Path) -> None:
    sample = {"command": "sample", "models": ["hf:one"], "source": "prompts", "n": 4, "seed": 1}
    labels = {"binding": LABEL["binding"], "stopped": "Ctrl-C"}
    run = make_run(tmp_path / "run", sample, export={"best": True}, labels=labels)
    make_run(run / "labels", LABEL | {"binding": {"judge": "another, after the cut"}})
    facts = provenance(run)
    assert facts is not None
    assert facts.items() >= LABEL["binding"].items()  # type: ignore[attr-defined]
    assert facts["run"] == identity_hash(sample) and facts["source"] == "prompts"
    assert (facts["calibration"], facts["min_confidence"], facts["stopped"]) == (None, None, "Ctrl-C")
    table = words(tmp_path, facts)
    assert table["judge"] == "`local:judge@abc`, protocol `score`, 3 principles a pair"
    assert table["constitution"] == "`kind` `1.2.0`, hash `c0ffee`"
    assert table["calibration"].startswith("not calibrated")
    assert table["assistant"] == "`hf:one`"
    assert "confidence" not in table


def test_the_best_of_a_label_run_needed_no_confidence(tmp_path: Path) -> None:
    best = provenance(make_run(tmp_path / "run", LABEL, export={"best": True}))
    assert best is not None and best["min_confidence"] is None


@pytest.mark.parametrize("inside", [True, False])
def test_a_calibration_is_told_with_what_it_promises(tmp_path: Path, inside: bool) -> None:
    content = orjson.dumps(MADE.model_dump(mode="json"))
    origin = {"path": None, "sha256": hashlib.sha256(content).hexdigest()}
    calibration: Any = MADE.model_dump(mode="json")
    if not inside:
        calibration = str(tmp_path / "calibration.json")
        Path(calibration).write_bytes(content)
        origin["path"] = calibration
    export = {"calibration": calibration, "agreement": 0.8, "min_confidence": None}
    facts = provenance(make_run(tmp_path / "run", LABEL, export=export, calibration=origin))
    assert facts is not None
    assert facts["calibration"] == {"sha256": origin["sha256"], "content": MADE.model_dump(mode="json")}
    assert facts["min_confidence"] == 0.75
    assert words(tmp_path, facts)["calibration"] == (
        "temperature 2, fitted on 200 pairs with human labels; agreement with people of at least 80%, certified on 100 "
        "of these pairs; holds for pairs drawn like the gold pairs"
    )


def test_a_calibration_file_that_changed_is_told_by_its_hash_alone(tmp_path: Path) -> None:
    path = tmp_path / "calibration.json"
    path.write_text("{}")
    export = {"calibration": str(path), "agreement": 0.8, "min_confidence": None}
    run = make_run(tmp_path / "run", LABEL, export=export, calibration={"path": str(path), "sha256": "beef"})
    facts = provenance(run)
    assert facts is not None
    assert (facts["calibration"], facts["min_confidence"]) == ({"sha256": "beef", "content": None}, None)
    assert words(tmp_path, facts)["calibration"] == "unknown: its file (sha256 `beef`) has changed or is gone"
    assert "confidence" not in words(tmp_path, facts)


def test_a_calibration_without_an_agreement_promises_none(tmp_path: Path) -> None:
    export = {"calibration": MADE.model_dump(mode="json"), "agreement": None, "min_confidence": 0.9}
    table = words(
        tmp_path, provenance(make_run(tmp_path / "run", LABEL, export=export, calibration={"sha256": "beef"}))
    )
    assert table["calibration"].endswith("with human labels; no agreement with people is guaranteed")
    assert table["confidence"] == "0.9 or more"


def test_rows_of_a_file_are_told_by_what_they_name(tmp_path: Path) -> None:
    table = words(tmp_path, origins={"judge": ["local:/x/y@1", "b`c"], "chosen_model": ["m"]})
    assert (table["judge"], table["chosen model"]) == ("`local:y@1`, ``b`c``", "`m`")
    assert table["calibration"].startswith("unknown: the rows name a judge")
    assert words(tmp_path)["calibration"].startswith("unknown: the rows name no judge")


def test_beside_a_run_the_rows_say_only_who_wrote_the_replies(tmp_path: Path) -> None:
    origins = {"judge": ["other"], "constitution": ["kind@1"], "chosen_model": ["m"], "rejected_model": ["n"]}
    table = words(tmp_path, provenance(make_run(tmp_path / "run", LABEL)), origins=origins)
    assert (table["chosen model"], table["rejected model"]) == ("`m`", "`n`")
    assert "other" not in table["judge"] and table["constitution"] == "`kind` `1.2.0`, hash `c0ffee`"


@pytest.mark.parametrize(
    ("held_back", "rule"),
    [
        ("split", "each prompt with a chance of 5%, by its hash"),
        ("file", "rows of a separate file"),
        ("nothing", "nothing was eval"),
    ],
)
def test_counts_and_the_rule_of_what_was_held_out_are_told(tmp_path: Path, held_back: str, rule: str) -> None:
    table = words(tmp_path, held_back=held_back)
    assert table["rows"] == "100 read: 80 train, 15 held out, 5 dropped (`too_long` 5)"
    assert rule in table["held out"]


def test_no_folder_of_the_machine_is_told(tmp_path: Path) -> None:
    table = words(tmp_path, notes=["nobody judged these pairs: cai label /home/me/runs/b asks | twice"])
    assert table["file"] == "`dpo.jsonl`, content `.jsonl 9 bytes`"
    assert table["note"] == "`nobody judged these pairs: cai label RUN asks \\| twice`"
