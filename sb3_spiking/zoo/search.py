"""RL Zoo: the search over spiking settings, of ``-optimize``."""

import ast
from functools import cache
from typing import Any

import optuna
from rl_zoo3 import hyperparams_opt

from sb3_spiking.settings import NEURON_SETTINGS, PRESETS, SpikingSettings
from sb3_spiking.snn.surrogates import SURROGATES

# The settings that -optimize searches. A network's other settings stay what the hyperparameters say.
SEARCH_SPACE: dict[str, tuple[Any, ...]] = {
    "num_steps": (4, 8, 16, 32),
    "beta": (0.0, 0.25, 0.5, 0.75, 0.9, 1.0),
    "slope": (2.0, 5.0, 10.0, 25.0, 50.0),
    "reset_mechanism": ("zero", "subtract"),
    "reset_delay": (True, False),
}
# The name under which a trial remembers the policy_kwargs that it started from
_BASE = "spiking_policy_kwargs"
# The same of the replay_buffer_kwargs, where they have a gamma of their own
_REPLAY = "spiking_replay_buffer_kwargs"


@cache
def register_search() -> None:
    """Let RL Zoo's ``-optimize`` search spiking settings in spiking runs of DQN, and leave it as it was in others."""
    hyperparams_opt.HYPERPARAMS_SAMPLER["dqn"] = sample_dqn_params
    hyperparams_opt.HYPERPARAMS_CONVERTER["dqn"] = convert_dqn_params


def sample_dqn_params(trial: optuna.Trial, n_actions: int, n_envs: int, additional_args: dict[str, Any]) -> dict[str, Any]:
    """
    RL Zoo's sampler for DQN, and :data:`SEARCH_SPACE` where the policy is spiking.

    RL Zoo replaces the policy_kwargs of a trial by the sampled ones. The settings that are not searched come from the
    study, where RL Zoo notes the hyperparameters, and become a parameter of the trial with a single choice, so that a
    trial says by itself which network it was (``--trial-id``).
    """
    hyperparams = hyperparams_opt.sample_dqn_params(trial, n_actions, n_envs, additional_args)
    if "SpikingPolicy" not in trial.study.user_attrs.get("policy", ""):
        return hyperparams
    base = trial.study.user_attrs.get("policy_kwargs", "{}")
    trial.suggest_categorical(_BASE, [base])
    for name, choices in _searched(_read("policy_kwargs", base)).items():
        trial.suggest_categorical(name, choices)
    replay = trial.study.user_attrs.get("replay_buffer_kwargs", "{}")
    if "'gamma'" in replay:
        trial.suggest_categorical(_REPLAY, [replay])
    return _with_spiking(hyperparams, trial.params)


def convert_dqn_params(sampled_params: dict[str, Any]) -> dict[str, Any]:
    """RL Zoo's converter for DQN: the hyperparameters that a trial's parameters stand for."""
    spiking = {_BASE, _REPLAY, *SEARCH_SPACE}
    hyperparams = hyperparams_opt.convert_offpolicy_params(
        {name: value for name, value in sampled_params.items() if name not in spiking}
    )
    return _with_spiking(hyperparams, sampled_params) if _BASE in sampled_params else hyperparams


def _with_spiking(hyperparams: dict[str, Any], params: dict[str, Any]) -> dict[str, Any]:
    base = _read("policy_kwargs", params[_BASE])
    searched = {name: params[name] for name in _searched(base)}
    sampled = hyperparams["policy_kwargs"]
    # One value for each layer, or a step: the layers stay
    if base.get("layer_delay") or any(isinstance(base.get(name), (list, tuple)) for name in NEURON_SETTINGS):
        sampled = {name: value for name, value in sampled.items() if name != "net_arch"}
    hyperparams = {**hyperparams, "policy_kwargs": {**base, **sampled, **searched}}
    if _REPLAY in params:  # whose gamma is that of n-step returns
        hyperparams["replay_buffer_kwargs"] = {**_read("replay_buffer_kwargs", params[_REPLAY]), "gamma": hyperparams["gamma"]}
    return hyperparams


def _read(name: str, text: str) -> dict[str, Any]:
    try:
        return ast.literal_eval(text)
    except (SyntaxError, ValueError) as error:
        raise ValueError(f"{name}={text}: the search takes {name} made of numbers, strings, lists and dicts only") from error


def _searched(policy_kwargs: dict[str, Any]) -> dict[str, tuple[Any, ...]]:
    """
    The part of the search space that has a meaning for a network: a setting given per layer stays as it is, and so does the
    window where spikes take a step for each layer.
    """
    chosen = {**PRESETS.get(policy_kwargs.get("preset", ""), {}), **policy_kwargs}
    spike_grad = chosen.get("spike_grad", SpikingSettings().spike_grad)
    has_slope = isinstance(spike_grad, str) and SURROGATES[spike_grad].default_slope is not None
    fixed = {name for name, value in chosen.items() if isinstance(value, (list, tuple))}
    fixed |= set() if has_slope else {"slope"}
    fixed |= {"num_steps"} if chosen.get("layer_delay") else set()
    return {name: choices for name, choices in SEARCH_SPACE.items() if name not in fixed}
