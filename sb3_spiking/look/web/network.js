"use strict";
// A neuron as snnTorch computes it, from what came in and what fired; see sb3_spiking/snn/kernels/reference.py.

// What a neuron is connected to: places in the input, -1 for those in a padding, and the weight of each
function connections(layer, neuron, weight) {
  if (!layer.convolution) {
    const count = weight.length / layer.neurons;
    return { places: Array.from({ length: count }, (_, i) => i), weights: weight.subarray(neuron * count, (neuron + 1) * count) };
  }
  const [, height, width] = layer.shape, [channels, rows, columns] = layer.inputShape, [tall, wide] = layer.kernel;
  const { stride, padding, dilation, groups } = layer.convolution;
  const channel = Math.floor(neuron / (height * width)), seen = channels / groups;
  const top = Math.floor((neuron % (height * width)) / width) * stride[0] - padding[0];
  const left = (neuron % width) * stride[1] - padding[1];
  const first = Math.floor((channel * groups) / layer.shape[0]) * seen, places = [];
  for (let c = first; c < first + seen; c++) {
    for (let y = top; y < top + tall * dilation[0]; y += dilation[0]) {
      for (let x = left; x < left + wide * dilation[1]; x += dilation[1]) {
        places.push(y >= 0 && y < rows && x >= 0 && x < columns ? (c * rows + y) * columns + x : -1);
      }
    }
  }
  const count = seen * tall * wide;
  return { places, weights: weight.subarray(channel * count, (channel + 1) * count) };
}

// Currents into a neuron at each step of a decision
async function currents(layer, neuron, decision) {
  const loaded = await layer.weights();
  await layer.inputs.have(decision);
  const { places, weights } = connections(layer, neuron, loaded.weight);
  const channel = layer.isMap ? Math.floor(neuron / (layer.shape[1] * layer.shape[2])) : neuron;
  const window = new Float64Array(layer.steps);
  const different = layer.isConstant && !layer.delay ? 1 : layer.steps;
  for (let step = 0; step < different; step++) {
    let sum = loaded.bias ? loaded.bias[channel] : 0;
    for (let i = 0; i < places.length; i++) sum += weights[i] * layer.input(decision, step, places[i]);
    if (loaded.statistics) {
      const each = loaded.statistics.length / 2 / layer.agent.decisions;
      const at = 2 * (decision * each + (each === 1 ? 0 : step));
      sum = ((sum - loaded.statistics[at]) / loaded.statistics[at + 1]) * loaded.scale[channel] + loaded.shift[channel];
    }
    window[step] = sum;
  }
  return different === 1 ? window.fill(window[0]) : window;
}

// Membranes after each step, before a delayed reset and after an immediate one; the spikes are the recorded ones
async function membranes(layer, neuron, decision) {
  const { beta, threshold, input_scale: scale, reset_mechanism: reset, reset_delay: delayed } = layer.neuron;
  const window = await currents(layer, neuron, decision);
  await layer.outputs.have(decision);
  const fires = layer.kind === "spikes";
  let membrane = 0, spike = 0;
  for (let step = 0; step < window.length; step++) {
    let due = delayed ? spike : 0;
    if (!delayed && reset === "subtract") due = membrane > threshold ? 1 : 0;
    spike = fires ? layer.outputs.at(decision, step, neuron) : 0;
    if (delayed && reset === "zero") membrane *= 1 - due;
    membrane = beta * membrane + scale * window[step];
    if (reset === "subtract") membrane -= due * threshold;
    if (!delayed && reset === "subtract") membrane -= (spike - due) * threshold;
    if (!delayed && reset === "zero") membrane *= 1 - spike;
    window[step] = membrane;
  }
  return window;
}

// What each input gave a neuron in a decision: weight times mean input
async function contributions(layer, neuron, decision) {
  const { weight } = await layer.weights();
  await layer.inputs.have(decision);
  const { places, weights } = connections(layer, neuron, weight);
  const inputs = places.map((place) => {
    let sum = 0;
    for (let step = 0; step < layer.steps; step++) sum += layer.input(decision, step, place);
    return sum / layer.steps;
  });
  return { places, weights, inputs, given: inputs.map((input, i) => input * weights[i]) };
}

// Share of each neuron of the last layer in the difference between two Q-values
function reasons(agent, decision, action, other) {
  const layer = agent.layers.at(-1), { weight, delay } = agent.readout;
  const last = delay ? layer.steps - 2 : layer.steps - 1;
  const given = [];
  for (let neuron = 0; neuron < layer.neurons; neuron++) {
    const rate = last < 0 ? 0 : layer.count(decision, last, neuron) / layer.steps;
    given.push({ neuron, share: (weight[action][neuron] - weight[other][neuron]) * rate });
  }
  return given.sort((one, two) => two.share - one.share);
}
