// The drawing: time runs to the right, members and clients are lanes, messages go across.
// Nothing here changes what is looked at; `main.js` does, and asks for a new drawing.

const GUTTER = 106, BAND = 15, NOTE = 13, DISK = 11, CLIENT = 19, FAULT = 15, AXIS = 20;
const canvas = document.getElementById("lanes"), map = document.getElementById("map");
const ctx = canvas.getContext("2d"), mapCtx = map.getContext("2d");

/** What is looked at: the stretch of time, what is shown, what is picked out. */
const view = {
  t0: 0, t1: END, w0: 0, w1: END, squeezed: true, usual: Infinity, y: 0, height: 0,
  groups: new Set(GROUPS), members: new Set(NODES.keys()),
  clients: new Set(Array.from({ length: raw.clients }, (_, c) => c)),
  kinds: new Set(["vote", "append", "ack", "read", "propose", "snapshot", "other", "disk", "notes"]),
  key: "", index: 0, chosen: null, hover: null, cursor: END,
};

/** Faults under which a process stands still: they hatch its lane. */
const STILL = new Set(["pause", "long-pause", "freeze-all"]);

let colours = {};
function readColours() {
  const style = getComputedStyle(document.documentElement);
  colours = new Proxy({}, { get: (there, name) => there[name] || (there[name] = style.getPropertyValue("--" + name).trim()) });
}

/** A hue of its own for each term, so that the same term is found again in another lane. */
const termColour = (term) => `hsl(${(term * 137.5) % 360} 62% 72%)`;

const follows = () => view.index > 0 && view.groups.size === 1;
const followed = (e) => follows() && touches(e, [...view.groups][0], view.index);
const hasKey = (e) => view.key !== "" && wordsOf(e).includes(view.key);
/** Whether an event is pushed back because something else is picked out. */
const isFaint = (e) => !(e.k === "message" && partsShown(e).some((p) => p.family === "vote" || p.family === "snapshot"))
  && (follows() || view.key !== "") && !(followed(e) || hasKey(e)) && e !== view.chosen && e !== about.call && e !== about.witness;

function partsShown(e) {
  return e.parts.filter((p) => view.kinds.has(p.family) && (p.g === 0 || view.groups.has(p.g)));
}
function shows(e) {
  switch (e.k) {
    case "message": return view.members.has(e.from) && view.members.has(e.to) && partsShown(e).length > 0;
    case "work": return view.kinds.has("disk") && view.members.has(e.m) && showsWork(e);
    case "note": return view.kinds.has("notes") && (e.m < 0 || view.members.has(e.m)) && (!e.g || view.groups.has(e.g));
    case "call": return view.clients.has(e.c) && view.groups.has(e.g);
    case "mark": return view.clients.has(e.c);
    case "commit": case "state": return view.members.has(e.m) && view.groups.has(e.g);
    default: return true;
  }
}
function showsWork(e) {
  if (view.groups.size === GROUPS.length || e.work === "sync") return true;
  const named = e.text.match(/\bg\d+\b/g);
  return !named || named.some((g) => view.groups.has(+g.slice(1)));
}

// Where things are.
let lanes = { faults: [], faultY: 0, members: new Map(), clients: new Map(), bottom: 0 };
function layOut() {
  const groups = GROUPS.filter((g) => view.groups.has(g));
  const shown = [...view.members].sort(), clients = [...view.clients].sort((a, b) => a - b);
  const content = (view.kinds.has("notes") ? NOTE : 0) + groups.length * BAND + (view.kinds.has("disk") ? DISK : 0) + 6;
  let y = AXIS + 2;
  const rows = [];
  const strip = bars.filter((b) => b.name !== "down" && [...b.touched].some((m) => view.members.has(m)));
  for (const bar of strip) {
    let row = rows.findIndex((end) => end <= bar.t);
    if (row < 0) row = rows.length < 4 ? rows.push(0) - 1 : 3;
    rows[row] = bar.u;
    bar.row = row;
  }
  const faultY = y;
  y += rows.length * FAULT + 8;
  const fixed = y + shown.length * content + clients.length * CLIENT + 20;
  const gap = Math.max(34, Math.min(150, (view.height - fixed) / Math.max(1, shown.length)));
  const members = new Map();
  for (const m of shown) {
    const top = y, note = top + 3;
    let at = note + (view.kinds.has("notes") ? NOTE : 0);
    const bands = new Map();
    for (const g of groups) { bands.set(g, at); at += BAND; }
    const disk = at + 1;
    members.set(m, { top, note, bands, disk, bottom: top + content });
    y = top + content + gap;
  }
  y -= gap - 14;
  const rowOf = new Map();
  for (const c of clients) { rowOf.set(c, y); y += CLIENT; }
  lanes = { strip, faultY, members, clients: rowOf, bottom: y + 8 };
  view.y = Math.max(0, Math.min(view.y, lanes.bottom - view.height));
}

let width = 0;

