"""What docs/export.md and docs/evaluation.md say of exports, chips and memory, as printed."""

import json
import re
import shlex
from pathlib import Path

import pandas as pd
import pytest
from small_agents import ENVIRONMENTS, make_model
from stable_baselines3 import DQN, PPO

from sb3_spiking import AgentError, SpikingMLP, commands
from sb3_spiking.export.chips import CORES, place
from sb3_spiking.export.network import network_of
from sb3_spiking.export.targets import TARGETS
from sb3_spiking.sweep.lists import TrainingList

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/export.md").read_text()


def rows_after(heading):
    """Cells of the first table under a heading."""
    section = PAGE.split(f"\n## {heading}\n")[1]
    table = re.search(r"(?:^\|.*\n)+", section, re.MULTILINE)[0].splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table[2:]]


@pytest.mark.parametrize(("name", "columns"), [("parity", "PARITY"), ("chip", "CHIP"), ("speed", "SPEED")])
def test_tables_are_those_of_the_results(import_benchmark, name, columns):
    exports = import_benchmark("exports")
    assert exports.table(exports.RESULTS / f"{name}.csv", getattr(exports, columns)) in PAGE


def test_where_nothing_is_refused_everything_is_equal(import_benchmark):
    """Beyond the table's numbers: exactly those agents are refused whose networks say so, and the others are the same."""
    exports = import_benchmark("exports")
    rows = pd.read_csv(exports.RESULTS / "parity.csv").set_index(["env", "folder"])
    agents = list(exports.agents())
    assert len(agents) == len(rows) == 13
    for agent in agents:
        row = rows.loc[(agent.env_id, agent.name)]
        assert row["onnx"] >= 999
        for name in ("nir", "sinabs"):
            try:
                TARGETS[name].check(agent.model, False)
                assert row[name] >= (999 if "NoFrameskip" in agent.env_id else 1000)  # pixels: sums in another order
            except AgentError:
                assert pd.isna(row[name])


def test_the_agents_of_chip_agents_fit(import_benchmark):
    exports = import_benchmark("exports")
    fits = {
        (agent.env_id, agent.name): not place(network_of(agent.model)).problems
        for agent in exports.agents()
        if "MinAtar" in agent.env_id or agent.name == "chip-agents"
    }
    assert {name for name, fit in fits.items() if fit} == {
        ("MinAtar/Breakout-v1", "chip-agents"),
        ("MinAtar/SpaceInvaders-v1", "chip-agents"),
        ("PongNoFrameskip-v4", "chip-agents"),
    }


def test_the_cores_are_those_that_are_checked():
    listed = {}
    for numbers, *cells in rows_after("What fits a chip"):
        for number in numbers.split(","):
            weights, neurons = (int(cell.removesuffix(" Ki")) * 1024 for cell in cells[:2])
            listed[int(number)] = (weights, neurons, int(cells[2].replace(",", "")))
    assert [listed[number] for number in range(9)] == list(CORES)


def test_the_trainings_are_those_of_the_results():
    chip = TrainingList(ROOT / "benchmarks/minatar_chip.yml").scores().set_index("env")["mean"]
    full = TrainingList(ROOT / "benchmarks/minatar_1m.yml").scores()
    full = full[full["method"] == "cmc-if-wide"].groupby("env")["mean"].agg(list)
    for env in chip.index:
        seeds = ", ".join(f"{score:.2f}" for score in full[env])
        assert f"| {env} | {chip[env]:.2f} | {sum(full[env]) / len(full[env]):.2f} ({seeds}) |" in PAGE


