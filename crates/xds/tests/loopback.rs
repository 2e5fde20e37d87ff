//! Client, server and relay together, over loopback and Unix sockets.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::time::Duration;

use lateen_envoy::envoy::config::cluster::v3::Cluster;
use lateen_envoy::envoy::config::core::v3::Node;
use lateen_envoy::envoy::config::endpoint::v3::ClusterLoadAssignment;
use lateen_envoy::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};
use lateen_envoy::type_urls::{CLUSTER, ENDPOINT};
use lateen_xds::client::{self, ClientOptions, Handle, Handler, RejectedResource, Update};
use lateen_xds::relay::{Relay, Report};
use lateen_xds::transport::{bearer_token_file, no_metadata, unix_channel};
use lateen_xds::{DELTA_PATH, EncodedResource, Protocol, SOTW_PATH, SyncState};
use prost::Message;
use support::{Control, REPORT, soon};
use tokio::net::UnixListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::Streaming;
use tonic::transport::Channel;

fn cluster(name: &str, stat: &str) -> EncodedResource {
    EncodedResource::pack(
        name,
        &Cluster { name: name.into(), alt_stat_name: stat.into(), ..Default::default() },
    )
}

fn endpoints(name: &str) -> EncodedResource {
    EncodedResource::pack(name, &ClusterLoadAssignment { cluster_name: name.into(), ..Default::default() })
}

/// Passes updates on as `CDS a=one b=two -c`, subscribes to the endpoints of every cluster, and rejects what is `bad`.
struct Recorder(mpsc::UnboundedSender<String>);

impl Handler for Recorder {
    fn update(&mut self, update: Update, handle: &Handle) -> Vec<RejectedResource> {
        let mut line = lateen_envoy::type_urls::short_name(&update.type_url).unwrap().to_owned();
        let mut rejected = Vec::new();
        for resource in &update.resources {
            line.push_str(&format!(" {}", resource.name));
            if &*update.type_url == CLUSTER {
                let stat = Cluster::decode(resource.body.clone()).unwrap().alt_stat_name;
                line.push_str(&format!("={stat}"));
                if stat == "bad" {
                    rejected
                        .push(RejectedResource { name: resource.name.clone(), reason: "it is bad".into() });
                } else {
                    handle.subscribe(ENDPOINT, [resource.name.clone()]);
                }
            }
        }
        for name in &update.removed {
            line.push_str(&format!(" -{name}"));
            if &*update.type_url == CLUSTER {
                handle.unsubscribe(ENDPOINT, [name.clone()]);
            }
        }
        let _ = self.0.send(line);
        rejected
    }
}

fn options(protocol: Protocol) -> ClientOptions {
    ClientOptions {
        node: Node { id: "me".into(), ..Default::default() },
        protocol,
        min_backoff: Duration::from_millis(10),
        max_backoff: Duration::from_millis(50),
        ..Default::default()
    }
}

fn start(channel: Channel, options: ClientOptions) -> (Handle, mpsc::UnboundedReceiver<String>) {
    let (sender, received) = mpsc::unbounded_channel();
    let handle = client::start(channel, options, Recorder(sender));
    handle.subscribe_all(CLUSTER);
    (handle, received)
}

async fn expect(received: &mut mpsc::UnboundedReceiver<String>, line: &str) {
    loop {
        let next = soon(line, received.recv()).await;
        // Not every test gives its clusters endpoints.
        if next.as_deref().is_none_or(|next| !next.starts_with("EDS -")) {
            assert_eq!(next.as_deref(), Some(line));
            return;
        }
    }
}

