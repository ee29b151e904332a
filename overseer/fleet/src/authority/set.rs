//! The authorities of an Overseer, and how one takes the place of another without anybody being
//! refused: first the new one signs for labors and all are told to trust both, then it signs for
//! listeners too, then the old one is trusted no more.
//!
//! Labors hear of that over their sessions, within seconds. Clients have to be told by people, so for
//! them the old one may sign for longer.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use overseer_protocol::{Secret, owner_name};
use serde::{Deserialize, Serialize};

use super::{Authority, AuthorityError, KEY, generate, request};
use crate::claims::millis;
use crate::store::{Outcome, Revision, Store, Transaction};

/// How far the change of an authority is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// There is one authority.
    Settled,
    /// A new one signs for labors, and is yet to be trusted by all of them; the old one signs for
    /// listeners.
    Introduced,
    /// The new one signs everything; the old one is trusted still.
    Switched,
}

impl Stage {
    /// Stable name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Settled => "settled",
            Self::Introduced => "introduced",
            Self::Switched => "switched",
        }
    }
}

/// As it is kept in the store.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Kept {
    /// Of the one that signs for listeners.
    pub(super) certificate: String,
    pub(super) key: Secret<String>,
    /// By what nodes know their Overseer, where that is not told by the certificate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    owner: Option<String>,
    /// The one that is introduced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    next: Option<Pair>,
    /// The certificate of the one that was before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    before: Option<String>,
    /// The one that signs for listeners of clients, where that is another one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    clients: Option<Lingering>,
    /// When the stage began, milliseconds since the epoch.
    #[serde(default)]
    since_ms: u64,
}

/// One that was before, and that clients may still know alone.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Lingering {
    certificate: String,
    key: Secret<String>,
    /// Milliseconds since the epoch.
    until_ms: u64,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Pair {
    certificate: String,
    key: Secret<String>,
}

impl Kept {
    pub(super) fn first(certificate: String, key: Secret<String>, now: SystemTime) -> Self {
        let (owner, next, before, clients) = (None, None, None, None);
        Self { certificate, key, owner, next, before, clients, since_ms: millis(now) }
    }

    fn stage(&self) -> Stage {
        match (&self.next, &self.before) {
            (Some(_), _) => Stage::Introduced,
            (None, Some(_)) => Stage::Switched,
            (None, None) => Stage::Settled,
        }
    }

    /// What begins a change: a new one that signs for labors. Until then the old one signs for
    /// listeners of clients.
    fn introduce(&self, clients_until: SystemTime, now: SystemTime) -> Result<Self, AuthorityError> {
        let (certificate, key) = (self.certificate.clone(), self.key.clone());
        let until_ms = millis(clients_until);
        let clients = (clients_until > now).then_some(Lingering { certificate, key, until_ms });
        Ok(Self { clients, ..self.next_stage(now)? })
    }

    /// What follows.
    fn next_stage(&self, now: SystemTime) -> Result<Self, AuthorityError> {
        let mut kept = self.clone();
        kept.since_ms = millis(now);
        match kept.next.take() {
            Some(Pair { certificate, key }) => {
                kept.before = Some(std::mem::replace(&mut kept.certificate, certificate));
                kept.key = key;
            }
            None if kept.before.take().is_some() => {}
            None => {
                kept.owner.get_or_insert_with(|| owner_name(&self.certificate));
                let made = generate(now)?;
                kept.next = Some(Pair { certificate: made.certificate, key: made.key });
            }
        }
        Ok(kept)
    }
}

/// See the module.
#[derive(Debug, Clone)]
pub struct Authorities {
    kept: Kept,
    revision: Revision,
    /// Signs for listeners.
    listeners: Arc<Authority>,
    /// Signs for labors.
    labors: Arc<Authority>,
    /// Signs for listeners of clients.
    clients: Arc<Authority>,
    /// PEM of all that are trusted.
    bundle: String,
    /// PEM of all that clients may meet.
    clients_bundle: String,
    /// The subjects of those.
    subjects: Vec<Vec<u8>>,
}

impl Authorities {
    /// Those of this store; the first to ask makes one, and all agree on that.
    ///
    /// # Errors
    /// [`AuthorityError::Store`], [`AuthorityError::Damaged`], [`AuthorityError::Expired`],
    /// [`AuthorityError::Failed`].
    pub async fn load_or_create(store: &dyn Store, now: SystemTime) -> Result<Self, AuthorityError> {
        loop {
            if let Some(entry) = store.get(KEY).await? {
                return Self::read(&entry.value, entry.revision, now);
            }
            let value = encode(&generate(now)?)?;
            let created = store.transact(Transaction::new().absent(KEY).put(KEY, value.clone())).await?;
            if let Outcome::Committed(revision) = created {
                return Self::read(&value, revision, now);
            }
        }
    }

    /// Begins a change, from [`Stage::Settled`], by making a new authority. The old one signs for
    /// listeners of clients for so long, but not longer than it is good. Whether that may be done now
    /// is for the caller to know.
    ///
    /// # Errors
    /// [`AuthorityError::Changed`] if another one was faster; else as
    /// [`Authorities::load_or_create`].
    pub(crate) async fn introduce(
        &self,
        store: &dyn Store,
        linger: Duration,
        now: SystemTime,
    ) -> Result<Self, AuthorityError> {
        let until = now.checked_add(linger).unwrap_or(self.listeners.not_after());
        let until = until.min(self.listeners.not_after());
        self.replace(store, &self.kept.introduce(until, now)?, now).await
    }

