"""The images of a calibration."""

from __future__ import annotations

import random
import subprocess
import sys

import pytest

pytest.importorskip("matplotlib")

from cai.engine.letters import probability
from cai.judge.certify import certify_all
from cai.judge.plots import check_plots, plot_reliability, plot_risk_coverage

PNG = b"\x89PNG\r\n\x1a\n"
CHANCE = random.Random(0)
ZS = [CHANCE.gauss(0, 5) for _ in range(300)]
TRUTHS = [CHANCE.random() < probability(z, 2) for z in ZS]
BEFORE, AFTER = [probability(z) for z in ZS], [probability(z, 2) for z in ZS]
TRIVIAL = {"always the first": 0.5, "the longer reply": 0.61}


def size(image: bytes) -> tuple[int, int]:
    assert image.startswith(PNG)
    return int.from_bytes(image[16:20], "big"), int.from_bytes(image[20:24], "big")


def test_plots_are_images_of_a_readable_size() -> None:
    check_plots()
    for image in (
        plot_reliability(BEFORE, AFTER, TRUTHS),
        plot_risk_coverage(BEFORE, TRUTHS, TRIVIAL, certify_all(BEFORE, TRUTHS)),
    ):
        assert size(image) == (960, 780)


def test_the_same_numbers_make_the_same_image_and_others_another() -> None:
    image = plot_reliability(BEFORE, AFTER, TRUTHS)
    assert plot_reliability(BEFORE, AFTER, TRUTHS) == image
    assert plot_reliability(BEFORE, BEFORE, TRUTHS) != image
    curve = plot_risk_coverage(BEFORE, TRUTHS, TRIVIAL, certify_all(BEFORE, TRUTHS))
    assert plot_risk_coverage(BEFORE, TRUTHS, TRIVIAL, {}) != curve  # the certified thresholds are marked
    assert plot_risk_coverage(BEFORE, TRUTHS, {}, certify_all(BEFORE, TRUTHS)) != curve


def test_one_pair_and_certain_pairs_can_be_drawn() -> None:
    for ps, truths in (([0.5], [True]), ([1.0, 0.0], [True, True])):
        for image in (plot_reliability(ps, ps, truths), plot_risk_coverage(ps, truths, TRIVIAL, {"0.8": None})):
            assert size(image) == (960, 780)


def test_drawing_leaves_matplotlibs_global_state_alone() -> None:
    code = (
        "import sys; from cai.judge.plots import plot_reliability; plot_reliability([.9], [.8], [True]); "
        "sys.exit('matplotlib.pyplot' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0
