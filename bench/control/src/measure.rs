//! The measurements, one after the other over the same processes.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use lateen_envoy::type_urls::{ENDPOINT, ROUTE};

use crate::Options;
use crate::api::Api;
use crate::lateend::Lateend;
use crate::objects::{Cluster, PORT, REPLICAS, cluster_name};
use crate::proxy::Fleet;
use crate::report::{Report, exponent, milliseconds, percentile};

/// Changes a second where they are steady.
const RATE: u64 = 100;
/// Quarters of a second without work after which no status is on its way any more.
const STATUSES: usize = 48;

/// Everything that is under way.
struct Bench<'a> {
    options: &'a Options,
    cluster: Arc<Cluster<'a>>,
    lateend: Lateend,
    fleet: Arc<Fleet>,
    tokens: Vec<String>,
    report: Report,
    turn: usize,
}

/// Measures all of it.
pub async fn run(options: &Options) -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().to_owned();
    if options.keep {
        println!("logs are in {}", folder.keep().display());
    }
    let api = Api::start(&path.join("api")).await?;
    let cluster = Arc::new(Cluster::new(api.client.clone(), options));
    cluster.prepare().await?;
    cluster.fill(0).await?;
    let tokens = vec![cluster.token(0).await?];
    let lateend = Lateend::start(&options.lateend, &api.kubeconfig, &path.join("lateend")).await?;
    let fleet = Fleet::new(lateend.xds(), options.proxies);
    let report = Report::default();
    let mut bench = Bench { options, cluster, lateend, fleet, tokens, report, turn: 0 };
    bench.all().await?;
    if let Some(document) = &options.document {
        bench.report.write(document)?;
    }
    Ok(())
}

