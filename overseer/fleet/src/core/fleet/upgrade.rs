//! Labors that change their release while they are ready.

use std::collections::btree_map::Entry;

use overseer_protocol::{BootPhase, Cause, LaborId, ReleaseId};

use super::{FleetCore, Labor, Phase};
use crate::core::rollout::Rollout;
use crate::core::{Effect, Life, Millis, Tally, UpgradeOptions, UpgradeStage, UpgradeStatus};

/// Why no upgrade begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoUpgrade {
    /// Another one is on its way.
    #[error("the fleet is being upgraded already; wait for that to end")]
    Upgrading,
    /// It is what the fleet runs.
    #[error("the fleet runs this release already; give another one")]
    Same,
}

impl NoUpgrade {
    /// Stable code, as ERRORS.md lists it.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Upgrading => "upgrade.running",
            Self::Same => "upgrade.same_release",
        }
    }
}

impl FleetCore {
    /// What labors run; none: they are empty.
    pub fn release(&self) -> Option<ReleaseId> {
        self.release
    }

    /// What labors are to run from the start.
    #[must_use]
    pub fn running(mut self, release: Option<ReleaseId>) -> Self {
        self.release = release;
        self
    }

    /// What a labor is to run; none: nothing, or there is no such labor.
    pub fn target(&self, labor: LaborId) -> Option<ReleaseId> {
        self.labors.get(&labor).and_then(|labor| labor.target)
    }

    /// Begins to change the release of all labors: how it stands then, and what is to be done.
    /// [`Effect::Upgraded`] is its end.
    ///
    /// # Errors
    /// [`NoUpgrade`]; nothing has changed.
    pub fn upgrade(
        &mut self,
        now: Millis,
        to: Option<ReleaseId>,
        options: UpgradeOptions,
    ) -> Result<(UpgradeStatus, Vec<Effect>), NoUpgrade> {
        if self.rollout.is_some() {
            return Err(NoUpgrade::Upgrading);
        }
        if to == self.release {
            return Err(NoUpgrade::Same);
        }
        let rollout = Rollout::new(self.release, to, options);
        let begun = self.status_of(&rollout);
        self.rollout = Some(rollout);
        let mut out = vec![Effect::Upgrading(begun.clone())];
        self.roll(now, &mut out);
        Ok((begun, out))
    }

    /// The upgrade that is on its way.
    pub fn upgrade_status(&self) -> Option<UpgradeStatus> {
        self.rollout.as_ref().map(|rollout| self.status_of(rollout))
    }

    fn status_of(&self, rollout: &Rollout) -> UpgradeStatus {
        let (changed, labors) = (self.changed_to(rollout.to), self.labors.len());
        UpgradeStatus { from: rollout.from, to: rollout.to, stage: rollout.stage.clone(), changed, labors }
    }

    /// How many labors are ready and run this.
    fn changed_to(&self, release: Option<ReleaseId>) -> usize {
        self.labors.values().filter(|labor| labor.is_ready() && labor.runs == release).count()
    }

    /// A labor that is new here, with what it is to run.
    pub(super) fn new_labor(&self, now: Millis, life: Life, phase: Phase) -> Labor {
        let target = self.rollout.as_ref().map_or(self.release, Rollout::for_new);
        Labor { target, ..Labor::new(life, phase, now) }
    }

    /// Whether a labor that attaches and runs this may be called.
    pub(super) fn may_run(&self, target: Option<ReleaseId>, runs: Option<ReleaseId>) -> bool {
        runs == target || self.rollout.as_ref().is_some_and(|rollout| rollout.knows(runs))
    }

    /// A ready labor has another release up.
    pub(super) fn changed(
        &mut self,
        now: Millis,
        life: Life,
        release: Option<ReleaseId>,
        out: &mut Vec<Effect>,
    ) {
        let Some(labor) = self.labors.get_mut(&life.labor) else { return };
        let Phase::Ready { session } = labor.phase else { return };
        if labor.runs != release {
            labor.runs = release;
            out.push(Effect::Changed(life, session));
        }
        let target = labor.target;
        match &mut self.rollout {
            Some(rollout) if release == target => rollout.changed(now, life.labor),
            // It was told to before it was lost, and what it was told is no longer so.
            None if release != target => out.push(Effect::Load(life, session, target)),
            _ => {}
        }
        self.roll(now, out);
    }

