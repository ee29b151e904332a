//! Claims for many nodes that share one user data: each instance is admitted once, as one of the
//! labors that were asked for.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use overseer_protocol::{FleetName, Generation, Identity, LaborId, Secret};
use serde::{Deserialize, Serialize};

use super::{ClaimRefused, Claims, TOKEN_BYTES, TRIES, check_token, encode, hex, keyed_hash, millis};
use crate::keyspace::Value;
use crate::store::{Entry, Operation, Outcome, Pages, StoreError, Transaction};

/// Longest name of a batch or an instance, in bytes.
const MAX_NAME: usize = 128;
/// Keys of a batch that are removed at once.
const AT_ONCE: usize = 100;

/// What a batch is for.
#[derive(Debug, Clone)]
pub struct BatchIntent {
    /// Its name: 1 to 128 of letters, digits, `.`, `_` and `-`.
    pub batch: String,
    /// The fleet of all its labors.
    pub fleet: FleetName,
    /// The labors that its instances become, in this order; as many as are admitted.
    pub labors: Vec<(LaborId, Generation)>,
}

/// A batch that was just made.
#[derive(Debug)]
pub struct NewBatch {
    /// The only copy of the token, for the user data.
    pub token: Secret<String>,
    /// To be committed together with the intents.
    pub operation: Operation,
}

/// Never changed while it lives: instances are admitted by keys of their own, so that many at
/// once do not wait for each other.
#[derive(Debug, Serialize, Deserialize)]
struct Kept {
    fleet: FleetName,
    labors: Vec<(LaborId, Generation)>,
    hash: String,
    expires_ms: u64,
}

impl Claims {
    /// A claim for as many instances as the intent has labors. `random` must come from the
    /// system.
    ///
    /// # Errors
    /// [`StoreError::BadKey`] for a name that is none.
    pub fn issue_batch(
        intent: &BatchIntent,
        ttl: Duration,
        now: SystemTime,
        random: [u8; TOKEN_BYTES],
    ) -> Result<NewBatch, StoreError> {
        if !good_name(&intent.batch) {
            return Err(StoreError::BadKey(intent.batch.chars().take(64).collect()));
        }
        let token = hex(&random);
        let kept = Kept {
            fleet: intent.fleet.clone(),
            labors: intent.labors.clone(),
            hash: batch_hash(&intent.fleet, &intent.batch, &token).to_hex().to_string(),
            expires_ms: millis(now).saturating_add(ttl.as_millis().try_into().unwrap_or(u64::MAX)),
        };
        let operation = Operation::Put(batch_key(&intent.batch), encode(&kept).into(), None);
        Ok(NewBatch { token: Secret::new(token), operation })
    }

    /// Ends a batch and forgets whom it admitted.
    ///
    /// # Errors
    /// Any [`StoreError`].
    pub async fn remove_batch(&self, batch: &str) -> Result<(), StoreError> {
        if !good_name(batch) {
            return Ok(());
        }
        // First what admits, then what was admitted.
        self.store.transact(Transaction::new().delete(batch_key(batch))).await?;
        let prefix = format!("claims/admitted/{batch}/");
        loop {
            let (entries, _) = self.store.range(&prefix, None, AT_ONCE).await?;
            if entries.is_empty() {
                return Ok(());
            }
            let all = entries.into_iter().fold(Transaction::new(), |t, entry| t.delete(entry.key));
            self.store.transact(all).await?;
        }
    }

