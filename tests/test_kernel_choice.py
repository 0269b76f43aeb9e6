"""Which backend runs: checks at first use, choices by hand, machines that lack something."""

import importlib
import itertools
import os
import re
import subprocess
import sys
import warnings

import pytest
import torch as th
from gymnasium import spaces
from spiking_layers import IMAGES, RESETS, everything, layers_of, paper_network, plain

from sb3_spiking import SpikingPolicy
from sb3_spiking.snn import SURROGATES, Leaky, kernels
from sb3_spiking.snn.kernels import checks, cpu, event_driven
from sb3_spiking.snn.kernels.dynamics import Dynamics
from sb3_spiking.snn.layers import run_layers
from sb3_spiking.snn.surrogates import Surrogate


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
    layers = th.nn.Sequential(*policy.q_net.features_extractor.dense)
    compiled = th.compile(layers, backend="aot_eager", fullgraph=True)
    assert th.equal(compiled(observations[None]), layers(observations[None]))


def test_compiling_is_said_once(tmp_path):
    program = "from sb3_spiking.snn import Leaky; import torch as th; "
    program += "[Leaky(beta=0.5, reset_mechanism=reset)(th.ones(2, 1, 1)) for reset in ('zero', 'subtract')]"
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
        ("event_driven", "convolution", wrong_gradients),
        ("event_driven", "convolution", lambda currents: currents * 1.001),
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
    checks.events(event_driven, dtype, gradients)
    checks.fused(importlib.import_module("sb3_spiking.snn.kernels.fused"), dtype)
    for spike_grad, reset, flags in itertools.product(SURROGATES, RESETS, itertools.product((False, True), repeat=3)):
        checks.leaky(cpu, "cpu", dtype, Dynamics(0.7, Surrogate(spike_grad), *reset), *flags, gradients)


@pytest.mark.parametrize("dtype", [th.float32, th.float64, th.float16, th.bfloat16])
def test_what_is_right_passes_the_check_of_triton(dtype):
    cuda = importlib.import_module("sb3_spiking.snn.kernels.cuda")
    device = "cuda" if th.cuda.is_available() else "cpu"
    for spike_grad, reset in zip(SURROGATES, itertools.cycle(RESETS)):
        dynamics = Dynamics(0.7, Surrogate(spike_grad), *reset)
        checks.leaky(cuda, device, dtype, dynamics, False, False, False, True)
        for constant in (False, True):
            checks.leaky_rates(cuda, device, dtype, dynamics, constant)


@pytest.mark.parametrize(("spikes", "derivatives", "message"), [(1, 0.9, "derivatives of rates"), (0, 1, "spikes")])
def test_what_is_wrong_fails_the_check_of_rates(spikes, derivatives, message):
    cuda = importlib.import_module("sb3_spiking.snn.kernels.cuda")

    class Wrong:
        @staticmethod
        def leaky_rates(*arguments):
            return tuple(
                each * factor for each, factor in zip(cuda.leaky_rates(*arguments), (spikes, derivatives), strict=True)
            )

    device = "cuda" if th.cuda.is_available() else "cpu"
    with pytest.raises(checks.WrongResultError, match=f"^{message} differ"):
        checks.leaky_rates(Wrong, device, th.float32, Dynamics(0.7, Surrogate("atan"), "zero", True), False)


def test_the_check_leaves_the_random_state_alone():
    state = th.get_rng_state()
    checks.leaky(cpu, "cpu", th.float32, Dynamics(0.7, Surrogate("atan"), "zero", True), False, False, True, True)
    checks.events(event_driven, th.float32, True)
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
from sb3_spiking.snn.kernels import checks, cpu, event_driven, fused, threads
assert threads._parallel is threads._parallel_by_pool
threads.GRAIN = threads._GRAIN_OF_PYTHON = 1
checks.leaky(cpu, "cpu", th.float32, Leaky(beta=0.5).dynamics, False, False, False, True)
checks.events(event_driven, th.float32, True)
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


@pytest.mark.slow
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


def test_the_choice_can_be_read():
    layers = layers_of((2, 8, 8), [(16, 3, 1), (10,)], ("zero", True), th.float32)
    images = th.rand(1, 30, 2, 8, 8)
    with kernels.explain() as lines, th.no_grad():
        run_layers(layers, images)
        layers[0].register_forward_hook(lambda *_: None)
        run_layers(layers, images)
    first, second, *rest = lines
    assert first == "convolution 16 2 3 3: PyTorch (the same at every step)"
    assert second == "2 of 2 layers: fused (all of them)"
    assert rest[0] == "layers: one by one (normalisation, or a hook on a layer)"
    assert rest[1] == first
    assert rest[2] == "neurons 1 30 16 6 6: Numba (fast_sigmoid in torch.float32 on cpu)"
    assert rest[3].startswith("linear layer 10 576: ")
    assert len(rest) == 5
    with kernels.explain() as lines:
        pass
    run_layers(layers, images)
    assert lines == []


def test_why_a_kernel_is_not_used_can_be_read():
    layers = layers_of((2, 8, 8), [(16, 3, 1), (10,)], ("zero", True), th.float32)
    images = th.rand(1, 30, 2, 8, 8)
    kernels.use("reference")
    try:
        with kernels.explain() as lines, th.no_grad():
            run_layers(layers, images)
    finally:
        kernels.use("auto")
    chosen = "plain PyTorch (SB3_SPIKING_KERNELS or use() says so)"
    assert lines[0] == "layers: one by one (SB3_SPIKING_KERNELS or use() says so)"
    assert [line for line in lines if line.startswith("neurons")] == [
        f"neurons {s}: {chosen}" for s in ("1 30 16 6 6", "5 30 10")
    ]
    with kernels.explain() as lines:
        run_layers(layers, images)
    assert lines[0] == "layers: one by one (exact gradients)"
    with kernels.explain() as lines, th.autocast("cpu"), th.no_grad():
        run_layers(layers, images)
    assert lines[0] == "layers: one by one (autocast)"


def test_the_choice_can_be_read_within_each_other():
    layers = layers_of((2, 8, 8), [(16, 3, 1), (10,)], ("zero", True), th.float32)
    with kernels.explain() as outer, th.no_grad():
        with kernels.explain():
            pass
        run_layers(layers, th.rand(1, 3, 2, 8, 8))
    assert len(outer) == 2


@pytest.mark.parametrize("gradients", ["exact", "rates"])
def test_another_slope_is_not_checked_again(gradients):
    """A SlopeSchedule changes it at every step."""
    q_net = SpikingPolicy(spaces.Box(-1, 1, (4,)), spaces.Discrete(2), lambda _: 1e-3, gradients=gradients).q_net
    layers, observations = q_net.features_extractor.dense, th.rand(3, 4)
    checked = []
    for slope in (2.0, 3.0, 4.5):
        for layer in layers:
            layer.neuron.spike_grad = Surrogate("fast_sigmoid", slope)
        q_net(observations)
        checked.append(kernels._checked.cache_info().currsize)
    assert checked == checked[:1] * 3
