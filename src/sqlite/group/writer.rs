//! The writing connection: transactions, and savepoints within them.
#![allow(unsafe_code)]

use std::ffi::{CStr, c_char, c_int, c_void};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use rusqlite::ffi;

use super::guard::{Authorizer, Guard};
use super::request::{Durability, Request, WriteError, Written};
use super::statement::{self, Cache};
use crate::sqlite::{Db, Entered, Failure};
use crate::support::backoff;

/// Pages in the log from which on it is copied into the file, and how many more make it worth trying again while readers
/// keep it from being emptied.
const CHECKPOINT: u32 = 1_000;
const AGAIN: u32 = 250;

pub(super) struct Writer {
    cache: Cache,
    /// Installed with the first transaction.
    guard: Option<Arc<Guard>>,
    /// Until then.
    authorizer: Option<Authorizer>,
    /// What commits survive now.
    level: Option<Durability>,
    control: [Option<Control>; STEPS],
    /// Pages in the log after the last commit. SQLite has its address.
    pages: Arc<AtomicU32>,
    /// The same when it was copied last.
    copied: u32,
}

/// What became of one request.
pub(super) enum Ran {
    Done(Written),
    /// Nothing of it is left; the transaction goes on.
    Refused(WriteError),
    /// The whole transaction is rolled back for what this one asked for. The others are free to try again.
    Ended(WriteError),
    /// The whole transaction is lost.
    Lost(Failure),
    /// The whole transaction was committed by this one, against all precautions.
    Committed(Result<Written, WriteError>),
}

#[derive(Clone, Copy)]
enum Step {
    Begin,
    Commit,
    Rollback,
    Savepoint,
    Release,
    Undo,
}

const STEPS: usize = 6;

impl Step {
    fn sql(self) -> &'static CStr {
        match self {
            Self::Begin => c"BEGIN IMMEDIATE",
            Self::Commit => c"COMMIT",
            Self::Rollback => c"ROLLBACK",
            Self::Savepoint => c"SAVEPOINT upshift",
            Self::Release => c"RELEASE upshift",
            Self::Undo => c"ROLLBACK TO upshift",
        }
    }
}

/// A prepared step.
struct Control {
    db: Arc<Db>,
    raw: *mut ffi::sqlite3_stmt,
}

// SAFETY: it is used by the thread that has entered the connection only.
unsafe impl Send for Control {}

impl Drop for Control {
    fn drop(&mut self) {
        // SAFETY: a statement of this connection that is not used any more.
        unsafe { self.db.discard(self.raw) };
    }
}

impl Writer {
    pub fn new(authorizer: Option<Authorizer>) -> Self {
        let control = Default::default();
        Self { cache: Cache::new(), guard: None, authorizer, level: None, control, pages: Arc::default(), copied: 0 }
    }

    /// SQLite is not to checkpoint within commits of this connection: [`checkpoint`](Self::checkpoint) does it after them,
    /// when the callers have their answers.
    fn watch_log(&self, entered: &Entered<'_>) {
        // SAFETY: the connection is open and entered. The address is that of the counter, which `Group` keeps for longer
        // than its connection runs statements.
        unsafe { ffi::sqlite3_wal_hook(entered.raw(), Some(on_commit), Arc::as_ptr(&self.pages).cast_mut().cast()) };
    }

    /// Whether it is time for a checkpoint.
    pub fn is_log_full(&self) -> bool {
        let pages = self.pages.load(Ordering::Relaxed);
        pages >= CHECKPOINT && (pages < self.copied || pages - self.copied >= AGAIN)
    }

    /// Copies the log into the file, as far as readers allow. What goes wrong shows in the next commit.
    pub fn checkpoint(&mut self, entered: &Entered<'_>) {
        let (mut pages, mut done) = (0, 0);
        // SAFETY: the connection is open and entered; both places hold an int.
        unsafe {
            let kind = ffi::SQLITE_CHECKPOINT_PASSIVE;
            ffi::sqlite3_wal_checkpoint_v2(entered.raw(), c"main".as_ptr(), kind, &mut pages, &mut done);
        }
        // What is copied whole begins anew with the next commit.
        self.copied = if done == pages { 0 } else { u32::try_from(pages).unwrap_or(0) };
        self.pages.store(0, Ordering::Relaxed);
    }

