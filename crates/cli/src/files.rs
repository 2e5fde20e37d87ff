//! Files of objects, as people name them: files, folders, standard input.

use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::Context;

use crate::printer::Printer;

/// A text and what to call it.
#[derive(Debug)]
pub(crate) struct Source {
    pub(crate) name: String,
    pub(crate) text: String,
}

const EXTENSIONS: &[&str] = &["json", "yaml", "yml"];

/// Reads all that `paths` name; of folders, what their extension says is YAML or JSON.
pub(crate) fn read(paths: &[PathBuf], recursive: bool, printer: &mut Printer) -> anyhow::Result<Vec<Source>> {
    let mut sources = Vec::new();
    for path in paths {
        if path.as_os_str() == "-" {
            let mut text = String::new();
            std::io::stdin().read_to_string(&mut text).context("cannot read standard input")?;
            sources.push(Source { name: "-".to_owned(), text });
        } else if path.is_dir() {
            folder(path, recursive, &mut sources, printer)?;
        } else {
            sources.push(file(path)?);
        }
    }
    Ok(sources)
}

fn file(path: &Path) -> anyhow::Result<Source> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(Source { name: path.display().to_string(), text })
}

fn folder(
    path: &Path,
    recursive: bool,
    sources: &mut Vec<Source>,
    printer: &mut Printer,
) -> anyhow::Result<()> {
    let entries = std::fs::read_dir(path).with_context(|| format!("cannot list {}", path.display()))?;
    let mut paths = entries.map(|entry| Ok(entry?.path())).collect::<std::io::Result<Vec<_>>>()?;
    paths.sort();
    for path in paths {
        let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
        if path.is_dir() {
            if recursive {
                folder(&path, recursive, sources, printer)?;
            }
        } else if EXTENSIONS.contains(&extension) {
            sources.push(file(&path)?);
        } else {
            let known = EXTENSIONS.iter().map(|known| format!(".{known}")).collect::<Vec<_>>().join(" ");
            printer
                .note(&format!("Skipping file {}, recognized file extensions are: {known}", path.display()));
        }
    }
    Ok(())
}
