//! The whole mesh as a user runs it: started by one command, steered with `kubectl`, disturbed, stopped, started again.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use kube::api::{Api, DynamicObject, Patch, PatchParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::{ApiResource, GroupVersionKind};
use lateen_tests::bookinfo::{self, PAGE, RATINGS, REVIEWS, assert_shares, reviews_version};
use lateen_tests::http_client::HttpClient;
use lateen_tests::leftovers::Leftovers;
use lateen_tests::load::Load;
use lateen_tests::mesh::{Mesh, Place, Proxy, User, eventually, gateway_in, sample};
use nix::sys::signal::{Signal, kill};
use serde_json::json;

/// Changes spread within milliseconds; this is for a machine that does ten things at once.
const SPREAD: Duration = Duration::from_secs(10);
/// Statuses are written behind the changes, at leisure.
const STATUS: Duration = Duration::from_secs(30);
/// Requests a second during a disturbance.
const RATE: u32 = 200;
/// Requests from which shares are judged.
const SAMPLE: usize = 400;

#[test]
fn as_root_with_our_proxy() {
    run(User::Root, Proxy::Lateen);
}

#[test]
fn unprivileged_with_our_proxy() {
    run(User::Unprivileged, Proxy::Lateen);
}

#[test]
fn as_root_with_envoy() {
    run(User::Root, Proxy::Envoy);
}

#[test]
fn unprivileged_with_envoy() {
    run(User::Unprivileged, Proxy::Envoy);
}

fn run(user: User, proxy: Proxy) {
    let place = Place::new(user, proxy).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    if let Err(error) = runtime.block_on(story(&place)) {
        panic!("{user:?}, {proxy:?}: {error:?}\n{}", place.log_tails());
    }
}

/// Three starts in a row: the second after a Ctrl-C, the third after everything was killed.
async fn story(place: &Place) -> anyhow::Result<()> {
    let before = Leftovers::look(&place.binaries());

    let mesh = place.start("up")?;
    println!("first start: {:?}", mesh.started_in);
    deploy(place, &mesh).await?;
    kinds(place)?;
    steer(place, &mesh).await?;
    refusals(place, &mesh).await?;
    status(place)?;
    disturb(place, &mesh).await?;
    println!("Ctrl-C: stopped in {:?}", mesh.stop(Signal::SIGINT)?);
    ensure!(Leftovers::look(&place.binaries()) == before, "something is left after Ctrl-C");

    let mesh = place.start("demo")?;
    println!("second start: {:?}", mesh.started_in);
    let services = place.kubectl_ok(&["get", "virtualservices", "-o", "name"])?;
    ensure!(services.contains("/reviews"), "objects of the first run are served again: {services}");
    ok(&mesh.client(), PAGE, None).await?;
    mesh.kill()?;
    eventually("nothing is left after kill -9", SPREAD, async || {
        Ok((Leftovers::look(&place.binaries()) == before).then_some(()))
    })
    .await?;

    let begun = Instant::now();
    let said = succeed(place, &place.start_arguments("demo", &["--detach"]))?;
    println!("third start, in the background: {:?}", begun.elapsed());
    ok(&HttpClient::new(gateway_in(&said)?), PAGE, None).await?;
    let second = place.lateen(&place.start_arguments("up", &[])).output()?;
    let refusal = String::from_utf8_lossy(&second.stderr).into_owned();
    ensure!(!second.status.success() && refusal.contains("already runs"), "one mesh at a time: {refusal}");
    succeed(place, &["down"])?;
    ensure!(Leftovers::look(&place.binaries()) == before, "something is left after `lateen down`");
    Ok(())
}

async fn ok(client: &HttpClient, path: &str, user: Option<&str>) -> anyhow::Result<()> {
    let answer = client.get(path, user).await?;
    ensure!(answer.status() == 200, "{path} answered {}: {}", answer.status(), answer.text());
    Ok(())
}

fn apply(place: &Place, file: &str) -> anyhow::Result<()> {
    place.kubectl_ok(&["apply", "-f", &sample(file).display().to_string()])?;
    Ok(())
}

