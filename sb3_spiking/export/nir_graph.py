"""
Agents as NIR graphs (Pedersen et al. 2024, Nature Communications 15:8122), and back.

The graph is one simulation step: convolutions and linear layers with LIF neurons, or IF neurons where nothing leaks, that
reset to zero. What is not in it stands in a record of JSON beside it: the number of steps, how an observation becomes input,
how what comes out becomes Q-values, spaces and actions.

NIR's neurons are differential equations; they become ours with Euler steps of :data:`DT`, as snnTorch and norse take them:
``v <- v + DT / tau (r i - v)`` is ``U <- beta U + (1 - beta) i`` with ``tau = DT / (1 - beta)`` and ``r = 1``. Weights are
divided by ``1 - beta``, since norse leaves ``r`` out.
"""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3 import DQN
from torch import nn

from sb3_spiking.errors import AgentError, one_line
from sb3_spiking.export.network import Network, Stage, reduction
from sb3_spiking.export.packages import needed
from sb3_spiking.export.record import record_of, write_record
from sb3_spiking.extractors import SpikingExtractor, SpikingNatureCNN, choose_extractor
from sb3_spiking.files import draft_of
from sb3_spiking.policies import SpikingPolicy
from sb3_spiking.sharing.archive import AgentRecord, read_json
from sb3_spiking.sharing.loading import build, read_policy_kwargs
from sb3_spiking.sharing.saving import FORMAT
from sb3_spiking.sharing.spaces import space_from_json

#: Seconds of a simulation step, those of snnTorch's own export and import
DT = 1e-4


def check_nir(network: Network, approximate: bool = False) -> list[str]:
    """
    :param network: an agent
    :param approximate: take what NIR's neurons are not, as the nearest that they are
    :return: what is approximated, a line each
    :raises AgentError: for what NIR cannot say, with what to change in training
    """
    lines = []
    if any(stage.fires and stage.reset_mechanism == "none" for stage in network.stages):
        raise AgentError("reset_mechanism='none': NIR's neurons reset when they fire; train with reset_mechanism='zero'")
    if any(stage.fires and stage.reset_mechanism == "subtract" for stage in network.stages):
        lines.append(
            "reset_mechanism='subtract': NIR's neurons reset to zero; train with reset_mechanism='zero', or take --to sinabs"
        )
    if network.settings.layer_delay:
        lines.append(
            "layer_delay=True: what reads NIR has no delay between layers; train with layer_delay=False, or convert with "
            "--no-layer-delay"
        )
    if lines and not approximate:
        raise AgentError(f"{lines[0]}; or export it with --approximate, as another agent whose difference is measured")
    return lines


def nir_graph(network: Network) -> Any:
    """
    :param network: an agent that :func:`check_nir` takes; a reset by subtraction becomes one to zero
    :return: ``nir.NIRGraph`` of one simulation step
    """
    nir = needed("nir")
    nodes: dict[str, Any] = {"input": nir.Input(input_type=np.array(network.stages[0].in_shape))}
    for number, stage in enumerate(network.stages):
        _flatten_for(nodes, stage.in_shape, stage.weight)
        gain = 1 - stage.beta if stage.beta < 1 else 1.0
        weight, bias = _array(stage.weight / gain), _array(stage.bias / gain)
        if stage.is_convolution:
            nodes[f"layer{number}"] = nir.Conv2d(stage.in_shape[1:], weight, stage.stride, 0, 1, 1, bias)
        else:
            nodes[f"layer{number}"] = nir.Affine(weight, bias)
        nodes[f"neurons{number}"] = _neurons(nir, stage)
    if network.linear is not None:
        weight, bias = (_array(each) for each in network.linear)
        _flatten_for(nodes, network.stages[-1].out_shape, network.linear[0])
        nodes["readout"] = nir.Affine(weight, bias)
    actions = int(network.model.action_space.n)  # type: ignore[attr-defined]
    nodes["output"] = nir.Output(output_type=np.array([actions]))
    names = list(nodes)
    return nir.NIRGraph(nodes, list(itertools.pairwise(names)))


