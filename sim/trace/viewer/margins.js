// What stands around and below the members: clients and their calls, what is chosen, names, the
// violation, the axis, and the whole run in small.

/** Watchers' lanes come behind those of the clients that call. */
function laneName(c) {
  const calling = raw.clients - (raw.watchers || 0);
  return c < calling ? `client ${c}` : `watcher ${c - calling}`;
}

function drawClients() {
  for (const [c, y] of lanes.clients) {
    ctx.strokeStyle = colours.line;
    ctx.beginPath(); ctx.moveTo(GUTTER, y + CLIENT - 1.5); ctx.lineTo(width, y + CLIENT - 1.5); ctx.stroke();
  }
  for (let at = after(calls, view.t0 - 2e7); at < calls.length && calls[at].t <= view.t1; at++) {
    const e = calls[at];
    if (e.u < view.t0 || !shows(e)) continue;
    const y = lanes.clients.get(e.c), x = px(e.t), w = Math.max(1.5, px(e.u) - x), h = CLIENT - 4;
    const bad = e === about.call, witness = e === about.witness;
    ctx.globalAlpha = isFaint(e) && !bad && !witness ? 0.35 : 1;
    ctx.fillStyle = bad ? colours["bad-ground"] : witness ? colours["warn-ground"] : !e.ok ? colours.no : e.write ? colours.ok : colours["read-ok"];
    ctx.strokeStyle = bad ? colours.bad : witness ? colours.warn : !e.ok ? colours["no-line"] : e.write ? colours["ok-line"] : colours["read-line"];
    ctx.lineWidth = bad || witness ? 2 : 1;
    ctx.fillRect(x, y, w, h);
    if (!e.ok && w > 6) hatch(x, y, w, h, 8);
    if (w > 3) ctx.strokeRect(x + 0.5, y + 0.5, w - 1, h - 1);
    const left = Math.max(x, GUTTER) + 3;
    fitted(`${view.groups.size > 1 ? "g" + e.g + " " : ""}${e.text}${e.heard ? " → " + e.heard : ""}`, left, y + 11, Math.min(x + w, width) - left - 3, bad ? colours.bad : witness ? colours.warn : colours.ink, bad || witness);
    ctx.lineWidth = 1;
    target(e, x, y, x + Math.max(w, 3), y + h);
    if (e.point && w > 4) {
      const early = !e.write && e.point.t < e.t;
      const p = px(early ? e.t : e.point.t);
      const outside = e.write && !e.open && e.ok && e.point.t > e.u;
      ctx.fillStyle = ctx.strokeStyle = outside ? colours.bad : colours.ink;
      ctx.beginPath(); ctx.arc(early ? p + 1 : p, y + h, 2.6, 0, 7); ctx.fill();
      ctx.beginPath(); ctx.moveTo(early ? p + 1 : p, y); ctx.lineTo(early ? p + 1 : p, y + h); ctx.stroke();
    }
    ctx.globalAlpha = 1;
  }
  for (let at = after(marks, view.t0 - 1); at < marks.length && marks[at].t <= view.t1; at++) {
    const e = marks[at];
    if (!shows(e)) continue;
    const x = px(e.t), y = lanes.clients.get(e.c);
    ctx.fillStyle = colours.vote;
    ctx.fillRect(x - 1.5, y + 2, 3, CLIENT - 8);
    target(e, x - 3, y, x + 3, y + CLIENT - 4);
    write(e.text, x + 4, y + 10, colours.vote);
  }
}

