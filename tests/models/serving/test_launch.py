"""The command line of a server: where its command is, what it is told, and what it must not be told."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from kept import TINY

from cai.calls.model import Serving
from cai.errors import UsageError
from cai.models.serving.commands import find_command
from cai.models.serving.kinds import KINDS
from cai.models.serving.launch import Launch, launch_of, own_arguments, replicas, served

EVERY = pytest.mark.parametrize("provider", KINDS)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with nothing to be found in but what a test puts there."""
    monkeypatch.setenv("CAI_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", str(tmp_path / "path"))
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "prefix"))
    return tmp_path


def command(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return path


@EVERY
def test_a_command_is_looked_for_in_this_order(provider: str, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kind = KINDS[provider]
    with pytest.raises(UsageError, match=f"{provider}: there is no command {kind.command}: install it in an environ"):
        find_command(provider, None)
    places = (f"path/{kind.command}", f"cache/envs/{kind.command}/bin/{kind.command}", f"prefix/bin/{kind.command}")
    for place in places:
        path = command(here / place)
        assert find_command(provider, None) == [str(path), "serve"]
    monkeypatch.setenv(kind.variable, str(command(here / "of a variable")))
    assert find_command(provider, None) == [str(here / "of a variable"), "serve"]
    assert find_command(provider, str(command(here / "stated"))) == [str(here / "stated"), "serve"]


def test_a_command_may_be_several_words(here: Path) -> None:
    python = command(here / "path" / "python")
    assert find_command("vllm", "python -m my.vllm") == [str(python), "-m", "my.vllm"]
    assert find_command("vllm", "python vllm.py") == [str(python), "vllm.py", "serve"]
    assert find_command("vllm", "python vllm.py serve") == [str(python), "vllm.py", "serve"]


@EVERY
@pytest.mark.parametrize("text", ["/nowhere/vllm", "nothing of that name", " "])
def test_a_command_that_is_not_there_is_refused(provider: str, text: str, here: Path) -> None:
    with pytest.raises(UsageError, match=r"^--server-command: .* is not a command that can be run"):
        find_command(provider, text)


def launch(provider: str, name: str, here: Path, *arguments: str) -> Launch:
    path = command(here / "server")
    return launch_of(provider, f"{provider}:{name}", served("spec", name), Serving(str(path), arguments))


def after(words: tuple[str, ...], option: str) -> str:
    return words[words.index(option) + 1]


def test_vllm_is_told_what_the_method_needs(here: Path) -> None:
    made = launch("vllm", "Qwen/Qwen3-8B@v1", here, "--data-parallel-size 2 --dtype=half")
    words = made.line(4711)
    assert words[1:5] == ["serve", "Qwen/Qwen3-8B", "--host", "127.0.0.1"]
    assert "--enable-prefix-caching" in words and after(made.words, "--scheduling-policy") == "priority"
    assert after(made.words, "--max-logprobs") == "20" and after(made.words, "--revision") == "v1"
    assert after(made.words, "--served-model-name") == made.name == "Qwen/Qwen3-8B@v1"
    assert words[-5:] == ["--data-parallel-size", "2", "--dtype=half", "--port", "4711"]
    assert made.environment()["VLLM_NO_USAGE_STATS"] == "1"


def test_sglang_is_told_what_the_method_needs(here: Path) -> None:
    made = launch("sglang", "Qwen/Qwen3-8B", here)
    assert made.line(1)[1:4] == ["serve", "--model-path", "Qwen/Qwen3-8B"]
    assert after(made.words, "--schedule-policy") == "fcfs"
    assert {"--enable-priority-scheduling", "--schedule-low-priority-values-first"} <= {*made.words}


@EVERY
def test_a_folder_is_served_under_a_name_with_the_hash_of_its_weights(provider: str, here: Path) -> None:
    made = launch(provider, str(TINY), here)
    assert str(TINY) in made.words
    assert made.name.startswith(f"{TINY.name}@") and after(made.words, "--served-model-name") == made.name


@EVERY
def test_an_adapter_is_served_on_its_base(provider: str, here: Path) -> None:
    folder = here / "adapter"
    folder.mkdir()
    config = {"base_model_name_or_path": str(TINY), "r": 12, "rank_pattern": {"q": 20}, "task_type": "CAUSAL_LM"}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    (folder / "adapter_model.safetensors").write_bytes(b"")
    made = launch(provider, str(folder), here)
    assert made.name.startswith("adapter@") and after(made.words, "--served-model-name") == str(TINY)
    module = json.loads(after(made.words, "--lora-modules" if provider == "vllm" else "--lora-paths"))
    assert {*module.values()} == {made.name, str(folder)}
    if provider == "vllm":
        assert after(made.words, "--max-lora-rank") == "32"
    adapter = served("spec", str(folder)).adapter
    assert adapter is not None
    assert KINDS[provider].chosen(adapter) == ({} if provider == "vllm" else {"lora_path": made.name})


@EVERY
def test_what_is_no_language_model_is_refused_before_a_server_is_started(provider: str, here: Path) -> None:
    with pytest.raises(UsageError, match="no such folder"):
        launch(provider, "./nowhere", here)
    (here / "empty").mkdir()
    with pytest.raises(UsageError, match=r"no config\.json"):
        launch(provider, str(here / "empty"), here)


@pytest.mark.parametrize(
    ("provider", "words"),
    [(provider, option) for provider, kind in KINDS.items() for option in kind.reserved]
    + [("vllm", "--served_model_name=x"), ("vllm", "--dtype half --api-key=x")],
)
def test_options_that_are_set_here_are_refused(provider: str, words: str) -> None:
    with pytest.raises(UsageError, match=r"^--server-arg must not hold --[\w-]+: "):
        own_arguments(provider, (words,))


@pytest.mark.parametrize(
    ("words", "problem"),
    [("--port x", "--port 'x'"), ("-dp 0", "--data-parallel-size '0'"), ("--port", "--port ''"), ("'", "as words")],
)
def test_options_that_cannot_be_read_are_refused(words: str, problem: str) -> None:
    with pytest.raises(UsageError, match=r"^--server-arg") as error:
        own_arguments("vllm", words)
    assert problem in str(error.value)


@pytest.mark.parametrize(
    ("arguments", "count"),
    [((), 1), (("--data-parallel-size 4",), 4), (("-dp=2",), 2), (("--data-parallel-size", "3"), 3)],
)
def test_the_copies_of_a_model_are_counted(arguments: tuple[str, ...], count: int) -> None:
    assert replicas(own_arguments("vllm", arguments)) == count
