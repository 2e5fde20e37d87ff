//! `pods/NAME/portforward`: a client's connections to ports inside a Pod, over one WebSocket.
//!
//! The subprotocol is `v4.channel.k8s.io`: every message begins with the number of its channel. The n-th port of the
//! query (from 0) has channel 2n for data and 2n+1 for the text of an error; the server's first message on each carries
//! the port's number, little-endian. There is no message for the end of one direction: when all ports have ended the
//! server closes the WebSocket, and a client's close ends what it sends to all of them. The node makes the connections
//! (`POST /portForward/NAMESPACE/POD?port=N`, `Upgrade: tcp`), for only it can enter a Pod's network.

use super::answer::{self, Body};
use super::node::NodeConnection;
use super::request::{Request, Target};
use crate::api::Api;
use crate::seam::Resource;
use crate::status::Status;
use crate::store::table_name;
use bytes::Bytes;
use futures::{SinkExt, Stream, StreamExt};
use http::header::{
    CONNECTION, HOST, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL,
    SEC_WEBSOCKET_VERSION, UPGRADE,
};
use http::{Method, Response, StatusCode};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use lateen_base::drain;
use std::path::Path;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::mpsc;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error as WebSocketError, Message};

const PROTOCOL: &str = "v4.channel.k8s.io";
/// Ports of one request: a channel's number is a byte, and each port has two.
const PORTS: usize = 128;
/// How long the node may take to connect to all ports.
const NODE_TIMEOUT: Duration = Duration::from_secs(10);
/// What of a refusal of the node is passed on.
const REFUSAL_LIMIT: usize = 16 << 10;
/// The largest message of a client.
const MESSAGE_LIMIT: usize = 1 << 20;
/// What is read from a Pod at once.
const CHUNK: usize = 32 << 10;
/// Messages that wait for a client.
const QUEUE: usize = 8;
/// How long a client may take to answer the close.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the last messages may take when the server ends.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(1);

/// A port inside a Pod, connected by the node.
type Connection = TokioIo<Upgraded>;

/// A port of the request: its connection, or why there is none.
struct Port {
    number: u16,
    connection: Result<Connection, String>,
}

/// Answers with 101 when the node has been asked for all ports.
pub(super) async fn start(api: &Api, request: Request, target: &Target) -> Result<Response<Body>, Status> {
    let namespace = target.namespace.as_deref().unwrap_or_default();
    let name = target.name.as_deref().unwrap_or_default();
    let pod = api
        .store
        .read(&table_name(Resource::new("", "pods")), namespace, name)
        .ok_or_else(|| Status::not_found("", "pods", name))?;
    let accept = handshake(&request)?;
    let numbers = numbers(request.query.all("ports"))?;
    if pod.value["spec"]["nodeName"].as_str().unwrap_or_default().is_empty() {
        return Err(Status::bad_request(format!("pod {name} does not have a host assigned")));
    }
    let socket = api
        .node_socket
        .as_deref()
        .ok_or_else(|| Status::unavailable("this server has no node to ask for ports"))?;
    let opened = numbers.into_iter().map(|number| open(socket, namespace, name, number));
    let ports = tokio::time::timeout(NODE_TIMEOUT, futures::future::try_join_all(opened))
        .await
        .map_err(|_| Status::unavailable("the node does not answer a request for ports"))??;
    let (upgrade, drain) = (request.upgrade, api.drain.clone());
    tokio::spawn(async move {
        match upgrade.await {
            Ok(client) => relay(TokioIo::new(client), ports, drain).await,
            Err(error) => tracing::debug!(%error, "ports were not forwarded"),
        }
    });
    let mut response = Response::new(answer::whole(Bytes::new()));
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(PROTOCOL));
    headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
    Ok(response)
}

/// The ports of a query: repeated, or separated by commas.
fn numbers<'a>(values: impl Iterator<Item = &'a str>) -> Result<Vec<u16>, Status> {
    let mut numbers = Vec::new();
    for text in values.flat_map(|value| value.split(',')) {
        match text.parse::<u16>() {
            Ok(number) if number != 0 => numbers.push(number),
            _ => {
                return Err(Status::bad_request(format!("parameter ports: {text:?} is not a port's number")));
            }
        }
    }
    match numbers.len() {
        0 => Err(Status::bad_request("parameter ports: name at least one port, such as ports=8080")),
        count if count > PORTS => {
            Err(Status::bad_request(format!("parameter ports: {count} ports are more than {PORTS}")))
        }
        _ => Ok(numbers),
    }
}

