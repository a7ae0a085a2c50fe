//! Byte streams between processes, and nothing about what they carry.
//!
//! There is no guarantee beyond the order of bytes within one stream: a write that succeeded may
//! never arrive, and a peer that is dead may not show for minutes. Deadlines are the caller's.

use super::{BoxFuture, BoxFutureRef};
use bytes::{Bytes, BytesMut};
use std::io;

pub trait Net: Send + Sync {
    /// Binds `host:port`; port 0 is any free one. The error's kind is `AddrInUse` when somebody
    /// else has it.
    fn listen(&self, addr: String) -> BoxFuture<io::Result<Box<dyn Listener>>>;
    /// Connects to `host:port`. Small writes leave at once (TCP_NODELAY).
    fn dial(&self, addr: String) -> BoxFuture<io::Result<Connection>>;
}

pub trait Listener: Send {
    /// `host:port` with the port in use.
    fn local_addr(&self) -> String;
    /// The next connection. An error concerns one connection, not the listener.
    fn accept(&mut self) -> BoxFutureRef<'_, io::Result<Connection>>;
}

/// A stream in two halves, so that reading never waits for writing. Dropping both closes it.
pub struct Connection {
    /// Who is at the other end, for log lines.
    pub peer: String,
    pub reader: Box<dyn ReadHalf>,
    pub writer: Box<dyn WriteHalf>,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection").field("peer", &self.peer).finish_non_exhaustive()
    }
}

pub trait ReadHalf: Send {
    /// Waits for bytes and appends them to `buf`, at most as many as it has spare capacity for
    /// (a little room is made if there is none). 0 is the end of the stream. Dropping the future
    /// loses no bytes.
    fn read<'a>(&'a mut self, buf: &'a mut BytesMut) -> BoxFutureRef<'a, io::Result<usize>>;
}

pub trait WriteHalf: Send {
    /// Writes and flushes everything. Dropping the future leaves the stream in the middle of
    /// something: only good for closing.
    fn write_all(&mut self, bytes: Bytes) -> BoxFutureRef<'_, io::Result<()>>;
    /// Tells the other end that nothing more will come.
    fn shutdown(&mut self) -> BoxFutureRef<'_, io::Result<()>>;
}
