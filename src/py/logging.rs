//! Hands the engine's log lines to Python's `logging`, under the engine's target as logger name.

use log::{Level, LevelFilter, Log, Metadata, Record};
use pyo3::prelude::*;

use super::hang;

struct PythonLog;

impl Log for PythonLog {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target().starts_with("upshift")
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let method = match record.level() {
            Level::Error => "error",
            Level::Warn => "warning",
            Level::Info => "info",
            Level::Debug | Level::Trace => "debug",
        };
        let (target, text) = (record.target().to_owned(), record.args().to_string());
        // While the interpreter shuts down there is nobody left to log to.
        Python::try_attach(|py| {
            let logged = py
                .import("logging")
                .and_then(|logging| hang::method(&logging, "getLogger", (target,), None))
                .and_then(|logger| hang::method(&logger, method, ("%s", text), None));
            if let Err(failure) = logged {
                failure.write_unraisable(py, None);
            }
        });
    }

    fn flush(&self) {}
}

/// Installs the bridge; a second interpreter in the process finds it installed.
pub fn install() {
    if log::set_logger(&PythonLog).is_ok() {
        log::set_max_level(LevelFilter::Debug);
    }
}
