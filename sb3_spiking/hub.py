"""Agents on the Hugging Face Hub: pushed so that plain SB3, RL Zoo and we can load them, loaded without unpickling."""

import contextlib
import dataclasses
import io
import json
import logging
import shutil
import tempfile
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from huggingface_hub import HfApi, ModelCard, ModelCardData, hf_hub_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.repocard import metadata_eval_result
from huggingface_sb3.naming_schemes import EnvironmentName, ModelName
from stable_baselines3 import DQN
from stable_baselines3.common.type_aliases import GymEnv
from stable_baselines3.common.vec_env import VecVideoRecorder

from sb3_spiking.errors import AgentError, one_line
from sb3_spiking.policies import SpikingPolicy
from sb3_spiking.sharing.archive import CONFIG, OPTIMIZER, WEIGHTS, read_json
from sb3_spiking.sharing.loading import load
from sb3_spiking.sharing.saving import save

_ATARI = {"env_wrapper": ["stable_baselines3.common.atari_wrappers.AtariWrapper"], "frame_stack": 4}


def load_from_hub(
    repo_id: str,
    env: GymEnv | None = None,
    *,
    filename: str | None = None,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
    device: str = "auto",
    **hyperparameters: Any,
) -> DQN:
    """
    Load a DQN agent from the Hub. Nothing in it is executed. Files that were downloaded before are taken from
    ``huggingface_hub``'s cache, which also serves without a network.

    :param repo_id: such as ``"org/dqn-BreakoutNoFrameskip-v4"``
    :param env: to go on learning in
    :param filename: of a zip in the repository; None takes our ``config.json`` and safetensors, or else RL Zoo's zip, which
        has the name of the repository
    :param revision: branch, tag or commit
    :param token: for private repositories; None takes the one that ``hf auth login`` left
    :param cache_dir: in place of huggingface_hub's
    :param local_files_only: take what is in the cache
    :param device: PyTorch device
    :param hyperparameters: of DQN, as in :func:`sb3_spiking.load`
    :return: the agent
    :raises AgentError: if there is no such agent, it cannot be reached, or is not what it should be
    """
    common: dict[str, Any] = {"token": token, "cache_dir": cache_dir}

    def download(name: str, commit: str | None = revision, only_cache: bool = local_files_only) -> Path:
        with _fewer_lines():
            found = hf_hub_download(
                repo_id, name, revision=commit, library_name="sb3_spiking", local_files_only=only_cache, **common
            )
        return Path(found)

    try:
        if filename is None:
            archive = f"{repo_id.rsplit('/', 1)[-1]}.zip"
            try:
                config = download(CONFIG)
            except LocalEntryNotFoundError as error:
                # The Hub did not say that there is none. What has been downloaded before is as good as ever.
                try:
                    path = download(archive, only_cache=True)
                except EntryNotFoundError:
                    raise error from error.__cause__
                reason = one_line(error.__cause__ or error)
                warnings.warn(f"{repo_id}: taking {archive} from the cache, {CONFIG} cannot be had: {reason}", stacklevel=2)
                return load(path, env, device, **hyperparameters)
            except EntryNotFoundError:
                filename = archive
            else:
                if "format" in read_json(config, f"{repo_id}: {CONFIG}"):
                    # All files of the same commit, which names the folder in the cache
                    commit = config.parent.name
                    download(WEIGHTS, commit)
                    if env is not None:
                        try:
                            download(OPTIMIZER, commit)
                        except LocalEntryNotFoundError as error:
                            reason = one_line(error.__cause__ or error)
                            warnings.warn(f"{repo_id}: {OPTIMIZER} cannot be had, taking none: {reason}", stacklevel=2)
                        except EntryNotFoundError:
                            pass  # the agent has none
                    return load(config.parent, env, device, **hyperparameters)
                filename = archive  # huggingface_sb3 writes a config.json of its own
        return load(download(filename), env, device, **hyperparameters)
    except AgentError:
        raise
    except Exception as error:  # what the connection's library raises differs between versions of huggingface_hub
        cause = error.__cause__ if isinstance(error, LocalEntryNotFoundError) and error.__cause__ else error
        raise AgentError(f"{repo_id}: {_reason(error, filename or WEIGHTS, revision)}: {one_line(cause)}") from error


