//! The edge to the operating system, as traits, so that the same code runs on real files, clocks
//! and sockets and inside the simulator.
//!
//! `disk` is what the storage rooms see, `os_disk` and `mem_disk` are the two disks.

pub mod disk;
pub mod mem_disk;
pub mod os_disk;

pub use disk::{Disk, DiskLock, File, OpenMode, SECTOR_BYTES};
pub use mem_disk::MemDisk;
pub use os_disk::OsDisk;
