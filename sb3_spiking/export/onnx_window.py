"""Agents as ONNX graphs: observations in, Q-values out, the whole window within."""

import copy
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3 import DQN
from stable_baselines3.common.base_class import BaseAlgorithm
from torch import nn

from sb3_spiking.errors import AgentError
from sb3_spiking.export.network import check_spiking
from sb3_spiking.export.packages import needed
from sb3_spiking.export.record import write_record
from sb3_spiking.files import draft_of

_VALUES = "values"  # the output


class _Window(nn.Module):
    """The decision of an agent as a function of tensors, one for each part of an observation."""

    def __init__(self, model: DQN) -> None:
        super().__init__()
        network = copy.deepcopy(model.policy.q_net).requires_grad_(False).eval()
        # No module of this one: the exporter walks through states, and takes no record of settings among their tensors
        self._network: tuple[Any, ...] = (network,)
        self._names = names_of(model) if isinstance(model.observation_space, spaces.Dict) else None

    def forward(self, *parts: th.Tensor) -> th.Tensor:
        observations: Any = parts[0] if self._names is None else dict(zip(self._names, parts, strict=True))
        return self._network[0].spiking_values(observations)


def names_of(model: BaseAlgorithm) -> list[str]:
    """Of the inputs of a graph: the keys of a Dict observation, or ``observation``."""
    space = model.observation_space
    return list(space.spaces) if isinstance(space, spaces.Dict) else ["observation"]


def check_onnx(model: BaseAlgorithm) -> None:
    """
    :param model: an agent
    :raises AgentError: for another than a spiking DQN, or one whose inputs cannot have their names
    """
    check_spiking(model)
    if _VALUES in names_of(model):
        raise AgentError(f"a part of the observation is called {_VALUES!r}, as the graph's output; train with another name")


def write_onnx(model: BaseAlgorithm, path: Path) -> None:
    """
    :param model: a spiking DQN
    :param path: of a graph with inputs of the environment's types, shape (B, \\*), as the policy takes them (images with
        channels first), and ``values``, shape (B, A)
    :raises AgentError: for another agent
    """
    check_onnx(model)
    assert isinstance(model, DQN)
    needed("onnx")
    observations = {name: np.asarray(space.sample())[None] for name, space in _spaces(model).items()}
    tensors = tuple(th.as_tensor(each).to(model.device) for each in observations.values())
    names = list(observations)
    with draft_of(path) as draft:
        with warnings.catch_warnings(), th.no_grad():
            warnings.simplefilter("ignore")  # the tracer's, about shapes that stay the same
            th.onnx.export(
                _Window(model).eval(),
                tensors,
                str(draft),
                input_names=names,
                output_names=[_VALUES],
                dynamic_axes={name: {0: "batch"} for name in (*names, _VALUES)},
                dynamo=False,
            )
        write_record(path, model, inputs=names)


def _spaces(model: DQN) -> dict[str, Any]:
    space = model.observation_space
    return dict(space.spaces) if isinstance(space, spaces.Dict) else {"observation": space}


class OnnxAgent:
    """
    Decisions of onnxruntime.

    :param path: of a graph that :func:`write_onnx` wrote
    """

    def __init__(self, path: Path) -> None:
        runtime = needed("onnxruntime")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = th.get_num_threads()
        self._session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def values(self, observations: Any) -> np.ndarray:
        """
        :param observations: as the policy takes them, images with channels first; an array or a dict of arrays, (B, \\*)
        :return: Q-values, shape (B, A)
        """
        inputs = [each.name for each in self._session.get_inputs()]
        parts = observations if isinstance(observations, dict) else {inputs[0]: observations}
        return self._session.run([_VALUES], {name: np.ascontiguousarray(parts[name]) for name in inputs})[0]
