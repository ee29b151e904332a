use std::collections::HashMap;

use overseer_protocol::{Attempt, TaskId};
use proptest::prelude::*;

use super::*;

fn name(task: u128) -> LogStream {
    LogStream { task: TaskId(task), attempt: Attempt(1), stream: "stdout".into() }
}

fn small() -> Bounds {
    Bounds { memory: 100, hard: 200, disk: 1000, segment: 150, pieces: 1000 }
}

/// What the Overseer has stored, and a disk.
#[derive(Default)]
struct World {
    stored: HashMap<(u128, String), (Vec<u8>, u64, bool)>,
    disk: HashMap<u64, Vec<u8>>,
}

impl World {
    fn write(&mut self, spool: &mut Spool, works: bool) {
        let spills = spool.spill(120);
        if works {
            for spill in &spills {
                let file = self.disk.entry(spill.segment).or_default();
                let end = spill.position as usize + spill.data.len();
                file.resize(file.len().max(end), 0);
                file[spill.position as usize..end].copy_from_slice(&spill.data);
            }
        }
        if !spills.is_empty() {
            spool.spilled(spills, works);
        }
        self.tidy(spool);
    }

    fn tidy(&mut self, spool: &mut Spool) {
        for segment in spool.finished() {
            self.disk.remove(&segment);
        }
    }

    fn receive(&mut self, push: proto::LogPush) -> LogStream {
        let task = TaskId::from_bytes(&push.task).unwrap();
        let key = (task.0, push.stream.clone());
        let (bytes, through, ended) = self.stored.entry(key).or_default();
        if push.offset == *through {
            let len = if push.gap > 0 { push.gap } else { push.data.len() as u64 };
            bytes.extend(if push.gap > 0 { vec![b'?'; len as usize] } else { push.data.to_vec() });
            *through += len;
        } else {
            assert!(push.offset < *through, "a hole: {} after {through}", push.offset);
        }
        *ended |= push.eof;
        LogStream { task, attempt: Attempt(push.attempt), stream: push.stream }
    }

    /// Sends up to `most` pieces; acknowledges if `answers`.
    fn pump(&mut self, spool: &mut Spool, most: usize, answers: bool) {
        for _ in 0..most {
            let push = match spool.next() {
                Next::Push(push) => push,
                Next::Read { segment, position, len, mut push } => {
                    let file = self.disk.get(&segment).expect("the segment is still there");
                    push.data = file[position as usize..position as usize + len].to_vec().into();
                    push
                }
                Next::Nothing => break,
            };
            let stream = self.receive(push);
            if answers {
                let through = self.stored[&(stream.task.0, stream.stream.clone())].1;
                spool.acknowledged(&stream, through);
                self.tidy(spool);
            }
        }
    }
}

#[test]
fn small_writes_travel_as_one_piece_and_are_freed_when_stored() {
    let mut spool = Spool::new(Bounds::default());
    for _ in 0..100 {
        spool.append(&name(1), b"line\n");
    }
    let Next::Push(push) = spool.next() else { panic!("nothing to send") };
    assert_eq!(push.data.len(), 500);
    assert!(matches!(spool.next(), Next::Nothing));
    assert!(spool.acknowledged(&name(1), 500));
    assert!(spool.is_empty());
}

#[test]
fn a_reader_sees_the_end_of_a_stream_after_its_last_byte() {
    let mut spool = Spool::new(Bounds::default());
    let mut world = World::default();
    spool.append(&name(1), b"x");
    spool.end(&name(1));
    spool.end(&name(2));
    world.pump(&mut spool, 10, true);
    assert_eq!(world.stored[&(1, "stdout".into())], (b"x".to_vec(), 1, true));
    assert_eq!(world.stored.len(), 1, "a stream without bytes is not made by its end");
}

#[test]
fn a_full_disk_holds_the_host_back_and_only_lost_bytes_are_marked() {
    let mut spool = Spool::new(small());
    let mut world = World::default();
    while spool.has_room() {
        spool.append(&name(1), &[b'a'; 50]);
        world.write(&mut spool, false);
    }
    assert!(spool.disk_failed());
    spool.lose(&name(1), 30);
    spool.lose(&name(1), 12);
    world.pump(&mut spool, 100, true);
    let (bytes, through, _) = &world.stored[&(1, "stdout".into())];
    assert_eq!((bytes.len(), *through), (242, 242));
    assert!(bytes.ends_with(&[b'?'; 42]) && !bytes[..200].contains(&b'?'));
    assert!(spool.has_room());
}

#[test]
fn segment_files_go_away_when_their_bytes_are_stored() {
    let mut spool = Spool::new(small());
    let mut world = World::default();
    for _ in 0..15 {
        spool.append(&name(1), &[b'a'; 50]);
        spool.append(&name(2), &[b'b'; 10]);
        world.write(&mut spool, true);
    }
    assert!(world.disk.len() > 2);
    world.pump(&mut spool, 1000, true);
    world.write(&mut spool, true);
    assert!(spool.is_empty());
    assert!(world.disk.is_empty(), "{:?}", world.disk.keys());
    assert_eq!((spool.memory, spool.disk), (0, 0));
}

proptest! {
    #[test]
    fn no_byte_is_lost_or_doubled_whatever_the_network_and_disk_do(
        steps in proptest::collection::vec((0u8..8, 1u128..4, 1usize..90), 1..300)
    ) {
        let mut spool = Spool::new(small());
        let mut world = World::default();
        let mut written: HashMap<u128, Vec<u8>> = HashMap::new();
        let mut letter = 0u8;
        for (step, task, size) in steps {
            match step {
                0..=2 if spool.has_room() => {
                    letter = letter.wrapping_add(1);
                    let data = vec![letter | 0x80; size];
                    spool.append(&name(task), &data);
                    written.entry(task).or_default().extend(data);
                }
                3 => world.write(&mut spool, true),
                4 => world.write(&mut spool, false),
                5 => world.pump(&mut spool, size % 5, true),
                6 => world.pump(&mut spool, size % 5, false),
                _ => spool.resume(),
            }
            prop_assert!(spool.memory <= 200 + 90 && spool.disk <= 1000);
        }
        for task in 1..4 {
            spool.end(&name(task));
        }
        // An acknowledgement of something later frees the last end.
        spool.append(&name(9), b"last");
        spool.resume();
        world.pump(&mut spool, usize::MAX, true);
        prop_assert!(spool.is_empty());
        prop_assert_eq!(spool.streams.len(), 1);
        for (task, bytes) in written {
            let stored = &world.stored[&(task, "stdout".to_string())];
            prop_assert_eq!(&stored.0, &bytes);
            prop_assert!(stored.2);
        }
    }
}
