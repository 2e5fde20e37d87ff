//! Cases with known answers that are no part of this repository: each corpus is a folder with a README that says how a
//! case is read. A runner a corpus counts what we get right; `recorded.yaml` says what was reached, and only ever rises.

mod analyze;
mod crd_validation;
mod ingress_conversion;
mod inputs;
mod report;
mod samples;
mod simulation;
mod validation;

use std::path::Path;

pub use inputs::{Input, inputs};
pub use report::{Failure, Recorded, Report, recorded};
pub use simulation::{Resources, simulated, told};

/// A corpus and who reads it.
pub struct Corpus {
    /// The name of its folder.
    pub name: &'static str,
    /// Judges all cases of the folder.
    pub run: fn(&Path) -> anyhow::Result<Report>,
}

/// All corpora that we read.
pub fn all() -> [Corpus; 6] {
    [
        Corpus { name: "analyze", run: analyze::run },
        Corpus { name: "validation", run: validation::run },
        Corpus { name: "crd-validation", run: crd_validation::run },
        Corpus { name: "samples", run: samples::run },
        Corpus { name: "simulation", run: simulation::run },
        Corpus { name: "ingress-conversion", run: ingress_conversion::run },
    ]
}
