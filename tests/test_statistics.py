"""sb3_spiking/evaluation/statistics.py by hand."""

import numpy as np
import pytest

from sb3_spiking.evaluation import statistics
from sb3_spiking.evaluation.table import over_runs

RANDOM = {"A": 1.0, "B": -10.0}
RELU = {"A": [3.0, 5.0], "B": [10.0]}
OURS = {"A": [4.0, 7.0, 1.0], "B": [0.0], "C": [9.0]}


def test_normalised():
    scores = statistics.normalised(OURS, RELU, RANDOM)
    assert {game: list(each) for game, each in scores.items()} == {"A": [1.0, 2.0, 0.0], "B": [0.5]}


def test_games_that_the_reference_does_not_learn_are_left_out():
    reference = {"A": [3.0, 5.0], "B": [-10.0, -10.0]}
    assert set(statistics.normalised(OURS, reference, RANDOM)) == {"A"}
    assert statistics.interquartile(OURS, reference, RANDOM) == (1.0, None)
    five = {"A": [3.0, 5.0] * 3, "B": [-10.0] * 6}
    value, interval = statistics.interquartile(five, five, RANDOM)
    assert value == 1.0
    assert 0.4 < interval[0] < 1 < interval[1] < 2
    assert np.isnan(statistics.interquartile({"B": [1.0]}, reference, RANDOM).value)
    assert not statistics.normalised({"A": [1.0]}, {"A": [0.3] * 10}, {"A": 0.3})  # whose mean differs by rounding
    assert not statistics.normalised({"A": [1.0]}, {"A": [-21.0]}, {"A": -20.7})  # worse than random play
    # Draws that are all of runs that learned nothing count for nothing
    value, interval = statistics.interquartile({"A": [-100.0] * 6}, {"A": [-200.0] * 5 + [-150.0]}, {"A": -200.0})
    assert value == pytest.approx(12)
    assert np.isfinite(interval).all()


def test_interquartile_mean():
    # Of 0, 0.5, 1 and 2 the middle half
    assert statistics.interquartile_mean(statistics.normalised(OURS, RELU, RANDOM)) == 0.75
    assert statistics.interquartile(OURS, RELU, RANDOM) == (0.75, None)


def test_improvement():
    # A: 4 beats 3 alone, 7 both, 1 none: 3 of 6; B: none
    assert statistics.improvement(OURS, RELU) == (0.25, None)
    assert statistics.improvement({"A": [1.0]}, {"A": [1.0]}).value == 0.5


def test_profile():
    scores = statistics.normalised(OURS, RELU, RANDOM)
    assert list(statistics.profile(scores, np.array([-1.0, 0.0, 0.75, 2.0]))) == pytest.approx([1, (2 / 3 + 1) / 2, 1 / 3, 0])


def test_intervals_need_five_runs_of_each_game():
    for ours, theirs, there in ((5, 5, True), (4, 5, False), (5, 4, False)):
        runs, reference = ({"A": np.arange(count), "B": np.arange(count)} for count in (ours, theirs))
        random = {"A": -1.0, "B": -1.0}
        assert (statistics.interquartile(runs, reference, random).interval is not None) == there
        assert (statistics.improvement(runs, reference).interval is not None) == there


def test_the_reference_is_drawn_too():
    """Runs that are all the same have an interval as wide as the reference's mean is uncertain."""
    runs, reference = {"A": [10.0] * 5}, {"A": [8.0, 9.0, 10.0, 11.0, 12.0]}
    value, interval = statistics.interquartile(runs, reference, {"A": 0.0})
    assert value == 1.0
    low, high = interval
    # The mean of five draws has a standard deviation of sqrt(2 / 5)
    assert 10 / low == pytest.approx(10 + 1.96 * 0.4**0.5, abs=0.1)
    assert 10 / high == pytest.approx(10 - 1.96 * 0.4**0.5, abs=0.1)
    assert statistics.interquartile(reference, {"A": [10.0] * 5}, {"A": 0.0}).interval is not None


@pytest.mark.parametrize("seeds", [5, 10])
def test_intervals_cover(seeds):
    """Simulated: normal scores of two methods that are equally good; their ratio is 1."""
    generator = np.random.default_rng(0)
    covered = 0
    for _ in range(200):
        runs, reference = ({game: generator.normal(10, 2, seeds) for game in "ABCDE"} for _ in range(2))
        low, high = statistics.interquartile(runs, reference, dict.fromkeys("ABCDE", 0.0)).interval
        covered += low <= 1 <= high
    assert covered / 200 > 0.88


def test_a_table_of_methods_by_hand():
    methods = {
        "relu": {"a": [10, 20], "b": [4, 4]},
        "spiking": {"a": [15, 15, 30], "b": [4, 4]},  # 100%, 100%, 200% and 100%, 100%
        "other": {"a": [10]},  # without b
    }
    head, _, row = over_runs(methods, "relu", {"a": 0, "b": 0}).splitlines()
    assert [cell.strip() for cell in head.strip("|").split("|")][2] == "interquartile mean, % of relu"
    # In a 15 beats 10 and not 20, twice, and 30 both: 4 of 6; in b all are ties
    assert [cell.strip() for cell in row.strip("|").split("|")] == ["spiking", "2 to 3", "100%", "58%"]
    assert over_runs({"relu": methods["relu"], "other": methods["other"]}, "relu", {"a": 0, "b": 0}) == ""


def test_a_table_says_the_fewest_and_the_most_runs_of_a_game():
    runs = {"relu": {game: [1.0] for game in "abc"}, "spiking": {"a": [1.0] * 2, "b": [1.0] * 3, "c": [1.0] * 4}}
    assert "| spiking |      2 to 4 |" in over_runs(runs, "relu", dict.fromkeys("abc", 0.0))


def test_a_table_has_intervals_from_five_runs_on():
    runs = {"relu": {"a": [1.0] * 5}, "spiking": {"a": [2.0] * 5}}
    assert " 200% (200% to 200%) | 100% (100% to 100%) |" in over_runs(runs, "relu", {"a": 0})


def test_a_table_says_of_how_many_games_a_mean_is():
    methods = {"relu": {"A": [10.0], "B": [-1.0]}, "spiking": {"A": [7.0], "B": [3.0]}}
    assert "70%, 1 of 2 games" in over_runs(methods, "relu", {"A": 0.0, "B": 0.0})
    assert "games |" not in over_runs(methods, "relu", {"A": 0.0, "B": -2.0}).splitlines()[-1]
