"""``--gym-packages sb3_spiking.minatar``: registers the MinAtar games with Gymnasium, which importing them does not."""

try:
    from minatar.gym import register_envs
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"{error}: MinAtar's games are a package of their own, under the GPL: pip install minatar", name=error.name
    ) from None

register_envs()
