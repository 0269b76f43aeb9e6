"""The packages of other simulators and runtimes, which only an export needs."""

import importlib
from typing import Any

from sb3_spiking.errors import AgentError

# Those that pip cannot install beside the others with all that they ask for
_ALONE = {"sinabs": "pip install pbr && pip install --no-deps sinabs", "norse": "pip install --no-deps norse"}


def needed(name: str) -> Any:
    """
    :param name: of a module
    :return: it
    :raises AgentError: that says how to install it
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        how = _ALONE.get(name.partition(".")[0], "pip install '.[export]' in the clone")
        raise AgentError(f"this needs the package {error.name}: {how}") from error
