// Hands: keys, wheel, pointer, filters. Whatever changes what is looked at is here.

const MIN_SPAN = 20;
let drawing = 0;
function redraw() {
  if (!drawing) drawing = requestAnimationFrame(() => { drawing = 0; draw(); drawList(); });
}
/** Looks at a stretch of the squeezed scale. */
function lookAt(w0, w1, quietly) {
  const whole = places[places.length - 1];
  const wide = Math.min(Math.max(MIN_SPAN, w1 - w0), whole * 1.3 + 1000);
  view.w0 = Math.max(-wide * 0.5, Math.min(w0, whole - wide * 0.2));
  view.w1 = view.w0 + wide;
  view.t0 = unwarp(view.w0);
  view.t1 = unwarp(view.w1);
  redraw();
  if (!quietly) scrollTo(chosenInSight() ? view.chosen.t : view.t1);
}
const look = (t0, t1, quietly) => lookAt(warp(t0), warp(t1), quietly);
/** From a moment to the end, with a margin for the end's line. */
function lookFrom(t, before) {
  const range = Math.max(200, warp(END) - warp(t));
  lookAt(warp(t) - range * before, warp(END) + range * 0.05);
}
const chosenInSight = () => view.chosen && view.chosen.t >= view.t0 && view.chosen.t <= view.t1;
function zoom(by, x) {
  const at = view.w0 + (((x ?? (width + GUTTER) / 2) - GUTTER) / (width - GUTTER)) * (view.w1 - view.w0);
  const range = (view.w1 - view.w0) * by, share = (at - view.w0) / (view.w1 - view.w0);
  lookAt(at - range * share, at - range * share + range, true);
}
function pan(by) { const d = (view.w1 - view.w0) * by; lookAt(view.w0 + d, view.w1 + d); }

/** The newest events before the end: as many as can be read. */
function fitEnd(count) {
  const shown = [];
  for (let i = events.length - 1; i >= 0 && shown.length < count; i--) {
    const e = events[i];
    if ((e.k === "message" || e.k === "call" || e.k === "commit" || e.k === "state" && e.turn) && shows(e)) shown.push(e);
  }
  lookFrom(shown.length ? shown[shown.length - 1].t : START, 0);
}
/** From the first event that the story tells of the followed entry or key to the end. */
function fitStory() {
  const mine = follows() || view.key ? events.filter((e) => (followed(e) || hasKey(e)) && shows(e)) : [];
  if (!mine.length) { fitEnd(400); return; }
  lookFrom(Math.min(mine[0].t, about.witness ? about.witness.t : END), 0.05);
}
const fitAll = () => lookFrom(START, 0);

function setCursor(t) { view.cursor = t; showState(); redraw(); }
function choose(e, t, centre) {
  view.chosen = e;
  chosenLine = lines.findIndex((l) => l.e === e && (t === undefined || l.t === t));
  setCursor(e.k === "violation" ? END : Math.min(END, t ?? e.t));
  showChosen();
  const at = t ?? e.t;
  if (centre && (at < view.t0 || at > view.t1)) {
    const range = view.w1 - view.w0;
    lookAt(warp(at) - range * 0.5, warp(at) + range * 0.5, true);
  }
  if (!centre) scrollTo(at); else drawList();
}
function follow(g, index) {
  view.groups = new Set([g]);
  view.index = index;
  element("index").value = index || "";
  mode = "story";
  filtersChanged();
  fitStory();
}

