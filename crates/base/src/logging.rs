//! Logs of our own processes: one line an event on standard error, filtered by `LATEEN_LOG`.

use std::sync::OnceLock;

use parking_lot::Mutex;
use tracing_subscriber::EnvFilter;

/// Changes the filter of the process.
struct Reload {
    directives: Mutex<String>,
    apply: Box<dyn Fn(EnvFilter) + Send + Sync>,
}

static RELOAD: OnceLock<Reload> = OnceLock::new();

/// Starts logging. `default_filter` is in the syntax of `tracing`'s `EnvFilter` (`info`, `lateen_xds=debug,info`, ...)
/// and gives way to the environment variable `LATEEN_LOG`. Calling it twice keeps the first.
pub fn init(default_filter: &str) {
    let filter = EnvFilter::try_from_env("LATEEN_LOG").unwrap_or_else(|_| EnvFilter::new(default_filter));
    let directives = filter.to_string();
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .with_filter_reloading();
    let handle = builder.reload_handle();
    if builder.try_init().is_ok() {
        let apply = Box::new(move |filter| drop(handle.reload(filter)));
        let _ = RELOAD.set(Reload { directives: Mutex::new(directives), apply });
    }
}

/// The filter as it is now: `info`, `lateen_xds=debug,info`.
pub fn levels() -> String {
    RELOAD.get().map(|reload| reload.directives.lock().clone()).unwrap_or_default()
}

/// Changes how much is logged: of one module (`lateen_proxy::xds`, or `xds` for short), or of all.
pub fn set_level(module: Option<&str>, level: &str) -> Result<(), &'static str> {
    let level = match level {
        "trace" | "debug" | "info" | "error" | "off" => level,
        "warning" | "warn" => "warn",
        "critical" => "error",
        _ => return Err("error: unknown logger level"),
    };
    let Some(reload) = RELOAD.get() else { return Err("error: logging was started by somebody else") };
    let mut directives = reload.directives.lock();
    let changed = match module {
        None => level.to_owned(),
        Some(module) => {
            let valid = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b':' | b'-');
            if module.is_empty() || !module.bytes().all(valid) {
                return Err("error: unknown logger name");
            }
            let target = if module.contains("::") || module.starts_with("lateen_") {
                module.to_owned()
            } else {
                format!("lateen_proxy::{module}")
            };
            let target = target.replace('-', "_");
            let others =
                directives.split(',').filter(|directive| !directive.starts_with(&format!("{target}=")));
            others.map(str::to_owned).chain([format!("{target}={level}")]).collect::<Vec<_>>().join(",")
        }
    };
    let filter = EnvFilter::try_new(&changed).map_err(|_| "error: unknown logger name")?;
    (reload.apply)(filter);
    *directives = changed;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_change_while_the_process_runs() {
        init("info");
        assert!(set_level(None, "loud").is_err());
        set_level(None, "warning").unwrap();
        set_level(Some("xds"), "debug").unwrap();
        set_level(Some("xds"), "trace").unwrap();
        assert_eq!(levels(), "warn,lateen_proxy::xds=trace");
        assert!(set_level(Some("a b"), "debug").is_err());
    }
}
