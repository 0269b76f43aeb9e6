"""Every layer of the default networks for images and grids fires before anything is learned."""

import ale_py
import gymnasium as gym
import numpy as np
import pytest
from stable_baselines3 import DQN, PPO
from stable_baselines3.common.env_util import make_atari_env, make_vec_env
from stable_baselines3.common.vec_env import VecFrameStack

import sb3_spiking.minatar
from sb3_spiking import SpikingNatureCNN, SpikingPolicy
from sb3_spiking.training.callbacks import spike_counts

GRID = {"conv_layers": [(16, 3, 1)], "layout": "hwc", "features_dim": 128, "num_steps": 4}
GAMES = {
    **{f"MinAtar/{name}-v1": GRID for name in ("Asterix", "Breakout", "Freeway", "Seaquest", "SpaceInvaders")},
    "PongNoFrameskip-v4": {},
    "BreakoutNoFrameskip-v4": {},
}


@pytest.fixture(scope="module", params=GAMES)
def played(request):
    """Environments, what they show under random actions, settings of the body."""
    gym.register_envs(ale_py)
    name = request.param
    if name.startswith("MinAtar"):
        env = make_vec_env(name, 4, seed=0)
    else:
        env = VecFrameStack(make_atari_env(name, 4, seed=0), 4)
    env.action_space.seed(0)
    seen = [env.reset(), *(env.step(np.array([env.action_space.sample() for _ in range(4)]))[0] for _ in range(60))]
    yield env, np.concatenate(seen)[::4], GAMES[name]
    env.close()


def rates(model, seen):
    return [layer.firing_rate for layer in spike_counts(model.policy, model.policy.obs_to_tensor(seen)[0])]


def test_with_pytorchs_initialisation(played):
    env, seen, settings = played
    assert all(0.001 < rate < 0.5 for rate in rates(DQN(SpikingPolicy, env, policy_kwargs=settings, buffer_size=1), seen))
    silent = DQN(SpikingPolicy, env, policy_kwargs={**settings, "input_scale": 1.0}, buffer_size=1)
    assert rates(silent, seen)[-1] < 1e-4


def test_with_the_orthogonal_initialisation_of_ppo(played):
    env, seen, settings = played
    body = {"features_extractor_class": SpikingNatureCNN, "features_extractor_kwargs": settings, "net_arch": []}
    policy = "MlpPolicy" if settings else "CnnPolicy"
    model = PPO(policy, env, policy_kwargs=body, n_steps=8, batch_size=8)
    assert all(0.001 < rate < 0.5 for rate in rates(model, seen))


def test_the_atari_hyperparameters_fire_and_tell_observations_apart():
    gym.register_envs(ale_py)
    env = VecFrameStack(make_atari_env("BreakoutNoFrameskip-v4", 4, seed=0), 4)
    env.action_space.seed(0)
    seen = [env.reset(), *(env.step(np.array([env.action_space.sample() for _ in range(4)]))[0] for _ in range(20))]
    settings = eval(sb3_spiking.hyperparams["atari"]["policy_kwargs"])
    model = DQN(SpikingPolicy, env, policy_kwargs=settings, buffer_size=1, seed=0)
    assert len(rates(model, np.concatenate(seen)[::4])) == 4
    assert min(rates(model, np.concatenate(seen)[::4])) > 0.02
    inputs, _ = model.policy.obs_to_tensor(np.concatenate(seen)[::4])
    assert model.q_net(inputs).std(dim=0).min() > 1e-4
    env.close()
