#![no_main]

libfuzzer_sys::fuzz_target!(|input: tower_lifecycle_fuzz::env::Input| {
    tower_lifecycle_fuzz::env::check(&input);
});
