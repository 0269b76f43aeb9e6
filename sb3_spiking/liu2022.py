"""``-conf sb3_spiking.liu2022``: the settings of Liu et al. 2022 (arXiv 2201.07211) for its 17 games, in RL Zoo."""

from typing import Any


def __getattr__(name: str) -> Any:
    if name == "hyperparams":  # the attribute that RL Zoo reads
        from sb3_spiking.zoo.hyperparams import LIU2022_FILE, load_hyperparams

        return load_hyperparams(LIU2022_FILE)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
