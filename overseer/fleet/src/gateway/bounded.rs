//! Sockets that end: after silence, and some time after the Overseer has stopped.
//!
//! TLS has a deadline of its own, and HTTP/2 asks a silent peer whether it is there, but only once
//! it has begun: who never says the first words of HTTP/2 would be waited for without end.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::watch;
use tokio::time::{Instant, Sleep, sleep, sleep_until};
use tonic::transport::server::Connected;

/// How long what was asked may still take when the Overseer has stopped.
const FINISH: Duration = Duration::from_secs(5);

/// See the module.
pub(super) struct Bounded<S> {
    socket: S,
    silence: Duration,
    heard: Instant,
    /// At the earliest when the silence was too long.
    alarm: Pin<Box<Sleep>>,
    stop: Pin<Box<dyn Future<Output = ()> + Send>>,
    over: bool,
}

impl<S> Bounded<S> {
    /// Ends after so much silence, or when `stopped` has said so for a while.
    pub(super) fn new(socket: S, silence: Duration, stopped: watch::Receiver<bool>) -> Self {
        let heard = Instant::now();
        let alarm = Box::pin(sleep_until(heard + silence));
        let stop = Box::pin(async move {
            super::wait_for(stopped).await;
            sleep(FINISH).await;
        });
        Self { socket, silence, heard, alarm, stop, over: false }
    }

    /// Ready with an error when it is over; else the task is woken when it is.
    fn over(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        self.over = self.over || self.stop.as_mut().poll(cx).is_ready();
        while !self.over && self.alarm.as_mut().poll(cx).is_ready() {
            let end = self.heard + self.silence;
            self.over = end <= Instant::now();
            // Something came since it was set: that moves it here, and not each time.
            self.alarm.as_mut().reset(end);
        }
        if self.over { Poll::Ready(io::ErrorKind::TimedOut.into()) } else { Poll::Pending }
    }

    /// What came of a write, or the end where it has to wait.
    fn unless_over<T>(&mut self, cx: &mut Context<'_>, write: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        match write {
            Poll::Pending => Poll::Ready(Err(ready!(self.over(cx)))),
            done => done,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Bounded<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let read = Pin::new(&mut this.socket).poll_read(cx, buffer);
        if read.is_ready() {
            this.heard = Instant::now();
        }
        // One who talks without end must not talk on after the stop.
        match this.over(cx) {
            Poll::Ready(end) => Poll::Ready(Err(end)),
            Poll::Pending => read,
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Bounded<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let write = Pin::new(&mut this.socket).poll_write(cx, bytes);
        this.unless_over(cx, write)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let write = Pin::new(&mut this.socket).poll_write_vectored(cx, bytes);
        this.unless_over(cx, write)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let flush = Pin::new(&mut this.socket).poll_flush(cx);
        this.unless_over(cx, flush)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let shutdown = Pin::new(&mut this.socket).poll_shutdown(cx);
        this.unless_over(cx, shutdown)
    }
}

impl<S: Connected> Connected for Bounded<S> {
    type ConnectInfo = S::ConnectInfo;

    fn connect_info(&self) -> Self::ConnectInfo {
        self.socket.connect_info()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::UnixStream;

    use super::*;

    const LONG: Duration = Duration::from_secs(1000);

    #[tokio::test]
    async fn silence_ends_a_socket_and_every_byte_puts_that_off() {
        let silence = Duration::from_secs(2);
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let (_stop, stopped) = watch::channel(false);
        let begun = Instant::now();
        let mut socket = Bounded::new(ours, silence, stopped);
        // Longer than the silence in all, and not at once.
        for _ in 0..3 {
            sleep(silence * 2 / 5).await;
            theirs.write_all(b"x").await.unwrap();
            socket.read_exact(&mut [0]).await.unwrap();
        }
        let heard = begun.elapsed();
        let end = socket.read(&mut [0]).await.unwrap_err();
        assert_eq!(end.kind(), io::ErrorKind::TimedOut);
        assert!(heard > silence && begun.elapsed() >= heard + silence * 9 / 10);
    }

    #[tokio::test]
    async fn a_peer_that_takes_nothing_is_silent_too() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let (_stop, stopped) = watch::channel(false);
        let mut socket = Bounded::new(ours, Duration::from_millis(50), stopped);
        let end = socket.write_all(&vec![0; 64 << 20]).await.unwrap_err();
        assert_eq!(end.kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn a_while_after_the_stop_it_ends_though_the_peer_talks_on() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let (stop, stopped) = watch::channel(false);
        let mut socket = Bounded::new(ours, LONG, stopped);
        tokio::spawn(async move { while theirs.write_all(&[0; 100]).await.is_ok() {} });
        socket.read_exact(&mut [0]).await.unwrap();
        stop.send_replace(true);
        let begun = Instant::now();
        let end = loop {
            if let Err(end) = socket.read(&mut [0; 1000]).await {
                break end;
            }
        };
        assert_eq!(end.kind(), io::ErrorKind::TimedOut);
        assert!(begun.elapsed() >= FINISH);
    }
}
