"""For the tests of models: helpers of `tests/` can be imported, and nothing of this machine's environment leaks in."""

from __future__ import annotations

import os

import pytest

from cai.models.remote.presets import NATIVE, PRESETS


@pytest.fixture(autouse=True)
def _no_keys_or_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    presets = {**NATIVE, **PRESETS}.values()
    variables = {name for preset in presets for name in (*preset.key_variables, *preset.url_variables)}
    for name in list(os.environ):
        if (
            name in variables
            or name.startswith(("CAI_KEY_", "CAI_VLLM", "CAI_SGLANG"))
            or name.lower().endswith("_proxy")
        ):
            monkeypatch.delenv(name)
