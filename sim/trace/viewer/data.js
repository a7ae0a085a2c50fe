// What the page carries, as objects: `draw.rs` writes it, field by field in this order.
"use strict";

const head = JSON.parse(document.getElementById("head").textContent);
const raw = JSON.parse(document.getElementById("story").textContent);
const END = raw.end;
const NODES = raw.nodes;
const GROUPS = Array.from({ length: raw.groups }, (_, i) => i + 1);
const text = (n) => (n < 0 ? "" : raw.texts[n]);

/** Raft messages by family: what is switched and coloured together. */
const FAMILIES = {
  vote: ["PreVote", "PreVoteReply", "Vote", "VoteReply", "TimeoutNow", "Committed"],
  append: ["Append"],
  ack: ["AppendReply"],
  heartbeat: ["Heartbeat", "HeartbeatReply"],
  read: ["ReadIndex", "ReadIndexReply"],
  propose: ["Propose"],
  snapshot: ["Snapshot", "SnapshotRefused", "SnapshotFetch", "SnapshotChunk", "SnapshotGone"],
};
const FAMILY = {};
for (const [family, names] of Object.entries(FAMILIES)) for (const n of names) FAMILY[n] = family;
/** The most telling part of a frame gives it its colour. */
const RANK = ["vote", "snapshot", "append", "propose", "ack", "read", "other", "heartbeat"];

function readRow(r) {
  return {
    role: text(r[0]), term: r[1], vote: text(r[2]), leader: text(r[3]), start: r[4],
    last: r[5], synced: r[6], commit: r[7], applied: r[8], conf: text(r[9]),
  };
}

/** Notes begin with the member they are about and may name a group: `1 group 2: elected`. */
function readNote(t, words) {
  const m = /^(\d+)\b[ :]*/.exec(words);
  const member = m && +m[1] < NODES.length ? +m[1] : -1;
  let rest = member >= 0 ? words.slice(m[0].length) : words;
  const g = /^group (\d+): /.exec(rest);
  if (g) rest = rest.slice(g[0].length);
  const group = g ? +g[1] : +(/\bgroup (\d+)/.exec(words) || [0, 0])[1];
  return { k: "note", t, u: t, m: member, g: group, text: rest };
}

function readEvent(e) {
  switch (e[0]) {
    case 0: return readNote(e[1], text(e[2]));
    case 1: {
      const parts = e[7].map((p) => ({
        g: p[0], term: p[1], kind: text(p[2]), family: FAMILY[text(p[2])] || "other",
        from: p[3], to: p[4], text: text(p[5]),
      }));
      const fate = text(e[5]);
      return {
        k: "message", t: e[1], u: e[2], from: e[3], to: e[4], fate, copy: text(e[6]), parts,
        lost: fate !== "" && fate !== "on its way", flying: fate === "on its way", debug: e[8],
      };
    }
    case 2: return { k: "work", t: e[1], u: e[2], m: e[3], work: text(e[4]), text: text(e[5]) };
    case 3: return {
      k: "call", t: e[1], arrived: e[2], answered: e[3], u: e[4] < 0 ? END : e[4], open: e[4] < 0,
      c: e[5], m: e[6], g: e[7], id: e[8], text: text(e[9]), heard: text(e[10]), ok: e[11] === 1,
      index: e[12], revision: e[13], write: e[14] === 1, serializable: e[15] === 1, debug: e[16],
      point: null,
    };
    case 4: return {
      k: "commit", t: e[1], u: e[1], m: e[2], g: e[3], index: e[4], term: e[5], text: text(e[6]),
      revision: e[7],
    };
    case 5: return { k: "state", t: e[1], u: e[1], m: e[2], g: e[3], turn: e[4] === 1, row: readRow(e[5]) };
    default: return { k: "mark", t: e[1], u: e[1], c: e[2], text: text(e[3]) };
  }
}

