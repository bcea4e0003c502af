#![no_main]

libfuzzer_sys::fuzz_target!(|input: tower_lifecycle_fuzz::store::Input| {
    tower_lifecycle_fuzz::store::check(&input);
});
