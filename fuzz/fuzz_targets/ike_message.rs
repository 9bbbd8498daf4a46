//! libFuzzer's entry to the target `ike_message`: `cargo fuzz run ike_message --features libfuzzer`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    (fuzz::target::ike_message::TARGET.run)(input);
});
