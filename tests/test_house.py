"""The house: folders by subject whose imports only go down, small enough to read, in code that is one idea a line."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "cai"
FLOORS = (  # from the ground up; a room may import its own floor and those below
    "records errors packages texts listening",
    "disk folder sources",
    "constitution calls weights recipes",
    "engine models chat",
    "judge",
    "export rewards",
    "runs training",
    "evaluation",
    "report",
    "viewer",
    "cli __init__ __main__",
)
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms.split()}
MOST_FILES = 14  # of a folder: what a screen shows
MOST_LINES = 300  # of a file, which answers one question
MOST_NODES = 290_000  # syntax nodes of all code
MOST_NODES_PER_STATEMENT = 7.5
MOST_CONDITIONALS = 20  # conditional expressions per 1,000 statements
MOST_NESTED = 0  # conditional expressions inside another
HEAVY = {
    "torch", "transformers", "trl", "peft", "accelerate", "vllm", "ray", "datasets", "pyarrow", "pandas", "numpy",
    "matplotlib", "openai", "anthropic", "openvino", "openvino_genai", "gguf", "huggingface_hub",
}  # fmt: skip
MODULES = sorted(PACKAGE.rglob("*.py"))
SOURCES = {path.relative_to(PACKAGE).with_suffix("").as_posix(): path.read_text() for path in MODULES}


def imported(tree: ast.AST, module: str) -> Iterator[str]:
    """Absolute names of all that `tree` imports; of `from a import b`, `a.b`."""
    package = ["cai", *module.split("/")[:-1]]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) + 1 - node.level] if node.level else []
            start = ".".join([*base, *([node.module] if node.module else [])])
            yield from (f"{start}.{alias.name}" for alias in node.names)


def at_import(tree: ast.Module) -> Iterator[ast.stmt]:
    """The imports that run when the module is imported: not those in functions or under `if TYPE_CHECKING`."""
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node
        lazy = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        typing_only = isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")
        if typing_only:
            waiting.extend(node.orelse)
        elif not lazy:
            waiting.extend(ast.iter_child_nodes(node))


def target_of(name: str, modules: Mapping[str, str]) -> str | None:
    """The module of `modules` that an imported name of cai lies in; None for names of other packages."""
    parts = name.split(".")
    if parts[0] != "cai":
        return None
    for length in range(len(parts), 1, -1):
        path = "/".join(parts[1:length])
        if path in modules:
            return path
        if f"{path}/__init__" in modules:
            return f"{path}/__init__"
    return "__init__"


def arrows(modules: Mapping[str, str]) -> set[tuple[str, str]]:
    """Which module imports which, imports inside functions included."""
    pairs = set()
    for module, source in modules.items():
        for name in imported(ast.parse(source), module):
            target = target_of(name, modules)
            if target is not None and target != module:
                pairs.add((module, target))
    return pairs


def room(module: str) -> str:
    """The folder of a module; of one that lies in no folder, the module itself."""
    return module.rpartition("/")[0] or module


def floor(module: str) -> int:
    """The floor of a module, which is that of its outermost folder."""
    return FLOOR[module.split("/")[0]]


def upward(pairs: set[tuple[str, str]]) -> set[tuple[str, str]]:
    """The arrows that lead to a higher floor."""
    return {(start, end) for start, end in pairs if floor(start) < floor(end)}


def circle(pairs: set[tuple[str, str]]) -> list[str]:
    """One circle of arrows; empty if there is none."""
    graph: dict[str, set[str]] = {}
    for start, end in pairs:
        graph.setdefault(start, set()).add(end)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def heavy(source: str) -> list[str]:
    names = [name for node in at_import(ast.parse(source)) for name in imported(node, "any")]
    return [name for name in names if name.split(".")[0] in HEAVY]


def nodes(source: str) -> list[ast.AST]:
    return [node for node in ast.walk(ast.parse(source)) if not isinstance(node, ast.expr_context)]


def is_nested(node: ast.AST) -> bool:
    """Whether a node is a conditional expression with another one inside."""
    return isinstance(node, ast.IfExp) and sum(isinstance(inner, ast.IfExp) for inner in ast.walk(node)) > 1


@cache
def arrows_of_cai() -> set[tuple[str, str]]:
    return arrows(SOURCES)


# Rooms


def test_imports_only_go_down() -> None:
    assert upward(arrows_of_cai()) == set()


def test_no_folder_has_a_circle_of_imports() -> None:
    for folder in {room(module) for module in SOURCES}:
        inside = {pair for pair in arrows_of_cai() if room(pair[0]) == room(pair[1]) == folder}
        assert circle(inside) == [], folder


def test_folders_do_not_import_each_other_in_a_circle() -> None:
    between = {(room(start), room(end)) for start, end in arrows_of_cai()}
    assert circle({(start, end) for start, end in between if start != end}) == []


def test_a_folder_fits_a_screen() -> None:
    counts = Counter(path.parent.relative_to(PACKAGE).as_posix() for path in MODULES)
    assert {folder: count for folder, count in counts.items() if count > MOST_FILES} == {}


def test_a_file_answers_one_question() -> None:
    lengths = {module: len(source.splitlines()) for module, source in SOURCES.items()}
    assert {module: length for module, length in lengths.items() if length > MOST_LINES} == {}


@pytest.mark.parametrize("module", SOURCES)
def test_heavy_packages_are_imported_where_they_are_needed(module: str) -> None:
    assert heavy(SOURCES[module]) == []


# Size: formatting changes none of these counts, simplifying does


def test_there_is_not_more_code_than_the_house_has_room_for() -> None:
    assert sum(len(nodes(source)) for source in SOURCES.values()) <= MOST_NODES


def test_a_statement_holds_one_idea() -> None:
    every = [node for source in SOURCES.values() for node in nodes(source)]
    statements = sum(isinstance(node, ast.stmt) for node in every)
    assert len(every) / statements <= MOST_NODES_PER_STATEMENT
    assert sum(isinstance(node, ast.IfExp) for node in every) / statements * 1000 <= MOST_CONDITIONALS
    assert sum(map(is_nested, every)) <= MOST_NESTED


# The checks see what they are for


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("records", "from cai.folder.journal.store import Store"),
        ("calls/flow", "import cai.runs.play"),
        ("calls/flow", "from ..runs import play"),
        ("sources/files", "def read():\n    from cai.calls.flow import play"),
        ("judge/flows", "import cai"),
        ("judge/flows", "from cai import generate"),
    ],
)
def test_an_import_that_goes_up_is_seen(module: str, source: str) -> None:
    rooms = dict.fromkeys(
        ("__init__", "records", "folder/journal/store", "calls/flow", "runs/__init__", "runs/play"), ""
    )
    assert upward(arrows({**rooms, module: source}))


@pytest.mark.parametrize(
    ("module", "source"),
    [
        (
            "folder/journal/store",
            "from cai.folder.journal.rows import Lines\nfrom cai.records import Prompt\nimport json",
        ),
        ("models/openai", "from cai.models import http\nfrom . import http\nfrom ..records import Call"),
        ("cli/main", "from cai.runs import play\nimport cai"),
    ],
)
def test_imports_that_stay_or_go_down_pass(module: str, source: str) -> None:
    rooms = dict.fromkeys(
        ("__init__", "records", "folder/journal/rows", "models/http", "runs/__init__", "runs/play"), ""
    )
    assert upward(arrows({**rooms, module: source})) == set()


def test_a_circle_is_seen() -> None:
    assert set(circle({("a", "b"), ("b", "c"), ("c", "a"), ("c", "d")})) == {"a", "b", "c"}
    assert circle({("a", "b"), ("b", "c"), ("a", "c")}) == []


def test_a_heavy_import_is_seen_unless_it_waits() -> None:
    eager = "try:\n    import torch.nn\nexcept ImportError:\n    pass\nclass A:\n    from datasets import Dataset"
    assert sorted(heavy(eager)) == ["datasets.Dataset", "torch.nn"]
    waits = "if TYPE_CHECKING:\n    import torch\ndef f():\n    import torch\nasync def g():\n    import openai"
    assert heavy(waits) == []


def test_a_nested_conditional_expression_is_seen() -> None:
    assert sum(map(is_nested, nodes("a = 1 if b else 2 if c else 3"))) == 1
    assert sum(map(is_nested, nodes("a = 1 if b else 2\nd = 1 if e else 2"))) == 0
