"""Gradients through rates: where they are exact, how close they are elsewhere, what they keep, and what they do not cover."""

import importlib

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from small_agents import GridEnv
from stable_baselines3 import DQN, PPO
from torch import nn
from torch.nn.utils import prune

from sb3_spiking import SpikingMLP, SpikingPolicy
from sb3_spiking.settings import SpikingSettings
from sb3_spiking.snn import kernels, rates

VECTOR = spaces.Box(-1, 1, (4,), np.float64)
IMAGE = spaces.Box(0, 255, (4, 36, 36), np.uint8)
GRID = spaces.Box(0, 1, (9, 9, 3), bool)
DICT = spaces.Dict({"a": VECTOR, "i": IMAGE, "n": spaces.Discrete(3)})
RESETS = [("zero", True), ("zero", False), ("subtract", True), ("subtract", False), ("none", True)]
CONVOLUTIONS = {"conv_layers": [(20, 6, 2), (10, 3, 2)], "features_dim": 40}


def network(space, gradients, dtype=th.float64, seed=0, **settings):
    th.manual_seed(seed)
    policy = SpikingPolicy(space, spaces.Discrete(3), lambda _: 1e-3, gradients=gradients, **settings)
    return policy.q_net.to(dtype)


def batch(space, count=6, dtype=th.float64):
    """Preprocessed observations."""
    if isinstance(space, spaces.Dict):
        return {key: batch(each, count, dtype) for key, each in space.spaces.items()}
    if isinstance(space, spaces.Discrete):
        return th.eye(int(space.n), dtype=dtype)[th.arange(count) % int(space.n)]
    return th.rand(count, *space.shape, generator=th.Generator().manual_seed(1)).to(dtype)


def values(q_net, observations):
    body = q_net.features_extractor
    window = body.delayed(body.window(observations))
    return q_net.q_net(window.mean(dim=0)) if q_net.output_neuron is None else q_net.output_neuron(q_net.q_net(window)).mean(0)


def gradients(q_net, observations):
    result = values(q_net, observations)
    result.square().sum().backward()
    return result.detach(), {name: parameter.grad for name, parameter in q_net.named_parameters()}


def both(space, **settings):
    observations = batch(space)
    (expected, exact), (result, through) = (
        gradients(network(space, each, **settings), observations) for each in ("exact", "rates")
    )
    assert th.equal(result, expected)
    assert exact.keys() == through.keys()
    return exact, through


