#![no_main]

libfuzzer_sys::fuzz_target!(|input: tower_lifecycle_fuzz::connection::Input| {
    tower_lifecycle_fuzz::connection::check(&input);
});
