//! One case against both proxies.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use indexmap::IndexMap;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use crate::case::{Case, Step, Upstream};
use crate::client::{Client, Outcome};
use crate::config::{Names, bootstrap, free_address};
use crate::normalise::Rules;
use crate::observe::Observation;
use crate::process::{Programs, Proxy, Side, Started};
use crate::tls::Certificates;
use crate::upstream::Server;
use crate::verdict::{Difference, List, differences};

/// How long something is waited for that may still come.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long ours may take to show what Envoy showed.
const SETTLING: Duration = Duration::from_millis(1500);

/// What all cases share.
#[derive(Debug)]
pub struct Runner {
    /// The two programs.
    pub programs: Programs,
    /// Certificates of this run.
    pub certificates: Certificates,
    /// What is variable.
    pub rules: Rules,
    /// What is known to differ, so that it is not waited for.
    pub known: Vec<List>,
    /// Where cases write.
    pub folder: PathBuf,
}

/// What became of a case.
#[derive(Debug)]
pub struct Outcomes {
    /// What Envoy showed.
    pub envoy: Observation,
    /// What ours showed.
    pub ours: Observation,
    /// Where they differ.
    pub differences: Vec<Difference>,
    /// Assertions of the case that do not hold for Envoy.
    pub failures: Vec<String>,
}

impl Runner {
    /// Runs a case against Envoy, then ours.
    pub async fn run(&self, id: &str, case: &Case) -> Result<Outcomes> {
        let mut stage = Stage::set(self, id, case)?;
        let envoy = stage.play(Side::Envoy, None).await.context("envoy")?;
        let ours = stage.play(Side::Ours, Some(&envoy)).await.context("ours")?;
        let refused = envoy.aspects.get("start").is_some_and(|start| start == "refused");
        let failures = match (refused, case.refused) {
            (true, true) => Vec::new(),
            (false, true) => vec!["Envoy takes the configuration".to_owned()],
            (true, false) => {
                vec![format!("Envoy refuses the configuration: {}", stage.last_words(Side::Envoy))]
            }
            (false, false) => envoy.failures(case),
        };
        Ok(Outcomes { differences: differences(&envoy, &ours), envoy, ours, failures })
    }
}

/// Addresses, files and upstreams of a case; the same for both proxies.
struct Stage<'a> {
    runner: &'a Runner,
    id: &'a str,
    case: &'a Case,
    names: Names,
    folder: PathBuf,
    upstreams: IndexMap<String, Server>,
}

impl<'a> Stage<'a> {
    fn set(runner: &'a Runner, id: &'a str, case: &'a Case) -> Result<Self> {
        let folder = runner.folder.join(id.replace(['/', ' '], "_"));
        std::fs::create_dir_all(&folder)?;
        let mut names = Names::default();
        names.path("dir", &folder);
        names.path("log", &folder.join("access.log"));
        names.path("tls", runner.certificates.folder());
        names.address("admin", free_address()?);
        names.address("main", free_address()?);
        for name in case.listeners.keys() {
            names.address(name, free_address()?);
        }
        let mut upstreams = IndexMap::new();
        for (name, spec) in &case.upstreams {
            let server = Server::new(name, spec, &runner.certificates)?;
            names.address(name, server.address);
            upstreams.insert(name.clone(), server);
        }
        let config = serde_json::to_string_pretty(&bootstrap(case, &names))?;
        std::fs::write(folder.join("bootstrap.json"), config)?;
        Ok(Self { runner, id, case, names, folder, upstreams })
    }

    fn restore_files(&self) -> Result<()> {
        for (name, text) in &self.case.files {
            std::fs::write(self.folder.join(name), self.names.substitute(text))?;
        }
        std::fs::write(self.log_file(), "")?;
        Ok(())
    }

