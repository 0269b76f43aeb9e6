"""
The picture in docs/network.md, computed by the package's own neurons: python docs/network_figure.py
"""

from pathlib import Path

import matplotlib
import torch as th

from sb3_spiking import Leaky, SpikingSettings

matplotlib.use("agg")
import matplotlib.pyplot as plt

PIXELS = {64: "tab:blue", 128: "tab:green", 160: "tab:orange"}
WEIGHT = 0.7  # of the connection from the pixel to the neuron
Q_WEIGHTS = {"left": 3.0, "right": -1.0}

settings = SpikingSettings.resolve()
STEPS = settings.num_steps
(neuron_settings,) = settings.neurons(1)
neuron = Leaky(**neuron_settings)


def run(current: float) -> tuple[th.Tensor, th.Tensor]:
    """Membranes as charged in each step, and spikes, for a constant current."""
    currents = th.full((STEPS, 1, 1), current)
    return neuron.membranes(currents).flatten(), neuron(currents).flatten()


figure, axes = plt.subplots(1, 3, figsize=(12, 3.4), gridspec_kw={"width_ratios": [1.4, 1, 1]})
for pixel, color in PIXELS.items():
    charged, spikes = run(WEIGHT * pixel / 255)
    axes[0].plot(range(1, STEPS + 1), charged, color=color, marker=".", label=f"pixel {pixel}: {int(spikes.sum())} of {STEPS}")
    fired = [t + 1 for t in range(STEPS) if spikes[t]]
    axes[0].scatter(fired, [2 + 0.13 * list(PIXELS).index(pixel)] * len(fired), color=color, marker="|", s=80)
axes[0].axhline(1, color="gray", linestyle="--", linewidth=0.8)
axes[0].set(
    title="1. a current charges the membrane",
    xlabel="simulation step",
    ylabel="membrane (bars: spikes)",
    ylim=(-0.4, 2.4),
    xticks=range(1, STEPS + 1),
)
axes[0].legend(loc="lower center", ncols=3, fontsize=8, handlelength=1, columnspacing=1)

values = range(256)
rates = [run(WEIGHT * value / 255)[1].mean().item() for value in values]
axes[1].plot(values, rates, color="black", linewidth=1)
for pixel, color in PIXELS.items():
    axes[1].plot(pixel, rates[pixel], "o", color=color)
axes[1].set(title="2. pixel to firing rate", xlabel="pixel", ylabel="spikes per step")

for (action, weight), style in zip(Q_WEIGHTS.items(), ("-", ":"), strict=True):
    axes[2].plot(
        [0, 1], [0.5, 0.5 + weight], color="black", linestyle=style, linewidth=1, label=f"Q({action}), weight {weight:+g}"
    )
    for pixel, color in PIXELS.items():
        axes[2].plot(rates[pixel], 0.5 + weight * rates[pixel], "o", color=color)
axes[2].set(title="3. rates are weighed into Q-values", xlabel="spikes per step", ylabel="Q-value")
axes[2].legend(fontsize=8)

figure.tight_layout()
figure.savefig(Path(__file__).with_name("network.png"), dpi=110)
