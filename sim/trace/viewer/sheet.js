// The sheet: what of the run is looked at, where on it each moment and each lane stands, and words
// that do not lie over each other. Time runs to the right. Nothing here changes what is looked at;
// `main.js` does, and asks for a new drawing.

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
    for (const e of events) if (e.k !== "work" && (e.k !== "state" || e.turn) && shows(e) && !(isFaint(e) && (e.k === "message" || e.k === "call" || e.k === "commit"))) {
      times.push(e.t);
      if (e.u < END && !e.flying && !e.copy) times.push(e.u);
    }
  }
  const sorted = Float64Array.from(times).sort();
  const gaps = [];
  for (let i = 1; i < sorted.length; i++) if (sorted[i] > sorted[i - 1]) gaps.push(sorted[i] - sorted[i - 1]);
  gaps.sort((a, b) => a - b);
  const usual = view.squeezed ? Math.max(30, 3 * (gaps[gaps.length >> 1] || 0)) : Infinity;
  const at = [], to = [];
  let place = 0;
  for (let i = 0; i < sorted.length; i++) {
    if (i && sorted[i] === sorted[i - 1]) continue;
    if (i) {
      const gap = sorted[i] - at[at.length - 1];
      place += gap <= usual ? gap : usual * (1 + 0.4 * Math.log(gap / usual));
    }
    at.push(sorted[i]); to.push(place);
  }
  knots = Float64Array.from(at);
  places = Float64Array.from(to);
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
