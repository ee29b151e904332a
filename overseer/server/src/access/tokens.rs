//! Tokens in the store. Asked on each request, so that one that is revoked ends at once.

use std::time::{Duration, UNIX_EPOCH};

use overseer::keyspace::{Kind, Value};
use overseer::store::{Entry, Outcome, Revision, StoreError, Transaction};
use overseer::{ControlPlane, FleetName, clock};
use overseer_protocol::Secret;
use tokio::sync::watch;

use super::token::{NAME, Refused, TokenId, TokenRecord, TokenState, TokenText, millis};
use super::{Principal, Role};
use crate::exit::Exit;
use crate::failure::Failure;

/// Most tokens that are kept, with those that are over.
const MOST: usize = 1024;
/// How long one that is over is still listed.
const REMEMBERED: Duration = Duration::from_secs(30 * 86_400);
/// Two may change a token at once; more than so often something else is wrong.
const TRIES: usize = 8;
/// Timers are not set for longer than this.
const LONG: Duration = Duration::from_secs(86_400);

/// For a check of the store.
pub(crate) const KIND: Kind = Kind {
    name: "tokens",
    prefix: "tokens/",
    form: "tokens/ID",
    value: "JSON: name, role, fleet, hash of the secret, end",
    read: read_stored,
};

fn read_stored(entry: &Entry) -> Result<Value, String> {
    let id = entry.key.strip_prefix(KIND.prefix).unwrap_or_default();
    id.parse::<TokenId>().map_err(|()| "its key names no token".to_owned())?;
    serde_json::from_slice::<TokenRecord>(&entry.value).map(|_| Value::Alone).map_err(|e| e.to_string())
}

/// The tokens of a server.
pub(crate) struct Tokens {
    plane: ControlPlane,
    /// Counts changes: what is open under a token is looked at again.
    changed: watch::Sender<u64>,
}

/// What somebody wants to have.
pub(crate) struct NewToken {
    pub(crate) name: String,
    pub(crate) role: Role,
    pub(crate) fleet: Option<FleetName>,
    pub(crate) lives: Option<Duration>,
}

/// A token and where it stands.
pub(crate) type Listed = (TokenId, TokenRecord);

/// Why somebody is not who he says.
#[derive(Debug)]
pub(crate) enum Unknown {
    /// It is no token, or none of ours, or not in time.
    Refused(Refused, Option<TokenId>),
    /// The store could not be asked.
    Store(StoreError),
}

fn key(id: TokenId) -> String {
    format!("tokens/{id}")
}

fn failed(error: &StoreError) -> Failure {
    Failure::told(Exit::Fault, error.code(), &error.to_string())
}

/// Milliseconds since the epoch.
pub(crate) fn now_ms() -> u64 {
    millis(clock::now().duration_since(UNIX_EPOCH).unwrap_or_default())
}

fn random<const N: usize>() -> Result<[u8; N], Failure> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|error| {
        Failure::fault("token.random", format!("the system gives no randomness: {error}")).help("try again")
    })?;
    Ok(bytes)
}

impl Tokens {
    /// Those of this store.
    pub(crate) fn new(plane: ControlPlane) -> Self {
        Self { plane, changed: watch::Sender::new(0) }
    }

    /// Whose token this is.
    ///
    /// # Errors
    /// [`Unknown`].
    pub(super) async fn whose(&self, token: &TokenText) -> Result<Principal, Unknown> {
        let refused = |refused| Unknown::Refused(refused, Some(token.id));
        let shown = token.hash();
        let Some((record, _)) = self.read(token.id).await.map_err(Unknown::Store)? else {
            return Err(refused(Refused::Wrong));
        };
        record.check(shown, now_ms()).map_err(refused)?;
        Ok(Principal::Token { id: token.id, name: record.name, role: record.role, fleet: record.fleet })
    }

    /// Returns when this token is good no more, with why.
    pub(super) async fn ended(&self, token: TokenText) -> Refused {
        let mut changed = self.changed.subscribe();
        loop {
            changed.mark_unchanged();
            let until = match self.read(token.id).await {
                Ok(None) => return Refused::Revoked,
                Ok(Some((record, _))) => match record.check(token.hash(), now_ms()) {
                    Ok(until) => until,
                    Err(refused) => return refused,
                },
                // It was good a moment ago.
                Err(_) => None,
            };
            let left = until.map_or(LONG, |until| Duration::from_millis(until.saturating_sub(now_ms())));
            tokio::select! {
                () = tokio::time::sleep(left.min(LONG)) => {}
                // The sender lives in `self`.
                _ = changed.changed() => {}
            }
        }
    }

