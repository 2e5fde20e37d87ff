//! Runs the corpus: `cargo test -p lateen-differential --test differential -- [FILTER...] [--show] [--list] [--jobs N]`.
//!
//! `ENVOY_BIN` names Envoy. `LATEEN_BIN_DIR` holds `lateen-proxy`; without, it is taken from the target folder.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result};
use futures::StreamExt;
use indexmap::IndexMap;
use lateen_differential::case::Case;
use lateen_differential::normalise::{Rules, glob};
use lateen_differential::process::Programs;
use lateen_differential::run::{Outcomes, Runner, load};
use lateen_differential::tls::Certificates;
use lateen_differential::verdict::{Difference, List, summary};

/// So many cases that fail are run a second time.
const AGAIN: usize = 12;

struct Arguments {
    filters: Vec<String>,
    show: bool,
    list: bool,
    keep: bool,
    pending: bool,
    jobs: usize,
}

fn arguments() -> Result<Arguments> {
    let mut arguments =
        Arguments { filters: Vec::new(), show: false, list: false, keep: false, pending: false, jobs: 6 };
    let filters = std::env::var("LATEEN_CASES").unwrap_or_default();
    arguments.filters.extend(filters.split_whitespace().map(str::to_owned));
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        match word.as_str() {
            "--show" => arguments.show = true,
            "--list" => arguments.list = true,
            "--pending" => arguments.pending = true,
            "--keep" => arguments.keep = true,
            "--jobs" => arguments.jobs = words.next().context("--jobs N")?.parse()?,
            // Flags of the usual harness.
            flag if flag.starts_with("--") => {}
            filter => arguments.filters.push(filter.to_owned()),
        }
    }
    Ok(arguments)
}

/// Envoy and ours.
fn programs() -> Result<Programs> {
    let envoy = std::env::var_os("ENVOY_BIN").context("ENVOY_BIN is not set; `make tools` installs Envoy")?;
    let ours = match std::env::var_os("LATEEN_BIN_DIR") {
        Some(folder) => PathBuf::from(folder).join("lateen-proxy"),
        // This program is in `deps` of the folder that `cargo build` fills.
        None => std::env::current_exe()?.ancestors().nth(2).context("no target folder")?.join("lateen-proxy"),
    };
    anyhow::ensure!(
        ours.exists(),
        "{} does not exist: cargo build -p lateen-proxy --bin lateen-proxy",
        ours.display()
    );
    Ok(Programs { envoy: envoy.into(), ours })
}

fn main() -> ExitCode {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    match runtime.map_err(Into::into).and_then(|runtime| runtime.block_on(run())) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn wanted(filters: &[String], id: &str) -> bool {
    filters.is_empty()
        || filters.iter().any(|filter| id.contains(filter.as_str()) || glob(filter).is_match(id))
}

async fn run() -> Result<bool> {
    let arguments = arguments()?;
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut cases = load(&here.join("cases"))?;
    let all = cases.len();
    cases.retain(|id, _| wanted(&arguments.filters, id));
    if arguments.list {
        cases.keys().for_each(|id| println!("{id}"));
        return Ok(true);
    }
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let folder = tempfile::tempdir()?;
    let read = |name: &str| std::fs::read_to_string(here.join(name)).with_context(|| name.to_owned());
    let runner = Runner {
        programs: programs()?,
        certificates: Certificates::create(&folder.path().join("tls"))?,
        rules: Rules::parse(&read("normalise.yaml")?).context("normalise.yaml")?,
        known: vec![
            List::parse(&read("accepted.yaml")?, true).context("accepted.yaml")?,
            List::parse(&read("pending.yaml")?, false).context("pending.yaml")?,
        ],
        folder: folder.path().to_owned(),
    };
    let accepted = List::parse(&read("accepted.yaml")?, true).context("accepted.yaml")?;
    let pending = List::parse(&read("pending.yaml")?, false).context("pending.yaml")?;
    let began = Instant::now();
    let mut results = play(&runner, &cases, arguments.jobs).await;
    let mut report = Report::new(&accepted, &pending);
    let mut bad = cases.clone();
    bad.retain(|id, _| results.get(id).is_some_and(|result| report.is_bad(id, result)));
    if bad.len() <= AGAIN {
        // By themselves: a machine under load is no difference.
        results.extend(play(&runner, &bad, 1).await);
    }
    for id in cases.keys() {
        report.add(id, results.get(id).context("every case was run")?, arguments.show);
    }
    if arguments.pending {
        println!("rows for pending.yaml:");
        report.rows.iter().for_each(|row| println!("{row}"));
    }
    report.print(all, cases.len(), began.elapsed().as_secs_f64(), arguments.filters.is_empty());
    let good = report.good(if cases.len() == all { None } else { Some(cases.keys().cloned().collect()) });
    if arguments.keep || (!good && !arguments.filters.is_empty()) {
        println!("files are kept in {}", folder.keep().display());
    }
    Ok(good)
}

async fn play(
    runner: &Runner,
    cases: &IndexMap<String, Case>,
    jobs: usize,
) -> IndexMap<String, Result<Outcomes>> {
    futures::stream::iter(cases)
        .map(|(id, case)| async move { (id.clone(), runner.run(id, case).await) })
        .buffer_unordered(jobs)
        .collect()
        .await
}

/// What came of all cases.
struct Report<'a> {
    accepted: &'a List,
    pending: &'a List,
    same: usize,
    accepted_cases: usize,
    pending_cases: Vec<(String, usize)>,
    bad: Vec<String>,
    rows: Vec<String>,
    differences: Vec<Difference>,
}

