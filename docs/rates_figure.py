"""
The small picture of gradients through rates in docs/network.md, computed by the package's own neurons:
python docs/rates_figure.py
"""

from pathlib import Path

import matplotlib
import torch as th

from sb3_spiking import Leaky

matplotlib.use("agg")
import matplotlib.pyplot as plt

STEPS = 4
currents = th.linspace(-0.5, 1.5, 401)[None, None].requires_grad_()
neuron = Leaky(beta=1.0, reset_mechanism="subtract", slope=2.0)
rates = neuron(currents, STEPS).mean(dim=0)[0]
(derivative,) = th.autograd.grad(rates.sum(), currents)

figure, axes = plt.subplots(1, 2, figsize=(8, 2.6))
x = currents.detach()[0, 0]
for place, (values, label) in enumerate(((rates.detach(), "firing rate"), (derivative[0, 0], "derivative that is kept, d"))):
    axes[place].plot(x, values, color="tab:blue", label=f"spiking, T = {STEPS}")
    relu = x.clamp(min=0) if place == 0 else (x > 0).float()
    axes[place].plot(x, relu, color="gray", linestyle="--", linewidth=0.9, label="ReLU")
    axes[place].set(xlabel="current", title=label)
axes[0].legend(fontsize=8)
figure.tight_layout()
figure.savefig(Path(__file__).with_name("rates.png"), dpi=110)
