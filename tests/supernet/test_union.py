import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from scipy.stats import chisquare

from evolution import SearchSettings, evolve
from predictor import fit_predictor
from supernet import (
    COST_NAMES,
    Architecture,
    Bound,
    DavidNet,
    Families,
    InputError,
    LabelRow,
    LabelTable,
    OpSubset,
    UnionSpace,
    architectures,
    sample_distinct,
)
from supernet.limits import costliest, within
from supernet.spaces import make_space
from tests.supernet.ladder import every_row
from tests.supernet.spaces import union_spaces

MEMBERS = {
    "vgg": {"kind": "families", "family": "vgg", "depth": (1, 3), "channels": (4, 8), "max_pools": 1},
    "dense": {"kind": "families", "family": "densenet", "depth": (1, 2), "growths": (2, 4), "layers": (1, 2)},
    "flat": {"kind": "op_subset", "layers": ({"channels": 8},), "operations": ("skip", "sep_conv_3")},
}
UNION = UnionSpace.model_validate({"input_size": 8, "input_channels": 1, "classes": 10, "members": MEMBERS})
TINY = UnionSpace(
    input_size=8,
    members={
        "chain": Families(family="vgg", depth=(1, 2), channels=(4,), kernels=(3,), max_pools=1),
        "flat": OpSubset(layers=({"channels": 4},), operations=("skip", "sep_conv_3")),
        "one": OpSubset(layers=({"channels": 4},), operations=("sep_conv_3",)),
    },
)
seeds = st.integers(0, 2**32)


def rows_of(space, count, seed=0):
    return space.sample(count, np.random.default_rng(seed))


class TestSettings:
    @pytest.mark.parametrize(("key", "value"), [("input_size", 8), ("input_channels", 1), ("classes", 10)])
    def test_a_member_says_nothing_of_pictures_and_classes(self, key, value):
        with pytest.raises(ValidationError, match=f"{key} is the union's; expected it beside members"):
            UnionSpace.model_validate({"members": {"vgg": {"kind": "families", key: value}}})

    def test_a_member_in_python_may_have_the_same_pictures_but_no_others(self):
        assert UnionSpace(input_size=8, members={"a": Families(input_size=8)}).members["a"].input_size == 8
        with pytest.raises(ValidationError, match="input_size is the union's"):
            UnionSpace(input_size=8, members={"a": Families(input_size=16)})
        again = UnionSpace(**{key: getattr(UNION, key) for key in ("input_size", "input_channels", "classes")},
                           members=UNION.members)  # fmt: skip
        assert again == UNION

    @pytest.mark.parametrize("name", ["", "1st", "a b", "a-b", "a:b", "a" * 33, "\u00e9"])
    def test_names_are_words(self, name):
        with pytest.raises(ValidationError, match="pattern"):
            UnionSpace.model_validate({"members": {name: {"kind": "davidnet"}}})

    def test_one_to_36_members(self):
        with pytest.raises(ValidationError, match="at least 1"):
            UnionSpace(members={})
        many = UnionSpace(members={f"m{number}": DavidNet() for number in range(36)})
        assert many.cardinalities[0] == 36
        with pytest.raises(ValidationError, match="at most 36"):
            UnionSpace(members={f"m{number}": DavidNet() for number in range(37)})

    def test_a_member_is_no_union_and_says_its_kind(self):
        with pytest.raises(ValidationError, match="'union' found"):
            UnionSpace.model_validate({"members": {"a": {"kind": "union", "members": MEMBERS}}})
        with pytest.raises(ValidationError, match="expected its kind"):
            UnionSpace.model_validate({"members": {"a": {"family": "vgg"}}})
        with pytest.raises(ValidationError):
            UnionSpace.model_validate({"members": {"a": 3}})

    def test_members_are_checked_for_the_pictures_of_the_union(self):
        deep = {"kind": "families", "family": "vgg", "max_pools": 6}
        assert UnionSpace.model_validate({"input_size": 64, "members": {"a": deep}}).members["a"].max_pools == 6
        with pytest.raises(ValidationError, match="input_size 8 is too small for 6 pools"):
            UnionSpace.model_validate({"input_size": 8, "members": {"a": deep}})

    def test_members_have_the_unions_pictures(self):
        for member in UNION.members.values():
            assert (member.input_size, member.input_channels, member.classes) == (8, 1, 10)


