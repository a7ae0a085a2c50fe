//! The tape: every decision of a run, one a line, to be read, edited, shrunk and played again.
//!
//! A seed draws decisions; a tape states them: the plan's fields, the nemesis' acts, the clients'
//! calls, and what became of single messages. Each stands alone, with its time, its place and the
//! number that its own details are drawn from, so that taking one away moves no other: a missing
//! act is not done, a missing call not made, a message without a line arrives after its normal
//! delay. What is left undecided (normal delays, the spread of disk operations) is noise, drawn
//! from the seed by time and place, and therefore the same wherever nothing else has changed.
//! A complete tape plays the history it was taken from, bit for bit.
//!
//! ```text
//! plan members 3
//! act at 1250000 word 77 Partition { side: 5 }
//! call at 2010000 client 2 nth 4 to 1 group 1 word 12 | Write(Put(…))
//! message at 2011340.0 link 0>2 drop
//! ```

use crate::faults::Act;
use crate::plan::Plan;
use crate::text::Field;
use std::collections::{BTreeMap, VecDeque};
use std::fmt;

/// What became of one message, if not the usual.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    Drop,
    Duplicate,
    /// A copy arrives so much later.
    Replay(u64),
    /// A copy arrives so long after its receiver has next become a leader.
    Turn(u64),
    /// It takes so much longer.
    Late(u64),
}

/// A directed link.
pub type Link = (usize, usize);
/// The time of a message, and its number among those of that time on its link.
pub type Moment = (u64, u32);

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    Plan { field: String, value: String },
    Act { at_us: u64, word: u64, text: String },
    Call(CallDecision),
    Message { at: Moment, link: Link, fate: Fate },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallDecision {
    pub at_us: u64,
    pub client: usize,
    pub to: usize,
    pub group: u64,
    /// Its number among the client's.
    pub nth: u64,
    /// What the call's content is drawn from.
    pub word: u64,
    /// What that was; for the reader.
    pub said: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tape(pub Vec<Decision>);

impl Tape {
    /// Acts, calls and messages: what a person has to follow.
    pub fn events(&self) -> usize {
        self.0.iter().filter(|d| !matches!(d, Decision::Plan { .. })).count()
    }

    pub fn plan(&self) -> Result<Plan, String> {
        let fields = self.0.iter().filter_map(|d| match d {
            Decision::Plan { field, value } => Some((field.as_str(), value.as_str())),
            _ => None,
        });
        Plan::from_fields(fields)
    }

    pub fn parse(text: &str) -> Result<Tape, String> {
        text.lines()
            .map(|line| line.trim_end())
            .filter(|line| !line.is_empty() && !line.starts_with('#'))
            .map(|line| Decision::parse(line).ok_or_else(|| format!("not a decision: {line}")))
            .collect::<Result<_, _>>()
            .map(Tape)
    }
}

impl fmt::Display for Tape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|decision| writeln!(f, "{decision}"))
    }
}

impl fmt::Display for Decision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Decision::Plan { field, value } => write!(f, "plan {field} {value}"),
            Decision::Act { at_us, word, text } => write!(f, "act at {at_us} word {word} {text}"),
            Decision::Call(c) => write!(
                f,
                "call at {} client {} nth {} to {} group {} word {} | {}",
                c.at_us, c.client, c.nth, c.to, c.group, c.word, c.said
            ),
            Decision::Message { at: (at, nth), link: (from, to), fate } => {
                write!(f, "message at {at}.{nth} link {from}>{to} ")?;
                match fate {
                    Fate::Drop => write!(f, "drop"),
                    Fate::Duplicate => write!(f, "duplicate"),
                    Fate::Replay(us) => write!(f, "replay {us}"),
                    Fate::Turn(us) => write!(f, "turn {us}"),
                    Fate::Late(us) => write!(f, "late {us}"),
                }
            }
        }
    }
}

