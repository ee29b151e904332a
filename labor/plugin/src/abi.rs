//! The C ABI between a plugin host and a plugin, both sides of it.
//!
//! A plugin exports one symbol, `overseer_plugin`, which gives a [`PluginTable`]; `start` hands
//! it a [`HostTable`]. Payloads are bytes, and whoever made a buffer frees it. Both tables begin
//! with their size and version and only ever grow at the end within a major version, so each
//! side may read what is within the size that the other says.
#![allow(unsafe_code)]

use std::ffi::{OsStr, c_void};
use std::fmt;
use std::ops::Deref;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use crate::instance::Instance;
use crate::link::Link;
use crate::{BlobRef, Plugin, Status};

/// Changes when an older plugin cannot be loaded any more.
pub const ABI_MAJOR: u32 = 1;
/// Changes when the tables grow.
pub const ABI_MINOR: u32 = 1;
/// The exported symbol: `extern "C" fn() -> *const PluginTable`.
pub const SYMBOL: &str = "overseer_plugin";

/// Bytes that are borrowed for the time of a call over the ABI.
#[repr(C)]
#[derive(Clone, Copy)]
struct Slice {
    start: *const u8,
    length: usize,
}

impl Slice {
    fn of(bytes: &[u8]) -> Self {
        Self { start: bytes.as_ptr(), length: bytes.len() }
    }

    /// # Safety
    /// The bytes must live for `'a`.
    unsafe fn bytes<'a>(self) -> &'a [u8] {
        if self.length == 0 {
            return &[];
        }
        // SAFETY: the other side says so, and the caller answers for the lifetime.
        unsafe { std::slice::from_raw_parts(self.start, self.length) }
    }
}

/// Bytes that the other side made and frees.
#[repr(C)]
struct Buffer {
    start: *mut u8,
    length: usize,
    capacity: usize,
}

impl Buffer {
    const EMPTY: Self = Self { start: std::ptr::null_mut(), length: 0, capacity: 0 };

    fn of(bytes: Vec<u8>) -> Self {
        let mut bytes = std::mem::ManuallyDrop::new(bytes);
        Self { start: bytes.as_mut_ptr(), length: bytes.len(), capacity: bytes.capacity() }
    }
}

unsafe extern "C" fn free(buffer: Buffer) {
    if !buffer.start.is_null() {
        // SAFETY: made by `Buffer::of` of this side, and given back once.
        drop(unsafe { Vec::from_raw_parts(buffer.start, buffer.length, buffer.capacity) });
    }
}

type Free = unsafe extern "C" fn(Buffer);

#[repr(C)]
#[derive(Clone, Copy)]
struct Head {
    size: usize,
    abi_major: u32,
    abi_minor: u32,
}

/// What a plugin gives its host.
#[repr(C)]
pub struct PluginTable {
    head: Head,
    instance: *const c_void,
    concurrency: u32,
    start: unsafe extern "C" fn(*const c_void, *const HostTable, *mut Buffer) -> u32,
    begin: unsafe extern "C" fn(*const c_void, u64),
    call: unsafe extern "C" fn(*const c_void, u64, u32, Slice, Slice, *mut Buffer) -> u32,
    cancel: unsafe extern "C" fn(*const c_void, u64),
    health: unsafe extern "C" fn(*const c_void, *mut Buffer) -> u32,
    stop: unsafe extern "C" fn(*const c_void, *mut Buffer) -> u32,
    free: Free,
}

/// What a host gives its plugin. Lives as long as the process.
#[repr(C)]
pub struct HostTable {
    head: Head,
    host: *const c_void,
    directory: Slice,
    telemetry: unsafe extern "C" fn(*const c_void, Slice),
    log: unsafe extern "C" fn(*const c_void, u64, Slice, Slice),
    put_blob: unsafe extern "C" fn(*const c_void, Slice, *mut u64, *mut Buffer) -> u32,
    get_blob: unsafe extern "C" fn(*const c_void, Slice, Slice, *mut u64, *mut Buffer) -> u32,
    free: Free,
}

/// The table as it is since ABI 1.1: a plugin that is older sees its beginning.
#[repr(C)]
struct TracedHostTable {
    table: HostTable,
    trace: unsafe extern "C" fn(*const c_void, u64, *mut Buffer) -> u32,
}

// SAFETY: both tables are written once, before they are shared, and what their pointers lead to
// (an `Instance` and a `Link`) is `Sync` and never freed.
unsafe impl Send for PluginTable {}
unsafe impl Sync for PluginTable {}
unsafe impl Send for HostTable {}
unsafe impl Sync for HostTable {}
unsafe impl Send for TracedHostTable {}
unsafe impl Sync for TracedHostTable {}

