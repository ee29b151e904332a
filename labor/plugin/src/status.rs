/// How something that plugin code was asked to do came out, as it crosses the ABI and the host's
/// socket. Numbers are never given a second meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum Status {
    /// The bytes with it are the result.
    Done = 0,
    /// The work failed; the bytes of this and all below are a message.
    Failed = 1,
    /// No such method.
    NoMethod = 2,
    /// The payload is not what the method takes.
    BadPayload = 3,
    /// It saw its cancellation, or was cancelled before it began.
    Cancelled = 4,
    /// It panicked.
    Panicked = 5,
    /// The result is over the limit.
    TooLarge = 6,
    /// The host has too many calls waiting.
    Overloaded = 7,
    /// What the call ran was ended for its memory.
    OutOfMemory = 8,
}

impl Status {
    /// From a number; an unknown one is a failure.
    pub fn from_wire(number: u32) -> Self {
        use Status::*;
        [Done, NoMethod, BadPayload, Cancelled, Panicked, TooLarge, Overloaded, OutOfMemory]
            .into_iter()
            .find(|status| *status as u32 == number)
            .unwrap_or(Failed)
    }
}
