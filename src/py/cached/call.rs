//! `Call`: what a decorated function does when it is called.
//!
//! [`Call::hit`] answers from memory without touching a reference count but the result's. Everything else goes through
//! [`Call::miss`]: the text key, the disk tier, single flight, the computation, the store. Coroutine functions, leases
//! across processes and caches with overridden methods are driven from Python (`upshift._calls`), see [`methods`].
#![allow(unsafe_code)]

mod methods;

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use pyo3::exceptions::{PyException, PyTypeError};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString, PyTuple};
use pyo3::{PyTraverseError, PyVisit};

use super::flight::{self, Flight, Landed};
use super::signature::{Bound1, Signature};
use super::stock::Stock;
use crate::py::cache::core::{self, Attach, Look, Put};
use crate::py::cache::state::Alias;
use crate::py::cache::{ResultCache, options};
use crate::py::hang;
use crate::py::keys::{CallKey, call_key};
use crate::py::lookup::{fold, fold_argument, hash_key, same_argument};

/// A value given at decoration, or derived from each result.
enum Setting<T> {
    Fixed(T),
    Derived(Py<PyAny>),
}

/// A call with its key worked out: what `Call.resolve` returns and its other methods take.
#[pyclass(frozen, module = "upshift._native")]
pub struct Request {
    /// What the entry is stored under: the text key, or what `key_func` returned.
    #[pyo3(get)]
    pub key: Py<PyAny>,
    hash: u64,
    alias: Option<(u64, Py<PyAny>)>,
    /// The key means something in this process only.
    #[pyo3(get)]
    memory_only: bool,
}

#[pymethods]
impl Request {
    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.key)?;
        if let Some((_, arguments)) = &self.alias {
            visit.call(arguments)?;
        }
        Ok(())
    }
}

/// A decorated function's behaviour, for the paths that are driven from Python (`upshift._calls`).
///
/// Safe from any thread. Methods that look or store use both tiers and block for the disk as `ResultCache.get` and
/// `set` do.
#[pyclass(frozen, weakref, module = "upshift._native")]
pub struct Call {
    cache: Py<ResultCache>,
    function: Py<PyAny>,
    /// Prefix of the text keys, without the ':'.
    name: String,
    /// Tells this function's call arguments from those of others.
    token: u64,
    /// Labels this function's entries.
    group: u64,
    seed: u64,
    signature: Option<Signature>,
    key_func: Option<Py<PyAny>>,
    ttl: Setting<Option<f64>>,
    tags: Setting<Vec<String>>,
    jitter: Option<f64>,
    version: Option<Py<PyAny>>,
    memory_only: bool,
    single_flight: bool,
    wait_timeout: Option<f64>,
    stale_while_revalidate: u64,
    stale_if_error: u64,
    /// `run(call, args, kwargs)` replaces the native miss path, and for coroutine functions the hit path too.
    driver: Option<Py<PyAny>>,
    /// `overridden(call, args, kwargs)` serves caches whose methods a subclass or a test replaced.
    overridden: Py<PyAny>,
    /// `refresh_later(call, args, kwargs)` recomputes in the background.
    refresh_later: Py<PyAny>,
    /// Memory hits need no more than [`Call::hit`].
    fast: bool,
    unary: bool,
    stock: Stock,
    hits: AtomicU64,
    misses: AtomicU64,
}

static NEXT_TOKEN: AtomicU64 = AtomicU64::new(1);

