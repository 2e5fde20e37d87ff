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

/// Between two questions.
const PACE: Duration = Duration::from_millis(100);

/// How far an object has come, as `/debug/distribution` tells it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
struct Progress {
    generation: i64,
    concerned: usize,
    acknowledged: usize,
    waiting: Vec<String>,
    rejected: Vec<Rejected>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
struct Rejected {
    proxy: String,
    reason: String,
}

/// Waits, and says how many proxies have it; fails at the timeout with the names of those that have not.
pub(crate) async fn wait(arguments: &WaitArguments, printer: &mut Printer) -> anyhow::Result<ExitStatus> {
    let client = cluster::connect(&arguments.cluster).await?;
    let resource = kind(&client, &arguments.kind).await?;
    let (name, namespace) =
        arguments.name.split_once('.').unwrap_or((&arguments.name, &arguments.cluster.namespace));
    let what = format!("{} {name}.{namespace}", resource.kind);
    let path = format!("/debug/distribution?kind={}&namespace={namespace}&name={name}", resource.kind);
    let generation = match (arguments.r#for, arguments.generation) {
        (WaitFor::Delete, _) => None,
        (WaitFor::Distribution, Some(generation)) => Some(generation),
        (WaitFor::Distribution, None) => {
            let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, &resource);
            let object = api.get(name).await.with_context(|| format!("there is no {what}"))?;
            object.metadata.generation
        }
    };
    let deadline = Instant::now() + arguments.timeout;
    loop {
        let answers =
            istiod::get_all(&client, &arguments.cluster.istio_namespace, istiod::DEBUG_PORT, &path).await?;
        let progress = merge(&answers)?;
        let reached = match generation {
            None => progress.is_none(),
            Some(generation) => {
                progress.as_ref().is_some_and(|progress| progress.reached(generation, arguments.threshold))
            }
        };
        if reached {
            printer.result(&match progress {
                None => format!("{what} is gone"),
                Some(progress) => format!(
                    "{what}: {} of {} proxies that it concerns have acknowledged it",
                    progress.acknowledged, progress.concerned
                ),
            });
            return Ok(ExitStatus::Success);
        }
        if Instant::now() >= deadline {
            bail!("{what}: {} after {:?}", late(progress.as_ref(), generation), arguments.timeout);
        }
        tokio::time::sleep(PACE).await;
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

/// What all replicas of the control plane say together; nothing if none knows the object.
fn merge(answers: &[Option<String>]) -> anyhow::Result<Option<Progress>> {
    let mut merged: Option<Progress> = None;
    for answer in answers.iter().flatten() {
        let one: Progress =
            serde_json::from_str(answer).context("/debug/distribution answered something else")?;
        match &mut merged {
            None => merged = Some(one),
            Some(merged) => {
                // The slowest counts.
                merged.generation = merged.generation.min(one.generation);
                merged.concerned += one.concerned;
                merged.acknowledged += one.acknowledged;
                merged.waiting.extend(one.waiting);
                merged.rejected.extend(one.rejected);
            }
        }
    }
    // A replica that does not know the object yet has told nobody of it.
    if answers.iter().any(Option::is_none)
        && let Some(merged) = &mut merged
    {
        merged.generation = 0;
    }
    Ok(merged)
}

impl Progress {
    fn reached(&self, generation: i64, threshold: f64) -> bool {
        self.generation >= generation
            && self.acknowledged as f64 >= (self.concerned as f64 * threshold).ceil()
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
    if !progress.waiting.is_empty() {
        text.push_str(&format!("; {} have not", progress.waiting.join(", ")));
    }
    for rejected in &progress.rejected {
        text.push_str(&format!("; {} refuses it: {}", rejected.proxy, rejected.reason));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(generation: i64, acknowledged: usize, concerned: usize) -> Option<String> {
        Some(
            serde_json::json!({"generation": generation, "concerned": concerned, "acknowledged": acknowledged,
                "waiting": [], "rejected": []})
            .to_string(),
        )
    }

    #[test]
    fn replicas_count_together() {
        for (name, answers, generation, threshold, reached) in [
            ("one", vec![answer(3, 2, 2)], 3, 1.0, true),
            ("an older generation", vec![answer(2, 2, 2)], 3, 1.0, false),
            ("nobody concerned", vec![answer(3, 0, 0)], 3, 1.0, true),
            ("not all", vec![answer(3, 1, 2)], 3, 1.0, false),
            ("enough", vec![answer(3, 1, 2)], 3, 0.5, true),
            ("two replicas", vec![answer(3, 2, 2), answer(3, 0, 1)], 3, 1.0, false),
            ("one is behind", vec![answer(3, 2, 2), answer(2, 1, 1)], 3, 1.0, false),
            ("one knows nothing", vec![answer(3, 2, 2), None], 3, 1.0, false),
            ("none knows it", vec![None], 3, 1.0, false),
        ] {
            let progress = merge(&answers).unwrap();
            let is = progress.is_some_and(|progress| progress.reached(generation, threshold));
            assert_eq!(is, reached, "{name}");
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
        };
        assert_eq!(
            late(Some(&progress), Some(3)),
            "1 of 3 proxies have acknowledged it; a.default have not; b.default refuses it: bad"
        );
        assert_eq!(late(Some(&progress), Some(4)), "the control plane has generation 3, not 4");
        assert_eq!(late(None, Some(4)), "no control plane knows it yet");
    }
}
