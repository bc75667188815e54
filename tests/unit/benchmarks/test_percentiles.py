"""The summary of many numbers by percentiles and spread."""

import pytest
from operator_benchmark.percentiles import of_jobs, percentile, spread


def test_a_percentile_is_one_of_the_values() -> None:
    values = [float(n) for n in range(100, 0, -1)]
    assert [percentile(values, percent) for percent in (0, 1, 50, 95, 99.5, 100)] == [1, 1, 50, 95, 100, 100]


def test_of_few_values_a_high_percentile_is_the_last() -> None:
    assert percentile([3.0, 1.0, 2.0], 95) == 3
    assert percentile([3.0, 1.0, 2.0, 4.0], 50) == 2


def test_there_is_no_percentile_of_nothing() -> None:
    with pytest.raises(ValueError, match="nothing"):
        percentile([], 50)


def test_the_times_of_many_jobs_are_three_numbers() -> None:
    assert of_jobs([0.5] * 18 + [2.0, 9.0]) == {"p50": 0.5, "p95": 2.0, "last": 9.0}


def test_a_spread_has_median_lowest_highest_and_count() -> None:
    assert spread([3.0, 1.0, 2.0, 10.0]) == (2.5, 1.0, 10.0, 4)
