// The panels: the log and the story as lines, one event in full, the state of the cluster at one
// moment, the logs side by side, what was answered and what should have been.

const element = (id) => document.getElementById(id);
function make(tag, className, words) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (words !== undefined) node.textContent = words;
  return node;
}

/** One line for an event: who, and what. */
function whoOf(e) {
  switch (e.k) {
    case "message": return `${e.from}→${e.to}`;
    case "call": case "mark": return `c${e.c}`;
    case "fault": return "!";
    case "violation": return "✗";
    default: return e.m >= 0 ? String(e.m) : "·";
  }
}
function groupOf(e) {
  if (e.k === "message") { const gs = [...new Set(e.parts.map((p) => p.g))]; return gs.length === 1 && gs[0] ? `g${gs[0]} ` : ""; }
  return e.g ? `g${e.g} ` : "";
}
function wordsOf(e) {
  switch (e.k) {
    case "message": {
      const end = e.lost ? `  ✗ ${e.fate}` : e.flying ? "  on its way" : e.copy ? `  (${e.copy}, ${span(e.u - e.t)} old)` : "";
      return e.parts.map((p) => `${e.parts.length > 1 && p.g ? "g" + p.g + " " : ""}${p.term ? "t" + p.term + " " : ""}${p.text}`).join("; ") + end;
    }
    case "work": return `${e.work}${e.text ? ": " + e.text : ""}${e.u > e.t ? ` (${span(e.u - e.t)})` : ""}`;
    case "call": return `${e.text}${e.heard ? " → " + e.heard : ""}`;
    case "commit": return `applies ${e.index}@${e.term} first: ${e.text} (rev ${e.revision})`;
    case "state": return `t${e.row.term} ${e.row.role}${e.row.leader ? ", leader " + nameOf(e.row.leader) : ""}  ${e.row.last}/${e.row.commit}/${e.row.applied}`;
    case "fault": return `${e.text}, for ${span(e.u - e.t)}${e.standing ? " (still)" : ""}`;
    default: return e.text;
  }
}
const violation = head.violation && {
  k: "violation", t: END, u: END, m: -1, g: about.g, i: events.length,
  text: `[${head.violation.rule}] ${short(head.violation.detail)}`,
};

/** When a line is told: what arrives makes a difference when it does. */
const told = (e) => (e.k === "message" && !e.lost && !e.flying ? e.u : e.k === "work" ? e.u : e.t);

const list = element("list"), rowsBox = element("rows");
const ROW = 17;
let mode = "log", lines = [], chosenLine = -1, search = "";

/** The lines of the log: what the filters let through. */
function logLines() {
  const out = [];
  for (const e of events) {
    if (e.k === "state" && !e.turn) continue;
    if (shows(e)) out.push({ t: told(e), e, words: wordsOf(e) });
    if (e.k === "call" && !e.open && shows(e)) out.push({ t: e.u, e, words: `call ${e.id} ends: ${e.heard}` });
  }
  for (const bar of bars) {
    out.push({ t: bar.t, e: bar, words: `${bar.text} begins` });
    if (!bar.standing) out.push({ t: bar.u, e: bar, words: `${bar.text} ends` });
  }
  if (violation) out.push({ t: END, e: violation, words: violation.text });
  return out.sort((a, b) => a.t - b.t);
}

