"""Why a server failed, from the end of its log: in one line, with what to do next."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from cai.texts.wording import one_line, printable, shortened

READ = 1 << 16  # bytes of a log's end that are read
LINES = 12  # of it that are shown
LONGEST = 240  # characters of a line that is quoted
COLOURS = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
# What stands before a message: vLLM's process, level, time and place; SGLang's time and rank.
STAMP = re.compile(
    r"^(?:\([\w ]+ pid=\d+\)\s*)?(?:(?:DEBUG|INFO|WARNING|ERROR|CRITICAL) \d\d-\d\d [\d:]+ \[[^\]]*\]\s*)?"
    r"(?:\[\d{4}-\d\d-\d\d [\d:.]+[^\]]*\]\s*)?"
)
ERROR = re.compile(r"^(?:[\w.]+(?:Error|Exception|Exit)|error|fatal)\b.*[:!]", re.IGNORECASE)
# Errors that only say that there was another one before.
SECOND = re.compile(r"Engine core initialization failed|See root cause above|Failed core proc|EngineDeadError")
SECRET = re.compile(r"(?:KEY|TOKEN|SECRET|PASSWORD)$")
TOKEN = re.compile(r"\bhf_\w{8,}|\bsk-[\w-]{8,}")


@dataclass(frozen=True, slots=True)
class Symptom:
    """What a log says of one cause; `{model}` in the advice stands for the name of the model."""

    pattern: re.Pattern[str]
    advice: str


def symptom(pattern: str, advice: str) -> Symptom:
    """A symptom by its pattern, in any case."""
    return Symptom(re.compile(pattern, re.IGNORECASE), advice)


# The first that fits counts. A gated model comes before one that is not there: the hub says both of it.
OF_ALL = (
    symptom(
        r"gated repo|access to model .* is restricted|awaiting a review",
        "accept its licence at https://huggingface.co/{model} and set HF_TOKEN to a token of that account",
    ),
    symptom(
        r"is not a valid model identifier|repository not found|invalid repository id|is not a local folder"
        r"|does not appear to have a file named config\.json",
        "check the name of the model, or give its folder",
    ),
    symptom(
        r"LocalEntryNotFoundError|couldn't connect to .*huggingface|offline mode is enabled|cannot find the requested "
        r"files",
        "the hub cannot be reached: give the folder of a model, or download it first (hf download {model})",
    ),
    symptom(
        r"address already in use|port \d+ is (?:already )?in use", "name another port, or none: a free one is taken"
    ),
    symptom(r"no space left on device", "free some space, or set HF_HOME to another disk"),
    symptom(r"trust_remote_code", "its code is not run unless you ask: --server-arg --trust-remote-code"),
    symptom(
        r"modules_to_save|embed_tokens in .*adapter",
        "merge the adapter first: cai merge ADAPTER --out FOLDER, then name that folder",
    ),
    symptom(
        r"failed to infer device type|no cuda gpus are available|libcuda\.so|found no nvidia driver|driver version is "
        r"insufficient",
        "no GPU can be used here: check nvidia-smi and CUDA_VISIBLE_DEVICES",
    ),
    symptom(r"no module named|cannot import name", "its environment is incomplete: install the server again"),
)


def reason(log: Path, symptoms: Iterable[Symptom], model: str) -> str | None:
    """What a log says went wrong, and what to do next; None if it says nothing."""
    lines = last_lines(log, READ)
    for known in symptoms:
        for line in reversed(lines):
            if known.pattern.search(line):
                return f"{quoted(line)}: {known.advice.replace('{model}', model)}"
    errors = [line for line in lines if ERROR.search(line) and not SECOND.search(line)]
    said = [*lines[-1:], *errors[-1:]]
    return quoted(said[-1]) if said else None


def quoted(line: str) -> str:
    """A line of a log as a part of a sentence."""
    return shortened(one_line(line), LONGEST).rstrip(" .:")


def last_lines(log: Path, most: int = LINES) -> list[str]:
    """The last lines of a log as they can be shown: without stamps, colours, secrets, and what was drawn over."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - READ))
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return []
    for secret in secrets_of(os.environ):
        text = text.replace(secret, "***")
    text = TOKEN.sub("***", COLOURS.sub("", text))
    drawn = [line.rstrip().rpartition("\r")[2] for line in text.split("\n")]
    shown = [printable(STAMP.sub("", line)).rstrip() for line in drawn]
    return list(filter(None, shown))[-most:]


def secrets_of(environment: Mapping[str, str]) -> list[str]:
    """Values of the environment that a server may write into its log, and that nobody should read there."""
    return [value for name, value in environment.items() if SECRET.search(name) and len(value) >= 8]
