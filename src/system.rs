//! The machine as a whole: processor, memory, disk. Nothing here waits; what cannot be measured is `None`.

use std::path::Path;

use sysinfo::System;

/// Measures the load of the processors between one look and the next.
pub struct CpuMeter {
    /// `None` on a system that nothing is known of.
    system: Option<System>,
}

impl CpuMeter {
    /// Takes the first look.
    pub fn new() -> Self {
        let mut system = System::new().ok();
        if let Some(system) = &mut system {
            system.refresh_cpu_usage();
        }
        Self { system }
    }

    /// Percent of all processors since the last look. Looks that follow within a fifth of a second yield the same.
    pub fn sample(&mut self) -> Option<f64> {
        let system = self.system.as_mut()?;
        system.refresh_cpu_usage();
        let percent = f64::from(system.global_cpu_usage());
        let is_measured = !system.cpus().is_empty() && percent.is_finite();
        is_measured.then(|| percent.clamp(0.0, 100.0))
    }
}

impl Default for CpuMeter {
    fn default() -> Self {
        Self::new()
    }
}

/// How much of something there is, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    pub used: u64,
    /// What can still be had; with `used` it may be less than `total`.
    pub available: u64,
    pub total: u64,
}

impl Usage {
    pub fn percent(&self) -> f64 {
        let whole = self.used.saturating_add(self.available);
        if whole == 0 { 0.0 } else { self.used as f64 * 100.0 / whole as f64 }
    }
}

/// Main memory. What caches hold counts as available.
pub fn memory() -> Option<Usage> {
    let mut system = System::new().ok()?;
    system.refresh_memory();
    let (total, available) = (system.total_memory(), system.available_memory());
    (total > 0).then(|| Usage { used: total.saturating_sub(available), available, total })
}

/// The file system that holds `path`.
#[cfg(unix)]
#[allow(unsafe_code)]
pub fn disk(path: &Path) -> Option<Usage> {
    use std::os::unix::ffi::OsStrExt;

    let path = std::ffi::CString::new(path.as_os_str().as_bytes()).ok()?;
    let mut found = std::mem::MaybeUninit::<libc::statvfs>::uninit();
    // SAFETY: a terminated path, and a place for the answer, which is filled when the call succeeds.
    let found = unsafe {
        if libc::statvfs(path.as_ptr(), found.as_mut_ptr()) != 0 {
            return None;
        }
        found.assume_init()
    };
    #[allow(clippy::unnecessary_cast)] // the types differ from system to system
    let bytes = |blocks| (blocks as u64).saturating_mul(found.f_frsize as u64);
    let (total, free) = (bytes(found.f_blocks), bytes(found.f_bfree));
    Some(Usage { used: total.saturating_sub(free), available: bytes(found.f_bavail), total })
}

#[cfg(not(unix))]
pub fn disk(_path: &Path) -> Option<Usage> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn measures_what_can_be_measured() {
        let memory = memory().unwrap();
        assert!(memory.total > 1 << 20 && memory.used <= memory.total, "{memory:?}");
        assert!((0.0..=100.0).contains(&memory.percent()));
        let disk = disk(Path::new("/")).unwrap();
        assert!(disk.total > 0 && disk.used <= disk.total, "{disk:?}");
        assert!((0.0..=100.0).contains(&disk.percent()));
        assert!(super::disk(Path::new("/nowhere/at/all")).is_none());
    }

    #[test]
    fn work_shows_in_the_load() {
        let mut meter = CpuMeter::new();
        let until = std::time::Instant::now() + std::time::Duration::from_millis(400);
        while std::time::Instant::now() < until {
            std::hint::spin_loop();
        }
        let busy = meter.sample().unwrap();
        assert!(busy > 1.0 && busy <= 100.0, "{busy}");
    }

    #[test]
    fn an_empty_whole_is_not_full() {
        assert_eq!(Usage { used: 0, available: 0, total: 0 }.percent(), 0.0);
        assert_eq!(Usage { used: 1, available: 3, total: 5 }.percent(), 25.0);
    }
}
