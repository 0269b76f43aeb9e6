"""Spiking networks over a window of time; knows nothing of reinforcement learning."""

from sb3_spiking.snn.encoding import ENCODINGS
from sb3_spiking.snn.layers import SpikingLayer
from sb3_spiking.snn.neurons import Leaky
from sb3_spiking.snn.readout import READOUTS
from sb3_spiking.snn.surrogates import SURROGATES

__all__ = ["ENCODINGS", "READOUTS", "SURROGATES", "Leaky", "SpikingLayer"]
