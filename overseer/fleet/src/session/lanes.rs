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

use crate::call::Bound;

/// Bytes of payload after which a message is full.
const MESSAGE_BYTES: usize = 512 * 1024;
/// Orders after which a message is full.
const MESSAGE_ORDERS: usize = 1024;

/// Control orders that wait for the connection: more than the calls that a session has open can make,
/// with a cancel each. A labor that lets more pile up reads nothing, and is cut off.
const CONTROL: usize = 16_384;
/// Calls and casts that wait for the connection.
const WAITING: usize = 16_384;
/// Bytes of them.
const WAITING_BYTES: usize = 256 << 20;

/// What waits to go to one labor, in two lanes: control is never behind anything else.
///
/// The data lane refuses what is over its bounds. A full control lane ends the stream. Of what
/// answers heartbeats and telemetry only the latest waits, so that a labor that says much of them
/// and reads nothing makes nothing grow.
#[derive(Debug, Default)]
pub(crate) struct Lanes {
    inner: Mutex<Inner>,
    gone: Notify,
}

#[derive(Debug, Default)]
struct Inner {
    control: VecDeque<Order>,
    /// The latest lease and the latest acknowledgement: each stands for those before it.
    lease: Option<Order>,
    ack: Option<Order>,
    data: VecDeque<(usize, Order)>,
    data_bytes: usize,
    overrun: bool,
    waker: Option<Waker>,
    closed: Option<Option<Status>>,
}

impl Lanes {
    pub(crate) fn control(&self, order: Order) {
        self.push(|inner| match order.kind {
            Some(Kind::Lease(_)) => inner.lease = Some(order),
            Some(Kind::TelemetryAck(_)) => inner.ack = Some(order),
            _ if inner.control.len() < CONTROL => inner.control.push_back(order),
            _ => inner.overrun = true,
        });
        if self.inner.lock().overrun {
            self.close(Some(Status::resource_exhausted("the labor does not read what it is told")));
        }
    }

    /// Queues a call or cast of so many bytes.
    ///
    /// # Errors
    /// Nothing was queued.
    pub(crate) fn data(&self, bytes: usize, order: Order) -> Result<(), NotQueued> {
        self.push(|inner| {
            if inner.closed.is_some() {
                return Err(NotQueued::Closed);
            }
            if inner.data.len() >= WAITING {
                return Err(NotQueued::Full(Bound::Waiting(WAITING)));
            }
            if inner.data_bytes.saturating_add(bytes) > WAITING_BYTES {
                return Err(NotQueued::Full(Bound::Bytes(WAITING_BYTES)));
            }
            inner.data_bytes += bytes;
            inner.data.push_back((bytes, order));
            Ok(())
        })
    }

    /// Calls and casts that wait, and their bytes.
    pub(crate) fn waiting(&self) -> (usize, usize) {
        let inner = self.inner.lock();
        (inner.data.len(), inner.data_bytes)
    }

    /// Takes a call back that has not gone yet; false when it has. Its cancel would overtake it,
    /// mean nothing to the labor, and let it run.
    pub(crate) fn withdraw(&self, call: u64) -> bool {
        let inner = &mut *self.inner.lock();
        let is_it = |(_, order): &(usize, Order)| matches!(&order.kind, Some(Kind::Call(c)) if c.id == call);
        // Who gives a call up does so soon after: it is among the last.
        let place = inner.data.iter().rposition(is_it);
        match place.and_then(|place| inner.data.remove(place)) {
            Some((bytes, _)) => {
                inner.data_bytes -= bytes;
                true
            }
            None => false,
        }
    }