async fn deploy(place: &Place, mesh: &Mesh<'_>) -> anyhow::Result<()> {
    for file in [
        "platform/kube/bookinfo.yaml",
        "networking/bookinfo-gateway.yaml",
        "networking/destination-rule-all.yaml",
    ] {
        apply(place, file)?;
    }
    place.kubectl_ok(&["wait", "--for=condition=available", "--timeout=60s", "deployment", "--all"])?;
    let client = mesh.client();
    eventually("the page is there", SPREAD, async || {
        Ok((client.get(PAGE, None).await?.status() == 200).then_some(()))
    })
    .await
}

fn kinds(place: &Place) -> anyhow::Result<()> {
    let listed = place.kubectl_ok(&["api-resources"])?;
    for (short, group) in [
        ("vs", "networking.istio.io"),
        ("dr", "networking.istio.io"),
        ("gw", "networking.istio.io"),
        ("se", "networking.istio.io"),
        ("pa", "security.istio.io"),
        ("ap", "security.istio.io"),
    ] {
        let found = listed.lines().any(|line| {
            line.contains(group)
                && line.split_whitespace().nth(1).is_some_and(|names| names.split(',').any(|n| n == short))
        });
        ensure!(found, "api-resources lists no {short} of {group}:\n{listed}");
    }
    let explained = place.kubectl_ok(&["explain", "virtualservice.spec.http"])?;
    ensure!(explained.contains("retries") && explained.contains("DESCRIPTION"), "{explained}");
    Ok(())
}

/// Istio's samples, one after the other, and what requests see of them.
async fn steer(place: &Place, mesh: &Mesh<'_>) -> anyhow::Result<()> {
    let client = mesh.client();
    let version = async |user, expect: &str| {
        eventually(&format!("{user:?} gets {expect}"), SPREAD, async || {
            Ok((reviews_version(&client, user).await? == expect).then_some(()))
        })
        .await
    };

    apply(place, "networking/virtual-service-all-v1.yaml")?;
    distributed(place, "virtualservice", "reviews").await?;
    // What every proxy has acknowledged holds for the next request already.
    assert_shares("all-v1", &bookinfo::shares(&client, 50).await?, &[("v1", 100)]);

    apply(place, "networking/virtual-service-reviews-test-v2.yaml")?;
    version(Some("jason"), "v2").await?;
    for _ in 0..30 {
        ensure!(reviews_version(&client, Some("jason")).await? == "v2", "jason gets v2, always");
        ensure!(reviews_version(&client, None).await? == "v1", "others get v1, always");
        ensure!(reviews_version(&client, Some("jasonx")).await? == "v1", "only jason himself gets v2");
    }

    faults(place, &client).await?;

    for (file, weights) in [
        ("networking/virtual-service-reviews-50-v3.yaml", [("v1", 50), ("v3", 50)]),
        ("networking/virtual-service-reviews-80-20.yaml", [("v1", 80), ("v2", 20)]),
        ("networking/virtual-service-reviews-90-10.yaml", [("v1", 90), ("v2", 10)]),
    ] {
        apply(place, file)?;
        settled(&client, &weights.map(|(version, _)| version)).await?;
        assert_shares(file, &bookinfo::shares(&client, SAMPLE).await?, &weights);
    }
    Ok(())
}

/// Waits with the command line until every proxy has acknowledged the object, and for its status to say so.
async fn distributed(place: &Place, kind: &str, name: &str) -> anyhow::Result<()> {
    let said = succeed(place, &["wait", kind, name])?;
    ensure!(said.contains("proxies that it concerns have acknowledged it"), "{said}");
    ensure!(!said.contains(" of 0 proxies"), "it concerns somebody: {said}");
    for (condition, expected) in [("Accepted", "True"), ("ResolvedRefs", "True"), ("Reconciled", "True")] {
        let path = format!("jsonpath={{.status.conditions[?(@.type==\"{condition}\")].status}}");
        eventually(&format!("{kind} {name} is {condition}"), STATUS, async || {
            Ok((place.kubectl_ok(&["get", kind, name, "-o", &path])?.trim() == expected).then_some(()))
        })
        .await?;
    }
    Ok(())
}

