//! `lateen-corpora FOLDER`: runs every corpus of the folder and prints `NAME passed/total` for each.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;

#[derive(Parser)]
struct Arguments {
    /// The folder of the corpora.
    folder: PathBuf,
    /// Only these corpora.
    #[arg(long, value_delimiter = ' ')]
    only: Vec<String>,
    /// Lists the cases that fail, with the reason.
    #[arg(long)]
    verbose: bool,
}

fn main() -> anyhow::Result<ExitCode> {
    let arguments = Arguments::parse();
    let mut enough = true;
    for corpus in lateen_corpora::all() {
        let wanted = arguments.only.iter().all(String::is_empty)
            || arguments.only.iter().any(|name| name == corpus.name);
        let folder = arguments.folder.join(corpus.name);
        if !wanted || !folder.is_dir() {
            continue;
        }
        let report = (corpus.run)(&folder)?;
        println!("{} {}/{}", corpus.name, report.passed(), report.total);
        if arguments.verbose {
            for failure in &report.failures {
                println!("    {}: {}", failure.case, failure.reason);
            }
        }
        if let Some(shortfall) = lateen_corpora::recorded()?.shortfall(corpus.name, &report) {
            println!("    {shortfall}");
            enough = false;
        }
    }
    Ok(if enough { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
