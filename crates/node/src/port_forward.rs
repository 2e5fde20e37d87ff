//! `POST /portForward/NAMESPACE/POD?port=N` of the node's socket: a connection to a port on the loopback address inside
//! a Pod.
//!
//! The request asks for `Upgrade: tcp`; after the answer 101 the connection carries the port's bytes, each direction
//! until its end. 404 means that the Pod does not run here, 502 that nothing listens.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::time::Duration;

use http::header::{CONNECTION, HeaderValue, UPGRADE};
use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpSocket, TcpStream};

use crate::cluster::ObjectKey;
use crate::runner::Runner;
use crate::socket::{Body, text};

/// How long a connection inside the Pod may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a Pod may go on sending when nothing more will be sent to it: by then nobody may be there to read.
const LAST_WORDS: Duration = Duration::from_secs(60);

/// Whether a path is one of ours.
pub(crate) fn is_path(path: &str) -> bool {
    path.starts_with("/portForward/")
}

/// Connects, answers, and copies in the background.
pub(crate) async fn answer(runner: &Runner, mut request: Request<Incoming>) -> Response<Body> {
    let (key, port) = match target(&request) {
        Ok(target) => target,
        Err((status, message)) => return text(status, message),
    };
    let Some(shown) = runner.find(&key) else {
        return text(StatusCode::NOT_FOUND, format!("pod {} does not run on this node", key.name));
    };
    let namespace = shown.network.lock().as_ref().map(OwnedFd::try_clone);
    let connected = match namespace {
        None => {
            return text(
                StatusCode::NOT_FOUND,
                format!("pod {} has not been started, or has ended", key.name),
            );
        }
        Some(Err(error)) => Err(error),
        Some(Ok(namespace)) => connect(namespace, port).await,
    };
    let inside = match connected {
        Ok(inside) => inside,
        Err(error) => {
            let message = format!("cannot connect to port {port} inside pod {}: {error}", key.name);
            return text(StatusCode::BAD_GATEWAY, message);
        }
    };
    let upgrade = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        match upgrade.await {
            Ok(outside) => copy(TokioIo::new(outside), inside).await,
            Err(error) => tracing::debug!(%error, port, "a port was not forwarded"),
        }
    });
    let mut response = text(StatusCode::SWITCHING_PROTOCOLS, "");
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    response.headers_mut().insert(UPGRADE, HeaderValue::from_static("tcp"));
    response
}

