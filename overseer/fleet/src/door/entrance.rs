//! A listener whose sockets go to the newest of its servers. What TLS is set up with cannot be
//! changed once a server runs, so a new certificate needs a new server; the connections of the
//! older ones go on as they are.

use std::io;

use futures_core::Stream;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;

/// Sockets that a server has not taken yet; then none is accepted.
const ACCEPTED: usize = 16;

type Sockets<S> = mpsc::Sender<io::Result<S>>;

/// See the module.
pub struct Entrance<S> {
    newest: watch::Sender<Option<Sockets<S>>>,
}

impl<S: Send + 'static> Entrance<S> {
    /// Takes sockets until `stopped` says so, or is gone; those that come before the first server
    /// wait.
    pub fn open(
        incoming: impl Stream<Item = io::Result<S>> + Send + 'static,
        mut stopped: watch::Receiver<bool>,
    ) -> (Self, JoinHandle<()>) {
        let newest = watch::Sender::new(None);
        let dealing = deal(incoming, newest.subscribe());
        let task = tokio::spawn(async move {
            tokio::select! {
                () = dealing => {}
                _ = stopped.wait_for(|stopped| *stopped) => {}
            }
        });
        (Self { newest }, task)
    }

    /// From now on sockets come out of this. It never ends: a server whose sockets end would bid
    /// its connections farewell.
    pub fn sockets(&self) -> impl Stream<Item = io::Result<S>> + Send + use<S> {
        let (send, sockets) = mpsc::channel(ACCEPTED);
        self.newest.send_replace(Some(send));
        ReceiverStream::new(sockets).chain(tokio_stream::pending())
    }
}

async fn deal<S>(
    incoming: impl Stream<Item = io::Result<S>>,
    mut newest: watch::Receiver<Option<Sockets<S>>>,
) {
    tokio::pin!(incoming);
    while let Some(socket) = incoming.next().await {
        let Ok(server) = newest.wait_for(Option::is_some).await.map(|server| server.clone()) else { return };
        // A server that has stopped takes nothing, and neither will another one.
        let Some(server) = server else { return };
        if server.send(socket).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn sockets_go_to_the_newest_and_none_is_lost() {
        let (give, incoming) = mpsc::channel(4);
        let (_stop, stopped) = watch::channel(false);
        let (entrance, _task) = Entrance::open(ReceiverStream::new(incoming), stopped);
        give.send(Ok(1)).await.unwrap();
        let first = entrance.sockets();
        tokio::pin!(first);
        assert_eq!(first.next().await.unwrap().unwrap(), 1);
        let second = entrance.sockets();
        tokio::pin!(second);
        give.send(Ok(2)).await.unwrap();
        assert_eq!(second.next().await.unwrap().unwrap(), 2);
        let none = tokio::time::timeout(std::time::Duration::from_millis(20), first.next()).await;
        assert!(none.is_err(), "the older one goes on, without new ones");
    }
}
