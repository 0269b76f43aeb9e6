"""What the docs say of files of this repository."""

import re
from pathlib import Path

import numpy as np
import pytest

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
        ("minatar_1m", "results.md", True),
        ("classic_control", "results.md", True),
        ("cartpole_seeds", "results.md", True),
        ("control_seeds", "results.md", True),
        ("atari", "results.md", True),
        ("minatar", "results.md", True),
        ("minatar_variants", "learning.md", False),
    ],
)
def test_tables_are_those_of_the_results(name, file, with_ratio):
    jobs = TrainingList(ROOT / f"benchmarks/{name}.yml")
    text = (ROOT / "docs" / file).read_text()
    rows = table(jobs)
    assert len(rows) > 2
    for row in rows:
        assert (row if with_ratio else row.rpartition(" | ")[0]) in text, row


@pytest.fixture
def minatar():
    return TrainingList(ROOT / "benchmarks/minatar_1m.yml")


def test_the_readme_rounds_the_results(minatar):
    rounded = {}
    for row in table(minatar):
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
    text = (ROOT / "docs/learning.md").read_text()
    rows = [row for row in tables.silence(minatar).splitlines() if "schedule" in row]
    assert len(rows) == 4
    for row in rows:
        method, cells = row.strip("| ").split(" | ", 1)
        assert re.search(rf"^\| `{method}` .*\| {re.escape(cells)} \|$", text, re.MULTILINE), row