    /// The end of what a proxy wrote.
    fn last_words(&self, side: Side) -> String {
        let text = std::fs::read(self.folder.join(format!("{side}.output"))).unwrap_or_default();
        // Envoy prints the whole message, over many lines that are indented.
        let text = String::from_utf8_lossy(&text).into_owned();
        let said = text.lines().filter(|line| !line.starts_with([' ', '{', '}', '"']));
        let said: Vec<String> = said.map(|line| line.chars().take(500).collect()).collect();
        said[said.len().saturating_sub(6)..].join("\n")
    }

    fn log_file(&self) -> PathBuf {
        self.folder.join("access.log")
    }

    /// Plays the steps. `model`: what is waited for, for a while.
    async fn play(&mut self, side: Side, model: Option<&Observation>) -> Result<Observation> {
        self.restore_files()?;
        for server in self.upstreams.values_mut() {
            server.start().await?;
        }
        let started = Proxy::start(
            &self.runner.programs,
            side,
            &self.folder.join("bootstrap.json"),
            &self.folder.join(format!("{side}.output")),
            self.names.addresses["admin"],
        )
        .await?;
        let mut seen = Observation::default();
        let proxy = match started {
            Started::Refused => {
                seen.note("start", "refused");
                return Ok(seen);
            }
            Started::Serving(proxy) => proxy,
        };
        seen.note("start", "serving");
        let client = Arc::new(Client::new(self.names.clone(), self.runner.certificates.clone()));
        self.steps(&proxy, &client, &mut seen).await?;
        client.close_all().await;
        let terminated = self.case.steps.iter().any(|step| step.terminate);
        if !terminated {
            self.settle(&proxy, &mut seen, model).await?;
            proxy.terminate();
        }
        let end = proxy.end(PATIENCE).await;
        seen.note("exit", end);
        for server in self.upstreams.values_mut() {
            server.stop().await;
        }
        if terminated {
            self.note_upstreams(&mut seen);
        }
        let log = std::fs::read(self.log_file()).unwrap_or_default();
        seen.log(&String::from_utf8_lossy(&log), self.case.log_format.is_none(), self.is_unordered());
        Ok(self.normal(&seen))
    }

    async fn steps(&self, proxy: &Proxy, client: &Arc<Client>, seen: &mut Observation) -> Result<()> {
        let mut background: Vec<(usize, Step, JoinHandle<Outcome>)> = Vec::new();
        for (index, step) in self.case.steps.iter().enumerate() {
            let number = index + 1;
            if let Some(path) = step.admin.as_ref().or(step.admin_post.as_ref()) {
                let method = if step.admin.is_some() { "GET" } else { "POST" };
                let reply = proxy.ask(method, &self.names.substitute(path)).await?;
                seen.admin(number, step, &reply);
            } else if let Some(wanted) = &step.await_requests {
                self.await_requests(wanted).await?;
            } else if let Some(wanted) = &step.await_stats {
                await_stats(proxy, wanted, seen, number).await?;
            } else if let Some(name) = &step.close {
                client.close(name).await;
            } else if let Some(milliseconds) = step.sleep_ms {
                sleep(Duration::from_millis(milliseconds)).await;
            } else if step.terminate {
                proxy.terminate();
            } else if step.background {
                let (client, step) = (Arc::clone(client), step.clone());
                let played = step.clone();
                background.push((number, step, tokio::spawn(async move { client.play(&played).await })));
            } else if let Some(times) = step.times {
                let mut outcomes = Vec::new();
                for _ in 0..times {
                    outcomes.push(client.play(step).await);
                }
                if step.tally {
                    seen.tally(number, &outcomes);
                } else {
                    for (nth, outcome) in outcomes.iter().enumerate() {
                        if nth == 0 {
                            seen.step(number, step, outcome);
                        } else {
                            let status = outcome.replies.first().map(|reply| {
                                format!("{} {}", reply.status, String::from_utf8_lossy(&reply.body))
                            });
                            seen.note(format!("step.{number}.time{}", nth + 1), status.unwrap_or_default());
                        }
                    }
                }
            } else {
                seen.step(number, step, &client.play(step).await);
            }
        }
        for (number, step, task) in background {
            seen.step(number, &step, &task.await?);
        }
        Ok(())
    }

