//! Tasks in their file: every change is one statement of the group that writes to it.

use std::ffi::CString;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::identity::Identity;
use super::schema;
use super::state::{Caps, Event, Past, Status, after};
use crate::sqlite::group::guard::Guard;
use crate::sqlite::group::statement::Cache;
use crate::sqlite::group::{Caller, Durability, Group, Params, Request, Value, WriteError, Written};
use crate::sqlite::lane::{self, Actor, Key};
use crate::sqlite::opener::{self, Opener};
use crate::sqlite::{Db, Failure, Open, raw};
use crate::support::clock;
use crate::support::runtime::pid;

/// How long opening waits for others that write.
const OPENING: Duration = Duration::from_secs(30);
const BUSY_STEP: Duration = Duration::from_millis(1);
/// How long background work waits for its turn to write; then it is tried again.
const TURN: u64 = 30_000_000_000;
/// The same for what need not be done now.
const MOMENT: u64 = 20_000_000;

/// What is to be done.
#[derive(Clone, Debug)]
pub struct New {
    pub kind: String,
    pub description: Option<String>,
    pub priority: i64,
    /// JSON.
    pub context: Option<String>,
    /// JSON: `due` (microseconds since the epoch), `retries`, `backoff`, `time_limit`, `key`.
    pub options: Option<String>,
}

/// A task that was claimed.
#[derive(Clone, Debug, PartialEq)]
pub struct Task {
    pub id: i64,
    pub kind: String,
    pub context: Option<String>,
    /// Proves that the lease is still this claim's.
    pub token: i64,
    pub attempt: i64,
    /// The priority, negative.
    pub rank: i64,
    pub failures: u32,
    pub retries: Option<u32>,
    pub backoff: Option<f64>,
    pub time_limit: Option<f64>,
    /// Somebody else queued it.
    pub adopted: bool,
}

/// What became of a claimed task.
#[derive(Clone, Debug, PartialEq)]
pub struct Done {
    pub task: i64,
    pub token: i64,
    pub rank: i64,
    pub end: End,
}

#[derive(Clone, Debug, PartialEq)]
pub enum End {
    /// With its result, JSON.
    Completed(String),
    Failed {
        error: String,
    },
    /// Failed, and is due again at this time (microseconds since the epoch).
    Again {
        error: String,
        due: i64,
    },
}

/// What a step did.
#[derive(Debug, Default, PartialEq)]
pub struct Step {
    /// Whether the end was recorded: false for a lease that somebody else has by now.
    pub recorded: bool,
    pub task: Option<Task>,
}

/// Another manager of the file.
#[derive(Clone, Debug)]
pub struct Other {
    pub id: i64,
    pub identity: Identity,
    pub beat: i64,
}

/// How a store is opened.
#[derive(Clone, Debug)]
pub struct Options {
    pub durability: Durability,
    /// Tasks of other managers are claimed too, if there is a handler.
    pub shared: bool,
}

pub struct Store {
    group: Arc<Group>,
    db: Arc<Db>,
    path: PathBuf,
    is_uri: bool,
    identity: Identity,
    manager: i64,
    shared: AtomicBool,
    durability: Durability,
    tokens: AtomicU64,
    legacy: i64,
    /// Steps that claim tasks of this manager only, and of any.
    own: Arc<str>,
    any: Arc<str>,
    /// Reads of the writing connection.
    reads: Mutex<Cache>,
    /// Of those: refuses nothing.
    guard: Guard,
    /// As of the last look at what others wrote, and of the last count.
    version: Mutex<i64>,
    counted: Mutex<i64>,
    /// Types that have handlers here, a JSON array.
    handled: Mutex<Arc<str>>,
}

static MEMORIES: AtomicU64 = AtomicU64::new(1);

fn open(path: &Path, durability: Durability) -> Result<(Arc<Db>, PathBuf, bool), Failure> {
    if !path.as_os_str().is_empty() && path != Path::new(":memory:") {
        let cannot = |_| Failure::of_code(raw::SQLITE_CANTOPEN);
        let path = std::path::absolute(path).map_err(cannot)?;
        if std::fs::metadata(&path).map_or(true, |found| found.len() == 0) {
            let new = Db::open(&path, &Open::default())?;
            // Refused only while another process does the same, and then it is done.
            drop(execute(&new, schema::FIRST));
        }
        let db = Opener::new(&path, durability).map_err(cannot)?.open(None)?;
        return Ok((db, path, false));
    }
    // Lives as long as the writing connection; others find it under its name.
    let number = MEMORIES.fetch_add(1, Ordering::Relaxed);
    let name = PathBuf::from(format!("file:/upshift-tasks-{}-{number}?vfs=memdb", pid()));
    let db = Db::open(&name, &Open { uri: true, existing: false })?;
    Ok((db, name, true))
}

