"use strict";
// Lines over time, drawn by uPlot.

const LINES = ["#3b82f6", "#e8590c", "#2f9e44", "#ae3ec9", "#e03131", "#0c8599", "#a9741a", "#868e96"];
const charts = new Set();

// series: [{label, stroke?, dash?, points?: their size in place of a line}]; now: draws a line at the moment that is shown
function chart(parent, { height, series, unit, digits = 3 }) {
  const axis = () => ({
    stroke: () => color("--quiet"), grid: { stroke: () => color("--line"), width: 1 }, ticks: { show: false },
    font: "11px system-ui, sans-serif", size: 44,
  });
  const state = { now: null };
  const write = (_, value) => (value === null || value === undefined ? "–" : value.toPrecision(digits));
  const drawn = new uPlot({
    width: Math.max(120, parent.clientWidth), height, padding: [8, 8, 0, 0],
    scales: { x: { time: false } },
    axes: [{ ...axis(), size: 24 }, { ...axis(), values: (_, ticks) => ticks.map((tick) => +tick.toPrecision(4)) }],
    cursor: { y: false, points: { size: 5 }, drag: { x: false, y: false } },
    legend: { live: true },
    series: [{ label: unit, value: (_, value) => (value === null || value === undefined ? "–" : `${value}`) },
      ...series.map((each, i) => ({
        label: each.label, stroke: each.stroke || LINES[i % LINES.length], width: each.points ? 0 : 1.5, dash: each.dash,
        points: each.points ? { show: true, size: each.points, fill: each.stroke } : { show: false }, value: write, spanGaps: false,
      }))],
    hooks: { draw: [(self) => {
      if (state.now === null) return;
      const x = self.valToPos(state.now, "x", true);
      self.ctx.save();
      self.ctx.strokeStyle = color("--quiet");
      self.ctx.beginPath();
      self.ctx.moveTo(x, self.bbox.top);
      self.ctx.lineTo(x, self.bbox.top + self.bbox.height);
      self.ctx.stroke();
      self.ctx.restore();
    }] },
  }, [[], ...series.map(() => [])], parent);
  const made = {
    show(data, now) {
      state.now = now;
      drawn.setData(data);
      drawn.setLegend({ idx: now === null ? null : data[0].indexOf(now) });
    },
    fit() {
      if (parent.isConnected && parent.clientWidth) drawn.setSize({ width: parent.clientWidth, height });
    },
    remove() {
      charts.delete(made);
      drawn.destroy();
    },
  };
  charts.add(made);
  return made;
}

// Around a moment: the first and the last of at most `count` of `all` places
function around(moment, count, all) {
  const first = Math.max(0, Math.min(moment - Math.floor(count * 0.75), all - count));
  return [first, Math.min(all - 1, first + count - 1)];
}
