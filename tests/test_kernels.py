"""Windows of neurons, connections and whole networks: every backend against plain PyTorch."""

import importlib
import os
import subprocess
import sys
from functools import partial

import pytest
import torch as th
from gymnasium import spaces
from spiking_layers import IMAGES, RESETS, everything, paper_network, plain
from torch.nn import functional as F

from sb3_spiking import SpikingMLP
from sb3_spiking.snn import SURROGATES, Leaky, kernels, rates
from sb3_spiking.snn.kernels import checks, cpu, event_driven, reference
from sb3_spiking.snn.kernels.dynamics import Dynamics
from sb3_spiking.snn.surrogates import Surrogate


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
    base = th.randn(64, 3, 8, 9, 13) * 2 if backend is cpu else th.randn(5, 2, 4, 9, 13) * 2
    layouts = (base, base.permute(0, 1, 3, 4, 2).contiguous().permute(0, 1, 4, 2, 3), base.transpose(1, 4), base[..., ::2])
    for currents in layouts:
        weights = th.randn(currents.shape)
        arguments = (currents, len(currents), beta, 1.0, Surrogate("fast_sigmoid", 2.0), reset, False, weights)
        window, grads = run_window(backend, *arguments)
        expected, expected_grads = run_window(reference, *arguments)
        assert th.equal(window, expected)
        for grad, expected_grad in zip(grads, expected_grads, strict=True):
            th.testing.assert_close(grad, expected_grad, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("reset", RESETS)
@pytest.mark.parametrize("spike_grad", SURROGATES)
@pytest.mark.parametrize("dtype", [th.float32, th.float64])
def test_derivatives_of_rates_for_every_surrogate_and_reset(dtype, spike_grad, reset):
    cuda = importlib.import_module("sb3_spiking.snn.kernels.cuda")
    device = "cuda" if th.cuda.is_available() else "cpu"
    surrogate = Surrogate(spike_grad, 3.0 if SURROGATES[spike_grad].default_slope else None)
    tolerance = {"rtol": 1e-4, "atol": 1e-5} if dtype == th.float32 else {"rtol": 1e-5, "atol": 1e-6}
    for seed, (shape, num_steps) in enumerate((((5, 3, 2, 3), 5), ((1, 2, 4), 6), ((3, 4, 9, 13, 2), 3), ((2, 0, 4), 2))):
        th.manual_seed(seed)
        currents = th.randn(shape, dtype=dtype) * 2 + 0.5
        currents = currents.transpose(1, -1).contiguous().transpose(1, -1)  # as a convolution leaves them
        shares = tuple(th.rand(num_steps).softmax(dim=0).tolist())
        beta, threshold = th.tensor(0.6, dtype=dtype), th.tensor(0.9, dtype=dtype)
        dynamics = Dynamics(0.7, surrogate, *reset)
        where = (currents.to(device), num_steps, beta.to(device), threshold.to(device))
        spikes, derivatives = cuda.leaky_rates(*where, dynamics, shares)
        window = partial(reference.leaky_window, num_steps=num_steps, beta=beta, threshold=threshold, dynamics=dynamics)
        expected, expected_derivatives = rates.of_neurons(window, currents, shares)
        assert th.equal(spikes.cpu(), expected)
        assert spikes.dtype == derivatives.dtype == dtype
        th.testing.assert_close(derivatives.cpu(), expected_derivatives, **tolerance)


def test_derivatives_of_rates_by_hand():
    cuda = importlib.import_module("sb3_spiking.snn.kernels.cuda")
    device = "cuda" if th.cuda.is_available() else "cpu"
    one = th.ones((), device=device)
    dynamics = Dynamics(2.0, Surrogate("fast_sigmoid", 2.0), "none", True)
    spikes, derivatives = cuda.leaky_rates(th.tensor([[0.3]], device=device), 2, one, one, dynamics, (0.25, 0.75))
    assert spikes.tolist() == [[0.0], [1.0]]  # membranes of 0.6 and 1.2
    assert derivatives.item() == pytest.approx(0.25 * 2 / 1.8**2 + 0.75 * 4 / 1.4**2)


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
    compiled(cuda._rates, RESET=reset, SURROGATE=surrogate, CONSTANT=flag)
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
        packed = event_driven.pack(window)
        assert packed.spikes == window.sum()
        currents = event_driven.convolution(window, weight, bias, stride, packed)
        expected = F.conv2d(window.flatten(0, 1), weight, bias, stride).unflatten(0, window.shape[:2])
        grad = th.randn_like(currents)
        results = (currents, *th.autograd.grad(currents, (window, weight, bias), grad))
        expecteds = (expected, *th.autograd.grad(expected, (window, weight, bias), grad))
        for result, expected in zip(results, expecteds, strict=True):
            th.testing.assert_close(result, expected, rtol=tolerance, atol=tolerance)
        with th.no_grad():
            assert th.equal(event_driven.convolution(window, weight, bias, stride, packed), currents)


@pytest.mark.parametrize("value", [0.5, -1.0, 2.0, float("nan"), float("inf")])
def test_what_is_not_a_spike_is_not_taken_for_one(value):
    window = th.zeros(2, 1, 20, 3, 3)
    window[1, 0, 17, 2, 1] = value
    assert event_driven.pack(window) is None


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("rate", [0.05, 0.2, 0.5])
@pytest.mark.parametrize("rows", [(2, 8), (4, 40), (8, 130)])
def test_linear_layers_by_what_is_fastest_here(monkeypatch, rows, rate, wide, channels_last):
    monkeypatch.setattr(kernels, "_WIDE_VECTORS", wide)
    kernels._backend("event_driven", checks.events, th.float64, True)
    calls = []
    convolution = event_driven.convolution
    monkeypatch.setattr(event_driven, "convolution", lambda *args: calls.append(1) or convolution(*args))
    window = (th.rand(*rows, 16, 3, 2) < rate).double()
    if channels_last:  # as convolutions leave them
        window = window.permute(0, 1, 3, 4, 2).contiguous().permute(0, 1, 4, 2, 3)
    window.requires_grad_()
    weight, bias = (th.randn(*shape, dtype=th.float64, requires_grad=True) for shape in ((20, 96), (20,)))
    currents = kernels.currents(window, weight, bias)
    below, above = (0.1, 1000) if wide else (0.3, 100)
    assert len(calls) == (rate < below and rows[0] * rows[1] > above)
    expected = F.linear(window.flatten(2), weight, bias)
    results, expecteds = (th.autograd.grad(each.square().sum(), (window, weight, bias)) for each in (currents, expected))
    for result, expected_result in zip((currents, *results), (expected, *expecteds), strict=True):
        th.testing.assert_close(result, expected_result)


@pytest.mark.parametrize(("rate", "spikes"), [(0.05, True), (0.05, False), (0.5, True)])
def test_few_spikes_go_event_by_event(monkeypatch, rate, spikes):
    kernels._backend("event_driven", checks.events, th.float32, True)  # its check is a call too
    calls = []
    convolution = event_driven.convolution
    monkeypatch.setattr(event_driven, "convolution", lambda *args: calls.append(1) or convolution(*args))
    window = (th.rand(8, 8, 16, 8, 8) < rate).float() * (1.0 if spikes else 0.5)
    weight = th.randn(16, 16, 3, 3)
    currents = kernels.currents(window, weight, None, 1)
    assert len(calls) == (rate < 0.3 and spikes)
    expected = F.conv2d(window.flatten(0, 1), weight).unflatten(0, (8, 8))
    th.testing.assert_close(currents, expected, rtol=1e-4, atol=1e-4)


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


@pytest.mark.parametrize(("given", "wanted"), [(4, 8), (8, 4)])
def test_currents_of_another_number_of_steps_are_refused(given, wanted):
    neuron = Leaky(beta=0.5)
    with pytest.raises(ValueError, match=f"currents of {given} steps in a window of {wanted}: expected as many, or 1 for all"):
        neuron(th.ones(given, 1, 3), wanted)
    assert neuron(th.ones(1, 1, 3), wanted).shape == (wanted, 1, 3)


@pytest.mark.parametrize(("use", "gradients"), [("auto", "exact"), ("auto", "rates"), ("reference", "rates")])
def test_second_derivatives_are_refused_where_there_are_none(use, gradients):
    kernels.use(use)
    try:
        body = SpikingMLP(spaces.Box(-1, 1, (3,)), net_arch=[16, 16], gradients=gradients)
        loss = body(th.randn(20, 3)).pow(2).sum()
        with pytest.raises(RuntimeError, match="SB3_SPIKING_KERNELS=reference"):
            th.autograd.grad(loss, list(body.parameters()), create_graph=True)
    finally:
        kernels.use("auto")


def test_the_reference_has_second_derivatives():
    kernels.use("reference")
    try:
        th.manual_seed(0)
        body = SpikingMLP(spaces.Box(-1, 1, (3,)), net_arch=[16, 16], gradients="exact")
        grads = th.autograd.grad(body(th.randn(200, 3)).pow(2).sum(), list(body.parameters()), create_graph=True)
        second = th.autograd.grad(sum(grad.pow(2).sum() for grad in grads), list(body.parameters()))
        assert all(grad.abs().sum() > 0 for grad in second)
    finally:
        kernels.use("auto")
