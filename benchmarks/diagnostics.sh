#!/bin/sh
# What docs/laboratory.md says of networks before and without reinforcement learning; an hour or more on one core:
#     sh benchmarks/diagnostics.sh
# What each command prints is kept in benchmarks/results/diagnostics.
set -eu
cd "$(dirname "$0")/.."
kept=benchmarks/results/diagnostics
rm -rf logs/diagnostics
mkdir -p $kept logs/diagnostics

keep() { # name, script and its arguments
    name=$1 && shift
    python "$@" >logs/diagnostics/"$name".txt
    cp logs/diagnostics/"$name".txt $kept
}

firing="benchmarks/breakout_firing.py --steps 2000 --learning-starts 1000"
keep breakout_firing_8 $firing --folder logs/diagnostics/breakout_8 --num-steps 8 \
    --network "unscaled, fast sigmoid 25" "unscaled, fast sigmoid 5" "scaled by 4, fast sigmoid 5"
keep breakout_firing_16 $firing --folder logs/diagnostics/breakout_16 --num-steps 16 \
    --network "liu2022" "liu2022, fast sigmoid 25" "liu2022, fast sigmoid 5" "liu2022, fast sigmoid 2"
keep breakout_firing_64 $firing --folder logs/diagnostics/breakout_64 --network "liu2022, fast sigmoid 2"

keep initial_rates benchmarks/initial_rates.py

for rate in 1e-4 5e-4; do
    keep position_fit_$rate benchmarks/position_fit.py --learning-rate $rate
    keep position_fit_nature_$rate benchmarks/position_fit.py --learning-rate $rate --shape nature --seeds 2 \
        --network "ReLU" "spiking, slope 5" "spiking, slope 2" "potential normalisation, slope 5"
done

compensated="common-mode compensation, no leak, reset by subtraction"
keep value_fit_1e-8 benchmarks/value_fit.py --seeds 1 \
    --network "ReLU" "spiking" "spiking, T = 16" "spiking, slope 25" "spiking, no leak, reset by subtraction" \
    "spiking, potential normalisation" "common-mode compensation" "$compensated"
keep value_fit_3.125e-4 benchmarks/value_fit.py --seeds 1 --epsilon 3.125e-4 \
    --network "ReLU" "spiking" "$compensated" "$compensated, slope 2" "$compensated, slope 0.5" "$compensated, T = 2" \
    "$compensated, T = 2, input_scale 4" "$compensated, T = 2, slope 2" "$compensated, T = 2, slope 0.5" \
    "$compensated, T = 8, slope 2" "$compensated, T = 8, slope 0.5"
