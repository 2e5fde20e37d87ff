//! How the program is linked.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let is = |name: &str, value: &str| std::env::var(name).is_ok_and(|found| found == value);
    // Relative relocations in a table of some kilobytes and not one of nearly a megabyte, all of which is read at the
    // start and stays in memory. It takes glibc 2.36 to load such a program.
    if is("PROFILE", "release") && is("CARGO_CFG_TARGET_OS", "linux") && is("CARGO_CFG_TARGET_ENV", "gnu") {
        println!("cargo::rustc-link-arg-bin=lateen-proxy=-Wl,-z,pack-relative-relocs");
    }
}
