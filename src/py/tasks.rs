//! `TaskCore`: the engine's tasks, for `upshift.tasks`.
//!
//! The public class is Python; here is what it is made of. Nothing here holds a Python object.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

use super::hang;
use super::sqlite::connection::path_of;
use super::sqlite::pool::{Level, Timeout};
use super::sqlite::write::{Writing, error_of};
use super::sqlite::{actors, errors, gil};
use crate::support::runtime;
use crate::system::{self, CpuMeter, Usage};
use crate::tasks::{Actor, Core, Durability, Ended, New, Options, Task, WriteError};
use crate::workers::scaler::{Decision, Limits, Load, decide};

/// How long queueing waits for its turn to write.
const TURN: Duration = Duration::from_secs(30);

/// The tasks of one manager: their file, and the workers that wait for them.
#[pyclass(frozen, module = "upshift._native")]
pub struct TaskCore {
    /// Taken when dropped.
    core: Option<Arc<Core>>,
    cpu: Mutex<CpuMeter>,
}

/// A task that a worker has claimed.
#[pyclass(frozen, module = "upshift._native")]
pub struct ClaimedTask {
    task: Task,
}

#[pymethods]
impl ClaimedTask {
    #[getter]
    fn id(&self) -> i64 {
        self.task.id
    }

    #[getter]
    fn task_type(&self) -> &str {
        &self.task.kind
    }

    /// JSON, or None.
    #[getter]
    fn context(&self) -> Option<&str> {
        self.task.context.as_deref()
    }

    /// 1 for the first run.
    #[getter]
    fn attempt(&self) -> i64 {
        self.task.attempt
    }

    #[getter]
    fn retries(&self) -> Option<u32> {
        self.task.retries
    }

    #[getter]
    fn backoff(&self) -> Option<f64> {
        self.task.backoff
    }

    #[getter]
    fn time_limit(&self) -> Option<f64> {
        self.task.time_limit
    }

    /// Another manager queued it.
    #[getter]
    fn adopted(&self) -> bool {
        self.task.adopted
    }
}

impl TaskCore {
    fn core(&self) -> &Arc<Core> {
        self.core.as_ref().expect("it is there until it is dropped")
    }

    /// Detached; the error as an exception.
    fn run<T: Send>(
        &self,
        py: Python<'_>,
        body: impl FnOnce(&Arc<Core>) -> Result<T, WriteError> + Send,
    ) -> PyResult<T> {
        py.detach(|| body(self.core())).map_err(|error| error_of(py, &error))
    }

    /// Queues for the calling thread: attached for as long as that is a matter of microseconds.
    fn write<T>(
        &self,
        py: Python<'_>,
        body: impl FnOnce(&Arc<Core>, Actor, Option<u64>, Writing<'_>) -> Result<T, WriteError>,
    ) -> PyResult<T> {
        if !self.core().is_watched() {
            py.detach(|| self.core().keep_watch());
        }
        let actor = Actor::thread(actors::this_thread());
        let deadline = Timeout::of(TURN).deadline();
        let mut raised = None;
        let written = gil::attached(py, || body(self.core(), actor, deadline, Writing { raised: &mut raised }));
        match (written, raised) {
            (Ok(written), None) => Ok(written),
            (_, Some(error)) => Err(error),
            (Err(error), None) => Err(error_of(py, &error)),
        }
    }
}

#[pymethods]
impl TaskCore {
    #[new]
    fn new(py: Python<'_>, path: &Bound<'_, PyAny>, durability: Level, shared: bool) -> PyResult<Self> {
        let path = path_of(&py.import("os")?.call_method1("fspath", (path,))?, "db_path")?;
        let options = Options { durability: durability.0.unwrap_or(Durability::Process), shared };
        let core = py.detach(|| Core::open(&path, &options)).map_err(|error| error_of(py, &error))?;
        Ok(Self { core: Some(core), cpu: Mutex::new(CpuMeter::new()) })
    }

    /// Where other connections find the tasks, and whether that is a URI.
    #[getter]
    fn location(&self) -> (&std::path::Path, bool) {
        self.core().store().location()
    }

    /// Number of this manager in the file.
    #[getter]
    fn manager(&self) -> i64 {
        self.core().store().manager()
    }

    /// Microseconds since the epoch, on the engine's clock.
    #[getter]
    fn now(&self) -> i64 {
        crate::support::clock::epoch_micros()
    }

    /// False in a forked child.
    #[getter]
    fn is_ours(&self) -> bool {
        self.core().store().is_ours()
    }

    #[getter]
    fn is_closed(&self) -> bool {
        self.core().is_closed()
    }

