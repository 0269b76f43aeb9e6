import json
import re
from dataclasses import FrozenInstanceError, fields
from pathlib import Path

import gymnasium as gym
import pytest

from sb3_spiking import PRESETS, SpikingMLP, SpikingSettings
from sb3_spiking.settings import NEURON_SETTINGS


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"num_steps": 0}, r"num_steps=0: expected a whole number of at least 1"),
        ({"num_steps": 2.5}, r"num_steps=2.5: expected a whole number"),
        ({"num_steps": True}, r"num_steps=True: expected a whole number"),
        ({"beta": 1.5}, r"beta=1.5: expected a number from 0 to 1"),
        ({"beta": -0.1}, r"beta=-0.1: expected a number from 0 to 1"),
        ({"beta": [0.5, 2.0]}, r"beta=\(0.5, 2.0\): expected a number from 0 to 1, or a list"),
        ({"beta": []}, r"beta=\(\)"),
        ({"beta": "high"}, r"beta='high': expected a number"),
        ({"threshold": 0}, r"threshold=0: expected a number above 0"),
        ({"threshold": float("nan")}, r"threshold=nan: expected a number above 0"),
        ({"input_scale": -1}, r"input_scale=-1: expected a number above 0"),
        ({"slope": -5}, r"slope=-5: expected a number above 0"),
        ({"spike_grad": "triangular", "slope": 5}, r"slope=5: the surrogate 'triangular' has no slope"),
        ({"spike_grad": "relu"}, r"spike_grad='relu': expected one of 'fast_sigmoid', 'atan'"),
        ({"reset_mechanism": "hard"}, r"reset_mechanism='hard': expected one of 'zero', 'subtract', 'none'"),
        ({"reset_delay": 1}, r"reset_delay=1: expected True or False"),
        ({"encoding": "latency"}, r"encoding='latency': expected one of 'direct', 'poisson'"),
        ({"readout": "vote"}, r"readout='vote': expected one of 'rate', 'spike', 'max_membrane'"),
        ({"conv_layers": [(16, 3)]}, r"conv_layers=\(\(16, 3\),\): expected a list of \(channels, kernel size, stride\)"),
        ({"conv_layers": 16}, r"conv_layers=16: expected a list"),
        ({"layout": "nchw"}, r"layout='nchw': expected 'chw'"),
        ({"features_dim": 0}, r"features_dim=0: expected a whole number"),
        ({"net_arch": [64, 0]}, r"net_arch=\(64, 0\): expected a list of units"),
        ({"net_arch": {"pi": [64]}}, r"net_arch=\{'pi': \[64\]\}: expected a list of units"),
        ({"preset": "liu2021"}, r"preset='liu2021': expected one of 'liu2022', 'liu2022_spike', 'liu2022_if'"),
        ({"num_step": 4}, r"Unknown setting 'num_step'. Did you mean 'num_steps'\? A spiking network takes: preset"),
    ],
)
def test_wrong_settings_say_what_is_wrong(given, message):
    with pytest.raises(ValueError, match=message):
        SpikingSettings.resolve(**given)


def test_is_a_frozen_record_of_literals():
    settings = SpikingSettings.resolve(preset="liu2022", beta=[0.5, 0.9], net_arch=[64, 64])
    with pytest.raises(FrozenInstanceError):
        settings.num_steps = 3
    assert SpikingSettings.resolve(**json.loads(json.dumps(settings.as_dict()))) == settings


def test_given_settings_change_a_preset():
    settings = SpikingSettings.resolve(preset="liu2022", num_steps=4, beta=0.9)
    assert (settings.num_steps, settings.beta, settings.input_scale) == (4, 0.9, 0.5)


def test_none_is_the_default():
    assert SpikingSettings.resolve(beta=None, net_arch=None) == SpikingSettings()


