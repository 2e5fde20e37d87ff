//! Mirrors: copies of a request whose answers nobody waits for.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use lateen_dataplane::circuit::RoutePriority;
use lateen_dataplane::cluster::UpstreamProtocol;
use lateen_dataplane::head::{Headers, RequestHead};
use lateen_dataplane::route::{Forward, without_port};

use super::upload::Recording;
use crate::message::BodyEvent;
use crate::router::Exchange;
use crate::state::ClusterHandle;
use crate::tls::Wanted;
use crate::upstream::Dialing;
use crate::worker::{Choice, Worker};

/// Sends copies; nobody waits for their answers.
pub(super) fn mirror(exchange: &Exchange, action: &Forward, recording: &Recording) {
    for mirror in &action.mirrors {
        if !mirror.fraction.contains(exchange.worker.random()) {
            continue;
        }
        let named =
            mirror.header.as_ref().and_then(|name| std::str::from_utf8(exchange.head.field(name)?).ok());
        let name = named.unwrap_or(&mirror.cluster);
        let Some(cluster) = exchange.worker.state.clusters.load().get(name).cloned() else {
            continue;
        };
        let mut head = exchange.head.clone();
        if let Some(host) = &mirror.host {
            head.set_authority(host);
        } else if mirror.shadow_suffix {
            let authority = head.authority().to_vec();
            let host = without_port(&authority);
            head.set_authority([host, b"-shadow", &authority[host.len()..]].concat());
        }
        let worker = Rc::clone(&exchange.worker);
        let chunks = recording.chunks.clone();
        let trailers = recording.trailers.clone();
        let destination = exchange.connection.destination();
        tokio::task::spawn_local(async move {
            let send = send_copy(worker, cluster, head, chunks, trailers, destination);
            let _ = tokio::time::timeout(Duration::from_secs(60), send).await;
        });
    }
}

async fn send_copy(
    worker: Rc<Worker>,
    cluster: Arc<ClusterHandle>,
    head: RequestHead,
    chunks: Vec<Bytes>,
    trailers: Option<Headers>,
    destination: Option<std::net::SocketAddr>,
) -> Option<()> {
    let host = worker.choose_host(&cluster, Choice { destination, ..Choice::default() })?;
    let wanted = match cluster.config.protocol {
        UpstreamProtocol::Http2 => Wanted::Http2,
        UpstreamProtocol::Auto => Wanted::Either,
        UpstreamProtocol::Http1 | UpstreamProtocol::AsDownstream => Wanted::Http1,
    };
    let dialing = Dialing::new(&cluster, &host, &head, None);
    let upstream = worker
        .pools
        .acquire(&worker.stats, &cluster, &host, RoutePriority::Default, wanted, dialing, false)
        .await
        .ok()?;
    worker.stats.increment(cluster.stats.upstream_rq_total);
    let end = chunks.is_empty() && trailers.is_none();
    let (writer, mut response) = upstream.send(&head, end, crate::upstream::Tunnel::None).ok()?;
    if let Some(mut writer) = writer {
        for chunk in chunks {
            writer.data(chunk).await.ok()?;
        }
        writer.finish(trailers.as_ref()).await.ok()?;
        response.request_sent();
    } else {
        response.flush().await.ok()?;
    }
    let (_, mut body) = response.head().await.ok()?;
    while let BodyEvent::Data(_) = body.next().await.ok()? {}
    Some(())
}
