//! Keeps a forked child's SQLite connections apart from those it inherited.
//!
//! SQLite keeps one record per open file (found by device and inode) with the locks this process holds on it. A child
//! inherits the records of connections that were open in the parent, but not the locks themselves: POSIX locks do not
//! pass a fork. A connection the child opened would find the record, believe the lock is held, and never take it, and
//! other processes could then checkpoint or delete the log under it. The inherited connections cannot be closed either,
//! that would act on files the parent is using. So in the child `fstat`, as SQLite calls it, reports another device
//! number: new connections get new records and take real locks.
//!
//! SQLite's global mutexes are taken for the moment of the fork. One that another thread held then would stay locked in
//! the child for ever, and the first connection opened there would wait for it.

#![allow(unsafe_code)]

use std::sync::OnceLock;

use crate::support::runtime::pid;

/// The process that opened the first connection, here or in an ancestor.
static FIRST: OnceLock<u32> = OnceLock::new();

/// To be called before a connection is opened. Does something only in a process whose ancestor had opened one.
pub fn separate_from_parent() {
    #[cfg(unix)]
    mutexes::take_at_forks();
    if is_child() {
        after_fork_child();
    }
}

/// Whether an ancestor of this process opened the first connection.
pub(super) fn is_child() -> bool {
    let pid = pid();
    *FIRST.get_or_init(|| pid) != pid
}

/// To be called in a forked child before anything there opens a database, so that all its connections are alike.
pub fn after_fork_child() {
    #[cfg(unix)]
    unix::install(pid());
}

#[cfg(unix)]
mod unix {
    use std::ffi::c_int;
    use std::sync::atomic::{AtomicU32, Ordering};

    use rusqlite::ffi;

    type Fstat = unsafe extern "C" fn(c_int, *mut libc::stat) -> c_int;

    static SALT: AtomicU32 = AtomicU32::new(0);

    pub fn install(pid: u32) {
        if SALT.swap(pid, Ordering::SeqCst) == pid {
            return;
        }
        // SAFETY: the default VFS lives as long as the process. `xSetSystemCall` stores a pointer to a function, which it
        // calls with the signature of `fstat`; the function is never unloaded.
        unsafe {
            let vfs = ffi::sqlite3_vfs_find(std::ptr::null());
            if vfs.is_null() || (*vfs).iVersion < 3 {
                return;
            }
            if let Some(set) = (*vfs).xSetSystemCall {
                let pointer = std::mem::transmute::<Fstat, unsafe extern "C" fn()>(fstat);
                set(vfs, c"fstat".as_ptr(), Some(pointer));
            }
        }
    }

    unsafe extern "C" fn fstat(descriptor: c_int, found: *mut libc::stat) -> c_int {
        // SAFETY: called by SQLite in place of the system's `fstat`, with the same arguments.
        unsafe {
            let result = libc::fstat(descriptor, found);
            if result == 0 {
                let salt = SALT.load(Ordering::Relaxed) as libc::dev_t;
                (*found).st_dev ^= salt.rotate_left(libc::dev_t::BITS / 2);
            }
            result
        }
    }
}

#[cfg(unix)]
mod mutexes {
    use std::cell::Cell;
    use std::ffi::c_int;
    use std::sync::Once;
    use std::time::{Duration, Instant};

    use rusqlite::ffi;

    /// Outer ones first, as SQLite takes them. Those for applications are theirs.
    const MUTEXES: [c_int; 9] = [
        ffi::SQLITE_MUTEX_STATIC_OPEN,
        ffi::SQLITE_MUTEX_STATIC_MAIN,
        ffi::SQLITE_MUTEX_STATIC_VFS1,
        ffi::SQLITE_MUTEX_STATIC_VFS2,
        ffi::SQLITE_MUTEX_STATIC_VFS3,
        ffi::SQLITE_MUTEX_STATIC_LRU,
        ffi::SQLITE_MUTEX_STATIC_PMEM,
        ffi::SQLITE_MUTEX_STATIC_PRNG,
        ffi::SQLITE_MUTEX_STATIC_MEM,
    ];
    /// They are held for microseconds. A fork never waits longer, whatever is wrong.
    const PATIENCE: Duration = Duration::from_millis(200);

    thread_local! {
        /// How many of them this thread has taken.
        static TAKEN: Cell<usize> = const { Cell::new(0) };
    }

    /// Registered with the C library, so that nothing that could use SQLite runs between this and the fork.
    pub fn take_at_forks() {
        static ONCE: Once = Once::new();
        // SAFETY: the handlers take and release mutexes, which is what such handlers are for.
        ONCE.call_once(|| unsafe {
            libc::pthread_atfork(Some(take), Some(release), Some(release));
        });
    }

    extern "C" fn take() {
        let until = Instant::now() + PATIENCE;
        let mut taken = 0;
        for id in MUTEXES {
            // SAFETY: static mutexes live as long as the process; null, for a library without threads, is accepted.
            while unsafe { ffi::sqlite3_mutex_try(ffi::sqlite3_mutex_alloc(id)) } != ffi::SQLITE_OK {
                if Instant::now() >= until {
                    return TAKEN.set(taken);
                }
                std::thread::yield_now();
            }
            taken += 1;
        }
        TAKEN.set(taken);
    }

    extern "C" fn release() {
        for id in MUTEXES[..TAKEN.replace(0)].iter().rev() {
            // SAFETY: taken by this thread before the fork, or by the one that it is a copy of.
            unsafe { ffi::sqlite3_mutex_leave(ffi::sqlite3_mutex_alloc(*id)) };
        }
    }
}
