//! Every adapter against a server that speaks the platform's API: what it tells the mesh, and what it survives.

// Clippy's leave for tests does not reach the helpers of an integration test.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod eureka;
mod fake;
mod files;
mod speakers;
mod support;
mod tls;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::Router;
use lateen_api::registries::RegistryProvider;
use lateen_registry::Reason;

use crate::fake::{Check, Fake, Mode, instance};
use crate::speakers::{basic, header};
use crate::support::{Mesh, lines_about};
use crate::tls::Tls;

/// What differs between the platforms.
#[derive(Clone, Copy)]
struct Spec {
    provider: RegistryProvider,
    router: fn() -> Router<Arc<Fake>>,
    check: Check,
    /// Below the server's address.
    path: &'static str,
    /// After the service's name.
    domain: &'static str,
}

const CONSUL: Spec = Spec {
    provider: RegistryProvider::Consul,
    router: speakers::consul,
    check: |headers, token| header(headers, "x-consul-token") == token,
    path: "",
    domain: ".service.consul",
};

const NOMAD: Spec = Spec {
    provider: RegistryProvider::Nomad,
    router: speakers::nomad,
    check: |headers, token| header(headers, "x-nomad-token") == token,
    path: "",
    domain: ".nomad",
};

const EUREKA: Spec = Spec {
    provider: RegistryProvider::Eureka,
    router: speakers::eureka,
    check: basic,
    path: "/eureka",
    domain: ".eureka",
};

const MARATHON: Spec = Spec {
    provider: RegistryProvider::Marathon,
    router: speakers::marathon,
    check: |headers, token| header(headers, "authorization") == format!("token={token}"),
    path: "",
    domain: ".marathon.mesos",
};

const CLOUD_FOUNDRY: Spec = Spec {
    provider: RegistryProvider::CloudFoundry,
    router: speakers::cloud_foundry,
    check: speakers::cloud_foundry_check,
    path: "",
    domain: ".apps.internal",
};

macro_rules! for_every_platform {
    ($case:ident) => {
        mod $case {
            #[tokio::test]
            async fn consul() {
                super::cases::$case(super::CONSUL).await;
            }
            #[tokio::test]
            async fn nomad() {
                super::cases::$case(super::NOMAD).await;
            }
            #[tokio::test]
            async fn eureka() {
                super::cases::$case(super::EUREKA).await;
            }
            #[tokio::test]
            async fn marathon() {
                super::cases::$case(super::MARATHON).await;
            }
            #[tokio::test]
            async fn cloud_foundry() {
                super::cases::$case(super::CLOUD_FOUNDRY).await;
            }
        }
    };
}

for_every_platform!(services_come_change_and_go);
for_every_platform!(a_restart);
for_every_platform!(bad_answers);
for_every_platform!(a_wrong_token);
for_every_platform!(a_storm);
for_every_platform!(certificates_that_change);

mod cases {
    use super::*;

    pub async fn services_come_change_and_go(spec: Spec) {
        let (fake, listener) = Fake::new().await;
        fake.put("reviews", vec![instance("10.0.0.1", 9080, "v1"), instance("10.0.0.2", 9080, "v1")]);
        fake.put("ratings", vec![instance("10.0.0.3", 9080, "v1")]);
        let _server = fake.serve(listener, (spec.router)(), spec.check);
        let mesh = Mesh::start(&fake, spec.provider, spec.path).await;
        let host = |name: &str| format!("{name}{}", spec.domain);
        mesh.until("both services", |mesh| {
            mesh.endpoints(&host("reviews")) == ["10.0.0.1:9080 v1", "10.0.0.2:9080 v1"]
                && mesh.endpoints(&host("ratings")) == ["10.0.0.3:9080 v1"]
        })
        .await;
        fake.put("reviews", vec![instance("10.0.0.2", 9080, "v2")]);
        mesh.until("the changed instance", |mesh| mesh.endpoints(&host("reviews")) == ["10.0.0.2:9080 v2"])
            .await;
        fake.put("ratings", vec![]);
        fake.put("details", vec![instance("10.0.0.4", 9080, "v1")]);
        mesh.until("one comes, one goes", |mesh| mesh.hosts() == [host("details"), host("reviews")]).await;
        let status = mesh.status();
        assert!(status.synced && !status.stale && status.connected_since.is_some(), "{status:?}");
        assert_eq!((status.services, status.endpoints), (2, 2));
    }

