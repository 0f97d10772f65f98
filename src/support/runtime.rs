//! The one background runtime of the process: a timer thread, a small pool for blocking work of the engine, and threads
//! for work that users have it do.
//!
//! Both start when first used and may be stopped at any time; the next use starts them again. Jobs run on the pool,
//! never on the timer thread, so that a slow one delays nobody's timer. A job that belongs to an object should hold a
//! weak reference to it and end with [`ControlFlow::Break`] once the object is gone.

mod per_process;

use std::io;
use std::ops::ControlFlow;
use std::sync::mpsc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

pub use per_process::{PerProcess, pid};

/// Threads of the blocking pool. SQLite writes of one file are serial anyway; this many files make progress at once.
const BLOCKING_THREADS: usize = 4;
/// A pool thread without work ends after this time.
const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// Threads for work of any length. Its owners bound it; this is only more than all of them can want.
const LONG_THREADS: usize = 4096;

static RUNTIME: PerProcess<Mutex<Option<Running>>> = PerProcess::new();

struct Running {
    handle: Handle,
    /// Has no timers, only threads: see [`spawn_long`].
    long: Handle,
    stop: oneshot::Sender<Duration>,
    /// Receives once the thread has shut the runtime down.
    stopped: mpsc::Receiver<()>,
}

/// Runs `job` on the blocking pool. Fails only when the operating system refuses a thread.
pub fn spawn_blocking(job: impl FnOnce() + Send + 'static) -> io::Result<()> {
    let handle = handle()?;
    drop(handle.spawn_blocking(job));
    Ok(())
}

/// Runs `job`, which takes as long as its owner likes, on a thread that nothing else waits for: an idle one, else a new
/// one. Whoever calls this bounds how many of its jobs there are at a time. Fails as [`spawn_blocking`] does.
pub fn spawn_long(job: impl FnOnce() + Send + 'static) -> io::Result<()> {
    let handle = running(|running| running.long.clone())?;
    drop(handle.spawn_blocking(job));
    Ok(())
}

/// Runs `job` on the blocking pool once `delay` has passed. A job whose time has not come when the runtime is stopped
/// is dropped.
pub fn after(delay: Duration, job: impl FnOnce() + Send + 'static) -> io::Result<()> {
    handle()?.spawn(async move {
        tokio::time::sleep(delay).await;
        drop(tokio::task::spawn_blocking(job));
    });
    Ok(())
}

/// Runs `job` on the blocking pool again and again, `interval` after its last run ended, until it breaks or panics.
pub fn every(interval: Duration, mut job: impl FnMut() -> ControlFlow<()> + Send + 'static) -> io::Result<()> {
    handle()?.spawn(async move {
        loop {
            tokio::time::sleep(interval).await;
            let run = tokio::task::spawn_blocking(move || (job(), job));
            match run.await {
                Ok((ControlFlow::Continue(()), again)) => job = again,
                _ => return,
            }
        }
    });
    Ok(())
}

/// Stops the timer thread and waits up to `timeout` for running jobs. Pending timers are dropped.
///
/// Returns whether everything had ended in time; what had not is left to end by itself. Idempotent. Must not be called
/// from a job, which would wait for itself.
pub fn stop(timeout: Duration) -> bool {
    let running = match RUNTIME.peek() {
        Some(slot) => slot.lock().take(),
        None => None,
    };
    let Some(Running { stop, stopped, .. }) = running else {
        return true;
    };
    if stop.send(timeout).is_err() {
        return true;
    }
    // The thread itself gives up on jobs after `timeout`; the margin is for its own wake-up.
    stopped.recv_timeout(timeout + Duration::from_millis(100)).is_ok()
}

/// Forgets the parent's runtime in a forked child. Its threads do not exist here; the next use starts a new one.
pub fn after_fork_child() {
    RUNTIME.get(|_| Mutex::new(None));
}

fn handle() -> io::Result<Handle> {
    running(|running| running.handle.clone())
}

