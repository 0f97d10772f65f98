//! Threads by numbers that are never given twice.
//!
//! The system gives the id of a thread that has ended to a later one, which would be taken for it. (Tasks are numbered in
//! Python.)

use std::cell::Cell;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::py::lookup::thread_ident;
use crate::support::runtime::{PerProcess, pid};

static NEXT: AtomicU64 = AtomicU64::new(1);
/// Threads that are running, with their ids.
static IDENTS: PerProcess<Mutex<HashMap<u64, u64>>> = PerProcess::new();

thread_local! {
    /// The number of this thread, and the process in which it was given.
    static NUMBER: Cell<(u64, u32)> = const { Cell::new((0, 0)) };
    static LEAVING: Leaving = const { Leaving };
}

struct Leaving;

impl Drop for Leaving {
    fn drop(&mut self) {
        if let Some(idents) = IDENTS.peek() {
            idents.lock().remove(&NUMBER.get().0);
        }
    }
}

/// The number of this thread. In a forked child it has another one.
#[inline]
pub fn this_thread() -> u64 {
    let (number, process) = NUMBER.get();
    if process == pid() { number } else { begin() }
}

#[cold]
fn begin() -> u64 {
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    NUMBER.set((number, pid()));
    // A thread that is ending already is not noted, for nobody would cross it out.
    if LEAVING.try_with(|_| ()).is_ok() {
        IDENTS.get(|_| Mutex::default()).lock().insert(number, thread_ident());
    }
    number
}

/// `threading.get_ident()` of the thread with that number, while it runs.
pub fn ident_of(number: u64) -> Option<u64> {
    IDENTS.peek()?.lock().get(&number).copied()
}

/// Whether it is the number of a thread that does not run any more.
pub fn has_ended(number: u64) -> bool {
    number < NEXT.load(Ordering::Relaxed) && ident_of(number).is_none()
}