IF = {"beta": 1.0, "reset_mechanism": "subtract", "num_steps": 7}
AGENTS = {
    "PPO, or a ReLU DQN": [
        lambda: PPO("MlpPolicy", "CartPole-v1", policy_kwargs={"features_extractor_class": SpikingMLP}),
        lambda: DQN("MlpPolicy", "CartPole-v1", buffer_size=1),
    ],
    "`encoding='poisson'`": [("grid", {"encoding": "poisson"})],
    "Dict observations, `normalization='potential'`": [("dict", {}), ("grid", {"normalization": "potential"})],
    "`reset_mechanism='subtract'`": [("grid", {})],
    "the same with `reset_delay=False`": [("grid", {"reset_delay": False})],
    "`reset_mechanism='none'`": [("grid", {"reset_mechanism": "none"})],
    "`layer_delay=True`": [("grid", {"layer_delay": True, "reset_mechanism": "zero"})],
    "`readout='max_membrane'` and the other membranes": [
        ("grid", {"readout": f"{name}_membrane", "reset_mechanism": "zero"}) for name in ("max", "mean", "last")
    ],
    "`beta` below 1": [("grid", {"beta": 0.9, "reset_mechanism": "zero"})],
    "observations that are not zeros and ones": [("vector", {"reset_mechanism": "zero"})],
}


def test_the_table_of_refusals_covers_these():
    assert [row[0] for row in rows_after("What is refused")] == list(AGENTS)


@pytest.mark.parametrize("row", rows_after("What is refused"), ids=lambda row: row[0])
def test_what_is_refused(row):
    name, *cells = row
    for each in AGENTS[name]:
        model = each() if callable(each) else make_model(ENVIRONMENTS[each[0]], settings={**IF, **each[1]})
        found = []
        for target in TARGETS.values():
            found.append("yes")
            for approximate, otherwise in ((False, "--approximate"), (True, "no")):
                try:
                    target.check(model, approximate)
                    break
                except AgentError:
                    found[-1] = otherwise
        try:
            found.append("no" if place(network_of(model)).problems else "yes")
        except AgentError:
            found.append("no")
        # Where a target does not approximate, asking for it changes nothing
        assert found == [cell.strip("`") for cell in cells]


def test_the_page_works_as_printed(tmp_path, monkeypatch, capsys):
    for package in ("nir", "onnxruntime", "sinabs", "norse.torch"):
        pytest.importorskip(package, reason="the packages of docs/export.md")
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```(bash|python)?\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    printed = [block for language, block in blocks if not language]
    ran = {"bash": 0, "python": 0}
    for language, block in blocks:
        if language == "python":
            exec(compile(block, "docs/export.md", "exec"), {})
            ran["python"] += 1
        for line in block.splitlines() if language == "bash" else ():
            if line.startswith("sb3-spiking export"):
                _, *arguments = shlex.split(line)
                place_of = arguments.index("-f") + 1
                arguments[place_of] = str(ROOT / arguments[place_of])
                commands.main([*arguments, "--decisions", "40", "--episodes", "2"])
                ran["bash"] += 1
    assert ran == {"bash": 4, "python": 4}
    output = capsys.readouterr().out
    assert printed[0] in output  # of --check
    assert "exported/agent.pt, exported/agent.pt.json: 40 of 40 decisions equal, Q-values differ by at most 0" in output
    assert json.loads((tmp_path / "exported/agent.nir.json").read_text())["num_steps"] == 8


def test_energy_with_memory_is_as_printed(import_benchmark):
    text = (ROOT / "docs/evaluation.md").read_text()
    table = import_benchmark("memory_energy").table()
    assert table in text
    shares = {}
    for line in table.splitlines()[2:]:
        name, _, cell = (each.strip() for each in line.strip("|").split("|"))
        shares[name] = float(cell.split("(")[1].strip(")"))
    assert shares["MinAtar/Breakout-v1, rl-trained-agents"] == pytest.approx(1 / 5, abs=0.02)
    assert shares["CartPole-v1, rl-trained-agents"] == pytest.approx(1 / 2, abs=0.05)
    assert shares["Acrobot-v1, rl-trained-agents"] == 1.17
    assert [round(shares[f"{env}, converted"]) for env in ("CartPole-v1", "Acrobot-v1", "MinAtar/Breakout-v1")] == [
        108,
        64,
        22,
    ]
