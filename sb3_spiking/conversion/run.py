"""A whole conversion, from the ReLU agent to the new one's scores. Each part is kept as it ends, and not done again."""

import dataclasses
from pathlib import Path
from typing import Any

from stable_baselines3 import DQN

from sb3_spiking.conversion.agreement import agreement, observations, plot
from sb3_spiking.conversion.rules import (
    RULES,
    ConversionError,
    activation_scales,
    check_convertible,
    connections,
    convert,
    with_num_steps,
)
from sb3_spiking.conversion.saving import RECORD, run_folder, save, write_record
from sb3_spiking.errors import AgentError
from sb3_spiking.evaluation.agents import Agent, load_agent
from sb3_spiking.evaluation.comparison import evaluate
from sb3_spiking.evaluation.episodes import PROTOCOLS
from sb3_spiking.sharing.archive import read_json

# Decisions are compared in other games than those that the scales come from
_OTHER_GAMES = 1000


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """
    How to convert.

    :param rule: key of :data:`~sb3_spiking.conversion.rules.RULES`
    :param num_steps: simulation steps of a decision
    :param percentile: of a layer's values, its scale
    :param per_channel: a scale for each channel or unit, not for each layer
    :param layer_delay: each layer sees the spikes of the last step; None: as the rule has it
    :param frames: observations that the scales come from
    :param epsilon: of a random action, throughout
    :param seed: of the games
    """

    rule: str
    num_steps: int
    percentile: float
    per_channel: bool
    layer_delay: bool | None
    frames: int
    epsilon: float
    seed: int


