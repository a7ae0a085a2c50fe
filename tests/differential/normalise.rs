//! What two right answers may differ in, made equal: ids, terms, sizes, versions, clocks.
//!
//! Each is replaced by a constant only while it is what it has to be (this server's own id, a
//! number above zero, a time that is left of what was granted); anything else stays as it is and
//! shows as a difference. Revisions are compared as they are: both stores get the same writes.

use crate::call::{Answer, Reply};
use crate::servers::Server;
use quorate::api::proto::etcdserverpb as pb;

/// A lease's clock may have run this much longer in one server than in the other.
const CLOCK_SECONDS: i64 = 30;

pub fn header(header: &mut pb::ResponseHeader, server: &Server) {
    own_id(&mut header.cluster_id, server.cluster_id);
    own_id(&mut header.member_id, server.member_id);
    header.raft_term = header.raft_term.min(1);
}

fn own_id(id: &mut u64, own: u64) {
    if *id == own {
        *id = 1;
    }
}

fn positive(number: &mut i64) {
    if *number > 0 {
        *number = 1;
    }
}

/// A lease's id that the server chose: positive, and far from the generator's, which are small.
fn chosen_id(id: &mut i64) {
    if *id > 1_000 && *id != i64::MAX {
        *id = 1_000;
    }
}

/// What is left of a lease.
pub fn remaining(left: &mut i64, granted: i64) {
    if *left <= granted && *left > granted - CLOCK_SECONDS {
        *left = granted;
    }
}

pub fn answer(answer: Answer, server: &Server) -> Answer {
    let mut reply = match answer {
        Answer::Reply(reply) => reply,
        Answer::Refused(code, text) => {
            return Answer::Refused(code, text.replace(&server.member_id.to_string(), "MEMBER"));
        }
        other @ (Answer::Told(_) | Answer::Broken(_)) => return other,
    };
    if let Some(head) = reply.header_mut() {
        header(head, server);
    }
    match &mut reply {
        Reply::LeaseGrant(grant) => {
            chosen_id(&mut grant.id);
        }
        Reply::LeaseLeases(leases) => {
            for lease in &mut leases.leases {
                chosen_id(&mut lease.id);
            }
            // By what is left of each, which members other than the leader do not know.
            leases.leases.sort_by_key(|lease| lease.id);
        }
        Reply::LeaseTimeToLive(lease) => {
            remaining(&mut lease.ttl, lease.granted_ttl);
            // In no particular order.
            lease.keys.sort();
        }
        // Sixteen letters, and the index of the entry that made it.
        Reply::Authenticate(login) => {
            if let Some((random, index)) = login.token.split_once('.')
                && random.len() == 16
                && random.bytes().all(|b| b.is_ascii_alphabetic())
                && index.parse::<u64>().is_ok()
            {
                login.token = "TOKEN".to_string();
            }
        }
        // etcd keeps those of one key in the order they were granted in, ours by their ends.
        Reply::RoleGet(role) => {
            role.perm.sort_by(|a, b| (&a.key, &a.range_end).cmp(&(&b.key, &b.range_end)));
        }
        Reply::Alarm(alarm) => {
            for alarm in &mut alarm.alarms {
                own_id(&mut alarm.member_id, server.member_id);
            }
        }
        Reply::Status(status) => normalise_status(status, server),
        // etcd hashes its file, which holds its own layout.
        Reply::Hash(hash) => hash.hash = 0,
        Reply::MemberList(list) => members(&mut list.members, server),
        Reply::MemberAdd(add) => {
            members(&mut add.members, server);
            if let Some(member) = &mut add.member {
                one_member(member, server);
            }
        }
        Reply::MemberRemove(remove) => members(&mut remove.members, server),
        Reply::MemberUpdate(update) => members(&mut update.members, server),
        Reply::MemberPromote(promote) => members(&mut promote.members, server),
        _ => {}
    }
    Answer::Reply(reply)
}

fn normalise_status(status: &mut pb::StatusResponse, server: &Server) {
    positive(&mut status.db_size);
    positive(&mut status.db_size_in_use);
    own_id(&mut status.leader, server.member_id);
    status.raft_index = status.raft_index.min(1);
    status.raft_applied_index = status.raft_applied_index.min(1);
    status.raft_term = status.raft_term.min(1);
    for error in &mut status.errors {
        *error = error.replace(&server.member_id.to_string(), "MEMBER");
    }
}

fn members(list: &mut [pb::Member], server: &Server) {
    for member in list.iter_mut() {
        one_member(member, server);
    }
    // Ordered by ids, which are no longer told apart.
    list.sort_by(|a, b| (a.id, &a.peer_ur_ls).cmp(&(b.id, &b.peer_ur_ls)));
}

fn one_member(member: &mut pb::Member, server: &Server) {
    if member.id == server.member_id {
        member.id = 1;
    } else if member.id != 0 {
        member.id = 2;
    }
    for url in member.peer_ur_ls.iter_mut().chain(&mut member.client_ur_ls) {
        if server.urls.contains(url) {
            *url = "OWN".to_string();
        }
    }
}