    pub async fn a_restart(spec: Spec) {
        let (fake, listener) = Fake::new().await;
        for name in ["a", "b", "c"] {
            fake.put(name, vec![instance("10.0.0.1", 9080, "v1")]);
        }
        let server = fake.serve(listener, (spec.router)(), spec.check);
        let mesh = Mesh::start(&fake, spec.provider, spec.path).await;
        mesh.until("the services", |mesh| mesh.hosts().len() == 3).await;
        drop(server);
        mesh.until("it is stale", |mesh| mesh.status().stale).await;
        assert_eq!(mesh.hosts().len(), 3, "the last known state stands");
        let gauges =
            |mesh: &Mesh| ["connected", "stale", "services", "endpoints"].map(|name| mesh.gauge(name));
        assert_eq!(gauges(&mesh), [0, 1, 3, 3], "the metrics say so");
        assert_eq!(lines_about(mesh.name(), "its last known state stands").len(), 1, "and the log, once");
        assert_eq!(mesh.status().last_error.unwrap().reason, Reason::Unavailable);
        // Another history: fewer changes than before, so smaller indexes.
        fake.begin_anew();
        fake.put("a", vec![instance("10.0.0.9", 9080, "v1")]);
        let listener = fake.listen_again().await;
        let _server = fake.serve(listener, (spec.router)(), spec.check);
        mesh.until("the new state", |mesh| {
            mesh.hosts().len() == 1 && mesh.endpoints(&format!("a{}", spec.domain)) == ["10.0.0.9:9080 v1"]
        })
        .await;
        mesh.until("it answers", |mesh| !mesh.status().stale).await;
        assert_eq!(gauges(&mesh), [1, 0, 1, 1]);
        fake.put("a", vec![instance("10.0.0.10", 9080, "v1")]);
        mesh.until("a change after it", |mesh| {
            mesh.endpoints(&format!("a{}", spec.domain)) == ["10.0.0.10:9080 v1"]
        })
        .await;
    }

    pub async fn bad_answers(spec: Spec) {
        let (fake, listener) = Fake::new().await;
        fake.put("a", vec![instance("10.0.0.1", 9080, "v1")]);
        let _server = fake.serve(listener, (spec.router)(), spec.check);
        let mesh = Mesh::start(&fake, spec.provider, spec.path).await;
        mesh.until("the service", |mesh| mesh.hosts().len() == 1).await;
        for (number, mode, reason) in [
            (2, Mode::Nonsense, "malformed"),
            (3, Mode::Slow, "timeout"),
            (4, Mode::Failing, "unavailable"),
            (5, Mode::BreakingOff, "unavailable"),
            (6, Mode::Limiting, "limited"),
        ] {
            let before = mesh.errors(reason);
            fake.mode.send_replace(mode);
            fake.put("b", vec![instance(&format!("10.0.0.{number}"), 9080, "v1")]);
            mesh.until("it is noticed", |mesh| mesh.errors(reason) > before).await;
            assert!(mesh.status().stale, "{mode:?}");
            assert!(
                mesh.hosts().contains(&format!("a{}", spec.domain)),
                "the last known state stands: {mode:?}"
            );
            if mode == Mode::Limiting {
                let before = fake.requests.load(Ordering::SeqCst);
                tokio::time::sleep(Duration::from_millis(500)).await;
                let asked = fake.requests.load(Ordering::SeqCst) - before;
                assert!(asked <= 3, "{asked} requests while it wants to be left alone");
            }
            fake.mode.send_replace(Mode::Well);
            fake.put("a", vec![instance(&format!("10.0.0.{number}"), 9080, "v1")]);
            let expected = format!("10.0.0.{number}:9080 v1");
            mesh.until("all is well", |mesh| {
                mesh.endpoints(&format!("a{}", spec.domain)) == [expected.as_str()]
            })
            .await;
            mesh.until("it says so", |mesh| !mesh.status().stale).await;
        }
    }

