"""BLAS in one thread, and what it was before again."""

from __future__ import annotations

import numpy as np
from threadpoolctl import threadpool_info, threadpool_limits

from data.prepare import resample
from utils.threads import one_blas_thread


def blas_threads() -> set[int]:
    """Of every BLAS of the process."""
    return {part["num_threads"] for part in threadpool_info() if part["user_api"] == "blas"}


def test_blas_has_one_thread_inside_and_as_many_as_before_behind() -> None:
    np.ones((2, 2)) @ np.ones((2, 2))
    with threadpool_limits(2, user_api="blas"):
        before = blas_threads()
        for _ in range(2):  # a second context is made from the same libraries
            with one_blas_thread():
                assert blas_threads() == {1}
            assert blas_threads() == before


def test_a_probability_is_resampled_to_the_same_bits_with_any_number_of_threads() -> None:
    volume = np.random.default_rng(0).random((9, 40, 37)).astype(np.float32)
    weights = resample.grid_weights(volume.shape, (2.0, 0.7, 0.7), (13, 31, 52), (1.4, 0.9, 0.5))
    results = []
    for threads in (1, 2):
        with threadpool_limits(threads, user_api="blas"):
            results.append(resample.resample_float(volume, weights))
    np.testing.assert_array_equal(results[0], results[1])