impl fmt::Debug for PluginTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PluginTable of ABI {}.{}", self.head.abi_major, self.head.abi_minor)
    }
}

impl fmt::Debug for HostTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HostTable of ABI {}.{}", self.head.abi_major, self.head.abi_minor)
    }
}

// ---- the plugin's side ----

/// A new instance of a plugin, not started; what the exported symbol gives. Never freed.
pub fn table<P: Plugin>() -> &'static PluginTable {
    table_for::<P>(P::CONCURRENCY)
}

fn table_for<P: Plugin>(concurrency: u32) -> &'static PluginTable {
    let instance: &'static Instance<P> = Box::leak(Box::new(Instance::new()));
    Box::leak(Box::new(PluginTable {
        head: Head { size: size_of::<PluginTable>(), abi_major: ABI_MAJOR, abi_minor: ABI_MINOR },
        instance: std::ptr::from_ref(instance).cast(),
        concurrency: concurrency.max(1),
        start: start::<P>,
        begin: begin::<P>,
        call: call::<P>,
        cancel: cancel::<P>,
        health: health::<P>,
        stop: stop::<P>,
        free,
    }))
}

/// # Safety
/// `instance` is that of a table made by [`table`] for the same `P`.
unsafe fn instance<P: Plugin>(instance: *const c_void) -> &'static Instance<P> {
    // SAFETY: such an instance is leaked, so it lives for ever.
    unsafe { &*instance.cast() }
}

/// # Safety
/// `out` points to a buffer that the caller owns.
unsafe fn answer(out: *mut Buffer, (status, bytes): (Status, Vec<u8>)) -> u32 {
    // SAFETY: as the caller says; what was there is plain data.
    unsafe { out.write(Buffer::of(bytes)) };
    status as u32
}

// SAFETY of all that follow: the host calls with the instance of the same table, with slices that
// live for the call and with an `out` of its own. Each catches panics within, in `Instance`.

unsafe extern "C" fn start<P: Plugin>(this: *const c_void, host: *const HostTable, out: *mut Buffer) -> u32 {
    let link = Arc::new(HostLink { table: unsafe { &*host }, raw: host });
    unsafe { answer(out, instance::<P>(this).start(link)) }
}

unsafe extern "C" fn begin<P: Plugin>(this: *const c_void, id: u64) {
    unsafe { instance::<P>(this) }.begin(id);
}

unsafe extern "C" fn call<P: Plugin>(
    this: *const c_void,
    id: u64,
    cast: u32,
    method: Slice,
    payload: Slice,
    out: *mut Buffer,
) -> u32 {
    let (method, payload) = unsafe { (method.bytes(), payload.bytes()) };
    unsafe { answer(out, instance::<P>(this).call(id, cast != 0, method, payload)) }
}

unsafe extern "C" fn cancel<P: Plugin>(this: *const c_void, id: u64) {
    unsafe { instance::<P>(this) }.cancel(id);
}

unsafe extern "C" fn health<P: Plugin>(this: *const c_void, out: *mut Buffer) -> u32 {
    unsafe { answer(out, instance::<P>(this).health()) }
}

unsafe extern "C" fn stop<P: Plugin>(this: *const c_void, out: *mut Buffer) -> u32 {
    unsafe { answer(out, instance::<P>(this).stop()) }
}

/// The host, as the plugin sees it.
struct HostLink {
    table: &'static HostTable,
    /// The same, from which what a newer host has more can be reached.
    raw: *const HostTable,
}

// SAFETY: the table is written once and lives as long as the process.
unsafe impl Send for HostLink {}
unsafe impl Sync for HostLink {}

impl HostLink {
    fn ask(&self, ask: impl FnOnce(*mut u64, *mut Buffer) -> u32) -> Result<(Vec<u8>, u64), String> {
        let (mut size, mut out) = (0, Buffer::EMPTY);
        let status = ask(&mut size, &mut out);
        let bytes = Bytes { buffer: out, free: self.table.free };
        match Status::from_wire(status) {
            Status::Done => Ok((bytes.to_vec(), size)),
            _ => Err(String::from_utf8_lossy(&bytes).into_owned()),
        }
    }
}

// SAFETY of the calls below: the table is the host's, and the slices live for each call.
impl Link for HostLink {
    fn directory(&self) -> &Path {
        Path::new(OsStr::from_bytes(unsafe { self.table.directory.bytes() }))
    }

    fn telemetry(&self, record: &[u8]) {
        unsafe { (self.table.telemetry)(self.table.host, Slice::of(record)) }
    }

