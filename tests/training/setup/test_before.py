"""The trainings that led to a model, and the note on a base model that is trained by preferences at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest

pytest.importorskip("trl")
pytest.importorskip("peft")
import tiny
from trainings import chats, graded, pairs, record, train

from cai.training.setup.before import folder_of, trainings_of
from cai.training.setup.opening import lacks_sft
from cai.weights.bases import find_base, mark_of
from cai.weights.loading import load_tokenizer

FLAGS = {"split": 0.8, "batch_size": 4, "dtype": "float32", "lora.rank": 2, "samples": 0, "max_length": 128}
PLAIN = [{"prompt": f"Question {n}?", "chosen": f" Yes {n}.", "rejected": f" No {n}."} for n in range(12)]


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model whose tokenizer has no chat template."""
    return tiny.model(tmp_path_factory.mktemp("models") / "bare", template=None)


@pytest.fixture
def template(tmp_path: Path) -> Path:
    path = tmp_path / "chat.jinja"
    path.write_text(tiny.CHATML)
    return path


def notes(method: str, data: Any, model: Path, out: Path, **flags: Any) -> list[str]:
    """What a training notes on the model."""
    told: list[str] = []
    made = train(method, data, out=out, model=str(model), flags=FLAGS | flags, tell=told.append)
    found = [note for note in made.notes if "without SFT" in note]
    assert [f"note: {note}" for note in found] == [line for line in told if "without SFT" in line]
    assert all(note in record(out)["summary"]["notes"] for note in found)
    return found


# Real trainings


@pytest.mark.parametrize(
    ("method", "rows", "noted"), [("dpo", pairs(12), True), ("kto", graded(12), False), ("sft", chats(12), False)]
)
def test_a_base_model_is_noted_by_the_method_that_needs_sft_first(
    bare: Path, template: Path, tmp_path: Path, method: str, rows: Any, noted: bool
) -> None:
    found = notes(method, rows, bare, tmp_path / "out", chat_template=str(template))
    assert bool(found) is noted
    if noted:
        assert found[0].startswith(f"{bare} looks like a base model without SFT (its tokenizer has no chat template):")
        assert "cai train sft" in found[0] and "\n" not in found[0]


def test_plain_text_on_a_base_model_is_noted_too(bare: Path, tmp_path: Path) -> None:
    assert len(notes("dpo", PLAIN, bare, tmp_path / "out")) == 1


def test_a_model_with_a_template_is_not_noted(base: Path, tmp_path: Path) -> None:
    assert notes("dpo", pairs(12), base, tmp_path / "out") == []


def test_after_sft_nothing_is_noted_and_after_dpo_alone_it_is(bare: Path, template: Path, tmp_path: Path) -> None:
    notes("sft", chats(12), bare, tmp_path / "sft", chat_template=str(template))
    taught = {name: value for name, value in FLAGS.items() if not name.startswith("lora.")}
    told: list[str] = []
    train("dpo", pairs(12), out=tmp_path / "dpo", model=str(tmp_path / "sft"), flags=taught, tell=told.append)
    assert not any("without SFT" in line for line in told)
    assert [each["identity"]["method"] for _, each in trainings_of(tmp_path / "dpo")] == ["dpo", "sft"]
    notes("dpo", pairs(12), bare, tmp_path / "hasty", chat_template=str(template))
    found = find_base(str(tmp_path / "hasty"))
    assert (
        lacks_sft(found, load_tokenizer(found), None) == "its tokenizer has no chat template but the one of a training"
    )


# Records


def test_a_spec_means_its_folder_and_a_gguf_file_the_folder_beside_it(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m.gguf").write_bytes(b"GGUF")
    for spec in (tmp_path / "m", f"hf:{tmp_path / 'm'}", f"reward:{tmp_path / 'm'}", f"local:{tmp_path / 'm.gguf'}"):
        assert folder_of(str(spec)) == tmp_path / "m"
    for spec in ("local", "openai:gpt", "hf:org/name", str(tmp_path / "none")):
        assert folder_of(str(spec)) is None


def test_a_record_that_leads_to_itself_ends(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"x")
    model = {"spec": str(tmp_path), "place": str(tmp_path), "mark": mark_of(tmp_path)}
    (tmp_path / "training.json").write_bytes(orjson.dumps({"identity": {"method": "dpo"}, "model": model}))
    assert len([*trainings_of(tmp_path)]) == 1
