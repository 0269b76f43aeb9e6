"""
Whether the agents of the repository stay the same in other simulators and with a chip's numbers: the tables of docs/export.md.

    pip install -e ".[export]" && pip install --no-deps sinabs norse
    python benchmarks/exports.py

Writes ``parity.csv``, equal decisions of a thousand, empty where a target refuses the agent, and ``chip.csv``, scores with
weights of 32 and of 8 bits of the agents whose neurons a chip has, to ``benchmarks/results/exports``; interrupted, it goes on
where it stopped.
"""

import argparse
import contextlib
import dataclasses
import io
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch as th
from machine import describe

import sb3_spiking.minatar  # noqa: F401  (registers its games)
from sb3_spiking import AgentError
from sb3_spiking.evaluation.agents import Agent, load_agent
from sb3_spiking.evaluation.comparison import evaluate
from sb3_spiking.evaluation.episodes import PROTOCOLS
from sb3_spiking.evaluation.results import interval
from sb3_spiking.evaluation.table import markdown
from sb3_spiking.export.chips import place
from sb3_spiking.export.comparison import Values, compare, per_second, values_of
from sb3_spiking.export.fixed_point import can_be_rounded, on_chip
from sb3_spiking.export.network import Network, network_of
from sb3_spiking.export.nir_graph import DT
from sb3_spiking.export.packages import needed
from sb3_spiking.export.targets import TARGETS
from sb3_spiking.sharing.zoo_files import read_yaml

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results" / "exports"
FOLDERS = ("rl-trained-agents", "chip-agents")
DECISIONS, EPISODES = 1000, 100

PARITY = {"nir": "`from_nir`", "norse": "norse", "snntorch": "snnTorch", "sinabs": "sinabs", "onnx": "onnxruntime"}
SPEED = {"here": "decisions a second here", "onnxruntime": "by onnxruntime"}
CHIP = {
    **{"equal": "equal decisions, 8 bits", "score_32": "score, 32 bits", "interval_32": "95%", "score_8": "score, 8 bits"},
    "interval_8": "95%",
}


def agents() -> Iterator[Agent]:
    """All of the repository that spike."""
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).glob("dqn/*/*.zip")):
            env = read_yaml(path.with_suffix("") / "args.yml")["env"]
            yield dataclasses.replace(load_agent(ROOT / folder, "dqn", env, device="cpu"), name=folder)


def by_simulator(network: Network, module: Any) -> Values:
    """Q-values of a module that takes a step at a time, membranes with it or in its neurons."""
    utils = needed("snntorch.utils")

    def values(observations: Any) -> np.ndarray:
        utils.reset(module)
        outputs, state, inputs = [], None, network.inputs(observations)
        with th.no_grad():
            for _ in range(network.settings.num_steps):
                output, state = module(inputs, state)
                outputs.append(output)
        return th.stack(outputs).mean(dim=0).numpy()

    return values


def parity(agent: Agent) -> tuple[dict[str, int], dict[str, int]]:
    """
    :return: equal decisions by target, none for what refuses the agent, and decisions a second on one observation
    """
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found: dict[str, Values] = {}
        for name, target in TARGETS.items():
            with contextlib.suppress(AgentError):
                found[name] = target.write(agent.model, Path(folder) / target.file, False).values
        if "nir" in found:
            network, path = network_of(agent.model), Path(folder) / TARGETS["nir"].file
            with contextlib.redirect_stdout(io.StringIO()):  # snnTorch prints every number
                theirs = needed("snntorch.import_nir").import_from_nir(needed("nir").read(path))
            found["snntorch"] = by_simulator(network, theirs)
            found["norse"] = by_simulator(network, needed("norse.torch").from_nir(needed("nir").read(path), dt=DT))
        equal = {name: compare(agent, values, DECISIONS, n_envs=20).equal for name, values in found.items()}
        both = {"here": values_of(agent.model.policy), "onnxruntime": found["onnx"]}
        return equal, {name: round(per_second(agent, values, 2.0)) for name, values in both.items()}


def rounded(agent: Agent, out: Path) -> dict[str, Any]:
    """
    :return: how an agent plays with weights of 32 and of 8 bits
    """
    network = network_of(agent.model)
    chip = on_chip(network)
    players = [dataclasses.replace(agent, name=f"{agent.name}, {bits} bits") for bits in (32, 8)]
    players[1].model = chip
    protocol = dataclasses.replace(PROTOCOLS["paper"], episodes=EPISODES)
    episodes = evaluate(players, protocol, out, seeds=[0], n_envs=25, energy=None)
    row: dict[str, Any] = {"problems": len(place(network).problems)}
    row["equal"] = compare(agent, values_of(chip.policy), DECISIONS, n_envs=20).equal
    for player, bits in zip(players, (32, 8), strict=True):
        scores = episodes[(episodes["agent"] == player.name) & (episodes["env"] == agent.env_id)]["score"]
        low, high = interval(scores)
        row |= {f"score_{bits}": round(scores.mean(), 2), f"interval_{bits}": f"{low:.1f} to {high:.1f}"}
    return row


def table(file: Path, columns: dict[str, str]) -> str:
    """
    :param file: that was written
    :param columns: of it that are shown, with their titles
    :return: Markdown
    """
    rows = pd.read_csv(file, dtype=str).fillna("")
    lines = [(f"{row['env']}, {row['folder']}", *(row[name] for name in columns)) for _, row in rows.iterrows()]
    return markdown(["", *columns.values()], lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--out", type=Path, default=Path("logs/exports"), help="folder of finished episodes")
    parser.add_argument("--only", default="", help="environments whose names contain this; rows of others stay")
    args = parser.parse_args()
    th.set_num_threads(1)
    RESULTS.mkdir(parents=True, exist_ok=True)
    both = [(agent, *parity(agent)) for agent in agents() if args.only in agent.env_id]
    (RESULTS / "machine.txt").write_text(f"{describe()}\n")
    print(describe())
    report("parity", PARITY, [(agent, equal) for agent, equal, _ in both])
    report("speed", SPEED, [(agent, speed) for agent, _, speed in both])
    # What sinabs refuses is not for a chip either
    on_chips = [agent for agent, equal, _ in both if "sinabs" in equal and can_be_rounded(network_of(agent.model))]
    report("chip", CHIP, [(agent, rounded(agent, args.out)) for agent in on_chips])


def report(name: str, columns: dict[str, str], found: list[tuple[Agent, dict[str, Any]]]) -> None:
    """Write what was found in place of what is there of the same agents, and print the table."""
    file, rows = RESULTS / f"{name}.csv", [{"env": agent.env_id, "folder": agent.name, **numbers} for agent, numbers in found]
    before = pd.read_csv(file, dtype=str) if file.is_file() else pd.DataFrame()
    both = pd.concat([before, pd.DataFrame(rows).map(lambda cell: cell if pd.isna(cell) else _text(cell))])
    if not both.empty:
        both = both.drop_duplicates(["env", "folder"], keep="last").sort_values(["env", "folder"], ascending=[True, False])
        both.to_csv(file, index=False)
        print(f"\n{table(file, columns)}", flush=True)


def _text(cell: Any) -> str:
    return str(int(cell)) if isinstance(cell, float) and cell == int(cell) else str(cell)


if __name__ == "__main__":
    main()
