"""
The agents of ``rl-trained-agents`` and, for comparison, of ``relu-agents``: where they come from, and how they play.

    python benchmarks/agents.py keep benchmarks/cartpole.yml --method rate  # the best seed of each environment of a list
    python benchmarks/agents.py keep benchmarks/cartpole.yml --method relu --folder relu-agents
    python benchmarks/agents.py keep benchmarks/minatar_chip.yml --method chip --folder chip-agents  # docs/export.md
    python benchmarks/agents.py play                                        # all of them: benchmark.md

``keep`` takes finished jobs of ``sb3-spiking sweep``, whose logs must still be there: what RL Zoo saved as the best
model of the training becomes the agent, without what only learning needs, with its configuration and evaluations, in RL Zoo's
layout.
``play`` evaluates under the protocol of Liu et al. 2022; interrupted, it goes on where it stopped.
"""

import argparse
import re
import shutil
from pathlib import Path

import torch as th
from machine import describe
from stable_baselines3 import DQN

import sb3_spiking.minatar  # noqa: F401  (registers its games)
from sb3_spiking import SpikingPolicy, without_common_mode
from sb3_spiking.evaluation.agents import Agent, load_agent
from sb3_spiking.evaluation.comparison import evaluate, summarise
from sb3_spiking.evaluation.episodes import PROTOCOLS
from sb3_spiking.evaluation.table import markdown
from sb3_spiking.observations import is_boolean
from sb3_spiking.sharing.zoo_files import read_yaml
from sb3_spiking.sweep.lists import Job, TrainingList

ROOT = Path(__file__).parents[1]
SPIKING, RELU, CHIP = "rl-trained-agents", "relu-agents", "chip-agents"
PROTOCOL = PROTOCOLS["paper"]

COLUMNS = {
    "algo": "algo",
    "env": "env_id",
    "network": "network",
    "score": "mean_reward",
    "std": "std_reward",
    "max": "max_reward",
    "n_timesteps": "n_timesteps",
    "episodes": "eval_episodes",
    "num_steps": "T",
    "firing_rate": "firing rate: %",
    "spikes": "spikes a decision",
    "nanojoules": "nJ a decision",
}
HEAD = """# Performance of the trained agents

Spiking agents play about as well as ReLU agents of the same shape and training, and their decisions take a sixth to a half
of the energy. It is one chosen agent each; [results](docs/results.md) compares methods over seeds.

```bash
python benchmarks/agents.py play
```

Spiking agents of `rl-trained-agents` and ReLU agents of `relu-agents`, of the same shape and trained with the same
hyperparameters, {episodes} episodes each under the protocol of Liu et al. 2022 (epsilon {epsilon}, at most
{max_steps:,} decisions). Of several seeds it is one with a good score. Those of MinAtar are
of [results' first table](docs/results.md#minatar-after-a-million-steps): the best of three spiking seeds (2 to 4) and
of two of ReLU (3, 4).
The agents of classic control were trained with T = 8; the hyperparameters of today have T = 4. Breakout's ReLU
agent had a million steps, the spiking one two million.
`n_timesteps`: steps of the environment after which the agent was saved, at its best evaluation.
Firing rates, spikes and energy are those of greedy decisions, energy as in [evaluation](docs/evaluation.md). Each
folder has the command of its training and the evaluations during it. They play with RL Zoo's `enjoy` from a clone:

```bash
python -m rl_zoo3.enjoy --algo dqn --env CartPole-v1 -f rl-trained-agents
pip install minatar  # the games
python -m rl_zoo3.enjoy --algo dqn --env MinAtar/Breakout-v1 -f rl-trained-agents --gym-packages sb3_spiking.minatar
```

{table}

MinAtar's planes are booleans. Above they are numbers that the first layer multiplies by its weights; a chip that takes them as
spikes adds the weights of what is set (`--energy 45nm-float32-boolean-spikes`), a spiking network at each of its steps:

{planes}

{machine}
"""


def save_to_act(source: Path, target: Path) -> None:
    """
    Save an agent of DQN without what only learning needs: no state of the optimizer, no common mode network, and a target
    network that is the Q-network.

    :param source: SB3's zip
    :param target: the same; takes the same actions
    """
    model = DQN.load(source, device="cpu", buffer_size=1)
    if getattr(model.policy, "common_mode", False) is not False:
        model = without_common_mode(model)
    model.policy.optimizer.state.clear()
    for parameter, online in zip(model.q_net_target.parameters(), model.q_net.parameters(), strict=True):
        parameter.data = online.data  # saved once
    model.save(target)