/** The short story: turns of the groups looked at, and the way of the entry that is followed. */
function storyLines() {
  const out = [];
  const add = (t, e, words) => out.push({ t, e, words });
  const g = [...view.groups][0];
  const syncs = new Map();
  for (const e of events) {
    const rows = e.k === "state" && e.turn && rowsOf.get(e.m + "/" + e.g);
    const old = rows && rows[rows.indexOf(e) - 1];
    if (old && old.row.conf !== e.row.conf && shows(e)) add(e.t, e, `configuration ${confWords(old.row.conf)} → ${confWords(e.row.conf)}`);
    if (e.k === "state" && e.turn && shows(e) && e.row.role !== "follower") add(e.t, e, `${e.row.role === "candidate" ? "asks for votes" : e.row.role} in term ${e.row.term}: log ends ${e.row.last}, commit ${e.row.commit}`);
    else if (e.k === "note" && e.m >= 0 && shows(e) && /^vote for \w+ in term \d+ granted/.test(e.text)) {
      const own = rowAt(e.m, e.g, e.t);
      add(e.t, e, `VOTES for ${nameOf(e.text.split(" ")[2])} in term ${e.text.split(" ")[5]}${own ? `: own log ends ${own.last}` : ""}`);
    } else if (e.k === "note" && shows(e) && /elected|stepped down|truncat|snapshot|crash|stops|boots|loses|refuses|configuration|power|heals|phase/.test(e.text)) add(e.t, e, e.text);
    else if (follows()) {
      if (e.k === "work" && e.work === "write") {
        const w = workEntries(e).find((r) => r.g === g && r.from <= view.index && view.index <= r.to);
        if (w) { add(e.u, e, `writes ${view.index}@${w.term} into its log`); syncs.set(e.m, [e, w.term]); }
      } else if (e.k === "work" && e.work === "sync" && syncs.has(e.m) && e.u > syncs.get(e.m)[0].u) {
        add(e.u, e, `${view.index}@${syncs.get(e.m)[1]} is synced here`);
        syncs.delete(e.m);
      } else if (e.k === "commit" && followed(e)) add(e.t, e, `APPLIES ${e.index}@${e.term} first: ${e.text}`);
      else if (e.k === "call" && followed(e)) { add(e.t, e, `asks: ${e.text}`); if (!e.open) add(e.u, e, `hears: ${e.heard}`); }
    }
    if (!follows() && view.key && e.k === "call" && hasKey(e) && shows(e) && e !== about.call && e !== about.witness) { add(e.t, e, `asks: ${e.text}`); if (!e.open) add(e.u, e, `hears: ${e.heard}`); }
    if (!follows() && view.key && e.k === "commit" && hasKey(e) && shows(e)) add(e.t, e, wordsOf(e));
  }
  for (const bar of bars) {
    if (bar.name === "down") continue;
    add(bar.t, bar, `${bar.text} begins`);
    if (!bar.standing) add(bar.u, bar, `${bar.text} ends`);
  }
  if (about.witness) {
    const w = about.witness;
    add(w.u, w, `HEARS: ${w.text} → ${w.heard}: what comes later must not be older`);
    if (w.point) add(w.point.t, w.point, `applies ${w.point.index}@${w.point.term} first: ${w.point.text} (rev ${w.point.revision})`);
  }
  if (about.call) { add(about.call.t, about.call, `ASKS: ${about.call.text}`); add(about.call.u, about.call, `HEARS: ${about.call.heard}`); }
  if (violation) add(END, violation, violation.text);
  return out.sort((a, b) => a.t - b.t);
}

function refreshList() {
  lines = mode === "log" ? logLines() : storyLines();
  if (search) {
    const low = search.toLowerCase();
    for (const l of lines) l.hit = (whoOf(l.e) + " " + l.words).toLowerCase().includes(low);
  }
  rowsBox.style.height = lines.length * ROW + "px";
  rowsBox.style.position = "relative";
  element("tab-log").className = mode === "log" ? "on" : "";
  element("tab-story").className = mode === "story" ? "on" : "";
  const hits = search ? lines.filter((l) => l.hit).length : lines.length;
  element("found").textContent = String(hits);
  chosenLine = view.chosen ? lines.findIndex((l) => l.e === view.chosen) : -1;
  drawList();
}

/** Only the lines in sight are elements. */
function drawList() {
  const first = Math.max(0, Math.floor(list.scrollTop / ROW) - 5);
  const count = Math.ceil(list.clientHeight / ROW) + 10;
  rowsBox.textContent = "";
  for (let i = first; i < Math.min(lines.length, first + count); i++) {
    const l = lines[i];
    const seen = l.t >= view.t0 && l.t <= view.t1;
    const row = make("div", `row${seen ? " seen" : ""}${l.hit && search ? " hit" : ""}${l.e === view.chosen ? " chosen" : ""}${l.e.k === "violation" ? " bad" : ""}`);
    row.style.top = i * ROW + "px";
    row.append(make("span", "t", seconds(l.t) + " "), make("span", "w", whoOf(l.e).padEnd(4) + groupOf(l.e)), document.createTextNode(l.words.replaceAll("\n", " ").slice(0, 300)));
    row.title = l.words.slice(0, 1500);
    row.onclick = () => choose(l.e, l.t, true);
    rowsBox.append(row);
  }
}
function scrollTo(t) {
  let i = chosenLine;
  if (i < 0) { i = lines.findIndex((l) => l.t >= t); if (i < 0) i = lines.length - 1; }
  const top = i * ROW - list.clientHeight / 2;
  if (Math.abs(list.scrollTop - top) > list.clientHeight / 3) list.scrollTop = top;
  drawList();
}
function findNext(back) {
  if (!search) return;
  const order = lines.map((l, i) => i).filter((i) => lines[i].hit);
  if (!order.length) return;
  const next = back ? order.filter((i) => i < chosenLine).pop() ?? order[order.length - 1] : order.find((i) => i > chosenLine) ?? order[0];
  const l = lines[next];
  choose(l.e, l.t, true);
  chosenLine = next;
  scrollTo(l.t);
}

