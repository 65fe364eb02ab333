"""Where an adapter's base is found, and when it is not taken for it."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("peft")
import tiny
from adapters import adapter

from cai.errors import CaiError, UsageError
from cai.models.inprocess.hf import HFModel
from cai.weights.bases import base_of, find_base, mark_of

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return tiny.model(tmp_path / "base")


def config(folder: Path, **changed: object) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changed))


def test_a_base_is_where_the_adapter_says(base: Path, tmp_path: Path) -> None:
    made = adapter(tmp_path / "a", str(base))
    assert find_base(str(made)).adapter == made and find_base(str(base)).adapter is None
    assert base_of(made) == find_base(str(base))


def test_a_base_that_is_gone_from_there_is_found_by_its_name_in_the_training(base: Path, tmp_path: Path) -> None:
    made = adapter(tmp_path / "a", str(base))
    config(made, base_model_name_or_path="/of/another/machine/base")
    assert base_of(made).place == str(base)


@pytest.mark.parametrize("record", [True, False])
def test_a_base_that_is_nowhere_is_an_error_that_says_what_to_do(base: Path, tmp_path: Path, record: bool) -> None:
    made = adapter(tmp_path / "a", str(base), record=record)
    shutil.rmtree(base)
    with pytest.raises(
        CaiError, match=r"base model cannot be found: .*base.*; put it back, or write its folder .*base_model_name"
    ):
        base_of(made)


def test_an_adapter_that_names_no_base_is_an_error(base: Path, tmp_path: Path) -> None:
    made = adapter(tmp_path / "a", str(base), record=False)
    config(made, base_model_name_or_path=None)
    with pytest.raises(CaiError, match=r"adapter_config\.json names none"):
        base_of(made)
    config(made, base_model_name_or_path=["base"])
    with pytest.raises(CaiError, match=r"adapter_config\.json names none"):
        base_of(made)


@pytest.mark.parametrize("model", ["x", {}, None, {"spec": "local", "place": 3, "mark": "m"}])
def test_a_record_that_does_not_tell_the_base_is_damaged(base: Path, tmp_path: Path, model: object) -> None:
    made = adapter(tmp_path / "a", str(base))
    (made / "training.json").write_text(json.dumps({"model": model}))
    with pytest.raises(CaiError, match=r"training\.json is damaged: its model lacks spec, place, mark"):
        base_of(made)
    (made / "training.json").write_text("{}")  # of a training that was stopped before it knew
    assert base_of(made).place == str(base)


def test_a_base_that_was_moved_is_told_once(base: Path, tmp_path: Path) -> None:
    made = adapter(tmp_path / "a", str(base))
    base.rename(tmp_path / "moved")
    with pytest.raises(CaiError) as caught:
        base_of(made)
    assert str(caught.value).count(str(base)) == 1


def test_an_adapters_mark_follows_the_weights_of_its_base(base: Path, tmp_path: Path) -> None:
    made = adapter(tmp_path / "a", str(base), record=False)
    before = find_base(str(made)).mark, HFModel(str(made)).name
    tiny.model(base, seed=7)
    assert find_base(str(made)).mark != before[0]
    assert HFModel(str(made)).name != before[1]


@pytest.mark.parametrize("name", ["special_tokens_map.json", "added_tokens.json", "generation_config.json"])
def test_a_mark_follows_the_small_files_that_decide_answers(base: Path, name: str) -> None:
    before = mark_of(base)
    (base / name).write_text('{"eos_token": "A"}')
    assert mark_of(base) != before


def test_a_base_on_the_hub_is_left_to_the_hub(base: Path, tmp_path: Path) -> None:
    made = adapter(tmp_path / "a", str(base), record=False)
    config(made, base_model_name_or_path="org/model")
    assert base_of(made).place == "org/model"


HUB = """
import sys
from pathlib import Path
from cai.weights.bases import base_of, find_base
from cai.weights.loading import load_model
hub, adapter = Path(sys.argv[1]), Path(sys.argv[2])
for commit in ("a" * 40, "b" * 40):
    (hub / "refs" / "main").write_text(commit)
    base = find_base("hf:org/tiny")
    print(base.mark, base.facts()["mark"], float(load_model(base, "float32").get_input_embeddings().weight.sum()))
