//! Sockets of callers who have some time to prove who they are, and of whom only so many wait.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::watch;
use tonic::transport::server::{Connected, TcpConnectInfo};

use super::Source;

/// Whoever is shown out has this long to read why.
const LAST_WORD: Duration = Duration::from_secs(1);
/// How often the log says that somebody was shown out.
const SAY: Duration = Duration::from_secs(10);

/// How many may wait for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Who have not proved who they are, in all. At the bound the one that has waited longest goes.
    pub waiting: usize,
    /// The same from one source, but for this machine.
    pub each: usize,
    /// How long a caller may take to prove it.
    pub time: Duration,
}

impl Bounds {
    /// For a listener that has so many connections at most: callers who have proved nothing take half
    /// of them and one source a quarter, so that others find room.
    #[must_use]
    pub fn within(self, connections: usize) -> Self {
        let part = |bound: usize, part: usize| bound.min(connections / part).max(1);
        Self { waiting: part(self.waiting, 2), each: part(self.each, 4), ..self }
    }
}

/// Lets callers in. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Door {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    name: &'static str,
    bounds: Bounds,
    waiting: Mutex<Waiting>,
}

/// Who has not proved it, by age.
#[derive(Debug, Default)]
struct Waiting {
    next: u64,
    callers: BTreeMap<u64, (Source, watch::Sender<State>)>,
    each: HashMap<Source, usize>,
    shown_out: u64,
    said: Option<Instant>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Waiting,
    Proved,
    /// It ends once the last word is out.
    Failed,
    /// It ends at once.
    Out,
}

/// A caller's place, to be had from its connection's information.
#[derive(Debug, Clone)]
pub struct Place {
    number: u64,
    door: Door,
    state: watch::Sender<State>,
    source: Source,
}

/// What a guarded connection tells of itself: what the one below tells, and its place.
#[derive(Debug, Clone)]
pub struct Placed<I> {
    /// Of the connection below.
    pub inner: I,
    /// Of the caller.
    pub place: Place,
}

/// See the module.
pub struct Guarded<S> {
    socket: S,
    place: Place,
    end: Pin<Box<dyn Future<Output = ()> + Send>>,
    over: bool,
}

impl Door {
    /// A door; its name is for the log.
    pub fn new(name: &'static str, bounds: Bounds) -> Self {
        Self { inner: Arc::new(Inner { name, bounds, waiting: Mutex::default() }) }
    }

    /// Lets a caller in, in place of another one where too many wait.
    pub fn guard<S>(&self, socket: S, source: Source) -> Guarded<S> {
        let place = self.enter(source);
        let (mut state, time) = (place.state.subscribe(), self.inner.bounds.time);
        let end = Box::pin(async move {
            // The sender lives in the place.
            let known = async { state.wait_for(|s| *s != State::Waiting).await.map(drop) };
            if tokio::time::timeout(time, known).await.is_err() {
                return;
            }
            let ended = state.wait_for(|s| matches!(s, State::Failed | State::Out)).await.map(|s| *s);
            if matches!(ended, Ok(State::Failed)) {
                tokio::time::sleep(LAST_WORD).await;
            }
        });
        Guarded { socket, place, end, over: false }
    }

    /// As [`Door::guard`], where the connection says from where it comes. One whose address cannot be
    /// told has gone already.
    pub fn guard_remote<S: Connected<ConnectInfo = TcpConnectInfo>>(&self, socket: S) -> Guarded<S> {
        let address = socket.connect_info().remote_addr();
        let source = address.map_or(Source::Here, |address| Source::of(address.ip()));
        self.guard(socket, source)
    }

    /// How many have not proved who they are.
    pub fn waiting(&self) -> usize {
        self.inner.waiting.lock().callers.len()
    }

