"""What a model's folder says of its training, and which evaluators are independent of the labels in it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import orjson
import pytest
from label_runs import run as label_run
from label_runs import scorer

from cai.evaluation.arena.figures import Contestant
from cai.evaluation.arena.provenance import independence, stages_of, trained_of, with_training
from cai.folder.identity import identity_hash
from cai.training.provenance import provenance
from cai.training.train import train
from cai.weights.bases import mark_of

LAW = {"name": "kind", "version": "1.2.0", "hash": "c0ffee"}
OTHER_LAW = {"name": "brief", "version": "1.0.0", "hash": "beef"}
OLD = Path(__file__).resolve().parents[2] / "folders-0.1.0" / "train-finished"


def make(folder: Path, method: str = "dpo", **more: Any) -> Path:
    """A folder with the record of a training."""
    files = [{"source": "rows.jsonl", "content": ".jsonl 9 bytes sha256:aa"}]
    data = {"files": files, "held_back": "file", "origins": more.pop("origins", {})} | more.pop("data", {})
    record = {
        "schema": 1, "identity": {"method": method, "config": {"split": None}}, "finished": True, "seconds": 1.0,
        "model": {"spec": "local", "place": "/x", "mark": "00"}, "data": data, "run": None, **more,
    }  # fmt: skip
    folder.mkdir(parents=True)
    (folder / "training.json").write_bytes(orjson.dumps(record))
    return folder


def of_labels(judge: str, law: Any = LAW) -> dict[str, Any]:
    return {"run": "0badcafe", "command": "label", "judge": judge, "protocol": "logprob", "constitution": law}


def asked(judge: str, folders: list[Path], law: Any = LAW, bound: str | None = None) -> tuple[bool | None, str]:
    """The verdict on a judge for models in these folders, and a BASE that says nothing."""
    contestants = [Contestant(name="base", spec="local", base=True)]
    contestants += [Contestant(name=folder.name, spec=f"hf:{folder}") for folder in folders]
    return independence(judge, {"judge": bound or judge, "constitution": law}, with_training(contestants))


# What a folder says


def test_a_training_names_its_method_data_judge_and_constitution(tmp_path: Path) -> None:
    trained = trained_of(f"hf:{make(tmp_path / 'dpo', run=of_labels('openai:j'))}")
    assert trained is not None
    assert (trained["method"], trained["from"], trained["run"]) == ("dpo", "local", "0badcafe")
    assert trained["data"] == [{"source": "rows.jsonl", "content": ".jsonl 9 bytes sha256:aa"}]
    labels = {"judges": ["openai:j"], "constitutions": ["kind"], "hashes": ["c0ffee"], "writers": [], "known": True}
    assert trained["labels"] == labels


def test_rows_that_name_their_judge_say_as_much_as_their_run(tmp_path: Path) -> None:
    origins = {"judge": ["openai:j"], "constitution": ["kind"], "constitution_hash": ["c0ffee"]}
    trained = trained_of(str(make(tmp_path / "dpo", origins=origins)))
    assert trained is not None and trained["labels"]["hashes"] == ["c0ffee"] and trained["labels"]["known"]


@pytest.mark.parametrize("spec", ["openai:gpt", "hf:org/name", "local", "hf:/no/such/folder", "anthropic:x"])
def test_what_is_not_a_folder_says_nothing(spec: str) -> None:
    assert trained_of(spec) is None


def test_a_folder_without_a_record_says_nothing_and_a_damaged_one_what_is_wrong(tmp_path: Path) -> None:
    assert trained_of(str(tmp_path)) is None
    (tmp_path / "training.json").write_text("{")
    trained = trained_of(str(tmp_path))
    assert trained is not None and "cannot be read" in trained["problem"]


def test_a_record_of_the_first_version_is_read() -> None:
    trained = trained_of(f"hf:{OLD}")
    assert trained is not None and trained["method"] == "sft" and not trained["labels"]["known"]


def test_a_merged_model_and_its_gguf_file_say_what_the_adapter_said(tmp_path: Path) -> None:
    record = orjson.loads((make(tmp_path / "lora", run=of_labels("openai:j")) / "training.json").read_bytes())
    merged = tmp_path / "merged"
    merged.mkdir()
    facts = {"base": {}, "merged_from": {"folder": "lora", "mark": "x", "training": record}, "schema": 1}
    (merged / "merged.json").write_bytes(orjson.dumps(facts))
    (tmp_path / "merged.gguf").write_bytes(b"GGUF")
    for spec in (f"hf:{merged}", f"local:{tmp_path / 'merged.gguf'}"):
        trained = trained_of(spec)
        assert trained is not None and trained["labels"]["judges"] == ["openai:j"]


def test_the_trainings_below_are_followed_while_their_weights_are_there(tmp_path: Path) -> None:
    sft = make(tmp_path / "sft", "sft")
    (sft / "model.safetensors").write_bytes(b"weights")
    began = {"spec": str(sft), "place": str(sft), "mark": mark_of(sft)}
    dpo = make(tmp_path / "dpo", model=began)
    assert [stage["method"] for stage in stages_of(trained_of(str(dpo)))] == ["dpo", "sft"]
    (sft / "model.safetensors").write_bytes(b"other weights")
    assert [stage["method"] for stage in stages_of(trained_of(str(dpo)))] == ["dpo"]


# Independence


def test_the_judge_of_the_labels_is_not_independent(tmp_path: Path) -> None:
    verdict, why = asked("openai:j", [make(tmp_path / "dpo", run=of_labels("openai:j", OTHER_LAW))])
    assert verdict is False and why == "dpo was trained on labels of openai:j, which is the evaluator"


def test_the_constitution_of_the_labels_is_not_independent(tmp_path: Path) -> None:
    verdict, why = asked("openai:other", [make(tmp_path / "dpo", run=of_labels("openai:j"))])
    assert verdict is False and why == "dpo was trained on labels under kind, the evaluator's own constitution"


def test_a_constitution_of_the_same_name_and_another_hash_is_another(tmp_path: Path) -> None:
    law = LAW | {"hash": "dead"}
    assert asked("openai:other", [make(tmp_path / "dpo", run=of_labels("openai:j"))], law)[0] is True
    by_name = make(tmp_path / "rows", origins={"judge": ["openai:j"], "constitution": ["kind"]})
    assert asked("openai:other", [by_name], law)[0] is False  # the rows give no hash to tell them apart


def test_weights_are_told_by_their_mark_whatever_the_folder(tmp_path: Path) -> None:
    dpo = make(tmp_path / "dpo", run=of_labels("reward:rm@abc123", None))
    assert asked(f"reward:{tmp_path / 'moved'}", [dpo], bound="reward:moved@abc123")[0] is False


def test_another_judge_under_another_constitution_is_independent_and_says_what_that_rests_on(tmp_path: Path) -> None:
    verdict, why = asked("openai:other", [make(tmp_path / "dpo", run=of_labels("openai:j"))], OTHER_LAW)
    assert verdict is True
    assert why == "dpo was trained on labels of openai:j under kind; the evaluator is openai:other under brief 1.0.0"


def test_the_critic_and_reviser_of_a_generate_run_are_not_independent(tmp_path: Path) -> None:
    models = {"assistant": "openai:small", "critic": "openai:big", "reviser": "openai:big"}
    run = {"run": "0", "command": "generate", "models": models, "constitution": LAW}
    sft = make(tmp_path / "sft", "sft", run=run)
    assert asked("openai:big", [sft], OTHER_LAW)[0] is False
    assert asked("openai:small", [sft], OTHER_LAW)[0] is True
    assert asked("openai:small", [sft], LAW)[0] is False


def test_a_training_below_counts(tmp_path: Path) -> None:
    below = make(tmp_path / "first", run=of_labels("openai:j"))
    (below / "model.safetensors").write_bytes(b"weights")
    began = {"spec": str(below), "place": str(below), "mark": mark_of(below)}
    dpo = make(tmp_path / "dpo", run=of_labels("openai:k", OTHER_LAW), model=began)
    assert asked("openai:j", [dpo], {**LAW, "name": "x", "hash": "0"})[0] is False


@pytest.mark.parametrize(
    ("own", "verdict"),
    [
        ({"run": of_labels("openai:j", OTHER_LAW)}, False),  # the same judge
        ({"run": of_labels("openai:k", LAW)}, False),  # the same constitution
        ({"run": of_labels("openai:k", OTHER_LAW)}, True),
        ({}, None),  # nobody says who labelled its rows
    ],
)
def test_a_reward_model_is_judged_by_what_it_was_trained_on(
    tmp_path: Path, own: dict[str, Any], verdict: bool | None
) -> None:
    rows = {"files": [{"source": "others.jsonl", "content": ".jsonl 9 bytes sha256:bb"}]}
    rm = make(tmp_path / "rm", "reward", data=rows, **own)
    dpo = make(tmp_path / "dpo", run=of_labels("openai:j"))
    found, why = asked(f"reward:{rm}", [dpo], bound="reward:rm@1")
    assert found is verdict, why
    if verdict is None:
        assert "its folder does not say who labelled others.jsonl" in why


def test_a_reward_model_trained_on_the_same_rows_is_not_independent(tmp_path: Path) -> None:
    rm = make(tmp_path / "rm", "reward")
    verdict, why = asked(f"reward:{rm}", [make(tmp_path / "dpo")], bound="reward:rm@1")
    assert verdict is False and why == "dpo was trained on rows.jsonl, as the evaluator reward:rm@1 was"


def test_a_reward_model_that_is_told_principles_judges_under_a_constitution(tmp_path: Path) -> None:
    rows = {"files": [{"source": "others.jsonl", "content": ".jsonl 9 bytes sha256:bb"}]}
    rm = make(tmp_path / "rm", "reward", data=rows, run=of_labels("openai:k", OTHER_LAW))
    dpo = Contestant(name="dpo", spec=f"hf:{make(tmp_path / 'dpo', run=of_labels('openai:j'))}")
    for protocol, verdict in (("reward", True), ("conditioned", False)):
        binding = {"judge": "reward:rm@1", "protocol": protocol, "constitution": LAW}
        found, why = independence(f"reward:{rm}", binding, with_training([dpo]))
        assert found is verdict, why


def test_a_reward_model_without_a_record_is_not_known(tmp_path: Path) -> None:
    dpo = make(tmp_path / "dpo", run=of_labels("openai:j"))
    verdict, why = asked("reward:org/rm", [dpo], OTHER_LAW)
    assert verdict is None and "does not say what it was trained on" in why


def test_labels_of_a_reward_model_that_the_evaluator_taught_are_not_independent(tmp_path: Path) -> None:
    rm = make(tmp_path / "rm", "reward", run=of_labels("openai:j"))
    (rm / "model.safetensors").write_bytes(b"weights")
    judge = f"reward:rm@{mark_of(rm)}"
    labels = tmp_path / "labels"
    labels.mkdir()
    identity = {"command": "label", "binding": {"judge": judge}}
    info = {"format": 1, "identity": identity, "command": f"cai label x --judge reward:{rm} --out y"}
    (labels / "run.json").write_bytes(orjson.dumps(info))
    run = {"run": identity_hash(identity), "command": "label", "judge": judge, "protocol": "reward"}
    data = {"files": [{"source": str(labels / "dpo.jsonl"), "content": ".jsonl 1 bytes sha256:cc"}]}
    dpo = make(tmp_path / "dpo", run=run, data=data)
    verdict, why = asked("openai:j", [dpo], OTHER_LAW)
    assert verdict is False and "which was itself trained on labels of the evaluator openai:j" in why
    assert asked("openai:k", [dpo], OTHER_LAW)[0] is True
    shutil.rmtree(rm)
    verdict, why = asked("openai:k", [dpo], OTHER_LAW)
    assert verdict is None and "it is not known what reward:rm@" in why


def test_a_model_that_says_nothing_is_not_known_and_base_need_not_say(tmp_path: Path) -> None:
    known = make(tmp_path / "dpo", run=of_labels("openai:j"))
    silent = tmp_path / "silent"
    silent.mkdir()
    verdict, why = asked("openai:other", [known, silent], OTHER_LAW)
    assert verdict is None and why == "it is not known how silent was trained"
    assert asked("openai:other", [make(tmp_path / "file")], OTHER_LAW) == (
        None, "file: its folder does not say who labelled rows.jsonl"
    )  # fmt: skip


def test_what_is_known_to_be_the_same_outweighs_what_is_not_known(tmp_path: Path) -> None:
    silent = tmp_path / "silent"
    silent.mkdir()
    assert asked("openai:j", [silent, make(tmp_path / "dpo", run=of_labels("openai:j"))])[0] is False


def test_a_damaged_record_is_not_known(tmp_path: Path) -> None:
    (make(tmp_path / "dpo") / "training.json").write_text("[]")
    verdict, why = asked("openai:j", [tmp_path / "dpo"])
    assert verdict is None and "damaged" in why


@pytest.mark.parametrize(
    "change",
    [
        {"identity": []}, {"data": "x"}, {"data": {"files": [7]}}, {"data": {"files": 7}}, {"model": "local"},
        {"run": 3}, {"run": {"constitution": {"name": 1}, "judge": "j"}}, {"run": {"constitution": "kind"}},
        {"run": {"judge": 7}},
        {"data": {"origins": []}}, {"identity": {"config": []}},
    ],
)  # fmt: skip
def test_a_record_of_odd_content_is_never_a_crash(tmp_path: Path, change: dict[str, Any]) -> None:
    path = make(tmp_path / "dpo") / "training.json"
    path.write_bytes(orjson.dumps(orjson.loads(path.read_bytes()) | change))
    verdict, why = asked("openai:j", [tmp_path / "dpo"])
    assert verdict is None and why


# A real one


def test_a_model_trained_on_a_label_run_is_known_by_its_judge(base: Path, tmp_path: Path) -> None:
    pytest.importorskip("trl")
    pairs = [{"prompt": f"Question {n}?", "chosen": f"yes {n}", "rejected": f"no {n}"} for n in range(30)]
    labels = label_run(pairs, tmp_path / "labels", scorer(), min_confidence=0.5)
    flags = {"batch_size": 4, "dtype": "float32", "split": 0.8, "lora.rank": 2, "samples": 0}
    train("dpo", tmp_path / "labels", out=tmp_path / "dpo", model=str(base), flags=flags)
    facts = provenance(tmp_path / "labels")
    trained = trained_of(f"hf:{tmp_path / 'dpo'}")
    assert trained is not None and facts is not None and trained["run"] == facts["run"]
    binding = labels.judging.binding
    contestants = with_training([Contestant(name="dpo", spec=f"hf:{tmp_path / 'dpo'}")])
    assert independence("recorded:judge", binding, contestants)[0] is False
    others = {"judge": "openai:other", "constitution": OTHER_LAW}
    assert independence("openai:other", others, contestants)[0] is True
