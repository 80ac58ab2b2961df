"""Schedules: ends, shapes, plain data."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mrfq import Constant, Cosine, Geometric, InvalidParameterError, Linear, Step, UnknownNameError
from mrfq.plain import from_plain, kinds, to_plain
from mrfq.projections import SoftStaircase
from mrfq.schedules import Harmonic, InverseSigmoid, Schedule, as_schedule

MONOTONE = [Geometric(1, 1e4), Geometric(5, 0.1), Linear(0, 3), Cosine(), InverseSigmoid(), InverseSigmoid(20, 0.3)]
progress = st.floats(0, 1)


@pytest.mark.parametrize("schedule", [Geometric(2, 7), Linear(2, 7), Cosine(2, 7)])
def test_schedules_go_from_first_to_last(schedule):
    assert schedule(0.0) == pytest.approx(2, rel=1e-14)
    assert schedule(1.0) == pytest.approx(7, rel=1e-14)


@pytest.mark.parametrize("schedule", MONOTONE)
@given(a=progress, b=progress)
def test_schedules_are_monotone(schedule, a, b):
    a, b = min(a, b), max(a, b)
    rise = (schedule(b) - schedule(a)) * (schedule(1.0) - schedule(0.0))
    assert rise >= -1e-9 * abs(schedule(1.0) * schedule(0.0))


@given(t=progress)
def test_geometric_grows_by_a_constant_factor(t):
    assert math.log10(Geometric(1, 1e4)(t)) == pytest.approx(4 * t, abs=1e-12)


def test_the_slope_of_parq_falls_from_one_to_nothing():
    schedule = InverseSigmoid(last=1e12)
    assert 1 / schedule(0.0) == pytest.approx(1, rel=1e-14)
    assert schedule(1.0) == 1e12
    assert 1 / schedule(0.5) == pytest.approx(0.5, rel=1e-12)


def test_harmonic_is_the_step_of_frank_wolfe():
    assert [Harmonic()(0.3, k) for k in range(4)] == [2 / (k + 2) for k in range(4)]


def test_constant_schedules_say_so():
    assert Constant(3).constant
    assert Geometric(2, 2).constant
    assert not any(schedule.constant for schedule in (*MONOTONE, Harmonic()))


def test_a_number_is_a_constant_schedule():
    assert as_schedule(2) == Constant(2.0)
    assert as_schedule(MONOTONE[0]) is MONOTONE[0]


@pytest.mark.parametrize(("first", "last"), [(0, 1), (1, -1)])
def test_geometric_refuses_ends_that_are_not_positive(first, last):
    with pytest.raises(InvalidParameterError, match="positive ends"):
        Geometric(first, last)


@pytest.mark.parametrize("value", [*MONOTONE, Constant(2), Harmonic(), SoftStaircase("interval"), Step(0.1, "adam")])
def test_plain_data_and_back(value):
    text = json.dumps(to_plain(value))
    assert from_plain(json.loads(text)) == value


def test_every_schedule_is_a_kind_of_plain_data():
    own = {kind.__name__ for kind in Schedule.__subclasses__() if kind.__module__ == "mrfq.schedules"}
    assert own <= set(kinds())


@pytest.mark.parametrize(
    ("plain", "error", "message"),
    [
        ({"kind": "Geometrc", "first": 1, "last": 2}, UnknownNameError, "did you mean 'Geometric'"),
        ({"kind": "Geometric", "frist": 1, "last": 2}, UnknownNameError, "did you mean 'first'"),
        ({"kind": "Geometric", "first": 1}, InvalidParameterError, "last"),
        ({"first": 1}, InvalidParameterError, "needs 'kind' or 'solver'"),
        ({"solver": "icn"}, UnknownNameError, "did you mean 'icm'"),
        ({"solver": "icm", "ordr": "fixed"}, UnknownNameError, "did you mean 'order'"),
    ],
)
def test_bad_plain_data_is_named(plain, error, message):
    with pytest.raises(error, match=message):
        from_plain(plain)


@pytest.mark.parametrize(("options", "message"), [({"rate": -1.0}, "rate"), ({"optimizer": "lbfgs"}, "lbfgs")])
def test_bad_step_rules_are_named(options, message):
    with pytest.raises(InvalidParameterError, match=message):
        Step(**options)
