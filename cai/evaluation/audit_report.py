"""The result of an audit: as JSON, as the table of counts and shares that is printed, and compared with `--fail-on`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from pydantic import TypeAdapter, ValidationError

from cai.errors import UsageError
from cai.judge.certify import Share
from cai.records import Record, Values
from cai.texts.hygiene import FAULTS
from cai.texts.wording import nearest, report_lines

OF_REPLIES = ("empty", "refusal", "refusal_full", "refusal_partial", *FAULTS)  # "refusal" is either of the two
OF_ROWS = {  # measures of pairs and prompts, each with what it is a share of
    **dict.fromkeys(("identical", "near_identical", "both_refused"), "pairs"),
    "chosen_longer": "ranked",
    **dict.fromkeys(("duplicate_prompt", "near_duplicate_prompt"), "prompts"),
    **dict.fromkeys(("overlap", "near_overlap"), "compared"),
}
MEASURES = {"bad": "records", **dict.fromkeys(OF_REPLIES, "replies"), **OF_ROWS}  # the names that `--fail-on` knows


class ReplyAudit(Record):
    """The faults in the replies of one role."""

    replies: int
    characters: float  # on average
    counts: dict[str, int]  # by name, of OF_REPLIES
    rates: dict[str, float]  # counts over replies
    phrases: tuple[tuple[str, float], ...]  # runs of words that many replies hold, with the share that does


class Audit(Record):
    """The faults in a dataset; rates are shares in [0, 1], None if there is nothing to take a share of."""

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

    def summary(self) -> Values:
        """The audit as JSON."""
        return self.model_dump(mode="json")

    def lines(self) -> list[str]:
        """The audit as a table, for people."""
        return report_lines(__file__, audit=self, of_replies=OF_REPLIES, of_rows=OF_ROWS)

    def failures(self, limits: Mapping[str, float]) -> list[str]:
        """What exceeds its limit and by how much, one text each; raises UsageError if a rate has no value here."""
        failures = []
        for name, limit in limits.items():
            role, _, measure = name.rpartition(".")
            rates: Mapping[str, float | None] = self.rates
            if role in self.roles:
                rates = self.roles[role].rates
            elif role:
                raise UsageError(f"--fail-on {name}: there are no replies of {role!r}; {nearest(role, self.roles)}")
            rate = rates.get(measure)
            if rate is None:
                raise UsageError(f"--fail-on {name}: {self.source} has nothing to measure it on")
            if rate > limit:
                failures.append(f"{name} is {rate:.4g}, which is {rate - limit:.4g} above {limit:g}")
        return failures


def read_limits(options: Iterable[str]) -> dict[str, float]:
    """The limits in texts such as "refusal_full=0.2,role_mixup=0"; a name may have a role before it, `chosen.empty`.

    Raises UsageError for a name that is not in MEASURES and a limit outside [0, 1].
    """
    limits: dict[str, float] = {}
    for text in ",".join(options).split(","):
        name, equals, value = (part.strip() for part in text.partition("="))
        if not name and not equals:
            continue
        role, _, measure = name.rpartition(".")
        if measure not in MEASURES or (role and measure not in OF_REPLIES):
            raise UsageError(f"--fail-on {name!r} is not measured; {nearest(measure, MEASURES)}")
        try:
            limits[name] = TypeAdapter(Share).validate_python(value)
        except ValidationError:
            example = f"write NAME=SHARE with a share from 0 to 1, such as {name}=0.1"
            raise UsageError(f"--fail-on {text.strip()!r}: {example}") from None
    return limits