class TestIdentity:
    @pytest.mark.parametrize("mode", ["json", "python"])
    @pytest.mark.parametrize("exclude_unset", [False, True])
    def test_settings_come_back(self, mode, exclude_unset):
        saved = UNION.model_dump(mode=mode, exclude_unset=exclude_unset)
        assert all(
            not {"input_size", "input_channels", "classes"} & member.keys() for member in saved["members"].values()
        )
        again = make_space({"kind": "union", **saved})
        assert again == UNION
        assert hash(again) == hash(UNION)
        assert again.model_dump(mode=mode, exclude_unset=exclude_unset) == {"kind": "union", **saved}

    def test_what_is_not_set_is_not_saved(self):
        assert UNION.model_dump(exclude_unset=True)["members"]["vgg"] == MEMBERS["vgg"]
        assert TINY.model_dump(exclude_unset=True)["members"]["one"] == {
            "kind": "op_subset", "layers": ({"channels": 4},), "operations": ("sep_conv_3",),
        }  # fmt: skip

    @pytest.mark.parametrize("space", [UNION, TINY])
    def test_a_copy_with_other_pictures_and_classes(self, space):
        before = space.costs(rows_of(space, 5))
        other = space.model_copy(update={"classes": 3, "input_size": 16})
        assert (other.classes, other.input_size, list(other.members)) == (3, 16, list(space.members))
        for member in other.members.values():
            assert (member.classes, member.input_size) == (3, 16)
        after = other.costs(rows_of(other, 5))
        assert (after["macs"] > before["macs"]).all()
        assert other.model_copy(update={"classes": space.classes, "input_size": space.input_size}) == space

    def test_others_differ(self):
        assert UNION.model_copy(update={"classes": 11}) != UNION
        assert DavidNet(input_size=8) != UNION
        renamed = {"v": MEMBERS["vgg"], **{name: one for name, one in MEMBERS.items() if name != "vgg"}}
        assert UNION.model_copy(update={"members": renamed}) != UNION

    def test_the_order_of_members_is_part_of_it(self):
        """The first choice counts them: a row means another network in another order."""
        turned = UNION.model_copy(update={"members": dict(reversed(MEMBERS.items()))})
        assert turned != UNION
        assert hash(turned) != hash(UNION)


class TestText:
    def test_a_member_is_named(self):
        assert UNION.parse("vgg: sep4x3 max") == UNION.parse("  vgg :sep4x3   max\n")
        one = UNION.parse("dense: dense4x2x3 dense2x1x5")
        assert (UNION.member(one), one.space) == ("dense", "union")
        assert UNION.format(one) == "dense: dense4x2x3 dense2x1x5"
        assert UNION.within_member(one) == UNION.members["dense"].parse("dense4x2x3 dense2x1x5")

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("sep4x3 max", r"expected MEMBER: ARCHITECTURE; known: vgg, dense, flat\."),
            ("vg: sep4x3", r"known: vgg, dense, flat\. Did you mean 'vgg'\?"),
            (": sep4x3", "expected MEMBER: ARCHITECTURE"),
            ("", "expected MEMBER: ARCHITECTURE"),
            ("vgg:", r"expected 1 to 3 nodes \(depth\), got 0"),
            ("vgg: sep4x3 sep5x3", r"node 2: block 'sep5x3' .* Did you mean 'sep"),
            ("vgg: dense4x2x3", "block 'dense4x2x3' is not one of family 'vgg'"),
            ("vgg: max max", "at most 1 pools"),
            ("flat: 00", "applies no"),
            ("x" * 5000, "expected MEMBER: ARCHITECTURE"),
        ],
    )
    def test_what_is_none(self, text, said):
        with pytest.raises(InputError, match=said) as raised:
            UNION.parse(text)
        assert len(str(raised.value)) < 600

    def test_why_a_row_is_none(self):
        width = len(UNION.cardinalities)
        two_pools = UNION.members["vgg"].cardinalities[0] - 1
        rows = {
            (0, two_pools, two_pools): r"member 'vgg': .*at most 1 pools",
            (2, 0, 0): "member 'flat': .*applies no",
            (2, 1, 0, 1): "member 'flat': choices behind its own 2 must be 0",
            (3, 1): "choice 1 is 3; expected 0 to 2",
        }
        for choices, said in rows.items():
            one = Architecture("union", choices + (0,) * (width - len(choices)))
            assert not UNION.is_valid(one.row())[0]
            with pytest.raises(InputError, match=said):
                UNION.graph(one)

    def test_options_have_names(self):
        assert [UNION.option_name(0, number) for number in range(3)] == ["member vgg", "member dense", "member flat"]
        assert UNION.option_name(1, 2) == "choice 2 = 2"