/// Checks that a request opens a WebSocket of our subprotocol (RFC 6455, section 4.2.1); returns the proof that it was
/// understood.
fn handshake(request: &Request) -> Result<HeaderValue, Status> {
    let lists = |name: http::header::HeaderName, wanted: &str| {
        let values = request.headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
        values.flat_map(|value| value.split(',')).any(|word| word.trim().eq_ignore_ascii_case(wanted))
    };
    let refused = |problem: &str| {
        Status::bad_request(format!(
            "unable to upgrade: {problem}; this server forwards ports over WebSocket with the subprotocol {PROTOCOL} only \
             (kubectl port-forward does not speak it)"
        ))
    };
    if !lists(CONNECTION, "upgrade") || !lists(UPGRADE, "websocket") || request.method != Method::GET {
        let asked = request.header(UPGRADE);
        return Err(refused(&match asked {
            "" => "the request does not ask for an upgrade".to_owned(),
            asked => format!("{} with Upgrade: {asked:?} is not GET with \"websocket\"", request.method),
        }));
    }
    if !lists(SEC_WEBSOCKET_PROTOCOL, PROTOCOL) {
        let offered = request.header(SEC_WEBSOCKET_PROTOCOL);
        return Err(refused(&format!("the subprotocols {offered:?} are unknown here")));
    }
    let key = request.header(SEC_WEBSOCKET_KEY);
    if request.header(SEC_WEBSOCKET_VERSION) != "13" || key.is_empty() {
        return Err(refused("the request has no Sec-WebSocket-Key, or not Sec-WebSocket-Version 13"));
    }
    HeaderValue::from_str(&derive_accept_key(key.as_bytes())).map_err(Status::internal)
}

/// Asks the node for a connection. What is wrong with one port alone is no error of the request.
async fn open(socket: &Path, namespace: &str, pod: &str, number: u16) -> Result<Port, Status> {
    let mut node = NodeConnection::open(socket, "ports").await?;
    let request = http::Request::post(format!("/portForward/{namespace}/{pod}?port={number}"))
        .header(HOST, "node")
        .header(CONNECTION, "Upgrade")
        .header(UPGRADE, "tcp")
        .body(Empty::<Bytes>::new())
        .map_err(Status::internal)?;
    let response = node.send(request).await?;
    let status = response.status();
    if status == StatusCode::SWITCHING_PROTOCOLS {
        let upgraded = hyper::upgrade::on(response).await.map_err(|error| node.unreachable(&error))?;
        return Ok(Port { number, connection: Ok(TokioIo::new(upgraded)) });
    }
    let body = Limited::new(response.into_body(), REFUSAL_LIMIT).collect().await;
    let text =
        body.map(|body| String::from_utf8_lossy(&body.to_bytes()).trim().to_owned()).unwrap_or_default();
    match status {
        StatusCode::BAD_GATEWAY => Ok(Port { number, connection: Err(text) }),
        StatusCode::NOT_FOUND => Err(Status::new(StatusCode::NOT_FOUND, "NotFound", text)),
        _ => Err(Status::internal(format!("the node answered {status}: {text}"))),
    }
}

/// Moves bytes until the client or all ports have ended, or the server ends.
async fn relay(client: TokioIo<Upgraded>, ports: Vec<Port>, drain: drain::Watch) {
    let config = WebSocketConfig::default()
        .read_buffer_size(CHUNK)
        .write_buffer_size(0)
        .max_message_size(Some(MESSAGE_LIMIT))
        .max_frame_size(Some(MESSAGE_LIMIT));
    let socket = WebSocketStream::from_raw_socket(client, Role::Server, Some(config)).await;
    let (sink, stream) = socket.split();
    let (queue, queued) = mpsc::channel(QUEUE);
    let (mut writers, mut readers) = (Vec::new(), Vec::new());
    for (index, port) in ports.into_iter().enumerate() {
        // `PORTS` keeps this in range.
        let channel = u8::try_from(2 * index).unwrap_or(u8::MAX);
        let (reader, writer) = match port.connection.map(tokio::io::split) {
            Ok((reader, writer)) => (Ok(reader), Some(writer)),
            Err(error) => (Err(error), None),
        };
        writers.push(writer);
        readers.push(from_pod(channel, port.number, reader, queue.clone()));
    }
    drop(queue);
    let outward = async {
        let mut writing = std::pin::pin!(to_client(sink, queued, &drain));
        tokio::select! {
            result = &mut writing => return result,
            _ = futures::future::join_all(readers) => {}
        }
        writing.await
    };
    let mut inward = std::pin::pin!(to_pods(stream, writers));
    let mut ended = std::pin::pin!(async {
        drain.signaled().await;
        tokio::time::sleep(DRAIN_TIMEOUT).await;
    });
    let result = tokio::select! {
        result = &mut inward => result,
        result = outward => match result {
            // What the client sent before it heard of the close still goes to the Pod.
            Ok(()) => tokio::select! {
                result = tokio::time::timeout(CLOSE_TIMEOUT, inward) => result.unwrap_or(Ok(())),
                () = ended => Ok(()),
            },
            Err(error) => Err(error),
        },
        () = &mut ended => Ok(()),
    };
    if let Err(error) = result {
        tracing::debug!(%error, "a client of forwarded ports is gone");
    }
}

