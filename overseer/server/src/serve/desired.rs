//! What somebody has said by hand that a fleet should be; it goes before the configuration and
//! outlives the server.

use overseer::FleetName;
use overseer::keyspace::{Kind, Value};
use overseer::store::{Entry, Store, StoreError, Transaction};
use serde::{Deserialize, Serialize};

use crate::exit::Exit;
use crate::failure::Failure;

/// JSON under `desired/FLEET`; a fleet without it is as its configuration says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub(crate) enum Desired {
    /// It runs with so many labors.
    Running {
        /// How many.
        labors: u32,
    },
    /// It does not run.
    Stopped,
}

/// For a check of the store.
pub(crate) const KIND: Kind = Kind {
    name: "fleets by hand",
    prefix: "desired/",
    form: "desired/FLEET",
    value: "JSON: what was said by hand",
    read: read_stored,
};

fn read_stored(entry: &Entry) -> Result<Value, String> {
    let fleet = entry.key.strip_prefix(KIND.prefix).unwrap_or_default();
    fleet.parse::<FleetName>().map_err(|error| error.to_string())?;
    serde_json::from_slice::<Desired>(&entry.value).map(|_| Value::Alone).map_err(|e| e.to_string())
}

fn key(fleet: &FleetName) -> String {
    format!("desired/{fleet}")
}

fn failed(error: &StoreError) -> Failure {
    Failure::told(Exit::Fault, error.code(), &error.to_string())
}

/// What is stored for a fleet.
///
/// # Errors
/// `store.…`; `serve.desired` where it cannot be understood.
pub(super) async fn read(store: &dyn Store, fleet: &FleetName) -> Result<Option<Desired>, Failure> {
    let Some(entry) = store.get(&key(fleet)).await.map_err(|e| failed(&e))? else { return Ok(None) };
    serde_json::from_slice(&entry.value).map(Some).map_err(|error| {
        let message = format!("`{}` in the store cannot be read: {error}", entry.key);
        Failure::fault("serve.desired", message).help(
            "it was written by another version of this program: run that one, and start or stop the fleet",
        )
    })
}

/// Stores it; `None` goes back to the configuration.
///
/// # Errors
/// `store.…`.
pub(super) async fn write(
    store: &dyn Store,
    fleet: &FleetName,
    desired: Option<Desired>,
) -> Result<(), Failure> {
    let transaction = match desired {
        // Our own types are always JSON.
        Some(desired) => Transaction::new().put(key(fleet), serde_json::to_vec(&desired).unwrap_or_default()),
        None => Transaction::new().delete(key(fleet)),
    };
    store.transact(transaction).await.map(|_| ()).map_err(|e| failed(&e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_keys_are_of_their_kind() {
        assert!(key(&"web".parse().unwrap()).starts_with(KIND.prefix));
    }

    #[test]
    fn the_stored_form_is_stable() {
        let running = serde_json::to_string(&Desired::Running { labors: 3 }).unwrap();
        assert_eq!(running, r#"{"state":"running","labors":3}"#);
        assert_eq!(serde_json::to_string(&Desired::Stopped).unwrap(), r#"{"state":"stopped"}"#);
    }
}
