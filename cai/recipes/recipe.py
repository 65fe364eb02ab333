"""A recipe: a YAML file of stages, each of which is one of our commands."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from cai.errors import UsageError
from cai.recipes.commands import READS, Command
from cai.recipes.words import replaced
from cai.records import Object
from cai.sources import yamlfaults
from cai.sources.files import folder, path_of
from cai.texts.wording import nearest

TURN = "turn"  # the variable that counts the turns of a loop, from 1
NAME_FORM = "letters, digits, '.', '_' and '-', at most 64"
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]


class RecipeFile(BaseModel):
    """What a recipe file may hold."""

    model_config = ConfigDict(extra="forbid", title="Recipe", frozen=True)

    name: Name = Field(description="Names the recipe, and the folder of its stages under runs.")
    description: str = Field("", description="What it does, what it took, and what came out.")
    vars: dict[str, Any] = Field(
        {}, description="Values that stages name as $NAME; --set replaces them; null leaves the setting out."
    )
    matrix: dict[str, list[Any]] = Field({}, description="Variables with several values: all stages run for each.")
    repeat: int = Field(1, ge=1, le=100, description="Turns of a loop; $turn counts them from 1.")
    next: dict[str, Any] = Field({}, description="Variables that each later turn sets from the one before: '@stage'.")
    max_cost: float | None = Field(None, ge=0, allow_inf_nan=False, description="Most USD of all stages together.")
    stages: dict[str, dict[str, Any]] = Field(min_length=1, description="The commands, each with its settings.")


KEYS: yamlfaults.Keys = {(): ("a recipe", tuple(RecipeFile.model_fields))}
EXPECT, EXPORT = "expect", "export"  # keys of a stage beside its command
EXPORTED = ("generate", "sample", "label")  # commands that an export may follow


@dataclass(frozen=True)
class Step:
    """A command with its settings."""

    command: Command
    settings: Object

    @property
    def reads(self) -> Object:
        """The settings that may name stages, files and models."""
        return {key: value for key, value in self.settings.items() if key in READS}

    def located(self, place: Callable[[str], str]) -> Object:
        """All settings, with a place for each text that may name one."""
        located: Object = {**self.settings, **replaced(self.reads, place)}
        return located


@dataclass(frozen=True)
class Stage:
    """What is done in one folder: a command, and `cai export` behind it if that is named. expect: its gates."""

    name: str
    steps: tuple[Step, ...]
    expect: Mapping[str, str]
    line: int

    @property
    def command(self) -> Command:
        """The command that makes the folder."""
        return self.steps[0].command


@dataclass(frozen=True)
class Recipe:
    """A recipe that has been read and checked. base: the folder that its paths are seen from."""

    name: str
    description: str
    path: Path
    base: Path
    variables: Object
    matrix: Mapping[str, list[Any]]
    repeat: int
    next: Object
    max_cost: float | None
    stages: Mapping[str, Stage]
    needs: Mapping[str, tuple[str, ...]]  # by stage, the others that it names

    @property
    def order(self) -> tuple[str, ...]:
        """The stages, each after those that it names; otherwise as the file has them."""
        order: list[str] = []
        while len(order) < len(self.stages):
            ready = (name for name in self.stages if name not in order and {*self.needs[name]} <= {*order})
            order.append(next(ready))
        return tuple(order)


def find_recipe(name_or_path: str | Path) -> Path:
    """The file that a name or path means: an existing file, else a built-in by its stem."""
    path = path_of(str(name_or_path))
    if path.is_file():
        return path
    known = built_ins()
    if path.name == str(name_or_path) and path.name.removesuffix(".yaml") in known:
        return known[path.name.removesuffix(".yaml")]
    advice = nearest(path.stem, known)
    raise UsageError(f"no recipe {str(path)!r}: neither a file nor a built-in; {advice}")


def built_ins() -> dict[str, Path]:
    """The files of the built-in recipes by their names."""
    return {file.stem: file for file in sorted(folder("recipes").glob("*.yaml"))}
