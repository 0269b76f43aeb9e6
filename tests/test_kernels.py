"""Every backend against the plain definition: spikes, values and gradients."""

import importlib
import itertools
import os
import re
import subprocess
import sys
import threading
import warnings

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import prune

from sb3_spiking import SpikingPolicy
from sb3_spiking.snn import SURROGATES, Leaky, SpikingLayer, kernels
from sb3_spiking.snn.kernels import checks, cpu, events, reference
from sb3_spiking.snn.kernels.dynamics import Dynamics
from sb3_spiking.snn.layers import run_layers
from sb3_spiking.snn.surrogates import Surrogate
from sb3_spiking.training.callbacks import spike_counts

RESETS = [(mechanism, delay) for mechanism in ("zero", "subtract", "none") for delay in (True, False)]


def run_window(backend, currents, num_steps, beta, threshold, spike_grad, reset, membranes, weights):
    """A window with its gradients: of the currents, beta and the threshold."""
    device = "cuda" if backend not in (cpu, reference) and th.cuda.is_available() else "cpu"
    inputs = [tensor.to(device, currents.dtype) for tensor in (currents, th.tensor(beta), th.tensor(threshold))]
    inputs = [tensor.detach().requires_grad_() for tensor in inputs]
    arguments = (inputs[0], num_steps, inputs[1], inputs[2], Dynamics(0.7, spike_grad, *reset), membranes)
    window = backend.leaky_window(*arguments)
    grads = th.autograd.grad((window * weights.to(device)).sum(), inputs, allow_unused=True, materialize_grads=True)
    with th.no_grad():
        assert th.equal(backend.leaky_window(*arguments), window)
    return window.detach().cpu(), [grad.cpu() for grad in grads]


@pytest.fixture
def backend(request):
    """``cuda`` runs in Triton's interpreter where there is no GPU, see conftest.py."""
    return importlib.import_module(f"sb3_spiking.snn.kernels.{request.param}")


@pytest.mark.parametrize("backend", ["cpu", "cuda"], indirect=True)
@pytest.mark.parametrize("reset", RESETS)
@pytest.mark.parametrize("spike_grad", SURROGATES)
@pytest.mark.parametrize("dtype", [th.float32, th.float64])
def test_leaky_windows_for_every_surrogate_and_reset(backend, dtype, spike_grad, reset):
    slope = 3.0 if SURROGATES[spike_grad].default_slope else None
    for seed, (shape, num_steps, membranes) in enumerate(
        (((5, 3, 2, 3), 5, False), ((1, 2, 4), 6, False), ((4, 2, 3), 4, True), ((1, 1, 1), 1, True))
    ):
        th.manual_seed(seed)
        currents = th.randn(shape, dtype=dtype) * 2 + 0.5
        weights = th.randn(num_steps, *shape[1:], dtype=dtype)
        arguments = (currents, num_steps, 0.6, 0.9, Surrogate(spike_grad, slope), reset, membranes, weights)
        window, grads = run_window(backend, *arguments)
        expected, expected_grads = run_window(reference, *arguments)
        assert th.equal(window, expected)
        assert window.dtype == dtype
        # snnTorch's surrogates round the gradient to single precision in any case
        tolerance = {"rtol": 1e-4, "atol": 1e-5} if dtype == th.float32 else {"rtol": 1e-5, "atol": 1e-6}
        for grad, expected_grad in zip(grads, expected_grads, strict=True):
            th.testing.assert_close(grad, expected_grad, **tolerance)


@pytest.mark.parametrize("backend", ["cpu", "cuda"], indirect=True)
@pytest.mark.parametrize("reset", RESETS)
@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0])
def test_leaky_windows_of_many_blocks_and_any_order_in_memory(backend, beta, reset):
    # More neurons than a block of the kernels holds; as a convolution leaves them, transposed, and every second one
    base = th.randn(64, 3, 8, 9, 13) * 2 if backend is cpu else th.randn(12, 2, 4, 9, 13) * 2
    layouts = (base, base.permute(0, 1, 3, 4, 2).contiguous().permute(0, 1, 4, 2, 3), base.transpose(1, 4), base[..., ::2])
    for currents in layouts:
        weights = th.randn(currents.shape)
        arguments = (currents, len(currents), beta, 1.0, Surrogate("fast_sigmoid", 2.0), reset, False, weights)
        window, grads = run_window(backend, *arguments)
        expected, expected_grads = run_window(reference, *arguments)
        assert th.equal(window, expected)
        for grad, expected_grad in zip(grads, expected_grads, strict=True):
            th.testing.assert_close(grad, expected_grad, rtol=1e-3, atol=1e-4)


