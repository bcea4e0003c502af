#![no_main]

libfuzzer_sys::fuzz_target!(|input: tower_lifecycle_fuzz::config::Input| {
    tower_lifecycle_fuzz::config::check(&input);
});
