//! Revisions that are only known while a sequence plays: "the newest, minus two" is written into
//! a request as a number near a marker, and replaced just before the request is sent.

use crate::call::Call;
use quorate::api::proto::etcdserverpb as pb;

/// The newest revision, as the last answer's header gave it.
pub const NOW: i64 = 1 << 40;
/// The revision of the last compaction.
pub const COMPACTED: i64 = 1 << 41;
/// How far from its marker a number still counts as near.
const NEAR: i64 = 1 << 20;

/// The member's own id.
pub const OWN: u64 = 1;
/// The id of the learner that was added last, or one that nobody has.
pub const LEARNER: u64 = 2;

/// What the markers stand for.
#[derive(Clone, Copy, Debug)]
pub struct Revisions {
    pub now: i64,
    pub compacted: i64,
}

impl Revisions {
    pub fn resolve(&self, number: &mut i64) {
        for (marker, value) in [(NOW, self.now), (COMPACTED, self.compacted)] {
            if number.abs_diff(marker) < NEAR.unsigned_abs() {
                *number = *number - marker + value;
                return;
            }
        }
    }

    pub fn resolve_call(&self, call: &mut Call) {
        match call {
            Call::Range(range) => self.resolve_range(range),
            Call::Txn(txn) => self.resolve_txn(txn),
            Call::Compact(compact) => self.resolve(&mut compact.revision),
            Call::HashKv(hash) => self.resolve(&mut hash.revision),
            _ => {}
        }
    }

    /// The members that a request names, as one server knows them.
    pub fn resolve_members(call: &mut Call, own: u64, learner: Option<u64>) {
        let id = match call {
            Call::MemberRemove(request) => &mut request.id,
            Call::MemberUpdate(request) => &mut request.id,
            Call::MemberPromote(request) => &mut request.id,
            Call::MoveLeader(request) => &mut request.target_id,
            _ => return,
        };
        match *id {
            OWN => *id = own,
            LEARNER => *id = learner.unwrap_or(LEARNER),
            _ => {}
        }
    }

    fn resolve_range(&self, range: &mut pb::RangeRequest) {
        for number in [
            &mut range.revision,
            &mut range.min_mod_revision,
            &mut range.max_mod_revision,
            &mut range.min_create_revision,
            &mut range.max_create_revision,
        ] {
            self.resolve(number);
        }
    }

    fn resolve_txn(&self, txn: &mut pb::TxnRequest) {
        use pb::compare::TargetUnion;
        use pb::request_op::Request;
        for compare in &mut txn.compare {
            if let Some(
                TargetUnion::Version(n)
                | TargetUnion::CreateRevision(n)
                | TargetUnion::ModRevision(n)
                | TargetUnion::Lease(n),
            ) = &mut compare.target_union
            {
                self.resolve(n);
            }
        }
        for op in txn.success.iter_mut().chain(&mut txn.failure) {
            match &mut op.request {
                Some(Request::RequestRange(range)) => self.resolve_range(range),
                Some(Request::RequestTxn(nested)) => self.resolve_txn(nested),
                _ => {}
            }
        }
    }
}
