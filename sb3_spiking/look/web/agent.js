"use strict";
// What one agent shows: the game, its Q-values, its layers.

const DECISIONS_IN_CHART = 60;

const CHARTED = 8; // actions that a chart has lines for

function joules(picojoules) {
  const units = ["pJ", "nJ", "µJ", "mJ", "J"];
  const rounded = Number(picojoules.toPrecision(3));
  const power = rounded > 1 ? Math.min(units.length - 1, Math.floor(Math.log10(rounded) / 3)) : 0;
  return `${(rounded / 1000 ** power).toPrecision(3)} ${units[power]}`;
}

class Agent {
  constructor(about, number, redraw) {
    Object.assign(this, about);
    this.number = number;
    this.redraw = redraw;
    const layers = [];
    for (const layer of about.layers) layers.push(Object.assign(new Layer(layer, layers, redraw), { agent: this }));
    this.layers = labelled(layers);
    this.steps = Math.max(1, ...layers.map((layer) => layer.steps));
    this.now = { decision: 0, step: 0 };
    this.pictures = new Map();
    this.scores = this.running(about.rewards);
    this.energies = this.running(about.picojoules);
    this.root = element("section", { className: "agent" });
    this.root.append(this.header(), element("div", { className: "panels" }, [this.outside(), this.inside()]));
  }

  running(values) {
    let sum = 0;
    return values.map((value) => (sum += value));
  }

  actionName(action) {
    return typeof action === "number" ? this.actionNames[action] ?? String(action) : action.map((each) => each.toPrecision(3)).join(", ");
  }

  header() {
    const spiking = this.layers.some((layer) => layer.kind !== "activations");
    const kind = spiking ? `spiking, ${this.steps} simulation steps a decision` : "not spiking: activations in place of spikes";
    return element("header", {}, [
      element("h1", { textContent: `${this.env} · ${this.name}` }), element("span", { className: "quiet", textContent: kind }),
    ]);
  }

  card(title, note, children) {
    const head = element("header", {}, [element("h2", { textContent: title }), element("span", { className: "quiet", ...note })]);
    return element("section", { className: "card" }, [head, ...children]);
  }

  // The game and what the agent makes of it
  outside() {
    const stack = element("div", { className: "stack outside" });
    this.game = element("canvas", { className: "game" });
    this.facts = element("div", { className: "facts" });
    stack.append(this.card("What it plays", {}, [...(this.frames ? [this.game] : []), this.facts]));
    if (this.qValues[0].length) {
      this.rows = this.actionNames.map((name) => {
        const bar = element("i", {}), value = element("b", {});
        const row = element("div", { className: "value" }, [
          element("span", { textContent: name, title: name }), element("div", { className: "bar" }, [bar]), value,
        ]);
        return { row, bar, value };
      });
      this.why = element("div", { className: "why" });
      this.qChart = element("div", {});
      const values = element("div", { className: "values" }, this.rows.map(({ row }) => row));
      stack.append(this.card("Q-values", { textContent: "chosen in bold" }, [values, this.why, this.qChart]));
    }
    return stack;
  }

  // Its layers, from the input to the output
  inside() {
    const stack = element("div", { className: "stack" });
    this.panels = this.layers.map((layer) => {
      const canvas = element("canvas", { className: "neurons", tabIndex: 0 });
      canvas.setAttribute("role", "application");
      canvas.setAttribute("aria-label", `${this.name}, ${layer.label}: arrows choose a neuron, Enter opens it`);
      const rate = element("i", {}), text = element("span", {});
      const note = element("span", { className: "quiet" }, [element("span", { className: "rate" }, [rate]), " ", text]);
      const what = layer.isMap ? layer.shape.join(" × ") : `${layer.neurons} ${layer.neurons === 1 ? "unit" : "units"}`;
      const head = element("header", {}, [
        element("h2", { textContent: layer.label, title: layer.name }),
        element("span", { className: "quiet", textContent: `${what}${this.habits(layer)}` }), note,
      ]);
      stack.append(element("section", { className: "card" }, [head, canvas]));
      const panel = { layer, canvas, rate, text, cursor: 0 };
      this.listen(panel);
      return panel;
    });
    if (this.layers.length) {
      this.rateChart = element("div", {});
      const what = this.layers.some((layer) => layer.kind === "spikes") ? "Firing rates" : "Shares of active units";
      stack.append(this.card(what, { textContent: "% by decision" }, [this.rateChart]));
    }
    return stack;
  }

