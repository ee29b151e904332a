//! Who may ask the server for what.
//!
//! ```text
//! unix socket, mode 0600 ──► owner ─────────────────────┐
//!                                                       ├─► RULES: role, scope ─► handler: fleet
//! TCP, TLS ─► door ─► token ─► store: hash, end, role ──┘        │
//!              │         └─ refused: counted, slowed down        └─ denied: recorded
//!              └─ so many who have not shown one, for so long
//! ```

mod layer;
mod open;
mod principal;
mod role;
pub(crate) mod rules;
pub(crate) mod token;
pub(crate) mod tokens;

use std::sync::Arc;
use std::time::{Duration, Instant};

use overseer::door::{Allowance, FailureLimits, Failures, Place};
use parking_lot::Mutex;
use tonic::{Code, Status};

pub(crate) use self::layer::{AccessLayer, Way};
pub(crate) use self::principal::{Caller, Principal};
pub(crate) use self::role::Role;
use self::rules::{Denied, Rule};
use self::token::Refused;
use self::tokens::{Tokens, Unknown};
use crate::api::status;
use crate::audit::record::Asked;
use crate::audit::{Alike, Audit};
use crate::failure::Failure;

/// Attempts without a good token that are told why they failed.
const REFUSALS: FailureLimits = FailureLimits {
    each: Allowance { burst: 10, refill: Duration::from_secs(6) },
    all: Allowance { burst: 100, refill: Duration::from_millis(500) },
    sources: 1024,
};
/// What was counted is looked through so often.
const FLUSH: Duration = Duration::from_secs(10);
/// Old entries of the audit log are looked for so often.
const FORGET: Duration = Duration::from_secs(3600);

/// What decides, and what it remembers.
pub(crate) struct Access {
    pub(crate) tokens: Tokens,
    pub(crate) audit: Audit,
    failures: Mutex<Failures>,
}

impl Access {
    /// With these tokens and this log.
    pub(crate) fn new(tokens: Tokens, audit: Audit) -> Arc<Self> {
        let failures = Mutex::new(Failures::new(REFUSALS, Instant::now()));
        Arc::new(Self { tokens, audit, failures })
    }

    /// Writes down what was counted and removes what is old, for ever.
    pub(crate) async fn keep_up(&self) {
        let mut forgotten = Instant::now();
        loop {
            tokio::time::sleep(FLUSH).await;
            self.audit.flush(false).await;
            if forgotten.elapsed() >= FORGET {
                forgotten = Instant::now();
                self.audit.log.forget_old().await;
            }
        }
    }

    /// Somebody is not who he says, or does not say who he is.
    async fn unknown(
        &self,
        rule: Option<&Rule>,
        unknown: Option<Unknown>,
        place: &Place,
        from: &str,
    ) -> Status {
        let (failure, by) = match unknown {
            None => (missing(), "no token".to_owned()),
            Some(Unknown::Store(error)) => {
                let failure =
                    Failure::fault("access.unavailable", format!("tokens cannot be looked up: {error}"));
                return status::denied(Code::Unavailable, &failure.help("try again"));
            }
            Some(Unknown::Refused(refused, id)) => {
                (wrong(refused), id.map_or_else(|| "no token".to_owned(), |id| format!("token {id}?")))
            }
        };
        let wait = self.failures.lock().failed(place.source(), Instant::now());
        let status = match wait {
            None => status::denied(Code::Unauthenticated, &failure),
            Some(wait) => {
                place.failed();
                status::denied(Code::ResourceExhausted, &too_often(wait))
            }
        };
        let code = failure.code.into_owned();
        self.deny("nobody", by, rule, from, Asked::default(), code).await;
        status
    }

    /// Somebody may not do what he asks for.
    async fn denied(&self, caller: &Caller, denied: Denied) -> Status {
        let failure = not_allowed(caller.rule, denied);
        let (who, by) = caller.principal.named();
        let code = failure.code.clone().into_owned();
        self.deny(who, by, Some(caller.rule), &caller.from, Asked::default(), code).await;
        status::denied(Code::PermissionDenied, &failure)
    }

    /// Somebody asks for a fleet that he does not see. He is told that there is none.
    pub(crate) async fn other_fleet(&self, caller: &Caller, asked: Asked) {
        let (who, by) = caller.principal.named();
        self.deny(who, by, Some(caller.rule), &caller.from, asked, "fleet.unknown".to_owned()).await;
    }

    async fn deny(
        &self,
        who: &'static str,
        by: String,
        rule: Option<&Rule>,
        from: &str,
        asked: Asked,
        code: String,
    ) {
        let method = rule.map_or_else(|| "?".to_owned(), Rule::name);
        let from_all = crate::audit::without_port(from);
        let alike = Alike { who, by, from: from_all, method, asked, code };
        self.audit.denied(alike, from).await;
    }
}

fn missing() -> Failure {
    Failure::input("access.token_missing", "the request has no token")
        .help("set OVERSEER_TOKEN, or give --token-file; `overseer token new` on the server makes one")
}

fn wrong(refused: Refused) -> Failure {
    match refused {
        Refused::Wrong => Failure::input("access.token_wrong", "this is no token of this server")
            .help("check OVERSEER_TOKEN, or have one made with `overseer token new` on the server"),
        Refused::Expired => Failure::input("access.token_expired", "the token has expired")
            .help("have a new one made: `overseer token new`, or `overseer token rotate ID` before its end"),
        Refused::Revoked => Failure::input("access.token_revoked", "the token was revoked")
            .help("ask who runs the server for another one"),
    }
}

fn too_often(wait: Duration) -> Failure {
    let seconds = wait.as_secs() + 1;
    Failure::fault("access.too_many_failures", "too many requests without a good token have come from there")
        .help(format!("check the token, and try again in {seconds} s; one with a good token need not wait"))
}

fn not_allowed(rule: &Rule, denied: Denied) -> Failure {
    let method = rule.name();
    match denied {
        Denied::Role { needs, has } => {
            let message = format!("{method} needs the role {needs}, and the token has the role {has}");
            Failure::input("access.role", message).help(format!(
                "use a token with the role {needs}: `overseer token new --name NAME --role {needs}`"
            ))
        }
        Denied::WholeServer => {
            let message = format!("{method} is about the whole server, and the token is of one fleet");
            Failure::input("access.fleet_only", message).help("use a token without --fleet")
        }
    }
}

/// The path is of no method.
fn no_method() -> Status {
    let failure = Failure::input("access.no_method", "the server has no such method");
    status::denied(Code::Unimplemented, &failure.help("see proto/control.proto and proto/access.proto"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_says_what_is_needed_and_what_there_is() {
        let rule = Rule::of("/overseer.control.v1.Fleets/Stop").unwrap();
        let said = not_allowed(rule, Denied::Role { needs: Role::Operator, has: Role::Viewer });
        assert_eq!(said.message, "Fleets.Stop needs the role operator, and the token has the role viewer");
        assert!(said.help.unwrap().contains("--role operator"));
        assert!(too_often(Duration::from_millis(5900)).help.unwrap().contains("in 6 s"));
    }
}
