//! What an agent and its plugin host say to each other over their socket: frames of
//! `[u32 length][u8 kind][body]`, all numbers little-endian; the length counts kind and body.

use std::fmt;

use crate::Status;

/// Version of this form.
pub const PROTOCOL: u32 = 1;
/// Largest payload or result of a call, in bytes.
pub const MAX_PAYLOAD: usize = 64 * 1024 * 1024;
/// Largest frame without its length, in bytes: a payload, and what goes with it.
pub const MAX_FRAME: usize = MAX_PAYLOAD + 64 * 1024;
/// Bytes of logs that a host may have sent and the agent not yet passed on. The agent gives them
/// back with [`Frame::Credit`].
pub const LOG_WINDOW: usize = 1024 * 1024;
/// Largest log data of one frame, in bytes.
pub const LOG_PIECE: usize = 32 * 1024;

/// One frame; borrows from the decoder's buffer or from whoever sends it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Frame<'a> {
    /// Host: the plugin has started.
    Hello {
        /// [`PROTOCOL`].
        protocol: u32,
        /// The plugin's ABI version.
        abi: (u32, u32),
        /// Calls that may run at once.
        concurrency: u32,
    },
    /// Host: the plugin could not be started; the host exits.
    StartFailed {
        /// `Panicked` or `Failed`.
        status: Status,
        /// Why.
        message: &'a str,
    },
    /// Host: a call is over. A cast has an empty one.
    Result {
        /// Which call.
        id: u64,
        /// How.
        status: Status,
        /// The result, or a message.
        data: &'a [u8],
    },
    /// Host: a batch of [`record`](crate::record)s, in order.
    Telemetry {
        /// Records in this batch.
        count: u32,
        /// Records that were dropped before this batch and after the one before.
        dropped: u64,
        /// The records.
        records: &'a [u8],
    },
    /// Host: a piece of a call's log stream.
    Log {
        /// Which call.
        call: u64,
        /// Which stream.
        stream: &'a str,
        /// At most [`LOG_PIECE`] bytes.
        data: &'a [u8],
    },
    /// Host: put this file into the blobs.
    PutBlob {
        /// Number for the answer.
        request: u64,
        /// Absolute path.
        path: &'a [u8],
    },
    /// Host: get this blob into this file.
    GetBlob {
        /// Number for the answer.
        request: u64,
        /// Address of the blob.
        digest: &'a str,
        /// Absolute path.
        path: &'a [u8],
    },
    /// Host: answer to [`Frame::Health`].
    HealthResult {
        /// `Done`, `Failed` or `Panicked`.
        status: Status,
        /// What is wrong.
        reason: &'a str,
    },
    /// Host: answer to [`Frame::Stop`]; the host exits.
    Stopped,
    /// Agent: run this call.
    Call {
        /// Never used twice on one host.
        id: u64,
        /// Nobody wants the result.
        cast: bool,
        /// W3C Trace Context of the run, or nothing. Only a host whose plugin SDK is of ABI 1.1 or
        /// newer knows such calls; without it the frame is the one that every host knows.
        trace: &'a str,
        /// Which method.
        method: &'a str,
        /// At most [`MAX_PAYLOAD`] bytes.
        payload: &'a [u8],
    },
    /// Agent: nobody wants this call any more.
    Cancel {
        /// Which call.
        id: u64,
    },
    /// Agent: so many bytes of logs were passed on.
    Credit {
        /// Bytes.
        bytes: u32,
    },
    /// Agent: how a `PutBlob` or `GetBlob` came out.
    BlobAnswer {
        /// Which request.
        request: u64,
        /// Whether it worked.
        good: bool,
        /// The digest, or a message.
        text: &'a str,
        /// Bytes of the blob.
        size: u64,
    },
    /// Agent: is the plugin well?
    Health,
    /// Agent: cancel what runs, stop the plugin and exit.
    Stop,
}

/// Why bytes are no frames. The connection is of no use after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FrameError {
    /// A length of 0 or over [`MAX_FRAME`].
    Length(u64),
    /// No such kind.
    Kind(u8),
    /// The body is shorter or longer than its kind says, or a text in it is no UTF-8.
    Body(u8),
}