function filtersChanged() {
  for (const [id, set, all] of [["groups", view.groups, GROUPS], ["members", view.members, [...NODES.keys()]], ["clients", view.clients, [...Array(raw.clients).keys()]], ["kinds", view.kinds, KINDS]]) {
    const buttons = element(id).querySelectorAll("button");
    all.forEach((value, i) => { buttons[i].className = set.has(value) ? "on" : ""; });
  }
  squeeze();
  look(view.t0, view.t1, true);
  refreshList();
  showState();
  showLogs();
}
/** A switch for each; with shift or a second click, only this one. */
function switches(id, all, set, names) {
  all.forEach((value, i) => {
    const b = make("button", "on", names ? names[i] : String(value));
    b.title = "click: on or off; shift and click: only this, or all";
    b.onclick = (ev) => {
      const s = view[set];
      if (ev.shiftKey) {
        const alone = s.size === 1 && s.has(value);
        s.clear();
        for (const v of alone ? all : [value]) s.add(v);
      } else if (s.has(value)) s.delete(value); else s.add(value);
      filtersChanged();
    };
    element(id).append(b);
  });
}
const KINDS = ["vote", "append", "ack", "heartbeat", "read", "propose", "snapshot", "other", "disk", "notes"];

// The pointer.
function meets(x, y) {
  const yy = y + view.y;
  let best = null, near = 6;
  for (let i = targets.length - 1; i >= 0; i--) {
    const t = targets[i];
    let d;
    if (t.line) {
      const dx = t.x1 - t.x0, dy = t.y1 - t.y0, l2 = dx * dx + dy * dy;
      const s = l2 ? Math.max(0, Math.min(1, ((x - t.x0) * dx + (yy - t.y0) * dy) / l2)) : 0;
      d = Math.hypot(x - t.x0 - s * dx, yy - t.y0 - s * dy);
      if (isFaint(t.e)) d += 3;
    } else {
      const ox = Math.max(t.x0 - x, 0, x - t.x1), oy = Math.max(t.y0 - yy, 0, yy - t.y1);
      d = Math.hypot(ox, oy);
      if (d === 0) d = t.x1 - t.x0 > 60 ? 0.5 : 0.1;
    }
    if (d < near) { near = d; best = t.e; }
  }
  return best;
}
const tip = element("tip");
function hover(x, y) {
  const e = x > GUTTER ? meets(x, y) : null;
  if (!e) { tip.hidden = true; return; }
  const when = e.u > e.t ? `${seconds(e.t)} +${span(e.u - e.t)}` : seconds(e.t);
  tip.textContent = `${when}  ${whoOf(e)} ${groupOf(e)}\n${wordsOf(e).slice(0, 600)}`;
  tip.hidden = false;
  tip.style.left = Math.max(4, Math.min(x + 14, width - tip.offsetWidth - 8)) + "px";
  tip.style.top = (y + 20 + tip.offsetHeight > view.height ? Math.max(0, y - tip.offsetHeight - 10) : y + 16) + "px";
}
let drag = null;
canvas.onpointerdown = (ev) => {
  canvas.setPointerCapture(ev.pointerId);
  drag = { x: ev.offsetX, y: ev.offsetY, w0: view.w0, w1: view.w1, top: view.y, moved: false };
  canvas.className = "dragging";
};
canvas.onpointermove = (ev) => {
  if (!drag) { hover(ev.offsetX, ev.offsetY); return; }
  const dx = ev.offsetX - drag.x, dy = ev.offsetY - drag.y;
  if (Math.abs(dx) + Math.abs(dy) > 3) drag.moved = true;
  if (!drag.moved) return;
  tip.hidden = true;
  const d = (-dx / (width - GUTTER)) * (drag.w1 - drag.w0);
  view.y = Math.max(0, Math.min(drag.top - dy, Math.max(0, lanes.bottom - view.height)));
  lookAt(drag.w0 + d, drag.w1 + d, true);
};
canvas.onpointerup = (ev) => {
  canvas.className = "";
  const still = drag && !drag.moved;
  drag = null;
  if (!still) { scrollTo(view.t1); return; }
  const e = meets(ev.offsetX, ev.offsetY);
  if (e) choose(e);
  else if (ev.offsetX > GUTTER) { view.chosen = null; setCursor(Math.min(END, Math.round(timeAt(ev.offsetX)))); scrollTo(view.cursor); }
};
canvas.onpointercancel = () => { drag = null; canvas.className = ""; };
canvas.onpointerleave = () => { tip.hidden = true; };
canvas.ondblclick = (ev) => zoom(0.4, ev.offsetX);
canvas.addEventListener("wheel", (ev) => {
  ev.preventDefault();
  const unit = ev.deltaMode === 1 ? 16 : ev.deltaMode === 2 ? 400 : 1;
  const dx = ev.deltaX * unit, dy = ev.deltaY * unit;
  if (ev.shiftKey || Math.abs(dx) > Math.abs(dy)) pan((dx || dy) / 1200);
  else zoom(Math.exp(Math.max(-1, Math.min(1, dy / 400))), ev.offsetX);
}, { passive: false });

