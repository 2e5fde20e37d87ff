//! `lateen wait`: until the proxies have what was written.

use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use kube::Client;
use kube::api::{Api, DynamicObject};
use kube::core::ApiResource;
use kube::discovery::{Discovery, Scope};
use serde::Deserialize;

use crate::arguments::{WaitArguments, WaitFor};
use crate::printer::Printer;
use crate::{ExitStatus, cluster, istiod};

/// So many proxies are named, others are counted.
const NAMED: usize = 10;
/// Between two questions.
const PACE: Duration = Duration::from_millis(100);

/// How far an object has come with all proxies of all replicas, as `/debug/distribution` tells it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
struct Progress {
    generation: i64,
    concerned: usize,
    acknowledged: usize,
    waiting: Vec<String>,
    rejected: Vec<Rejected>,
    /// Replicas that do not know it yet, or do not answer.
    behind: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
struct Rejected {
    proxy: String,
    reason: String,
}

/// What comes of one look.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Reached,
    /// It will not come: who has not acknowledged it refuses it.
    Refused,
    NotYet,
}

/// Waits, and says how many proxies have it; fails with the names of those that have not: at the timeout, or as soon as
/// nobody is left but those that refuse it.
pub(crate) async fn wait(arguments: &WaitArguments, printer: &mut Printer) -> anyhow::Result<ExitStatus> {
    let client = cluster::connect(&arguments.cluster).await?;
    let resource = kind(&client, &arguments.kind).await?;
    let target = Target::find(&client, &resource, arguments).await?;
    let what = format!("{} {}.{}", resource.kind, target.name, target.namespace);
    let (name, namespace) = (&target.name, &target.namespace);
    let path = format!("/debug/distribution?kind={}&namespace={namespace}&name={name}", resource.kind);
    let generation = match (arguments.r#for, arguments.generation) {
        (WaitFor::Delete, _) => None,
        (WaitFor::Distribution, Some(generation)) => Some(generation),
        (WaitFor::Distribution, None) => match target.generation {
            Some(generation) => Some(generation),
            None => bail!("{}", nowhere(&resource.kind, arguments)),
        },
    };
    let deadline = Instant::now() + arguments.timeout;
    let mut asked = false;
    loop {
        let answer =
            istiod::ask(&client, &arguments.cluster.istio_namespace, istiod::DEBUG_PORT, &path).await;
        let progress = match answer {
            Ok(answer) => read(answer)?,
            // A control plane that answered once may come back.
            Err(error) if !asked || Instant::now() >= deadline => return Err(error),
            Err(_) => {
                tokio::time::sleep(PACE).await;
                continue;
            }
        };
        asked = true;
        let verdict = match generation {
            None if progress.is_none() => Verdict::Reached,
            None => Verdict::NotYet,
            Some(generation) => progress
                .as_ref()
                .map_or(Verdict::NotYet, |progress| progress.verdict(generation, arguments.threshold)),
        };
        match verdict {
            Verdict::Reached => {
                printer.result(&match progress {
                    None => format!("{what} is gone"),
                    Some(progress) => format!("{what}: {}", progress.done()),
                });
                return Ok(ExitStatus::Success);
            }
            Verdict::Refused => bail!("{what}: {}", late(progress.as_ref(), generation)),
            Verdict::NotYet if Instant::now() >= deadline => {
                bail!("{what}: {}, after {:?}", late(progress.as_ref(), generation), arguments.timeout)
            }
            Verdict::NotYet => tokio::time::sleep(PACE).await,
        }
    }
}

fn nowhere(kind: &str, arguments: &WaitArguments) -> String {
    let (name, namespace) = (&arguments.name, &arguments.cluster.namespace);
    let mut text = format!("there is no {kind} {name} in namespace {namespace}");
    if let Some((name, namespace)) = name.rsplit_once('.') {
        text.push_str(&format!(", and none called {name} in namespace {namespace}"));
    }
    text
}

/// The object that a person means.
struct Target {
    namespace: String,
    name: String,
    /// Nothing where it is not there.
    generation: Option<i64>,
}

impl Target {
    /// `NAME.NAMESPACE`, unless an object in the namespace at hand has dots in its name.
    async fn find(
        client: &Client,
        resource: &ApiResource,
        arguments: &WaitArguments,
    ) -> anyhow::Result<Self> {
        let at_hand = (arguments.name.as_str(), arguments.cluster.namespace.as_str());
        let split = arguments.name.rsplit_once('.');
        let mut found = None;
        for (name, namespace) in [Some(at_hand), split].into_iter().flatten() {
            let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, resource);
            let object = api
                .get_opt(name)
                .await
                .with_context(|| format!("cannot read {} {name}.{namespace}", resource.kind))?;
            let generation = object.map(|object| object.metadata.generation.unwrap_or_default());
            let target = Self { namespace: namespace.to_owned(), name: name.to_owned(), generation };
            if target.generation.is_some() {
                return Ok(target);
            }
            found = Some(target);
        }
        found.context("say the object's name")
    }
}