    /// Starts a transaction whose commit survives what `level` says. While another process writes, `give_up` is asked
    /// again and again, given the refusal.
    pub fn begin(
        &mut self,
        db: &Arc<Db>,
        entered: &Entered<'_>,
        level: Durability,
        give_up: &mut dyn FnMut(Failure) -> Option<WriteError>,
    ) -> Result<(), WriteError> {
        if self.level.is_none() {
            self.watch_log(entered);
        }
        if self.level != Some(level) {
            statement::execute(
                entered,
                match level {
                    Durability::Process => c"PRAGMA synchronous = NORMAL",
                    Durability::Power => c"PRAGMA synchronous = FULL",
                },
            )?;
            self.level = Some(level);
        }
        self.guard.get_or_insert_with(|| Guard::install(db, entered, self.authorizer.take())).begin();
        self.patiently(db, entered, Step::Begin, give_up)
    }

    /// Makes everything since [`begin`](Self::begin) last. If that fails, it is rolled back.
    pub fn commit(
        &mut self,
        db: &Arc<Db>,
        entered: &Entered<'_>,
        give_up: &mut dyn FnMut(Failure) -> Option<WriteError>,
    ) -> Result<(), WriteError> {
        let committed = self.patiently(db, entered, Step::Commit, give_up);
        if committed.is_err() {
            self.rollback(db, entered);
        }
        committed
    }

    pub fn rollback(&mut self, db: &Arc<Db>, entered: &Entered<'_>) {
        if entered.in_transaction() {
            // What cannot be rolled back now is rolled back when the file is next opened.
            drop(self.step(db, entered, Step::Rollback));
        }
    }

    /// Runs a request within the transaction; the first one of it needs no savepoint.
    pub fn run(&mut self, db: &Arc<Db>, entered: &Entered<'_>, request: &Request, is_first: bool) -> Ran {
        if !is_first {
            if let Err(failure) = self.step(db, entered, Step::Savepoint) {
                return self.lose(db, entered, failure);
            }
        }
        let guard = self.guard.get_or_insert_with(|| Guard::install(db, entered, self.authorizer.take()));
        let outcome = self.cache.run(db, entered, guard, &request.sql, &request.params);
        if !entered.in_transaction() && guard.has_committed() {
            entered.clear_failed_callback();
            return Ran::Committed(outcome);
        }
        let outcome = match outcome {
            _ if entered.has_failed_callback() => {
                // A collation, say: SQLite took a made-up answer for its own.
                entered.clear_failed_callback();
                let message = "a callback of the connection raised an exception".to_owned();
                Err(Failure { code: ffi::SQLITE_ERROR, message }.into())
            }
            Ok(_) if !entered.in_transaction() => {
                let message = "the statement rolled back the transaction that it shares with other writes".to_owned();
                Err(WriteError::Misused(message))
            }
            Ok(_) if statement::has_open_references(entered) => {
                // Alone it would be checked by its own commit.
                let message = "FOREIGN KEY constraint failed".to_owned();
                Err(Failure { code: ffi::SQLITE_CONSTRAINT_FOREIGNKEY, message }.into())
            }
            other => other,
        };
        match outcome {
            Ok(written) if is_first => Ran::Done(written),
            Ok(written) => match self.step(db, entered, Step::Release) {
                Ok(()) => Ran::Done(written),
                Err(failure) => self.lose(db, entered, failure),
            },
            Err(error) if !entered.in_transaction() => match error {
                WriteError::Sqlite(failure) if failure.primary() != ffi::SQLITE_CONSTRAINT => Ran::Lost(failure),
                error => Ran::Ended(error),
            },
            Err(error) if is_first => {
                self.rollback(db, entered);
                Ran::Ended(error)
            }
            Err(error) => {
                let undone = self.step(db, entered, Step::Undo).and_then(|()| self.step(db, entered, Step::Release));
                match undone {
                    Ok(()) => Ran::Refused(error),
                    Err(failure) => self.lose(db, entered, failure),
                }
            }
        }
    }

    fn lose(&mut self, db: &Arc<Db>, entered: &Entered<'_>, failure: Failure) -> Ran {
        self.rollback(db, entered);
        Ran::Lost(failure)
    }

    fn patiently(
        &mut self,
        db: &Arc<Db>,
        entered: &Entered<'_>,
        step: Step,
        give_up: &mut dyn FnMut(Failure) -> Option<WriteError>,
    ) -> Result<(), WriteError> {
        let mut tries = 0;
        loop {
            match self.step(db, entered, step) {
                Ok(()) => return Ok(()),
                Err(failure) if matches!(failure.primary(), ffi::SQLITE_BUSY | ffi::SQLITE_LOCKED) => {
                    if let Some(error) = give_up(failure) {
                        return Err(error);
                    }
                    backoff::sleep(&mut tries);
                }
                Err(failure) => return Err(failure.into()),
            }
        }
    }

