use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use futures_core::Stream;
use overseer_protocol::proto::order::Kind;
use overseer_protocol::proto::{Order, ToLabor};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tonic::Status;

/// Bytes of payload after which a message is full.
const MESSAGE_BYTES: usize = 512 * 1024;
/// Orders after which a message is full.
const MESSAGE_ORDERS: usize = 1024;

/// What waits to go to one labor, in two lanes: control is never behind anything else.
///
/// The data lane is bounded by the calls that a session admits, the control lane by its calls
/// (a cancel each) and its labor's life.
#[derive(Debug, Default)]
pub(crate) struct Lanes {
    inner: Mutex<Inner>,
    gone: Notify,
}

#[derive(Debug, Default)]
struct Inner {
    control: VecDeque<Order>,
    data: VecDeque<(usize, Order)>,
    waker: Option<Waker>,
    closed: Option<Option<Status>>,
}

impl Lanes {
    pub(crate) fn control(&self, order: Order) {
        self.push(|inner| inner.control.push_back(order));
    }

    pub(crate) fn data(&self, bytes: usize, order: Order) {
        self.push(|inner| inner.data.push_back((bytes, order)));
    }

    /// Takes a call back that has not gone yet; false when it has. Its cancel would overtake it,
    /// mean nothing to the labor, and let it run.
    pub(crate) fn withdraw(&self, call: u64) -> bool {
        let data = &mut self.inner.lock().data;
        let is_it = |(_, order): &(usize, Order)| matches!(&order.kind, Some(Kind::Call(c)) if c.id == call);
        // Who gives a call up does so soon after: it is among the last.
        let place = data.iter().rposition(is_it);
        place.and_then(|place| data.remove(place)).is_some()
    }

    /// Ends the stream after what waits in the control lane; data is dropped.
    pub(crate) fn close(&self, status: Option<Status>) {
        self.push(|inner| {
            inner.data.clear();
            inner.closed.get_or_insert(status);
        });
        self.gone.notify_waiters();
    }

    /// Waits until the stream has ended or its reader is gone.
    pub(crate) async fn gone(&self) {
        let gone = self.gone.notified();
        if self.inner.lock().closed.is_none() {
            gone.await;
        }
    }

    fn push(&self, change: impl FnOnce(&mut Inner)) {
        let waker = {
            let mut inner = self.inner.lock();
            change(&mut inner);
            inner.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    fn poll(&self, cx: &mut Context<'_>) -> Poll<Option<Result<ToLabor, Status>>> {
        let mut inner = self.inner.lock();
        if inner.control.is_empty() && inner.data.is_empty() {
            return match &mut inner.closed {
                Some(status) => Poll::Ready(status.take().map(Err)),
                None => {
                    inner.waker = Some(cx.waker().clone());
                    Poll::Pending
                }
            };
        }
        let mut orders: Vec<Order> = inner.control.drain(..).collect();
        let mut bytes = 0;
        while bytes < MESSAGE_BYTES && orders.len() < MESSAGE_ORDERS {
            let Some((size, order)) = inner.data.pop_front() else { break };
            bytes += size;
            orders.push(order);
        }
        Poll::Ready(Some(Ok(ToLabor { orders })))
    }
}

/// The stream that carries the lanes; everything that is ready goes in one message.
pub(crate) struct LaneStream(pub(crate) Arc<Lanes>);

impl Stream for LaneStream {
    type Item = Result<ToLabor, Status>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll(cx)
    }
}

impl Drop for LaneStream {
    fn drop(&mut self) {
        self.0.close(None);
    }
}

#[cfg(test)]
mod tests {
    use overseer_protocol::proto::{Call, Cancel};

    use super::*;

    fn next(lanes: &Lanes) -> Poll<Option<Result<ToLabor, Status>>> {
        lanes.poll(&mut Context::from_waker(Waker::noop()))
    }

    #[test]
    fn a_call_that_has_not_gone_is_taken_back() {
        let lanes = Lanes::default();
        for id in [1, 2] {
            lanes.data(1, Order { kind: Some(Kind::Call(Call { id, ..Call::default() })) });
        }
        assert!(lanes.withdraw(2) && !lanes.withdraw(2));
        let Poll::Ready(Some(Ok(message))) = next(&lanes) else { panic!("nothing came") };
        assert_eq!(message.orders.len(), 1);
        assert!(!lanes.withdraw(1), "it has gone");
    }

    #[test]
    fn control_goes_first_and_a_message_has_a_bound() {
        let lanes = Lanes::default();
        for id in 0..4 {
            let call = Call { id, ..Call::default() };
            lanes.data(MESSAGE_BYTES / 2, Order { kind: Some(Kind::Call(call)) });
        }
        lanes.control(Order { kind: Some(Kind::Cancel(Cancel { id: 9 })) });
        let Poll::Ready(Some(Ok(first))) = next(&lanes) else { panic!("nothing came") };
        assert!(matches!(first.orders[0].kind, Some(Kind::Cancel(_))));
        assert_eq!(first.orders.len(), 3);
        let Poll::Ready(Some(Ok(second))) = next(&lanes) else { panic!("nothing came") };
        assert_eq!(second.orders.len(), 2);
        assert!(next(&lanes).is_pending());
        lanes.close(Some(Status::unauthenticated("late")));
        assert!(matches!(next(&lanes), Poll::Ready(Some(Err(_)))));
        assert!(matches!(next(&lanes), Poll::Ready(None)));
    }
}
