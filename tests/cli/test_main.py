"""The command as users run it; in a process of its own where streams, signals or tracebacks are looked at."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from stub import Stub, stub
from terminal import cai, failed, on_terminal, process

from cai.cli.main import _message
from cai.disk.reading import read_if_there
from cai.errors import RunError
from cai.folder.info import find_info

ROOT = Path(__file__).resolve().parents[2]
COMMANDS = [
    "", "generate", "export", "plan", "plan generate", "constitution", "constitution list", "constitution show",
    "constitution check", "constitution import", "sample", "label", "plan sample", "plan label", "audit", "judge",
    "judge calibrate", "judge bench", "constitution test", "constitution ablate",
    "train", "train sft", "train dpo", "train kto", "train reward", "chat", "merge", "report", "view", "show", "runs",
    "batch", "batch list", "batch cancel",
]  # fmt: skip


@pytest.fixture(scope="module")
def server() -> Iterator[Stub]:
    with stub() as running:
        yield running


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in, and an environment without settings of the user's."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("PYTHONWARNINGS", "error")
    for name in ("OPENAI_BASE_URL", "OPENAI_API_KEY", "FORCE_COLOR", "NO_COLOR", "COLUMNS", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def generate(server: Stub, *words: str) -> list[str]:
    return ["generate", "--model", "openai:stub", "--base-url", f"{server.url}/v1", "--out", "run", *words]


# Help and usage


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(command: str) -> None:
    done = cai(*command.split(), "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert f"Example: cai {command}".rstrip() in " ".join(done.stdout.split())


@pytest.mark.parametrize("command", ["", "plan", "constitution", "train"])
def test_a_command_that_lacks_its_command_shows_its_help(command: str) -> None:
    done = cai(*command.split())
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("Usage:")


def test_the_version_is_told() -> None:
    done = cai("--version")
    assert done.returncode == 0
    assert re.fullmatch(r"cai (\d+\.\d+\.\d+.*|\(a checkout that is not installed\))\n", done.stdout)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["generat"], "'generate'"),
        (["constitution", "chek"], "'check'"),
        (["generate", "--round", "2"], "--rounds"),
        (
            ["generate", "--rounds", "two"],
            "'--rounds': Input should be a valid integer, unable to parse string as an integer: 'two'",
        ),
        (["generate", "--temperature", "hot"], "'--temperature'"),
        (["generate", "--rounds", "0"], "--rounds 0 must be"),
        (["generate", "--temperature", "nan"], "--temperature nan must be"),
        (["generate", "--seed", "-1"], "--seed -1 must be"),
        (["generate", "--extra-body", "{"], "--extra-body is not JSON"),
        (["generate", "--extra-body", "[]"], "--extra-body must be a JSON object"),
        (["generate", "--header", "sk-secret"], "--header must be 'Name: value'"),
        (["generate", "--model", "opnai:x"], "did you mean openai:x?"),
        (["generate", "--model", "openai:"], "names no model"),
        (["generate", "--model", "recorded:none.jsonl"], "none.jsonl"),
        (["generate", "--constitution", "harmles"], "harmles"),
        (["generate", "--templates", "fewshots"], "did you mean 'fewshot'?"),
        (["generate", "--templates", "fewshot", "--gate", "--model", "openai:x"], "--no-gate"),
        (["generate", "--format", "hhh", "--model", "openai:x"], "unknown prompt format 'hhh'"),
        (["generate", "missing.jsonl", "--model", "openai:x"], "missing.jsonl: no such file"),
        (["generate", "--max-cost", "1", "--model", "openai:x"], "--price IN,OUT"),
        (["generate", "--price", "a", "--model", "openai:x"], "--price 'a' is not IN,OUT"),
        (["plan", "generate", "missing.jsonl"], "missing.jsonl: no such file"),
        (["plan", "generate", "--rounds", "0"], "--rounds 0 must be"),
        (["export"], "'run'"),
        (["export", "nowhere"], "nowhere is not a run folder"),
        (["constitution", "show", "nobody"], "nobody"),
        (["constitution", "show", "harmless", "--template", "critiqe"], "did you mean 'critique'?"),
        (["constitution", "show", "harmless", "--template", "revise", "--templates", "x"], "no template set 'x'"),
        (["constitution", "import", "missing.json"], "missing.json"),
        (["constitution", "check", "missing.yaml"], "missing.yaml"),
    ],
    ids=" ".join,
)
def test_what_cannot_be_done_is_said_in_one_line(words: list[str], told: str) -> None:
    line = failed(*words)
    assert told in line
    assert "secret" not in line and "Traceback" not in line and "a bug" not in line


def test_a_locked_folder_is_one_line_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def locked(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "stat", locked)  # root, as whom tests may run, is kept out of no folder
    with pytest.raises(PermissionError) as caught:
        Path("closed/file").exists()
    assert _message(caught.value) == (
        "error: [Errno 13] Permission denied: 'closed/file'; change its permissions, or name another path"
    )
    for read in (lambda: find_info(Path("closed")), lambda: read_if_there(Path("closed/config.json"))):
        with pytest.raises(RunError, match=r"^closed/\S+ cannot be read: Permission denied; change the permissions of"):
            read()


def test_an_error_cannot_write_to_the_terminal_what_it_likes() -> None:
    line = failed("generate", "a\x1b[31m\nb.jsonl")
    assert "a\\x1b[31m b.jsonl" in line


@pytest.mark.parametrize(
    "words", [["--debug", "export", "nowhere"], ["export", "--debug", "nowhere"], ["export", "nowhere", "--debug"]]
)
def test_debug_shows_the_traceback_wherever_it_stands(words: list[str]) -> None:
    done = process(*words, stdout=subprocess.PIPE)
    assert done.returncode == 1
    assert "Traceback" in done.stderr and "RunError: nowhere is not a run folder" in done.stderr


def test_what_follows_two_dashes_is_no_option() -> None:
    assert "--debug: " in failed("generate", "--model", "openai:x", "--", "--debug")


# A number that can stand alone, and be switched off


@pytest.mark.parametrize(
    ("words", "gate"),
    [
        ([], 0.5), (["--gate"], 0.5), (["--gate", "0.7"], 0.7), (["--gate=.7"], 0.7), (["--gate", "--seed", "0"], 0.5),
        (["--seed", "0", "--gate"], 0.5), (["--gate", "0"], 0), (["--gate", "1e-3"], 0.001), (["--no-gate"], False),
    ],
)  # fmt: skip
def test_the_gate_is_a_threshold_stands_alone_or_is_off(
    server: Stub, here: Path, words: list[str], gate: float
) -> None:
    assert cai(*generate(server, "--limit", "1", *words)).returncode == 0
    identity = json.loads((here / "run" / "run.json").read_bytes())["identity"]
    assert (identity["gate"], type(identity["gate"]) is bool) == (gate, gate is False)


@pytest.mark.parametrize(
    ("words", "same"), [([], True), (["--temperature", "0.7"], True), (["--temperature", "1"], False)]
)
def test_a_default_that_is_typed_out_is_what_the_user_wants_whatever_the_model_s_own_is(
    here: Path, words: list[str], same: bool
) -> None:
    plan = ("plan", "generate", "--model", "local:qwen2.5-coder-1.5b", "--json")  # whose own temperature is 0.7
    folders = {json.loads(cai(*plan, *more).stdout)["out"] for more in ([], words)}
    assert (len(folders) == 1) is same


def test_a_file_after_the_gate_is_the_prompts(here: Path) -> None:
    (here / "p.txt").write_text("One?\nTwo?\n")
    told = json.loads(cai("plan", "generate", "--gate", "p.txt", "--model", "openai:x", "--json").stdout)
    assert told["prompts"] == 2


@pytest.mark.parametrize("words", [["--gate", "1.5"], ["--gate", "-1"], ["--gate=x"], ["--gate", "0.4", "--no-gate"]])
def test_a_gate_that_is_no_probability_or_contradicts_itself_is_refused(words: list[str]) -> None:
    assert "--gate" in failed("plan", "generate", "--model", "openai:x", *words)


# generate


def test_a_run_says_what_it_does_and_ends_with_one_example_and_the_next_command(server: Stub, here: Path) -> None:
    done = cai(*generate(server, "--limit", "3"))
    assert (done.returncode, done.stdout) == (0, "")
    lines = done.stderr.splitlines()
    assert [line.split()[0] for line in lines[:5]] == ["constitution", "prompts", "method", "model", "folder"]
    labels = [line.split()[0] for line in lines[6:] if line and not line.startswith(" ")]
    assert labels[:5] == ["prompt", "reply", "critique", "critique", "revision"]
    assert "3 rows kept; 21 calls" in done.stderr
    assert lines[-1].endswith("cut them again with: cai export run --split 0.9")
    assert "\x1b" not in done.stderr
    assert len((here / "run" / "sft.jsonl").read_text().splitlines()) == 3


def test_json_is_one_document_and_all_that_is_on_standard_output(server: Stub) -> None:
    done = cai(*generate(server, "--limit", "2", "--json"))
    found = json.loads(done.stdout)
    assert (found["rows"], found["dropped"], found["stopped"]) == (2, {}, None)
    assert "2 rows kept" in done.stderr


def test_the_same_command_again_asks_nothing(server: Stub) -> None:
    words = generate(server, "--limit", "2", "--seed", "5")
    assert cai(*words).returncode == 0
    asked = server.stats()["requests"]
    again = cai(*words)
    assert again.returncode == 0
    assert server.stats()["requests"] == asked
    assert "2 prompts already done in an earlier session" in again.stderr


def test_another_command_in_the_same_folder_is_refused_with_the_difference(server: Stub) -> None:
    cai(*generate(server, "--limit", "1"))
    assert "it has --rounds 2, and 1 is less" in cai(*generate(server, "--limit", "1", "--rounds", "1")).stderr
    assert cai(*generate(server, "--limit", "1", "--rounds", "1", "--force")).returncode == 0


def test_a_run_that_a_model_stops_says_so_in_its_summary_and_as_json() -> None:
    with stub("--mode", "401") as locked:
        done = cai(*generate(locked, "--limit", "2", "--json"))
    assert done.returncode == 1
    assert "run the same command again to resume" in done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: ")
    assert json.loads(done.stdout)["stopped"] in done.stderr


def test_prompts_can_come_from_standard_input(server: Stub) -> None:
    done = process(*generate(server, "-", "--json"), input="One?\nTwo?\n", stdout=subprocess.PIPE)
    assert json.loads(done.stdout)["rows"] == 2


def test_an_interrupted_run_keeps_what_was_finished_and_exits_130(here: Path) -> None:
    with stub("--latency", "0.05") as slow:
        words = [sys.executable, "-m", "cai", *generate(slow, "--concurrency", "2", "--json")]
        process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        rows, until = here / "run" / "revisions.jsonl", time.monotonic() + 30
        while not (rows.exists() and rows.stat().st_size) and time.monotonic() < until:
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert err.splitlines()[-2:] == ["not finished: run the same command again to resume", "interrupted"]
    assert "Traceback" not in err
    assert 0 < json.loads(out)["rows"] < 64


def test_headers_reach_the_server_and_no_file(server: Stub, here: Path) -> None:
    assert cai(*generate(server, "--limit", "1", "--header", "X-Key: sk-secret-header")).returncode == 0
    for path in (here / "run").iterdir():
        assert b"sk-secret-header" not in path.read_bytes(), path


# plan and export


def test_a_plan_writes_nothing_and_is_told_as_json_too(here: Path) -> None:
    words = ["plan", "generate", "--model", "openai:gpt-4.1-mini", "--limit", "10"]
    told, found = cai(*words), json.loads(cai(*words, "--json").stdout)
    assert told.returncode == 0
    assert (found["prompts"], found["calls"]) == (10, 70)
    assert f"${found['cost_usd']:,.2f}" in told.stderr
    assert list(here.iterdir()) == []


def test_an_export_cuts_the_rows_of_a_run_again(server: Stub, here: Path) -> None:
    cai(*generate(server, "--limit", "4"))
    done = cai("export", "run", "--split", "0.5", "--json")
    assert done.returncode == 0
    assert json.loads(done.stdout)
    assert (here / "run" / "sft.eval.jsonl").exists()


# constitution


def test_the_built_in_constitutions_are_listed() -> None:
    lines = cai("constitution", "list").stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["harmless", "helpful", "hhh", "honest"]
    found = json.loads(cai("constitution", "list", "--json").stdout)
    assert {law["name"]: law["principles"] for law in found}["harmless"] == 16


def test_a_constitution_and_its_words_are_shown() -> None:
    assert cai("constitution", "show", "harmless").stdout.startswith("harmless 1.")
    words = cai("constitution", "show", "harmless", "--template", "critique", "--prompt", "Is {{ it }}?").stdout
    assert words.count("Is {{ it }}?") == 16


def test_a_check_exits_by_what_it_found(here: Path) -> None:
    (here / "good.yaml").write_text("name: a\nversion: 1.0.0\nprinciples: [Choose the reply that is the kinder one.]\n")
    (here / "bad.yaml").write_text("name: a\nversion: 1.0.0\nprinciple: [Be kind.]\n")
    assert cai("constitution", "check", "good.yaml").returncode == 0
    bad = cai("constitution", "check", "bad.yaml")
    assert (bad.returncode, bad.stderr) == (1, "")
    assert "bad.yaml" in bad.stdout and "principles" in bad.stdout
    assert cai("constitution", "check", "bad.yaml", "--json").returncode == 1


def test_a_check_takes_templates_along(here: Path) -> None:
    (here / "own").mkdir()
    (here / "own" / "critique.jinja").write_text("{{ principel }}")
    (here / "own" / "revise.jinja").write_text("{{ principle.id }}")
    done = cai("constitution", "check", "harmless", "--templates", "own")
    assert done.returncode == 1
    assert "did you mean 'principle'?" in done.stdout


def test_a_check_finds_what_templates_want_and_principles_lack(here: Path) -> None:
    (here / "own").mkdir()
    (here / "own" / "critique.jinja").write_text("Look:\n{{ principle.critique }}")
    (here / "own" / "revise.jinja").write_text("{{ principle.revise or principle.text }}")
    (here / "law.yaml").write_text("name: a\nversion: 1.0.0\nprinciples: [Choose the reply that is the kinder one.]\n")
    done = cai("constitution", "check", "law.yaml", "--templates", "own")
    assert (done.returncode, done.stderr) == (1, "")
    [line] = [line for line in done.stdout.splitlines() if "error:" in line]
    assert "critique.jinja:2: error: principle " in line
    assert line.endswith("[template-principle]") and line.count("critique.jinja") == 1
    (here / "prompts.txt").write_text("How do I pick a lock?\n")
    refused = failed("generate", "prompts.txt", "--constitution", "law.yaml", "--templates", "own")
    assert "critique.jinja:2: principle " in refused
    (here / "own" / "critique.jinja").write_text("{{ principle.critique or principle.text }}")
    assert cai("constitution", "check", "law.yaml", "--templates", "own").returncode == 0


def test_an_import_writes_to_standard_output_or_a_new_file(here: Path) -> None:
    (here / "list.txt").write_text("Choose the kinder reply.\nChoose the clearer reply.\n")
    printed = cai("constitution", "import", "list.txt").stdout
    done = cai("constitution", "import", "list.txt", "--out", "law.yaml")
    assert (done.returncode, done.stdout) == (0, "")
    assert (here / "law.yaml").read_text() == printed
    assert cai("constitution", "check", "law.yaml").returncode == 0
    assert "law.yaml exists" in failed("constitution", "import", "list.txt", "--out", "law.yaml")
    assert cai("constitution", "import", "list.txt", "--out", "law.yaml", "--force").returncode == 0


# Pipes, files and terminals


@pytest.mark.parametrize("words", ["constitution show hhh", "constitution list --json", "--help"])
def test_a_reader_that_has_gone_gets_no_traceback(words: str) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w") as pipe:
        done = process(*words.split(), stdout=pipe)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_output_that_cannot_be_written_is_an_error() -> None:
    with open("/dev/full", "w") as full:
        done = process("constitution", "list", stdout=full)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ") and "space" in done.stderr


def test_a_locale_without_a_character_is_no_reason_to_stop(here: Path) -> None:
    (here / "law.yaml").write_text("name: a\nversion: 1.0.0\nprinciples: [Sei höflich – immer.]\n", encoding="utf-8")
    ascii_alone = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = process("constitution", "show", "law.yaml", env=ascii_alone, stdout=subprocess.PIPE)
    assert (done.returncode, done.stderr) == (0, "")
    assert "h\\xf6flich \\u2013" in done.stdout


def test_a_terminal_gets_colours_and_nothing_a_constitution_says(server: Stub, here: Path) -> None:
    (here / "law.yaml").write_text('name: a\nversion: 1.0.0\nprinciples: ["Be \\e[31m red."]\n')
    status, text = on_terminal(["constitution", "show", "law.yaml"])
    assert (status, "\x1b[31m" in text, "\\x1b[31m" in text) == (0, False, True)
    assert "\x1b[31m" in cai("constitution", "show", "law.yaml").stdout  # the exact text into a file or pipe
    status, text = on_terminal(generate(server, "--limit", "2"))
    assert (status, "2 rows kept" in text) == (0, True)
    assert "\x1b[" in text and "[-" not in text
    assert text.index("prompts") < text.index("revision")


def test_no_color_is_respected(server: Stub) -> None:
    status, text = on_terminal(generate(server, "--limit", "2"), NO_COLOR="1")
    assert status == 0
    assert re.findall(r"\x1b\[[0-9;]*3[0-9]m", text) == []
    assert "revision" in text and "\x1b[1m" in text


def test_a_dumb_terminal_gets_plain_lines(server: Stub) -> None:
    status, text = on_terminal(generate(server, "--limit", "2"), TERM="dumb")
    assert (status, "\x1b" in text) == (0, False)
