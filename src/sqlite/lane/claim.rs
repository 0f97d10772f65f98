//! Who asks for a lane, who holds it, and how that is said in an error.

use std::fmt;

use crate::support::clock;

/// Bytes of a statement that a holder remembers.
const STATEMENT: usize = 110;

/// What a claim is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Shared with other readers. Only in-memory databases ask for it: readers of a file never wait.
    Read,
    /// Nobody else.
    Write,
}

/// On whose behalf a connection works, to recognise who would wait for itself. No number may ever be given twice: the
/// lane stays with a connection whose user has gone, and nobody else is to be taken for that one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Actor {
    /// Number of the thread; for a task, that of its event loop.
    pub thread: u64,
    /// Number of the asyncio task, 0 if there is none.
    pub task: u64,
}

impl Actor {
    pub fn thread(thread: u64) -> Self {
        Self { thread, task: 0 }
    }

    pub fn task(thread: u64, task: u64) -> Self {
        Self { thread, task }
    }

    /// Whether `self` cannot go on while `other` waits. Who blocks stops all tasks of its thread, who awaits only itself.
    fn is_stopped_by(&self, other: &Self, blocking: bool) -> bool {
        match blocking {
            true => self.thread == other.thread,
            false => other.task != 0 && self.task == other.task && self.thread == other.thread,
        }
    }
}

/// A request for the lane.
#[derive(Clone, Copy, Debug)]
pub struct Claim<'a> {
    /// Number of the connection in this process. The lane belongs to it, whoever uses it.
    pub connection: u64,
    pub actor: Actor,
    pub access: Access,
    /// Its beginning is remembered, for errors of those who wait.
    pub statement: &'a str,
}

/// Who has the lane.
#[derive(Clone)]
pub struct Holder {
    pub connection: u64,
    pub actor: Actor,
    pub access: Access,
    /// When it got the lane, on the scale of [`clock::now`].
    pub since: u64,
    length: u8,
    is_cut: bool,
    text: [u8; STATEMENT],
}

impl Default for Holder {
    fn default() -> Self {
        let actor = Actor::thread(0);
        let (length, text) = (0, [0; STATEMENT]);
        Self { connection: 0, actor, access: Access::Write, since: 0, length, is_cut: false, text }
    }
}

impl Holder {
    pub(super) fn new(claim: &Claim<'_>) -> Self {
        let mut holder = Self::default();
        holder.become_holder(claim);
        holder
    }

    /// Writes the claim over what was here.
    #[inline]
    pub(super) fn become_holder(&mut self, claim: &Claim<'_>) {
        self.connection = claim.connection;
        self.actor = claim.actor;
        self.access = claim.access;
        self.since = clock::coarse();
        let mut length = claim.statement.len();
        self.is_cut = length > STATEMENT;
        if self.is_cut {
            length = STATEMENT;
            while !claim.statement.is_char_boundary(length) {
                length -= 1;
            }
        }
        self.text[..length].copy_from_slice(&claim.statement.as_bytes()[..length]);
        // At most STATEMENT.
        self.length = length as u8;
    }

    /// The beginning of the statement that took the lane.
    pub fn statement(&self) -> &str {
        std::str::from_utf8(&self.text[..usize::from(self.length)]).unwrap_or_default()
    }

    pub(super) fn is_stopped_by(&self, claim: &Claim<'_>, blocking: bool) -> bool {
        self.actor.is_stopped_by(&claim.actor, blocking)
    }

    /// "connection 3 of thread 7, since 14:03:07.123 UTC (2.31 s ago), with: INSERT …". `actor` names the thread or task.
    pub fn describe(&self, actor: &str) -> String {
        let age = clock::now().saturating_sub(self.since);
        let millis = clock::epoch_micros() / 1_000 - (age / 1_000_000) as i64;
        let (seconds, millis) = (millis.div_euclid(1_000).rem_euclid(86_400), millis.rem_euclid(1_000));
        let (hour, minute, second) = (seconds / 3_600, seconds / 60 % 60, seconds % 60);
        format!(
            "connection {} of {actor}, since {hour:02}:{minute:02}:{second:02}.{millis:03} UTC ({:.2} s ago), with: {}{}",
            self.connection,
            age as f64 / 1e9,
            self.statement().trim(),
            if self.is_cut { "…" } else { "" },
        )
    }
}

