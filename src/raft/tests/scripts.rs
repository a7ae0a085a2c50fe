//! Stories: `src/raft/scripts/*.txt` are dialogues of commands and what they bring about.
//!
//! A line that begins with `>` is a command, the lines under it are what is expected, `#` begins
//! a comment. With `QUORATE_UPDATE_SCRIPTS=1` the expectations are rewritten from what happened.
//!
//! ```text
//! > new 3 learners=3 prevote=off quorum=off   a cluster; further options are bounds
//! > add 4                                     a node that nobody knows yet
//! > boot 2 term=3 log=1,1,3                   another disk for 2: terms of entries 2, 3, ...
//! > tick 1 10 | campaign 1 | propose 1 a b | change 1 +4 | read 1 77 | transfer 1 2
//! > unreachable 1 2 | wake 1 | trim 1 5 | checkpoint 1
//! > deliver                                   messages, until none is left
//! > deliver 3 1>2                             at most three, on one link only
//! > cut 1-2 | isolate 1 | heal                links that lose what is sent
//! > lose 1>2                                  what is on its way there is lost
//! > disk 1 hold | persist 1 1 | disk 1 go     writes wait; one is done; no more waiting
//! > applies 1 hold | applies 1 go             so does the state machine
//! > crash 1 | restart 1
//! > snapshots hold | snapshots go | snapshots fail
//! > status | log 1                            one line per node; one node's log
//! > show all | show less | show none          with disk writes and heartbeats; without; nothing
//! ```
#![allow(clippy::disallowed_methods, reason = "stories are files of the source tree")]

use super::cluster::{Cluster, Disk, GROUP, Seen, decode_change, encode_change};
use crate::raft::{Config, Effect, Input, PeerState, ReadFor, Role};
use crate::types::message::RejectHint;
use crate::types::{
    ConfState, Entry, EntryKind, HardState, LogIndex, Message, MessageBody, NodeId, Term,
};
use bytes::Bytes;
use std::collections::BTreeSet;
use std::fmt::Write as _;

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Show {
    None,
    Less,
    All,
}

struct Script {
    cluster: Cluster,
    template: Option<Config>,
    cut: BTreeSet<(NodeId, NodeId)>,
    held_disks: BTreeSet<NodeId>,
    held_applies: BTreeSet<NodeId>,
    snapshots: Option<bool>,
    show: Show,
    out: String,
}

fn id(text: &str) -> NodeId {
    NodeId(text.parse().unwrap_or_else(|_| panic!("{text} is not a node")))
}

fn number(text: &str) -> u64 {
    text.parse().unwrap_or_else(|_| panic!("{text} is not a number"))
}

fn link(text: &str) -> Option<(NodeId, NodeId)> {
    text.split_once('>').map(|(from, to)| (id(from), id(to)))
}

impl Script {
    fn new() -> Script {
        let cluster = Cluster { watch: true, ..Cluster::default() };
        Script {
            cluster,
            template: None,
            cut: BTreeSet::new(),
            held_disks: BTreeSet::new(),
            held_applies: BTreeSet::new(),
            snapshots: Some(true),
            show: Show::Less,
            out: String::new(),
        }
    }

    fn say(&mut self, line: impl AsRef<str>) {
        writeln!(self.out, "{}", line.as_ref()).expect("a string takes everything");
    }

    fn ids(&self) -> Vec<NodeId> {
        self.cluster.nodes.keys().copied().collect()
    }

    fn config(&self, of: NodeId) -> Config {
        let template = self.template.expect("`new` comes first");
        Config { id: of, seed: of.0, ..template }
    }

