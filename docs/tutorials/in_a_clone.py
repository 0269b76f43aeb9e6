"""Imported by tutorials: they run as in a clone, in a new folder, with plots that are readable on light and dark pages."""

import os
import tempfile
import warnings
from pathlib import Path

import matplotlib.pyplot as plt
import torch

CLONE = Path(__file__).resolve().parents[2]
os.chdir(tempfile.mkdtemp())
for folder in ("rl-trained-agents", "relu-agents", "chip-agents", "benchmarks"):
    os.symlink(CLONE / folder, folder)

torch.set_num_threads(1)
warnings.filterwarnings("ignore", category=DeprecationWarning)
GREY = "#888888"
plt.rcParams.update(
    {
        **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), GREY),
        **dict.fromkeys(("figure.facecolor", "axes.facecolor", "savefig.facecolor", "legend.facecolor"), "none"),
        "figure.figsize": (7, 3),
        "figure.constrained_layout.use": True,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "legend.frameon": False,
    }
)
