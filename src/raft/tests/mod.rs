//! Whole replicas against each other: stories (`scripts`), chance (`random`), rubbish (`fuzz`).
//! All three drive the same small cluster, whose disks and network do only what they are told.

mod cluster;
mod fuzz;
mod random;
mod safety;
mod scripts;
