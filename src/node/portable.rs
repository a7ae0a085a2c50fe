//! The state of every group as one stream of bytes that outlives its cluster: what a backup is
//! made of, and what `restore` can take.
//!
//! ```text
//! frame 1       head: format, whose it was, per group the entry up to which the state goes
//! frames 2..n   items of one group, ascending by (group, kind, key)
//! frame n+1     end: how many items and frames there were, and a checksum over all frames
//! ```
//!
//! A frame is `codec::frame`'s: length, CRC-32, payload. The state of one group is of one moment;
//! groups are pinned one after the other and owe each other nothing.
//!
//! Promises: the writer holds a pinned view and one chunk in memory; the reader one frame. A
//! stream that was cut, damaged or put together from two is refused before its last item is
//! handed out, so whoever has read to the end has read what was written.
//!
//! Refuses to know: where the bytes go to and come from.

use crate::codec::checksum::crc32_of;
use crate::codec::frame::{FRAME_HEADER_BYTES, begin_frame, end_frame, split_frame};
use crate::codec::varint::{put_bytes, put_varint};
use crate::codec::{DecodeError, Reader};
use crate::io::{Disk, File, OpenMode};
use crate::multiraft::snapshots::{Pin, read_chunk};
use crate::multiraft::wire::SnapshotItem;
use crate::types::{ClusterId, GroupId, LogIndex, NodeId, StorageError, Term, limits};
use bytes::{BufMut, Bytes, BytesMut};
use std::fmt;
use std::path::Path;
use std::sync::Arc;

const FORMAT: u64 = 1;
const MAGIC: &[u8; 8] = b"quorsnap";
const HEAD: u8 = 1;
const ITEMS: u8 = 2;
const END: u8 = 3;
/// Bytes read from a file at once.
const READ_BYTES: usize = 256 << 10;

/// What the head says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// Where the state comes from; whoever restores it gets other ids.
    pub cluster: ClusterId,
    pub node: NodeId,
    /// Per group, ascending, the newest entry that the state holds.
    pub groups: Vec<(GroupId, LogIndex, Term)>,
}

/// Writes the stream, one frame per call. Reads the store: run it beside the core, not in it.
#[derive(Debug)]
pub struct SnapshotWriter {
    head: Head,
    pins: Vec<Pin>,
    chunk_bytes: usize,
    at: Place,
    cursor: Option<(u8, Bytes)>,
    frames: u64,
    items: u64,
    crc: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Head,
    Pin(usize),
    Over,
}

impl SnapshotWriter {
    /// Of the pinned groups, which must be ascending.
    pub fn new(
        cluster: ClusterId,
        node: NodeId,
        pins: Vec<Pin>,
        chunk_bytes: usize,
    ) -> SnapshotWriter {
        assert!(pins.is_sorted_by_key(|pin| pin.group), "groups in order");
        let groups = pins.iter().map(|pin| (pin.group, pin.meta.index, pin.meta.term)).collect();
        let head = Head { cluster, node, groups };
        let (at, cursor) = (Place::Head, None);
        SnapshotWriter { head, pins, chunk_bytes, at, cursor, frames: 0, items: 0, crc: 0 }
    }

