"""
Methods compared over games and training seeds, after Agarwal et al. 2021 (arXiv 2108.13264).

A run's score is normalised game by game: 0 is random play, 1 the mean of the reference's runs. A bootstrap draws runs, those
of each game by themselves, and the reference's as well: its mean is no better known than the others. (Agarwal et al. normalise
by published scores, which are fixed.)
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

#: Fewer runs of a game have no interval: it would cover far less than it says
FEWEST_RUNS = 5
_SAMPLES = 10_000

#: Scores of the runs of a method, by game
Runs = Mapping[str, Sequence[float] | np.ndarray]


class Estimate(NamedTuple):
    """A number, and its 95% interval, None with fewer than :data:`FEWEST_RUNS` runs of a game."""

    value: float
    interval: tuple[float, float] | None


def normalised(runs: Runs, reference: Runs, random: Mapping[str, float]) -> dict[str, np.ndarray]:
    """
    :param runs: of a method, shape (..., N) each
    :param reference: runs of the method whose mean is 1, shape (..., M) each
    :param random: scores of random play
    :return: normalised scores of the games that both have and where the reference is better than random play, shape (..., N)
        each; NaN where runs that a bootstrap has drawn are not
    """
    result = {}
    for game, scores in runs.items():
        if game in reference:
            above = np.mean(reference[game], axis=-1, keepdims=True) - random[game]
            least = 1e-9 * (1 + abs(random[game]))  # rounding
            if np.mean(above) > least:
                result[game] = (np.asarray(scores, float) - random[game]) / np.where(above > least, above, np.nan)
    return result


def interquartile_mean(scores: Mapping[str, np.ndarray]) -> np.ndarray:
    """
    Mean of the middle half of all runs of all games: neither one game nor one seed decides.

    :param scores: normalised, shape (..., N) each
    :return: shape (...); NaN without games
    """
    if not scores:
        return np.asarray(np.nan)
    from scipy.stats import trim_mean  # slow to import

    return np.asarray(trim_mean(np.concatenate(list(scores.values()), axis=-1), 0.25, axis=-1))


def interquartile(runs: Runs, reference: Runs, random: Mapping[str, float]) -> Estimate:
    """
    :param runs: of a method
    :param reference: runs of the method whose mean is 1
    :param random: scores of random play
    :return: interquartile mean of the normalised scores
    """
    return _bootstrapped(lambda ours, theirs: interquartile_mean(normalised(ours, theirs, random)), runs, reference)


def improvement(runs: Runs, reference: Runs) -> Estimate:
    """
    :param runs: of a method
    :param reference: runs of another
    :return: how likely a run of the one is better than a run of the other in the same game, a tie counting half; mean over the
        games that both have
    """

    def estimate(runs: Runs, reference: Runs) -> np.ndarray:
        shares = []
        for game, scores in runs.items():
            ours, theirs = np.asarray(scores)[..., :, None], np.asarray(reference[game])[..., None, :]
            shares.append(((ours > theirs) + 0.5 * (ours == theirs)).mean(axis=(-2, -1)))
        return np.mean(shares, axis=0)

    return _bootstrapped(estimate, runs, reference)


def profile(scores: Mapping[str, np.ndarray], levels: np.ndarray) -> np.ndarray:
    """
    :param scores: normalised
    :param levels: shape (L,)
    :return: share of the runs above each level, every game counting the same, shape (L,); NaN without games
    """
    if not scores:
        return np.full(levels.shape, np.nan)
    return np.mean([(each[:, None] > levels).mean(axis=0) for each in scores.values()], axis=0)


def _bootstrapped(estimate: Callable[[Runs, Runs], np.ndarray], runs: Runs, reference: Runs) -> Estimate:
    games = [game for game in runs if game in reference]
    both = [{game: np.asarray(each[game], float) for game in games} for each in (runs, reference)]
    value = float(estimate(*both))
    if np.isnan(value) or min(len(scores) for each in both for scores in each.values()) < FEWEST_RUNS:
        return Estimate(value, None)
    generator = np.random.default_rng(0)
    drawn = [{game: generator.choice(scores, (_SAMPLES, len(scores))) for game, scores in each.items()} for each in both]
    low, high = np.nanpercentile(estimate(*drawn), (2.5, 97.5))
    return Estimate(value, (float(low), float(high)))
