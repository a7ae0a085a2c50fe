// The members' lanes and what goes between them: faults, roles and terms, disk, messages, commits.

function drawLaneGrounds() {
  for (const [m, lane] of lanes.members) {
    ctx.fillStyle = colours.lane;
    ctx.fillRect(GUTTER, lane.top, width, lane.bottom - lane.top);
    ctx.strokeStyle = colours.line;
    ctx.strokeRect(GUTTER - 1, lane.top + 0.5, width + 2, lane.bottom - lane.top - 1);
    for (const bar of bars) {
      if (bar.u < view.t0 || bar.t > view.t1 || !bar.touched.has(m)) continue;
      const x = px(bar.t), w = Math.max(1, px(bar.u) - x);
      if (bar.name === "down" || STILL.has(bar.name)) continue;
      // A thin edge in the lane of every member that a fault touches.
      ctx.fillStyle = colours.fault;
      ctx.fillRect(x, lane.top, w, 3);
    }
  }
}

function hatch(x, y, w, h, step) {
  ctx.save();
  ctx.beginPath();
  ctx.rect(x, y, w, h);
  ctx.clip();
  ctx.strokeStyle = colours.hatch;
  ctx.lineWidth = 1;
  ctx.beginPath();
  const from = Math.max(x, GUTTER) - h, to = Math.min(x + w, width);
  for (let at = from - (from % step); at < to; at += step) { ctx.moveTo(at, y + h); ctx.lineTo(at + h, y); }
  ctx.stroke();
  ctx.restore();
}

function drawFaults() {
  for (const bar of lanes.strip) {
    if (bar.u < view.t0 || bar.t > view.t1) continue;
    const x = px(bar.t), w = Math.max(2, px(bar.u) - x), y = lanes.faultY + bar.row * FAULT;
    ctx.fillStyle = colours.fault;
    ctx.fillRect(x, y, w, FAULT - 3);
    const left = Math.max(x, GUTTER) + 3;
    fitted(bar.text, left, y + 9, Math.min(x + w, width) - left - 2, colours["fault-ink"], true);
    target(bar, x, y, x + w, y + FAULT - 3);
  }
}

function roleColour(role) {
  if (role === "leader") return colours.leader;
  return role.startsWith("asks") ? colours.candidate : colours.follower;
}

function drawBands() {
  for (const [m, lane] of lanes.members) {
    for (const [g, y] of lane.bands) {
      const rows = rowsOf.get(m + "/" + g) || [];
      let at = Math.max(0, after(rows, view.t0) - 1);
      let tick = -9;
      for (; at < rows.length && rows[at].t <= view.t1; ) {
        const first = rows[at];
        // A band goes on until role or term change, whatever else does.
        let next = at + 1;
        let place = first.row;
        while (next < rows.length && rows[next].row.role === first.row.role && rows[next].row.term === first.row.term) {
          const moved = rows[next];
          if (moved.t > view.t1) break;
          if (moved.row.commit !== place.commit && moved.t >= view.t0) {
            const x = px(moved.t);
            if (x - tick > 3) { target(moved, x - 2, y + BAND - 5, x + 2, y + BAND); tick = x; }
          }
          place = moved.row;
          next++;
        }
        const u = next < rows.length ? rows[next].t : END;
        const x = px(first.t), w = px(Math.min(u, END)) - x;
        ctx.fillStyle = roleColour(first.row.role);
        ctx.fillRect(x, y, Math.max(1, w - 0.5), BAND - 2);
        target(first, x, y, x + w, y + BAND - 2);
        const left = Math.max(x, GUTTER) + 3, right = Math.min(x + w, width);
        const ink = first.row.role === "leader" ? colours["leader-ink"] : colours["band-ink"];
        const said = `t${first.row.term} ${first.row.role}${first.row.role === "follower" && first.row.leader ? " of " + nameOf(first.row.leader) : ""}`;
        fitted(view.groups.size > 1 ? `g${g} ${said}` : said, left, y + 10, right - left - 2, ink, first.row.role === "leader");
        at = next;
      }
      drawCommitTicks(rows, y);
      drawConfs(rows, y);
    }
    for (const bar of downs.concat(bars.filter((b) => STILL.has(b.name)))) {
      if (!bar.members.includes(m) || bar.u < view.t0 || bar.t > view.t1) continue;
      const x = px(bar.t), w = Math.max(2, px(bar.u) - x), h = lane.bottom - lane.top;
      if (bar.name === "down") {
        ctx.fillStyle = colours.lane;
        ctx.fillRect(x, lane.top + 1, w, h - 2);
      }
      hatch(x, lane.top, w, h, bar.name === "down" ? 7 : 14);
      write(bar.name === "down" ? "DOWN" : bar.name, Math.max(x, GUTTER) + 4, lane.top + h / 2 + 3, colours.ink, true, x + w);
      target(bar, x, lane.top, x + w, lane.bottom);
    }
  }
}

