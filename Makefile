# What one types most, in the environment that is active; see README.md for the set-up

.PHONY: train test test-slow test-lowest lint type docs

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

# The lowest versions that setup.cfg allows, PyTorch aside, in an environment of its own
test-lowest:
	python -m venv .venv-lowest
	grep '^torch==' constraints.txt > .venv-lowest/overrides.txt
	.venv-lowest/bin/pip install -c constraints.txt torch uv
	.venv-lowest/bin/uv pip install --python .venv-lowest/bin/python --resolution lowest-direct \
		--override .venv-lowest/overrides.txt -e ".[test]"
	.venv-lowest/bin/python -m pytest -n 2

# The site, into docs/_build/html: tutorials are executed, which takes minutes, and warnings are errors
docs:
	sphinx-build -W --keep-going -b html docs docs/_build/html
