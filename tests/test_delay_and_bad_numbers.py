"""Where two settings meet: delay and Dict, surrogates and their default slopes, inputs that are not finite."""

import numpy as np
import pytest
import snntorch as snn
import torch as th
from gymnasium import spaces

from sb3_spiking import SpikingPolicy
from sb3_spiking.snn import SURROGATES, Leaky, kernels
from sb3_spiking.snn.kernels import reference
from sb3_spiking.snn.kernels.dynamics import Dynamics
from sb3_spiking.snn.surrogates import Surrogate

VECTOR = spaces.Box(-5, 5, (4,))
IMAGE = spaces.Box(0, 255, (4, 36, 36), np.uint8)
SPACES = {
    "vector": VECTOR,
    "image": IMAGE,
    "dict of vectors": spaces.Dict({"a": VECTOR, "b": spaces.Discrete(3)}),
    "dict with an image": spaces.Dict({"a": VECTOR, "i": IMAGE}),
}


def policy(space, **settings):
    th.manual_seed(0)
    settings = {"num_steps": 8, "input_scale": 4.0, **settings}
    return SpikingPolicy(space, spaces.Discrete(3), lambda _: 1e-3, **settings)


def batch(space, count=6):
    space.seed(0)
    samples = [space.sample() for _ in range(count)]
    if isinstance(space, spaces.Dict):
        return {key: th.as_tensor(np.stack([sample[key] for sample in samples])) for key in space.spaces}
    return th.as_tensor(np.stack(samples))


@pytest.mark.parametrize("delay", [False, True])
@pytest.mark.parametrize("name", SPACES)
def test_q_values_depend_on_the_observation_and_not_on_gradients(name, delay):
    space = SPACES[name]
    q_net, observations = policy(space, layer_delay=delay).q_net, batch(space)
    with_gradients = q_net(observations)
    assert with_gradients.std(dim=0).min() > 0
    with th.no_grad():
        th.testing.assert_close(q_net(observations), with_gradients.detach())


LAYERS = {"vector": 2, "image": 2, "dict of vectors": 2, "dict with two images": 4}
TWO_IMAGES = spaces.Dict({"a": VECTOR, "i": IMAGE, "j": IMAGE})


@pytest.mark.parametrize("readout", ["rate", "spike", "max_membrane"])
@pytest.mark.parametrize("name", LAYERS)
def test_a_window_is_long_enough_where_the_first_spikes_reach_the_readout(name, readout):
    """Images of a Dict go side by side, and output neurons see spikes in the step in which they come."""
    space = TWO_IMAGES if name == "dict with two images" else SPACES[name]
    body = {} if name.startswith(("vector", "dict of")) else {"conv_layers": [(8, 6, 3)], "features_dim": 64}
    settings = {**body, "net_arch": [32] if name == "image" else [32, 32], "input_scale": 12.0, "readout": readout}
    depth = LAYERS[name] + (name == "image")
    layers = policy(space, layer_delay=True, num_steps=depth + 1, **settings)
    assert layers.q_net(batch(space)).std(dim=0).max() > 0
    with pytest.raises(ValueError, match=f"a step for each of {depth} spiking layers .* at least {depth + 1}"):
        policy(space, layer_delay=True, num_steps=depth, **settings)


def test_what_comes_from_the_observation_is_not_delayed_and_what_comes_from_an_image_is():
    space = SPACES["dict with an image"]
    body = policy(space, layer_delay=True, net_arch=[16]).q_net.features_extractor
    seen = []
    body.dense[0].register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    observations = {"a": th.rand(2, 4), "i": th.rand(2, 4, 36, 36)}
    body.window(observations)
    (window,) = seen
    assert not body.dense[0].delay
    assert th.equal(window[..., :4], observations["a"].expand(8, -1, -1))
    spikes = body.cnns["i"].window(observations["i"])
    assert spikes.sum() > 0
    assert th.equal(window[1:, :, 4:], spikes[:-1])
    assert window[0, :, 4:].sum() == 0


@pytest.mark.parametrize("spike_grad", SURROGATES)
def test_gradients_are_finite_at_the_default_slope(spike_grad):
    arguments = (1, th.tensor(0.5), th.tensor(1.0), Dynamics(1.0, Surrogate(spike_grad), "zero", True))
    gradients = []
    for leaky_window in (reference.leaky_window, kernels.leaky_window):
        currents = th.linspace(-20, 20, 41)[None].requires_grad_()
        leaky_window(currents, *arguments).sum().backward()
        assert currents.grad.isfinite().all()
        gradients.append(currents.grad)
    th.testing.assert_close(*gradients)


@pytest.mark.parametrize("spike_grad", SURROGATES)
def test_no_slope_is_snntorch_s_default(spike_grad):
    given = getattr(snn.surrogate, spike_grad)()
    ours, theirs = (th.linspace(-1, 2, 31, requires_grad=True) for _ in range(2))
    Leaky(beta=0.5, spike_grad=spike_grad).spike_grad(ours).sum().backward()
    given(theirs).sum().backward()
    th.testing.assert_close(ours.grad, theirs.grad)
    assert Surrogate(spike_grad).slope == SURROGATES[spike_grad].default_slope


@pytest.mark.parametrize(("arguments", "message"), [(("triangular", 2.0), "has no slope"), (("relu",), "expected one of")])
def test_wrong_surrogates_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Surrogate(*arguments)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("readout", ["rate", "max_membrane"])
@pytest.mark.parametrize("name", ["vector", "dict of vectors", "dict with an image"])
def test_what_is_not_finite_shows_in_the_q_values(name, readout, value):
    space = SPACES[name]
    q_net, observations = policy(space, readout=readout).q_net, batch(space)
    (observations if name == "vector" else observations["a"])[2, 1] = value
    for enabled in (True, False):
        with th.set_grad_enabled(enabled):
            finite = q_net(observations).isfinite().all(dim=1)
        assert finite.tolist() == [True, True, False, True, True, True]


def test_a_body_of_another_algorithm_shows_it_too():
    body = policy(VECTOR).q_net.features_extractor
    observations = batch(VECTOR)
    observations[0, 0] = float("nan")
    assert body(observations).isnan().all(dim=1).tolist() == [True, False, False, False, False, False]
