"""What can be said about means of a few runs: intervals, differences, ranks.

Runs of one setting differ in their seed, so their values are a small sample. Its interval is that
of Student's t, which covers 95 % also for three runs; a bootstrap of so few covers 75 %. Several
means are compared by Games and Howell's test: like Tukey's it holds its level for all pairs
together, and it does not ask for equal variances, which different optimizers do not have.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from lit_optim.results.data import Interval

#: With two values the interval is 13 times as wide as their standard error, and says nothing.
FEWEST = 3
LEVEL = 0.05  # of an interval, and of all pairs together


def interval(values: Sequence[float]) -> Interval:
    """The mean of values, with its 95 % confidence interval by Student's t.

    A value that is not finite makes the mean NaN. Fewer than three values have no interval.
    """
    count = len(values)
    if not count or not all(map(math.isfinite, values)):
        return Interval(math.nan, math.nan, count)
    exponent, scaled = _scale(values)
    mean = math.ldexp(math.fsum(scaled) / count, exponent)
    if count < FEWEST:
        return Interval(mean, math.nan, count)
    error = statistics.stdev(scaled) / math.sqrt(count)
    half = _t_quantile(count - 1) * error
    try:
        return Interval(mean, math.ldexp(half, exponent), count)
    except OverflowError:
        return Interval(mean, math.inf, count)


def _scale(*samples: Sequence[float]) -> tuple[int, list[float]]:
    """The exponent of a power of two, and the values divided by it: none is beyond 1.

    A loss that explodes may be as large as a float can be, and sums of such would overflow.
    """
    values = [value for sample in samples for value in sample]
    exponent = math.frexp(max(map(abs, values), default=0.0))[1]
    return exponent, [math.ldexp(value, -exponent) for value in values]


def _t_quantile(degrees: float) -> float:
    from scipy.special import stdtrit  # scipy.stats takes three times as long to import

    return float(stdtrit(degrees, 1 - LEVEL / 2))


def differ(a: Sequence[float], b: Sequence[float], groups: int) -> bool:
    """Whether two of several means can be told apart, by Games and Howell's test at 5 %.

    The same answer as `scipy.stats.tukey_hsd(..., equal_var=False)` of all groups, which compares
    every pair and gives NaN where two samples do not vary. Those differ if their means do: whatever
    the seed, they would come out the same again. One run alone cannot be told apart from anything.

    Args:
        a: the values of one group.
        b: of another.
        groups: how many are compared with each other.
    """
    if min(len(a), len(b)) < 2 or not all(map(math.isfinite, (*a, *b))):
        return False
    scaled = _scale(a, b)[1]
    a, b = scaled[: len(a)], scaled[len(a) :]
    gap = abs(math.fsum(a) / len(a) - math.fsum(b) / len(b))
    first, second = statistics.variance(a) / len(a), statistics.variance(b) / len(b)
    both = first + second
    if both == 0:
        return gap > 0
    t = gap / math.sqrt(both)
    degrees = 1 / ((first / both) ** 2 / (len(a) - 1) + (second / both) ** 2 / (len(b) - 1))
    from scipy.special import stdtr

    alone = 2 * float(stdtr(degrees, -t))  # of this pair, without regard to the others
    if alone >= LEVEL:
        return False  # more groups only make it harder
    if alone * groups * (groups - 1) / 2 < LEVEL:
        return True  # Bonferroni's bound
    from scipy.stats import studentized_range  # slow to import, and 15 ms each time

    return bool(studentized_range.sf(t * math.sqrt(2), groups, degrees) < LEVEL)


def rank(samples: Sequence[Sequence[float]]) -> list[int]:
    """The ranks of samples that are sorted by their mean, the best first.

    Reading down, a sample shares the rank above it as long as it cannot be told apart from the best
    one of that rank; else its rank is its place: 1, 1, 3. So the best of each rank is worse at
    the 5 % level than the best of the rank above, and nothing in a rank is so than its best.
    """
    ranks: list[int] = []
    for place, sample in enumerate(samples, 1):
        if not ranks or differ(samples[ranks[-1] - 1], sample, len(samples)):
            ranks.append(place)
        else:
            ranks.append(ranks[-1])
    return ranks


def median(values: Sequence[float]) -> float:
    """The median, in which infinite values take part; NaN without values."""
    return statistics.median(values) if values else math.nan
