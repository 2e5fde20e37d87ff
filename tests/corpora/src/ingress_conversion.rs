//! Kubernetes' Ingress told as Gateways and VirtualServices: `NAME.yaml` is what is written, `NAME.yaml.golden` what it
//! comes to.

use std::path::{Path, PathBuf};

use anyhow::Context;
use lateen_api::kubernetes::Ingress;
use lateen_api::mesh::MeshConfig;
use lateen_api::networking::{Gateway, VirtualService};
use lateen_galley::derived::Ingresses;
use lateen_model::{Config, Meta, Namespace};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::Report;
use crate::report::text;

/// The cases' cluster is not called `cluster.local`.
const DOMAIN: &str = "mydomain";

pub(crate) fn run(folder: &Path) -> anyhow::Result<Report> {
    let mut report = Report::default();
    let mut paths: Vec<PathBuf> =
        std::fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<std::io::Result<_>>()?;
    paths.sort();
    for golden in paths.iter().filter(|path| path.extension().is_some_and(|extension| extension == "golden"))
    {
        let written = documents(&golden.with_extension(""))?;
        let outcome = judge(&written, &documents(golden)?);
        report.add(golden.file_stem().unwrap_or_default().to_string_lossy(), outcome);
    }
    Ok(report)
}

fn documents(path: &Path) -> anyhow::Result<Vec<Value>> {
    let content = std::fs::read_to_string(path)?;
    let documents: Vec<Value> =
        serde_saphyr::from_multiple(&content).with_context(|| path.display().to_string())?;
    Ok(documents.into_iter().filter(Value::is_object).collect())
}

fn judge(written: &[Value], golden: &[Value]) -> Result<(), String> {
    let of_kind = |kind: &'static str| written.iter().filter(move |one| text(one, "kind") == kind).cloned();
    let objects: Vec<Config<Ingress>> = of_kind("Ingress").map(read).collect::<Result<_, _>>()?;
    let services: Vec<Value> = of_kind("Service").collect();
    let port = |namespace: &Namespace, name: &str, port: &str| {
        let service = services.iter().find(|one| {
            one["metadata"]["name"] == name && one["metadata"]["namespace"] == namespace.as_str()
        })?;
        let ports = service["spec"]["ports"].as_array()?;
        let found = ports.iter().find(|one| one["name"] == port)?;
        u16::try_from(found["port"].as_u64()?).ok()
    };
    let mesh = MeshConfig::default();
    let made = Ingresses::new(objects.iter().collect(), &mesh, DOMAIN, port);
    let golden_of = |kind: &'static str| golden.iter().filter(move |one| text(one, "kind") == kind).cloned();
    same(&golden_of("Gateway").map(read).collect::<Result<Vec<Config<Gateway>>, _>>()?, &made.gateways())?;
    let rules: Vec<Config<VirtualService>> =
        golden_of("VirtualService").map(read).collect::<Result<_, _>>()?;
    same(&rules, &made.virtual_services())
}

fn read<S: DeserializeOwned>(mut object: Value) -> Result<Config<S>, String> {
    let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    let namespace = object["metadata"]["namespace"].as_str().unwrap_or_default().into();
    let spec = serde_json::from_value(object["spec"].take()).map_err(|error| format!("{name}: {error}"))?;
    Ok(Config { meta: Meta { name, namespace, ..Meta::default() }, spec })
}

/// Compares by name, whatever the order.
fn same<S: PartialEq + std::fmt::Debug>(golden: &[Config<S>], made: &[Config<S>]) -> Result<(), String> {
    let known = |list: &[Config<S>]| {
        let mut names: Vec<String> =
            list.iter().map(|one| format!("{}/{}", one.meta.namespace, one.meta.name)).collect();
        names.sort();
        names
    };
    if known(golden) != known(made) {
        return Err(format!("should be {:?}, are {:?}", known(golden), known(made)));
    }
    for one in golden {
        let other = made.iter().find(|other| other.key() == one.key());
        if other.is_none_or(|other| other.spec != one.spec) {
            return Err(format!(
                "{} should be {:?}, is {:?}",
                one.meta.name,
                one.spec,
                other.map(|one| &one.spec)
            ));
        }
    }
    Ok(())
}