const events = raw.events.map(readEvent);
events.sort((a, b) => a.t - b.t);
events.forEach((e, i) => { e.i = i; });
const of = (kind) => events.filter((e) => e.k === kind);
const messages = of("message"), works = of("work"), calls = of("call"), commits = of("commit");
const notes = of("note"), marks = of("mark"), states = of("state");
const START = events.length ? events[0].t : 0;

/** What each replica said of itself, in order of time. */
const rowsOf = new Map();
for (const s of states) {
  const at = s.m + "/" + s.g;
  if (!rowsOf.has(at)) rowsOf.set(at, []);
  rowsOf.get(at).push(s);
}

/** First place in a list sorted by `t` that is later than `t`. */
function after(list, t) {
  let lo = 0, hi = list.length;
  while (lo < hi) {
    const mid = (lo + hi) >> 1;
    if (list[mid].t <= t) lo = mid + 1; else hi = mid;
  }
  return lo;
}

function rowAt(m, g, t) {
  const rows = rowsOf.get(m + "/" + g) || [];
  const at = after(rows, t) - 1;
  return at >= 0 ? rows[at].row : null;
}

/** Faults that lasted. Links that were cut together are one bar. */
const bars = [];
const barOf = new Map();
for (const [name, from, to, t, end] of raw.bars) {
  const u = end < 0 ? END : end;
  const bar = { k: "fault", name: text(name), t, u, standing: end < 0, links: [], members: [] };
  const link = from !== to;
  const same = bar.name + "/" + t + "/" + u + "/" + link;
  const there = barOf.get(same) || bar;
  if (there === bar) { barOf.set(same, bar); bars.push(bar); }
  if (link) there.links.push([from, to]);
  else if (from < NODES.length) there.members.push(from);
}
for (const bar of bars) {
  const touched = new Set(bar.members);
  for (const [a, b] of bar.links) { touched.add(a); touched.add(b); }
  bar.touched = bar.links.length || bar.members.length ? touched : new Set(NODES.keys());
  bar.text = describeBar(bar);
}
bars.sort((a, b) => a.t - b.t);
function describeBar(bar) {
  if (!bar.links.length) {
    return bar.members.length ? `${bar.name} ${bar.members.join(" ")}` : bar.name;
  }
  const has = new Set(bar.links.map((l) => l.join(">")));
  const both = bar.links.every(([a, b]) => has.has(b + ">" + a));
  if (both) {
    // Members that lose the same peers stand on the same side.
    const side = new Map();
    for (let m = 0; m < NODES.length; m++) {
      const lost = bar.links.filter((l) => l[0] === m).map((l) => l[1]).join(" ");
      side.set(lost, [...(side.get(lost) || []), m]);
    }
    return `${bar.name} ${[...side.values()].map((s) => s.join(" ")).join(" | ")}`;
  }
  return `${bar.name} ${bar.links.map(([a, b]) => `${a}→${b}`).join(" ")}`;
}
const downs = bars.filter((b) => b.name === "down");

/** Where calls happened: a write at the first apply of its entry, a read when its revision was. */
const commitAt = new Map(), revisionAt = new Map();
for (const c of commits) {
  commitAt.set(c.g + "/" + c.index, c);
  const at = c.g + "/" + c.revision;
  if (!revisionAt.has(at)) revisionAt.set(at, c);
}
{
  const unanswered = new Map();
  for (const call of calls) if (call.write && !call.index) unanswered.set(call.g + "/" + call.text, call);
  for (const c of commits) {
    const call = unanswered.get(c.g + "/" + c.text);
    if (call && c.t >= call.t) { call.point = c; c.call = call; unanswered.delete(c.g + "/" + c.text); }
  }
}
for (const call of calls) {
  if (call.write && call.index) {
    call.point = commitAt.get(call.g + "/" + call.index) || null;
    if (call.point) call.point.call = call;
  } else if (!call.write && call.ok && call.revision) {
    call.point = revisionAt.get(call.g + "/" + call.revision) || null;
  }
}

