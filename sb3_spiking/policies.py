"""Spiking policies for SB3's DQN."""

import warnings
from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

import torch as th
from gymnasium import spaces
from stable_baselines3 import DQN
from stable_baselines3.common.preprocessing import preprocess_obs
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from stable_baselines3.dqn.policies import DQNPolicy, QNetwork
from torch import nn

from sb3_spiking.extractors import SpikingExtractor, choose_extractor
from sb3_spiking.observations import nan_where_not_finite
from sb3_spiking.relu import SHAPE_SETTINGS, ReluExtractor
from sb3_spiking.settings import SpikingSettings, plain, unknown_setting
from sb3_spiking.snn.neurons import Leaky
from sb3_spiking.snn.readout import READOUTS


class SpikingQNetwork(QNetwork):
    """
    Q-network with a spiking body: observation -> window of spikes -> readout -> Q-values.

    ``q_net`` is SB3's final linear layer; ``output_neuron`` are the Leaky neurons behind it, or None with the ``rate``
    readout; ``common_mode`` is the ReLU network C of :meth:`compensated`, or None.

    :param observation_space: observation space
    :param action_space: discrete action space
    :param features_extractor: the spiking body, whose settings name the readout
    :param features_dim: units of its last layer
    :param normalize_images: divide images by 255
    :param common_mode: settings that set the shape of C apart from the spiking body's, None for no C
    """

    features_extractor: SpikingExtractor

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Discrete,
        features_extractor: SpikingExtractor,
        features_dim: int,
        normalize_images: bool = True,
        common_mode: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(
            observation_space,
            action_space,
            features_extractor,
            features_dim,
            net_arch=[],  # the dense layers are part of the body
            normalize_images=normalize_images,
        )
        neuron = features_extractor.output_neuron_settings
        self.output_neuron = None if neuron is None else Leaky(**neuron)
        self.common_mode: nn.Module | None = None
        self._common_mode_shape = common_mode
        if common_mode is not None:
            shape = {name: getattr(self.settings, name) for name in SHAPE_SETTINGS} | common_mode
            like = None if "conv_layers" in common_mode else type(features_extractor)
            try:
                relu = ReluExtractor(observation_space, not normalize_images, like, **shape)
            except ValueError as error:
                raise ValueError(f"common_mode={common_mode!r}: {error}") from error
            self.common_mode = nn.Sequential(relu, nn.Linear(relu.features_dim, 1))
        self._chooser: tuple[SpikingQNetwork, ...] = ()

    @property
    def settings(self) -> SpikingSettings:
        """The resolved settings of the network."""
        return self.features_extractor.settings

    def follow(self, network: "SpikingQNetwork") -> None:
        """
        Become a target network of Double DQN (van Hasselt et al. 2016, arXiv 1509.06461): give only the Q-value of the action
        that another network prefers, so that the maximum over actions that DQN takes is this one.

        :param network: the network that chooses; it does not become a part of this one
        """
        self._chooser = (network,)

    def forward(self, obs: PyTorchObs) -> th.Tensor:
        """
        :param obs: observations, shape (B, \\*)
        :return: Q-values that are learned, shape (B, A), or (B, 1) where another network chooses the action
        """
        values = self.compensated(self.spiking_values(obs), obs)
        for network in self._chooser:
            values = values.gather(1, network.spiking_values(obs).argmax(dim=1, keepdim=True))
        return values

    def _predict(self, observation: PyTorchObs, deterministic: bool = True) -> th.Tensor:
        return self.spiking_values(observation).argmax(dim=1)

    def spiking_values(self, obs: PyTorchObs) -> th.Tensor:
        """
        :param obs: observations, shape (B, \\*)
        :return: what the spiking network says, shape (B, A): the agent takes the action with the highest one; NaN for an
            observation that is not finite
        """
        preprocessed = preprocess_obs(obs, self.observation_space, normalize_images=self.normalize_images)
        window = self.features_extractor.delayed(self.features_extractor.window(preprocessed))
        values = READOUTS[self.settings.readout].values(window, self.q_net, self.output_neuron)
        return values + nan_where_not_finite(preprocessed, self.observation_space)

    def compensated(self, values: th.Tensor, obs: PyTorchObs) -> th.Tensor:
        """
        Common-mode compensation (Xu et al. 2026, arXiv 2610.07808): Q = Q_snn - mean over actions of Q_snn + C(observation),
        which leaves the order of the actions as it is. Without ``common_mode`` the values stay what they are.

        :param values: of :meth:`spiking_values`, shape (B, A)
        :param obs: observations that they belong to, shape (B, \\*)
        :return: Q-values, shape (B, A)
        """
        if self.common_mode is None:
            return values
        preprocessed = preprocess_obs(obs, self.observation_space, normalize_images=self.normalize_images)
        return values - values.mean(dim=1, keepdim=True) + self.common_mode(preprocessed)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        data = super()._get_constructor_parameters()
        for name in ("net_arch", "activation_fn"):
            del data[name]
        return {**data, "common_mode": self._common_mode_shape}


