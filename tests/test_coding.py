"""Encodings and readouts."""

import warnings

import pytest
import torch as th
from torch import nn

from sb3_spiking.snn import ENCODINGS, READOUTS, Leaky, SpikingLayer, kernels, layers


@pytest.mark.parametrize("name", ENCODINGS)
@pytest.mark.parametrize("intensity", [True, False])
def test_every_encoding_has_the_shapes_of_its_contract(name, intensity):
    encoded = ENCODINGS[name](th.rand(2, 3, 4), 5, intensity)
    assert encoded.shape[0] in (1, 5)
    assert encoded.shape[1] == 2
    assert encoded.shape[3:] == (4,)
    meta = ENCODINGS[name](th.empty(1, 3, device="meta"), 5, intensity)
    assert meta.shape[2] == encoded.shape[2]


def test_direct_is_the_value_itself_once():
    observation = th.randn(2, 3)
    assert th.equal(ENCODINGS["direct"](observation, 5, False), observation[None])


def test_poisson_fires_with_the_probability_of_the_intensity():
    intensities = th.tensor([[0.0, 0.1, 0.5, 1.0]])
    spikes = ENCODINGS["poisson"](intensities, 40_000, True)
    assert set(spikes.unique().tolist()) == {0.0, 1.0}
    rates = spikes.mean(dim=0)
    assert rates[0, 0] == 0
    assert rates[0, 3] == 1
    # four standard deviations of a mean of 40,000 draws are at most 0.01
    th.testing.assert_close(rates, intensities, rtol=0, atol=0.01)


def test_poisson_splits_signed_values_into_on_and_off():
    values = th.tensor([[-100.0, 0.0, 0.5493, 100.0]])  # tanh(0.5493) = 0.5
    rates = ENCODINGS["poisson"](values, 40_000, False).mean(dim=0)
    expected = th.tensor([[0.0, 0.0, 0.5, 1.0, 1.0, 0.0, 0.0, 0.0]])
    th.testing.assert_close(rates, expected, rtol=0, atol=0.01)


def test_poisson_draws_from_torchs_generator():
    draws = []
    for seed in (1, 1, 2):
        th.manual_seed(seed)
        draws.append(ENCODINGS["poisson"](th.full((3, 4), 0.5), 10, True))
    assert th.equal(draws[0], draws[1])
    assert not th.equal(draws[0], draws[2])


# One output whose current is 0.8 at steps 1, 2 and 4 and 0 at step 3: spikes 1, 1, 0, 1 of one unit of weight 0.8
WINDOW = th.tensor([1.0, 1.0, 0.0, 1.0]).reshape(4, 1, 1)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("rate", 0.8 * 0.75),
        # membranes 0.8, 1.2 (fires), 0, 0.8: one spike in four steps
        ("spike", 0.25),
        # never reset: 0.8, 1.2, 0.6, 1.1
        ("max_membrane", 1.2),
        ("mean_membrane", (0.8 + 1.2 + 0.6 + 1.1) / 4),
        ("last_membrane", 1.1),
    ],
)
def test_readouts_by_hand(name, value):
    linear = nn.Linear(1, 1, bias=False)
    nn.init.constant_(linear.weight, 0.8)
    readout = READOUTS[name]
    neuron = None if readout.neuron is None else Leaky(**{"beta": 0.5, **readout.neuron})
    values = readout.values(WINDOW, linear, neuron)
    assert values.shape == (1, 1)
    assert values.item() == pytest.approx(value)


def test_every_readout_is_tested_by_hand():
    (mark,) = test_readouts_by_hand.pytestmark
    assert {case[0] for case in mark.args[1]} == set(READOUTS)


def test_constant_input_goes_through_the_connection_once(monkeypatch):
    steps = []

    def currents(window, *args):
        steps.append(len(window))
        return kernels.currents(window, *args)

    monkeypatch.setattr(layers, "currents_of", currents)
    layer = SpikingLayer(nn.Linear(3, 4), 6, {"beta": 0.5})
    constant = th.rand(1, 2, 3)
    once = layer(constant)
    every_step = layer(constant.expand(6, -1, -1))
    assert steps == [1, 6]
    assert once.shape == (6, 2, 4)
    assert th.equal(once, every_step)


def test_values_that_are_no_probabilities_are_told():
    with pytest.warns(UserWarning, match="VecNormalize"), th.no_grad():
        ENCODINGS["poisson"](th.tensor([[0.2, 1.5]]), 4, True)
    with warnings.catch_warnings(), th.no_grad():
        warnings.simplefilter("error")
        ENCODINGS["poisson"](th.tensor([[0.0, 1.0, th.nan]]), 4, True)
        ENCODINGS["poisson"](th.tensor([[-2.0, 3.0]]), 4, False)
