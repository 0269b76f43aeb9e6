"""
What a decision costs with and without memory, ReLU, converted and spiking agents: the table of docs/evaluation.md. Operations
are those that ``benchmarks/compare_agents.sh`` counted.

    python benchmarks/memory_energy.py
"""

from pathlib import Path

import pandas as pd

from sb3_spiking.evaluation.operations import ENERGIES, memory_picojoules
from sb3_spiking.evaluation.table import markdown

LAYERS = Path(__file__).parent / "results" / "agents" / "layers.csv"
ENERGY = "45nm-float32-memory"


def table() -> str:
    """Markdown: nanojoules of a decision, a row for each agent; in brackets those of the ReLU agent that it takes."""
    bits = ENERGIES[ENERGY].bits
    assert bits is not None
    layers = pd.read_csv(LAYERS)
    layers["memory"] = [
        memory_picojoules(
            row.multiply_accumulates + row.accumulates, row.updates, round(row.weight_bytes * 8 / 32), row.neurons, bits
        )
        / 1000
        for row in layers.itertuples()
    ]
    rows = []
    for env, game in layers.groupby("env", sort=False):
        sums = game.groupby("agent", sort=False)[["nanojoules", "memory"]].sum()
        reference = sums.iloc[0]
        for agent, each in sums.iterrows():
            whole, of_relu = each.sum(), each.sum() / reference.sum()
            alone = each["nanojoules"] / reference["nanojoules"]
            rows.append(
                (
                    f"{env}, {str(agent).split('/')[0]}",
                    f"{each['nanojoules']:,.0f} ({alone:.2f})",
                    f"{whole:,.0f} ({of_relu:.2f})",
                )
            )
    return markdown(["", "arithmetic: nJ (of ReLU)", "with memory: nJ (of ReLU)"], rows)


if __name__ == "__main__":
    print(table())