COMPILE = """
import itertools, re, triton, triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from sb3_spiking.snn.kernels import cuda

SIZES = {"neurons": "i32", "num_steps": "i32", "slope": "fp32"}

def compiled(kernel, **constants):
    constants |= {"SCALE": 0.5, "NUMBER": tl.float32, "BLOCK": 256}
    names = kernel.arg_names
    signature = {name: "constexpr" if name in constants else SIZES.get(name, "*fp32") for name in names}
    source = ASTSource(kernel, signature, {(names.index(name),): value for name, value in constants.items()})
    return triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"enable_fp_fusion": False}).asm["ptx"]

flags = (False, True)
for reset, membranes, constant, save in itertools.product(range(5), flags, flags, flags):
    ptx = compiled(cuda._forward, RESET=reset, MEMBRANES=membranes, CONSTANT=constant, SAVE=save, SAVE_AFTER=save)
    assert not re.search("fma", ptx)
for reset, surrogate in itertools.product(range(5), range(8)):
    flag = bool(surrogate % 2)
    compiled(cuda._backward, RESET=reset, SURROGATE=surrogate, MEMBRANES=not flag, CONSTANT=flag, LEARN=flag)
"""


def test_triton_kernels_compile_for_a_gpu_without_fused_multiplications():
    # A multiplication and an addition that are rounded once could flip a spike
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    result = subprocess.run([sys.executable, "-"], input=COMPILE, capture_output=True, text=True, env=environment)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("backend", ["cuda"], indirect=True)
@pytest.mark.parametrize("dtype", [th.float16, th.bfloat16])
def test_membranes_stay_in_single_precision(backend, dtype):
    currents, weights = (th.randn(9, 40, dtype=dtype) * 2, th.randn(9, 40))
    window, grads = run_window(
        backend, currents, 9, 0.5, 1.0, Surrogate("atan", 2.0), ("zero", False), False, weights.to(dtype)
    )
    expected, expected_grads = run_window(
        reference, currents.float(), 9, 0.5, 1.0, Surrogate("atan", 2.0), ("zero", False), False, weights.to(dtype).float()
    )
    assert window.dtype == grads[0].dtype == dtype
    assert th.equal(window.float(), expected)
    th.testing.assert_close(grads[0].float(), expected_grads[0], rtol=1e-2, atol=1e-2)


# (T, B, C, H, W, O, kernel, stride): the paper's three, odd ones, linear layers, more channels than a word has bits
CONVOLUTIONS = [
    (4, 2, 32, 20, 20, 64, 4, 2),
    (3, 2, 64, 9, 9, 64, 3, 1),
    (5, 3, 64, 7, 7, 130, 7, 1),
    (3, 2, 16, 7, 9, 5, 3, 2),
    (2, 7, 10, 8, 8, 4, 3, 1),
    (1, 1, 1, 3, 3, 7, 2, 1),
    (5, 3, 48, 8, 6, 33, 3, 3),
    (2, 5, 100, 1, 1, 20, 1, 1),
    (2, 3, 16, 10, 9, 8, 8, 4),  # one position, that leaves pixels out
    (8, 70, 3, 4, 4, 40, 4, 1),  # a linear layer of many rows
]