below = base_of(adapter)
weights = load_model(below, "float32").get_input_embeddings().weight
print(below.mark, find_base(str(adapter)).commit, float(weights.sum()))
"""


def test_a_name_on_the_hub_is_the_commit_that_was_trained_on_whatever_it_means_later(
    base: Path, tmp_path: Path
) -> None:
    hub = tmp_path / "home" / "hub" / "models--org--tiny"
    (hub / "refs").mkdir(parents=True)
    shutil.copytree(base, hub / "snapshots" / ("a" * 40))
    shutil.copytree(tiny.model(tmp_path / "later", seed=7), hub / "snapshots" / ("b" * 40))
    made = adapter(tmp_path / "a", str(base))
    config(made, base_model_name_or_path="org/tiny")
    told = {"spec": "org/tiny", "place": "org/tiny", "mark": f"org/tiny@{'a' * 40}"}
    (made / "training.json").write_text(json.dumps({"model": told}))
    found = {"HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", HUB, str(hub), str(made)], env=os.environ | found, cwd=tmp_path, text=True,
        capture_output=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    first, later, trained = (line.split() for line in done.stdout.splitlines())
    assert first[0] == first[1] == trained[0] == f"org/tiny@{'a' * 40}"
    assert later[0] == f"org/tiny@{'b' * 40}" and trained[1] == "a" * 40
    assert first[2] == trained[2] != later[2]


def test_a_typo_beside_folders_is_no_name_on_the_hub(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (base.parent / "models").mkdir()
    monkeypatch.chdir(base.parent)
    with pytest.raises(UsageError, match=r"models/typo: no such folder; .* is written hf:models/typo"):
        find_base("models/typo")


def test_other_weights_than_those_trained_on_are_refused(base: Path, tmp_path: Path) -> None:
    made = adapter(tmp_path / "a", str(base))
    tiny.model(base, seed=7)
    with pytest.raises(CaiError, match="was trained on other weights than"):
        base_of(made)


def test_a_mark_follows_weights_and_tokenizer_and_nothing_else(base: Path) -> None:
    before = mark_of(base)
    (base / "README.md").write_text("A card.")
    (base / "metrics.jsonl").write_text("{}\n")
    assert mark_of(base) == before
    (base / "chat_template.jinja").write_text("{{ messages }}")
    assert mark_of(base) != before


def test_an_adapter_can_be_trained_on_and_is_told_apart_from_its_base(base: Path, tmp_path: Path) -> None:
    one = find_base(str(adapter(tmp_path / "a", str(base))))
    two = find_base(str(adapter(tmp_path / "b", str(base), seed=2)))
    assert one.place == two.place == str(base)
    assert one.adapter == tmp_path / "a"
    assert len({one.mark, two.mark, mark_of(base)}) == 3
    assert one.facts() == {
        "spec": str(base), "place": str(base), "mark": mark_of(base), "adapter": {"spec": one.spec, "mark": one.mark},
    }  # fmt: skip


def test_an_adapter_of_an_adapter_stands_on_the_first_base(base: Path, tmp_path: Path) -> None:
    first = adapter(tmp_path / "a", str(base))
    second = adapter(tmp_path / "b", str(base), seed=2)
    facts = find_base(str(first)).facts()
    (second / "training.json").write_text(json.dumps({"model": facts}))
    config(second, base_model_name_or_path="/gone")
    shutil.rmtree(first)
    assert base_of(second).place == str(base)


def test_a_pickled_adapter_is_refused(base: Path, tmp_path: Path) -> None:
    made = adapter(tmp_path / "a", str(base))
    (made / "adapter_model.safetensors").rename(made / "adapter_model.bin")
    with pytest.raises(UsageError, match="pickled"):
        find_base(str(made))


class Trap:
    """What a pickle of a stranger does: it writes a file as soon as it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> tuple[object, ...]:
        return (os.mkdir, (self.path,))


@pytest.mark.parametrize("name", ["adapter_model.bin", "adapter_model.pt", "adapter_model.safetensors.bin"])
@pytest.mark.parametrize("beside", [None, "other.safetensors", "adapter_model-00001-of-00002.safetensors"])
def test_a_pickled_adapter_is_never_loaded(base: Path, tmp_path: Path, name: str, beside: str | None) -> None:
    import torch

    made = adapter(tmp_path / "a", str(base))
    whole = made / "adapter_model.safetensors"
    if beside is not None:
        shutil.copy(whole, made / beside)
    whole.unlink()
    torch.save(Trap(tmp_path / "sprung"), made / name)
    for spec in (str(made), f"hf:{made}"):
        with pytest.raises(UsageError, match="pickled ones can run code"):
            find_base(spec)
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "consolidated.00.pth"])
def test_a_pickled_model_is_never_loaded(base: Path, tmp_path: Path, name: str) -> None:
    import torch

    made = shutil.copytree(base, tmp_path / "made")
    (made / "model.safetensors").rename(made / "other.safetensors")
    torch.save(Trap(tmp_path / "sprung"), made / name)
    with pytest.raises(CaiError):
        asyncio.run(HFModel(str(made)).start())
    assert not (tmp_path / "sprung").exists()