impl fmt::Display for FrameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Length(length) => write!(f, "a frame of {length} bytes; 1 to {MAX_FRAME} are allowed"),
            Self::Kind(kind) => write!(f, "a frame of unknown kind {kind}"),
            Self::Body(kind) => write!(f, "a frame of kind {kind} with a malformed body"),
        }
    }
}

impl std::error::Error for FrameError {}

impl<'a> Frame<'a> {
    fn kind(&self) -> u8 {
        match self {
            Self::Hello { .. } => 1,
            Self::StartFailed { .. } => 2,
            Self::Result { .. } => 3,
            Self::Telemetry { .. } => 4,
            Self::Log { .. } => 5,
            Self::PutBlob { .. } => 6,
            Self::GetBlob { .. } => 7,
            Self::HealthResult { .. } => 8,
            Self::Stopped => 9,
            Self::Call { trace: "", .. } => 32,
            Self::Call { .. } => 38,
            Self::Cancel { .. } => 33,
            Self::Credit { .. } => 34,
            Self::BlobAnswer { .. } => 35,
            Self::Health => 36,
            Self::Stop => 37,
        }
    }

    /// Appends the frame.
    ///
    /// # Errors
    /// [`FrameError::Length`] when it is over [`MAX_FRAME`]; then nothing is appended.
    pub fn encode(&self, to: &mut Vec<u8>) -> Result<(), FrameError> {
        let start = to.len();
        to.extend_from_slice(&[0, 0, 0, 0, self.kind()]);
        match *self {
            Self::Hello { protocol, abi, concurrency } => {
                for number in [protocol, abi.0, abi.1, concurrency] {
                    put_u32(to, number);
                }
            }
            Self::StartFailed { status, message } | Self::HealthResult { status, reason: message } => {
                put_u32(to, status as u32);
                to.extend_from_slice(message.as_bytes());
            }
            Self::Result { id, status, data } => {
                put_u64(to, id);
                put_u32(to, status as u32);
                to.extend_from_slice(data);
            }
            Self::Telemetry { count, dropped, records } => {
                put_u32(to, count);
                put_u64(to, dropped);
                to.extend_from_slice(records);
            }
            Self::Log { call, stream, data } => {
                put_u64(to, call);
                put_text(to, stream);
                to.extend_from_slice(data);
            }
            Self::PutBlob { request, path } => {
                put_u64(to, request);
                to.extend_from_slice(path);
            }
            Self::GetBlob { request, digest, path } => {
                put_u64(to, request);
                put_text(to, digest);
                to.extend_from_slice(path);
            }
            Self::Call { id, cast, trace, method, payload } => {
                put_u64(to, id);
                to.push(u8::from(cast));
                if !trace.is_empty() {
                    put_text(to, trace);
                }
                put_text(to, method);
                to.extend_from_slice(payload);
            }
            Self::Cancel { id } => put_u64(to, id),
            Self::Credit { bytes } => put_u32(to, bytes),
            Self::BlobAnswer { request, good, text, size } => {
                put_u64(to, request);
                to.push(u8::from(good));
                put_u64(to, size);
                to.extend_from_slice(text.as_bytes());
            }
            Self::Stopped | Self::Health | Self::Stop => {}
        }
        let length = to.len() - start - 4;
        if length > MAX_FRAME {
            to.truncate(start);
            return Err(FrameError::Length(length as u64));
        }
        to[start..start + 4].copy_from_slice(&(length as u32).to_le_bytes());
        Ok(())
    }

