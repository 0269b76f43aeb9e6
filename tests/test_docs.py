"""What the docs say of files of this repository."""

import ast
import inspect
import re
from pathlib import Path

import numpy as np
import pytest
import yaml
from gymnasium import spaces
from stable_baselines3 import DQN

import sb3_spiking.minatar  # noqa: F401  (registers its games)
from sb3_spiking import SpikingNatureCNN
from sb3_spiking.evaluation.agents import load_agent
from sb3_spiking.evaluation.episodes import PROTOCOLS, decider, exploration_of, seed_of
from sb3_spiking.look.notes import Notes
from sb3_spiking.look.record import play
from sb3_spiking.sweep import tables
from sb3_spiking.sweep.lists import TrainingList
from sb3_spiking.sweep.scoring import known_random_scores

ROOT = Path(__file__).parents[1]
DOCS = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]


def anchors(file):
    """Of a Markdown file's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", file.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("file", DOCS, ids=lambda file: file.name)
def test_links_lead_somewhere(file):
    for link in re.findall(r"\]\(([^)]+)\)", file.read_text()):
        if link.startswith(("http", "data:")):
            continue
        path, _, anchor = link.partition("#")
        target = (file.parent / path).resolve() if path else file
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def table(jobs):
    """Rows of the table of a list."""
    return tables.table(jobs, jobs.scores(), known_random_scores(jobs.results)).splitlines()[2:]


@pytest.mark.parametrize(
    ("name", "file", "with_ratio"),
    [
        ("minatar_seeds", "results.md", True),
        ("minatar_5m", "results.md", True),
        ("minatar_1m", "laboratory.md", True),
        ("classic_control", "laboratory.md", True),
        ("cartpole_seeds", "results.md", True),
        ("control_seeds", "results.md", True),
        ("atari", "results.md", True),
        ("minatar", "laboratory.md", True),
        ("minatar_variants", "laboratory.md", False),
    ],
)
def test_tables_are_those_of_the_results(name, file, with_ratio):
    jobs = TrainingList(ROOT / f"benchmarks/{name}.yml")
    text = (ROOT / "docs" / file).read_text()
    rows = table(jobs)
    assert len(rows) > 2
    for row in rows:
        assert (row if with_ratio else row.rpartition(" | ")[0]) in text, row


@pytest.mark.parametrize("name", ["minatar_seeds", "minatar_5m"])
def test_last_agents_are_those_of_the_results(name):
    jobs = TrainingList(ROOT / f"benchmarks/{name}.yml")
    rows = tables.table(jobs, jobs.scores(), known_random_scores(jobs.results), "last_mean").splitlines()[2:]
    text = (ROOT / "docs/results.md").read_text()
    assert len(rows) > 2
    for row in rows:
        assert row in text, row


def rows_of(table):
    """Cells of a Markdown table below its header, by the first one."""
    return {row[1]: row[2:-1] for row in ([cell.strip() for cell in line.split("|")] for line in table.splitlines()[2:])}


def test_the_first_table_of_minatar_is_that_of_the_results():
    jobs = TrainingList(ROOT / "benchmarks/minatar_seeds.yml")
    scores, random = jobs.scores(), known_random_scores(jobs.results)
    figures = []
    for column in ("last_mean", "mean"):
        table = rows_of(tables.over_seeds(jobs, scores, random, column))
        for method, (_, *statistics) in table.items():
            ratios = tables.ratios(scores.assign(mean=scores[column]), random, method, "relu")
            others = [ratio for env, ratio in ratios.items() if "SpaceInvaders" not in env]
            means = [f"{np.mean(each):.0%}" for each in (list(ratios.values()), others)]
            table[method] = [*means, *(cell.replace(" (", ", ").rstrip(")") for cell in statistics)]
        figures.append(table)
    last, best = figures
    assert set(last) == {"spiking", "integrate", "spiking-2", "spiking-1", "plain"}
    for method in last:
        expected = [f"{of_last} ({of_best})" for of_last, of_best in zip(last[method], best[method], strict=True)]
        assert cells("docs/results.md", rf"\| `{method}` \|.*%")[2:] == expected


def looked_at(folder, env, epsilon=0.05):
    """What `sb3-spiking look` records of an agent of the repository, without pictures."""
    agent = load_agent(ROOT / folder, "dqn", env, device="cpu")
    venv, decide = agent.make_env(1, seed_of(0, 0), whole_games=True), decider(agent, PROTOCOLS["paper"])
    notes = Notes(agent.name, venv, decide.network)
    return play(decide, venv, 300, seed=0, random_actions=exploration_of(0, 0), epsilon=epsilon, notes=notes)


def test_examples_of_look():
    text = " ".join((ROOT / "docs/look.md").read_text().split())
    shares = []
    for folder in ("rl-trained-agents", "relu-agents"):
        for layer in looked_at(folder, "CartPole-v1").layers:
            active = layer.spikes if layer.kind == "spikes" else layer.activations[:, None] != 0
            shares += [f"{1 - active.any(axis=(0, 1)).mean():.0%}", f"{active.all(axis=(0, 1)).mean():.0%}"]
    first, _, second, saturated, relu, _, other, _ = shares
    assert f"first layer {first} are silent, of the second {second}, and {saturated} of the second are saturated" in text
    assert f"{relu} and {other} of its units are never active" in text

    channels = looked_at("rl-trained-agents", "PongNoFrameskip-v4", epsilon=0.0).layers[0].spikes.mean(axis=(0, 1, 3, 4))
    assert f"channel {channels.argmax()} fires over the empty field, {channels.max():.1%} of its neurons at a step" in text

    recording = looked_at("rl-trained-agents", "MinAtar/Breakout-v1")
    convolution, dense = recording.layers
    then, now = recording.q_values[66], recording.q_values[71]
    assert f"fired at {dense.rates()[66]:.1%} and the three actions were worth the same within {np.ptp(then):.1f}" in text
    assert f"it fires at {dense.rates()[71]:.1%}: left is worth {now[1]:.1f}, right {now[2]:.1f}" in text
    assert recording.actions[71] == 2
    planes = recording.observations[""][71]
    paddle, ball, trail = (np.argwhere(planes[..., plane])[0] for plane in range(3))
    assert (ball - [-1, 1] == paddle).all()
    assert (trail == ball - [1, 1]).all()
    weight = recording.readout["weight"]
    shares = (weight[2] - weight[1]) * dense.spikes[71].mean(axis=0)
    most = shares.argsort()[::-1][:2]
    assert f"Of the {now[2] - now[1]:.1f} by which right is ahead of left, neurons {most[0]} and {most[1]} give" in text
    assert f"give {shares[most].sum():.1f}." in text
    given = dense.arrays["weight"][66].reshape(convolution.shape) * convolution.spikes[71].mean(axis=0)
    places = {np.unravel_index(place, given.shape)[1:] for place in given.ravel().argsort()[::-1][:4]}
    assert places <= {(row, column) for row in (6, 7) for column in (5, 6, 7)}


def cells(file, pattern):
    """Cells of the one row of a Markdown table that matches."""
    (row,) = [line for line in (ROOT / file).read_text().splitlines() if re.match(pattern, line)]
    return [cell.strip() for cell in row.strip("|").split("|")]


def test_the_readme_rounds_the_results():
    means = cells("docs/results.md", r"\| `spiking` \|.*%")[4]
    assert cells("README.md", r"\| MinAtar")[1:] == ["100%", means]

    last = TrainingList(ROOT / "benchmarks/cartpole_seeds.yml").scores().groupby("method")["last_mean"].mean()
    assert cells("README.md", r"\| CartPole")[1:] == [f"{last['relu']:.0f}", f"{last['spiking']:.0f}"]

    text = " ".join((ROOT / "docs/speed.md").read_text().split())
    speeds = re.search(r"at (1\.\d+) of its steps per second. CartPole's has (0\.\d+) and MinAtar's, .*? (0\.\d+)\.", text)
    assert cells("docs/speed.md", r"\| BreakoutNoFrameskip-v4 \| `-f sb3_spiking` \| 13%")[-1] == speeds[1]
    rounded = ", ".join(f"{float(each):.0%}" for each in speeds.groups())
    assert cells("README.md", r"\| training: steps per second")[1:] == ["100%", rounded]

    energies = [cells("benchmark.md", rf"\| MinAtar/Breakout-v1 +\| +{name} ")[-2] for name in ("ReLU", "spiking")]
    assert cells("README.md", r"\| energy of a decision")[1:] == [f"{float(each):.0f} nJ" for each in energies]


def test_five_million_steps_are_those_of_the_results():
    jobs = TrainingList(ROOT / "benchmarks/minatar_5m.yml")
    scores, random = jobs.scores(), known_random_scores(jobs.results)
    last, best = (
        np.mean([*tables.ratios(scores.assign(mean=scores[column]), random, "spiking", "relu").values()])
        for column in ("last_mean", "mean")
    )
    assert cells("docs/results.md", r"\| \[Asterix and Breakout")[2] == f"{last:.0%} ({best:.0%})"
    for file, said in [
        ("README.md", f"two games, one run each, it has {last:.0%} ({best:.0%})"),
        ("docs/index.md", f"of two games the default has {last:.0%} of ReLU's"),
        ("docs/claims.md", f"one run each: {last:.0%} with last agents, {best:.0%} with best ones"),
        ("docs/results.md", f"have {last:.0%} of its performance with last agents, {best:.0%} with best ones"),
    ]:
        assert said in " ".join((ROOT / file).read_text().split()), file


def test_full_windows_after_five_million_steps_are_those_of_the_results():
    spikes = TrainingList(ROOT / "benchmarks/minatar_5m.yml").records.table("spikes")

    def around(game, layer, steps):
        rows = spikes[spikes["job"] == f"MinAtar-{game}-v1_spiking_0"]
        nearest = (rows["timesteps"] - steps).abs().sort_values().index[:7]
        return f"{rows.loc[nearest, f'saturated_windows/layer_{layer}'].mean():.0%}"

    found = [
        f"{around(game, layer, 3e6)} against {around(game, layer, 1e6)}"
        for layer in (1, 2)
        for game in ("Asterix", "Breakout")
    ]
    text = " ".join((ROOT / "docs/results.md").read_text().split())
    said = text[text.index("More windows of spiking") : text.index("means of seven entries")]
    assert re.findall(r"\d+% against \d+%", said) == found


def test_silent_units_are_those_of_the_results():
    minatar = TrainingList(ROOT / "benchmarks/minatar_1m.yml")
    text = (ROOT / "docs/laboratory.md").read_text()
    rows = [row for row in tables.silence(minatar).splitlines() if "schedule" in row]
    assert len(rows) == 4
    for row in rows:
        method, cells = row.strip("| ").split(" | ", 1)
        assert re.search(rf"^\| `{method}` .*\| {re.escape(cells)} \|$", text, re.MULTILINE), row


def test_atari_in_python_is_what_the_command_trains():
    code = re.search(r"```python\n(.*?)```", (ROOT / "docs/atari.md").read_text(), re.DOTALL)[1]
    (call,) = (node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Call) and ast.unparse(node.func) == "DQN")
    given = {each.arg: ast.unparse(each.value) for each in call.keywords}
    trained = yaml.safe_load((ROOT / "hyperparams/dqn.yml").read_text())["atari"]
    settings = eval(given.pop("policy_kwargs"))
    ours = eval(trained["policy_kwargs"])
    body = SpikingNatureCNN(spaces.Box(0, 255, (84, 84, 4), np.uint8)).settings
    assert {**settings, **{name: getattr(body, name) for name in ours if name != "optimizer_kwargs"}} == ours
    assert given.pop("replay_buffer_class") in trained["replay_buffer_class"]
    assert eval(given.pop("replay_buffer_kwargs")) == eval(trained["replay_buffer_kwargs"])
    assert {name: float(eval(value)) for name, value in given.items()} == {name: float(trained[name]) for name in given}
    sb3s = inspect.signature(DQN).parameters
    zoos = {"env_wrapper", "frame_stack", "n_envs", "policy", "policy_kwargs", "callback", "n_timesteps"}
    for name in set(trained) - zoos - set(given) - {"replay_buffer_class", "replay_buffer_kwargs"}:
        assert trained[name] == sb3s[name].default, name


def test_messages_of_the_questions_page_are_what_the_program_says():
    sources = "\n".join(path.read_text() for path in (ROOT / "sb3_spiking").rglob("*.py"))
    messages = re.findall(r"^### `(.*)`$", (ROOT / "docs/faq.md").read_text(), re.MULTILINE)
    assert len(messages) >= 5
    for message in messages:
        assert message in sources, message
