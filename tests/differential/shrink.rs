//! From a sequence that differs to a short one that still does: operations are taken out, then
//! fields of the requests. Every attempt starts on fresh servers.

use crate::known::Differences;
use crate::play::{Difference, Op, Player};
use crate::servers::Pair;
use std::path::Path;

/// Attempts cost a start of both servers each.
const ATTEMPTS_MAX: usize = 150;

pub struct Shrinker<'a> {
    pub etcd: &'a Path,
    attempts: usize,
    /// The RPC that differs.
    path: Option<&'static str>,
}

impl<'a> Shrinker<'a> {
    pub fn new(etcd: &'a Path) -> Shrinker<'a> {
        Shrinker { etcd, attempts: 0, path: None }
    }

    /// The shortest that was found, and how it differs; `None` if fresh servers agree on `ops`.
    pub async fn shrink(&mut self, mut ops: Vec<Op>) -> Option<(Vec<Op>, Difference)> {
        let mut found = self.attempt(&ops).await?;
        ops.truncate(found.at + 1);
        // What differs is the last operation: everything before it may go.
        let mut chunk = ops.len() / 2;
        while chunk > 0 {
            let mut end = ops.len() - 1;
            while end > 0 {
                let start = end.saturating_sub(chunk);
                let mut fewer = ops.clone();
                fewer.drain(start..end);
                if let Some(difference) = self.attempt(&fewer).await {
                    fewer.truncate(difference.at + 1);
                    (ops, found) = (fewer, difference);
                    end = start.min(ops.len() - 1);
                } else {
                    end = start;
                }
            }
            chunk /= 2;
        }
        let mut at = ops.len();
        while at > 0 {
            at -= 1;
            let mut simpler = simpler(&ops[at]).into_iter();
            while let Some(op) = simpler.next() {
                let mut next = ops.clone();
                next[at] = op;
                if let Some(difference) = self.attempt(&next).await
                    && difference.at + 1 == next.len()
                {
                    (ops, found) = (next, difference);
                    simpler = crate::shrink::simpler(&ops[at]).into_iter();
                }
            }
        }
        Some((ops, found))
    }

    async fn attempt(&mut self, ops: &[Op]) -> Option<Difference> {
        self.attempts += 1;
        if self.attempts > ATTEMPTS_MAX {
            return None;
        }
        let pair = Pair::start(self.etcd).await;
        let found = Player::new(&pair, &mut Differences::new()).play(ops).await?;
        // Another RPC's difference is another story.
        let path = ops[found.at].path();
        (*self.path.get_or_insert(path) == path).then_some(found)
    }
}

/// The same operation with one field less, at any depth of its message.
fn simpler(op: &Op) -> Vec<Op> {
    let call = match op {
        Op::Call(call) => call,
        Op::Alarmed { alarm, member_id, ops } => {
            let fewer = |at: usize| {
                let mut ops = ops.clone();
                ops.remove(at);
                Op::Alarmed { alarm: *alarm, member_id: *member_id, ops }
            };
            return (0..ops.len()).rev().map(fewer).collect();
        }
        Op::As(who, op) => {
            let simpler = simpler(op).into_iter();
            return simpler.map(|op| Op::As(who, Box::new(op))).collect();
        }
        Op::ShortLease(_) | Op::KeepAlive(_) | Op::Watch { .. } | Op::Login { .. } => {
            return Vec::new();
        }
    };
    let bytes = call.encode();
    if bytes.len() > 10_000 {
        return Vec::new();
    }
    without_a_field(&bytes)
        .into_iter()
        .filter_map(|bytes| call.with(&bytes))
        .filter(|simpler| simpler != call)
        .map(Op::Call)
        .collect()
}

/// Every message that `bytes` becomes when one field is left out. A field of bytes that reads as a
/// message is treated as one too.
fn without_a_field(bytes: &[u8]) -> Vec<Vec<u8>> {
    let Some(fields) = fields(bytes) else { return Vec::new() };
    let mut out = Vec::new();
    for field in &fields {
        out.push([&bytes[..field.start], &bytes[field.end..]].concat());
    }
    for field in fields.iter().filter(|field| field.body < field.end && field.is_bytes) {
        for body in without_a_field(&bytes[field.body..field.end]) {
            let mut shorter = bytes[..field.start].to_vec();
            shorter.extend_from_slice(&bytes[field.start..field.tag_end]);
            varint_to(body.len() as u64, &mut shorter);
            shorter.extend_from_slice(&body);
            shorter.extend_from_slice(&bytes[field.end..]);
            out.push(shorter);
        }
    }
    out
}

struct Field {
    start: usize,
    tag_end: usize,
    body: usize,
    end: usize,
    is_bytes: bool,
}

fn fields(bytes: &[u8]) -> Option<Vec<Field>> {
    let mut fields = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let start = at;
        let (tag, tag_end) = varint(bytes, at)?;
        let (body, end, is_bytes) = match tag & 7 {
            0 => (tag_end, varint(bytes, tag_end)?.1, false),
            2 => {
                let (length, body) = varint(bytes, tag_end)?;
                (body, body.checked_add(usize::try_from(length).ok()?)?, true)
            }
            _ => return None,
        };
        if end > bytes.len() || tag >> 3 == 0 {
            return None;
        }
        fields.push(Field { start, tag_end, body, end, is_bytes });
        at = end;
    }
    Some(fields)
}

fn varint(bytes: &[u8], mut at: usize) -> Option<(u64, usize)> {
    let mut value = 0_u64;
    for shift in (0..70).step_by(7) {
        let byte = *bytes.get(at)?;
        at += 1;
        value |= u64::from(byte & 127).checked_shl(shift).unwrap_or(0);
        if byte < 128 {
            return Some((value, at));
        }
    }
    None
}

fn varint_to(mut value: u64, into: &mut Vec<u8>) {
    while value > 127 {
        into.push((value & 127) as u8 | 128);
        value >>= 7;
    }
    into.push(value as u8);
}
