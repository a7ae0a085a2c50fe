//! A log's directory made of arbitrary bytes is opened or refused, never a panic; what opens
//! keeps its promises. The harness and the form of an input are in `src/wal/harness.rs`.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    quorate::wal::fuzz_recover(data);
});
