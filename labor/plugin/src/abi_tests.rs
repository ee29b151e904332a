use super::*;
use crate::{CallContext, PluginError, StartContext};

struct Nothing;

impl Plugin for Nothing {
    fn start(_: &StartContext) -> Result<Self, PluginError> {
        Ok(Self)
    }

    fn call(&self, _: &CallContext, _: &str, _: &[u8]) -> Result<Vec<u8>, PluginError> {
        Ok(Vec::new())
    }
}

/// What a library gives that has only the beginning of a table: more must not be read.
fn head(size: usize, abi_major: u32) -> *const PluginTable {
    let head: &'static Head = Box::leak(Box::new(Head { size, abi_major, abi_minor: 0 }));
    std::ptr::from_ref(head).cast()
}

fn refused(table: *const PluginTable) -> (AbiError, String) {
    // SAFETY: null, or leaked, and as long as its head says or refused for its head.
    let error = unsafe { Guest::from_raw(table) }.unwrap_err();
    let said = error.to_string();
    (error, said)
}

#[test]
fn a_table_that_is_none_of_another_version_or_too_small_is_refused_by_its_head() {
    let (error, said) = refused(std::ptr::null());
    assert_eq!(error, AbiError::Null);
    assert!(said.contains("export_plugin!"), "{said}");
    // However large it says that it is.
    for (major, size) in [(0, 16), (2, 16), (u32::MAX, usize::MAX)] {
        let (error, said) = refused(head(size, major));
        assert_eq!(error, AbiError::Major(major));
        assert!(said.contains(&format!("ABI {major}, this agent has 1; rebuild it")), "{said}");
    }
    for size in [0, 16, size_of::<PluginTable>() - 1] {
        let (error, said) = refused(head(size, ABI_MAJOR));
        assert_eq!(error, AbiError::Size(size));
        assert!(said.contains(&format!("{size} bytes")) && said.contains("rebuild it"), "{said}");
    }
}

#[test]
fn a_table_of_a_newer_minor_version_is_larger_and_is_taken() {
    #[repr(C)]
    struct Newer {
        table: PluginTable,
        more: [usize; 4],
    }
    // SAFETY: plain data, and what its pointers lead to is never freed.
    let table = unsafe { std::ptr::from_ref(table::<Nothing>()).read() };
    let newer: &'static mut Newer = Box::leak(Box::new(Newer { table, more: [0; 4] }));
    newer.table.head = Head { size: size_of::<Newer>(), abi_major: ABI_MAJOR, abi_minor: ABI_MINOR + 7 };
    newer.table.concurrency = 0;
    assert_eq!(newer.more, [0; 4]);
    // SAFETY: leaked, and as large as it says.
    let guest = unsafe { Guest::from_raw(&raw const newer.table) }.unwrap();
    assert_eq!(guest.version(), (ABI_MAJOR, ABI_MINOR + 7));
    assert_eq!(guest.concurrency(), 1, "none would never be called");
    let (status, answer) = guest.call(1, false, b"anything", b"");
    assert_ne!(status, Status::Done, "it was not started: {}", String::from_utf8_lossy(&answer));
}

struct Traced;

impl Plugin for Traced {
    fn start(_: &StartContext) -> Result<Self, PluginError> {
        Ok(Self)
    }

    fn call(&self, context: &CallContext, _: &str, _: &[u8]) -> Result<Vec<u8>, PluginError> {
        Ok(context.trace().unwrap_or("nobody traces it").into())
    }
}

fn trace_of_calls(host: *const HostTable) -> Vec<String> {
    let guest = Guest::of::<Traced>();
    assert_eq!(guest.start(host).0, Status::Done);
    let call = |id| {
        guest.begin(id);
        String::from_utf8(guest.call(id, false, b"any", b"").1.to_vec()).unwrap()
    };
    vec![call(1), call(2)]
}

#[test]
fn a_call_knows_its_trace_and_with_a_host_that_is_older_it_has_none() {
    let recorder = crate::testing::Recorder::new("/");
    recorder.trace(1, "00-trace");
    let host = host_table(recorder.link());
    assert_eq!(trace_of_calls(host), ["00-trace", "nobody traces it"]);
    // SAFETY: plain data, and what its pointers lead to is never freed.
    let mut older = unsafe { host.read() };
    older.head = Head { size: size_of::<HostTable>(), abi_major: ABI_MAJOR, abi_minor: 0 };
    assert_eq!(trace_of_calls(Box::leak(Box::new(older))), ["nobody traces it"; 2]);
}
