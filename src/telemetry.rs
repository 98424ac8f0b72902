//! What the process says about itself on standard error.

use tracing_subscriber::{EnvFilter, fmt, layer::SubscriberExt, util::SubscriberInitExt};

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// Why logging could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The filter is not one.
    #[error("the log level {filter:?} is not valid: {cause}; use a level such as info, or a filter such as info,kube=debug")]
    Filter {
        /// What was given.
        filter: String,
        /// What is wrong with it.
        cause: tracing_subscriber::filter::ParseError,
    },
    /// Logging was set up before.
    #[error("logging is set up already: {0}; call telemetry::init only once")]
    Twice(tracing_subscriber::util::TryInitError),
}

/// Starts logging to standard error, and logs panics. `level` is a level or a filter; without it `RUST_LOG` counts, and
/// without that `info`.
///
/// # Errors
/// When the filter is not valid or logging was set up before.
pub fn init(format: LogFormat, level: Option<&str>) -> Result<(), TelemetryError> {
    let from_environment = std::env::var(EnvFilter::DEFAULT_ENV).ok();
    let filter = level.map(str::to_owned).or(from_environment).filter(|filter| !filter.trim().is_empty());
    let filter = filter.unwrap_or_else(|| "info".to_owned());
    let parsed = EnvFilter::try_new(&filter).map_err(|cause| TelemetryError::Filter { filter, cause })?;
    let registry = tracing_subscriber::registry().with(parsed);
    match format {
        LogFormat::Text => registry.with(fmt::layer().with_writer(std::io::stderr)).try_init(),
        LogFormat::Json => registry.with(fmt::layer().json().flatten_event(true).with_writer(std::io::stderr)).try_init(),
    }
    .map_err(TelemetryError::Twice)?;
    log_panics();
    Ok(())
}

/// A panic is a defect; its place goes where every other message goes.
fn log_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let location = panic.location().map(ToString::to_string).unwrap_or_default();
        let message = panic.payload_as_str().unwrap_or("no message");
        tracing::error!(location, "panic at {location}: {message}");
    }));
}
