"""What a measurement was taken on, for the scripts beside this one."""

from sb3_spiking.sweep.machine import describe

__all__ = ["describe"]
