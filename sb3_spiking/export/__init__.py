"""Spiking agents for other simulators and for chips: what each of these takes, and whether an agent stayed the same."""