    async fn await_requests(&self, wanted: &IndexMap<String, usize>) -> Result<()> {
        let limit = Instant::now() + PATIENCE;
        for (name, count) in wanted {
            let server = self.upstreams.get(name).with_context(|| format!("there is no upstream {name}"))?;
            // What does not come in time shows in what is compared.
            while server.requests() < *count && Instant::now() < limit {
                sleep(Duration::from_millis(5)).await;
            }
        }
        Ok(())
    }

    /// Notes upstreams and statistics once they stand still; with a `model`, once they are like it, if that comes.
    async fn settle(&self, proxy: &Proxy, seen: &mut Observation, model: Option<&Observation>) -> Result<()> {
        let limit = Instant::now() + SETTLING;
        let mut last: Option<Observation> = None;
        loop {
            let mut now = Observation::default();
            now.note("start", "serving");
            self.note_upstreams(&mut now);
            for (name, value) in
                self.runner.rules.statistics(proxy.stats().await?, &self.case.stats, &self.names)
            {
                now.note(format!("stat.{name}"), value);
            }
            let busy = self.upstreams.values().any(|server| server.unfinished() > 0);
            let done = match model {
                None => !busy && last.as_ref() == Some(&now),
                Some(model) => {
                    let normal = self.normal(&now);
                    let concerned = |aspect: &str| {
                        (aspect.starts_with("stat.") || aspect.starts_with("upstream."))
                            && !self.runner.known.iter().any(|list| list.names(self.id, aspect))
                    };
                    differences(model, &normal).iter().all(|difference| !concerned(&difference.aspect))
                }
            };
            if done || Instant::now() > limit {
                seen.aspects.extend(now.aspects);
                return Ok(());
            }
            last = Some(now);
            sleep(Duration::from_millis(40)).await;
        }
    }

    fn normal(&self, seen: &Observation) -> Observation {
        self.runner.rules.apply(self.id, seen, &self.names, self.is_unordered())
    }

    /// Whether only the counts of answers are certain, and not their order.
    fn is_unordered(&self) -> bool {
        self.case.steps.iter().any(|step| step.tally)
    }

    fn note_upstreams(&self, seen: &mut Observation) {
        for (name, server) in &self.upstreams {
            let (records, connections) = server.seen();
            seen.upstream(name, &records, &connections);
        }
    }
}

async fn await_stats(
    proxy: &Proxy,
    wanted: &IndexMap<String, u64>,
    seen: &mut Observation,
    number: usize,
) -> Result<()> {
    let limit = Instant::now() + PATIENCE;
    loop {
        let all: IndexMap<String, String> = proxy.stats().await?.into_iter().collect();
        let value = |name: &str| all.get(name).and_then(|value| value.parse::<u64>().ok()).unwrap_or(0);
        if wanted.iter().all(|(name, least)| value(name) >= *least) {
            seen.note(format!("step.{number}.reached"), "yes");
            return Ok(());
        }
        if Instant::now() > limit {
            seen.note(format!("step.{number}.reached"), "no");
            return Ok(());
        }
        sleep(Duration::from_millis(10)).await;
    }
}

/// All cases below a folder, by `area/name`.
pub fn load(folder: &Path) -> Result<IndexMap<String, Case>> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder)?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "yaml"))
        .collect();
    files.sort();
    let mut cases = IndexMap::new();
    for file in files {
        let area = file.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default().to_owned();
        let text = std::fs::read_to_string(&file)?;
        let parsed: crate::case::Area = crate::yaml(&text).with_context(|| format!("{}", file.display()))?;
        for mut case in parsed.cases {
            if case.upstreams.is_empty() {
                case.upstreams.insert("a".to_owned(), Upstream::default());
            }
            let id = format!("{area}/{}", case.name);
            if cases.insert(id.clone(), case).is_some() {
                bail!("there are two cases {id}");
            }
        }
    }
    Ok(cases)
}