@contextlib.contextmanager
def _fewer_lines() -> Iterator[None]:
    """huggingface_hub says at each of its tries that a server does not answer. Once is enough."""
    logger, said = logging.getLogger("huggingface_hub.utils._http"), []

    def first(record: logging.LogRecord) -> bool:
        said.append(record)
        return len(said) == 1

    logger.addFilter(first)
    try:
        yield
    finally:
        logger.removeFilter(first)


def _reason(error: Exception, filename: str, revision: str | None) -> str:
    reasons: tuple[tuple[Any, str], ...] = (
        (
            (OfflineModeIsEnabled, LocalEntryNotFoundError),
            "it is not in the cache, and the Hub cannot be reached or answers with errors",
        ),
        (GatedRepoError, "access must be asked for on its page"),
        (RepositoryNotFoundError, "no such repository, or a private one that needs a token"),
        (RevisionNotFoundError, f"there is no revision {revision!r}"),
        (EntryNotFoundError, f"no agent, there is no {filename} in it"),
        (HFValidationError, "that names no repository, expected 'organization/name'"),
    )
    return next((reason for kind, reason in reasons if isinstance(error, kind)), "the Hub did not answer as it should")


def push_to_hub(
    model: DQN,
    repo_id: str,
    env_id: str,
    *,
    hyperparams: dict[str, Any] | None = None,
    env_kwargs: dict[str, Any] | None = None,
    n_eval_episodes: int = 10,
    video_length: int = 1000,
    private: bool = False,
    token: str | bool | None = None,
    commit_message: str = "A spiking agent",
    logs: str | Path | None = None,
) -> str:
    """
    Share an agent on the Hub: the zip for SB3 and RL Zoo, ``config.json`` and safetensors for loading without pickles, its
    evaluation, a video and a model card.

    :param model: spiking or ReLU DQN
    :param repo_id: such as ``"org/dqn-BreakoutNoFrameskip-v4"``, RL Zoo's name; made if it is not there
    :param env_id: id of the Gymnasium environment
    :param hyperparams: of RL Zoo, of which ``env_wrapper`` and ``frame_stack`` make the environment; None stands for those
        of Atari games in Atari games, and for none elsewhere
    :param env_kwargs: arguments of the environment
    :param n_eval_episodes: episodes of the evaluation, by RL Zoo's protocol
    :param video_length: steps of the video, 0 for none
    :param private: make a private repository
    :param token: None takes the one that ``hf auth login`` left
    :param commit_message: of the commit
    :param logs: RL Zoo's folder of the run, whose evaluations and monitor files are added
    :return: address of the repository
    :raises AgentError: if it cannot be reached or does not take the agent
    :raises ValueError: for an agent whose observations are normalised by ``VecNormalize``: their statistics would have to go
        with it, and are a pickle; for no episode
    """
    if n_eval_episodes < 1:
        raise ValueError(f"n_eval_episodes={n_eval_episodes}: expected at least 1")
    if (hyperparams or {}).get("normalize") or model.get_vec_normalize_env() is not None:
        raise ValueError(
            f"{env_id}: the agent was trained with VecNormalize (normalize in RL Zoo's hyperparameters), whose statistics are "
            "a pickle and cannot be shared here; rl_zoo3.push_to_hub shares such agents, or train without normalize"
        )
    # Evaluation pulls in RL Zoo, plots and tables, which loading does without
    from rl_zoo3.exp_manager import ExperimentManager

    from sb3_spiking.evaluation.agents import AROUND, Agent, playable
    from sb3_spiking.evaluation.comparison import evaluate, summarise
    from sb3_spiking.evaluation.episodes import PROTOCOLS, Protocol

    env_id = playable(env_id)
    if hyperparams is None:
        hyperparams = dict(_ATARI) if ExperimentManager.is_atari(env_id) else {}
    name = EnvironmentName(env_id)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "agent"
        save(model, folder, env_id=env_id)
        archive = folder / ModelName("dqn", name).filename
        model.save(archive)
        environment = {key: hyperparams[key] for key in AROUND if hyperparams.get(key)}
        agent = Agent(
            "agent", "dqn", env_id, model, archive, {"normalize": False, **environment}, scratch, dict(env_kwargs or {})
        )
        protocol = Protocol("zoo", n_eval_episodes, None, None, PROTOCOLS["zoo"].whole_games)
        episodes = evaluate([agent], protocol, Path(scratch) / "evaluation", seeds=[0], energy="45nm-float32")
        summary, layers = summarise([agent], episodes, {}, {})
        results = {key: _plain(value) for key, value in summary.iloc[0].items() if key not in ("env", "agent")}
        epsilon = float(episodes["epsilon"].iloc[0])
        scores = {"mean_reward": results["score"], "std_reward": float(np.std(episodes["score"]))}
        scores |= {"n_eval_episodes": n_eval_episodes, "protocol": "RL Zoo's", "epsilon": epsilon}
        scores["is_deterministic"] = epsilon == 0
        (folder / "results.json").write_text(json.dumps({**scores, "evaluation": results}, indent=1))
        _write_zoo_files(folder, hyperparams, dict(env_kwargs or {}), None if logs is None else Path(logs))
        if video_length:
            _record(agent, folder / "replay.mp4", video_length)
        card = _card(agent, repo_id, scores, results, layers)
        card.save(folder / "README.md")
        api = HfApi(token=token, library_name="sb3_spiking")
        try:
            url = api.create_repo(repo_id, private=private, exist_ok=True)
            # What an agent may have that was there before, and this one has not
            gone = [name for name in (OPTIMIZER, "replay.mp4") if not (folder / name).exists()]
            api.upload_folder(repo_id=repo_id, folder_path=folder, commit_message=commit_message, delete_patterns=gone or None)
        except Exception as error:
            reason = _reason(error, "", None)
            raise AgentError(f"{repo_id}: the agent was not pushed, {reason}: {one_line(error)}") from error
    return str(url)