/// Queues what a port says, or why it says nothing. Ends early when the client is gone.
async fn from_pod(
    channel: u8,
    number: u16,
    connection: Result<ReadHalf<Connection>, String>,
    queue: mpsc::Sender<Message>,
) {
    let send = async |channel: u8, data: &[u8]| {
        let mut message = Vec::with_capacity(data.len() + 1);
        message.push(channel);
        message.extend_from_slice(data);
        queue.send(Message::binary(message)).await.is_ok()
    };
    for channel in [channel, channel + 1] {
        if !send(channel, &number.to_le_bytes()).await {
            return;
        }
    }
    let mut reader = match connection {
        Ok(reader) => reader,
        Err(error) => {
            send(channel + 1, error.as_bytes()).await;
            return;
        }
    };
    let mut buffer = vec![0; CHUNK];
    loop {
        match reader.read(&mut buffer).await {
            Ok(0) => return,
            Ok(length) => {
                if !send(channel, &buffer[..length]).await {
                    return;
                }
            }
            Err(error) => {
                let text = format!("the connection to port {number} inside the Pod was lost: {error}");
                send(channel + 1, text.as_bytes()).await;
                return;
            }
        }
    }
}

/// Sends what is queued, and closes when the queue or the server ends.
async fn to_client(
    mut sink: impl SinkExt<Message, Error = WebSocketError> + Unpin,
    mut queued: mpsc::Receiver<Message>,
    drain: &drain::Watch,
) -> Result<(), WebSocketError> {
    let code = loop {
        tokio::select! {
            message = queued.recv() => match message {
                Some(message) => sink.send(message).await?,
                None => break CloseCode::Normal,
            },
            () = drain.signaled() => break CloseCode::Away,
        }
    };
    sink.send(Message::Close(Some(CloseFrame { code, reason: Default::default() }))).await
}

/// Passes on what the client sends, until it closes.
async fn to_pods(
    mut stream: impl Stream<Item = Result<Message, WebSocketError>> + Unpin,
    mut writers: Vec<Option<WriteHalf<Connection>>>,
) -> Result<(), WebSocketError> {
    while let Some(message) = stream.next().await {
        let message = message?;
        if message.is_close() {
            break;
        }
        if !(message.is_binary() || message.is_text()) {
            continue;
        }
        let data = message.into_data();
        let Some((&channel, data)) = data.split_first() else { continue };
        // Clients have nothing to say on the channels of errors.
        if channel % 2 == 0
            && let Some(slot) = writers.get_mut(usize::from(channel / 2))
            && let Some(writer) = slot
            && writer.write_all(data).await.is_err()
        {
            // The other direction says why, and may have more to say.
            *slot = None;
        }
    }
    for writer in writers.iter_mut().flatten() {
        let _ = writer.shutdown().await;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_of_a_query() {
        let check = |values: &[&str], expect: Option<&[u16]>| {
            assert_eq!(numbers(values.iter().copied()).ok().as_deref(), expect, "{values:?}");
        };
        check(&["80"], Some(&[80]));
        check(&["80,81", "82"], Some(&[80, 81, 82]));
        check(&[], None);
        check(&[""], None);
        check(&["0"], None);
        check(&["65536"], None);
        check(&["80;81"], None);
        check(&["1"; 128], Some(&[1; 128]));
        check(&["1"; 129], None);
    }
}
