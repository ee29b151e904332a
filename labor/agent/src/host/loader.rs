#![allow(unsafe_code)]

use std::path::Path;

use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};
use overseer_plugin::abi::{AbiError, Guest, PluginTable, SYMBOL};

/// Why a library is no plugin.
#[derive(Debug, thiserror::Error)]
pub(super) enum LoadError {
    #[error("cannot load {file}: {reason}; build it as a cdylib for {arch} with what this machine has")]
    Library { file: String, reason: String, arch: &'static str },
    #[error("{file} exports no {SYMBOL}: {reason}; put export_plugin!(YourPlugin) into it")]
    Symbol { file: String, reason: String },
    #[error("{file} {error}")]
    Abi { file: String, error: AbiError },
}

/// Loads a plugin's library. It is never unloaded: its threads and thread-locals would be left
/// without code.
pub(super) fn load(library: &Path) -> Result<Guest, LoadError> {
    let file = library.display().to_string();
    // SAFETY: runs the library's initializers. It is the release's own code, which is verified
    // and runs in this process anyhow.
    let loaded = unsafe { Library::open(Some(library), RTLD_NOW | RTLD_LOCAL) }.map_err(|error| {
        LoadError::Library { file: file.clone(), reason: said(&error), arch: std::env::consts::ARCH }
    })?;
    // SAFETY: the symbol has this type in every version of the ABI.
    let symbol = unsafe { loaded.get::<extern "C" fn() -> *const PluginTable>(SYMBOL.as_bytes()) };
    let table = symbol.map_err(|error| LoadError::Symbol { file: file.clone(), reason: said(&error) })?;
    let table = table();
    std::mem::forget(loaded);
    // SAFETY: from the symbol of a library that stays.
    unsafe { Guest::from_raw(table) }.map_err(|error| LoadError::Abi { file, error })
}

/// The linker's own words are in the source of the loader's error.
fn said(error: &libloading::Error) -> String {
    std::error::Error::source(error).map_or_else(|| error.to_string(), ToString::to_string)
}