impl Call {
    /// The stored result for these arguments, as a new reference; `None` if more than the memory tier is needed.
    ///
    /// # Safety
    /// Vectorcall convention: `count` positional objects, then one for each of `names` (null or tuple of str).
    #[inline(always)]
    pub unsafe fn hit(
        &self,
        py: Python<'_>,
        arguments: *const *mut ffi::PyObject,
        count: usize,
        names: *mut ffi::PyObject,
    ) -> Option<*mut ffi::PyObject> {
        let cache = self.cache.get();
        if !self.fast || !cache.is_plain() || !self.stock.holds() {
            return None;
        }
        // SAFETY: the caller's promise.
        unsafe {
            if names.is_null() && self.unary && count == 1 {
                let argument = *arguments;
                let hash = fold_argument(self.seed, argument)?;
                return self.serve(py, cache, hash, |alias| same_argument(alias.arguments.as_ptr(), argument));
            }
            let signature = self.signature.as_ref()?;
            if names.is_null() && signature.is_exact(count) {
                return self.serve_bound(py, cache, std::slice::from_raw_parts(arguments, count));
            }
            let mut bound = Bound1::new();
            if !signature.bind(arguments, count, names, &mut bound) {
                return None;
            }
            self.serve_bound(py, cache, &bound)
        }
    }

    #[inline(always)]
    unsafe fn serve_bound(
        &self,
        py: Python<'_>,
        cache: &ResultCache,
        bound: &[*mut ffi::PyObject],
    ) -> Option<*mut ffi::PyObject> {
        let hash = self.hash_bound(bound)?;
        let unary = self.unary;
        self.serve(py, cache, hash, |alias| {
            let stored = alias.arguments.as_ptr();
            // SAFETY: what `own` stored is the object itself for unary functions, else an exact tuple.
            unsafe {
                if unary {
                    return same_argument(stored, bound[0]);
                }
                ffi::PyTuple_GET_SIZE(stored) as usize == bound.len()
                    && bound.iter().enumerate().all(|(i, item)| {
                        let stored = ffi::PyTuple_GET_ITEM(stored, i as ffi::Py_ssize_t);
                        stored == *item || same_argument(stored, *item)
                    })
            }
        })
    }

    #[inline(always)]
    fn serve(
        &self,
        py: Python<'_>,
        cache: &ResultCache,
        hash: u64,
        mut same: impl FnMut(&Alias) -> bool,
    ) -> Option<*mut ffi::PyObject> {
        let mut state = cache.state.enter(py);
        let token = self.token;
        let slot = state.engine.find_alias(hash, |alias| alias.function == token && same(alias))?;
        let value = state.hit(py, slot)?;
        self.count(&self.hits);
        Some(value)
    }

