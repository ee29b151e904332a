//! What an Overseer says of itself: counters, gauges and histograms, as Prometheus reads them.
//!
//! Each [`ControlPlane`](crate::ControlPlane) counts for itself; there is no global registry.
//! What is counted on the way of calls, telemetry and logs is one atomic addition; whatever can be
//! looked up (labors by state, depths of queues) is looked up when somebody asks. No label names a
//! labor or a task, so the number of samples is bounded by the number of fleets.
//!
//! The text is written here, for `prometheus-client` writes OpenMetrics only, leaves label values
//! unescaped, and locks at each observation.

mod collect;
mod counts;
mod fleet;
mod histogram;
mod page;
mod plane;
mod process;
mod store;
mod table;

pub use self::histogram::{Histogram, Observed};
pub use self::page::{Family, Format, Kind, Page};
pub use self::table::{Described, METRICS, markdown};

pub(crate) use self::collect::{StoreNow, collect};
pub(crate) use self::counts::Counts;
pub(crate) use self::fleet::{FleetMetrics, Stage, one};
pub(crate) use self::plane::{LogMetrics, PlaneMetrics};
pub(crate) use self::store::StoreMetrics;