/// Which Pod's which port is asked for.
fn target<B>(request: &Request<B>) -> Result<(ObjectKey, u16), (StatusCode, String)> {
    let parts: Vec<&str> = request.uri().path().trim_matches('/').split('/').collect();
    let ["portForward", namespace, pod] = parts.as_slice() else {
        return Err((
            StatusCode::NOT_FOUND,
            "no such path; ask for /portForward/NAMESPACE/POD?port=N".to_owned(),
        ));
    };
    if request.method() != Method::POST {
        return Err((StatusCode::METHOD_NOT_ALLOWED, "use POST".to_owned()));
    }
    let query = request.uri().query().unwrap_or_default();
    let port = query.split('&').find_map(|pair| pair.strip_prefix("port=")).unwrap_or_default();
    let number = port.parse::<u16>().ok().filter(|port| *port != 0);
    let number =
        number.ok_or_else(|| (StatusCode::BAD_REQUEST, format!("port: \"{port}\" is no port's number")))?;
    let upgrade = request.headers().get(UPGRADE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if !upgrade.eq_ignore_ascii_case("tcp") {
        return Err((StatusCode::UPGRADE_REQUIRED, "send Connection: Upgrade and Upgrade: tcp".to_owned()));
    }
    Ok((ObjectKey::new(*namespace, *pod), number))
}

/// A connection to the loopback address of a network namespace.
///
/// A socket stays in the namespace it was made in, so only its making needs a thread that has entered it; such a thread
/// is not used again.
async fn connect(namespace: OwnedFd, port: u16) -> io::Result<TcpStream> {
    let (sender, receiver) = tokio::sync::oneshot::channel();
    let runtime = tokio::runtime::Handle::current();
    std::thread::Builder::new().name("port-forward".to_owned()).spawn(move || {
        let _runtime = runtime.enter();
        let entered = nix::sched::setns(&namespace, nix::sched::CloneFlags::CLONE_NEWNET);
        let _ = sender.send(entered.map_err(io::Error::from).and_then(|()| TcpSocket::new_v4()));
    })?;
    let socket =
        receiver.await.map_err(|_| io::Error::other("the thread that makes the socket ended early"))??;
    let connecting = socket.connect(SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
    let stream = tokio::time::timeout(CONNECT_TIMEOUT, connecting).await.map_err(io::Error::from)??;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Copies both ways; an end of one direction is passed on as such.
async fn copy(outside: impl tokio::io::AsyncRead + tokio::io::AsyncWrite, mut inside: TcpStream) {
    let (mut from_outside, mut to_outside) = tokio::io::split(outside);
    let (mut from_inside, mut to_inside) = inside.split();
    let inward = async {
        let copied = tokio::io::copy(&mut from_outside, &mut to_inside).await;
        copied.and(to_inside.shutdown().await)
    };
    let outward = async {
        let copied = tokio::io::copy(&mut from_inside, &mut to_outside).await;
        copied.and(to_outside.shutdown().await)
    };
    tokio::pin!(inward, outward);
    let result = tokio::select! {
        result = &mut outward => match result {
            Ok(()) => inward.await,
            Err(error) => Err(error),
        },
        result = &mut inward => match result {
            Ok(()) => tokio::time::timeout(LAST_WORDS, outward).await.unwrap_or(Ok(())),
            Err(error) => Err(error),
        },
    };
    if let Err(error) = result {
        tracing::debug!(%error, "a forwarded port's connection ended");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets() {
        let check =
            |method: &str, uri: &str, upgrade: &str, expected: Result<(&str, &str, u16), StatusCode>| {
                let request =
                    Request::builder().method(method).uri(uri).header(UPGRADE, upgrade).body(()).unwrap();
                let expected = expected.map(|(namespace, pod, port)| (ObjectKey::new(namespace, pod), port));
                assert_eq!(target(&request).map_err(|(status, _)| status), expected, "{method} {uri}");
            };
        check("POST", "/portForward/a/p?port=8080", "tcp", Ok(("a", "p", 8080)));
        check("POST", "/portForward/a/p?x=1&port=1", "TCP", Ok(("a", "p", 1)));
        check("POST", "/portForward/a/p?port=0", "tcp", Err(StatusCode::BAD_REQUEST));
        check("POST", "/portForward/a/p?port=65536", "tcp", Err(StatusCode::BAD_REQUEST));
        check("POST", "/portForward/a/p", "tcp", Err(StatusCode::BAD_REQUEST));
        check("POST", "/portForward/a/p?port=80", "h2c", Err(StatusCode::UPGRADE_REQUIRED));
        check("GET", "/portForward/a/p?port=80", "tcp", Err(StatusCode::METHOD_NOT_ALLOWED));
        check("POST", "/portForward/a?port=80", "tcp", Err(StatusCode::NOT_FOUND));
    }

    #[tokio::test]
    async fn each_direction_ends_for_itself() {
        use tokio::io::AsyncReadExt;
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let inside = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (mut pod, _) = listener.accept().await.unwrap();
        let (mut client, outside) = tokio::io::duplex(16);
        let copying = tokio::spawn(copy(outside, inside));
        client.write_all(b"a question longer than the buffer").await.unwrap();
        client.shutdown().await.unwrap();
        let mut question = String::new();
        pod.read_to_string(&mut question).await.unwrap();
        assert_eq!(question, "a question longer than the buffer");
        pod.write_all(b"an answer after the end of the question").await.unwrap();
        drop(pod);
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        assert_eq!(answer, "an answer after the end of the question");
        copying.await.unwrap();
    }
}
