"use strict";
// Maps of convolutions, rasters of dense layers, kernels: canvases of our own.

const STEPS_IN_RASTER = 96;

const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

function rgb(name) {
  const text = color(name);
  return [1, 3, 5].map((i) => parseInt(text.slice(i, i + 2), 16));
}

// Gives a canvas as many pixels as the screen shows of it
function sized(canvas, height) {
  const scale = window.devicePixelRatio || 1, width = canvas.clientWidth;
  const [wide, tall] = [Math.max(1, Math.round(width * scale)), Math.max(1, Math.round(height * scale))];
  if (canvas.width !== wide || canvas.height !== tall) {
    canvas.width = wide;
    canvas.height = tall;
    canvas.style.height = `${height}px`;
  }
  const context = canvas.getContext("2d");
  context.setTransform(scale, 0, 0, scale, 0, 0);
  context.clearRect(0, 0, width, height);
  context.imageSmoothingEnabled = false;
  return { context, width, height };
}

function picture(width, height, paint) {
  const canvas = document.createElement("canvas");
  canvas.width = width;
  canvas.height = height;
  const context = canvas.getContext("2d"), image = context.createImageData(width, height);
  paint(image.data);
  context.putImageData(image, 0, 0);
  return canvas;
}

// What comes into a convolution, as a grey picture: where a channel differs most from what it mostly is, the background
function observationPicture(layer, decision) {
  const [channels, height, width] = layer.inputShape, area = height * width, steps = layer.inputs.steps;
  const farthest = new Float32Array(area), plane = new Float32Array(area);
  for (let channel = 0; channel < channels; channel++) {
    for (let i = 0; i < area; i++) {
      plane[i] = 0;
      for (let step = 0; step < steps; step++) plane[i] += layer.inputs.at(decision, step, channel * area + i) / steps;
    }
    const background = plane.slice().sort()[area >> 1];
    for (let i = 0; i < area; i++) farthest[i] = Math.max(farthest[i], Math.abs(plane[i] - background));
  }
  const highest = farthest.reduce((one, other) => Math.max(one, other)) || 1, ink = rgb("--text");
  return picture(width, height, (data) => {
    for (let i = 0; i < area; i++) data.set([...ink, 150 * Math.sqrt(farthest[i] / highest)], 4 * i);
  });
}

// How strongly a neuron is drawn: what fires now fully, what fired before in this window by its rate
function strength(layer, decision, step, neuron) {
  if (layer.kind !== "spikes") return Math.sqrt(Math.max(0, layer.outputs.at(decision, step, neuron) / layer.outputs.highest));
  if (layer.outputs.at(decision, step, neuron)) return 1;
  return (0.5 * layer.count(decision, step, neuron)) / (step + 1);
}

// Where the maps of a convolution lie: tiles side by side, each over the whole image
function tiles(layer, width, image) {
  const [channels, height, wide] = layer.shape, gap = 4;
  const [rows, columns] = image ? image.inputShape.slice(1) : [height, wide];
  const least = channels > 32 ? 40 : 56;
  const across = Math.max(1, Math.min(channels, Math.floor((width + gap) / (least + gap))));
  const tile = Math.min(112, (width + gap) / across - gap), tall = (tile * rows) / columns;
  const scale = tile / columns, field = layer.field || { size: 1, jump: 1, start: 0 };
  // A neuron is drawn in the middle of what it sees
  const edge = (field.start + (field.size - field.jump) / 2) * scale, cell = field.jump * scale;
  return { across, tile, tall, gap, edge, cell, height: Math.ceil(channels / across) * (tall + gap) - gap };
}

function drawMaps(canvas, layer, decision, step, image, chosen) {
  const place = tiles(layer, canvas.clientWidth, image);
  const { context } = sized(canvas, place.height);
  const [channels, height, width] = layer.shape, ink = rgb("--spike"), area = height * width;
  const under = image ? observationPicture(image, decision) : null;
  const firing = picture(width, height * channels, (data) => {
    for (let neuron = 0; neuron < layer.neurons; neuron++) {
      const alpha = 255 * Math.min(1, strength(layer, decision, step, neuron));
      if (alpha) data.set([...ink, alpha], 4 * neuron);
    }
  });
  for (let channel = 0; channel < channels; channel++) {
    const left = (channel % place.across) * (place.tile + place.gap);
    const top = Math.floor(channel / place.across) * (place.tall + place.gap);
    context.fillStyle = color("--ground");
    context.fillRect(left, top, place.tile, place.tall);
    if (under) context.drawImage(under, left, top, place.tile, place.tall);
    const [x, y] = [left + place.edge, top + place.edge];
    context.drawImage(firing, 0, channel * height, width, height, x, y, width * place.cell, height * place.cell);
    if (chosen !== null && Math.floor(chosen / area) === channel) {
      const row = Math.floor((chosen % area) / width), column = chosen % width;
      context.strokeStyle = color("--accent");
      context.lineWidth = 2;
      context.strokeRect(x + column * place.cell - 1, y + row * place.cell - 1, place.cell + 2, place.cell + 2);
    }
  }
}