    /// The next bytes, `None` behind the last.
    pub fn next_bytes(&mut self) -> Result<Option<Bytes>, StorageError> {
        let mut out = BytesMut::new();
        let start = begin_frame(&mut out);
        match self.at {
            Place::Over => return Ok(None),
            Place::Head => {
                out.put_u8(HEAD);
                out.put_slice(MAGIC);
                put_varint(&mut out, FORMAT);
                put_varint(&mut out, self.head.cluster.0);
                put_varint(&mut out, self.head.node.0);
                put_varint(&mut out, self.head.groups.len() as u64);
                for (group, index, term) in &self.head.groups {
                    for number in [group.0, index.0, term.0] {
                        put_varint(&mut out, number);
                    }
                }
                self.at = Place::Pin(0);
            }
            Place::Pin(i) if i < self.pins.len() => {
                let pin = &self.pins[i];
                let (items, last) = read_chunk(pin, self.cursor.as_ref(), self.chunk_bytes)?;
                out.put_u8(ITEMS);
                put_varint(&mut out, pin.group.0);
                put_varint(&mut out, items.len() as u64);
                for item in &items {
                    put_varint(&mut out, u64::from(item.kind) << 1 | u64::from(item.live));
                    put_bytes(&mut out, &item.key);
                    put_bytes(&mut out, &item.value);
                }
                self.items += items.len() as u64;
                self.cursor = items.last().map(|item| (item.kind, item.key.clone()));
                if last {
                    self.cursor = None;
                    self.at = Place::Pin(i + 1);
                }
            }
            Place::Pin(_) => {
                out.put_u8(END);
                put_varint(&mut out, self.frames);
                put_varint(&mut out, self.items);
                out.put_u32_le(self.crc);
                self.at = Place::Over;
            }
        }
        end_frame(&mut out, start);
        self.frames += 1;
        self.crc = chained(self.crc, &out[start + FRAME_HEADER_BYTES..]);
        Ok(Some(out.freeze()))
    }

    /// The whole stream into a new file, synced, with its name.
    pub fn write_file(mut self, disk: &Arc<dyn Disk>, path: &Path) -> Result<u64, StorageError> {
        let file = disk.open(path, OpenMode::CreateNew)?;
        let mut at = 0;
        while let Some(bytes) = self.next_bytes()? {
            file.write_at(&[&bytes], at)?;
            at += bytes.len() as u64;
        }
        file.sync_data()?;
        disk.sync_dir(path.parent().unwrap_or(Path::new(".")))?;
        Ok(at)
    }
}

fn chained(crc: u32, payload: &[u8]) -> u32 {
    crc32_of(&[&crc.to_le_bytes(), payload])
}

/// Why a stream is no snapshot.
#[derive(Debug)]
pub enum StreamError {
    Storage(StorageError),
    /// What was expected at which byte of the stream.
    Damaged {
        offset: u64,
        what: String,
    },
}

impl From<StorageError> for StreamError {
    fn from(error: StorageError) -> StreamError {
        StreamError::Storage(error)
    }
}

impl fmt::Display for StreamError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StreamError::Storage(error) => write!(f, "{error}"),
            StreamError::Damaged { offset, what } => write!(f, "at byte {offset}: {what}"),
        }
    }
}

impl std::error::Error for StreamError {}

/// Where a stream's bytes come from: the next of them, `None` at the end.
type Pull<'a> = Box<dyn FnMut() -> Result<Option<Bytes>, StorageError> + 'a>;

/// Reads a stream, frame by frame.
pub struct SnapshotReader<'a> {
    pull: Pull<'a>,
    buf: BytesMut,
    /// Bytes of the stream before `buf`.
    offset: u64,
    head: Head,
    frames: u64,
    items: u64,
    crc: u32,
    over: bool,
}

impl fmt::Debug for SnapshotReader<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SnapshotReader").field("head", &self.head).finish_non_exhaustive()
    }
}

impl<'a> SnapshotReader<'a> {
    pub fn new(pull: Pull<'a>) -> Result<SnapshotReader<'a>, StreamError> {
        let head = Head { cluster: ClusterId(0), node: NodeId::NONE, groups: Vec::new() };
        let mut reader = SnapshotReader {
            pull,
            buf: BytesMut::new(),
            offset: 0,
            head,
            frames: 0,
            items: 0,
            crc: 0,
            over: false,
        };
        let payload = reader.frame()?;
        let head = decode_head(&payload);
        reader.head = reader.checked(head)?;
        Ok(reader)
    }

    pub fn open(disk: &Arc<dyn Disk>, path: &Path) -> Result<SnapshotReader<'static>, StreamError> {
        let file: Arc<dyn File> = disk.open(path, OpenMode::Read)?;
        let mut at = 0;
        SnapshotReader::new(Box::new(move || {
            let mut buf = vec![0; READ_BYTES];
            let read = file.read_at(&mut buf, at)?;
            buf.truncate(read);
            at += read as u64;
            Ok((read > 0).then(|| Bytes::from(buf)))
        }))
    }