/** Where the configuration that a replica goes by became another one. */
function drawConfs(rows, y) {
  for (let at = Math.max(1, after(rows, view.t0)); at < rows.length && rows[at].t <= view.t1; at++) {
    const e = rows[at], before = rows[at - 1];
    if (e.row.conf === before.row.conf) continue;
    const x = px(e.t);
    ctx.fillStyle = colours.vote;
    ctx.fillRect(x - 1, y - 1, 2.5, BAND);
    target(e, x - 3, y - 1, x + 3, y + BAND);
    write(`members ${confWords(e.row.conf)}`, x + 4, y + 10, colours.vote, true);
  }
}

/** Ticks where the commit index moved, with its number where there is room. */
function drawCommitTicks(rows, y) {
  ctx.fillStyle = colours["band-ink"];
  let last = -99, before = 0;
  for (let at = Math.max(1, after(rows, view.t0)); at < rows.length && rows[at].t <= view.t1; at++) {
    before = rows[at - 1].row.commit;
    const now = rows[at].row.commit;
    if (now === before) continue;
    const x = px(rows[at].t);
    if (x - last < 2) continue;
    last = x;
    ctx.fillStyle = colours["band-ink"];
    ctx.fillRect(x - 0.5, y + BAND - 6, 1, 4);
  }
}

function nameOf(node) {
  const m = NODES.indexOf(node);
  return m < 0 ? node : String(m);
}

const WORK_COLOUR = {
  write: "write", sync: "sync", apply: "apply", background: "background", "log read": "other",
  "serve snapshot": "install", "install snapshot": "install",
};
function drawWorks() {
  if (!view.kinds.has("disk")) return;
  const seen = new Map();
  let at = after(works, view.t0 - 2e6);
  for (; at < works.length && works[at].t <= view.t1; at++) {
    const e = works[at];
    if (e.u < view.t0 || !shows(e)) continue;
    const lane = lanes.members.get(e.m);
    const x = px(e.t), w = Math.max(1, px(e.u) - x);
    // One per pixel is enough when there are thousands.
    const spot = e.m + e.work + Math.round(x);
    if (w < 2 && seen.get(spot)) continue;
    seen.set(spot, true);
    const slim = e.work === "background" || e.work === "apply";
    const y = lane.disk + (e.work === "apply" ? 5 : 0), h = slim ? 4 : DISK - 2;
    ctx.globalAlpha = isFaint(e) ? 0.25 : e.work === "background" ? 0.5 : 1;
    ctx.fillStyle = colours[WORK_COLOUR[e.work] || "other"];
    if (e.work === "write") { ctx.fillRect(x, y, w, 4); } else if (e.work === "sync") { ctx.fillRect(x, y + 5, Math.max(w, 1), 4); ctx.fillRect(x + w - 1.5, y, 1.5, DISK - 2); } else ctx.fillRect(x, y, w, h);
    ctx.globalAlpha = 1;
    target(e, x, lane.disk - 1, x + Math.max(w, 3), lane.disk + DISK - 1);
  }
}