    fn enter(&self, source: Source) -> Place {
        let bounds = &self.inner.bounds;
        let mut waiting = self.inner.waiting.lock();
        let of_source = waiting.each.get(&source).copied().unwrap_or_default();
        if source != Source::Here && of_source >= bounds.each {
            let oldest = waiting.callers.iter().find(|(_, (of, _))| *of == source).map(|(n, _)| *n);
            waiting.show_out(oldest);
        }
        if waiting.callers.len() >= bounds.waiting {
            let oldest = waiting.callers.keys().next().copied();
            waiting.show_out(oldest);
        }
        let now = Instant::now();
        if waiting.shown_out > 0 && waiting.said.is_none_or(|at| now.duration_since(at) >= SAY) {
            let shown_out = std::mem::take(&mut waiting.shown_out);
            waiting.said = Some(now);
            let door = self.inner.name;
            tracing::warn!(door, shown_out, "too many callers have not said who they are; the oldest went");
        }
        let number = waiting.next;
        waiting.next += 1;
        let state = watch::Sender::new(State::Waiting);
        waiting.callers.insert(number, (source, state.clone()));
        *waiting.each.entry(source).or_default() += 1;
        Place { number, door: self.clone(), state, source }
    }

    fn leave(&self, number: u64) {
        self.inner.waiting.lock().remove(number);
    }
}

impl Waiting {
    fn remove(&mut self, number: u64) -> Option<watch::Sender<State>> {
        let (source, state) = self.callers.remove(&number)?;
        if let Some(count) = self.each.get_mut(&source) {
            *count -= 1;
            if *count == 0 {
                self.each.remove(&source);
            }
        }
        Some(state)
    }

    fn show_out(&mut self, number: Option<u64>) {
        if let Some(state) = number.and_then(|number| self.remove(number)) {
            self.shown_out += 1;
            state.send_replace(State::Out);
        }
    }
}

impl Place {
    /// Where the caller calls from.
    pub fn source(&self) -> Source {
        self.source
    }

    /// The caller has proved who he is: he may stay.
    pub fn proved(&self) {
        if *self.state.borrow() != State::Waiting {
            return;
        }
        self.door.leave(self.number);
        self.state.send_if_modified(|state| {
            let waits = *state == State::Waiting;
            if waits {
                *state = State::Proved;
            }
            waits
        });
    }

    /// The caller has failed too often: the connection ends as soon as he could read why.
    pub fn failed(&self) {
        self.door.leave(self.number);
        self.state.send_if_modified(|state| {
            let on = matches!(state, State::Waiting | State::Proved);
            if on {
                *state = State::Failed;
            }
            on
        });
    }
}

impl<S> Guarded<S> {
    /// Ready with an error when it is over; else the task is woken when it is.
    fn over(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        self.over = self.over || self.end.as_mut().poll(cx).is_ready();
        if self.over { Poll::Ready(io::ErrorKind::TimedOut.into()) } else { Poll::Pending }
    }

