//! A folder as a platform: what is in it, what changes while it is watched, and what is wrong with it.

use std::path::Path;

use lateen_api::registries::{RegistryConfig, RegistryProvider};
use lateen_registry::Reason;

use crate::support::Mesh;

fn mesh(folder: &Path) -> Mesh {
    let config = RegistryConfig {
        provider: RegistryProvider::Files,
        addresses: vec![folder.to_str().unwrap().to_owned()],
        // Longer than the test: what is seen is seen by being told of it.
        interval: Some(lateen_api::Duration::from_secs(600)),
        ..RegistryConfig::default()
    };
    Mesh::with(config, tempfile::NamedTempFile::new().unwrap(), "")
}

fn entry(name: &str, address: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: {name}}}\nspec:\n  \
            hosts: [{name}.example.com]\n  ports: [{{number: 80, name: http, protocol: HTTP}}]\n  \
            resolution: STATIC\n  endpoints: [{{address: {address}, labels: {{version: v1}}}}]\n"
    )
}

fn put(folder: &Path, name: &str, text: &str) {
    std::fs::write(folder.join(name), text).unwrap();
}

#[tokio::test]
async fn files_come_change_and_go() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    put(path, "a.yaml", &format!("{}---\n{}", entry("a", "192.0.2.1"), entry("b", "192.0.2.2")));
    put(path, ".hidden.yaml", &entry("hidden", "192.0.2.9"));
    put(path, "notes.txt", "not ours");
    let mesh = mesh(path);
    mesh.until("both documents", |mesh| mesh.hosts() == ["a.example.com", "b.example.com"]).await;
    assert_eq!(mesh.endpoints("a.example.com"), ["192.0.2.1:80 v1"]);

    put(path, "a.yaml", &entry("a", "192.0.2.3"));
    mesh.until("a change in place", |mesh| mesh.endpoints("a.example.com") == ["192.0.2.3:80 v1"]).await;
    mesh.until("the second document is gone", |mesh| mesh.hosts() == ["a.example.com"]).await;

    let aside = tempfile::tempdir_in(path.parent().unwrap()).unwrap();
    put(aside.path(), "c.yml", &entry("c", "192.0.2.4"));
    std::fs::rename(aside.path().join("c.yml"), path.join("c.yml")).unwrap();
    mesh.until("a file that is moved in", |mesh| mesh.hosts() == ["a.example.com", "c.example.com"]).await;
    let json = serde_json::json!({"apiVersion": "networking.istio.io/v1", "kind": "ServiceEntry",
        "metadata": {"name": "j"}, "spec": {"hosts": ["j.example.com"], "resolution": "STATIC",
            "ports": [{"number": 80, "name": "http"}], "endpoints": [{"address": "192.0.2.5"}]}});
    put(path, "j.json", &json.to_string());
    mesh.until("JSON", |mesh| mesh.hosts().contains(&"j.example.com".to_owned())).await;
    std::fs::remove_file(path.join("a.yaml")).unwrap();
    mesh.until("a file that is removed", |mesh| mesh.hosts() == ["c.example.com", "j.example.com"]).await;
    assert_eq!(mesh.problems(), Vec::<String>::new());
}

#[tokio::test]
async fn workload_entries_are_selected() {
    let folder = tempfile::tempdir().unwrap();
    let selecting = "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: a}\nspec:\n  \
        hosts: [a.example.com]\n  ports: [{number: 80, name: http, protocol: HTTP}]\n  resolution: STATIC\n  \
        workloadSelector: {labels: {app: a}}\n";
    let workload = |name: &str, app: &str, address: &str| {
        format!(
            "apiVersion: networking.istio.io/v1\nkind: WorkloadEntry\nmetadata: {{name: {name}}}\nspec:\n  \
                address: {address}\n  labels: {{app: {app}, version: v2}}\n"
        )
    };
    put(folder.path(), "service.yaml", selecting);
    put(folder.path(), "one.yaml", &workload("one", "a", "192.0.2.1"));
    put(folder.path(), "other.yaml", &workload("other", "b", "192.0.2.2"));
    let mesh = mesh(folder.path());
    mesh.until("the selected one", |mesh| mesh.endpoints("a.example.com") == ["192.0.2.1:80 v2"]).await;
    put(folder.path(), "other.yaml", &workload("other", "a", "192.0.2.2"));
    mesh.until("one more", |mesh| mesh.endpoints("a.example.com").len() == 2).await;
}

#[tokio::test]
async fn what_is_wrong_with_a_file_is_said_with_its_place_and_the_last_good_state_stands() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    put(path, "a.yaml", &entry("a", "192.0.2.1"));
    put(path, "b.yaml", &entry("b", "192.0.2.2"));
    let mesh = mesh(path);
    mesh.until("both", |mesh| mesh.hosts() == ["a.example.com", "b.example.com"]).await;
    let good = entry("a", "192.0.2.1");
    let unknown = good.replace("kind: ServiceEntry", "kind: Service");
    let second = format!(
        "{good}---\n# the second one\n{}",
        entry("z", "192.0.2.3").replace("number: 80", "number: many")
    );
    for (name, text, expected) in [
        ("no YAML", "kind: ServiceEntry\nspec: {hosts: [\n".to_owned(), vec!["a.yaml: line "]),
        ("another kind", unknown, vec!["a.yaml: line 2:", "ServiceEntry, WorkloadEntry", "\"Service\""]),
        ("a field of the second document", second, vec!["a.yaml: line 16:", "spec.ports[0].number"]),
        ("no host", good.replace("a.example.com", ""), vec!["a.yaml: line 5:", "spec.hosts"]),
    ] {
        put(path, "a.yaml", &text);
        mesh.until(name, |mesh| {
            let problems = mesh.problems();
            problems.len() == 1 && expected.iter().all(|words| problems[0].contains(words))
        })
        .await;
        assert_eq!(mesh.hosts(), ["a.example.com", "b.example.com"], "{name}");
        assert_eq!(mesh.endpoints("a.example.com"), ["192.0.2.1:80 v1"], "{name}");
        // Other files go on.
        put(path, "b.yaml", &entry("b", "192.0.2.7"));
        mesh.until("the other file", |mesh| mesh.endpoints("b.example.com") == ["192.0.2.7:80 v1"]).await;
        put(path, "b.yaml", &entry("b", "192.0.2.2"));
        put(path, "a.yaml", &good);
        mesh.until("it is repaired", |mesh| mesh.problems().is_empty()).await;
    }
    assert!(!mesh.status().stale, "a file is not the platform");
}

#[tokio::test]
async fn a_folder_that_goes_away_keeps_its_state() {
    let parent = tempfile::tempdir().unwrap();
    let path = parent.path().join("services");
    std::fs::create_dir(&path).unwrap();
    put(&path, "a.yaml", &entry("a", "192.0.2.1"));
    let mesh = mesh(&path);
    mesh.until("the service", |mesh| mesh.hosts() == ["a.example.com"]).await;
    let aside = parent.path().join("aside");
    std::fs::rename(&path, &aside).unwrap();
    mesh.until("it is stale", |mesh| mesh.status().stale).await;
    assert_eq!(mesh.status().last_error.unwrap().reason, Reason::Unavailable);
    assert_eq!((mesh.hosts().len(), mesh.gauge("stale")), (1, 1), "the last known state stands");
    put(&aside, "b.yaml", &entry("b", "192.0.2.2"));
    std::fs::rename(&aside, &path).unwrap();
    mesh.until("it is back", |mesh| mesh.hosts() == ["a.example.com", "b.example.com"]).await;
    mesh.until("and says so", |mesh| !mesh.status().stale).await;
}
