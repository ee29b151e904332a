//! A blob being read: hashed as it goes, and failed at its end when it is not what it is called.

use std::fs::File;
use std::future::Future;
use std::io::{self, Read};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, ReadBuf};
use tokio::task::JoinHandle;

use super::CHUNK;
use crate::blobs::{BlobError, Digest};

/// Reads a chunk at a time on a blocking thread; none is held between two chunks.
pub(super) struct Verified {
    digest: Digest,
    stage: Stage,
}

enum Stage {
    /// Has bytes to give, from `given` on.
    Giving(Box<Source>),
    Reading(JoinHandle<(Box<Source>, io::Result<()>)>),
    /// All bytes were given and were right, or an error was.
    Over,
}

struct Source {
    file: File,
    hasher: blake3::Hasher,
    chunk: Vec<u8>,
    given: usize,
}

impl Verified {
    pub(super) fn new(file: File, digest: Digest) -> Self {
        let source = Source { file, hasher: blake3::Hasher::new(), chunk: Vec::new(), given: 0 };
        Self { digest, stage: Stage::Giving(Box::new(source)) }
    }
}

impl Source {
    fn fill(&mut self) -> io::Result<()> {
        self.given = 0;
        self.chunk.clear();
        (&mut self.file).take(CHUNK as u64).read_to_end(&mut self.chunk)?;
        self.hasher.update(&self.chunk);
        Ok(())
    }
}

impl AsyncRead for Verified {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            match std::mem::replace(&mut this.stage, Stage::Over) {
                Stage::Over => return Poll::Ready(Ok(())),
                Stage::Giving(mut source) if source.given < source.chunk.len() => {
                    let rest = &source.chunk[source.given..];
                    let count = rest.len().min(buffer.remaining());
                    buffer.put_slice(&rest[..count]);
                    source.given += count;
                    this.stage = Stage::Giving(source);
                    return Poll::Ready(Ok(()));
                }
                Stage::Giving(mut source) => {
                    this.stage = Stage::Reading(tokio::task::spawn_blocking(move || {
                        let filled = source.fill();
                        (source, filled)
                    }));
                }
                Stage::Reading(mut reading) => {
                    let Poll::Ready(read) = Pin::new(&mut reading).poll(context) else {
                        this.stage = Stage::Reading(reading);
                        return Poll::Pending;
                    };
                    let (source, filled) = read.map_err(io::Error::other)?;
                    filled?;
                    if source.chunk.is_empty() {
                        let right = source.hasher.finalize().to_hex().as_str() == this.digest;
                        let damaged = || {
                            io::Error::new(
                                io::ErrorKind::InvalidData,
                                BlobError::Damaged(this.digest.clone()),
                            )
                        };
                        return Poll::Ready(if right { Ok(()) } else { Err(damaged()) });
                    }
                    this.stage = Stage::Giving(source);
                }
            }
        }
    }
}