/// What `of` takes from the runtime, which is started if need be.
fn running(of: impl FnOnce(&Running) -> Handle) -> io::Result<Handle> {
    let mut slot = RUNTIME.get(|_| Mutex::new(None)).lock();
    if let Some(running) = &*slot {
        return Ok(of(running));
    }
    let running = start()?;
    let handle = of(&running);
    *slot = Some(running);
    Ok(handle)
}

fn start() -> io::Result<Running> {
    let runtime = Builder::new_current_thread()
        .enable_time()
        .max_blocking_threads(BLOCKING_THREADS)
        .thread_keep_alive(KEEP_ALIVE)
        .thread_name("upshift-blocking")
        .build()?;
    let long = Builder::new_current_thread()
        .max_blocking_threads(LONG_THREADS)
        .thread_keep_alive(KEEP_ALIVE)
        .thread_name("upshift-long")
        .build()?;
    let (handle, long_handle) = (runtime.handle().clone(), long.handle().clone());
    let (stop, stop_asked) = oneshot::channel::<Duration>();
    let (done, stopped) = mpsc::channel();
    std::thread::Builder::new().name("upshift-runtime".to_owned()).spawn(move || {
        let timeout = runtime.block_on(stop_asked).unwrap_or_default();
        let begun = std::time::Instant::now();
        runtime.shutdown_timeout(timeout);
        long.shutdown_timeout(timeout.saturating_sub(begun.elapsed()));
        // `shutdown_timeout` does not tell; when it used up its time, jobs were still running.
        if begun.elapsed() < timeout {
            // Nobody listens any more if `stop` gave up first.
            let _ = done.send(());
        }
    })?;
    Ok(Running { handle, long: long_handle, stop, stopped })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// The runtime is process-wide, so its tests take turns.
    static TURN: Mutex<()> = Mutex::new(());

    #[test]
    fn runs_and_stops_and_runs_again() {
        let _turn = TURN.lock();
        for _ in 0..2 {
            let (send, receive) = mpsc::channel();
            spawn_blocking(move || send.send(std::thread::current().name().map(str::to_owned)).unwrap()).unwrap();
            assert_eq!(receive.recv().unwrap().as_deref(), Some("upshift-blocking"));
            assert!(stop(Duration::from_secs(5)));
            assert!(stop(Duration::from_secs(5)));
        }
    }

    #[test]
    fn long_jobs_keep_nobody_waiting() {
        let _turn = TURN.lock();
        let (started, has_started) = mpsc::channel();
        let held: Vec<_> = (0..3 * BLOCKING_THREADS)
            .map(|_| {
                let (release, held) = mpsc::channel::<()>();
                let started = started.clone();
                spawn_long(move || {
                    started.send(()).unwrap();
                    let _ = held.recv();
                })
                .unwrap();
                release
            })
            .collect();
        // All of them run, and others beside them.
        held.iter().for_each(|_| has_started.recv().unwrap());
        let (send, receive) = mpsc::channel();
        spawn_blocking(move || send.send(()).unwrap()).unwrap();
        receive.recv().unwrap();
        assert!(!stop(Duration::from_millis(30)));
        drop(held);
    }

    #[test]
    fn periodic_job_ends_when_it_breaks() {
        let _turn = TURN.lock();
        let (send, receive) = mpsc::channel();
        let runs = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&runs);
        every(Duration::from_millis(1), move || {
            if counted.fetch_add(1, Ordering::Relaxed) < 2 {
                return ControlFlow::Continue(());
            }
            send.send(()).unwrap();
            ControlFlow::Break(())
        })
        .unwrap();
        receive.recv().unwrap();
        // The job was dropped, and its sender with it.
        assert!(receive.recv().is_err());
        assert_eq!(runs.load(Ordering::Relaxed), 3);
    }

    #[test]
    fn stop_gives_up_on_a_stuck_job() {
        let _turn = TURN.lock();
        let (started, has_started) = mpsc::channel();
        let (release, held) = mpsc::channel::<()>();
        spawn_blocking(move || {
            started.send(()).unwrap();
            let _ = held.recv();
        })
        .unwrap();
        has_started.recv().unwrap();
        assert!(!stop(Duration::from_millis(30)));
        drop(release);
    }
}
