//! Runs the target `frame` of `cluster_tests::fuzz` under libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| cluster_tests::fuzz::frame(data));