    /// Ends the stream after what waits in the control lane; data is dropped.
    pub(crate) fn close(&self, status: Option<Status>) {
        self.push(|inner| {
            inner.data.clear();
            inner.data_bytes = 0;
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

    fn push<T>(&self, change: impl FnOnce(&mut Inner) -> T) -> T {
        let (changed, waker) = {
            let mut inner = self.inner.lock();
            (change(&mut inner), inner.waker.take())
        };
        if let Some(waker) = waker {
            waker.wake();
        }
        changed
    }

    fn poll(&self, cx: &mut Context<'_>) -> Poll<Option<Result<ToLabor, Status>>> {
        let mut inner = self.inner.lock();
        let inner = &mut *inner;
        let waits =
            inner.control.len() + usize::from(inner.lease.is_some()) + usize::from(inner.ack.is_some());
        // Room for no more: most messages are the answer to one heartbeat.
        let mut orders: Vec<Order> = Vec::with_capacity(waits);
        orders.extend(inner.control.drain(..));
        orders.extend(inner.lease.take());
        orders.extend(inner.ack.take());
        if orders.is_empty() && inner.data.is_empty() {
            return match &mut inner.closed {
                Some(status) => Poll::Ready(status.take().map(Err)),
                None => {
                    inner.waker = Some(cx.waker().clone());
                    Poll::Pending
                }
            };
        }
        let mut bytes = 0;
        while bytes < MESSAGE_BYTES && orders.len() < MESSAGE_ORDERS {
            let Some((size, order)) = inner.data.pop_front() else { break };
            bytes += size;
            inner.data_bytes -= size;
            orders.push(order);
        }
        Poll::Ready(Some(Ok(ToLabor { orders })))
    }
}

/// Why something was not queued.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NotQueued {
    /// The stream has ended.
    Closed,
    /// As much waits as may.
    Full(Bound),
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
    use overseer_protocol::proto::{Call, Cancel, Lease, TelemetryAck};

    use super::*;

    fn next(lanes: &Lanes) -> Poll<Option<Result<ToLabor, Status>>> {
        lanes.poll(&mut Context::from_waker(Waker::noop()))
    }

    #[test]
    fn a_call_that_has_not_gone_is_taken_back() {
        let lanes = Lanes::default();
        for id in [1, 2] {
            lanes.data(1, Order { kind: Some(Kind::Call(Call { id, ..Call::default() })) }).unwrap();
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
            lanes.data(MESSAGE_BYTES / 2, Order { kind: Some(Kind::Call(call)) }).unwrap();
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

    #[test]
    fn a_labor_that_says_much_and_reads_nothing_makes_nothing_grow() {
        let lanes = Lanes::default();
        for n in 0..10_000 {
            let lease = Lease { seq: n, lease_ms: 1 };
            lanes.control(Order { kind: Some(Kind::Lease(lease)) });
            lanes.control(Order { kind: Some(Kind::TelemetryAck(TelemetryAck { through: n })) });
        }
        let Poll::Ready(Some(Ok(message))) = next(&lanes) else { panic!("nothing came") };
        let Some(Kind::Lease(lease)) = &message.orders[0].kind else { panic!("no lease") };
        let Some(Kind::TelemetryAck(ack)) = &message.orders[1].kind else { panic!("no ack") };
        assert_eq!((message.orders.len(), lease.seq, ack.through), (2, 9_999, 9_999));
    }

    #[test]
    fn a_labor_that_reads_no_order_is_cut_off() {
        let lanes = Lanes::default();
        let cancel = |id| Order { kind: Some(Kind::Cancel(Cancel { id })) };
        (0..CONTROL as u64).for_each(|id| lanes.control(cancel(id)));
        assert!(lanes.inner.lock().closed.is_none());
        (0..3).for_each(|id| lanes.control(cancel(id)));
        assert_eq!(lanes.inner.lock().control.len(), CONTROL);
        let call = Order { kind: Some(Kind::Call(Call::default())) };
        assert_eq!(lanes.data(1, call), Err(NotQueued::Closed));
        // What waits is still there, then the reason.
        assert!(matches!(next(&lanes), Poll::Ready(Some(Ok(_)))));
        assert!(matches!(next(&lanes), Poll::Ready(Some(Err(_)))));
    }

    #[test]
    fn what_is_over_the_bounds_is_refused_until_some_has_gone() {
        let call = |id| Order { kind: Some(Kind::Call(Call { id, ..Call::default() })) };
        let lanes = Lanes::default();
        (0..WAITING as u64).for_each(|id| lanes.data(1, call(id)).unwrap());
        assert_eq!(lanes.data(1, call(0)), Err(NotQueued::Full(Bound::Waiting(WAITING))));
        assert!(lanes.withdraw(7));
        lanes.data(1, call(7)).unwrap();

        let lanes = Lanes::default();
        lanes.data(WAITING_BYTES, call(1)).unwrap();
        assert_eq!(lanes.data(1, call(2)), Err(NotQueued::Full(Bound::Bytes(WAITING_BYTES))));
        assert!(next(&lanes).is_ready());
        lanes.data(WAITING_BYTES, call(2)).unwrap();
        assert!(lanes.withdraw(2));
        lanes.data(WAITING_BYTES, call(3)).unwrap();
        lanes.close(None);
        assert_eq!(lanes.data(1, call(4)), Err(NotQueued::Closed));
    }
}
