//! Filters that answer themselves: echo and direct response.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use lateen_dataplane::stream_info::StreamInfo;

use crate::drain::Drain;
use crate::stream::{Shared, Stream};

/// Sends everything back, and ends when the client does or when the listener ends.
pub async fn echo(drain: &Drain, stream: Stream, input: BytesMut, info: &mut StreamInfo) {
    let shared = Shared::new(stream, input);
    let conversation = async {
        loop {
            let chunk = shared.input().split();
            if !chunk.is_empty() {
                info.bytes_received += chunk.len() as u64;
                if shared.write(&chunk).await.is_err() {
                    return;
                }
                info.bytes_sent += chunk.len() as u64;
            }
            if !matches!(shared.fill().await, Ok(1..)) {
                let _ = shared.shutdown().await;
                return;
            }
        }
    };
    tokio::select! {
        () = conversation => {}
        () = drain.closed() => {}
    }
}

/// Says its text and closes.
pub async fn respond(text: &Bytes, stream: Stream, input: BytesMut, info: &mut StreamInfo) {
    let shared = Shared::new(stream, input);
    if shared.write(text).await.is_ok() {
        info.bytes_sent = text.len() as u64;
        let _ = shared.shutdown().await;
        // Closing with unread input would reset the connection, and the client might lose the text.
        let rest = async {
            while matches!(shared.fill().await, Ok(1..)) {
                shared.input().clear();
            }
        };
        let _ = tokio::time::timeout(Duration::from_secs(1), rest).await;
    }
}
