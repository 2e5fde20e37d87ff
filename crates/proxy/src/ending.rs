//! How connections of clients end.
//!
//! Closing while the client still sends resets the connection, and the reset may take an answer away that the client
//! has not read yet (RFC 9112, 9.6). So where the client does not expect the end, it has a moment to read and to end the
//! connection itself: `HttpConnectionManager.delayed_close_timeout`. The statistics tell who ended it, as Envoy's do.

use std::time::Duration;

use crate::state::HttpRuntime;
use crate::stats::Shard;
use crate::stream::Shared;

/// How a connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// The client ended it.
    Client,
    /// We do, once everything is written: the client knows, or nothing is under way.
    Flush,
    /// We do, and the client has time.
    Delay,
}

/// Ends a connection and counts that.
pub async fn end(shard: &Shard, runtime: &HttpRuntime, shared: &Shared, ending: Ending) {
    let stats = &runtime.stats;
    let limit = runtime.config.delayed_close_timeout;
    let by_client = match ending {
        _ if shared.peer_ended() => true,
        Ending::Client => true,
        Ending::Flush => {
            close(shared, limit).await;
            false
        }
        Ending::Delay => {
            let left = match limit {
                None => false,
                Some(limit) => {
                    let flushed = tokio::time::timeout(limit, shared.flush()).await;
                    flushed.is_ok() && tokio::time::timeout(limit, shared.discard()).await.is_ok()
                }
            };
            if !left {
                if limit.is_some() {
                    shard.increment(stats.downstream_cx_delayed_close_timeout);
                }
                close(shared, limit).await;
            }
            left
        }
    };
    shard.increment(match by_client {
        true => stats.downstream_cx_destroy_remote,
        false => stats.downstream_cx_destroy_local,
    });
}

/// Ends our direction; a client that takes nothing any more is not waited for.
async fn close(shared: &Shared, limit: Option<Duration>) {
    let shutdown = shared.shutdown();
    let _ = tokio::time::timeout(limit.unwrap_or(Duration::from_secs(1)), shutdown).await;
}

/// Counts the end of a connection in the middle of requests.
pub fn count_cut_off(shard: &Shard, runtime: &HttpRuntime, by_client: bool) {
    let stats = &runtime.stats;
    shard.increment(stats.downstream_cx_destroy_active_rq);
    shard.increment(match by_client {
        true => stats.downstream_cx_destroy_remote_active_rq,
        false => stats.downstream_cx_destroy_local_active_rq,
    });
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::stream::Stream;

    #[tokio::test]
    async fn what_a_client_still_sends_is_read_until_it_goes() {
        let (ours, mut theirs) = tokio::io::duplex(64);
        let shared = Shared::new(Stream::Memory(ours), BytesMut::new());
        let client = async {
            theirs.write_all(&[b'x'; 1000]).await.unwrap();
            drop(theirs);
        };
        tokio::join!(shared.discard(), client);
        assert!(shared.peer_ended() && shared.input().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_reads_nothing_is_not_waited_for() {
        let (ours, mut theirs) = tokio::io::duplex(4);
        let shared = Shared::new(Stream::Memory(ours), BytesMut::new());
        shared.output().extend_from_slice(b"more than fits");
        close(&shared, Some(Duration::from_secs(1))).await;
        drop(shared);
        let mut read = Vec::new();
        theirs.read_to_end(&mut read).await.unwrap();
        assert_eq!(read, b"more");
    }
}