    fn command(&mut self, line: &str) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let (name, args) = words.split_first().expect("a command");
        let arg = |at: usize| args.get(at).copied();
        let node = || id(arg(0).expect("a node"));
        match *name {
            "new" => self.new_cluster(args),
            "add" => {
                let config = self.config(node());
                self.cluster.add(config, Disk::default());
            }
            "boot" => self.boot(node(), &args[1..]),
            "tick" => {
                for _ in 0..arg(1).map_or(1, number) {
                    self.step(node(), Input::Tick);
                }
            }
            "campaign" => self.step(node(), Input::Campaign),
            "propose" => {
                let data = args[1..].iter().map(|w| Bytes::from(w.to_string())).collect();
                self.step(node(), Input::Propose { data });
            }
            "change" => {
                let change = decode_change(&args[1..].join(" "));
                self.step(node(), Input::ProposeConfChange(change));
            }
            "read" => {
                let context = number(arg(1).expect("a context"));
                self.step(node(), Input::ReadIndex { context });
            }
            "transfer" => self.step(node(), Input::Transfer(id(arg(1).expect("to whom")))),
            "unreachable" => {
                self.step(node(), Input::Unreachable(id(arg(1).expect("which"))));
            }
            "wake" => self.step(node(), Input::Wake),
            "trim" => {
                let index = LogIndex(number(arg(1).expect("an index")));
                self.step(node(), Input::Trim { index });
            }
            "checkpoint" => {
                self.cluster.checkpoint(node());
            }
            "deliver" => {
                let on = args.iter().find_map(|word| link(word));
                let most = args.iter().find_map(|word| word.parse().ok());
                self.deliver(most.unwrap_or(usize::MAX), on);
            }
            "cut" => {
                let (a, b) = arg(0).and_then(|w| w.split_once('-')).expect("a-b");
                self.cut.extend([(id(a), id(b)), (id(b), id(a))]);
            }
            "isolate" => {
                for other in self.ids() {
                    self.cut.extend([(node(), other), (other, node())]);
                }
            }
            "heal" => self.cut.clear(),
            "lose" => {
                let on = arg(0).and_then(link);
                self.cluster.net.retain(|m| on.is_some_and(|on| on != (m.from, m.to)));
            }
            "disk" => {
                match arg(1) {
                    Some("hold") => self.held_disks.insert(node()),
                    _ => self.held_disks.remove(&node()),
                };
                self.settle();
            }
            "applies" => {
                match arg(1) {
                    Some("hold") => self.held_applies.insert(node()),
                    _ => self.held_applies.remove(&node()),
                };
                self.settle();
            }
            "persist" => {
                let count = arg(1).map_or(usize::MAX, |n| number(n) as usize);
                self.cluster.persist(node(), count, true);
                self.settle();
            }
            "crash" => self.cluster.crash(node(), 0),
            "restart" => self.cluster.restart(node()),
            "snapshots" => {
                self.snapshots = match arg(0) {
                    Some("hold") => None,
                    Some("fail") => Some(false),
                    _ => Some(true),
                };
                self.settle();
            }
            "status" => self.status(),
            "log" => self.log(node()),
            "show" => {
                self.show = match arg(0) {
                    Some("all") => Show::All,
                    Some("none") => Show::None,
                    _ => Show::Less,
                }
            }
            other => panic!("no command is called {other}"),
        }
        self.tell();
    }

    fn new_cluster(&mut self, args: &[&str]) {
        let count = number(args[0]);
        let mut config = Config::new(NodeId(1), GROUP, 0, encode_change);
        let mut learners = Vec::new();
        for option in &args[1..] {
            let (key, value) = option.split_once('=').expect("key=value");
            match key {
                "learners" => learners = value.split(',').map(id).collect(),
                "prevote" => config.pre_vote = value != "off",
                "quorum" => config.check_quorum = value != "off",
                "append" => config.bounds.append_entries_max = number(value) as usize,
                "inflight" => config.bounds.inflight_appends_max = number(value) as usize,
                "uncommitted" => config.bounds.uncommitted_bytes_max = number(value) as usize,
                "cache" => config.bounds.log_cache_bytes_max = number(value) as usize,
                _ => panic!("no option is called {key}"),
            }
        }
        self.template = Some(config);
        let voters = (1..=count).map(NodeId).filter(|id| !learners.contains(id)).collect();
        let conf = ConfState { learners, ..ConfState::of_voters(voters) };
        for id in (1..=count).map(NodeId) {
            self.cluster.add(self.config(id), Disk::founder(conf.clone()));
        }
    }

    /// The node's log as if it had been through the terms named; entry i of term t holds `i/t`.
    fn boot(&mut self, of: NodeId, args: &[&str]) {
        let mut disk = Disk::founder(self.cluster.node(of).disk.store.conf.clone());
        for option in args {
            match option.split_once('=').expect("key=value") {
                ("log", terms) => {
                    for term in terms.split(',').map(|t| Term(number(t))) {
                        let index = disk.last().next();
                        let data = Bytes::from(format!("{index}/{term}"));
                        disk.log.push(Entry { term, index, kind: EntryKind::Command, data });
                        disk.hard.term = disk.hard.term.max(term);
                    }
                }
                ("term", term) => {
                    disk.hard = HardState { term: Term(number(term)), ..disk.hard };
                }
                ("commit", commit) => disk.hard.commit = LogIndex(number(commit)),
                (key, _) => panic!("no option is called {key}"),
            }
        }
        self.cluster.nodes.remove(&of);
        self.cluster.add(self.config(of), disk);
    }

    fn step(&mut self, of: NodeId, input: Input) {
        self.cluster.step(of, input);
        self.settle();
    }

    /// Disks, stores and state machines do what they are not told to hold.
    fn settle(&mut self) {
        loop {
            let before = self.cluster.seen.len();
            for id in self.ids() {
                if !self.cluster.node(id).is_up() {
                    continue;
                }
                if !self.held_disks.contains(&id) {
                    self.cluster.persist(id, usize::MAX, true);
                }
                if !self.held_applies.contains(&id) {
                    self.cluster.apply(id, usize::MAX);
                }
                self.cluster.read_log(id, usize::MAX);
                if let Some(works) = self.snapshots {
                    self.cluster.pin(id, works);
                    self.cluster.install(id, works);
                }
            }
            let waits = |id: NodeId| {
                let node = self.cluster.node(id);
                let disk = node.has_writes() && !self.held_disks.contains(&id);
                let apply = !node.applies.is_empty() && !self.held_applies.contains(&id);
                node.is_up() && (disk || apply || !node.log_reads.is_empty())
            };
            if self.cluster.seen.len() == before && !self.ids().into_iter().any(waits) {
                return;
            }
        }
    }

    fn deliver(&mut self, most: usize, on: Option<(NodeId, NodeId)>) {
        for _ in 0..most {
            let wanted = |m: &Message| on.is_none_or(|on| on == (m.from, m.to));
            let Some(at) = self.cluster.net.iter().position(wanted) else { return };
            let message = self.cluster.net.remove(at).expect("just found");
            let link = (message.from, message.to);
            let up = self.cluster.nodes.get(&message.to).is_some_and(|node| node.is_up());
            let lost = self.cut.contains(&link) || !up;
            self.tell();
            if self.show == Show::All || self.show == Show::Less && is_telling(&message.body) {
                let lost = if lost { "  (lost)" } else { "" };
                let line = format!("{}>{} {}{lost}", link.0, link.1, describe(&message));
                self.say(line);
            }
            if !lost {
                self.cluster.deliver(message);
                self.settle();
            }
        }
    }

    /// Prints what has been seen since the last time.
    fn tell(&mut self) {
        for (id, seen) in std::mem::take(&mut self.cluster.seen) {
            if let Some(line) = self.tell_one(&seen) {
                self.say(format!("    {id}: {line}"));
            }
        }
    }

    fn tell_one(&self, seen: &Seen) -> Option<String> {
        let all = self.show == Show::All;
        if self.show == Show::None {
            return None;
        }
        Some(match seen {
            Seen::Applied(entry) => format!("applied {}", entry_text(entry)),
            Seen::Effect(effect) => match effect {
                Effect::SaveHardState(HardState { term, vote, commit }) if all => {
                    format!("save term {term}, vote {vote}, commit {commit}")
                }
                Effect::Append(entries) if all => format!("append {}", entries_text(entries)),
                Effect::LogStart { index, term } => format!("the log begins after {index}/{term}"),
                Effect::Trim { index, term } => format!("trimmed through {index}/{term}"),
                Effect::ReadEntries { purpose, from, to, .. } => {
                    let whom = match purpose {
                        ReadFor::Follower(id) => id.to_string(),
                        ReadFor::Apply => "apply".to_string(),
                    };
                    format!("read {from}..={to} from the WAL for {whom}")
                }
                Effect::ReadReady { context, index } => format!("read {context} ready at {index}"),
                Effect::ReadDropped { context } => format!("read {context} dropped"),
                Effect::ProposalsDropped { data, reason } => {
                    format!("{} proposals dropped: {reason:?}", data.len())
                }
                Effect::ConfChangeDropped { reason, .. } => {
                    format!("configuration change dropped: {reason:?}")
                }
                Effect::MakeSnapshot { to } => format!("make a snapshot for {to}"),
                Effect::InstallSnapshot { from, meta } => {
                    format!("install snapshot {}/{} of {from}", meta.index, meta.term)
                }
                Effect::SoftState { leader, role, term } => {
                    let leader =
                        if leader.is_none() { "nobody".into() } else { leader.to_string() };
                    format!("{role:?} in term {term}, led by {leader}")
                }
                Effect::Conf(conf) => format!("configuration {}", conf_text(conf)),
                Effect::Note(note) => format!("- {note}"),
                _ => return None,
            },
        })
    }

    fn status(&mut self) {
        for id in self.ids() {
            let node = self.cluster.node(id);
            let Some(replica) = &node.replica else {
                self.say(format!("{id} down"));
                continue;
            };
            let s = replica.status();
            let role = match s.role {
                Role::Follower => "follower",
                Role::PreCandidate => "pre-candidate",
                Role::Candidate => "candidate",
                Role::Leader => "leader",
            };
            let mut line = format!(
                "{id} {role} term {} log {}..{} persisted {} commit {} applied {}",
                s.term, s.start, s.last, s.persisted, s.commit, s.applied
            );
            for peer in s.progress {
                let state = match peer.state {
                    PeerState::Probe => "probe",
                    PeerState::Replicate => "replicate",
                    PeerState::Snapshot => "snapshot",
                };
                let (id, matched, next) = (peer.id, peer.matched, peer.next);
                write!(line, " [{id} {state} {matched}<{next}]").expect("a string");
            }
            self.say(line);
        }
    }

    fn log(&mut self, of: NodeId) {
        let replica = self.cluster.node(of).replica();
        let (start, last) = (replica.log_start().0.0, replica.last().0);
        let terms: Vec<String> = (start + 1..=last)
            .map(|index| format!("{index}/{}", replica.log_term(LogIndex(index)).expect("in it")))
            .collect();
        self.say(format!("{of} [{}]", terms.join(" ")));
    }
}

