//! `lateen-agent`, a workload's companion in the mesh.

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    lateen_agent::main()
}