    pub(super) async fn admit_instance(
        &self,
        batch: &str,
        token: &Secret<String>,
        instance: &str,
        proof: &Secret<String>,
        key: &str,
        now: SystemTime,
    ) -> Result<Identity, ClaimRefused> {
        if !good_name(batch) || !good_name(instance) {
            return Err(ClaimRefused::Unknown);
        }
        let Some((kept, entry)) = self.read::<Kept>(&batch_key(batch)).await? else {
            return Err(ClaimRefused::Unknown);
        };
        check_token(&kept.hash, batch_hash(&kept.fleet, batch, token.expose()))?;
        if kept.expires_ms <= millis(now) {
            return Err(ClaimRefused::Late);
        }
        let Some(provider) = &self.proof else {
            return Err(ClaimRefused::NotProved("no provider here can prove instances".to_owned()));
        };
        provider.verify(&kept.fleet, instance, proof).await.map_err(ClaimRefused::NotProved)?;
        // Instances begin at different places, so that most find theirs free at once.
        let mut place = start(instance, kept.labors.len());
        for _ in 0..TRIES + kept.labors.len() {
            let Some(&(labor, generation)) = kept.labors.get(place) else {
                return Err(ClaimRefused::Full);
            };
            let admission = Transaction::new()
                .unchanged(batch_key(batch), entry.revision)
                .absent(instance_key(batch, instance))
                .absent(place_key(batch, place))
                .put(instance_key(batch, instance), format!("{place} {key}"))
                .put(place_key(batch, place), instance.to_owned());
            match self.store.transact(admission).await? {
                Outcome::Committed(_) => return Ok(Identity { fleet: kept.fleet, labor, generation }),
                Outcome::Conflict(0) => return Err(ClaimRefused::Unknown),
                Outcome::Conflict(1) => {
                    let place = self.place_of(batch, instance, key).await?.ok_or(ClaimRefused::Used)?;
                    let &(labor, generation) = kept.labors.get(place).ok_or(ClaimRefused::Used)?;
                    return Ok(Identity { fleet: kept.fleet, labor, generation });
                }
                Outcome::Conflict(_) => {
                    place =
                        self.free_place(batch, place, kept.labors.len()).await?.ok_or(ClaimRefused::Full)?;
                }
            }
        }
        Err(ClaimRefused::Busy)
    }

    /// The place that an instance has been given, if that was for this key.
    async fn place_of(&self, batch: &str, instance: &str, key: &str) -> Result<Option<usize>, StoreError> {
        let entry = self.store.get(&instance_key(batch, instance)).await?;
        let kept = entry.as_ref().and_then(|e| std::str::from_utf8(&e.value).ok()?.split_once(' '));
        Ok(kept.filter(|(_, by)| *by == key).and_then(|(place, _)| place.parse().ok()))
    }

    /// The next place that nobody has, from `from` on and around.
    async fn free_place(&self, batch: &str, from: usize, count: usize) -> Result<Option<usize>, StoreError> {
        let prefix = format!("claims/admitted/{batch}/place/");
        let (mut taken, mut pages) = (BTreeSet::new(), Pages::of(&*self.store, &prefix));
        while let Some(entries) = pages.page().await? {
            taken.extend(entries.iter().filter_map(|e| e.key[prefix.len()..].parse::<usize>().ok()));
        }
        Ok((from..count).chain(0..from).find(|place| !taken.contains(place)))
    }
}

fn good_name(name: &str) -> bool {
    (1..=MAX_NAME).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
}

/// Whether what is stored is a batch.
pub(crate) fn read_batch(entry: &Entry) -> Result<Value, String> {
    let _: Kept = serde_json::from_slice(&entry.value).map_err(|e| e.to_string())?;
    Ok(Value::Alone)
}

/// Whether what is stored is an instance with its place, or a place with its instance.
pub(crate) fn read_admitted(entry: &Entry) -> Result<Value, String> {
    let value = std::str::from_utf8(&entry.value).map_err(|_| "it is no text".to_owned())?;
    let mut parts = entry.key.splitn(5, '/').skip(2);
    let (batch, counterpart, names) = match (parts.next(), parts.next(), parts.next()) {
        (Some(batch), Some("instance"), Some(instance)) => {
            let place = value.split_once(' ').and_then(|(place, _)| place.parse().ok());
            let place = place.ok_or_else(|| "it names no place and key".to_owned())?;
            (batch, place_key(batch, place), instance.to_owned())
        }
        (Some(batch), Some("place"), Some(place)) => {
            let place: usize = place.parse().map_err(|_| "its key has no place".to_owned())?;
            (batch, instance_key(batch, value), place.to_string())
        }
        _ => return Err("its key is neither of an instance nor of a place".to_owned()),
    };
    Ok(Value::Admitted { batch: batch.to_owned(), counterpart, names })
}

pub(crate) fn batch_key(batch: &str) -> String {
    format!("claims/batch/{batch}")
}

fn instance_key(batch: &str, instance: &str) -> String {
    format!("claims/admitted/{batch}/instance/{instance}")
}

fn place_key(batch: &str, place: usize) -> String {
    format!("claims/admitted/{batch}/place/{place:06}")
}

fn batch_hash(fleet: &FleetName, batch: &str, token: &str) -> blake3::Hash {
    keyed_hash("overseer claim of a batch v1", &format!("{fleet}/{batch}"), token)
}

fn start(instance: &str, count: usize) -> usize {
    let hash = blake3::hash(instance.as_bytes());
    let mut head = [0; 8];
    head.copy_from_slice(&hash.as_bytes()[..8]);
    usize::try_from(u64::from_le_bytes(head) % count.max(1) as u64).unwrap_or(0)
}