fn is_telling(body: &MessageBody) -> bool {
    !matches!(
        body,
        MessageBody::Heartbeat { context: 0, .. } | MessageBody::HeartbeatReply { context: 0 }
    )
}

fn entry_text(entry: &Entry) -> String {
    let place = format!("{}/{}", entry.index, entry.term);
    let data = String::from_utf8_lossy(&entry.data);
    match entry.kind {
        EntryKind::Empty => place,
        EntryKind::Command if data == place => place,
        EntryKind::Command => format!("{place} {data}"),
        EntryKind::ConfChange => format!("{place} change({data})"),
    }
}

fn entries_text(entries: &[Entry]) -> String {
    entries.iter().map(entry_text).collect::<Vec<_>>().join(", ")
}

fn conf_text(conf: &ConfState) -> String {
    let list = |ids: &[NodeId]| ids.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
    let mut text = format!("({})", list(&conf.voters));
    let parts = [
        (" outgoing", &conf.voters_outgoing),
        (" learners", &conf.learners),
        (" learners next", &conf.learners_next),
    ];
    for (name, ids) in parts {
        if !ids.is_empty() {
            write!(text, "{name} ({})", list(ids)).expect("a string");
        }
    }
    text + if conf.auto_leave { " auto" } else { "" }
}

fn describe(message: &Message) -> String {
    let body = match &message.body {
        MessageBody::PreVote { last_index, last_term } => format!("log {last_index}/{last_term}"),
        MessageBody::Vote { last_index, last_term, forced } => {
            format!("log {last_index}/{last_term}{}", if *forced { " forced" } else { "" })
        }
        MessageBody::PreVoteReply { granted } | MessageBody::VoteReply { granted } => {
            (if *granted { "yes" } else { "no" }).to_string()
        }
        MessageBody::Append { prev_index, prev_term, commit, entries } => {
            let entries = entries_text(entries);
            format!("after {prev_index}/{prev_term} [{entries}] commit {commit}")
        }
        MessageBody::AppendReply { index, reject: None } => format!("through {index}"),
        MessageBody::AppendReply { index, reject: Some(RejectHint { index: hint, term }) } => {
            format!("refused {index}, try {hint}/{term}")
        }
        MessageBody::Heartbeat { commit, context } => format!("commit {commit} context {context}"),
        MessageBody::HeartbeatReply { context } => format!("context {context}"),
        MessageBody::Snapshot { meta } => format!("{}/{}", meta.index, meta.term),
        MessageBody::SnapshotRefused { index } => index.to_string(),
        MessageBody::TimeoutNow => String::new(),
        MessageBody::Committed { index, term } => format!("{index}/{term}"),
        MessageBody::Propose { data } => {
            data.iter().map(|d| String::from_utf8_lossy(d)).collect::<Vec<_>>().join(" ")
        }
        MessageBody::ReadIndex { context } => context.to_string(),
        MessageBody::ReadIndexReply { context, index } => format!("{context} at {index}"),
    };
    let term = match message.term {
        Term::ZERO => String::new(),
        term => format!(" t{term}"),
    };
    format!("{}{term} {body}", message.body.name()).trim_end().to_string()
}

fn play(text: &str) -> String {
    let mut script = Script::new();
    for line in text.lines() {
        if let Some(command) = line.strip_prefix("> ") {
            script.say(line);
            script.command(command);
        } else if line.is_empty() || line.starts_with('#') {
            script.say(line);
        }
    }
    script.out
}

#[test]
fn stories() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src/raft/scripts");
    let update = std::env::var_os("QUORATE_UPDATE_SCRIPTS").is_some();
    let mut paths: Vec<_> = std::fs::read_dir(folder)
        .expect("the folder of stories")
        .map(|item| item.expect("an item of the folder").path())
        .filter(|path| path.extension().is_some_and(|ext| ext == "txt"))
        .collect();
    paths.sort();
    assert!(paths.len() >= 12, "stories are missing");
    for path in paths {
        let expected = std::fs::read_to_string(&path).expect("a story");
        let name = path.display();
        eprintln!("playing {name}");
        let told = play(&expected);
        if update {
            std::fs::write(&path, told).expect("writing the story down");
        } else if told != expected {
            for (at, (told, expected)) in told.lines().zip(expected.lines()).enumerate() {
                assert_eq!(told, expected, "{name}:{}", at + 1);
            }
            panic!("{name} ends differently:\n{told}");
        }
    }
}
