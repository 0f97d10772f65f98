//! The progress handler: a Python callable that SQLite calls while a statement runs, and that may end it.
#![allow(unsafe_code)]

use std::ffi::{c_int, c_void};
use std::sync::atomic::{AtomicU32, Ordering};

use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

use super::arguments::{self, Method};
use super::connection::{Connection, enter};
use super::gil;
use super::hooks::{self, Slot};
use super::values::Arguments;
use crate::py::hang;
use crate::sqlite::raw;

const SET_PROGRESS_HANDLER: Method<2> =
    Method { name: "set_progress_handler", parameters: ["progress_handler", "n"], positional: 1, option: None };

/// SQLite has one progress handler, and the binding's own is it: so it calls the user's as well, every so many times.
pub struct Progress {
    pub slot: Slot,
    every: AtomicU32,
    count: AtomicU32,
}

impl Progress {
    pub fn new(slot: Slot) -> Self {
        Self { slot, every: AtomicU32::new(1), count: AtomicU32::new(0) }
    }

    /// Whether the user's handler is due.
    #[inline]
    fn is_due(&self) -> bool {
        let every = self.every.load(Ordering::Relaxed);
        if every <= 1 {
            return true;
        }
        let count = self.count.load(Ordering::Relaxed) + 1;
        self.count.store(if count == every { 0 } else { count }, Ordering::Relaxed);
        count == every
    }
}

/// Instructions between two calls of the binding's handler, such that a whole number of them makes `n`. A statement that
/// runs for longer than it should before it lets go of the interpreter is the price for an `n` without fitting divisor.
fn interval(n: u32) -> u32 {
    const MOST: u32 = 10 * gil::TICK as u32;
    const EXACT: u32 = 1_000_000;
    if n <= MOST {
        return n;
    }
    let fitting = (n.div_ceil(MOST)..=n / 500).take(MOST as usize).find(|parts| n % parts == 0);
    match fitting {
        Some(parts) => n / parts,
        None if n <= EXACT => n,
        // Nearly `n`: less than a thousandth is missing.
        None => gil::TICK as u32,
    }
}

#[pymethods]
impl Connection {
    /// Have a function called while statements run.
    ///
    /// Args:
    ///     progress_handler: Called without arguments; a true result, or an exception, ends the statement with
    ///         `OperationalError`. None removes it.
    ///     n: After so many instructions of SQLite's virtual machine.
    #[pyo3(signature = (*args, **kwargs), text_signature = "($self, /, progress_handler, n)")]
    fn set_progress_handler(
        slf: &Bound<'_, Self>,
        args: &Bound<'_, PyTuple>,
        kwargs: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<()> {
        let py = slf.py();
        let ([callable, n], _) = SET_PROGRESS_HANDLER.bind(args, kwargs)?;
        let n = arguments::int(&n)?;
        let db = slf.get().db(py)?;
        let entered = enter(py, &db)?;
        let standing = hooks::standing(slf, &db);
        // As in SQLite: less than one instruction means never.
        let n = u32::try_from(n).ok().filter(|&n| n > 0 && !callable.is_none());
        let before = standing.progress.slot.set(py, n.map(|_| callable.unbind()));
        // SAFETY: open and entered; the connection keeps the data.
        unsafe {
            match n {
                Some(n) => {
                    let interval = interval(n);
                    standing.progress.every.store(n / interval, Ordering::Relaxed);
                    standing.progress.count.store(0, Ordering::Relaxed);
                    let data = std::ptr::from_ref(&standing.progress).cast_mut().cast();
                    raw::sqlite3_progress_handler(entered.raw(), interval as c_int, Some(on_progress), data);
                }
                None => gil::install_tick(entered.raw()),
            }
        }
        drop(entered);
        drop(before);
        Ok(())
    }
}

unsafe extern "C" fn on_progress(data: *mut c_void) -> c_int {
    gil::tick();
    // SAFETY: the connection keeps it.
    let progress = unsafe { &*data.cast::<Progress>() };
    if !progress.is_due() {
        return 0;
    }
    let ends = hooks::attached(|py| {
        let Some(callable) = progress.slot.get(py) else { return false };
        let ends = Arguments::none().call(&callable).and_then(|result| {
            let ends = hang::is_true(&result);
            hang::give_up(py, result.unbind());
            ends
        });
        let ends = ends.unwrap_or_else(|error| {
            hooks::report(py, Some(&callable), error);
            true
        });
        hang::give_up(py, callable.unbind());
        ends
    });
    c_int::from(ends.unwrap_or(true))
}

#[cfg(test)]
mod tests {
    use super::interval;

    #[test]
    fn a_whole_number_of_intervals_makes_n_and_none_is_long() {
        for n in [1, 7, 1000, 19_999, 20_000, 20_001, 50_000, 99_999, 1_000_000, 5_000_000, 123_456_789] {
            assert!(n % interval(n) == 0, "{n}: {}", interval(n));
        }
        for n in [1_000_000, 1_000_003, 5_000_000, i32::MAX as u32] {
            assert!((500..=20_000).contains(&interval(n)), "{n}: {}", interval(n));
        }
        // Prime: by itself as long as that is bearable.
        assert_eq!(interval(100_003), 100_003);
    }
}
