"""Logits as architectures: probabilities, draws, what they are expected to cost, and preferences."""

import math
from collections import Counter
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from supernet import COST_NAMES, Darts, NasBench201, OpSubset
from supernet.op_subset import LayerSettings
from tests.supernet.spaces import darts_spaces, nasbench201_spaces, op_subset_spaces, with_architecture
from training.optimizers import Optimizer
from training.recipe import Recipe
from training.relaxation import ExpectedCost, Hypernetwork, Plain, Preferences, Relaxed, beta_decay, kept_chances

CPU = torch.device("cpu")
DRAWS = 600
NASBENCH = NasBench201(cells=1, channels=4, input_size=8, classes=3)
SUBSETS = OpSubset(
    layers=(LayerSettings(channels=6), LayerSettings(channels=8, stride=2)),
    operations=("skip", "sep_conv_3", "dil_conv_5"),
    stem_channels=6,
    head_channels=8,
    input_size=8,
    classes=3,
)
DARTS = Darts(
    cells=3, channels=4, input_size=8, nodes=2, operations=("skip_connect", "sep_conv_5x5", "max_pool_3x3")
)  # fmt: skip
SPACES = pytest.mark.parametrize("space", [NASBENCH, SUBSETS, DARTS], ids=lambda space: space.kind)


def sharing_spaces():
    return st.one_of(op_subset_spaces(), nasbench201_spaces(), darts_spaces())


def random_logits(graph, seed, scale=1.0):
    generator = torch.Generator().manual_seed(seed)
    return (scale * torch.randn(Relaxed.count(graph), generator=generator)).requires_grad_()


def logits_of(graph, active, size=40.0):
    """Logits that all but make the choices: of each set the inputs that are taken are equally strong."""
    parts = [torch.full((len(group.options),), -size) for group in graph.groups]
    inputs = [torch.full((one.groups,), -size) for one in graph.inputs]
    for part, group, on in zip(parts, graph.groups, active, strict=True):
        part[list(on)] = size
        if group.place is not None and on:
            inputs[group.place[0]][group.place[1]] = size
    return torch.cat([*parts, *inputs])


