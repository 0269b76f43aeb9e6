"""
Lists of trainings. A list names environments and methods; a job is one environment, method and seed, trained by one RL Zoo
command in a process of its own. Its YAML:

* ``environments``: names, or a dict with more ``arguments`` for each
* ``seeds``, ``steps`` of a job (by default what the hyperparameters say), ``env_kwargs``
* ``arguments``: of RL Zoo's command, and ``hyperparams`` that are changed, for all jobs
* ``methods``: by name, ``algo`` ("dqn" by default), more ``arguments`` and ``hyperparams`` that it changes, and ``seeds``
  if it has others. A method with ``convert: NAME`` trains nothing: it converts the best agents of that method to spiking ones,
  its ``arguments`` being those of ``sb3-spiking convert``
* ``reference``: the method that performance ratios refer to
* ``curves``: the methods whose learning curves are drawn, by default all
* ``score_episodes``: new episodes that a score is the mean of, by default 100

Every training has a Checkpoint: where the hyperparameters name none, one is added to their callbacks.
"""

import difflib
import functools
import itertools
import re
import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym
import pandas as pd
import rl_zoo3.import_envs  # noqa: F401  registers RL Zoo's environments
import yaml
from rl_zoo3 import ALGOS

from sb3_spiking.errors import AgentError, one_line
from sb3_spiking.evaluation.agents import import_packages
from sb3_spiking.sweep.records import Records
from sb3_spiking.sweep.zoo_command import read_hyperparams, read_options
from sb3_spiking.training.checkpoint import is_among

_CHECKPOINT = "sb3_spiking.Checkpoint"
_LARGEST_SAVE_FREQ = 50_000
_KINDS: dict[str, type | tuple[type, ...]] = {
    **{"environments": (list, dict), "methods": dict, "reference": str, "seeds": list, "steps": int, "arguments": str},
    **{"hyperparams": dict, "env_kwargs": dict, "curves": list, "score_episodes": int},
}
_REQUIRED = ("environments", "methods", "reference")
_METHOD_KINDS: dict[str, type | tuple[type, ...]] = {
    **{"algo": str, "arguments": str, "hyperparams": dict, "seeds": list, "convert": str}
}


class Job(NamedTuple):
    """One training run."""

    env: str
    method: str
    seed: int

    @property
    def name(self) -> str:
        return f"{self.env.replace('/', '-')}_{self.method}_{self.seed}"


