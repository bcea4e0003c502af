#![no_main]

libfuzzer_sys::fuzz_target!(|input: tower_lifecycle_fuzz::health::Input| {
    tower_lifecycle_fuzz::health::check(&input);
});
