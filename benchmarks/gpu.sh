#!/usr/bin/env bash
# Times on an NVIDIA GPU: the networks of docs/speed.md at two window lengths, whole trainings. Everything that is printed goes to
# benchmarks/results/gpu.txt as well. The kernels' tests run on a GPU where there is one: python -m pytest tests/test_kernels.py
#     pip install -e ".[test,benchmarks]" && pip install --no-deps "spikingjelly>=2" && bash benchmarks/gpu.sh
set -euo pipefail
cd "$(dirname "$0")/.."
python -c "import torch; assert torch.cuda.is_available(), 'PyTorch sees no GPU here'"
mkdir -p benchmarks/results
exec > >(tee benchmarks/results/gpu.txt) 2>&1

nvidia-smi --query-gpu=name,driver_version --format=csv,noheader
for steps in 4 64; do
    python benchmarks/speed.py --device cuda --num-steps "$steps"
done
python benchmarks/learn_speed.py --device cuda --num-steps 64 --repeats 3 --games Breakout CartPole-v1 MinAtar/Breakout-v1 BreakoutNoFrameskip-v4
