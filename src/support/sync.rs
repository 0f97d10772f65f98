//! One exclusive-access cell for state that the interpreter lock already serialises.
//!
//! Under the GIL a thread that is attached to the interpreter excludes every other one, so the cache's hot path needs
//! no mutex of its own: attachment is the lock. [`AttachedCell`] is the single place that relies on it; a
//! free-threaded build replaces its body by a real mutex and nothing else changes.
#![allow(unsafe_code)]

use std::cell::{Cell, UnsafeCell};
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};

/// Evidence that the caller excludes all other users of an [`AttachedCell`] for as long as the value lives.
///
/// # Safety
/// Implement it only for tokens that at most one thread can hold at a time and that cannot be sent to another thread.
pub unsafe trait Exclusion: Copy {}

/// Interior mutability guarded by an [`Exclusion`] token instead of a lock.
///
/// The closure passed to [`with`](Self::with) must not run foreign code: entering the cell again from inside is a bug
/// and panics.
///
/// All zeros are a cell in use: Python 3.11 may collect between the allocation of an object and the moment its fields are
/// written, and the collector must find nothing in it then.
pub struct AttachedCell<T> {
    free: Cell<bool>,
    value: UnsafeCell<T>,
}

// SAFETY: every access goes through `with`/`try_with`, which demand an Exclusion token; by its contract one thread
// holds such a token at a time, so the cell is never touched by two threads at once.
unsafe impl<T: Send> Sync for AttachedCell<T> {}

impl<T> AttachedCell<T> {
    pub const fn new(value: T) -> Self {
        Self { free: Cell::new(true), value: UnsafeCell::new(value) }
    }

    /// Runs `body` with exclusive access.
    ///
    /// # Panics
    /// If `body` of an outer call on the same cell is still running.
    #[inline(always)]
    pub fn with<R>(&self, _token: impl Exclusion, body: impl FnOnce(&mut T) -> R) -> R {
        assert!(self.free.get(), "AttachedCell entered twice");
        self.free.set(false);
        let guard = Leave(&self.free);
        // SAFETY: the token excludes other threads, the `free` flag excludes re-entry from this one.
        let result = body(unsafe { &mut *self.value.get() });
        drop(guard);
        result
    }

    /// [`with`](Self::with) as a guard, for paths where the closure itself would be in the way of inlining.
    ///
    /// # Panics
    /// If the cell is in use further up the stack.
    #[inline(always)]
    pub fn enter<X: Exclusion>(&self, _token: X) -> Entered<'_, T> {
        assert!(self.free.get(), "AttachedCell entered twice");
        self.free.set(false);
        Entered { cell: self, _unsendable: PhantomData }
    }

    /// Like [`with`](Self::with), for the garbage collector's traversal, which may strike at any allocation and has no
    /// token to show: `None` if the cell is in use.
    ///
    /// # Safety
    /// The caller must be attached to the interpreter (a `tp_traverse` or `tp_clear` slot is).
    pub unsafe fn try_with_unchecked<R>(&self, body: impl FnOnce(&mut T) -> R) -> Option<R> {
        if !self.free.replace(false) {
            return None;
        }
        let _guard = Leave(&self.free);
        // SAFETY: as in `with`, with the caller's promise in place of the token.
        Some(body(unsafe { &mut *self.value.get() }))
    }
}

/// Exclusive access to what an [`AttachedCell`] holds. Must not outlive the token it was made with: it cannot be sent to
/// another thread, and no caller may detach while it lives.
pub struct Entered<'a, T> {
    cell: &'a AttachedCell<T>,
    _unsendable: PhantomData<*const ()>,
}

impl<T> Deref for Entered<'_, T> {
    type Target = T;

    #[inline(always)]
    fn deref(&self) -> &T {
        // SAFETY: the `free` flag is down until the guard is dropped, and the token excluded other threads.
        unsafe { &*self.cell.value.get() }
    }
}

impl<T> DerefMut for Entered<'_, T> {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: as in `deref`.
        unsafe { &mut *self.cell.value.get() }
    }
}

impl<T> Drop for Entered<'_, T> {
    #[inline(always)]
    fn drop(&mut self) {
        self.cell.free.set(true);
    }
}

/// Resets the flag also when the body unwinds.
struct Leave<'a>(&'a Cell<bool>);

impl Drop for Leave<'_> {
    fn drop(&mut self) {
        self.0.set(true);
    }
}

#[cfg(test)]
mod tests {
    use std::marker::PhantomData;

    use super::*;

    #[derive(Clone, Copy)]
    struct Single(PhantomData<*const ()>);
    // SAFETY: the test runs on one thread.
    unsafe impl Exclusion for Single {}

    const TOKEN: Single = Single(PhantomData);

    #[test]
    fn gives_access_and_returns_the_result() {
        let cell = AttachedCell::new(1);
        assert_eq!(
            cell.with(TOKEN, |value| {
                *value += 1;
                *value
            }),
            2
        );
    }

    #[test]
    #[should_panic(expected = "entered twice")]
    fn refuses_re_entry() {
        let cell = AttachedCell::new(1);
        cell.with(TOKEN, |_| cell.with(TOKEN, |value| *value));
    }

    #[test]
    fn traversal_yields_nothing_while_in_use() {
        let cell = AttachedCell::new(1);
        // SAFETY: single-threaded test.
        cell.with(TOKEN, |_| assert!(unsafe { cell.try_with_unchecked(|value| *value) }.is_none()));
        // SAFETY: single-threaded test.
        assert_eq!(unsafe { cell.try_with_unchecked(|value| *value) }, Some(1));
    }

    #[test]
    fn traversal_yields_nothing_before_the_cell_is_written() {
        let memory = std::mem::MaybeUninit::<AttachedCell<Box<u8>>>::zeroed();
        // SAFETY: single-threaded test; of a cell that says it is in use the value is not looked at.
        assert!(unsafe { (*memory.as_ptr()).try_with_unchecked(|value| **value) }.is_none());
    }
}
