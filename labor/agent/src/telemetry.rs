//! What the plugin says by itself, kept until the Overseer has it. Pure.
//!
//! Batches of records pass unopened. Records are numbered per labor from 0, in order; a record
//! that was dropped here keeps its number, so the Overseer sees the hole as well as the count.

use std::collections::VecDeque;

use bytes::Bytes;
use overseer_protocol::proto;

/// Most bytes kept.
pub(crate) const MAX_BYTES: usize = 4 << 20;
/// Most bytes that are sent and not acknowledged: what may lie before a control message.
pub(crate) const WINDOW: usize = 256 << 10;

#[derive(Debug)]
struct Batch {
    first_seq: u64,
    count: u32,
    records: Bytes,
}

impl Batch {
    fn end(&self) -> u64 {
        self.first_seq + u64::from(self.count)
    }

    /// With what a batch costs besides its records, so that empty ones are bounded too.
    fn cost(&self) -> usize {
        self.records.len() + 64
    }
}

/// The batches that are not acknowledged, within [`MAX_BYTES`].
#[derive(Debug, Default)]
pub(crate) struct Buffer {
    batches: VecDeque<Batch>,
    /// How many of them, from the front, are on their way.
    sent: usize,
    sent_bytes: usize,
    bytes: usize,
    next_seq: u64,
    dropped: u64,
}

impl Buffer {
    /// Takes a batch from the host. `lost` records were dropped before it, by the plugin's side.
    /// At the bound the oldest batch that is not on its way goes, and its records are counted.
    pub(crate) fn push(&mut self, count: u32, lost: u64, records: Bytes) {
        self.dropped += lost;
        let batch = Batch { first_seq: self.next_seq, count, records };
        self.next_seq = batch.end();
        self.bytes += batch.cost();
        self.batches.push_back(batch);
        while self.bytes > MAX_BYTES {
            let Some(oldest) = self.batches.remove(self.sent) else { break };
            self.bytes -= oldest.cost();
            self.dropped += u64::from(oldest.count);
        }
    }

    /// The next batch to send, if the window is open.
    pub(crate) fn pop(&mut self) -> Option<proto::Telemetry> {
        if self.sent > 0 && self.sent_bytes >= WINDOW {
            return None;
        }
        let batch = self.batches.get(self.sent)?;
        self.sent += 1;
        self.sent_bytes += batch.cost();
        Some(proto::Telemetry {
            first_seq: batch.first_seq,
            count: batch.count,
            dropped: self.dropped,
            records: batch.records.clone(),
        })
    }

    /// The Overseer has every record below `through`.
    pub(crate) fn acknowledged(&mut self, through: u64) {
        while let Some(batch) = self.batches.front() {
            // Only what was sent can be acknowledged; a wild number must not lose records.
            if self.sent == 0 || batch.end() > through {
                break;
            }
            self.sent -= 1;
            self.sent_bytes -= batch.cost();
            self.bytes -= batch.cost();
            self.batches.pop_front();
        }
    }

    /// A new session: everything that is not acknowledged is sent again.
    pub(crate) fn resume(&mut self) {
        self.sent = 0;
        self.sent_bytes = 0;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn push(buffer: &mut Buffer, count: u32, bytes: usize) {
        buffer.push(count, 0, vec![0; bytes].into());
    }

    #[test]
    fn records_are_sent_in_order_and_again_after_a_lost_session() {
        let mut buffer = Buffer::default();
        push(&mut buffer, 3, 10);
        push(&mut buffer, 2, 10);
        assert_eq!(buffer.pop().map(|t| (t.first_seq, t.count)), Some((0, 3)));
        assert_eq!(buffer.pop().map(|t| t.first_seq), Some(3));
        assert!(buffer.pop().is_none());
        buffer.acknowledged(3);
        buffer.resume();
        assert_eq!(buffer.pop().map(|t| t.first_seq), Some(3));
        buffer.acknowledged(5);
        assert!(buffer.batches.is_empty());
    }

    #[test]
    fn the_oldest_records_are_dropped_and_counted_when_nobody_listens() {
        let mut buffer = Buffer::default();
        for _ in 0..6 {
            push(&mut buffer, 10, 1 << 20);
        }
        let first = buffer.pop().unwrap();
        assert_eq!((first.first_seq, first.dropped), (30, 30));
    }

    #[test]
    fn an_overseer_that_does_not_acknowledge_gets_one_window() {
        let mut buffer = Buffer::default();
        for _ in 0..100 {
            push(&mut buffer, 1, 32 << 10);
        }
        let sent = std::iter::from_fn(|| buffer.pop()).count();
        assert_eq!(sent, WINDOW / (32 << 10));
    }

    #[test]
    fn a_record_of_its_own_batch_is_not_acknowledged_by_the_one_before_it() {
        let mut buffer = Buffer::default();
        push(&mut buffer, 1, 10);
        push(&mut buffer, 1, 10);
        assert_eq!(
            (buffer.pop().map(|t| t.first_seq), buffer.pop().map(|t| t.first_seq)),
            (Some(0), Some(1))
        );
        buffer.acknowledged(1);
        buffer.resume();
        assert_eq!(buffer.pop().map(|t| t.first_seq), Some(1));
    }

    #[test]
    fn a_wild_acknowledgement_frees_only_what_was_sent() {
        let mut buffer = Buffer::default();
        push(&mut buffer, 1, 1);
        buffer.acknowledged(u64::MAX);
        assert!(buffer.pop().is_some());
    }

    proptest! {
        #[test]
        fn every_record_is_delivered_or_counted(
            steps in proptest::collection::vec((0u8..4, 1u32..50, 0usize..600_000), 1..200)
        ) {
            let mut buffer = Buffer::default();
            let (mut given, mut delivered, mut last_end, mut dropped) = (0u64, 0u64, 0u64, 0u64);
            let mut on_the_way = VecDeque::new();
            for (step, count, size) in steps {
                match step {
                    0 | 1 => {
                        given += u64::from(count);
                        push(&mut buffer, count, size);
                    }
                    2 => while let Some(t) = buffer.pop() { on_the_way.push_back(t) },
                    _ => if let Some(t) = on_the_way.pop_front() {
                        prop_assert!(t.first_seq >= last_end, "out of order");
                        last_end = t.first_seq + u64::from(t.count);
                        delivered += u64::from(t.count);
                        dropped = t.dropped;
                        buffer.acknowledged(last_end);
                    }
                }
                prop_assert!(buffer.bytes <= MAX_BYTES);
            }
            while let Some(t) = on_the_way.pop_front() {
                delivered += u64::from(t.count);
                dropped = t.dropped;
                buffer.acknowledged(t.first_seq + u64::from(t.count));
            }
            while let Some(t) = buffer.pop() {
                delivered += u64::from(t.count);
                dropped = t.dropped;
                buffer.acknowledged(t.first_seq + u64::from(t.count));
            }
            prop_assert!(delivered + buffer.dropped == given);
            prop_assert!(dropped <= buffer.dropped);
        }
    }
}
