//! Tables of a task file, and the triggers by which one statement keeps them together.
//!
//! `background_tasks` and `task_rules` are the users' tables, with fixed columns. What the engine has to remember besides
//! is in tables of its own. The triggers are temporary: they belong to the writing connection of one manager, so a
//! statement of anybody else does to the users' tables what it says and nothing more.
//!
//! A lease is there for each task that is queued or running. Its `state` drives the task's status:
//! 0 ready, 1 running, 2 waits for `due`, 4 has ended (only within the statement that ends it). Leases lie in the order in
//! which they are claimed (`rank` is the priority, negative), so that a commit writes few pages.

/// Executed in one transaction when a file is opened.
pub const TABLES: &str = "
CREATE TABLE IF NOT EXISTS background_tasks (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    task_type TEXT NOT NULL,
    task_description TEXT,
    priority INTEGER DEFAULT 2,
    status TEXT DEFAULT 'queued',
    context TEXT,
    result TEXT,
    error TEXT,
    created_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP,
    started_at TIMESTAMP,
    completed_at TIMESTAMP
);
CREATE TABLE IF NOT EXISTS task_rules (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    trigger_event TEXT NOT NULL,
    task_type TEXT NOT NULL,
    condition TEXT,
    priority INTEGER DEFAULT 2,
    enabled INTEGER DEFAULT 1
);
CREATE TABLE IF NOT EXISTS upshift_meta (name TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS upshift_managers (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    pid INTEGER NOT NULL,
    started INTEGER NOT NULL,
    boot TEXT NOT NULL,
    place TEXT NOT NULL,
    beat INTEGER NOT NULL DEFAULT 0,
    since TIMESTAMP DEFAULT CURRENT_TIMESTAMP
);
CREATE TABLE IF NOT EXISTS upshift_leases (
    manager INTEGER NOT NULL,
    state INTEGER NOT NULL DEFAULT 0,
    rank INTEGER NOT NULL,
    task INTEGER NOT NULL,
    kind TEXT NOT NULL,
    token INTEGER NOT NULL DEFAULT 0,
    attempt INTEGER NOT NULL DEFAULT 0,
    failures INTEGER NOT NULL DEFAULT 0,
    crashes INTEGER NOT NULL DEFAULT 0,
    adopted INTEGER NOT NULL DEFAULT 0,
    due INTEGER,
    retries INTEGER,
    backoff REAL,
    time_limit REAL,
    outcome TEXT,
    result,
    error TEXT,
    PRIMARY KEY (manager, state, rank, task)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS upshift_due ON upshift_leases (due) WHERE state = 2;
CREATE TABLE IF NOT EXISTS upshift_attempts (
    id INTEGER PRIMARY KEY,
    task INTEGER NOT NULL,
    attempt INTEGER NOT NULL,
    started_at TIMESTAMP,
    ended_at TIMESTAMP,
    outcome TEXT NOT NULL,
    error TEXT
);
CREATE INDEX IF NOT EXISTS upshift_attempts_task ON upshift_attempts (task);
CREATE TABLE IF NOT EXISTS upshift_dead_letters (
    task INTEGER PRIMARY KEY,
    task_type TEXT NOT NULL,
    reason TEXT NOT NULL,
    error TEXT,
    attempts INTEGER NOT NULL,
    died_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP
);
CREATE TABLE IF NOT EXISTS upshift_keys (key TEXT PRIMARY KEY, task INTEGER NOT NULL) WITHOUT ROWID;
";

/// Makes a file that is empty. A commit writes every page it changes, whole, to the log: small pages make it short, and
/// rows of tasks are small.
pub const FIRST: &str = "
PRAGMA page_size = 2048;
CREATE TABLE IF NOT EXISTS upshift_meta (name TEXT PRIMARY KEY, value) WITHOUT ROWID;
";

/// What is in the file before its first opening was queued by the original system, years ago maybe: tasks up to this one
/// are not run unasked.
pub const WATERMARK: &str = "
INSERT OR IGNORE INTO upshift_meta (name, value)
    VALUES ('legacy', (SELECT coalesce(max(id), 0) FROM background_tasks));
";

/// The triggers of a manager.
pub fn triggers(manager: i64) -> String {
    format!(
        "
CREATE TEMP TRIGGER upshift_enqueued AFTER INSERT ON main.background_tasks
WHEN new.result IS NULL AND new.status = 'queued'
BEGIN
    INSERT INTO upshift_leases (task, manager, rank, kind) VALUES (new.id, {manager}, -new.priority, new.task_type);
END;

-- What has no column of its own comes in `result`, which a new task has no use for.
CREATE TEMP TRIGGER upshift_enqueued_with_options AFTER INSERT ON main.background_tasks
WHEN new.result IS NOT NULL AND new.status = 'queued'
BEGIN
    INSERT INTO upshift_leases (task, manager, state, rank, kind, due, retries, backoff, time_limit) VALUES (
        new.id, {manager}, CASE WHEN json_extract(new.result, '$.due') IS NULL THEN 0 ELSE 2 END, -new.priority, new.task_type,
        json_extract(new.result, '$.due'), json_extract(new.result, '$.retries'), json_extract(new.result, '$.backoff'), json_extract(new.result, '$.time_limit')
    );
    INSERT INTO upshift_keys (key, task) SELECT json_extract(new.result, '$.key'), new.id WHERE json_extract(new.result, '$.key') IS NOT NULL;
    UPDATE background_tasks SET result = NULL WHERE id = new.id;
END;

CREATE TEMP TRIGGER upshift_cancelled AFTER UPDATE OF status ON main.background_tasks
WHEN new.status = 'cancelled' AND old.status = 'queued'
BEGIN
    DELETE FROM upshift_leases WHERE task = new.id AND rank = -old.priority AND state IN (0, 2)
        AND manager IN (SELECT 0 UNION ALL SELECT id FROM upshift_managers);
END;

CREATE TEMP TRIGGER upshift_claimed AFTER UPDATE OF state ON main.upshift_leases
WHEN new.state = 1
BEGIN
    UPDATE background_tasks SET status = 'running', started_at = CURRENT_TIMESTAMP WHERE id = new.task;
END;

CREATE TEMP TRIGGER upshift_requeued AFTER UPDATE OF state ON main.upshift_leases
WHEN old.state = 1 AND new.state IN (0, 2)
BEGIN
    INSERT INTO upshift_attempts (task, attempt, started_at, ended_at, outcome, error)
        SELECT new.task, new.attempt, t.started_at, CURRENT_TIMESTAMP,
            CASE WHEN new.crashes > old.crashes THEN 'crashed' ELSE 'failed' END, new.error
        FROM background_tasks t
        WHERE t.id = new.task AND (new.crashes > old.crashes OR new.failures > old.failures);
    UPDATE background_tasks SET status = 'queued', started_at = NULL WHERE id = new.task AND status = 'running';
END;

CREATE TEMP TRIGGER upshift_completed AFTER UPDATE OF state ON main.upshift_leases
WHEN new.state = 4 AND new.outcome = 'completed' AND new.attempt = 1
BEGIN
    UPDATE background_tasks SET status = 'completed', result = new.result, completed_at = CURRENT_TIMESTAMP
        WHERE id = new.task;
    DELETE FROM upshift_leases
        WHERE manager = new.manager AND state = new.state AND rank = new.rank AND task = new.task;
END;

CREATE TEMP TRIGGER upshift_ended AFTER UPDATE OF state ON main.upshift_leases
WHEN new.state = 4 AND (new.outcome <> 'completed' OR new.attempt <> 1)
BEGIN
    INSERT INTO upshift_attempts (task, attempt, started_at, ended_at, outcome, error)
        SELECT new.task, new.attempt, t.started_at, CURRENT_TIMESTAMP,
            CASE WHEN new.crashes > old.crashes THEN 'crashed' ELSE new.outcome END, new.error
        FROM background_tasks t WHERE t.id = new.task;
    UPDATE background_tasks
        SET status = new.outcome, result = new.result, error = new.error, completed_at = CURRENT_TIMESTAMP
        WHERE id = new.task;
    INSERT OR REPLACE INTO upshift_dead_letters (task, task_type, reason, error, attempts)
        SELECT new.task, new.kind, CASE WHEN new.crashes > old.crashes THEN 'crashed' ELSE 'failed' END, new.error,
            new.attempt
        WHERE new.outcome = 'failed';
    DELETE FROM upshift_leases
        WHERE manager = new.manager AND state = new.state AND rank = new.rank AND task = new.task;
END;
"
    )
}

pub const ENQUEUE: &str =
    "INSERT INTO background_tasks (task_type, task_description, priority, context) VALUES (?1, ?2, ?3, ?4)";

pub const ENQUEUE_WITH_OPTIONS: &str = "
INSERT INTO background_tasks (task_type, task_description, priority, context, result)
SELECT ?1, ?2, ?3, ?4, ?5 WHERE NOT EXISTS (SELECT 1 FROM upshift_keys WHERE key = json_extract(?5, '$.key'))";

/// Tasks of one batch have consecutive numbers in their order: nobody else writes meanwhile.
pub const ENQUEUE_MANY: &str = "
INSERT INTO background_tasks (task_type, task_description, priority, context, result)
SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]'), json_extract(value, '$[2]'), json_extract(value, '$[3]'), json_extract(value, '$[4]') FROM json_each(?1) ORDER BY key
RETURNING id";

pub const TASK_OF_KEY: &str = "SELECT task FROM upshift_keys WHERE key = ?1";

/// Ends one run of a task, claims the next task, or both in one commit.
///
/// ?1 manager, ?2 new token, ?3 types with handlers (JSON); of the task that ended, or 0: ?4 number, ?5 token, ?6 outcome,
/// ?7 result, ?8 error, ?10 its new state, ?11 when it is due, ?12 its rank; ?9 how many to claim.
pub fn step(shared: bool) -> String {
    let eligible = "(x.adopted = 0 OR x.kind IN (SELECT value FROM json_each(?3)))";
    let next = if shared {
        // The first of each manager's queue, and the first of those.
        format!(
            "SELECT l.manager, l.state, l.rank, l.task FROM (SELECT 0 AS id UNION ALL SELECT id FROM upshift_managers) m
             CROSS JOIN upshift_leases l ON l.manager = m.id AND l.state = 0 AND (l.rank, l.task) = (
                 SELECT x.rank, x.task FROM upshift_leases x CROSS JOIN background_tasks t ON t.id = x.task
                 WHERE x.manager = m.id AND x.state = 0 AND t.status = 'queued'
                     AND ((m.id = ?1 AND {eligible}) OR x.kind IN (SELECT value FROM json_each(?3)))
                 ORDER BY x.rank, x.task LIMIT 1
             )
             ORDER BY l.rank, l.task LIMIT ?9"
        )
    } else {
        format!(
            "SELECT x.manager, x.state, x.rank, x.task FROM upshift_leases x
             CROSS JOIN background_tasks t ON t.id = x.task
             WHERE x.manager = ?1 AND x.state = 0 AND t.status = 'queued' AND {eligible}
             ORDER BY x.rank, x.task LIMIT ?9"
        )
    };
    format!(
        "UPDATE upshift_leases SET
            state = CASE WHEN task = ?4 THEN ?10 ELSE 1 END,
            token = CASE WHEN task = ?4 THEN 0 ELSE ?2 END,
            attempt = attempt + (task <> ?4),
            adopted = adopted OR manager <> ?1,
            manager = ?1,
            failures = failures + (task = ?4 AND ?6 = 'failed'),
            due = CASE WHEN task = ?4 THEN ?11 END,
            outcome = CASE WHEN task = ?4 THEN ?6 END,
            result = CASE WHEN task = ?4 THEN ?7 END,
            error = CASE WHEN task = ?4 THEN ?8 END
         WHERE ((manager = ?1 AND state = 1 AND rank = ?12 AND task = ?4) OR (manager, state, rank, task) = ({next}))
            AND (task <> ?4 OR (token = ?5
                AND EXISTS (SELECT 1 FROM background_tasks t WHERE t.id = ?4 AND t.status = 'running')))
         RETURNING task, kind, attempt, failures, retries, backoff, time_limit, adopted, rank,
            (SELECT context FROM background_tasks t WHERE t.id = upshift_leases.task)"
    )
}

/// Of tasks that could not be run after all: back to where they came from, or (?4) to nobody.
pub const GIVE_BACK: &str = "
UPDATE upshift_leases SET state = 0, token = 0, attempt = attempt - 1, manager = CASE WHEN ?4 THEN 0 ELSE manager END
WHERE task = ?1 AND token = ?2 AND manager = ?3 AND state = 1";

pub const GIVE_BACK_ALL: &str = "
UPDATE upshift_leases SET state = 0, token = 0, attempt = attempt - 1, manager = 0 WHERE manager = ?1 AND state = 1";

pub const CANCEL: &str = "
UPDATE background_tasks SET status = 'cancelled', completed_at = CURRENT_TIMESTAMP WHERE id = ?1 AND status = 'queued'";

pub const DEPTH: &str = "SELECT count(*) FROM upshift_leases WHERE manager = ?1 AND state = 0";
pub const DEPTH_OF_ALL: &str = "SELECT count(*) FROM upshift_leases WHERE state = 0";
pub const NEXT_DUE: &str = "SELECT min(due) FROM upshift_leases WHERE state = 2";
pub const PROMOTE: &str = "
UPDATE upshift_leases SET state = 0, due = NULL WHERE state = 2 AND due <= ?2 AND manager = ?1";

pub const DATA_VERSION: &str = "SELECT data_version FROM pragma_data_version";
pub const MANAGERS: &str = "SELECT id, pid, started, boot, place, beat FROM upshift_managers WHERE id <> ?1";
pub const ENROL: &str = "INSERT INTO upshift_managers (pid, started, boot, place) VALUES (?1, ?2, ?3, ?4)";
/// Also brings back a manager that was taken for dead.
pub const BEAT: &str = "
INSERT INTO upshift_managers (id, pid, started, boot, place) VALUES (?1, ?2, ?3, ?4, ?5)
ON CONFLICT (id) DO UPDATE SET beat = beat + 1";

/// What a manager that is gone was running.
pub const RUNS_OF: &str = "SELECT task, token, failures, crashes FROM upshift_leases WHERE manager = ?1 AND state = 1";
pub const CRASHED: &str = "
UPDATE upshift_leases SET state = ?4, token = 0, crashes = crashes + 1, manager = 0, adopted = 1,
    outcome = CASE WHEN ?4 = 4 THEN 'failed' END, error = ?5
WHERE task = ?1 AND token = ?2 AND manager = ?3 AND state = 1";
pub const ORPHAN: &str = "UPDATE upshift_leases SET manager = 0, adopted = 1 WHERE manager = ?1 AND state <> 1";
pub const DISMISS: &str = "
DELETE FROM upshift_managers WHERE id = ?1 AND NOT EXISTS (SELECT 1 FROM upshift_leases WHERE manager = ?1)";
/// Managers that left leases but no record.
pub const UNKNOWN: &str = "
SELECT DISTINCT manager FROM upshift_leases WHERE manager <> 0 AND manager NOT IN (SELECT id FROM upshift_managers)";

pub const HAS_ORPHANS: &str = "
SELECT 1 FROM upshift_leases WHERE manager = 0 AND (?2 OR kind IN (SELECT value FROM json_each(?1))) LIMIT 1";
pub const ADOPT: &str = "
UPDATE upshift_leases SET manager = ?1, adopted = 1
WHERE manager = 0 AND (?3 OR kind IN (SELECT value FROM json_each(?2)))";

/// Rows that foreign SQL queued, without a lease; after the watermark ?1. They are nobody's at first.
pub const FOREIGN: &str = "
INSERT INTO upshift_leases (task, manager, rank, kind, adopted)
SELECT t.id, 0, -coalesce(t.priority, 2), t.task_type, 1 FROM background_tasks t
WHERE t.id > ?1 AND t.status = 'queued' AND t.id NOT IN (SELECT task FROM upshift_leases)";
/// The same for those that somebody left running: it is taken for a crash.
pub const FOREIGN_RUNS: &str = "
INSERT INTO upshift_leases (task, manager, rank, kind, adopted, state, attempt, token)
SELECT t.id, ?1, -coalesce(t.priority, 2), t.task_type, 1, 1, 1, -t.id FROM background_tasks t
WHERE t.status = 'running' AND t.id NOT IN (SELECT task FROM upshift_leases)";
/// Leases of tasks that foreign SQL cancelled, ended or deleted.
pub const STALE: &str = "
DELETE FROM upshift_leases WHERE manager = ?1 AND state IN (0, 2)
    AND NOT EXISTS (SELECT 1 FROM background_tasks t WHERE t.id = task AND t.status = 'queued')";
pub const LEGACY: &str = "SELECT value FROM upshift_meta WHERE name = 'legacy'";