/** Everything about one event. */
function showChosen() {
  const box = element("chosen"), e = view.chosen;
  if (!e) return;
  box.textContent = "";
  box.append(make("h4", "", `${{ message: "message", work: "disk and lanes", call: "client call", commit: "first apply", state: "state", fault: "fault", note: "note", mark: "mark", violation: "violation" }[e.k]} ${whoOf(e)} ${groupOf(e)}`));
  const facts = [];
  facts.push(e.u > e.t ? `${seconds(e.t)} to ${seconds(e.u)} (${span(e.u - e.t)})` : seconds(e.t));
  if (END > e.u) facts.push(`${span(END - e.u)} before the end`);
  if (e.k === "message") facts.push(e.lost ? `LOST: ${e.fate}` : e.flying ? "on its way when the run ended" : "arrived", ...(e.copy ? [`a copy: ${e.copy}`] : []));
  if (e.k === "call") {
    facts.push(`call ${e.id} of group ${e.g} to member ${e.m}`);
    if (e.arrived >= 0) facts.push(`reached it at ${seconds(e.arrived)}`);
    if (e.answered >= 0) facts.push(`answered there at ${seconds(e.answered)}`);
    facts.push(e.open ? "no answer when the run ended" : e.ok ? "answered" : "failed, or given up");
    if (e.point) facts.push(`happened at log ${e.point.index}@${e.point.term}, first applied ${seconds(e.point.t)}`);
  }
  if (e.k === "state") for (const [k, v] of Object.entries(e.row)) facts.push(`${k} ${v || "-"}`);
  if (e.k === "fault") facts.push(`touches ${[...e.touched].join(" ")}`);
  box.append(make("p", "dim", facts.join(" · ")));
  if (e.k === "message") for (const p of e.parts) box.append(make("pre", "", `${p.g ? `g${p.g} t${p.term} ` : ""}${p.kind}: ${p.text}`));
  else box.append(make("pre", "", wordsOf(e)));
  if (e.k === "commit" || (e.k === "call" && e.point)) {
    const at = e.k === "commit" ? e : e.point;
    const go = make("button", "", `follow entry ${at.index} of group ${at.g}`);
    go.onclick = () => follow(at.g, at.index);
    box.append(go);
  }
  if (e.debug >= 0) box.append(make("pre", "dim", text(e.debug)));
}

/** The state of every replica at one moment; the end is looked at more closely. */
function showState() {
  const box = element("state");
  box.textContent = "";
  const atEnd = view.cursor >= END;
  const h = make("h3", "", atEnd ? (head.violation ? "State at the violation" : "State at the end") : `State at ${seconds(view.cursor)}`);
  if (!atEnd) { const b = make("button", "", "back to the end"); b.onclick = () => setCursor(END); h.append(b); }
  box.append(h);
  const table = make("table"), top = make("tr");
  for (const c of ["group", "member", "", "role", "term", "vote", "start", "last", "synced", "commit", "applied", "config", ...(atEnd ? ["state hash @ applied"] : [])]) top.append(make("th", "", c));
  table.append(top);
  for (const g of GROUPS) {
    if (!view.groups.has(g)) continue;
    const rows = [...NODES.keys()].map((m) => {
      const last = atEnd && raw.replicas.find((r) => r[0] === m && r[1] === g);
      const down = downs.some((b) => b.members.includes(m) && b.t <= view.cursor && (b.u > view.cursor || b.standing));
      return {
        m, condition: last ? text(last[2]) : down ? "down" : "up", down: down || (last && !last[3]),
        row: (last && last[3] && readRow(last[3])) || rowAt(m, g, view.cursor), hash: last && last[4],
      };
    });
    const live = rows.filter((r) => r.row && !r.down);
    const most = (key) => Math.max(0, ...live.map((r) => r.row[key]));
    const leaders = live.filter((r) => r.row.role === "leader");
    const commonConf = mode2(live.map((r) => r.row.conf));
    for (const r of rows) {
      const tr = make("tr");
      const cell = (words, mark) => tr.append(make("td", mark || "", String(words)));
      cell("g" + g); cell(`${r.m} (${NODES[r.m]})`); cell(r.condition, r.condition === "up" ? "" : "odd");
      if (!r.row) { const td = make("td", "dim", "unknown"); td.colSpan = 9; tr.append(td); table.append(tr); continue; }
      const w = r.row, rival = leaders.some((o) => o.m !== r.m && o.row.term === w.term);
      cell(w.role, w.role === "leader" && !r.down && rival ? "wrong" : w.role === "leader" && leaders.length > 1 ? "odd" : "");
      cell(w.term, w.term < most("term") ? "odd" : "");
      cell(w.vote ? nameOf(w.vote) : "-");
      cell(w.start); cell(w.last, w.last < most("last") ? "odd" : ""); cell(w.synced, w.synced < w.last ? "odd" : "");
      cell(w.commit, w.commit < most("commit") ? "odd" : ""); cell(w.applied, w.applied < w.commit ? "odd" : "");
      cell(confWords(w.conf), w.conf !== commonConf ? "wrong" : "");
      if (atEnd) {
        const other = r.hash && rows.some((o) => o.hash && o.hash[0] === r.hash[0] && o.hash[1] !== r.hash[1]);
        cell(r.hash ? `${r.hash[1].slice(0, 10)} @ ${r.hash[0]}` : "-", other ? "wrong" : "");
      }
      table.append(tr);
    }
  }
  box.append(table);
}
const confWords = (conf) => conf.replace(/[0-9a-f]+/g, (id) => (NODES.includes(id) ? nameOf(id) : id));
function mode2(all) {
  const n = new Map();
  for (const a of all) n.set(a, (n.get(a) || 0) + 1);
  return [...n].sort((a, b) => b[1] - a[1])[0]?.[0];
}

