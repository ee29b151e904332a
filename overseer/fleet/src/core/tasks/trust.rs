use overseer_protocol::ReleaseId;

use crate::core::{UpgradeStage, UpgradeStatus};

/// How far the release is trusted that an attempt ran on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Trust {
    /// What it answers is so; also of a release of which nothing is known.
    #[default]
    Full,
    /// The fleet is changing to it, and may yet go back.
    OnTrial(ReleaseId),
    /// The fleet goes back from it, or has.
    TakenBack(ReleaseId),
}

impl Trust {
    /// As the upgrade says that is on its way, or was the last one.
    pub fn of(release: ReleaseId, upgrade: &UpgradeStatus) -> Self {
        match upgrade.stage {
            _ if upgrade.to != Some(release) => Self::Full,
            UpgradeStage::Canary | UpgradeStage::Rolling | UpgradeStage::Watching => Self::OnTrial(release),
            UpgradeStage::GoingBack(_) | UpgradeStage::RolledBack(_) => Self::TakenBack(release),
            UpgradeStage::Done => Self::Full,
        }
    }
}

#[cfg(test)]
mod tests {
    use overseer_protocol::Cause;

    use super::*;

    #[test]
    fn a_release_is_on_trial_until_its_upgrade_is_over() {
        let [old, new] = [b"old", b"new"].map(|index| ReleaseId::of_index(index));
        let status = |stage| UpgradeStatus { from: Some(old), to: Some(new), stage, changed: 1, labors: 2 };
        let trust = |stage| Trust::of(new, &status(stage));
        assert_eq!(trust(UpgradeStage::Canary), Trust::OnTrial(new));
        assert_eq!(trust(UpgradeStage::Watching), Trust::OnTrial(new));
        assert_eq!(trust(UpgradeStage::GoingBack(Cause::Asked)), Trust::TakenBack(new));
        assert_eq!(trust(UpgradeStage::RolledBack(Cause::Asked)), Trust::TakenBack(new));
        assert_eq!(trust(UpgradeStage::Done), Trust::Full);
        assert_eq!(Trust::of(old, &status(UpgradeStage::Canary)), Trust::Full);
    }
}
