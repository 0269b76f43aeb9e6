#!/usr/bin/env bash
# All there is to do on a machine with an NVIDIA GPU: the kernels' tests on the device, the networks of docs/speed.md at two
# window lengths, whole trainings. Everything that is printed goes to benchmarks/results/gpu.txt as well.
#     pip install -e ".[test,benchmarks]" && pip install --no-deps "spikingjelly>=2" && bash benchmarks/gpu.sh
set -euo pipefail
cd "$(dirname "$0")/.."
python -c "import torch; assert torch.cuda.is_available(), 'PyTorch sees no GPU here'"
mkdir -p benchmarks/results
exec > >(tee benchmarks/results/gpu.txt) 2>&1

nvidia-smi --query-gpu=name,driver_version --format=csv,noheader
python -m pytest -q tests/test_kernels.py tests/test_fused.py tests/test_kernel_choice.py tests/test_rates.py
for steps in 4 64; do
    python benchmarks/speed.py --device cuda --num-steps "$steps"
done
python benchmarks/learn_speed.py --device cuda --num-steps 64 --repeats 3 --games Breakout CartPole-v1 MinAtar/Breakout-v1 BreakoutNoFrameskip-v4
