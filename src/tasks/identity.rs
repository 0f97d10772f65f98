//! Which process a manager belongs to, and whether that one still lives.

/// A process, told apart from all others that had or will have its number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    pub pid: i64,
    /// When it started, in ticks since the machine did; 0 if the system does not tell.
    pub started: i64,
    /// Of the running kernel; empty if the system does not tell.
    pub boot: String,
    /// The host, and the space in which the number means this process.
    pub place: String,
}

/// What can be said of a process from here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sight {
    Alive,
    Gone,
    /// It is in another space of process numbers.
    Unknown,
}

impl Identity {
    /// This process.
    pub fn own() -> Self {
        let pid = std::process::id();
        let started = source::process(pid).map_or(0, |process| process.started);
        Self { pid: pid.into(), started, boot: source::boot(), place: source::place() }
    }

    /// Looks for `other`. A number that was given to another process meanwhile, and a process that is dead but not yet
    /// buried by its parent, are gone.
    pub fn look_for(&self, other: &Self) -> Sight {
        if self.boot != other.boot {
            // A write-ahead log is shared within one kernel only: this is an earlier run of it.
            return Sight::Gone;
        }
        if self.place != other.place {
            return Sight::Unknown;
        }
        let Ok(pid) = u32::try_from(other.pid) else { return Sight::Gone };
        match source::process(pid) {
            Some(found) if found.is_alive && (other.started == 0 || found.started == other.started) => Sight::Alive,
            _ => Sight::Gone,
        }
    }
}

struct Process {
    started: i64,
    is_alive: bool,
}

#[cfg(target_os = "linux")]
mod source {
    use std::fs;

    use super::Process;

    /// `None` if there is no such process.
    pub fn process(pid: u32) -> Option<Process> {
        let line = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name, in parentheses, may hold anything.
        let mut fields = line[line.rfind(')')? + 1..].split_ascii_whitespace();
        let is_alive = !matches!(fields.next()?, "Z" | "X" | "x");
        Some(Process { started: fields.nth(18)?.parse().ok()?, is_alive })
    }

    pub fn boot() -> String {
        fs::read_to_string("/proc/sys/kernel/random/boot_id").map(|id| id.trim().to_owned()).unwrap_or_default()
    }

    pub fn place() -> String {
        let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let space = fs::read_link("/proc/self/ns/pid").map(|link| link.to_string_lossy().into_owned());
        format!("{} {}", host.trim(), space.unwrap_or_default())
    }
}

#[cfg(not(target_os = "linux"))]
mod source {
    use sysinfo::{Pid, ProcessRefreshKind, ProcessStatus, ProcessesToUpdate, System};

    use super::Process;

    pub fn process(pid: u32) -> Option<Process> {
        let mut system = System::new().ok()?;
        let pid = Pid::from_u32(pid);
        system.refresh_processes_specifics(ProcessesToUpdate::Some(&[pid]), true, ProcessRefreshKind::nothing());
        let found = system.process(pid)?;
        let is_alive = !matches!(found.status(), ProcessStatus::Zombie | ProcessStatus::Dead);
        Some(Process { started: found.start_time() as i64, is_alive })
    }

    pub fn boot() -> String {
        // Steady while the machine runs, except that the clock may have been set meanwhile: then the number decides.
        String::new()
    }

    pub fn place() -> String {
        System::host_name().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_itself_and_strangers() {
        let own = Identity::own();
        assert_eq!(own.look_for(&own), Sight::Alive);
        // The number was given to another process.
        assert_eq!(own.look_for(&Identity { started: own.started + 1, ..own.clone() }), Sight::Gone);
        assert_eq!(own.look_for(&Identity { boot: "earlier".into(), ..own.clone() }), Sight::Gone);
        assert_eq!(own.look_for(&Identity { place: "a container".into(), ..own.clone() }), Sight::Unknown);
        assert_eq!(own.look_for(&Identity { pid: -1, ..own.clone() }), Sight::Gone);
    }

    #[cfg(unix)]
    #[test]
    fn a_dead_child_is_gone_before_its_parent_has_looked() {
        let own = Identity::own();
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let pid = child.id();
        let seen = Identity { pid: pid.into(), started: source::process(pid).unwrap().started, ..own.clone() };
        assert_eq!(own.look_for(&seen), Sight::Alive);
        child.kill().unwrap();
        let until = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while own.look_for(&seen) != Sight::Gone {
            assert!(std::time::Instant::now() < until);
            std::thread::yield_now();
        }
        child.wait().unwrap();
        assert_eq!(own.look_for(&seen), Sight::Gone);
    }
}
