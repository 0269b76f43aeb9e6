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
    ("name", "file"),
    [
        ("minatar_1m", "results.md"),
        ("classic_control", "results.md"),
        ("atari", "results.md"),
        ("minatar", "results.md"),
        ("minatar_variants", "learning.md"),
    ],
)
def test_tables_are_those_of_the_results(import_benchmark, name, file):
    training = import_benchmark("training")
    jobs = training.TrainingList(ROOT / f"benchmarks/{name}.yml")
    text = (ROOT / "docs" / file).read_text()
    _, _, *rows = training.table(jobs, jobs.scores()).splitlines()
    assert len(rows) > 2
    for row in rows:
        scores = row.rpartition(" | ")[0]  # the ratio is not in all of them
        assert scores in text, row
