//! The SDK of a release's author: trait Plugin, the export macro, the C ABI.
//!
//! A release is a library of crate type `cdylib` with a [`Plugin`] and [`export_plugin!`], or a
//! program that calls [`serve`]. Either runs in a process of its own, the plugin host, so a crash
//! is an event with a cause and not the loss of a node. [`Methods`] gives calls types;
//! [`testing`] runs a plugin's code without an agent.
//!
//! | to change | look at |
//! |---|---|
//! | what crosses the library's border | [`abi`]: both sides, and all `unsafe` |
//! | what crosses the agent's socket | [`frame`], and [`record`] for telemetry |
//! | which thread does what | `host`, `turns` |
//! | what is written when, and what is dropped | `outbox` |

pub mod abi;
pub mod codec;
mod context;
mod error;
pub mod frame;
pub mod handover;
pub mod host;
mod instance;
mod link;
mod methods;
mod outbox;
mod pace;
mod panics;
mod plugin;
pub mod record;
mod status;
pub mod testing;
mod turns;

pub use abi::ABI_MAJOR;
pub use context::{BlobRef, CallContext, StartContext};
pub use error::{ErrorKind, PluginError};
pub use host::serve;
pub use methods::Methods;
pub use plugin::Plugin;
pub use status::Status;

/// Exports a [`Plugin`] from a library of crate type `cdylib`, as the one symbol that a plugin
/// host looks for. Once in a library.
#[macro_export]
macro_rules! export_plugin {
    ($plugin:ty) => {
        #[allow(unsafe_code)]
        const _: () = {
            /// The plugin's table, for the plugin host.
            #[unsafe(no_mangle)]
            pub extern "C" fn overseer_plugin() -> *const $crate::abi::PluginTable {
                $crate::abi::table::<$plugin>()
            }
        };
    };
}