def assert_equal(exact, through):
    for name, grad in exact.items():
        assert grad.abs().max() > 0
        th.testing.assert_close(through[name], grad, rtol=1e-9, atol=1e-12, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("spike_grad", ["fast_sigmoid", "atan", "sigmoid", "triangular"])
@pytest.mark.parametrize("beta", [1.0, 0.7])
@pytest.mark.parametrize("reset", RESETS)
def test_one_layer_is_exact(reset, beta, spike_grad):
    neuron = {"reset_mechanism": reset[0], "reset_delay": reset[1], "beta": beta, "spike_grad": spike_grad}
    for num_steps, delay in ((1, False), (5, False), (5, True), (64, False)):
        settings = {"num_steps": num_steps, "layer_delay": delay, "net_arch": [20], "input_scale": 1.7, "threshold": 0.9}
        assert_equal(*both(VECTOR, **settings, **neuron))


@pytest.mark.parametrize("readout", ["rate", "spike"])
@pytest.mark.parametrize("delay", [False, True])
@pytest.mark.parametrize("space", [VECTOR, IMAGE, DICT], ids=["vector", "image", "dict"])
def test_deep_networks_are_exact_where_spikes_have_one_derivative(space, delay, readout):
    """
    Without a reset and with a surrogate whose derivative is 1 everywhere, what a current counts at a step is the same for all
    neurons of a layer: what the shares say.
    """
    layers = 3 if space is VECTOR else 5 if space is DICT else 4
    settings = (
        {"net_arch": [20, 30, 10]} if space is VECTOR else {**CONVOLUTIONS, "net_arch": [10] if space is IMAGE else [10, 9]}
    )
    betas = tuple(np.linspace(0.5, 1, layers + (readout == "spike")))
    neuron = {"spike_grad": "straight_through_estimator", "reset_mechanism": "none", "beta": betas}
    assert_equal(*both(space, num_steps=7, layer_delay=delay, readout=readout, **settings, **neuron))


@pytest.mark.parametrize("delay", [False, True])
@pytest.mark.parametrize("reset", RESETS)
def test_one_layer_as_features_is_exact(reset, delay):
    """Of a body in PPO and the like, which has no readout behind it."""
    settings = {"reset_mechanism": reset[0], "reset_delay": reset[1], "beta": 0.7, "num_steps": 5, "layer_delay": delay}
    grads = []
    for gradients in ("exact", "rates"):
        th.manual_seed(0)
        body = SpikingMLP(VECTOR, net_arch=[20], gradients=gradients, **settings).double()
        features = body(th.linspace(-2, 2, 24, dtype=th.float64).reshape(6, 4))
        spikes = body.window(th.linspace(-2, 2, 24, dtype=th.float64).reshape(6, 4))
        assert th.equal(features * 5, spikes[: 4 if delay else 5].sum(dim=0))
        (features * th.arange(20)).sum().backward()
        grads.append({name: parameter.grad for name, parameter in body.named_parameters()})
    assert_equal(*grads)


def test_shares():
    # Without leak, what goes in at the first of three steps is in the membrane at all three, and so on
    assert rates.input_shares((1 / 3, 1 / 3, 1 / 3), 1.0) == pytest.approx((3 / 6, 2 / 6, 1 / 6))
    assert rates.input_shares((3 / 6, 2 / 6, 1 / 6), 1.0) == pytest.approx((6 / 10, 3 / 10, 1 / 10))
    assert rates.input_shares((0.5, 0.5), 0.5) == pytest.approx((0.75 / 1.25, 0.5 / 1.25))
    assert rates.input_shares((0.25, 0.75), 0.0) == pytest.approx((0.25, 0.75))
    assert rates.one_step_earlier((0.5, 0.3, 0.2)) == (0.3, 0.2, 0.0)


@pytest.mark.parametrize(
    ("num_steps", "neuron", "cosine", "norms"),
    [
        (4, {}, 0.92, (0.6, 1.2)),
        (32, {}, 0.97, (0.9, 1.1)),
        (16, {"beta": 0.5, "reset_mechanism": "zero", "slope": 5.0}, 0.6, (0.5, 1.2)),
    ],
    ids=["default", "default, long", "leaky"],
)
def test_deep_networks_are_close(num_steps, neuron, cosine, norms):
    exact, through = both(IMAGE, num_steps=num_steps, **CONVOLUTIONS, net_arch=[30], **neuron)
    for name, grad in exact.items():
        similarity = th.cosine_similarity(through[name].flatten(), grad.flatten(), dim=0)
        assert similarity > cosine, name
        assert norms[0] < through[name].norm() / grad.norm() < norms[1], name


@pytest.mark.parametrize("dtype", [th.float32, th.float64])
@pytest.mark.parametrize("spike_grad", ["fast_sigmoid", "atan", "sigmoid"])
@pytest.mark.parametrize("reset", RESETS)
@pytest.mark.parametrize("delay", [False, True])
def test_kernels(monkeypatch, delay, reset, spike_grad, dtype):
    """Against layers that run one after another: in plain PyTorch, and, where that has single precision alone, in kernels."""
    neuron = {
        "reset_mechanism": reset[0],
        "reset_delay": reset[1],
        "beta": 0.8,
        "spike_grad": spike_grad,
        "layer_delay": delay,
    }
    tolerance = {"rtol": 1e-4, "atol": 1e-5} if dtype == th.float32 else {"rtol": 1e-9, "atol": 1e-12}
    for seed, (space, samples, shape) in enumerate(
        (
            (IMAGE, 3, CONVOLUTIONS),
            (GRID, 5, {"conv_layers": [(16, 3, 1)], "layout": "hwc"}),
            (VECTOR, 9, {"net_arch": [30, 70]}),
        )
    ):
        settings = {"num_steps": 5 + seed, "seed": seed, "dtype": dtype, **shape, **neuron}
        observations = batch(space, samples, dtype)
        with monkeypatch.context() as patch:
            if dtype == th.float32:
                patch.setattr(kernels, "_in_use", "reference")
            patch.setattr("sb3_spiking.snn.layers.fused_layers", lambda window, *_: (window, 0, []))
            expected, expected_grads = gradients(network(space, "rates", **settings), observations)
        for threads in (1, 3):
            th.set_num_threads(threads)
            try:
                result, grads = gradients(network(space, "rates", **settings), observations)
            finally:
                th.set_num_threads(1)
            th.testing.assert_close(result, expected, **tolerance)
            for name, grad in grads.items():
                scale = expected_grads[name].abs().max()
                th.testing.assert_close(grad / scale, expected_grads[name] / scale, **tolerance)


@pytest.mark.parametrize("reset", RESETS)
@pytest.mark.parametrize("delay", [False, True])
@pytest.mark.parametrize("space", [VECTOR, IMAGE, DICT], ids=["vector", "image", "dict"])
def test_kernels_for_gpus(monkeypatch, space, delay, reset):
    """Layers one after another, by the kernel that gives spikes and derivatives at once, and by plain PyTorch."""
    cuda = importlib.import_module("sb3_spiking.snn.kernels.cuda")
    settings = {"reset_mechanism": reset[0], "reset_delay": reset[1], "beta": 0.8, "layer_delay": delay, "num_steps": 7}
    if space is not VECTOR:
        settings |= {**CONVOLUTIONS, "features_dim": 20}
    monkeypatch.setattr(kernels, "_in_use", "reference")
    expected, expected_grads = gradients(network(space, "rates", **settings), batch(space, 2))
    calls = []

    def counted(*arguments):
        calls.append(arguments)
        return cuda.leaky_rates(*arguments)

    device = "cuda" if th.cuda.is_available() else "cpu"  # there in Triton's interpreter
    monkeypatch.setattr("sb3_spiking.snn.neurons.leaky_rates", counted)
    q_net, observations = network(space, "rates", **settings).to(device), batch(space, 2)
    if isinstance(observations, dict):
        observations = {key: each.to(device) for key, each in observations.items()}
    else:
        observations = observations.to(device)
    result, grads = gradients(q_net, observations)
    assert calls
    th.testing.assert_close(result.cpu(), expected)
    for name, grad in grads.items():
        th.testing.assert_close(grad.cpu(), expected_grads[name], rtol=1e-5, atol=1e-7)


def test_all_layers_run_at_once(monkeypatch):
    done, fused = [], kernels.fused_layers
    monkeypatch.setattr("sb3_spiking.snn.layers.fused_layers", lambda *args: done.append(fused(*args)) or done[-1])
    gradients(network(IMAGE, "rates", **CONVOLUTIONS), batch(IMAGE))
    ((_, count, kept),) = done
    assert count == 3
    assert [each.rates.shape for each in kept] == [(6, 20, 16, 16), (6, 10, 7, 7), (6, 40)]


def test_a_layer_that_fires_often_hands_over():
    observations, grads = batch(IMAGE), []
    for below_rate in (0.5, 2.0):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(kernels, "_FUSED_BELOW_RATE", below_rate)
            q_net = network(IMAGE, "rates", **CONVOLUTIONS, net_arch=[20])
            with th.no_grad():
                q_net.features_extractor.conv[1].connection.bias += 3
            grads.append(gradients(q_net, observations)[1])
    assert_equal(*grads)


def kept_bytes(num_steps, gradients_by):
    sizes = {}

    def pack(tensor):
        sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    q_net = network(IMAGE, gradients_by, num_steps=num_steps, dtype=th.float32, **CONVOLUTIONS)
    with th.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        values(q_net, batch(IMAGE, dtype=th.float32))
    return sum(sizes.values())


def test_what_is_kept_does_not_grow_with_the_steps():
    assert kept_bytes(40, "rates") == kept_bytes(4, "rates")
    assert kept_bytes(40, "exact") > 3 * kept_bytes(4, "exact")


@pytest.mark.parametrize(
    "change",
    [
        lambda connection: prune.l1_unstructured(connection, "weight", 0.5),
        nn.utils.parametrizations.spectral_norm,
        lambda connection: connection.register_forward_hook(lambda module, inputs, outputs: None),
    ],
    ids=["prune", "spectral norm", "hook"],
)
def test_connections_that_are_more_than_weights(change):
    """The weights that are computed have gradients; a hook that only looks on changes none."""
    plain, changed = (network(IMAGE, "rates", **CONVOLUTIONS).eval() for _ in range(2))
    for layer in (*changed.features_extractor.conv, *changed.features_extractor.dense):
        change(layer.connection)
    _, expected = gradients(plain, batch(IMAGE))
    _, grads = gradients(changed, batch(IMAGE))
    assert all(grad.abs().max() > 0 for grad in grads.values())
    if expected.keys() == grads.keys():
        assert_equal(expected, grads)


def test_who_observes_neurons_sees_their_spikes():
    q_net, seen = network(IMAGE, "rates", **CONVOLUTIONS), []
    _, expected = gradients(network(IMAGE, "rates", **CONVOLUTIONS), batch(IMAGE))
    q_net.features_extractor.conv[0].neuron.register_forward_hook(lambda module, inputs, spikes: seen.append(spikes))
    _, grads = gradients(q_net, batch(IMAGE))
    assert [tuple(each.shape) for each in seen] == [(4, 6, 20, 16, 16)]
    assert_equal(expected, grads)


def test_autocast():
    q_net = network(IMAGE, "rates", dtype=th.float32, **CONVOLUTIONS)
    _, expected = gradients(network(IMAGE, "rates", dtype=th.float32, **CONVOLUTIONS), batch(IMAGE, dtype=th.float32))
    with th.autocast("cpu", dtype=th.bfloat16):
        _, grads = gradients(q_net, batch(IMAGE, dtype=th.float32))
    for name, grad in grads.items():
        assert th.cosine_similarity(grad.flatten(), expected[name].flatten(), dim=0) > 0.9, name


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"readout": "max_membrane"}, "readout='max_membrane': expected readout='rate' or 'spike', or gradients='exact'"),
        ({"encoding": "poisson"}, "encoding='poisson': expected encoding='direct', or gradients='exact'"),
        ({"normalization": "potential"}, "normalization='potential': expected normalization=None"),
        ({"learn_beta": (False, True)}, r"learn_beta=\(False, True\): expected learn_beta=False"),
        ({"learn_threshold": True}, "learn_threshold=True: expected learn_threshold=False"),
    ],
)
def test_what_is_not_covered_is_refused(settings, message):
    with pytest.raises(ValueError, match=f"gradients='rates' does not cover {message}"):
        SpikingSettings(gradients="rates", **settings)
    SpikingSettings(gradients="exact", **settings)