    /// Goes on to the next stage. Whether that may be done now is for the caller to know.
    ///
    /// # Errors
    /// As [`Authorities::introduce`].
    pub(crate) async fn advance(&self, store: &dyn Store, now: SystemTime) -> Result<Self, AuthorityError> {
        self.replace(store, &self.kept.next_stage(now)?, now).await
    }

    /// Clients meet the newest one from now on that signs for listeners.
    ///
    /// # Errors
    /// As [`Authorities::introduce`].
    pub(crate) async fn end_linger(
        &self,
        store: &dyn Store,
        now: SystemTime,
    ) -> Result<Self, AuthorityError> {
        self.replace(store, &Kept { clients: None, ..self.kept.clone() }, now).await
    }

    async fn replace(&self, store: &dyn Store, kept: &Kept, now: SystemTime) -> Result<Self, AuthorityError> {
        let value = encode(kept)?;
        let change = Transaction::new().unchanged(KEY, self.revision).put(KEY, value.clone());
        match store.transact(change).await? {
            Outcome::Committed(revision) => Self::read(&value, revision, now),
            Outcome::Conflict(_) => Err(AuthorityError::Changed),
        }
    }

    /// How far a change is.
    pub fn stage(&self) -> Stage {
        self.kept.stage()
    }

    /// When the stage began, milliseconds since the epoch; 0 if that is not known.
    pub fn since_ms(&self) -> u64 {
        self.kept.since_ms
    }

    /// Signs certificates of listeners.
    pub fn listeners(&self) -> &Arc<Authority> {
        &self.listeners
    }

    /// Signs certificates of labors.
    pub fn labors(&self) -> &Arc<Authority> {
        &self.labors
    }

    /// Signs certificates of listeners whose clients have to be told by people whom to trust.
    pub fn clients(&self) -> &Arc<Authority> {
        &self.clients
    }

    /// Until when [`Authorities::clients`] is one that was before, milliseconds since the epoch.
    pub fn clients_until_ms(&self) -> Option<u64> {
        self.kept.clients.as_ref().map(|clients| clients.until_ms)
    }

    /// PEM of all that clients are to trust.
    pub fn clients_bundle(&self) -> &str {
        &self.clients_bundle
    }

    /// PEM of all that labors are to trust.
    pub fn bundle(&self) -> &str {
        &self.bundle
    }

    /// By what nodes of this Overseer are told from those of another one; never changes.
    pub fn owner(&self) -> String {
        self.kept.owner.clone().unwrap_or_else(|| owner_name(&self.kept.certificate))
    }

    /// Whether a certificate is of one that is trusted still. Its signature is not looked at: TLS
    /// has done that.
    pub(crate) fn trusts(&self, certificate_der: &[u8]) -> bool {
        request::issuer(certificate_der).is_some_and(|issuer| self.subjects.contains(&issuer))
    }

    /// Whether a labor's certificate is of the newest one.
    pub(crate) fn is_newest(&self, certificate_der: &[u8]) -> bool {
        let newest = request::subject(self.labors.der());
        newest.is_some() && request::issuer(certificate_der) == newest
    }

    pub(super) fn read(value: &[u8], revision: Revision, now: SystemTime) -> Result<Self, AuthorityError> {
        let kept: Kept = serde_json::from_slice(value).map_err(|e| {
            AuthorityError::Damaged(format!("JSON at line {} column {}", e.line(), e.column()))
        })?;
        let listeners = Arc::new(Authority::open(kept.certificate.clone(), &kept.key, now)?);
        let labors = match &kept.next {
            Some(next) => Arc::new(Authority::open(next.certificate.clone(), &next.key, now)?),
            None => Arc::clone(&listeners),
        };
        let mut bundle = kept.certificate.clone();
        bundle.push_str(kept.next.as_ref().map_or("", |next| &next.certificate));
        bundle.push_str(kept.before.as_deref().unwrap_or_default());
        let clients = match &kept.clients {
            // One that has run out signs no more; what follows is stored soon.
            Some(old) if old.until_ms > millis(now) => {
                Arc::new(Authority::open(old.certificate.clone(), &old.key, now)?)
            }
            _ => Arc::clone(&listeners),
        };
        let mut clients_bundle = bundle.clone();
        if !bundle.contains(clients.certificate()) {
            clients_bundle.push_str(clients.certificate());
        }
        let trusted =
            [Some(&*kept.certificate), kept.next.as_ref().map(|n| &*n.certificate), kept.before.as_deref()];
        let subjects = trusted.into_iter().flatten().map(request::subject_of_pem);
        let subjects: Option<Vec<_>> = subjects.collect();
        let subjects =
            subjects.ok_or_else(|| AuthorityError::Damaged("a certificate cannot be read".into()))?;
        Ok(Self { kept, revision, listeners, labors, clients, bundle, clients_bundle, subjects })
    }
}

fn encode(kept: &Kept) -> Result<Vec<u8>, AuthorityError> {
    serde_json::to_vec(kept).map_err(|e| AuthorityError::Failed(e.to_string()))
}

/// How long the old authority is trusted after the last labor has shown that it needs it no more.
pub(crate) const LINGER: Duration = Duration::from_secs(5);
