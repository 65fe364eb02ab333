"""The folder of a reward server, and the one reward that it gives."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from cai.disk.locks import LOCK, lock_folder
from cai.disk.reading import check_files
from cai.errors import RunError, UsageError
from cai.folder.journal.durability import BESIDE
from cai.models import open_model
from cai.rewards.calls import RewardCalls
from cai.rewards.completions import FILE, Completions
from cai.rewards.judge import JudgeReward
from cai.rewards.model import ModelReward
from cai.rewards.settings import RewardSettings
from cai.texts.wording import option

OF_JUDGES = ("constitution", "scoring", "principles", "protocol", "templates")
OWN = ("calls.sqlite", "calls.sqlite-shm", *BESIDE, FILE, LOCK)


@contextmanager
def opened(folder: Path, settings: RewardSettings) -> Iterator[JudgeReward | ModelReward]:
    """The reward of the judge that the settings name, or of a reward model; the folder is locked meanwhile.

    Raises RunError if the folder is in use or holds something else, UsageError for what cannot be asked.
    """
    calls, completions = RewardCalls(folder, settings), Completions(folder)
    reward: JudgeReward | ModelReward
    can = open_model(settings.judge, settings.connection).can
    if can.reward and can.condition is None:
        _check_unused(settings)
        reward = ModelReward("reward", calls, completions, settings.judge)
    else:
        reward = JudgeReward("judge", calls, completions)
    with closing(lock_folder(folder, lambda: _check_ours(folder))):
        calls.check()
        completions.known()
        yield reward


def _check_unused(settings: RewardSettings) -> None:
    """UsageError for settings that say how a judge is asked, of a reward model, which is asked nothing."""
    for name in OF_JUDGES:
        if getattr(settings, name) != RewardSettings.model_fields[name].default:
            raise UsageError(f"{option(name)} is for judges: a reward model rates each reply by itself; leave it out")


def _check_ours(folder: Path) -> None:
    """RunError for a folder of something else, before anything is written there."""
    check_files(folder, OWN)
    others = sorted({path.name for path in folder.iterdir()} - {*OWN})
    if others:
        raise RunError(f"{folder} holds something else ({', '.join(others[:3])}): name another --out")
