"""What the fused kernels have in common: numbers for the settings that they branch on, and the order of the memory."""

import torch as th

#: by reset_mechanism and reset_delay
RESETS = {
    ("none", True): 0,
    ("none", False): 0,
    ("zero", True): 1,
    ("zero", False): 2,
    ("subtract", True): 3,
    ("subtract", False): 4,
}

#: the surrogates that the kernels have formulas for; others run in plain PyTorch
SURROGATES = {
    "fast_sigmoid": 0,
    "atan": 1,
    "sigmoid": 2,
    "SFS": 3,
    "spike_rate_escape": 4,
    "triangular": 5,
    "heaviside": 6,
    "straight_through_estimator": 7,
}


def dense(window: th.Tensor) -> tuple[th.Tensor, list[int]]:
    """
    :param window: shape (T, \\*)
    :return: the same values with dimensions permuted into the order of the memory, as a contiguous tensor, and the
        permutation
    """
    order = [0, *sorted(range(1, window.dim()), key=window.stride, reverse=True)]
    return window.permute(order).contiguous(), order


def restored(permuted: th.Tensor, order: list[int]) -> th.Tensor:
    """The inverse of the permutation of :func:`dense`."""
    return permuted.permute(sorted(range(len(order)), key=order.__getitem__))