/// Waits until each of `versions`, and nothing else, has answered: the rules before are no longer in force.
async fn settled(client: &HttpClient, versions: &[&str]) -> anyhow::Result<()> {
    eventually(&format!("{versions:?} answer and nothing else"), SPREAD, async || {
        let shares = bookinfo::shares(client, 40).await?;
        Ok(shares.keys().map(String::as_str).eq(versions.iter().copied()).then_some(()))
    })
    .await
}

/// The delay and the abort concern jason only.
async fn faults(place: &Place, client: &HttpClient) -> anyhow::Result<()> {
    apply(place, "networking/virtual-service-ratings-test-delay.yaml")?;
    // The page gives up on ratings after three seconds: the delay of seven shows as no answer.
    eventually("jason is delayed", SPREAD * 2, async || {
        let answer = client.get(RATINGS, Some("jason")).await?;
        Ok((answer.status() == 503 && answer.duration >= Duration::from_secs(3)).then_some(()))
    })
    .await?;
    let page = client.get(PAGE, Some("jason")).await?;
    ensure!(
        page.text().contains("product reviews are currently unavailable"),
        "jason's page misses the reviews"
    );
    ensure!(
        page.duration >= Duration::from_secs(6),
        "after two attempts of three seconds: {:?}",
        page.duration
    );
    let others = client.get(RATINGS, None).await?;
    ensure!(others.status() == 200 && others.duration < Duration::from_secs(1), "others are not delayed");

    apply(place, "networking/virtual-service-ratings-test-abort.yaml")?;
    eventually("jason's ratings are aborted", SPREAD, async || {
        Ok((client.get(RATINGS, Some("jason")).await?.status() == 500).then_some(()))
    })
    .await?;
    let page = client.get(PAGE, Some("jason")).await?;
    ensure!(
        page.text().contains("Ratings service is currently unavailable"),
        "jason's page misses the stars"
    );
    ensure!(client.get(RATINGS, None).await?.status() == 200, "others get their ratings");
    Ok(())
}

/// What is wrong is refused with the path of the field, and changes nothing.
async fn refusals(place: &Place, mesh: &Mesh<'_>) -> anyhow::Result<()> {
    let before = place.kubectl_ok(&[
        "get",
        "virtualservice",
        "reviews",
        "-o",
        "jsonpath={.metadata.resourceVersion} {.spec}",
    ])?;
    let route = |http: serde_json::Value| {
        json!({
            "apiVersion": "networking.istio.io/v1",
            "kind": "VirtualService",
            "metadata": {"name": "reviews"},
            "spec": {"hosts": ["reviews"], "http": [http]},
        })
    };
    let v1 = json!([{"destination": {"host": "reviews", "subset": "v1"}}]);
    let folder = tempfile::tempdir()?;
    for (name, object, path) in [
        ("a misspelt field", route(json!({"routes": v1})), "spec.http[0].routes"),
        (
            "a bad regex",
            route(json!({"match": [{"uri": {"regex": "["}}], "route": v1})),
            "spec.http[0].match[0].uri.regex",
        ),
        (
            "weights that do not fit",
            route(json!({"route": [
                {"destination": {"host": "reviews", "subset": "v1"}, "weight": 0},
                {"destination": {"host": "reviews", "subset": "v2"}, "weight": 0},
            ]})),
            "spec.http[0].route",
        ),
    ] {
        let file = folder.path().join("object.json");
        std::fs::write(&file, object.to_string())?;
        let said = place.kubectl_refused(&["apply", "-f", &file.display().to_string()])?;
        ensure!(said.contains(path), "{name} is refused with its path {path}: {said}");
    }
    let after = place.kubectl_ok(&[
        "get",
        "virtualservice",
        "reviews",
        "-o",
        "jsonpath={.metadata.resourceVersion} {.spec}",
    ])?;
    ensure!(before == after, "a refused object changes nothing");
    ok(&mesh.client(), PAGE, None).await
}