    fn read(kind: u8, body: &'a [u8]) -> Option<Self> {
        let mut body = Body(body);
        let frame = match kind {
            1 => Self::Hello {
                protocol: body.u32()?,
                abi: (body.u32()?, body.u32()?),
                concurrency: body.u32()?,
            },
            2 => Self::StartFailed { status: body.status()?, message: body.rest_text()? },
            3 => Self::Result { id: body.u64()?, status: body.status()?, data: body.rest() },
            4 => Self::Telemetry { count: body.u32()?, dropped: body.u64()?, records: body.rest() },
            5 => Self::Log { call: body.u64()?, stream: body.text()?, data: body.rest() },
            6 => Self::PutBlob { request: body.u64()?, path: body.rest() },
            7 => Self::GetBlob { request: body.u64()?, digest: body.text()?, path: body.rest() },
            8 => Self::HealthResult { status: body.status()?, reason: body.rest_text()? },
            9 => Self::Stopped,
            32 | 38 => Self::Call {
                id: body.u64()?,
                cast: body.flag()?,
                // One that has none is of the other kind.
                trace: if kind == 38 { body.text().filter(|trace| !trace.is_empty())? } else { "" },
                method: body.text()?,
                payload: body.rest(),
            },
            33 => Self::Cancel { id: body.u64()? },
            34 => Self::Credit { bytes: body.u32()? },
            35 => {
                let (request, good, size) = (body.u64()?, body.flag()?, body.u64()?);
                Self::BlobAnswer { request, good, size, text: body.rest_text()? }
            }
            36 => Self::Health,
            37 => Self::Stop,
            _ => return None,
        };
        body.0.is_empty().then_some(frame)
    }
}

fn put_u32(to: &mut Vec<u8>, number: u32) {
    to.extend_from_slice(&number.to_le_bytes());
}

fn put_u64(to: &mut Vec<u8>, number: u64) {
    to.extend_from_slice(&number.to_le_bytes());
}

fn put_text(to: &mut Vec<u8>, text: &str) {
    // A longer one would be over the limit of a frame anyhow.
    put_u32(to, u32::try_from(text.len()).unwrap_or(u32::MAX));
    to.extend_from_slice(text.as_bytes());
}

/// What is left of a body.
struct Body<'a>(&'a [u8]);

impl<'a> Body<'a> {
    fn u32(&mut self) -> Option<u32> {
        let (number, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u32::from_le_bytes(*number))
    }

    fn u64(&mut self) -> Option<u64> {
        let (number, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u64::from_le_bytes(*number))
    }

    fn flag(&mut self) -> Option<bool> {
        let (flag, rest) = self.0.split_first()?;
        self.0 = rest;
        (*flag < 2).then_some(*flag == 1)
    }

    fn status(&mut self) -> Option<Status> {
        self.u32().map(Status::from_wire)
    }

    fn text(&mut self) -> Option<&'a str> {
        let length = self.u32()? as usize;
        let (text, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        str::from_utf8(text).ok()
    }

    fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.0)
    }

    fn rest_text(&mut self) -> Option<&'a str> {
        str::from_utf8(self.rest()).ok()
    }
}

/// Makes frames of bytes as they come. Holds what came and nothing that was only announced.
#[derive(Debug, Default)]
pub struct Decoder {
    buffer: Vec<u8>,
    read: usize,
    failed: Option<FrameError>,
}

impl Decoder {
    /// An empty one.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes bytes from the connection. Call [`Decoder::next`] until it gives none before the
    /// next ones, so that at most one frame and these bytes are held.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.read == self.buffer.len() {
            self.buffer.clear();
            // A large frame came once; its space is not kept for all time.
            self.buffer.shrink_to(1024 * 1024);
        } else {
            self.buffer.drain(..self.read);
        }
        self.read = 0;
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole frame, if there is one.
    ///
    /// # Errors
    /// Each [`FrameError`]; the same one ever after.
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> Result<Option<Frame<'_>>, FrameError> {
        if let Some(failed) = self.failed {
            return Err(failed);
        }
        let Some((length, rest)) = self.buffer[self.read..].split_first_chunk::<4>() else {
            return Ok(None);
        };
        let length = u32::from_le_bytes(*length) as usize;
        if length == 0 || length > MAX_FRAME {
            return Err(*self.failed.insert(FrameError::Length(length as u64)));
        }
        let Some(([kind], body)) = rest.get(..length).and_then(|frame| frame.split_first_chunk::<1>()) else {
            return Ok(None);
        };
        self.read += 4 + length;
        match Frame::read(*kind, body) {
            Some(frame) => Ok(Some(frame)),
            None => {
                let known = matches!(kind, 1..=9 | 32..=38);
                let error = if known { FrameError::Body(*kind) } else { FrameError::Kind(*kind) };
                Err(*self.failed.insert(error))
            }
        }
    }
}

#[cfg(test)]
#[path = "frame_tests.rs"]
mod tests;
