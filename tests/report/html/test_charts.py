"""Scales and pictures: whatever the numbers are, they are on the scale, and nothing is drawn outside of it."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from cai.report.html.charts import SHARES, Curve, axis, bar, curves, dot, plain, scale_of, thinned

numbers = st.floats(-1e12, 1e12)


@given(st.lists(numbers, max_size=20), st.sampled_from([0.0, 0.1, 1e6]))
def test_a_scale_holds_its_numbers_between_few_ticks(values: list[float], least: float) -> None:
    scale = scale_of(values, plain, least=least)
    assert 2 <= len(scale.ticks) <= 8
    assert list(scale.ticks) == sorted(set(scale.ticks))
    room = 1e-6 * max(1.0, abs(scale.low), abs(scale.high))
    assert all(scale.low - room <= value <= scale.high + room for value in values)
    assert scale.high - scale.low >= least * (1 - 1e-9)
    assert all(0.0 <= scale.at(value) <= 1.0 for value in values)


@given(numbers, numbers, numbers)
def test_nothing_is_drawn_outside_of_its_column(value: float, low: float, high: float) -> None:
    picture = dot(SHARES, value, (low, high), "title", mark=value) + bar(3, 7, "title") + axis(SHARES)
    places = [float(place) for place in re.findall(r'(?:x|x1|x2|cx|width)="(-?[\d.]+)%"', picture)]
    assert places and all(0.0 <= place <= 100.0 for place in places)


@given(st.lists(st.tuples(numbers, numbers), max_size=1_000))
def test_curves_stay_in_their_picture(points: list[tuple[float, float]]) -> None:
    points = sorted(points)
    x, y = (scale_of([point[axis] for point in points], plain) for axis in (0, 1))
    picture = curves("title", [Curve("one", points), Curve("two", points[:1])], x, y, ("x", "y"))
    for path in re.findall(r' points="([^"]*)"', picture):
        for across, down in re.findall(r"(-?[\d.]+),(-?[\d.]+)", path):
            assert 0 <= float(across) <= 360 and 0 <= float(down) <= 230
    assert "nan" not in picture and "inf" not in picture


def test_a_picture_says_what_it_shows_to_a_reader_of_screens() -> None:
    picture = dot(SHARES, 0.5, (0.4, 0.6), "a < b: 50.0%")
    assert "<title>a &lt; b: 50.0%</title>" in picture
    assert 'aria-label="a &lt; b: 50.0%"' in picture


def test_labels_that_would_meet_are_every_second_one_with_nought() -> None:
    scale = scale_of([-0.0301, 0.041], plain)
    labels = re.findall(r">([^<]+)</text>", axis(scale, 12))
    assert "0" in labels and len(labels) < len(scale.ticks)


@given(st.lists(st.tuples(numbers, numbers), min_size=1, max_size=50), st.integers(2, 20))
def test_thinned_points_keep_both_ends(points: list[tuple[float, float]], most: int) -> None:
    fewer = thinned(points, most)
    assert len(fewer) == min(len(points), most)
    assert (fewer[0], fewer[-1]) == (points[0], points[-1])