def draws(relaxed, count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [relaxed.sampled(generator)[0] for _ in range(count)]


@given(sharing_spaces(), st.integers(0, 2**32), st.booleans())
@settings(max_examples=20)
def test_probabilities_of_a_choice_sum_to_one(space, seed, strengths):
    graph = space.supergraph()
    flat = random_logits(graph, seed, 3.0)
    relaxed = Relaxed.of(graph, flat, 0.7, strengths)
    assert [len(part) for part in relaxed.options] == [len(group.options) for group in graph.groups]
    assert [len(part) for part in relaxed.inputs] == [one.groups for one in graph.inputs]
    for group, options, logits in zip(graph.groups, relaxed.options, relaxed.logits, strict=True):
        assert ((options >= 0) & (options <= 1)).all()
        if group.subset:
            torch.testing.assert_close(options, 1 / (1 + torch.exp(-logits)))
        else:
            torch.testing.assert_close(options, torch.exp(logits) / torch.exp(logits).sum())
    for part in relaxed.inputs:
        assert part.sum().item() == pytest.approx(1, abs=1e-5)
        assert strengths or torch.equal(part, torch.full_like(part, part[0].item()))
    torch.testing.assert_close(torch.cat(list(relaxed.logits)), flat[: sum(map(len, relaxed.options))] / 0.7)


@SPACES
def test_a_lower_temperature_makes_choices_sharper(space):
    graph = space.supergraph()
    flat = random_logits(graph, 1)
    warm, cool, cold = (Relaxed.of(graph, flat, temperature) for temperature in (2.0, 0.5, 1e-3))
    for group, first, second, last in zip(graph.groups, warm.options, cool.options, cold.options, strict=True):
        if group.subset:
            assert ((second - 0.5).abs() > (first - 0.5).abs()).all()
            assert torch.equal(last.round(), second.round())
        else:
            assert second.max() > first.max()
            assert second.min() < first.min()
        assert torch.equal(first.argsort(), second.argsort())
        torch.testing.assert_close(last, last.round(), atol=0.01, rtol=0)
    for first, second in zip(warm.inputs, cool.inputs, strict=True):
        assert second.max() > first.max() or len(first) == 1
    assert warm.architecture() == cold.architecture() or graph.inputs  # of inputs a product of both decides


@given(sharing_spaces(), st.integers(0, 2**32))
@settings(max_examples=20)
def test_gates_of_a_draw_are_one_and_pass_the_gradients_of_the_probabilities(space, seed):
    graph = space.supergraph()
    flat = random_logits(graph, seed, 2.0)
    relaxed = Relaxed.of(graph, flat)
    _, gates = relaxed.sampled(torch.Generator().manual_seed(seed))
    factors = torch.linspace(-1, 1, Relaxed.count(graph) + 1)
    pairs = list(zip(gates.options, relaxed.options, strict=True))
    if graph.inputs:
        for group, gate in zip(graph.groups, gates.strengths, strict=True):
            pairs.append((gate[None], relaxed.inputs[group.place[0]][group.place[1]][None]))
    else:
        assert gates.strengths is None
    assert all((gate == 1).all() for gate, _ in pairs)
    slopes = [
        torch.autograd.grad(sum((part * factors[: len(part)]).sum() for part in parts), flat, retain_graph=True)[0]
        for parts in zip(*pairs, strict=True)
    ]
    assert torch.equal(*slopes)


@given(sharing_spaces(), st.integers(0, 2**32))
@settings(max_examples=20)
def test_a_draw_is_an_architecture_of_the_space(space, seed):
    graph = space.supergraph()
    relaxed = Relaxed.of(graph, random_logits(graph, seed, 5.0) - 5)
    active = draws(relaxed, 1, seed)[0]
    assert active == draws(relaxed, 1, seed)[0]
    row = graph.decode(active)
    assert space.is_valid(np.array([row], np.int8)).all()
    assert graph.encode(row) == active
    for group, on in zip(graph.groups, active, strict=True):
        assert len(on) >= 1 if group.subset else len(on) <= 1
    for members, one in zip(graph.members, graph.inputs, strict=True):
        assert sum(bool(active[member]) for member in members) == one.kept


def test_draws_follow_the_probabilities():
    graph = NASBENCH.supergraph()
    relaxed = Relaxed.of(graph, random_logits(graph, 0))
    found = draws(relaxed, DRAWS)
    for number, options in enumerate(relaxed.options):
        counts = Counter(active[number] for active in found)
        shares = torch.tensor([counts[(option,)] / DRAWS for option in range(len(options))])
        torch.testing.assert_close(shares, options.detach(), atol=0.08, rtol=0)


def test_draws_of_subsets_follow_the_probabilities_and_are_never_empty():
    graph = SUBSETS.supergraph()
    relaxed = Relaxed.of(graph, random_logits(graph, 0) - 1)
    found = draws(relaxed, DRAWS)
    for number, (options, logits) in enumerate(zip(relaxed.options, relaxed.logits, strict=True)):
        assert all(active[number] for active in found)
        rescued = (1 - options).prod() * torch.softmax(logits, 0)
        assert rescued.max() > 0.1
        shares = torch.tensor([sum(option in active[number] for active in found) / DRAWS for option in range(3)])
        torch.testing.assert_close(shares, (options + rescued).detach(), atol=0.08, rtol=0)


def test_draws_keep_two_inputs_of_a_node_by_their_strengths():
    graph = DARTS.supergraph()
    relaxed = Relaxed.of(graph, random_logits(graph, 3, 1.5))
    found = draws(relaxed, DRAWS)
    for members, one, strengths in zip(graph.members, graph.inputs, relaxed.inputs, strict=True):
        shares = torch.tensor([sum(bool(active[member]) for active in found) / DRAWS for member in members])
        expected = kept_chances(strengths, 2) if one.groups > 2 else torch.ones(2)
        torch.testing.assert_close(shares, expected.detach(), atol=0.08, rtol=0)


def test_chances_of_inputs_by_hand():
    a, b, c = 0.5, 0.3, 0.2
    found = kept_chances(torch.tensor([a, b, c]), 2)
    expected = [a + b * a / (a + c) + c * a / (a + b), b + a * b / (b + c) + c * b / (a + b)]
    torch.testing.assert_close(found, torch.tensor([*expected, 2 - sum(expected)]))
    torch.testing.assert_close(kept_chances(torch.tensor([a, b, c]), 1), torch.tensor([a, b, c]))
    torch.testing.assert_close(kept_chances(torch.tensor([0.0, 0.5, 0.5, 0.0]), 2), torch.tensor([0.0, 1, 1, 0]))


@given(st.lists(st.floats(-60, 60), min_size=3, max_size=6), st.integers(1, 4))
def test_chances_of_inputs_sum_to_how_many_are_kept(values, kept):
    kept = min(kept, len(values) - 1)
    flat = torch.tensor(values, requires_grad=True)
    found = kept_chances(torch.softmax(flat, 0), kept)
    assert found.sum().item() == pytest.approx(kept, abs=1e-4)
    assert ((found >= 0) & (found <= 1 + 1e-5)).all()
    (slope,) = torch.autograd.grad(found[0], flat)
    assert torch.isfinite(slope).all()


@SPACES
def test_a_mixture_has_every_option_weighed_by_its_probability(space):
    graph = space.supergraph()
    relaxed = Relaxed.of(graph, random_logits(graph, 0))
    active, gates = relaxed.mixture(normalised=False)
    assert active == tuple(tuple(range(len(group.options))) for group in graph.groups)
    assert gates.strengths is None
    assert all(torch.equal(gate, part) for gate, part in zip(gates.options, relaxed.options, strict=True))
    again, gates = relaxed.mixture(normalised=True)
    assert again == active
    assert all(torch.equal(gate, part) for gate, part in zip(gates.options, relaxed.options, strict=True))
    for group, gate in zip(graph.groups, gates.strengths, strict=True):
        assert gate == (1 if group.place is None else relaxed.inputs[group.place[0]][group.place[1]])


@given(with_architecture(sharing_spaces()), st.sampled_from(COST_NAMES))
@settings(max_examples=20)
def test_where_choices_are_made_the_expected_cost_is_the_exact_one(pair, cost):
    space, architecture = pair
    graph = space.supergraph()
    active = graph.encode(architecture.choices)
    relaxed = Relaxed.of(graph, logits_of(graph, active))
    assert relaxed.architecture() == active
    expected = ExpectedCost(graph, cost, CPU)
    span = max(expected.most - expected.least, 1)
    exact = (graph.cost(active, cost) - expected.least) / span
    assert expected(relaxed).item() == pytest.approx(exact, abs=1e-5)
    assert expected.least + expected(relaxed).item() * span == pytest.approx(graph.cost(active, cost), rel=1e-4)


@given(sharing_spaces(), st.integers(0, 2**32), st.sampled_from((0.1, 1.0, 10.0, 80.0)), st.sampled_from((-30, 0, 30)))
@settings(max_examples=20)
def test_expected_costs_are_from_0_to_1(space, seed, scale, shift):
    graph = space.supergraph()
    relaxed = Relaxed.of(graph, random_logits(graph, seed, scale) + shift)
    for cost in COST_NAMES:
        assert -1e-5 <= ExpectedCost(graph, cost, CPU)(relaxed).item() <= 1 + 1e-5


@SPACES
@pytest.mark.parametrize("strengths", [True, False])
def test_the_expected_cost_is_the_mean_of_draws(space, strengths):
    graph = space.supergraph()
    relaxed = Relaxed.of(graph, random_logits(graph, 5, 1.5) - 0.5, strengths=strengths)
    expected = ExpectedCost(graph, "macs", CPU)
    costs = np.array([graph.cost(active, "macs") for active in draws(relaxed, DRAWS)], np.float64)
    shares = (costs - expected.least) / (expected.most - expected.least)
    assert expected(relaxed).item() == pytest.approx(shares.mean(), abs=4 * shares.std() / math.sqrt(DRAWS))
    assert shares.std() > 0.05


@SPACES
def test_the_slope_of_the_expected_cost_leads_to_the_cheapest(space):
    graph = space.supergraph()
    expected = ExpectedCost(graph, "macs", CPU)
    network = Plain(Relaxed.count(graph), 0)
    adam = Optimizer(network, Recipe(optimizer="adam"))
    for _ in range(60):
        adam.zero_grad()
        price = expected(Relaxed.of(graph, network.logits))
        price.backward()
        adam.step(torch.tensor(0.3))
    assert price.item() < 0.01
    assert graph.cost(Relaxed.of(graph, network.logits).architecture(), "macs") == expected.least


@given(sharing_spaces())
@settings(max_examples=20)
def test_the_least_cost_is_that_of_the_cheapest_architecture(space):
    graph = space.supergraph()
    for cost in COST_NAMES:
        cheapest = space.cheapest(cost)
        assert ExpectedCost(graph, cost, CPU).least == space.costs(cheapest.row())[cost][0]


@SPACES
def test_the_least_and_the_most_are_those_of_all_architectures(space):
    rows = np.array(list(product(*map(range, space.cardinalities))), np.int8)
    rows = rows[space.is_valid(rows)]
    assert len(rows) > 40
    graph = space.supergraph()
    for cost, values in space.costs(rows).items():
        expected = ExpectedCost(graph, cost, CPU)
        assert (expected.least, expected.most) == (values.min(), values.max())


def test_beta_decay_by_hand():
    graph = NASBENCH.supergraph()
    flat = torch.zeros(Relaxed.count(graph), requires_grad=True)
    assert beta_decay(Relaxed.of(graph, flat)).item() == pytest.approx(math.log(5))
    logits = torch.zeros(Relaxed.count(graph))
    logits[0] = math.log(6)  # of the first group of six: log(6 + 4)
    assert beta_decay(Relaxed.of(graph, logits)).item() == pytest.approx((math.log(10) + 5 * math.log(5)) / 6)
    (slope,) = torch.autograd.grad(beta_decay(Relaxed.of(graph, flat)), flat)
    torch.testing.assert_close(slope, torch.tensor([1 / 30] * 30 + [0.0] * 6))  # strengths are left alone
    graph = SUBSETS.supergraph()
    logits = torch.tensor([math.log(3), 0.0, 0.0, 0.0, 0.0, 0.0])
    assert beta_decay(Relaxed.of(graph, logits)).item() == pytest.approx((math.log(4) + 5 * math.log(2)) / 6)


@pytest.mark.parametrize("kind", [Plain, Hypernetwork])
def test_first_logits_are_a_function_of_the_seed_and_small(kind):
    preference = torch.tensor(0.3)
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    first, again, other = kind(7, 3), kind(7, 3), kind(7, 4)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(first(preference), again(preference))
    assert not torch.equal(first(preference), other(preference))
    assert first(preference).shape == (7,)
    assert first(preference).abs().max() < 0.1


def test_a_hypernetwork_learns_a_function_of_the_preference():
    network = Hypernetwork(2, 0)
    adam = Optimizer(network, Recipe(optimizer="adam"))
    generator = torch.Generator().manual_seed(0)
    for _ in range(300):
        preference = torch.rand((), generator=generator)
        adam.zero_grad()
        (network(preference) - torch.stack([4 * preference - 2, 2 - 4 * preference])).square().sum().backward()
        adam.step(torch.tensor(0.01))
    for value in (0.0, 0.5, 1.0):
        wanted = torch.tensor([4 * value - 2, 2 - 4 * value])
        torch.testing.assert_close(network(torch.tensor(value)).detach(), wanted, atol=0.5, rtol=0)
    assert torch.equal(Plain(2, 0)(torch.tensor(0.0)), Plain(2, 0)(torch.tensor(1.0)))


class Between(nn.Module):
    """Logits from those of one architecture to those of another."""

    def __init__(self, first, last):
        super().__init__()
        self.ends = nn.Parameter(torch.stack([first, last]))

    def forward(self, preference):
        return (1 - preference) * self.ends[0] + preference * self.ends[1]


@SPACES
def test_each_preference_has_its_architecture(space):
    graph = space.supergraph()
    ends = [graph.encode(row) for row in space.sample(2, np.random.default_rng(1)).tolist()]
    found = Preferences(graph, Between(*(logits_of(graph, end) for end in ends)), 1.0, True, None)
    assert [found.architecture(0.0), found.architecture(1.0)] == ends
    assert [found.architecture(0), found.architecture(0.8)] == ends
    assert not found.relaxed(0.5).options[0].requires_grad
    cold, warm = Preferences(graph, found.network, 1e-3, True, None), Preferences(graph, found.network, 1e3, True, None)
    assert cold.relaxed(0.0).options[0].max() > warm.relaxed(0.0).options[0].max()
    even = Preferences(graph, found.network, 1.0, False, None).relaxed(0.0)
    assert all(torch.equal(part, torch.full_like(part, 1 / len(part))) for part in even.inputs)


def test_identities_are_capped_where_asked():
    graph = NASBENCH.supergraph()
    active = graph.encode((1,) * 6)
    network = Between(*[logits_of(graph, active, 2.0) + 0.01 * random_logits(graph, 0).detach()] * 2)
    for most, skips in ((None, 6), (2, 2), (0, 0)):
        found = Preferences(graph, network, 1.0, True, most).architecture(0.0)
        assert sum(on == (1,) for on in found) == skips
