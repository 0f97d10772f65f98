//! Connections work through the parts of a scan.

#![allow(unsafe_code)]

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use parking_lot::Mutex;

use super::ranges::ranges;
use super::snapshot::Snapshot;
use super::split::{FIRST, LAST, Split, split};
use super::statement::Statement;
use super::{Parameters, ScanError};
use crate::sqlite::columns::{Batch, Builder, Fault, Limits, unify};
use crate::sqlite::{Db, Entered};

/// Parts for each connection, so that uneven ones even out.
const PARTS: usize = 8;
/// Rows of a batch, and its size.
const LIMITS: Limits = Limits { rows: 65_536, bytes: 32 << 20 };
/// How often the caller is asked whether to go on.
const CHECK: Duration = Duration::from_millis(50);

/// What is read.
#[derive(Clone, Debug)]
pub struct Scan {
    pub sql: String,
    pub part: Part,
}

/// How it is divided.
#[derive(Clone, Debug)]
pub enum Part {
    /// By rowid.
    Rowid(Parameters),
    /// By the application: the statement is run with each of these.
    Given(Vec<Parameters>),
}

/// Tells all connections of a scan to stop.
#[derive(Default)]
struct Cancel(AtomicBool);

impl Cancel {
    fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    fn set(&self, connections: &[&Db]) {
        self.0.store(true, Ordering::Relaxed);
        for db in connections {
            db.interrupt();
        }
    }
}

/// The statement of every part, and what differs.
enum Work {
    Ranges { split: Split, ranges: Vec<(i64, i64)>, parameters: Parameters },
    Sets { sql: String, sets: Vec<Parameters> },
}

impl Work {
    fn parts(&self) -> usize {
        match self {
            Self::Ranges { ranges, .. } => ranges.len(),
            Self::Sets { sets, .. } => sets.len(),
        }
    }

    fn sql(&self) -> &str {
        match self {
            Self::Ranges { split, .. } => &split.sql,
            Self::Sets { sql, .. } => sql,
        }
    }
}

/// Reads everything through the connections of the snapshot. `stop` is asked now and then by the calling thread.
///
/// The columns of all batches are alike.
pub fn read(snapshot: &Snapshot<'_>, scan: &Scan, mut stop: impl FnMut() -> bool) -> Result<Vec<Batch>, ScanError> {
    let connections = snapshot.connections();
    let work = plan(connections, scan)?;
    let run = Run { work, next: AtomicUsize::new(0), results: Mutex::default(), cancel: Cancel::default() };
    let workers = connections.len().min(run.work.parts());
    let (ended, ends) = channel();
    let outcome = thread::scope(|scope| {
        let mut failure = None;
        let mut started = 0;
        for db in &connections[..workers] {
            let (run, ended) = (&run, ended.clone());
            let work = move || {
                // The receiver stays until all have ended.
                let _ = ended.send(run.work_through(db));
            };
            match thread::Builder::new().name("upshift-scan".to_owned()).spawn_scoped(scope, work) {
                Ok(_) => started += 1,
                // Those that could be started do it all.
                Err(error) if started == 0 => return Err(ScanError::Thread(error)),
                Err(_) => break,
            }
        }
        drop(ended);
        loop {
            match ends.recv_timeout(CHECK) {
                Ok(Ok(())) => {}
                // The first counts: it interrupts the others.
                Ok(Err(error)) if failure.is_none() => {
                    failure = Some(error);
                    run.cancel.set(connections);
                }
                Ok(Err(_)) => {}
                Err(RecvTimeoutError::Timeout) => {
                    if failure.is_none() && stop() {
                        failure = Some(ScanError::Cancelled);
                    }
                    if failure.is_some() {
                        // Again and again: one may have been between two statements.
                        run.cancel.set(connections);
                    }
                }
                Err(RecvTimeoutError::Disconnected) => return failure.map_or(Ok(()), Err),
            }
        }
    });
    outcome?;
    let mut results = run.results.into_inner();
    results.sort_by_key(|&(part, _)| part);
    let mut batches: Vec<Batch> = results.into_iter().flat_map(|(_, batches)| batches).collect();
    // An empty one is only of use if there is no other.
    if batches.iter().any(|batch| batch.rows > 0) {
        batches.retain(|batch| batch.rows > 0);
    } else {
        batches.truncate(1);
    }
    unify(&mut batches).map_err(ScanError::Fault)?;
    Ok(batches)
}