@pytest.mark.parametrize("rate", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("shape", CONVOLUTIONS)
def test_convolutions_of_spikes(shape, rate):
    num_steps, samples, channels, height, width, outputs, kernel, stride = shape
    for dtype, tolerance in ((th.float32, 1e-4), (th.float64, 1e-11)):
        window = (th.rand(num_steps, samples, channels, height, width) < rate).to(dtype).requires_grad_()
        weight = (th.randn(outputs, channels, kernel, kernel) / channels).to(dtype).requires_grad_()
        bias = th.randn(outputs, dtype=dtype, requires_grad=True)
        packed = events.pack(window)
        assert packed.spikes == window.sum()
        currents = events.convolution(window, weight, bias, stride, packed)
        expected = F.conv2d(window.flatten(0, 1), weight, bias, stride).unflatten(0, window.shape[:2])
        grad = th.randn_like(currents)
        results = (currents, *th.autograd.grad(currents, (window, weight, bias), grad))
        expecteds = (expected, *th.autograd.grad(expected, (window, weight, bias), grad))
        for result, expected in zip(results, expecteds, strict=True):
            th.testing.assert_close(result, expected, rtol=tolerance, atol=tolerance)
        with th.no_grad():
            assert th.equal(events.convolution(window, weight, bias, stride, packed), currents)


@pytest.mark.parametrize("value", [0.5, -1.0, 2.0, float("nan"), float("inf")])
def test_what_is_not_a_spike_is_not_taken_for_one(value):
    window = th.zeros(2, 1, 20, 3, 3)
    window[1, 0, 17, 2, 1] = value
    assert events.pack(window) is None


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("rate", [0.05, 0.5])
@pytest.mark.parametrize("rows", [(2, 8), (4, 40)])
def test_linear_layers_by_what_is_fastest_here(monkeypatch, rows, rate, wide):
    monkeypatch.setattr(kernels, "_WIDE_VECTORS", wide)
    kernels._backend("events", checks.events, th.float64, True)
    calls = []
    convolution = events.convolution
    monkeypatch.setattr(events, "convolution", lambda *args: calls.append(1) or convolution(*args))
    window = (th.rand(*rows, 16, 3, 2) < rate).double().requires_grad_()
    weight, bias = (th.randn(*shape, dtype=th.float64, requires_grad=True) for shape in ((20, 16, 3, 2), (20,)))
    currents = kernels.currents(window, weight, bias, 1)
    assert len(calls) == (rate < 0.3 and not wide and rows == (4, 40))
    expected = F.linear(window.flatten(2), weight.flatten(1), bias)
    results, expecteds = (th.autograd.grad(each.square().sum(), (window, weight, bias)) for each in (currents, expected))
    for result, expected_result in zip((currents.flatten(2), *results), (expected, *expecteds), strict=True):
        th.testing.assert_close(result, expected_result)


@pytest.mark.parametrize(("rate", "spikes"), [(0.05, True), (0.05, False), (0.5, True)])
def test_few_spikes_go_event_by_event(monkeypatch, rate, spikes):
    kernels._backend("events", checks.events, th.float32, True)  # its check is a call too
    calls = []
    convolution = events.convolution
    monkeypatch.setattr(events, "convolution", lambda *args: calls.append(1) or convolution(*args))
    window = (th.rand(8, 8, 16, 8, 8) < rate).float() * (1.0 if spikes else 0.5)
    weight = th.randn(16, 16, 3, 3)
    currents = kernels.currents(window, weight, None, 1)
    assert len(calls) == (rate < 0.3 and spikes)
    expected = F.conv2d(window.flatten(0, 1), weight).unflatten(0, (8, 8))
    th.testing.assert_close(currents, expected, rtol=1e-4, atol=1e-4)


IMAGES = spaces.Box(0, 255, (4, 84, 84), np.uint8)


def paper_network(num_steps, dtype=th.float32):
    """The paper's network with weights that make every layer fire."""
    policy = SpikingPolicy(IMAGES, spaces.Discrete(4), lambda _: 1e-4, preset="liu2022", num_steps=num_steps)
    body = policy.q_net.features_extractor
    with th.no_grad():
        for layer, scale in zip((*body.conv, *body.dense), (4.45, 7.43, 7.91, 8.77), strict=True):
            layer.connection.weight *= scale
    return policy.to(dtype)


def plain(monkeypatch):
    monkeypatch.setattr(kernels, "_backend", lambda *args: None)


def everything(network, images, weights):
    """Spikes of each layer, values and gradients; without SB3's preprocessing, which knows single precision alone."""
    body, layers = network.features_extractor, []
    hooks = [
        layer.neuron.register_forward_hook(lambda module, inputs, spikes: layers.append(spikes.detach()))
        for layer in (*body.conv, *body.dense)
    ]
    values = network.q_net(body(images))
    for hook in hooks:
        hook.remove()
    return layers, values, th.autograd.grad((values * weights).sum(), list(network.parameters()))


@pytest.mark.parametrize("num_steps", [1, 7, 16])
def test_the_whole_network(monkeypatch, num_steps):
    images, weights = th.rand(5, *IMAGES.shape, dtype=th.float64), th.randn(5, 4, dtype=th.float64)
    double, single = paper_network(num_steps, th.float64).q_net, paper_network(num_steps).q_net
    single.load_state_dict(double.state_dict())
    fused = everything(double, images, weights)
    fused_single = everything(single, images.float(), weights.float())
    plain(monkeypatch)
    definition = everything(double, images, weights)
    definition_single = everything(single, images.float(), weights.float())
    for spikes, expected in zip(fused[0], definition[0], strict=True):
        assert spikes.sum() > 0 or num_steps == 1
        assert th.equal(spikes, expected)
    th.testing.assert_close(fused[1], definition[1], rtol=1e-9, atol=1e-9)
    for grad, expected in zip(fused[2], definition[2], strict=True):
        th.testing.assert_close(grad, expected, rtol=1e-4, atol=1e-6)
    # In single precision the order of a sum decides about a few borderline spikes
    for spikes, expected in zip(fused_single[0], definition_single[0], strict=True):
        assert (spikes != expected).float().mean() < 1e-4


@pytest.mark.skipif(not th.cuda.is_available(), reason="needs a GPU")
def test_the_whole_network_on_a_gpu(monkeypatch):
    images, weights = th.rand(5, *IMAGES.shape, dtype=th.float64).cuda(), th.randn(5, 4, dtype=th.float64).cuda()
    network = paper_network(16, th.float64).q_net.cuda()
    fused = everything(network, images, weights)
    plain(monkeypatch)
    definition = everything(network, images, weights)
    for spikes, expected in zip(fused[0], definition[0], strict=True):
        assert th.equal(spikes, expected)
    th.testing.assert_close(fused[1], definition[1])
    for grad, expected in zip(fused[2], definition[2], strict=True):
        th.testing.assert_close(grad, expected, rtol=1e-4, atol=1e-6)


# Channels, height and width of the image; for each layer (outputs, kernel, stride), or (units,) of a linear one
NETWORKS = [
    ((4, 36, 36), [(32, 8, 4), (64, 4, 2), (64, 2, 1), (70,)]),
    ((10, 10, 10), [(16, 3, 1), (128,), (5,)]),
    ((3, 17, 11), [(33, 3, 2), (130, 2, 3), (9,)]),
    ((1, 9, 5), [(100, 5, 1), (20, 1, 2)]),
    ((2, 6, 6), [(7, 6, 1), (300,), (64,), (1,)]),
    ((4, 1, 1), [(256,), (256,)]),
]


def layers_of(shape, sizes, reset, dtype, rate=0.15, delay=False):
    """Spiking layers whose currents are scaled for a firing rate."""
    channels, height, width = shape
    layers = []
    for outputs, *convolution in sizes:
        if convolution:
            kernel, stride = convolution
            connection = nn.Conv2d(channels, outputs, kernel, stride)
            height, width = (height - kernel) // stride + 1, (width - kernel) // stride + 1
        else:
            connection = nn.Linear(channels * height * width, outputs)
            height, width = 1, 1
        neuron = {"beta": 0.6, "threshold": 0.9, "input_scale": 0.7, "reset_mechanism": reset[0], "reset_delay": reset[1]}
        layer = SpikingLayer(connection, 5, neuron, delay=delay and bool(layers)).to(dtype)
        with th.no_grad():
            fan_in = connection.weight[0].numel()
            connection.weight.normal_(std=2 / (fan_in if not layers else rate * fan_in) ** 0.5)
            connection.bias.normal_()
        layers.append(layer)
        channels = outputs
    return layers


def one_after_another(layers, window):
    for layer in layers:
        window = layer(window)
    return window


@pytest.mark.parametrize("reset", RESETS)
@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("delay", [False, True])
def test_layers_without_gradients(monkeypatch, delay, network, reset):
    monkeypatch.setattr(kernels, "_FUSED_BELOW_RATE", 1.1)
    for seed, (num_steps, samples) in enumerate(((1, 3), (6, 1), (13, 5))):
        th.manual_seed(seed)
        layers = layers_of(*network, reset, th.float64, delay=delay)
        for layer in layers:
            layer.num_steps = num_steps
        images = th.rand(1, samples, *network[0], dtype=th.float64)
        expected = one_after_another(layers, images)
        with th.no_grad():
            arguments = (images, num_steps, [layer.constants() for layer in layers])
            window, done, _ = kernels.fused_layers(*arguments)
            assert done == len(layers)
            assert th.equal(window.flatten(2), expected.flatten(2))
            assert th.equal(run_layers(layers, images), expected)
            for threads in (2, 3):
                th.set_num_threads(threads)
                try:
                    assert th.equal(kernels.fused_layers(*arguments)[0], window)
                finally:
                    th.set_num_threads(1)
            # Without biases, and in another order in memory
            for layer in layers:
                layer.connection.bias = None
                if isinstance(layer.connection, nn.Conv2d):
                    layer.connection.to(memory_format=th.channels_last)
            images = images.transpose(3, 4).contiguous().transpose(3, 4)
            assert th.equal(run_layers(layers, images), one_after_another(layers, images))


def test_a_layer_that_fires_often_hands_over():
    layers = layers_of((2, 8, 8), [(16, 3, 1), (16, 3, 1), (16, 3, 1), (10,)], ("zero", True), th.float64)
    images = th.rand(1, 3, 2, 8, 8, dtype=th.float64)
    with th.no_grad():
        layers[1].connection.bias += 3
        expected = one_after_another(layers, images)
        assert one_after_another(layers[:1], images).mean() < 0.2 < one_after_another(layers[:2], images).mean()
        window, done, _ = kernels.fused_layers(images, 5, [layer.constants() for layer in layers])
        assert done == 2
        assert th.equal(window, one_after_another(layers[:2], images))
        assert th.equal(run_layers(layers, images, 16 * 36 * 5), expected)


def test_who_observes_a_layer_sees_it():
    layers = layers_of((2, 8, 8), [(16, 3, 1), (10,)], ("zero", True), th.float32)
    images, seen = th.rand(1, 3, 2, 8, 8), []
    with th.no_grad():
        expected = run_layers(layers, images)
        hook = layers[0].neuron.register_forward_hook(lambda module, inputs, spikes: seen.append(spikes))
        assert th.equal(run_layers(layers, images), expected)
        assert seen[0].shape == (5, 3, 16, 6, 6)
        hook.remove()
        run_layers(layers, images)
        assert len(seen) == 1


@pytest.mark.parametrize("kind", ["forward", "pre", "backward"])
def test_who_observes_a_connection_sees_it(kind, monkeypatch):
    monkeypatch.setattr("sb3_spiking.snn.layers._NUMBERS_AT_ONCE", 1)  # not one sample at a time
    layers = layers_of((2, 8, 8), [(16, 3, 1), (10,)], ("zero", True), th.float64)
    images, seen = th.rand(1, 3, 2, 8, 8, dtype=th.float64), []
    expected = one_after_another(layers, images)
    register = {
        "forward": "register_forward_hook",
        "pre": "register_forward_pre_hook",
        "backward": "register_full_backward_hook",
    }
    for layer in layers:
        getattr(layer.connection, register[kind])(
            lambda module, *data: seen.append(data[-1][0] if kind != "forward" else data[-1])
        )
    spikes = run_layers(layers, images)
    assert th.equal(spikes, expected)
    spikes.sum().backward()
    with th.no_grad():
        assert th.equal(run_layers(layers, images), expected)
    shapes = [tuple(each.shape) for each in seen]
    assert (
        shapes
        == {
            "pre": [(3, 2, 8, 8), (15, 576)] * 2,
            "forward": [(3, 16, 6, 6), (15, 10)] * 2,
            "backward": [(15, 10), (3, 16, 6, 6)],
        }[kind]
    )


@pytest.mark.parametrize(
    "change",
    [
        lambda connection: prune.l1_unstructured(connection, "weight", 0.5),
        nn.utils.weight_norm,
        nn.utils.spectral_norm,
        nn.utils.parametrizations.weight_norm,
        nn.utils.parametrizations.spectral_norm,
    ],
    ids=["prune", "old weight norm", "old spectral norm", "weight norm", "spectral norm"],
)
def test_weights_that_are_computed(change):
    """Their gradients and two updates: PyTorch computes the weights anew at each call."""
    layers = nn.ModuleList(layers_of((2, 8, 8), [(16, 3, 1), (10,)], ("zero", True), th.float64)).eval()
    for layer in layers:
        change(layer.connection)
    images = th.rand(1, 3, 2, 8, 8, dtype=th.float64)
    optimizer = th.optim.SGD(layers.parameters(), 0.5)
    before = run_layers(layers, images)
    for _ in range(2):
        spikes = run_layers(layers, images)
        optimizer.zero_grad()
        spikes.mean().backward()
        assert all(parameter.grad.abs().sum() > 0 for parameter in layers.parameters() if parameter.grad is not None)
        optimizer.step()
    after = run_layers(layers, images)
    assert not th.equal(after, before)
    with th.no_grad():
        assert th.equal(run_layers(layers, images), after)
    currents = layers[0].connection(images[0])[None]  # by the weights of now
    assert th.equal(layers[0](images), layers[0].neuron(currents, layers[0].num_steps))


def test_weights_are_read_each_time():
    # SB3's polyak_update and vector_to_parameters write through .data, which leaves no trace that a cache could see
    layers = layers_of((2, 8, 8), [(16, 3, 1), (10,)], ("zero", True), th.float32)
    images = th.rand(1, 3, 2, 8, 8)
    with th.no_grad():
        assert run_layers(layers, images).sum() > 0
        for layer in layers:
            layer.connection.weight.data.zero_()
            layer.connection.bias.data = th.zeros_like(layer.connection.bias)
        assert run_layers(layers, images).sum() == 0


def test_layers_that_do_not_fit_are_refused():
    layers = layers_of((2, 8, 8), [(16, 3, 1), (10,)], ("zero", True), th.float32)
    for shape in ((3, 8, 8), (2, 9, 8), (2, 2, 2)):
        with th.no_grad(), pytest.raises(ValueError, match=r"weights of shape .* for an input of shape"):
            run_layers(layers, th.rand(1, 1, *shape))


def test_a_batch_in_parts_is_the_same_batch(monkeypatch):
    policy = paper_network(4)
    images = th.randint(0, 256, (7, *IMAGES.shape), dtype=th.uint8)
    whole, counts = policy.q_net(images), spike_counts(policy, images)
    whole.sum().backward()
    grads = [parameter.grad.clone() for parameter in policy.q_net.parameters()]
    policy.zero_grad()
    monkeypatch.setattr("sb3_spiking.snn.layers._NUMBERS_AT_ONCE", 4 * 12_800 * 2)
    parts = policy.q_net(images)
    parts.sum().backward()
    th.testing.assert_close(parts, whole)
    for parameter, grad in zip(policy.q_net.parameters(), grads, strict=True):
        th.testing.assert_close(parameter.grad, grad, rtol=1e-4, atol=1e-5)
    in_parts = spike_counts(policy, images)
    assert len(in_parts) == len(counts) == 4
    for layer, expected in zip(in_parts, counts, strict=True):
        assert th.equal(layer.counts, expected.counts)
        assert layer.steps == expected.steps == 4 * 7


def test_threads_do_not_change_the_result():
    policy = paper_network(8)
    images = th.randint(0, 256, (4, *IMAGES.shape), dtype=th.uint8)
    body = policy.q_net.features_extractor
    spikes = th.rand(8, 4, 32, 20, 20).round() * (th.rand(8, 4, 32, 20, 20) < 0.2)
    results = []
    for threads in (1, 2, 3):
        th.set_num_threads(threads)
        try:
            policy.zero_grad()
            weight = body.conv[1].connection.weight
            kernels.currents(spikes, weight, None, 2).square().sum().backward()
            results.append((policy.q_net(images).detach(), weight.grad.clone()))
        finally:
            th.set_num_threads(1)
    for values, grad in results[1:]:
        assert th.equal(grad, results[0][1])
        th.testing.assert_close(values, results[0][0])


@pytest.mark.parametrize("samples", [1, 4])
def test_threads_do_not_change_what_is_done_without_gradients(samples):
    # Large enough for every layer to be divided, into lines or into outputs, in the middle of a sample too
    policy, images = paper_network(16), th.randint(0, 256, (samples, *IMAGES.shape), dtype=th.uint8)
    results = []
    with th.no_grad():
        for threads in (1, 2, 3, 5):
            th.set_num_threads(threads)
            try:
                results.append(policy.q_net.features_extractor.window(images / 255))
            finally:
                th.set_num_threads(1)
    assert results[0].sum() > 0
    for window in results[1:]:
        assert th.equal(window, results[0])


def test_two_python_threads_at_once():
    policy = paper_network(8)
    images = th.randint(0, 256, (4, *IMAGES.shape), dtype=th.uint8)
    with th.no_grad():
        expected = policy.q_net(images)
    results = [None] * 4

    def work(number):
        th.set_num_threads(2)
        with th.no_grad():
            for _ in range(3):
                results[number] = policy.q_net(images)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    th.set_num_threads(1)
    for result in results:
        th.testing.assert_close(result, expected)


def test_autocast_takes_the_plain_path_in_lower_precision():
    policy = paper_network(4)
    images = th.randint(0, 256, (2, *IMAGES.shape), dtype=th.uint8)
    with th.autocast("cpu", dtype=th.bfloat16):
        values = policy.q_net(images)
        values.sum().backward()
    assert values.dtype == th.bfloat16
    assert all(parameter.grad.isfinite().all() for parameter in policy.q_net.parameters())


def test_torch_compile_sees_plain_pytorch():
    policy = SpikingPolicy(spaces.Box(-1, 1, (3,)), spaces.Discrete(2), lambda _: 1e-3, num_steps=3, net_arch=[8])
    with th.no_grad():
        policy.q_net.features_extractor.dense[0].connection.weight *= 5
    observations = th.rand(4, 3)
    expected = policy.q_net(observations)
    assert expected.std(dim=0).max() > 0
    th.testing.assert_close(th.compile(policy.q_net, backend="aot_eager")(observations), expected)
    layers = policy.q_net.features_extractor.dense
    compiled = th.compile(layers, backend="aot_eager", fullgraph=True)
    assert th.equal(compiled(observations[None]), layers(observations[None]))


def test_compiling_is_said_once(tmp_path):
    program = "from sb3_spiking.snn import Leaky; import torch as th; Leaky(beta=0.5)(th.ones(2, 1, 1, requires_grad=True))\n"
    program += "with th.no_grad(): Leaky(beta=0.5, reset_mechanism='subtract')(th.ones(2, 1, 1))"
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    for said in (1, 0):  # then it is on disk
        result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment)
        assert result.stderr.count("compiles its kernels for this machine, once") == said
        assert result.returncode == 0


