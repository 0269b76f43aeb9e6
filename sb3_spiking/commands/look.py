"""
See trained agents think: the game, what each layer does at the same moment, and the Q-values that come of it.

    sb3-spiking look --algo dqn --env CartPole-v1 -f relu-agents rl-trained-agents --out look

Plays the first episode of `sb3-spiking evaluate` with the same seed and leaves in --out: page.html, which a browser opens and
plays, with all agents on one time line; video.mp4; and recording.npz for each agent, for an analysis of your own.
"""

import argparse
import dataclasses
import itertools
from pathlib import Path
from typing import Any

from tqdm import tqdm

from sb3_spiking.commands import arguments
from sb3_spiking.errors import AgentError
from sb3_spiking.evaluation.agents import Agent
from sb3_spiking.evaluation.episodes import PROTOCOLS, Protocol, decider, exploration, exploration_of, seed_of
from sb3_spiking.evaluation.operations import ENERGIES, Energy
from sb3_spiking.look import screen
from sb3_spiking.look.notes import ALL, Notes
from sb3_spiking.look.page import write_page
from sb3_spiking.look.record import play
from sb3_spiking.look.recording import Recording
from sb3_spiking.look.still import write_still
from sb3_spiking.look.video import write_gif, write_video


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    arguments.add_agent_arguments(parser, several=True, parallel=False)
    parser.add_argument("-n", "--decisions", type=arguments.at_least(1), default=300, help="of the episode, at most")
    parser.add_argument("--protocol", choices=list(PROTOCOLS), default="paper", help="of Liu et al. 2022, or RL Zoo's")
    parser.add_argument("--epsilon", type=arguments.probability, help="of a random action, in place of the protocol's")
    parser.add_argument("--seed", type=arguments.seed, default=0)
    parser.add_argument(
        "--membranes", nargs="*", metavar="LAYER", help="in recording.npz, of these layers; without names of all"
    )
    parser.add_argument("--energy", choices=list(ENERGIES), default="45nm-float32", help="picojoules of the operations")
    parser.add_argument("--video", action=argparse.BooleanOptionalAction, default=True, help="write video.mp4")
    parser.add_argument("--gif", action="store_true", help="write video.gif too")
    parser.add_argument("--fps", type=arguments.at_least(1), default=10, help="decisions a second in a video")
    parser.add_argument(
        "--still",
        type=arguments.at_least(0),
        nargs="?",
        const=0,
        metavar="FIRST",
        help="a picture of 8 decisions, from FIRST on",
    )
    parser.add_argument("-o", "--out", type=Path, default=Path("look"), help="folder of the results")


def run(args: argparse.Namespace) -> None:
    """Play and save."""
    arguments.prepare(args)
    if args.still is not None and args.still >= args.decisions:
        raise AgentError(f"--still {args.still}: expected less than --decisions, {args.decisions}")
    if args.out.exists() and not args.out.is_dir():
        raise AgentError(f"--out {args.out}: expected a folder, there is a file")
    agents = arguments.load_agents(args)
    changed: dict[str, Any] = {} if args.epsilon is None else {"epsilon": args.epsilon}
    protocol = dataclasses.replace(PROTOCOLS[args.protocol], **changed)
    for agent in agents:
        exploration(agent, protocol)
        agent.env_kwargs = {**agent.env_kwargs, "render_mode": "rgb_array"}
        screen.check_drawn(agent.make_env, agent.env_id)
    membranes = () if args.membranes is None else args.membranes or ALL
    recordings = [_record(agent, protocol, args.decisions, args.seed, membranes, ENERGIES[args.energy]) for agent in agents]
    for recording in recordings:
        if args.still is not None and args.still >= recording.decisions:
            raise AgentError(f"--still {args.still}: the episode of {recording.agent} has {recording.decisions} decisions")

    args.out.mkdir(parents=True, exist_ok=True)
    written = ["page.html"]
    write_page(recordings, args.out / "page.html")
    for recording, name in zip(recordings, _file_names(recordings), strict=True):
        of_agent = "" if len(recordings) == 1 else f"-{name}"
        written.append(f"recording{of_agent}.npz")
        recording.save(args.out / written[-1])
        if args.still is not None:
            written.append(f"still{of_agent}.png")
            write_still(recording, args.out / written[-1], args.still)
    longest = max(recording.decisions for recording in recordings)
    for name, wanted, write in (("video.mp4", args.video, write_video), ("video.gif", args.gif, write_gif)):
        if wanted:
            with tqdm(total=longest, desc=name, leave=False) as progress:
                write(recordings, args.out / name, args.fps, progress.update)
            written.append(name)
    for recording in recordings:
        ended = "the episode ended" if recording.over else "the episode goes on"
        score, decisions = recording.rewards.sum(), recording.decisions
        print(f"{recording.env}, {recording.agent}: score {score:g} after {decisions} decisions, {ended}")
    print(f"{args.out}/: {', '.join(written)}")


def _record(agent: Agent, protocol: Protocol, decisions: int, seed: int, membranes: Any, energy: Energy) -> Recording:
    """The first episode that an evaluation with this seed plays."""
    env = agent.make_env(1, seed_of(seed, 0), whole_games=protocol.whole_games)
    try:
        decide = decider(agent, protocol)
        with tqdm(total=decisions, desc=f"{agent.env_id}, {agent.name}", leave=False) as progress:
            return play(
                decide,
                env,
                decisions,
                seed=seed,
                random_actions=exploration_of(seed, 0),
                epsilon=exploration(agent, protocol),
                notes=Notes(agent.name, env, decide.network, membranes=membranes, energy=energy),
                on_step=progress.update,
                lives=agent.is_atari and not protocol.whole_games,
            )
    finally:
        env.close()


def _file_names(recordings: list[Recording]) -> list[str]:
    """Of letters, digits, - and _; numbered where that makes two of one name."""
    names: list[str] = []
    for recording in recordings:
        name = "".join(each if each.isalnum() or each in "-_" else "-" for each in f"{recording.env}-{recording.agent}")
        count = itertools.count(2)
        names.append(name if name not in names else next(new for new in (f"{name}-{n}" for n in count) if new not in names))
    return names
