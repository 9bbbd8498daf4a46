//! libFuzzer's entry to the target `config`: `cargo fuzz run config --features libfuzzer`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    (fuzz::target::config::TARGET.run)(input);
});
