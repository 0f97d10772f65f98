//! `Connection.backup`.

use std::time::Duration;

use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;

use super::blob::terminated;
use super::connection::{Connection, check_open, detached};
use super::pooled::PooledConnection;
use super::{errors, gil, lane};
use crate::py::hang;
use crate::sqlite::backup::{Backup, Step, enter_both};
use crate::sqlite::lane::Access;
use crate::sqlite::{Db, Entered, raw};

/// Enters both; detached if another thread is inside one of them.
fn enter<'a>(py: Python<'_>, source: &'a Db, target: &'a Db) -> PyResult<(Entered<'a>, Entered<'a>)> {
    let at_once = source.try_enter().and_then(|first| Some((first, target.try_enter()?)));
    let both = match at_once {
        Some(both) => both,
        None => detached(py, || enter_both(source, target)),
    };
    check_open(py, source)?;
    check_open(py, target)?;
    Ok(both)
}

/// Runs `body` inside both, without the interpreter lock.
fn inside<R>(
    py: Python<'_>,
    (source, target): (&Db, &Db),
    body: impl FnOnce(&Entered<'_>, &Entered<'_>) -> R,
) -> PyResult<R> {
    let (from, into) = enter(py, source, target)?;
    let running = gil::Stepping::begin(py, &into, false);
    let stepping = gil::Stepping::begin(py, &from, true);
    let result = body(&from, &into);
    into.settle_lane();
    drop(stepping);
    drop(running);
    Ok(result)
}

fn wrong_target(target: &Bound<'_, PyAny>) -> PyErr {
    let py = target.py();
    let theirs = py.import("_sqlite3").and_then(|module| target.is_instance(&module.getattr("Connection")?));
    match theirs {
        Ok(true) => PyTypeError::new_err(
            "backup() argument 'target' must be an upshift.sqlite.Connection: one of the standard library's sqlite3 gives \
             nobody its handle, without which SQLite cannot write to it; open the target with upshift.sqlite.connect()",
        ),
        Ok(false) => match target.get_type().name() {
            Ok(class) => PyTypeError::new_err(format!(
                "backup() argument 'target' must be upshift.sqlite.Connection, not {class}"
            )),
            Err(error) => error,
        },
        Err(error) => error,
    }
}

#[pymethods]
impl Connection {
    /// Make a backup of the database, into another connection, while both may be in use.
    ///
    /// Args:
    ///     target: Connection to write to, also a `PooledConnection`.
    ///     pages: Pages to copy at a time; all at once if zero or negative.
    ///     progress: Called after each time with SQLite's status, pages left and pages in all.
    ///     name: Database to copy: `"main"`, `"temp"` or the name of an attached one.
    ///     sleep: Seconds to wait before pages are tried again that others had locked.
    #[pyo3(
        signature = (target, *, pages = -1, progress = None, name = "main", sleep = 0.250),
        text_signature = "($self, target, *, pages=-1, progress=None, name='main', sleep=0.25)"
    )]
    fn backup(
        slf: &Bound<'_, Self>,
        target: &Bound<'_, PyAny>,
        pages: i32,
        progress: Option<&Bound<'_, PyAny>>,
        name: &str,
        sleep: f64,
    ) -> PyResult<()> {
        let py = slf.py();
        let source = slf.get().db(py)?;
        let target = match target.cast::<PooledConnection>() {
            Ok(wrapper) => wrapper.get().raw(py)?,
            Err(_) => target.cast::<Self>().map_err(|_| wrong_target(target))?,
        };
        let name = terminated(name)?;
        let pause = Duration::try_from_secs_f64(sleep)
            .map_err(|_| PyValueError::new_err("sleep must be greater-than or equal to zero"))?;
        if target.is(slf) {
            return Err(PyValueError::new_err("target cannot be the same connection instance"));
        }
        let target = target.get().db_of_any_thread(py)?;
        if progress.is_some_and(|progress| !progress.is_callable()) {
            return Err(PyTypeError::new_err("progress argument must be a callable"));
        }
        let pages = if pages == 0 { -1 } else { pages };
        let both = (&*source, &*target);
        let failed = |failure| errors::of_failure(py, &failure);
        let begun = inside(py, both, |from, into| Backup::begin((&source, from), (&target, into), &name))?;
        let mut backup = begun.map_err(failed)?;
        let outcome = loop {
            let stepped = inside(py, both, |from, into| {
                let taken = lane::take(into, Access::Write, || "a backup into this database");
                taken.map(|()| backup.step(from, into, pages))
            });
            let step = match stepped.and_then(|step| step) {
                Ok(step) => step,
                Err(error) => break Err(error),
            };
            if let Err(error) = report(progress, step) {
                break Err(error);
            }
            match step.code {
                raw::SQLITE_OK => {}
                raw::SQLITE_BUSY | raw::SQLITE_LOCKED => py.detach(|| std::thread::sleep(pause)),
                _ => break Ok(()),
            }
            if let Err(error) = py.check_signals() {
                break Err(error);
            }
        };
        let finished = inside(py, both, |from, into| backup.finish(from, into))?;
        outcome.and_then(|()| finished.map_err(failed))
    }
}

fn report(progress: Option<&Bound<'_, PyAny>>, step: Step) -> PyResult<()> {
    let Some(progress) = progress else { return Ok(()) };
    let arguments = (step.code, step.remaining, step.total).into_pyobject(progress.py())?;
    hang::call(progress, &arguments, None).map(drop)
}
