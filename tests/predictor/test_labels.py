from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm

from predictor.labels import NormalScores, labels, normal_scores
from supernet import InputError, LabelTable

VALUES = st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=30).filter(lambda values: max(values) - min(values) > 1e-3)


def test_scores_are_quantiles_of_ranks():
    np.testing.assert_allclose(normal_scores(np.array([3.0, 1.0, 2.0])), norm.ppf([5 / 6, 1 / 6, 0.5]), atol=1e-12)
    np.testing.assert_allclose(normal_scores(np.array([1.0, 1.0])), 0, atol=1e-12)


@given(VALUES)
def test_the_map_goes_back_and_rises(values):
    array = np.array(values)
    scores = NormalScores.of(array)
    np.testing.assert_allclose(scores.value(normal_scores(array)), array, rtol=1e-9, atol=1e-9)
    line = scores.value(np.linspace(-20, 20, 200))
    assert (np.diff(line) >= -1e-9).all()
    reach = 0.05 * np.ptp(array)
    assert array.min() - reach - 1e-9 <= line.min()
    assert line.max() <= array.max() + reach + 1e-9


def test_what_cannot_be_fitted(op_subset_table: LabelTable):
    with pytest.raises(InputError, match="at least 2 rows to fit on, got 1"):
        labels(op_subset_table.subset(np.arange(1)), "accuracy")
    with pytest.raises(InputError, match="known: accuracy"):
        labels(op_subset_table, "accuracies")
