"""
README's Python snippet with several seeds: what its agents score at the end of their training, over 100 episodes.

    python benchmarks/readme_seeds.py --seeds 0 1 2 3 4 5 6 7 8 9
"""

import argparse
import os
import re
import tempfile
from pathlib import Path
from typing import Any

import torch as th
from machine import describe
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy

README = Path(__file__).parents[1] / "README.md"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(10)))
    args = parser.parse_args()
    th.set_num_threads(1)
    found = re.search(r"```python\n(import gymnasium.*?)evaluate_policy\(", README.read_text(), re.DOTALL)
    assert found is not None
    code = found[1].replace("verbose=1", "verbose=0")
    print(describe())
    for seed in args.seeds:
        names: dict[str, Any] = {}
        with tempfile.TemporaryDirectory() as folder:
            os.chdir(folder)  # the snippet saves its agent
            exec(code.replace('"CartPole-v1",\n', f'"CartPole-v1",\n    seed={seed},\n', 1), names)
            os.chdir(README.parent)
        env = make_vec_env("CartPole-v1", 20, seed=1000 + seed)
        mean, std = evaluate_policy(names["model"], env, 100, warn=False)
        print(f"seed {seed}: {mean:.1f} +/- {std:.1f}", flush=True)


if __name__ == "__main__":
    main()
