//! A value that a forked child does not share with its parent.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

/// One value per process: a forked child gets its own, made on first use, and never looks at the inherited one again.
///
/// The inherited value is neither dropped nor locked in the child: another thread of the parent may have held its
/// locks when the fork happened. It stays allocated for as long as the `PerProcess` itself.
pub struct PerProcess<T> {
    first: OnceLock<Box<Node<T>>>,
}

struct Node<T> {
    pid: u32,
    value: T,
    next: OnceLock<Box<Node<T>>>,
}

impl<T> PerProcess<T> {
    pub const fn new() -> Self {
        Self { first: OnceLock::new() }
    }

    /// The value of this process. `make` builds it if there is none yet, given the parent's value after a fork.
    pub fn get(&self, make: impl FnOnce(Option<&T>) -> T) -> &T {
        let pid = pid();
        let mut parent = None;
        let mut slot = &self.first;
        while let Some(node) = slot.get() {
            if node.pid == pid {
                return &node.value;
            }
            parent = Some(&node.value);
            slot = &node.next;
        }
        &slot.get_or_init(|| Box::new(Node { pid, value: make(parent), next: OnceLock::new() })).value
    }

    /// The value of this process if it has been made.
    pub fn peek(&self) -> Option<&T> {
        let pid = pid();
        let mut slot = &self.first;
        while let Some(node) = slot.get() {
            if node.pid == pid {
                return Some(&node.value);
            }
            slot = &node.next;
        }
        None
    }
}

impl<T> Default for PerProcess<T> {
    fn default() -> Self {
        Self::new()
    }
}

/// The id of this process, without a system call: a handler forgets it in forked children.
pub fn pid() -> u32 {
    match PID.load(Ordering::Relaxed) {
        0 => first_pid(),
        pid => pid,
    }
}

/// 0 until it is asked for.
static PID: AtomicU32 = AtomicU32::new(0);

#[cold]
#[cfg(unix)]
#[allow(unsafe_code)]
fn first_pid() -> u32 {
    static WATCH: OnceLock<bool> = OnceLock::new();
    extern "C" fn forget() {
        PID.store(0, Ordering::Relaxed);
    }
    // SAFETY: the handler does nothing but store to a static, which is allowed in a forked child.
    let watched = *WATCH.get_or_init(|| unsafe { libc::pthread_atfork(None, None, Some(forget)) } == 0);
    let pid = std::process::id();
    if watched {
        PID.store(pid, Ordering::Relaxed);
    }
    pid
}

#[cold]
#[cfg(not(unix))]
fn first_pid() -> u32 {
    PID.store(std::process::id(), Ordering::Relaxed);
    std::process::id()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_made_once() {
        let value = PerProcess::new();
        assert!(value.peek().is_none());
        assert_eq!(*value.get(|parent: Option<&i32>| parent.map_or(1, |p| p + 1)), 1);
        assert_eq!(*value.get(|_| 9), 1);
        assert_eq!(value.peek(), Some(&1));
    }
}
