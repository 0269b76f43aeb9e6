"""
The statistics over seeds beside those of rliable (Agarwal et al. 2021, arXiv 2108.13264) on the same numbers. rliable does not
import beside pandas 3, so it lives in an environment of its own:

    python -m venv rliable && rliable/bin/pip install rliable "pandas<3"
    python benchmarks/rliable_check.py --python rliable/bin/python

Drawn scores of five games and five to ten seeds. rliable takes the scores that normalise as known: for the intervals ours are
given a reference whose runs are all the same.
"""

import argparse
import json
import subprocess

import numpy as np

from sb3_spiking.evaluation import statistics

LEVELS = [0.0, 0.5, 0.9, 1.1, 1.5]
THEIRS = """
import json, sys
import numpy as np
from rliable import library, metrics

data = json.load(sys.stdin)
runs, reference = (np.array(data[name]).T for name in ("runs", "reference"))
np.random.seed(0)
points, intervals = library.get_interval_estimates({"ours": runs}, lambda x: np.array([metrics.aggregate_iqm(x)]), reps=10000)
pairs = {"ours,reference": (runs, reference)}
better, better_intervals = library.get_interval_estimates(pairs, metrics.probability_of_improvement, reps=2000)
profile, _ = library.create_performance_profile({"ours": runs}, np.array(data["levels"]), reps=10)
print(json.dumps({
    "iqm": float(points["ours"][0]), "interval": intervals["ours"].ravel().tolist(),
    "improvement": float(better["ours,reference"]), "better": better_intervals["ours,reference"].ravel().tolist(),
    "profile": profile["ours"].tolist(),
}))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", required=True, help="of the environment that has rliable")
    args = parser.parse_args()
    print("| seeds | | ours | rliable |\n|--:|---|--:|--:|")
    for seeds in (5, 10):
        generator = np.random.default_rng(seeds)
        runs = {game: generator.normal(1.05, 0.2, seeds) for game in "ABCDE"}
        reference = {game: generator.normal(1.0, 0.2, seeds) for game in "ABCDE"}
        data = {name: [list(scores) for scores in each.values()] for name, each in (("runs", runs), ("reference", reference))}
        answer = subprocess.run(
            [args.python, "-c", THEIRS],
            input=json.dumps({**data, "levels": LEVELS}),
            capture_output=True,
            text=True,
            check=True,
        )
        theirs = json.loads(answer.stdout.splitlines()[-1])
        ones = {game: np.ones(statistics.FEWEST_RUNS) for game in runs}
        mean = statistics.interquartile(runs, ones, dict.fromkeys(runs, 0.0))
        better = statistics.improvement(runs, reference)
        profile = statistics.profile({game: np.asarray(each) for game, each in runs.items()}, np.array(LEVELS))
        for what, ours, other in (
            ("interquartile mean", [mean.value], [theirs["iqm"]]),
            ("its interval", mean.interval, theirs["interval"]),
            ("probability of improvement", [better.value], [theirs["improvement"]]),
            ("its interval", better.interval, theirs["better"]),
            ("profile", profile.tolist(), theirs["profile"]),
        ):
            shown = [", ".join(f"{number:.3f}" for number in numbers or ()) for numbers in (ours, other)]
            print(f"| {seeds} | {what} | {' | '.join(shown)} |", flush=True)


if __name__ == "__main__":
    main()
