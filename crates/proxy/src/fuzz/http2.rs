//! HTTP/2: any bytes after the preface, against the server side of a connection as it is used for clients.

use bytes::Bytes;
use lateen_dataplane::http_protocol::Http2Options;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::http2;
use crate::message::BodyEvent;

pub(super) const WORDS: &[&[u8]] = &[
    // SETTINGS, its acknowledgement, PING, GOAWAY, WINDOW_UPDATE, RST_STREAM.
    b"\0\0\0\x04\0\0\0\0\0",
    b"\0\0\0\x04\x01\0\0\0\0",
    b"\0\0\x08\x06\0\0\0\0\0abcdefgh",
    b"\0\0\x08\x07\0\0\0\0\0\0\0\0\0\0\0\0\0",
    b"\0\0\x04\x08\0\0\0\0\0\0\x01\0\0",
    b"\0\0\x04\x03\0\0\0\0\x01\0\0\0\x08",
    // HEADERS of `GET / http`, with and without the end of the stream; DATA; CONTINUATION.
    b"\0\0\x03\x01\x05\0\0\0\x01\x82\x86\x84",
    b"\0\0\x06\x01\x04\0\0\0\x01\x83\x86\x84\x41\x01a",
    b"\0\0\x01\0\x01\0\0\0\x01x",
    b"\0\0\x01\x09\x04\0\0\0\x01\x84",
    b"\0\0\0\x01",
    b"\0\0\0\x03",
    b"\xff\xff\xff",
    b"\x7f\xff\xff\xff",
];

thread_local! {
    static RUNTIME: Option<tokio::runtime::Runtime> =
        tokio::runtime::Builder::new_current_thread().build().ok();
}

/// Frames of a client. Whatever they are, the connection ends, and what became a request can be sent on.
pub(super) fn server(bytes: &[u8]) {
    RUNTIME.with(|runtime| {
        if let Some(runtime) = runtime {
            runtime.block_on(serve(bytes));
        }
    });
}

async fn serve(bytes: &[u8]) {
    let (ours, theirs) = tokio::io::duplex(1 << 20);
    let (mut read, mut write) = tokio::io::split(theirs);
    let client = async {
        let _ = write.write_all(crate::inspect::PREFACE).await;
        // The peer's settings come first; without them nothing else would be looked at.
        let _ = write.write_all(b"\0\0\0\x04\0\0\0\0\0").await;
        let _ = write.write_all(bytes).await;
        let _ = write.shutdown().await;
        let mut answer = Vec::new();
        let _ = read.read_to_end(&mut answer).await;
    };
    let server = async {
        let options = Http2Options { allow_connect: true, ..Http2Options::default() };
        let builder = http2::server_builder(&options, 60 * 1024);
        let Ok(mut connection) = builder.handshake::<_, Bytes>(ours).await else { return };
        let mut streams = Vec::new();
        while let Some(Ok((request, respond))) = connection.accept().await {
            let (parts, body) = request.into_parts();
            if let Ok((head, _)) = http2::request_head(&parts) {
                assert!(!head.method().is_empty(), "a request without a method");
                let _ = http2::request(&head, None);
            }
            streams.push((http2::BodyReader::new(body), respond));
        }
        for (mut body, mut respond) in streams {
            while let Some(Ok(BodyEvent::Data(_))) = futures::FutureExt::now_or_never(body.next()) {}
            respond.send_reset(h2::Reason::CANCEL);
        }
    };
    tokio::join!(client, server);
}
