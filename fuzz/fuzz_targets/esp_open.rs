//! libFuzzer's entry to the target `esp_open`: `cargo fuzz run esp_open --features libfuzzer`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    (fuzz::target::esp_open::TARGET.run)(input);
});
