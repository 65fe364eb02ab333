"""The house of the design: imports only go down, and heavy packages wait until they are needed."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "cai"
LAYERS = {  # from the top; modules of one layer may import each other
    "doors": (
        "cli cli_common cli_runs cli_judge cli_audit cli_constitution cli_chat cli_train console console_train "
        "__init__ __main__"
    ),
    "uses": (
        "pipeline job settings generating sampling labelling judging contests run plan export preferences cut card "
        "run_cards markdown "
        "task judge_check label_settings label_reading run_files export_options bench_result audit_cases audit_report "
        "choosing best_cut tables hub auditing bench trial ablation calibration judged plots training evaluate report "
        "losses trl_hooks preference_rows preference_training masks merging gguf_file chatting "
        "training_watch training_files training_data training_rows train_config train_plan train_models train_folder "
        "train_loop train_job control_tokens train_replies train_preferences train_evidence "
        "train_eval train_samples train_provenance train_summary train_card train_plots"
    ),
    "method": "revise candidates best_of judge pairs standings calibrate hygiene refusals ask",
    "machines": "flow feed store lines payloads limits prices models",
    "inputs": "constitution yamlfile lint importers templates sources conversations pair_records",
    "words": "records errors resources",
}
HEIGHT = {module: -depth for depth, names in enumerate(LAYERS.values()) for module in names.split()}
HEAVY = {
    "torch", "transformers", "trl", "peft", "accelerate", "vllm", "ray", "datasets", "pyarrow", "pandas", "numpy",
    "matplotlib", "openai", "anthropic", "openvino", "openvino_genai", "gguf", "huggingface_hub",
}  # fmt: skip
MODULES = sorted(PACKAGE.rglob("*.py"))


def place(path: Path) -> str:
    """The name of the layer table that `path` belongs to: its module, or its folder."""
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imported(tree: ast.AST, path: Path) -> Iterator[str]:
    """Absolute names of all that `tree` imports; of `from a import b`, `a.b`."""
    package = ["cai", *path.relative_to(PACKAGE).parent.parts]
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


def upward(source: str, path: Path) -> list[str]:
    found = []
    for name in imported(ast.parse(source), path):
        parts = name.split(".")
        if parts[0] == "cai":
            target = parts[1] if len(parts) > 1 and parts[1] in HEIGHT else "__init__"
            if HEIGHT[target] > HEIGHT[place(path)]:
                found.append(name)
    return found


def heavy(source: str, path: Path) -> list[str]:
    names = [name for node in at_import(ast.parse(source)) for name in imported(node, path)]
    return [name for name in names if name.split(".")[0] in HEAVY]


def shown(path: Path) -> str:
    return str(path.relative_to(PACKAGE))


@pytest.mark.parametrize("path", MODULES, ids=shown)
def test_every_module_has_its_place_in_the_house(path: Path) -> None:
    assert place(path) in HEIGHT, f"add {place(path)} to a layer of the design and of this test"


@pytest.mark.parametrize("path", MODULES, ids=shown)
def test_imports_only_go_down(path: Path) -> None:
    assert upward(path.read_text(), path) == []


@pytest.mark.parametrize("path", MODULES, ids=shown)
def test_heavy_packages_are_imported_where_they_are_needed(path: Path) -> None:
    assert heavy(path.read_text(), path) == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("records", "from cai.store import Store"),
        ("store", "import cai.pipeline"),
        ("store", "from . import pipeline"),
        ("models/openai", "from ..revise import revise"),
        ("sources", "def read():\n    from cai.flow import play"),
        ("flow", "import cai"),
        ("flow", "from cai import generate"),
    ],
)
def test_an_import_that_goes_up_is_seen(module: str, source: str) -> None:
    assert upward(source, PACKAGE / f"{module}.py")


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("store", "from cai.limits import Limits\nfrom cai.records import Prompt\nimport json"),
        ("models/openai", "from cai.models import Connection\nfrom . import http\nfrom ..records import Call"),
        ("cli", "from cai import pipeline\nimport cai"),
    ],
)
def test_imports_that_stay_or_go_down_pass(module: str, source: str) -> None:
    assert upward(source, PACKAGE / f"{module}.py") == []


def test_a_heavy_import_is_seen_unless_it_waits() -> None:
    path = PACKAGE / "models" / "hf.py"
    eager = "try:\n    import torch.nn\nexcept ImportError:\n    pass\nclass A:\n    from datasets import Dataset"
    assert sorted(heavy(eager, path)) == ["datasets.Dataset", "torch.nn"]
    waits = "if TYPE_CHECKING:\n    import torch\ndef f():\n    import torch\nasync def g():\n    import openai"
    assert heavy(waits, path) == []
