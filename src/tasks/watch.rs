//! What is looked after in the background, once a second at most: the sign of life, managers that died, rows that others
//! wrote, tasks whose time has come.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::identity::Sight;
use super::{Core, WriteError};
use crate::support::{clock, runtime};

const TICK: Duration = Duration::from_secs(1);
const SECOND: u64 = 1_000_000_000;
/// How often a manager shows that it lives.
const BEAT: u64 = 5 * SECOND;
/// A manager that has not done so for this long is taken for dead, though its process may be there.
const SILENCE: u64 = 25 * SECOND;
/// Looking for foreign rows may take one part in so many of the time.
const SHARE: u64 = 20;

/// What the looks remember.
#[derive(Default)]
pub struct Watch {
    last_beat: u64,
    /// The last sign of life of each other manager, and when it was first seen.
    beats: HashMap<i64, (i64, u64)>,
    /// Others have written, and it has not been looked at.
    is_changed: bool,
    /// No look at foreign rows before.
    rest_until: u64,
    /// There is a timer for a task that is due then.
    timer: Option<i64>,
}

impl Core {
    /// Whether there is upkeep.
    #[inline]
    pub fn is_watched(&self) -> bool {
        self.is_watched.load(Ordering::Relaxed)
    }

    /// Begins upkeep, which ends with the manager.
    pub fn keep_watch(self: &Arc<Self>) {
        if self.is_watched.swap(true, Ordering::Relaxed) {
            return;
        }
        // It may have been taken for dead in the time before.
        if let Err(error) = self.store.beat() {
            log::warn!(target: "upshift.tasks", "the manager could not show that it lives: {error}");
        }
        self.watch.lock().last_beat = clock::now();
        let core = Arc::downgrade(self);
        let begun = runtime::every(TICK, move || match core.upgrade() {
            Some(core) if !core.is_closed() && core.store.is_ours() => {
                if let Err(error) = core.tick() {
                    log::warn!(target: "upshift.tasks", "upkeep of the task store failed: {error}");
                }
                ControlFlow::Continue(())
            }
            _ => ControlFlow::Break(()),
        });
        if let Err(error) = begun {
            log::warn!(target: "upshift.tasks", "there is no upkeep of the task store: {error}");
            self.is_watched.store(false, Ordering::Relaxed);
        }
    }

    fn tick(self: &Arc<Self>) -> Result<(), WriteError> {
        let now = clock::now();
        let mut watch = self.watch.lock();
        let beats = now.saturating_sub(watch.last_beat) >= BEAT;
        if beats {
            watch.last_beat = now;
        }
        drop(watch);
        if beats {
            self.store.beat()?;
        }
        self.promote();
        if self.crew.is_running() {
            self.look()?;
            self.bury_the_dead(false)?;
            if self.store.adopt(false)? > 0 {
                self.crew.tell();
            }
        }
        Ok(())
    }

    /// Looks at what others wrote, if they did.
    pub fn look(&self) -> Result<(), WriteError> {
        let changed = self.store.has_changed()?;
        let mut watch = self.watch.lock();
        watch.is_changed |= changed;
        let now = clock::now();
        let is_due = watch.is_changed && now >= watch.rest_until;
        if is_due {
            watch.is_changed = false;
        }
        drop(watch);
        if is_due {
            let done = self.store.reconcile(false);
            self.watch.lock().rest_until = clock::now() + SHARE * clock::now().saturating_sub(now);
            if !done? {
                self.watch.lock().is_changed = true;
            }
        }
        if changed {
            self.crew.tell();
        }
        Ok(())
    }

    /// Buries managers that are gone. `thorough`: also looks for leases of managers that left no record.
    pub(super) fn bury_the_dead(&self, thorough: bool) -> Result<bool, WriteError> {
        let mut any = false;
        let others = self.store.others()?;
        for other in &others {
            let sight = self.store.identity().look_for(&other.identity);
            let why = match sight {
                Sight::Gone => format!("the process that ran it (number {}) is gone", other.identity.pid),
                _ if self.is_silent(other.id, other.beat) => {
                    format!("the process that ran it (number {}) gave no sign of life", other.identity.pid)
                }
                _ => continue,
            };
            self.store.bury(other.id, &why)?;
            self.watch.lock().beats.remove(&other.id);
            any = true;
        }
        self.watch.lock().beats.retain(|id, _| others.iter().any(|other| other.id == *id));
        if thorough {
            for id in self.store.unknown()? {
                self.store.bury(id, "the process that ran it is gone")?;
                any = true;
            }
        }
        Ok(any)
    }

    /// Whether a manager has not shown that it lives for too long, by this process's own clock.
    fn is_silent(&self, id: i64, beat: i64) -> bool {
        let now = clock::now();
        let mut watch = self.watch.lock();
        let (last, since) = watch.beats.entry(id).or_insert((beat, now));
        if *last != beat {
            (*last, *since) = (beat, now);
        }
        now.saturating_sub(*since) > SILENCE
    }

    /// Makes tasks ready whose time has come, and sets a timer for the next one.
    pub fn promote(self: &Arc<Self>) {
        match self.store.promote() {
            Ok((promoted, next)) => {
                if promoted > 0 {
                    self.crew.tell();
                }
                let Some(due) = next else { return };
                let mut watch = self.watch.lock();
                let is_set = watch.timer.is_some_and(|set| set <= due && set > clock::epoch_micros());
                let left = Duration::from_micros(due.saturating_sub(clock::epoch_micros()).max(0) as u64);
                // What is further off is found in time by the regular looks.
                if is_set || left > TICK {
                    return;
                }
                watch.timer = Some(due);
                drop(watch);
                let core = Arc::downgrade(self);
                let set = runtime::after(left + Duration::from_millis(1), move || {
                    if let Some(core) = core.upgrade().filter(|core| !core.is_closed()) {
                        core.promote();
                    }
                });
                if set.is_err() {
                    self.watch.lock().timer = None;
                }
            }
            Err(error) => log::warn!(target: "upshift.tasks", "making tasks ready failed: {error}"),
        }
    }
}
