"""The model card: everything in it is from the training's folder, and no text in it can speak for the card."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import orjson
import pytest
from pages import front_matter
from training_records import CONFIG, DATA, FOLDER, make, write_samples

from cai.training.report.card import MOST_SHOWN, card
from cai.training.report.samples import Sample
from cai.training.setup.config import load_config


def write_lines(path: Path, *lines: dict[str, Any]) -> None:
    path.write_bytes(b"".join(orjson.dumps(line) + b"\n" for line in lines))


def outside_blocks(text: str) -> str:
    """The card without front matter and code blocks, as Markdown reads it: a fence ends at one as long."""
    kept, fence = [], ""
    for line in text.split("\n---\n", 1)[1].split("\n"):
        ticks = re.match(r"`{3,}", line)
        if fence:
            fence = "" if re.fullmatch(rf"`{{{len(fence)},}} *", line) else fence
        elif ticks:
            fence = ticks[0]
        else:
            kept.append(line)
    assert not fence
    return "\n".join(kept)


# Front matter and use


def test_an_adapter_names_its_base_and_its_data_on_the_hub(tmp_path: Path) -> None:
    front = front_matter(card(make(tmp_path)))
    assert front == {
        "library_name": "peft",
        "pipeline_tag": "text-generation",
        "base_model": "org/base",
        "datasets": ["org/pairs"],
        "tags": ["constitutional-ai", "rlaif", "dpo", "lora", "trl", "cai-toolkit"],
    }


def test_no_licence_is_invented(tmp_path: Path) -> None:
    text = card(make(tmp_path))
    assert "license" not in front_matter(text)
    assert "licence of these weights follows from those of the base model and of the rows" in text


def test_all_weights_of_a_reward_model_are_of_transformers_and_classify(tmp_path: Path) -> None:
    text = card(make(tmp_path, "reward", {"full": True}, model=FOLDER, data=DATA | {"files": [
        {"source": "runs/b/reward.jsonl", "content": "x"}]}))  # fmt: skip
    front = front_matter(text)
    assert (front["library_name"], front["pipeline_tag"]) == ("transformers", "text-classification")
    assert "base_model" not in front and "datasets" not in front  # a folder here is no name there
    assert "--judge reward:THIS" in text and "cai chat" not in text and "cai merge" not in text
    assert "It holds the whole model." in text and "lora.rank" not in text


def test_the_embedded_model_is_named_by_its_origin(tmp_path: Path) -> None:
    text = card(make(tmp_path, model=FOLDER | {"spec": "local"}))
    assert front_matter(text)["base_model"] == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert "cai train dpo hf:org/pairs:default --model local " in text


def test_an_adapter_says_how_it_is_used_and_what_it_needs(tmp_path: Path) -> None:
    text = card(make(tmp_path, model=FOLDER | {"adapter": {"spec": "/home/me/models/sft", "mark": "cafe"}}))
    for words in ("cai chat THIS\n", "--model hf:THIS\n", "cai merge THIS --out MERGED\n"):
        assert words in text
    assert "(weights `0123456789ab`)" in text
    assert "continued that of the adapter `sft` (weights `cafe`)" in text
    assert "/home" not in text


# What it was trained on, and how


def test_the_data_is_described_with_its_run(tmp_path: Path) -> None:
    law = {"name": "kind", "version": "1.2.0", "hash": "c0ffee"}
    run = {
        "run": "0badcafe", "command": "label", "seed": 0, "constitution": law, "templates": "7e57", "judge": "local:j",
        "protocol": "score", "principles": 3, "rows": 90, "dropped": {}, "stopped": None, "calibration": None,
        "min_confidence": 0.7, "agreement": None,
    }  # fmt: skip
    text = card(make(tmp_path, run=run))
    assert "| constitution | `kind` `1.2.0`, hash `c0ffee` |" in text
    assert "| calibration | not calibrated: these labels have not been compared with human labels |" in text
    assert "| rows | 100 read: 80 train, 20 held out, 0 dropped |" in text


def test_every_setting_is_there_once_with_its_origin(tmp_path: Path) -> None:
    text = card(make(tmp_path, config={"epochs": 3.0, "seed": 7, "trl": {"weight_decay": 0.1}}))
    assert "1,234 steps in 75 s. 8 of 80 rows (10.0%) exceed 128 tokens" in text
    assert "| `learning_rate` | `5e-06` | default | dpo of a LoRA adapter |" in text
    assert "| `dtype` | `float32` | hardware | a CPU \\| of some kind |" in text
    assert "| `epochs` | `3` | given |  |" in text and "| `trl.weight_decay` | `0.1` | given |  |" in text
    assert "| `lora.alpha` | `32` | default |  |" in text
    names = re.findall(r"^\| `([\w.]+)` \|.*\| (?:default|given|data|hardware) \|", text, re.MULTILINE)
    assert len(names) == len(set(names)) > 10
    assert "Made with cai-toolkit from a checkout, trl 1.16.0, python 3.12.1." in text


def test_a_chat_template_is_told_by_its_hash(tmp_path: Path) -> None:
    text = card(make(tmp_path, config={"chat_template": "{{ messages }}" * 10}))
    assert "| `chat_template` | 140 characters, sha256 `" in text
    assert "{{ messages }}" not in text and "chat_template: TEMPLATE.jinja" in text


# What came out


def logp(step: int, name: str, now: tuple[float, float], before: tuple[float, float]) -> dict[str, Any]:
    names = ("logp_chosen", "logp_rejected", "ref_logp_chosen", "ref_logp_rejected")
    return {"step": step, "id": name, **dict(zip(names, (*now, *before), strict=True))}


def test_held_out_pairs_are_told_before_and_after_with_intervals(tmp_path: Path) -> None:
    text = card(make(tmp_path, evals=[logp(9, f"{n}", (-1, -2), (-2, -2 + (n < 3))) for n in range(4)]))
    assert "| chosen is the likelier reply, under the reference | 12.5% | 1.3% to 60.4% | 4 | 1 |" in text
    assert "| chosen is the likelier reply, at step 9 | 100.0% | 51.0% to 100.0% | 4 | 0 |" in text
    assert "| implicit reward prefers chosen (D > 0) | 100.0% |" in text
    assert "Mean margin D: +1.75 (+1.26 to +2.24) nats." in text
    assert "4 pairs turned to the chosen reply and 0 away from it (exact sign test: p 0.12)." in text


def test_without_a_reference_pairs_are_told_by_what_is_learnt(tmp_path: Path) -> None:
    lines = [
        {"step": step, "id": "a", "logp_chosen": -9.0, "logp_rejected": -4.0, "mean_logp_chosen": -3.0 + step,
         "mean_logp_rejected": -2.0}
        for step in (0, 2)
    ]  # fmt: skip
    text = card(make(tmp_path, "simpo", evals=lines))
    assert "| chosen has the higher log probability a token, at step 0 | 0.0% |" in text
    assert "| chosen has the higher log probability a token, at step 2 | 100.0% |" in text
    assert "Mean margin of the log probabilities: +1 nats a token." in text and "the reference" not in text
    summed = [{"step": 1, "id": "a", "logp_chosen": -3.0, "logp_rejected": -4.0}]
    assert "Mean margin of the log probabilities: +1 nats." in card(make(tmp_path, "cpo", evals=summed))


def test_a_reward_model_is_told_by_its_rewards(tmp_path: Path) -> None:
    evals = [
        {"step": 4, "id": "a", "reward_chosen": 1.5, "reward_rejected": None},
        {"step": 4, "id": "b", "reward_chosen": 1.5, "reward_rejected": 1.0},
    ]
    text = card(make(tmp_path, "reward", evals=evals))
    assert "| chosen gets the higher reward, at step 4 | 100.0% |" in text
    assert "Mean margin of the rewards: +0.5." in text and "turned to the chosen" not in text
    assert "Not counted, because a number is missing: 1 pair." in text


def test_evaluations_are_told_first_and_last(tmp_path: Path) -> None:
    make(tmp_path, "sft")
    held = [{"step": step, "eval_loss": 2.0 - step / 10, "eval_runtime": 9.0} for step in (0, 3, 6)]
    write_lines(tmp_path / "metrics.jsonl", *held, {"step": 6, "loss": 1.0})
    text = card(tmp_path)
    assert "| held out | at step 0 | at step 6 |" in text and "| `loss` | 2 | 1.4 |" in text
    assert "runtime" not in text
    write_lines(tmp_path / "metrics.jsonl", held[2] | {"eval_loss": None})
    assert "| held out | at step 6 |\n| --- | --- |\n| `loss` | not a number |\n" in card(tmp_path)


def test_without_held_out_rows_the_card_says_so(tmp_path: Path) -> None:
    assert "Nothing was held out, so nothing was measured." in card(make(tmp_path))


def test_images_are_shown_where_they_are(tmp_path: Path) -> None:
    make(tmp_path)
    assert "![" not in card(tmp_path)
    (tmp_path / "loss.png").write_bytes(b"")
    assert "](loss.png)" in card(tmp_path) and "margins.png" not in card(tmp_path)


# Samples


def sample(name: str, prompt: Any, before: str, after: str | None) -> Sample:
    return Sample(id=name, prompt=prompt, before=before, after=after, most_tokens=64)


def test_samples_stand_side_by_side_with_their_lengths(tmp_path: Path) -> None:
    make(tmp_path)
    turns = (
        {"role": "user", "content": "One?"},
        {"role": "assistant", "content": "1"},
        {"role": "user", "content": "2?"},
    )
    rows = [sample("q1", turns, "x" * 10, "y" * 4), sample("q2", "Once upon", "x" * 20, "")]
    write_samples(tmp_path, [*rows, sample("q3", "unfinished", "z", None)])
    text = card(tmp_path)
    assert "Replies to 2 held-out prompts: the most probable token each time, at most 64 tokens." in text
    assert "The median reply had 15 characters before and has 2 after." in text
    assert "```text\nuser: One?\n\nassistant: 1\n\nuser: 2?\n```" in text
    assert "Before:\n\n```text\nxxxxxxxxxx\n```\n\nAfter:\n\n```text\nyyyy\n```" in text and "unfinished" not in text
    write_samples(tmp_path, [sample("q3", "unfinished", "z", None)])
    assert "## Samples" not in card(tmp_path)


def test_of_long_texts_the_question_and_the_start_of_the_reply_are_shown(tmp_path: Path) -> None:
    make(tmp_path)
    long = "a" * MOST_SHOWN
    write_samples(tmp_path, [sample("q", f"START{long}END", f"FIRST{long}LAST", long)])
    text = card(tmp_path)
    assert "END\n" in text and "START" not in text and "FIRST" in text and "LAST" not in text
    assert text.count("[…]") == 2


HOSTILE = '---\nlicense: mit\n---\n# "Owned" `` | <b>[x](y)\r```\r\n~~~\n````\n\x1b[31m\u202e'


def test_hostile_text_cannot_leave_its_place(tmp_path: Path) -> None:
    data = DATA | {
        "files": [{"source": HOSTILE, "content": HOSTILE}], "dropped": {HOSTILE: 1}, "origins": {"judge": [HOSTILE]},
        "notes": [HOSTILE],
    }  # fmt: skip
    law = {"name": HOSTILE, "version": HOSTILE, "hash": HOSTILE}
    run = {
        "run": HOSTILE, "command": "label", "seed": 0, "constitution": law, "templates": HOSTILE, "judge": HOSTILE,
        "protocol": HOSTILE, "principles": 3, "rows": 1, "dropped": {HOSTILE: 1}, "stopped": HOSTILE,
        "calibration": {"sha256": HOSTILE, "content": None}, "min_confidence": 0.7, "agreement": None,
        "models": {"assistant": HOSTILE},
    }  # fmt: skip
    model = {"spec": HOSTILE, "place": HOSTILE, "mark": f"{HOSTILE}@{HOSTILE}"} | {
        "adapter": {"spec": HOSTILE, "mark": HOSTILE}
    }
    config = {"chat_template": HOSTILE, "trl": {"report_to": HOSTILE}}
    make(tmp_path, config=config, data=data, run=run, model=model)
    write_samples(tmp_path, [sample(HOSTILE, HOSTILE, HOSTILE, HOSTILE)])
    text = card(tmp_path)
    front, prose = front_matter(text), outside_blocks(text)
    assert "license" not in front and front["base_model"] == HOSTILE.replace("\u202e", "\ufffd")
    assert [line for line in prose.splitlines() if re.match(r"# |---|~~~|license|<", line)] == [
        line for line in prose.splitlines() if line.startswith("# Language model from")
    ]
    outside_code = re.sub(r"(?<!`)(`+)(?!`)(.+?)(?<!`)\1(?!`)", "", prose)
    assert "Owned" in prose and "Owned" not in outside_code
    assert not re.search("[\x1b\u202e\r]", text) and text.count('# "Owned" `` | <b>[x](y)\n') == 3  # of the sample
    text.encode("utf-8")
    for line in prose.splitlines():
        if line.startswith("| "):
            assert len(re.findall(r"(?<!\\)\|", line)) in (3, 5), line


# Again


def test_the_command_and_its_config_make_the_same_training(tmp_path: Path) -> None:
    config = {"epochs": 3.0, "lora": CONFIG["lora"] | {"rank": 8}, "loss": "cdpo", "trl": {"weight_decay": 0.1}}
    text = card(make(tmp_path, config=config))
    block = re.search(r"^```yaml\n(.*?)\n```$", text, re.DOTALL | re.MULTILINE)
    assert block
    (tmp_path / "train.yaml").write_text(block[1])
    again = load_config(tmp_path / "train.yaml").config.model_dump(mode="json")
    assert again == CONFIG | config | {"max_length": 128, "dtype": "float32"}
    command = re.search(r"^cai train .*$", text, re.MULTILINE)
    assert command
    assert shlex.split(command[0]) == [
        *("cai", "train", "dpo", "hf:org/pairs:default"),
        *("--model", "hf:org/base", "--config", "train.yaml", "--out", "OUT"),
    ]


def test_the_command_names_no_folder_of_the_machine(tmp_path: Path) -> None:
    files = [{"source": "/home/me/runs/a/sft.jsonl", "content": "x"}]
    text = card(make(tmp_path, "sft", model=FOLDER, data=DATA | {"files": files}, settled={}))
    assert "cai train sft DATA --model MODEL --out OUT\n" in text and "train.yaml" not in text
    assert "/home" not in text


@pytest.mark.parametrize("method", ["sft", "dpo", "kto", "reward"])
def test_every_method_has_its_card(tmp_path: Path, method: str) -> None:
    text = card(make(tmp_path, method))
    assert f", by `{method}`\n" in text and "Nobody has vouched for this model." in text