let mapDrag = false;
const mapTo = (ev) => { const range = view.w1 - view.w0, at = warp(mapTime(ev.offsetX)); lookAt(at - range / 2, at + range / 2); };
map.onpointerdown = (ev) => { map.setPointerCapture(ev.pointerId); mapDrag = true; mapTo(ev); };
map.onpointermove = (ev) => { if (mapDrag) mapTo(ev); };
map.onpointerup = map.onpointercancel = () => { mapDrag = false; };

const split = element("split");
split.onpointerdown = (ev) => {
  split.setPointerCapture(ev.pointerId);
  split.onpointermove = (e) => { document.querySelector("aside").style.width = Math.max(160, document.body.clientWidth - e.clientX) + "px"; redraw(); };
};
split.onpointerup = () => { split.onpointermove = null; };

document.onkeydown = (ev) => {
  if (ev.target instanceof HTMLInputElement) {
    if (ev.key === "Escape") ev.target.blur();
    return;
  }
  if (ev.ctrlKey || ev.metaKey || ev.altKey) return;
  const act = {
    ArrowLeft: () => pan(-0.2), ArrowRight: () => pan(0.2), "+": () => zoom(0.6), "=": () => zoom(0.6), "-": () => zoom(1.6),
    ArrowUp: () => step(-1), ArrowDown: () => step(1),
    f: () => fitEnd(120), s: fitStory, a: fitAll, l: () => element("legend-button").click(),
    t: () => element("squeeze").click(),
    h: () => { if (!view.kinds.delete("heartbeat")) view.kinds.add("heartbeat"); filtersChanged(); },
    "/": () => element("search").focus(), n: () => findNext(false), N: () => findNext(true),
    Escape: () => { view.chosen = null; setCursor(END); element("legend").hidden = true; drawList(); },
  }[ev.key];
  if (act) { ev.preventDefault(); act(); }
};
/** The next line of the list. */
function step(by) {
  const i = Math.max(0, Math.min(lines.length - 1, (chosenLine < 0 ? lines.length : chosenLine) + by));
  if (!lines[i]) return;
  choose(lines[i].e, lines[i].t, true);
  chosenLine = i;
  scrollTo(lines[i].t);
}

element("fit-end").onclick = () => fitEnd(120);
element("fit-story").onclick = fitStory;
element("fit-all").onclick = fitAll;
element("zoom-in").onclick = () => zoom(0.6);
element("zoom-out").onclick = () => zoom(1.6);
element("squeeze").onclick = () => {
  view.squeezed = !view.squeezed;
  element("squeeze").className = view.squeezed ? "on" : "";
  filtersChanged();
};
element("tab-log").onclick = () => { mode = "log"; refreshList(); scrollTo(view.t1); };
element("tab-story").onclick = () => { mode = "story"; refreshList(); scrollTo(view.t1); };
element("key").oninput = (ev) => { view.key = ev.target.value.trim(); filtersChanged(); };
element("index").oninput = (ev) => { view.index = Math.max(0, parseInt(ev.target.value, 10) || 0); filtersChanged(); };
element("search").oninput = (ev) => { search = ev.target.value.trim(); refreshList(); };
element("search").onkeydown = (ev) => { if (ev.key === "Enter") findNext(ev.shiftKey); };
list.onscroll = drawList;
window.onresize = redraw;
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { readColours(); redraw(); });