/// Waits for what another task does; the bound is the test's.
async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    soon(what, async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn clusters_and_endpoints_arrive_change_and_go() {
    for protocol in [Protocol::Delta, Protocol::Sotw] {
        let control = Control::new();
        control.set([(CLUSTER, "a", Some(cluster("a", "one"))), (ENDPOINT, "a", Some(endpoints("a")))]);
        let server = control.serve().await;
        let (handle, mut received) = start(server.channel(), options(protocol));
        expect(&mut received, "CDS a=one").await;
        expect(&mut received, "EDS a").await;
        control.set([(CLUSTER, "b", Some(cluster("b", "two"))), (ENDPOINT, "b", Some(endpoints("b")))]);
        let both = if protocol == Protocol::Delta { "CDS b=two" } else { "CDS a=one b=two" };
        expect(&mut received, both).await;
        expect(&mut received, "EDS b").await;
        control.set([(CLUSTER, "a", None)]);
        expect(&mut received, if protocol == Protocol::Delta { "CDS -a" } else { "CDS b=two -a" }).await;

        until("the last answer", || server.streams.snapshot()[0].types[CLUSTER].state() == SyncState::Synced)
            .await;
        let status = server.streams.snapshot().remove(0);
        assert_eq!((status.node.id.as_str(), status.protocol), ("me", protocol));
        assert_eq!(status.types[CLUSTER].held, 1);
        assert_eq!(handle.status().control_plane, "test");
        assert_eq!((handle.status().connected, handle.status().rejected), (true, 0));
        handle.stop();
        until("the stream's end", || server.streams.is_empty()).await;
    }
}

#[tokio::test]
async fn one_bad_resource_rejects_only_itself() {
    for protocol in [Protocol::Delta, Protocol::Sotw] {
        let control = Control::new();
        control.set([(CLUSTER, "a", Some(cluster("a", "one"))), (CLUSTER, "b", Some(cluster("b", "bad")))]);
        let server = control.serve().await;
        let (handle, mut received) = start(server.channel(), options(protocol));
        expect(&mut received, "CDS a=one b=bad").await;
        until("the rejection", || control.events().len() == 2).await;
        assert_eq!(control.events()[1], format!("rejected {CLUSTER} a,b b: it is bad"));
        let status = server.streams.snapshot().remove(0);
        assert_eq!(status.types[CLUSTER].state(), SyncState::Rejected);
        assert_eq!(handle.status().rejected, 1);
        // It is not sent in a loop: the next thing that comes is the repair.
        control.set([(CLUSTER, "b", Some(cluster("b", "good")))]);
        expect(&mut received, if protocol == Protocol::Delta { "CDS b=good" } else { "CDS a=one b=good" })
            .await;
    }
}

#[tokio::test]
async fn a_client_that_comes_back_is_sent_only_what_changed() {
    for protocol in [Protocol::Delta, Protocol::Sotw] {
        let control = Control::new();
        control.set([(CLUSTER, "a", Some(cluster("a", "one"))), (ENDPOINT, "a", Some(endpoints("a")))]);
        let server = control.serve().await;
        let address = server.address;
        let (handle, mut received) = start(server.channel(), options(protocol));
        expect(&mut received, "CDS a=one").await;
        expect(&mut received, "EDS a").await;
        until("the last answer", || {
            let status = server.streams.snapshot().remove(0);
            status.types.len() == 2 && status.types.values().all(|status| status.state() == SyncState::Synced)
        })
        .await;
        server.stop();
        until("the loss", || !handle.status().connected).await;
        let server = control.serve_at(address).await;
        until("the resubscription", || {
            server.streams.snapshot().first().is_some_and(|status| status.types.len() == 2)
        })
        .await;
        until("the second stream", || handle.status().connects == 2).await;
        control.set([(CLUSTER, "z", Some(cluster("z", "new"))), (ENDPOINT, "z", Some(endpoints("z")))]);
        expect(&mut received, if protocol == Protocol::Delta { "CDS z=new" } else { "CDS a=one z=new" })
            .await;
        // The endpoints of `a`, held from before, come neither ahead of these nor with them.
        expect(&mut received, "EDS z").await;
    }
}

#[tokio::test]
async fn a_relay_adds_the_token_of_the_moment_and_forwards_over_unix_sockets() {
    let folder = tempfile::tempdir().unwrap();
    let (server_path, relay_path) = (folder.path().join("server.sock"), folder.path().join("relay.sock"));
    let token_path = folder.path().join("token");
    std::fs::write(&token_path, "old\n").unwrap();
    let control = Control { token: "Bearer right", ..Control::new() };
    control.set([(CLUSTER, "a", Some(cluster("a", "one")))]);
    let _server = control.serve_unix(&server_path);

    let relay = Relay::new(unix_channel(&server_path), bearer_token_file(&token_path));
    let listener = UnixListener::bind(&relay_path).unwrap();
    let relay = tokio::spawn(relay.serve_unix(listener, std::future::pending()));
    for protocol in [Protocol::Delta, Protocol::Sotw] {
        std::fs::write(&token_path, "old\n").unwrap();
        let (handle, mut received) = start(unix_channel(&relay_path), options(protocol));
        until("the refusal", || {
            handle.status().last_failure.is_some_and(|reason| reason.contains("wrong token"))
        })
        .await;
        std::fs::write(&token_path, "right\n").unwrap();
        expect(&mut received, "CDS a=one").await;
    }
    relay.abort();
}

#[tokio::test]
async fn a_relay_reports_on_every_stream_beside_what_the_client_says() {
    let folder = tempfile::tempdir().unwrap();
    let (server_path, relay_path) = (folder.path().join("server.sock"), folder.path().join("relay.sock"));
    let control = Control::new();
    control.set([(CLUSTER, "a", Some(cluster("a", "one")))]);
    let _server = control.serve_unix(&server_path);
    let (reports, receiver) = tokio::sync::watch::channel(None);
    let relay = Relay::new(unix_channel(&server_path), no_metadata()).reporting(receiver);
    let listener = UnixListener::bind(&relay_path).unwrap();
    let relay = tokio::spawn(relay.serve_unix(listener, std::future::pending()));
    let reported = || {
        let events = control.events().into_iter();
        events.filter_map(|event| Some(event.strip_prefix(REPORT)?.trim().to_owned())).collect::<Vec<_>>()
    };
    let report = |error: Option<&str>| Report { type_url: REPORT, error: error.map(str::to_owned) };
    let mut expected = Vec::new();
    for protocol in [Protocol::Delta, Protocol::Sotw] {
        let (handle, mut received) = start(unix_channel(&relay_path), options(protocol));
        expect(&mut received, "CDS a=one").await;
        until("the report of the moment", || reported().len() == expected.len()).await;
        for (error, word) in [(Some("it broke"), "is it broke"), (None, "is well")] {
            reports.send_replace(Some(report(error)));
            expected.push(word);
            until("the report", || reported().last().is_some_and(|last| *last == word)).await;
        }
        // The client's own messages go on as before.
        assert!(handle.status().connected);
        // A further stream begins with the latest report.
        expected.push("is well");
        drop(handle);
    }
    expected.pop();
    assert_eq!(reported(), expected);
    relay.abort();
}

#[tokio::test]
async fn a_relay_without_a_server_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("relay.sock");
    let relay = Relay::new(unix_channel(folder.path().join("nobody.sock")), no_metadata());
    let relay = tokio::spawn(relay.serve_unix(UnixListener::bind(&path).unwrap(), std::future::pending()));
    let (handle, _received) = start(unix_channel(&path), options(Protocol::Delta));
    until("the failure", || {
        handle
            .status()
            .last_failure
            .is_some_and(|reason| reason.contains("the control plane cannot be reached"))
    })
    .await;
    relay.abort();
}