/** The chosen event, and what belongs to it: a call's way to its member and to its entry. */
function drawChosen() {
  const e = view.chosen;
  ctx.lineWidth = 2;
  if (e && shows(e)) {
    ctx.strokeStyle = colours.accent;
    const call = e.k === "call" ? e : e.k === "commit" ? e.call : null;
    if (e.k === "message") {
      const l = arrow(e);
      ctx.lineWidth = 3;
      ctx.beginPath(); ctx.moveTo(l.x0, l.y0); ctx.lineTo(l.x1, l.y1); ctx.stroke();
    } else if (e.k !== "call" && e.m >= 0 && lanes.members.has(e.m)) {
      const lane = lanes.members.get(e.m);
      ctx.strokeRect(px(e.t) - 3, lane.top + 1, Math.max(6, px(e.u) - px(e.t) + 6), lane.bottom - lane.top - 2);
    }
    if (call && lanes.clients.has(call.c)) callLines(call);
  }
  ctx.lineWidth = 1;
  if (view.cursor !== END && view.cursor >= view.t0 && view.cursor <= view.t1) {
    ctx.strokeStyle = colours.accent;
    ctx.setLineDash([3, 3]);
    ctx.beginPath(); ctx.moveTo(px(view.cursor), view.y); ctx.lineTo(px(view.cursor), view.y + view.height); ctx.stroke();
    ctx.setLineDash([]);
  }
}
function callLines(call) {
  const y = lanes.clients.get(call.c), lane = lanes.members.get(call.m);
  ctx.strokeStyle = colours.accent;
  ctx.lineWidth = 1.5;
  ctx.beginPath();
  if (lane && call.arrived >= 0) { ctx.moveTo(px(call.t), y); ctx.lineTo(px(call.arrived), lane.bottom); }
  if (lane && call.answered >= 0) { ctx.moveTo(px(call.answered), lane.bottom); ctx.lineTo(px(call.u), y); }
  ctx.stroke();
  if (call.point && lanes.members.has(call.point.m)) {
    ctx.setLineDash([2, 3]);
    ctx.beginPath();
    ctx.moveTo(px(call.point.t), y + CLIENT - 4);
    ctx.lineTo(px(call.point.t), lanes.members.get(call.point.m).bands.get(call.g) ?? y);
    ctx.stroke();
    ctx.setLineDash([]);
  }
}

function drawGutter() {
  ctx.fillStyle = colours.panel;
  ctx.fillRect(0, view.y, GUTTER - 1, view.height);
  ctx.strokeStyle = colours.line;
  ctx.beginPath(); ctx.moveTo(GUTTER - 0.5, view.y); ctx.lineTo(GUTTER - 0.5, view.y + view.height); ctx.stroke();
  const words = (t, y, bold, colour) => fitted(t, 6, y, GUTTER - 12, colour || colours.ink, bold);
  if (lanes.strip.length) words("faults", lanes.faultY + 9, true);
  for (const [m, lane] of lanes.members) {
    ctx.font = "600 12px system-ui, sans-serif";
    ctx.fillStyle = colours.ink;
    ctx.fillText(`member ${m}`, 6, lane.top + 13);
    const left = 11 + ctx.measureText(`member ${m}`).width;
    ctx.font = "10px ui-monospace, monospace";
    ctx.fillStyle = colours.dim;
    ctx.fillText(NODES[m].slice(0, 4), left, lane.top + 13);
    for (const [g, y] of lane.bands) {
      const row = rowAt(m, g, Math.min(view.cursor, END));
      if (y > lane.top + 12 && row) words(`g${g} ${row.last}/${row.commit}/${row.applied}`, y + 10, false, colours.dim);
    }
    if (view.kinds.has("disk")) words("disk", lane.disk + 8, false, colours.dim);
  }
  for (const [c, y] of lanes.clients) words(laneName(c), y + 11);
}

function drawViolation() {
  if (!head.violation || END < view.t0 || END > view.t1 + (view.t1 - view.t0) * 0.1) return;
  const x = px(END);
  ctx.strokeStyle = colours.bad;
  ctx.lineWidth = 2;
  ctx.beginPath(); ctx.moveTo(x, view.y + AXIS); ctx.lineTo(x, view.y + view.height); ctx.stroke();
  ctx.lineWidth = 1;
  ctx.save();
  ctx.translate(x + 12, view.y + AXIS + 8);
  ctx.rotate(Math.PI / 2);
  ctx.font = "600 12px system-ui, sans-serif";
  ctx.fillStyle = colours.bad;
  ctx.textBaseline = "middle";
  ctx.fillText(head.violation.rule, 0, 0);
  ctx.restore();
}

function drawAxis() {
  ctx.fillStyle = colours.panel;
  ctx.fillRect(0, 0, width, AXIS);
  ctx.strokeStyle = colours.line;
  ctx.beginPath(); ctx.moveTo(0, AXIS - 0.5); ctx.lineTo(width, AXIS - 0.5); ctx.stroke();
  ctx.font = "10px ui-monospace, monospace";
  const slots = Math.max(2, Math.floor((width - GUTTER) / 120));
  for (let i = 0; i <= slots; i++) {
    const x = GUTTER + (i * (width - GUTTER)) / slots, t = timeAt(x);
    if (t < 0) continue;
    // As many digits as tell this place from its neighbours.
    const near = Math.max(1, timeAt(x + 60) - timeAt(x - 60));
    const digits = Math.max(1, Math.min(6, 7 - Math.floor(Math.log10(near))));
    ctx.fillStyle = colours.dim;
    ctx.fillText(`${(t / 1e6).toFixed(digits)} s`, x + 3, 13);
    ctx.strokeStyle = colours.line;
    ctx.beginPath(); ctx.moveTo(x + 0.5, 4); ctx.lineTo(x + 0.5, AXIS); ctx.stroke();
  }
  ctx.fillStyle = colours.dim;
  ctx.fillText(`↔ ${span(Math.round(view.t1 - view.t0))}`, 6, 13);
}

