"use strict";
// One neuron: its membrane, its threshold and its spikes over time, and what drives it.

const STEPS_OF_MEMBRANE = 32;

const inspector = {
  panel: byId("inspector"),
  shown: null,

  // Opens a neuron of a layer of an agent
  async open(agent, layer, neuron) {
    this.shown = { agent, layer, neuron };
    this.panel.hidden = false;
    this.panel.replaceChildren(this.header(), ...this.parts());
    this.chart?.remove();
    this.chart = chart(byId("membrane"), {
      height: 150, unit: layer.steps > 1 ? "step" : "decision",
      series: layer.neuron
        ? [{ label: "membrane" }, { label: "threshold", stroke: "#868e96", dash: [5, 4] },
          { label: "spike", stroke: "#e8590c", points: layer.steps > 64 ? 3 : 7 }]
        : [{ label: "activation" }],
    });
    await this.update();
    player.draw();
  },

  close() {
    if (!this.shown) return;
    this.chart?.remove();
    this.chart = null;
    this.shown = null;
    this.panel.hidden = true;
    this.panel.replaceChildren();
    player.draw();
  },

  chosen(agent, layer) {
    return this.shown && this.shown.agent === agent && this.shown.layer === layer ? this.shown.neuron : null;
  },

  header() {
    const { agent, layer, neuron } = this.shown;
    const move = (by) => this.open(agent, layer, (neuron + by + layer.neurons) % layer.neurons);
    return element("header", {}, [
      element("h2", { textContent: `${layer.label}: ${layer.nameOf(neuron)}` }),
      element("button", { id: "neuron-before", textContent: "‹", title: "Neuron before", onclick: () => move(-1) }),
      element("button", { id: "neuron-next", textContent: "›", title: "Next neuron", onclick: () => move(1) }),
      element("button", { id: "neuron-close", textContent: "✕", title: "Close (Esc)", onclick: () => this.close() }),
    ]);
  },

  parts() {
    const { layer } = this.shown;
    const kernel = layer.isMap && !layer.before;
    const parts = [
      element("div", { id: "membrane" }),
      element("div", { className: "facts", id: "neuron-facts" }),
    ];
    if (kernel) parts.push(element("h3", { textContent: "Its kernel, by channel of the image" }), element("canvas", { id: "kernel" }));
    const driven = this.inputShape() ? "What drives it now: kernel times what is there" : "What drives it now";
    parts.push(element("h3", { textContent: this.inputShape() && !kernel ? "What drives it now, by channel of the layer before" : driven }));
    if (this.inputShape()) parts.push(element("canvas", { id: "given" }));
    parts.push(element("div", { className: "drivers", id: "drivers" }));
    if (this.inputShape()) {
      parts.push(element("p", { className: "quiet", textContent: "orange: drives it; blue: holds it back" }));
    }
    return parts;
  },

  // Channels, height and width of what it sees, null where that is no image
  inputShape() {
    const { layer } = this.shown;
    if (layer.convolution) return [layer.inputShape[0] / layer.convolution.groups, ...layer.kernel];
    if (layer.inputShape.length === 3) return layer.inputShape;
    return layer.before && layer.before.isMap ? layer.before.shape : null;
  },

  async update() {
    const { agent, layer, neuron } = this.shown || {};
    if (!agent) return;
    const { decision, step } = agent.now;
    const span = Math.max(1, Math.ceil(STEPS_OF_MEMBRANE / layer.steps));
    const [first, last] = around(decision, span, agent.decisions);
    await layer.outputs.have(first, last);
    const data = layer.neuron ? await this.membrane(first, last) : this.activations(first, last);
    const given = await contributions(layer, neuron, decision);
    if (!this.shown || this.shown.neuron !== neuron || this.shown.layer !== layer) return;
    this.chart.show(data, decision * layer.steps + step);
    this.trace = { first, data };
    this.facts(decision, step, data, first);
    this.drive(given, decision);
  },

  async membrane(first, last) {
    const { layer, neuron } = this.shown;
    const data = [[], [], [], []];
    for (let decision = first; decision <= last; decision++) {
      const window = await membranes(layer, neuron, decision);
      for (let step = 0; step < layer.steps; step++) {
        const spike = layer.kind === "spikes" && layer.outputs.at(decision, step, neuron);
        data[0].push(decision * layer.steps + step);
        data[1].push(window[step]);
        data[2].push(layer.neuron.threshold);
        data[3].push(spike ? Math.max(window[step], layer.neuron.threshold) : null);
      }
    }
    return data;
  },

  activations(first, last) {
    const { layer, neuron } = this.shown, data = [[], []];
    for (let decision = first; decision <= last; decision++) {
      data[0].push(decision);
      data[1].push(layer.outputs.at(decision, 0, neuron));
    }
    return data;
  },

  facts(decision, step, data, first) {
    const { layer, neuron } = this.shown, now = data[1][(decision - first) * layer.steps + step];
    const facts = layer.kind === "spikes"
      ? [["membrane", now.toPrecision(4)], ["threshold", layer.neuron.threshold.toPrecision(4)],
        ["spikes in this decision", `${layer.count(decision, layer.steps - 1, neuron)} of ${layer.steps}`]]
      : [[layer.kind === "membranes" ? "membrane" : "activation", now.toPrecision(4)]];
    byId("neuron-facts").replaceChildren(...facts.map(([name, value]) => fact(name, value)));
  },

  drive({ places, weights, inputs, given }, decision) {
    const { layer } = this.shown, shape = this.inputShape();
    if (byId("kernel")) drawSigned(byId("kernel"), Array.from(weights), shape);
    if (byId("given")) drawSigned(byId("given"), given, shape);
    const order = given.map((_, i) => i).filter((i) => given[i]).sort((one, other) => Math.abs(given[other]) - Math.abs(given[one]));
    const most = order.slice(0, shape ? 5 : 10), highest = most.length ? Math.abs(given[most[0]]) : 1;
    byId("drivers").replaceChildren(...most.map((i) => {
      const wide = (50 * Math.abs(given[i])) / highest;
      const bar = element("i", { className: given[i] > 0 ? "" : "less" });
      bar.style.cssText = given[i] > 0 ? `left:50%;width:${wide}%` : `right:50%;width:${wide}%`;
      const name = this.nameOfInput(layer, places[i]);
      const row = element("div", { className: "driver", title: `weight ${weights[i].toPrecision(4)} × input ${inputs[i].toPrecision(4)}` }, [
        element("span", { textContent: name }), element("div", { className: "bar" }, [bar]),
        element("b", { textContent: signed(given[i]) }),
      ]);
      return row;
    }));
    if (!most.length) byId("drivers").textContent = `nothing: all that it sees is 0 in decision ${decision}`;
  },

  nameOfInput(layer, place) {
    if (layer.before) return layer.before.nameOf(place).replace("channel", "ch").replace("row ", "").replace("column ", "");
    if (layer.inputShape.length !== 3) return `input ${place}`;
    const [, height, width] = layer.inputShape, area = height * width;
    return `ch ${Math.floor(place / area)}, ${Math.floor((place % area) / width)}, ${place % width}`;
  },
};

const signed = (value) => `${value > 0 ? "+" : ""}${value.toPrecision(3)}`;

function element(tag, properties, children = []) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

const fact = (name, value) =>
  element("div", {}, [element("span", { className: "quiet", textContent: name }), element("b", { textContent: value })]);