// Time on the sheet. Where nothing happens that is shown, time is squeezed: a wait of a second is
// then not a thousand times as wide as the exchange that ends it. `warp` goes from virtual time to
// a place on the squeezed scale, `unwarp` back; without squeezing both leave things as they are.
let knots = new Float64Array(0), places = new Float64Array(0);
function squeeze() {
  const times = [START, END];
  if (view.squeezed) {
    for (const e of events) if (e.k !== "work" && (e.k !== "state" || e.turn) && shows(e)) {
      times.push(e.t);
      if (e.u < END && !e.flying && !e.copy) times.push(e.u);
    }
  }
  const sorted = Float64Array.from(times).sort();
  const gaps = [];
  for (let i = 1; i < sorted.length; i++) if (sorted[i] > sorted[i - 1]) gaps.push(sorted[i] - sorted[i - 1]);
  gaps.sort((a, b) => a - b);
  const usual = view.squeezed ? Math.max(30, 3 * (gaps[gaps.length >> 1] || 0)) : Infinity;
  knots = []; places = [];
  let place = 0;
  for (let i = 0; i < sorted.length; i++) {
    if (i && sorted[i] === sorted[i - 1]) continue;
    if (i) {
      const gap = sorted[i] - knots[knots.length - 1];
      place += gap <= usual ? gap : usual * (1 + 0.6 * Math.log(gap / usual));
    }
    knots.push(sorted[i]); places.push(place);
  }
  view.usual = usual;
}
function between(from, to, x) {
  const n = from.length - 1;
  if (n < 1 || x <= from[0]) return to[0] + (x - from[0]);
  if (x >= from[n]) return to[n] + (x - from[n]);
  let lo = 0, hi = n;
  while (hi - lo > 1) {
    const mid = (lo + hi) >> 1;
    if (from[mid] <= x) lo = mid; else hi = mid;
  }
  return to[lo] + ((x - from[lo]) / (from[hi] - from[lo])) * (to[hi] - to[lo]);
}
const warp = (t) => between(knots, places, t);
const unwarp = (w) => between(places, knots, w);
const px = (t) => GUTTER + ((warp(t) - view.w0) / (view.w1 - view.w0)) * (width - GUTTER);
const timeAt = (x) => unwarp(view.w0 + ((x - GUTTER) / (width - GUTTER)) * (view.w1 - view.w0));

/** What the pointer can meet: filled by the drawing. */
let targets = [];
function target(e, x0, y0, x1, y1, line) { if (targets.length < 30000) targets.push({ e, x0, y0, x1, y1, line }); }

/** Places that already hold words, so that no two are written over each other. */
let taken = [];
function write(words, x, y, colour, bold, least) {
  ctx.font = (bold ? "600 " : "") + "10px system-ui, sans-serif";
  const w = ctx.measureText(words).width;
  if (x + w > width - 3 && x - w - 10 > GUTTER) x -= w + 10;
  const box = [x - 1, y - 9, x + w + 2, y + 3];
  if (least !== undefined && x + w > least) return false;
  for (const t of taken) if (box[0] < t[2] && box[2] > t[0] && box[1] < t[3] && box[3] > t[1]) return false;
  if (taken.length > 900) return false;
  taken.push(box);
  // A rim of the ground's colour keeps words readable over lines.
  ctx.save();
  ctx.globalAlpha = 0.85;
  ctx.setLineDash([]);
  ctx.lineWidth = 3;
  ctx.lineJoin = "round";
  ctx.strokeStyle = colours.ground;
  ctx.strokeText(words, x, y);
  ctx.restore();
  ctx.fillStyle = colour;
  ctx.fillText(words, x, y);
  return true;
}
function fitted(words, x, y, room, colour, bold) {
  if (room < 12) return;
  ctx.font = (bold ? "600 " : "") + "10px system-ui, sans-serif";
  let text = words;
  if (ctx.measureText(text).width > room) {
    const share = room / ctx.measureText(text).width;
    text = text.slice(0, Math.max(0, Math.floor(text.length * share) - 1));
    if (text.length < 2) return;
    text += "…";
  }
  ctx.fillStyle = colour;
  ctx.fillText(text, x, y);
}

function draw() {
  const ratio = window.devicePixelRatio || 1;
  width = canvas.clientWidth;
  view.height = canvas.clientHeight;
  if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(view.height * ratio)) {
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(view.height * ratio);
  }
  ctx.setTransform(ratio, 0, 0, ratio, 0, 0);
  ctx.fillStyle = colours.ground;
  ctx.fillRect(0, 0, width, view.height);
  layOut();
  targets = [];
  // The end's line keeps its place free.
  taken = head.violation ? [[px(END) - 2, view.y + AXIS, px(END) + 20, view.y + AXIS + 140]] : [];
  ctx.save();
  ctx.translate(0, -view.y);
  ctx.save();
  ctx.beginPath();
  ctx.rect(GUTTER, view.y, width - GUTTER, view.height);
  ctx.clip();
  drawGaps();
  drawLaneGrounds();
  drawFaults();
  drawBands();
  drawWorks();
  drawMessages();
  drawNotes();
  drawCommits();
  drawClients();
  drawChosen();
  ctx.restore();
  drawGutter();
  drawViolation();
  ctx.restore();
  drawAxis();
  drawMap();
}

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
for (const e of messages) if (!e.copy) longest = Math.max(longest, e.u - e.t);
function drawMessages() {
  const shown = [];
  const spots = new Set();
  let at = after(messages, view.t0 - Math.max(longest, 8.1e6));
  for (; at < messages.length && messages[at].t <= view.t1; at++) {
    const e = messages[at];
    if (e.u < view.t0 || !shows(e)) continue;
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
    if (!loud && x - (last.get(y) ?? -9) < 4) continue;
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
  for (const [c, y] of lanes.clients) words(`client ${c}`, y + 11);
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