impl fmt::Debug for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Holder")
            .field("connection", &self.connection)
            .field("actor", &self.actor)
            .field("access", &self.access)
            .field("statement", &self.statement())
            .finish_non_exhaustive()
    }
}

impl fmt::Display for Actor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.task {
            0 => write!(f, "thread {}", self.thread),
            task => write!(f, "task {task} of thread {}", self.thread),
        }
    }
}

/// Why the lane cannot be had at once.
#[derive(Clone, Debug)]
pub enum Refused {
    /// Someone else has it, or was there before. Waiting helps.
    Busy,
    /// The holder is the one who asks, through another connection: waiting would never end.
    SelfWait(Box<Holder>),
    /// Two connections that have read want to write; each would wait for the other to end its transaction.
    Stalemate(Box<Holder>),
}

/// Why the lane was not had at all.
#[derive(Clone, Debug)]
pub enum LaneError {
    SelfWait(Box<Holder>),
    Stalemate(Box<Holder>),
    /// The deadline came first.
    Timeout(Option<Box<Holder>>),
    /// The caller's own check said to stop waiting.
    Interrupted,
}

impl LaneError {
    pub fn holder(&self) -> Option<&Holder> {
        match self {
            Self::SelfWait(holder) | Self::Stalemate(holder) => Some(holder),
            Self::Timeout(holder) => holder.as_deref(),
            Self::Interrupted => None,
        }
    }

    /// The text of the error; `name` tells what a thread or task is called. It begins as SQLite's does, which programs that
    /// try again look for.
    pub fn message(&self, name: impl FnOnce(&Actor) -> String) -> String {
        let holder = self.holder().map(|holder| holder.describe(&name(&holder.actor)));
        let holder = holder.as_deref().unwrap_or("a connection that has just given it back");
        match self {
            Self::SelfWait(_) => format!(
                "database is locked: this write would wait for itself: the same caller has an open transaction through another connection; \
                 commit, roll back or close that one first. The write lane is held by {holder}"
            ),
            Self::Stalemate(_) => format!(
                "database is locked: two transactions that have read want to write, and each would wait for the other to \
                 end; roll back, and start with BEGIN IMMEDIATE. The other is {holder}"
            ),
            Self::Timeout(_) => {
                format!("database is locked: timed out waiting for its write lane, held by {holder}")
            }
            Self::Interrupted => "interrupted".to_owned(),
        }
    }
}

impl fmt::Display for LaneError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message(Actor::to_string))
    }
}

impl std::error::Error for LaneError {}

#[cfg(test)]
mod tests {
    use super::*;

    fn holder(statement: &str) -> Holder {
        Holder::new(&Claim { connection: 3, actor: Actor::thread(7), access: Access::Write, statement })
    }

    #[test]
    fn errors_name_the_holder() {
        let text = LaneError::Timeout(Some(Box::new(holder("INSERT INTO t VALUES (1)")))).to_string();
        assert!(text.starts_with("database is locked: "), "{text}");
        for part in ["connection 3 of thread 7, since ", " UTC (0.0", "with: INSERT INTO t VALUES (1)"] {
            assert!(text.contains(part), "{text}");
        }
        let text = LaneError::SelfWait(Box::new(holder(""))).message(|_| "thread 'main'".to_owned());
        assert!(text.contains("wait for itself") && text.contains("thread 'main'"), "{text}");
    }

    #[test]
    fn long_statements_are_cut_between_characters() {
        for length in STATEMENT - 3..STATEMENT + 3 {
            let statement = "é".repeat(length);
            let holder = holder(&statement);
            assert!(statement.starts_with(holder.statement()) && holder.statement().len() >= STATEMENT - 1);
            assert!(holder.describe("").ends_with("é…"));
        }
        assert!(holder("short").describe("").ends_with("with: short"));
    }

    #[test]
    fn who_waits_for_whom() {
        let (here, there) = (Actor::thread(1), Actor::thread(2));
        let (first, second) = (Actor::task(1, 10), Actor::task(1, 11));
        assert!(here.is_stopped_by(&here, true) && !here.is_stopped_by(&there, true));
        assert!(first.is_stopped_by(&first, false) && !first.is_stopped_by(&second, false));
        // A task that blocks its thread stops the other tasks there.
        assert!(first.is_stopped_by(&second, true));
        // Another task may be the one that uses this connection.
        assert!(!here.is_stopped_by(&first, false));
    }
}
