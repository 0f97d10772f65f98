//! Copies a database into another one while both are in use.
#![allow(unsafe_code)]

use std::ffi::{CStr, c_int};
use std::sync::Arc;

use rusqlite::ffi;

use super::handle::{Db, Entered, Failure, Pin, Target};

/// A copy in progress. Between its steps others may use the source, and close neither.
pub struct Backup {
    /// Null once finished.
    raw: *mut ffi::sqlite3_backup,
    source: Arc<Db>,
    target: Arc<Db>,
    _pins: (Pin, Target),
}

// SAFETY: the pointer is only used by a thread that has entered both connections.
unsafe impl Send for Backup {}

/// What a step has left.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    /// `SQLITE_DONE` at the end; `SQLITE_OK`, `SQLITE_BUSY` and `SQLITE_LOCKED` ask for another step.
    pub code: c_int,
    /// Pages to be copied.
    pub remaining: c_int,
    pub total: c_int,
}

/// Both connections, for this thread. Never waits for one while it keeps others from the other one.
pub fn enter_both<'a>(one: &'a Db, other: &'a Db) -> (Entered<'a>, Entered<'a>) {
    loop {
        let first = one.enter();
        if let Some(second) = other.try_enter() {
            return (first, second);
        }
        drop(first);
        let second = other.enter();
        if let Some(first) = one.try_enter() {
            return (first, second);
        }
    }
}

