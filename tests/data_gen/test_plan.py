import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from data_gen import GenerateSettings, plan
from supernet import Families, InputError, OpSubset, UnionSpace
from supernet.limits import within

SPACE = OpSubset()


@given(st.integers(1, 200), st.floats(0, 1), st.integers(0, 1000))
@settings(max_examples=20)
def test_first_trainings_are_distinct_and_repeats_follow(count, fraction, seed):
    planned = plan(SPACE, GenerateSettings(architectures=count, repeat_fraction=fraction), {}, seed)
    first, again = planned[:count], planned[count:]
    assert len({architecture for architecture, _, _ in first}) == count
    assert {(training_seed, role) for _, training_seed, role in first} == {(seed, "sample")}
    assert [architecture for architecture, _, _ in again] == [
        architecture for architecture, _, _ in first[: len(again)]
    ]
    assert {(training_seed, role) for _, training_seed, role in again} <= {(seed + 1, "repeat")}
    assert len(again) == round(fraction * count)
    assert all(SPACE.is_valid(architecture.row())[0] for architecture, _, _ in planned)


@pytest.mark.parametrize("limits", [{}, {"macs": 12_000_000}])
def test_a_larger_plan_begins_with_a_smaller(limits):
    small, large = (plan(SPACE, GenerateSettings(architectures=count), limits, 3) for count in (50, 400))
    assert large[:50] == small
    assert len(large) == 400
    rows = np.concatenate([architecture.row() for architecture, _, _ in large])
    assert within(SPACE, rows, limits).all()


def test_a_plan_is_a_function_of_its_seed():
    first, again, other = (plan(SPACE, GenerateSettings(architectures=20), {}, seed) for seed in (0, 0, 1))
    assert first == again
    assert not {architecture for architecture, _, _ in first} & {architecture for architecture, _, _ in other}


def test_of_a_union_each_member_has_as_many():
    members = {
        "vgg": Families(family="vgg", depth=(2, 4), channels=(4, 8), max_pools=1),
        "dense": Families(family="densenet", depth=(1, 3), growths=(2, 4), layers=(1, 2)),
    }
    union = UnionSpace(input_size=8, members=members)
    limits = {"macs": 400_000}
    small, large = (plan(union, GenerateSettings(architectures=count), limits, 3) for count in (5, 12))
    assert large[:5] == small
    names = [union.member(architecture) for architecture, _, _ in large]
    assert names == ["vgg", "dense"] * 6
    assert within(union, np.concatenate([architecture.row() for architecture, _, _ in large]), limits).all()
    repeated = plan(union, GenerateSettings(architectures=6, repeat_fraction=0.5), limits, 3)
    assert [role for _, _, role in repeated] == ["sample"] * 6 + ["repeat"] * 3
    with pytest.raises(InputError, match="member 'dense': limit macs"):
        plan(union, GenerateSettings(architectures=5), {"macs": 40_000}, 3)


def test_limits_that_leave_nothing_are_refused():
    with pytest.raises(InputError, match="limit macs: 1,000 is below the cheapest architecture"):
        plan(SPACE, GenerateSettings(architectures=20), {"macs": 1000}, 0)


@pytest.mark.parametrize("wrong", [{"architectures": 0}, {"repeat_fraction": 1.1}, {"architecture": 3}])
def test_settings_are_checked(wrong):
    with pytest.raises(ValidationError):
        GenerateSettings.model_validate(wrong)
