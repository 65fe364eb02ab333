"""The errors a user can meet, as one tree.

    CaiError                  one clear line; the command line prints it and exits 1
    ├── UsageError            a setting, name or combination that cannot be
    ├── InputError            a file the user wrote is wrong: it says which file, which line, what to do
    │   ├── ConstitutionError
    │   ├── TemplateError
    │   └── SourceError       prompt files
    ├── MissingExtra          an optional package is not installed; names the pip command
    ├── RunError              the run folder: of another run, in use, damaged, disk full
    ├── LossNotFinite         a training's loss or gradient is not a number; weights are those before the step
    ├── RowDropped            one row cannot go on; it is written to dropped.jsonl with `reason`
    └── ModelError
        ├── ModelStopped      no further call can succeed: the run ends, and can be resumed
        │   ├── AuthenticationFailed
        │   ├── UnknownModel
        │   ├── FieldRefused  the server does not take a field of the request; a flow may do without that request
        │   ├── ServerDown
        │   ├── Unreadable    a judge does not answer as it is asked to: the same command would end the same way
        │   └── BudgetReached
        ├── ModelBusy         429: the server asks for a pause; concurrency goes down, the call is sent again
        ├── ModelFault        a passing fault (5xx, reset, timeout, half a body): retried with backoff
        └── CallRejected      this call will never succeed: its row is dropped with `reason`

This module knows nothing of how errors are shown or retried.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cai.records import DropReason


class CaiError(Exception):
    """A problem the user can act on; `str(error)` is one line that says what is wrong and what to do next."""


class UsageError(CaiError):
    """A setting, name or combination of settings that cannot be."""


class InputError(CaiError):
    """A file the user wrote is wrong."""

    def __init__(self, message: str, path: str | Path | None = None, line: int | None = None) -> None:
        self.message = message
        self.path = path
        self.line = line
        if path is not None and line is not None:
            message = f"{path}:{line}: {message}"
        elif path is not None:
            message = f"{path}: {message}"
        super().__init__(message)


class ConstitutionError(InputError):
    """A constitution cannot be used."""


class TemplateError(InputError):
    """A template cannot be used."""


class SourceError(InputError):
    """A prompt file cannot be read."""


class MissingExtra(CaiError):
    """An optional package is not installed."""

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(f"{what} needs a package that is not installed: pip install 'cai-toolkit[{extra}]'")


class RunError(CaiError):
    """The run folder cannot be used or written."""


class LossNotFinite(CaiError):
    """The loss or a gradient became NaN or infinite; the weights are those before the step."""

    def __init__(self, message: str, rows: tuple[int, ...] = ()) -> None:
        self.rows = rows  # places of the batch's rows in the training data
        super().__init__(message)


class RowDropped(CaiError):
    """One row cannot go on; `reason` is a name from `records.DropReason`, `stage` where it fell out.

    calls: keys of its calls that were answered, as the row would have them.
    """

    def __init__(self, reason: DropReason, stage: str, detail: str, calls: tuple[str, ...] = ()) -> None:
        self.reason: DropReason = reason
        self.stage, self.detail, self.calls = stage, detail, calls
        super().__init__(f"{stage}: {reason}: {detail}")


class ModelError(CaiError):
    """A model did not answer."""


class ModelStopped(ModelError):
    """No further call can succeed; the run stops, keeps what was finished, and can be resumed."""


class AuthenticationFailed(ModelStopped):
    """The provider refused the key; the message names the variable and never the key."""


class UnknownModel(ModelStopped):
    """The provider does not know the model."""


class FieldRefused(ModelStopped):
    """The server does not take a field of the request, which is in every request of its kind."""


class ServerDown(ModelStopped):
    """The server did not answer for so long that going on would only drop rows."""


class Unreadable(ModelStopped):
    """The judge does not answer with a letter."""


class BudgetReached(ModelStopped):
    """The next call could cost more than what is left under the cap."""


class ModelBusy(ModelError):
    """The server asks for a pause (HTTP 429, or 503 with `Retry-After`), or is still loading its model."""

    def __init__(self, message: str, retry_after: float | None = None, *, loading: bool = False) -> None:
        self.retry_after = retry_after  # seconds; None where the server named no time
        self.loading = loading
        super().__init__(message)


class ModelFault(ModelError):
    """A passing fault: sent again with backoff and jitter."""

    def __init__(self, message: str, retry_after: float | None = None, *, reached: bool = False) -> None:
        self.retry_after = retry_after
        self.reached = reached  # there is a server, which failed on this request: it may answer the next one
        super().__init__(message)


class CallRejected(ModelError):
    """This call will never succeed; its row is dropped with `reason`, a name from `records.DropReason`."""

    def __init__(self, reason: DropReason, message: str, *, billed: bool = False) -> None:
        self.reason: DropReason = reason
        self.billed = billed  # the model answered, and will be paid, but the answer cannot be used
        super().__init__(message)
