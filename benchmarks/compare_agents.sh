#!/bin/sh
# ReLU agents, spiking agents and converted ones side by side, the tables of docs/evaluation.md, conversion.md and robustness.md:
#     sh benchmarks/compare_agents.sh
# Works in logs/agents, goes on there where it stopped, and copies what the tables say to benchmarks/results/agents.
set -eu
cd "$(dirname "$0")/.."
work=logs/agents kept=benchmarks/results/agents
options="--algo dqn --gym-packages sb3_spiking.minatar --num-threads 1"
mkdir -p $work $kept

convert() { # name of the log folder, environment, options
    name=$1 env=$2 && shift 2
    sb3-spiking convert $options --env "$env" -f relu-agents -o $work/"$name" "$@"
    game=$(echo "$env" | tr / -)
    mkdir -p $kept/"$name"
    cp $work/"$name"/dqn/"${game}"_1/conversion.json $kept/"$name"/"$game".json
}

for env in CartPole-v1 Acrobot-v1 LunarLander-v3; do
    convert converted-default $env
    convert converted-layer $env --no-per-channel
    convert converted-layer-100 $env --no-per-channel --percentile 100
    convert converted $env --percentile 100 --curve 10 50 100 200
done
for env in Asterix Breakout SpaceInvaders; do
    convert converted MinAtar/$env-v1
done
cp $work/converted/dqn/LunarLander-v3_1/conversion.png $kept

sb3-spiking evaluate $options --env CartPole-v1 Acrobot-v1 MinAtar/Breakout-v1 -f relu-agents $work/converted \
    rl-trained-agents --relative-to relu-agents --n-envs 30 -o $work/evaluation
cp $work/evaluation/summary.csv $work/evaluation/layers.csv $kept
cp $work/evaluation/scores.png $kept/evaluation.png

perturb() { # name of the table, folders of the agents, options
    name=$1 folders=$2 && shift 2
    sb3-spiking robustness $options -f $folders -o $work/"$name" "$@"
    cp $work/"$name"/robustness.csv $kept/"$name".csv
    cp $work/"$name"/robustness.png $kept/"$name".png
}

all="relu-agents $work/converted rl-trained-agents"
perturb quantisation "$all" --env CartPole-v1 Acrobot-v1 MinAtar/Breakout-v1 --perturbations quantisation \
    --episodes 30 --n-envs 30
perturb mask "$all" --env CartPole-v1 MinAtar/Breakout-v1 --perturbations mask --levels 0 10 25 50 \
    --episodes 30 --max-steps 500 --n-envs 30
perturb occlusion "relu-agents rl-trained-agents" --env PongNoFrameskip-v4 --perturbations occlusion --levels 0 10 20 30 39 \
    --episodes 10 --n-envs 10