# What SpikingPolicy takes beside the network's settings, for its messages; a test compares it with the signature
_POLICY_ARGUMENTS = (
    *("activation_fn", "features_extractor_class", "features_extractor_kwargs", "normalize_images", "optimizer_class"),
    *("optimizer_kwargs", "double_dqn", "common_mode"),
)


_FOR_DQN = (
    "SpikingPolicy is a policy of DQN. For PPO, A2C, QRDQN and others take their own policy with a spiking body: "
    "policy_kwargs=dict(features_extractor_class=sb3_spiking.SpikingMLP), or SpikingNatureCNN for images"
)


class SpikingPolicy(DQNPolicy):
    """
    Policy of SB3's DQN with a deep spiking Q-network and its target network. The body is chosen from the observation
    space: :class:`~sb3_spiking.extractors.SpikingNatureCNN` for images and wherever ``conv_layers`` are given,
    :class:`~sb3_spiking.extractors.SpikingCombinedExtractor` for Dict,
    :class:`~sb3_spiking.extractors.SpikingMLP` for everything else.

    :param observation_space: Observation space
    :param action_space: Action space, discrete
    :param lr_schedule: Learning rate schedule (could be constant)
    :param net_arch: Units of each dense spiking layer after the body; [] after images, [256, 256] otherwise
    :param activation_fn: Has no meaning in a spiking network; warns when given
    :param features_extractor_class: A :class:`~sb3_spiking.extractors.SpikingExtractor`; None chooses
    :param features_extractor_kwargs: Keyword arguments to pass to the features extractor
    :param normalize_images: Whether to normalize images or not, dividing by 255.0 (True by default)
    :param optimizer_class: The optimizer to use, ``th.optim.Adam`` by default
    :param optimizer_kwargs: Additional keyword arguments, excluding the learning rate, to pass to the optimizer
    :param double_dqn: Double DQN: the Q-network chooses the action that the target network values
    :param common_mode: Common-mode compensation: a ReLU network of the same shape learns what all actions share, and the
        agent acts without it; a dict of ``conv_layers``, ``features_dim`` or ``net_arch`` gives it another one
    :param settings: ``preset`` and the settings of :class:`~sb3_spiking.settings.SpikingSettings` by name
    :raises ValueError: for wrong settings or spaces, before anything is built
    """

    q_net: SpikingQNetwork
    q_net_target: SpikingQNetwork

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Discrete,
        lr_schedule: Schedule,
        net_arch: list[int] | None = None,
        activation_fn: type[nn.Module] | None = None,
        features_extractor_class: type[SpikingExtractor] | None = None,
        features_extractor_kwargs: dict[str, Any] | None = None,
        normalize_images: bool = True,
        optimizer_class: type[th.optim.Optimizer] = th.optim.Adam,
        optimizer_kwargs: dict[str, Any] | None = None,
        double_dqn: bool = False,
        common_mode: bool | dict[str, Any] = False,
        **settings: Any,
    ) -> None:
        if not isinstance(double_dqn, bool):
            raise ValueError(f"double_dqn={double_dqn!r}: expected True or False")
        is_shape = isinstance(common_mode, dict) and set(common_mode) <= set(SHAPE_SETTINGS)
        if not isinstance(common_mode, bool) and not is_shape:
            for name in common_mode if isinstance(common_mode, dict) else ():
                if name not in SHAPE_SETTINGS:
                    raise ValueError(f"common_mode={common_mode!r}: {unknown_setting(str(name), SHAPE_SETTINGS, 'It')}")
            raise ValueError(f"common_mode={common_mode!r}: expected True, False or a dict of {', '.join(SHAPE_SETTINGS)}")
        if not isinstance(action_space, spaces.Discrete):
            raise ValueError(f"action_space={action_space}: a Q-network takes discrete actions, expected spaces.Discrete")
        if action_space.start != 0:
            raise ValueError(
                f"action_space={action_space}: SB3's DQN takes actions from 0 on, expected start=0; a wrapper may add the rest"
            )
        if activation_fn is not None:
            warnings.warn(
                f"activation_fn={_name(activation_fn)} has no effect: the units of a spiking network are Leaky neurons, "
                "set by beta, threshold, spike_grad and the like",
                stacklevel=2,
            )
        # Settings may also stand where SB3's users put a features extractor's arguments
        extractor_kwargs = dict(features_extractor_kwargs or {})
        names = ["preset", *(field.name for field in fields(SpikingSettings))]
        for name in settings:
            if name == "use_sde":  # SB3's actor-critic algorithms give it to every policy
                raise ValueError(_FOR_DQN)
            if name not in names:
                raise ValueError(unknown_setting(name, [*names, *_POLICY_ARGUMENTS], "SpikingPolicy"))
        settings = {name: extractor_kwargs.pop(name) for name in names if name in extractor_kwargs} | settings
        if net_arch is not None:
            settings["net_arch"] = net_arch

        if features_extractor_class is None:
            wants_convolutions = bool(plain(settings.get("conv_layers")))
            features_extractor_class = choose_extractor(observation_space, not normalize_images, wants_convolutions)
        elif not (isinstance(features_extractor_class, type) and issubclass(features_extractor_class, SpikingExtractor)):
            raise ValueError(
                f"features_extractor_class={_name(features_extractor_class)}: expected a spiking body, "
                "SpikingNatureCNN, SpikingMLP, SpikingCombinedExtractor or another SpikingExtractor"
            )
        resolved = features_extractor_class.resolve(observation_space, not normalize_images, **settings)
        self.common_mode = common_mode
        self._chosen = {name for name, value in settings.items() if value is not None}
        super().__init__(
            observation_space,
            action_space,
            lr_schedule,
            net_arch=list(resolved.net_arch or ()),
            features_extractor_class=features_extractor_class,
            features_extractor_kwargs={
                **extractor_kwargs,
                "normalized_image": not normalize_images,
                **resolved.as_dict(),
            },
            normalize_images=normalize_images,
            optimizer_class=optimizer_class,
            optimizer_kwargs=optimizer_kwargs,
        )
        self.double_dqn = double_dqn
        self._connect()

    def __getattr__(self, name: str) -> Any:
        if name == "quantile_net":  # QRDQN, of sb3-contrib, makes a policy as DQN does, and asks for this
            raise AttributeError(_FOR_DQN)
        return super().__getattr__(name)

    def _connect(self) -> None:
        if self.double_dqn:
            self.q_net_target.follow(self.q_net)

    @property
    def settings(self) -> SpikingSettings:
        """The resolved settings of the Q-network."""
        return self.q_net.settings

    def make_q_net(self) -> SpikingQNetwork:
        return SpikingQNetwork(**self._q_net_arguments()).to(self.device)

    def _q_net_arguments(self) -> dict[str, Any]:
        names = ("observation_space", "action_space", "normalize_images")
        arguments = {name: self.net_args[name] for name in names}
        if self.common_mode is not False:
            arguments["common_mode"] = {} if self.common_mode is True else self.common_mode
        return self._update_features_extractor(arguments)

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """
        Copy the parameters of a saved policy. Settings that were left to their defaults become the saved network's:
        an agent means the network that was trained, whatever the defaults are by now.

        :param state_dict: as of :meth:`torch.nn.Module.state_dict`
        :param strict: as of :meth:`torch.nn.Module.load_state_dict`
        :param assign: as of :meth:`torch.nn.Module.load_state_dict`
        :return: missing and unexpected keys
        :raises ValueError: if the saved network has other values of settings that were chosen here
        """
        record = state_dict.get("q_net.features_extractor._extra_state")
        if record is not None:
            saved = SpikingSettings.resolve(**record)
            if "gradients" in self._chosen:  # an agent acts the same whatever it learns by
                saved = replace(saved, gradients=self.settings.gradients)
            differences = self.settings.differences(saved)
            if differences and not self._chosen & set(differences):
                if "preset" in self._chosen:
                    listed = ", ".join(f"{name}={value!r}" for name, (_, value) in differences.items())
                    warnings.warn(f"the saved network is not that of the preset: it has {listed}, and stays so", stacklevel=2)
                self._rebuild(saved)
        return super().load_state_dict(state_dict, strict=strict, assign=assign)

    def _rebuild(self, settings: SpikingSettings) -> None:
        """Build both networks again, as the same objects, since DQN holds references to them, and a new optimizer."""
        self.features_extractor_kwargs.update(settings.as_dict())
        self.net_args["net_arch"] = list(settings.net_arch or ())
        for network in (self.q_net, self.q_net_target):
            device, training = network.device, network.training
            SpikingQNetwork.__init__(network, **self._q_net_arguments())
            network.to(device).train(training)
        self._connect()
        learning_rate = self.optimizer.defaults["lr"]
        self.optimizer = self.optimizer_class(self.q_net.parameters(), lr=learning_rate, **self.optimizer_kwargs)  # type: ignore[call-arg]

    def _get_constructor_parameters(self) -> dict[str, Any]:
        data = super()._get_constructor_parameters()
        for name in ("net_arch", "activation_fn"):
            del data[name]  # one is among the settings, the other has no meaning
        return {**data, "double_dqn": self.double_dqn, "common_mode": self.common_mode}


def _name(value: Any) -> str:
    return getattr(value, "__name__", repr(value))


DQN.policy_aliases["SpikingPolicy"] = SpikingPolicy
