"""What the docs say of files of this repository."""

import re
from pathlib import Path

import pytest

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


@pytest.mark.parametrize(
    ("name", "file", "with_ratio"),
    [
        ("minatar_1m", "results.md", True),
        ("classic_control", "laboratory.md", True),
        ("cartpole_seeds", "results.md", True),
        ("control_seeds", "results.md", True),
        ("atari", "results.md", True),
        ("minatar", "laboratory.md", True),
        ("minatar_variants", "laboratory.md", False),
    ],
)
def test_tables_are_those_of_the_results(import_benchmark, name, file, with_ratio):
    training = import_benchmark("training")
    jobs = training.TrainingList(ROOT / f"benchmarks/{name}.yml")
    text = (ROOT / "docs" / file).read_text()
    _, _, *rows = training.table(jobs, jobs.scores()).splitlines()
    assert len(rows) > 2
    for row in rows:
        assert (row if with_ratio else row.rpartition(" | ")[0]) in text, row


@pytest.fixture
def minatar(import_benchmark):
    training = import_benchmark("training")
    jobs = training.TrainingList(ROOT / "benchmarks/minatar_1m.yml")
    return training, jobs


def cells(file, pattern):
    """Cells of the one row of a Markdown table that matches."""
    (row,) = [line for line in (ROOT / file).read_text().splitlines() if re.match(pattern, line)]
    return [cell.strip() for cell in row.strip("|").split("|")]


def test_the_readme_rounds_the_results(import_benchmark, minatar):
    training, jobs = minatar
    random = {env: jobs.random_score(env) for env in jobs.environments}
    share, _ = training.ratio(jobs.scores(), random, "cmc-if-wide", "relu")
    assert cells("README.md", r"\| MinAtar")[1:] == ["100%", f"{share:.0%}"]

    last = training.TrainingList(ROOT / "benchmarks/cartpole_seeds.yml").scores().groupby("method")["last_mean"].mean()
    assert cells("README.md", r"\| CartPole")[1:] == [f"{last['relu']:.0f}", f"{last['spiking']:.0f}"]

    of_relu = float(cells("docs/speed.md", r"\| BreakoutNoFrameskip-v4 \| `-f sb3_spiking` \| 13%")[-1])
    assert cells("README.md", r"\| training on Breakout")[1:] == ["100%", f"{of_relu:.0%}"]

    energies = [cells("benchmark.md", rf"\| MinAtar/Breakout-v1 +\| +{name} ")[-2] for name in ("ReLU", "spiking")]
    assert cells("README.md", r"\| a decision")[1:] == [f"{float(each):.0f} nJ" for each in energies]


def test_silent_units_are_those_of_the_results(minatar):
    training, jobs = minatar
    text = (ROOT / "docs/laboratory.md").read_text()
    rows = [row for row in training.silence(jobs).splitlines() if "schedule" in row]
    assert len(rows) == 4
    for row in rows:
        method, cells = row.strip("| ").split(" | ", 1)
        assert re.search(rf"^\| `{method}` .*\| {re.escape(cells)} \|$", text, re.MULTILINE), row


def test_messages_of_the_questions_page_are_what_the_program_says():
    sources = "\n".join(path.read_text() for path in (ROOT / "sb3_spiking").rglob("*.py"))
    messages = re.findall(r'^### "(.*)"$', (ROOT / "docs/faq.md").read_text(), re.MULTILINE)
    assert len(messages) >= 5
    for message in messages:
        assert message in sources, message
