"""``-conf sb3_spiking.chip``: agents with layers that SynSense's Speck and DYNAP-CNN hold, in RL Zoo."""

from typing import Any


def __getattr__(name: str) -> Any:
    if name == "hyperparams":  # the attribute that RL Zoo reads
        from sb3_spiking.zoo.hyperparams import CHIP_FILE, load_hyperparams

        return load_hyperparams(CHIP_FILE)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