impl<'a> Report<'a> {
    fn new(accepted: &'a List, pending: &'a List) -> Self {
        Self {
            accepted,
            pending,
            same: 0,
            accepted_cases: 0,
            pending_cases: Vec::new(),
            bad: Vec::new(),
            rows: Vec::new(),
            differences: Vec::new(),
        }
    }

    fn is_bad(&self, id: &str, result: &Result<Outcomes>) -> bool {
        match result {
            Err(_) => true,
            Ok(result) => {
                let known = |difference: &Difference| {
                    self.accepted.has(id, &difference.aspect) || self.pending.has(id, &difference.aspect)
                };
                !result.failures.is_empty() || !result.differences.iter().all(known)
            }
        }
    }

    fn add(&mut self, id: &str, result: &Result<Outcomes>, show: bool) {
        let result = match result {
            Ok(result) => result,
            Err(error) => {
                println!("{id}: {error:#}");
                self.bad.push(id.to_owned());
                return;
            }
        };
        if show {
            println!("{id}");
            for (aspect, text) in &result.envoy.aspects {
                match result.ours.aspects.get(aspect) {
                    Some(ours) if ours == text => println!("    {aspect} = {text:?}"),
                    ours => println!("    {aspect}\n        envoy {text:?}\n        ours  {ours:?}"),
                }
            }
        }
        let (accepted, rest): (Vec<_>, Vec<_>) =
            result.differences.iter().partition(|difference| self.accepted.has(id, &difference.aspect));
        let (pending, bad): (Vec<_>, Vec<_>) =
            rest.into_iter().partition(|difference| self.pending.has(id, &difference.aspect));
        self.differences.extend(bad.iter().chain(&pending).map(|difference| (*difference).clone()));
        if !bad.is_empty() || !result.failures.is_empty() {
            println!("{id} DIFFERS");
            result.failures.iter().for_each(|failure| println!("    the case is wrong: {failure}"));
            let shown = if show { bad.len() } else { 30 };
            bad.iter().take(shown).for_each(|difference| println!("    {difference}"));
            if bad.len() > shown {
                println!("    and {} more; --show prints all", bad.len() - shown);
            }
            self.bad.push(id.to_owned());
            let aspects: std::collections::BTreeSet<String> =
                bad.iter().map(|difference| format!("{:?}", difference.aspect)).collect();
            let aspects: Vec<String> = aspects.into_iter().collect();
            self.rows.push(format!("- {{case: {id:?}, aspects: [{}]}}", aspects.join(", ")));
        } else if !pending.is_empty() {
            self.pending_cases.push((id.to_owned(), pending.len()));
        } else if !accepted.is_empty() {
            self.accepted_cases += 1;
        } else {
            self.same += 1;
        }
    }

    fn print(&self, all: usize, run: usize, seconds: f64, whole: bool) {
        if !self.pending_cases.is_empty() {
            println!("pending:");
            self.pending_cases.iter().for_each(|(id, count)| println!("    {id} ({count} aspects)"));
        }
        let rows = summary(self.differences.iter());
        if !rows.is_empty() && whole {
            println!("the most frequent differences:");
            rows.iter().take(40).for_each(|(count, aspect)| println!("{count:6}  {aspect}"));
        }
        println!(
            "{run} of {all} cases in {seconds:.0} s: {} the same, {} with accepted differences, {} pending, {} failed",
            self.same,
            self.accepted_cases,
            self.pending_cases.len(),
            self.bad.len()
        );
    }

    /// Whether the run succeeds. `only`: the cases, if not all were run.
    fn good(&self, only: Option<Vec<String>>) -> bool {
        let cases = only.unwrap_or_default();
        let unused = self.accepted.unused(&cases);
        unused.iter().for_each(|row| println!("accepted.yaml lists what no longer differs: {row}"));
        let superfluous = if cases.is_empty() { self.pending.unused(&cases) } else { Vec::new() };
        superfluous.iter().for_each(|row| println!("pending.yaml can lose: {row}"));
        self.bad.is_empty() && (unused.is_empty() || !cases.is_empty())
    }
}