impl Backup {
    /// Begins to copy database `name` of `source` into the main database of `target`.
    pub fn begin(
        (source, source_inside): (&Arc<Db>, &Entered<'_>),
        (target, target_inside): (&Arc<Db>, &Entered<'_>),
        name: &CStr,
    ) -> Result<Self, Failure> {
        let both_open = std::ptr::eq(source_inside.db(), &**source)
            && std::ptr::eq(target_inside.db(), &**target)
            && source.is_open()
            && target.is_open();
        if !both_open {
            return Err(Failure::of_code(ffi::SQLITE_MISUSE));
        }
        let failure = |message: &str| Failure { code: ffi::SQLITE_ERROR, message: message.to_owned() };
        if source.is_target() {
            return Err(failure("source database is the target of another backup"));
        }
        let Some(target_pin) = target_inside.become_target(target) else {
            return Err(failure("destination database is in use"));
        };
        // SAFETY: both are open and entered, the names are terminated.
        let raw = unsafe {
            ffi::sqlite3_backup_init(target_inside.raw(), c"main".as_ptr(), source_inside.raw(), name.as_ptr())
        };
        if raw.is_null() {
            return Err(target_inside.last_failure());
        }
        let pins = (source.pin(), target_pin);
        Ok(Self { raw, source: Arc::clone(source), target: Arc::clone(target), _pins: pins })
    }

    /// Copies up to `pages` pages; all if negative.
    pub fn step(&mut self, source: &Entered<'_>, target: &Entered<'_>, pages: c_int) -> Step {
        self.check(source, target);
        // SAFETY: not finished, and both connections are open (pinned) and entered.
        unsafe {
            Step {
                code: ffi::sqlite3_backup_step(self.raw, pages),
                remaining: ffi::sqlite3_backup_remaining(self.raw),
                total: ffi::sqlite3_backup_pagecount(self.raw),
            }
        }
    }

    /// Ends it, complete or not.
    pub fn finish(mut self, source: &Entered<'_>, target: &Entered<'_>) -> Result<(), Failure> {
        self.check(source, target);
        let raw = std::mem::replace(&mut self.raw, std::ptr::null_mut());
        // SAFETY: as in `step`; it is not used any more.
        let code = unsafe { ffi::sqlite3_backup_finish(raw) };
        // The code is that of the backup, the connections may tell of something else.
        if code == ffi::SQLITE_OK { Ok(()) } else { Err(Failure::of_code(code)) }
    }

    fn check(&self, source: &Entered<'_>, target: &Entered<'_>) {
        assert!(
            std::ptr::eq(source.db(), &*self.source) && std::ptr::eq(target.db(), &*self.target),
            "a backup is stepped inside its own connections"
        );
    }
}

impl Drop for Backup {
    fn drop(&mut self) {
        if !self.raw.is_null() && self.source.is_ours() {
            let (source, target) = (Arc::clone(&self.source), Arc::clone(&self.target));
            let _both = enter_both(&source, &target);
            // SAFETY: as in `finish`.
            unsafe { ffi::sqlite3_backup_finish(self.raw) };
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::sqlite::Open;

    fn memory() -> Arc<Db> {
        Db::open(Path::new(":memory:"), &Open::default()).unwrap()
    }

    fn run(db: &Db, sql: &CStr) -> c_int {
        let entered = db.enter();
        let nothing = std::ptr::null_mut();
        // SAFETY: an open connection, a terminated text.
        unsafe { ffi::sqlite3_exec(entered.raw(), sql.as_ptr(), None, nothing, std::ptr::null_mut()) }
    }

    #[test]
    fn copies_page_by_page_and_keeps_both_open() {
        let (source, target) = (memory(), memory());
        assert_eq!(run(&source, c"CREATE TABLE t (a); INSERT INTO t VALUES (zeroblob(20000))"), ffi::SQLITE_OK);
        let (inside, target_inside) = enter_both(&source, &target);
        let mut backup = Backup::begin((&source, &inside), (&target, &target_inside), c"main").unwrap();
        assert!(inside.is_busy() && target_inside.is_busy());
        let mut steps = 0;
        while backup.step(&inside, &target_inside, 1).code == ffi::SQLITE_OK {
            steps += 1;
        }
        assert!(steps > 3);
        backup.finish(&inside, &target_inside).unwrap();
        assert!(!inside.is_busy() && !target_inside.is_busy());
        assert_eq!(run(&target, c"SELECT a FROM t"), ffi::SQLITE_OK);
    }

    #[test]
    fn one_given_up_leaves_its_target_usable() {
        let (source, target) = (memory(), memory());
        run(&source, c"CREATE TABLE t (a); INSERT INTO t VALUES (zeroblob(20000))");
        {
            let (inside, target_inside) = enter_both(&source, &target);
            let mut backup = Backup::begin((&source, &inside), (&target, &target_inside), c"main").unwrap();
            backup.step(&inside, &target_inside, 1);
        }
        assert_eq!(run(&target, c"CREATE TABLE u (a)"), ffi::SQLITE_OK);
        let (inside, target_inside) = enter_both(&source, &target);
        let error = Backup::begin((&source, &inside), (&target, &target_inside), c"nowhere").err().unwrap();
        assert_eq!(error.to_string(), "unknown database nowhere");
    }

    #[test]
    fn a_target_takes_part_in_no_other_backup() {
        let (source, target, third) = (memory(), memory(), memory());
        run(&source, c"CREATE TABLE t (a); INSERT INTO t VALUES (zeroblob(20000))");
        let (inside, target_inside) = enter_both(&source, &target);
        let third_inside = third.enter();
        let mut backup = Backup::begin((&source, &inside), (&target, &target_inside), c"main").unwrap();
        backup.step(&inside, &target_inside, 1);
        assert!(target.is_target() && !source.is_target());
        for (from, into) in [(&third, &target), (&third, &source), (&target, &third)] {
            let (from_inside, into_inside) = (from.enter(), into.enter());
            let refused = Backup::begin((from, &from_inside), (into, &into_inside), c"main").err().unwrap();
            assert_eq!(refused.code, ffi::SQLITE_ERROR);
        }
        assert!(!third.is_target());
        // A source may be read by several.
        drop(Backup::begin((&source, &inside), (&third, &third_inside), c"main").unwrap());
        while backup.step(&inside, &target_inside, 1).code == ffi::SQLITE_OK {}
        backup.finish(&inside, &target_inside).unwrap();
        assert!(!target.is_target());
    }

    #[test]
    fn entering_both_from_two_sides_never_ends_in_a_deadlock() {
        let (one, other) = (memory(), memory());
        std::thread::scope(|scope| {
            for (first, second) in [(&one, &other), (&other, &one)] {
                scope.spawn(move || (0..10_000).for_each(|_| drop(enter_both(first, second))));
            }
        });
    }
}
