//! Connections that come in: bounded, and no end of the listener when file descriptors are used up.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_core::Stream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::time::{Sleep, sleep};
use tonic::transport::server::Connected;

use crate::condition::{Condition, file_limit};

/// How long nobody is accepted after the system had no file descriptor for one.
const PAUSE: Duration = Duration::from_millis(100);
/// Refused connections that stay open for a while, so that the last words to them are read.
const LINGERING: usize = 4;
/// How long.
const LINGER: Duration = Duration::from_secs(1);
/// What is said to who is refused, where that can be said.
pub const REFUSAL: &str = "the server has too many connections";
/// Fewest connections that are let in at a time, however few file descriptors there are.
const FEWEST: usize = 8;

/// Somewhere to accept connections from.
pub trait Listener: Send + Unpin + 'static {
    /// A connection.
    type Socket: Send + Unpin + 'static;

    /// The next one, when there is one.
    fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<Self::Socket>>;

    /// Writes what fits at once. It is a courtesy: nobody is told of a failure.
    fn say(socket: &Self::Socket, words: &[u8]);
}

impl Listener for UnixListener {
    type Socket = UnixStream;

    fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<UnixStream>> {
        UnixListener::poll_accept(self, cx).map_ok(|(socket, _)| socket)
    }

    fn say(socket: &UnixStream, words: &[u8]) {
        let _ = socket.try_write(words);
    }
}

impl Listener for TcpListener {
    type Socket = TcpStream;

    fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<TcpStream>> {
        // Without TCP_NODELAY pipelined calls are an order of magnitude slower.
        TcpListener::poll_accept(self, cx)
            .map(|accepted| accepted.and_then(|(socket, _)| socket.set_nodelay(true).map(|()| socket)))
    }

    fn say(socket: &TcpStream, words: &[u8]) {
        let _ = socket.try_write(words);
    }
}

/// What is said to connections that are refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Farewell {
    /// That there are too many, in the words of HTTP/2.
    Http2,
    /// Nothing: they would not understand it before their handshake.
    Silent,
}

/// A stream of the connections of one listener. It never ends and has no errors.
///
/// At most so many are open at a time; who comes then is refused at once. Where the system has no file
/// descriptor, who comes is refused by one that is kept for that, and the next one is waited for a
/// little later: so nothing spins, and nobody waits for an answer that does not come.
pub struct Incoming<L: Listener> {
    listener: L,
    most: usize,
    open: Arc<AtomicUsize>,
    farewell: Farewell,
    condition: Arc<Condition>,
    /// Kept for the one that is refused when there is no other.
    spare: Option<File>,
    pause: Option<Pin<Box<Sleep>>>,
    lingering: VecDeque<L::Socket>,
    linger: Option<Pin<Box<Sleep>>>,
}

impl<L: Listener> Incoming<L> {
    /// The connections of a listener, which may take this part of the file descriptors: one half for
    /// 2, one quarter for 4.
    pub fn new(listener: L, part: u64, farewell: Farewell, condition: Arc<Condition>) -> Self {
        let most = usize::try_from(file_limit().0 / part.max(1)).unwrap_or(usize::MAX).max(FEWEST);
        Self {
            listener,
            most,
            open: Arc::default(),
            farewell,
            condition,
            spare: spare(),
            pause: None,
            lingering: VecDeque::new(),
            linger: None,
        }
    }

    /// How many may be open at a time.
    pub fn most(&self) -> usize {
        self.most
    }

    fn refuse(&mut self, socket: L::Socket, cx: &mut Context<'_>) {
        if self.farewell == Farewell::Http2 {
            L::say(&socket, &go_away());
        }
        if self.lingering.len() == LINGERING {
            self.lingering.pop_front();
        }
        self.lingering.push_back(socket);
        let mut linger = Box::pin(sleep(LINGER));
        // It wakes this when it is over.
        let _ = linger.as_mut().poll(cx);
        self.linger = Some(linger);
    }

    /// Whether the pause is over.
    fn rested(&mut self, cx: &mut Context<'_>) -> bool {
        if self.linger.as_mut().is_some_and(|linger| linger.as_mut().poll(cx).is_ready()) {
            self.linger = None;
            self.lingering.clear();
        }
        let rests = self.pause.as_mut().is_some_and(|pause| pause.as_mut().poll(cx).is_pending());
        if !rests {
            self.pause = None;
            self.spare = self.spare.take().or_else(spare);
        }
        !rests
    }

    /// Turns one away with the file descriptor that is kept for that.
    fn refuse_with_the_spare(&mut self, cx: &mut Context<'_>) {
        self.lingering.clear();
        self.spare = None;
        if let Poll::Ready(Ok(socket)) = self.listener.poll_accept(cx) {
            self.refuse(socket, cx);
        }
    }
}

/// None where there is no file descriptor for it either; then it is tried again later.
fn spare() -> Option<File> {
    File::open("/dev/null").ok()
}

impl<L: Listener> Stream for Incoming<L> {
    type Item = io::Result<Accepted<L::Socket>>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        while this.rested(cx) {
            match std::task::ready!(this.listener.poll_accept(cx)) {
                Ok(socket) if this.open.load(Ordering::Relaxed) >= this.most => {
                    let text = format!("{REFUSAL}: {} are open", this.most);
                    this.condition.refused(&text);
                    this.refuse(socket, cx);
                }
                Ok(socket) => {
                    this.open.fetch_add(1, Ordering::Relaxed);
                    return Poll::Ready(Some(Ok(Accepted { socket, open: Arc::clone(&this.open) })));
                }
                Err(error) => {
                    let mut pause = Box::pin(sleep(PAUSE));
                    if this.condition.saw_no_file(&error) {
                        this.refuse_with_the_spare(cx);
                    } else if is_of_one(&error) {
                        continue;
                    } else {
                        tracing::debug!(%error, "a connection could not be accepted");
                    }
                    let _ = pause.as_mut().poll(cx);
                    this.pause = Some(pause);
                }
            }
        }
        Poll::Pending
    }
}

