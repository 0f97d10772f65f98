//! `Call` as Python sees it: made by `upshift.cache`, driven by `upshift._calls` where the native path does not suffice.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};
use pyo3::{PyTraverseError, PyVisit};

use super::{Call, NEXT_TOKEN, Request, Setting};
use crate::py::cache::core::{self, Look};
use crate::py::cache::{ResultCache, options};
use crate::py::cached::flight::{self, Flight, Landed};
use crate::py::cached::signature::Signature;
use crate::py::cached::stock::Stock;
use crate::py::lookup::fold;

#[pymethods]
impl Call {
    #[new]
    #[pyo3(signature = (cache, function, name, parameters, *, key_func, ttl, tags, jitter, version, memory_only,
        single_flight, wait_timeout, stale_while_revalidate, stale_if_error, driver, overridden, refresh_later))]
    #[allow(clippy::too_many_arguments)]
    fn new<'py>(
        cache: &Bound<'py, ResultCache>,
        function: Bound<'py, PyAny>,
        name: String,
        parameters: Option<Bound<'py, PyAny>>,
        key_func: Option<Bound<'py, PyAny>>,
        ttl: Option<Bound<'py, PyAny>>,
        tags: Option<Bound<'py, PyAny>>,
        jitter: Option<f64>,
        version: Option<Py<PyAny>>,
        memory_only: bool,
        single_flight: bool,
        wait_timeout: Option<Bound<'py, PyAny>>,
        stale_while_revalidate: Bound<'py, PyAny>,
        stale_if_error: Bound<'py, PyAny>,
        driver: Option<Py<PyAny>>,
        overridden: Py<PyAny>,
        refresh_later: Py<PyAny>,
    ) -> PyResult<Self> {
        let signature = parameters.map(|parameters| Signature::new(&parameters)).transpose()?;
        let token = NEXT_TOKEN.fetch_add(1, Ordering::Relaxed);
        let key_func = options::callable(key_func, "key_func")?;
        let ttl = match ttl {
            Some(ttl) if ttl.is_callable() => Setting::Derived(ttl.unbind()),
            Some(ttl) => Setting::Fixed(Some(options::seconds(&ttl, "ttl")?)),
            None => Setting::Fixed(None),
        };
        let tags = match tags {
            Some(tags) if tags.is_callable() => Setting::Derived(tags.unbind()),
            tags => Setting::Fixed(options::tags(tags.as_ref())?),
        };
        let grace =
            |value: &Bound<'py, PyAny>, what| options::non_negative_seconds(value, what).map(options::nanoseconds);
        let wait_timeout =
            wait_timeout.map(|value| options::non_negative_seconds(&value, "wait_timeout")).transpose()?;
        Ok(Self {
            stock: Stock::new(cache)?,
            cache: cache.clone().unbind(),
            function: function.unbind(),
            group: core::group_of(&name),
            name,
            token,
            seed: fold(token, 0x5EED),
            fast: key_func.is_none() && signature.is_some() && driver.is_none(),
            unary: signature.as_ref().is_some_and(Signature::is_unary),
            signature,
            key_func,
            ttl,
            tags,
            jitter: jitter.map(options::jitter).transpose()?,
            version,
            memory_only,
            single_flight,
            wait_timeout: wait_timeout.filter(|seconds| *seconds < 1e9),
            stale_while_revalidate: grace(&stale_while_revalidate, "stale_while_revalidate")?,
            stale_if_error: grace(&stale_if_error, "stale_if_error")?,
            driver,
            overridden,
            refresh_later,
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
        })
    }

    #[getter]
    fn cache<'py>(&self, py: Python<'py>) -> Bound<'py, ResultCache> {
        self.cache.bind(py).clone()
    }

    #[getter]
    fn function<'py>(&self, py: Python<'py>) -> Bound<'py, PyAny> {
        self.function.bind(py).clone()
    }

    #[getter]
    fn name(&self) -> &str {
        &self.name
    }

    #[getter]
    fn wait_timeout(&self) -> Option<f64> {
        self.wait_timeout
    }

    #[getter]
    fn function_hits(&self) -> u64 {
        self.hits.load(Ordering::Relaxed)
    }

    #[getter]
    fn function_misses(&self) -> u64 {
        self.misses.load(Ordering::Relaxed)
    }

    /// The key of a call, or None if its arguments cannot be told apart.
    fn resolve(&self, args: &Bound<'_, PyTuple>, kwargs: &Bound<'_, PyDict>) -> PyResult<Option<Request>> {
        self.resolve_call(args, kwargs)
    }

    /// `(state, value)`: "fresh", "revalidate" (stale, to be refreshed in the background), "stale" (of use only if
    /// the computation fails) or "absent". Counts as the native path does when `count` is true.
    #[pyo3(name = "look", signature = (request, count = true))]
    fn look_for<'py>(
        &self,
        py: Python<'py>,
        request: &Request,
        count: bool,
    ) -> PyResult<(&'static str, Option<Py<PyAny>>)> {
        let cache = self.cache.bind(py);
        cache.get().enter(py)?;
        Ok(match self.look(cache, request, count)? {
            Look::Fresh(value) => ("fresh", Some(value)),
            Look::Stale { value, age } if age <= self.stale_while_revalidate => {
                if count {
                    self.served_stale(cache);
                }
                ("revalidate", Some(value))
            }
            Look::Stale { value, .. } => {
                if count {
                    self.missed(cache, request);
                }
                ("stale", Some(value))
            }
            Look::Absent => ("absent", None),
        })
    }

    #[getter]
    fn single_flight(&self) -> bool {
        self.single_flight
    }

    #[getter]
    fn stale_if_error(&self) -> bool {
        self.stale_if_error > 0
    }

    #[getter]
    fn has_key_func(&self) -> bool {
        self.key_func.is_some()
    }

    /// Whether the cache still has its own `get`, `set` and `generate_key`.
    fn is_stock(&self, py: Python<'_>) -> bool {
        self.stock.holds_slowly(self.cache.bind(py))
    }

    /// Counts a hit or a miss of this function, for lookups made through overridden methods.
    #[pyo3(name = "count")]
    fn count_one(&self, hit: bool) {
        self.count(if hit { &self.hits } else { &self.misses });
    }

    /// Whether the key of `request` is being computed right now.
    fn is_computing(&self, py: Python<'_>, request: &Request) -> PyResult<bool> {
        self.cache.get().flights.bind(py).contains(request.key.bind(py))
    }

    /// The bound arguments as `generate_key` takes them: positional values, and keyword arguments by name.
    fn arguments<'py>(
        &self,
        args: &Bound<'py, PyTuple>,
        kwargs: &Bound<'py, PyDict>,
    ) -> PyResult<(Vec<Bound<'py, PyAny>>, Bound<'py, PyDict>)> {
        match self.bind_call(args, kwargs)? {
            Some((bound, _alive)) => self.named(args.py(), &bound),
            None => Ok((args.iter().collect(), kwargs.clone())),
        }
    }

    /// `(ttl, tags)` for a result.
    fn terms(&self, value: &Bound<'_, PyAny>) -> PyResult<(Option<f64>, Vec<String>)> {
        self.terms_of(value)
    }

    /// `(leads, flight)` for the key of `request`.
    fn join<'py>(&self, py: Python<'py>, request: &Request) -> PyResult<(bool, Bound<'py, Flight>)> {
        let flights = self.cache.get().flights.bind(py);
        flight::join(flights, request.key.bind(py), self.group, self.fixed_tags())
    }

    /// Ends a flight with a value (`succeeded`) or a failure.
    fn end(
        &self,
        py: Python<'_>,
        request: &Request,
        flight: &Bound<'_, Flight>,
        succeeded: bool,
        value: Option<Py<PyAny>>,
    ) -> PyResult<()> {
        let value = if succeeded { Some(value.unwrap_or_else(|| py.None())) } else { None };
        flight::end(self.cache.get().flights.bind(py), request.key.bind(py), flight, value)
    }

    /// Waits for another thread's flight: "value", "failed", "timeout" or "deadlock", and the value.
    fn wait(&self, flight: &Bound<'_, Flight>, timeout: Option<f64>) -> PyResult<(&'static str, Option<Py<PyAny>>)> {
        let deadline = timeout.map(|seconds| Instant::now() + Duration::from_secs_f64(seconds));
        Ok(match Flight::wait(flight, deadline)? {
            Landed::Value(value) => ("value", Some(value)),
            Landed::Failed => ("failed", None),
            Landed::Timeout => ("timeout", None),
            Landed::WouldDeadlock => ("deadlock", None),
        })
    }

    /// Stores a result computed in `seconds`, unless its flight was invalidated meanwhile.
    #[pyo3(signature = (request, flight, value, seconds))]
    fn store(
        &self,
        py: Python<'_>,
        request: &Request,
        flight: Option<&Flight>,
        value: &Bound<'_, PyAny>,
        seconds: f32,
    ) -> PyResult<()> {
        self.store_result(self.cache.bind(py), request, flight, value, seconds)
    }

    /// What a failed computation comes to: the stale value if `stale_if_error` allows, else `error` raised.
    fn rescued(&self, error: Bound<'_, PyAny>, stale: Option<Py<PyAny>>) -> PyResult<Py<PyAny>> {
        self.rescue(error.py(), PyErr::from_value(error.clone()), stale)
    }

    /// The error for a waiter whose time is up.
    fn timed_out(&self, py: Python<'_>) -> Py<PyAny> {
        crate::py::errors::single_flight_timeout(py, &self.name, self.wait_timeout).into_value(py).into_any()
    }

    /// Removes every entry of this function from both tiers.
    fn clear(&self, py: Python<'_>) -> PyResult<usize> {
        let cache = self.cache.bind(py);
        cache.get().enter(py)?;
        core::invalidate(cache, core::Selector::Function { name: &self.name, durable: !self.memory_only })
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.cache)?;
        visit.call(&self.function)?;
        visit.call(&self.key_func)?;
        visit.call(&self.version)?;
        visit.call(&self.driver)?;
        if let Setting::Derived(derive) = &self.ttl {
            visit.call(derive)?;
        }
        if let Setting::Derived(derive) = &self.tags {
            visit.call(derive)?;
        }
        self.signature.as_ref().map_or(Ok(()), |signature| signature.traverse(&visit))
    }
}