def _flatten_for(nodes: dict[str, Any], shape: tuple[int, ...], weight: th.Tensor) -> None:
    """A linear layer behind a convolution sees one line of numbers. NIR counts dimensions without that of a batch."""
    if weight.dim() == 2 and len(shape) == 3:
        nodes["flatten"] = needed("nir").Flatten(np.array(shape), 0, -1)


def _neurons(nir: Any, stage: Stage) -> Any:
    def all_of(value: float) -> np.ndarray:
        return np.full(stage.out_shape, value)  # double precision: beta comes back as it was

    if stage.beta < 1:
        leak: dict[str, Any] = {"tau": all_of(DT / (1 - stage.beta)), "r": all_of(1.0), "v_leak": all_of(0.0)}
        if not stage.fires:
            return nir.LI(**leak)
        return nir.LIF(**leak, v_threshold=all_of(stage.threshold), v_reset=all_of(0.0))
    if not stage.fires:
        return nir.I(r=all_of(1.0))
    return nir.IF(r=all_of(1.0), v_threshold=all_of(stage.threshold), v_reset=all_of(0.0))


def _array(tensor: th.Tensor) -> np.ndarray:
    return tensor.cpu().numpy()


def write_nir(network: Network, path: Path, approximate: bool = False) -> list[str]:
    """
    Write an agent and its record.

    :param network: an agent
    :param path: of the graph
    :param approximate: see :func:`check_nir`
    :return: what is approximated
    :raises AgentError: for what NIR cannot say
    """
    nir = needed("nir")
    approximated = check_nir(network, approximate)
    with draft_of(path) as draft:
        nir.write(draft, nir_graph(network))
        write_record(
            path,
            network.model,
            seconds_of_a_step=DT,
            input="the preprocessed observation at each step: SB3's preprocess_obs, channels first, one decision at a time",
            values=f"the {reduction(network.settings.readout)} over the steps of what comes out",
            approximated=approximated,
        )
    return approximated


def from_nir(path: str | Path, device: th.device | str = "auto") -> DQN:
    """
    Play again what was exported: neurons, weights and their numbers are those of the graph, whoever changed them since; the
    record beside it says the rest.

    :param path: of the graph that ``sb3-spiking export --to nir`` wrote
    :param device: PyTorch device
    :return: the agent, which predicts as any of SB3
    :raises AgentError: if the files are not there, or no agent
    """
    nir = needed("nir")
    path = Path(path)
    for file in (path, record_of(path)):
        if not file.is_file():
            raise AgentError(f"{file}: there is no such file; sb3-spiking export --to nir writes a graph and its record")
    record = read_json(record_of(path))
    try:
        graph = nir.read(path)
        layers = _layers(nir, graph)
        body = _body(record, any(isinstance(connection, nir.Conv2d) for connection, _ in layers))
        data = {**record, "format": FORMAT, "settings": _settings(nir, record, layers, body)}
        parameters = _parameters(data, layers, body)
    except Exception as error:  # whatever HDF5, nir and spaces say of what they do not take
        raise AgentError(f"{path}: no graph of an agent: {one_line(error)}") from error
    model = build(DQN, AgentRecord(path, data, parameters, None), device=device)
    assert isinstance(model, DQN)
    return model


def _layers(nir: Any, graph: Any) -> list[tuple[Any, Any]]:
    """Connections, each with its neurons, in the order of the edges; None for the neurons of an output layer without."""
    following = dict(graph.edges)
    if len(following) != len(graph.edges):
        raise ValueError("a graph with branches: expected layers one after another")
    nodes: list[Any] = []
    name = "input"
    while name in following and len(nodes) <= len(following):
        name = following[name]
        if not isinstance(graph.nodes[name], (nir.Flatten, nir.Output)):
            nodes.append(graph.nodes[name])
    connections, neurons = nodes[::2], nodes[1::2]
    kinds = (nir.LIF, nir.IF, nir.LI, nir.I)
    if not all(isinstance(each, (nir.Conv2d, nir.Affine)) for each in connections) or not all(
        isinstance(each, kinds) for each in neurons
    ):
        raise ValueError("expected Conv2d and Affine, each before LIF, IF, LI or I")
    return [(each, neurons[place] if place < len(neurons) else None) for place, each in enumerate(connections)]


