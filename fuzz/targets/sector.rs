//! Runs the target `sector` of `cluster_tests::fuzz` under libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| cluster_tests::fuzz::sector(data));
