//! The two meta pages: what a checkpoint is, in one sector.
//!
//! Checkpoint `n` is written to page `n % 2` after everything it refers to is durable. A meta
//! that was torn fails its CRC, and the other one, untouched, is the state of the store.

use super::page::{PAGE_BYTES, PageRef, u32_at, u64_at};
use crate::types::{ClusterId, Incarnation, NodeId};

/// Whose store this is. Compared by the caller, never by the store itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoreIdentity {
    pub cluster: ClusterId,
    pub node: NodeId,
    pub incarnation: Incarnation,
}

pub(super) const META_PAGES: u64 = 2;
const MAGIC: &[u8; 8] = b"quorate\x01";
const FORMAT: u32 = 1;
/// The part that means something: what a disk writes as a unit.
const META_BYTES: usize = 512;
/// No store gets there; counting on from it cannot overflow.
const CHECKPOINT_MAX: u64 = u64::MAX / 2;
const CRC_AT: usize = META_BYTES - 4;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Meta {
    pub identity: StoreIdentity,
    pub checkpoint: u64,
    /// The catalogue tree: `None` when it is empty.
    pub catalogue: Option<PageRef>,
    pub catalogue_level: u8,
    pub catalogue_entries: u64,
    /// The index of the free-space map: `None` when only the meta pages are in use.
    pub space: Option<PageRef>,
    /// Chunks that the index lists.
    pub chunks: u64,
    /// Pages in use, the metas included.
    pub used: u64,
    /// One behind the highest page in use: a shorter file has lost something.
    pub high: u64,
}

impl Meta {
    pub fn empty(identity: StoreIdentity, checkpoint: u64) -> Meta {
        Meta {
            identity,
            checkpoint,
            catalogue: None,
            catalogue_level: 0,
            catalogue_entries: 0,
            space: None,
            chunks: 0,
            used: META_PAGES,
            high: META_PAGES,
        }
    }

    /// Which of the two pages this meta belongs on.
    pub fn page(&self) -> u64 {
        self.checkpoint % META_PAGES
    }

    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![0; PAGE_BYTES];
        out[0..8].copy_from_slice(MAGIC);
        out[8..12].copy_from_slice(&FORMAT.to_le_bytes());
        out[12..16].copy_from_slice(&(PAGE_BYTES as u32).to_le_bytes());
        let words = [
            self.checkpoint,
            self.identity.cluster.0,
            self.identity.node.0,
            self.identity.incarnation.0,
            self.high,
            self.used,
            self.chunks,
            self.catalogue_entries,
            u64::from(self.catalogue_level),
        ];
        for (i, word) in words.iter().enumerate() {
            out[16 + 8 * i..24 + 8 * i].copy_from_slice(&word.to_le_bytes());
        }
        if let Some(page) = self.catalogue {
            page.encode(&mut out[96..120]);
        }
        if let Some(page) = self.space {
            page.encode(&mut out[120..144]);
        }
        let crc = crc32fast::hash(&out[..CRC_AT]);
        out[CRC_AT..META_BYTES].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// The meta on page `page`, or what is wrong with it.
    pub fn decode(bytes: &[u8], page: u64) -> Result<Meta, String> {
        if bytes.len() < META_BYTES || bytes[0..8] != *MAGIC {
            return Err("no meta page".into());
        }
        let crc = crc32fast::hash(&bytes[..CRC_AT]);
        if crc != u32_at(bytes, CRC_AT) {
            return Err(format!("CRC {crc:08x} where {:08x} is noted", u32_at(bytes, CRC_AT)));
        }
        let (format, page_bytes) = (u32_at(bytes, 8), u32_at(bytes, 12));
        if format != FORMAT || page_bytes as usize != PAGE_BYTES {
            return Err(format!("format {format} with pages of {page_bytes} bytes"));
        }
        let word = |i: usize| u64_at(bytes, 16 + 8 * i);
        let reference = |at: usize| Some(PageRef::decode(&bytes[at..])).filter(|r| r.page != 0);
        let meta = Meta {
            checkpoint: word(0),
            identity: StoreIdentity {
                cluster: ClusterId(word(1)),
                node: NodeId(word(2)),
                incarnation: Incarnation(word(3)),
            },
            high: word(4),
            used: word(5),
            chunks: word(6),
            catalogue_entries: word(7),
            catalogue_level: u8::try_from(word(8)).unwrap_or(u8::MAX),
            catalogue: reference(96),
            space: reference(120),
        };
        if meta.checkpoint > CHECKPOINT_MAX {
            return Err(format!("checkpoint {}", meta.checkpoint));
        }
        if meta.page() != page {
            return Err(format!("checkpoint {} on the other's page", meta.checkpoint));
        }
        Ok(meta)
    }
}
