"""Backward passes that have no second derivatives."""

import functools
from collections.abc import Callable
from typing import Any

import torch as th


def first_derivatives(backward: Callable[..., Any]) -> Callable[..., Any]:
    """
    For the backward pass of a function of autograd, which is not differentiable itself.

    PyTorch's own ``once_differentiable`` raises an error only when gradients pass through it: algorithms that allow unused
    tensors, as TRPO does, would take the second derivative for zero.

    :param backward: a backward pass
    :return: one that refuses where its gradients are to be differentiated
    """

    @functools.wraps(backward)
    def checked(ctx: Any, *grad_outputs: th.Tensor) -> Any:
        if th.is_grad_enabled():  # with create_graph=True alone
            raise RuntimeError(
                "derivatives of derivatives (create_graph=True, as in TRPO), which the fast kernels and gradients='rates' do "
                "not have; expected gradients='exact' and the environment variable SB3_SPIKING_KERNELS=reference"
            )
        return backward(ctx, *grad_outputs)

    return checked