class TestMembers:
    @given(union_spaces(), seeds)
    @settings(max_examples=15)
    def test_networks_costs_and_depths_are_the_members_own(self, space, seed):
        rows = rows_of(space, 6, seed)
        costs, depths = space.costs(rows), space.depths(rows)
        for place, one in enumerate(architectures(space, rows)):
            member, inside = space.members[space.member(one)], space.within_member(one)
            assert space.graph(one) == member.graph(inside)
            assert {name: costs[name][place] for name in COST_NAMES} == {
                name: values[0] for name, values in member.costs(inside.row()).items()
            }
            assert depths[place] == member.depths(inside.row())[0]

    @given(union_spaces())
    @settings(max_examples=15)
    def test_sizes_add_up(self, space):
        assert space.size == sum(member.size for member in space.members.values())

    @pytest.mark.parametrize("cost", COST_NAMES)
    def test_the_cheapest_is_that_of_a_member(self, cost):
        least = {name: member.costs(member.cheapest(cost).row())[cost][0] for name, member in UNION.members.items()}
        one = UNION.cheapest(cost)
        assert UNION.costs(one.row())[cost][0] == min(least.values())
        assert UNION.member(one) == min(least, key=least.get)

    @pytest.mark.parametrize("cost", [*COST_NAMES, "depth"])
    def test_the_costliest_is_that_of_a_member(self, cost):
        def most(space):
            row = costliest(space, cost).row()
            return (space.depths(row) if cost == "depth" else space.costs(row)[cost])[0]

        assert most(UNION) == max(most(member) for member in UNION.members.values())

    def test_an_unknown_cost(self):
        with pytest.raises(InputError, match="Did you mean 'macs'"):
            UNION.cheapest("mac")

    def test_a_narrower_one_is_of_the_same_architectures(self):
        narrow = UNION.narrower(0.5)
        assert isinstance(narrow, UnionSpace)
        assert list(narrow.members) == list(UNION.members)
        assert narrow.cardinalities == UNION.cardinalities
        assert narrow.members["vgg"].channels == (2, 4)
        assert (narrow.input_size, narrow.classes) == (8, 10)
        rows = rows_of(UNION, 20)
        assert (narrow.costs(rows)["macs"] < UNION.costs(rows)["macs"]).all()
        with pytest.raises(InputError, match=r"member 'dense': families: at 0\.1 of its width"):
            UnionSpace(input_size=8, members={"dense": UNION.members["dense"].model_copy(update={
                "input_channels": 3, "classes": 100})}).narrower(0.1)  # fmt: skip

    def test_mutation_reaches_every_member(self):
        random = np.random.default_rng(0)
        for number in range(3):
            rows = rows_of(UNION, 600)
            mutants = UNION.mutate(rows[rows[:, 0] == number], random)
            assert set(mutants[:, 0].tolist()) == {0, 1, 2}

    def test_children_of_two_members_are_the_first_parents_network(self):
        random = np.random.default_rng(0)
        first, second = rows_of(UNION, 300, 1), rows_of(UNION, 300, 2)
        children = UNION.crossover(first, second, random)
        assert (children[:, 0] == first[:, 0]).all()
        apart = first[:, 0] != second[:, 0]
        assert apart.any()
        assert (UNION.canonical(children[apart]) == UNION.canonical(first[apart])).all()
        alike = UNION.canonical(children[~apart]) != UNION.canonical(first[~apart])
        assert alike.any()


class TestSampling:
    def test_every_member_is_as_likely_and_within_it_as_it_draws(self):
        rows = every_row(TINY)
        chances = np.exp(TINY.log_density(rows))
        assert chances.sum() == pytest.approx(1)
        for number in range(3):
            assert chances[rows[:, 0] == number].sum() == pytest.approx(1 / 3)
        index = {row.tobytes(): place for place, row in enumerate(rows)}
        drawn = rows_of(TINY, 6000)
        observed = np.bincount([index[row.tobytes()] for row in drawn], minlength=len(rows))
        assert chisquare(observed, 6000 * chances).pvalue > 1e-3

    def test_distinct_samples_find_all_there_is(self):
        rows = sample_distinct(TINY, len(np.unique(TINY.canonical(every_row(TINY)), axis=0)), np.random.default_rng(0))
        assert len(np.unique(rows, axis=0)) == len(rows)
        assert set(rows[:, 0].tolist()) == {0, 1, 2}
        with pytest.raises(InputError, match=r"found .* distinct architectures"):
            sample_distinct(TINY, len(rows) + 1, np.random.default_rng(0))

    def test_tight_limits_keep_to_the_members_that_have_some(self):
        cheapest = int(TINY.costs(TINY.cheapest("macs").row())["macs"][0])
        rows = sample_distinct(TINY, 1, np.random.default_rng(0), {"macs": cheapest})
        assert TINY.costs(rows)["macs"].tolist() == [cheapest]


