//! The agent's own pages: readiness for kubelet, the application's probes, metrics, and the way to an early end.
//!
//! Ports and paths are Istio's: 15021 readiness, 15020 everything, 15090 the proxy's metrics.

use std::sync::Arc;

use http::{Method, StatusCode};
use lateen_base::admin::{self, Handler, Reply};
use tokio::sync::watch;

use crate::admin_client::AdminClient;
use crate::probes::Probes;

/// What the pages need.
#[derive(Debug)]
pub struct Status {
    /// The proxy beside the agent.
    pub proxy: AdminClient,
    /// The application's probes.
    pub probes: Probes,
    /// Set to true to end the agent (`POST /quitquitquit`).
    pub quit: watch::Sender<bool>,
}

impl Status {
    /// The pages as a handler for [`admin::serve`].
    pub fn handler(self: Arc<Self>) -> Handler {
        Arc::new(move |request| {
            let status = Arc::clone(&self);
            Box::pin(async move { status.reply(request.method(), request.uri().path()).await })
        })
    }

    async fn reply(&self, method: &Method, path: &str) -> Reply {
        match (method, path) {
            (&Method::GET, "/healthz/ready") => match self.proxy.is_ready().await {
                true => admin::text(StatusCode::OK, ""),
                false => admin::text(StatusCode::SERVICE_UNAVAILABLE, "the proxy has no configuration yet\n"),
            },
            (&Method::GET, "/stats/prometheus" | "/metrics") => {
                self.ask_proxy(Method::GET, "/stats/prometheus").await
            }
            (&Method::GET, path) if path.starts_with("/app-health/") => match self.probes.probe(path).await {
                Ok(status) => admin::text(status, ""),
                Err(reason) => admin::text(StatusCode::INTERNAL_SERVER_ERROR, format!("{reason}\n")),
            },
            (&Method::POST, "/quitquitquit") => {
                self.quit.send_replace(true);
                admin::text(StatusCode::OK, "OK\n")
            }
            (&Method::POST, "/drain") => self.ask_proxy(Method::POST, "/drain_listeners?graceful").await,
            (_, "/quitquitquit" | "/drain") => {
                admin::text(StatusCode::METHOD_NOT_ALLOWED, "this page changes something: use POST\n")
            }
            _ => admin::text(StatusCode::NOT_FOUND, "not found\n"),
        }
    }

    async fn ask_proxy(&self, method: Method, path: &str) -> Reply {
        match self.proxy.request(method, path).await {
            Ok((status, body)) => admin::text(status, body),
            Err(error) => {
                admin::text(StatusCode::SERVICE_UNAVAILABLE, format!("the proxy does not answer: {error}\n"))
            }
        }
    }
}
