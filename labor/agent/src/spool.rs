//! Log bytes from when they are written until the Overseer has stored them.
//!
//! In memory as long as the Overseer keeps up, on disk beyond that, in a ring of segment files.
//! The book is kept here, without IO; [`crate::logs`] carries out what it asks for. There is no
//! recovery from disk: an agent that ends takes its identity with it, and the Overseer marks what
//! it lacks.

use std::collections::{BTreeMap, HashMap, VecDeque};

use bytes::Bytes;
use overseer_protocol::{LogStream, PIECE, proto};

/// Bounds of a spool, in bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    /// Kept in memory; what comes above it goes to disk.
    pub(crate) memory: usize,
    /// In memory on its way to disk; at this bound the host is not read.
    pub(crate) hard: usize,
    /// On disk.
    pub(crate) disk: u64,
    /// Of one segment file.
    pub(crate) segment: u64,
    /// Pieces in the book: many small writes must not fill the memory either.
    pub(crate) pieces: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { memory: 1 << 20, hard: 2 << 20, disk: 256 << 20, segment: 16 << 20, pieces: 16 << 10 }
    }
}

/// Number of a stream in the book.
type StreamNumber = u64;

/// A run of bytes of one stream, an end, or a gap.
#[derive(Debug)]
struct Piece {
    stream: StreamNumber,
    offset: u64,
    what: What,
}

#[derive(Debug)]
enum What {
    /// May still grow.
    Open(Vec<u8>),
    Memory(Bytes),
    /// Being written to the disk; still in memory.
    Writing(Bytes),
    Disk {
        segment: u64,
        position: u64,
        len: usize,
    },
    Gap(u64),
    Eof,
    /// Acknowledged before an older piece of another stream.
    Gone,
}

#[derive(Debug)]
struct Stream {
    name: LogStream,
    /// Where the next byte goes.
    next: u64,
    /// Everything below is stored by the Overseer.
    through: u64,
    /// Pieces of it in the book.
    pieces: usize,
    ended: bool,
}

/// The next thing to do for the sender.
#[derive(Debug)]
pub(crate) enum Next {
    /// Send it.
    Push(proto::LogPush),
    /// Read it from its segment, then send it with these bytes.
    Read { segment: u64, position: u64, len: usize, push: proto::LogPush },
    /// Nothing waits.
    Nothing,
}

/// A piece to write to disk.
#[derive(Debug)]
pub(crate) struct Spill {
    piece: u64,
    pub(crate) segment: u64,
    pub(crate) position: u64,
    pub(crate) data: Bytes,
}

/// The book of all log streams of an agent.
#[derive(Debug)]
pub(crate) struct Spool {
    bounds: Bounds,
    pieces: VecDeque<Piece>,
    /// Number of the first of `pieces`.
    first: u64,
    /// Number of the next piece to send.
    cursor: u64,
    /// The next piece that might have to go to disk.
    spill_from: u64,
    streams: BTreeMap<StreamNumber, Stream>,
    by_name: HashMap<LogStream, StreamNumber>,
    next_stream: StreamNumber,
    memory: usize,
    disk: u64,
    /// Pieces that are alive in each segment file.
    segments: BTreeMap<u64, usize>,
    write_segment: u64,
    write_position: u64,
    /// Segment files that may be removed.
    finished: Vec<u64>,
    /// The disk refused the last write.
    disk_failed: bool,
}

