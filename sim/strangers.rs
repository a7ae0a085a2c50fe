//! Who refuses whom when members of different clusters meet, and that nothing comes of it.
//!
//! Every hello goes through its bytes, every verdict through the reply's. "Both sides" means: the
//! acceptor judges the dialer's hello, and the dialer judges the acceptor's reply by the same
//! rules, whatever the acceptor's verdict was.

use crate::member::Live;
use bytes::BytesMut;
use quorate::codec::Reader;
use quorate::transport::handshake::{
    HelloReply, decode_hello, decode_hello_reply, encode_hello, encode_hello_reply, judge_reply,
};
use quorate::transport::{Hello, Refusal, StreamKind, Verdict, judge};
use quorate::types::{ClusterId, NodeId};

const KINDS: [StreamKind; 2] = [StreamKind::Messages, StreamKind::Bulk];

/// Two members of different clusters meet, each dialing the other: both refuse, on every kind of
/// stream, and name both ids; neither is changed by it.
pub fn strangers(a: &Live, b: &Live) -> Result<(), String> {
    let before = (a.fingerprint(), b.fingerprint());
    for kind in KINDS {
        for (dialer, acceptor) in [(a, b), (b, a)] {
            // Whoever the dialer takes it for: its own peer of old, or this very member.
            let meant = dialer.peers().chain([acceptor.identity().node]);
            for to in meant {
                dial(dialer, acceptor, to, kind)?;
            }
        }
    }
    let after = (a.fingerprint(), b.fingerprint());
    if before == after { Ok(()) } else { Err("a refused handshake has left traces".to_owned()) }
}

fn dial(dialer: &Live, acceptor: &Live, to: NodeId, kind: StreamKind) -> Result<(), String> {
    let hello = carried(&dialer.identity().hello(to, kind))?;
    let there = judge(acceptor.identity(), acceptor.book(), &hello);
    mismatch(&there, acceptor.identity().cluster, dialer.identity().cluster)?;
    let reply = HelloReply { hello: acceptor.identity().hello(hello.from, kind), verdict: there };
    let reply = replied(&reply)?;
    // The dialer is told, and would not have needed to be.
    mismatch(&reply.verdict, acceptor.identity().cluster, dialer.identity().cluster)?;
    let here = judge_reply(dialer.identity(), dialer.book(), to, &reply);
    mismatch(&here, dialer.identity().cluster, acceptor.identity().cluster)
}

/// Somebody who is a known peer in everything but the cluster's id: settings of before a restore,
/// or members that were given different lists of first members.
pub fn old_id(live: &Live, other: ClusterId) -> Result<(), String> {
    let before = live.fingerprint();
    let local = live.identity();
    for peer in live.peers() {
        for kind in KINDS {
            let belongs = Hello {
                from: peer,
                incarnation: live.book().expected(peer).unwrap_or_default(),
                ..local.hello(local.node, kind)
            };
            if let Verdict::Refuse(refusal) = judge(local, live.book(), &belongs) {
                return Err(format!("peer {peer} itself is refused: {refusal}"));
            }
            let hello = carried(&Hello { cluster: other, ..belongs })?;
            mismatch(&judge(local, live.book(), &hello), local.cluster, other)?;
        }
    }
    if before == live.fingerprint() { Ok(()) } else { Err("traces of an old id".to_owned()) }
}

fn mismatch(verdict: &Verdict, local: ClusterId, remote: ClusterId) -> Result<(), String> {
    let expected = Refusal::ClusterIdMismatch { local, remote };
    match verdict {
        Verdict::Refuse(refusal) if *refusal == expected => {
            let said = refusal.to_string();
            let both = said.contains(&local.to_string()) && said.contains(&remote.to_string());
            if both { Ok(()) } else { Err(format!("the refusal says only: {said}")) }
        }
        other => Err(format!("{local} meets {remote}: {other:?}")),
    }
}

fn carried(hello: &Hello) -> Result<Hello, String> {
    let mut bytes = BytesMut::new();
    encode_hello(hello, &mut bytes);
    match decode_hello(&mut Reader::new(&bytes.freeze())) {
        Ok(there) if there == *hello => Ok(there),
        other => Err(format!("{hello:?} arrives as {other:?}")),
    }
}

fn replied(reply: &HelloReply) -> Result<HelloReply, String> {
    let mut bytes = BytesMut::new();
    encode_hello_reply(reply, &mut bytes);
    match decode_hello_reply(&mut Reader::new(&bytes.freeze())) {
        Ok(there) if there == *reply => Ok(there),
        other => Err(format!("{reply:?} arrives as {other:?}")),
    }
}
