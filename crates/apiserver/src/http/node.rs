//! Requests to the node, over its Unix socket.

use crate::status::Status;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use std::fmt::Display;
use std::path::Path;
use tokio::net::UnixStream;

/// A connection to the node, for one request.
pub(super) struct NodeConnection<'a> {
    socket: &'a Path,
    subject: &'static str,
    sender: SendRequest<Empty<Bytes>>,
}

impl<'a> NodeConnection<'a> {
    /// Connects, to ask for `subject`.
    pub(super) async fn open(socket: &'a Path, subject: &'static str) -> Result<NodeConnection<'a>, Status> {
        let stream =
            UnixStream::connect(socket).await.map_err(|error| unreachable_node(socket, subject, &error))?;
        let (sender, connection) = handshake(TokioIo::new(stream))
            .await
            .map_err(|error| unreachable_node(socket, subject, &error))?;
        tokio::spawn(connection.with_upgrades());
        Ok(NodeConnection { socket, subject, sender })
    }

    /// The node's answer.
    pub(super) async fn send(
        &mut self,
        request: Request<Empty<Bytes>>,
    ) -> Result<Response<Incoming>, Status> {
        self.sender.send_request(request).await.map_err(|error| self.unreachable(&error))
    }

    /// The connection does not do what it should.
    pub(super) fn unreachable(&self, error: &dyn Display) -> Status {
        unreachable_node(self.socket, self.subject, error)
    }
}

fn unreachable_node(socket: &Path, subject: &str, error: &dyn Display) -> Status {
    Status::unavailable(format!("the node cannot be asked for {subject} at {}: {error}", socket.display()))
}
