"""Deep spiking Q-networks, trained directly with surrogate gradients, as a policy for Stable-Baselines3's DQN."""

import sys
from typing import Any

from sb3_spiking.common_mode import without_common_mode
from sb3_spiking.errors import AgentError
from sb3_spiking.export.nir_graph import from_nir
from sb3_spiking.extractors import SpikingCombinedExtractor, SpikingMLP, SpikingNatureCNN
from sb3_spiking.look.callback import LookCallback
from sb3_spiking.look.record import record
from sb3_spiking.look.recording import Recording
from sb3_spiking.policies import SpikingPolicy, SpikingQNetwork
from sb3_spiking.relu import ReluExtractor
from sb3_spiking.settings import PRESETS, SpikingSettings
from sb3_spiking.sharing.loading import load
from sb3_spiking.sharing.saving import save
from sb3_spiking.snn import Leaky
from sb3_spiking.training import replay
from sb3_spiking.training.callbacks import Cooldown, SlopeSchedule, SpikeMonitor
from sb3_spiking.training.checkpoint import Checkpoint, restore
from sb3_spiking.training.replay import FrameStackReplayBuffer

__version__ = "0.2.0"

# Agents that were saved before the module had its place in training/ name it so
sys.modules[f"{__name__}.replay"] = replay

__all__ = [
    "PRESETS",
    "AgentError",
    "Checkpoint",
    "Cooldown",
    "FrameStackReplayBuffer",
    "Leaky",
    "LookCallback",
    "Recording",
    "ReluExtractor",
    "SlopeSchedule",
    "SpikeMonitor",
    "SpikingCombinedExtractor",
    "SpikingMLP",
    "SpikingNatureCNN",
    "SpikingPolicy",
    "SpikingQNetwork",
    "SpikingSettings",
    "from_nir",
    "load",
    "load_from_hub",
    "push_to_hub",
    "record",
    "restore",
    "save",
    "without_common_mode",
]


def __getattr__(name: str) -> Any:
    if name == "hyperparams":  # the attribute that RL Zoo's -conf sb3_spiking reads
        from sb3_spiking.zoo.hyperparams import load_hyperparams

        return load_hyperparams()
    if name in ("load_from_hub", "push_to_hub"):  # they need RL Zoo, which imports us when it starts
        from sb3_spiking import hub

        return getattr(hub, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


if "rl_zoo3" in sys.modules:
    # Spiking settings join -optimize, wherever the hyperparameters come from
    from sb3_spiking.zoo.search import register_search

    register_search()