/// A stream of tonic's own client, to see what is on the wire.
async fn raw<Q, A>(channel: Channel, path: &'static str) -> (mpsc::UnboundedSender<Q>, Streaming<A>)
where
    Q: Message + Send + Sync + 'static,
    A: Message + Default + Send + Sync + 'static,
{
    let mut grpc = tonic::client::Grpc::new(channel).max_decoding_message_size(usize::MAX);
    soon("connection", grpc.ready()).await.unwrap();
    let (sender, requests) = mpsc::unbounded_channel();
    let codec = tonic_prost::ProstCodec::<Q, A>::default();
    let request = tonic::Request::new(UnboundedReceiverStream::new(requests));
    let path = http::uri::PathAndQuery::from_static(path);
    let response = soon("headers", grpc.streaming(request, path, codec)).await.unwrap();
    (sender, response.into_inner())
}

#[tokio::test]
async fn raw_clients_of_both_protocols_see_well_formed_responses() {
    let control = Control::new();
    control.set([(CLUSTER, "a", Some(cluster("a", "one")))]);
    let server = control.serve().await;
    let node = Some(Node { id: "raw".into(), ..Default::default() });

    let (requests, mut responses) =
        raw::<DiscoveryRequest, DiscoveryResponse>(server.channel(), SOTW_PATH).await;
    let request = DiscoveryRequest { node: node.clone(), type_url: CLUSTER.into(), ..Default::default() };
    requests.send(request).unwrap();
    let response = soon("a response", responses.message()).await.unwrap().unwrap();
    assert_eq!((response.type_url.as_str(), response.resources.len()), (CLUSTER, 1));
    assert_eq!(lateen_envoy::from_any::<Cluster>(&response.resources[0]).unwrap().alt_stat_name, "one");
    assert!(!response.nonce.is_empty() && !response.version_info.is_empty());

    let (requests, mut responses) =
        raw::<DeltaDiscoveryRequest, DeltaDiscoveryResponse>(server.channel(), DELTA_PATH).await;
    requests.send(DeltaDiscoveryRequest { node, type_url: CLUSTER.into(), ..Default::default() }).unwrap();
    let response = soon("a response", responses.message()).await.unwrap().unwrap();
    assert_eq!(response.resources[0].name, "a");
    assert_eq!(response.resources[0].version, &**cluster("a", "one").version());

    let (requests, mut responses) =
        raw::<DeltaDiscoveryRequest, DeltaDiscoveryResponse>(server.channel(), DELTA_PATH).await;
    requests.send(DeltaDiscoveryRequest { type_url: CLUSTER.into(), ..Default::default() }).unwrap();
    let status = soon("a refusal", responses.message()).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::InvalidArgument, "no node: {status}");
}

