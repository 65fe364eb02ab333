"""What an audit found, told as a table, and held against the limits of `--fail-on`.

Knows by name all that is measured; nothing of datasets.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import get_close_matches

from cai.errors import UsageError
from cai.records import Record
from cai.texts.hygiene import FAULTS

OF_REPLIES = ("empty", "refusal", "refusal_full", "refusal_partial", *FAULTS)  # "refusal" is either of the two
OF_PAIRS = ("identical", "near_identical", "both_refused", "chosen_longer")
OF_PROMPTS = ("duplicate_prompt", "near_duplicate_prompt", "overlap", "near_overlap")
MEASURES = ("bad", *OF_REPLIES, *OF_PAIRS, *OF_PROMPTS)  # the names that `--fail-on` knows


class ReplyAudit(Record):
    """What was found in the replies of one role."""

    replies: int
    characters: float  # on average
    counts: dict[str, int]  # by name, of OF_REPLIES
    rates: dict[str, float]  # counts over replies
    phrases: tuple[tuple[str, float], ...]  # runs of words that many replies hold, with the share that does


class Audit(Record):
    """What was found in a dataset; rates are shares in [0, 1], None where there is nothing to take a share of."""

    source: str
    rows: int  # with a reply
    bad: int  # records without one
    bad_rows: tuple[tuple[int, str], ...]  # the first of them: line and problem
    prompts: int  # rows whose prompt is known
    pairs: int
    roles: dict[str, ReplyAudit]
    counts: dict[str, int]
    rates: dict[str, float | None]  # by name, of MEASURES; those of replies are over all roles
    notes: tuple[str, ...]

    def lines(self) -> list[str]:
        """The audit as a table, for people."""
        told = [f"{self.source}: {self.rows:,} rows, {self.bad:,} without a reply that can be read"]
        told += [f"  line {line}: {problem}" for line, problem in self.bad_rows]
        told += ["", f"{'':24}" + "".join(f"{role:>12}" for role in self.roles)]
        told.append(f"{'replies':24}" + "".join(f"{found.replies:>12,}" for found in self.roles.values()))
        told.append(f"{'characters, on average':24}" + "".join(f"{r.characters:>12,.0f}" for r in self.roles.values()))
        for name in OF_REPLIES:
            told.append(
                f"{name.replace('_', ' '):24}" + "".join(f"{r.rates[name]:>12.1%}" for r in self.roles.values())
            )
        told.append("")
        for name in (*OF_PAIRS, *OF_PROMPTS):
            if (rate := self.rates[name]) is not None:
                told.append(f"{name.replace('_', ' '):24}{rate:>12.1%}{self.counts[name]:>12,}")
        for role, found in self.roles.items():
            told += [f"{share:6.1%} of {role}: “{phrase} …”" for phrase, share in found.phrases]
        return [*told, *(f"note: {note}" for note in self.notes)]

    def failures(self, limits: Mapping[str, float]) -> list[str]:
        """What exceeds its limit and by how much, one text each; raises UsageError where a rate has no value here."""
        found = []
        for name, limit in limits.items():
            role, _, measure = name.rpartition(".")
            rates: Mapping[str, float | None] = self.rates
            if role:
                if role not in self.roles:
                    raise UsageError(f"--fail-on {name}: there are no replies of {role!r}; {hint(role, self.roles)}")
                rates = self.roles[role].rates
            rate = rates.get(measure)
            if rate is None:
                raise UsageError(f"--fail-on {name}: {self.source} has nothing to measure it on")
            if rate > limit:
                found.append(f"{name} is {rate:.4g}, which is {rate - limit:.4g} above {limit:g}")
        return found


def read_limits(given: Iterable[str]) -> dict[str, float]:
    """The limits in texts such as "refusal_full=0.2,role_mixup=0"; a name may have a role before it, `chosen.empty`.

    Raises UsageError for a name that is not in MEASURES and a limit that is no share in [0, 1].
    """
    limits: dict[str, float] = {}
    for text in ",".join(given).split(","):
        name, equals, value = (part.strip() for part in text.partition("="))
        if not name and not equals:
            continue
        role, _, measure = name.rpartition(".")
        if measure not in (OF_REPLIES if role else MEASURES):
            raise UsageError(f"--fail-on {name!r} is nothing that is measured; {hint(measure, MEASURES)}")
        try:
            limits[name] = float(value)
        except ValueError:
            limits[name] = -1.0
        if not 0 <= limits[name] <= 1:
            raise UsageError(
                f"--fail-on {text.strip()!r}: write NAME=SHARE with a share from 0 to 1, such as {name}=0.1"
            )
    return limits


def hint(name: str, known: Iterable[str]) -> str:
    close = get_close_matches(name, [str(key) for key in known], n=1)
    return f"did you mean {close[0]!r}?" if close else f"known: {', '.join(map(str, known))}"
