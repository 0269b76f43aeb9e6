"""What RL Zoo writes beside an agent, read as YAML of numbers, strings, lists and dicts."""

import math
from pathlib import Path
from typing import Any

import yaml

from sb3_spiking.errors import AgentError, one_line

#: What RL Zoo writes into the folder beside an agent
ZOO_FILES = ("config.yml", "args.yml", "command.txt", "vecnormalize.pkl")

# Bytes; those of RL Zoo have one or two thousand
_MAX_YAML = 256 * 1024
# Wrappers that neither write files nor open windows, and take their arguments as numbers and names
_WRAPPERS = frozenset(
    f"{module}.{name}"
    for module, names in {
        "stable_baselines3.common.atari_wrappers": (
            "AtariWrapper NoopResetEnv FireResetEnv EpisodicLifeEnv MaxAndSkipEnv ClipRewardEnv WarpFrame StickyActionEnv"
        ),
        "rl_zoo3.wrappers": (
            "ActionNoiseWrapper ActionSmoothingWrapper DelayedRewardWrapper FrameSkip HistoryWrapper HistoryWrapperObsDict "
            "MaskVelocityWrapper TruncatedOnSuccessWrapper YAMLCompatResizeObservation"
        ),
        "gymnasium.wrappers": (
            "AtariPreprocessing ClipAction ClipReward DelayObservation FilterObservation FlattenObservation "
            "FrameStackObservation GrayscaleObservation MaxAndSkipObservation RepeatAction RescaleAction RescaleObservation "
            "ResizeObservation StickyAction TimeAwareObservation TimeLimit"
        ),
        "sb3_spiking.events": "Figures",
        "minigrid.wrappers": (
            "FlatObsWrapper FullyObsWrapper ImgObsWrapper OneHotPartialObsWrapper RGBImgObsWrapper RGBImgPartialObsWrapper"
        ),
    }.items()
    for name in names.split()
)
# Numbers among their arguments: frames, steps, pixels; and their product over all wrappers, which may work on each other's
_MAX_ARGUMENT = 1000
_MAX_PRODUCT = 1_000_000
_MAX_TIME_LIMIT = 10_000_000
_MAX_ALIASES = 10
_MAX_FRAME_STACK = 100


class _ZooLoader(yaml.SafeLoader):
    """SafeLoader, and the two Python types that RL Zoo writes; few aliases and no merge keys, which make much of little."""

    _aliases = 0

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        if any(key.tag == "tag:yaml.org,2002:merge" for key, _ in node.value):
            raise yaml.constructor.ConstructorError(None, None, "merge keys", node.start_mark)

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        self._aliases += self.check_event(yaml.AliasEvent)
        if self._aliases > _MAX_ALIASES:
            raise yaml.composer.ComposerError(None, None, f"more than {_MAX_ALIASES} aliases", self.peek_event().start_mark)
        return super().compose_node(parent, index)


def _ordered_dict(loader: _ZooLoader, node: yaml.Node) -> dict[Any, Any]:
    if not isinstance(node, yaml.SequenceNode):
        raise yaml.constructor.ConstructorError(None, None, "an OrderedDict of no list", node.start_mark)
    arguments = loader.construct_sequence(node, deep=True)
    try:
        return dict(*arguments)
    except (TypeError, ValueError) as error:
        raise yaml.constructor.ConstructorError(None, None, "an OrderedDict of no pairs", node.start_mark) from error


def _tuple(loader: _ZooLoader, node: yaml.Node) -> tuple[Any, ...]:
    if not isinstance(node, yaml.SequenceNode):
        raise yaml.constructor.ConstructorError(None, None, "a tuple of no list", node.start_mark)
    return tuple(loader.construct_sequence(node, deep=True))


_ZooLoader.add_constructor("tag:yaml.org,2002:python/object/apply:collections.OrderedDict", _ordered_dict)
_ZooLoader.add_constructor("tag:yaml.org,2002:python/tuple", _tuple)


def read_yaml(file: Path) -> dict[str, Any]:
    """
    :param file: ``config.yml`` or ``args.yml`` of RL Zoo
    :return: what it says
    :raises AgentError: if it is damaged, or would make objects of other types
    """
    if file.stat().st_size > _MAX_YAML:
        raise AgentError(f"{file}: {file.stat().st_size} bytes, expected at most {_MAX_YAML}")
    try:
        content = yaml.load(file.read_text(), Loader=_ZooLoader)
    except Exception as error:  # PyYAML's constructors fail in many ways
        raise AgentError(f"{file}: damaged, or more than numbers and strings: {one_line(error)}") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise AgentError(f"{file}: expected names and values, not {type(content).__name__}")
    return content


