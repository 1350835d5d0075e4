"""The search of a shared network: alternating steps, objectives, and that it goes on where it was cut off."""

import itertools

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from supernet import Darts, InputError, NasBench201, OpSubset
from supernet.op_subset import LayerSettings
from supernet.sharing import SharedNetwork
from supernet.supergraph import free_share
from training import Checkpoints, DivergedError, Normalisation, Recipe, Split, StoppedError
from training import differentiable as searching
from training.differentiable import Objective, search_differentiably
from training.relaxation import ExpectedCost, Plain, Relaxed
from training.search_settings import DifferentiableSettings

IMAGES = {"input_size": 8, "input_channels": 1, "classes": 3}
SUBSETS = OpSubset(
    layers=(LayerSettings(channels=4), LayerSettings(channels=8, stride=2)),
    operations=("skip", "sep_conv_3", "dil_conv_3"),
    stem_channels=4,
    head_channels=8,
    **IMAGES,
)
NASBENCH = NasBench201(cells=1, channels=4, **IMAGES)
DARTS = Darts(
    cells=3, channels=4, stem_multiplier=1, nodes=2, operations=("skip_connect", "sep_conv_3x3", "max_pool_3x3"),
    **IMAGES,
)  # fmt: skip
GRAPHS = {space.kind: space.supergraph() for space in (SUBSETS, NASBENCH, DARTS)}
SETTINGS = DifferentiableSettings(
    epochs=3, warmup=1, batch_size=8, partial=1, architecture_rate=0.1, architecture_decay=0.0, most_skips=None
)
RECIPE = Recipe(crop_padding=1)
NORMALISATION = Normalisation((0.5,), (0.25,))


def pictures(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (count, 8, 8, 1), generator=generator, dtype=torch.uint8)
    return Split(images, torch.arange(count) % 3)


def search(kind="op_subset", objective=Objective(0.0), seed=0, images=50, recipe=RECIPE, **others):
    """Of 50 images 25 are in each half, three batches of eight."""
    options = {name: others.pop(name) for name in ("progress", "checkpoints", "stop") if name in others}
    normalisation = others.pop("normalisation", NORMALISATION)
    return search_differentiably(
        GRAPHS[kind], GRAPHS[kind], "params", pictures(images), normalisation,
        SETTINGS.model_copy(update=others), recipe, objective, seed, "key", **options,
    )  # fmt: skip


def logits(found):
    return found.preferences.network.state_dict()


def same(first, second):
    equal = all(torch.equal(tensor, logits(second)[name]) for name, tensor in logits(first).items())
    return equal and first.history == second.history and first.collapsed == second.collapsed


def cost_share(kind, found, preference):
    expected = ExpectedCost(GRAPHS[kind], "params", torch.device("cpu"))
    cost = GRAPHS[kind].cost(found.preferences.architecture(preference), "params")
    return (cost - expected.least) / (expected.most - expected.least)


