"""Models of a hub that asks who reads them: the token is sent, and without the right one the error says what to do."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hub import COMMIT, Hub, Repository, hub

import cai

ROOT = Path(__file__).parents[2]
PROMPTS = '{"id": "1", "prompt": "Is it late?"}\n'
LOADS = """
import os, sys
from cai.errors import UnknownModel
from cai.weights.bases import base_at, find_base
from cai.weights.loading import load_tokenizer

for word in sys.argv[1:]:
    token, name = word.split("=")
    os.environ.pop("HF_TOKEN", None)
    if token:
        os.environ["HF_TOKEN"] = token
    for read in (lambda: find_base(f"hf:{name}").mark, lambda: load_tokenizer(base_at(f"hf:{name}", name)) and "read"):
        try:
            print(read())
        except UnknownModel as error:
            print(error)
"""
TOKEN = "hf_the-right-one"


@pytest.fixture(scope="module")
def running(base: Path) -> Iterator[Hub]:
    with hub({"acme/open": Repository(base), "acme/gated": Repository(base, TOKEN)}) as served:
        yield served


@pytest.fixture(scope="module")
def outcome(running: Hub, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """What becomes of names with tokens, in one process: what a training begins with, and what a run loads."""
    words = [
        "=acme/open", "=acme/gated", "=acme/none", "hf_other=acme/gated", "hf_other=acme/none",
        "hf_other=acme/open@v2", f"{TOKEN}=acme/gated", f"{TOKEN}=acme/gated@v1", f"=acme/open@{COMMIT}",
    ]  # fmt: skip
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    environment |= running.environment(tmp_path_factory.mktemp("home"))
    command = [sys.executable, "-c", LOADS, *words]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    return {word: lines[2 * number : 2 * number + 2] for number, word in enumerate(words)}


@pytest.mark.parametrize(
    "word", ["=acme/open", f"{TOKEN}=acme/gated", f"{TOKEN}=acme/gated@v1", f"=acme/open@{COMMIT}"]
)
def test_a_name_with_the_right_token_and_a_revision_is_read_at_its_commit(
    word: str, outcome: dict[str, list[str]]
) -> None:
    name = word.rpartition("=")[2].partition("@")[0]
    assert outcome[word] == [f"{name}@{COMMIT}", "read"]


@pytest.mark.parametrize(
    ("word", "advice"),
    [
        (
            "=acme/gated",
            "acme/gated is gated, and no token says who asks: accept its terms at https://huggingface.co/acme/gated, "
            "and set HF_TOKEN to a token of that account",
        ),
        (
            "hf_other=acme/gated",
            "acme/gated is gated, and the account of your token may not read it: accept its terms at "
            "https://huggingface.co/acme/gated, and set HF_TOKEN to a token of that account",
        ),
        ("=acme/none", "the hub has no model acme/none that may be read without HF_TOKEN: check the name"),
        ("hf_other=acme/none", "the hub has no model acme/none that your token may read: check the name"),
        ("hf_other=acme/open@v2", "acme/open has no such revision: write a branch, a tag or a commit behind the @"),
    ],
)
def test_a_model_that_the_hub_does_not_give_says_what_to_do(
    word: str, advice: str, outcome: dict[str, list[str]]
) -> None:
    for error in outcome[word]:
        assert error.endswith(advice) and "hf_other" not in error


@pytest.mark.slow
def test_a_run_with_a_gated_model_names_the_commit_that_answered(running: Hub, tmp_path: Path) -> None:
    (tmp_path / "prompts.jsonl").write_text(PROMPTS)
    environment = os.environ | running.environment(tmp_path / "home") | {"HF_TOKEN": TOKEN, "PYTHONPATH": str(ROOT)}
    words = ["sample", "prompts.jsonl", "--model", "hf:acme/gated@v1", "-n", "1", "--max-tokens", "4", "--out", "run"]
    subprocess.run([sys.executable, "-m", "cai", *words], env=environment, cwd=tmp_path, check=True)
    run = json.loads((tmp_path / "run" / "run.json").read_text())
    assert run["identity"]["models"] == ["hf:acme/gated@v1"]
    [call] = cai.read_calls(tmp_path / "run")
    assert call.completion.model == f"acme/gated@{COMMIT[:12]}"
    assert not any(TOKEN.encode() in path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file())
