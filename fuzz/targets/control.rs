//! `ferrite_fuzz::control` under libFuzzer.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ferrite_fuzz::control(data));
