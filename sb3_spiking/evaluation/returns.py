"""What an environment itself rewards, whatever wrappers make of it."""

from typing import Any, SupportsFloat

import gymnasium as gym


class Returns(gym.Wrapper):
    """Innermost of the wrappers: ``info`` says what the environment itself has rewarded since it was reset, step for step."""

    #: Name in ``info``
    NAME = "return_so_far"

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        """Begin a sum."""
        self._sum = 0.0
        return super().reset(**kwargs)

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        """Add to it."""
        observation, reward, terminated, truncated, info = super().step(action)
        self._sum += float(reward)
        return observation, reward, terminated, truncated, {**info, self.NAME: self._sum}