function legend() {
  const rows = [
    ["band:leader", "leader, with its term"], ["band:candidate", "asks for votes"], ["band:follower", "follower"],
    ["line:vote", "votes, transfer"], ["line:append", "append (carries entries)"], ["line:ack", "acknowledgement, or refusal"], ["line:heartbeat", "heartbeat (key h)"], ["line:propose", "forwarded proposal"], ["line:read", "read index"], ["line:snapshot", "snapshot"],
    ["dash:append", "dashed: a duplicate, a late replay, or still on its way"], ["word:✗", "lost: by a fault, or nobody was there"],
    ["band:write", "log write (thin, above), sync (below, ends in a bar)"], ["band:apply", "apply"], ["band:background", "checkpoint, compaction"],
    ["word:◆", "first apply of an entry anywhere: from here on it is history; coloured by term"], ["word:❘", "in a band: the commit index moved"],
    ["band:ok", "client's write; the dot: when it took effect; red frame: the answer that is wrong; orange: the earlier answer it contradicts"], ["band:read-ok", "client's read; the dot: its revision became true"], ["band:no", "failed or given up"],
    ["line:vote", "upright, in a band: the configuration changed"], ["band:fault", "a fault, from its start to its healing; a thin edge in the lanes it touches"], ["word:////", "hatched lane: down (dense) or paused (wide)"],
    ["word:g1 9/7/7", "last / commit / applied at the cursor"], ["word:9@4", "entry 9 of term 4"],
  ];
  const dl = make("dl");
  for (const [what, words] of rows) {
    const [kind, name] = what.split(":");
    const s = make("span", "swatch" + (kind === "line" || kind === "dash" ? " stroke" : ""), kind === "word" ? name : "");
    if (kind === "band") s.style.background = `var(--${name})`;
    if (kind === "line" || kind === "dash") s.style.borderColor = `var(--${name})`;
    if (kind === "dash") s.style.borderTopStyle = "dashed";
    const dt = make("dt");
    dt.append(s);
    dl.append(dt, make("dd", "", words));
  }
  element("legend").append(make("h3", "", "Legend"), dl, make("p", "dim", "Where nothing is shown, time is squeezed (key t): a grey stripe says how long it was. Keys: arrows move and step through the lines, + and − zoom, f the end, s the story, a all, h heartbeats, / search, n next hit, Esc nothing chosen."));
  element("legend-button").onclick = () => { element("legend").hidden = !element("legend").hidden; };
}

function begin() {
  readColours();
  if (head.violation) {
    element("rule").textContent = head.violation.rule;
    element("detail").textContent = short(head.violation.detail);
    element("detail").title = head.violation.detail;
  } else {
    element("verdict").className = "fine";
    element("rule").textContent = "no violation";
    element("detail").textContent = `seed ${head.seed} passed`;
  }
  document.title = `seed ${head.seed}${head.violation ? ": " + head.violation.rule : ""} - Quorate`;
  element("seed").textContent = `seed ${head.seed} · ${events.length} events${raw.leftOut ? `, ${raw.leftOut} older ones left out` : ""}`;
  element("seed").title = `${head.plan}\n${head.replay}`;
  switches("groups", GROUPS, "groups");
  switches("members", [...NODES.keys()], "members");
  switches("clients", [...Array(raw.clients).keys()], "clients");
  switches("kinds", KINDS, "kinds");
  legend();
  if (about.g) view.groups = new Set([about.g]);
  view.index = about.index;
  view.key = about.index ? "" : about.key;
  if (head.violation && /read|quorum|lease/.test(head.violation.rule) && !about.index) view.kinds.add("heartbeat");
  element("index").value = view.index || "";
  element("key").value = view.key;
  mode = head.violation ? "story" : "log";
  showAnswer();
  filtersChanged();
  draw();
  fitEnd(120);
  // When the story of it does not begin far back, the picture begins there.
  const mine = events.find((e) => e === about.witness || (follows() && followed(e)));
  if (mine && mine.t < view.t0 && events.filter((e) => e.t > mine.t && shows(e)).length < 500) fitStory();
  if (violation) { view.chosen = about.call || null; showChosen(); list.scrollTop = 1e9; drawList(); }
}
begin();