    /// An order to load came to nothing. What ran before runs on.
    pub(super) fn not_loaded(
        &mut self,
        now: Millis,
        life: Life,
        release: Option<ReleaseId>,
        cause: Cause,
        out: &mut Vec<Effect>,
    ) {
        let Some(labor) = self.labors.get(&life.labor) else { return };
        let (ready, runs, target) = (labor.is_ready(), labor.runs, labor.target);
        // Of an order that another one has followed, or of what is up all the same.
        if release != target || (ready && runs == target) {
            return;
        }
        match &self.rollout {
            Some(rollout) if !rollout.goes_back() && rollout.to == release => self.go_back(now, cause, out),
            _ => self.give_up(now, life, cause, out),
        }
    }

    /// The plugin host of a ready labor has ended by itself.
    pub(super) fn host_ended(
        &mut self,
        now: Millis,
        release: Option<ReleaseId>,
        cause: &Cause,
        out: &mut Vec<Effect>,
    ) {
        let new = self.rollout.as_ref().is_some_and(|rollout| rollout.to == release && !rollout.goes_back());
        if new && !cause.is_normal() {
            self.go_back(now, cause.clone(), out);
        }
    }

    /// So many answers came from the new release and the one before since the upgrade began.
    pub(super) fn answers(
        &mut self,
        now: Millis,
        new: Tally,
        before: Tally,
        error: Option<&str>,
        out: &mut Vec<Effect>,
    ) {
        let forward = self.rollout.as_ref().filter(|rollout| !rollout.goes_back());
        if let Some(cause) = forward.and_then(|rollout| rollout.over_budget(new, before, error)) {
            self.go_back(now, cause, out);
        }
    }

    /// The new release does not do well: every labor is to run the one before again.
    fn go_back(&mut self, now: Millis, cause: Cause, out: &mut Vec<Effect>) {
        let by = now + self.time_to_change();
        let Some(rollout) = &mut self.rollout else { return };
        rollout.stage = UpgradeStage::GoingBack(cause);
        rollout.watched_until = None;
        let from = rollout.from;
        // They may not have changed yet, and do not any more.
        rollout.settling.clear();
        let told = std::mem::take(&mut rollout.changing);
        for labor in told.into_keys().filter_map(|labor| self.labors.get(&labor)) {
            if let Phase::Ready { session } = labor.phase {
                rollout.changing.insert(labor.id, by);
                out.push(Effect::Load(labor.life(), session, from));
            }
        }
        out.extend(self.upgrade_status().map(Effect::Upgrading));
        let mut loading = Vec::new();
        for labor in self.labors.values_mut().filter(|labor| labor.target != from) {
            labor.target = from;
            if let Phase::Loading { session } | Phase::Loaded { session } = labor.phase {
                loading.push((labor.life(), session));
            }
        }
        for (life, session) in loading {
            self.enter(now, life, Phase::Loading { session }, None, out);
            out.push(Effect::Load(life, session, from));
        }
        self.roll(now, out);
    }

    /// Takes the upgrade as far as it can go now.
    pub(super) fn roll(&mut self, now: Millis, out: &mut Vec<Effect>) {
        while self.rollout.is_some() && self.roll_once(now, out) {}
    }

    /// Whether there is more to do at once.
    fn roll_once(&mut self, now: Millis, out: &mut Vec<Effect>) -> bool {
        let Some(mut rollout) = self.rollout.take() else { return false };
        let before = rollout.stage.name();
        self.choose(&rollout);
        self.order_changes(now, &mut rollout, out);
        let more = self.next_stage(now, &mut rollout);
        if rollout.stage.is_over() {
            let status = self.status_of(&rollout);
            self.release = if status.stage == UpgradeStage::Done { rollout.to } else { rollout.from };
            out.push(Effect::Upgraded(status));
        } else {
            if rollout.stage.name() != before {
                out.push(Effect::Upgrading(self.status_of(&rollout)));
            }
            self.rollout = Some(rollout);
        }
        more
    }

