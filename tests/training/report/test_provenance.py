"""Where the rows of a training come from: what is taken from a run folder, and how it is told."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import orjson
import pytest
from training_records import make

from cai.folder.files import identity_hash
from cai.judge.certify import Calibration, Threshold
from cai.training.report.card import card
from cai.training.report.provenance import provenance

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
    found = provenance(make_run(tmp_path / "run", LABEL))
    assert found == {
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
    told = words(tmp_path, found)
    assert told["run"] == f"cai label, `{identity_hash(LABEL)}`, seed 4"
    assert told["constitution"] == "`kind` `1.2.0`, hash `c0ffee`"
    assert told["judge"] == "`local:judge@abc`, protocol `score`, 3 principles a pair"
    assert told["calibration"] == "not calibrated: these labels have not been compared with human labels"
    assert told["confidence"] == "0.7 or more"
    assert told["rows of the run"] == "90 finished, dropped `truncated` 10"


def test_a_generate_run_names_its_models_and_that_nobody_judged(tmp_path: Path) -> None:
    told = words(tmp_path, provenance(make_run(tmp_path / "run", GENERATE, stopped="interrupted | by `me`")))
    assert (told["assistant"], told["critic"]) == ("`openai:small`", "`openai:big`")
    assert told["judge"].startswith("none: a revision is assumed to be better")
    assert told["unfinished"] == "`` interrupted \\| by `me` ``"
    assert "calibration" not in told and "confidence" not in told


def test_the_best_of_a_sample_run_name_who_picked_them(tmp_path: Path) -> None:
    picked = LABEL["binding"] | {"protocol": "reward", "constitution": None, "templates": None}  # type: ignore[operator]
    sample = {"command": "sample", "models": ["hf:one", "hf:two"], "templates": "ab", "n": 4, "seed": 1}
    told = words(tmp_path, provenance(make_run(tmp_path / "run", sample | {"best_of": picked})))
    assert told["judge"] == "`local:judge@abc`, protocol `reward`"
    assert told["assistant"] == "`hf:one`\n`hf:two`"
    assert "not calibrated" in told["calibration"] and "constitution" not in told
    assert told["templates"] == "hash `ab`"


@pytest.mark.parametrize("inside", [True, False])
def test_a_calibration_is_told_with_what_it_promises(tmp_path: Path, inside: bool) -> None:
    content = orjson.dumps(MADE.model_dump(mode="json"))
    origin = {"path": None, "sha256": hashlib.sha256(content).hexdigest()}
    given: Any = MADE.model_dump(mode="json")
    if not inside:
        given = str(tmp_path / "calibration.json")
        Path(given).write_bytes(content)
        origin["path"] = given
    export = {"calibration": given, "agreement": 0.8, "min_confidence": None}
    found = provenance(make_run(tmp_path / "run", LABEL, export=export, calibration=origin))
    assert found is not None
    assert found["calibration"] == {"sha256": origin["sha256"], "content": MADE.model_dump(mode="json")}
    assert found["min_confidence"] == 0.75
    assert words(tmp_path, found)["calibration"] == (
        "temperature 2, fitted on 200 pairs with human labels; agreement with people of at least 80%, certified on 100 "
        "of these pairs; holds for pairs drawn like the gold pairs"
    )


def test_a_calibration_file_that_changed_is_told_by_its_hash_alone(tmp_path: Path) -> None:
    path = tmp_path / "calibration.json"
    path.write_text("{}")
    export = {"calibration": str(path), "agreement": 0.8, "min_confidence": None}
    run = make_run(tmp_path / "run", LABEL, export=export, calibration={"path": str(path), "sha256": "beef"})
    found = provenance(run)
    assert found is not None
    assert (found["calibration"], found["min_confidence"]) == ({"sha256": "beef", "content": None}, None)
    assert words(tmp_path, found)["calibration"] == "unknown: its file (sha256 `beef`) has changed or is gone"
    assert "confidence" not in words(tmp_path, found)


def test_a_calibration_without_an_agreement_promises_none(tmp_path: Path) -> None:
    export = {"calibration": MADE.model_dump(mode="json"), "agreement": None, "min_confidence": 0.9}
    told = words(tmp_path, provenance(make_run(tmp_path / "run", LABEL, export=export, calibration={"sha256": "beef"})))
    assert told["calibration"].endswith("with human labels; no agreement with people is guaranteed")
    assert told["confidence"] == "0.9 or more"


def test_rows_of_a_file_are_told_by_what_they_name(tmp_path: Path) -> None:
    told = words(tmp_path, origins={"judge": ["local:/x/y@1", "b`c"], "chosen_model": ["m"]})
    assert (told["judge"], told["chosen model"]) == ("`local:y@1`, ``b`c``", "`m`")
    assert told["calibration"].startswith("unknown: the rows name a judge")
    assert words(tmp_path)["calibration"].startswith("unknown: the rows name no judge")


def test_beside_a_run_the_rows_say_only_who_wrote_the_replies(tmp_path: Path) -> None:
    origins = {"judge": ["other"], "constitution": ["kind@1"], "chosen_model": ["m"], "rejected_model": ["n"]}
    told = words(tmp_path, provenance(make_run(tmp_path / "run", LABEL)), origins=origins)
    assert (told["chosen model"], told["rejected model"]) == ("`m`", "`n`")
    assert "other" not in told["judge"] and told["constitution"] == "`kind` `1.2.0`, hash `c0ffee`"


@pytest.mark.parametrize(
    ("held_back", "rule"),
    [
        ("split", "each prompt with a chance of 5%, by its hash"),
        ("file", "rows of a separate file"),
        ("nothing", "nothing was eval"),
    ],
)
def test_counts_and_the_rule_of_what_was_held_out_are_told(tmp_path: Path, held_back: str, rule: str) -> None:
    told = words(tmp_path, held_back=held_back)
    assert told["rows"] == "100 read: 80 train, 15 held out, 5 dropped (`too_long` 5)"
    assert rule in told["held out"]


def test_no_folder_of_the_machine_is_told(tmp_path: Path) -> None:
    told = words(tmp_path, notes=["nobody judged these pairs: cai label /home/me/runs/b asks | twice"])
    assert told["file"] == "`dpo.jsonl`, content `.jsonl 9 bytes`"
    assert told["note"] == "`nobody judged these pairs: cai label RUN asks \\| twice`"