class TrainingList:
    """
    A list of jobs.

    :param file: YAML, see above
    :param results: finished jobs, by default the folder ``results/LIST`` beside the file
    :param threads: of a job
    :raises AgentError: if the file does not say what a list says
    """

    def __init__(self, file: Path, results: Path | None = None, threads: int = 1) -> None:
        content = _read(file)
        self.file, self.threads = file, threads
        self.results = results or file.parent / "results" / file.stem
        self.records = Records(self.results)
        self.steps: int | None = content.get("steps")
        self.arguments = _words(content)
        self.hyperparams: dict[str, Any] = content.get("hyperparams", {})
        self.env_kwargs: dict[str, Any] = content.get("env_kwargs", {})
        self.reference: str = content["reference"]
        self.methods: dict[str, dict[str, Any]] = {name: method or {} for name, method in content["methods"].items()}
        self.curves: list[str] = content.get("curves", list(self.methods))
        self.score_episodes: int = content.get("score_episodes", 100)
        named = content["environments"]
        named = named if isinstance(named, dict) else dict.fromkeys(named)
        self.environments: dict[str, str] = {env: arguments or "" for env, arguments in named.items()}
        # Seed by seed, so that what is there early compares all methods
        seeds = {name: method.get("seeds", content.get("seeds", [])) for name, method in self.methods.items()}
        self.jobs = [
            Job(env, method, seed)
            for seed, method, env in itertools.product(sorted(set().union(*seeds.values())), self.methods, self.environments)
            if seed in seeds[method]
        ]

    def algo(self, job: Job) -> str:
        """RL Zoo's name of the algorithm."""
        source = self.source(job)
        return self.algo(source) if source else self.methods[job.method].get("algo", "dqn")

    def source(self, job: Job) -> Job | None:
        """The job whose agent is converted, None for a training."""
        method = self.methods[job.method].get("convert")
        return None if method is None else job._replace(method=method)

    def gym_packages(self, job: Job) -> list[str]:
        """Packages that register the environment."""
        return read_options(self._arguments(self.source(job) or job)).gym_packages

    def env_kwargs_of(self, job: Job) -> dict[str, Any]:
        """Arguments of the environment."""
        training = self.source(job) or job
        # RL Zoo takes those of the command line in place of the hyperparameters'
        return read_options(self._arguments(training)).env_kwargs or self.hyperparams_of(training).get("env_kwargs") or {}

    def training_steps(self, job: Job) -> int:
        """Steps of the environment that a job takes to train, 0 for a conversion."""
        return 0 if self.source(job) else self._training(job)[0]

    def command(self, job: Job, logs: Path, changed: dict[str, Any] | None = None) -> list[str]:
        """
        :param job: of the list
        :param logs: folder with a folder for each job
        :param changed: hyperparameters on top of the list's
        :return: RL Zoo's command of the job, or that of a conversion, without the Python in front
        """
        source, folder = self.source(job), logs / job.name
        if source is not None:
            command = ["-m", "sb3_spiking", "convert", "--algo", self.algo(job), "--env", job.env, "--load-best"]
            command += ["-f", str(logs / source.name), "-o", str(folder), "--num-threads", str(self.threads)]
            packages = self.gym_packages(job)
            command += ["--gym-packages", *packages] if packages else []
            return [*command, "--seed", str(job.seed), *_words(self.methods[job.method])]
        arguments = self._arguments(job)
        command = [*arguments[:6], "-f", str(folder), "--tensorboard-log", str(folder / "tensorboard"), *arguments[6:]]
        # RL Zoo takes the last -params alone
        hyperparams = self._changes(job) | {"callback": self._callbacks(job)} | (changed or {})
        return ["-m", "rl_zoo3.train", *command, "-params", *(f"{name}:{value!r}" for name, value in hyperparams.items())]

    def _arguments(self, job: Job) -> list[str]:
        """Of RL Zoo's command, without folders and hyperparameters."""
        method = self.methods[job.method]
        arguments = ["--algo", self.algo(job), "--env", job.env, "--seed", str(job.seed)]
        arguments += ["--num-threads", str(self.threads), *self.arguments]
        if self.steps is not None:
            arguments += ["-n", str(self.steps)]
        arguments += [*shlex.split(self.environments[job.env]), *_words(method)]
        options = read_options(arguments)
        env_kwargs = self.env_kwargs | options.env_kwargs  # RL Zoo takes the last ones alone
        if env_kwargs:
            hyperparams = self.hyperparams | options.hyperparams | method.get("hyperparams", {})
            env_kwargs |= hyperparams.get("env_kwargs") or {}
            arguments += ["--env-kwargs", *(f"{name}:{value!r}" for name, value in env_kwargs.items())]
        return arguments

    def _changes(self, job: Job) -> dict[str, Any]:
        named = read_options(self._arguments(job)).hyperparams
        return self.hyperparams | named | self.methods[job.method].get("hyperparams", {})

    def hyperparams_of(self, job: Job) -> dict[str, Any]:
        """What RL Zoo trains a job with, but for the Checkpoint."""
        return self._training(job)[1]

    def callbacks(self, job: Job) -> list[Any]:
        """Callbacks that the hyperparameters name."""
        named = self.hyperparams_of(job).get("callback") or []
        return list(named) if isinstance(named, list) else [named]

    def _callbacks(self, job: Job) -> list[Any]:
        callbacks = self.callbacks(job)
        if is_among(callbacks):
            return callbacks
        return [*callbacks, {_CHECKPOINT: {"save_freq": max(1, min(_LARGEST_SAVE_FREQ, self.training_steps(job) // 20))}}]

    def _training(self, job: Job) -> tuple[int, dict[str, Any]]:
        return self._trainings(job.env, job.method)

    @functools.cache  # noqa: B019  (a list lives as long as its command)
    def _trainings(self, env: str, method: str) -> tuple[int, dict[str, Any]]:
        """Steps and hyperparameters of a method in an environment."""
        job = Job(env, method, 0)
        options = read_options(self._arguments(job))
        options.hyperparams = self._changes(job)
        import_packages(options.gym_packages)
        hyperparams = read_hyperparams(options)
        steps = options.n_timesteps if options.n_timesteps > 0 else hyperparams.get("n_timesteps")
        if not isinstance(steps, (int, float)) or steps < 1:
            raise AgentError(f"no number of steps, neither in the list nor as n_timesteps of its hyperparameters: {steps}")
        return int(steps), hyperparams

    def check(self, wanted: Iterable[Job]) -> None:
        """
        :param wanted: jobs that will run
        :raises AgentError: if one names an environment, algorithm or hyperparameters that do not exist
        """
        for env, method in dict.fromkeys((job.env, job.method) for job in wanted):
            job = Job(env, method, 0)
            where = f"{self.file}: method {method} on {env}"
            if self.algo(job) not in ALGOS:
                raise AgentError(f"{where}: algo {self.algo(job)!r}: {_expected(self.algo(job), ALGOS)}")
            try:
                import_packages(self.gym_packages(job))
                if env not in gym.registry:
                    raise AgentError(f"there is no such environment, {_expected(env, gym.registry, all_of_them=False)}")
                self._check_training(self.source(job) or job)
                if self.source(job) and self.algo(job) != "dqn":
                    raise AgentError(f"conversion takes agents of dqn, not of {self.algo(job)}")
            except AgentError as error:
                raise AgentError(f"{where}: {error}") from error

    def _check_training(self, job: Job) -> None:
        """
        :raises AgentError: for what has no hyperparameters, or cannot have a Checkpoint
        """
        _, hyperparams = self._training(job)
        if hyperparams.get("normalize"):
            raise AgentError("normalize: a training of a list has a Checkpoint, which holds no VecNormalize; leave it out")
        job = job._replace(seed=2**32)  # that nobody has given
        options = read_options(self._arguments(job))
        if options.vec_env == "subproc":
            raise AgentError("--vec-env subproc: a training of a list has a Checkpoint, which needs --vec-env dummy")
        says = {"--algo": options.algo, "--env": options.env, "--seed": options.seed, "-f": options.log_folder}
        own = {"--algo": self.algo(job), "--env": job.env, "--seed": job.seed, "-f": None}
        for name, value in says.items():
            if value != own[name]:
                raise AgentError(f"{name} {value} among the arguments: a list says it as algo, environments, seeds and --logs")
        for name in ("uuid", "optimize_hyperparameters", "help", "trained_agent"):
            if getattr(options, name):
                raise AgentError(f"--{name.replace('_', '-')} among the arguments: a job trains one new agent; leave it out")

    def named(self, parts: list[str]) -> list[Job]:
        """
        :param parts: of names
        :return: the jobs whose names contain one of them
        :raises AgentError: if a part is in no name
        """
        for part in parts:
            if not any(part in job.name for job in self.jobs):
                raise AgentError(f"--only {part}: in no job's name, {_expected(part, [job.name for job in self.jobs], False)}")
        return [job for job in self.jobs if any(part in job.name for part in parts)]

    def finished(self) -> list[Job]:
        """The jobs that have results."""
        done = self.records.names()
        return [job for job in self.jobs if job.name in done]

    def scores(self) -> pd.DataFrame:
        """The finished jobs, one a row."""
        table = self.records.table("scores").set_index("job")
        return pd.DataFrame([{**job._asdict(), **table.loc[job.name]} for job in self.finished()])


def _read(file: Path) -> dict[str, Any]:
    """
    :return: the content of a list, whose names fit together
    """
    try:
        content = yaml.safe_load(file.read_text())
    except FileNotFoundError as error:
        raise AgentError(f"{file}: there is no such list; expected a YAML file, such as benchmarks/cartpole.yml") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise AgentError(f"{file}: no YAML: {one_line(error)}") from error
    try:
        _check_kinds(content, _KINDS, "the list")
        named = content.get("environments")
        if isinstance(named, dict):
            given = {env: arguments for env, arguments in named.items() if arguments is not None}
            _check_kinds(given, dict.fromkeys(named, str), "environments")
            for arguments in given.values():
                _words({"arguments": arguments})
        _words(content)
        for name in _REQUIRED:
            if not content.get(name):
                raise ValueError(f"{name}: missing")
        for env in content["environments"]:
            if not isinstance(env, str):
                raise ValueError(f"environments: {env!r}: expected a name")
        methods = content["methods"]
        _check_texts(content, "the list")
        for name, method in methods.items():
            _check_kinds(method or {}, _METHOD_KINDS, f"method {name}")
            _check_texts(method or {}, f"method {name}")
            _words(method or {})
            if not isinstance(name, str) or Path(name).name != name:
                raise ValueError(f"method {name!r}: expected a name that a folder can have")
            source = (method or {}).get("convert")
            beside = sorted({"algo", "hyperparams"} & set(method or {}))
            if source is not None and beside:
                raise ValueError(f"method {name}: {', '.join(beside)}: a conversion has those of {source}; leave it out")
            if source is not None and (source not in methods or (methods[source] or {}).get("convert")):
                raise ValueError(f"method {name}: convert: {source!r} is no method that trains, {_expected(source, methods)}")
            seeds = (method or {}).get("seeds", content.get("seeds"))
            if not seeds or len(set(seeds)) < len(seeds) or not all(type(seed) is int and seed >= 0 for seed in seeds):
                raise ValueError(f"method {name}: seeds: {seeds}: expected whole numbers, each once")
            if source is not None and not set(seeds) <= set((methods[source] or {}).get("seeds", content.get("seeds"))):
                raise ValueError(f"method {name}: seeds {seeds}: expected some of those of {source}")
        for name in [content["reference"], *content.get("curves", [])]:
            if name not in methods:
                raise ValueError(f"{name!r} is none of its methods, {_expected(name, methods)}")
        for name in ("steps", "score_episodes"):
            if content.get(name, 1) < 1:
                raise ValueError(f"{name}: {content[name]}: expected at least 1")
    except ValueError as error:
        raise AgentError(f"{file}: {error}") from error
    return content


def _words(content: dict[str, Any]) -> list[str]:
    """
    :return: ``arguments``, as a shell reads them
    :raises ValueError: for a quote that does not end
    """
    arguments = content.get("arguments", "")
    try:
        return shlex.split(arguments)
    except ValueError as error:
        raise ValueError(f"arguments: {arguments}: {error}") from error


def _check_kinds(content: Any, kinds: dict[str, type | tuple[type, ...]], where: str) -> None:
    if not isinstance(content, dict):
        raise ValueError(f"{where}: expected names and values")
    for name, value in content.items():
        if name not in kinds:
            raise ValueError(f"{where}: {name!r}: {_expected(name, kinds)}")
        if not isinstance(value, kinds[name]) or isinstance(value, bool):
            raise ValueError(f"{where}: {name}: {one_line(ValueError(value), 100)}: not a value that it can have")


def _check_texts(content: dict[str, Any], where: str) -> None:
    """YAML takes 1e-4 for a text."""
    for part in ("hyperparams", "env_kwargs"):
        for name, value in (content.get(part) or {}).items():
            if isinstance(value, str) and re.fullmatch(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+", value):
                raise ValueError(f"{where}: {part}: {name}: {value} is a text in YAML, write !!float {value}")


def _expected(name: Any, names: Iterable[str], all_of_them: bool = True) -> str:
    """Which name was perhaps meant, or all that there are."""
    names = list(map(str, names))
    close = difflib.get_close_matches(str(name), names, 1)
    return f"perhaps {close[0]}" if close else f"expected {', '.join(names if all_of_them else names[:8])}"
