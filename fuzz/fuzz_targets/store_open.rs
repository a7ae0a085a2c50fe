//! A store file made of arbitrary bytes is opened or refused, never a panic; what verifies clean
//! goes on as a store. The harness and the form of an input are in `src/btree/harness.rs`.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    quorate::btree::fuzz_open(data);
});