def test_defaults_give_way_where_they_do_not_cover_what_is_chosen():
    assert network(IMAGE, None, **CONVOLUTIONS).settings.gradients == "rates"
    for settings in ({"readout": "last_membrane"}, {"learn_beta": [True, False, False]}, {"normalization": "potential"}):
        assert network(IMAGE, None, **CONVOLUTIONS, **settings).settings.gradients == "exact"
    assert SpikingSettings.resolve(preset="liu2022", defaults={"gradients": "rates"}).gradients == "exact"


def test_the_papers_network_takes_them():
    q_net = network(IMAGE, "rates", preset="liu2022", num_steps=8, **CONVOLUTIONS)
    assert q_net.settings.spike_grad == "atan"
    assert network(IMAGE, None, preset="liu2022", **CONVOLUTIONS).settings.gradients == "exact"
    gradients(q_net, batch(IMAGE))


@pytest.mark.parametrize(("trained", "loaded"), [("exact", "rates"), ("rates", "exact"), ("rates", None)])
def test_a_saved_agent_loads_whatever_it_was_trained_with(tmp_path, trained, loaded):
    shape = {"conv_layers": [(16, 3, 1)], "layout": "hwc", "features_dim": 16}
    model = DQN(SpikingPolicy, GridEnv(), learning_starts=8, buffer_size=50, policy_kwargs={**shape, "gradients": trained})
    model.learn(20)
    model.save(tmp_path / "agent")
    given = {"policy_kwargs": {**shape, **({} if loaded is None else {"gradients": loaded})}}
    other = DQN.load(tmp_path / "agent", env=GridEnv(), custom_objects=given)
    assert other.policy.settings.gradients == (loaded or trained)
    observations = th.as_tensor(GridEnv.observation_space.sample()[None], device=model.device)
    assert th.equal(other.q_net(observations), model.q_net(observations))
    other.learn(20)


def test_the_body_serves_other_algorithms():
    model = PPO(
        "MlpPolicy", "CartPole-v1", n_steps=16, batch_size=16, n_epochs=1,
        policy_kwargs={
            "features_extractor_class": SpikingMLP, "features_extractor_kwargs": {"gradients": "rates"}, "net_arch": [],
        },
    )  # fmt: skip
    before = [parameter.clone() for parameter in model.policy.features_extractor.parameters()]
    model.learn(16)
    assert all(not th.equal(*pair) for pair in zip(before, model.policy.features_extractor.parameters(), strict=True))
