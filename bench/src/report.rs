//! The figures of all rounds, and the table of their medians.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use anyhow::Context;
use serde_json::{Value, json};

use crate::Options;
use crate::process::{Program, describe};
use crate::scenario::{ALL, Scenario, Target};

/// Of one measurement.
#[derive(Debug, Clone, Copy, Default)]
pub struct Figures {
    /// What the scenario is about, in its unit.
    pub value: f64,
    /// Where there was a load.
    pub requests_per_second: Option<f64>,
    /// Processors that the proxy used.
    pub cpus: Option<f64>,
    /// Processors that everybody used.
    pub cpus_of_all: Option<f64>,
    /// Time to an answer, where requests came at a rate.
    pub p50_us: Option<f64>,
    /// As above.
    pub p99_us: Option<f64>,
    /// After the load.
    pub resident_mib: Option<f64>,
}

/// All figures.
pub struct Report {
    figures: BTreeMap<(&'static str, &'static str), BTreeMap<usize, Figures>>,
    head: Value,
}

impl Report {
    /// Without figures.
    pub fn new(programs: &[Program], options: &Options) -> Self {
        let (processors, kernel) = describe();
        let versions: serde_json::Map<String, Value> =
            programs.iter().map(|program| (program.name().to_owned(), version(program).into())).collect();
        let sizes: serde_json::Map<String, Value> = programs
            .iter()
            .filter_map(|program| {
                Some((program.name().to_owned(), std::fs::metadata(program.path()).ok()?.len().into()))
            })
            .collect();
        let head = json!({
            "processors": processors,
            "kernel": kernel,
            "date": now(),
            "rounds": options.rounds,
            "seconds": options.seconds,
            "versions": versions,
            "binary_bytes": sizes,
        });
        Self { figures: BTreeMap::new(), head }
    }

    /// Adds a measurement, and says so.
    pub fn add(&mut self, scenario: &Scenario, program: &Program, round: usize, figures: Figures) {
        let rate =
            figures.requests_per_second.map_or_else(String::new, |rate| format!(", {rate:.0} requests/s"));
        let busy =
            figures.cpus_of_all.map_or_else(String::new, |cpus| format!(", {cpus:.1} processors busy"));
        eprintln!(
            "round {:2}  {:12} {:7} {:10.1} {}{rate}{busy}",
            round + 1,
            scenario.name,
            program.name(),
            figures.value,
            scenario.unit(),
        );
        self.figures.entry((scenario.name, program.name())).or_default().insert(round, figures);
    }

    fn values(&self, scenario: &str, program: &str) -> BTreeMap<usize, f64> {
        let figures = self.figures.get(&(scenario, program));
        figures.into_iter().flatten().map(|(round, figures)| (*round, figures.value)).collect()
    }

    /// The median, over rounds, of our figure to what it is compared with.
    fn ratio(&self, scenario: &Scenario) -> Option<f64> {
        let ours = self.values(scenario.name, "lateen");
        let base = match scenario.target {
            Target::OfEnvoy(_) | Target::AtMost(_) => self.values(scenario.name, "envoy"),
            Target::OfOurs(other, _) => self.values(other, "lateen"),
        };
        median(ours.iter().filter_map(|(round, value)| Some(value / base.get(round)?)).collect())
    }

