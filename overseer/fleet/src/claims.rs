//! One-time claims: how an empty node becomes a labor, once. The store keeps a hash; the token
//! is only in the node's bootstrap document.
//!
//! Once is once for a key, not for a request: a node whose answer was lost on its way asks again
//! with the key that it has made, and is admitted again. A certificate for that key is of no use
//! to anybody else.

mod batch;
mod refusal;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use overseer_adapter::NodeKey;
use overseer_protocol::{Claim, FleetName, Generation, Identity, LaborId, Secret};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

pub use self::batch::{BatchIntent, NewBatch};
pub(crate) use self::batch::{batch_key, read_admitted, read_batch};
pub use self::refusal::ClaimRefused;
use crate::authority::KeyPrint;
use crate::keyspace::Value;
use crate::store::{Entry, Operation, Outcome, Store, StoreError, Transaction};

/// Tokens are 32 random bytes, as 64 hexadecimal digits.
pub const TOKEN_BYTES: usize = 32;
/// Two servers may admit and issue at once; more than so often something else is wrong.
const TRIES: usize = 8;

/// Asks a provider whether a node is the instance that it says it is.
#[async_trait]
pub trait ProofOfInstance: Send + Sync + 'static {
    /// Checks the proof. It may take a request to the provider.
    ///
    /// # Errors
    /// A sentence for the log that says why not; never the proof itself.
    async fn verify(&self, fleet: &FleetName, instance: &str, proof: &Secret<String>) -> Result<(), String>;
}

/// A claim that was just made: the claim for the bootstrap document, and what makes it valid.
#[derive(Debug)]
pub struct NewClaim {
    /// With the only copy of the token.
    pub claim: Claim,
    /// To be committed together with the intent.
    pub operation: Operation,
}

/// The claims of all fleets of a store.
#[derive(Clone)]
pub struct Claims {
    store: Arc<dyn Store>,
    proof: Option<Arc<dyn ProofOfInstance>>,
}

/// A labor's claim as it is kept. One for each labor: a new life's replaces the last one's.
#[derive(Debug, Serialize, Deserialize)]
struct Kept {
    fleet: FleetName,
    generation: Generation,
    hash: String,
    expires_ms: u64,
    used_ms: Option<u64>,
    /// The key that it was used for.
    #[serde(default)]
    used_by: Option<String>,
}

impl Claims {
    /// Claims of this store; no batch is admitted.
    pub fn new(store: Arc<dyn Store>) -> Self {
        Self { store, proof: None }
    }

    /// With a provider that can prove instances, for batches.
    #[must_use]
    pub fn with_proof(mut self, proof: Arc<dyn ProofOfInstance>) -> Self {
        self.proof = Some(proof);
        self
    }

    /// A claim for one life of a labor, valid until `ttl` after `now`; `random` must come from
    /// the system. Any earlier claim of the labor ends when it is committed.
    pub fn issue(key: &NodeKey, ttl: Duration, now: SystemTime, random: [u8; TOKEN_BYTES]) -> NewClaim {
        let token = hex(&random);
        let kept = Kept {
            fleet: key.fleet.clone(),
            generation: key.generation,
            hash: labor_hash(key, &token).to_hex().to_string(),
            expires_ms: millis(now).saturating_add(ttl.as_millis().try_into().unwrap_or(u64::MAX)),
            used_ms: None,
            used_by: None,
        };
        let claim = Claim::Labor { labor: key.labor, generation: key.generation, token: Secret::new(token) };
        NewClaim { claim, operation: Operation::Put(labor_key(key.labor), encode(&kept).into(), None) }
    }

    /// Ends a labor's claim, with the labor.
    pub fn forget(labor: LaborId) -> Operation {
        Operation::Delete(labor_key(labor))
    }

