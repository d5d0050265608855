"""Polynomials in place of the special instruction of SiLU.

``silu(2h) = 2h · s(h)``, ``s(h) = 1/2 + tanh(h)/2``, and ``s(h)`` is about ``h · Q(h²) + 1/2``, cut
to [0, 1]. The last coefficient of Q is positive, so beyond the range of the fit the sum only grows:
cutting it, which an instruction does on its way, is all that great numbers need, and their weights
are exactly 2h and 0.

The coefficients keep small what sums of many weights show. For scores from normal distributions of
13 spreads from 0.05 to 8 they minimise the greatest error of the mean of ``silu`` and the greatest
root of the mean squared error, both relative to what ``silu`` has (the eighth-power means over the
spreads, summed). `tests/genrec_kernels/test_cutlass_silu_polynomials.py` fits them again.

Rounding to e4m3 has a root of the mean squared error of some 2.6 %, to bfloat16 of 0.17 %.
"""

from __future__ import annotations

# Terms of Q: from the constant one.
#: Mean within 0.5 %, root of the mean squared error 1.4 %; no weight is off by more than 0.084.
THREE_TERMS = (0.497484, -0.134484, 0.019346)
#: 0.12 %, 0.34 %, 0.033.
FIVE_TERMS = (0.4994086, -0.1552245, 0.04192276, -0.006290381, 0.0003720942)
#: 0.04 %, 0.11 %, 0.015.
SEVEN_TERMS = (
    *(0.4998015, -0.161734, 0.05281323, -0.01213817),
    *(0.001695567, -0.0001267342, 0.00000386027),
)
TERMS = {len(terms): terms for terms in (THREE_TERMS, FIVE_TERMS, SEVEN_TERMS)}


def takes_polynomial(place: int, eighths: int) -> bool:
    """Whether the number at a place is one of so many in eight; they are spread evenly."""
    return (place + 1) * eighths // 8 > place * eighths // 8