class Conversion:
    """
    :param agent: the ReLU agent
    :param out: log folder of the new one, in RL Zoo's layout
    :param plan: how to convert
    :param n_envs: environments in parallel
    :param trusted: as of :func:`~sb3_spiking.evaluation.agents.load_agent`, for the statistics of normalised observations
    :raises AgentError: if the agent cannot be converted, or ``out`` holds another agent in the new one's place

    ``folder`` is the new agent's, ``record`` what its conversion.json says so far, ``fewest_steps`` the fewest simulation
    steps that let an observation through.
    """

    def __init__(self, agent: Agent, out: Path, plan: Plan, n_envs: int = 8, *, trusted: bool = False) -> None:
        try:
            layers = connections(check_convertible(agent.model).q_net)
        except ConversionError as error:
            raise AgentError(f"{agent.path}: {error}") from error
        self.folder = run_folder(agent, out)
        if self.folder.resolve() == agent.path.parent.resolve():
            raise AgentError(f"--out {out}: the new agent would take the old one's place; expected another folder")
        if self.folder.exists() and not (self.folder / RECORD).is_file():
            raise AgentError(f"--out {out}: {self.folder} holds an agent that is not a converted one; expected another folder")
        self.agent, self.out, self.n_envs, self._trusted = agent, out, n_envs, trusted
        rule = RULES[plan.rule]
        layer_delay = rule.layer_delay if plan.layer_delay is None else plan.layer_delay
        self.fewest_steps = len(layers) if layer_delay else 1
        if plan.num_steps < self.fewest_steps:
            raise AgentError(
                f"--num-steps {plan.num_steps}: each layer sees the spikes of the last step, so that the output sees the "
                f"observation from step {self.fewest_steps} on; expected at least that many, or --no-layer-delay"
            )
        self.plan = dataclasses.replace(plan, layer_delay=layer_delay)
        self._settings = {
            **{"source": str(agent.path), "digest": agent.digest, **dataclasses.asdict(self.plan)},
            **{"readout": rule.readout, "env_kwargs": repr(agent.env_kwargs)},
            **({"statistics": agent.statistics} if agent.statistics else {}),
        }
        self.record: dict[str, Any] = {}
        if (self.folder / RECORD).is_file():
            self.record = read_json(self.folder / RECORD)

    def convert(self) -> Agent:
        """
        Measure the scales and save the new agent.

        :return: the new agent
        """
        plan, model = self.plan, self.agent.model
        assert isinstance(model, DQN)
        if any(self.record.get(name) != value for name, value in self._settings.items()):
            rule, count = RULES[plan.rule], -(-plan.frames // self.n_envs) * self.n_envs
            batches = self._observations(plan.frames, plan.seed, "calibration")
            scales = activation_scales(
                model, batches, count, plan.percentile, nonzero=rule.nonzero, per_channel=plan.per_channel
            )
            env = self.agent.make_env(1, plan.seed)
            converted = convert(
                model, scales, env, num_steps=plan.num_steps, readout=rule.readout, layer_delay=bool(plan.layer_delay)
            )
            env.close()
            scales_found = [scale.tolist() for scale in scales]
            self.record = {**self._settings, "env": self.agent.env_id, "scales": scales_found}
            save(self.agent, converted, self.out, self.record)
        run = self.folder.name.rsplit("_", 1)[-1]
        common: dict[str, Any] = {"device": model.device, "env_kwargs": self.agent.env_kwargs, "trusted": self._trusted}
        return load_agent(self.out, self.agent.algo, self.agent.env_id, exp_id=int(run) if run.isdigit() else -1, **common)

    def compare(self, spiking: Agent, decisions: int) -> None:
        """
        How often both choose the same action.

        :param spiking: the new agent
        :param decisions: that are compared, at least
        """
        if self.record.get("decisions", 0) >= decisions:
            return
        assert isinstance(self.agent.model, DQN)
        assert isinstance(spiking.model, DQN)
        batches = self._observations(decisions, self.plan.seed + _OTHER_GAMES, "decisions")
        most = self.plan.num_steps
        steps = sorted({min(most, round(most * 2.0**-power)) for power in range(10)} - {0})
        found = agreement(self.agent.model, spiking.model, batches, steps)
        self.record |= {"agreement_steps": steps, "agreement": found.shares, "decisions": found.decisions}
        self.record |= {"gap": found.gap, "gap_where_different": found.gap_where_different}
        write_record(self.folder, self.record)

    def score(self, spiking: Agent, curve: list[int], episodes: int, max_steps: int, subprocesses: bool = False) -> None:
        """
        Both play games with the same seeds, and the picture is drawn.

        :param spiking: the new agent
        :param curve: numbers of simulation steps that it plays with too
        :param episodes: of each
        :param max_steps: decisions of an episode
        :param subprocesses: one process for each environment
        """
        plan, every = self.plan, [*curve, self.plan.num_steps]
        assert isinstance(spiking.model, DQN)
        protocol = dataclasses.replace(PROTOCOLS["paper"], episodes=episodes, epsilon=plan.epsilon, max_steps=max_steps)
        players = [dataclasses.replace(self.agent, name="ReLU")]
        env = self.agent.make_env(1, plan.seed)
        for num_steps in every:
            model = spiking.model if num_steps == plan.num_steps else with_num_steps(spiking.model, num_steps, env)
            players.append(dataclasses.replace(spiking, name=f"spiking, T = {num_steps}", model=model))
        env.close()
        rows = evaluate(players, protocol, self.folder, seeds=[plan.seed], n_envs=self.n_envs, subprocesses=subprocesses)
        scores = {name: part.sort_values("episode")["score"].tolist() for name, part in rows.groupby("agent")}
        self.record["scores"] = [
            {"num_steps": steps, "before": scores["ReLU"], "after": scores[f"spiking, T = {steps}"]} for steps in every
        ]
        write_record(self.folder, self.record)
        plot(self.record, self.folder / "conversion.png", self.agent.env_kwargs)

    def _observations(self, count: int, seed: int, title: str) -> Any:
        return observations(self.agent, count, epsilon=self.plan.epsilon, seed=seed, n_envs=self.n_envs, title=title)
