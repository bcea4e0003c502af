#![no_main]

libfuzzer_sys::fuzz_target!(|input: tower_lifecycle_fuzz::refusal::Input| {
    tower_lifecycle_fuzz::refusal::check(&input);
});
