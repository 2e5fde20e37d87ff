//! `lateen`, the command line of the mesh.

fn main() -> std::process::ExitCode {
    lateen_cli::main()
}