impl Decision {
    fn parse(line: &str) -> Option<Decision> {
        let (kind, rest) = line.split_once(' ')?;
        match kind {
            "plan" => {
                let (field, value) = rest.split_once(' ')?;
                Some(Decision::Plan { field: field.to_owned(), value: value.to_owned() })
            }
            "act" => {
                let mut words = rest.splitn(5, ' ');
                let (at_us, word) = (named(&mut words, "at")?, named(&mut words, "word")?);
                Some(Decision::Act { at_us, word, text: words.next()?.to_owned() })
            }
            "call" => {
                let (head, said) = rest.split_once(" | ").unwrap_or((rest, ""));
                let mut words = head.split(' ');
                Some(Decision::Call(CallDecision {
                    at_us: named(&mut words, "at")?,
                    client: named(&mut words, "client")? as usize,
                    nth: named(&mut words, "nth")?,
                    to: named(&mut words, "to")? as usize,
                    group: named(&mut words, "group")?,
                    word: named(&mut words, "word")?,
                    said: said.to_owned(),
                }))
            }
            "message" => {
                let words: Vec<&str> = rest.split(' ').collect();
                let ["at", at, "link", link, fate, ref more @ ..] = words[..] else { return None };
                let (at, nth) = at.split_once('.')?;
                let (from, to) = link.split_once('>')?;
                let us = more.first().and_then(|us| us.parse().ok());
                let fate = match fate {
                    "drop" => Fate::Drop,
                    "duplicate" => Fate::Duplicate,
                    "replay" => Fate::Replay(us?),
                    "turn" => Fate::Turn(us?),
                    "late" => Fate::Late(us?),
                    _ => return None,
                };
                let at = (at.parse().ok()?, nth.parse().ok()?);
                let link = (from.parse().ok()?, to.parse().ok()?);
                Some(Decision::Message { at, link, fate })
            }
            _ => None,
        }
    }
}

/// `name number`, the next two words.
fn named<'w>(words: &mut impl Iterator<Item = &'w str>, name: &str) -> Option<u64> {
    (words.next()? == name).then_some(())?;
    words.next()?.parse().ok()
}

/// A tape as the world plays it: what comes next, by who decides it.
#[derive(Clone, Debug, Default)]
pub struct Script {
    pub acts: VecDeque<(u64, u64, Act)>,
    pub calls: BTreeMap<usize, VecDeque<CallDecision>>,
    pub fates: BTreeMap<Link, VecDeque<(Moment, Fate)>>,
}

impl Script {
    /// Acts that this code does not know are left out: a tape outlives an edit.
    pub fn new(tape: &Tape) -> Script {
        let mut script = Script::default();
        for decision in &tape.0 {
            match decision {
                Decision::Plan { .. } => {}
                Decision::Act { at_us, word, text } => {
                    if let Some(act) = Act::read(text) {
                        script.acts.push_back((*at_us, *word, act));
                    }
                }
                Decision::Call(call) => {
                    script.calls.entry(call.client).or_default().push_back(call.clone());
                }
                Decision::Message { at, link, fate } => {
                    script.fates.entry(*link).or_default().push_back((*at, *fate));
                }
            }
        }
        script
    }
}

/// What becomes of messages: drawn and kept, or as a tape says.
#[derive(Debug)]
pub enum Fates {
    Drawn(Option<Vec<Decision>>),
    Told(BTreeMap<Link, VecDeque<(Moment, Fate)>>),
}

impl Fates {
    /// The fates told for a message of this moment: each goes to the first message at or after
    /// its own.
    pub fn told(&mut self, link: Link, at: Moment) -> Option<Vec<Fate>> {
        let Fates::Told(links) = self else { return None };
        let Some(queue) = links.get_mut(&link) else { return Some(Vec::new()) };
        let mut now = Vec::new();
        while queue.front().is_some_and(|(moment, _)| *moment <= at) {
            now.extend(queue.pop_front().map(|(_, fate)| fate));
        }
        Some(now)
    }

    pub fn keep(&mut self, link: Link, at: Moment, fate: Fate) {
        if let Fates::Drawn(Some(kept)) = self {
            kept.push(Decision::Message { at, link, fate });
        }
    }
}

/// Negative control: what is written is what is read, and nonsense is not.
pub fn self_check() {
    let plan = Plan::new(7);
    let mut tape = Tape(plan.decisions());
    tape.0.push(Decision::Act {
        at_us: 5,
        word: 6,
        text: format!("{:?}", Act::Partition { side: 3 }),
    });
    tape.0.push(Decision::Call(CallDecision {
        at_us: 7,
        client: 1,
        nth: 3,
        to: 2,
        group: 1,
        word: 9,
        said: "Range(…)".to_owned(),
    }));
    for fate in [Fate::Drop, Fate::Duplicate, Fate::Replay(8), Fate::Late(9), Fate::Turn(7)] {
        tape.0.push(Decision::Message { at: (8, 1), link: (0, 2), fate });
    }
    let again = Tape::parse(&tape.to_string()).expect("a tape reads");
    assert_eq!(again, tape, "a tape reads as it was written");
    let plan_again = again.plan().expect("a plan reads");
    assert_eq!(format!("{plan_again:?}"), format!("{plan:?}"), "a plan reads as it was drawn");
    assert_eq!(Script::new(&again).acts.len(), 1, "an act reads");
    assert!(Tape::parse("act at noon").is_err(), "nonsense is refused");
}
