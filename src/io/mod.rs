//! The edge to the operating system, as traits, so that the same code runs on real files, clocks
//! and sockets and inside the simulator.
//!
//! - `disk`: what the storage rooms see, synchronous. `OsDisk` is the real one, `MemDisk` one in
//!   memory that loses power.
//! - `clock`, `net`, `tasks`, `entropy`: what the async shell needs; `tokio_backend` is the real
//!   one, the simulator brings its own.
//!
//! `select` waits for several things at once in a fixed order. `Io` is all of it in one handle. Whoever is given an `Io` names no other way to the outside.

pub mod clock;
pub mod disk;
pub mod entropy;
pub mod mem_disk;
pub mod net;
pub mod os_disk;
pub mod select;
pub mod tasks;
pub mod tokio_backend;

pub use clock::{Clock, Mono, until};
pub use disk::{Disk, DiskLock, File, OpenMode, SECTOR_BYTES};
pub use entropy::Entropy;
pub use mem_disk::MemDisk;
pub use net::{Connection, Listener, Net, ReadHalf, WriteHalf};
pub use os_disk::OsDisk;
pub(crate) use select::biased_select;
pub use tasks::{TaskHandle, TaskKind, Tasks};

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

pub type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;
/// A future that borrows what it works on.
pub type BoxFutureRef<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Everything outside the process.
#[derive(Clone)]
pub struct Io {
    pub disk: Arc<dyn Disk>,
    pub clock: Arc<dyn Clock>,
    pub net: Arc<dyn Net>,
    pub tasks: Arc<dyn Tasks>,
    pub entropy: Arc<dyn Entropy>,
}

impl std::fmt::Debug for Io {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Io").finish_non_exhaustive()
    }
}
