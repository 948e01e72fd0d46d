"""This file tests ranks and their correlation, against SciPy where random values have ties."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import rankdata, spearmanr

from dwindle.core.ranks import rank_correlation, ranks
from dwindle.errors import DataError

FEW = st.lists(st.integers(-3, 3).map(float), min_size=3, max_size=12)


@given(FEW)
def test_ranks_are_those_of_scipy(values):
    assert ranks(values) == rankdata(values).tolist()


@given(FEW, st.randoms(use_true_random=False))
def test_correlation_is_that_of_scipy(values, random):
    others = [random.choice(values) for _ in values]
    if len(set(values)) == 1 or len(set(others)) == 1:
        assert rank_correlation(values, others) is None
    else:
        assert rank_correlation(values, others) == pytest.approx(spearmanr(values, others).statistic, abs=1e-12)


def test_nothing_is_said_of_two():
    assert rank_correlation([1.0, 2.0], [1.0, 2.0]) is None
    assert rank_correlation([], []) is None


def test_infinite_scores_have_ranks():
    assert rank_correlation([1.0, 2.0, float("inf")], [3.0, 2.0, 1.0]) == -1.0


@pytest.mark.parametrize(("first", "second"), [([1.0], []), ([1.0, float("nan"), 2.0], [1.0, 2.0, 3.0])])
def test_refuses_what_cannot_be_ranked(first, second):
    with pytest.raises(DataError, match="without NaN"):
        rank_correlation(first, second)
