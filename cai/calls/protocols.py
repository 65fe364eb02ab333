"""How a judge can be asked: the protocols, the best first, each with what it needs of a model."""

from __future__ import annotations

from cai.errors import UsageError
from cai.records import Abilities, Protocol


def choose_protocol(wanted: Protocol | None, can: Abilities, name: str, *, completes: bool = False) -> Protocol:
    """The protocol asked for, or the best one for what a model can do; raises UsageError if it cannot be used.

    Typed questions are the best of a model that is known to answer them; others are asked them only on demand.
    completes: whether the templates write text to be continued, which no typed question is about.
    """
    if can.reward:
        own: Protocol = "reward" if can.condition is None else "conditioned"
        if wanted not in (None, own):
            raise UsageError(f"{name} is a reward model: its protocol is {own}")
        return own
    if can.guard:
        raise UsageError(f"{name} is a guard model: it rates single replies; name it as cai evaluate --harm")
    if wanted in ("reward", "conditioned"):
        raise UsageError(f"{name} is not a reward model: use reward:PATH")
    if wanted == "decide" and completes:
        raise UsageError(
            "--protocol decide asks about messages, and these templates write a text to continue: use --templates chat"
        )
    if wanted is None and can.decides and not completes:
        return "decide"
    protocols: dict[Protocol, bool] = {  # the best first, each with whether the model can answer it
        "logprob": can.logprobs > 0,
        "score": can.scoring,
        "vote": True,
        "reason": can.logprobs > 0 or can.scoring,
        "decide": can.decisions > 0,
    }
    best = next(protocol for protocol, is_usable in protocols.items() if is_usable)
    if wanted is None:
        return best
    if not protocols[wanted]:
        lack = "takes no typed questions" if wanted == "decide" else "gives no such probabilities"
        raise UsageError(f"--protocol {wanted}: {name} {lack}; use --protocol {best}")
    return wanted
