"""What the logs of servers say is put into one line, with what to do next."""

from __future__ import annotations

from pathlib import Path

import pytest

from cai.models.serving.kinds import KINDS
from cai.models.serving.symptoms import last_lines, reason

STAMPED = "(EngineCore_0 pid=4711) ERROR 11-29 12:00:00 [core.py:936] "
AFTER = "RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}\n"
# As vLLM 0.33, SGLang 0.5.23, transformers and the hub's package word them; and the beginning of the advice.
SAID = {
    "memory in use": (
        "ValueError: Free memory on device cuda:0 (3.1/23 GiB) on startup is less than desired GPU memory utilization",
        "the GPU has too little free memory",
    ),
    "out of memory": ("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB.", "the GPU has too little"),
    "no room for the cache": ("ValueError: No available memory for the cache blocks.", "the GPU has too little free"),
    "too long for the cache": (
        "ValueError: To serve at least one request with the model's max seq len (131072), (16.0 GiB KV cache is "
        "needed, which is larger than the available KV cache memory (2.1 GiB).",
        "the GPU has too little free memory",
    ),
    "no such model": (
        "OSError: Quen/Qwen3-8B is not a local folder and is not a valid model identifier listed on "
        "'https://huggingface.co/models'",
        "check the name of the model",
    ),
    "not on the hub": (
        "huggingface_hub.errors.RepositoryNotFoundError: 404 Client Error. Repository Not Found for url: https://…",
        "check the name of the model",
    ),
    "gated": (
        "OSError: You are trying to access a gated repo. Make sure to have access to it",
        "accept its licence at https://huggingface.co/org/m and set HF_TOKEN",
    ),
    "no network": (
        "OSError: We couldn't connect to 'https://huggingface.co' to load the files",
        "the hub cannot be reached",
    ),
    "port": ("OSError: [Errno 98] Address already in use", "name another port"),
    "old": (
        "vllm serve: error: unrecognized arguments: --scheduling-policy priority",
        "correct --server-arg, or install",
    ),
    "no GPU": ("RuntimeError: Failed to infer device type, please set the environment variable", "no GPU can be used"),
    "driver": ("RuntimeError: Found no NVIDIA driver on your system.", "no GPU can be used here"),
    "disk": ("OSError: [Errno 28] No space left on device", "free some space"),
    "its own code": ("ValueError: … please set the option `trust_remote_code=True` to remove", "its code is not run"),
    "broken": ("ModuleNotFoundError: No module named 'torch'", "its environment is incomplete"),
}


OF_VLLM = ("memory in use", "no room for the cache", "too long for the cache")


@pytest.mark.parametrize(
    ("provider", "name"), [(each, name) for each in KINDS for name in SAID if each == "vllm" or name not in OF_VLLM]
)
def test_a_cause_is_found_before_what_came_of_it(provider: str, name: str, tmp_path: Path) -> None:
    line, advice = SAID[name]
    log = tmp_path / "log"
    log.write_text(f"INFO 11-29 11:59:00 [api.py:1] starting\n{STAMPED}{line}\n{AFTER}")
    said = reason(log, KINDS[provider].symptoms, "org/m")
    assert said is not None and said.startswith(line[:40])
    assert f": {advice}" in said and "\n" not in said and "pid=4711" not in said


OTHER = {
    "an error that is not known": (f"{STAMPED}KeyError: 'model.layers.0'\n{AFTER}", "KeyError: 'model.layers.0'"),
    "no error": ("starting\nloading weights\n", "loading weights"),
    "an error that was survived": ("ValueError: a\nstill here\nTypeError: b\nbye\n", "TypeError: b"),
    "a bar that was drawn over": ("\rLoading:  0%\rLoading: 50%\rLoading: 100%", "Loading: 100%"),
    "colours": ("\x1b[31mfatal: no\x1b[0m\n", "fatal: no"),
    "SGLang's stamp": ("[2026-11-29 12:00:00 TP0] Scheduler hit an exception\n", "Scheduler hit an exception"),
    "bytes": ("caf\udce9 closed\n", "caf� closed"),
}


@pytest.mark.parametrize("name", OTHER)
def test_otherwise_the_last_error_or_line_is_quoted(name: str, tmp_path: Path) -> None:
    text, said = OTHER[name]
    (tmp_path / "log").write_bytes(text.encode("utf-8", "surrogateescape"))
    assert reason(tmp_path / "log", KINDS["vllm"].symptoms, "m") == said


def test_a_log_that_says_nothing_or_is_not_there_gives_no_reason(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("\n \n")
    assert reason(tmp_path / "log", KINDS["vllm"].symptoms, "m") is None
    assert reason(tmp_path / "none", KINDS["vllm"].symptoms, "m") is None


def test_a_secret_of_the_environment_is_never_quoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_API_KEY", "very-secret-4711")
    (tmp_path / "log").write_text("ValueError: very-secret-4711 and hf_abcdefghij and sk-abcdefgh-1 are wrong\n")
    assert last_lines(tmp_path / "log") == ["ValueError: *** and *** and *** are wrong"]