    /// One more hit or miss of this function. The interpreter lock serialises it; atomic only to be `Sync`.
    #[inline(always)]
    fn count(&self, counter: &AtomicU64) {
        counter.store(counter.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    }

    #[inline(always)]
    fn hash_bound(&self, bound: &[*mut ffi::PyObject]) -> Option<u64> {
        let mut hash = self.seed;
        for item in bound {
            hash = match fold_argument(hash, *item) {
                Some(hash) => hash,
                // The mark is no user's object; its address is as good a hash as any.
                None if self.signature.as_ref()?.is_mark(*item) => fold(hash, *item as u64),
                None => return None,
            };
        }
        Some(hash)
    }

    /// Serves a call that [`hit`](Self::hit) did not.
    ///
    /// # Safety
    /// As for `hit`.
    pub unsafe fn miss(
        slf: &Bound<'_, Self>,
        arguments: *const *mut ffi::PyObject,
        count: usize,
        names: *mut ffi::PyObject,
    ) -> PyResult<Py<PyAny>> {
        let (py, this) = (slf.py(), slf.get());
        let cache = this.cache.bind(py);
        cache.get().enter(py)?;
        // SAFETY: the caller's promise, for all uses below.
        unsafe {
            let handler = if this.stock.holds_slowly(cache) { this.driver.as_ref() } else { Some(&this.overridden) };
            if let Some(handler) = handler {
                let (positional, keywords) = collect(py, arguments, count, names)?;
                let all = (slf, positional, keywords).into_pyobject(py)?;
                return hang::call(handler.bind(py), &all, None).map(Bound::unbind);
            }
            let compute = || hang::vectorcall(py, this.function.as_ptr(), arguments, count, names);
            let request = if this.key_func.is_some() {
                let (positional, keywords) = collect(py, arguments, count, names)?;
                Some(this.request_by_key_func(&positional, &keywords)?)
            } else {
                let mut bound = Bound1::new();
                match &this.signature {
                    Some(signature) if signature.bind(arguments, count, names, &mut bound) => {
                        this.request_for(py, &bound)?
                    }
                    _ => None,
                }
            };
            let Some(request) = request else {
                return compute().map(Bound::unbind);
            };
            let stale = match this.look(cache, &request, true)? {
                Look::Fresh(value) => return Ok(value),
                Look::Stale { value, age } if age <= this.stale_while_revalidate => {
                    this.served_stale(cache);
                    let (positional, keywords) = collect(py, arguments, count, names)?;
                    let all = (slf, positional, keywords).into_pyobject(py)?;
                    hang::call(this.refresh_later.bind(py), &all, None)?;
                    return Ok(value);
                }
                Look::Stale { value, .. } => {
                    this.missed(cache, &request);
                    Some(value)
                }
                Look::Absent => None,
            };
            this.compute_once(cache, &request, stale, compute)
        }
    }

    fn served_stale(&self, cache: &Bound<'_, ResultCache>) {
        cache.get().state.with(cache.py(), |state| state.counters.hits += 1);
        self.count(&self.hits);
    }

    fn missed(&self, cache: &Bound<'_, ResultCache>, request: &Request) {
        cache.get().missed(request.key.bind(cache.py()));
        self.count(&self.misses);
    }

    /// Looks in both tiers; counts a hit, or a miss unless a stale value was found.
    fn look(&self, cache: &Bound<'_, ResultCache>, request: &Request, count: bool) -> PyResult<Look> {
        let py = cache.py();
        let attach = Attach {
            alias: request.alias.as_ref().map(|(hash, arguments)| (*hash, self.alias(py, arguments))),
            group: self.group,
            memory_only: request.memory_only,
        };
        let found = core::look(cache, request.key.bind(py), request.hash, Some(attach), count)?;
        match &found {
            Look::Fresh(_) if count => self.count(&self.hits),
            Look::Absent if count => self.count(&self.misses),
            _ => {}
        }
        Ok(found)
    }

    fn alias(&self, py: Python<'_>, arguments: &Py<PyAny>) -> Alias {
        Alias { function: self.token, arguments: arguments.clone_ref(py) }
    }

    /// Computes and stores, or waits for the thread that already does.
    fn compute_once<'py>(
        &self,
        cache: &Bound<'py, ResultCache>,
        request: &Request,
        stale: Option<Py<PyAny>>,
        compute: impl Fn() -> PyResult<Bound<'py, PyAny>>,
    ) -> PyResult<Py<PyAny>> {
        let py = cache.py();
        if !self.single_flight {
            return self.compute_and_store(cache, request, None, stale, &compute);
        }
        let deadline = self.wait_timeout.map(|seconds| Instant::now() + Duration::from_secs_f64(seconds));
        let (flights, key) = (cache.get().flights.bind(py), request.key.bind(py));
        loop {
            let (leads, flight) = flight::join(flights, key, self.group, self.fixed_tags())?;
            if leads {
                // Someone else may have landed between the lookup and the start of this flight.
                let result = match self.look(cache, request, false) {
                    Ok(Look::Fresh(value)) => Ok(value),
                    Ok(_) => self.compute_and_store(cache, request, Some(flight.get()), stale, &compute),
                    Err(error) => Err(error),
                };
                let landed = result.as_ref().ok().filter(|value| !is_coroutine(value.bind(py)));
                let landed = landed.map(|value| value.clone_ref(py));
                flight::end(flights, key, &flight, landed)?;
                return result;
            }
            match Flight::wait(&flight, deadline)? {
                Landed::Value(value) => return Ok(value),
                Landed::Failed => {}
                Landed::Timeout => {
                    return Err(crate::py::errors::single_flight_timeout(py, &self.name, self.wait_timeout));
                }
                Landed::WouldDeadlock => return self.compute_and_store(cache, request, None, stale, &compute),
            }
        }
    }