    fn log(&self, call: u64, stream: &str, bytes: &[u8]) {
        unsafe { (self.table.log)(self.table.host, call, Slice::of(stream.as_bytes()), Slice::of(bytes)) }
    }

    fn trace(&self, call: u64) -> Option<String> {
        if self.table.head.size < size_of::<TracedHostTable>() {
            return None;
        }
        // SAFETY: the host says that its table is so large; it gave us a pointer to all of it.
        let trace = unsafe { (&raw const (*self.raw.cast::<TracedHostTable>()).trace).read() };
        let (text, _) = self.ask(|_, out| unsafe { trace(self.table.host, call, out) }).ok()?;
        String::from_utf8(text).ok()
    }

    fn put_blob(&self, file: &Path) -> Result<BlobRef, String> {
        let file = Slice::of(file.as_os_str().as_bytes());
        let (digest, size) =
            self.ask(|size, out| unsafe { (self.table.put_blob)(self.table.host, file, size, out) })?;
        Ok(BlobRef { digest: String::from_utf8_lossy(&digest).into_owned(), size })
    }

    fn get_blob(&self, digest: &str, to: &Path) -> Result<u64, String> {
        let (digest, to) = (Slice::of(digest.as_bytes()), Slice::of(to.as_os_str().as_bytes()));
        self.ask(|size, out| unsafe { (self.table.get_blob)(self.table.host, digest, to, size, out) })
            .map(|(_, size)| size)
    }
}

// ---- the host's side ----

/// The table of a host that speaks through `link`. Never freed.
pub(crate) fn host_table(link: Arc<dyn Link>) -> *const HostTable {
    let host: &'static Arc<dyn Link> = Box::leak(Box::new(link));
    let table = HostTable {
        head: Head { size: size_of::<TracedHostTable>(), abi_major: ABI_MAJOR, abi_minor: ABI_MINOR },
        host: std::ptr::from_ref(host).cast(),
        directory: Slice::of(host.directory().as_os_str().as_bytes()),
        telemetry: host_telemetry,
        log: host_log,
        put_blob: host_put_blob,
        get_blob: host_get_blob,
        free,
    };
    Box::into_raw(Box::new(TracedHostTable { table, trace: host_trace })).cast()
}

// SAFETY of all that follow: a plugin calls with the `host` of the table that it got, which is
// leaked, with slices that live for the call and with an `out` of its own.

unsafe fn host(host: *const c_void) -> &'static dyn Link {
    unsafe { &**host.cast::<Arc<dyn Link>>() }
}

unsafe extern "C" fn host_telemetry(this: *const c_void, record: Slice) {
    unsafe { host(this).telemetry(record.bytes()) }
}

unsafe extern "C" fn host_log(this: *const c_void, call: u64, stream: Slice, bytes: Slice) {
    let stream = unsafe { String::from_utf8_lossy(stream.bytes()) };
    unsafe { host(this).log(call, &stream, bytes.bytes()) }
}

unsafe extern "C" fn host_trace(this: *const c_void, call: u64, out: *mut Buffer) -> u32 {
    let answered = match unsafe { host(this) }.trace(call) {
        Some(trace) => (Status::Done, trace.into_bytes()),
        None => (Status::Failed, Vec::new()),
    };
    unsafe { answer(out, answered) }
}

unsafe extern "C" fn host_put_blob(
    this: *const c_void,
    file: Slice,
    size: *mut u64,
    out: *mut Buffer,
) -> u32 {
    let blob = unsafe { host(this).put_blob(Path::new(OsStr::from_bytes(file.bytes()))) };
    unsafe { host_answer(blob.map(|blob| (blob.digest.into_bytes(), blob.size)), size, out) }
}

unsafe extern "C" fn host_get_blob(
    this: *const c_void,
    digest: Slice,
    to: Slice,
    size: *mut u64,
    out: *mut Buffer,
) -> u32 {
    let digest = unsafe { String::from_utf8_lossy(digest.bytes()) };
    let got = unsafe { host(this).get_blob(&digest, Path::new(OsStr::from_bytes(to.bytes()))) };
    unsafe { host_answer(got.map(|size| (Vec::new(), size)), size, out) }
}

unsafe fn host_answer(answered: Result<(Vec<u8>, u64), String>, size: *mut u64, out: *mut Buffer) -> u32 {
    unsafe {
        match answered {
            Ok((bytes, count)) => {
                size.write(count);
                answer(out, (Status::Done, bytes))
            }
            Err(message) => answer(out, (Status::Failed, message.into_bytes())),
        }
    }
}

