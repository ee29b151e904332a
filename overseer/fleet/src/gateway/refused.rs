use std::time::Instant;

use tonic::Status;

use super::Gateway;
use crate::door::Place;

impl Gateway {
    /// What a stranger who was refused is told: why, or to come again later where too many have
    /// failed there, or in all. Then his connection ends, and the log is spared.
    pub(super) fn refused(
        &self,
        place: Option<&Place>,
        refusal: Status,
        log: impl FnOnce(&Status),
    ) -> Status {
        let Some(place) = place else {
            log(&refusal);
            return refusal;
        };
        let Some(wait) = self.failures.lock().failed(place.source(), Instant::now()) else {
            log(&refusal);
            return refusal;
        };
        place.failed();
        let seconds = wait.as_secs() + 1;
        Status::resource_exhausted(format!("too many requests have failed; try again in {seconds} s"))
    }
}
