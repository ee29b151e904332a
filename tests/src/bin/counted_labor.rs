//! The agent of the tests, with its allocations counted.

use std::alloc::System;

use overseer_tests::allocations;
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

fn main() {
    allocations::tell(|| {
        let stats = ALLOCATOR.stats();
        (stats.allocations + stats.reallocations) as u64
    });
    overseer::init();
    eprintln!("this is for tests to start as an agent; it does nothing by itself");
    std::process::exit(64);
}