    pub async fn a_wrong_token(spec: Spec) {
        let (fake, listener) = Fake::new().await;
        fake.put("a", vec![instance("10.0.0.1", 9080, "v1")]);
        let server = fake.serve(listener, (spec.router)(), spec.check);
        let mesh = Mesh::start(&fake, spec.provider, spec.path).await;
        mesh.until("the service", |mesh| mesh.hosts().len() == 1).await;
        *fake.token.lock().unwrap() = "another".into();
        // Connections that are open stay as they are, so they end.
        drop(server);
        let listener = fake.listen_again().await;
        let _server = fake.serve(listener, (spec.router)(), spec.check);
        mesh.until("it is refused", |mesh| mesh.errors("denied") >= 1).await;
        assert_eq!(mesh.hosts().len(), 1, "the last known state stands");
        let before = fake.requests.load(Ordering::SeqCst);
        tokio::time::sleep(Duration::from_millis(600)).await;
        let asked = fake.requests.load(Ordering::SeqCst) - before;
        assert!(asked <= 12, "{asked} requests in 600 ms, with pauses of at least 100 ms, are a loop");
        let denied = lines_about(mesh.name(), "denied");
        assert_eq!(denied.len(), 1, "one line, not one an attempt: {denied:#?}");
        // The right one is read without anybody's doing.
        mesh.write_secret("another");
        mesh.until("it answers", |mesh| !mesh.status().stale).await;
        fake.put("a", vec![instance("10.0.0.2", 9080, "v1")]);
        mesh.until("and tells", |mesh| mesh.endpoints(&format!("a{}", spec.domain)) == ["10.0.0.2:9080 v1"])
            .await;
    }

    pub async fn a_storm(spec: Spec) {
        let (fake, listener) = Fake::new().await;
        fake.put("stays", vec![instance("10.0.0.1", 9080, "v1")]);
        for number in 0..150 {
            fake.put(
                &format!("s{number}"),
                vec![instance("10.0.1.1", 9080, "v1"), instance("10.0.1.2", 9080, "v1")],
            );
        }
        let _server = fake.serve(listener, (spec.router)(), spec.check);
        let mesh = Mesh::start(&fake, spec.provider, spec.path).await;
        mesh.until("all services", |mesh| mesh.hosts().len() == 151).await;
        for number in 0..150 {
            fake.put(&format!("s{number}"), vec![]);
        }
        mesh.until("the storm is over", |mesh| mesh.hosts() == [format!("stays{}", spec.domain)]).await;
        mesh.until("and counted", |mesh| mesh.status().endpoints == 1).await;
    }

    pub async fn certificates_that_change(spec: Spec) {
        let (fake, listener) = Fake::with(Some(Tls::new())).await;
        fake.put("a", vec![instance("10.0.0.1", 9080, "v1")]);
        let server = fake.serve(listener, (spec.router)(), spec.check);
        let mesh = Mesh::start(&fake, spec.provider, spec.path).await;
        let host = format!("a{}", spec.domain);
        mesh.until("the service", |mesh| mesh.endpoints(&host) == ["10.0.0.1:9080 v1"]).await;

        // Another authority: we trust it no more than it does us, until our files say so.
        let tell = fake.tls.as_ref().unwrap().replace();
        drop(server);
        let listener = fake.listen_again().await;
        let _server = fake.serve(listener, (spec.router)(), spec.check);
        mesh.until("it is not trusted", |mesh| {
            mesh.status().last_error.is_some_and(|error| error.message.contains("certificate"))
        })
        .await;
        assert!(mesh.status().stale);
        assert_eq!(mesh.hosts().len(), 1, "the last known state stands");
        tell();
        mesh.until("it is trusted", |mesh| !mesh.status().stale).await;
        fake.put("a", vec![instance("10.0.0.2", 9080, "v1")]);
        mesh.until("and tells", |mesh| mesh.endpoints(&host) == ["10.0.0.2:9080 v1"]).await;
    }
}