def _plain(value: Any) -> Any:
    number = value.item() if isinstance(value, np.generic) else value
    return None if isinstance(number, float) and not np.isfinite(number) else number


def _write_zoo_files(folder: Path, hyperparams: dict[str, Any], env_kwargs: dict[str, Any], logs: Path | None) -> None:
    """What ``rl_zoo3.load_from_hub`` expects beside the zip."""
    (folder / "config.yml").write_text(yaml.safe_dump({"normalize": False, **hyperparams}, sort_keys=False))
    (folder / "args.yml").write_text(yaml.safe_dump({"env_kwargs": env_kwargs}))
    (folder / "env_kwargs.yml").write_text(yaml.safe_dump(env_kwargs))
    with zipfile.ZipFile(folder / "train_eval_metrics.zip", "w") as archive:
        for file in [] if logs is None else sorted([*logs.glob("evaluations.npz"), *logs.glob("*.monitor.csv")]):
            archive.write(file, arcname=file.name)


def _record(agent: Any, file: Path, length: int) -> None:
    """A video of the agent, if there is what it takes to make one."""
    env = None
    try:
        recorded = dataclasses.replace(agent, env_kwargs={**agent.env_kwargs, "render_mode": "rgb_array"})
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            env = VecVideoRecorder(
                recorded.make_env(1),
                str(file.parent / "videos"),
                record_video_trigger=lambda step: step == 0,
                video_length=length,
            )
            observation: Any = env.reset()
            for _ in range(length):
                actions, _ = agent.model.predict(observation, deterministic=not agent.is_stochastic)
                observation, *_ = env.step(actions)
            env.close()
        (video,) = (file.parent / "videos").glob("*.mp4")
        video.replace(file)
    except Exception as error:  # rendering, moviepy or ffmpeg: an agent can be shared without a video
        warnings.warn(f"no video of {agent.env_id}: {type(error).__name__}: {one_line(error)}", stacklevel=3)
    finally:
        shutil.rmtree(file.parent / "videos", ignore_errors=True)