    pub fn head(&self) -> &Head {
        &self.head
    }

    /// The next items of one group, `None` when the stream has ended as it should.
    pub fn next_items(&mut self) -> Result<Option<(GroupId, Vec<SnapshotItem>)>, StreamError> {
        if self.over {
            return Ok(None);
        }
        let payload = self.frame()?;
        if payload.first() == Some(&END) {
            let end = decode_end(&payload);
            if self.checked(end)? != (self.frames - 1, self.items, self.crc) {
                return Err(self.damaged("an end that fits what came before it"));
            }
            self.over = true;
            let more = !self.buf.is_empty() || (self.pull)()?.is_some_and(|b| !b.is_empty());
            return if more { Err(self.damaged("nothing behind the end")) } else { Ok(None) };
        }
        let items = decode_items(&payload);
        let (group, items) = self.checked(items)?;
        if !self.head.groups.iter().any(|(known, ..)| *known == group) {
            return Err(self.damaged("items of a group that the head names"));
        }
        self.items += items.len() as u64;
        Ok(Some((group, items)))
    }

    fn frame(&mut self) -> Result<Bytes, StreamError> {
        loop {
            let before = self.buf.len();
            match split_frame(&mut self.buf, limits::FRAME_BYTES_MAX) {
                Ok(Some(payload)) => {
                    self.offset += (before - self.buf.len()) as u64;
                    self.frames += 1;
                    if payload.first() != Some(&END) {
                        self.crc = chained(self.crc, &payload);
                    }
                    return Ok(payload);
                }
                Ok(None) => match (self.pull)()? {
                    Some(bytes) => self.buf.extend_from_slice(&bytes),
                    None => return Err(self.damaged("more bytes; the stream was cut")),
                },
                Err(error) => return Err(self.damaged(error.what)),
            }
        }
    }

    fn checked<T>(&self, result: Result<T, DecodeError>) -> Result<T, StreamError> {
        result.map_err(|error| self.damaged(error.what))
    }

    fn damaged(&self, what: &str) -> StreamError {
        StreamError::Damaged { offset: self.offset, what: format!("expected {what}") }
    }
}

fn decode_head(payload: &Bytes) -> Result<Head, DecodeError> {
    let mut r = Reader::new(payload);
    let error = r.error("head of a snapshot");
    if r.u8("tag")? != HEAD || r.raw(MAGIC.len(), "magic")?[..] != MAGIC[..] {
        return Err(error);
    }
    if r.varint("format")? != FORMAT {
        return Err(r.error("format that this build knows"));
    }
    let cluster = ClusterId(r.varint("cluster id")?);
    let node = NodeId(r.varint("member id")?);
    let groups = r.list(3, "groups", |r| {
        let group = GroupId(r.varint("group")?);
        Ok((group, LogIndex(r.varint("applied index")?), Term(r.varint("applied term")?)))
    })?;
    r.finish()?;
    if !groups.is_sorted_by(|a, b| a.0 < b.0) {
        return Err(error);
    }
    Ok(Head { cluster, node, groups })
}

fn decode_items(payload: &Bytes) -> Result<(GroupId, Vec<SnapshotItem>), DecodeError> {
    let mut r = Reader::new(payload);
    let error = r.error("frame of items");
    if r.u8("tag")? != ITEMS {
        return Err(error);
    }
    let group = GroupId(r.varint("group")?);
    let items = r.list(3, "items", |r| {
        let error = r.error("kind of tree");
        let tag = r.varint("kind of tree")?;
        let kind = u8::try_from(tag >> 1).map_err(|_| error)?;
        let (key, value) = (r.bytes("key")?, r.bytes("value")?);
        Ok(SnapshotItem { kind, key, value, live: tag & 1 == 1 })
    })?;
    r.finish()?;
    Ok((group, items))
}

fn decode_end(payload: &Bytes) -> Result<(u64, u64, u32), DecodeError> {
    let mut r = Reader::new(payload);
    let _tag = r.u8("tag")?;
    let end = (r.varint("frames")?, r.varint("items")?, r.u32_le("checksum")?);
    r.finish()?;
    Ok(end)
}
