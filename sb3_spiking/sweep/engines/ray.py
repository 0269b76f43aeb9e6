"""Jobs as tasks of a Ray cluster."""

import contextlib
import socket
from typing import Any

from sb3_spiking.errors import AgentError, one_line
from sb3_spiking.sweep import process as process_module
from sb3_spiking.sweep.engines import Outcome, Resources, outcome
from sb3_spiking.sweep.process import Process


class RayRun:
    """A task of Ray."""

    def __init__(self, ray: Any, reference: Any) -> None:
        self._ray, self.reference = ray, reference

    def poll(self) -> Outcome | None:
        ready, _ = self._ray.wait([self.reference], timeout=0)
        if not ready:
            return None
        try:
            return outcome(self._ray.get(self.reference))
        except self._ray.exceptions.RayError:  # its process or its node has ended
            return Outcome.KILLED


class Ray:
    """
    :param address: of the cluster, or "auto" for the one that this machine belongs to
    :param resources: of a job
    :raises AgentError: if there is none, or no node of it has what a job asks for
    """

    slots: int | None = None

    def __init__(self, address: str, resources: Resources) -> None:
        try:
            import ray
        except ImportError as error:
            raise AgentError(f"--on ray: {error}; pip install '.[ray]' in the clone") from error
        _check(address)
        self._ray = ray
        try:
            ray.init(address=address, log_to_driver=False, logging_level="warning")
        except Exception as error:  # ConnectionError, RuntimeError, versions that do not fit
            raise AgentError(f"--address {address}: no Ray cluster answers: {one_line(error)}") from error
        asked: dict[str, Any] = {"num_cpus": resources.threads, "num_gpus": resources.gpus}
        if resources.memory is not None:
            asked["memory"] = int(1e9 * resources.memory)
        needed = {"CPU": resources.threads, "GPU": resources.gpus, "memory": asked.get("memory", 0)}
        if not any(all(node["Resources"].get(name, 0) >= value for name, value in needed.items()) for node in ray.nodes()):
            ray.shutdown()
            raise AgentError(
                f"--address {address}: no node has {', '.join(f'{value:g} {name}' for name, value in needed.items())}"
            )
        ray.cloudpickle.register_pickle_by_value(process_module)
        # A job that was killed is started again by the sweep, which counts how often
        self._start = ray.remote(**asked, max_retries=0)(Process.__call__)
        self._runs: list[RayRun] = []

    def start(self, name: str, process: Process) -> RayRun:
        run = RayRun(self._ray, self._start.options(name=name).remote(process))
        self._runs.append(run)
        return run

    def close(self) -> None:
        for run in self._runs:
            with contextlib.suppress(self._ray.exceptions.RayError):
                self._ray.cancel(run.reference, force=True)
        self._ray.shutdown()


def _check(address: str) -> None:
    """Ray tries for minutes where nobody listens."""
    if address == "auto":
        return
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except (OSError, ValueError) as error:
        raise AgentError(
            f"--address {address}: nothing answers there ({one_line(error)}); expected HOST:PORT or auto"
        ) from error