  habits(layer) {
    const share = (count) => (200 * count < layer.neurons ? "<1%" : `${Math.round((100 * count) / layer.neurons)}%`);
    const silent = layer.silent ? ` · ${share(layer.silent)} ${layer.kind === "spikes" ? "silent" : "never active"}` : "";
    return silent + (layer.always && layer.kind === "spikes" ? ` · ${share(layer.always)} saturated` : "");
  }

  image(layer) {
    return layer.field && this.layers[layer.field.root].inputShape.length === 3 ? this.layers[layer.field.root] : null;
  }

  // What is under the pointer: a neuron and the moment that its place stands for
  found({ layer, canvas }, event) {
    const box = canvas.getBoundingClientRect(), [x, y] = [event.clientX - box.left, event.clientY - box.top];
    const { decision, step } = this.at(layer);
    if (!layer.isMap) return neuronOfRaster(layer, box.width, decision, step, x, y);
    const neuron = neuronOfMaps(layer, box.width, this.image(layer), x, y);
    return neuron === null ? null : { neuron, decision, step };
  }

  listen(panel) {
    const { layer, canvas } = panel;
    canvas.addEventListener("click", (event) => {
      const found = this.found(panel, event);
      if (!found) return;
      panel.cursor = found.neuron;
      inspector.open(this, layer, found.neuron);
    });
    canvas.addEventListener("mousemove", (event) => {
      const found = this.found(panel, event);
      tip.show(event, found && layer.outputs.ready(found.decision) ? this.said(layer, found) : null);
    });
    canvas.addEventListener("mouseleave", () => tip.hide());
    canvas.addEventListener("keydown", (event) => {
      const row = layer.isMap ? layer.shape[2] : 1;
      const by = { ArrowLeft: layer.isMap ? -1 : 0, ArrowRight: layer.isMap ? 1 : 0, ArrowUp: -row, ArrowDown: row }[event.key];
      if (by !== undefined) panel.cursor = (panel.cursor + by + layer.neurons) % layer.neurons;
      else if (event.key !== "Enter") return;
      event.preventDefault();
      event.stopPropagation();
      if (event.key === "Enter" || inspector.shown) inspector.open(this, layer, panel.cursor);
      else this.redraw();
    });
    for (const event of ["focus", "blur"]) canvas.addEventListener(event, this.redraw);
  }

  said(layer, { neuron, decision, step }) {
    const value = layer.outputs.at(decision, step, neuron);
    const when = layer.steps > 1 ? `decision ${decision}, step ${step}` : `decision ${decision}`;
    const done = layer.kind !== "spikes" ? value.toPrecision(4)
      : `${value ? "spike" : "no spike"}; ${layer.count(decision, layer.steps - 1, neuron)} of ${layer.steps} in this decision`;
    return `${layer.nameOf(neuron)}\n${when}: ${done}`;
  }

  // Moves to a moment of the common time line, where a decision has `steps` steps
  move(decision, step, steps) {
    const last = this.decisions - 1;
    this.now = decision > last ? { decision: last, step: this.steps - 1 } : { decision, step: Math.floor((step * this.steps) / steps) };
  }

  at(layer) {
    return { decision: this.now.decision, step: Math.min(layer.steps - 1, Math.floor((this.now.step * layer.steps) / this.steps)) };
  }

  draw() {
    const { decision } = this.now;
    if (this.frames) this.drawGame(decision);
    const lives = this.lives[decision] > 0 || this.lives.some((each) => each > 0) ? [["lives", this.lives[decision]]] : [];
    const facts = [
      ["score", +this.scores[decision].toPrecision(6)], ...lives,
      ["action", this.actionName(this.actions[decision]) + (this.explored[decision] ? " (random)" : "")],
      ["energy so far", joules(this.energies[decision])], ["a decision", joules(this.picojoules[decision])],
    ];
    if (decision === this.decisions - 1) facts.push(["end", this.over ? "episode over" : "recording ends"]);
    this.facts.replaceChildren(...facts.map(([name, value]) => fact(name, value)));
    if (this.rows) this.drawValues(decision);
    for (const panel of this.panels) this.drawLayer(panel);
    this.drawCharts(decision);
  }

