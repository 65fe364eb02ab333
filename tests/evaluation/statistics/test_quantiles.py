"""Quantiles are those of the tables."""

from __future__ import annotations

import pytest

from cai.evaluation.statistics.quantiles import LARGE, normal_quantile, quantile, t_quantile

TABLE = [  # degrees of freedom, level, quantile
    (1, 0.95, 12.7062047),
    (2, 0.95, 4.3026527),
    (3, 0.95, 3.1824463),
    (5, 0.95, 2.5705818),
    (10, 0.95, 2.2281389),
    (30, 0.95, 2.0422725),
    (99, 0.95, 1.9842170),
    (100, 0.95, 1.9839715),
    (1000, 0.95, 1.9623391),
    (4, 0.90, 2.1318468),
    (7, 0.99, 3.4994833),
    (250, 0.80, 1.2849471),
]


@pytest.mark.parametrize(("df", "level", "expected"), TABLE)
def test_a_quantile_of_t_is_that_of_the_table(df: int, level: float, expected: float) -> None:
    assert t_quantile(df, level) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(("share", "expected"), [(0, 1), (0.25, 3), (0.5, 5), (0.9, 9.2), (1, 11)])
def test_a_quantile_of_numbers_lies_between_two_of_them(share: float, expected: float) -> None:
    assert quantile([11, 2, 1, 5, 4, 8, 7], share) == pytest.approx(expected)
    assert quantile([3.0], share) == 3


def test_more_degrees_of_freedom_bring_t_down_to_the_normal_quantile_without_a_step() -> None:
    quantiles = [t_quantile(df) for df in (*range(1, 1000), 10**6, 10**9)]
    assert quantiles == sorted(quantiles, reverse=True)
    assert quantiles[-1] == pytest.approx(normal_quantile(), abs=1e-8)
    before, at, after = (t_quantile(LARGE + shift) for shift in (-1, 0, 1))
    assert before - at == pytest.approx(at - after, rel=0.05)


def test_every_quantile_of_t_is_that_of_scipy() -> None:
    stats = pytest.importorskip("scipy.stats")
    for df in range(1, 1001):
        for level in (0.8, 0.95, 0.99):
            assert t_quantile(df, level) == pytest.approx(stats.t.ppf((1 + level) / 2, df), abs=2e-6)
