//! Who may do what: a table of all methods, and nothing else decides. Pure.

use overseer::FleetName;

use super::{Principal, Role};

/// A row of the table.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Rule {
    /// Path of the method in HTTP.
    pub(crate) path: &'static str,
    /// Who may.
    pub(crate) needs: Needs,
    pub(crate) scope: Scope,
    pub(crate) record: Record,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Needs {
    /// Also a stranger.
    Nothing,
    /// Whoever has this role.
    Role(Role),
}

/// What a method is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scope {
    /// Fleets: the method shows and does no more than its caller's fleet.
    Fleets,
    /// The server as a whole: not for tokens of one fleet.
    Server,
    /// Nothing of fleets or server.
    Neither,
}

/// What of it is in the audit log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Record {
    /// Each one, before it is done.
    Each,
    /// The first of those that are alike, and how many followed.
    Sum,
    /// Nothing: it changes nothing.
    Nothing,
}

/// Why somebody may not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Denied {
    /// The role is not enough.
    Role {
        /// What would be.
        needs: Role,
        /// What there is.
        has: Role,
    },
    /// It is of the server, and the token is of one fleet.
    WholeServer,
}

const fn row(path: &'static str, needs: Needs, scope: Scope, record: Record) -> Rule {
    Rule { path, needs, scope, record }
}

const VIEWER: Needs = Needs::Role(Role::Viewer);
const OPERATOR: Needs = Needs::Role(Role::Operator);
const ADMIN: Needs = Needs::Role(Role::Admin);

/// Every method that is served.
pub(crate) const RULES: &[Rule] = &[
    row("/overseer.control.v1.Fleets/List", VIEWER, Scope::Fleets, Record::Nothing),
    row("/overseer.control.v1.Fleets/Get", VIEWER, Scope::Fleets, Record::Nothing),
    row("/overseer.control.v1.Fleets/Start", OPERATOR, Scope::Fleets, Record::Each),
    row("/overseer.control.v1.Fleets/Stop", OPERATOR, Scope::Fleets, Record::Each),
    row("/overseer.control.v1.Fleets/Drain", OPERATOR, Scope::Fleets, Record::Each),
    // Who joins is told the fleet's environment, and runs its tasks.
    row("/overseer.control.v1.Fleets/Invite", ADMIN, Scope::Fleets, Record::Each),
    row("/overseer.control.v1.Fleets/Upgrade", OPERATOR, Scope::Fleets, Record::Each),
    row("/overseer.control.v1.Fleets/FollowUpgrade", VIEWER, Scope::Fleets, Record::Nothing),
    row("/overseer.control.v1.Fleets/History", VIEWER, Scope::Fleets, Record::Nothing),
    row("/overseer.control.v1.Fleets/Events", VIEWER, Scope::Fleets, Record::Nothing),
    row("/overseer.control.v1.Fleets/Reconcile", OPERATOR, Scope::Fleets, Record::Each),
    row("/overseer.control.v1.Calls/Call", OPERATOR, Scope::Fleets, Record::Sum),
    row("/overseer.control.v1.Tasks/Submit", OPERATOR, Scope::Fleets, Record::Each),
    row("/overseer.control.v1.Tasks/List", VIEWER, Scope::Fleets, Record::Nothing),
    row("/overseer.control.v1.Tasks/Get", VIEWER, Scope::Fleets, Record::Nothing),
    row("/overseer.control.v1.Tasks/Cancel", OPERATOR, Scope::Fleets, Record::Each),
    row("/overseer.control.v1.Tasks/Attach", VIEWER, Scope::Fleets, Record::Nothing),
    row("/overseer.control.v1.Logs/Streams", VIEWER, Scope::Fleets, Record::Nothing),
    row("/overseer.control.v1.Logs/Read", VIEWER, Scope::Fleets, Record::Nothing),
    row("/overseer.control.v1.Server/Info", VIEWER, Scope::Fleets, Record::Nothing),
    row("/overseer.control.v1.Server/Metrics", VIEWER, Scope::Server, Record::Nothing),
    row("/overseer.control.v1.Server/Reload", ADMIN, Scope::Server, Record::Each),
    row("/overseer.control.v1.Tokens/Create", ADMIN, Scope::Server, Record::Each),
    row("/overseer.control.v1.Tokens/List", ADMIN, Scope::Server, Record::Nothing),
    row("/overseer.control.v1.Tokens/Revoke", ADMIN, Scope::Server, Record::Each),
    row("/overseer.control.v1.Tokens/Rotate", ADMIN, Scope::Server, Record::Each),
    row("/overseer.control.v1.Tokens/RotateAuthority", ADMIN, Scope::Server, Record::Each),
    row("/overseer.control.v1.Tokens/Authority", VIEWER, Scope::Neither, Record::Nothing),
    row("/overseer.control.v1.Audit/Read", ADMIN, Scope::Fleets, Record::Nothing),
    // Load balancers have no tokens; what they learn is one bit.
    row("/grpc.health.v1.Health/Check", Needs::Nothing, Scope::Neither, Record::Nothing),
    row("/grpc.health.v1.Health/Watch", VIEWER, Scope::Neither, Record::Nothing),
    // What the API is, is in this repository; a stranger still has no business with it.
    row("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", VIEWER, Scope::Neither, Record::Nothing),
];

