//! Whole members over disks in memory, driven by a small loop: no faults but those a test makes.

mod boots;
mod cluster;
mod restores;
mod shell;
mod stories;
