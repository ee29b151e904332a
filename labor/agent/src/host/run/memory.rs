//! Which of the programs that run at once was killed for memory.

use parking_lot::Mutex;

use super::super::isolation::Kills;

/// What the group of a host counts, told to its programs one by one.
pub(super) struct Memory {
    kills: Option<Kills>,
    /// Of those counted, how many a program was told of.
    told: Mutex<u64>,
}

/// What was counted when a program began.
#[derive(Debug, Clone, Copy)]
pub(super) struct Before(u64);

impl Memory {
    pub(super) fn new(kills: Option<Kills>) -> Self {
        Self { kills, told: Mutex::new(0) }
    }

    /// To be asked before a program starts.
    pub(super) fn before(&self) -> Before {
        Before(self.count())
    }

    /// Whether a program that was killed, and not by us, was killed for memory: one that nobody else was
    /// told of has been counted since it began.
    pub(super) fn took(&self, before: Before) -> bool {
        let mut told = self.told.lock();
        *told = before.0.max(*told);
        let more = self.count() > *told;
        *told += u64::from(more);
        more
    }

    fn count(&self) -> u64 {
        self.kills.as_ref().map_or(0, Kills::count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kill_is_told_to_one_program_that_ran_then() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let counted = |kills: u64| std::fs::write(file.path(), format!("oom_kill {kills}\n")).unwrap();
        counted(2);
        let memory = Memory::new(Some(Kills::at(file.path())));
        let (first, second) = (memory.before(), memory.before());
        assert!(!memory.took(first), "those were others");
        counted(3);
        assert!(memory.took(second));
        assert!(!memory.took(first), "it was killed for something else");
        // A child of a program, say, which ended as it should all the same.
        counted(4);
        assert!(!memory.took(memory.before()));
        counted(6);
        assert!(memory.took(first) && memory.took(second) && !memory.took(second));
        assert!(!Memory::new(None).took(Memory::new(None).before()));
    }
}