    fn compute_and_store<'py>(
        &self,
        cache: &Bound<'py, ResultCache>,
        request: &Request,
        flight: Option<&Flight>,
        stale: Option<Py<PyAny>>,
        compute: &impl Fn() -> PyResult<Bound<'py, PyAny>>,
    ) -> PyResult<Py<PyAny>> {
        let started = Instant::now();
        match compute() {
            // It can be awaited once: every caller needs its own.
            Ok(value) if is_coroutine(&value) => Ok(value.unbind()),
            Ok(value) => {
                self.store_result(cache, request, flight, &value, started.elapsed().as_secs_f32())?;
                Ok(value.unbind())
            }
            Err(error) => self.rescue(cache.py(), error, stale),
        }
    }

    /// `stale_if_error`: the expired value instead of an exception, if there is one that is young enough.
    fn rescue(&self, py: Python<'_>, error: PyErr, stale: Option<Py<PyAny>>) -> PyResult<Py<PyAny>> {
        match stale {
            Some(value) if self.stale_if_error > 0 && error.is_instance_of::<PyException>(py) => {
                let text = format!("{} failed, serving its expired result", self.name);
                crate::py::log_error(py, "upshift.cache", &text, &error);
                Ok(value)
            }
            _ => Err(error),
        }
    }

    fn store_result(
        &self,
        cache: &Bound<'_, ResultCache>,
        request: &Request,
        flight: Option<&Flight>,
        value: &Bound<'_, PyAny>,
        cost: f32,
    ) -> PyResult<()> {
        let py = cache.py();
        let (ttl, tags) = self.terms_of(value)?;
        let put = Put {
            ttl,
            tags: &tags,
            cost,
            grace: self.stale_while_revalidate.max(self.stale_if_error),
            alias: request.alias.as_ref().map(|(hash, arguments)| (*hash, self.alias(py, arguments))),
            group: Some(self.group),
            function: self.key_func.is_some().then_some(self.name.as_str()),
            memory_only: request.memory_only,
            jitter: self.jitter,
            flight,
        };
        core::put(cache, request.key.bind(py), request.hash, value, put)
    }

    /// Lifetime and tags of a result; runs the user's callables, if any.
    fn terms_of(&self, value: &Bound<'_, PyAny>) -> PyResult<(Option<f64>, Vec<String>)> {
        let py = value.py();
        let ttl = match &self.ttl {
            Setting::Fixed(ttl) => *ttl,
            Setting::Derived(derive) => {
                let ttl = hang::call(derive.bind(py), &PyTuple::new(py, [value])?, None)?;
                if ttl.is_none() { None } else { Some(options::seconds(&ttl, "ttl")?) }
            }
        };
        let tags = match &self.tags {
            Setting::Fixed(tags) => tags.clone(),
            Setting::Derived(derive) => {
                options::tags(Some(&hang::call(derive.bind(py), &PyTuple::new(py, [value])?, None)?))?
            }
        };
        Ok((ttl, tags))
    }

    fn fixed_tags(&self) -> &[String] {
        match &self.tags {
            Setting::Fixed(tags) => tags,
            Setting::Derived(_) => &[],
        }
    }

    fn request_by_key_func(&self, positional: &Bound<'_, PyTuple>, keywords: &Bound<'_, PyDict>) -> PyResult<Request> {
        let py = positional.py();
        let key_func = self.key_func.as_ref().ok_or_else(|| PyTypeError::new_err("no key_func"))?;
        let key = hang::call(key_func.bind(py), positional, Some(keywords))?;
        let hash = hash_key(&key)?;
        Ok(Request { key: key.unbind(), hash, alias: None, memory_only: self.memory_only })
    }

    /// Works out the text key; `None` if the arguments cannot be told apart (the call is then not cached).
    fn request_for(&self, py: Python<'_>, bound: &Bound1) -> PyResult<Option<Request>> {
        let Some(signature) = &self.signature else { return Ok(None) };
        let alias = match self.hash_bound(bound) {
            Some(hash) => Some((hash, signature.own(py, bound)?)),
            None => None,
        };
        let (positional, keywords) = self.named(py, bound)?;
        let named = keywords.iter().map(|(name, value)| Ok((name.cast_into::<PyString>()?, value)));
        let named = named.collect::<PyResult<Vec<_>>>()?;
        let (text, memory_only) = match call_key(py, &self.name, positional, named)? {
            CallKey::Durable(text) => (text, self.memory_only),
            CallKey::MemoryOnly(text) => (text, true),
            CallKey::Uncacheable => return Ok(None),
        };
        let key = PyString::new(py, &text).into_any();
        Ok(Some(Request { hash: hash_key(&key)?, key: key.unbind(), alias, memory_only }))
    }

    fn resolve_call(&self, positional: &Bound<'_, PyTuple>, keywords: &Bound<'_, PyDict>) -> PyResult<Option<Request>> {
        let py = positional.py();
        if self.key_func.is_some() {
            return self.request_by_key_func(positional, keywords).map(Some);
        }
        match self.bind_call(positional, keywords)? {
            Some((bound, _alive)) => self.request_for(py, &bound),
            None => Ok(None),
        }
    }

    /// Binds an ordinary call; `None` if it does not fit the signature. The second part keeps the bound objects alive.
    fn bind_call<'py>(
        &self,
        positional: &Bound<'py, PyTuple>,
        keywords: &Bound<'py, PyDict>,
    ) -> PyResult<Option<(Bound1, Vec<Bound<'py, PyAny>>)>> {
        let Some(signature) = &self.signature else { return Ok(None) };
        let mut alive: Vec<Bound<'py, PyAny>> = positional.iter().collect();
        alive.extend(keywords.values());
        let items: Vec<*mut ffi::PyObject> = alive.iter().map(|item| item.as_ptr()).collect();
        let names = PyTuple::new(positional.py(), keywords.keys())?;
        alive.push(names.clone().into_any());
        let mut bound = Bound1::new();
        // SAFETY: `items` holds the positional objects and then one for each name, all kept alive by `alive`.
        let fits = unsafe { signature.bind(items.as_ptr(), positional.len(), names.as_ptr(), &mut bound) };
        Ok(fits.then_some((bound, alive)))
    }

    /// A bound call as `generate_key` takes it, `version` included.
    fn named<'py>(&self, py: Python<'py>, bound: &Bound1) -> PyResult<(Vec<Bound<'py, PyAny>>, Bound<'py, PyDict>)> {
        let Some(signature) = &self.signature else { return Ok((Vec::new(), PyDict::new(py))) };
        let (positional, keywords) = signature.split(py, bound)?;
        if let Some(version) = &self.version {
            keywords.set_item(VERSION, version)?;
        }
        Ok((positional, keywords))
    }
}