def keep(jobs: TrainingList, method: str, logs: Path, folder: Path) -> list[Path]:
    """
    Copy the agent of the best seed of each environment.

    :param jobs: list
    :param method: of the list
    :param logs: where RL Zoo wrote, the ``--logs`` of the sweep
    :param folder: log folder that they go to
    :return: the agents' folders
    """
    scores = jobs.scores()
    kept = []
    for env, rows in scores[scores["method"] == method].groupby("env", sort=False):
        for row in rows.sort_values("mean", ascending=False).itertuples():
            job = Job(str(env), method, int(row.seed))
            algo, name = jobs.methods[method].get("algo", "dqn"), str(env).replace("/", "-")
            trained = logs / job.name / algo / f"{name}_1"
            if trained.is_dir():
                break
        else:
            raise SystemExit(f"no logs of {method} on {env} in {logs}: expected those of one of its finished jobs")
        target = folder / algo / f"{name}_1"
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(trained / name, target / name)
        save_to_act(trained / "best_model.zip", target / f"{name}.zip")
        shutil.copy(trained / "evaluations.npz", target)
        record = jobs.records.jobs()[job.name]
        (target / name / "command.txt").write_text(f"{record['command']}\n{record.get('machine', '')}\n")
        arguments = target / name / "args.yml"  # without where this machine wrote its logs
        arguments.write_text(re.sub(r"(- (?:log_folder|tensorboard_log)\n +- ).*", r"\1logs", arguments.read_text()))
        kept.append(target)
    return kept


def agents_of(folders: list[Path]) -> list[Agent]:
    """The agents in log folders, by environment."""
    agents = []
    for folder in folders:
        for path in folder.glob("*/*/*.zip"):
            env = read_yaml(path.with_suffix("") / "args.yml")["env"]
            agents.append(load_agent(folder, path.parents[1].name, env, device="cpu"))
    return sorted(agents, key=lambda agent: agent.path.stem)


def _network(agent: Agent) -> str:
    return "spiking" if isinstance(agent.model.policy, SpikingPolicy) else "ReLU"


def play(agents: list[Agent], out: Path, n_envs: int) -> str:
    """
    :param agents: who plays
    :param out: folder of finished episodes
    :param n_envs: environments in parallel
    :return: table of all agents, Markdown
    """
    episodes = evaluate(agents, PROTOCOL, out, seeds=[0], n_envs=n_envs)
    summary, _ = summarise(agents, episodes, {}, {})
    summary["algo"] = [agent.algo for agent in agents]
    summary["n_timesteps"] = [agent.model.num_timesteps for agent in agents]
    summary["network"] = [_network(agent) for agent in agents]
    policies = [agent.model.policy for agent in agents]
    summary["num_steps"] = [policy.settings.num_steps if isinstance(policy, SpikingPolicy) else None for policy in policies]
    return markdown(list(COLUMNS.values()), summary[list(COLUMNS)].itertuples(index=False))


def planes(agents: list[Agent], out: Path, n_envs: int) -> str:
    """
    :param agents: whose observations are planes
    :param out: folder of finished episodes
    :param n_envs: environments in parallel
    :return: table of what a decision costs with planes as numbers and as spikes, Markdown
    """
    rows = [[agent.env_id, _network(agent)] for agent in agents]
    for energy in ("45nm-float32", "45nm-float32-boolean-spikes"):
        episodes = evaluate(agents, PROTOCOL, out, seeds=[0], n_envs=n_envs, energy=energy)
        summary, layers = summarise(agents, episodes, {}, {})
        first = layers.drop_duplicates(["env", "agent"])["nanojoules"]
        for row, numbers in zip(rows, zip(summary["nanojoules"], first, strict=True), strict=True):
            row += numbers
    titles = ["env_id", "network", "nJ a decision", "first layer", "planes as spikes: nJ", "first layer"]
    return markdown(titles, rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    keeping = commands.add_parser("keep", help="copy agents that a list has trained")
    keeping.add_argument("list", type=Path, help="YAML file of jobs")
    keeping.add_argument("--method", required=True, help="of the list")
    keeping.add_argument("--only", default="", help="environments whose names contain this")
    keeping.add_argument("--folder", choices=[SPIKING, RELU, CHIP], default=SPIKING, help="where they go")
    keeping.add_argument("--logs", type=Path, default=Path("logs/training"), help="as given to sb3-spiking sweep")
    playing = commands.add_parser("play", help="evaluate all agents and write benchmark.md")
    playing.add_argument("-o", "--out", type=Path, default=Path("logs/benchmark"), help="folder of finished episodes")
    playing.add_argument("--n-envs", type=int, default=8, help="environments in parallel")
    args = parser.parse_args()

    if args.command == "keep":
        jobs = TrainingList(args.list)
        jobs.jobs = [job for job in jobs.jobs if args.only in job.env]
        if not jobs.finished():
            keeping.error(f"no finished job of {args.list} in an environment with {args.only!r} in its name")
        for folder in keep(jobs, args.method, args.logs / args.list.stem, ROOT / args.folder):
            print(folder.relative_to(ROOT))
        return
    th.set_num_threads(1)
    agents = agents_of([ROOT / SPIKING, ROOT / RELU])
    table = play(agents, args.out, args.n_envs)
    boolean = planes([agent for agent in agents if is_boolean(agent.model.observation_space)], args.out, args.n_envs)
    print(f"{table}\n\n{boolean}")
    numbers = {"episodes": PROTOCOL.episodes, "epsilon": PROTOCOL.epsilon, "max_steps": PROTOCOL.max_steps}
    text = HEAD.format(table=table, planes=boolean, machine=describe(), **numbers)
    (ROOT / "benchmark.md").write_text(text)


if __name__ == "__main__":
    main()