def _card(agent: Any, repo_id: str, scores: dict[str, Any], results: dict[str, Any], layers: Any) -> ModelCard:
    policy, env_id = agent.model.policy, agent.env_id
    spiking = isinstance(policy, SpikingPolicy)
    kind = "spiking DQN" if spiking else "DQN"
    data = ModelCardData(
        library_name="stable-baselines3",
        tags=[
            *(env_id, "deep-reinforcement-learning", "reinforcement-learning", "stable-baselines3"),
            *(("spiking-neural-network", "snntorch", "sb3-spiking") if spiking else ()),
        ],
        **metadata_eval_result(
            model_pretty_name="DQN",
            task_pretty_name="reinforcement-learning",
            task_id="reinforcement-learning",
            metrics_pretty_name="mean_reward",
            metrics_id="mean_reward",
            metrics_value=f"{scores['mean_reward']:.2f} +/- {scores['std_reward']:.2f}",
            dataset_pretty_name=env_id,
            dataset_id=env_id,
        ),
    )
    text = f"""# A {kind} that plays {env_id}

Trained with [Stable-Baselines3](https://github.com/DLR-RM/stable-baselines3)\
{" and sb3_spiking: its network passes on spikes, and was trained directly with surrogate gradients" if spiking else ""}.

| | |
|---|---|
| score | {scores["mean_reward"]:.2f} +/- {scores["std_reward"]:.2f} ({scores["n_eval_episodes"]} episodes) |
| training steps | {agent.model.num_timesteps:,} |
| energy of a decision | {results["nanojoules"]:.1f} nJ (counted operations, 45 nm, 32-bit floats: Horowitz, ISSCC 2014) |
"""
    if spiking:
        text += f"| firing rate | {results['firing_rate']:.2f}%, {results['spikes']:.0f} spikes a decision |\n"
        rows = layers.dropna(subset="firing_rate")
        text += "".join(f"| firing rate of {row.layer} | {row.firing_rate:.2f}% |\n" for row in rows.itertuples())
    text += f"""
## Use it

```python
{_snippet(agent, repo_id)}
```

This runs nothing that is in the files. `dqn-{EnvironmentName(env_id)}.zip` is for SB3's own `DQN.load`, which unpickles: only
from people you trust.
"""
    if spiking:
        settings = json.loads(json.dumps(policy.settings.as_dict()))
        text += f"\n## Spiking settings\n\n```yaml\n{yaml.safe_dump(settings, sort_keys=False)}```\n"
    return ModelCard(f"---\n{data.to_yaml()}\n---\n\n{text}")


def _snippet(agent: Any, repo_id: str) -> str:
    """Code that plays the agent, in the environment that it was trained in."""
    hyperparams, env_id = agent.hyperparams, agent.env_id
    wrappers = hyperparams.get("env_wrapper")
    make = "make_atari_env" if wrappers == _ATARI["env_wrapper"] else "make_vec_env"
    imports = ["import sb3_spiking", f"from stable_baselines3.common.env_util import {make}"]
    imports.append("from stable_baselines3.common.evaluation import evaluate_policy")
    arguments = [f'"{env_id}"', "n_envs=1"]
    if agent.env_kwargs:
        arguments.append(f"env_kwargs={agent.env_kwargs!r}")
    if wrappers and make == "make_vec_env":
        imports.append("from rl_zoo3.utils import get_wrapper_class")
        arguments.append(f"wrapper_class=get_wrapper_class({ {'env_wrapper': wrappers}!r})")
    if agent.is_atari:
        imports.insert(0, "import ale_py")
    if env_id.startswith("MinAtar/"):
        imports.insert(1, "import sb3_spiking.minatar")
    lines = [f"env = {make}({', '.join(arguments)})"]
    if hyperparams.get("vec_env_wrapper"):
        imports.append("from rl_zoo3.utils import get_wrapper_class")
        around = {"vec_env_wrapper": hyperparams["vec_env_wrapper"]}
        lines.append(f'env = get_wrapper_class({around!r}, "vec_env_wrapper")(env)')
    if hyperparams.get("frame_stack"):
        imports.append("from stable_baselines3.common.vec_env import VecFrameStack")
        lines.append(f"env = VecFrameStack(env, {hyperparams['frame_stack']})")
    lines.append(f'model = sb3_spiking.load_from_hub("{repo_id}")')
    lines.append("print(evaluate_policy(model, env, n_eval_episodes=5))")
    return "\n".join([*dict.fromkeys(imports), "", *lines])
