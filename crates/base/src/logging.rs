//! Logs of our own processes: one line an event on standard error, filtered by `LATEEN_LOG`.

use tracing_subscriber::EnvFilter;

/// Starts logging. `default_filter` is in the syntax of `tracing`'s `EnvFilter` (`info`, `lateen_xds=debug,info`, ...)
/// and gives way to the environment variable `LATEEN_LOG`. Calling it twice keeps the first.
pub fn init(default_filter: &str) {
    let filter = EnvFilter::try_from_env("LATEEN_LOG").unwrap_or_else(|_| EnvFilter::new(default_filter));
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .try_init();
}