  drawGame(decision) {
    const id = this.frames.blobs[decision];
    let image = this.pictures.get(id);
    if (!image) {
      image = new Image();
      image.onload = this.redraw;
      image.src = `data:image/webp;base64,${byId(id).textContent}`;
      this.pictures.set(id, image);
    }
    if (!image.complete) return;
    const { width, height } = this.frames;
    if (this.game.width !== width || this.game.height !== height) Object.assign(this.game, { width, height });
    this.game.getContext("2d").drawImage(image, 0, 0);
  }

  drawValues(decision) {
    const values = this.qValues[decision], low = Math.min(...values), high = Math.max(...values);
    this.rows.forEach(({ row, bar, value }, action) => {
      row.classList.toggle("chosen", action === this.actions[decision]);
      bar.style.width = `${8 + (high > low ? (92 * (values[action] - low)) / (high - low) : 92)}%`;
      value.textContent = values[action] === null ? "–" : values[action].toPrecision(4);
    });
    this.drawWhy(decision, values);
  }

  // The neurons of the last layer that speak most for the best action rather than the second best
  drawWhy(decision, values) {
    const layer = this.layers.at(-1);
    if (!this.readout || values.length < 2 || !layer.outputs.ready(decision)) return;
    const order = values.map((_, action) => action).sort((one, other) => values[other] - values[one]);
    const most = reasons(this, decision, order[0], order[1]).slice(0, 4).filter(({ share }) => share > 0);
    this.why.replaceChildren(
      element("span", { className: "quiet", textContent: `for ${this.actionName(order[0])} over ${this.actionName(order[1])}:` }),
      ...most.map(({ neuron, share }) => element("button", {
        textContent: `${neuron}: ${signed(share)}`, title: `${layer.label}, neuron ${neuron}`,
        onclick: () => inspector.open(this, layer, neuron),
      })),
    );
  }

  drawLayer({ layer, canvas, rate, text, cursor }) {
    const { decision, step } = this.at(layer);
    const share = 100 * layer.rates[decision];
    rate.style.width = `${Math.min(100, share)}%`;
    text.textContent = `${share.toFixed(1)}% · ${joules(layer.picojoules[decision])}`;
    const opened = inspector.chosen(this, layer);
    const chosen = opened === null && document.activeElement === canvas ? cursor : opened;
    if (layer.isMap) {
      const image = this.image(layer);
      const ready = layer.outputs.ready(decision) && (!image || image.inputs.ready(decision));
      if (ready) drawMaps(canvas, layer, decision, step, image, chosen);
    } else if (layer.outputs.ready(Math.max(0, decision - decisionsInRaster(layer)), decision)) {
      drawRaster(canvas, layer, decision, step, chosen);
    }
  }

  drawCharts(decision) {
    const [first, last] = around(decision, DECISIONS_IN_CHART, this.decisions);
    const places = Array.from({ length: last - first + 1 }, (_, i) => first + i);
    if (this.rows && this.actionNames.length <= CHARTED) {
      this.qLines ??= chart(this.qChart, { height: 150, unit: "decision", series: this.actionNames.map((label) => ({ label })) });
      this.qLines.show([places, ...this.actionNames.map((_, action) => places.map((place) => this.qValues[place][action]))], decision);
    }
    if (!this.layers.length) return;
    this.rateLines ??= chart(this.rateChart, { height: 130, unit: "decision", series: this.layers.map(({ label }) => ({ label })) });
    this.rateLines.show([places, ...this.layers.map((layer) => places.map((place) => 100 * layer.rates[place]))], decision);
  }
}

// What the pointer is over
const tip = {
  box: byId("tip"),
  show(event, text) {
    this.box.hidden = !text;
    if (!text) return;
    this.box.textContent = text;
    const { width, height } = this.box.getBoundingClientRect();
    this.box.style.left = `${Math.max(4, Math.min(event.clientX + 14, innerWidth - width - 8))}px`;
    this.box.style.top = `${event.clientY + 18 + height > innerHeight ? event.clientY - height - 10 : event.clientY + 18}px`;
  },
  hide() {
    this.box.hidden = true;
  },
};
