"""Deep spiking Q-networks, trained directly with surrogate gradients, as a policy for Stable-Baselines3's DQN."""

from sb3_spiking.extractors import SpikingCombinedExtractor, SpikingMLP, SpikingNatureCNN
from sb3_spiking.policies import SpikingPolicy, SpikingQNetwork
from sb3_spiking.settings import PRESETS, SpikingSettings
from sb3_spiking.snn import Leaky

__all__ = [
    "PRESETS",
    "Leaky",
    "SpikingCombinedExtractor",
    "SpikingMLP",
    "SpikingNatureCNN",
    "SpikingPolicy",
    "SpikingQNetwork",
    "SpikingSettings",
]