// The neuron of a map at a point of the canvas, null beside the maps
function neuronOfMaps(layer, width, image, x, y) {
  const place = tiles(layer, width, image), [channels, height, wide] = layer.shape;
  const across = Math.floor(x / (place.tile + place.gap)), down = Math.floor(y / (place.tall + place.gap));
  const channel = down * place.across + across;
  const column = Math.floor((x - across * (place.tile + place.gap) - place.edge) / place.cell);
  const row = Math.floor((y - down * (place.tall + place.gap) - place.edge) / place.cell);
  const inside = across < place.across && channel < channels && column >= 0 && column < wide && row >= 0 && row < height;
  return inside ? (channel * height + row) * wide + column : null;
}

const rasterHeight = (layer) => Math.max(24, Math.min(240, layer.neurons * (layer.neurons <= 64 ? 3 : 1)));

// Decisions that a raster shows, the last one being now
function decisionsInRaster(layer) {
  return Math.max(2, Math.ceil(STEPS_IN_RASTER / layer.steps));
}

function drawRaster(canvas, layer, decision, step, chosen) {
  const { context, width, height } = sized(canvas, rasterHeight(layer));
  const columns = decisionsInRaster(layer) * layer.steps, now = decision * layer.steps + step;
  const rows = Math.min(layer.neurons, canvas.height), ink = rgb("--spike");
  const fired = picture(columns, rows, (data) => {
    for (let column = 0; column < columns; column++) {
      const tick = now - columns + 1 + column;
      if (tick < 0) continue;
      const [then, at] = [Math.floor(tick / layer.steps), tick % layer.steps];
      for (let neuron = 0; neuron < layer.neurons; neuron++) {
        const value = Math.max(0, layer.outputs.at(then, at, neuron) / layer.outputs.highest);
        if (!value) continue;
        const pixel = 4 * (Math.floor((neuron * rows) / layer.neurons) * columns + column);
        data.set([...ink, Math.min(255, data[pixel + 3] + 255 * value)], pixel);
      }
    }
  });
  context.fillStyle = color("--ground");
  context.fillRect(0, 0, width, height);
  const each = width / columns;
  context.fillStyle = color("--line");
  for (let column = 0; column < columns; column++) {
    if ((now - columns + 1 + column) % layer.steps === 0 && layer.steps > 1) context.fillRect(column * each, 0, 1, height);
  }
  context.drawImage(fired, 0, 0, width, height);
  if (chosen !== null) {
    const row = height / layer.neurons;
    context.fillStyle = color("--accent");
    context.globalAlpha = 0.35;
    context.fillRect(0, chosen * row - 1, width, row + 2);
    context.globalAlpha = 1;
  }
}

// The neuron and the moment at a point of a raster
function neuronOfRaster(layer, width, decision, step, x, y) {
  const neuron = Math.floor((y / rasterHeight(layer)) * layer.neurons);
  const columns = decisionsInRaster(layer) * layer.steps;
  const tick = decision * layer.steps + step - columns + 1 + Math.floor((x / width) * columns);
  if (neuron < 0 || neuron >= layer.neurons || tick < 0) return null;
  return { neuron, decision: Math.floor(tick / layer.steps), step: tick % layer.steps };
}

// Small maps of numbers of both signs, one for each channel
function drawSigned(canvas, values, [channels, height, width]) {
  const gap = 3, across = Math.min(channels, channels > 16 ? 16 : channels > 4 ? 8 : channels);
  const tile = Math.min(96, (canvas.clientWidth + gap) / across - gap), tall = (tile * height) / width;
  const { context } = sized(canvas, Math.ceil(channels / across) * (tall + gap) - gap);
  const highest = values.reduce((one, other) => Math.max(one, Math.abs(other)), 1e-12);
  const more = rgb("--spike"), less = rgb("--accent");
  const all = picture(width, height * channels, (data) => {
    values.forEach((value, i) => data.set([...(value > 0 ? more : less), 255 * Math.min(1, Math.abs(value) / highest)], 4 * i));
  });
  for (let channel = 0; channel < channels; channel++) {
    const left = (channel % across) * (tile + gap), top = Math.floor(channel / across) * (tall + gap);
    context.fillStyle = color("--ground");
    context.fillRect(left, top, tile, tall);
    context.drawImage(all, 0, channel * height, width, height, left, top, tile, tall);
  }
}