def _one(values: Any, name: str) -> float:
    numbers = np.unique(values)
    if len(numbers) != 1 or not np.isfinite(numbers[0]):
        raise ValueError(f"{name} differs from neuron to neuron: expected one number for a layer")
    return float(numbers[0])


def _body(record: dict[str, Any], has_convolutions: bool) -> type[SpikingExtractor]:
    """That of the agent: the one it was given, or the one that SpikingPolicy chooses."""
    kwargs = read_policy_kwargs(record.get("policy_kwargs", {}))
    given = kwargs.get("features_extractor_class")
    is_normalized = not kwargs.get("normalize_images", True)
    return given or choose_extractor(space_from_json(record.get("observation_space")), is_normalized, has_convolutions)


def _settings(nir: Any, record: dict[str, Any], layers: list[tuple[Any, Any]], body: type[SpikingExtractor]) -> dict[str, Any]:
    """The settings of the record, with what the graph says in place of them."""
    settings = {**record.get("settings", {}), "num_steps": record.get("num_steps"), "layer_delay": False, "preset": None}
    settings |= {"reset_mechanism": "zero", "reset_delay": True, "learn_beta": False, "learn_threshold": False}
    beta, threshold, scale = [], [], []
    for _, neurons in layers:
        if neurons is None:
            continue
        leaks, fires = isinstance(neurons, (nir.LIF, nir.LI)), isinstance(neurons, (nir.LIF, nir.IF))
        gain = DT / _one(neurons.tau, "tau") if leaks else 1.0
        beta.append(1 - gain if leaks else 1.0)
        scale.append(gain * _one(neurons.r, "r"))
        threshold.append(_one(neurons.v_threshold, "v_threshold") if fires else 1.0)
        for name in ("v_leak", "v_reset"):
            if np.any(getattr(neurons, name, 0)):
                raise ValueError(f"{name} other than 0")
    settings |= {"beta": beta, "threshold": threshold, "input_scale": scale}
    hidden = [connection for connection, _ in layers[:-1]]
    convolutions = [each for each in hidden if isinstance(each, nir.Conv2d)]
    units = [each.weight.shape[0] for each in hidden if isinstance(each, nir.Affine)]
    settings["conv_layers"] = [
        [each.weight.shape[0], each.weight.shape[2], int(np.ravel(each.stride)[0])] for each in convolutions
    ]
    if issubclass(body, SpikingNatureCNN):
        settings |= {"features_dim": units[0], "net_arch": units[1:]}
    else:
        settings["net_arch"] = units
    # Those of surrogate gradients stay one for all layers, or one for each
    return {name: value for name, value in settings.items() if value is not None}


def _parameters(data: dict[str, Any], layers: list[tuple[Any, Any]], body: type[SpikingExtractor]) -> dict[str, Any]:
    """What a policy's state is with the weights of the graph."""
    observations, actions = (space_from_json(data.get(name)) for name in ("observation_space", "action_space"))
    assert isinstance(actions, spaces.Discrete)
    normalize = bool(data.get("policy_kwargs", {}).get("normalize_images", True))
    given: dict[str, Any] = {"features_extractor_class": body, "normalize_images": normalize, **data["settings"]}
    policy = SpikingPolicy(observations, actions, lambda _: 0.0, **given)
    for network in (policy.q_net, policy.q_net_target):
        connections: list[Any] = [each for each in network.modules() if isinstance(each, (nn.Conv2d, nn.Linear))]
        with th.no_grad():
            for connection, (node, _) in zip(connections, layers, strict=True):
                connection.weight.copy_(th.as_tensor(node.weight))
                connection.bias.copy_(th.as_tensor(node.bias))
    return policy.state_dict()
