//! libFuzzer's entry to the target `ike_keyed`: `cargo fuzz run ike_keyed --features libfuzzer`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    (fuzz::target::ike_keyed::TARGET.run)(input);
});