/// Runs statements one after the other; they hold no NUL.
fn execute(db: &Db, sql: &str) -> Result<(), Failure> {
    let sql = CString::new(sql).map_err(|_| Failure::of_code(raw::SQLITE_MISUSE))?;
    opener::execute(&db.enter(), &sql)
}

fn create_tables(db: &Db) -> Result<(), Failure> {
    let until = Instant::now() + OPENING;
    while let Err(failure) = execute(db, "BEGIN IMMEDIATE") {
        if failure.primary() != raw::SQLITE_BUSY || Instant::now() >= until {
            return Err(failure);
        }
        std::thread::sleep(BUSY_STEP);
    }
    let made = execute(db, schema::TABLES).and_then(|()| execute(db, schema::WATERMARK));
    match made.and_then(|()| execute(db, "COMMIT")) {
        Ok(()) => Ok(()),
        Err(failure) => {
            // SQLite may have rolled back by itself.
            let _ = execute(db, "ROLLBACK");
            Err(failure)
        }
    }
}

impl Store {
    /// Opens the file, makes its tables if they are missing, and enters this manager.
    pub fn open(path: &Path, options: &Options) -> Result<Self, WriteError> {
        let (db, path, is_uri) = open(path, options.durability)?;
        create_tables(&db)?;
        let lane = db.enter().lane().cloned();
        let lane = lane.unwrap_or_else(|| lane::of(Key::Memory(format!("tasks {}", db.id()))));
        let mut store = Self {
            group: Group::new(Arc::clone(&db), lane, None),
            db,
            path,
            is_uri,
            identity: Identity::own(),
            manager: 0,
            shared: AtomicBool::new(options.shared),
            durability: options.durability,
            tokens: AtomicU64::new(0),
            legacy: 0,
            own: schema::step(false).into(),
            any: schema::step(true).into(),
            reads: Mutex::new(Cache::new()),
            guard: Guard::default(),
            version: Mutex::new(-1),
            counted: Mutex::new(-1),
            handled: Mutex::new("[]".into()),
        };
        let Identity { pid, started, boot, place } = store.identity.clone();
        let enrolled = store.write(schema::ENROL, vec![pid.into(), started.into(), boot.into(), place.into()])?;
        store.manager = enrolled.last_rowid.unwrap_or_default();
        execute(&store.db, &schema::triggers(store.manager))?;
        store.legacy = store.number(schema::LEGACY, vec![])?.unwrap_or_default();
        Ok(store)
    }

    /// Where other connections of the process find the tasks, and whether that is a URI.
    pub fn location(&self) -> (&Path, bool) {
        (&self.path, self.is_uri)
    }

    pub fn manager(&self) -> i64 {
        self.manager
    }

    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    pub fn is_shared(&self) -> bool {
        self.shared.load(Ordering::Relaxed)
    }

    /// Claims tasks of other managers too, from now on.
    pub fn share(&self) {
        self.shared.store(true, Ordering::Relaxed);
    }

    pub fn is_ours(&self) -> bool {
        self.db.is_ours()
    }

    /// Writes that a commit carried, and those commits.
    pub fn commits(&self) -> (u64, u64) {
        let stats = self.group.stats();
        (stats.writes, stats.commits)
    }

    pub fn set_handled(&self, kinds: &str) {
        *self.handled.lock() = kinds.into();
    }

    fn handled(&self) -> Value {
        Arc::clone(&self.handled.lock()).as_ref().to_owned().into()
    }

    /// Queues a task for the caller's thread. `None` if the key in its options was used before: see [`task_of`](Self::task_of).
    pub fn enqueue(
        &self,
        new: New,
        actor: Actor,
        deadline: Option<u64>,
        caller: impl Caller,
    ) -> Result<Option<i64>, WriteError> {
        let mut params: Vec<Value> =
            vec![new.kind.into(), new.description.into(), new.priority.into(), new.context.into()];
        let sql = match new.options {
            None => schema::ENQUEUE,
            Some(options) => {
                params.push(options.into());
                schema::ENQUEUE_WITH_OPTIONS
            }
        };
        let written = self.group.write(self.request(sql.into(), params, actor), deadline, caller)?;
        Ok(if written.rowcount == 1 { written.last_rowid } else { None })
    }