/// Runs `lateen` to its end, which must be a good one, and returns what it printed.
fn succeed(place: &Place, arguments: &[&str]) -> anyhow::Result<String> {
    let output = place.lateen(arguments).output()?;
    ensure!(output.status.success(), "lateen {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The mesh's own command line agrees.
fn status(place: &Place) -> anyhow::Result<()> {
    let run = |arguments: &[&str]| succeed(place, arguments);
    let proxies = run(&["proxy-status"])?;
    for name in ["productpage-v1-", "reviews-v3-", "istio-ingressgateway-"] {
        let line = proxies
            .lines()
            .find(|line| line.starts_with(name))
            .with_context(|| format!("no {name}:\n{proxies}"))?;
        ensure!(line.matches("SYNCED").count() == 4, "{line}");
    }
    let clusters = run(&["proxy-config", "clusters", "deployment/productpage-v1"])?;
    let words = ["reviews.default.svc.cluster.local", "9080", "v2", "outbound", "EDS", "reviews.default"];
    ensure!(clusters.lines().any(|line| line.split_whitespace().eq(words)), "{clusters}");
    let routes = run(&["proxy-config", "routes", "deployment/productpage-v1"])?;
    ensure!(routes.contains("reviews.default"), "{routes}");
    let listeners = run(&["proxy-config", "listeners", "deployment/productpage-v1"])?;
    ensure!(listeners.contains("15006") && listeners.contains("Route: 9080"), "{listeners}");
    let endpoints = run(&["proxy-config", "endpoints", "deployment/productpage-v1"])?;
    ensure!(endpoints.contains("outbound|9080|v1|reviews.default.svc.cluster.local"), "{endpoints}");
    let bootstrap = run(&["proxy-config", "bootstrap", "deployment/productpage-v1", "-o", "json"])?;
    ensure!(bootstrap.contains("xds-grpc"), "{bootstrap}");
    let rejections = place.kubectl_ok(&[
        "get",
        "--raw",
        "/api/v1/namespaces/istio-system/services/istiod:15014/proxy/metrics",
    ])?;
    ensure!(!rejections.contains("pilot_total_xds_rejects{"), "no proxy rejects anything: {rejections}");
    let version = run(&["version"])?;
    ensure!(version.contains("control plane version"), "{version}");
    Ok(())
}

/// Nothing that happens to the mesh costs a request.
async fn disturb(place: &Place, mesh: &Mesh<'_>) -> anyhow::Result<()> {
    let client = mesh.client();
    apply(place, "networking/virtual-service-all-v1.yaml")?;
    settled(&client, &["v1"]).await?;
    latency(place, &client).await?;

    // Files applied in a loop.
    let load = Load::start(mesh.client(), PAGE, RATE);
    let begun = Instant::now();
    while begun.elapsed() < place.patience() {
        for file in [
            "all-v1",
            "reviews-test-v2",
            "reviews-50-v3",
            "reviews-80-20",
            "reviews-90-10",
            "ratings-test-delay",
            "ratings-test-abort",
        ] {
            apply(place, &format!("networking/virtual-service-{file}.yaml"))?;
        }
    }
    load.stop().await?.assert_clean("rules changing all the time");

    apply(place, "networking/virtual-service-all-v1.yaml")?;
    settled(&client, &["v1"]).await?;

    // The control plane is killed.
    let objects = place.kubectl_ok(&[
        "get",
        "virtualservices,destinationrules,gateways,deployments,services",
        "-o",
        "name",
    ])?;
    let load = Load::start(mesh.client(), PAGE, RATE);
    let victim = mesh.processes("lateend run");
    ensure!(victim.len() == 1, "one lateend runs: {victim:?}");
    kill(victim[0], Signal::SIGKILL)?;
    let back = Instant::now();
    eventually("the API is back", SPREAD, async || {
        Ok(place.kubectl(&["get", "ns"])?.status.success().then_some(()))
    })
    .await?;
    println!("lateend: back after {:?}", back.elapsed());
    let after = place.kubectl_ok(&[
        "get",
        "virtualservices,destinationrules,gateways,deployments,services",
        "-o",
        "name",
    ])?;
    ensure!(objects == after, "every object is there after a restart of lateend");
    apply(place, "networking/virtual-service-reviews-v3.yaml")?;
    eventually("proxies follow the new lateend", SPREAD, async || {
        Ok((reviews_version(&client, None).await? == "v3").then_some(()))
    })
    .await?;
    load.stop().await?.assert_clean("lateend killed");

    apply(place, "networking/virtual-service-all-v1.yaml")?;
    settled(&client, &["v1"]).await?;
    let load = Load::start(mesh.client(), REVIEWS, RATE);
    place.kubectl_ok(&["scale", "deployment", "reviews-v1", "--replicas=3"])?;
    place.kubectl_ok(&["rollout", "status", "deployment/reviews-v1", "--timeout=30s"])?;
    eventually("three Pods answer", SPREAD, async || {
        let mut pods = std::collections::BTreeSet::new();
        for _ in 0..30 {
            pods.insert(client.get(REVIEWS, None).await?.json()?["podname"].to_string());
        }
        Ok((pods.len() == 3).then_some(()))
    })
    .await?;
    application_killed(place, mesh).await?;
    place.kubectl_ok(&["scale", "deployment", "reviews-v1", "--replicas=1"])?;
    eventually("one Pod is left", Duration::from_secs(30), async || {
        let pods = place.kubectl_ok(&["get", "pods", "-l", "app=reviews,version=v1", "-o", "name"])?;
        Ok((pods.lines().count() == 1).then_some(()))
    })
    .await?;
    load.stop().await?.assert_clean("reviews-v1 scaled up and down, one of its processes killed");
    Ok(())
}

/// One application process dies; its Pod recovers.
async fn application_killed(place: &Place, mesh: &Mesh<'_>) -> anyhow::Result<()> {
    let restarts = || -> anyhow::Result<u32> {
        let counts = place.kubectl_ok(&[
            "get",
            "pods",
            "-l",
            "app=reviews,version=v1",
            "-o",
            "jsonpath={.items[*].status.containerStatuses[?(@.name==\"reviews\")].restartCount}",
        ])?;
        Ok(counts.split_whitespace().filter_map(|count| count.parse::<u32>().ok()).sum())
    };
    let before = restarts()?;
    let victims = mesh.processes("reviews --version v1");
    ensure!(!victims.is_empty(), "an application process runs");
    kill(victims[0], Signal::SIGKILL)?;
    eventually("the Pod recovers", Duration::from_secs(20), async || {
        let ready = place.kubectl_ok(&[
            "get",
            "deployment",
            "reviews-v1",
            "-o",
            "jsonpath={.status.readyReplicas}",
        ])?;
        Ok((restarts()? > before && ready == "3").then_some(()))
    })
    .await
}

/// From the API's answer to a write to the first request that obeys it.
async fn latency(place: &Place, client: &HttpClient) -> anyhow::Result<()> {
    let config = Kubeconfig::read_from(place.kubeconfig())?;
    let config = kube::Config::from_custom_kubeconfig(config, &KubeConfigOptions::default()).await?;
    let kind = GroupVersionKind::gvk("networking.istio.io", "v1", "VirtualService");
    let api: Api<DynamicObject> =
        Api::default_namespaced_with(kube::Client::try_from(config)?, &ApiResource::from_gvk(&kind));
    let mut durations = Vec::new();
    for round in 0..100 {
        let subset = if round % 2 == 0 { "v3" } else { "v1" };
        let patch =
            json!({"spec": {"http": [{"route": [{"destination": {"host": "reviews", "subset": subset}}]}]}});
        api.patch("reviews", &PatchParams::default(), &Patch::Merge(&patch)).await?;
        let answered = Instant::now();
        while reviews_version(client, None).await? != subset {
            ensure!(answered.elapsed() < SPREAD, "the change to {subset} never arrives");
        }
        durations.push(answered.elapsed());
    }
    durations.sort();
    let (median, p99) = (durations[durations.len() / 2], durations[durations.len() * 99 / 100]);
    println!("from a write to the first request that obeys it: median {median:.1?}, p99 {p99:.1?}");
    ensure!(
        median < Duration::from_millis(50) && p99 < Duration::from_millis(200),
        "too slow: {median:?}, {p99:?}"
    );
    Ok(())
}
