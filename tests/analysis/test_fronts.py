import csv
import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.front_file import ensemble_members
from analysis.fronts import (
    Member,
    combine_seeds,
    compare,
    front_volume,
    member_from_json,
    member_to_json,
    non_dominated,
)
from supernet import InputError
from tests.data import TABLES

REFERENCE = (5e6, 0.15)
PUBLISHED = TABLES / "mood_nas"


def member(params, error, name="", **more):
    plain = {"series": "ours", "images": 10_000, "split": "test", "macs": 100 * params}
    return Member(name=name or f"{params}-{error}", params=params, error=error, **(plain | more))


members = st.lists(
    st.builds(
        member,
        st.integers(1, 60).map(lambda step: step * 100_000),
        st.integers(0, 40).map(lambda step: step / 200),
    ),
    max_size=12,
)


def volume(some, cost="params", reference=REFERENCE):
    return front_volume(some, cost, *reference, seed=0, draws=5)


def test_a_front_by_hand():
    some = [
        member(4_000_000, 0.03),
        member(1_000_000, 0.10),
        member(2_000_000, 0.05),
        member(2_000_000, 0.05, "again"),
        member(2_000_000, 0.06),
        member(3_000_000, 0.05),
        member(1_500_000, 0.12),
    ]
    assert [one.name for one in non_dominated(some, "params")] == ["1000000-0.1", "2000000-0.05", "4000000-0.03"]
    found = volume(some)
    assert found.value == pytest.approx(1 * 5 + 2 * 10 + 1 * 12)
    assert (found.cost, found.unit) == ("params", "M parameters x points")
    assert (found.reference_cost, found.reference_error) == REFERENCE
    by_macs = volume(some, "macs", (500e6, 0.15))
    assert by_macs.value == pytest.approx(3700)
    assert by_macs.unit == "M MACs x points"


def test_only_what_lies_below_the_reference_counts():
    inside = member(2_000_000, 0.05)
    outside = [member(5_000_000, 0.01), member(9_000_000, 0.0), member(100_000, 0.15), member(100_000, 0.9)]
    assert volume([inside, *outside]).value == pytest.approx(30)
    assert volume(outside).value == 0
    assert volume([]) == front_volume([], "params", *REFERENCE, seed=1)


def test_a_latency_is_a_cost_of_those_that_were_timed():
    timed = member(1, 0.05, latency={"cpu batch 1": 3.0})
    some = [timed, member(1, 0.01)]
    assert non_dominated(some, "cpu batch 1") == (timed,)
    found = volume(some, "cpu batch 1", (10.0, 0.15))
    assert found.value == pytest.approx(7 * 10)
    assert found.unit == "ms x points"


@pytest.mark.skipif(not PUBLISHED.is_dir(), reason="no published table")
def test_the_published_volume():
    some = []
    for path in sorted(PUBLISHED.glob("logs_batch_train_cifar10*.csv")):
        with path.open() as file:
            some += [
                member(round(1e6 * float(row["Size"])), 1 - float(row["test_acc"]) / 100)
                for row in csv.DictReader(file)
            ]
    assert (len(some), len(non_dominated(some, "params"))) == (37, 12)
    assert volume(some).value == pytest.approx(39.06, abs=0.005)


@given(members, st.randoms(use_true_random=False))
def test_neither_order_nor_what_is_dominated_changes_the_value(some, random):
    front = non_dominated(some, "params")
    shuffled = random.sample(some, len(some))
    assert [(one.params, one.error) for one in non_dominated(shuffled, "params")] == [
        (one.params, one.error) for one in front
    ]
    value = volume(some).value
    assert volume(shuffled).value == pytest.approx(value)
    assert volume(front).value == pytest.approx(value)
    costs, errors = [one.params for one in front], [one.error for one in front]
    assert costs == sorted(set(costs))
    assert errors == sorted(set(errors), reverse=True)


@given(members, members)
def test_a_volume_never_falls_with_a_member(some, more):
    value, larger = volume(some).value, volume(some + more).value
    assert 0 <= value <= larger + 1e-9
    assert larger <= 5 * 15


@given(members)
@settings(max_examples=30)
def test_a_front_is_no_better_than_itself(some):
    same = compare(some, list(reversed(some)), "params", REFERENCE, draws=20)
    assert (same.value, same.low, same.high) == pytest.approx((0, 0, 0), abs=1e-9)


def test_a_difference_has_the_sign_and_the_size_of_what_is_better():
    worse, better = [member(2_000_000, 0.06)], [member(2_000_000, 0.05)]
    found = compare(better, worse, "params", REFERENCE)
    assert found.value == pytest.approx(3 * 1)
    deviation = 3 * 100 * math.sqrt((0.05 * 0.95 + 0.06 * 0.94) / 10_000)
    assert found.high - found.low == pytest.approx(2 * 1.96 * deviation, rel=0.1)
    assert found.low > 0
    turned = compare(worse, better, "params", REFERENCE)
    assert turned.value == -found.value
    assert turned.high < 0
    alike = compare(better, worse, "params", REFERENCE, shared=0.9)
    assert alike.high - alike.low < 0.5 * (found.high - found.low)