function arrow(e) {
  const from = lanes.members.get(e.from), to = lanes.members.get(e.to);
  const downward = from.top < to.top;
  return {
    x0: px(e.t), y0: downward ? from.bottom : from.top, x1: px(e.u), y1: downward ? to.top : to.bottom,
  };
}

function familyOf(parts) {
  return RANK.find((f) => parts.some((p) => p.family === f)) || "other";
}
function messageWords(parts) {
  const p = parts.find((q) => follows() && q.from <= view.index && view.index <= q.to) || parts[0];
  const more = parts.length > 1 ? ` +${parts.length - 1}` : "";
  const words = p.text.length > 46 ? p.text.slice(0, 45) + "…" : p.text;
  return `${p.term ? "t" + p.term + " " : ""}${words}${more}`;
}

let longest = 0;
for (const e of messages) e.rank = RANK.indexOf(familyOf(e.parts));
for (const e of messages) if (!e.copy) longest = Math.max(longest, e.u - e.t);
function drawMessages() {
  const shown = [];
  const spots = new Set();
  let at = after(messages, view.t0 - Math.max(longest, 8.1e6));
  // With thousands in sight one arrow per place, way and kind stands for all that lie under it.
  const crowded = after(messages, view.t1) - at > 3000, under = new Set();
  for (; at < messages.length && messages[at].t <= view.t1; at++) {
    const e = messages[at];
    if (e.u < view.t0) continue;
    if (crowded && e !== view.chosen) {
      const place = (((Math.round(px(e.t) / 2) * 16 + e.from) * 16 + e.to) * 8 + e.rank) * 2 + (e.lost ? 1 : 0);
      if (under.has(place) && !followed(e)) continue;
      under.add(place);
    }
    if (!shows(e)) continue;
    const parts = partsShown(e), line = arrow(e), family = familyOf(parts);
    const spot = `${e.from}${e.to}${family}${e.lost}${Math.round(line.x0)}/${Math.round(line.x1)}`;
    const faint = isFaint(e);
    if (faint && spots.has(spot)) continue;
    if (spots.has(spot) && shown.length > 4000) continue;
    spots.add(spot);
    shown.push({ e, line, family, parts, faint });
  }
  const crowd = shown.length > 1500 ? 0.35 : shown.length > 500 ? 0.65 : 1;
  // One stroke per look, not per arrow: tens of thousands stay quick.
  const looks = new Map();
  for (const s of shown) {
    const look = `${s.family}/${s.faint}/${s.e.lost || s.e.copy !== "" || s.e.flying}`;
    if (!looks.has(look)) looks.set(look, []);
    looks.get(look).push(s);
  }
  for (const list of looks.values()) {
    const { family, faint, e: first } = list[0];
    ctx.strokeStyle = ctx.fillStyle = colours[family] || colours.other;
    ctx.globalAlpha = faint ? 0.13 : crowd;
    ctx.lineWidth = follows() && !faint ? 1.7 : 1;
    ctx.setLineDash(first.copy || first.flying ? [5, 3] : first.lost ? [2, 2] : []);
    ctx.beginPath();
    for (const { line, e } of list) {
      if (e.lost && e.t === e.u) {
        // It never set out: a stub towards the receiver.
        const s = stub(line);
        ctx.moveTo(line.x0, line.y0); ctx.lineTo(s.x, s.y);
      } else {
        ctx.moveTo(line.x0, line.y0); ctx.lineTo(line.x1, line.y1);
      }
    }
    ctx.stroke();
    ctx.setLineDash([]);
    if (shown.length < 3000) drawHeads(list);
  }
  ctx.globalAlpha = 1;
  ctx.lineWidth = 1;
  for (const { e, line } of shown) {
    if (e.lost && e.t === e.u) { const s = stub(line); target(e, line.x0, line.y0, s.x, s.y, true); } else target(e, line.x0, line.y0, line.x1, line.y1, true);
  }
  const order = shown.filter((s) => !s.faint).sort((a, b) => RANK.indexOf(a.family) - RANK.indexOf(b.family));
  if (order.length < 900) for (const { e, line, family, parts } of order) {
    if (e.lost && e.t === e.u) {
      if (family !== "heartbeat" && family !== "ack") write(messageWords(parts), line.x0 + 6, line.y0 + (line.y1 > line.y0 ? 10 : -4), colours[family]);
      continue;
    }
    // Beside the arrow, a third of the way along; further on when that place is taken.
    for (const share of [0.3, 0.55, 0.8]) {
      const x = line.x0 + (line.x1 - line.x0) * share + 4, y = line.y0 + (line.y1 - line.y0) * share + 3;
      if (x > width || x < GUTTER || write(messageWords(parts), x, y, colours[family])) break;
    }
  }
}
function stub(line) {
  return { x: line.x0 + 2, y: line.y0 + Math.sign(line.y1 - line.y0) * 12 };
}
function drawHeads(list) {
  for (const { line, e } of list) {
    if (e.lost) {
      const at = e.t === e.u ? stub(line) : { x: line.x1, y: line.y1 };
      ctx.save();
      ctx.strokeStyle = colours.bad;
      ctx.lineWidth = 1.6;
      ctx.beginPath();
      ctx.moveTo(at.x - 3, at.y - 3); ctx.lineTo(at.x + 3, at.y + 3);
      ctx.moveTo(at.x - 3, at.y + 3); ctx.lineTo(at.x + 3, at.y - 3);
      ctx.stroke();
      ctx.restore();
    } else if (!e.flying) {
      const angle = Math.atan2(line.y1 - line.y0, line.x1 - line.x0);
      ctx.beginPath();
      ctx.moveTo(line.x1, line.y1);
      ctx.lineTo(line.x1 - 7 * Math.cos(angle - 0.35), line.y1 - 7 * Math.sin(angle - 0.35));
      ctx.lineTo(line.x1 - 7 * Math.cos(angle + 0.35), line.y1 - 7 * Math.sin(angle + 0.35));
      ctx.fill();
    }
  }
}