    /// Queues all or none of them. `tasks` is a JSON array of arrays: type, description, priority, context, options.
    pub fn enqueue_many(
        &self,
        tasks: String,
        actor: Actor,
        deadline: Option<u64>,
        caller: impl Caller,
    ) -> Result<Vec<i64>, WriteError> {
        let request = self.request(schema::ENQUEUE_MANY.into(), vec![tasks.into()], actor);
        let written = self.group.write(request, deadline, caller)?;
        let mut ids: Vec<i64> = written.rows.iter().map(|row| integer(&row[0])).collect();
        ids.sort_unstable();
        Ok(ids)
    }

    pub fn task_of(&self, key: &str) -> Result<Option<i64>, WriteError> {
        self.number(schema::TASK_OF_KEY, vec![key.to_owned().into()])
    }

    /// Records `done`, claims the next task if `claims`, or both at once.
    pub fn step(&self, worker: u64, done: Option<&Done>, claims: bool) -> Result<Step, WriteError> {
        let token = (self.manager << 32) + self.tokens.fetch_add(1, Ordering::Relaxed) as i64 + 1;
        let mut params = vec![self.manager.into(), token.into(), self.handled()];
        let (state, due) = match done {
            None => {
                params.extend([0.into(), 0.into(), Value::Null, Value::Null, Value::Null]);
                (0, Value::Null)
            }
            Some(Done { task, token, end, .. }) => {
                params.extend([(*task).into(), (*token).into()]);
                let (outcome, result, error) = match end {
                    End::Completed(result) => (Status::Completed, Some(result), None),
                    End::Failed { error } | End::Again { error, .. } => (Status::Failed, None, Some(error)),
                };
                params.extend([outcome.as_str().to_owned().into(), result.cloned().into(), error.cloned().into()]);
                match end {
                    End::Again { due, .. } if *due > clock::epoch_micros() => (2, (*due).into()),
                    End::Again { .. } => (0, Value::Null),
                    _ => (4, Value::Null),
                }
            }
        };
        let rank = done.map_or(0, |done| done.rank);
        params.extend([i64::from(claims).into(), state.into(), due, rank.into()]);
        let request = self.request(
            Arc::clone(if self.is_shared() { &self.any } else { &self.own }),
            params,
            Actor::thread(u64::MAX / 2 + worker),
        );
        let written = self.group.write(request, Some(clock::now() + TURN), || false)?;
        let ended = done.map(|done| done.task);
        let mut step = Step::default();
        for row in written.rows {
            let id = integer(&row[0]);
            if Some(id) == ended {
                step.recorded = true;
                continue;
            }
            step.task = Some(Task {
                id,
                kind: text(&row[1]).unwrap_or_default(),
                token,
                attempt: integer(&row[2]),
                failures: small(&row[3]).unwrap_or_default(),
                retries: small(&row[4]),
                backoff: real(&row[5]),
                time_limit: real(&row[6]),
                adopted: integer(&row[7]) != 0,
                rank: integer(&row[8]),
                context: text(&row[9]),
            });
        }
        Ok(step)
    }

    /// Undoes a claim. `away`: the task then belongs to nobody here.
    pub fn give_back(&self, task: i64, token: i64, away: bool) -> Result<bool, WriteError> {
        let params = vec![task.into(), token.into(), self.manager.into(), i64::from(away).into()];
        Ok(self.write(schema::GIVE_BACK, params)?.rowcount == 1)
    }

    /// Cancels a task that is queued.
    pub fn cancel(&self, task: i64) -> Result<bool, WriteError> {
        Ok(self.write(schema::CANCEL, vec![task.into()])?.rowcount == 1)
    }

    /// Tasks that a worker of this manager could take now.
    pub fn depth(&self) -> Result<usize, WriteError> {
        let now = self.number(schema::DATA_VERSION, vec![])?.unwrap_or_default();
        if std::mem::replace(&mut *self.counted.lock(), now) != now {
            self.tidy(schema::STALE, vec![self.manager.into()])?;
        }
        let found = match self.is_shared() {
            true => self.number(schema::DEPTH_OF_ALL, vec![])?,
            false => self.number(schema::DEPTH, vec![self.manager.into()])?,
        };
        Ok(found.map_or(0, |count| count as usize))
    }

