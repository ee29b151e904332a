//! What `overseer fleet reconcile` has found.

use serde::Serialize;

use crate::api::proto;

/// What did not fit, as JSON.
#[derive(Debug, Serialize)]
pub(super) struct Reconciled {
    found: Vec<Found>,
    acted: Vec<Found>,
    #[serde(skip_serializing_if = "Option::is_none")]
    braked: Option<Brake>,
}

#[derive(Debug, Serialize, PartialEq)]
struct Found {
    rule: String,
    labor: String,
    generation: u32,
}

#[derive(Debug, Serialize)]
struct Brake {
    ends: u32,
    nodes: u32,
}

impl From<proto::ReconcileResponse> for Reconciled {
    fn from(pass: proto::ReconcileResponse) -> Self {
        let found = |finding: proto::Finding| Found {
            rule: finding.rule,
            labor: finding.labor,
            generation: finding.generation,
        };
        Self {
            found: pass.found.into_iter().map(found).collect(),
            acted: pass.acted.into_iter().map(found).collect(),
            braked: pass.braked.map(|brake| Brake { ends: brake.ends, nodes: brake.nodes }),
        }
    }
}

impl Reconciled {
    pub(super) fn is_braked(&self) -> bool {
        self.braked.is_some()
    }

    /// For people.
    pub(super) fn text(&self, dry_run: bool) -> String {
        let mut text = String::new();
        for found in &self.found {
            let Found { rule, labor, generation } = found;
            let what = if self.acted.contains(found) {
                "put right"
            } else if dry_run {
                "found"
            } else {
                "seen, and looked at again the next time"
            };
            text.push_str(&format!("{labor}/{generation}  {}: {what}\n", rule.replace('_', " ")));
        }
        if self.found.is_empty() {
            text.push_str("everything fits\n");
        }
        if let Some(Brake { ends, nodes }) = &self.braked {
            text.push_str(&format!(
                "{ends} of {nodes} nodes would be ended, which is too much at once: nothing was; look at \
                 them, then use --force\n"
            ));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_found_is_said_with_what_became_of_it() {
        let finding = |labor: &str| proto::Finding {
            rule: "machine_without_intent".into(),
            labor: labor.into(),
            generation: 2,
        };
        let pass = proto::ReconcileResponse {
            found: vec![finding("l-1"), finding("l-2")],
            acted: vec![finding("l-1")],
            braked: Some(proto::Brake { ends: 5, nodes: 6 }),
        };
        let reconciled = Reconciled::from(pass);
        assert!(reconciled.is_braked());
        let text = reconciled.text(false);
        assert!(
            text.starts_with("l-1/2  machine without intent: put right\nl-2/2  machine without intent: seen")
        );
        assert!(text.contains("5 of 6 nodes"));
        assert_eq!(Reconciled::from(proto::ReconcileResponse::default()).text(true), "everything fits\n");
    }
}
