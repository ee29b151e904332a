//! Changing the release of a fleet that runs.

use std::sync::Arc;

use overseer_protocol::{Cause, ReleaseId};
use overseer_release::PackageError;
use parking_lot::RwLock;
use tokio::sync::watch;

use super::{FleetHandle, FleetMessage, FleetShared, Stopped};
use crate::core::{NoUpgrade, UpgradeOptions, UpgradeStage, UpgradeStatus};
use crate::release::Release;

/// Why no upgrade begins. Nothing has changed.
#[derive(Debug, thiserror::Error)]
pub enum UpgradeError {
    /// Another one is on its way, or there is nothing to change.
    #[error(transparent)]
    No(#[from] NoUpgrade),
    /// No copy could be taken of the release.
    #[error(transparent)]
    Release(#[from] PackageError),
    /// The release is for other machines than the fleet has.
    #[error("the release is for {target}, and the fleet has machines of {machines}; pack it for those")]
    OtherTarget {
        /// The triple of the release.
        target: String,
        /// What the fleet's are.
        machines: String,
    },
    /// An option that cannot work.
    #[error("option {option}: must be at most 100, as it is in percent")]
    Percent {
        /// Which.
        option: &'static str,
    },
    /// The fleet has stopped.
    #[error(transparent)]
    Stopped(#[from] Stopped),
}

impl UpgradeError {
    /// Stable code, as ERRORS.md lists it.
    pub fn code(&self) -> &'static str {
        match self {
            Self::No(error) => error.code(),
            Self::Release(error) => error.code(),
            Self::OtherTarget { .. } => "upgrade.other_target",
            Self::Percent { .. } => "upgrade.option",
            Self::Stopped(error) => error.code(),
        }
    }
}

/// Why an upgrade that began has not come to its end.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotUpgraded {
    /// The fleet runs the release before again.
    #[error("the fleet runs the release before again: {cause}")]
    RolledBack {
        /// What the new one did not do well.
        cause: Cause,
    },
    /// The fleet has stopped meanwhile.
    #[error(transparent)]
    Stopped(#[from] Stopped),
}

impl NotUpgraded {
    /// Stable code, as ERRORS.md lists it.
    pub fn code(&self) -> &'static str {
        match self {
            Self::RolledBack { .. } => "upgrade.rolled_back",
            Self::Stopped(error) => error.code(),
        }
    }
}

/// An upgrade that has begun. It goes on when this is dropped. Cheap to clone.
#[derive(Clone)]
pub struct Upgrading {
    status: watch::Receiver<UpgradeStatus>,
    shared: Arc<FleetShared>,
}

impl Upgrading {
    /// How far it is.
    pub fn status(&self) -> UpgradeStatus {
        self.status.borrow().clone()
    }

    /// Waits until it is further than it was when this or [`Upgrading::status`] was last asked.
    ///
    /// # Errors
    /// The fleet has stopped, or the upgrade is over and this has been told.
    pub async fn changed(&mut self) -> Result<UpgradeStatus, Stopped> {
        tokio::select! {
            biased;
            changed = self.status.changed() => changed.map_err(|_| Stopped)?,
            () = self.shared.over.cancelled() => return Err(Stopped),
        }
        Ok(self.status.borrow_and_update().clone())
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// [`NotUpgraded`].
    pub async fn done(mut self) -> Result<(), NotUpgraded> {
        loop {
            match self.status.borrow_and_update().stage.clone() {
                UpgradeStage::Done => return Ok(()),
                UpgradeStage::RolledBack(cause) => return Err(NotUpgraded::RolledBack { cause }),
                _ => {}
            }
            self.changed().await?;
        }
    }
}

/// What the fleet's actor is asked.
pub(crate) struct Upgrade {
    pub(crate) release: Option<Release>,
    pub(crate) options: UpgradeOptions,
}

impl FleetHandle {
    /// Changes the release of all labors while they are called: on each the new one starts beside the
    /// old one and takes the calls that come from then on, the old one finishes what it has and goes.
    /// A tenth of the labors change first; if those, and in the end all, do well for
    /// [a while](UpgradeOptions::watch), that was it, else all go back by themselves.
    ///
    /// ```no_run
    /// # use overseer::{Fleet, Release};
    /// # async fn example(fleet: &Fleet) -> Result<(), Box<dyn std::error::Error>> {
    /// let release = Release::plugin_beside_program("hello", "2.0.0")?;
    /// fleet.upgrade(release).await?.done().await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`UpgradeError`]; nothing has changed.
    pub async fn upgrade(&self, release: Release) -> Result<Upgrading, UpgradeError> {
        self.upgrade_with(Some(release), UpgradeOptions::default()).await
    }

