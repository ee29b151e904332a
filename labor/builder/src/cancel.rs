use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use overseer_plugin::CallContext;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

use crate::BuildError;

/// A call's cancellation as a file descriptor, so that one `poll` waits for it beside pipes
/// and processes.
pub(crate) struct Cancel {
    fd: Arc<OwnedFd>,
    context: CallContext,
}

impl Cancel {
    pub(crate) fn of(context: &CallContext) -> Result<Self, BuildError> {
        let fd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(|e| BuildError::io("cannot make an event file", "".as_ref())(e.into()))?;
        let fd = Arc::new(fd);
        let wake = fd.clone();
        context.on_cancel(move || {
            // A counter that is full is readable already.
            let _ = rustix::io::write(&*wake, &1_u64.to_ne_bytes());
        });
        Ok(Self { fd, context: context.clone() })
    }

    /// Becomes readable on cancellation, and stays so.
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    pub(crate) fn is_set(&self) -> bool {
        self.context.is_cancelled()
    }

    pub(crate) fn check(&self) -> Result<(), BuildError> {
        if self.is_set() { Err(BuildError::Cancelled) } else { Ok(()) }
    }

    /// Waits for the cancellation, at most `time`; says whether it came.
    pub(crate) fn wait(&self, time: Duration) -> bool {
        self.context.wait_cancelled(time)
    }
}

/// Waits until one of the descriptors can be read or has hung up; `None` waits for ever.
/// Says which, in order.
pub(crate) fn wait_readable<const N: usize>(
    fds: [BorrowedFd<'_>; N],
    time: Option<Duration>,
) -> io::Result<[bool; N]> {
    let mut fds = fds.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN));
    let time = time.map(|time| Timespec {
        tv_sec: i64::try_from(time.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: time.subsec_nanos().into(),
    });
    match poll(&mut fds, time.as_ref()) {
        Ok(_) | Err(rustix::io::Errno::INTR) => {}
        Err(e) => return Err(e.into()),
    }
    Ok(fds.map(|fd| fd.revents().intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR)))
}
