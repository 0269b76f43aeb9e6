"""Layers that run at once, in parts, on several threads, and those that cannot."""

import threading

import pytest
import torch as th
from spiking_layers import IMAGES, NETWORKS, RESETS, layers_of, one_after_another, paper_network
from torch import nn
from torch.nn.utils import prune

from sb3_spiking.snn import kernels
from sb3_spiking.snn.layers import run_layers
from sb3_spiking.training.callbacks import spike_counts


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
    assert max(layer.saturated_windows for layer in counts) > 0
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
        assert (layer.firing_windows, layer.full_windows) == (expected.firing_windows, expected.full_windows)


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