    /// Whether somebody else has written to the file since this was last asked.
    pub fn has_changed(&self) -> Result<bool, WriteError> {
        let now = self.number(schema::DATA_VERSION, vec![])?.unwrap_or_default();
        Ok(std::mem::replace(&mut *self.version.lock(), now) != now)
    }

    /// Makes tasks ready whose time has come. Returns how many, and when the next one is due.
    pub fn promote(&self) -> Result<(usize, Option<i64>), WriteError> {
        let now = clock::epoch_micros();
        let Some(due) = self.number(schema::NEXT_DUE, vec![])? else { return Ok((0, None)) };
        if due > now {
            return Ok((0, Some(due)));
        }
        let promoted = self.write(schema::PROMOTE, vec![self.manager.into(), now.into()])?.rowcount;
        Ok((promoted.max(0) as usize, self.number(schema::NEXT_DUE, vec![])?.filter(|due| *due > now)))
    }

    /// Shows that this manager lives.
    pub fn beat(&self) -> Result<(), WriteError> {
        let Identity { pid, started, boot, place } = self.identity.clone();
        let params = vec![self.manager.into(), pid.into(), started.into(), boot.into(), place.into()];
        self.write(schema::BEAT, params).map(drop)
    }

    pub fn others(&self) -> Result<Vec<Other>, WriteError> {
        let rows = self.read(schema::MANAGERS, vec![self.manager.into()])?;
        let other = |row: Vec<Value>| Other {
            id: integer(&row[0]),
            identity: Identity {
                pid: integer(&row[1]),
                started: integer(&row[2]),
                boot: text(&row[3]).unwrap_or_default(),
                place: text(&row[4]).unwrap_or_default(),
            },
            beat: integer(&row[5]),
        };
        Ok(rows.into_iter().map(other).collect())
    }

    /// A manager is dead: what it was running has crashed, what it had queued is nobody's. Returns how many tasks ended.
    pub fn bury(&self, dead: i64, why: &str) -> Result<usize, WriteError> {
        let mut ended = 0;
        for row in self.read(schema::RUNS_OF, vec![dead.into()])? {
            let past = Past { failures: small(&row[2]).unwrap_or(0), crashes: small(&row[3]).unwrap_or(0) };
            let again = after(Status::Running, Event::Crashed, past, Caps::default()) == Some(Status::Queued);
            let error = match (again, past.crashes) {
                (true, _) => why.to_owned(),
                (false, crashes) => {
                    format!("{why}; it was run {} times and is not tried again", crashes + 1)
                }
            };
            let (task, token) = (integer(&row[0]), integer(&row[1]));
            let state = if again { 0 } else { 4 };
            let params = vec![task.into(), token.into(), dead.into(), state.into(), error.into()];
            ended += usize::from(self.write(schema::CRASHED, params)?.rowcount == 1 && !again);
        }
        self.write(schema::ORPHAN, vec![dead.into()])?;
        self.write(schema::DISMISS, vec![dead.into()])?;
        Ok(ended)
    }

    /// Managers that left leases but no record of themselves.
    pub fn unknown(&self) -> Result<Vec<i64>, WriteError> {
        let rows = self.read(schema::UNKNOWN, vec![])?;
        Ok(rows.iter().map(|row| integer(&row[0])).filter(|id| *id != self.manager).collect())
    }

    /// Takes over what is nobody's: of types with handlers here, or `all`. Returns how many.
    pub fn adopt(&self, all: bool) -> Result<usize, WriteError> {
        if self.read(schema::HAS_ORPHANS, vec![self.handled(), i64::from(all).into()])?.is_empty() {
            return Ok(0);
        }
        let params = vec![self.manager.into(), self.handled(), i64::from(all).into()];
        Ok(self.write(schema::ADOPT, params)?.rowcount.max(0) as usize)
    }