/// Keyword under which `version=` enters the key; no call can pass one of this name by accident.
const VERSION: &str = "\0version";

fn is_coroutine(value: &Bound<'_, PyAny>) -> bool {
    // SAFETY: looks at the type of a live object.
    unsafe { ffi::PyCoro_CheckExact(value.as_ptr()) != 0 }
}

/// The arguments of a vectorcall as the tuple and dict of an ordinary call.
unsafe fn collect<'py>(
    py: Python<'py>,
    arguments: *const *mut ffi::PyObject,
    count: usize,
    names: *mut ffi::PyObject,
) -> PyResult<(Bound<'py, PyTuple>, Bound<'py, PyDict>)> {
    // SAFETY: vectorcall convention, promised by the caller.
    unsafe {
        let item = |i: usize| Bound::from_borrowed_ptr(py, *arguments.add(i));
        let positional = PyTuple::new(py, (0..count).map(item).collect::<Vec<_>>())?;
        let keywords = PyDict::new(py);
        if !names.is_null() {
            for i in 0..ffi::PyTuple_GET_SIZE(names) {
                let name = Bound::from_borrowed_ptr(py, ffi::PyTuple_GET_ITEM(names, i));
                keywords.set_item(name, item(count + i as usize))?;
            }
        }
        Ok((positional, keywords))
    }
}
