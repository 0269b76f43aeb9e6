"""``--gym-packages sb3_spiking.minatar``: registers the MinAtar games with Gymnasium, which importing them does not."""

from minatar.gym import register_envs

register_envs()