def fresh(kind, partial=1, seed=0):
    """The shared network as a search begins with it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return SharedNetwork(GRAPHS[kind], partial, searching=True)


def leaning(monkeypatch, option, size):
    """First logits prefer one option of each group."""

    def made(count, seed):
        plain = Plain(count, seed)
        width = len(GRAPHS["nasbench201"].groups[0].options)
        with torch.no_grad():
            plain.logits[: 6 * width].view(6, width)[:, option] += size
        return plain

    monkeypatch.setattr(searching, "Plain", made)


@pytest.mark.parametrize(("kind", "partial"), [("op_subset", 1), ("nasbench201", 2), ("darts", 4)])
@pytest.mark.parametrize("relaxation", ["mixture", "sampled"])
def test_every_space_is_searched(kind, partial, relaxation):
    seen = []
    found = search(
        kind, epochs=2, partial=partial, relaxation=relaxation, images=36, progress=lambda *at: seen.append(at)
    )
    assert seen == [(step, 4) for step in range(1, 5)]
    assert [one.epoch for one in found.history] == [1, 2]
    assert [one.accuracy is None for one in found.history] == [True, False]
    for one in found.history:
        assert one.loss > 0
        assert 0 <= one.cost <= 1
        assert one.norm == 0
        assert 0 <= one.skip_share <= one.free_share <= 1
        assert sum(one.dominant.values()) == pytest.approx(1)
    assert 0 <= found.history[1].accuracy <= 1
    row = GRAPHS[kind].decode(found.preferences.architecture(0.0))
    assert GRAPHS[kind].encode(row) == found.preferences.architecture(0.0)
    assert found.images_per_second == pytest.approx(3 * 2 * 8 / found.seconds)  # weights twice, logits once


@pytest.mark.parametrize("objective", [Objective(0.3), Objective(budget=True)])
def test_the_same_seed_gives_the_same_result(objective):
    found = search(objective=objective)
    torch.manual_seed(99)  # global randomness has no part in it
    before = torch.random.get_rng_state()
    assert same(found, search(objective=objective))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert not same(found, search(objective=objective, seed=1))


@pytest.mark.parametrize("relaxation", ["mixture", "sampled"])
@pytest.mark.parametrize("objective", [Objective(0.2), Objective(budget=True)])
@pytest.mark.parametrize("stops", [(5,), (2, 3, 7, 9)])  # of nine steps; three end an epoch
def test_a_search_that_was_cut_off_ends_as_one_that_was_not(tmp_path, relaxation, objective, stops):
    whole = search(objective=objective, relaxation=relaxation)
    seen = []

    def again(stop):
        return search(
            objective=objective, relaxation=relaxation, checkpoints=Checkpoints(tmp_path, "one", {}, every=1e9),
            progress=lambda done, of: seen.append(done), stop=stop,
        )  # fmt: skip

    for limit in stops:
        with pytest.raises(StoppedError, match=rf"stopped in epoch {(limit + 2) // 3} of 3"):
            again(lambda limit=limit: seen[-1] == limit)
    assert same(whole, again(lambda: False))
    assert seen == list(range(1, 10))


def test_time_before_an_interruption_counts(tmp_path):
    clock = Checkpoints(tmp_path, "one", {}, every=1e9)
    with pytest.raises(StoppedError):
        search(checkpoints=clock, stop=lambda: True)
    saved = clock.newest()
    clock.save(10**6, saved.tensors, {**saved.content, "seconds": 1e6})
    assert search(checkpoints=clock).seconds > 1e6


def test_checkpoints_are_left_as_often_as_asked(tmp_path):
    search(checkpoints=Checkpoints(tmp_path, "one", {}, every=0.0))
    assert 1 <= len(list(tmp_path.glob("one.*.json"))) <= 2


def test_logits_do_not_move_during_the_warm_up():
    warm = search(epochs=2, warmup=2)
    assert torch.equal(logits(warm)["logits"], Plain(Relaxed.count(GRAPHS["op_subset"]), 0).logits)
    assert [one.accuracy for one in warm.history] == [None, None]
    assert warm.history[0].cost == warm.history[1].cost
    assert warm.history[0].loss != warm.history[1].loss
    assert not torch.equal(logits(search(epochs=2, warmup=1))["logits"], logits(warm)["logits"])


@pytest.mark.parametrize("relaxation", ["mixture", "sampled"])
def test_a_budget_is_spent_where_accuracy_counts_and_kept_where_cost_does(relaxation):
    found = search(objective=Objective(budget=True), epochs=20, warmup=0, architecture_rate=0.02, relaxation=relaxation)
    assert cost_share("op_subset", found, 0.0) == 1
    assert cost_share("op_subset", found, 1.0) == 0
    expected = ExpectedCost(GRAPHS["op_subset"], "params", torch.device("cpu"))
    for preference in (0.1, 0.5, 0.9):
        price = expected(found.preferences.relaxed(preference)).item()
        assert price == pytest.approx(1 - preference, abs=0.2)


@pytest.mark.parametrize("preference", [0.25, 0.75])
def test_a_budget_of_one_search_is_kept(preference):
    found = search(objective=Objective(preference, budget=True), epochs=15, warmup=0)
    assert found.history[-1].cost == pytest.approx(1 - preference, abs=0.05)


@pytest.mark.parametrize("kind", GRAPHS)
def test_where_cost_alone_counts_the_cheapest_is_found(kind):
    found = search(kind, Objective(1.0), epochs=6, warmup=0, images=36, architecture_rate=1.0)
    assert cost_share(kind, found, 1.0) == 0
    assert found.history[-1].cost < 0.1
    assert found.history[-1].cost < found.history[0].cost
    assert not found.collapsed


def test_norms_are_those_of_what_is_learnt():
    weights = [one.detach() for one in fresh("nasbench201").parameters() if one.requires_grad]
    expected = {
        "l1": sum(one.abs().sum().item() for one in weights),
        "l2": sum(one.square().sum().sqrt().item() for one in weights),
    }
    for norm, value in expected.items():
        found = search(
            "nasbench201", Objective(0.0, norm=norm, norm_weight=1.0), epochs=1, images=16, learning_rate=1e-12
        )
        assert found.history[0].norm == pytest.approx(value, rel=1e-5)


@pytest.mark.parametrize("norm", ["l1", "l2"])
def test_a_larger_weight_makes_the_norm_smaller(norm):
    norms = [
        search(objective=Objective(0.0, norm=norm, norm_weight=weight), epochs=4).history[-1].norm
        for weight in (0.0, 0.01, 1.0)
    ]
    assert norms[0] > norms[1] > norms[2]
    assert norms[2] < 0.8 * norms[0]


@pytest.mark.parametrize("relaxation", ["mixture", "sampled"])
def test_batches_in_pieces_are_the_same_steps_but_for_the_norms(relaxation):
    whole, pieces = (search(pieces=pieces, relaxation=relaxation, epochs=2) for pieces in (1, 2))
    assert not same(whole, pieces)
    for first, second in zip(whole.history, pieces.history, strict=True):
        assert second.loss == pytest.approx(first.loss, rel=0.3)
    torch.testing.assert_close(logits(pieces)["logits"], logits(whole)["logits"], atol=0.5, rtol=0)
    assert len(search(pieces=5, epochs=1).history) == 1  # more pieces than divide a batch


@pytest.mark.parametrize("budget", [False, True])
def test_draws_of_zeros_alone_are_searched_in_pieces_too(monkeypatch, budget):
    leaning(monkeypatch, 0, 50.0)
    found = search("nasbench201", Objective(0.5, budget), pieces=2, relaxation="sampled", warmup=0, images=36)
    assert found.history[0].dominant == {"none": 1.0}


def watch(monkeypatch, look):
    """Call ``look(state)`` before and after each step of the architecture."""
    own = searching._Step.architecture
    seen = []

    def watched(step, *arguments):
        before = look(step.state)
        result = own(step, *arguments)
        seen.append((before, look(step.state)))
        return result

    monkeypatch.setattr(searching._Step, "architecture", watched)
    return seen


def test_a_step_of_the_architecture_changes_no_weight(monkeypatch):
    def values(state):
        weights = [one.detach().clone() for one in state.shared.parameters()]
        momenta = [one.clone() for one in state.weights_optimizer.state().values()]
        return weights + momenta, state.logits.logits.detach().clone()

    seen = watch(monkeypatch, values)
    search("nasbench201")
    assert len(seen) == 6
    for (before, logits_before), (after, logits_after) in seen:
        assert all(torch.equal(*pair) for pair in zip(before, after, strict=True))
        assert not torch.equal(logits_before, logits_after)
    for (_, (_, left)), ((_, found), _) in itertools.pairwise(seen):  # steps of the weights change no logit
        assert torch.equal(left, found)


@pytest.mark.parametrize("kind", ["nasbench201", "darts"])
def test_what_is_learnt_stays_so_and_norms_of_mixed_operations_stay_frozen(monkeypatch, kind):
    kept = []

    def flags(state):
        kept[:] = [state.shared]
        return {name: one.requires_grad for name, one in state.shared.named_parameters()}

    seen = watch(monkeypatch, flags)
    search(kind, epochs=2, images=36)
    expected = {name: one.requires_grad for name, one in fresh(kind).named_parameters()}
    assert set(expected.values()) == {True, False}
    assert seen == [(expected, expected)] * 2
    first = dict(fresh(kind).named_parameters())
    for name, after in kept[0].named_parameters():
        assert torch.equal(after, first[name]) == (not expected[name]), name
    frozen = [one for one in kept[0].modules() if isinstance(one, nn.BatchNorm2d) and not one.weight.requires_grad]
    assert all((one.weight == 1).all() and (one.bias == 0).all() for one in frozen)


def test_a_search_for_accuracy_that_ends_without_weights_has_collapsed(monkeypatch):
    one_step = {"kind": "nasbench201", "epochs": 1, "images": 16}
    for option, collapses in enumerate((True, True, False, False, True)):  # none, skip, two convolutions, pool
        with monkeypatch.context() as context:
            leaning(context, option, 1.0)
            found = search(**one_step)
            assert free_share(GRAPHS["nasbench201"], found.preferences.architecture(0.0)) == collapses
            assert found.history[-1].free_share == collapses
            assert found.collapsed is collapses
    leaning(monkeypatch, 1, 1.0)
    assert not search(**one_step, objective=Objective(0.5)).collapsed
    assert not search(**one_step, objective=Objective(0.0, norm="l2", norm_weight=0.1)).collapsed
    assert search(**one_step, most_skips=4).collapsed  # four of six are two thirds
    capped = search(**one_step, most_skips=2)
    assert capped.history[0].skip_share == pytest.approx(2 / 6)


def test_of_the_recipe_only_the_augmentation_is_used():
    plain = search()
    other = {"bias_rate": 64.0, "momentum": 0.1, "weight_decay": 0.3, "optimizer": "adam", "epochs": 7, "beta2": 0.5}
    assert same(plain, search(recipe=RECIPE.model_copy(update=other)))
    for changes in ({"crop_padding": 0}, {"flip": False}, {"cutout": 4}):
        assert not same(plain, search(recipe=RECIPE.model_copy(update=changes)))


def test_beta_decay_keeps_logits_together():
    free, held = (search(beta_decay=weight, epochs=6, warmup=0) for weight in (0.0, 100.0))
    assert logits(held)["logits"].max() < logits(free)["logits"].max()


def test_the_temperature_falls_geometrically():
    found = search(temperature=(4.0, 1.0), epochs=3)
    assert found.preferences.temperature == 1.0
    assert [searching._temperature(SETTINGS.model_copy(update={"temperature": (4.0, 1.0)}), at) for at in range(3)] == [
        pytest.approx(value) for value in (4, 2, 1)
    ]


def test_halves_have_as_many_of_each_class_and_no_image_in_common():
    images = torch.arange(51, dtype=torch.uint8)[:, None, None, None].expand(51, 8, 8, 1)
    split = Split(images, torch.arange(51) % 3)
    halves = searching._halves(split, 0, "key")
    numbers = [set(half.images[:, 0, 0, 0].tolist()) for half in halves]
    assert not numbers[0] & numbers[1]
    assert numbers[0] | numbers[1] == set(range(51))
    counts = torch.stack([half.labels.bincount(minlength=3) for half in halves])
    assert (counts[0] - counts[1]).abs().max() <= 1
    for half in halves:
        assert torch.equal(half.labels, half.images[:, 0, 0, 0].long() % 3)
    assert {*searching._halves(split, 1, "key")[0].images[:, 0, 0, 0].tolist()} != numbers[0]


def test_what_cannot_be_searched_is_refused():
    with pytest.raises(InputError, match="partial channels: 3 parts of 4 channels"):
        search("nasbench201", partial=3)
    with pytest.raises(DivergedError, match="the loss of the search is"):
        search(normalisation=Normalisation((0.5,), (1e-45,)))
    for wrong in ({"temperature": (0.0, 1.0)}, {"relaxation": "none"}, {"pieces": 0}, {"warmup": -1}, {"epoch": 3}):
        with pytest.raises(ValidationError):
            DifferentiableSettings.model_validate(wrong)
