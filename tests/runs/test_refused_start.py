"""A start that is refused leaves no folder behind, and says what to do."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from forked import fork
from goldens.make import write_inputs
from kept import environment
from stub import http, scripted
from terminal import cai

PROMPTS, PAIRS, LAW = "inputs/prompts.jsonl", "inputs/pairs.jsonl", ("-c", "inputs/law.yaml")
RUNS = {  # kinds of run, whose model is put in place of M
    "generate": ("generate", PROMPTS, *LAW, "--model", "M"),
    "critic": ("generate", PROMPTS, *LAW, "--model", "M+", "--critic", "M"),
    "sample": ("sample", PROMPTS, "--model", "M", "-n", "2"),
    "best-of": ("sample", PROMPTS, "--model", "M", "--best-of", "2", "--judge", "M", *LAW),
    "label": ("label", PAIRS, "--judge", "M", *LAW),
    "gold": ("label", PAIRS, "--judge", "M", *LAW, "--gold", "inputs/gold.jsonl"),
    "tests": ("constitution", "test", "inputs/law.yaml", "--judge", "M"),
    "bench": ("judge", "bench", "--gold", "inputs/gold.jsonl", "--judge", "M", *LAW),
    "evaluate": ("evaluate", "M", PROMPTS, "--against", "M+", "--judge", "M", *LAW),
    "decided": ("evaluate", "M", PROMPTS, "--against", "M+", "--judge", "M", *LAW, "--stop-when-decided"),
    "harm": ("evaluate", "M", PROMPTS, "--against", "M+", "--suite", "harm,refusals", "--harm", "M", *LAW),
}
OUT = "made/for/this"


@pytest.fixture
def work(tmp_path: Path) -> Path:
    write_inputs(tmp_path)
    return tmp_path


def refused(work: Path, *words: str, **variables: str) -> str:
    """What a command says that is refused, and leaves nothing; its last line is an error."""
    before = sorted(work.rglob("*"))
    ours = {name: value for name, value in environment().items() if not name.endswith("_API_KEY")}
    ended = fork([*words, "--out", OUT], work, ours | variables)
    assert ended.status == 1 and "Traceback" not in ended.stderr, ended.stderr
    assert sorted(work.rglob("*")) == before
    [*_, last] = ended.stderr.splitlines()
    assert last.startswith("error: ")
    return ended.stdout + last  # a bench says of each judge why it stopped


def with_model(kind: str, model: str) -> list[str]:
    return [{"M": model, "M+": f"{model}-2"}.get(word, word) for word in RUNS[kind]]


SOURCES = (PROMPTS, PAIRS, "inputs/gold.jsonl")
KEY = {"OPENAI_API_KEY": "none"}
Change = Callable[[list[str]], list[str]]


def instead(names: Sequence[str], other: str) -> Change:
    return lambda words: [other if word in names else word for word in words]


def plus(*more: str) -> Change:
    return lambda words: [*words, *more]


REFUSALS: dict[
    str, tuple[str, Change, dict[str, str], str]
] = {  # model, change of the words, environment, what is said
    "no key": ("openai:gpt-4.1-mini", plus(), {}, "set the environment variable OPENAI_API_KEY"),
    "no such provider": ("opnai:m", plus(), {}, r"did you mean openai:m\?"),
    "no name": ("openai:", plus(), {}, "names no model"),
    "no such model": ("hf:nothing/there", plus(), {"HF_HUB_OFFLINE": "1"}, "nothing/there"),
    "no such file": ("local:nowhere.gguf", plus(), {}, "nowhere.gguf"),
    "no weights": ("hf:inputs", plus(), {"HF_HUB_OFFLINE": "1"}, "inputs"),
    "no templates": ("openai:m", plus("--templates", "nowhere"), KEY, "nowhere"),
    "bad template": ("openai:m", plus("--templates", "broken"), KEY, "respond.jinja"),
    "no price": ("openai:m", plus("--max-cost", "1"), KEY, "--max-cost cannot hold"),
    "a bad number": ("openai:m", plus("--seed", "-1"), KEY, "--seed"),
    "no source": ("openai:m", instead(SOURCES, "nowhere.jsonl"), KEY, "nowhere.jsonl"),
    "an empty source": ("openai:m", instead(SOURCES, "empty.jsonl"), KEY, "empty.jsonl"),
    "a source of no use": (
        "openai:m",
        instead(SOURCES, "useless.jsonl"),
        KEY,
        "none of 3 records can be used|people prefer",
    ),
    "no constitution": ("openai:m", instead(["inputs/law.yaml"], "nowhere.yaml"), KEY, "nowhere.yaml"),
    "no server": ("openai:m", plus("--base-url", "http://127.0.0.1:9/v1"), KEY, "127.0.0.1:9"),
}
NOWHERE = ("tests", "no source"), ("tests", "an empty source"), ("tests", "a source of no use")
LACKS = {("sample", "no constitution"), ("harm", "no constitution"), *NOWHERE}  # what a kind of run does not read
EACH = ("no key", "no source")  # which every kind of run is tried with
ALL = ("generate", "decided")  # which are tried with every refusal
SLOW = ("no such model", "no weights")  # for which transformers is imported
CASES = [
    (kind, refusal)
    for kind in RUNS
    for refusal in REFUSALS
    if (kind in ALL or refusal in EACH) and (kind == "decided" or refusal not in SLOW) and (kind, refusal) not in LACKS
]


@pytest.mark.parametrize(("kind", "refusal"), CASES)
def test_a_start_that_is_refused_leaves_nothing(kind: str, refusal: str, work: Path) -> None:
    model, change, variables, said = REFUSALS[refusal]
    (work / "empty.jsonl").write_text("")
    (work / "useless.jsonl").write_text('{"nothing": 1}\n' * 3)
    (work / "broken").mkdir()
    (work / "broken" / "respond.jinja").write_text("{{ prompt")
    assert re.search(said, refused(work, *change(with_model(kind, model)), **variables))


@pytest.mark.parametrize("kind", RUNS)
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


def training(work: Path, *words: str) -> str:
    """What a training says that is refused, and leaves nothing; in this process, which imports torch once."""
    before = sorted(work.rglob("*"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(work)
        done = cai("train", "sft", *words, "--out", OUT)
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    assert sorted(work.rglob("*")) == before
    return done.stderr


def test_a_training_whose_model_cannot_be_loaded_leaves_nothing(work: Path) -> None:
    pytest.importorskip("trl")
    broken = work / "broken"
    broken.mkdir()
    (broken / "config.json").write_text(json.dumps({"model_type": "llama"}))
    (broken / "model.safetensors").write_bytes(b"no weights")
    rows = "".join(json.dumps({"prompt": f"Q{n}?", "completion": f"A{n}."}) + "\n" for n in range(8))
    (work / "rows.jsonl").write_text(rows)
    assert "broken" in training(work, "rows.jsonl", "--model", "broken")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("nowhere.jsonl",), "nowhere.jsonl"),
        (("useless.jsonl",), "useless.jsonl"),
        (("rows.jsonl", "--model", "nowhere/there/at/all"), "nowhere/there/at/all"),
        (("rows.jsonl", "--eval-data", "nowhere.jsonl"), "nowhere.jsonl"),
        (("rows.jsonl", "--set", "nonsense=1"), "no key of a training config"),
        (("rows.jsonl", "--learning-rate", "-1"), "learning_rate"),
    ],
)
def test_a_training_that_is_refused_leaves_nothing(work: Path, words: tuple[str, ...], said: str) -> None:
    pytest.importorskip("trl")
    rows = (json.dumps({"prompt": f"Q{n}?", "completion": f"A{n}."}) + "\n" for n in range(8))
    (work / "rows.jsonl").write_text("".join(rows))
    (work / "useless.jsonl").write_text('{"nothing": 1}\n')
    assert said in training(work, *words)


def test_usage_errors_exit_1(work: Path) -> None:
    for words in (["generate", "--nonsense"], ["nothing"], ["generate", "--rounds", "x"], ["train"], ["label"]):
        assert fork(words, work, environment()).status == 1, words
