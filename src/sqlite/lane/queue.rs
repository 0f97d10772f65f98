//! Who has the lane and who comes next. No threads here, no time, only the order.

use std::collections::VecDeque;

use smallvec::SmallVec;

use super::claim::{Access, Actor, Claim, Holder, Refused};

/// Holders and waiters of one lane. `W` is what wakes a waiter.
pub(super) struct Queue<W> {
    /// Whether `writer` has the lane; if not, it is only a place to write to.
    is_written: bool,
    writer: Holder,
    /// Connections that read, while there is no writer.
    readers: Vec<Holder>,
    waiting: VecDeque<Waiter<W>>,
    tickets: u64,
}

struct Waiter<W> {
    number: u64,
    /// As which it will hold the lane.
    holder: Holder,
    wake: W,
}

pub(super) enum Verdict {
    /// It can be had now.
    Free,
    /// The connection has it already.
    Had,
    Wait,
    /// Waiting would not end.
    Never(Refused),
}

impl<W> Default for Queue<W> {
    fn default() -> Self {
        let writer = Holder::default();
        Self { is_written: false, writer, readers: Vec::new(), waiting: VecDeque::new(), tickets: 0 }
    }
}

impl<W> Queue<W> {
    /// What becomes of a claim that arrives now.
    #[inline]
    pub fn judge(&mut self, claim: &Claim<'_>, blocking: bool) -> Verdict {
        if self.is_written {
            return self.judge_second(claim, blocking);
        }
        match claim.access {
            _ if self.readers.is_empty() => Verdict::Free,
            Access::Read => self.judge_reader(claim, blocking),
            Access::Write => self.judge_writer(claim, blocking),
        }
    }

    fn judge_second(&mut self, claim: &Claim<'_>, blocking: bool) -> Verdict {
        if self.writer.connection == claim.connection {
            // Who uses it now is who would wait for it.
            self.writer.actor = claim.actor;
            return Verdict::Had;
        }
        match self.writer.is_stopped_by(claim, blocking) {
            true => Verdict::Never(Refused::SelfWait(Box::new(self.writer.clone()))),
            false => Verdict::Wait,
        }
    }

    fn judge_reader(&mut self, claim: &Claim<'_>, blocking: bool) -> Verdict {
        if let Some(own) = self.readers.iter_mut().find(|reader| reader.connection == claim.connection) {
            own.actor = claim.actor;
            return Verdict::Had;
        }
        // Those in the queue wait for the reads that are under way. If one of them is the caller's own, the caller must not
        // stand behind them.
        match self.waiting.is_empty() || self.readers.iter().any(|reader| reader.is_stopped_by(claim, blocking)) {
            true => Verdict::Free,
            false => Verdict::Wait,
        }
    }

    fn judge_writer(&self, claim: &Claim<'_>, blocking: bool) -> Verdict {
        let mut others = self.readers.iter().filter(|reader| reader.connection != claim.connection);
        let Some(first) = others.next() else {
            // Only itself reads; those in the queue wait for that to end.
            return Verdict::Free;
        };
        if let Some(own) = std::iter::once(first).chain(others).find(|reader| reader.is_stopped_by(claim, blocking)) {
            return Verdict::Never(Refused::SelfWait(Box::new(own.clone())));
        }
        if self.reads(claim.connection) {
            if let Some(other) = self.waiting.iter().find(|waiter| self.reads(waiter.holder.connection)) {
                return Verdict::Never(Refused::Stalemate(Box::new(other.holder.clone())));
            }
        }
        Verdict::Wait
    }

    /// Whether waiting for this claim would never end. Changes nothing.
    pub fn check(&self, claim: &Claim<'_>, blocking: bool) -> Result<(), Refused> {
        if self.is_written {
            return match self.writer.connection != claim.connection && self.writer.is_stopped_by(claim, blocking) {
                true => Err(Refused::SelfWait(Box::new(self.writer.clone()))),
                false => Ok(()),
            };
        }
        match claim.access {
            Access::Write => match self.judge_writer(claim, blocking) {
                Verdict::Never(refused) => Err(refused),
                _ => Ok(()),
            },
            Access::Read => Ok(()),
        }
    }

