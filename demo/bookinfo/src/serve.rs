//! Listening, health, and an orderly end.

use std::net::SocketAddr;

use anyhow::Context;
use axum::Router;
use axum::routing::get;
use tokio::signal::unix::{SignalKind, signal};

/// Serves `router` and `/health` until SIGTERM or SIGINT, then finishes the requests that are under way.
pub(crate) async fn serve(name: &str, address: SocketAddr, router: Router) -> anyhow::Result<()> {
    let router =
        router.route("/health", get(|| async { axum::Json(serde_json::json!({"status": "healthy"})) }));
    let listener = tokio::net::TcpListener::bind(address)
        .await
        .with_context(|| format!("cannot listen on {address}"))?;
    tracing::info!("{name} listens on {}", listener.local_addr()?);
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    axum::serve(listener, router)
        .with_graceful_shutdown(async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            tracing::info!("finishing what is under way");
        })
        .await?;
    Ok(())
}
