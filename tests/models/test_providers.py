"""The register of backends: what opens, what costs nothing, and what help and plans read of it."""

from __future__ import annotations

import subprocess
import sys

import pytest

from cai.errors import UsageError
from cai.models import JUDGE_SPECS, PROVIDERS, SPECS, open_model, provider_of


@pytest.mark.parametrize(
    ("spec", "free"), [("local", True), ("openai:gpt-4.1-mini", False), ("anthropic:claude-haiku-4-5", False)]
)
def test_only_models_on_the_users_own_machine_are_free(spec: str, free: bool) -> None:
    assert provider_of(open_model(spec)).free is free


@pytest.mark.parametrize("spec", ["opneai:gpt-4.1", "openai", "hf:"])
def test_a_spec_that_names_no_model_is_refused(spec: str) -> None:
    with pytest.raises(UsageError, match=repr(spec)):
        open_model(spec)


def test_help_names_every_provider_and_none_that_cannot_write_to_writers() -> None:
    assert all((name in JUDGE_SPECS) == provider.judges for name, provider in PROVIDERS.items())
    assert "reward:" not in SPECS and "openai:NAME" in SPECS


def test_the_register_imports_no_backend() -> None:
    """`cai --help` reads it."""
    code = "import sys, cai.models; print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"pydantic", "aiohttp", "cai.calls.model", "cai.models.recorded"} & set(modules)


@pytest.mark.parametrize(("name", "seconds"), [("local", 1000 / 250 + 9000 / 900), ("openai", (1000 / 60 + 50) / 8)])
def test_the_time_of_a_plan_follows_from_the_speed_of_its_provider(name: str, seconds: float) -> None:
    speed = PROVIDERS[name].speed
    assert speed is not None
    assert speed.seconds(calls=100, input_tokens=9000, output_tokens=1000, concurrency=8) == pytest.approx(seconds)


def test_answers_from_a_file_take_no_time() -> None:
    speed = PROVIDERS["recorded"].speed
    assert speed is not None and speed.seconds(calls=100, input_tokens=9000, output_tokens=1000, concurrency=1) == 0