    /// Admits a claim for one key: of any number of keys at once, one succeeds, and that one
    /// again for as long as the claim is valid. One read and at most one transaction.
    ///
    /// # Errors
    /// Each [`ClaimRefused`]; log it, and answer with [`ClaimRefused::wire_message`].
    pub async fn admit(
        &self,
        claim: &Claim,
        key: KeyPrint,
        now: SystemTime,
    ) -> Result<Identity, ClaimRefused> {
        let key = key.to_hex();
        match claim {
            Claim::Labor { labor, generation, token } => {
                self.admit_labor(*labor, *generation, token, key, now).await
            }
            Claim::Batch { batch, token, instance, proof } => {
                self.admit_instance(batch, token, instance, proof, &key, now).await
            }
        }
    }

    async fn admit_labor(
        &self,
        labor: LaborId,
        generation: Generation,
        token: &Secret<String>,
        shown: String,
        now: SystemTime,
    ) -> Result<Identity, ClaimRefused> {
        let key = labor_key(labor);
        for _ in 0..TRIES {
            let Some((mut kept, entry)) = self.read::<Kept>(&key).await? else {
                return Err(ClaimRefused::Unknown);
            };
            if kept.generation != generation {
                return Err(ClaimRefused::WrongLabor);
            }
            let node = NodeKey { fleet: kept.fleet.clone(), labor, generation };
            check_token(&kept.hash, labor_hash(&node, token.expose()))?;
            let again = kept.used_by.as_ref() == Some(&shown);
            if kept.used_ms.is_some() && !again {
                return Err(ClaimRefused::Used);
            }
            if kept.expires_ms <= millis(now) {
                return Err(ClaimRefused::Late);
            }
            if again {
                return Ok(Identity { fleet: kept.fleet, labor, generation });
            }
            (kept.used_ms, kept.used_by) = (Some(millis(now)), Some(shown.clone()));
            let using =
                Transaction::new().unchanged(key.as_str(), entry.revision).put(key.as_str(), encode(&kept));
            if let Outcome::Committed(_) = self.store.transact(using).await? {
                return Ok(Identity { fleet: kept.fleet, labor, generation });
            }
            // Somebody else was faster: what is there now says how it ends.
        }
        Err(ClaimRefused::Busy)
    }

    async fn read<T: DeserializeOwned>(&self, key: &str) -> Result<Option<(T, Entry)>, ClaimRefused> {
        let Some(entry) = self.store.get(key).await? else { return Ok(None) };
        let kept = serde_json::from_slice(&entry.value)
            .map_err(|error| ClaimRefused::Unreadable { key: key.to_owned(), reason: error.to_string() })?;
        Ok(Some((kept, entry)))
    }
}

fn labor_key(labor: LaborId) -> String {
    format!("claims/labor/{labor}")
}

/// Whether what is stored is the claim of a labor.
pub(crate) fn read_claim(entry: &Entry) -> Result<Value, String> {
    let labor = entry.key.strip_prefix("claims/labor/").unwrap_or_default();
    let labor: LaborId = labor.parse().map_err(|_| "its key names no labor".to_owned())?;
    let kept: Kept = serde_json::from_slice(&entry.value).map_err(|e| e.to_string())?;
    Ok(Value::Claim(kept.fleet, labor))
}

/// Binds a token to fleet, labor and generation.
fn labor_hash(key: &NodeKey, token: &str) -> blake3::Hash {
    keyed_hash("overseer claim of a labor v1", &key.to_string(), token)
}

/// `owner` has no zero byte.
fn keyed_hash(context: &str, owner: &str, token: &str) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new_derive_key(context);
    hasher.update(owner.as_bytes()).update(b"\0").update(token.as_bytes());
    hasher.finalize()
}

/// Takes as long for a token that is nearly right as for one that is all wrong.
fn check_token(kept: &str, shown: blake3::Hash) -> Result<(), ClaimRefused> {
    match blake3::Hash::from_hex(kept) {
        Ok(kept) if kept == shown => Ok(()),
        _ => Err(ClaimRefused::WrongToken),
    }
}

fn hex(bytes: &[u8; TOKEN_BYTES]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// Of our own types, which are always JSON.
fn encode(kept: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(kept).unwrap_or_default()
}

pub(crate) fn millis(at: SystemTime) -> u64 {
    let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

impl From<StoreError> for ClaimRefused {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}
