//! Python objects that SQLite calls: kept where the garbage collector sees them.

use std::sync::Arc;

use pyo3::prelude::*;
use pyo3::{PyTraverseError, PyVisit};

use crate::support::sync::AttachedCell;

/// A callable that SQLite has a pointer to. Emptied when the collector breaks a cycle through it.
pub struct Slot {
    pub callable: AttachedCell<Option<Py<PyAny>>>,
}

impl Slot {
    pub fn new(callable: &Bound<'_, PyAny>) -> Arc<Self> {
        Arc::new(Self { callable: AttachedCell::new(Some(callable.clone().unbind())) })
    }

    /// The callable, unless it has been collected.
    pub fn get<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyAny>> {
        self.callable.with(py, |callable| callable.as_ref().map(|callable| callable.bind(py).clone()))
    }
}

/// Everything Python that a connection's database may call.
#[derive(Default)]
pub struct Hooks {
    pub slots: Vec<Arc<Slot>>,
}

impl Hooks {
    pub fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        for slot in &self.slots {
            // SAFETY: the collector runs attached.
            #[allow(unsafe_code)]
            let visited = unsafe {
                slot.callable.try_with_unchecked(|callable| match callable {
                    Some(callable) => visit.call(&*callable),
                    None => Ok(()),
                })
            };
            visited.unwrap_or(Ok(()))?;
        }
        Ok(())
    }

    /// What the collector may drop: the callables. SQLite keeps its pointers to the emptied slots.
    pub fn take_clearable(&mut self) -> Vec<Py<PyAny>> {
        // SAFETY: the collector runs attached.
        #[allow(unsafe_code)]
        let taken =
            self.slots.iter().filter_map(|slot| unsafe { slot.callable.try_with_unchecked(Option::take) }.flatten());
        taken.collect()
    }

    /// Everything, once the database is closed.
    pub fn take_all(&mut self) -> Self {
        std::mem::take(self)
    }
}