def test_one_networks_interval_is_that_of_its_error():
    found = front_volume([member(2_000_000, 0.05)], "params", *REFERENCE, seed=0)
    half = 1.96 * 3 * 100 * math.sqrt(0.05 * 0.95 / 10_000)
    assert found.low == pytest.approx(30 - half, abs=0.15 * half)
    assert found.high == pytest.approx(30 + half, abs=0.15 * half)
    assert found == front_volume([member(2_000_000, 0.05)], "params", *REFERENCE, seed=0)
    assert found != front_volume([member(2_000_000, 0.05)], "params", *REFERENCE, seed=1)


@pytest.mark.parametrize("correlation", [0.0, 0.5])
def test_the_interval_holds_the_true_volume_about_as_often_as_it_says(correlation):
    """True errors are known here; what was measured is drawn with errors that networks share to a degree."""
    random = np.random.default_rng(3)
    costs = np.linspace(1.4e6, 4.6e6, 12).astype(int)
    true = 0.03 + 0.09 * np.exp(-1.5 * (costs - 1.4e6) / 1e6)
    truth = volume([member(int(cost), error) for cost, error in zip(costs, true, strict=True)]).value
    held, below = 0, 0
    for _ in range(60):
        noise = math.sqrt(correlation) * random.normal() + math.sqrt(1 - correlation) * random.normal(size=12)
        measured = true + noise * np.sqrt(true * (1 - true) / 2_000)
        some = [member(int(cost), float(error), images=2_000) for cost, error in zip(costs, measured, strict=True)]
        found = front_volume(some, "params", *REFERENCE, seed=0, draws=150)
        held += found.low <= truth <= found.high
        below += found.high < truth
    assert held >= 52
    assert below <= 6  # it does not miss on the flattering side alone


def test_the_interval_takes_off_what_the_lowest_of_many_flatters():
    some = [member(1_000_000 + step, 0.05) for step in range(40)]
    found = front_volume(some, "params", *REFERENCE, seed=0, shared=0)
    assert found.high < found.value


def test_seeds_are_one_network():
    seeds = [member(7, 0.05, "a", images=100), member(7, 0.07, "a", images=300), member(7, 0.5, "b")]
    one, other = combine_seeds(seeds)
    assert (one.name, one.images) == ("a", 400)
    assert one.error == pytest.approx(0.065)
    assert other == seeds[2]
    with pytest.raises(InputError, match="several parameters"):
        combine_seeds([seeds[0], member(8, 0.05, "a")])


@pytest.mark.parametrize(
    ("reference", "shared", "what"),
    [((0.0, 0.15), 0.5, "reference"), ((5e6, math.inf), 0.5, "reference"), ((5e6, 0.15), 1.5, "correlation")],
)
def test_odd_questions_are_refused(reference, shared, what):
    with pytest.raises(InputError, match=what):
        front_volume([member(1, 0.1)], "params", *reference, seed=0, shared=shared)


def test_validation_and_test_errors_do_not_mix():
    with pytest.raises(InputError, match="test and validation"):
        volume([member(1, 0.1), member(2, 0.1, split="validation")])
    with pytest.raises(InputError, match="test and validation"):
        compare([member(1, 0.1)], [member(2, 0.1, split="validation")], "params", REFERENCE)


def test_a_member_survives_json():
    one = member(3, 0.125, latency={"cuda batch 64": 1.5}, note="width 16")
    assert member_from_json(json.loads(json.dumps(member_to_json(one))), "here") == one
    assert member_from_json({**member_to_json(one), "key": "more"}, "here") == one


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"error": 1.2}, "error"),
        ({"error": math.nan}, "error"),
        ({"images": 0}, "images"),
        ({"params": "3"}, "params"),
        ({"split": "train"}, "split"),
        ({"latency": {"cpu batch 1": -1.0}}, "latency.cpu batch 1"),
        ({"name": ""}, "name"),
    ],
)
def test_a_damaged_member_is_refused_with_its_place(change, what):
    with pytest.raises(InputError, match=rf"file: members\.3: {what}"):
        member_from_json({**member_to_json(member(3, 0.1)), **change}, "file: members.3")
    with pytest.raises(InputError, match="file"):
        member_from_json([], "file")


def test_ensembles_are_read_where_there_are_any(tmp_path):
    path = tmp_path / "ensemble.json"
    assert ensemble_members(path) == ()
    path.write_text(json.dumps({"seconds": 3}))
    assert ensemble_members(path) == ()
    one = member(3, 0.1, series="ensembles")
    path.write_text(json.dumps({"front_members": [member_to_json(one)]}))
    assert ensemble_members(path) == (one,)
    path.write_text(json.dumps({"front_members": [{}]}))
    with pytest.raises(InputError, match=r"front_members\.0: name"):
        ensemble_members(path)
    path.write_text(json.dumps({"front_members": 3}))
    with pytest.raises(InputError, match="expected a list"):
        ensemble_members(path)