impl Rule {
    /// The row of a method.
    pub(crate) fn of(path: &str) -> Option<&'static Rule> {
        RULES.iter().find(|rule| rule.path == path)
    }

    /// The method without its package, as people say it: `Fleets.Stop`.
    pub(crate) fn name(&self) -> String {
        let short = self.path.rsplit('.').next().unwrap_or(self.path);
        short.replace('/', ".")
    }

    /// Whether somebody may do this at all. On which fleets is said by [`sees`].
    ///
    /// # Errors
    /// Why not.
    pub(crate) fn check(&self, who: &Principal) -> Result<(), Denied> {
        if let Needs::Role(needs) = self.needs
            && who.role() < needs
        {
            return Err(Denied::Role { needs, has: who.role() });
        }
        match self.scope {
            Scope::Server if who.fleet().is_some() => Err(Denied::WholeServer),
            _ => Ok(()),
        }
    }
}

/// Whether there is such a fleet, for somebody.
pub(crate) fn sees(who: &Principal, fleet: &FleetName) -> bool {
    who.fleet().is_none_or(|only| only == fleet)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use prost::Message;

    use super::*;
    use crate::access::token::TokenId;
    use crate::api::proto;

    fn token(role: Role, fleet: Option<&str>) -> Principal {
        let fleet = fleet.map(|fleet| fleet.parse().unwrap());
        Principal::Token { id: TokenId::of([1; 8]), name: "t".into(), role, fleet }
    }

    /// The methods of a set of descriptors, as paths.
    fn methods(descriptors: &[u8]) -> Vec<String> {
        let set = prost_types::FileDescriptorSet::decode(descriptors).unwrap();
        let mut all = Vec::new();
        for file in set.file {
            let package = file.package.clone().unwrap_or_default();
            for service in &file.service {
                for method in &service.method {
                    all.push(format!(
                        "/{package}.{}/{}",
                        service.name.as_deref().unwrap(),
                        method.name.as_deref().unwrap()
                    ));
                }
            }
        }
        all
    }

    #[test]
    fn every_method_has_one_row_and_every_row_a_method() {
        let mut served: Vec<_> = [proto::DESCRIPTORS, tonic_health::pb::FILE_DESCRIPTOR_SET]
            .into_iter()
            .flat_map(methods)
            .collect();
        served.push("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo".to_owned());
        let rows: Vec<_> = RULES.iter().map(|rule| rule.path.to_owned()).collect();
        let (served, set) = (BTreeSet::from_iter(served), BTreeSet::from_iter(rows.clone()));
        assert_eq!(served, set, "give each method a row in RULES: who may, on what, and what is recorded");
        assert_eq!(rows.len(), set.len(), "a method has two rows");
    }

    #[test]
    fn a_stranger_may_ask_for_one_bit_and_nothing_else() {
        let open: Vec<_> = RULES.iter().filter(|r| r.needs == Needs::Nothing).map(Rule::name).collect();
        assert_eq!(open, ["Health.Check"]);
    }

    #[test]
    fn who_changes_something_is_recorded_and_no_viewer() {
        for rule in RULES {
            let needs_more = matches!(rule.needs, Needs::Role(Role::Operator | Role::Admin));
            assert!(rule.record == Record::Nothing || needs_more, "{rule:?}");
        }
        let unrecorded = RULES.iter().filter(|r| r.needs == OPERATOR && r.record == Record::Nothing);
        assert_eq!(unrecorded.count(), 0);
    }

    #[test]
    fn each_role_may_what_the_one_below_may() {
        for rule in RULES {
            let may = [Role::Viewer, Role::Operator, Role::Admin]
                .map(|role| rule.check(&token(role, None)).is_ok());
            assert!(may[2] && may[1] >= may[0] && may[2] >= may[1], "{rule:?}");
            assert!(rule.check(&Principal::Owner { uid: 0 }).is_ok());
        }
        let stop = Rule::of("/overseer.control.v1.Fleets/Stop").unwrap();
        assert_eq!(stop.name(), "Fleets.Stop");
        let denied = stop.check(&token(Role::Viewer, None));
        assert_eq!(denied, Err(Denied::Role { needs: Role::Operator, has: Role::Viewer }));
    }

    #[test]
    fn a_token_of_a_fleet_has_no_say_over_the_server() {
        let admin = token(Role::Admin, Some("web"));
        for rule in RULES {
            let expected = if rule.scope == Scope::Server { Err(Denied::WholeServer) } else { Ok(()) };
            assert_eq!(rule.check(&admin), expected, "{rule:?}");
        }
        assert!(sees(&admin, &"web".parse().unwrap()));
        assert!(!sees(&admin, &"db".parse().unwrap()));
        assert!(sees(&token(Role::Viewer, None), &"db".parse().unwrap()));
    }
}
