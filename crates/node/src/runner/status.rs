//! A Pod's status, as a pure function of what its containers do.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    ContainerState as ApiState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting,
    ContainerStatus, HostIP, Pod, PodCondition, PodIP, PodStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

/// What a container is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Runs to its end before the next starts.
    Init,
    /// An init container with `restartPolicy: Always`: starts in order, stays, ends last.
    Sidecar,
    /// The Pod's purpose.
    Application,
}

/// How a container's run ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Termination {
    /// 128 and the signal's number after a signal.
    pub exit_code: i32,
    /// The signal, where one ended it.
    pub signal: Option<i32>,
    /// `Completed`, `Error`, ...
    pub reason: String,
    /// More about it.
    pub message: Option<String>,
    /// When the run began.
    pub started: Timestamp,
    /// When it ended.
    pub finished: Timestamp,
}

/// What a container does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// Not running, but meant to.
    Waiting {
        /// A word.
        reason: String,
        /// A sentence.
        message: Option<String>,
    },
    /// Running.
    Running {
        /// Since when.
        since: Timestamp,
    },
    /// Over.
    Terminated(Termination),
}

/// A container as the runner knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Container {
    /// Its name.
    pub name: String,
    /// Its image's name.
    pub image: String,
    /// What it is for.
    pub role: Role,
    /// What it does.
    pub state: State,
    /// How its run before this one ended.
    pub last: Option<Termination>,
    /// How often it was started again.
    pub restarts: i32,
    /// Whether its startup probe has succeeded (or it has none).
    pub started: bool,
    /// Whether its readiness probe succeeds (or it has none).
    pub ready: bool,
}

/// A Pod as the runner knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observed {
    /// Init containers and sidecars in order, then applications.
    pub containers: Vec<Container>,
    /// Whether all init containers have done their part once.
    pub initialized: bool,
    /// The Pod's address.
    pub ip: Option<String>,
    /// The node's address.
    pub host_ip: String,
    /// When the node took the Pod on.
    pub start: Timestamp,
    /// Reason and message where the Pod failed as a whole.
    pub failure: Option<(String, String)>,
}

/// The status that the API should show, keeping times of what did not change from the Pod's present status.
pub fn derive(pod: &Pod, observed: &Observed, now: Timestamp) -> PodStatus {
    let phase = phase(pod, observed);
    let over = matches!(phase, "Succeeded" | "Failed");
    let statuses = |wanted: &dyn Fn(Role) -> bool| {
        let chosen = observed.containers.iter().filter(|container| wanted(container.role));
        let all: Vec<ContainerStatus> = chosen.map(container_status).collect();
        (!all.is_empty()).then_some(all)
    };
    let previous = pod.status.clone().unwrap_or_default();
    let ip = observed.ip.clone();
    PodStatus {
        phase: Some(phase.to_owned()),
        conditions: Some(conditions(pod, observed, over, phase, now)),
        container_statuses: statuses(&|role| role == Role::Application),
        init_container_statuses: statuses(&|role| role != Role::Application),
        host_ip: Some(observed.host_ip.clone()),
        host_ips: Some(vec![HostIP { ip: observed.host_ip.clone() }]),
        pod_ips: ip.clone().map(|ip| vec![PodIP { ip }]),
        pod_ip: ip,
        start_time: Some(Time(observed.start)),
        reason: observed.failure.as_ref().map(|(reason, _)| reason.clone()),
        message: observed.failure.as_ref().map(|(_, message)| message.clone()),
        qos_class: previous.qos_class.or_else(|| Some("BestEffort".to_owned())),
        ..PodStatus::default()
    }
}

/// Whether the Pod is ready: all its applications and sidecars are.
pub fn is_ready(observed: &Observed) -> bool {
    let count = |container: &&Container| container.role != Role::Init;
    observed.initialized
        && observed.failure.is_none()
        && observed.containers.iter().filter(count).all(|container| container.ready)
}

