//! No corpus falls below what is recorded. Reads `LATEEN_CORPORA`; says so where that is not set.

use std::path::PathBuf;

#[test]
fn nothing_falls_below_what_is_recorded() {
    let Some(corpora) = std::env::var_os("LATEEN_CORPORA").map(PathBuf::from) else {
        println!("skipped: LATEEN_CORPORA is not set");
        return;
    };
    let recorded = lateen_corpora::recorded().expect("recorded.yaml");
    let mut short = Vec::new();
    for corpus in lateen_corpora::all() {
        let folder = corpora.join(corpus.name);
        if !folder.is_dir() {
            println!("{} is not at hand", corpus.name);
            continue;
        }
        let report = (corpus.run)(&folder).expect("a corpus that can be read");
        println!("{} {}/{}", corpus.name, report.passed(), report.total);
        if let Some(shortfall) = recorded.shortfall(corpus.name, &report) {
            let failures: Vec<_> = report
                .failures
                .iter()
                .map(|failure| format!("    {}: {}", failure.case, failure.reason))
                .collect();
            short.push(format!("{}: {shortfall}\n{}", corpus.name, failures.join("\n")));
        }
    }
    assert!(short.is_empty(), "{}", short.join("\n"));
}
