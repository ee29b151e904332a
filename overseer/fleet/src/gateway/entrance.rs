//! A listener whose sockets go to the newest of its routers. What TLS is set up with cannot be
//! changed once a router serves, so a new certificate needs a new router; the connections of the
//! older ones go on as they are.

use std::io;

use futures_core::Stream;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::{Connected, Router};

use super::{report, wait_for};

/// Sockets that a router has not taken yet; then none is accepted.
const ACCEPTED: usize = 16;

/// See the module.
pub(super) struct Entrance {
    give: Box<dyn Fn(Router) -> JoinHandle<()> + Send + Sync>,
}

impl Entrance {
    /// Takes sockets until `stopped` says so; those that come before the first router wait.
    pub(super) fn open<S>(
        incoming: impl Stream<Item = io::Result<S>> + Send + 'static,
        stopped: watch::Receiver<bool>,
    ) -> (Self, JoinHandle<()>)
    where
        S: AsyncRead + AsyncWrite + Connected + Unpin + Send + 'static,
    {
        let newest = watch::Sender::new(None);
        let dealing = tokio::spawn(deal(incoming, newest.subscribe(), stopped.clone()));
        let give = move |router: Router| {
            let (send, sockets) = mpsc::channel(ACCEPTED);
            newest.send_replace(Some(send));
            // A router whose sockets end would bid its connections farewell.
            let sockets = ReceiverStream::new(sockets).chain(tokio_stream::pending());
            let until = wait_for(stopped.clone());
            tokio::spawn(async move { report(router.serve_with_incoming_shutdown(sockets, until).await) })
        };
        (Self { give: Box::new(give) }, dealing)
    }

    /// From now on sockets go to this router.
    pub(super) fn give_to(&self, router: Router) -> JoinHandle<()> {
        (self.give)(router)
    }
}

async fn deal<S>(
    incoming: impl Stream<Item = io::Result<S>>,
    mut newest: watch::Receiver<Option<mpsc::Sender<io::Result<S>>>>,
    stopped: watch::Receiver<bool>,
) {
    let dealing = async {
        tokio::pin!(incoming);
        while let Some(socket) = incoming.next().await {
            let Ok(router) = newest.wait_for(Option::is_some).await.map(|router| router.clone()) else {
                return;
            };
            let Some(router) = router else { return };
            // A router that has stopped takes nothing, and neither will another one.
            if router.send(socket).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = dealing => {}
        () = wait_for(stopped) => {}
    }
}
