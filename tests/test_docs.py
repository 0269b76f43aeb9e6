"""What the docs say of files of this repository."""

import re
from pathlib import Path

import numpy as np
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


def test_the_readme_rounds_the_results(minatar):
    training, jobs = minatar
    rounded = {}
    for row in training.table(jobs, jobs.scores()).splitlines()[2:]:
        method, *cells = (cell.strip() for cell in row.strip("|").split("|"))
        *means, ratio = (float(cell.split()[0].strip("%")) for cell in cells)
        rounded[method] = [*means, ratio]
    rows = re.findall(r"^\| (.*`.*) \|(( -?[\d.]+ \|){5}) (\d+)% \|$", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert len(rows) == 4
    for title, cells, _, ratio in rows:
        shown = [*(float(cell) for cell in cells.split("|") if cell.strip()), float(ratio)]
        method = re.findall("`([^`]+)`", title)[-1]
        np.testing.assert_allclose(shown[:-1], rounded[method][:-1], atol=0.051, rtol=0, err_msg=title)
        np.testing.assert_allclose(shown[-1], rounded[method][-1], atol=0.51, rtol=0, err_msg=title)


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