def wrong(function, change):
    """A function whose result is changed, where it is a tensor or begins with one."""

    def changed(*args):
        result = function(*args)
        return change(result) if isinstance(result, th.Tensor) else (change(result[0]), *result[1:])

    return changed


def flipped(spikes):
    changed = spikes.clone()
    changed.flatten()[-4:] = 1 - changed.flatten()[-4:]
    return changed


def wrong_gradients(tensor):
    return tensor * 2 - tensor.detach()


@pytest.mark.parametrize(
    ("name", "function", "change"),
    [
        ("cpu", "leaky_window", flipped),
        ("cpu", "leaky_window", wrong_gradients),
        ("events", "convolution", wrong_gradients),
        ("events", "convolution", lambda currents: currents * 1.001),
        ("fused", "spikes", flipped),
        ("fused", "spikes", lambda spikes: 1 / 0),
    ],
)
def test_a_backend_that_computes_something_else_is_not_used(monkeypatch, name, function, change):
    images, weights = th.rand(5, *IMAGES.shape), th.randn(5, 4)
    network = paper_network(7).q_net
    module = importlib.import_module(f"sb3_spiking.snn.kernels.{name}")
    monkeypatch.setattr(module, function, wrong(getattr(module, function), change))
    kernels._checked.cache_clear()
    try:
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            _, values, grads = everything(network, images, weights)
            with th.no_grad():
                acting = network.q_net(network.features_extractor(images))
        assert warned
        assert len({str(each.message) for each in warned}) <= 2  # neurons with gradients, and without
        expected = "Numba (computes wrong results|does not work) here .* run in plain PyTorch, .* please report"
        assert all(re.match(expected, str(each.message)) for each in warned)
    finally:
        kernels._checked.cache_clear()
    plain(monkeypatch)
    _, expected, expected_grads = everything(network, images, weights)
    th.testing.assert_close(values, expected, rtol=1e-3, atol=1e-3)
    th.testing.assert_close(acting, expected.detach(), rtol=1e-3, atol=1e-3)
    for grad, expected_grad in zip(grads, expected_grads, strict=True):
        assert (grad - expected_grad).norm() < 0.01 * expected_grad.norm()