fn phase(pod: &Pod, observed: &Observed) -> &'static str {
    let policy = pod.spec.as_ref().and_then(|spec| spec.restart_policy.as_deref()).unwrap_or("Always");
    if observed.failure.is_some() {
        return "Failed";
    }
    if !observed.initialized {
        let failed = |container: &Container| {
            container.role == Role::Init
                && matches!(&container.state, State::Terminated(ended) if ended.exit_code != 0)
        };
        return if policy == "Never" && observed.containers.iter().any(failed) {
            "Failed"
        } else {
            "Pending"
        };
    }
    let applications = || observed.containers.iter().filter(|container| container.role == Role::Application);
    let never_ran =
        |container: &Container| matches!(container.state, State::Waiting { .. }) && container.last.is_none();
    if applications().any(never_ran) {
        return "Pending";
    }
    let ended: Vec<&Termination> = applications()
        .filter_map(|container| match &container.state {
            State::Terminated(ended) => Some(ended),
            _ => None,
        })
        .collect();
    if ended.len() < applications().count() || policy == "Always" {
        return "Running";
    }
    match ended.iter().all(|ended| ended.exit_code == 0) {
        true => "Succeeded",
        false if policy == "Never" => "Failed",
        false => "Running",
    }
}

fn conditions(pod: &Pod, observed: &Observed, over: bool, phase: &str, now: Timestamp) -> Vec<PodCondition> {
    let unready: Vec<&str> = observed
        .containers
        .iter()
        .filter(|container| container.role != Role::Init && !container.ready)
        .map(|container| container.name.as_str())
        .collect();
    let ready = is_ready(observed) && !over;
    let unready_reason = match (over, phase) {
        (true, "Succeeded") => "PodCompleted",
        (true, _) => "PodFailed",
        _ => "ContainersNotReady",
    };
    let unready_message = (!over).then(|| format!("containers with unready status: [{}]", unready.join(" ")));
    let uninitialized: Vec<&str> = observed
        .containers
        .iter()
        .filter(|container| container.role != Role::Application && !is_done(container))
        .map(|container| container.name.as_str())
        .collect();
    let not = |reason: &str, message: Option<String>| (false, Some(reason.to_owned()), message);
    let readiness = || if ready { (true, None, None) } else { not(unready_reason, unready_message.clone()) };
    let built = [
        ("PodReadyToStartContainers", (observed.ip.is_some() && !over, None, None)),
        (
            "Initialized",
            match observed.initialized {
                true => (true, None, None),
                false => not(
                    "ContainersNotInitialized",
                    Some(format!("containers with incomplete status: [{}]", uninitialized.join(" "))),
                ),
            },
        ),
        ("Ready", readiness()),
        ("ContainersReady", readiness()),
        ("PodScheduled", (true, None, None)),
    ];
    let previous = pod.status.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default();
    let mut conditions: Vec<PodCondition> = built
        .into_iter()
        .map(|(kind, (holds, reason, message))| {
            let status = if holds { "True" } else { "False" };
            let old = previous.iter().find(|old| old.type_ == kind && old.status == status);
            PodCondition {
                type_: kind.to_owned(),
                status: status.to_owned(),
                reason,
                message,
                last_transition_time: old
                    .and_then(|old| old.last_transition_time.clone())
                    .or(Some(Time(now))),
                ..PodCondition::default()
            }
        })
        .collect();
    // Conditions of others (readiness gates) stay.
    let ours: Vec<String> = conditions.iter().map(|condition| condition.type_.clone()).collect();
    conditions.extend(previous.into_iter().filter(|condition| !ours.contains(&condition.type_)));
    conditions
}

/// Whether an init container or sidecar has done its part.
fn is_done(container: &Container) -> bool {
    match container.role {
        Role::Sidecar => container.started,
        _ => matches!(&container.state, State::Terminated(ended) if ended.exit_code == 0),
    }
}

fn container_status(container: &Container) -> ContainerStatus {
    let state = match &container.state {
        State::Waiting { reason, message } => ApiState {
            waiting: Some(ContainerStateWaiting { reason: Some(reason.clone()), message: message.clone() }),
            ..ApiState::default()
        },
        State::Running { since } => ApiState {
            running: Some(ContainerStateRunning { started_at: Some(Time(*since)) }),
            ..ApiState::default()
        },
        State::Terminated(ended) => terminated(ended),
    };
    let running = matches!(container.state, State::Running { .. });
    ContainerStatus {
        name: container.name.clone(),
        image: container.image.clone(),
        image_id: format!("local:{}", container.image),
        ready: match container.role {
            Role::Init => is_done(container),
            _ => container.ready,
        },
        started: Some(running && container.started),
        restart_count: container.restarts,
        state: Some(state),
        last_state: container.last.as_ref().map(terminated),
        ..ContainerStatus::default()
    }
}