/** What the violation is about, as far as its words say so. */
const about = { g: 0, index: 0, key: "", call: null, witness: null };
if (head.violation) {
  const d = head.violation.detail;
  const number = (re) => +((re.exec(d) || [])[1] || 0);
  about.g = number(/\bgroup (\d+)/);
  about.index = number(/\bindex (\d+)/) || number(/\bapplied (\d+)/) || number(/\bentry (\d+)/)
    || number(/\backnowledges (\d+)/) || number(/\bcommitted is (\d+)/);
  about.key = (/\bkey: b"([^"\\]+)"/.exec(d) || [, ""])[1];
  about.call = calls.find((c) => !c.open && c.u === END && c.ok) || null;
  if (!about.g && about.call) about.g = about.call.g;
  // The call whose answer the new one contradicts.
  const before = number(/(\d+) had been answered/);
  const call = about.call;
  if (before && call) about.witness = calls.find((c) => c.g === about.g && c.ok && c.u <= call.t
    && (head.violation.rule === "real-time-order" ? c.index : c.revision) >= before && !c.serializable) || null;
}

/** Whether an event has to do with one entry of one group's log. */
function touches(e, g, index) {
  switch (e.k) {
    case "message": return e.parts.some((p) => p.g === g && p.from <= index && index <= p.to && p.to > 0
      && (p.family === "append" || p.kind === "Snapshot" || p.kind === "Committed" || p.from === p.to && p.family === "ack"));
    case "commit": return e.g === g && e.index === index;
    case "call": return e.g === g && (e.index === index || (e.write && e.point && e.point.index === index));
    case "work": return workEntries(e).some((w) => w.g === g && w.from <= index && index <= w.to);
    case "note": {
      const cut = /truncated (\d+)\.\.=(\d+)/.exec(e.text);
      return !!cut && e.g === g && +cut[1] <= index && index <= +cut[2];
    }
    default: return false;
  }
}

/** The entries that a write or an apply is about: `g1 5@2 put …; … to 9`. */
function workEntries(e) {
  if (e.entries) return e.entries;
  e.entries = [];
  const re = /\bg(\d+) (\d+)@(\d+) |; (\d+)@(\d+) |… to (\d+)/g;
  let m;
  if (e.work === "write" || e.work === "apply") while ((m = re.exec(e.text))) {
    const run = e.entries[e.entries.length - 1];
    if (m[1]) e.entries.push({ g: +m[1], from: +m[2], to: +m[2], term: +m[3] });
    else if (run && m[4] && +m[5] === run.term && +m[4] === run.to + 1) run.to = +m[4];
    else if (run && m[4]) e.entries.push({ g: run.g, from: +m[4], to: +m[4], term: +m[5] });
    else if (run) run.to = +m[6];
  }
  return e.entries;
}

/** A violation's words without the fields of requests that say nothing, long keys cut short. */
const short = (words) => words
  .replace(/(\w)\1{15,}/g, (run, one) => `${one}${one}…(${run.length})`)
  .replace(/\b(limit|revision|(min|max)_(mod|create)_revision): 0(, | (?=}))/g, "")
  .replace(/\b(serializable|keys_only|count_only|prev_kv|ignore_value|ignore_lease): false(, | (?=}))/g, "")
  .replace(/\bsort_order: None(, | (?=}))|\bsort_target: Key(, | (?=}))|, end: b""|\blease: LeaseId\(0\)(, )?/g, "")
  .replace(/, }/g, " }");

const seconds = (us) => (us / 1e6).toFixed(6);
function span(us) {
  if (us < 1000) return `${us} µs`;
  return us < 1e6 ? `${(us / 1e3).toFixed(us < 1e4 ? 2 : 1)} ms` : `${(us / 1e6).toFixed(2)} s`;
}
