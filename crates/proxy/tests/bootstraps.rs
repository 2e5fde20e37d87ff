//! Bootstraps that Istio's agent writes for Envoy start this proxy, too.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::process::Command;

/// Files of `LATEEN_CORPORA/bootstrap` that hold a bootstrap.
fn bootstraps(corpora: &Path) -> Vec<PathBuf> {
    let folder = std::fs::read_dir(corpora.join("bootstrap/files")).unwrap();
    let mut files: Vec<PathBuf> = folder.map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "json"));
    files.sort();
    files
}

#[test]
fn bootstraps_of_istio_are_valid() {
    let Some(corpora) = std::env::var_os("LATEEN_CORPORA").map(PathBuf::from) else {
        println!("LATEEN_CORPORA is not set: skipped");
        return;
    };
    let files = bootstraps(&corpora);
    assert!(!files.is_empty(), "the corpus has no bootstraps");
    let mut refused = Vec::new();
    for file in &files {
        let mut program = Command::new(env!("CARGO_BIN_EXE_lateen-proxy"));
        let output = program.args(["--mode", "validate", "-c"]).arg(file).output().unwrap();
        if !output.status.success() {
            let said = [output.stdout, output.stderr].concat();
            refused.push(format!("{}: {}", file.display(), String::from_utf8_lossy(&said)));
        }
    }
    println!("{}/{} bootstraps are valid", files.len() - refused.len(), files.len());
    assert!(refused.is_empty(), "{}", refused.join("\n"));
}
