"""What RL Zoo writes beside an agent, read as YAML of numbers, strings, lists and dicts."""

import importlib
from pathlib import Path
from typing import Any

import gymnasium as gym
import yaml

from sb3_spiking.errors import AgentError

#: What RL Zoo writes into the folder beside an agent
ZOO_FILES = ("config.yml", "args.yml", "command.txt", "vecnormalize.pkl")

# Bytes; those of RL Zoo have one or two thousand
_MAX_YAML = 256 * 1024
# Where wrappers may come from
_WRAPPER_PACKAGES = (
    "gymnasium.wrappers.",
    "minigrid.wrappers.",
    "rl_zoo3.wrappers.",
    "sb3_spiking.",
    "stable_baselines3.common.",
)
# Wrappers that write files or open windows
_WRITING_WRAPPERS = ("Monitor", "RecordVideo", "HumanRendering", "RenderCollection")
_MAX_FRAME_STACK = 100


class _ZooLoader(yaml.SafeLoader):
    """SafeLoader, and the two Python types that RL Zoo writes; without merge keys, which can make much of little."""

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        if any(key.tag == "tag:yaml.org,2002:merge" for key, _ in node.value):
            raise yaml.constructor.ConstructorError(None, None, "merge keys", node.start_mark)


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
        raise AgentError(f"{file}: damaged, or more than numbers and strings: {' '.join(str(error).split())[:300]}") from error
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
        raise AgentError(
            f"{config}: frame_stack={str(frame_stack)[:50]}, expected a number of frames up to {_MAX_FRAME_STACK}"
        )
    return {"env_wrapper": wrappers, "frame_stack": frame_stack, "normalize": False}, dict(env_kwargs)


def _check_wrapper(wrapper: Any, config: Path) -> None:
    names = list(wrapper) if isinstance(wrapper, dict) else [wrapper]
    name, arguments = (
        names[0] if len(names) == 1 else None,
        wrapper.get(names[0]) if isinstance(wrapper, dict) and names else None,
    )
    found: Any = None
    if isinstance(name, str) and name.startswith(_WRAPPER_PACKAGES) and all(part.isidentifier() for part in name.split(".")):
        module, _, attribute = name.rpartition(".")
        try:
            found = getattr(importlib.import_module(module), attribute, None)
        except ImportError:
            found = None
    if not (isinstance(found, type) and issubclass(found, gym.Wrapper)) or found.__name__ in _WRITING_WRAPPERS:
        packages = ", ".join(package.rstrip(".") for package in _WRAPPER_PACKAGES)
        raise AgentError(
            f"{config}: {str(name)[:100]!r} is no wrapper of {packages}; --trust uses it, for agents of people you trust"
        )
    if arguments is not None and (not isinstance(arguments, dict) or not all(isinstance(each, str) for each in arguments)):
        raise AgentError(f"{config}: the arguments of {name} are no dict of names")