fn terminated(ended: &Termination) -> ApiState {
    ApiState {
        terminated: Some(ContainerStateTerminated {
            exit_code: ended.exit_code,
            signal: ended.signal,
            reason: Some(ended.reason.clone()),
            message: ended.message.clone(),
            started_at: Some(Time(ended.started)),
            finished_at: Some(Time(ended.finished)),
            ..ContainerStateTerminated::default()
        }),
        ..ApiState::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn now() -> Timestamp {
        "2026-01-01T00:00:00Z".parse().unwrap()
    }

    fn container(role: Role, state: State) -> Container {
        let ready = matches!(state, State::Running { .. });
        let (name, image) = ("c".to_owned(), "i".to_owned());
        Container { name, image, role, state, last: None, restarts: 0, started: ready, ready }
    }

    fn ended(exit_code: i32) -> State {
        State::Terminated(Termination {
            exit_code,
            signal: None,
            reason: "Error".to_owned(),
            message: None,
            started: now(),
            finished: now(),
        })
    }

    fn check(
        name: &str,
        policy: &str,
        initialized: bool,
        containers: Vec<Container>,
        phase: &str,
        ready: bool,
    ) {
        let pod: Pod =
            serde_json::from_value(json!({"spec": {"restartPolicy": policy, "containers": []}})).unwrap();
        let observed = Observed {
            containers,
            initialized,
            ip: Some("10.244.0.5".to_owned()),
            host_ip: "10.244.0.1".to_owned(),
            start: now(),
            failure: None,
        };
        let status = derive(&pod, &observed, now());
        assert_eq!(status.phase.as_deref(), Some(phase), "{name}");
        let is_ready = |condition: &PodCondition| condition.type_ == "Ready" && condition.status == "True";
        assert_eq!(status.conditions.unwrap().iter().any(is_ready), ready, "{name}");
    }

    #[test]
    fn phases_and_readiness() {
        let waiting = || State::Waiting { reason: "ContainerCreating".to_owned(), message: None };
        let running = || State::Running { since: now() };
        let app = |state| container(Role::Application, state);
        check("creating", "Always", true, vec![app(waiting())], "Pending", false);
        check("running", "Always", true, vec![app(running())], "Running", true);
        check("one of two", "Always", true, vec![app(running()), app(waiting())], "Pending", false);
        let mut crashing = app(waiting());
        crashing.last = Some(match ended(1) {
            State::Terminated(ended) => ended,
            _ => unreachable!(),
        });
        check("crash loop", "Always", true, vec![crashing], "Running", false);
        check(
            "init runs",
            "Always",
            false,
            vec![container(Role::Init, running()), app(waiting())],
            "Pending",
            false,
        );
        check(
            "init failed for good",
            "Never",
            false,
            vec![container(Role::Init, ended(1)), app(waiting())],
            "Failed",
            false,
        );
        check(
            "init failed, tries again",
            "Always",
            false,
            vec![container(Role::Init, ended(1)), app(waiting())],
            "Pending",
            false,
        );
        check("done", "Never", true, vec![app(ended(0))], "Succeeded", false);
        check("failed", "Never", true, vec![app(ended(3))], "Failed", false);
        check("will be tried again", "OnFailure", true, vec![app(ended(3))], "Running", false);
        let mut sidecar = container(Role::Sidecar, running());
        sidecar.ready = false;
        check("the sidecar counts", "Always", true, vec![sidecar, app(running())], "Running", false);
    }

    #[test]
    fn times_of_unchanged_conditions_stay() {
        let mut pod = Pod::default();
        let observed = Observed {
            containers: vec![container(Role::Application, State::Running { since: now() })],
            initialized: true,
            ip: None,
            host_ip: String::new(),
            start: now(),
            failure: None,
        };
        pod.status = Some(derive(&pod, &observed, now()));
        let later = now() + jiff::SignedDuration::from_secs(60);
        assert_eq!(Some(derive(&pod, &observed, later)), pod.status);
    }
}
