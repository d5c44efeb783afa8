//! `ferrite_fuzz::sqe` under libFuzzer.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ferrite_fuzz::sqe(data));