@pytest.mark.parametrize(
    ("given", "slope"),
    [
        ({}, 25.0),
        ({"spike_grad": "atan"}, 2.0),
        ({"spike_grad": "heaviside"}, None),
        ({"preset": "liu2022"}, 2.0),
        # the slope of another surrogate is not that of the preset's arctan
        ({"preset": "liu2022", "spike_grad": "atan"}, 2.0),
        ({"defaults": {"slope": 5.0}}, 5.0),
        ({"defaults": {"slope": 5.0}, "spike_grad": "fast_sigmoid"}, 5.0),
        ({"defaults": {"slope": 5.0}, "spike_grad": "atan"}, 2.0),
        ({"defaults": {"slope": 5.0}, "slope": 7.0}, 7.0),
        ({"defaults": {"slope": 5.0}, "preset": "liu2022"}, 2.0),
        ({"preset": "liu2022", "spike_grad": "fast_sigmoid"}, 25.0),
        ({"spike_grad": ["atan", "fast_sigmoid", "heaviside"]}, (2.0, 25.0, None)),
        ({"spike_grad": ["atan", "sigmoid"], "slope": 3.0}, (3.0, 3.0)),
        # of each layer the slope that one value would have
        ({"defaults": {"slope": 5.0}, "spike_grad": ["fast_sigmoid", "fast_sigmoid"]}, (5.0, 5.0)),
        ({"defaults": {"slope": 5.0}, "spike_grad": ["fast_sigmoid", "atan"]}, (5.0, 2.0)),
        ({"defaults": {"slope": [5.0, 6.0]}, "spike_grad": ["fast_sigmoid", "atan"]}, (25.0, 2.0)),
        ({"preset": "liu2022", "spike_grad": ["atan", "fast_sigmoid"]}, (2.0, 25.0)),
        ({"defaults": {"slope": 5.0}, "spike_grad": ["fast_sigmoid", "atan"], "slope": [None, 9.0]}, (25.0, 9.0)),
        ({"slope": [1.0, None]}, (1.0, 25.0)),
    ],
)
def test_slope_defaults_to_the_surrogates_own(given, slope):
    assert SpikingSettings.resolve(**given).slope == slope


def test_values_per_layer():
    settings = SpikingSettings(beta=(0.1, 0.2, 0.3), threshold=2.0, spike_grad=("atan", "fast_sigmoid", "atan"))
    layers = settings.neurons(3)
    assert [layer["beta"] for layer in layers] == [0.1, 0.2, 0.3]
    assert [layer["threshold"] for layer in layers] == [2.0] * 3
    assert [layer["spike_grad"] for layer in layers] == ["atan", "fast_sigmoid", "atan"]
    assert [layer["slope"] for layer in layers] == [2.0, 25.0, 2.0]
    with pytest.raises(ValueError, match=r"beta=\(0.1, 0.2, 0.3\) has 3 values: expected one for each of 4 spiking layers"):
        settings.neurons(4)


def test_presets_leave_no_network_setting_to_a_default():
    # so that a changed default cannot change a paper's network
    architecture = {"conv_layers", "layout", "features_dim", "net_arch"}
    for preset in PRESETS.values():
        assert set(preset) == set(SpikingSettings().as_dict()) - architecture


def test_a_window_too_short_for_the_delays_is_refused():
    settings = SpikingSettings(num_steps=3, layer_delay=True)
    assert len(settings.neurons(2)) == 2
    with pytest.raises(ValueError, match="expected num_steps of at least 4"):
        settings.neurons(3)


def test_the_table_of_the_docs_has_every_setting():
    text = (Path(__file__).parents[1] / "docs/network.md").read_text()
    rows = re.findall(r"^\| (`.*?`(?: \*)?) \| (.*?) \|", text[text.index("| setting | default |") :], re.MULTILINE)
    listed = {name: (names.endswith("*"), default) for names, default in rows for name in re.findall(r"`(\w+)`", names)}
    del listed["preset"]
    assert set(listed) == {each.name for each in fields(SpikingSettings)}
    body = SpikingMLP(gym.make("CartPole-v1").observation_space).settings
    for each in fields(SpikingSettings):
        starred, default = listed[each.name]
        assert starred == (each.name in NEURON_SETTINGS), each.name
        if each.name not in ("conv_layers", "net_arch", "layout", "slope"):
            value = getattr(body, each.name)
            shown = f'`"{value}"`' if isinstance(value, str) else f"{value}"
            assert default.startswith(shown), each.name


def test_the_defaults_are_those_that_a_policy_has():
    """But for what docs/network.md says of bodies: the slope, and what shapes them."""
    body = SpikingMLP(gym.make("CartPole-v1").observation_space).settings
    assert set(SpikingSettings().differences(body)) == {"slope", "conv_layers", "net_arch"}