    /// Makes one; its text is nowhere else.
    ///
    /// # Errors
    /// `token.name`, `token.lives`, `token.too_many`, `store.…`.
    pub(crate) async fn create(&self, new: NewToken) -> Result<(Listed, Secret<String>), Failure> {
        check_name(&new.name)?;
        let now = now_ms();
        let expires_ms = new.lives.map(|lives| end(lives, now)).transpose()?;
        self.forget_old(now).await?;
        let token = TokenText::of(TokenId::of(random()?), random()?);
        let record = TokenRecord {
            name: new.name,
            role: new.role,
            fleet: new.fleet,
            hash: token.hash().to_hex().to_string(),
            created_ms: now,
            expires_ms,
            revoked_ms: None,
            previous: None,
        };
        let creating = Transaction::new().absent(key(token.id)).put(key(token.id), encode(&record));
        match self.plane.store().transact(creating).await.map_err(|e| failed(&e))? {
            Outcome::Committed(_) => Ok(((token.id, record), token.text())),
            Outcome::Conflict(_) => Err(busy(token.id)),
        }
    }

    /// All that are good, or all that are kept; by age.
    ///
    /// # Errors
    /// `store.…`, `token.unreadable`.
    pub(crate) async fn list(&self, all: bool) -> Result<Vec<Listed>, Failure> {
        let now = now_ms();
        let mut tokens = self.all().await?;
        tokens.retain(|(_, record)| all || record.state(now) == TokenState::Good);
        tokens.sort_by_key(|(id, record)| (record.created_ms, *id));
        Ok(tokens)
    }

    /// Ends one. One that is over is fine.
    ///
    /// # Errors
    /// `token.unknown`, `store.…`.
    pub(crate) async fn revoke(&self, id: TokenId) -> Result<Listed, Failure> {
        self.change(id, |record, now| {
            record.revoked_ms.get_or_insert(now);
            Ok(())
        })
        .await
    }

    /// Gives one a new secret, and a new end where one is asked for.
    ///
    /// # Errors
    /// `token.unknown`, `token.over`, `token.lives`, `store.…`.
    pub(crate) async fn rotate(
        &self,
        id: TokenId,
        overlap: Duration,
        lives: Option<Duration>,
    ) -> Result<(Listed, Secret<String>), Failure> {
        let token = TokenText::of(id, random()?);
        let changed = self.change(id, |record, now| {
            if record.state(now) != TokenState::Good {
                let message = format!("token {id} is {}", record.state(now).name());
                return Err(
                    Failure::input("token.over", message).help("make a new one: `overseer token new`")
                );
            }
            if let Some(lives) = lives {
                record.expires_ms = Some(end(lives, now)?);
            }
            record.rotate(token.hash(), overlap, now);
            Ok(())
        });
        Ok((changed.await?, token.text()))
    }

    async fn change(
        &self,
        id: TokenId,
        change: impl Fn(&mut TokenRecord, u64) -> Result<(), Failure>,
    ) -> Result<Listed, Failure> {
        for _ in 0..TRIES {
            let Some((mut record, revision)) = self.read(id).await.map_err(|e| failed(&e))? else {
                return Err(Failure::input("token.unknown", format!("there is no token {id}"))
                    .help("`overseer token list --all` has those that there are"));
            };
            change(&mut record, now_ms())?;
            let changing = Transaction::new().unchanged(key(id), revision).put(key(id), encode(&record));
            if let Outcome::Committed(_) =
                self.plane.store().transact(changing).await.map_err(|e| failed(&e))?
            {
                self.changed.send_modify(|changes| *changes += 1);
                return Ok((id, record));
            }
        }
        Err(busy(id))
    }

    async fn read(&self, id: TokenId) -> Result<Option<(TokenRecord, Revision)>, StoreError> {
        let Some(entry) = self.plane.store().get(&key(id)).await? else { return Ok(None) };
        match serde_json::from_slice(&entry.value) {
            Ok(record) => Ok(Some((record, entry.revision))),
            Err(error) => {
                // Whoever has it cannot be told from a stranger.
                tracing::error!(%id, %error, "a token in the store cannot be read; `overseer store check` says more");
                Ok(None)
            }
        }
    }

    async fn all(&self) -> Result<Vec<Listed>, Failure> {
        let (entries, _) =
            self.plane.store().range(KIND.prefix, None, MOST * 2).await.map_err(|e| failed(&e))?;
        let read = |entry: Entry| {
            let id = entry.key.strip_prefix(KIND.prefix)?.parse().ok()?;
            Some((id, serde_json::from_slice(&entry.value).ok()?))
        };
        Ok(entries.into_iter().filter_map(read).collect())
    }

