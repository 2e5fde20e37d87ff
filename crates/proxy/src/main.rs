//! `lateen-proxy`: the data plane, started from an Envoy bootstrap.

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    lateen_proxy::options::main()
}