    /// For people: Markdown.
    pub fn table(&self) -> String {
        let text = |key: &str| self.head[key].as_str().unwrap_or_default().to_owned();
        let mut out = format!(
            "{}, kernel {}, {}; medians of {} rounds of {} s.\n\n",
            text("processors"),
            text("kernel"),
            text("date"),
            self.head["rounds"],
            self.head["seconds"],
        );
        for program in ["envoy", "lateen"] {
            let version = self.head["versions"][program].as_str().unwrap_or_default();
            out.push_str(&format!("- {program}: {version}\n"));
        }
        out.push_str(
            "\n| scenario | what | unit | Envoy | Lateen | ratio | target | |\n|---|---|---|---:|---:|---:|---:|---|\n",
        );
        for scenario in ALL {
            let of = |program| median(self.values(scenario.name, program).into_values().collect());
            let Some(ours) = of("lateen") else { continue };
            let ratio = self.ratio(scenario);
            let (target, reached) = match scenario.target {
                Target::OfEnvoy(target) | Target::OfOurs(_, target) => {
                    (format!("{target:.2}"), ratio.is_some_and(|ratio| ratio <= target))
                }
                Target::AtMost(target) => (format!("{target:.0} {}", scenario.unit()), ours <= target),
            };
            out.push_str(&format!(
                "| {} | {} | {} | {} | {} | {} | {target} | {} |\n",
                scenario.name,
                scenario.what,
                scenario.unit(),
                of("envoy").map_or_else(|| "-".to_owned(), number),
                number(ours),
                ratio.map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.2}")),
                if reached { "reached" } else { "missed" },
            ));
        }
        if let Some(latencies) = self.latencies() {
            out.push_str(&format!("\n{latencies}\n"));
        }
        out
    }

    fn latencies(&self) -> Option<String> {
        let of = |program: &str, part: fn(&Figures) -> Option<f64>| {
            let figures = self.figures.get(&("h1-paced", program))?;
            median(figures.values().filter_map(part).collect())
        };
        Some(format!(
            "Time to an answer in h1-paced, 50 and 99 %: Envoy {:.0} and {:.0} us, Lateen {:.0} and {:.0} us.",
            of("envoy", |figures| figures.p50_us)?,
            of("envoy", |figures| figures.p99_us)?,
            of("lateen", |figures| figures.p50_us)?,
            of("lateen", |figures| figures.p99_us)?,
        ))
    }

    fn json(&self) -> Value {
        let scenarios: serde_json::Map<String, Value> = ALL
            .iter()
            .filter(|scenario| self.figures.contains_key(&(scenario.name, "lateen")))
            .map(|scenario| {
                let runs = |program| -> Vec<Value> {
                    let figures = self.figures.get(&(scenario.name, program));
                    figures.into_iter().flatten().map(|(round, figures)| run(*round, figures)).collect()
                };
                let value = json!({
                    "unit": scenario.unit(),
                    "ratio": self.ratio(scenario),
                    "envoy": runs("envoy"),
                    "lateen": runs("lateen"),
                });
                (scenario.name.to_owned(), value)
            })
            .collect();
        json!({"machine": self.head, "scenarios": scenarios})
    }

    /// Writes `results.json` and `results.md`.
    pub fn save(&self, folder: &Path) -> anyhow::Result<()> {
        std::fs::write(folder.join("results.json"), format!("{:#}\n", self.json()))?;
        std::fs::write(folder.join("results.md"), self.table())?;
        Ok(())
    }

    /// Replaces the table of a document.
    pub fn write_into(&self, document: &Path) -> anyhow::Result<()> {
        const BEGIN: &str = "<!-- bench:begin -->";
        const END: &str = "<!-- bench:end -->";
        let text = std::fs::read_to_string(document)?;
        let marks = || format!("{} has no {BEGIN} and {END}", document.display());
        let (before, rest) = text.split_once(BEGIN).with_context(marks)?;
        let (_, after) = rest.split_once(END).with_context(marks)?;
        std::fs::write(document, format!("{before}{BEGIN}\n{}\n{END}{after}", self.table().trim_end()))?;
        Ok(())
    }
}

fn run(round: usize, figures: &Figures) -> Value {
    let mut run = json!({"round": round, "value": figures.value});
    for (name, value) in [
        ("requests_per_second", figures.requests_per_second),
        ("cpus", figures.cpus),
        ("cpus_of_all", figures.cpus_of_all),
        ("p50_us", figures.p50_us),
        ("p99_us", figures.p99_us),
        ("resident_mib", figures.resident_mib),
    ] {
        if let Some(value) = value {
            run[name] = value.into();
        }
    }
    run
}

fn number(value: f64) -> String {
    if value >= 1000.0 { format!("{value:.0}") } else { format!("{value:.1}") }
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        count if count % 2 == 1 => Some(values[middle]),
        _ => Some((values[middle - 1] + values[middle]) / 2.0),
    }
}

fn version(program: &Program) -> String {
    let output = Command::new(program.path()).arg("--version").output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    let line = text.lines().find(|line| !line.trim().is_empty()).unwrap_or_default().trim();
    // Envoy says its path first.
    line.split_once("version: ").map_or(line, |(_, version)| version).to_owned()
}

fn now() -> String {
    let output = Command::new("date").args(["-u", "+%Y-%m-%d %H:%M UTC"]).output();
    output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(vec![4.0, 1.0]), Some(2.5));
        assert_eq!(median(Vec::new()), None);
    }
}