@pytest.mark.parametrize("dtype", [th.float32, th.float64])
@pytest.mark.parametrize("gradients", [False, True])
def test_what_is_right_passes_the_check(dtype, gradients):
    checks.events(events, dtype, gradients)
    checks.fused(importlib.import_module("sb3_spiking.snn.kernels.fused"), dtype)
    for spike_grad, reset, flags in itertools.product(SURROGATES, RESETS, itertools.product((False, True), repeat=3)):
        checks.leaky(cpu, "cpu", dtype, Dynamics(0.7, Surrogate(spike_grad), *reset), *flags, gradients)


@pytest.mark.parametrize("dtype", [th.float32, th.float64, th.float16, th.bfloat16])
def test_what_is_right_passes_the_check_of_triton(dtype):
    cuda = importlib.import_module("sb3_spiking.snn.kernels.cuda")
    device = "cuda" if th.cuda.is_available() else "cpu"
    for spike_grad, reset in zip(SURROGATES, itertools.cycle(RESETS)):
        checks.leaky(cuda, device, dtype, Dynamics(0.7, Surrogate(spike_grad), *reset), False, False, False, True)


def test_the_check_leaves_the_random_state_alone():
    state = th.get_rng_state()
    checks.leaky(cpu, "cpu", th.float32, Dynamics(0.7, Surrogate("atan"), "zero", True), False, False, True, True)
    checks.events(events, th.float32, True)
    assert th.equal(th.get_rng_state(), state)


