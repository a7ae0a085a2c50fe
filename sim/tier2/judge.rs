//! What members apply and what clients are told, against the reference model.
//!
//! Answers over gRPC do not say where in the log their command is. Its place is then the first one
//! behind everything that had been answered before the call, with the same command and the outcome
//! told, that no other answer has taken. (Calls are judged in the order in which they end, so the
//! first place is always a right choice if there is any.) Everything else is tier 1's `history`.

use crate::history::{Answer, Call, CallId, History};
use crate::model::Outcome;
use crate::safety::{Checked, broken, ensure};
use crate::trace::hash_bytes;
use quorate::api::convert;
use quorate::api::errors;
use quorate::api::proto::etcdserverpb as pb;
use quorate::codec::command::decode_proposal;
use quorate::multiraft::turn::BOOT_INDEX;
use quorate::types::reply::{RangeReply, Reply, TxnReply};
use quorate::types::{ApiError, Entry, EntryKind, GroupId, LogIndex, Term};
use std::collections::BTreeMap;
use tonic::Status;

/// A response, as it came.
#[derive(Clone, Debug, PartialEq)]
pub enum Told {
    Put(pb::PutResponse),
    Delete(pb::DeleteRangeResponse),
    Txn(pb::TxnResponse),
    Range(pb::RangeResponse),
    Compact(pb::CompactionResponse),
    Grant(pb::LeaseGrantResponse),
    Revoke(pb::LeaseRevokeResponse),
    KeepAlive(pb::LeaseKeepAliveResponse),
}

impl Told {
    fn header(&self) -> Option<&pb::ResponseHeader> {
        match self {
            Told::Put(r) => r.header.as_ref(),
            Told::Delete(r) => r.header.as_ref(),
            Told::Txn(r) => r.header.as_ref(),
            Told::Range(r) => r.header.as_ref(),
            Told::Compact(r) => r.header.as_ref(),
            Told::Grant(r) => r.header.as_ref(),
            Told::Revoke(r) => r.header.as_ref(),
            Told::KeepAlive(r) => r.header.as_ref(),
        }
    }
}

/// What the response to a command with this outcome is, whole. `None` for an error.
fn response(outcome: &Outcome, header: &pb::ResponseHeader) -> Option<Told> {
    let header = pb::ResponseHeader { revision: outcome.revision, ..*header };
    let at = Some(header);
    Some(match outcome.reply.clone().ok()? {
        Reply::Put(reply) => Told::Put(convert::put_reply_to_proto(at, reply)),
        Reply::DeleteRange(reply) => Told::Delete(convert::delete_reply_to_proto(at, reply)),
        Reply::Txn(reply) => Told::Txn(convert::txn_reply_to_proto(header, reply)),
        Reply::Compact => Told::Compact(pb::CompactionResponse { header: at }),
        Reply::LeaseGrant { id, ttl_seconds } => Told::Grant(pb::LeaseGrantResponse {
            header: at,
            id: id.0,
            ttl: ttl_seconds,
            error: String::new(),
        }),
        Reply::LeaseRevoke => Told::Revoke(pb::LeaseRevokeResponse { header: at }),
        _ => return None,
    })
}

pub struct Judge {
    pub history: History,
    /// Each committed entry, by whoever applied it first.
    log: BTreeMap<LogIndex, (Term, u64, usize)>,
    /// HashKV by (revision, compacted revision), and who told it first.
    hashes: BTreeMap<(i64, i64), (u32, usize)>,
    pub answers: u64,
}

impl Judge {
    /// `drift_ppm` bounds how much faster than true time a member's clock goes.
    pub fn new(drift_ppm: u64) -> Judge {
        Judge {
            history: History::new(1, drift_ppm),
            log: BTreeMap::new(),
            hashes: BTreeMap::new(),
            answers: 0,
        }
    }

    /// The end of the committed log, as far as anybody has applied it. Every log begins with what
    /// its founding was told.
    pub fn committed(&self) -> LogIndex {
        self.log.last_key_value().map_or(BOOT_INDEX, |(index, _)| *index)
    }

    /// Terms that entries were committed in.
    pub fn terms(&self) -> u64 {
        let mut terms: Vec<Term> = self.log.values().map(|row| row.0).collect();
        terms.dedup();
        terms.len() as u64
    }

    pub fn revision(&self) -> i64 {
        self.history.model(GroupId::ROOT).revision()
    }

    /// A member is about to apply an entry.
    pub fn applying(&mut self, now_us: u64, host: usize, group: GroupId, entry: &Entry) -> Checked {
        let mine = (entry.term, hash_bytes(&entry.data));
        if let Some((term, hash, first)) = self.log.get(&entry.index) {
            ensure!(
                (*term, *hash) == mine,
                "state-machine-safety",
                "index {}: {host} applies {entry:?}, {first} has applied another one of term {term}",
                entry.index
            );
            return Ok(());
        }
        self.log.insert(entry.index, (mine.0, mine.1, host));
        let proposal = match entry.kind {
            EntryKind::Command => decode_proposal(&entry.data).ok(),
            _ => None,
        };
        self.history.commit(now_us, group, entry, proposal)
    }