#[tokio::test]
async fn a_client_that_reads_nothing_holds_up_nobody_and_gets_the_last_state_only() {
    let control = Control::new();
    let big = "x".repeat(4 << 20);
    control.set([(CLUSTER, "a", Some(cluster("a", &big)))]);
    let server = control.serve().await;
    let node = Some(Node { id: "slow".into(), ..Default::default() });
    let (requests, mut slow) =
        raw::<DeltaDiscoveryRequest, DeltaDiscoveryResponse>(server.channel(), DELTA_PATH).await;
    requests.send(DeltaDiscoveryRequest { node, type_url: CLUSTER.into(), ..Default::default() }).unwrap();
    until("the slow stream", || server.streams.len() == 1).await;

    let (_handle, mut received) = start(server.channel(), options(Protocol::Delta));
    let _first = soon("the first", received.recv()).await;
    for stat in ["1", "2", "3", "4", "5", "6", "7", "8"] {
        control.set([(CLUSTER, "a", Some(cluster("a", stat)))]);
        expect(&mut received, &format!("CDS a={stat}")).await;
    }
    // The first response is still in the slow client's way; nothing was queued behind it.
    let status = server.streams.snapshot();
    let types = &status.iter().find(|status| status.node.id == "slow").unwrap().types;
    assert_eq!(&*types[CLUSTER].sent_nonce, "1", "no second response before the answer to the first");
    let first = soon("the first response", slow.message()).await.unwrap().unwrap();
    let answer =
        DeltaDiscoveryRequest { type_url: CLUSTER.into(), response_nonce: first.nonce, ..Default::default() };
    requests.send(answer).unwrap();
    let second = soon("the second response", slow.message()).await.unwrap().unwrap();
    assert_eq!((second.nonce.as_str(), second.resources.len()), ("2", 1));
    assert_eq!(second.resources[0].version, &**cluster("a", "8").version(), "all changes in one");
}
