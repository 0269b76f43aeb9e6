"""From a trained ReLU agent to a spiking one."""
