"""What plain TRL learns from sft.jsonl: the reply alone, unless the rows are asked for as messages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("trl")
pytest.importorskip("peft")
import datasets
import orjson
import tiny
import transformers
import trl
from stored_runs import make_run, revision
from trainings import said

from cai.errors import InputError
from cai.export.export import export_run
from cai.training.data.dataset import load_rows

pytestmark = pytest.mark.usefixtures("quiet_datasets")

CONVERSATIONS = {
    "one turn": said("user", "How do I pick a lock?"),
    "red team": said("user", "Hi") + said("assistant", "A harmful reply.") + said("user", "Go on."),
    "own system text": said("system", "Be brief.") + said("user", "Why?"),
    "lines": said("user", "First.\n\nSecond.\n"),
    "other script": said("user", "Почему небо синее?"),
}
REPLY = "The final revision.\n\nWith two paragraphs."


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A generate run over the conversations."""
    items = [
        revision(n, REPLY).model_copy(update={"prompt": tuple(turns)}) for n, turns in enumerate(CONVERSATIONS.values())
    ]
    return make_run(tmp_path / "run", items)


def cut(run: Path, **options: Any) -> list[dict[str, Any]]:
    export_run(run, **options)
    return [orjson.loads(line) for line in (run / "sft.jsonl").read_bytes().splitlines()]


def learnt_by_trl(rows: list[dict[str, Any]], base: Path, out: Path) -> list[str]:
    """The text of each row whose tokens have labels, as TRL's own trainer and its collator make them."""
    words = transformers.AutoTokenizer.from_pretrained(base)
    trainer = trl.SFTTrainer(
        model=str(base), processing_class=words, train_dataset=datasets.Dataset.from_list(rows),
        args=trl.SFTConfig(output_dir=str(out), use_cpu=True, bf16=False, report_to="none", max_length=None,
                           activation_checkpointing=False, per_device_train_batch_size=1, shuffle_dataset=False),
    )  # fmt: skip
    texts = []
    for row in trainer.train_dataset:
        batch = trainer.data_collator([row])
        assert batch["labels"].shape == batch["input_ids"].shape
        texts.append(words.decode(batch["labels"][batch["labels"] != -100]))
    return texts


def test_of_prompt_and_completion_trl_learns_the_reply_and_the_line_break_after_its_end(
    run: Path, tmp_path: Path
) -> None:
    base = tiny.model(tmp_path / "base")
    rows = cut(run)
    assert [[*row["prompt"]] for row in rows] == list(CONVERSATIONS.values())
    assert [row["completion"] for row in rows] == [said("assistant", REPLY)] * len(rows)
    assert learnt_by_trl(rows, base, tmp_path / "out") == [f"{REPLY}<|im_end|>\n"] * len(rows)


def test_of_messages_trl_learns_every_turn_and_the_system_text_of_the_template(run: Path, tmp_path: Path) -> None:
    base = tiny.model(tmp_path / "base")
    rows = cut(run, sft_format="messages")
    assert all("completion" not in row for row in rows)
    words = transformers.AutoTokenizer.from_pretrained(base)
    whole = [words.apply_chat_template(row["messages"], tokenize=False) for row in rows]
    assert learnt_by_trl(rows, base, tmp_path / "out") == whole
    assert "A harmful reply." in whole[1] and "You are tiny." in whole[0]


def test_from_both_forms_the_same_is_trained(run: Path) -> None:
    read = []
    for sft_format in ("completion", "messages"):
        rows = cut(run, sft_format=sft_format)
        assert [*rows[0]][-len(PROVENANCE) :] == PROVENANCE
        read.append(load_rows(run, "sft", split=1).train)
        assert len(read[-1]) == len(CONVERSATIONS)
    assert read[0] == read[1]


PROVENANCE = ["id", "round", "principles", "constitution", "constitution_hash", "model", "changed"]


def test_both_forms_are_written_to_parquet(run: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    for sft_format, columns in (("completion", ["prompt", "completion"]), ("messages", ["messages"])):
        rows = cut(run, sft_format=sft_format, parquet=True)
        table = parquet.read_table(run / "sft.parquet")
        assert table.column_names == [*columns, *PROVENANCE] and table.to_pylist() == rows


def test_the_form_is_remembered_and_the_card_says_what_trl_learns(run: Path) -> None:
    cut(run)
    assert "sft_format" not in (orjson.loads((run / "run.json").read_bytes()).get("export") or {})
    assert "learns the completion alone" in (run / "README.md").read_text()
    cut(run, sft_format="messages")
    assert orjson.loads((run / "run.json").read_bytes())["export"]["sft_format"] == "messages"
    card = (run / "README.md").read_text()
    assert "learns every turn" in card and "cai export RUN --sft-format messages" in card


def test_a_completion_is_a_row_of_sft_unless_it_has_a_label() -> None:
    rows: list[dict[str, Any]] = [
        {"prompt": turns, "completion": said("assistant", f"Reply {n}.")}
        for n, turns in enumerate(CONVERSATIONS.values())
    ]
    assert len(load_rows(rows, "sft", split=1).train) == len(rows)
    graded = [row | {"label": n % 2 > 0} for n, row in enumerate(rows)]
    assert {row.label for row in load_rows(graded, "kto", split=1).train} == {True, False}
    with pytest.raises(InputError, match="cai train sft"):
        load_rows(rows, "kto", split=1)