/// Bytes of the other side, freed there.
pub(crate) struct Bytes {
    buffer: Buffer,
    free: Free,
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: the buffer is ours until `drop`.
        unsafe { Slice { start: self.buffer.start, length: self.buffer.length }.bytes() }
    }
}

impl Drop for Bytes {
    fn drop(&mut self) {
        // SAFETY: the side that made the buffer gave this function with it.
        unsafe { (self.free)(std::mem::replace(&mut self.buffer, Buffer::EMPTY)) }
    }
}

/// Why a table cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AbiError {
    /// The symbol gave null.
    Null,
    /// Another major version: what the plugin has.
    Major(u32),
    /// Smaller than its version says: bytes.
    Size(usize),
}

impl fmt::Display for AbiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => f.write_str("gives no plugin table; export it with export_plugin!"),
            Self::Major(major) => write!(
                f,
                "has plugin ABI {major}, this agent has {ABI_MAJOR}; rebuild it with the overseer-plugin of the agent's version"
            ),
            Self::Size(size) => write!(
                f,
                "has a plugin table of {size} bytes, expected {}; rebuild it with a released overseer-plugin",
                size_of::<PluginTable>()
            ),
        }
    }
}

impl std::error::Error for AbiError {}

/// A plugin, as its host sees it.
#[derive(Debug, Clone, Copy)]
pub struct Guest {
    table: &'static PluginTable,
}

impl Guest {
    /// A plugin of this very program.
    pub fn of<P: Plugin>() -> Self {
        Self { table: table::<P>() }
    }

    /// The same, with so many calls at once in place of what the plugin says itself; 0 counts as 1.
    pub fn with_concurrency<P: Plugin>(concurrency: u32) -> Self {
        Self { table: table_for::<P>(concurrency) }
    }

    /// A plugin of a loaded library.
    ///
    /// # Errors
    /// [`AbiError`].
    ///
    /// # Safety
    /// `table` is null or what the library's [`SYMBOL`] gave, and the library is never unloaded.
    pub unsafe fn from_raw(table: *const PluginTable) -> Result<Self, AbiError> {
        if table.is_null() {
            return Err(AbiError::Null);
        }
        // SAFETY: every version of the table begins with this head; the rest is looked at only
        // when the head says that it is there.
        let head = unsafe { table.cast::<Head>().read() };
        if head.abi_major != ABI_MAJOR {
            return Err(AbiError::Major(head.abi_major));
        }
        if head.size < size_of::<PluginTable>() {
            return Err(AbiError::Size(head.size));
        }
        // SAFETY: of our major version and large enough; it lives as long as the library.
        Ok(Self { table: unsafe { &*table } })
    }

    /// Major and minor version of the plugin's side.
    pub(crate) fn version(&self) -> (u32, u32) {
        (self.table.head.abi_major, self.table.head.abi_minor)
    }

    /// Calls that may run at once, at least 1.
    pub(crate) fn concurrency(&self) -> u32 {
        self.table.concurrency.max(1)
    }

    fn ask(&self, ask: impl FnOnce(*const c_void, *mut Buffer) -> u32) -> (Status, Bytes) {
        let mut out = Buffer::EMPTY;
        let status = ask(self.table.instance, &mut out);
        (Status::from_wire(status), Bytes { buffer: out, free: self.table.free })
    }

    // SAFETY of the calls below: the instance is that of the table, and slices live for the call.

    pub(crate) fn start(&self, host: *const HostTable) -> (Status, Bytes) {
        self.ask(|this, out| unsafe { (self.table.start)(this, host, out) })
    }

    pub(crate) fn begin(&self, id: u64) {
        unsafe { (self.table.begin)(self.table.instance, id) }
    }

    pub(crate) fn call(&self, id: u64, cast: bool, method: &[u8], payload: &[u8]) -> (Status, Bytes) {
        let (method, payload) = (Slice::of(method), Slice::of(payload));
        self.ask(|this, out| unsafe { (self.table.call)(this, id, u32::from(cast), method, payload, out) })
    }

    pub(crate) fn cancel(&self, id: u64) {
        unsafe { (self.table.cancel)(self.table.instance, id) }
    }

    pub(crate) fn health(&self) -> (Status, Bytes) {
        self.ask(|this, out| unsafe { (self.table.health)(this, out) })
    }

    pub(crate) fn stop(&self) -> (Status, Bytes) {
        self.ask(|this, out| unsafe { (self.table.stop)(this, out) })
    }
}

#[cfg(test)]
#[path = "abi_tests.rs"]
mod tests;
