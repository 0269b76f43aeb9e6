"""Spiking agents for other simulators and for chips: what an agent is, what each target takes, and whether it stayed the same."""