    /// What the socket says, or the end.
    fn unless_over<T>(
        &mut self,
        cx: &mut Context<'_>,
        ask: impl FnOnce(Pin<&mut S>, &mut Context<'_>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>>
    where
        S: Unpin,
    {
        match self.over(cx) {
            Poll::Ready(end) => Poll::Ready(Err(end)),
            Poll::Pending => ask(Pin::new(&mut self.socket), cx),
        }
    }
}

impl<S> Drop for Guarded<S> {
    fn drop(&mut self) {
        self.place.door.leave(self.place.number);
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Guarded<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.get_mut().unless_over(cx, |socket, cx| socket.poll_read(cx, buffer))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Guarded<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.get_mut().unless_over(cx, |socket, cx| socket.poll_write(cx, bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.get_mut().unless_over(cx, |socket, cx| socket.poll_write_vectored(cx, bytes))
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().unless_over(cx, |socket, cx| socket.poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().unless_over(cx, |socket, cx| socket.poll_shutdown(cx))
    }
}

impl<S: Connected> Connected for Guarded<S> {
    type ConnectInfo = Placed<S::ConnectInfo>;

    fn connect_info(&self) -> Self::ConnectInfo {
        Placed { inner: self.socket.connect_info(), place: self.place.clone() }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::UnixStream;

    use super::*;

    const LONG: Duration = Duration::from_secs(1000);

    fn door(waiting: usize, each: usize, time: Duration) -> Door {
        Door::new("test", Bounds { waiting, each, time })
    }

    fn caller(door: &Door, source: Source) -> (Guarded<UnixStream>, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        (door.guard(ours, source), theirs)
    }

    /// Whether bytes still come through.
    async fn talks((ours, theirs): &mut (Guarded<UnixStream>, UnixStream)) -> bool {
        theirs.write_all(b"x").await.unwrap();
        ours.read_exact(&mut [0]).await.is_ok()
    }

    #[tokio::test]
    async fn who_does_not_prove_it_in_time_goes_and_who_does_stays() {
        let door = door(8, 8, Duration::from_millis(100));
        let (mut silent, mut proved) = (caller(&door, Source::Here), caller(&door, Source::Here));
        proved.0.place.proved();
        assert_eq!(door.waiting(), 1);
        assert_eq!(silent.0.read(&mut [0]).await.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert!(talks(&mut proved).await);
        // Not by talking, only by proof.
        drop(silent);
        assert_eq!(door.waiting(), 0);
    }

    #[tokio::test]
    async fn at_the_bound_the_one_that_has_waited_longest_goes() {
        let door = door(3, 8, LONG);
        let mut callers: Vec<_> = (0..3).map(|_| caller(&door, Source::Here)).collect();
        callers[0].0.place.proved();
        let mut fourth = caller(&door, Source::Here);
        assert!(talks(&mut callers[1]).await, "there was room");
        let mut fifth = caller(&door, Source::Here);
        assert!(!talks(&mut callers[1]).await);
        assert_eq!(door.waiting(), 3);
        for one in [&mut fourth, &mut fifth] {
            assert!(talks(one).await);
        }
        assert!(talks(&mut callers[0]).await && talks(&mut callers[2]).await);
    }

    #[tokio::test]
    async fn a_source_that_floods_pushes_out_only_its_own() {
        let door = door(100, 2, LONG);
        let (bad, good) = (Source::V4([10, 0, 0, 1]), Source::V4([10, 0, 0, 2]));
        let mut kept = caller(&door, good);
        let mut flood: Vec<_> = (0..50).map(|_| caller(&door, bad)).collect();
        assert_eq!(door.waiting(), 3);
        assert!(talks(&mut kept).await);
        assert!(!talks(&mut flood[47]).await && talks(&mut flood[48]).await);
        let here: Vec<_> = (0..50).map(|_| caller(&door, Source::Here)).collect();
        assert_eq!(door.waiting(), 53, "this machine has no bound of its own");
        drop((here, flood, kept));
        assert_eq!(door.waiting(), 0);
        assert!(door.inner.waiting.lock().each.is_empty());
    }

    #[test]
    fn callers_who_proved_nothing_leave_room_for_the_others() {
        let bounds = Bounds { waiting: 256, each: 64, time: LONG };
        assert_eq!(bounds.within(10_000), bounds);
        assert_eq!(bounds.within(100), Bounds { waiting: 50, each: 25, time: LONG });
        assert_eq!(bounds.within(1), Bounds { waiting: 1, each: 1, time: LONG });
    }

    #[tokio::test]
    async fn who_failed_may_read_why_and_goes() {
        let door = door(8, 8, LONG);
        let (mut ours, mut theirs) = caller(&door, Source::Here);
        ours.place.failed();
        ours.write_all(b"no").await.unwrap();
        theirs.read_exact(&mut [0; 2]).await.unwrap();
        assert_eq!(ours.read(&mut [0]).await.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert_eq!(door.waiting(), 0);
        // Too late for a proof.
        ours.place.proved();
        assert!(ours.write_all(b"no").await.is_err());
    }
}
