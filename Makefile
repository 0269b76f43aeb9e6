# What one types most, in the environment that is active; see README.md for the set-up

.PHONY: train test test-slow lint type

train:
	python -m rl_zoo3.train --algo dqn --env BreakoutNoFrameskip-v4 -f sb3_spiking -P

test:
	python -m pytest -n 2

test-slow:
	python -m pytest -m slow

lint:
	ruff check .
	ruff format --check .

type:
	mypy
