//! Leases: one process at a time computes the value of a key.

use std::sync::OnceLock;
use std::time::Duration;

use rusqlite::{Connection, OptionalExtension, TransactionBehavior, params};

use super::shared::Shared;
use super::{PersistError, Result, registry};
use crate::support::clock;
use crate::support::runtime::pid;

/// The right to compute a key's value. Given back with [`super::DiskTier::lease_release`]; dropped, it ends with its time.
#[derive(Debug)]
#[must_use]
pub struct Lease {
    pub(super) key: String,
    pub(super) token: i64,
}

impl Lease {
    pub fn key(&self) -> &str {
        &self.key
    }
}

/// A row of `upshift_leases`.
struct Holder {
    host: String,
    pid: u32,
    started: i64,
    deadline: i64,
}

impl Shared {
    pub fn lease_acquire(&self, key: &str, ttl: Duration) -> Result<Option<Lease>> {
        // Most callers find it taken, and need not keep others from writing to see that.
        let now = clock::epoch_micros();
        if self.read(|reader| holder(reader, key))?.is_some_and(|holder| self.is_held(&holder, now)) {
            return Ok(None);
        }
        let token = registry::random();
        self.with_writer(|writer| {
            let transaction = writer.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let now = clock::epoch_micros();
            if holder(&transaction, key)?.is_some_and(|holder| self.is_held(&holder, now)) {
                return Ok(None);
            }
            let pid = pid();
            transaction
                .prepare_cached(
                    "INSERT OR REPLACE INTO upshift_leases (lease_key, host, pid, started, token, deadline)
                     VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
                )?
                .execute(params![key, self.host, pid, started_here(), token, deadline(now, ttl)])?;
            transaction.commit()?;
            Ok(Some(Lease { key: key.to_owned(), token }))
        })
    }

    pub fn lease_renew(&self, lease: &Lease, ttl: Duration) -> Result<bool> {
        self.with_writer(|writer| {
            let sql = "UPDATE upshift_leases SET deadline = ?3 WHERE lease_key = ?1 AND token = ?2";
            let until = deadline(clock::epoch_micros(), ttl);
            Ok(writer.prepare_cached(sql)?.execute(params![lease.key, lease.token, until])? > 0)
        })
    }

    /// Runs a job on the writing connection, between two groups of writes.
    fn with_writer<T>(&self, job: impl FnOnce(&mut rusqlite::Connection) -> rusqlite::Result<T>) -> Result<T> {
        let mut state = self.state.lock();
        let mut writer = loop {
            if state.closed {
                return Err(PersistError::Closed);
            }
            match state.writer.take() {
                Some(writer) => break writer,
                None => self.moved.wait(&mut state),
            }
        };
        drop(state);
        let result = job(&mut writer).map_err(PersistError::from);
        drop(self.give_back(writer));
        if let Err(error) = &result {
            self.note("lease failed", error);
        }
        self.complain();
        result
    }

    fn is_held(&self, holder: &Holder, now: i64) -> bool {
        holder.deadline > now && !(holder.host == self.host && is_dead(holder))
    }
}

fn holder(connection: &Connection, key: &str) -> rusqlite::Result<Option<Holder>> {
    connection
        .prepare_cached("SELECT host, pid, started, deadline FROM upshift_leases WHERE lease_key = ?1")?
        .query_row([key], |row| {
            Ok(Holder { host: row.get(0)?, pid: row.get(1)?, started: row.get(2)?, deadline: row.get(3)? })
        })
        .optional()
}

pub(super) fn release(connection: &Connection, key: &str, token: i64) -> rusqlite::Result<()> {
    let sql = "DELETE FROM upshift_leases WHERE lease_key = ?1 AND token = ?2";
    connection.prepare_cached(sql)?.execute(params![key, token])?;
    Ok(())
}

fn deadline(now: i64, ttl: Duration) -> i64 {
    now.saturating_add(i64::try_from(ttl.as_micros()).unwrap_or(i64::MAX))
}

/// What makes process ids comparable: this boot of this machine, and the namespace they are counted in.
pub(super) fn host() -> String {
    #[cfg(target_os = "linux")]
    {
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let space = std::fs::read_link("/proc/self/ns/pid").unwrap_or_default();
        if !boot.is_empty() && !space.as_os_str().is_empty() {
            return format!("{} {}", boot.trim(), space.display());
        }
    }
    // Unique: leases of others then end with their time only.
    format!("{:x}", registry::random())
}

/// Whether the process that took a lease is gone. A later process with the same id has another start time.
fn is_dead(holder: &Holder) -> bool {
    holder.pid != pid() && started_at(holder.pid) != Some(holder.started)
}

fn started_here() -> i64 {
    static STARTED: OnceLock<(u32, i64)> = OnceLock::new();
    let pid = pid();
    let (of, started) = *STARTED.get_or_init(|| (pid, started_at(pid).unwrap_or_default()));
    // A forked child inherits the parent's.
    if of == pid { started } else { started_at(pid).unwrap_or_default() }
}

/// Start time of a running process in clock ticks since boot; `None` if there is none, or only its unreaped remains.
fn started_at(pid: u32) -> Option<i64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is a name in parentheses that may hold anything; the third is the state, the 22nd the start.
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
    if matches!(fields.next()?, "Z" | "X") {
        return None;
    }
    fields.nth(18)?.parse().ok()
}