    /// Which labors are to run the new release at this stage. One that is not ready changes when it
    /// is, or begins with it.
    fn choose(&mut self, rollout: &Rollout) {
        let wanted = rollout.wanted(self.labors.len());
        let mut chosen = self.labors.values().filter(|labor| labor.target == rollout.to).count();
        let all = wanted == self.labors.len();
        for labor in self.labors.values_mut().filter(|labor| labor.target != rollout.to) {
            if chosen >= wanted {
                break;
            }
            // One that loads ends that first.
            let loads = matches!(labor.phase, Phase::Loading { .. } | Phase::Loaded { .. });
            if labor.is_ready() || (all && !loads) {
                labor.target = rollout.to;
                chosen += 1;
            }
        }
    }

    /// Tells labors to change, not too many at a time.
    fn order_changes(&mut self, now: Millis, rollout: &mut Rollout, out: &mut Vec<Effect>) {
        let by = now + self.time_to_change();
        let at_once = rollout.at_once(self.labors.len());
        // One that is not ready any more changes when it is ready again.
        rollout.changing.retain(|labor, _| self.labors.get(labor).is_some_and(Labor::is_ready));
        for labor in self.labors.values().filter(|labor| labor.runs != labor.target) {
            let Phase::Ready { session } = labor.phase else { continue };
            if rollout.taken(now) >= at_once {
                break;
            }
            if let Entry::Vacant(place) = rollout.changing.entry(labor.id) {
                place.insert(by);
                out.push(Effect::Load(labor.life(), session, labor.target));
            }
        }
    }

    /// Whether a stage is over, and the next one has something to do.
    fn next_stage(&self, now: Millis, rollout: &mut Rollout) -> bool {
        let mut ready = self.labors.values().filter(|labor| labor.is_ready());
        let settled = rollout.taken(now) == 0 && ready.all(|labor| labor.runs == labor.target);
        if let UpgradeStage::GoingBack(cause) = &rollout.stage {
            if settled {
                rollout.stage = UpgradeStage::RolledBack(cause.clone());
            }
            return false;
        }
        let changed = self.changed_to(rollout.to);
        let enough = match rollout.stage {
            UpgradeStage::Canary => changed >= rollout.wanted(self.labors.len()),
            _ => self.labors.values().all(|labor| labor.target == rollout.to),
        };
        if !settled || !enough {
            rollout.watched_until = None;
            return false;
        }
        match rollout.stage {
            UpgradeStage::Rolling => rollout.stage = UpgradeStage::Watching,
            UpgradeStage::Canary | UpgradeStage::Watching => {}
            _ => return false,
        }
        // Nobody is there to be watched where no labor has changed.
        let watch = if changed == 0 { 0 } else { rollout.options.watch.as_millis() as u64 };
        if now < *rollout.watched_until.get_or_insert(now + watch) {
            return false;
        }
        rollout.watched_until = None;
        let first = rollout.stage == UpgradeStage::Canary;
        rollout.stage = if first { UpgradeStage::Rolling } else { UpgradeStage::Done };
        first
    }

    /// What the clock brings to an upgrade.
    pub(super) fn upgrade_due(&mut self, now: Millis, out: &mut Vec<Effect>) {
        let Some(rollout) = &self.rollout else { return };
        let late = rollout.changing.iter().find(|(_, by)| **by <= now).map(|(labor, _)| *labor);
        match late {
            Some(labor) if rollout.goes_back() => self.stays_behind(now, labor, out),
            Some(_) => self.go_back(now, self.too_late(), out),
            None => self.roll(now, out),
        }
    }

    /// It cannot go back: another life of it can.
    fn stays_behind(&mut self, now: Millis, labor: LaborId, out: &mut Vec<Effect>) {
        let Some(life) = self.labors.get(&labor).map(Labor::life) else { return };
        self.give_up(now, life, self.too_late(), out);
        self.roll(now, out);
    }

    /// How long a labor may take to change, in milliseconds.
    fn time_to_change(&self) -> Millis {
        (self.options.deadlines.load + self.options.deadlines.start).as_millis() as u64
    }

    fn too_late(&self) -> Cause {
        Cause::BootTimeout { phase: BootPhase::Load, after_ms: self.time_to_change() }
    }
}
