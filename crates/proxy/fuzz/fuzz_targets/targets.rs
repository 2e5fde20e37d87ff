//! Runs the target that `LATEEN_FUZZ_TARGET` names.
#![no_main]

use std::sync::OnceLock;

static TARGET: OnceLock<fn(&[u8])> = OnceLock::new();

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let run = TARGET.get_or_init(|| {
        let name = std::env::var("LATEEN_FUZZ_TARGET").expect("LATEEN_FUZZ_TARGET names a target");
        lateen_proxy::fuzz::TARGETS.iter().find(|target| target.name == name).expect("there is no such target").run
    });
    run(bytes);
});
