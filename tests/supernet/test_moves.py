import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from supernet.moves import crossover, neighbours, redraw, single_changes, step, swap


@st.composite
def batches(draw):
    cardinalities = tuple(draw(st.lists(st.integers(1, 6), min_size=1, max_size=8)))
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    rows = random.integers(0, cardinalities, size=(draw(st.integers(0, 20)), len(cardinalities))).astype(np.int8)
    return cardinalities, rows, random


def in_range(rows, cardinalities):
    return rows.dtype == np.int8 and ((rows >= 0) & (rows < np.asarray(cardinalities))).all()


@given(batches())
def test_redraw_changes_exactly_the_marked_choices(batch):
    cardinalities, rows, random = batch
    where = random.random(rows.shape) < 0.5
    result = redraw(rows, where, cardinalities, random)
    assert in_range(result, cardinalities)
    assert ((result != rows) == (where & (np.asarray(cardinalities) > 1))).all()


def test_redraw_reaches_every_other_option():
    rows = np.full((400, 1), 2, np.int8)
    result = redraw(rows, np.ones_like(rows, bool), (5,), np.random.default_rng(0))
    assert set(result.ravel().tolist()) == {0, 1, 3, 4}


@given(batches())
def test_swap_lowers_one_choice_and_raises_another(batch):
    cardinalities, rows, random = batch
    result = swap(rows, cardinalities, random)
    assert in_range(result, cardinalities)
    assert ((result < rows).sum(axis=1) <= 1).all()
    assert ((result > rows).sum(axis=1) <= 1).all()


@given(st.integers(2, 20), st.integers(0, 2**32))
def test_swap_of_on_and_off_keeps_the_number_that_is_on(width, seed):
    random = np.random.default_rng(seed)
    rows = random.integers(0, 2, size=(20, width)).astype(np.int8)
    rows[:, 0], rows[:, 1] = 0, 1
    result = swap(rows, (2,) * width, random)
    assert (result.sum(axis=1) == rows.sum(axis=1)).all()
    assert ((result != rows).sum(axis=1) == 2).all()


def test_swap_reaches_every_pair_of_options():
    rows = np.tile(np.array([[2, 1]], np.int8), (2000, 1))
    result = {tuple(row) for row in swap(rows, (3, 4), np.random.default_rng(0)).tolist()}
    # Either position goes down, either may go up; where both are the same one, the rise follows the fall.
    assert {(0, 2), (0, 3), (1, 2), (1, 3)} <= result


@given(batches())
def test_crossover_takes_each_choice_from_a_parent(batch):
    _, rows, random = batch
    other = rows[::-1]
    child = crossover(rows, other, random)
    assert child.dtype == np.int8
    assert ((child == rows) | (child == other)).all()


@given(batches().filter(lambda batch: len(batch[1]) > 0))
def test_neighbours_are_all_at_distance_one_or_two(batch):
    cardinalities, rows, _ = batch
    found = neighbours(rows[0], cardinalities)
    assert in_range(found, cardinalities)
    assert set((found != rows[0]).sum(axis=1).tolist()) <= {1, 2}
    others = [count - 1 for count in cardinalities]
    pairs = (sum(others) ** 2 - sum(count**2 for count in others)) // 2
    assert len({row.tobytes() for row in found}) == sum(others) + pairs


@given(batches().filter(lambda batch: len(batch[1]) > 0))
def test_single_changes_are_all_at_distance_one(batch):
    cardinalities, rows, _ = batch
    found = single_changes(rows[0], cardinalities)
    assert in_range(found, cardinalities)
    assert (found != rows[0]).sum(axis=1).tolist() == [1] * sum(count - 1 for count in cardinalities)
    assert len(np.unique(found, axis=0)) == len(found)


@given(batches())
def test_a_step_redraws_one_choice_or_two(batch):
    cardinalities, rows, random = batch
    before = rows.copy()
    result = step(rows, cardinalities, random)
    assert (rows == before).all()
    assert result.shape == rows.shape
    assert in_range(result, cardinalities)
    changed = (result != rows).sum(axis=1)
    assert (changed <= 2).all()
    if min(cardinalities) > 1:
        assert (changed >= 1).all()
    assert (result[:, np.array(cardinalities) == 1] == 0).all()


def test_a_step_is_as_likely_as_the_one_back():
    """Of three choices, from every row to every other: a Metropolis walk needs that."""
    cardinalities = (2, 3, 2)
    rows = np.array(list(np.ndindex(cardinalities)), np.int8)
    times = 6000
    result = step(np.repeat(rows, times, axis=0), cardinalities, np.random.default_rng(0))
    places = np.ravel_multi_index(tuple(result.T), cardinalities).reshape(len(rows), times)
    counts = np.stack([np.bincount(row, minlength=len(rows)) for row in places])
    assert (np.diag(counts) == 0).all()
    # A difference of two binomial counts: within five standard deviations.
    assert (np.abs(counts - counts.T) <= 5 * np.sqrt(np.maximum(counts + counts.T, 1))).all()
    # A choice is drawn twice with chance 1/9, a pair with 2/9, shared out among their options.
    assert abs(counts[0, 6] / times - 1 / 9) < 0.02
    assert abs(counts[0, 7] / times - 2 / 9) < 0.03
    assert abs(counts[0, 8] / times - 1 / 9) < 0.02
