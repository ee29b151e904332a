//! Releases in the world of tasks: nodes change to one that is on trial, which fails what it is given or
//! not, and is kept or taken back. No task is charged for what such a release did, but for one that has
//! failed it before.

use super::*;

#[derive(Debug, Default)]
pub(super) struct Releases {
    /// The newest one that was tried, and whether it was taken back. The server knows; none where it was
    /// kept, or where that server is gone.
    newest: Option<(ReleaseId, bool)>,
    tried: u8,
    /// Those that fail all that they are given.
    bad: BTreeSet<ReleaseId>,
    /// Which attempt was the first that a release on trial has failed.
    first: BTreeMap<(TaskId, ReleaseId), Attempt>,
    /// Attempts that may be charged.
    may_charge: BTreeMap<TaskId, BTreeSet<Attempt>>,
}

impl World {
    pub(super) fn begin_trial(&mut self) {
        if let None | Some((_, true)) = self.releases.newest {
            self.releases.tried += 1;
            let release = ReleaseId::of_index(&[self.releases.tried]);
            self.releases.newest = Some((release, false));
            if self.roll(4) > 0 {
                self.releases.bad.insert(release);
            }
        }
    }

    pub(super) fn end_trial(&mut self) {
        if let Some((release, false)) = self.releases.newest {
            let kept = self.roll(4) == 0;
            self.count(if kept { "release kept" } else { "release taken back" });
            self.releases.newest = (!kept).then_some((release, true));
        }
    }

    /// What a server that starts knows of releases.
    pub(super) fn forget_trials(&mut self) {
        self.releases.newest = None;
    }

    /// A node does as it is told: what begins on it from now on runs on another release.
    pub(super) fn change_release(&mut self, labor: LaborId) {
        let Some(node) = self.nodes.get_mut(&labor) else { return };
        node.release = match self.releases.newest {
            Some((release, false)) => Some(release),
            Some((_, true)) => None,
            None => node.release,
        };
    }

    pub(super) fn is_bad(&self, release: Option<ReleaseId>) -> bool {
        release.is_some_and(|release| self.releases.bad.contains(&release))
    }

    fn trust(&self, release: Option<ReleaseId>) -> Trust {
        match (release, self.releases.newest) {
            (Some(release), Some((of, taken_back))) if of == release => match taken_back {
                true => Trust::TakenBack(release),
                false => Trust::OnTrial(release),
            },
            _ => Trust::Full,
        }
    }

    /// The server hears of the end of an attempt.
    pub(super) fn hear_answer(
        &mut self,
        life: Life,
        (task, attempt): (TaskId, Attempt),
        end: Result<Content, AttemptEnd>,
        release: Option<ReleaseId>,
    ) {
        let trust = self.trust(release);
        let first = |world: &mut Self, release| {
            *world.releases.first.entry((task, release)).or_insert(attempt) == attempt
        };
        let may_charge = match trust {
            Trust::Full => true,
            Trust::OnTrial(release) => !first(self, release),
            Trust::TakenBack(_) => false,
        };
        match end.is_err() {
            true if may_charge => self.may_charge(task, attempt),
            true => self.count("spared"),
            false => {}
        }
        self.event(TaskEvent::Answered { life, task, attempt, end, trust });
    }

    fn may_charge(&mut self, task: TaskId, attempt: Attempt) {
        self.releases.may_charge.entry(task).or_default().insert(attempt);
    }

    /// Time passes; an attempt that is not answered in time is charged without a word of its labor.
    pub(super) fn tick(&mut self) {
        let charged = |world: &Self| -> BTreeMap<TaskId, (u32, u32)> {
            let ids = (1..=world.submitted).map(TaskId);
            ids.filter_map(|id| world.core.get(id).map(|r| (id, (r.charged, r.attempts)))).collect()
        };
        let before = charged(self);
        self.event(TaskEvent::Tick);
        for (task, (after, attempt)) in charged(self) {
            if before.get(&task).is_some_and(|(before, _)| *before < after) {
                self.may_charge(task, Attempt(attempt));
            }
        }
    }

    pub(super) fn check_charged(&self, record: &TaskRecord) {
        // One that may run once only is not tried again, whatever failed it.
        if record.retry.on_loss {
            let most = self.releases.may_charge.get(&record.task).map_or(0, BTreeSet::len);
            assert!(record.charged as usize <= most, "{most} at most: {record:?}");
        }
    }
}
