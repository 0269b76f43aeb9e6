"""What a measurement was taken on."""

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = ("torch", "numba", "snntorch", "spikingjelly", "stable-baselines3", "rl-zoo3", "gymnasium", "ale-py", "numpy")


def _installed(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def describe() -> str:
    """Processor, cores, Python and the versions of the packages that matter, as one line."""
    processor = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        models = [line.split(":")[1].strip() for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        processor = models[0] if models else processor
    versions = ", ".join(f"{package} {_installed(package)}" for package in PACKAGES)
    return f"{processor}, {os.cpu_count()} cores; Python {platform.python_version()}, {versions}"
