"""Small lists of trainings, and what is asked of one that has run."""

import time

import pandas as pd
import yaml
from stable_baselines3 import DQN

# 3,000 steps, as RL Zoo's CartPole takes them: 12 rollouts of 256
STEPS, TAKEN = 3000, 3072
RELU = {"hyperparams": {"policy_kwargs": "dict(net_arch=[8])", "learning_starts": 100}}


def write_list(folder, **changes):
    """A list of CartPole, short episodes and few of them, and its file."""
    content = {
        "environments": ["CartPole-v1"],
        "seeds": [0],
        "steps": STEPS,
        "arguments": "--eval-freq 500 --eval-episodes 2",
        "env_kwargs": {"max_episode_steps": 50},
        "score_episodes": 5,
        "reference": "relu",
        "methods": {"relu": RELU},
        **changes,
    }
    file = folder / "small.yml"
    file.write_text(yaml.safe_dump(content, sort_keys=False))
    return file


def wait(what, seconds=120):
    """Until something is true; it."""
    for _ in range(10 * seconds):
        found = what()
        if found:
            return found
        time.sleep(0.1)
    raise TimeoutError(what)


def complete(folder, jobs):
    """Each job of a list has trained the steps that were asked, once."""
    scores = pd.read_csv(folder / "results/small/scores.csv")
    assert sorted(scores["job"]) == sorted(jobs)
    evaluations = pd.read_csv(folder / "results/small/evaluations.csv").groupby("job")["timesteps"].apply(list)
    for job in jobs:
        assert evaluations[job] == list(range(500, STEPS + 1, 500)), job
        (agent,) = (folder / "logs/training/small" / job).glob("*/*/CartPole-v1.zip")
        assert DQN.load(agent, device="cpu").num_timesteps == TAKEN, job
        assert not list(agent.parent.glob("checkpoint")), job


def log_of(folder, job):
    """What a job has printed."""
    file = folder / "logs/training/small" / job / "train.log"
    return file.read_text() if file.exists() else ""
