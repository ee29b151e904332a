use std::fs;

use super::Page;

/// What the kernel says of this process. What it does not say is left out.
pub(super) fn process(page: &mut Page) {
    let mut set = |name: &str, value: Option<f64>| {
        if let (Some(family), Some(value)) = (page.known(name), value) {
            family.number(&[], value);
        }
    };
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The name of the program, which may hold anything, ends at the last bracket.
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or_default().split(' ').collect();
    let field = |n: usize| fields.get(n - 3).and_then(|text| text.parse::<f64>().ok());
    let ticks = rustix::param::clock_ticks_per_second() as f64;
    let page_size = rustix::param::page_size() as f64;
    set("process_cpu_seconds_total", field(14).zip(field(15)).map(|(user, system)| (user + system) / ticks));
    set("process_threads", field(20));
    set("process_virtual_memory_bytes", field(23));
    set("process_resident_memory_bytes", field(24).map(|pages| pages * page_size));
    set("process_start_time_seconds", field(22).zip(boot()).map(|(start, boot)| boot + start / ticks));
    set("process_open_fds", fs::read_dir("/proc/self/fd").ok().map(|open| open.count() as f64));
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    set("process_max_fds", Some(limit.map_or(f64::INFINITY, |limit| limit as f64)));
}

/// When the machine was started, in seconds since the epoch.
fn boot() -> Option<f64> {
    let text = fs::read_to_string("/proc/stat").ok()?;
    text.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()
}
