"use strict";
// Time: it runs, stops and moves, by decision and by simulation step, for all agents alike.

const player = {
  agents: [],
  tick: 0, // simulation steps since the start
  playing: false,
  due: 0, // part of a tick that has passed
  waits: false, // for the next frame to draw

  start() {
    const abouts = JSON.parse(byId("agents-data").textContent);
    this.agents = abouts.map((about, number) => new Agent(about, number, () => this.draw()));
    byId("agents").append(...this.agents.map((agent) => agent.root));
    this.steps = Math.max(...this.agents.map((agent) => agent.steps));
    this.decisions = Math.max(...this.agents.map((agent) => agent.decisions));
    byId("time").max = this.decisions * this.steps - 1;
    this.listen();
    // page.html#60 is decision 60, stopped
    const linked = parseInt(location.hash.slice(1), 10);
    this.go(linked >= 0 ? (linked + 1) * this.steps - 1 : 0);
    this.play(!(linked >= 0) && !matchMedia("(prefers-reduced-motion: reduce)").matches);
  },

  get decision() {
    return Math.floor(this.tick / this.steps);
  },

  go(tick) {
    this.tick = Math.max(0, Math.min(this.decisions * this.steps - 1, tick));
    for (const agent of this.agents) agent.move(this.decision, this.tick % this.steps, this.steps);
    this.draw();
  },

  // A decision on or back; between the steps of a decision, back is to its start
  leap(by) {
    const start = this.decision * this.steps;
    this.go(by < 0 && this.tick > start ? start : start + by * this.steps);
  },

  play(on) {
    if (on && this.tick === this.decisions * this.steps - 1) this.go(0);
    this.playing = on;
    byId("play").textContent = on ? "❚❚" : "▶";
    byId("play").setAttribute("aria-label", on ? "Pause" : "Play");
    this.before = null;
    if (on) requestAnimationFrame((time) => this.run(time));
  },

  run(time) {
    if (!this.playing) return;
    const passed = this.before === null ? 0 : Math.min(250, time - this.before);
    this.before = time;
    this.due += (passed / 1000) * byId("speed").value * this.steps;
    const whole = Math.floor(this.due);
    this.due -= whole;
    if (whole) this.go(this.tick + whole);
    if (this.tick === this.decisions * this.steps - 1) this.play(false);
    else requestAnimationFrame((next) => this.run(next));
  },

  // Everything that shows a moment, once a frame
  draw() {
    if (this.waits) return;
    this.waits = true;
    requestAnimationFrame(() => {
      this.waits = false;
      for (const agent of this.agents) agent.draw();
      drawMarks(byId("marks"), this.agents, this.decisions, this.tick / this.steps);
      byId("time").value = this.tick;
      const step = this.steps > 1 ? `, step ${(this.tick % this.steps) + 1} of ${this.steps}` : "";
      byId("where").value = `decision ${this.decision} of ${this.decisions - 1}${step}`;
      byId("time").setAttribute("aria-valuetext", byId("where").value);
      if (inspector.shown) inspector.update();
    });
  },

  faster(by) {
    const speed = byId("speed");
    speed.selectedIndex = Math.max(0, Math.min(speed.options.length - 1, speed.selectedIndex + by));
  },

  // What buttons and keys do
  actions: {
    play: (self) => self.play(!self.playing),
    back: (self) => self.leap(-1),
    forward: (self) => self.leap(1),
    "step-back": (self) => self.go(self.tick - 1),
    step: (self) => self.go(self.tick + 1),
    first: (self) => self.go(0),
    last: (self) => self.go(Infinity),
    keys: () => byId("help").showModal(),
  },
  keys: { " ": "play", ArrowLeft: "back", ArrowRight: "forward", ",": "step-back", ".": "step", Home: "first", End: "last", "?": "keys" },

  listen() {
    for (const [id, act] of Object.entries(this.actions)) {
      byId(id).addEventListener("click", () => {
        if (id !== "play" && id !== "keys") this.play(false);
        act(this);
      });
    }
    byId("time").addEventListener("input", () => this.go(+byId("time").value));
    document.addEventListener("keydown", (event) => {
      if (byId("help").open || event.ctrlKey || event.metaKey || event.altKey) return;
      if (event.key === "Escape") inspector.close();
      const onButton = event.target.matches("button, select") && (event.key === " " || event.key === "Enter");
      const onSelect = event.target.matches("select") && event.key.startsWith("Arrow");
      if (onButton || onSelect) return;
      if (event.key === "ArrowUp" || event.key === "ArrowDown") this.faster(event.key === "ArrowUp" ? 1 : -1);
      else if (this.keys[event.key]) byId(this.keys[event.key]).click();
      else return;
      event.preventDefault();
    });
    addEventListener("resize", () => {
      for (const each of charts) each.fit();
      this.draw();
    });
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw());
  },
};

player.start();
