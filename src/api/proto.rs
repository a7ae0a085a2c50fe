//! The types that `build.rs` generates from `proto/`. No code of ours.
//!
//! Keys and values are `Bytes`: they share the buffer that the request arrived in. A request that
//! is kept longer than its connection's turn should be copied or encoded once.

// Generated code follows its generator's taste.
#![allow(clippy::all, clippy::pedantic, missing_docs, rustdoc::all)]

pub mod authpb {
    include!(concat!(env!("OUT_DIR"), "/authpb.rs"));
}

pub mod mvccpb {
    include!(concat!(env!("OUT_DIR"), "/mvccpb.rs"));
}

pub mod etcdserverpb {
    include!(concat!(env!("OUT_DIR"), "/etcdserverpb.rs"));
}

/// The Watch service as this server implements it: answers are `wire::WatchFrame`.
pub mod watchpb {
    include!(concat!(env!("OUT_DIR"), "/etcdserverpb.Watch.rs"));
}

pub mod v3lockpb {
    include!(concat!(env!("OUT_DIR"), "/v3lockpb.rs"));
}

pub mod v3electionpb {
    include!(concat!(env!("OUT_DIR"), "/v3electionpb.rs"));
}

pub mod healthpb {
    include!(concat!(env!("OUT_DIR"), "/grpc.health.v1.rs"));
}