    /// Number of the new task; None if the key in its options was used before.
    #[pyo3(signature = (task_type, description, priority, context, options = None))]
    fn enqueue(
        &self,
        py: Python<'_>,
        task_type: String,
        description: Option<String>,
        priority: i64,
        context: Option<String>,
        options: Option<String>,
    ) -> PyResult<Option<i64>> {
        let new = New { kind: task_type, description, priority, context, options };
        let is_delayed = new.options.is_some();
        let id = self.write(py, |core, actor, deadline, writing| core.enqueue(new, actor, deadline, writing))?;
        if is_delayed {
            py.detach(|| self.core().promote());
        }
        Ok(id)
    }

    /// Numbers of the new tasks, in their order. `tasks` is a JSON array of arrays.
    fn enqueue_many(&self, py: Python<'_>, tasks: String) -> PyResult<Vec<i64>> {
        let ids = self.write(py, |core, actor, deadline, writing| {
            gil::release();
            core.enqueue_many(tasks, actor, deadline, writing)
        })?;
        py.detach(|| self.core().promote());
        Ok(ids)
    }

    /// Number of the task that was queued under a key.
    fn task_of(&self, py: Python<'_>, key: &str) -> PyResult<Option<i64>> {
        self.run(py, |core| core.store().task_of(key))
    }

    /// Types that have handlers, a JSON array.
    fn set_handled(&self, kinds: &str) {
        self.core().store().set_handled(kinds);
    }

    /// Tasks of other managers are claimed too, from now on.
    fn share(&self) {
        self.core().store().share();
    }

    /// Lets workers run.
    fn start(&self, py: Python<'_>) -> PyResult<()> {
        self.run(py, Core::start)
    }

    /// Number of one more worker.
    fn hire(&self) -> u64 {
        self.core().crew().hire()
    }

    /// The worker is gone.
    fn dismiss(&self, worker: u64) {
        self.core().crew().dismiss(worker);
    }

    /// For a worker: how its last task ended, the next one or None if it is to leave. Waits detached.
    #[pyo3(signature = (worker, task = None, text = None, failed = false, retries = 0, backoff = 0.0))]
    #[allow(clippy::too_many_arguments)]
    fn next(
        &self,
        py: Python<'_>,
        worker: u64,
        task: Option<&Bound<'_, ClaimedTask>>,
        text: Option<String>,
        failed: bool,
        retries: u32,
        backoff: f64,
    ) -> Option<ClaimedTask> {
        let text = text.unwrap_or_default();
        let ended = match failed {
            false => Ended::Returned { result: text },
            true => Ended::Raised { error: text, retries, backoff },
        };
        let ended = task.map(|task| (&task.get().task, ended));
        let next = py.detach(|| self.core().next(worker, ended));
        next.map(|task| ClaimedTask { task })
    }

    /// For a worker that cannot run what it claimed: it is nobody's then.
    fn give_away(&self, py: Python<'_>, worker: u64, task: &Bound<'_, ClaimedTask>) -> PyResult<bool> {
        let task = &task.get().task;
        self.run(py, |core| core.give_away(worker, task))
    }

    /// Waits until nothing is left to be done; whether that is so.
    fn drain(&self, py: Python<'_>, timeout: f64) -> bool {
        py.detach(|| self.core().crew().drain(duration(timeout)))
    }

    /// Hands out nothing more; whether all workers have left in time.
    fn stop(&self, py: Python<'_>, timeout: f64) -> bool {
        py.detach(|| self.core().crew().stop(duration(timeout)))
    }

    /// Runs that were recorded by this manager.
    fn runs(&self) -> u64 {
        self.core().runs()
    }

    /// Waits for another run to be recorded, after the first `seen`.
    fn wait_for_run(&self, py: Python<'_>, seen: u64, timeout: f64) {
        py.detach(|| self.core().wait_for_run(seen, duration(timeout)));
    }

    #[getter]
    fn is_running(&self) -> bool {
        self.core().crew().is_running()
    }

    /// Lets the worker go that has been idle longest; whether there is one.
    fn retire_one(&self) -> bool {
        self.core().crew().retire_one()
    }

    /// Workers alive, how many execute, and for how many seconds one has been idle.
    fn load(&self) -> (usize, usize, f64) {
        let view = self.core().crew().view();
        (view.workers, view.executing, view.longest_idle as f64 / 1e9)
    }

    /// Number, epoch of the last activity and whether it executes, for each worker.
    fn activity(&self) -> Vec<(u64, f64, bool)> {
        let seen = self.core().crew().view().activity;
        seen.into_iter().map(|(number, at, executes)| (number, at as f64 / 1e6, executes)).collect()
    }

    /// Tasks that wait for a worker.
    fn depth(&self, py: Python<'_>) -> PyResult<usize> {
        self.run(py, |core| core.store().depth())
    }

    /// Looks at what others wrote, if they did.
    fn look(&self, py: Python<'_>) -> PyResult<()> {
        self.run(py, |core| core.look())
    }

    fn cancel(&self, py: Python<'_>, task: i64) -> PyResult<bool> {
        self.run(py, |core| core.store().cancel(task))
    }

