"""
How an observation becomes input to a window of simulation steps.

An encoding is a function ``(observation, num_steps, intensity) -> input``:

* ``observation``, shape (B, C, \\*): real values, channels or features in dimension 1;
* ``intensity``: whether its values are known to lie in [0, 1];
* the input, shape (T, B, C', \\*), with T either ``num_steps`` or 1 for an input that is the same at every step:
  what is constant is computed once.
"""

import warnings
from collections.abc import Callable

import torch as th

from sb3_spiking.snn.kernels import traced

Encoding = Callable[[th.Tensor, int, bool], th.Tensor]


def direct(observation: th.Tensor, num_steps: int, intensity: bool) -> th.Tensor:
    """
    The real values themselves as a constant current, as in Liu et al. 2022 (arXiv 2201.07211).

    :return: shape (1, B, C, \\*)
    """
    return observation.unsqueeze(0)


def poisson(observation: th.Tensor, num_steps: int, intensity: bool) -> th.Tensor:
    """
    At each step a spike with probability x, drawn from torch's generator. Where values may lie outside [0, 1] each
    becomes two channels: ON with probability max(tanh x, 0) and OFF with probability max(-tanh x, 0).

    :return: spikes, shape (num_steps, B, C, \\*), or (num_steps, B, 2C, \\*) with ON channels first
    """
    probability = observation
    if intensity:
        _check_probabilities(observation)
    else:
        squashed = observation.tanh()
        probability = th.cat([squashed.clamp(min=0), (-squashed).clamp(min=0)], dim=1)
    draws = th.rand(num_steps, *probability.shape, dtype=probability.dtype, device=probability.device)
    return (draws < probability).to(probability.dtype)


def _check_probabilities(observation: th.Tensor) -> None:
    # Where actions are chosen: learning sees the same observations again
    if th.is_grad_enabled() or traced() or observation.is_meta or not ((observation < 0) | (observation > 1)).any():
        return
    warnings.warn(
        "encoding='poisson': the observation space says values from 0 to 1, which would be probabilities, and there are "
        "others, as after VecNormalize or of images with normalize_images=False: below 0 nothing fires, above 1 everything; "
        "expected a space with the bounds that the values have",
        stacklevel=2,
    )


ENCODINGS: dict[str, Encoding] = {"direct": direct, "poisson": poisson}
