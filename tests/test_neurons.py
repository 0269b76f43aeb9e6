import copy
import gc
import pickle
import weakref

import pytest
import snntorch as snn
import snntorch.surrogate
import torch as th

from sb3_spiking.snn import SURROGATES, Leaky

# snnTorch's own functions, named here a second time so that the table is checked against them
SNNTORCH = {
    "fast_sigmoid": lambda slope: snntorch.surrogate.fast_sigmoid(slope),
    "atan": lambda slope: snntorch.surrogate.atan(slope),
    "sigmoid": lambda slope: snntorch.surrogate.sigmoid(slope),
    "SFS": lambda slope: snntorch.surrogate.SFS(slope),
    "spike_rate_escape": lambda slope: snntorch.surrogate.spike_rate_escape(1, slope),
    "triangular": lambda slope: snntorch.surrogate.triangular(),
    "heaviside": lambda slope: snntorch.surrogate.heaviside(),
    "straight_through_estimator": lambda slope: snntorch.surrogate.straight_through_estimator(),
}
CONSTANT = th.full((4, 1, 1), 0.8)


@pytest.mark.parametrize(
    ("settings", "membranes", "spikes"),
    [
        # 0.8, 0.4 + 0.8 = 1.2 fires, reset at the next step: 0 + 0.8, then 1.2 again
        ({"reset_mechanism": "zero"}, [0.8, 1.2, 0.8, 1.2], [0, 1, 0, 1]),
        # the same reset in the step of the spike
        ({"reset_mechanism": "zero", "reset_delay": False}, [0.8, 0.0, 0.8, 0.0], [0, 1, 0, 1]),
        # 1.2 fires; 0.6 + 0.8 - 1 = 0.4; 0.2 + 0.8 = 1.0, which is not above 1
        ({"reset_mechanism": "subtract"}, [0.8, 1.2, 0.4, 1.0], [0, 1, 0, 0]),
        # 1.2 fires and loses 1 at once; 0.1 + 0.8 = 0.9; 0.45 + 0.8 = 1.25 fires
        ({"reset_mechanism": "subtract", "reset_delay": False}, [0.8, 0.2, 0.9, 0.25], [0, 1, 0, 1]),
        ({"reset_mechanism": "none"}, [0.8, 1.2, 1.4, 1.5], [0, 1, 1, 1]),
        # no leak: 0.8, 1.6 fires, 0.8 after reset, 1.6
        ({"beta": 1.0}, [0.8, 1.6, 0.8, 1.6], [0, 1, 0, 1]),
        # currents of 0.4: 0.4, 0.6, 0.7, 0.75 with a threshold of 0.7
        ({"input_scale": 0.5, "threshold": 0.65}, [0.4, 0.6, 0.7, 0.4], [0, 0, 1, 0]),
        # immediate subtraction leaves 1.6 - 0.5 = 1.1 above the threshold: the rest is due at the next step
        (
            {"beta": 1.0, "threshold": 0.25, "reset_mechanism": "subtract", "reset_delay": False},
            [0.55, 0.8 + 0.55 - 0.25, 1.1 + 0.8 - 0.25, 1.65 + 0.8 - 0.25],
            [1, 1, 1, 1],
        ),
    ],
)
def test_hand_computed(settings, membranes, spikes):
    neuron = Leaky(**{"beta": 0.5, **settings})
    th.testing.assert_close(neuron(CONSTANT).flatten(), th.tensor(spikes, dtype=th.float))
    th.testing.assert_close(neuron.membranes(CONSTANT).flatten(), th.tensor(membranes))


def stepped(neuron, currents):
    """The same neuron as snnTorch runs it, step by step."""
    mem = th.zeros_like(currents[0])
    spikes, membranes = [], []
    for current in currents:
        spike, mem = neuron(current, mem)
        spikes.append(spike)
        membranes.append(mem)
    return th.stack(spikes), th.stack(membranes)


