//! The owner's pipe: standard input, whose end means that the owner is gone.

use std::io;
use std::os::unix::net::UnixStream as StdUnixStream;

use tokio::net::UnixStream;
use tokio::net::unix::pipe::Receiver;

/// Tells when the owner is gone; never, where there is none.
pub(crate) enum Owner {
    Nobody,
    Pipe(Receiver),
    Socket(UnixStream),
}

impl Owner {
    /// Watches standard input from now on.
    ///
    /// # Errors
    /// Standard input is no pipe or socket, so that its end could not be waited for.
    pub(crate) fn of_stdin() -> io::Result<Self> {
        let input = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3)?;
        let flags = rustix::fs::fcntl_getfl(&input)?;
        rustix::fs::fcntl_setfl(&input, flags | rustix::fs::OFlags::NONBLOCK)?;
        let kind = rustix::fs::FileType::from_raw_mode(rustix::fs::fstat(&input)?.st_mode);
        if kind == rustix::fs::FileType::Socket {
            return Ok(Self::Socket(UnixStream::from_std(StdUnixStream::from(input))?));
        }
        Ok(Self::Pipe(Receiver::from_owned_fd(input)?))
    }

    /// Waits for the end of the pipe. What is written to it is read and means nothing.
    pub(crate) async fn gone(&mut self) {
        let mut buffer = [0u8; 256];
        loop {
            let read = match self {
                Self::Nobody => return std::future::pending().await,
                Self::Pipe(pipe) => pipe.readable().await.and_then(|()| pipe.try_read(&mut buffer)),
                Self::Socket(socket) => socket.readable().await.and_then(|()| socket.try_read(&mut buffer)),
            };
            match read {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            }
        }
    }
}
