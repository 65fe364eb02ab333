"""A start that is refused leaves no folder behind, and says what to do."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from forked import fork
from goldens.make import write_inputs
from kept import environment
from stub import http, scripted

PROMPTS, PAIRS, LAW = "inputs/prompts.jsonl", "inputs/pairs.jsonl", ("-c", "inputs/law.yaml")
RUNS = {  # kinds of run, whose model is put in place of M
    "generate": ("generate", PROMPTS, *LAW, "--model", "M"),
    "critic": ("generate", PROMPTS, *LAW, "--model", "recorded:inputs/scores.jsonl", "--critic", "M"),
    "sample": ("sample", PROMPTS, "--model", "M", "-n", "2"),
    "best-of": ("sample", PROMPTS, "--model", "M", "--best-of", "2", "--judge", "M", *LAW),
    "label": ("label", PAIRS, "--judge", "M", *LAW),
    "gold": ("label", PAIRS, "--judge", "M", *LAW, "--gold", "inputs/gold.jsonl"),
}
OUT = "made/for/this"


@pytest.fixture
def work(tmp_path: Path) -> Path:
    write_inputs(tmp_path)
    return tmp_path


def refused(work: Path, *words: str, **variables: str) -> str:
    """The one line of a command that is refused, and leaves nothing."""
    before = sorted(work.rglob("*"))
    ours = {name: value for name, value in environment().items() if not name.endswith("_API_KEY")}
    ended = fork([*words, "--out", OUT], work, ours | variables)
    assert ended.status == 1 and "Traceback" not in ended.stderr, ended.stderr
    assert sorted(work.rglob("*")) == before
    [*_, last] = ended.stderr.splitlines()
    assert last.startswith("error: ")
    return last


def with_model(kind: str, model: str) -> list[str]:
    return [model if word == "M" else word for word in RUNS[kind]]


@pytest.mark.parametrize("kind", RUNS)
def test_a_run_without_a_key_leaves_nothing(work: Path, kind: str) -> None:
    assert "set the environment variable OPENAI_API_KEY" in refused(work, *with_model(kind, "openai:gpt-4.1-mini"))


@pytest.mark.parametrize("kind", ["generate", "best-of", "gold"])
@pytest.mark.parametrize("model", ["hf:nothing/there", "local:nowhere.gguf", "hf:inputs"])
def test_a_run_whose_model_cannot_be_opened_leaves_nothing(work: Path, kind: str, model: str) -> None:
    _, _, name = model.partition(":")
    assert name in refused(work, *with_model(kind, model), HF_HUB_OFFLINE="1")


@pytest.mark.parametrize("kind", ["generate", "sample", "gold"])
@pytest.mark.parametrize("status", [401, 404])
def test_a_run_whose_first_call_is_refused_leaves_nothing(work: Path, kind: str, status: int) -> None:
    async def main() -> None:
        async with scripted(http(status, {"error": {"message": "no such thing", "code": "model_not_found"}})) as server:
            words = [*with_model(kind, "openai:m"), "--base-url", f"{server.url}/v1"]
            await asyncio.to_thread(refused, work, *words, OPENAI_API_KEY="none")
            assert server.requests

    asyncio.run(main())


def test_a_folder_that_was_there_stays(work: Path) -> None:
    (work / OUT).mkdir(parents=True)
    words = [*with_model("generate", "openai:gpt-4.1-mini"), "--out", OUT]
    ours = {name: value for name, value in environment().items() if not name.endswith("_API_KEY")}
    assert fork(words, work, ours).status == 1
    assert (work / OUT).is_dir()


def test_that_an_env_file_is_not_read_is_said_if_there_is_one(work: Path) -> None:
    words = with_model("generate", "openai:gpt-4.1-mini")
    assert ".env" not in refused(work, *words)
    (work / ".env").write_text("OPENAI_API_KEY=sk-not-read\n")
    line = refused(work, *words)
    assert ".env is not read" in line and "sk-not-read" not in line


def test_a_training_whose_model_cannot_be_loaded_leaves_nothing(work: Path) -> None:
    pytest.importorskip("trl")
    broken = work / "broken"
    broken.mkdir()
    (broken / "config.json").write_text(json.dumps({"model_type": "llama"}))
    (broken / "model.safetensors").write_bytes(b"no weights")
    rows = "".join(json.dumps({"prompt": f"Q{n}?", "completion": f"A{n}."}) + "\n" for n in range(8))
    (work / "rows.jsonl").write_text(rows)
    assert "broken" in refused(work, "train", "sft", "rows.jsonl", "--model", "broken")


def test_usage_errors_exit_1(work: Path) -> None:
    for words in (["generate", "--nonsense"], ["nothing"], ["generate", "--rounds", "x"], ["train"], ["label"]):
        assert fork(words, work, environment()).status == 1, words