function drawNotes() {
  if (!view.kinds.has("notes")) return;
  for (let at = after(notes, view.t0 - 1); at < notes.length && notes[at].t <= view.t1; at++) {
    const e = notes[at];
    if (!shows(e)) continue;
    const x = px(e.t), lane = lanes.members.get(e.m);
    const y = lane ? lane.note + 9 : AXIS + 9;
    ctx.fillStyle = colours.dim;
    ctx.beginPath();
    ctx.moveTo(x - 3, y - 8); ctx.lineTo(x + 3, y - 8); ctx.lineTo(x, y - 2);
    ctx.fill();
    target(e, x - 4, y - 9, x + 4, y + 1);
    const loud = /elected|crash|stops|boots|refuse|truncat|stepped|install|loses|nemesis/.test(e.text);
    if (lane) write(view.groups.size > 1 && e.g ? `g${e.g} ${e.text}` : e.text, x + 5, y, loud ? colours.ink : colours.dim, loud);
  }
}

function drawCommits() {
  let last = new Map();
  for (let at = after(commits, view.t0 - 1); at < commits.length && commits[at].t <= view.t1; at++) {
    const e = commits[at];
    if (!shows(e)) continue;
    const y = lanes.members.get(e.m).bands.get(e.g) + BAND / 2 - 1, x = px(e.t);
    const loud = followed(e) || e === view.chosen;
    if (!loud && x - (last.get(y) ?? -9) < 6) continue;
    last.set(y, x);
    const r = loud ? 6 : 3;
    ctx.fillStyle = termColour(e.term);
    ctx.strokeStyle = loud ? colours.bad : colours["band-ink"];
    ctx.lineWidth = loud ? 2 : 0.8;
    ctx.beginPath();
    ctx.moveTo(x, y - r); ctx.lineTo(x + r, y); ctx.lineTo(x, y + r); ctx.lineTo(x - r, y);
    ctx.closePath();
    ctx.fill(); ctx.stroke();
    ctx.lineWidth = 1;
    target(e, x - r, y - r, x + r, y + r);
    if (loud) write(`${e.index}@${e.term}`, x + 8, y - 8, colours.bad, true);
  }
}
