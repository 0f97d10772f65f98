//! A connection's part in the lane of its database: when it needs the lane, and when it gives it back.
#![allow(unsafe_code)]

use std::ffi::{CStr, c_int, c_void};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use rusqlite::ffi;

use super::attached::Attached;
use super::handle::{Db, Entered};
use super::lane::{self, Access, Actor, Claim, Key, Lane, Refused};
use crate::store;

const MAIN: &CStr = c"main";
/// The file format version for reading that stands for write-ahead logging, and its place in the file.
const WAL: [u8; 2] = [2, 2];
const WAL_AT: i64 = 18;

const NOTHING: u8 = 0;
const READS: u8 = 1;
const WRITES: u8 = 2;

/// What a connection knows about its lane.
#[derive(Default)]
pub struct Seat {
    /// `None` inside for a database that nobody else can open.
    place: OnceLock<Option<Place>>,
    /// The access this connection has.
    held: AtomicU8,
    /// The transaction was seen to write, and goes on doing so until it ends.
    is_writing: AtomicBool,
    /// On whose behalf: see [`Actor`].
    thread: AtomicU64,
    task: AtomicU64,
    /// The file was seen to use a log. It stays so while a connection is open, unless this one changes it.
    is_wal: AtomicBool,
    attached: Attached,
    /// How long to wait for a turn, in milliseconds.
    timeout: AtomicU32,
    /// Counts the calls of `interrupt`, which end the wait as well.
    interrupts: AtomicU32,
}

struct Place {
    lane: Arc<Lane>,
    is_memory: bool,
}

impl Seat {
    pub fn timeout(&self) -> Duration {
        Duration::from_millis(self.timeout.load(Ordering::Relaxed).into())
    }

    pub fn set_timeout(&self, timeout: Duration) {
        self.timeout.store(u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX), Ordering::Relaxed);
    }

    pub fn interrupts(&self) -> u32 {
        self.interrupts.load(Ordering::Relaxed)
    }

    pub(super) fn interrupt(&self) {
        self.interrupts.fetch_add(1, Ordering::Relaxed);
    }

    /// Whether the connection has the lane, for reading or writing.
    #[inline(always)]
    pub fn is_held(&self) -> bool {
        self.held.load(Ordering::Relaxed) != NOTHING
    }

    /// The connection has been given the lane, and keeps it until somebody leaves it without a transaction that needs it.
    #[inline]
    pub fn granted(&self, access: Access, actor: Actor) {
        let held = if access == Access::Write { WRITES } else { READS };
        self.held.fetch_max(held, Ordering::Relaxed);
        self.set_actor(actor);
    }

    fn set_actor(&self, actor: Actor) {
        self.thread.store(actor.thread, Ordering::Relaxed);
        self.task.store(actor.task, Ordering::Relaxed);
    }

    fn actor(&self) -> Actor {
        Actor { thread: self.thread.load(Ordering::Relaxed), task: self.task.load(Ordering::Relaxed) }
    }

    /// The connection is closed; its transactions are over.
    pub(super) fn leave(&self, connection: u64) {
        self.held.store(NOTHING, Ordering::Relaxed);
        self.is_writing.store(false, Ordering::Relaxed);
        if let Some(Some(place)) = self.place.get() {
            place.lane.give_back(connection);
        }
    }

    #[inline(always)]
    pub fn attached(&self) -> &Attached {
        &self.attached
    }

    /// To be called before a statement of this connection that may change the journal mode.
    pub fn forget_mode(&self) {
        self.is_wal.store(false, Ordering::Relaxed);
    }
}

