"""The searches of a front, on one tiny shared network."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import genas.relaxing
from genas.config import load_run
from genas.front_settings import FrontSettings
from genas.relaxing import Candidate, _distinct, _next, find, shared_space
from genas.stages import resolve
from supernet import Architecture, InputError
from supernet.darts import Darts
from supernet.families import Families
from supernet.settings import UnavailableError
from training import DivergedError
from training.differentiable import Epoch, Searched

RECIPE = """
data: {source: digits, train_images: 100, validation_images: 50, test_images: 50}
space: {kind: darts, input_size: 8, cells: 3, channels: 4, nodes: 2,
        operations: [skip_connect, sep_conv_3x3, max_pool_3x3]}
front:
  searches: 3
  search: {epochs: 2, warmup: 0, batch_size: 25, relaxation: sampled, partial: 1, architecture_rate: 0.05}
generate:
  recipe: {epochs: 2, batch_size: 20, crop_padding: 1, flip: false}
workers: {device: cpu, cpu_workers: 1, retries: 0}
"""
DARTS = Darts.model_validate({"kind": "darts", "input_size": 8, "cells": 3, "channels": 4, "nodes": 2})


@pytest.fixture
def opened(tmp_path):
    """Gives a run under some overrides, with its images."""
    path = tmp_path / "tiny.yml"
    path.write_text(RECIPE)

    def open_(*overrides):
        run, info = resolve(load_run(path, list(overrides), tmp_path / "logs"))
        run.folder.mkdir(parents=True, exist_ok=True)
        return run, info

    return open_


@pytest.fixture
def searches(monkeypatch):
    """The objectives of all searches that were made from now on."""
    made, whole = [], genas.relaxing.search_differentiably

    def counted(*arguments):
        made.append(arguments[7])
        return whole(*arguments)

    monkeypatch.setattr(genas.relaxing, "search_differentiably", counted)
    return made


class Fixed:
    """In place of a hypernetwork: the first architecture below the preference 0.5, else the second."""

    def __init__(self, graph, first, second):
        self.active = graph.encode(first), graph.encode(second)

    def architecture(self, preference):
        return self.active[preference >= 0.5]


def fixed(first, second):
    """A search that ends with these choices."""

    def search(searched, graph, *arguments):
        epoch = Epoch(1, 2.0, 0.25, 0.5, 0.0, 0.0, 0.0, {})
        return Searched(Fixed(graph, first, second), False, (epoch,), 1.0, 10.0)

    return search


class TestSharedSpace:
    def test_other_sizes(self):
        found = shared_space(DARTS, FrontSettings(shared={"cells": 5, "channels": 8}))
        assert (found.cells, found.channels, found.nodes) == (5, 8, 2)
        assert shared_space(DARTS, FrontSettings()) == DARTS

    @pytest.mark.parametrize(
        ("shared", "said"),
        [
            ({"chanels": 8}, r"front\.shared\.chanels: no setting of space 'darts'"),
            ({"kind": "nasbench201"}, r"front\.shared\.kind: no setting of space 'darts' that may differ"),
            ({"nodes": 3}, r"front\.shared: changes what is chosen in space 'darts'; expected other sizes only"),
            ({"operations": ("skip_connect", "sep_conv_3x3")}, r"front\.shared: changes what is chosen"),
            ({"cells": 2}, r"front\.shared\.cells: Input should be greater than or equal to 3"),
            ({"classes": 7}, r"front\.shared\.classes: that is given by the images; leave it out"),
            ({"input_size": 16}, r"front\.shared\.input_size: that is given by the images"),
            ({"input_channels": 1}, r"front\.shared\.input_channels: that is given by the images"),
        ],
    )
    def test_refusals(self, shared, said):
        with pytest.raises(InputError, match=said):
            shared_space(DARTS, FrontSettings(shared=shared))

    def test_a_space_without_weight_sharing(self):
        with pytest.raises(InputError, match="families"):
            shared_space(Families.model_validate({"input_size": 8, "family": "vgg"}), FrontSettings())


def ended(cost, error):
    return {"cost": cost, "error": error, "diverged": ""}


DIVERGED = {"diverged": "loss is nan"}
NORMS = FrontSettings(method="norms", norm="l1", norm_weights=(0.01, 1.0))
COSTS = FrontSettings(method="costs")


class TestNext:
    def test_both_ends_come_first(self):
        first, second = _next(NORMS, []), _next(NORMS, [(0.01, ended(9, 0.1))])
        assert [(one.preference, one.norm, one.norm_weight) for one in (first, second)] == [
            (0.0, "l1", 0.01), (0.0, "l1", 1.0),
        ]  # fmt: skip
        first, second = _next(COSTS, []), _next(COSTS, [(0.0, ended(9, 0.1))])
        assert [(one.preference, one.norm) for one in (first, second)] == [(0.0, None), (1.0, None)]

    def test_then_between_the_neighbours_that_are_farthest_apart(self):
        # Gaps in units of the ranges, 100 and 0.8: (0.1, 0.125), (0.9, 0.875).
        points = [ended(100, 0.1), ended(90, 0.2), ended(0, 0.9)]
        for order in itertools.permutations(range(3)):
            norms = [(strength, points[place]) for place, strength in enumerate((0.01, 0.1, 1.0))]
            assert _next(NORMS, [norms[place] for place in order]).norm_weight == pytest.approx(0.1**0.5)
            costs = [(strength, points[place]) for place, strength in enumerate((0.0, 0.5, 1.0))]
            assert _next(COSTS, [costs[place] for place in order]).preference == 0.75
        # The error counts as much as the cost: (0.45, 1), (0.55, 0).
        points = [ended(100, 0.1), ended(55, 0.9), ended(0, 0.9)]
        assert _next(COSTS, list(zip((0.0, 0.5, 1.0), points, strict=True))).preference == 0.25

    def test_two_ends_are_halved(self):
        ends = [ended(9, 0.1), ended(1, 0.5)]
        assert _next(NORMS, list(zip((0.01, 1.0), ends, strict=True))).norm_weight == pytest.approx(0.1)
        assert _next(COSTS, list(zip((0.0, 1.0), ends, strict=True))).preference == 0.5

    def test_where_nothing_is_apart_the_widest_range_of_strengths_is_halved(self):
        costs = [(strength, ended(5, 0.5)) for strength in (0.0, 0.25, 0.5, 1.0)]
        assert _next(COSTS, costs).preference == 0.75
        norms = [(strength, ended(5, 0.5)) for strength in (0.01, 0.02, 1.0)]  # 2 times against 50 times
        assert _next(NORMS, norms).norm_weight == pytest.approx(0.02**0.5)

    def test_a_strength_that_diverged_is_the_end(self):
        assert _next(COSTS, [(0.0, ended(9, 0.1)), (1.0, DIVERGED)]).preference == 0.5
        assert _next(COSTS, [(0.0, ended(9, 0.1)), (1.0, DIVERGED), (0.5, DIVERGED)]).preference == 0.25
        known = [(0.0, ended(9, 0.1)), (1.0, DIVERGED), (0.5, ended(3, 0.4))]
        assert _next(COSTS, known).preference == 0.25
        assert _next(NORMS, [(0.01, ended(9, 0.1)), (1.0, DIVERGED)]).norm_weight == pytest.approx(0.1)

    @given(
        st.dictionaries(st.integers(1, 1000), st.tuples(st.integers(0, 100), st.floats(0, 1)), min_size=2, max_size=8),
        st.booleans(),
    )
    def test_it_is_a_new_strength_between_two_neighbours(self, points, norms):
        done = [(number / 1000, ended(*point)) for number, point in points.items()]
        objective = _next(NORMS if norms else COSTS, done)
        value = objective.norm_weight if norms else objective.preference
        strengths = sorted(strength for strength, _ in done)
        assert strengths[0] < value < strengths[-1]
        assert value not in strengths


class TestFind:
    def test_one_search_gives_distinct_canonical_networks(self, opened, searches):
        run, info = opened()
        progress = []
        found = find(run, info, lambda done, total: progress.append((done, total)))
        (objective,) = searches
        assert (objective.preference, objective.budget, objective.norm) == (None, True, None)
        space = run.settings.space
        rows = np.array([one.choices for one in found.candidates], np.int8)
        assert len(rows) > 1
        assert (space.canonical(rows) == rows).all()
        digests = {space.graph(Architecture(space.name, one.choices)).digest() for one in found.candidates}
        assert len(digests) == len(rows)
        preferences = [one.preference for one in found.candidates]
        assert preferences == sorted(preferences)
        assert 0 <= preferences[0] <= preferences[-1] <= 1
        assert found.seconds == found.searches[0]["seconds"] > 0
        assert progress[-1] == (1000, 1000)

    def test_the_same_network_in_other_words_is_one(self, opened, monkeypatch):
        run, info = opened()
        space = run.settings.space
        # Both nodes of the normal cell take the cell's own inputs, so it makes no difference which comes first.
        one, twin = (0, 0, 1, 0, 1, 2, *[0] * 6), (0, 1, 2, 0, 0, 1, *[0] * 6)
        assert space.canonical(np.asarray([twin], np.int8)).tolist() == [list(one)]
        monkeypatch.setattr(genas.relaxing, "search_differentiably", fixed(twin, one))
        assert find(run, info, None).candidates == (Candidate(one, 0.0, 0),)
        assert _distinct(space, [Candidate(twin, 0.1, 0), Candidate(one, 0.2, 1)]) == (Candidate(twin, 0.1, 0),)

    def test_a_network_has_the_preference_at_which_it_was_found_first(self, opened, monkeypatch):
        run, info = opened()
        first, second = (0,) * 12, (0, 1) + (0,) * 10
        monkeypatch.setattr(genas.relaxing, "search_differentiably", fixed(first, second))
        assert [one.preference for one in find(run, info, None).candidates] == [0.0, 0.5]

    def test_what_is_kept_is_not_searched_again(self, opened, searches):
        first = find(*opened(), None)
        assert find(*opened(), None) == first
        # Neither decides what is searched.
        assert find(*opened("front.widths=[0.5, 1]", "front.train=3", "generate.recipe.epochs=5"), None) == first
        assert len(searches) == 1

    @pytest.mark.parametrize(
        "override",
        [
            "front.search.learning_rate=0.05",
            "front.scalarisation=weighted",
            "front.cost=macs",
            "front.shared={channels: 2}",
            "seed=1",
            "generate.recipe.crop_padding=0",
            "front.recipe={flip: true}",
        ],
    )
    def test_another_setting_is_another_search(self, opened, monkeypatch, override):
        made = []
        search = fixed((0,) * 12, (0, 1) + (0,) * 10)
        monkeypatch.setattr(genas.relaxing, "search_differentiably", lambda *a: made.append(1) or search(*a))
        find(*opened(), None)
        find(*opened(override), None)
        assert len(made) == 2
        find(*opened(), None)  # the first is still there
        assert len(made) == 2

    @pytest.mark.parametrize(("method", "ends"), [("costs", [0.0, 1.0]), ("norms", [7e-4, 0.2])])
    def test_several_searches(self, opened, searches, method, ends):
        run, info = opened(f"front.method={method}")
        found = find(run, info, None)
        strengths = [one.norm_weight if method == "norms" else one.preference for one in searches]
        assert strengths[:2] == ends
        assert ends[0] < strengths[2] < ends[1]
        assert {one.norm for one in searches} == ({"l2"} if method == "norms" else {None})
        assert [len(one["architectures"]) for one in found.searches] == [1, 1, 1]
        assert all(one.preference == strengths[one.search] for one in found.candidates)
        # More searches go on from those.
        find(*opened(f"front.method={method}", "front.searches=4"), None)
        assert len(searches) == 4

    def test_a_search_that_diverged_is_told(self, opened, monkeypatch):
        run, info = opened("front.method=costs")
        search = fixed((0,) * 12, (0, 1) + (0,) * 10)

        def diverges(*arguments):
            if arguments[7].preference == 1:
                raise DivergedError("loss is nan")
            return search(*arguments)

        monkeypatch.setattr(genas.relaxing, "search_differentiably", diverges)
        found = find(run, info, None)
        assert [bool(one["diverged"]) for one in found.searches] == [False, True, False]
        assert [one["objective"]["preference"] for one in found.searches] == [0.0, 1.0, 0.5]
        assert {one.search for one in found.candidates} == {0, 2}

    def test_where_every_search_diverged_there_is_nothing(self, opened, monkeypatch):
        run, info = opened("front.method=costs")

        def diverges(*arguments):
            raise DivergedError("loss is nan")

        monkeypatch.setattr(genas.relaxing, "search_differentiably", diverges)
        with pytest.raises(InputError, match=r"every search diverged; lower front\.search\.learning_rate"):
            find(run, info, None)

    def test_batches_are_divided_until_they_fit(self, opened, monkeypatch):
        run, info = opened()
        search, pieces = fixed((0,) * 12, (0, 1) + (0,) * 10), []

        def short(least):
            def searching(*arguments):
                pieces.append(arguments[5].pieces)
                if pieces[-1] < least:
                    raise torch.OutOfMemoryError
                return search(*arguments)

            return searching

        monkeypatch.setattr(genas.relaxing, "search_differentiably", short(1000))
        with pytest.raises(UnavailableError, match=r"with one image at a time; make front\.shared smaller"):
            find(run, info, None)
        assert pieces == [1, 2, 4, 8, 16]
        pieces.clear()
        monkeypatch.setattr(genas.relaxing, "search_differentiably", short(4))
        assert len(find(run, info, None).candidates) == 2
        assert pieces == [1, 2, 4]

    def test_partial_channels_must_divide(self, opened):
        with pytest.raises(InputError, match="3 parts of 4 channels"):
            find(*opened("front.search.partial=3"), None)