    /// A client hears a response.
    pub fn heard(
        &mut self,
        now_us: u64,
        id: CallId,
        call: &Call,
        told: &Told,
    ) -> Result<Answer, crate::safety::Violation> {
        self.answers += 1;
        let header = told.header().copied().unwrap_or_default();
        let revision = header.revision;
        let answer = match (call, told) {
            (Call::Write(command), _) => {
                let fits = |outcome: &Outcome| response(outcome, &header).as_ref() == Some(told);
                match self.history.place(id, fits) {
                    Ok((index, outcome)) => Answer::Wrote { reply: outcome.reply, revision, index },
                    Err(near) => {
                        ensure!(
                            false,
                            "wrong-reply",
                            "{command:?}\n  is answered {told:?}\n  the log says {near:?}"
                        );
                        return Ok(self.unheard(id));
                    }
                }
            }
            (Call::Range(_), Told::Range(r)) => {
                let kvs = r.kvs.iter().cloned().map(convert::key_value_from_proto).collect();
                let reply = RangeReply { kvs, more: r.more, count: r.count };
                Answer::Range { reply, revision }
            }
            (Call::ReadTxn(request), Told::Txn(_)) => {
                let model = self.history.model(GroupId::ROOT);
                let reply: TxnReply = model.read_txn_at(request, revision);
                let outcome = Outcome { reply: Ok(Reply::Txn(reply.clone())), revision };
                let expected = response(&outcome, &header);
                ensure!(
                    expected.as_ref() == Some(told),
                    "wrong-read",
                    "{request:?}\n  answered {told:?}\n  expected {expected:?}"
                );
                Answer::ReadTxn { reply, revision }
            }
            (Call::KeepAlive(_), Told::KeepAlive(r)) => Answer::KeptAlive { ttl_seconds: r.ttl },
            (call, told) => {
                ensure!(false, "wrong-kind", "{call:?} is answered {told:?}");
                return Ok(self.unheard(id));
            }
        };
        self.history.end(now_us, id, answer.clone())?;
        Ok(answer)
    }

    /// Only where a rule is switched off: an answer that nothing can be made of.
    fn unheard(&mut self, id: CallId) -> Answer {
        self.history.abandon(id);
        Answer::Failed { error: ApiError::Timeout, never: false }
    }

    /// A client hears an error. One that is not in the table says nothing about the call's fate.
    pub fn refused(&mut self, now_us: u64, id: CallId, status: &Status) -> Checked {
        match known(status) {
            Some(error) => {
                let never = is_never(&error);
                self.history.end(now_us, id, Answer::Failed { error, never })
            }
            None => {
                self.history.abandon(id);
                Ok(())
            }
        }
    }

    /// HashKV answers for one history agree, whoever gives them.
    pub fn hash_kv(&mut self, host: usize, told: &pb::HashKvResponse) -> Checked {
        let key = (told.hash_revision, told.compact_revision);
        let (hash, first) = *self.hashes.entry(key).or_insert((told.hash, host));
        if hash != told.hash {
            return broken!(
                "hash-kv",
                format!("{host} says {told:?}, {first} said hash {hash} for the same history"),
            );
        }
        Ok(())
    }
}

/// The row of the table of errors that a status is.
fn known(status: &Status) -> Option<ApiError> {
    use ApiError::*;
    [
        EmptyKey,
        KeyNotFound,
        ValueProvided,
        LeaseProvided,
        TooManyOps,
        DuplicateKey,
        InvalidSortOption,
        Compacted,
        FutureRevision,
        NoSpace,
        LeaseNotFound,
        LeaseExists,
        LeaseTtlTooLarge,
        RequestTooLarge,
        TooManyRequests,
        NoLeader,
        NotLeader,
        LeaderChanged,
        Stopped,
        Timeout,
        TimeoutLeaderFail,
        TimeoutConnectionLost,
        TimeoutWaitApplied,
        Unhealthy,
        Corrupt,
        BadLeaderTransferee,
        TimeoutLeaderTransfer,
    ]
    .into_iter()
    .find(|error| {
        let (code, text) = errors::row(error);
        code == status.code() && text == status.message()
    })
}

/// Whether the error promises that the command was not and will not be applied.
fn is_never(error: &ApiError) -> bool {
    use ApiError::*;
    matches!(
        error,
        EmptyKey
            | ValueProvided
            | LeaseProvided
            | TooManyOps
            | DuplicateKey
            | InvalidSortOption
            | RequestTooLarge
            | TooManyRequests
    )
}
