//! A server and its labors under load and under faults of every kind, for as long as one likes, with
//! the books kept by somebody else: what was acknowledged, what happened, what is left.

mod books;
mod faults;
mod link;
mod run;
mod server;

pub use self::books::Report;
pub use self::run::{Options, run};
pub use self::server::serve;
