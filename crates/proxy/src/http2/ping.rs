//! Asking whether a peer is there: `connection_keepalive`.

use std::time::Duration;

use h2::PingPong;
use h2::server::Connection;
use lateen_dataplane::http_protocol::Keepalive;
use rand::Rng;

use crate::stream::Shared;

/// Pings on a connection of a client.
pub struct Ping {
    pings: PingPong,
    interval: Duration,
    timeout: Duration,
    jitter_percent: u32,
}

impl Ping {
    /// None where no interval is asked for: what is done only after a pause of requests is for upstreams.
    pub fn new(connection: &mut Connection<Shared, bytes::Bytes>, settings: &Keepalive) -> Option<Self> {
        Some(Self {
            interval: settings.interval?,
            timeout: settings.timeout,
            jitter_percent: settings.jitter_percent,
            pings: connection.ping_pong()?,
        })
    }

    fn pause(&self) -> Duration {
        let jitter = self.interval.as_millis() as u64 * u64::from(self.jitter_percent) / 100;
        self.interval + Duration::from_millis(rand::rng().random_range(0..=jitter))
    }

    /// Resolves when the peer does not answer.
    pub async fn dead(ping: &mut Option<Self>) {
        let Some(ping) = ping else { return std::future::pending().await };
        loop {
            tokio::time::sleep(ping.pause()).await;
            match tokio::time::timeout(ping.timeout, ping.pings.ping(h2::Ping::opaque())).await {
                Ok(Ok(_)) => {}
                Ok(Err(_)) | Err(_) => return,
            }
        }
    }
}
