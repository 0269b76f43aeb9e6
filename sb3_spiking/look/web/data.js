"use strict";
// The recordings: small numbers as JSON, what layers did as packed bytes that are unpacked when they are needed.

const byId = (id) => document.getElementById(id);

function bytesOf(id) {
  const text = atob(byId(id).textContent);
  const bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  return bytes;
}

async function unpacked(id) {
  const stream = new Blob([bytesOf(id)]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Response(stream).arrayBuffer();
}

const floatsOf = async (id) => new Float32Array(await unpacked(id));

// Chunks of decisions, of which the last ones that were asked for stay in memory
const CHUNKS_IN_MEMORY = 24;

class Chunks {
  // about: as page.py writes it; arrived: called when a chunk that was missing is there
  constructor(about, arrived) {
    this.about = about;
    this.arrived = arrived;
    this.chunks = new Map();
    this.waiting = new Map();
  }

  // Whether decisions are in memory; those that are not are fetched
  ready(first, last = first) {
    let all = true;
    for (let place = this.place(first); place <= this.place(last); place++) {
      if (this.used(place)) continue;
      all = false;
      this.fetch(place);
    }
    return all;
  }

  async have(first, last = first) {
    for (let place = this.place(first); place <= this.place(last); place++) {
      while (!this.used(place)) await this.fetch(place);
    }
  }

  // Whether a chunk is in memory; it is then the last one to go
  used(place) {
    const chunk = this.chunks.get(place);
    if (chunk === undefined) return false;
    this.chunks.delete(place);
    this.chunks.set(place, chunk);
    return true;
  }

  place(decision) {
    return Math.floor(decision / this.about.together);
  }

  fetch(place) {
    if (!this.waiting.has(place)) {
      const request = unpacked(this.about.blobs[place]).then((buffer) => {
        this.chunks.set(place, this.decoded(buffer));
        if (this.chunks.size > CHUNKS_IN_MEMORY) this.chunks.delete(this.chunks.keys().next().value);
        this.waiting.delete(place);
        this.arrived();
      });
      this.waiting.set(place, request);
    }
    return this.waiting.get(place);
  }
}

// How many bits of a byte are set
const ONES = Uint8Array.from({ length: 256 }, (_, byte) => byte.toString(2).replaceAll("0", "").length);

// Spikes: a bit for each step, neuron by neuron
class Spikes extends Chunks {
  constructor(about, neurons, arrived) {
    super(about, arrived);
    this.steps = about.steps;
    this.each = Math.ceil(about.steps / 8);
    this.neurons = neurons;
    this.highest = 1;
  }

  // A decision after the first holds what is different from the one before
  decoded(buffer) {
    const bytes = new Uint8Array(buffer), size = this.neurons * this.each;
    for (let i = size; i < bytes.length; i++) bytes[i] ^= bytes[i - size];
    return bytes;
  }

  at(decision, step, neuron) {
    const place = this.place(decision);
    const first = ((decision - place * this.about.together) * this.neurons + neuron) * this.each;
    return (this.chunks.get(place)[first + (step >> 3)] >> (step & 7)) & 1;
  }

  // Spikes of a neuron from the first step of a decision up to another
  count(decision, step, neuron) {
    const place = this.place(decision), bytes = this.chunks.get(place);
    const first = ((decision - place * this.about.together) * this.neurons + neuron) * this.each, whole = step >> 3;
    let sum = ONES[bytes[first + whole] & ((2 << (step & 7)) - 1)];
    for (let i = 0; i < whole; i++) sum += ONES[bytes[first + i]];
    return sum;
  }
}

const ARRAYS = { u8: Uint8Array, u16: Uint16Array, f32: Float32Array };

// Numbers: activations, membranes, observations
class Values extends Chunks {
  constructor(about, neurons, arrived) {
    super(about, arrived);
    this.neurons = neurons;
    this.steps = about.count / neurons;
    this.highest = Math.max(0, about.highest) || 1;
  }

  decoded(buffer) {
    return new ARRAYS[this.about.type](buffer);
  }

  at(decision, step, neuron) {
    const place = this.place(decision), { together, count, scale, offset } = this.about;
    return this.chunks.get(place)[(decision - place * together) * count + step * this.neurons + neuron] * scale + offset;
  }
}

const product = (shape) => shape.reduce((one, other) => one * other, 1);

function chunksOf(about, neurons, arrived) {
  return about.type === "bits" ? new Spikes(about, neurons, arrived) : new Values(about, neurons, arrived);
}

// A layer of an agent
class Layer {
  constructor(about, earlier, arrived) {
    Object.assign(this, about);
    this.neurons = product(this.shape);
    this.isMap = this.shape.length === 3;
    this.outputs = chunksOf(about.outputs, this.neurons, arrived);
    this.before = about.source === null ? null : earlier[about.source];
    this.inputs = this.before ? this.before.outputs : chunksOf(about.inputs, product(this.inputShape), arrived);
    this.isConstant = this.inputs.steps === 1;
  }

  // What comes in, in a simulation step; nothing from a padding, whose place is -1
  input(decision, step, place) {
    const seen = this.delay ? step - 1 : step;
    if (seen < 0 || place < 0) return 0;
    return this.inputs.at(decision, this.isConstant ? 0 : seen, place);
  }

  // Spikes so far in the window, up to a step; of a layer that does not spike its activation
  count(decision, step, neuron) {
    return this.kind === "spikes" ? this.outputs.count(decision, step, neuron) : this.outputs.at(decision, step, neuron);
  }

  // Everything at once: who asks while they are fetched waits for the same
  weights() {
    this.loading ??= this.fetched();
    return this.loading;
  }

  async fetched() {
    const loaded = { weight: await floatsOf(this.weight), bias: this.bias && (await floatsOf(this.bias)) };
    for (const name of Object.keys(this.normalized || {})) loaded[name] = await floatsOf(this.normalized[name]);
    return loaded;
  }

  nameOf(neuron) {
    if (!this.isMap) return `neuron ${neuron}`;
    const [, height, width] = this.shape, area = height * width;
    return `channel ${Math.floor(neuron / area)}, row ${Math.floor((neuron % area) / width)}, column ${neuron % width}`;
  }
}

// What layers are called: convolutions and dense layers, each numbered from the input on
function labelled(layers) {
  const counts = {};
  for (const layer of layers) {
    const kind = layer.isMap ? "convolution" : layer.kind === "membranes" ? "output" : "dense";
    counts[kind] = (counts[kind] || 0) + 1;
    layer.label = `${kind} ${counts[kind]}`;
  }
  return layers;
}