def assert_equal_to_snntorch(shape, beta, threshold, spike_grad, slope, reset_mechanism, reset_delay, seed, spread=1.0):
    th.manual_seed(seed)
    ours = Leaky(
        beta=beta,
        threshold=threshold,
        spike_grad=spike_grad,
        slope=slope,
        reset_mechanism=reset_mechanism,
        reset_delay=reset_delay,
        learn_beta=True,
        learn_threshold=True,
    )
    theirs = snn.Leaky(
        beta=float(beta),
        threshold=threshold,
        spike_grad=SNNTORCH[spike_grad](slope),
        reset_mechanism=reset_mechanism,
        reset_delay=reset_delay,
        learn_beta=True,
        learn_threshold=True,
    )
    currents = th.randn(shape) * spread + 0.4
    inputs = [currents.clone().requires_grad_() for _ in range(2)]
    weights = th.randn(shape), th.randn(shape)
    results = []
    for neuron, input_, run in ((ours, inputs[0], None), (theirs, inputs[1], stepped)):
        spikes, membranes = run(neuron, input_) if run else (neuron(input_), neuron.membranes(input_))
        (spikes * weights[0] + membranes * weights[1]).sum().backward()
        results.append((spikes, membranes))
    assert th.equal(results[0][0], results[1][0])
    th.testing.assert_close(results[0][1], results[1][1])
    th.testing.assert_close(inputs[0].grad, inputs[1].grad)
    th.testing.assert_close(ours.beta.grad, theirs.beta.grad, rtol=1e-4, atol=1e-4)
    th.testing.assert_close(ours.threshold.grad, theirs.threshold.grad, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("reset_delay", [True, False])
@pytest.mark.parametrize("reset_mechanism", ["zero", "subtract", "none"])
@pytest.mark.parametrize("spike_grad", SURROGATES)
def test_equals_snntorch_for_every_surrogate(spike_grad, reset_mechanism, reset_delay):
    for seed, slope in enumerate((SURROGATES[spike_grad].default_slope, 3.0)):
        slope = slope if SURROGATES[spike_grad].default_slope else None
        assert_equal_to_snntorch((7, 3, 5), 0.5, 1.0, spike_grad, slope, reset_mechanism, reset_delay, seed)


@pytest.mark.parametrize("reset_delay", [True, False])
@pytest.mark.parametrize("reset_mechanism", ["zero", "subtract", "none"])
@pytest.mark.parametrize("beta", [0.0, 0.25, 0.9, 1])
@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 1, 4), (5, 3, 2, 4, 3), (64, 2, 3)])
def test_equals_snntorch_for_every_shape(shape, beta, reset_mechanism, reset_delay):
    # Large currents cross the threshold more than once
    for seed, (threshold, spread) in enumerate(((1.0, 1.0), (0.3, 3.0))):
        assert_equal_to_snntorch(shape, beta, threshold, "fast_sigmoid", 25.0, reset_mechanism, reset_delay, seed, spread)


def test_surrogates_are_snntorchs_deterministic_ones():
    assert set(SURROGATES) == set(SNNTORCH)


@pytest.mark.parametrize("dtype", [th.float32, th.float64])
def test_constant_and_non_contiguous_currents(dtype):
    neuron = Leaky(beta=0.7).to(dtype)
    current = th.rand(4, 3, dtype=dtype)
    constant = current.expand(6, 4, 3)
    assert th.equal(neuron(constant), neuron(constant.contiguous()))
    strided = th.rand(4, 6, 3, dtype=dtype).transpose(0, 1)
    assert th.equal(neuron(strided), neuron(strided.contiguous()))
    assert neuron(strided).dtype == dtype


@pytest.mark.parametrize(("start", "towards", "end"), [(1.4, 0.6, 1.0), (-0.3, 0.4, 0.0), (0.5, 2.0, 1.0), (0.5, -1.0, 0.0)])
def test_learned_beta_stays_inside_and_comes_back(start, towards, end):
    # One step from a membrane of 1: U = beta + 0, so the membrane shows the beta in force
    currents = th.tensor([1.0, 0.0]).reshape(2, 1, 1)
    neuron = Leaky(beta=start, reset_mechanism="none", learn_beta=True)
    optimizer = th.optim.SGD(neuron.parameters(), lr=0.2)
    for _ in range(200):
        in_force = neuron.membranes(currents)[1].squeeze()
        assert 0 <= in_force <= 1
        optimizer.zero_grad()
        ((in_force - towards) ** 2).backward()
        optimizer.step()
    th.testing.assert_close(neuron.membranes(currents)[1].squeeze(), th.tensor(min(max(towards, 0.0), 1.0)))
    if 0 < towards < 1:
        assert neuron.beta.item() == pytest.approx(towards, abs=1e-3)
    else:
        assert neuron.membranes(currents)[1].item() == end


def test_is_a_leaky_but_not_kept_alive():
    before = len(snn.SpikingNeuron.instances)
    neuron = Leaky(beta=0.5)
    assert isinstance(neuron, snn.Leaky)
    assert len(snn.SpikingNeuron.instances) == before
    reference = weakref.ref(neuron)
    del neuron
    gc.collect()
    assert reference() is None


def test_windows_are_independent_and_neurons_copy():
    neuron = Leaky(beta=0.9, learn_beta=True)
    currents = th.rand(5, 2, 3, requires_grad=True)
    first = neuron(currents)
    first.sum().backward()
    assert th.equal(neuron(currents), first)
    for copied in (copy.deepcopy(neuron), pickle.loads(pickle.dumps(neuron))):
        assert th.equal(copied(currents), first)