    /// Removes those that were over long ago.
    async fn forget_old(&self, now: u64) -> Result<(), Failure> {
        let tokens = self.all().await?;
        let long_ago = now.saturating_sub(millis(REMEMBERED));
        let old = |record: &TokenRecord| record.over_since(now).is_some_and(|since| since < long_ago);
        let (old, kept): (Vec<_>, Vec<_>) = tokens.into_iter().partition(|(_, record)| old(record));
        for (id, _) in old {
            self.plane.store().transact(Transaction::new().delete(key(id))).await.map_err(|e| failed(&e))?;
        }
        if kept.len() >= MOST {
            return Err(Failure::fault("token.too_many", format!("there are {MOST} tokens"))
                .help("revoke those that nobody uses; one that is over is forgotten after 30 days"));
        }
        Ok(())
    }
}

/// Of our own types, which are always JSON.
fn encode(record: &TokenRecord) -> Vec<u8> {
    serde_json::to_vec(record).unwrap_or_default()
}

fn busy(id: TokenId) -> Failure {
    Failure::fault("token.busy", format!("token {id} is being changed by others")).help("try again")
}

fn check_name(name: &str) -> Result<(), Failure> {
    let printable = |c: char| !c.is_control() && c != '\u{2028}' && c != '\u{2029}';
    if name.trim() != name || !(1..=NAME).contains(&name.chars().count()) || !name.chars().all(printable) {
        return Err(Failure::input("token.name", "a token cannot be called so")
            .help(format!("give 1 to {NAME} printable characters")));
    }
    Ok(())
}

/// When something that lives so long ends.
fn end(lives: Duration, now: u64) -> Result<u64, Failure> {
    const LONGEST: Duration = Duration::from_secs(10 * 365 * 86_400);
    if lives.is_zero() || lives > LONGEST {
        return Err(Failure::input("token.lives", "a token cannot live for so long")
            .help("give more than nothing and at most ten years, or `never`"));
    }
    Ok(now.saturating_add(millis(lives)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_short_and_printable() {
        for good in ["ci", "the build farm's", "ü", &"x".repeat(64)] {
            check_name(good).unwrap();
        }
        for bad in ["", " ci", "a\nb", "\u{1b}[31m", &"x".repeat(65)] {
            assert_eq!(check_name(bad).unwrap_err().code, "token.name", "{bad:?}");
        }
    }

    #[tokio::test]
    async fn a_token_is_made_rotated_and_revoked_and_who_waits_for_its_end_is_told() {
        let plane = ControlPlane::embedded().await.unwrap();
        let tokens = Tokens::new(plane.clone());
        let new = NewToken { name: "ci".into(), role: Role::Viewer, fleet: None, lives: None };
        let ((id, record), text) = tokens.create(new).await.unwrap();
        let first = TokenText::parse(text.expose()).unwrap();
        assert_eq!(tokens.whose(&first).await.unwrap().role(), Role::Viewer);
        let overlap = Duration::from_secs(600);
        let (_, text) = tokens.rotate(id, overlap, None).await.unwrap();
        let second = TokenText::parse(text.expose()).unwrap();
        assert_eq!(second.id, id);
        for good in [&first, &second] {
            tokens.whose(good).await.unwrap();
        }
        let waiting = tokens.ended(first.clone());
        let revoked = async { tokens.revoke(id).await.unwrap() };
        let (why, _) = tokio::join!(waiting, revoked);
        // The overlap ends with the token.
        assert_eq!(why, Refused::Revoked);
        let refused = tokens.whose(&second).await.unwrap_err();
        assert!(matches!(refused, Unknown::Refused(Refused::Revoked, Some(of)) if of == id), "{refused:?}");
        assert!(tokens.list(false).await.unwrap().is_empty());
        assert_eq!(tokens.list(true).await.unwrap()[0].1.created_ms, record.created_ms);
        let over = tokens.rotate(id, overlap, None).await.unwrap_err();
        assert_eq!(over.code, "token.over");
        plane.shutdown().await;
    }

    #[tokio::test]
    async fn one_that_runs_out_ends_what_waits() {
        let plane = ControlPlane::embedded().await.unwrap();
        let tokens = Tokens::new(plane.clone());
        let lives = Some(Duration::from_millis(50));
        let new = NewToken { name: "brief".into(), role: Role::Admin, fleet: None, lives };
        let (_, text) = tokens.create(new).await.unwrap();
        let token = TokenText::parse(text.expose()).unwrap();
        assert_eq!(tokens.ended(token).await, Refused::Expired);
        plane.shutdown().await;
    }
}