impl Entered<'_> {
    /// The lane, if a statement that wants this access has to take it before it begins.
    ///
    /// Files have one only while they use a write-ahead log. Without it readers and writers wait for each other, and SQLite
    /// itself resolves that.
    #[inline]
    pub fn lane_for(&self, access: Access, actor: impl FnOnce() -> Actor) -> Option<(&Arc<Lane>, Actor)> {
        let seat = self.db().seat();
        let place = seat.place.get_or_init(|| find(self)).as_ref()?;
        if access == Access::Read && !place.is_memory {
            self.note_actor(actor);
            return None;
        }
        let held = seat.held.load(Ordering::Relaxed);
        let actor = actor();
        let has = held == WRITES || (held == READS && access == Access::Read);
        if has && seat.actor() == actor {
            return None;
        }
        (place.is_memory || self.is_wal()).then_some((&place.lane, actor))
    }

    /// To be called before a statement that takes no lane: who uses a connection that has it is who would wait for it.
    #[inline(always)]
    pub fn note_actor(&self, actor: impl FnOnce() -> Actor) {
        if self.db().seat().is_held() {
            self.pass_to(actor());
        }
    }

    #[inline]
    fn pass_to(&self, actor: Actor) {
        let seat = self.db().seat();
        if let (Some(Some(place)), true) = (seat.place.get(), seat.actor() != actor) {
            place.lane.pass_to(self.db().id(), actor);
            seat.set_actor(actor);
        }
    }

    /// The lane of the database, if it has one.
    pub fn lane(&self) -> Option<&Arc<Lane>> {
        self.db().seat().place.get_or_init(|| find(self)).as_ref().map(|place| &place.lane)
    }

    /// Takes the lane if that is possible at once.
    #[inline]
    pub fn try_take_lane(&self, lane: &Lane, claim: &Claim<'_>) -> Result<(), Refused> {
        lane.try_take(claim)?;
        self.db().seat().granted(claim.access, claim.actor);
        Ok(())
    }

    /// After a statement: gives the lane back unless the transaction goes on. Also done by whoever leaves the connection.
    #[inline(always)]
    pub fn settle_lane(&self) {
        if self.db().seat().is_held() {
            self.settle();
        }
    }

    #[inline]
    fn settle(&self) {
        let seat = self.db().seat();
        if seat.is_writing.load(Ordering::Relaxed) && self.db().is_open() {
            if self.in_transaction() {
                return;
            }
            seat.is_writing.store(false, Ordering::Relaxed);
        }
        self.settle_by_state();
    }

    fn settle_by_state(&self) {
        let seat = self.db().seat();
        let (Some(Some(place)), true) = (seat.place.get(), self.db().is_open()) else { return };
        // SAFETY: the connection is open.
        let state = unsafe { ffi::sqlite3_txn_state(self.raw(), MAIN.as_ptr()) };
        seat.is_writing.store(state == ffi::SQLITE_TXN_WRITE && self.in_transaction(), Ordering::Relaxed);
        let needed = match state {
            ffi::SQLITE_TXN_WRITE => WRITES,
            ffi::SQLITE_TXN_READ if place.is_memory => READS,
            _ => NOTHING,
        };
        let held = seat.held.load(Ordering::Relaxed);
        if needed >= held {
            return;
        }
        seat.held.store(needed, Ordering::Relaxed);
        match needed {
            NOTHING => place.lane.give_back(self.db().id()),
            _ => place.lane.downgrade(self.db().id()),
        }
    }

    /// Whether the main database is being read by a transaction that does not write it.
    pub fn reads_only(&self) -> bool {
        // SAFETY: the connection is open.
        unsafe { ffi::sqlite3_txn_state(self.raw(), MAIN.as_ptr()) == ffi::SQLITE_TXN_READ }
    }

    fn is_wal(&self) -> bool {
        let seat = self.db().seat();
        if seat.is_wal.load(Ordering::Relaxed) {
            return true;
        }
        let is_wal = has_wal_header(self);
        seat.is_wal.store(is_wal, Ordering::Relaxed);
        is_wal
    }
}

/// Which lane the main database has.
fn find(entered: &Entered<'_>) -> Option<Place> {
    let db = entered.db();
    if let Some(name) = db.memory() {
        return Some(Place { lane: lane::of(Key::Memory(name.to_owned())), is_memory: true });
    }
    if !db.has_file() {
        return None;
    }
    let id = db.file_id().cloned().or_else(|| store::id_of(db.file()))?;
    Some(Place { lane: lane::of(Key::File(id)), is_memory: false })
}

/// Whether the head of the file says that it uses a write-ahead log. Asks for no lock and runs no SQL, which the
/// application could see.
fn has_wal_header(entered: &Entered<'_>) -> bool {
    let mut file: *mut ffi::sqlite3_file = std::ptr::null_mut();
    let mut version = [0u8; 2];
    // SAFETY: the connection is open; FILE_POINTER yields its file object, which lives as long as it does, or null. Its
    // method reads as many bytes as the buffer has, or fails.
    unsafe {
        let code = control(entered, ffi::SQLITE_FCNTL_FILE_POINTER, (&raw mut file).cast());
        if code != ffi::SQLITE_OK || file.is_null() {
            return false;
        }
        let Some(read) = (*file).pMethods.as_ref().and_then(|methods| methods.xRead) else { return false };
        read(file, version.as_mut_ptr().cast(), version.len() as c_int, WAL_AT) == ffi::SQLITE_OK && version == WAL
    }
}

/// # Safety
/// `place` is what the operation expects.
unsafe fn control(entered: &Entered<'_>, operation: c_int, place: *mut c_void) -> c_int {
    // SAFETY: the connection is open; the caller's promise.
    unsafe { ffi::sqlite3_file_control(entered.raw(), MAIN.as_ptr(), operation, place) }
}

impl Db {
    /// The claim of this connection.
    pub fn claim<'a>(&self, actor: Actor, access: Access, statement: &'a str) -> Claim<'a> {
        Claim { connection: self.id(), actor, access, statement }
    }
}
