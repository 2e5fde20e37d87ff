//! The invariants of ARCHITECTURE.md and the rules of `deny.toml` that can be read off the dependency graph.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use serde_json::Value;

/// The workspace as `cargo metadata` describes it.
struct Graph {
    /// Names of direct dependencies by package name, without those for tests; build dependencies apart.
    direct: BTreeMap<String, BTreeSet<String>>,
    members: BTreeSet<String>,
}

fn graph() -> Graph {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version=1", "--locked"])
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    let ids: BTreeSet<&str> =
        metadata["workspace_members"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    let members = packages
        .iter()
        .filter(|package| ids.contains(package["id"].as_str().unwrap()))
        .map(|package| package["name"].as_str().unwrap().to_owned())
        .collect();
    let direct = packages
        .iter()
        .map(|package| {
            let dependencies = package["dependencies"].as_array().unwrap().iter();
            let names = dependencies
                .filter(|dependency| dependency["kind"].is_null())
                .map(|dependency| dependency["name"].as_str().unwrap().to_owned());
            (package["name"].as_str().unwrap().to_owned(), names.collect())
        })
        .collect();
    Graph { direct, members }
}

impl Graph {
    /// Our crates that `package` depends on, at any depth.
    fn ours_below(&self, package: &str) -> BTreeSet<String> {
        let mut found = BTreeSet::new();
        let mut open = vec![package.to_owned()];
        while let Some(next) = open.pop() {
            for dependency in self.direct.get(&next).into_iter().flatten() {
                if self.members.contains(dependency) && found.insert(dependency.clone()) {
                    open.push(dependency.clone());
                }
            }
        }
        found
    }
}

const DATA_PLANE: [&str; 2] = ["lateen-dataplane", "lateen-proxy"];
const CONTROL_PLANE: [&str; 8] = [
    "lateen-model",
    "lateen-galley",
    "lateen-pilot",
    "lateen-registry",
    "lateen-citadel",
    "lateen-apiserver",
    "lateen-node",
    "lateen-control",
];

#[test]
fn the_two_halves_never_see_each_other() {
    let graph = graph();
    for (half, other) in [(&DATA_PLANE[..], &CONTROL_PLANE[..]), (&CONTROL_PLANE[..], &DATA_PLANE[..])] {
        for package in half {
            let below = graph.ours_below(package);
            let seen: Vec<_> = other.iter().filter(|name| below.contains(**name)).collect();
            assert!(seen.is_empty(), "{package} must not depend on {seen:?}");
        }
    }
}

#[test]
fn pure_crates_have_no_way_to_do_input_or_output() {
    let graph = graph();
    for package in
        ["lateen-model", "lateen-galley", "lateen-pilot", "lateen-dataplane", "lateen-api", "lateen-envoy"]
    {
        for banned in ["tokio", "kube", "hyper", "hyper-util", "reqwest", "tonic", "nix", "socket2"] {
            assert!(!graph.direct[package].contains(banned), "{package} must not depend on {banned}");
        }
    }
}

#[test]
fn the_kubernetes_client_stays_where_it_belongs() {
    let graph = graph();
    let allowed = ["lateen-registry", "lateen-apiserver", "lateen-node", "lateen-control", "lateen-cli"];
    // What tests and measures whole meshes speaks to them as their users do.
    let outside = ["lateen-tests", "lateen-bench-control"];
    for package in graph.members.iter().filter(|package| !outside.contains(&package.as_str())) {
        for client in ["kube", "k8s-openapi"] {
            let uses = graph.direct[package].contains(client);
            assert!(!uses || allowed.contains(&package.as_str()), "{package} must not depend on {client}");
        }
    }
    for package in ["lateen-agent", "lateen-proxy"] {
        let below = graph.ours_below(package);
        let seen: Vec<_> = allowed.iter().filter(|name| below.contains(**name)).collect();
        assert!(seen.is_empty(), "{package} must not reach the Kubernetes client through {seen:?}");
    }
}

#[test]
fn bookinfo_knows_nothing_of_the_mesh() {
    let below = graph().ours_below("bookinfo");
    assert!(below.is_empty(), "bookinfo depends on {below:?}");
}

#[test]
fn dependencies_are_free_and_wanted() {
    // The same as deny.toml says, for machines without cargo-deny.
    let licences = [
        "Apache-2.0",
        "MIT",
        "BSD-2-Clause",
        "BSD-3-Clause",
        "ISC",
        "Zlib",
        "0BSD",
        "CC0-1.0",
        "Unicode-3.0",
        "MPL-2.0",
        "Unlicense",
        "BSL-1.0",
        "MIT-0",
        "CDLA-Permissive-2.0",
        "OpenSSL",
    ];
    let banned = ["openssl", "openssl-sys", "native-tls", "ring", "rustables", "serde_yaml"];
    // `cargo tree`, for `cargo metadata` also names what no feature turns on.
    let output = Command::new(env!("CARGO"))
        .args([
            "tree",
            "--workspace",
            "--locked",
            "--edges=normal,build",
            "--prefix=none",
            "--format={p}|{l}",
        ])
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let listing = String::from_utf8(output.stdout).unwrap();
    let packages: BTreeSet<(&str, &str)> =
        listing.lines().filter_map(|line| line.trim_end_matches(" (*)").split_once('|')).collect();
    assert!(packages.len() > 100, "{} packages are too few to be all", packages.len());
    let problems: Vec<String> = packages
        .iter()
        .flat_map(|(package, licence)| {
            let name = package.split(' ').next().unwrap_or_default();
            let unwanted = banned.contains(&name).then(|| format!("{name} is banned; deny.toml says why"));
            let unfree = (!is_free(licence, &licences))
                .then(|| format!("{name} has the licence {licence:?}, which is not on the list"));
            let elsewhere = (package.contains("(git") || package.contains("(http"))
                .then(|| format!("{package} does not come from the package registry"));
            [unwanted, unfree, elsewhere].into_iter().flatten()
        })
        .collect();
    assert!(problems.is_empty(), "{problems:#?}");
}

/// Whether an SPDX expression leaves a choice whose every part is on the list.
fn is_free(expression: &str, licences: &[&str]) -> bool {
    let bare = |text: &str| text.trim().trim_matches(['(', ')']).to_owned();
    expression.split(" OR ").flat_map(|choice| choice.split('/')).map(bare).any(|choice| {
        choice.split(" AND ").map(bare).all(|part| {
            let name =
                part.split(" WITH ").next().unwrap_or_default().trim_end_matches('+').trim().to_owned();
            licences.contains(&name.as_str())
        })
    })
}
