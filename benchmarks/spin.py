"""What the waiting threads of a training cost where other programs want the cores, by GOMP_SPINCOUNT.

    python benchmarks/spin.py [--seconds 60]

Threads of libgomp that wait for the others turn in a loop: by default for milliseconds, so that on cores which are
shared they take the time that the others need. Gradients of the embedded model in bfloat16, 512 tokens a step, with
each setting alone, and beside two programs that keep a core busy each. Prints tokens a second, and the ratio to
libgomp's own setting. Linux only: elsewhere torch has another OpenMP.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time

STEPS, ROWS, TOKENS = 4, 2, 256
BUSY = "while True: pass"
SETTINGS = ("1000", "10000", "100000")  # rounds of the loop


def measure() -> None:
    """Print the tokens a second of some steps, after one that warms up."""
    import torch
    from transformers import AutoModelForCausalLM

    from cai.weights.bases import find_base
    from cai.weights.vendors import quiet

    with quiet():
        model = AutoModelForCausalLM.from_pretrained(find_base("local").place, dtype=torch.bfloat16)
    model.requires_grad_(False).get_input_embeddings().requires_grad_(True)  # gradients of what an adapter has, no more
    ids = torch.randint(0, 40_000, (ROWS, TOKENS))
    for step in range(STEPS + 1):
        if step == 1:
            began = time.perf_counter()
        model(input_ids=ids, labels=ids).loss.backward()
    print(STEPS * ROWS * TOKENS / (time.perf_counter() - began))


def ask(setting: str | None, seconds: float) -> float | None:
    """Tokens a second with a setting, None for libgomp's own; None where it takes longer than `seconds`."""
    found = {name: value for name, value in os.environ.items() if name not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    found |= {} if setting is None else {"GOMP_SPINCOUNT": setting}
    command = [sys.executable, __file__, "--measure"]
    try:
        done = subprocess.run(command, env=found, stdout=subprocess.PIPE, text=True, check=True, timeout=seconds)
    except subprocess.TimeoutExpired:
        return None
    return float(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0, help="most that one measurement may take")
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure:
        return measure()
    print(f"| beside | libgomp's own | {' | '.join(SETTINGS)} |\n|---|---|---|---|---|")
    for busy in (0, 2):
        others = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(busy)]
        try:
            rates = [ask(setting, given.seconds) for setting in (None, *SETTINGS)]
        finally:
            for other in others:
                other.kill()
                other.wait()
        least = STEPS * ROWS * TOKENS / given.seconds
        own = rates[0] or least
        told = [
            f"under {least:.0f} tokens/s" if rate is None else f"{rate:.0f} tokens/s ({rate / own:.2f})"
            for rate in rates
        ]
        print(f"| {busy} busy programs | {' | '.join(told)} |", flush=True)


if __name__ == "__main__":
    main()