/// An error of the connection that was to be accepted: the next one may be fine.
fn is_of_one(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted, InvalidInput};
    [ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted, InvalidInput].contains(&error.kind())
}

/// The first words of an HTTP/2 server, empty settings, and its last ones: GOAWAY with ENHANCE_YOUR_CALM.
fn go_away() -> Vec<u8> {
    let mut words = vec![0, 0, 0, 4, 0, 0, 0, 0, 0];
    let length = 8 + REFUSAL.len();
    words.extend([0, 0, length as u8, 7, 0, 0, 0, 0, 0]);
    words.extend([0, 0, 0, 0]);
    words.extend([0, 0, 0, 11]);
    words.extend(REFUSAL.as_bytes());
    words
}

/// A connection that was let in, and its place among those that may be open.
pub struct Accepted<S> {
    socket: S,
    open: Arc<AtomicUsize>,
}

impl<S> Drop for Accepted<S> {
    fn drop(&mut self) {
        self.open.fetch_sub(1, Ordering::Relaxed);
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Accepted<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().socket).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Accepted<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().socket).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().socket).poll_write_vectored(cx, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().socket).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().socket).poll_shutdown(cx)
    }
}

impl<S: Connected> Connected for Accepted<S> {
    type ConnectInfo = S::ConnectInfo;

    fn connect_info(&self) -> Self::ConnectInfo {
        self.socket.connect_info()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;
    use tokio_stream::StreamExt;

    use super::*;

    fn incoming(most: usize) -> (tempfile::TempDir, std::path::PathBuf, Incoming<UnixListener>) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let listener = UnixListener::bind(&path).unwrap();
        let mut incoming = Incoming::new(listener, 2, Farewell::Http2, Arc::default());
        incoming.most = most;
        (directory, path, incoming)
    }

    #[tokio::test]
    async fn one_more_than_may_be_is_told_so_and_there_is_room_when_one_goes() {
        let (_directory, path, mut incoming) = incoming(2);
        let condition = Arc::clone(&incoming.condition);
        let connect = || UnixStream::connect(&path);
        let mut open = Vec::new();
        for _ in 0..2 {
            let client = connect().await.unwrap();
            open.push((client, incoming.next().await.unwrap().unwrap()));
        }
        let mut refused: Vec<UnixStream> = Vec::new();
        for _ in 0..LINGERING + 3 {
            refused.push(connect().await.unwrap());
        }
        // Nobody is let in: this turns them away.
        tokio::select! {
            _ = incoming.next() => panic!("one was let in"),
            () = sleep(LINGER * 2) => {}
        }
        for mut client in refused {
            let mut said = Vec::new();
            client.read_to_end(&mut said).await.unwrap();
            assert!(String::from_utf8_lossy(&said).contains(REFUSAL), "{said:?}");
        }
        assert!(incoming.lingering.is_empty());
        assert_eq!(condition.troubles().len(), 0, "a bound is no trouble of the machine");
        drop(open.pop());
        let _client = connect().await.unwrap();
        assert!(incoming.next().await.unwrap().is_ok());
    }

    /// Without a file descriptor, in a process of its own.
    const ALONE: &str = "OVERSEER_TEST_NO_FILES";

    #[tokio::test]
    async fn without_a_file_descriptor_nothing_spins_and_it_goes_on_when_there_are_some() {
        if std::env::var_os(ALONE).is_none() {
            let name =
                "accept::tests::without_a_file_descriptor_nothing_spins_and_it_goes_on_when_there_are_some";
            let script = r#"ulimit -n 40; exec "$0" "$@""#;
            let child = std::process::Command::new("sh")
                .args(["-c", script])
                .arg(std::env::current_exe().unwrap())
                .args(["--exact", name, "--nocapture"])
                .env(ALONE, "1")
                .output()
                .unwrap();
            assert!(child.status.success(), "{}", String::from_utf8_lossy(&child.stderr));
            return;
        }
        let (_directory, path, mut incoming) = incoming(1000);
        let condition = Arc::clone(&incoming.condition);
        let mut client = std::os::unix::net::UnixStream::connect(&path).unwrap();
        let mut taken: Vec<File> = std::iter::from_fn(|| File::open("/dev/null").ok()).collect();
        // Milliseconds of work of this thread; it needs a file descriptor to say it.
        let mut worked = || {
            taken.pop();
            let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
            taken.extend(File::open("/dev/null"));
            stat.split(' ').next().unwrap().parse::<u64>().unwrap() / 1_000_000
        };
        let before = worked();
        tokio::select! {
            _ = incoming.next() => panic!("one was let in"),
            () = sleep(LINGER * 2) => {}
        }
        let spent = worked() - before;
        assert!(spent < 500, "{spent} ms of work in two seconds");
        assert!(condition.pauses().is_some());
        let mut said = Vec::new();
        std::io::Read::read_to_end(&mut client, &mut said).unwrap();
        assert!(String::from_utf8_lossy(&said).contains(REFUSAL));
        condition.look();
        assert!(condition.pauses().is_some(), "nothing is better yet");
        taken.clear();
        condition.look();
        assert!(condition.pauses().is_none());
        let _client = std::os::unix::net::UnixStream::connect(&path).unwrap();
        assert!(incoming.next().await.unwrap().is_ok());
    }
}