def test_plain_pytorch_by_choice(monkeypatch):
    images = th.rand(2, *IMAGES.shape)
    network, used = paper_network(3).q_net, []
    monkeypatch.setattr(kernels, "_checked", lambda name, *args: used.append(name))
    kernels.use("reference")
    try:
        network.q_net(network.features_extractor(images)).sum().backward()
        with th.no_grad():
            network.features_extractor(images)
        assert not used
    finally:
        kernels.use("auto")
    network.features_extractor(images)
    assert "cpu" in used
    with pytest.raises(ValueError, match="kernels 'triton': expected one of 'auto', 'reference'"):
        kernels.use("triton")


def test_plain_pytorch_by_the_environment():
    program = "import sys; from sb3_spiking.snn import Leaky; import torch as th; Leaky(beta=0.5)(th.ones(2, 1, 1)); "
    program += "print('numba' in sys.modules)"
    for value, printed in (("reference", "False"), ("auto", "True")):
        environment = {**os.environ, "SB3_SPIKING_KERNELS": value}
        result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment)
        assert result.stdout.strip() == printed, result.stderr
    environment["SB3_SPIKING_KERNELS"] = "numba"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment)
    assert "kernels 'numba': expected one of 'auto', 'reference'" in result.stderr


def test_no_pass_reads_a_number_of_the_device():
    # Tensors on this device have no numbers: reading one, which would wait for a GPU, raises
    observations = th.randint(0, 256, (3, *IMAGES.shape), dtype=th.uint8, device="meta")
    policy = paper_network(3).to("meta")
    assert policy.q_net(observations).shape == (3, 4)
    with th.no_grad():
        assert policy.q_net(observations).shape == (3, 4)