    /// Lets a claim in that was judged free. Others may be waiting for the same connection to have it.
    #[inline]
    pub fn admit(&mut self, claim: &Claim<'_>) -> SmallVec<[W; 1]> {
        match claim.access {
            Access::Write => {
                self.readers.clear();
                self.is_written = true;
                self.writer.become_holder(claim);
            }
            Access::Read => self.readers.push(Holder::new(claim)),
        }
        self.advance_if_any()
    }

    /// Puts a claim that has to wait in its place, and numbers it.
    pub fn push(&mut self, claim: &Claim<'_>, wake: W) -> u64 {
        self.tickets += 1;
        let waiter = Waiter { number: self.tickets, holder: Holder::new(claim), wake };
        // A reader that wants to write goes first: the others wait for its read to end.
        match self.reads(claim.connection) {
            true => self.waiting.push_front(waiter),
            false => self.waiting.push_back(waiter),
        }
        self.tickets
    }

    pub fn withdraw(&mut self, number: u64) -> Option<W> {
        let place = self.waiting.iter().position(|waiter| waiter.number == number)?;
        self.waiting.remove(place).map(|waiter| waiter.wake)
    }

    #[inline]
    pub fn give_back(&mut self, connection: u64) -> SmallVec<[W; 1]> {
        if self.is_written {
            self.is_written = self.writer.connection != connection;
        } else {
            self.readers.retain(|reader| reader.connection != connection);
        }
        self.advance_if_any()
    }

    pub fn pass_to(&mut self, connection: u64, actor: Actor) {
        let held = match self.is_written {
            true => Some(&mut self.writer).filter(|writer| writer.connection == connection),
            false => self.readers.iter_mut().find(|reader| reader.connection == connection),
        };
        if let Some(held) = held {
            held.actor = actor;
        }
    }

    pub fn downgrade(&mut self, connection: u64) -> SmallVec<[W; 1]> {
        if self.is_written && self.writer.connection == connection {
            self.is_written = false;
            self.writer.access = Access::Read;
            self.readers.push(self.writer.clone());
        }
        self.advance()
    }

    #[inline]
    fn advance_if_any(&mut self) -> SmallVec<[W; 1]> {
        match self.waiting.is_empty() {
            true => SmallVec::new(),
            false => self.advance(),
        }
    }

    /// Lets in whoever may go now, and returns what wakes them.
    pub fn advance(&mut self) -> SmallVec<[W; 1]> {
        let mut woken = SmallVec::new();
        while let Some(place) = self.next() {
            let Some(Waiter { mut holder, wake, .. }) = self.waiting.remove(place) else { break };
            woken.push(wake);
            if self.has(&holder) {
                continue;
            }
            holder.since = crate::support::clock::coarse();
            match holder.access {
                Access::Write => {
                    self.readers.clear();
                    self.is_written = true;
                    self.writer = holder;
                }
                Access::Read => self.readers.push(holder),
            }
        }
        woken
    }

    /// The place of a waiter who may go now.
    fn next(&self) -> Option<usize> {
        let first = self.waiting.front()?;
        let may_go = !self.is_written
            && match first.holder.access {
                Access::Read => true,
                Access::Write => self.readers.iter().all(|reader| reader.connection == first.holder.connection),
            };
        match may_go {
            true => Some(0),
            // Several threads may use one connection.
            false => self.waiting.iter().position(|waiter| self.has(&waiter.holder)),
        }
    }

    /// Whether the connection has already what it waits for.
    fn has(&self, wanted: &Holder) -> bool {
        match self.is_written {
            true => self.writer.connection == wanted.connection,
            false => wanted.access == Access::Read && self.reads(wanted.connection),
        }
    }

    pub fn reads(&self, connection: u64) -> bool {
        self.readers.iter().any(|reader| reader.connection == connection)
    }

    pub fn holder(&self) -> Option<&Holder> {
        if self.is_written { Some(&self.writer) } else { self.readers.first() }
    }

    /// Whom a claim waits for.
    pub fn holder_before(&self, claim: &Claim<'_>) -> Option<&Holder> {
        let other = |reader: &&Holder| reader.connection != claim.connection;
        if self.is_written { Some(&self.writer) } else { self.readers.iter().find(other) }
    }

    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }
}