    /// As [`FleetHandle::upgrade`], with these options; without a release the labors become empty.
    /// The labors must trust who has signed it: they know the keys that the fleet was started with.
    ///
    /// # Errors
    /// [`UpgradeError`]; nothing has changed.
    pub async fn upgrade_with(
        &self,
        release: Option<Release>,
        options: UpgradeOptions,
    ) -> Result<Upgrading, UpgradeError> {
        for (option, percent) in [("canary", options.canary), ("error_budget", options.error_budget)] {
            if percent > 100 {
                return Err(UpgradeError::Percent { option });
            }
        }
        let release = match release {
            Some(release) => {
                self.check_target(&release)?;
                Some(self.shared.kept.keep(&release).await?)
            }
            None => None,
        };
        let upgrade = Upgrade { release, options };
        let status = self.ask(|reply| FleetMessage::Upgrade(Box::new(upgrade), reply)).await??;
        Ok(Upgrading { status, shared: Arc::clone(&self.shared) })
    }

    /// The upgrade that is on its way, or the last one.
    pub fn upgrading(&self) -> Option<Upgrading> {
        let status = self.shared.upgrade.lock().as_ref().map(watch::Sender::subscribe)?;
        Some(Upgrading { status, shared: Arc::clone(&self.shared) })
    }

    /// What the fleet runs; none: its labors are empty.
    pub fn release(&self) -> Option<Release> {
        self.shared.releases.present()
    }

    /// Every labor has said what kind of machine it is on.
    fn check_target(&self, release: &Release) -> Result<(), UpgradeError> {
        let target = &release.manifest().target;
        let other = |machines: &str| UpgradeError::OtherTarget {
            target: target.clone(),
            machines: machines.to_owned(),
        };
        if let Some(present) = self.release().filter(|present| present.manifest().target != *target) {
            return Err(other(&present.manifest().target));
        }
        let arch = target.split('-').next().unwrap_or_default();
        let facts = self.which_children().into_iter().filter_map(|labor| labor.facts());
        facts.into_iter().find(|facts| facts.arch != arch).map_or(Ok(()), |facts| Err(other(&facts.arch)))
    }
}

/// The releases that the labors of a fleet may fetch: what it runs, and what it changes to.
pub(crate) struct Releases(RwLock<Inner>);

struct Inner {
    present: Option<Release>,
    next: Option<Release>,
}

impl Releases {
    pub(crate) fn new(present: Option<Release>) -> Self {
        Self(RwLock::new(Inner { present, next: None }))
    }

    pub(crate) fn present(&self) -> Option<Release> {
        self.0.read().present.clone()
    }

    /// The one of this id, as it is written.
    pub(crate) fn find(&self, id: &str) -> Option<Release> {
        let inner = self.0.read();
        let found = [&inner.present, &inner.next].into_iter().flatten().find(|r| r.id().to_string() == id);
        found.cloned()
    }

    pub(super) fn begin(&self, next: Option<Release>) {
        self.0.write().next = next;
    }

    /// An upgrade is over, and the fleet runs this.
    pub(super) fn settle(&self, runs: Option<ReleaseId>) {
        let mut inner = self.0.write();
        let next = inner.next.take();
        if inner.present.as_ref().map(Release::id) != runs {
            inner.present = next;
        }
    }
}