    /// Gives leases to what foreign SQL queued, and drops those of what it took out. `legacy`: also to what was there before
    /// upshift first opened the file. They are nobody's then: see [`adopt`](Self::adopt).
    ///
    /// Without `legacy` it does not wait for others that write. Returns whether it was done.
    pub fn reconcile(&self, legacy: bool) -> Result<bool, WriteError> {
        if !legacy {
            return Ok(self.tidy(schema::STALE, vec![self.manager.into()])?
                && self.tidy(schema::FOREIGN, vec![self.legacy.into()])?);
        }
        self.write(schema::STALE, vec![self.manager.into()])?;
        self.write(schema::FOREIGN, vec![0.into()])?;
        // In the name of nobody, so that what follows is the same as for any other crash.
        self.write(schema::FOREIGN_RUNS, vec![NOBODY.into()])?;
        self.bury(NOBODY, "the process that ran it ended without a record")?;

        Ok(true)
    }

    /// Leaves the file: what is queued is for others from now on. `gives_back`: also what is running.
    pub fn leave(&self, gives_back: bool) -> Result<(), WriteError> {
        if gives_back {
            self.write(schema::GIVE_BACK_ALL, vec![self.manager.into()])?;
        }
        self.write(schema::ORPHAN, vec![self.manager.into()])?;
        // Stays while something is running: it shows by the life of the process that this goes on.
        self.write(schema::DISMISS, vec![self.manager.into()]).map(drop)
    }

    /// Writes what is queued and closes the file.
    pub fn close(&self, timeout: Duration) -> bool {
        self.group.close(timeout)
    }

    pub fn is_closed(&self) -> bool {
        self.group.is_closed()
    }

    fn request(&self, sql: Arc<str>, params: Vec<Value>, actor: Actor) -> Request {
        Request { sql, params: Params::Positional(params), durability: self.durability, actor }
    }

    fn write(&self, sql: &str, params: Vec<Value>) -> Result<Written, WriteError> {
        // Of nobody who could have the lane.
        let request = self.request(sql.into(), params, Actor::thread(u64::MAX / 2));
        self.group.write(request, Some(clock::now() + TURN), || false)
    }

    /// What may as well be done later: not while others write. Whether it was done.
    fn tidy(&self, sql: &str, params: Vec<Value>) -> Result<bool, WriteError> {
        let request = self.request(sql.into(), params, Actor::thread(u64::MAX / 2));
        match self.group.write(request, Some(clock::now() + MOMENT), || false) {
            Ok(_) => Ok(true),
            Err(WriteError::Lane(_)) => Ok(false),
            Err(WriteError::Sqlite(failure)) if failure.primary() == raw::SQLITE_BUSY => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn read(&self, sql: &str, params: Vec<Value>) -> Result<Vec<Vec<Value>>, WriteError> {
        if !self.db.is_ours() {
            let text = "this connection was opened before the process was forked; open another one in the child";
            return Err(WriteError::Misused(text.to_owned()));
        }
        let entered = self.db.enter();
        if !self.db.is_open() {
            return Err(WriteError::Closed);
        }
        let read = self.reads.lock().run(&self.db, &entered, &self.guard, &sql.into(), &Params::Positional(params))?;
        Ok(read.rows)
    }

    fn number(&self, sql: &str, params: Vec<Value>) -> Result<Option<i64>, WriteError> {
        let rows = self.read(sql, params)?;
        Ok(rows.first().and_then(|row| match row[0] {
            Value::Integer(number) => Some(number),
            _ => None,
        }))
    }
}

/// The manager of runs that have none, while they are being buried.
const NOBODY: i64 = -1;

fn integer(value: &Value) -> i64 {
    match value {
        Value::Integer(number) => *number,
        _ => 0,
    }
}

fn small(value: &Value) -> Option<u32> {
    match value {
        Value::Integer(number) => Some(u32::try_from((*number).max(0)).unwrap_or(u32::MAX)),
        _ => None,
    }
}

fn real(value: &Value) -> Option<f64> {
    match value {
        Value::Integer(number) => Some(*number as f64),
        Value::Real(number) => Some(*number),
        _ => None,
    }
}

/// Foreign SQL may have written anything.
fn text(value: &Value) -> Option<String> {
    match value {
        Value::Text(bytes) | Value::Blob(bytes) => Some(String::from_utf8_lossy(bytes).into_owned()),
        Value::Integer(number) => Some(number.to_string()),
        Value::Real(number) => Some(number.to_string()),
        Value::Null | Value::Unusable(_) => None,
    }
}

impl From<i64> for Value {
    fn from(number: i64) -> Self {
        Self::Integer(number)
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Text(text.into_bytes().into())
    }
}

impl From<Option<String>> for Value {
    fn from(text: Option<String>) -> Self {
        text.map_or(Self::Null, Self::from)
    }
}
