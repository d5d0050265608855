"""The polynomials in place of `tanh`: their errors, and that a fit finds nothing better."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.optimize import minimize

from genrec_kernels.cutlass.silu_polynomials import TERMS, takes_polynomial

#: Of normal distributions that scores are taken from.
SPREADS = (0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1, 1.5, 2, 3, 4, 5, 8)
X = np.linspace(0, 40, 8001)
#: ``silu(-x)``; ``silu(x)`` is x more, so an error is the same of both.
SILU_OF_NEGATIVE = -X / (1 + np.exp(X))
DENSITY = np.array([np.exp(-((X / spread) ** 2) / 2) for spread in SPREADS])
DENSITY[:, 0] /= 2
DENSITY /= DENSITY.sum(1, keepdims=True)
MEAN = DENSITY @ (SILU_OF_NEGATIVE + X / 2)
MEAN_SQUARE = DENSITY @ (SILU_OF_NEGATIVE**2 + (SILU_OF_NEGATIVE + X) ** 2) / 2

Numbers = NDArray[np.float64]


def silu_of(x: Numbers, terms: Numbers) -> Numbers:
    half = x / 2
    share = np.polynomial.polynomial.polyval(half * half, terms)
    return np.asarray(x * np.clip(half * share + 0.5, 0, 1))


def errors(terms: Numbers) -> tuple[Numbers, Numbers, float]:
    """Of mean and root of the mean square, relative, by spread; and the greatest of a weight."""
    error = silu_of(-X, terms) - SILU_OF_NEGATIVE
    return (
        DENSITY @ error / MEAN,
        np.sqrt(DENSITY @ error**2 / MEAN_SQUARE),
        float(np.abs(error).max()),
    )


def loss(logarithms: Numbers) -> float:
    """Of terms of alternating signs, by the logarithms of their sizes."""
    signs = (-1.0) ** np.arange(len(logarithms))
    means, squares, _ = errors(signs * np.exp(logarithms))
    return float(np.mean(means**8) ** 0.125 + np.mean(squares**8) ** 0.125)


@pytest.mark.parametrize(
    ("count", "mean", "square", "greatest"),
    [(3, 0.0055, 0.0145, 0.084), (5, 0.0013, 0.0035, 0.033), (7, 0.0005, 0.0012, 0.015)],
)
def test_errors_are_as_stated(count: int, mean: float, square: float, greatest: float) -> None:
    means, squares, most = errors(np.array(TERMS[count]))
    assert np.abs(means).max() < mean
    assert squares.max() < square
    assert most < greatest


@pytest.mark.parametrize("count", [3, 5])
def test_a_fit_finds_nothing_better(count: int) -> None:
    inside = X < 6
    powers = np.stack([(X[inside] / 2) ** (2 * i + 1) for i in range(count)], 1)
    start, *_ = np.linalg.lstsq(
        powers, -0.5 - SILU_OF_NEGATIVE[inside] / X[inside].clip(1e-9), None
    )
    found = np.log(np.abs(start))
    for _ in range(4):
        options = {"maxiter": 2000, "xatol": 1e-10, "fatol": 1e-10, "adaptive": True}
        found = minimize(loss, found, method="Nelder-Mead", options=options).x
    ours = loss(np.log(np.abs(TERMS[count])))
    assert ours < 1.02 * loss(found)


@pytest.mark.parametrize("terms", TERMS.values(), ids=TERMS)
def test_great_numbers_are_cut(terms: tuple[float, ...]) -> None:
    """In half precision too, where squares are infinite."""
    x = np.array([12, 300, 1000, 60000], np.float16)
    half = x / np.float16(2)
    with np.errstate(over="ignore"):
        share, square = np.float16(terms[-1]), half * half
        for term in reversed(terms[:-1]):
            share = share * square + np.float16(term)
        for sign, cut in ((1, 1), (-1, 0)):
            assert (np.clip(sign * half * share + np.float16(0.5), 0, 1) == cut).all()


def test_polynomials_are_spread_evenly() -> None:
    for eighths in range(9):
        taken = [takes_polynomial(place, eighths) for place in range(64)]
        assert sum(taken) == 8 * eighths
        assert taken[:8] * 8 == taken
    assert [i for i in range(8) if takes_polynomial(i, 2)] == [3, 7]