def read_environment(folder: Path, trusted: bool = False) -> tuple[dict[str, Any], dict[str, Any]]:
    """
    :param folder: where RL Zoo wrote ``config.yml`` and ``args.yml``
    :param trusted: whether wrappers may be anything that can be imported, and statistics be unpickled
    :return: what RL Zoo's ``create_test_env`` needs of the hyperparameters, and the arguments of the environment
    :raises AgentError: if the files are damaged, or name what is not among the environment wrappers
    """
    config, arguments = folder / "config.yml", folder / "args.yml"
    written = read_yaml(config) if config.is_file() else {}
    env_kwargs = written.get("env_kwargs") or {}
    if arguments.is_file():
        env_kwargs = read_yaml(arguments).get("env_kwargs") or env_kwargs
    if not isinstance(env_kwargs, dict) or not all(isinstance(name, str) for name in env_kwargs):
        raise AgentError(f"{folder}: env_kwargs are no dict of names")
    if trusted:
        return {"normalize": False, **written, "normalize_kwargs": {}}, dict(env_kwargs)

    if written.get("normalize"):
        raise AgentError(
            f"{folder / 'vecnormalize.pkl'}: statistics of observations are a pickle, which can run anything; "
            "--trust reads it, for agents of people you trust"
        )
    if written.get("vec_env_wrapper"):
        raise AgentError(f"{config}: a vec_env_wrapper, {str(written['vec_env_wrapper'])[:100]}, is used with --trust alone")
    wrappers = written.get("env_wrapper") or []
    wrappers = wrappers if isinstance(wrappers, list) else [wrappers]
    for wrapper in wrappers:
        _check_wrapper(wrapper, config)
    frame_stack = written.get("frame_stack") or 0
    if isinstance(frame_stack, bool) or not isinstance(frame_stack, int) or not 0 <= frame_stack <= _MAX_FRAME_STACK:
        raise AgentError(f"{config}: frame_stack: expected a number of frames up to {_MAX_FRAME_STACK}")
    if max(frame_stack, 1) * math.prod(map(_size, wrappers)) > _MAX_PRODUCT:
        raise AgentError(
            f"{config}: the numbers of all wrappers and frame_stack: expected a product of at most {_MAX_PRODUCT}"
        )
    return {"env_wrapper": wrappers, "frame_stack": frame_stack, "normalize": False}, dict(env_kwargs)


def _check_wrapper(wrapper: Any, config: Path) -> None:
    """
    :raises AgentError: for a wrapper that is not among those that are known, or with arguments that it should not have
    """
    one = wrapper if isinstance(wrapper, dict) and len(wrapper) == 1 else {wrapper if isinstance(wrapper, str) else None: None}
    ((name, arguments),) = one.items()
    if name not in _WRAPPERS:
        raise AgentError(
            f"{config}: {str(name)[:100]!r} is none of the wrappers that are known to do nothing else; --trust uses it, for "
            "agents of people you trust"
        )
    if arguments is None:
        return
    if not isinstance(arguments, dict) or not all(isinstance(each, str) for each in arguments):
        raise AgentError(f"{config}: the arguments of {name} are no dict of names")
    limit = _MAX_TIME_LIMIT if name == "gymnasium.wrappers.TimeLimit" else _MAX_ARGUMENT
    if not all(_is_small(value, limit) for value in arguments.values()):
        raise AgentError(f"{config}: the arguments of {name}: expected numbers up to {limit}, strings and short lists of them")


def _size(wrapper: Any) -> float:
    """How many times as large an observation may be behind a wrapper: its largest argument, a list being a product."""
    ((name, arguments),) = wrapper.items() if isinstance(wrapper, dict) else ((wrapper, None),)
    if name == "gymnasium.wrappers.TimeLimit":
        return 1.0
    sizes = []
    for value in (arguments or {}).values():
        numbers = value if isinstance(value, (list, tuple)) else [value]
        sizes.append(math.prod(max(1.0, abs(each)) for each in numbers if isinstance(each, (int, float))))
    return max(sizes, default=1.0)


def _is_small(value: Any, limit: int) -> bool:
    if isinstance(value, (list, tuple)):
        return len(value) <= 100 and all(
            not isinstance(each, (list, tuple, dict)) and _is_small(each, limit) for each in value
        )
    if isinstance(value, (int, float)):
        return abs(value) <= limit
    return value is None or isinstance(value, str)
