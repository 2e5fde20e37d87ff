//! Which platforms MeshConfig asks for, and what that changes.

use std::collections::BTreeMap;

use lateen_api::registries::RegistryConfig;
use lateen_galley::validate_registries;
use lateen_model::ClusterId;
use tracing::{error, warn};

use super::driver::Pace;
use crate::Platform;

const PATH: &str = "lateen.registries";

/// The platforms that MeshConfig asks for.
#[derive(Debug)]
pub(crate) struct Wanted {
    pace: Pace,
    running: BTreeMap<ClusterId, RegistryConfig>,
}

/// What is to be done.
pub(crate) enum Step {
    Add(Box<dyn Platform>),
    Remove(ClusterId),
}

impl Wanted {
    pub(crate) fn new(pace: Pace) -> Self {
        Self { pace, running: BTreeMap::new() }
    }

    /// What leads to the platforms that are asked for now. One that makes no sense is reported, and runs on as it was.
    pub(crate) fn steps(
        &mut self,
        registries: &[RegistryConfig],
        is_taken: impl Fn(&ClusterId) -> bool,
    ) -> Vec<Step> {
        let verdict = validate_registries(registries, PATH);
        for problem in &verdict.warnings {
            warn!("MeshConfig: {problem}");
        }
        for problem in &verdict.errors {
            error!("MeshConfig: {problem}");
        }
        let mut steps = Vec::new();
        let mut gone = std::mem::take(&mut self.running);
        for (index, config) in registries.iter().enumerate() {
            let (name, path) = (ClusterId::from(config.platform_name()), format!("{PATH}[{index}]"));
            let own = gone.remove(&name);
            let invalid = verdict.errors.iter().any(|problem| {
                problem.path.strip_prefix(&path).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
            });
            if invalid || own.as_ref() == Some(config) {
                self.running.extend(own.map(|own| (name, own)));
                continue;
            }
            if own.is_none() && is_taken(&name) {
                error!(
                    "MeshConfig: {path}.name: {name:?} is another platform already; give it a name of its own"
                );
                continue;
            }
            steps.extend(super::platform(config, self.pace).map(Step::Add));
            self.running.insert(name, config.clone());
        }
        steps.extend(gone.into_keys().map(Step::Remove));
        steps
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn registries(value: serde_json::Value) -> Vec<RegistryConfig> {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn steps_lead_from_what_runs_to_what_is_asked_for() {
        let mut wanted = Wanted::new(Pace::default());
        let consul = serde_json::json!({"provider": "CONSUL", "addresses": ["http://127.0.0.1:8500"]});
        let nomad = serde_json::json!({"provider": "NOMAD", "addresses": ["http://127.0.0.1:4646"]});
        let bad = serde_json::json!({"provider": "CONSUL", "addresses": []});
        let moved = serde_json::json!({"provider": "CONSUL", "addresses": ["http://127.0.0.1:8501"]});
        let taken = serde_json::json!({"provider": "NOMAD", "name": "Kubernetes", "addresses": ["http://127.0.0.1:1"]});
        for (name, asked, expected) in [
            ("both come", serde_json::json!([consul, nomad]), vec!["+consul", "+nomad"]),
            ("nothing is different", serde_json::json!([nomad, consul]), vec![]),
            ("what makes no sense leaves all as it was", serde_json::json!([bad, nomad]), vec![]),
            ("another address", serde_json::json!([moved, nomad]), vec!["+consul"]),
            ("a name that is taken", serde_json::json!([moved, taken]), vec!["-nomad"]),
            ("none", serde_json::json!([]), vec!["-consul"]),
        ] {
            let steps = wanted.steps(&registries(asked), |name| name.as_str() == "Kubernetes");
            let got: Vec<String> = steps
                .iter()
                .map(|step| match step {
                    Step::Add(platform) => format!("+{}", platform.name()),
                    Step::Remove(name) => format!("-{name}"),
                })
                .collect();
            assert_eq!(got, expected, "{name}");
        }
    }
}
