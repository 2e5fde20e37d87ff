//! `lateen demo`: `lateen up`, and Bookinfo in it.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail};
use http_body_util::{BodyExt, Empty};
use hyper_util::client::legacy::Client as HttpClient;
use hyper_util::rt::TokioExecutor;
use kube::Client;

use super::up;
use crate::ExitStatus;
use crate::arguments::DemoArguments;
use crate::cluster::{self, Manifests};
use crate::printer::Printer;
use crate::standalone::ready;

const NAMESPACE: &str = "default";
const DEPLOYMENTS: [&str; 6] =
    ["productpage-v1", "details-v1", "ratings-v1", "reviews-v1", "reviews-v2", "reviews-v3"];
/// The files that make the demo, below `samples/bookinfo` of a folder of Istio's samples.
const FILES: [&str; 3] = [
    "platform/kube/bookinfo.yaml",
    "networking/bookinfo-gateway.yaml",
    "networking/destination-rule-all.yaml",
];
/// Requests sent at the end, so that there is something to look at.
const TRAFFIC: usize = 30;

/// What `lateen demo` deploys.
pub(crate) struct Bookinfo {
    manifests: Vec<Manifests>,
}

/// Runs the demo.
pub(crate) async fn demo(arguments: DemoArguments, printer: &mut Printer) -> anyhow::Result<ExitStatus> {
    let bookinfo = Bookinfo::find(arguments.samples)?;
    up::up(arguments.up, Some(bookinfo), printer).await
}

impl Bookinfo {
    /// Istio's own files where they are at hand (`--samples`, or below `$LATEEN_CORPORA`), otherwise the built-in ones.
    fn find(named: Option<PathBuf>) -> anyhow::Result<Self> {
        let corpora =
            std::env::var_os("LATEEN_CORPORA").map(|corpora| PathBuf::from(corpora).join("samples"));
        let samples = named.or(corpora.filter(|samples| samples.is_dir()));
        let manifests = match samples {
            Some(samples) => {
                let files = FILES.iter().map(|file| Manifests::read(samples.join("bookinfo").join(file)));
                files.collect::<anyhow::Result<_>>()?
            }
            None => built_in(),
        };
        Ok(Self { manifests })
    }

    /// Applies the manifests, waits for the Pods and sends a little traffic to the gateway at `ingress`.
    pub(crate) async fn deploy(
        &self,
        client: &Client,
        ingress: &str,
        printer: &mut Printer,
    ) -> anyhow::Result<()> {
        for manifests in &self.manifests {
            cluster::apply(client, manifests, NAMESPACE).await?;
        }
        let mut available = 0;
        ready::deployments(client, NAMESPACE, &DEPLOYMENTS, |name| {
            available += 1;
            printer.progress(&format!("{name} is available ({available} of {})", DEPLOYMENTS.len()));
        })
        .await?;
        traffic(ingress, printer).await
    }
}

fn built_in() -> Vec<Manifests> {
    [
        ("bookinfo.yaml", include_str!("../../../../demo/bookinfo/manifests/bookinfo.yaml")),
        ("bookinfo-gateway.yaml", include_str!("../../../../demo/bookinfo/manifests/bookinfo-gateway.yaml")),
        (
            "destination-rules.yaml",
            include_str!("../../../../demo/bookinfo/manifests/destination-rule-all.yaml"),
        ),
    ]
    .map(|(name, text)| Manifests { name: name.to_owned(), text: text.to_owned() })
    .into()
}

/// Asks for the page until it is there, then a few times more.
async fn traffic(ingress: &str, printer: &mut Printer) -> anyhow::Result<()> {
    let client: HttpClient<_, Empty<bytes::Bytes>> = HttpClient::builder(TokioExecutor::new()).build_http();
    let page: http::Uri = format!("http://{ingress}/productpage").parse()?;
    // The routes are on their way to the gateway; the caller's timeout bounds this.
    while get(&client, &page).await? != http::StatusCode::OK {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    for _ in 0..TRAFFIC {
        let status = get(&client, &page).await?;
        if status != http::StatusCode::OK {
            bail!("{page} answered {status}");
        }
    }
    printer.progress(&format!("{TRAFFIC} requests to {page}: all answered 200"));
    Ok(())
}

async fn get(
    client: &HttpClient<hyper_util::client::legacy::connect::HttpConnector, Empty<bytes::Bytes>>,
    page: &http::Uri,
) -> anyhow::Result<http::StatusCode> {
    let response = client.get(page.clone()).await.with_context(|| format!("cannot reach {page}"))?;
    let status = response.status();
    response.into_body().collect().await?;
    Ok(status)
}
