#![no_main]

libfuzzer_sys::fuzz_target!(|input: tower_lifecycle_fuzz::response::Input| {
    tower_lifecycle_fuzz::response::check(&input);
});
