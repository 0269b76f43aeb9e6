"""What an agent can be exported to."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from stable_baselines3.common.base_class import BaseAlgorithm

from sb3_spiking.export.comparison import Values, values_of
from sb3_spiking.export.network import network_of
from sb3_spiking.export.nir_graph import check_nir, from_nir, write_nir
from sb3_spiking.export.onnx_window import OnnxAgent, check_onnx, write_onnx
from sb3_spiking.export.sinabs_layers import check_sinabs, run_sinabs, write_sinabs


@dataclass(frozen=True)
class Exported:
    """
    What was written, as it plays.

    :param values: its Q-values
    :param approximated: what differs from the agent, a line each
    """

    values: Values
    approximated: tuple[str, ...] = ()


@dataclass(frozen=True)
class Target:
    """
    An entry of :data:`TARGETS`.

    :param file: that is written
    :param check: raises AgentError for an agent that it cannot hold; whether to approximate
    :param write: an agent to a path, whether to approximate
    """

    file: str
    check: Callable[[BaseAlgorithm, bool], Any]
    write: Callable[[BaseAlgorithm, Path, bool], Exported]


def _nir(model: BaseAlgorithm, path: Path, approximate: bool) -> Exported:
    approximated = write_nir(network_of(model), path, approximate)
    return Exported(values_of(from_nir(path, model.device).policy), tuple(approximated))


def _sinabs(model: BaseAlgorithm, path: Path, approximate: bool) -> Exported:
    network = network_of(model)
    module = write_sinabs(network, path)

    def values(observations: Any) -> np.ndarray:
        outputs = run_sinabs(module, network.inputs(observations), network.settings.num_steps)
        return network.values(outputs).cpu().numpy()

    return Exported(values)


def _onnx(model: BaseAlgorithm, path: Path, approximate: bool) -> Exported:
    write_onnx(model, path)
    runtime = OnnxAgent(path)

    def values(observations: Any) -> np.ndarray:
        tensors: Any = model.policy.obs_to_tensor(observations)[0]
        if isinstance(tensors, dict):
            return runtime.values({name: each.cpu().numpy() for name, each in tensors.items()})
        return runtime.values(tensors.cpu().numpy())

    return Exported(values)


#: By name
TARGETS = {
    "nir": Target("agent.nir", lambda model, approximate: check_nir(network_of(model), approximate), _nir),
    "sinabs": Target("agent.pt", lambda model, approximate: check_sinabs(network_of(model)), _sinabs),
    "onnx": Target("agent.onnx", lambda model, approximate: check_onnx(model), _onnx),
}