class TestEvenly:
    @given(st.integers(1, 9), seeds)
    def test_members_take_turns(self, count, seed):
        rows = UNION.evenly(count, np.random.default_rng(seed), {})
        assert rows.shape == (count, len(UNION.cardinalities))
        assert rows[:, 0].tolist() == [place % 3 for place in range(count)]
        assert UNION.is_valid(rows).all()
        assert len(np.unique(rows, axis=0)) == count

    def test_more_only_adds(self):
        """Whatever the count, also one that is no multiple of the members."""
        rows = [BIG.evenly(count, np.random.default_rng(5), {"macs": 400_000}) for count in (4, 9, 31)]
        for few, many in pairwise(rows):
            assert (many[: len(few)] == few).all()
        assert within(BIG, rows[-1], {"macs": 400_000}).all()
        assert np.bincount(rows[-1][:, 0]).tolist() == [16, 15]

    def test_a_member_that_keeps_no_limit_is_named(self):
        least = max(int(one.costs(one.cheapest("params").row())["params"][0]) for one in UNION.members.values())
        with pytest.raises(InputError, match=r"member '\w+': limit params: .* is below the cheapest"):
            UNION.evenly(3, np.random.default_rng(0), {"params": least - 1})
        with pytest.raises(InputError, match="member 'flat': sampling: found 3 distinct"):
            UNION.evenly(30, np.random.default_rng(0), {})
        with pytest.raises(InputError, match="limit 'flops' is unknown"):
            UNION.evenly(3, np.random.default_rng(0), {"flops": 3})

    def test_a_measured_limit_is_asked_of_rows_of_the_union(self):
        def measure(rows):
            assert rows.shape[1] == len(BIG.cardinalities)
            return BIG.costs(rows)["macs"] / 1e6

        rows = BIG.evenly(8, np.random.default_rng(0), {"latency": Bound(most=0.4, measure=measure)})
        assert (measure(rows) <= 0.4).all()
        assert np.bincount(rows[:, 0]).tolist() == [4, 4]


BIG = UnionSpace(
    input_size=8,
    input_channels=1,
    classes=10,
    members={
        "vgg": Families(family="vgg", depth=(2, 4), channels=(4, 8), max_pools=1),
        "dense": Families(family="densenet", depth=(1, 3), growths=(2, 4), layers=(1, 2)),
    },
)


class TestSearch:
    def test_evolution_under_limits_finds_the_member_that_is_worth_most(self):
        """The score favours DenseNets, whose cheapest is far from where most of the population starts."""

        def score(rows):
            return np.log(BIG.costs(rows)["params"]) + 3.0 * (rows[:, 0] == 1)

        small = SearchSettings(population=40, parents=20, queries=600, keep=5)
        found = evolve(BIG, score, {"macs": 300_000}, small, np.random.default_rng(0))
        rows = np.array([one.architecture.choices for one in found.best], np.int8)
        assert within(BIG, rows, {"macs": 300_000}).all()
        assert set(rows[:, 0].tolist()) == {1}
        dense = BIG.members["dense"]
        every = dense.canonical(every_row(dense))
        most = dense.costs(every[within(dense, every, {"macs": 300_000})])["params"].max()
        assert BIG.costs(rows[:1])["params"][0] == most

    @pytest.mark.parametrize("model", ["ridge", "gp"])
    def test_predictors_learn_from_graphs_of_all_members(self, model):
        rows = sample_distinct(BIG, 40, np.random.default_rng(0))
        macs = BIG.costs(rows)["macs"]
        table = LabelTable(
            tuple(
                LabelRow(one.key, BIG.graph(one), {"accuracy": float(0.3 + 0.1 * math.log10(cost))}, {}, one.choices)
                for one, cost in zip(architectures(BIG, rows), macs, strict=True)
            )
        )
        predictor = fit_predictor(table, "accuracy", model)
        other = sample_distinct(BIG, 80, np.random.default_rng(1))
        predicted = predictor.predict([BIG.graph(one) for one in architectures(BIG, other)])
        assert np.corrcoef(predicted, np.log(BIG.costs(other)["macs"]))[0, 1] > 0.8