impl Bench<'_> {
    async fn all(&mut self) -> anyhow::Result<()> {
        let Options { namespaces, services, endpoints, proxies, rules, .. } = *self.options;
        self.report.line("# Performance of the control plane\n");
        self.report.line(&format!(
            "`make bench-control` on {} processors, {} UTC: {} services, {} endpoints, {} VirtualServices and {} \
             sidecars in {namespaces} namespaces, each with a `Sidecar` that imports its own ({services} services). The \
             API server, `lateend` and the simulated proxies are three processes on one machine; the proxies speak \
             delta xDS over loopback without TLS. `lateend`'s processor time and memory are its own.",
            std::thread::available_parallelism()?,
            utc_now(),
            namespaces * services,
            namespaces * services * endpoints,
            namespaces * rules,
            namespaces * proxies,
        ));
        let by_services = self.grow_services().await?;
        let (by_proxies, each_kb) = self.grow_proxies().await?;
        let replica_kb = self.replicas().await?;
        self.report.table("Each sidecar sees its own namespace");
        self.single_changes(proxies, self.options.samples, true).await?;
        self.memory(each_kb, replica_kb)?;
        self.steady("0.25").await?;
        self.fits(&by_services, &by_proxies);
        self.starts().await?;
        if self.options.open_proxies > 0 {
            self.open().await?;
        }
        Ok(())
    }

    /// What a change costs as services are added that do not concern it.
    async fn grow_services(&mut self) -> anyhow::Result<Vec<(f64, f64)>> {
        self.connect(0..1, 0..self.options.proxies).await?;
        let mut points = Vec::new();
        let mut filled = 1;
        for count in steps(self.options.namespaces) {
            for index in filled..count {
                self.cluster.fill(index).await?;
                self.tokens.push(self.cluster.token(index).await?);
            }
            filled = count.max(filled);
            let services = count * self.options.services;
            self.settled(services).await?;
            let cost = self.cost_in_first_namespace().await?;
            println!("  {services} services: {:.0} µs a change", cost * 1e6);
            points.push((services as f64, cost));
        }
        Ok(points)
    }

    /// What a change costs as proxies are added that it does not concern; and the kilobytes that each proxy adds where
    /// others see the same already: to half of each namespace's the other half comes.
    async fn grow_proxies(&mut self) -> anyhow::Result<(Vec<(f64, f64)>, f64)> {
        let (namespaces, all) = (self.options.namespaces, self.options.proxies);
        let half = all.div_ceil(2);
        let mut points = Vec::new();
        let mut note = async |bench: &mut Self| {
            let cost = bench.cost_in_first_namespace().await?;
            let proxies = bench.fleet.complete.load(Ordering::Relaxed);
            println!("  {proxies} proxies: {:.0} µs a change", cost * 1e6);
            points.push((proxies as f64, cost));
            anyhow::Ok(())
        };
        let mut connected = 1;
        for count in steps(namespaces) {
            self.connect(connected..count, 0..half).await?;
            connected = count.max(connected);
            note(self).await?;
        }
        self.rested().await?;
        let before = (self.lateend.resident_kb()?, self.fleet.complete.load(Ordering::Relaxed));
        self.connect(1..namespaces, half..all).await?;
        self.rested().await?;
        let after = (self.lateend.resident_kb()?, self.fleet.complete.load(Ordering::Relaxed));
        note(self).await?;
        println!("  {} kB with {} proxies, {} kB with {}", before.0, before.1, after.0, after.1);
        let more = (after.1 - before.1).max(1);
        Ok((points, (after.0 as f64 - before.0 as f64) / more as f64))
    }

    /// The kilobytes that each proxy adds that is beside a further replica of an application; these go again.
    async fn replicas(&mut self) -> anyhow::Result<f64> {
        let before = (self.lateend.resident_kb()?, self.fleet.complete.load(Ordering::Relaxed));
        let mut tasks = Vec::new();
        for index in 0..self.options.namespaces {
            let further = self.options.proxies..self.options.proxies + REPLICAS;
            tasks.extend(further.map(|proxy| self.fleet.add(index, proxy, &self.tokens[index])));
        }
        self.fleet.wait_complete(before.1 + tasks.len(), Duration::from_secs(120)).await?;
        self.rested().await?;
        let each = (self.lateend.resident_kb()? as f64 - before.0 as f64) / tasks.len().max(1) as f64;
        for task in &tasks {
            task.abort();
        }
        self.fleet.complete.fetch_sub(tasks.len(), Ordering::Relaxed);
        self.fleet.connected.fetch_sub(tasks.len(), Ordering::Relaxed);
        self.rested().await?;
        Ok(each)
    }

    /// Waits until nothing is under way, and what is not needed any more has been given back.
    async fn rested(&self) -> anyhow::Result<()> {
        self.settled(0).await?;
        tokio::time::sleep(Duration::from_secs(3)).await;
        Ok(())
    }

    async fn connect(
        &mut self,
        namespaces: std::ops::Range<usize>,
        proxies: std::ops::Range<usize>,
    ) -> anyhow::Result<()> {
        for index in namespaces {
            let expected = self.fleet.complete.load(Ordering::Relaxed) + proxies.len();
            for proxy in proxies.clone() {
                self.fleet.add(index, proxy, &self.tokens[index]);
            }
            self.fleet.wait_complete(expected, Duration::from_secs(120)).await?;
        }
        Ok(())
    }

    /// Waits until `lateend` knows the services and has nothing to do.
    async fn settled(&self, services: usize) -> anyhow::Result<()> {
        for _ in 0..1200 {
            if self.lateend.metric("pilot_services").await? as usize >= services {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        self.at_rest(1).await
    }

    /// Waits until `lateend` has had nothing to do for so many quarters of a second.
    async fn at_rest(&self, quarters: usize) -> anyhow::Result<()> {
        let mut quiet = 0;
        for _ in 0..240 {
            let before = self.lateend.cpu()?;
            tokio::time::sleep(Duration::from_millis(250)).await;
            quiet = if self.lateend.cpu()? - before < Duration::from_millis(10) { quiet + 1 } else { 0 };
            if quiet >= quarters {
                break;
            }
        }
        Ok(())
    }

    /// Seconds of a processor that a change of an endpoint in the first namespace costs.
    async fn cost_in_first_namespace(&mut self) -> anyhow::Result<f64> {
        self.settled(0).await?;
        let seconds = (self.options.seconds / 2).max(2);
        let (cpu, changes) = self.changes(seconds, |turn, options| (0, turn * 7 % options.services)).await?;
        Ok(cpu.as_secs_f64() / changes as f64)
    }

    /// Steady changes; the processor time that they cost `lateend`, and how many there were.
    async fn changes(
        &mut self,
        seconds: u64,
        place: impl Fn(usize, &Options) -> (usize, usize),
    ) -> anyhow::Result<(Duration, u64)> {
        let before = self.lateend.cpu()?;
        let mut ticks = tokio::time::interval(Duration::from_micros(1_000_000 / RATE));
        let mut failed = 0;
        let writes: Vec<(usize, usize, usize)> = (0..seconds * RATE)
            .map(|_| {
                self.turn += 1;
                let (index, service) = place(self.turn, self.options);
                (index, service, self.turn)
            })
            .collect();
        let mut under_way = futures::stream::FuturesUnordered::new();
        for (index, service, turn) in writes {
            ticks.tick().await;
            under_way.push(self.cluster.change_endpoint(index, service, turn));
            while let Some(done) = futures::FutureExt::now_or_never(futures::StreamExt::next(&mut under_way))
            {
                let Some(done) = done else { break };
                failed += usize::from(done.is_err());
            }
        }
        while let Some(done) = futures::StreamExt::next(&mut under_way).await {
            failed += usize::from(done.is_err());
        }
        drop(under_way);
        anyhow::ensure!(failed == 0, "{failed} writes failed");
        tokio::time::sleep(Duration::from_millis(500)).await;
        Ok((self.lateend.cpu()? - before, seconds * RATE))
    }

    /// The way of single changes, from before the write to the last answer.
    async fn single_changes(
        &mut self,
        concerned: usize,
        samples: usize,
        targets: bool,
    ) -> anyhow::Result<()> {
        self.settled(0).await?;
        let target = |text: &'static str| if targets { text } else { "" };
        let (mut times, mut largest, mut others) = (Vec::new(), 0, 0);
        for sample in 0..samples {
            let (index, service) = (sample % self.options.namespaces, sample * 13 % self.options.services);
            self.turn += 1;
            let expected = self.fleet.expect(ENDPOINT, &cluster_name(index, service), concerned);
            let begun = Instant::now();
            self.cluster.change_endpoint(index, service, self.turn).await?;
            times.push(expected.done().await? - begun);
            largest = largest.max(expected.largest.load(Ordering::Relaxed));
            others += expected.others.load(Ordering::Relaxed);
        }
        let (p50, p99) = (percentile(&mut times, 0.5), percentile(&mut times, 0.99));
        self.report.row("one endpoint changes: write to last ACK, p50", &milliseconds(p50), "");
        self.report.row("the same, p99", &milliseconds(p99), target("100 ms"));
        let limit = 500 + 200 * self.options.endpoints;
        self.report.row(
            &format!("bytes to a proxy concerned ({} endpoints)", self.options.endpoints),
            &largest.to_string(),
            &if targets { limit.to_string() } else { String::new() },
        );
        self.report.row("responses about anything else", &others.to_string(), target("0"));
        let (mut times, mut largest) = (Vec::new(), 0);
        for sample in 0..samples / 2 {
            let (index, rule) = (sample % self.options.namespaces, sample * 7 % self.options.rules);
            let expected = self.fleet.expect(ROUTE, &PORT.to_string(), concerned);
            let begun = Instant::now();
            self.turn += 1;
            self.cluster.change_rule(index, rule, 2 + self.turn).await?;
            times.push(expected.done().await? - begun);
            largest = largest.max(expected.largest.load(Ordering::Relaxed));
        }
        let (p50, p99) = (percentile(&mut times, 0.5), percentile(&mut times, 0.99));
        self.report.row("one VirtualService changes: write to last ACK, p50", &milliseconds(p50), "");
        self.report.row("the same, p99", &milliseconds(p99), target("100 ms"));
        self.report.row("bytes to a proxy concerned (its whole table)", &largest.to_string(), "");
        Ok(())
    }

    fn memory(&mut self, each_kb: f64, replica_kb: f64) -> anyhow::Result<()> {
        let now = self.lateend.resident_kb()?;
        self.report.row("memory of `lateend`", &format!("{} MB", now / 1024), "300 MB");
        let figure =
            "memory for each further proxy, with an application of its own, beside as many of its namespace";
        self.report.row(figure, &format!("{each_kb:.1} kB"), "50 kB");
        let figure = "memory for each further proxy that is a replica's";
        self.report.row(figure, &format!("{replica_kb:.1} kB"), "50 kB");
        Ok(())
    }

    async fn steady(&mut self, target: &str) -> anyhow::Result<()> {
        self.settled(0).await?;
        // Statuses follow the proxies that came and the rules that changed by some ten seconds.
        self.at_rest(STATUSES).await?;
        let place =
            |turn: usize, options: &Options| (turn * 3 % options.namespaces, turn * 11 % options.services);
        let (cpu, _) = self.changes(self.options.seconds, place).await?;
        let share = cpu.as_secs_f64() / self.options.seconds as f64;
        self.report.row("100 endpoint changes a second: processors", &format!("{share:.3}"), target);
        Ok(())
    }

    fn fits(&mut self, by_services: &[(f64, f64)], by_proxies: &[(f64, f64)]) {
        for (what, points) in [("services", by_services), ("unaffected proxies", by_proxies)] {
            let fit = format!("{:.2}", exponent(points));
            let list: Vec<String> =
                points.iter().map(|(x, cost)| format!("{x}: {:.0} µs", cost * 1e6)).collect();
            let figure = format!("cost of a change against {what}: exponent ({})", list.join(", "));
            self.report.row(&figure, &fit, "0.2");
        }
    }

    async fn starts(&mut self) -> anyhow::Result<()> {
        let all = self.options.namespaces * self.options.proxies;
        self.fleet.bytes.store(0, Ordering::Relaxed);
        let begun = Instant::now();
        self.lateend.restart().await?;
        self.gone().await?;
        self.fleet.wait_complete(all, Duration::from_secs(300)).await?;
        let (time, full) = (begun.elapsed(), self.fleet.bytes.load(Ordering::Relaxed));
        self.report.row(
            &format!("start with {all} proxies: all acknowledged after"),
            &format!("{:.1} s, {} MB", time.as_secs_f64(), full >> 20),
            "15 s",
        );
        let peak = self.lateend.resident_kb()?;
        self.report.row("memory after that", &format!("{} MB", peak / 1024), "");
        self.settled(0).await?;
        self.fleet.resume.store(true, Ordering::Relaxed);
        self.fleet.bytes.store(0, Ordering::Relaxed);
        let begun = Instant::now();
        self.lateend.restart().await?;
        self.lateend.ready().await?;
        while (self.lateend.metric("pilot_xds").await? as usize) < all {
            anyhow::ensure!(begun.elapsed() < Duration::from_secs(300), "not all proxies come back");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let time = begun.elapsed();
        self.settled(0).await?;
        let resumed = self.fleet.bytes.load(Ordering::Relaxed);
        let share = resumed as f64 * 100.0 / full.max(1) as f64;
        self.report.row(
            "the same where they resume by version",
            &format!("{:.1} s, {resumed} bytes, {share:.2} %", time.as_secs_f64()),
            "1 %",
        );
        let now = self.lateend.resident_kb()?;
        self.report.row("memory after that", &format!("{} MB", now / 1024), "");
        Ok(())
    }

    /// Waits until all streams are lost.
    async fn gone(&self) -> anyhow::Result<()> {
        for _ in 0..1000 {
            if self.fleet.complete.load(Ordering::Relaxed) == 0 {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        anyhow::bail!("streams outlive the process that they went to")
    }

    /// The same without any `Sidecar`, for fewer proxies.
    async fn open(&mut self) -> anyhow::Result<()> {
        self.fleet.stop();
        self.cluster.remove_sidecars().await?;
        self.fleet = Fleet::new(self.lateend.xds(), self.options.proxies);
        let proxies = self.options.open_proxies;
        let all = proxies * self.options.namespaces;
        self.settled(0).await?;
        self.report.table(&format!("Everybody sees everything ({all} sidecars)"));
        let begun = Instant::now();
        self.connect(0..self.options.namespaces, 0..proxies).await?;
        let bytes = self.fleet.bytes.load(Ordering::Relaxed) >> 20;
        self.report.row(
            "all connected after",
            &format!("{:.1} s, {bytes} MB", begun.elapsed().as_secs_f64()),
            "",
        );
        self.single_changes(all, self.options.samples.min(20), false).await?;
        let resident = self.lateend.resident_kb()?;
        self.report.row("memory of `lateend`", &format!("{} MB", resident / 1024), "");
        self.steady("").await?;
        Ok(())
    }
}

/// 1, 2, 5, 10, 20 and so on, up to `last`.
fn steps(last: usize) -> Vec<usize> {
    let mut steps: Vec<usize> = [1, 2, 5, 10, 20, 50, 100].into_iter().filter(|step| *step < last).collect();
    steps.push(last);
    steps
}

fn utc_now() -> String {
    jiff::Timestamp::now().strftime("%Y-%m-%d %H:%M").to_string()
}