/** Where time is squeezed: a stripe, and how long it really was. */
function drawGaps() {
  if (!view.squeezed) return;
  ctx.fillStyle = colours.line;
  let at = 0, hi = knots.length;
  while (at < hi) { const mid = (at + hi) >> 1; if (knots[mid] <= view.t0) at = mid + 1; else hi = mid; }
  for (at = Math.max(1, at); at < knots.length && knots[at - 1] <= view.t1; at++) {
    const gap = knots[at] - knots[at - 1];
    if (gap < view.usual * 8) continue;
    const x0 = Math.max(px(knots[at - 1]), GUTTER), x1 = px(knots[at]);
    if (x1 - x0 < 16) continue;
    ctx.globalAlpha = 0.22;
    ctx.fillStyle = colours.line;
    ctx.fillRect(x0 + 2, AXIS, x1 - x0 - 4, Math.max(view.height, lanes.bottom));
    ctx.globalAlpha = 1;
    if (x1 - x0 > 44) write(`≈ ${span(gap)}`, (x0 + x1) / 2 - 18, lanes.bottom - 4, colours.dim);
  }
}

// The whole run, small.
const DENSITY = 600;
const density = new Float32Array(DENSITY);
for (const e of events) density[Math.min(DENSITY - 1, Math.floor(((e.t - START) / Math.max(1, END - START)) * DENSITY))]++;
const densest = Math.max(1, ...density);
const mapX = (t) => GUTTER + ((t - START) / Math.max(1, END - START)) * (map.clientWidth - GUTTER - 4);
const mapTime = (x) => START + ((x - GUTTER) / (map.clientWidth - GUTTER - 4)) * (END - START);
function drawMap() {
  const ratio = window.devicePixelRatio || 1, w = map.clientWidth, h = map.clientHeight;
  map.width = Math.round(w * ratio);
  map.height = Math.round(h * ratio);
  mapCtx.setTransform(ratio, 0, 0, ratio, 0, 0);
  mapCtx.fillStyle = colours.panel;
  mapCtx.fillRect(0, 0, w, h);
  mapCtx.fillStyle = colours.follower;
  for (let i = 0; i < DENSITY; i++) {
    const tall = (density[i] / densest) * (h - 14), step = (w - GUTTER) / DENSITY;
    mapCtx.fillRect(GUTTER + i * step, h - tall, Math.max(1, step), tall);
  }
  for (const bar of bars) {
    mapCtx.fillStyle = bar.name === "down" ? colours.hatch : colours.fault;
    mapCtx.fillRect(mapX(bar.t), bar.name === "down" ? 7 : 2, Math.max(1, mapX(bar.u) - mapX(bar.t)), 4);
  }
  mapCtx.fillStyle = colours.leader;
  for (const s of states) if (s.turn && s.row.role === "leader" && view.groups.has(s.g)) mapCtx.fillRect(mapX(s.t), 12, 2, 7);
  if (follows()) {
    mapCtx.fillStyle = colours.bad;
    for (const c of commits) if (followed(c)) mapCtx.fillRect(mapX(c.t) - 1, 12, 3, h);
  }
  if (head.violation) { mapCtx.fillStyle = colours.bad; mapCtx.fillRect(mapX(END) - 1, 0, 2, h); }
  mapCtx.strokeStyle = colours.accent;
  mapCtx.lineWidth = 2;
  const x0 = Math.max(GUTTER, mapX(view.t0)), x1 = Math.min(w - 1, mapX(view.t1));
  mapCtx.strokeRect(x0, 1, Math.max(3, x1 - x0), h - 2);
  mapCtx.fillStyle = colours.dim;
  mapCtx.font = "10px system-ui, sans-serif";
  mapCtx.fillText("whole run", 6, 14);
  mapCtx.fillText(span(END - START), 6, 28);
}