    fn step(&mut self, db: &Arc<Db>, entered: &Entered<'_>, step: Step) -> Result<(), Failure> {
        let place = &mut self.control[step as usize];
        let control = match place {
            Some(control) => control,
            None => place.insert(Control::prepare(db, entered, step.sql())?),
        };
        // SAFETY: a statement of this connection, which is open and entered.
        unsafe {
            let code = ffi::sqlite3_step(control.raw);
            let failed = (code != ffi::SQLITE_DONE).then(|| entered.failure(code));
            ffi::sqlite3_reset(control.raw);
            failed.map_or(Ok(()), Err)
        }
    }
}

unsafe extern "C" fn on_commit(pages: *mut c_void, _: *mut ffi::sqlite3, _: *const c_char, now: c_int) -> c_int {
    // SAFETY: the counter that was registered.
    unsafe { &*pages.cast::<AtomicU32>() }.store(u32::try_from(now).unwrap_or(0), Ordering::Relaxed);
    ffi::SQLITE_OK
}

impl Control {
    fn prepare(db: &Arc<Db>, entered: &Entered<'_>, sql: &CStr) -> Result<Self, Failure> {
        let mut raw = std::ptr::null_mut();
        // SAFETY: the connection is open and entered, the text is terminated.
        let code = unsafe { ffi::sqlite3_prepare_v2(entered.raw(), sql.as_ptr(), -1, &mut raw, std::ptr::null_mut()) };
        if code != ffi::SQLITE_OK {
            return Err(entered.failure(code));
        }
        entered.remember(raw);
        Ok(Self { db: Arc::clone(db), raw })
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::request::Params;
    use super::*;
    use crate::sqlite::Open;
    use crate::sqlite::lane::Actor;

    /// `end_with(sql)` runs a statement on the very connection; nothing that a request can say does.
    unsafe extern "C" fn end_with(
        context: *mut ffi::sqlite3_context,
        _: c_int,
        arguments: *mut *mut ffi::sqlite3_value,
    ) {
        // SAFETY: called by SQLite with one argument, on the thread inside the connection.
        unsafe {
            let sql = ffi::sqlite3_value_text(*arguments).cast();
            let db = ffi::sqlite3_context_db_handle(context);
            let code = ffi::sqlite3_exec(db, sql, None, std::ptr::null_mut(), std::ptr::null_mut());
            ffi::sqlite3_result_int(context, code);
        }
    }

    /// What becomes of `end_with(sql)` after an INSERT in the same transaction, and of the INSERT.
    fn ended_with(sql: &str) -> (Ran, bool) {
        let db = Db::open(Path::new(":memory:"), &Open::default()).unwrap();
        let entered = db.enter();
        // SAFETY: an open connection, a terminated name.
        unsafe {
            let name = c"end_with".as_ptr();
            let data = std::ptr::null_mut();
            ffi::sqlite3_create_function_v2(
                entered.raw(),
                name,
                1,
                ffi::SQLITE_UTF8,
                data,
                Some(end_with),
                None,
                None,
                None,
            );
        }
        statement::execute(&entered, c"CREATE TABLE t (x)").unwrap();
        let mut writer = Writer::new(None);
        let mut run = |sql: &str, is_first| {
            let (params, durability) = (Params::Positional(Vec::new()), Durability::Process);
            let request = Request { sql: sql.into(), params, durability, actor: Actor::thread(1) };
            if is_first {
                writer.begin(&db, &entered, Durability::Process, &mut |failure| Some(failure.into())).unwrap();
            }
            writer.run(&db, &entered, &request, is_first)
        };
        assert!(matches!(run("INSERT INTO t VALUES (1)", true), Ran::Done(_)));
        let ran = run(&format!("SELECT end_with('{sql}')"), false);
        assert!(!entered.in_transaction());
        let is_kept =
            statement::execute(&entered, c"CREATE UNIQUE INDEX i ON t (x); INSERT INTO t VALUES (1)").is_err();
        (ran, is_kept)
    }

    #[test]
    fn whoever_shared_a_transaction_that_something_ended_is_told_what_became_of_it() {
        let (ran, is_kept) = ended_with("COMMIT");
        assert!(matches!(ran, Ran::Committed(Ok(_))) && is_kept);
        let (ran, is_kept) = ended_with("ROLLBACK");
        assert!(matches!(ran, Ran::Ended(_) | Ran::Lost(_)) && !is_kept);
    }
}
