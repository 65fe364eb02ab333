"""Online training stops and resumes at the end of a batch of replies, to the same weights."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("trl")
pytest.importorskip("peft")
from rewarded import Judge, train
from trainings import ctrl_c, losses, record, weights

from cai.errors import ServerDown

TWO_EPOCHS = {"epochs": 2.0, "save_every": 100, "split": 1.0}  # six steps each


@pytest.mark.parametrize(
    ("method", "pressed", "stops"),
    [
        ("rloo", 8, 9),  # in the second epoch
        pytest.param("grpo", 2, 3, marks=pytest.mark.slow),
        ("ppo", 2, 4),  # two steps from each batch of replies: after the third one it goes on to the fourth
    ],
)
def test_an_interrupted_training_goes_on_to_the_same_weights(
    base: Path, tmp_path: Path, method: str, pressed: int, stops: int
) -> None:
    flags = TWO_EPOCHS | ({"iterations": 2, "epochs": 1.0} if method == "ppo" else {})
    train(method, base, tmp_path / "whole", flags=flags)
    with pytest.raises(KeyboardInterrupt):
        train(method, base, tmp_path / "cut", flags=flags, progress=ctrl_c(pressed))
    assert max(losses(tmp_path / "cut")) == stops
    train(method, base, tmp_path / "cut", flags=flags)
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")
    assert weights(tmp_path / "cut") == weights(tmp_path / "whole")


def test_a_judge_that_stops_loses_no_step(base: Path, tmp_path: Path) -> None:
    train("rloo", base, tmp_path / "whole", reward=Judge(), flags=TWO_EPOCHS)
    told: list[str] = []
    with pytest.raises(ServerDown):
        train("rloo", base, tmp_path / "cut", reward=Judge(stops=7), flags=TWO_EPOCHS, tell=told.append)
    assert any(line.startswith("stopped; run the same command again") for line in told)
    assert max(losses(tmp_path / "cut")) == 6  # the seventh batch, the first one of the second epoch, got no reward
    assert not record(tmp_path / "cut")["finished"]
    judge = Judge()
    train("rloo", base, tmp_path / "cut", reward=judge, flags=TWO_EPOCHS)
    assert judge.calls == 6
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")
    assert weights(tmp_path / "cut") == weights(tmp_path / "whole")
