"use strict";
// The time line of all agents: rewards and lost lives, an agent a row.

function drawMarks(canvas, agents, decisions, shown) {
  const { context, width, height } = sized(canvas, 14 * agents.length + 4);
  const at = (decision) => 8 + ((width - 16) * decision) / Math.max(1, decisions);
  agents.forEach((agent, row) => {
    const top = 2 + 14 * row, middle = top + 6;
    context.fillStyle = color("--line");
    context.fillRect(at(0), middle, at(agent.decisions) - at(0), 1);
    const highest = Math.max(...agent.rewards.map(Math.abs), 1e-12);
    const wide = Math.max(1, Math.min(3, (width - 16) / decisions - 0.5));
    agent.rewards.forEach((reward, decision) => {
      if (!reward) return;
      const tall = 2 + (4 * Math.abs(reward)) / highest;
      context.fillStyle = color(reward > 0 ? "--good" : "--bad");
      context.fillRect(at(decision), reward > 0 ? middle - tall : middle, wide, tall);
    });
    context.fillStyle = color("--bad");
    agent.lives.forEach((lives, decision) => {
      if (!decision || lives >= agent.lives[decision - 1]) return;
      context.beginPath();
      context.arc(at(decision), middle, 4, 0, 7);
      context.fill();
    });
    if (agent.over) {
      context.fillStyle = color("--text");
      context.fillRect(at(agent.decisions) - 1, top, 2, 12);
    }
  });
  context.fillStyle = color("--accent");
  context.fillRect(at(shown) - 1, 0, 2, height);
}