impl Spool {
    pub(crate) fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            pieces: VecDeque::new(),
            first: 0,
            cursor: 0,
            spill_from: 0,
            streams: BTreeMap::new(),
            by_name: HashMap::new(),
            next_stream: 0,
            memory: 0,
            disk: 0,
            segments: BTreeMap::new(),
            write_segment: 0,
            write_position: 0,
            finished: Vec::new(),
            disk_failed: false,
        }
    }

    /// Takes bytes of a stream, in order. It is for the caller to stop when there is no room.
    pub(crate) fn append(&mut self, name: &LogStream, data: &[u8]) {
        let number = self.stream(name);
        for data in data.chunks(PIECE) {
            let Some(stream) = self.streams.get_mut(&number) else { return };
            let offset = stream.next;
            stream.next += data.len() as u64;
            self.memory += data.len();
            // Small writes of one stream become one piece while they wait.
            let last = self.first + self.pieces.len() as u64;
            if last > self.cursor
                && let Some(Piece { stream, what: What::Open(bytes), .. }) = self.pieces.back_mut()
                && *stream == number
                && bytes.len() + data.len() <= PIECE
            {
                bytes.extend_from_slice(data);
                continue;
            }
            self.add(number, offset, What::Open(data.to_vec()));
        }
    }

    /// Bytes of a stream that are lost for want of room.
    pub(crate) fn lose(&mut self, name: &LogStream, len: usize) {
        let number = self.stream(name);
        let Some(stream) = self.streams.get_mut(&number) else { return };
        let offset = stream.next;
        stream.next += len as u64;
        let last = self.first + self.pieces.len() as u64;
        if last > self.cursor
            && let Some(Piece { stream, what: What::Gap(gap), .. }) = self.pieces.back_mut()
            && *stream == number
        {
            *gap += len as u64;
            return;
        }
        self.add(number, offset, What::Gap(len as u64));
    }

    /// No byte follows in a stream. A stream that never was stays unknown.
    pub(crate) fn end(&mut self, name: &LogStream) {
        let Some(number) = self.by_name.remove(name) else { return };
        let Some(stream) = self.streams.get_mut(&number) else { return };
        stream.ended = true;
        let offset = stream.next;
        self.add(number, offset, What::Eof);
    }

    /// Whether the host may be read on.
    pub(crate) fn has_room(&self) -> bool {
        self.memory < self.bounds.hard && self.pieces.len() < self.bounds.pieces
    }

    /// Whether everything is stored by the Overseer.
    pub(crate) fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// Whether all bytes are stored; at most ends are on their way.
    pub(crate) fn is_settled(&self) -> bool {
        self.cursor == self.first + self.pieces.len() as u64
            && self.pieces.iter().all(|p| matches!(p.what, What::Eof | What::Gone))
    }

    /// The Overseer has closed the connection in good order: it has seen everything that was sent,
    /// so the ends that only wait for a later acknowledgement are known too.
    pub(crate) fn closed(&mut self) {
        while self.first < self.cursor
            && let Some(Piece { what: What::Eof | What::Gone, .. }) = self.pieces.front()
        {
            self.free(0);
            self.pieces.pop_front();
            self.first += 1;
        }
    }

    /// The Overseer has refused what is oldest: it is given up, so that the rest can pass.
    pub(crate) fn refused(&mut self) {
        self.free(0);
        self.drop_gone();
    }

    /// A new connection: everything that is not acknowledged is sent again.
    pub(crate) fn resume(&mut self) {
        self.cursor = self.first;
    }

    /// The next thing to send; the cursor moves on.
    pub(crate) fn next(&mut self) -> Next {
        loop {
            let index = (self.cursor - self.first) as usize;
            let Some(piece) = self.pieces.get_mut(index) else { return Next::Nothing };
            self.cursor += 1;
            let Some(stream) = self.streams.get(&piece.stream) else { continue };
            let mut push = proto::LogPush {
                task: stream.name.task.to_bytes().to_vec().into(),
                attempt: stream.name.attempt.0,
                stream: stream.name.stream.clone(),
                offset: piece.offset,
                ..Default::default()
            };
            match &mut piece.what {
                What::Gone => continue,
                What::Open(bytes) => {
                    let bytes = Bytes::from(std::mem::take(bytes));
                    piece.what = What::Memory(bytes.clone());
                    push.data = bytes;
                }
                What::Memory(bytes) | What::Writing(bytes) => push.data = bytes.clone(),
                What::Disk { segment, position, len } => {
                    return Next::Read { segment: *segment, position: *position, len: *len, push };
                }
                What::Gap(gap) => {
                    push.gap = *gap;
                    push.data = Bytes::from_static(b"the node's spool was full and nobody fetched it");
                }
                What::Eof => push.eof = true,
            }
            return Next::Push(push);
        }
    }

    /// The Overseer has stored a stream up to `through`. Acknowledgements come in the order of the
    /// pushes, so ends of streams that were pushed before are known too. True when it is news.
    pub(crate) fn acknowledged(&mut self, name: &LogStream, through: u64) -> bool {
        let mut news = false;
        let mut last = None;
        for (index, piece) in self.pieces.iter_mut().enumerate() {
            if self.first + index as u64 >= self.cursor {
                break;
            }
            let Some(stream) = self.streams.get_mut(&piece.stream) else { continue };
            if stream.name != *name {
                continue;
            }
            let len = match &piece.what {
                What::Open(bytes) => bytes.len() as u64,
                What::Memory(bytes) | What::Writing(bytes) => bytes.len() as u64,
                What::Disk { len, .. } => *len as u64,
                What::Gap(gap) => *gap,
                What::Eof | What::Gone => continue,
            };
            if piece.offset + len > through {
                break;
            }
            stream.through = stream.through.max(piece.offset + len);
            last = Some(index);
        }
        let Some(last) = last else { return false };
        for index in 0..=last {
            let Some(piece) = self.pieces.get(index) else { break };
            let Some(stream) = self.streams.get(&piece.stream) else { continue };
            let gone = match piece.what {
                What::Gone => false,
                What::Eof => index < last,
                _ => stream.name == *name,
            };
            if gone {
                self.free(index);
                news = true;
            }
        }
        self.drop_gone();
        news
    }

    fn drop_gone(&mut self) {
        while let Some(Piece { what: What::Gone, .. }) = self.pieces.front() {
            self.pieces.pop_front();
            self.first += 1;
        }
        self.cursor = self.cursor.max(self.first);
        self.spill_from = self.spill_from.max(self.first);
    }

    /// What should go to disk now, about `most` bytes of it; nothing when there is no need or no
    /// room. Write it, then say [`Spool::spilled`].
    pub(crate) fn spill(&mut self, most: usize) -> Vec<Spill> {
        let mut spills = Vec::new();
        let mut taken = 0;
        self.spill_from = self.spill_from.max(self.cursor);
        while taken < most && self.memory.saturating_sub(taken) > self.bounds.memory {
            let index = (self.spill_from - self.first) as usize;
            let Some(piece) = self.pieces.get_mut(index) else { break };
            let bytes = match &mut piece.what {
                What::Open(bytes) => Bytes::from(std::mem::take(bytes)),
                What::Memory(bytes) => bytes.clone(),
                _ => {
                    self.spill_from += 1;
                    continue;
                }
            };
            piece.what = What::Memory(bytes.clone());
            if self.disk + bytes.len() as u64 > self.bounds.disk {
                break;
            }
            if self.write_position >= self.bounds.segment {
                self.write_segment += 1;
                self.write_position = 0;
            }
            self.disk += bytes.len() as u64;
            taken += bytes.len();
            *self.segments.entry(self.write_segment).or_default() += 1;
            let (segment, position) = (self.write_segment, self.write_position);
            self.write_position += bytes.len() as u64;
            spills.push(Spill { piece: self.spill_from, segment, position, data: bytes.clone() });
            piece.what = What::Writing(bytes);
            self.spill_from += 1;
        }
        spills
    }

    /// The outcome of a spill. After a failure the bytes stay in memory, and so the host waits.
    pub(crate) fn spilled(&mut self, spills: Vec<Spill>, written: bool) {
        self.disk_failed = !written;
        for Spill { piece, segment, position, data } in spills {
            let len = data.len();
            let place = piece.checked_sub(self.first).and_then(|i| self.pieces.get_mut(i as usize));
            match place {
                Some(piece) if matches!(piece.what, What::Writing(_)) && written => {
                    piece.what = What::Disk { segment, position, len };
                    self.memory -= len;
                }
                Some(piece) if matches!(piece.what, What::Writing(_)) => {
                    piece.what = What::Memory(data);
                    self.release_disk(segment, len);
                    self.spill_from = self.spill_from.min(self.first);
                }
                // Acknowledged meanwhile.
                _ => self.release_disk(segment, len),
            }
        }
    }

    /// Whether the disk refused the last write.
    pub(crate) fn disk_failed(&self) -> bool {
        self.disk_failed
    }

    /// Segment files that are of no use any more.
    pub(crate) fn finished(&mut self) -> Vec<u64> {
        std::mem::take(&mut self.finished)
    }

    fn stream(&mut self, name: &LogStream) -> StreamNumber {
        if let Some(number) = self.by_name.get(name) {
            return *number;
        }
        let number = self.next_stream;
        self.next_stream += 1;
        self.by_name.insert(name.clone(), number);
        let stream = Stream { name: name.clone(), next: 0, through: 0, pieces: 0, ended: false };
        self.streams.insert(number, stream);
        number
    }

    fn add(&mut self, number: StreamNumber, offset: u64, what: What) {
        if let Some(stream) = self.streams.get_mut(&number) {
            stream.pieces += 1;
        }
        self.pieces.push_back(Piece { stream: number, offset, what });
    }

    fn free(&mut self, index: usize) {
        let Some(piece) = self.pieces.get_mut(index) else { return };
        let number = piece.stream;
        match std::mem::replace(&mut piece.what, What::Gone) {
            What::Open(bytes) => self.memory -= bytes.len(),
            // What is being written gives its place on disk back when the write is done.
            What::Memory(bytes) | What::Writing(bytes) => self.memory -= bytes.len(),
            What::Disk { segment, len, .. } => self.release_disk(segment, len),
            What::Gap(_) | What::Eof | What::Gone => {}
        }
        if let Some(stream) = self.streams.get_mut(&number) {
            stream.pieces -= 1;
            if stream.ended && stream.pieces == 0 {
                self.streams.remove(&number);
            }
        }
    }

    fn release_disk(&mut self, segment: u64, len: usize) {
        self.disk -= len as u64;
        if let Some(alive) = self.segments.get_mut(&segment) {
            *alive -= 1;
            if *alive == 0 {
                self.segments.remove(&segment);
                self.finished.push(segment);
                if segment == self.write_segment {
                    // Its file goes; the next bytes start another.
                    self.write_segment += 1;
                    self.write_position = 0;
                }
            }
        }
    }
}

#[cfg(test)]
#[path = "spool_tests.rs"]
mod tests;
