"""The paper's table as a list: what it trains, and that it starts."""

from pathlib import Path

import pandas as pd
import pytest
import yaml

from sb3_spiking.sweep.lists import TrainingList

FILE = Path(__file__).parents[1] / "benchmarks/paper.yml"
METHODS = ["relu", "liu2022", "liu2022-spike", "liu2022-if", "converted", "default"]


def tiny(folder):
    """The list with a few steps, a small replay and short games; names of one game's jobs."""
    content = yaml.safe_load(FILE.read_text())
    content |= {"steps": 160, "seeds": [0], "score_episodes": 1, "env_kwargs": {"max_num_frames_per_episode": 200}}
    content["arguments"] = "--eval-freq 80 --eval-episodes 1"
    content["hyperparams"] = {"buffer_size": 500, "learning_starts": 64}
    content["methods"]["converted"]["arguments"] = "--num-steps 8 --episodes 2 --max-steps 10 --decisions 10 --frames 40"
    (folder / "paper.yml").write_text(yaml.safe_dump(content, sort_keys=False))
    return [f"PongNoFrameskip-v4_{method}_0" for method in METHODS]


def test_seventeen_games_six_methods_five_seeds(tmp_path):
    jobs = TrainingList(FILE, tmp_path)
    jobs.check(jobs.jobs)
    assert list(jobs.methods) == METHODS
    assert len(jobs.environments) == 17
    assert len(jobs.jobs) == 17 * 6 * 5
    steps = {job.method: jobs.training_steps(job) for job in jobs.jobs}
    assert steps == {**dict.fromkeys(METHODS, 50_000_000), "converted": 0}
    presets = {job.method: jobs.hyperparams_of(job)["policy_kwargs"] for job in jobs.jobs if job.method.startswith("liu2022")}
    assert presets == {
        method: f"dict(preset='{method.replace('-', '_')}')" for method in ("liu2022", "liu2022-spike", "liu2022-if")
    }


@pytest.mark.slow
def test_it_starts_on_this_machine(tmp_path, in_process):
    names = tiny(tmp_path)
    out, _ = in_process("sweep", f"paper.yml --only {' '.join(names)}", tmp_path)
    runs = pd.read_csv(tmp_path / "results/paper/runs.csv").set_index("method")
    assert sorted(runs.index) == sorted(METHODS)
    assert runs["steps"].to_dict() == {**dict.fromkeys(METHODS, 160), "converted": 0}
    windows = {"liu2022": 64, "liu2022-spike": 64, "liu2022-if": 64, "converted": 8, "default": 4}
    assert runs["num_steps"].dropna().to_dict() == windows
    for method in METHODS:
        assert f"| {method} | " in out