fn plan(connections: &[&Db], scan: &Scan) -> Result<Work, ScanError> {
    let Some(db) = connections.first() else {
        return Err(ScanError::Parameters("a scan needs a connection".to_owned()));
    };
    let entered = db.enter();
    match &scan.part {
        Part::Given(sets) => {
            let statement = Statement::prepare(&entered, &scan.sql)?;
            if !statement.is_readonly() || statement.columns() == 0 {
                return Err(ScanError::Parameters("a scan reads: it takes a SELECT".to_owned()));
            }
            Ok(Work::Sets { sql: scan.sql.clone(), sets: sets.clone() })
        }
        Part::Rowid(parameters) => {
            let split = split(&entered, &scan.sql)?;
            let mut ranges = ranges(&entered, &split, connections.len() * PARTS)?;
            if ranges.is_empty() {
                // No rows, but columns.
                ranges.push((1, 0));
            }
            Ok(Work::Ranges { split, ranges, parameters: parameters.clone() })
        }
    }
}

struct Run {
    work: Work,
    /// The next part that nobody has taken.
    next: AtomicUsize,
    /// What has been read, by part.
    results: Mutex<Vec<(usize, Vec<Batch>)>>,
    cancel: Cancel,
}

impl Run {
    /// One connection's share.
    fn work_through(&self, db: &Db) -> Result<(), ScanError> {
        let entered = db.enter();
        let statement = Statement::prepare(&entered, self.work.sql())?;
        let bounds = match &self.work {
            Work::Ranges { parameters, .. } => {
                let bounds = [FIRST, LAST].map(|name| statement.place(name).unwrap_or(0));
                statement.bind_all(parameters, &bounds)?;
                bounds
            }
            Work::Sets { .. } => [0; 2],
        };
        loop {
            let part = self.next.fetch_add(1, Ordering::Relaxed);
            if part >= self.work.parts() || self.cancel.is_set() {
                return Ok(());
            }
            match &self.work {
                Work::Ranges { ranges, .. } => {
                    let (first, last) = ranges[part];
                    statement.bind(bounds[0], &first.into())?;
                    statement.bind(bounds[1], &last.into())?;
                }
                Work::Sets { sets, .. } => statement.bind_all(&sets[part], &[])?,
            }
            let batches = self.read_part(&entered, &statement)?;
            self.results.lock().push((part, batches));
        }
    }

    fn read_part(&self, entered: &Entered<'_>, statement: &Statement<'_, '_>) -> Result<Vec<Batch>, ScanError> {
        let mut builder = Builder::default();
        let mut at_row = false;
        let mut batches = Vec::new();
        loop {
            let before = builder.rows();
            entered.set_running(true);
            // SAFETY: the statement is alive, its connection entered.
            let filled = unsafe { builder.fill(statement.raw(), &mut at_row, LIMITS) };
            entered.set_running(false);
            let ended = filled.map_err(|fault| match fault {
                Fault::Sqlite(code) => ScanError::Sqlite(entered.failure(code)),
                fault => ScanError::Fault(fault),
            })?;
            let mut batch = builder.take();
            for misfit in batch.columns.iter_mut().filter_map(|column| column.misfit.as_mut()) {
                misfit.row -= before;
            }
            // The first one tells the columns even without rows.
            if batch.rows > 0 || batches.is_empty() {
                batches.push(batch);
            }
            if ended {
                statement.reset();
                return Ok(batches);
            }
            if self.cancel.is_set() {
                return Err(ScanError::Cancelled);
            }
        }
    }
}