/// The kind that a person means: by name, plural, singular or short name.
async fn kind(client: &Client, text: &str) -> anyhow::Result<ApiResource> {
    let wanted = text.split_once('.').map_or(text, |(kind, _)| kind).to_ascii_lowercase();
    let short = lateen_galley::kind_schemas().iter().find(|kind| kind.is_called(&wanted));
    let Some(known) = short else {
        let kinds: Vec<&str> = lateen_galley::kind_schemas().iter().map(|kind| kind.kind).collect();
        bail!("{text:?} is no kind of the mesh; there are {}", kinds.join(", "));
    };
    let discovery = Discovery::new(client.clone()).filter(&[known.group]).run().await?;
    for group in discovery.groups() {
        for (resource, capabilities) in group.recommended_resources() {
            if resource.kind == known.kind && capabilities.scope == Scope::Namespaced {
                return Ok(resource);
            }
        }
    }
    bail!("the cluster does not know {}: is the mesh installed?", known.kind)
}

/// What the control plane answered; nothing where it does not know the object.
fn read(answer: Option<String>) -> anyhow::Result<Option<Progress>> {
    let parse = |text: String| serde_json::from_str(&text);
    answer.map(parse).transpose().context("/debug/distribution answered something else")
}

impl Progress {
    fn verdict(&self, generation: i64, threshold: f64) -> Verdict {
        if self.generation < generation || !self.behind.is_empty() {
            return Verdict::NotYet;
        }
        let wanted = (self.concerned as f64 * threshold).ceil();
        if self.acknowledged as f64 >= wanted {
            return Verdict::Reached;
        }
        // Even if all that are still waiting acknowledged it, it would not be enough.
        match ((self.acknowledged + self.waiting.len()) as f64) < wanted && self.waiting.is_empty() {
            true => Verdict::Refused,
            false => Verdict::NotYet,
        }
    }

    fn done(&self) -> String {
        match self.concerned {
            0 => "no connected proxy is concerned".to_owned(),
            concerned => {
                format!("{} of {concerned} proxies that it concerns have acknowledged it", self.acknowledged)
            }
        }
    }
}

/// Why it is not reached.
fn late(progress: Option<&Progress>, generation: Option<i64>) -> String {
    let Some(progress) = progress else { return "no control plane knows it yet".to_owned() };
    let Some(generation) = generation else { return "it is still there".to_owned() };
    if progress.generation < generation {
        return format!("the control plane has generation {}, not {generation}", progress.generation);
    }
    let mut text =
        format!("{} of {} proxies have acknowledged it", progress.acknowledged, progress.concerned);
    let waiting = progress.waiting.len();
    if waiting > 0 {
        text.push_str(&format!("; {} not yet", progress.waiting[..waiting.min(NAMED)].join(", ")));
    }
    if waiting > NAMED {
        text.push_str(&format!(", nor {} others", waiting - NAMED));
    }
    for rejected in progress.rejected.iter().take(NAMED) {
        text.push_str(&format!("; {} refuses it: {}", rejected.proxy, rejected.reason));
    }
    if progress.rejected.len() > NAMED {
        text.push_str(&format!("; {} others refuse it", progress.rejected.len() - NAMED));
    }
    if !progress.behind.is_empty() {
        let behind = progress.behind.join(", ");
        text.push_str(&format!("; replicas of the control plane that do not know it yet: {behind}"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn progress(generation: i64, acknowledged: usize, waiting: usize, refusing: usize) -> Progress {
        let rejected = |index| Rejected { proxy: format!("r{index}.shop"), reason: "bad".to_owned() };
        Progress {
            generation,
            concerned: acknowledged + waiting + refusing,
            acknowledged,
            waiting: (0..waiting).map(|index| format!("w{index}.shop")).collect(),
            rejected: (0..refusing).map(rejected).collect(),
            behind: Vec::new(),
        }
    }

    #[test]
    fn verdicts() {
        let behind = |mut progress: Progress| {
            progress.behind.push("istiod-2".to_owned());
            progress
        };
        for (name, progress, generation, threshold, verdict) in [
            ("all", progress(3, 2, 0, 0), 3, 1.0, Verdict::Reached),
            ("an older generation", progress(2, 2, 0, 0), 3, 1.0, Verdict::NotYet),
            ("a newer generation", progress(4, 2, 0, 0), 3, 1.0, Verdict::Reached),
            ("nobody concerned", progress(3, 0, 0, 0), 3, 1.0, Verdict::Reached),
            ("not all", progress(3, 1, 1, 0), 3, 1.0, Verdict::NotYet),
            ("enough", progress(3, 1, 1, 0), 3, 0.5, Verdict::Reached),
            ("one refuses, one waits", progress(3, 1, 1, 1), 3, 1.0, Verdict::NotYet),
            ("the rest refuses", progress(3, 1, 0, 1), 3, 1.0, Verdict::Refused),
            ("the rest refuses, enough have it", progress(3, 1, 0, 1), 3, 0.5, Verdict::Reached),
            ("a replica is behind", behind(progress(3, 2, 0, 0)), 3, 1.0, Verdict::NotYet),
        ] {
            assert_eq!(progress.verdict(generation, threshold), verdict, "{name}");
        }
    }

    #[test]
    fn what_is_late_is_named() {
        let progress = Progress {
            generation: 3,
            concerned: 3,
            acknowledged: 1,
            waiting: vec!["a.default".into()],
            rejected: vec![Rejected { proxy: "b.default".into(), reason: "bad".into() }],
            behind: Vec::new(),
        };
        assert_eq!(
            late(Some(&progress), Some(3)),
            "1 of 3 proxies have acknowledged it; a.default not yet; b.default refuses it: bad"
        );
        assert_eq!(late(Some(&progress), Some(4)), "the control plane has generation 3, not 4");
        assert_eq!(late(None, Some(4)), "no control plane knows it yet");
    }
}
