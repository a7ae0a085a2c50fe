//! What a checkpoint says of each group besides its trees: up to which entry it has everything,
//! and where the log it belongs to must start at the latest.

use super::turn::{BOOT_INDEX, BOOT_TERM};
use crate::codec::raft::{decode_conf_state, encode_conf_state};
use crate::codec::reader::Reader;
use crate::codec::varint::put_varint;
use crate::types::{ConfState, LogIndex, NodeId, StorageError, Term};
use bytes::{Bytes, BytesMut};
use std::collections::BTreeSet;
use std::path::Path;

const FORMAT: u64 = 1;

/// The opaque group meta of the store.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GroupMeta {
    /// The newest entry whose effects the trees hold.
    pub applied: LogIndex,
    /// The term of that entry.
    pub term: Term,
    pub conf: ConfState,
    /// Where the state came from other than by this node's own log: the newest raft snapshot it
    /// installed, or the cluster's birth. When `applied` is still this point and the log does not
    /// reach it, the log's start was not yet written when the node stopped: it is made up for at
    /// boot. In any other case a log that ends before `applied` has lost something.
    pub installed: (LogIndex, Term),
}

impl GroupMeta {
    /// The state of a group that `node` has just heard of from the catalogue. A voter of its birth
    /// begins at the point where every such voter begins; anybody else has nothing yet.
    pub fn born(voters: &BTreeSet<NodeId>, node: NodeId) -> GroupMeta {
        if !voters.contains(&node) {
            return GroupMeta::default();
        }
        let birth = (BOOT_INDEX, BOOT_TERM);
        let conf = ConfState::of_voters(voters.iter().copied().collect());
        GroupMeta { applied: birth.0, term: birth.1, conf, installed: birth }
    }

    /// Whether the trees hold nothing but what the birth or a fetched state has put there.
    pub fn is_as_installed(&self) -> bool {
        self.installed == (self.applied, self.term)
    }

    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::new();
        put_varint(&mut out, FORMAT);
        put_varint(&mut out, self.applied.0);
        put_varint(&mut out, self.term.0);
        put_varint(&mut out, self.installed.0.0);
        put_varint(&mut out, self.installed.1.0);
        encode_conf_state(&self.conf, &mut out);
        out.freeze()
    }

    /// `path` is the store's file, for the error.
    pub fn decode(bytes: &Bytes, path: &Path) -> Result<GroupMeta, StorageError> {
        let mut reader = Reader::new(bytes);
        let mut parse = || {
            let format = reader.varint("format")?;
            let applied = LogIndex(reader.varint("applied index")?);
            let term = Term(reader.varint("applied term")?);
            let installed = (
                LogIndex(reader.varint("installed index")?),
                Term(reader.varint("installed term")?),
            );
            let conf = decode_conf_state(&mut reader)?;
            Ok((format, GroupMeta { applied, term, conf, installed }))
        };
        match parse() {
            Ok((FORMAT, meta)) => Ok(meta),
            Ok((format, _)) => Err(StorageError::Mismatch {
                path: path.to_path_buf(),
                what: "format of group metas",
                expected: FORMAT.to_string(),
                found: format.to_string(),
            }),
            Err::<_, crate::codec::DecodeError>(error) => {
                Err(StorageError::corrupt(path, 0, "a group's meta", error.what))
            }
        }
    }
}
