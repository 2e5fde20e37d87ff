//! Bytes through HTTP (`TcpProxy.tunneling_config`): a CONNECT, or a POST whose body and answer are the two directions.

use std::rc::Rc;
use std::sync::Arc;

use bytes::BytesMut;
use lateen_dataplane::circuit::RoutePriority;
use lateen_dataplane::cluster::{Host, UpstreamProtocol};
use lateen_dataplane::format::Source;
use lateen_dataplane::head::RequestHead;
use lateen_dataplane::network::Tunneling;
use lateen_dataplane::stream_info::StreamInfo;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, ReadHalf, WriteHalf};

use super::upstream::Failed;
use crate::message::{BodyEvent, BodyReader, BodyWriter};
use crate::state::ClusterHandle;
use crate::stream::Stream;
use crate::tls::Wanted;
use crate::upstream::{AcquireError, Dialing, Tunnel, UpstreamResponse, UseOf};
use crate::worker::Worker;

/// Bytes on their way between the connection and the tunnel, each way.
const BUFFER: usize = 64 * 1024;

/// Opens a tunnel through a host.
pub(super) async fn open(
    worker: &Rc<Worker>,
    cluster: &Arc<ClusterHandle>,
    host: &Arc<Host>,
    config: &Tunneling,
    info: &StreamInfo,
) -> Result<Stream, Failed> {
    let head = request(worker, config, info);
    let wanted = match cluster.config.protocol {
        UpstreamProtocol::Http1 | UpstreamProtocol::AsDownstream => Wanted::Http1,
        UpstreamProtocol::Http2 => Wanted::Http2,
        UpstreamProtocol::Auto => Wanted::Either,
    };
    let client = info.downstream_remote_address.zip(info.downstream_local_address);
    let dialing = Dialing::new(cluster, host, &head, client);
    let priority = RoutePriority::Default;
    let acquired = worker
        .pools
        .acquire(&worker.stats, cluster, host, priority, wanted, dialing, UseOf::FreshRequest)
        .await;
    let upstream = acquired.map_err(|error| match error {
        AcquireError::Connect(error) => Failed::Connect(error),
        AcquireError::Overflow | AcquireError::NoPool => Failed::Overflow,
    })?;
    let tunnel = if config.post_path.is_some() { Tunnel::None } else { Tunnel::Connect };
    let failed = |_| Failed::Tunnel("the tunnel's connection ended");
    let (writer, mut response) = upstream.send(&head, false, tunnel).map_err(failed)?;
    let Some(mut writer) = writer else { return Err(Failed::Tunnel("the tunnel takes no bytes")) };
    writer.flush().await.map_err(failed)?;
    let (answer, reader) = response.head().await.map_err(failed)?;
    if !(200..300).contains(&answer.status) {
        return Err(Failed::Tunnel("the host refused the tunnel"));
    }
    worker.stats.increment(cluster.stats.upstream_rq_total);
    let (ours, theirs) = tokio::io::duplex(BUFFER);
    tokio::task::spawn_local(serve(theirs, writer, reader, response));
    Ok(Stream::Memory(ours))
}

fn request(worker: &Worker, config: &Tunneling, info: &StreamInfo) -> RequestHead {
    let hostname = &worker.state.hostname;
    let source = Source { info, request: None, response: None, trailers: None, hostname };
    let mut authority = Vec::new();
    config.hostname.header_value(&source, &mut authority);
    let mut head = match &config.post_path {
        Some(path) => RequestHead::new("POST", &authority, path.as_bytes()),
        None => RequestHead::new("CONNECT", &authority, ""),
    };
    config.headers.apply_to_request(&mut head, info, hostname);
    head
}

/// Moves bytes until both directions are at their ends, or one fails.
async fn serve(connection: DuplexStream, writer: BodyWriter, reader: BodyReader, response: UpstreamResponse) {
    let (from, to) = tokio::io::split(connection);
    // Dropping the connection tells the other side of it.
    let _ = tokio::try_join!(up(from, writer, &response), down(to, reader));
    drop(response);
}

async fn up(
    mut from: ReadHalf<DuplexStream>,
    mut writer: BodyWriter,
    response: &UpstreamResponse,
) -> Result<(), ()> {
    loop {
        let mut chunk = BytesMut::with_capacity(16 * 1024);
        match from.read_buf(&mut chunk).await {
            Ok(0) => {
                writer.end_direction().await.map_err(drop)?;
                response.request_sent();
                return Ok(());
            }
            Ok(_) => {
                writer.data(chunk.freeze()).await.map_err(drop)?;
                writer.flush().await.map_err(drop)?;
            }
            Err(_) => {
                writer.abort();
                return Err(());
            }
        }
    }
}

async fn down(mut to: WriteHalf<DuplexStream>, mut reader: BodyReader) -> Result<(), ()> {
    loop {
        match reader.next().await.map_err(drop)? {
            BodyEvent::Data(bytes) => to.write_all(&bytes).await.map_err(drop)?,
            BodyEvent::Trailers(_) | BodyEvent::End => return to.shutdown().await.map_err(drop),
        }
    }
}