    fn recover(&self, py: Python<'_>, everything: bool, legacy: bool) -> PyResult<usize> {
        self.run(py, |core| core.recover(everything, legacy))
    }

    /// Percent of all processors since the last look, None if it cannot be measured.
    fn cpu_percent(&self) -> Option<f64> {
        self.cpu.lock().sample()
    }

    /// Writes, and commits that carried them.
    fn commits(&self) -> (u64, u64) {
        self.core().store().commits()
    }

    /// Ends the use of the file. Idempotent.
    fn close(&self, py: Python<'_>, timeout: f64, gives_back: bool) -> bool {
        py.detach(|| self.core().close(duration(timeout), gives_back))
    }
}

impl Drop for TaskCore {
    fn drop(&mut self) {
        let Some(core) = self.core.take() else { return };
        if core.is_closed() || !core.store().is_ours() {
            return;
        }
        // Leaving writes to the file and may have to wait for others, who may wait for the interpreter.
        drop(runtime::spawn_blocking(move || drop(core)));
    }
}

fn duration(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or(Duration::MAX)
}

fn call(job: Py<PyAny>) {
    // If the interpreter is gone, so is what it was for.
    Python::try_attach(|py| {
        let job = job.into_bound(py);
        if let Err(error) = hang::call(&job, &PyTuple::empty(py), None) {
            error.write_unraisable(py, Some(&job));
        }
    });
}

/// Calls `job()` on a background thread after `delay` seconds. What it raises goes to `sys.unraisablehook`.
#[pyfunction]
fn tasks_call_later(delay: f64, job: Py<PyAny>) -> PyResult<()> {
    runtime::after(duration(delay), move || {
        // It may have to wait for the interpreter, and signs of life are not to wait behind it.
        drop(runtime::spawn_long(move || call(job)));
    })?;
    Ok(())
}

/// How many workers there should be: a number to grow to, -1 to let an idle one go, or 0 to leave it.
#[pyfunction]
#[allow(clippy::too_many_arguments)]
fn tasks_decide(
    waiting: usize,
    workers: usize,
    executing: usize,
    longest_idle: f64,
    cpu_percent: f64,
    least: usize,
    most: usize,
    queue_depth: f64,
    idle_time: f64,
    cpu_threshold: f64,
) -> i64 {
    let nanoseconds = |seconds: f64| (seconds.max(0.0) * 1e9) as u64;
    let load = Load { waiting, workers, executing, longest_idle: nanoseconds(longest_idle), cpu_percent };
    let limits = Limits { min: least, max: most, queue_depth, idle_time: nanoseconds(idle_time), cpu_threshold };
    match decide(&load, &limits) {
        Decision::Stay => 0,
        Decision::Grow { to } => i64::try_from(to).unwrap_or(i64::MAX),
        Decision::RetireOne => -1,
    }
}

fn usage<'py>(py: Python<'py>, usage: Option<Usage>) -> PyResult<Option<Bound<'py, PyDict>>> {
    let Some(usage) = usage else { return Ok(None) };
    let found = PyDict::new(py);
    found.set_item("percent", usage.percent())?;
    found.set_item("used", usage.used)?;
    found.set_item("available", usage.available)?;
    found.set_item("total", usage.total)?;
    Ok(Some(found))
}

/// Main memory: `percent`, and `used`, `available`, `total` in bytes; None if it cannot be measured.
#[pyfunction]
fn system_memory(py: Python<'_>) -> PyResult<Option<Bound<'_, PyDict>>> {
    usage(py, py.detach(system::memory))
}

/// The same for the file system that holds `path`.
#[pyfunction]
fn system_disk(py: Python<'_>, path: std::path::PathBuf) -> PyResult<Option<Bound<'_, PyDict>>> {
    usage(py, py.detach(|| system::disk(&path)))
}

/// Percent of all processors between one call of `sample()` and the next.
#[pyclass(frozen, module = "upshift._native", name = "CpuMeter")]
pub struct PyCpuMeter {
    meter: Mutex<CpuMeter>,
}

#[pymethods]
impl PyCpuMeter {
    #[new]
    fn new() -> Self {
        Self { meter: Mutex::new(CpuMeter::new()) }
    }

    /// None if it cannot be measured.
    fn sample(&self) -> Option<f64> {
        self.meter.lock().sample()
    }
}

pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    // Now, not by the first thread that needs them: a child forked at that moment would wait for it for ever.
    errors::classes(module.py());
    module.add_class::<TaskCore>()?;
    module.add_class::<ClaimedTask>()?;
    module.add_class::<PyCpuMeter>()?;
    module.add_function(wrap_pyfunction!(tasks_call_later, module)?)?;
    module.add_function(wrap_pyfunction!(tasks_decide, module)?)?;
    module.add_function(wrap_pyfunction!(system_memory, module)?)?;
    module.add_function(wrap_pyfunction!(system_disk, module)?)
}