/** The logs side by side: the term of each entry, where they differ, where commit stands. */
function showLogs() {
  const box = element("logs");
  box.textContent = "";
  const g = view.groups.size === 1 ? [...view.groups][0] : about.g;
  if (!g) return;
  const termAt = (log, i) => {
    if (i <= log[0] || i > log[2]) return 0;
    let term = 0;
    for (const [from, t] of log[1]) if (from <= i) term = t; else break;
    return term;
  };
  const all = raw.replicas.filter((r) => r[1] === g);
  const common = (raw.committed.find((c) => c[0] === g) || [0, [0, [], 0]])[1];
  const top = Math.max(common[2], ...all.map((r) => r[5][2]));
  const CELLS = 16;
  const at = view.index && view.groups.size === 1 ? Math.min(top, view.index + 6) : top;
  const hi = Math.max(at, Math.min(top, CELLS)), lo = Math.max(1, hi - CELLS + 1);
  box.append(make("h3", "", `Synced logs of group ${g} at the end: the term of each entry (bar: commit)`));
  const table = make("table"), heads = make("tr");
  heads.append(make("th", "name", ""));
  for (let i = lo; i <= hi; i++) heads.append(make("th", i === view.index ? "follow" : "", i));
  table.append(heads);
  const line = (name, log, commit) => {
    const tr = make("tr");
    tr.append(make("th", "name", name));
    for (let i = lo; i <= hi; i++) {
      const term = termAt(log, i), right = termAt(common, i);
      const there = all.map((r) => termAt(r[5], i)).filter((t) => t > 0);
      const differ = there.some((t) => t !== there[0]) || (right && there.some((t) => t !== right));
      const td = make("td", `cell${term ? "" : " none"}${differ && term ? " conflict" : ""}${i === commit ? " commit" : ""}`, term || (i <= log[0] ? "·" : ""));
      if (term) td.style.background = termColour(term);
      td.title = `index ${i} term ${term || "-"}`;
      if (term) td.onclick = () => follow(g, i);
      tr.append(td);
    }
    table.append(tr);
  };
  for (const r of all) line(`member ${r[0]}`, r[5], r[3] ? readRow(r[3]).commit : 0);
  line("applied by any", common, common[2]);
  box.append(table);
}

/** Where two texts differ: the same beginning and end, and the middles. */
function middles(a, b) {
  let from = 0;
  while (from < a.length && from < b.length && a[from] === b[from]) from++;
  let end = 0;
  while (end < a.length - from && end < b.length - from && a[a.length - 1 - end] === b[b.length - 1 - end]) end++;
  return [from, end];
}
function showAnswer() {
  const box = element("answer");
  if (!head.violation) return;
  const d = head.violation.detail;
  const m = /\n\s*(?:with|answered|has)\s+([\s\S]*?)\n\s*expected ([\s\S]*)$/.exec(d);
  if (!m) return;
  const [from, end] = middles(m[1], m[2]);
  box.append(make("h3", "", "What was answered, and what should have been"));
  for (const [name, t] of [["answered", m[1]], ["expected", m[2]]]) {
    const pre = make("pre", "", name + "  ");
    const start = Math.max(0, from - 160);
    pre.append((start ? "…" : "") + t.slice(start, from), make("mark", "", t.slice(from, t.length - end) || "∅"), t.slice(t.length - end, t.length - end + 200));
    box.append(pre);
  }
  const at = /at revision (-?\d+)\n[\s\S]* at (-?\d+)$/.exec(d);
  if (at && at[1] !== at[2]) {
    const pre = make("pre", "", "revision  answered ");
    pre.append(make("mark", "", at[1]), ", expected ", make("mark", "", at[2]));
    box.append(pre);
  }
}