def test_where_the_process_cannot_be_looked_into():
    program = """
import ctypes
CDLL = ctypes.CDLL

def of_windows(name, *args, **kwargs):
    if name is None:
        raise TypeError("argument of type 'NoneType' is not iterable")
    return CDLL(name, *args, **kwargs)

import torch as th
ctypes.CDLL = of_windows
th.set_num_threads(2)
from sb3_spiking.snn import Leaky, kernels
from sb3_spiking.snn.kernels import checks, cpu, events, fused, threads
assert threads._parallel is threads._parallel_by_pool
threads.GRAIN = threads._GRAIN_OF_PYTHON = 1
checks.leaky(cpu, "cpu", th.float32, Leaky(beta=0.5).dynamics, False, False, False, True)
checks.events(events, th.float32, True)
checks.fused(fused, th.float32)
assert threads._pool is not None
"""
    result = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("missing", ["numba", "llvmlite"])
def test_without_numba_there_is_one_clear_line(missing):
    program = f"""
import sys, warnings
sys.modules[{missing!r}] = None
warnings.simplefilter("always")
import torch as th
from sb3_spiking.snn import Leaky
neuron = Leaky(beta=0.5)
print([neuron(th.full((4, 1, 1), 0.8)).flatten().tolist() for _ in range(2)])
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == str([[0.0, 1.0, 0.0, 1.0]] * 2)
    assert result.stderr.count("spiking networks run in plain PyTorch") == 1
    assert "Numba does not work here" in result.stderr


def test_where_nothing_can_be_written_kernels_compile_in_memory(tmp_path):
    program = "import torch as th; from sb3_spiking.snn import Leaky\n"
    program += "print(Leaky(beta=0.5)(th.full((2, 1, 1), 0.8)).sum().item())"
    environment = {"PATH": "", "HOME": "/nowhere", "NUMBA_CACHE_LOCATOR_CLASSES": "IPythonCacheLocator"}
    result = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, env=environment)
    assert result.stdout.strip() == "1.0", result.stderr


def test_an_empty_batch():
    assert Leaky(beta=0.5)(th.empty(3, 0, 4)).shape == (3, 0, 4)
    with th.no_grad():
        assert run_layers(layers_of((4, 1, 1), [(8,)], ("zero", True), th.float32), th.empty(1, 0, 4)).shape == (5, 0, 8)


def test_decisions_can_be_read():
    layers = layers_of((2, 8, 8), [(16, 3, 1), (10,)], ("zero", True), th.float32)
    images = th.rand(1, 30, 2, 8, 8)
    with kernels.decisions() as lines, th.no_grad():
        run_layers(layers, images)
        layers[0].register_forward_hook(lambda *_: None)
        run_layers(layers, images)
    first, second, *rest = lines
    assert first == "convolution 16 2 3 3: PyTorch (the same at every step)"
    assert second == "2 of 2 layers: fused (all of them)"
    assert rest[0] == first
    assert rest[1] == "neurons 1 30 16 6 6: Numba (fast_sigmoid)"
    assert rest[2].startswith("linear layer 10 16 6 6: ")
    assert len(rest) == 4
    with kernels.decisions() as lines:
        pass
    run_layers(layers, images)
    assert lines == []
